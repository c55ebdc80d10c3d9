"""Trains small tokenizers, tokenizes a corpus of nasty strings, records what comes out.

    python tests/text/make_vectors.py

needs tokenizers and sentencepiece; nothing is downloaded, and a second run writes the same
bytes. Writes tokenizers.json beside itself: for each variant the parts of its tokenizer.json
that differ from the base, the fields a GGUF file would have, and the ids that the Python
packages give.
"""
import copy
import io
import json
import pathlib

import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = pathlib.Path(__file__).parent

CORPUS = [
    "",
    " ",
    "  ",
    "\n",
    "\r\n\r\n",
    "\t\t x",
    "a",
    "Hello, world!",
    " Hello  world   again    ",
    "Hello\nworld\n\n\nagain\r\n  indented\n\ttabbed",
    "The quick brown fox jumps over the lazy dog; it's what they'd've done, isn't it?",
    "I'M HE'LL THEY'RE WE'VE don’t can’t ’tis 'S 's'T",
    "CamelCaseString HTTPServer iPhone XMLHttpRequest snake_case kebab-case",
    "0 1 12 123 1234 12345 123456789012345 3.14159 1,000,000 1e-9 0x7fff ٣٤٥ ４５６ Ⅷ ½ ²",
    "a1b2c3 1a 2b 3c v1.2.3-rc4 2024-01-31T23:59:60Z",
    "fn main() {\n    let mut x: Vec<u8> = vec![0; 4];\n\tprintln!(\"{:?}\", &x[..]); // done\n}\n",
    "def f(x):\r\n    return x**2 if x != 0 else None  # comment\r\n\r\n",
    "<html><body class=\"a b\">&amp;</body></html>",
    "https://example.org/a/b?c=d&e=f#g user@host.example ../..//x\\y",
    "{\"key\": [1, 2.5, null, true], \"k\\n\": \"v\"}",
    "!!! ??? ... --- *** ((())) [[]] {{}} <<>> @#$%^&*_+=~`|\\/",
    "!word ?word .word  !word\n/path /usr//bin ///\n\n///x",
    "naïve café résumé Ångström straße ŁÓDŹ İstanbul ǅ ſ K",
    "e\u0301 a\u030a o\u0308\u0323 n\u0303 \u0301alone क्षि กำ ที่ นี้",
    "日本語のテキスト、漢字とひらがなとカタカナ。東京2024年",
    "中文文本，没有空格。你好世界！简体與繁體123",
    "한국어 텍스트 ㅎㅏㄴ 조합",
    "ภาษาไทยไม่มีช่องว่าง สวัสดีครับ ๑๒๓",
    "العربية من اليمين إلى اليسار، مَرْحَبًا",
    "עברית\u200f mixed \u202bRTL\u202c marks \u200bzero\u200dwidth\ufeff",
    "हिन्दी देवनागरी বাংলা தமிழ் తెలుగు",
    "Русский ТЕКСТ Ελληνικά ΚΕΙΜΕΝΟ ᾼῈΏ Ω K Å ἀρχῇ ὠ",
    "😀 👍🏽 👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪🇫🇷 ❤️ ☃ ✓ ♪♫",
    "𝕳𝖊𝖑𝖑𝖔 𐐷𐐲 𠜎𠜱 \U0010ffff \ue000",
    "\u0000 \u0001\u001f\u007f\u0080\u009f\u00a0\u00ad\u2028\u2029\u3000x\u0085y",
    "a\u00a0b\u2003c\u3000d\u1680e  \u00a0 f",
    "tab\tspace \t mixed\t \n \t\n  \n x",
    "trailing space ",
    "trailing newline\n",
    "trailing spaces and newline   \n   ",
    " \n \r \t\v\f",
    "x" * 200,
    " " * 130 + "x",
    "\n" * 70,
    "ab" * 120,
    "=" * 90 + "\n" + "-" * 33,
    "한" * 40 + "字" * 40,
    "9" * 50,
    "a " * 60,
    "'" * 20 + "s",
    "\u0301" * 10,
    "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
    "text<|eot_id|>text <|eot_id|> <|eot_id|><|eot_id|>",
    "<s>a</s> <unk> <s><s> <0x0A> <0x41>",
    "<|im_end |> <|im_end| |im_end|> <|im_<|im_end|>end|>",
    "<think>hm</think> <think> </think",
    "▁already▁there ▁ ▁▁x",
    "Ġbyte Ċlevel ĉ Â",
    "\ufffd\ufffd replaced",
    "The end.\n\nThe end.  The end.\n \nThe end.",
    "hello hello  hello   hello\thello\nhello",
    "mixed 日本 text with English和中文 and 한국어 words, все вместе!",
]

C = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
TAIL = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = C + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*" + TAIL
QWEN2 = C + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*" + TAIL
WORDS = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+%s|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*%s"
)
HAN_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]"
HAN_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]"
LETTERS = (
    "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝ"
    "\u1f5f-\u1f7dᾀ-ᾴᾶ-ᾼ\u1fbeῂ-ῄῆ-ῌ\u1fd0-\u1fd3\u1fd6-\u1fdbῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\u2126ℨ\u212a-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳ"
    "Ꙁ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃"
)
PRE = {
    "gpt-2": [GPT2],
    "llama-bpe": [LLAMA3],
    "chatglm-bpe": [LLAMA3],
    "qwen2": [QWEN2],
    "starcoder": [r"\p{N}", GPT2],
    "deepseek-llm": [
        "[\r\n]",
        rf"\s?[{LETTERS}]+",
        r"\s?[!-/:-~！-／：-～‘-‟　-。]+",
        r"\s+$",
        "[一-龥ࠀ-一가-퟿]+",
        r"\p{N}+",
    ],
    "deepseek-coder": ["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}"],
    "deepseek-v3": [
        r"\p{N}{1,3}",
        "[一-龥぀-ゟ゠-ヿ]+",
        r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
        r"| ?[\p{P}\p{S}]+[\r\n]*" + TAIL,
    ],
    "gpt-4o": [WORDS % (C + "?", C + "?") + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*" + TAIL],
    "tekken": [WORDS % ("", "") + r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*" + TAIL],
    "kimi-k2": [
        rf"[\p{{Han}}]+|[^\r\n\p{{L}}\p{{N}}]?{HAN_UPPER}*{HAN_LOWER}+{C}?"
        rf"|[^\r\n\p{{L}}\p{{N}}]?{HAN_UPPER}+{HAN_LOWER}*{C}?|\p{{N}}{{1,3}}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*" + TAIL
    ],
    "bailingmoe": [
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*"
        r"|\s*[\r\n]|\s+(?!\S)|\s+"
    ],
    "tiny_aya": [r"\d{1,3}(?=(?:\d{3})*\b)", WORDS % (C + "?", C + "?") + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*" + TAIL],
    "seed-coder": [C + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+" + TAIL],
    "viking": [r" ?[^(\s|.,!?…。，、।۔،)]+", r"\p{N}"],
}
WHOLE_WORDS = {"llama-bpe", "tekken"}
SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|eot_id|>"]


def byte_level(regexes):
    splits = [pre_tokenizers.Split(Regex(r), "isolated") for r in regexes]
    return pre_tokenizers.Sequence(splits + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def expected(tokenizer):
    tokenizer.encode_special_tokens = False
    parse = [tokenizer.encode(t, add_special_tokens=False).ids for t in CORPUS]
    ends = [tokenizer.encode(t).ids for t in CORPUS[:8]]
    decoded = [tokenizer.decode(ids, skip_special_tokens=False) for ids in parse]
    skipped = [tokenizer.decode(ids, skip_special_tokens=True) for ids in parse]
    tokenizer.encode_special_tokens = True
    plain = [tokenizer.encode(t, add_special_tokens=False).ids for t in CORPUS]
    return {
        "parse": parse,
        # Only where it differs: most strings hold no special tokens.
        "plain": {i: p for i, p in enumerate(plain) if p != parse[i]},
        "ends": ends,
        "decoded": {i: d for i, d in enumerate(decoded) if d != CORPUS[i]},
        "skipped": {i: s for i, s in enumerate(skipped) if s != decoded[i]},
    }


def byte_level_variants():
    # Merges are learnt across the borders of words, so that a wrong border shows in the ids.
    base = Tokenizer(models.BPE())
    base.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    base.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=900, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False, max_token_length=6
    )
    base.train_from_iterator(CORPUS * 2, trainer)
    base.add_special_tokens(SPECIAL)
    base.add_tokens([AddedToken("<think>", normalized=False), AddedToken("</think>", normalized=False)])
    document = json.loads(base.to_str())
    yield "byte level", None, document
    for name, regexes in PRE.items():
        variant = copy.deepcopy(document)
        base.pre_tokenizer = byte_level(regexes)
        variant["pre_tokenizer"] = json.loads(base.to_str())["pre_tokenizer"]
        variant["model"]["ignore_merges"] = name in WHOLE_WORDS
        if name == "llama-bpe":
            base.post_processor = processors.TemplateProcessing(
                single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", base.token_to_id("<s>"))]
            )
            variant["post_processor"] = json.loads(base.to_str())["post_processor"]
            base.post_processor = None
        yield name, name, variant
    # JSON only: tokens that take spaces with them, that stand alone, that are normalised.
    base.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=True)
    base.normalizer = normalizers.NFC()
    base.add_special_tokens([AddedToken("indented", lstrip=True, special=True), AddedToken("comment", rstrip=True, special=True)])
    base.add_tokens([AddedToken("text", single_word=True), AddedToken("o\u0308\u0323", normalized=True), AddedToken("end", lstrip=True, rstrip=True)])
    yield "flags", None, json.loads(base.to_str())


def sentence_piece_variants():
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([t for t in CORPUS * 3 if t.strip() and "\0" not in t]),
        model_writer=model,
        vocab_size=700,
        model_type="bpe",
        byte_fallback=True,
        character_coverage=0.98,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        split_digits=True,
        max_sentencepiece_length=8,
        user_defined_symbols=["<think>"],
        control_symbols=["<|im_start|>", "<|im_end|>"],
        num_threads=1,
        minloglevel=2,
    )
    sp = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    pieces = [sp.id_to_piece(i) for i in range(sp.get_piece_size())]
    scores = [sp.get_score(i) for i in range(len(pieces))]
    kinds = []
    for i in range(len(pieces)):
        kind = 1
        if sp.is_unknown(i):
            kind = 2
        elif sp.is_control(i):
            kind = 3
        elif sp.is_byte(i):
            kind = 6
        elif pieces[i] == "<think>":
            kind = 4
        kinds.append(kind)
    ids = {p: i for i, p in enumerate(pieces)}
    merges = []
    for piece, i in ids.items():
        if kinds[i] == 1:
            for cut in range(1, len(piece)):
                left, right = piece[:cut], piece[cut:]
                if left in ids and right in ids and kinds[ids[left]] == kinds[ids[right]] == 1:
                    merges.append((-scores[i], ids[left], ids[right], left, right))
    merges = [(left, right) for _, _, _, left, right in sorted(merges)]
    bpe = models.BPE(ids, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    gguf = {"model": "llama", "tokens": pieces, "scores": scores, "types": kinds, "bos": 1, "eos": 2, "unknown": 0}
    # SentencePiece itself knows no parsing of control tokens: that is its encoding of plain text.
    # A NUL ends its normalised text, a quirk of the package that models have not seen either.
    truth = {i: sp.encode(t) for i, t in enumerate(CORPUS) if t and "\0" not in t}
    gguf["plain"] = truth
    gguf["decoded"] = {i: d for i, d in ((i, sp.decode(ids)) for i, ids in truth.items()) if d != CORPUS[i]}
    for name in ["prepended", "first", "always"]:
        tokenizer = Tokenizer(bpe)
        if name == "prepended":
            tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        else:
            tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme=name, split=name == "always")
        if name == "always":
            tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace("▁", prepend_scheme="always")])
        else:
            tokenizer.decoder = decoders.Sequence(
                [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
            )
        tokenizer.add_special_tokens(["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"])
        tokenizer.add_tokens([AddedToken("<think>", normalized=False)])
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", pair="$A $B", special_tokens=[("<s>", 1), ("</s>", 2)]
        )
        yield name, gguf if name == "prepended" else None, json.loads(tokenizer.to_str())


out = {"corpus": CORPUS, "byte_level": [], "sentence_piece": []}
base = None
for name, pre, document in byte_level_variants():
    entry = {"name": name, "pre": pre, "expected": expected(Tokenizer.from_str(json.dumps(document)))}
    if base is None:
        base = document
        out["byte_level_base"] = base
    # Only what differs from the base, model apart.
    entry["parts"] = {k: v for k, v in document.items() if k != "model" and v != base[k]}
    entry["ignore_merges"] = document["model"]["ignore_merges"]
    out["byte_level"].append(entry)
base = None
for name, gguf, document in sentence_piece_variants():
    entry = {"name": name, "expected": expected(Tokenizer.from_str(json.dumps(document)))}
    if base is None:
        base = document
        out["sentence_piece_base"] = base
        out["sentence_piece_gguf"] = gguf
    entry["parts"] = {k: v for k, v in document.items() if k != "model" and v != base[k]}
    out["sentence_piece"].append(entry)
text = json.dumps(out, ensure_ascii=False, separators=(",", ":"))
(HERE / "tokenizers.json").write_text(text + "\n")
print(len(text.encode()), "bytes")

use penstock::model::grammar::{Grammar, Vocabulary};
use penstock::model::tokenizer::{
    Detokenizer, GgufVocab, JsonFile, JsonFiles, Kind, Special, Tokenizer,
};
use serde_json::{Value, json};

use crate::mutate::{Random, damage};

pub fn vectors() -> Value {
    serde_json::from_str(include_str!("tokenizers.json")).unwrap()
}

fn corpus(vectors: &Value) -> Vec<String> {
    vectors["corpus"].as_array().unwrap().iter().map(|t| t.as_str().unwrap().to_owned()).collect()
}

pub fn files(bytes: &[u8]) -> JsonFiles<'_> {
    JsonFiles {
        tokenizer: JsonFile { name: "tokenizer.json", bytes },
        tokenizer_config: None,
        generation_config: None,
        config: None,
    }
}

/// The tokenizer.json of a variant: the base with some parts replaced.
pub fn document(base: &Value, entry: &Value) -> Value {
    let mut document = base.clone();
    for (part, value) in entry["parts"].as_object().unwrap() {
        document[part] = value.clone();
    }
    if let Some(whole) = entry.get("ignore_merges") {
        document["model"]["ignore_merges"] = whole.clone();
    }
    document
}

fn from_json(base: &Value, entry: &Value) -> Tokenizer {
    Tokenizer::from_json(&files(document(base, entry).to_string().as_bytes())).unwrap()
}

/// What a GGUF file would hold of a byte-level tokenizer.json.
pub fn byte_level_gguf(base: &Value, pre: &str) -> GgufVocab {
    let mut named: Vec<(u64, &str, i32)> = vec![];
    for (name, id) in base["model"]["vocab"].as_object().unwrap() {
        named.push((id.as_u64().unwrap(), name, 1));
    }
    for token in base["added_tokens"].as_array().unwrap() {
        let kind = if token["special"] == true { 3 } else { 4 };
        named.push((token["id"].as_u64().unwrap(), token["content"].as_str().unwrap(), kind));
    }
    named.sort();
    assert!(named.iter().enumerate().all(|(i, t)| t.0 == i as u64));
    let id = |name: &str| named.iter().find(|t| t.1 == name).map(|t| t.0 as u32);
    let merges = base["model"]["merges"].as_array().unwrap().iter();
    let merge = |m: &Value| format!("{} {}", m[0].as_str().unwrap(), m[1].as_str().unwrap());
    GgufVocab {
        file: "test.gguf".into(),
        model: "gpt2".into(),
        pre: Some(pre.into()),
        tokens: named.iter().map(|t| t.1.as_bytes().to_vec()).collect(),
        types: Some(named.iter().map(|t| t.2).collect()),
        merges: Some(merges.map(|m| merge(m).into_bytes()).collect()),
        bos: id("<s>"),
        eos: id("</s>"),
        ..GgufVocab::default()
    }
}

pub fn sentence_piece_gguf(gguf: &Value) -> GgufVocab {
    let list = |name: &str| gguf[name].as_array().unwrap().iter();
    GgufVocab {
        file: "test.gguf".into(),
        model: "llama".into(),
        tokens: list("tokens").map(|t| t.as_str().unwrap().as_bytes().to_vec()).collect(),
        scores: Some(list("scores").map(|s| s.as_f64().unwrap() as f32).collect()),
        types: Some(list("types").map(|t| t.as_i64().unwrap() as i32).collect()),
        bos: Some(1),
        eos: Some(2),
        unknown: Some(0),
        ..GgufVocab::default()
    }
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// Compares everything recorded for a variant; `wrong` collects what differs.
fn compare(
    name: &str,
    tokenizer: &Tokenizer,
    entry: &Value,
    corpus: &[String],
    wrong: &mut String,
) {
    let expected = &entry["expected"];
    for (at, text) in corpus.iter().enumerate() {
        let key = at.to_string();
        let parse = ids(&expected["parse"][at]);
        let plain = expected["plain"].get(&key).map_or(parse.clone(), ids);
        let decoded = expected["decoded"].get(&key).map_or(text.as_str(), |d| d.as_str().unwrap());
        let skipped = expected["skipped"].get(&key).map_or(decoded, |d| d.as_str().unwrap());
        let mut check = |what: &str, same: bool, got: &dyn std::fmt::Debug| {
            if !same {
                *wrong += &format!("{name}: {what} of {at} {text:.40?}: {got:.400?}\n");
            }
        };
        let got = tokenizer.encode(text, Special::Parse, false).unwrap();
        check("parsed", got == parse, &(&got, &parse));
        let got = tokenizer.encode(text, Special::Plain, false).unwrap();
        check("plain", got == plain, &(&got, &plain));
        check("control", got.iter().all(|&id| tokenizer.kind(id) != Kind::Control), &got);
        let got = tokenizer.decode(&parse, false);
        check("decoded", got == decoded, &(&got, decoded));
        let got = tokenizer.decode(&parse, true);
        check("skipped", got == skipped, &(&got, skipped));
        if let Some(ends) = expected["ends"].get(at) {
            let got = tokenizer.encode(text, Special::Parse, true).unwrap();
            check("ends", got == ids(ends), &(&got, ends));
        }
    }
}

#[test]
fn tokenizer_json_agrees_with_python() {
    let vectors = vectors();
    let corpus = corpus(&vectors);
    let mut wrong = String::new();
    for kind in ["byte_level", "sentence_piece"] {
        for entry in vectors[kind].as_array().unwrap() {
            let tokenizer = from_json(&vectors[format!("{kind}_base")], entry);
            compare(entry["name"].as_str().unwrap(), &tokenizer, entry, &corpus, &mut wrong);
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn byte_level_gguf_agrees_with_python() {
    let vectors = vectors();
    let corpus = corpus(&vectors);
    let mut wrong = String::new();
    let mut names = 0;
    for entry in vectors["byte_level"].as_array().unwrap() {
        let Some(pre) = entry["pre"].as_str() else { continue };
        names += 1;
        let mut vocab = byte_level_gguf(&vectors["byte_level_base"], pre);
        // Tekken's files ask for it as well, but the recorded ends are without.
        vocab.add_bos = Some(pre == "llama-bpe");
        let tokenizer = Tokenizer::from_gguf(&vocab).unwrap();
        compare(&format!("gguf {pre}"), &tokenizer, entry, &corpus, &mut wrong);
    }
    assert!(names >= 15);
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn sentence_piece_gguf_agrees_with_sentencepiece() {
    let vectors = vectors();
    let corpus = corpus(&vectors);
    let gguf = &vectors["sentence_piece_gguf"];
    let tokenizer = Tokenizer::from_gguf(&sentence_piece_gguf(gguf)).unwrap();
    let mut wrong = String::new();
    for (at, expected) in gguf["plain"].as_object().unwrap() {
        let text = &corpus[at.parse::<usize>().unwrap()];
        // SentencePiece puts a space before the text, llama.cpp (and so a GGUF file) before each
        // stretch between whole tokens.
        if text.contains("think>") {
            continue;
        }
        let got = tokenizer.encode(text, Special::Plain, false).unwrap();
        if got != ids(expected) {
            wrong += &format!("{text:.60?}: {got:?} {expected}\n");
        }
        let text = gguf["decoded"].get(at).map_or(text.as_str(), |d| d.as_str().unwrap());
        let got = tokenizer.decode(&got, true);
        if got != text {
            wrong += &format!("decoded {got:?} {text:?}\n");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert_eq!(tokenizer.encode("", Special::Parse, true).unwrap(), [1]);
    // The two below are llama.cpp's, by `check_llama_cpp.py`'s way of asking.
    let got = tokenizer.encode("<think>hm</think> <think> </think", Special::Plain, false).unwrap();
    assert_eq!(got, [5, 432, 451, 454, 335, 424, 462, 432, 5, 263, 335, 424]);
    let got = tokenizer.encode("<|im_start|>user x<|im_end|> hi", Special::Parse, false).unwrap();
    assert_eq!(got, [3, 432, 417, 299, 4, 263, 451, 446]);
}

pub fn all_tokenizers() -> Vec<(String, Tokenizer)> {
    let vectors = vectors();
    let mut all = vec![];
    for kind in ["byte_level", "sentence_piece"] {
        for entry in vectors[kind].as_array().unwrap() {
            let name = entry["name"].as_str().unwrap().to_owned();
            all.push((name, from_json(&vectors[format!("{kind}_base")], entry)));
        }
    }
    let vocab = byte_level_gguf(&vectors["byte_level_base"], "qwen2");
    all.push(("gguf".into(), Tokenizer::from_gguf(&vocab).unwrap()));
    let vocab = sentence_piece_gguf(&vectors["sentence_piece_gguf"]);
    all.push(("gguf sp".into(), Tokenizer::from_gguf(&vocab).unwrap()));
    all
}

#[test]
fn guarded_names_are_plain_text() {
    let vectors = vectors();
    let corpus = corpus(&vectors);
    for (name, tokenizer) in all_tokenizers() {
        let controls: Vec<String> = (0..tokenizer.vocab_size() as u32)
            .filter(|&id| tokenizer.kind(id) == Kind::Control)
            .map(|id| tokenizer.token_text(id).into_owned())
            .collect();
        let with_names = controls.iter().flat_map(|c| [c.clone(), format!("Hello {c} x{c}{c}")]);
        for text in corpus.iter().cloned().chain(with_names) {
            let mut guards: Vec<usize> = controls
                .iter()
                .flat_map(|c| text.match_indices(c.as_str()).map(|(at, _)| at + 1))
                .collect();
            guards.sort_unstable();
            let got = tokenizer.encode_guarded(&text, &guards).unwrap();
            let plain = tokenizer.encode(&text, Special::Plain, false).unwrap();
            assert_eq!(got, plain, "{name} {text:.60?}");
            let got = tokenizer.encode_guarded(&text, &[]).unwrap();
            let parsed = tokenizer.encode(&text, Special::Parse, false).unwrap();
            assert_eq!(got, parsed, "{name} {text:.60?}");
        }
    }
}

#[test]
fn streamed_text_is_the_decoded_text() {
    let mut random = Random(3);
    for (name, tokenizer) in all_tokenizers() {
        let size = tokenizer.vocab_size();
        for round in 0..300 {
            // Random ids are mostly broken UTF-8, with some that no token has.
            let ids: Vec<u32> =
                (0..random.below(40)).map(|_| random.below(size + 5) as u32).collect();
            let skip = round % 2 == 0;
            let mut detokenizer = Detokenizer::new(&tokenizer, skip);
            let mut streamed = String::new();
            for &id in &ids {
                let mut piece = String::new();
                detokenizer.push(&tokenizer, id, &mut piece);
                streamed += &piece;
            }
            detokenizer.finish(&tokenizer, &mut streamed);
            assert_eq!(streamed, tokenizer.decode(&ids, skip), "{name} {ids:?}");
            // Against the plain meaning: the tokens' bytes, joined and read leniently.
            if name.starts_with("gguf") && !name.ends_with("sp") {
                let shown =
                    ids.iter().filter(|&&id| !(skip && tokenizer.kind(id) == Kind::Control));
                let bytes: Vec<u8> =
                    shown.flat_map(|&id| tokenizer.token_bytes(id)).copied().collect();
                assert_eq!(streamed, String::from_utf8_lossy(&bytes));
            }
        }
    }
}

#[test]
fn streamed_pieces_are_whole_characters() {
    for (name, tokenizer) in all_tokenizers() {
        let text = "👩‍👩‍👧‍👦 𠜎 å ก็ 한";
        let mut detokenizer = Detokenizer::new(&tokenizer, true);
        let mut streamed = String::new();
        for id in tokenizer.encode(text, Special::Plain, false).unwrap() {
            detokenizer.push(&tokenizer, id, &mut streamed);
            assert!(!streamed.contains('\u{fffd}'), "{name}: {streamed}");
        }
        detokenizer.finish(&tokenizer, &mut streamed);
        assert_eq!(streamed.trim_start(), text, "{name}");
    }
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

#[test]
fn text_starts_no_threads() {
    // Other tests of this binary run beside this one, so a child process is counted, in which
    // this test runs alone.
    if std::env::var_os("PENSTOCK_COUNT_THREADS").is_none() {
        let out = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "tokenizers::text_starts_no_threads", "--test-threads=1"])
            .env("PENSTOCK_COUNT_THREADS", "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(out.status.success() && said.contains("1 passed"), "{said}");
        return;
    }
    let before = threads();
    let text = "Hello, world! 12345 日本語 ".repeat(2000);
    for (name, tokenizer) in all_tokenizers() {
        let ids = tokenizer.encode(&text, Special::Parse, true).unwrap();
        assert!(tokenizer.decode(&ids, true).len() > text.len() / 2);
        let vocabulary = Vocabulary::new(&tokenizer).unwrap();
        Grammar::json_object(&vocabulary).unwrap().begin().mask().unwrap();
        assert_eq!(threads(), before, "{name}");
    }
}

#[test]
fn long_texts_are_not_quadratic() {
    let texts = [
        "The quick brown fox, 12345 times.\n".repeat(30_000),
        "x".repeat(1 << 18),
        " ".repeat(1 << 18),
        format!("{}x", " ".repeat(1 << 18)),
        "\n".repeat(1 << 18),
        "<|im_end|>".repeat(30_000),
        "<".repeat(1 << 18),
        "hello ".repeat(50_000),
    ];
    for (name, tokenizer) in all_tokenizers() {
        if !["qwen2", "deepseek-v3", "gpt-4o", "flags", "prepended", "gguf sp"]
            .contains(&name.as_str())
        {
            continue;
        }
        for text in &texts {
            let begun = std::time::Instant::now();
            let ids = tokenizer.encode(text, Special::Parse, false).unwrap();
            assert!(!ids.is_empty());
            let took = begun.elapsed();
            // Quadratic would be minutes; this leaves room for a busy machine.
            assert!(took.as_secs() < 20, "{name} {:?}: {took:?}", &text[..6]);
        }
    }
}

#[test]
fn roles_come_from_the_files_beside() {
    let vectors = vectors();
    let document = vectors["byte_level_base"].to_string();
    let mut files = files(document.as_bytes());
    let config = json!({
        "bos_token": {"content": "<s>", "lstrip": false},
        "eos_token": "<|im_end|>",
        "add_bos_token": true,
        "added_tokens_decoder": {"5000": {"content": "<new>", "special": true}},
    })
    .to_string();
    let generation = json!({"eos_token_id": [3, 1]}).to_string();
    let config = JsonFile { name: "tokenizer_config.json", bytes: config.as_bytes() };
    files.tokenizer_config = Some(config);
    files.generation_config =
        Some(JsonFile { name: "generation_config.json", bytes: generation.as_bytes() });
    let tokenizer = Tokenizer::from_json(&files).unwrap();
    let id = |name: &str| tokenizer.find(name).unwrap();
    let special = tokenizer.special();
    assert_eq!(special.bos, Some(id("<s>")));
    assert_eq!(special.eos, Some(id("<|im_end|>")));
    assert_eq!(tokenizer.prefix(), [id("<s>")]);
    assert!(tokenizer.suffix().is_empty());
    for end in [3, 1, id("<|im_end|>"), id("<|eot_id|>")] {
        assert!(tokenizer.is_end(end));
    }
    assert!(!tokenizer.is_end(id("<|im_start|>")));
    assert_eq!(tokenizer.encode("<new>", Special::Parse, false).unwrap(), [5000]);
}

#[test]
fn unknown_names_are_sentences_that_list_the_known() {
    let vectors = vectors();
    let mut vocab = byte_level_gguf(&vectors["byte_level_base"], "klingon");
    let said = Tokenizer::from_gguf(&vocab).unwrap_err().to_string();
    assert!(said.starts_with("test.gguf: tokenizer.ggml.pre: \"klingon\" is not known"), "{said}");
    assert!(said.contains("qwen2") && said.contains("deepseek-v3"), "{said}");
    vocab.model = "bert".into();
    let said = Tokenizer::from_gguf(&vocab).unwrap_err().to_string();
    assert_eq!(
        said,
        "test.gguf: tokenizer.ggml.model: \"bert\" is not read; known are gpt2 and llama"
    );
}

#[test]
fn kimi_without_merges_joins_by_rank() {
    let vectors = vectors();
    let mut vocab = byte_level_gguf(&vectors["byte_level_base"], "kimi-k2");
    vocab.merges = None;
    let tokenizer = Tokenizer::from_gguf(&vocab).unwrap();
    // Every merge made a token in the order of ids, so ranks by id give what the merges give.
    let entry = vectors["byte_level"].as_array().unwrap().iter();
    let entry = entry.clone().find(|e| e["pre"] == "kimi-k2").unwrap();
    let mut wrong = String::new();
    compare("kimi", &tokenizer, entry, &corpus(&vectors), &mut wrong);
    assert!(wrong.is_empty(), "{wrong}");
    vocab.pre = Some("qwen2".into());
    let said = Tokenizer::from_gguf(&vocab).unwrap_err().to_string();
    assert_eq!(said, "test.gguf: tokenizer.ggml.merges: is missing");
}

/// Loading either fails with a sentence or gives a tokenizer that can be used.
fn survives(loaded: penstock::model::tokenizer::Result<Tokenizer>) -> bool {
    let text = "Hello  wörld <|im_end|> <think> 123\n\n日本 😀 <s> x";
    match loaded {
        Ok(tokenizer) => {
            for special in [Special::Parse, Special::Plain] {
                // A damaged regular expression may cut oddly, and a normaliser may refuse.
                if let Ok(ids) = tokenizer.encode(text, special, true) {
                    let mut decoded = String::new();
                    let mut detokenizer = Detokenizer::new(&tokenizer, true);
                    ids.iter().for_each(|&id| detokenizer.push(&tokenizer, id, &mut decoded));
                    detokenizer.finish(&tokenizer, &mut decoded);
                    assert_eq!(decoded, tokenizer.decode(&ids, true));
                }
            }
            tokenizer.decode(&[0, 1, 2, 300, 5000, u32::MAX], false);
            true
        }
        Err(error) => {
            let said = error.to_string();
            assert!(said.contains("tokenizer") && said.len() < 2000, "{said}");
            false
        }
    }
}

/// A small tokenizer.json: damage should hit its structure, not its thousand tokens.
fn small(base: &Value, entry: &Value) -> Value {
    let mut document = document(base, entry);
    let vocab = document["model"]["vocab"].as_object_mut().unwrap();
    vocab.retain(|_, id| id.as_u64().unwrap() < 266);
    let vocab = vocab.clone();
    let known = |v: &Value| vocab.contains_key(v.as_str().unwrap());
    document["model"]["merges"].as_array_mut().unwrap().retain(|m| {
        let joined = format!("{}{}", m[0].as_str().unwrap(), m[1].as_str().unwrap());
        known(&m[0]) && known(&m[1]) && vocab.contains_key(&joined)
    });
    for (at, token) in document["added_tokens"].as_array_mut().unwrap().iter_mut().enumerate() {
        if !vocab.contains_key(token["content"].as_str().unwrap()) {
            token["id"] = json!(266 + at);
        }
    }
    let added = document["added_tokens"].clone();
    if let Some(Value::Object(tokens)) = document.pointer_mut("/post_processor/special_tokens") {
        for (name, token) in tokens {
            let id = added.as_array().unwrap().iter().find(|t| t["content"] == name.as_str());
            token["ids"] = json!([id.unwrap()["id"]]);
        }
    }
    document
}

#[test]
fn damaged_tokenizer_json_never_panics() {
    let vectors = vectors();
    let mut originals = vec![];
    for kind in ["byte_level", "sentence_piece"] {
        for entry in vectors[kind].as_array().unwrap() {
            let document = small(&vectors[format!("{kind}_base")], entry);
            let bytes = document.to_string().into_bytes();
            assert!(survives(Tokenizer::from_json(&files(&bytes))), "{}", entry["name"]);
            // The vocabulary is the bulk; what stands around it is hit more often this way.
            let at = document["model"]["vocab"].to_string();
            let model = String::from_utf8(bytes.clone()).unwrap().find(&at).unwrap();
            originals.push((bytes, model));
        }
    }
    let pointed = [
        "null",
        "true",
        "-1",
        "4294967295",
        "18446744073709551616",
        "1e308",
        "\"\"",
        "{}",
        "[]",
        "Sequence",
        "Split",
        "Metaspace",
        "ByteLevel",
        "Replace",
        "Strip",
        "Precompiled",
        "NFKC",
        "\\\\p{L}",
        "(?=",
        "(a*)*",
        "{9999}",
        "&&",
        "[^",
        "\"Regex\":\"\"",
        "\"String\":\"\"",
        "\"id\":0,",
        "\\u0000",
        "\\ud800",
        "<0x0A>",
        "▁",
        "MergedWithNext",
        "Removed",
        "first",
    ];
    let mut random = Random(0x70ce);
    let (mut loaded, mut refused) = (0, 0);
    for round in 0..6000 {
        let (original, model) = &originals[round % originals.len()];
        let bytes = if round % 3 == 0 {
            damage(&mut random, original, &pointed)
        } else {
            let mut bytes = damage(&mut random, &original[..*model], &pointed);
            bytes.extend_from_slice(&original[*model..]);
            bytes
        };
        match survives(Tokenizer::from_json(&files(&bytes))) {
            true => loaded += 1,
            false => refused += 1,
        }
    }
    assert!(loaded > 100 && refused > 100, "{loaded} loaded, {refused} refused");
}

#[test]
fn damaged_configs_never_panic() {
    let vectors = vectors();
    let document = vectors["byte_level_base"].to_string();
    let config = json!({
        "bos_token": {"content": "<s>"}, "eos_token": "</s>", "add_bos_token": true,
        "added_tokens_decoder": {"901": {"content": "<s>", "special": true, "id": 3}},
        "eos_token_id": [1, 2],
    })
    .to_string();
    let pointed = ["null", "-1", "4294967295", "1e9", "\"\"", "{}", "[", "9".repeat(30).leak()];
    let mut random = Random(0xc0f1);
    for _ in 0..300 {
        let bytes = damage(&mut random, config.as_bytes(), &pointed);
        let file = JsonFile { name: "tokenizer_config.json", bytes: &bytes };
        let mut files = files(document.as_bytes());
        files.tokenizer_config = Some(file);
        files.generation_config = Some(file);
        survives(Tokenizer::from_json(&files));
    }
}

#[test]
fn damaged_gguf_vocabularies_never_panic() {
    let vectors = vectors();
    let mut byte_level = byte_level_gguf(&vectors["byte_level_base"], "qwen2");
    byte_level.tokens.truncate(300);
    let originals = [byte_level, sentence_piece_gguf(&vectors["sentence_piece_gguf"])];
    let mut random = Random(0x66f);
    let (mut loaded, mut refused) = (0, 0);
    for round in 0..3000 {
        let mut vocab = originals[round % 2].clone();
        for _ in 0..1 + random.below(3) {
            let at = random.below(vocab.tokens.len().max(1));
            let id = *random.pick(&[0, 1, 299, 300, 5000, u32::MAX - 1, u32::MAX]);
            match random.below(14) {
                0 => vocab.tokens.truncate(at),
                1 => vocab.tokens[at].clear(),
                2 => vocab.tokens[at] = vec![0xff, 0xfe],
                3 => vocab.tokens[at] = vocab.tokens[0].clone(),
                4 => vocab.tokens[at] = b"\xe2\x96\x81".repeat(random.below(9)),
                5 => {
                    let kind = random.next() as i32 % 9;
                    vocab.types.iter_mut().flat_map(|t| t.get_mut(at)).for_each(|t| *t = kind);
                }
                6 => vocab.types.iter_mut().for_each(|t| t.truncate(at)),
                7 => {
                    let score = f32::from_bits(random.next() as u32);
                    vocab.scores.iter_mut().flat_map(|s| s.get_mut(at)).for_each(|s| *s = score);
                }
                8 => vocab.scores = None,
                9 => {
                    vocab.merges = Some(vec![
                        b"".to_vec(),
                        b" ".to_vec(),
                        b"a b c".to_vec(),
                        vec![0xff, b' ', 0xfe],
                    ])
                }
                10 => vocab.types = None,
                11 => (vocab.bos, vocab.add_bos) = (Some(id), Some(true)),
                12 => (vocab.eos, vocab.unknown) = (Some(id), None),
                _ => vocab.model = random.pick(&["gpt2", "llama", "", "bert"]).to_string(),
            }
            if vocab.tokens.is_empty() {
                break;
            }
        }
        match survives(Tokenizer::from_gguf(&vocab)) {
            true => loaded += 1,
            false => refused += 1,
        }
    }
    assert!(loaded > 300 && refused > 300, "{loaded} loaded, {refused} refused");
}

#[test]
fn absurd_files_are_refused_in_a_sentence() {
    let base = |model: Value| json!({"model": model}).to_string();
    for (document, words) in [
        ("".to_owned(), "EOF"),
        ("[".repeat(100_000), "JSON"),
        (base(json!({"type": "Unigram", "vocab": [["a", -1.0]], "unk_id": 0})), "Unigram"),
        (base(json!({"type": "BPE", "vocab": {"a": 4_000_000_000u32}, "merges": []})), "absurd"),
        (base(json!({"vocab": {"a": 0, "b": 0}, "merges": []})), "belongs to \"a\" and to \"b\""),
        (base(json!({"vocab": {"a": 0}, "merges": ["a b"]})), "model.merges[0]"),
        (base(json!({"vocab": {"a": 0}, "merges": [["a"]]})), "fewer than two"),
        (base(json!({"vocab": {"a": 0}, "unk_token": "?"})), "unk_token"),
        (base(json!({"vocab": {"a": 0}, "dropout": 0.5})), "dropout"),
        (base(json!({"vocab": {"a": 0}, "end_of_word_suffix": "</w>"})), "end_of_word_suffix"),
        (r#"{"model":{"vocab":{"a":0,"a":1}}}"#.to_owned(), "the ids 0 and 1"),
        (
            json!({"model": {"vocab": {"a": 0}}, "added_tokens": [{"id": 0, "content": "b"}]})
                .to_string(),
            "has the id 0 of",
        ),
        (
            json!({"model": {"vocab": {}}, "normalizer": {"type": "Precompiled"}}).to_string(),
            "Precompiled",
        ),
        (
            json!({"model": {"vocab": {}}, "pre_tokenizer":
                {"type": "Split", "pattern": {"Regex": "(".repeat(99)}, "behavior": "Isolated"}})
            .to_string(),
            "pre_tokenizer",
        ),
        (
            json!({"model": {"vocab": {}}, "decoder": {"type": "CTC"}}).to_string(),
            "\"CTC\" is not read",
        ),
        (
            json!({"model": {"vocab": {}}, "post_processor":
                {"type": "BertProcessing", "cls": ["x", 9], "sep": ["x", 0]}})
            .to_string(),
            "id 9 is no token",
        ),
    ] {
        let said = Tokenizer::from_json(&files(document.as_bytes())).unwrap_err().to_string();
        assert!(said.starts_with("tokenizer.json: ") && said.contains(words), "{said}");
    }
    // Doubling sixteen-fold in every step would fill any memory.
    let step = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "a".repeat(16)});
    let document = json!({"model": {"vocab": {"a": 0}},
        "normalizer": {"type": "Sequence", "normalizers": vec![step; 30]}});
    let tokenizer = Tokenizer::from_json(&files(document.to_string().as_bytes())).unwrap();
    let said = tokenizer.encode(&"a".repeat(1000), Special::Plain, false).unwrap_err();
    assert!(said.to_string().contains("64 times longer"), "{said}");
}

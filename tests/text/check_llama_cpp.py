"""Compares tokenizers.json with what llama.cpp makes of the same vocabularies in GGUF files.

    python tests/text/check_llama_cpp.py

needs gguf and llama-cpp-python. Nothing is written but a temporary file. Seen with 0.3.36:
llama.cpp differs for gpt-4o, tekken, kimi-k2 and tiny_aya in strings with combining marks, mixed
case or other digits than ASCII's, because it has simpler expressions than the models' own; and
it differs from sentencepiece after a user-defined token, where it puts a space as before the
text. We do too.
"""
import json
import pathlib
import tempfile

import gguf
from llama_cpp import Llama

VECTORS = json.loads((pathlib.Path(__file__).parent / "tokenizers.json").read_text())
# llama.cpp takes no empty text, and the package ends strings at a NUL.
CORPUS = [(i, t) for i, t in enumerate(VECTORS["corpus"]) if t and "\0" not in t]


def load(model, tokens, types, bos, eos, scores=None, merges=None, pre=None):
    with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
        writer = gguf.GGUFWriter(file.name, "llama")
        writer.add_block_count(1)
        writer.add_context_length(64)
        writer.add_embedding_length(32)
        writer.add_feed_forward_length(32)
        writer.add_head_count(1)
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_tokenizer_model(model)
        if pre:
            writer.add_tokenizer_pre(pre)
        writer.add_token_list(tokens)
        writer.add_token_types(types)
        if scores:
            writer.add_token_scores(scores)
        if merges:
            writer.add_token_merges(merges)
        writer.add_bos_token_id(bos)
        writer.add_eos_token_id(eos)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return Llama(file.name, vocab_only=True, verbose=False)


def ids(llama, text, special):
    return llama.tokenize(text.encode(), add_bos=False, special=special)


base = VECTORS["byte_level_base"]
named = [(i, n, 1) for n, i in base["model"]["vocab"].items()]
named += [(t["id"], t["content"], 3 if t["special"] else 4) for t in base["added_tokens"]]
named.sort()
tokens, types = [n for _, n, _ in named], [k for _, _, k in named]
merges = [" ".join(m) for m in base["model"]["merges"]]
for entry in VECTORS["byte_level"]:
    if entry["pre"]:
        llama = load("gpt2", tokens, types, tokens.index("<s>"), tokens.index("</s>"), merges=merges, pre=entry["pre"])
        expected = entry["expected"]
        differ = [t for i, t in CORPUS if ids(llama, t, True) != expected["parse"][i]]
        differ += [t for i, t in CORPUS if ids(llama, t, False) != expected["plain"].get(str(i), expected["parse"][i])]
        print(entry["pre"], "differs in", sorted(set(differ)))
piece = VECTORS["sentence_piece_gguf"]
llama = load("llama", piece["tokens"], piece["types"], 1, 2, scores=piece["scores"])
print("sentencepiece differs in", [t for i, t in CORPUS if ids(llama, t, False) != piece["plain"][str(i)]])

#!/usr/bin/env python3
"""Hugging Face folders to GGUF, with the names, layouts and keys that llama.cpp's converter writes.

Made with: gguf 0.19.0 (PyPI), llama-cpp-python 0.3.36, safetensors 0.8.0, numpy 2.4, torch 2.15, Python 3.11.
Rerun:     python tests/reference/to_gguf.py --verify     every convertible case as F32, compared by llama.cpp
           python tests/reference/to_gguf.py --commit     the small files under tests/reference/gguf, manifest.json
           python tests/reference/to_gguf.py --folder DIR --out FILE.gguf --type f32|f16|bf16|q8_0|q4_0|...

Types: f32, f16, bf16 keep values; q8_0, q4_0, q4_1, q5_0, q5_1 are quantised by gguf-py where the row length allows
(else F16). K-quants and IQ4 come from llama.cpp's quantiser (quant_kl.py).
--old-mla writes deepseek2 with one attn_kv_b, as files made before the split have it.
"""
import argparse
import json
import pathlib
import re
import sys
import tempfile

import gguf
import numpy as np
import torch
from safetensors.torch import load_file

HERE = pathlib.Path(__file__).resolve().parent
FAMILIES = HERE / "families"
GGUF_DIR = HERE / "gguf"

ARCH = {"llama": gguf.MODEL_ARCH.LLAMA, "mistral": gguf.MODEL_ARCH.LLAMA, "mixtral": gguf.MODEL_ARCH.LLAMA,
        "qwen2": gguf.MODEL_ARCH.QWEN2, "qwen3": gguf.MODEL_ARCH.QWEN3, "qwen2_moe": gguf.MODEL_ARCH.QWEN2MOE,
        "qwen3_moe": gguf.MODEL_ARCH.QWEN3MOE, "olmoe": gguf.MODEL_ARCH.OLMOE, "gpt_oss": gguf.MODEL_ARCH.GPT_OSS,
        "deepseek_v2": gguf.MODEL_ARCH.DEEPSEEK2, "deepseek_v3": gguf.MODEL_ARCH.DEEPSEEK2,
        "glm4_moe": gguf.MODEL_ARCH.GLM4_MOE}
QTYPES = {n.lower(): getattr(gguf.GGMLQuantizationType, n)
          for n in ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1")}


def inexpressible(cfg):
    """Why llama.cpp's GGUF cannot say what this config says; None if it can."""
    f = cfg["model_type"]
    rope = cfg.get("rope_parameters") or {}
    if rope.get("rope_type") == "yarn":
        if "attention_factor" in rope or rope.get("beta_fast", 32) != 32 or rope.get("beta_slow", 1) != 1:
            return "yarn attention_factor and betas are not read for this architecture"
        if rope.get("truncate") is False and not truncation_is_moot(cfg, rope):
            return "yarn without truncation cannot be said"
        if rope.get("mscale") != rope.get("mscale_all_dim"):
            return "mscale apart from mscale_all_dim cannot be said"
    if f in ("mistral", "mixtral") and cfg.get("sliding_window"):
        return "the llama architecture has no sliding window"
    if f in ("qwen2", "qwen3", "qwen3_moe", "qwen2_moe") and cfg.get("use_sliding_window"):
        return "the qwen architectures lose the sliding window"
    if f in ("qwen2_moe", "qwen3_moe") and (cfg.get("decoder_sparse_step", 1) != 1 or cfg.get("mlp_only_layers")):
        return "dense layers among sparse ones cannot be said"
    if f == "qwen2_moe" and cfg.get("norm_topk_prob"):
        return "qwen2moe never normalises"
    if f == "qwen3_moe" and not cfg.get("norm_topk_prob"):
        return "qwen3moe always normalises"
    if f == "olmoe" and (cfg.get("clip_qkv") or cfg.get("attention_bias") or cfg.get("norm_topk_prob")):
        return "olmoe has no clip, bias or normalisation"
    if f == "qwen3" and cfg.get("attention_bias"):
        return "llama.cpp loads no output bias for qwen3"
    if f == "gpt_oss" and (cfg.get("tie_word_embeddings") or not cfg.get("attention_bias", True)
                           or cfg.get("swiglu_limit", 7.0) != 7.0):
        return "gpt-oss must be untied, with biases and a limit of 7"
    if f.startswith("deepseek"):
        if cfg.get("attention_bias"):
            return "deepseek2 has no attention bias"
        if f == "deepseek_v3" and cfg.get("rope_interleave") is False:
            return "deepseek2 is interleaved"
        if cfg.get("topk_method") == "group_limited_greedy":
            return "llama.cpp scores groups by their best two, V2 by the best"
    return None


def truncation_is_moot(cfg, rope):
    """Whether floor and ceil change nothing, because both ends of the ramp are clamped anyway."""
    import math
    n = cfg["head_dim"]
    at = lambda r: n * math.log(rope["original_max_position_embeddings"] / (r * 2 * math.pi)) / (
        2 * math.log(rope["rope_theta"]))
    return at(rope.get("beta_fast", 32)) <= 0 and at(rope.get("beta_slow", 1)) >= n - 1


# ---- tokenizer ----------------------------------------------------------------------------------------
def byte_characters():
    """The byte-level alphabet: byte -> printable character, as GPT-2 has it."""
    keep = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table, extra = {}, 0
    for b in range(256):
        if b in keep:
            table[b] = chr(b)
        else:
            table[b] = chr(256 + extra)
            extra += 1
    return table


def tiny_tokenizer(size):
    """A byte-level BPE of exactly `size` tokens: three control tokens, as many bytes as fit (letters first),
    then merges, then unused padding."""
    table = byte_characters()
    common = " \netaoinshrdlucmfwypvbgkqjxz.,'?!ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-\""
    order = [ord(c) for c in common] + [b for b in range(256) if chr(b) not in common]
    tokens = ["<unk>", "<s>", "</s>"]
    kinds = [gguf.TokenType.CONTROL] * 3
    pairs = [("t", "h"), ("Ġ", "t"), ("h", "e"), ("i", "n"), ("Ġ", "a"), ("th", "e"), ("a", "n"), ("e", "r"),
             ("r", "e"), ("o", "n"), ("Ġ", "s"), ("a", "t"), ("e", "n"), ("an", "d"), ("Ġt", "he")]
    room = max(0, size - 3 - 256)
    merges = pairs[: max(room, 4)] if size - 3 > 40 else []
    bytes_kept = min(256, size - 3 - len(merges))
    for b in order[:bytes_kept]:
        tokens.append(table[b])
        kinds.append(gguf.TokenType.NORMAL)
    lines = []
    for a, b in merges:
        if len(tokens) < size and a in tokens and b in tokens:
            tokens.append(a + b)
            kinds.append(gguf.TokenType.NORMAL)
            lines.append(f"{a} {b}")
    while len(tokens) < size:
        tokens.append(f"[PAD{len(tokens)}]")
        kinds.append(gguf.TokenType.UNUSED)
    return tokens, kinds, lines


def write_tokenizer(w, size, no_vocab):
    if no_vocab:
        w.add_tokenizer_model("none")
        return
    tokens, kinds, merges = tiny_tokenizer(size)
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("gpt-2")
    w.add_token_list(tokens)
    w.add_token_types(kinds)
    w.add_token_merges(merges)
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    w.add_unk_token_id(0)
    w.add_add_bos_token(False)


# ---- metadata -----------------------------------------------------------------------------------------
def write_metadata(w, cfg, name, *, old_mla, no_vocab, zero_q_lora, mtp):
    f = cfg["model_type"]
    rope = dict(cfg.get("rope_parameters") or {})
    hidden, heads = cfg["hidden_size"], cfg["num_attention_heads"]
    kv = cfg.get("num_key_value_heads") or heads
    mla = f.startswith("deepseek")
    w.add_name(name)
    w.add_block_count(cfg["num_hidden_layers"] + mtp)
    w.add_context_length(cfg["max_position_embeddings"])
    w.add_embedding_length(hidden)
    w.add_feed_forward_length(cfg["intermediate_size"])
    w.add_head_count(heads)
    w.add_head_count_kv((heads if old_mla else 1) if mla else kv)
    kind = rope.get("rope_type", "default")
    if kind == "linear":
        w.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        w.add_rope_scaling_factor(rope["factor"])
    elif kind == "yarn":
        w.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        w.add_rope_scaling_factor(rope["factor"])
        w.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        if "attention_factor" in rope:
            w.add_rope_scaling_yarn_attn_factor(rope["attention_factor"])
        if rope.get("beta_fast") is not None:
            w.add_rope_scaling_yarn_beta_fast(rope["beta_fast"])
        if rope.get("beta_slow") is not None:
            w.add_rope_scaling_yarn_beta_slow(rope["beta_slow"])
    w.add_rope_freq_base(rope.get("rope_theta", 10000.0))
    w.add_layer_norm_rms_eps(1e-5 if f == "olmoe" else cfg["rms_norm_eps"])
    experts = next((cfg[k] for k in ("num_local_experts", "num_experts", "n_routed_experts") if cfg.get(k)), None)
    if experts:
        w.add_expert_count(experts)
        w.add_expert_used_count(cfg["num_experts_per_tok"])
        if cfg.get("n_group") is not None:
            w.add_expert_group_count(cfg["n_group"])
        if cfg.get("topk_group") is not None:
            w.add_expert_group_used_count(cfg["topk_group"])
    # The converter writes head_dim whenever config.json has it; DeepSeek's own files do not.
    if cfg.get("head_dim") and not mla:
        w.add_key_length(cfg["head_dim"])
        w.add_value_length(cfg["head_dim"])
    head_dim = cfg.get("head_dim") or hidden // heads

    if no_vocab or mla or f in ("llama", "mistral", "mixtral"):
        w.add_vocab_size(cfg["vocab_size"])
    if f in ("llama", "mistral", "mixtral"):
        w.add_rope_dimension_count(head_dim)
    elif f == "qwen2_moe":
        w.add_expert_feed_forward_length(cfg["moe_intermediate_size"])
        w.add_expert_shared_feed_forward_length(cfg["shared_expert_intermediate_size"])
    elif f == "qwen3_moe":
        w.add_expert_feed_forward_length(cfg["moe_intermediate_size"])
    elif f == "gpt_oss":
        w.add_sliding_window(cfg["sliding_window"])
        w.add_expert_feed_forward_length(cfg["intermediate_size"])
    elif f == "glm4_moe":
        w.add_rope_dimension_count(int(head_dim * rope.get("partial_rotary_factor", 0.5)))
        w.add_expert_feed_forward_length(cfg["moe_intermediate_size"])
        w.add_expert_shared_count(cfg["n_shared_experts"])
        w.add_leading_dense_block_count(cfg["first_k_dense_replace"])
        w.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
        w.add_expert_weights_scale(cfg["routed_scaling_factor"])
        w.add_expert_weights_norm(cfg["norm_topk_prob"])
        w.add_nextn_predict_layers(mtp)
    elif mla:
        nope, rot, v, rank = (cfg[k] for k in ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "kv_lora_rank"))
        w.add_leading_dense_block_count(cfg["first_k_dense_replace"])
        if cfg.get("q_lora_rank"):
            w.add_q_lora_rank(cfg["q_lora_rank"])
        elif zero_q_lora:  # llama.cpp knows the models without q_lora by their layer count; others need a 0
            w.add_q_lora_rank(0)
        w.add_kv_lora_rank(rank)
        w.add_key_length(nope + rot if old_mla else rank + rot)
        w.add_value_length(v if old_mla else rank)
        if not old_mla:
            w.add_key_length_mla(nope + rot)
            w.add_value_length_mla(v)
        w.add_expert_feed_forward_length(cfg["moe_intermediate_size"])
        w.add_expert_shared_count(cfg["n_shared_experts"])
        w.add_expert_weights_scale(cfg["routed_scaling_factor"])
        if cfg.get("norm_topk_prob"):
            w.add_expert_weights_norm(True)
        w.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID if f == "deepseek_v3"
                                 else gguf.ExpertGatingFuncType.SOFTMAX)
        w.add_rope_dimension_count(rot)
        if rope.get("mscale_all_dim") is not None:
            w.add_rope_scaling_yarn_log_mul(0.1 * rope["mscale_all_dim"])


# ---- tensors ------------------------------------------------------------------------------------------
def interleave(t, heads):
    """Half-split rotary rows to interleaved ones, head by head."""
    return t.reshape(heads, 2, t.shape[0] // heads // 2, *t.shape[1:]).swapaxes(1, 2).reshape(t.shape)


def load_folder(folder):
    """Every tensor, FP8 blocks dequantised to float32; MXFP4 left packed."""
    raw = {}
    for path in sorted(folder.glob("*.safetensors")):
        raw.update(load_file(path))
    out = {}
    for name, t in raw.items():
        if name.endswith("_scale_inv"):
            continue
        if name + "_scale_inv" in raw:
            s = raw[name + "_scale_inv"].repeat_interleave(128, 0).repeat_interleave(128, 1)
            t = t.float() * s[: t.shape[0], : t.shape[1]]
        out[name] = t
    return out


def mxfp4_rows(blocks, scales):
    """HF packing (neighbours share a byte) to ggml's (j and j + 16 share a byte): u8 [..., rows, K/32 * 17]."""
    low, high = blocks & 15, blocks >> 4
    codes = torch.stack((low, high), dim=-1).reshape(*blocks.shape[:-1], 32)
    packed = codes[..., :16] | (codes[..., 16:] << 4)
    return torch.cat((scales.unsqueeze(-1), packed), dim=-1).flatten(-2).contiguous().numpy()


def convert(tensors, cfg, old_mla):
    """HF names and tensors to (HF-like name for the name map, tensor) as the converter hands them on;
    MXFP4 comes as a NumPy array of bytes."""
    f = cfg["model_type"]
    heads = cfg["num_attention_heads"]
    kv = cfg.get("num_key_value_heads") or heads
    grouped = {}
    for name, t in tensors.items():
        if cfg.get("tie_word_embeddings") and name == "lm_head.weight":
            continue
        if f in ("llama", "mistral", "mixtral"):
            if re.search(r"q_proj\.(weight|bias)$", name):
                t = interleave(t, heads)
            elif re.search(r"k_proj\.(weight|bias)$", name):
                t = interleave(t, kv)
        expert = re.match(r"(.*)\.experts\.(\d+)\.(\w+)\.weight$", name)
        if expert:
            base, index, part = expert.groups()
            if f == "mixtral":
                base = base.replace("block_sparse_moe", "feed_forward").replace("model.", "")
            grouped.setdefault(f"{base}.experts.{part}.weight", {})[int(index)] = t
            continue
        if f == "gpt_oss":
            if name.endswith("sinks"):
                name += ".weight"
            hit = re.match(r"(.*experts)\.(gate_up_proj|down_proj)(_bias|_blocks|_scales)?$", name)
            if hit:
                base, part, kind = hit.groups()
                if kind == "_scales":
                    continue
                if kind == "_blocks":
                    scales = tensors[name.replace("_blocks", "_scales")]
                    if part == "down_proj":
                        yield f"{base}.down_proj.weight", mxfp4_rows(t, scales)
                    else:
                        yield f"{base}.gate_proj.weight", mxfp4_rows(t[:, ::2], scales[:, ::2])
                        yield f"{base}.up_proj.weight", mxfp4_rows(t[:, 1::2], scales[:, 1::2])
                    continue
                suffix = "bias" if kind == "_bias" else "weight"
                if kind is None:
                    t = t.transpose(-1, -2)
                if part == "down_proj":
                    yield f"{base}.down_proj.{suffix}", t
                elif kind == "_bias":
                    yield f"{base}.gate_proj.bias", t[:, ::2]
                    yield f"{base}.up_proj.bias", t[:, 1::2]
                else:
                    yield f"{base}.gate_proj.weight", t[:, ::2]
                    yield f"{base}.up_proj.weight", t[:, 1::2]
                continue
        if name.endswith("kv_b_proj.weight") and not old_mla:
            nope, v = cfg["qk_nope_head_dim"], cfg["v_head_dim"]
            both = t.reshape(heads, nope + v, t.shape[-1])
            yield name.replace("kv_b_proj", "k_b_proj"), both[:, :nope].transpose(1, 2)
            yield name.replace("kv_b_proj", "v_b_proj"), both[:, nope:]
            continue
        if name.endswith("e_score_correction_bias"):
            name = name.replace("e_score_correction_bias", "e_score_correction.bias")
        yield name, t
    for name, parts in grouped.items():
        yield name, torch.stack([parts[i] for i in range(len(parts))])


def rope_divisors(cfg):
    rope = cfg.get("rope_parameters") or {}
    if rope.get("rope_type") != "llama3":
        return None
    n = cfg.get("head_dim") or cfg["hidden_size"] // cfg["num_attention_heads"]
    inv = 1.0 / (rope["rope_theta"] ** (torch.arange(0, n, 2, dtype=torch.float32) / n))
    wave = 2 * torch.pi / inv
    orig, low, high, factor = (rope[k] for k in ("original_max_position_embeddings", "low_freq_factor",
                                                 "high_freq_factor", "factor"))
    smooth = (orig / wave - low) / (high - low)
    out = torch.where(wave < orig / high, torch.ones_like(inv),
                      torch.where(wave > orig / low, torch.full_like(inv, factor),
                                  1 / ((1 - smooth) / factor + smooth)))
    return out


ALWAYS_F32 = ("ffn_gate_inp.weight", "ffn_gate_inp_shexp.weight", "rope_freqs.weight")


def write_gguf(folder, out, kind="f32", old_mla=False, no_vocab=False, split=0, dense_mxfp4=False,
               zero_q_lora=False):
    folder, out = pathlib.Path(folder), pathlib.Path(out)
    cfg = json.loads((folder / "config.json").read_text())
    arch = ARCH[cfg["model_type"]]
    tensors = load_folder(folder)
    # GLM's files keep their multi-token-prediction block (deepseek2 drops it); readers must skip it.
    main = cfg["num_hidden_layers"]
    extra = [n for n in tensors if (m := re.match(r"model\.layers\.(\d+)\.", n)) and int(m.group(1)) >= main]
    mtp = int(bool(extra) and cfg["model_type"] == "glm4_moe")
    if not mtp:
        tensors = {n: t for n, t in tensors.items() if n not in set(extra)}
    names = gguf.get_tensor_name_map(arch, main + mtp)
    w = gguf.GGUFWriter(out, gguf.MODEL_ARCH_NAMES[arch], split_max_tensors=split)
    w.add_type(gguf.GGUFType.MODEL)
    write_metadata(w, cfg, folder.name, old_mla=old_mla, no_vocab=no_vocab, zero_q_lora=zero_q_lora, mtp=mtp)
    w.add_file_type({"f32": 0, "f16": 1, "bf16": 32, "q8_0": 7, "q4_0": 2, "q4_1": 3, "q5_0": 8, "q5_1": 9}[kind])
    w.add_quantization_version(gguf.GGML_QUANT_VERSION)
    write_tokenizer(w, cfg["vocab_size"], no_vocab)

    divisors = rope_divisors(cfg)
    if divisors is not None:
        w.add_tensor("rope_freqs.weight", divisors.numpy())
    for hf_name, t in convert(tensors, cfg, old_mla):
        name = names.get_name(hf_name, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise SystemExit(f"{folder.name}: no GGUF name for {hf_name}")
        if isinstance(t, np.ndarray):
            if dense_mxfp4:
                w.add_tensor(name, gguf.quants.dequantize(t, gguf.GGMLQuantizationType.MXFP4))
            else:
                w.add_tensor(name, t, raw_dtype=gguf.GGMLQuantizationType.MXFP4)
            continue
        data = np.ascontiguousarray(t.float().numpy())
        q = QTYPES[kind]
        if data.ndim <= 1 or name.endswith(ALWAYS_F32 + ("_norm.weight",)) or not name.endswith(".weight"):
            q = QTYPES["f32"]
        try:
            data = gguf.quants.quantize(data, q)
        except gguf.QuantError:
            q = QTYPES["f16"]
            data = gguf.quants.quantize(data, q)
        w.add_tensor(name, data, raw_dtype=q)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


# ---- checking and committing --------------------------------------------------------------------------
def compare(got, want):
    return float(np.abs(got - want).max() / np.abs(want).max()), int((got.argmax(-1) != want.argmax(-1)).sum())


def verify(only):
    import llamacpp
    bad = 0
    for folder in sorted(FAMILIES.iterdir()):
        cfg = json.loads((folder / "config.json").read_text())
        if only and folder.name not in only and cfg["model_type"] not in only:
            continue
        reason = inexpressible(cfg)
        if reason:
            print(f"{folder.name:24} {cfg['model_type']:12} not in GGUF: {reason}")
            continue
        tokens = json.loads((folder / "tokens.json").read_text())
        want = np.load(folder / "logits.npy")
        for old in ([False, True] if cfg["model_type"].startswith("deepseek") else [False]):
            with tempfile.TemporaryDirectory() as tmp:
                path = pathlib.Path(tmp) / "m.gguf"
                write_gguf(folder, path, "f32", old_mla=old, dense_mxfp4=True, zero_q_lora=True)
                label = folder.name + (" (old mla)" if old else "")
                try:
                    got = llamacpp.logits(path, tokens, kv="f32")
                    worst, flips = compare(got, want)
                    ok = worst < 1e-3 and flips == 0
                    print(f"{label:34} {cfg['model_type']:12} {'agrees' if ok else 'DIFFERS'}  "
                          f"max|d|/max|logit| {worst:.1e}, argmax differs {flips}")
                except RuntimeError as e:
                    ok = False
                    print(f"{label:34} {cfg['model_type']:12} REFUSED  {e}")
                bad += not ok
    sys.exit(bool(bad))


# Files to commit: case, GGUF type, options.
COMMIT = [
    ("llama_llama3", "bf16", dict(split=9)), ("llama_tied_bias", "bf16", {}), ("llama_linear", "f16", {}),
    ("llama_yarn", "bf16", {}), ("llama_one_kv_theta", "f32", {}), ("qwen2_tied", "bf16", {}), ("qwen3_tied", "bf16", {}),
    ("mixtral_top2", "bf16", {}), ("qwen2moe_shared", "bf16", {}), ("qwen3moe_top8", "bf16", {}),
    ("olmoe_plain", "bf16", {}), ("gptoss_mxfp4", "bf16", {}), ("dsv2_lite", "bf16", {}),
    ("dsv2_lite", "bf16", dict(old_mla=True)), ("dsv3_groups", "bf16", {}), ("glm4moe_air", "bf16", {}),
    ("glm4moe_qk_norm", "bf16", {}),
]


def commit():
    GGUF_DIR.mkdir(exist_ok=True)
    for old in GGUF_DIR.glob("*.gguf"):
        old.unlink()
    made = {}
    for case, kind, options in COMMIT:
        stem = case + ("_old_mla" if options.get("old_mla") else "")
        write_gguf(FAMILIES / case, GGUF_DIR / f"{stem}.gguf", kind, **options)
        files = sorted(p.name for p in GGUF_DIR.glob(f"{stem}*.gguf") if re.fullmatch(rf"{stem}(-\d+-of-\d+)?\.gguf", p.name))
        made.setdefault(case, []).append(files)
    manifest = []
    for folder in sorted(FAMILIES.iterdir()):
        info = json.loads((folder / "case.json").read_text())
        entry = {"case": info["case"], "family": info["family"], "path": f"families/{folder.name}",
                 "configs": sorted(p.name for p in folder.glob("config*.json")), "gguf": None,
                 "tolerance": info["tolerance"]}
        variants = made.get(folder.name, [])
        manifest.append(entry)
        if variants:
            entry["gguf"] = f"gguf/{variants[0][0]}"
        for more in variants[1:]:
            manifest.append({**entry, "case": more[0].removesuffix(".gguf"), "path": None, "configs": [],
                             "gguf": f"gguf/{more[0]}", "tokens_of": info["case"]})
    import llamacpp
    for entry in manifest:
        if entry["tolerance"] == "kl":  # what llama.cpp gets with float32 for all but the MXFP4 experts
            with tempfile.TemporaryDirectory() as tmp:
                folder = HERE / entry["path"]
                write_gguf(folder, pathlib.Path(tmp) / "m.gguf", "f32")
                got = llamacpp.logits(pathlib.Path(tmp) / "m.gguf", json.loads((folder / "tokens.json").read_text()), kv="f32")
                entry["llamacpp_kl"] = llamacpp.kl(np.load(folder / "logits.npy"), got)
    for entry in manifest:
        entry["truth"] = f"families/{entry.pop('tokens_of', entry['case'])}"
    (HERE / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    total = sum(p.stat().st_size for p in GGUF_DIR.glob("*.gguf"))
    print(f"{len(list(GGUF_DIR.glob('*.gguf')))} files, {total / 1024:.0f} KiB; manifest of {len(manifest)} cases")


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--verify", action="store_true")
    ap.add_argument("--commit", action="store_true")
    ap.add_argument("--only", action="append")
    ap.add_argument("--folder")
    ap.add_argument("--out")
    ap.add_argument("--type", default="f32", choices=sorted(QTYPES))
    ap.add_argument("--old-mla", action="store_true")
    ap.add_argument("--no-vocab", action="store_true")
    ap.add_argument("--split", type=int, default=0, help="tensors per file")
    args = ap.parse_args()
    if args.folder:
        write_gguf(args.folder, args.out, args.type, args.old_mla, args.no_vocab, args.split)
    elif args.commit:
        commit()
    elif args.verify:
        verify(args.only)
    else:
        ap.error("one of --verify, --commit, --folder")


if __name__ == "__main__":
    main()

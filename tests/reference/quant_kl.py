#!/usr/bin/env python3
"""Is our quantised arithmetic as good as llama.cpp's? KL(float || quantised), per type, on the same GGUF file.

Made with: llama-cpp-python 0.3.36, gguf 0.19.0, transformers 5.23.0, torch 2.15.0, numpy 2.4, Python 3.11.
Rerun:     python tests/reference/quant_kl.py --penstock target/debug/penstock     the table (files go to a
           temporary folder, or --work DIR); exit status 1 when a ratio is over --limit (1.05)
           python tests/reference/quant_kl.py                                      llama.cpp and the forecast only
           python tests/reference/quant_kl.py --small                              the committed files under quant/

The base is Hugging Face's float32 logits of a random model. Columns: llama.cpp (plain CPU, 2 threads, F16 KV cache);
`contract`, a forecast of the numbers contract in PyTorch (weights dequantised by gguf-py, activations rounded to 8 bits
per 256 or 32 with a float32 scale); ours, from `penstock logits`. Types are pure: every matrix that can has the type;
rows it cannot divide fall back as llama.cpp chooses. MXFP4 is llama.cpp's mixture (experts MXFP4, the rest Q8_0).
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import gguf
import numpy as np
import torch

import llamacpp
import make_families as mf
import to_gguf

HERE = pathlib.Path(__file__).resolve().parent
KINDS = ["q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl", "iq4_xs"]
BLOCK256 = {"Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS"}
FLOAT = {"F32", "F16", "BF16"}

SHAPES = {
    "dense": dict(family="llama", calm=0.3, kinds=KINDS + ["q4_k_mix"],
                  config=dict(vocab_size=512, hidden_size=512, intermediate_size=1024, num_hidden_layers=4,
                              num_attention_heads=8, num_key_value_heads=2, max_position_embeddings=1024)),
    "moe": dict(family="mixtral", calm=0.3, kinds=KINDS + ["mxfp4"],
                config=dict(vocab_size=512, hidden_size=256, intermediate_size=256, num_hidden_layers=3,
                            num_attention_heads=8, num_key_value_heads=4, head_dim=32, num_local_experts=8,
                            num_experts_per_tok=2, max_position_embeddings=1024)),
}
# Rows of 256 for the super-block types; attention output (64) and down (64) fall back to 32-blocks, as real files do.
SMALL = dict(family="llama", calm=0.3, kinds=KINDS,
             config=dict(vocab_size=64, hidden_size=256, intermediate_size=64, num_hidden_layers=1,
                         num_attention_heads=4, num_key_value_heads=1, head_dim=16, max_position_embeddings=512))


def float_model(shape, folder, count, seed):
    """Save a random model as F32; return it, tokens, logits and its F32 GGUF."""
    gen = torch.Generator().manual_seed(seed)
    config = dict(shape["config"], bos_token_id=1, eos_token_id=2, rms_norm_eps=1e-5)
    model = mf.build(shape["family"], config)
    mf.randomise(model, gen, shape["family"], False)
    with torch.no_grad():  # a calm residual stream, as trained models have: errors add up, they do not explode
        for name, t in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight", "experts.down_proj")):
                t.mul_(shape.get("calm", 1.0))
        if experts := config.get("num_local_experts"):
            # Each token leans towards two experts of its own, in every layer: with wide routing margins no 8-bit
            # rounding changes a choice, so the mean is not ruled by a handful of coin tosses.
            hidden = config["hidden_size"]
            axes = torch.linalg.qr(torch.randn(hidden, experts, generator=gen))[0].T * hidden ** 0.5
            pair = torch.rand(config["vocab_size"], experts, generator=gen).argsort(-1)
            model.model.embed_tokens.weight.add_(1.2 * axes[pair[:, 0]] + 0.8 * axes[pair[:, 1]])
            for layer in model.model.layers:
                layer.mlp.gate.weight.copy_(0.02 * axes)
    model.save_pretrained(folder / "hf")
    model = mf.load(folder / "hf")
    tokens = torch.randint(0, config["vocab_size"], (count,), generator=gen).tolist()
    base = mf.forward(model, tokens).numpy()
    path = folder / "float.gguf"
    to_gguf.write_gguf(folder / "hf", path, "f32")
    check = llamacpp.logits(path, tokens, kv="f32")
    assert to_gguf.compare(check, base)[0] < 1e-3, "llama.cpp disagrees with the float model itself"
    return model, tokens, base, path


def quantise(float_path, folder, kind):
    out = folder / f"{kind}.gguf"
    if kind == "q4_k_mix":
        llamacpp.quantize(float_path, out, "q4_k", pure=False)
    else:
        llamacpp.quantize(float_path, out, kind, pure=kind != "mxfp4")
    return out


def types_in(path):
    counts = {}
    for t in gguf.GGUFReader(path).tensors:
        if len(t.shape) > 1:
            counts[t.tensor_type.name] = counts.get(t.tensor_type.name, 0) + 1
    return counts


# ---- the forecast -------------------------------------------------------------------------------------
def round_activations(x, block):
    shape = x.shape
    b = x.reshape(-1, block)
    amax = b.abs().amax(-1, keepdim=True)
    q = torch.where(amax > 0, torch.round(b * (127 / amax)), torch.zeros_like(b))  # ties to even
    return (q * (amax / 127)).reshape(shape)


def contract_logits(model, path, tokens, config):
    """Run the float model with the file's dequantised weights and 8-bit activations in its quantised matrices."""
    heads, kv = config["num_attention_heads"], config["num_key_value_heads"]
    file = {t.name: (t.tensor_type.name, torch.from_numpy(np.array(gguf.quants.dequantize(t.data, t.tensor_type))))
            for t in gguf.GGUFReader(path).tensors}

    def split(t, n):  # interleaved rotary rows back to half-split
        return t.reshape(n, t.shape[0] // n // 2, 2, *t.shape[1:]).swapaxes(1, 2).reshape(t.shape)

    blocks, kept = {}, {k: v.clone() for k, v in model.state_dict().items()}

    def put(parameter, value, kind):
        parameter.data.copy_(value)
        if kind not in FLOAT:
            blocks[parameter.untyped_storage().data_ptr()] = 256 if kind in BLOCK256 else 32

    with torch.no_grad():
        m = model.model
        m.embed_tokens.weight.data.copy_(file["token_embd.weight"][1])
        put(model.lm_head.weight, file["output.weight"][1], file["output.weight"][0])
        for i, layer in enumerate(m.layers):
            for part, name in (("q_proj", "attn_q"), ("k_proj", "attn_k"), ("v_proj", "attn_v"), ("o_proj", "attn_output")):
                kind, value = file[f"blk.{i}.{name}.weight"]
                if part in ("q_proj", "k_proj"):
                    value = split(value, heads if part == "q_proj" else kv)
                put(getattr(layer.self_attn, part).weight, value, kind)
            if hasattr(layer.mlp, "experts"):
                gate, up, down = (file[f"blk.{i}.ffn_{p}_exps.weight"] for p in ("gate", "up", "down"))
                put(layer.mlp.experts.gate_up_proj, torch.cat((gate[1], up[1]), 1), gate[0])
                put(layer.mlp.experts.down_proj, down[1], down[0])
            else:
                for part in ("gate", "up", "down"):
                    kind, value = file[f"blk.{i}.ffn_{part}.weight"]
                    put(getattr(layer.mlp, part + "_proj").weight, value, kind)

    plain = torch.nn.functional.linear

    def linear(x, weight, bias=None):
        block = blocks.get(weight.untyped_storage().data_ptr())
        return plain(round_activations(x, block) if block else x, weight, bias)

    torch.nn.functional.linear = linear
    try:
        return mf.forward(model, tokens).numpy()
    finally:
        torch.nn.functional.linear = plain
        model.load_state_dict(kept)


def ours(penstock, path, tokens, folder):
    out = folder / "ours.npy"
    listing = ",".join(map(str, tokens))
    subprocess.run([penstock, "logits", str(path), "--tokens", listing, "--out", str(out)], check=True)
    return np.load(out)


# ---- the two jobs -------------------------------------------------------------------------------------
def table(args, folder):
    worst, bad = 0.0, []
    for label, shape in SHAPES.items():
        if args.only and label not in args.only:
            continue
        place = folder / label
        place.mkdir(parents=True, exist_ok=True)
        model, tokens, base, path = float_model(shape, place, args.tokens, seed=args.seed)
        top = np.sort(base, -1)
        print(f"\n{label}: {shape['family']}, {len(tokens)} tokens, vocab {base.shape[1]}, logits std {base.std():.2f}, "
              f"median top margin {np.median(top[:, -1] - top[:, -2]):.2f}")
        print(f"{'type':9} {'llama.cpp':>10} {'contract':>10} {'ratio':>6} {'ours':>10} {'ratio':>6}   tensors")
        if args.penstock:
            kl = llamacpp.kl(base, ours(args.penstock, path, tokens, place))
            print(f"{'f32':9} {'':10} {'':10} {'':6} {kl:10.3e}")
        for kind in shape["kinds"]:
            if args.kind and kind not in args.kind:
                continue
            q = quantise(path, place, kind)
            theirs = llamacpp.kl(base, llamacpp.logits(q, tokens))
            cast = llamacpp.kl(base, contract_logits(model, q, tokens, shape["config"]))
            line = f"{kind:9} {theirs:10.3e} {cast:10.3e} {cast / theirs:6.3f} "
            if args.penstock:
                mine = llamacpp.kl(base, ours(args.penstock, q, tokens, place))
                ratio = mine / theirs
                worst = max(worst, ratio)
                if ratio > args.limit:
                    bad.append(f"{label} {kind}")
                line += f"{mine:10.3e} {ratio:6.3f} "
            else:
                line += " " * 18
            print(line, " ", ", ".join(f"{n} {k}" for k, n in sorted(types_in(q).items())), flush=True)
            if not args.work:
                q.unlink()
    if args.penstock:
        print(f"\nworst ratio {worst:.3f}; over {args.limit}: {', '.join(bad) or 'none'}")
    sys.exit(bool(bad))


def small(folder, count, seed):
    out = HERE / "quant"
    out.mkdir(exist_ok=True)
    for old in out.glob("*"):
        old.unlink()
    model, tokens, base, path = float_model(SMALL, folder, count, seed)
    rows = []
    for kind in SMALL["kinds"]:
        q = quantise(path, folder, kind)
        size = q.stat().st_size
        theirs = llamacpp.kl(base, llamacpp.logits(q, tokens))
        cast = llamacpp.kl(base, contract_logits(model, q, tokens, SMALL["config"]))
        (out / f"tiny-{kind}.gguf").write_bytes(q.read_bytes())
        rows.append({"type": kind, "gguf": f"tiny-{kind}.gguf", "llamacpp_kl": theirs, "contract_kl": cast})
        print(f"{kind:9} {size / 1024:6.1f} KiB  llama.cpp {theirs:.3e}  contract {cast:.3e}  ratio {cast / theirs:.3f}  "
              f"{types_in(q)}", flush=True)
    np.save(out / "logits.npy", base.astype(np.float32))
    (out / "tokens.json").write_text(json.dumps(tokens) + "\n")
    (out / "kl.json").write_text(json.dumps(rows, indent=1) + "\n")


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--penstock", help="the binary; without it there are no columns of ours")
    ap.add_argument("--work", help="keep the files here")
    ap.add_argument("--only", action="append", choices=sorted(SHAPES))
    ap.add_argument("--kind", action="append")
    ap.add_argument("--tokens", type=int, default=384)
    ap.add_argument("--limit", type=float, default=1.05)
    ap.add_argument("--small", action="store_true", help="write tests/reference/quant")
    ap.add_argument("--small-tokens", type=int, default=160)
    ap.add_argument("--seed", type=int, default=5)
    args = ap.parse_args()
    torch.set_num_threads(2)
    mf.transformers.logging.set_verbosity_error()
    mf.transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as tmp:
        folder = pathlib.Path(args.work or tmp)
        folder.mkdir(parents=True, exist_ok=True)
        if args.small:
            small(folder, args.small_tokens, args.seed)
        else:
            table(args, folder)


if __name__ == "__main__":
    main()

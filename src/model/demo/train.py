"""Trains Penstock's built-in demo model on text from `text.py` and writes `demo.gguf`.

    python train.py corpus  [--tokens 20000000]   text, tokenizer, token rows
    python train.py train   [--steps 8000]        resumes from its last checkpoint
    python train.py export                        demo.gguf
    python train.py check                         numbers for README.md, and reference.json

Needs torch, numpy, tokenizers and gguf from PyPI (`check` also transformers). Everything but the
two results is kept in --work. Same seed, same text; the weights also depend on torch's own sums.
"""

import argparse
import json
import math
import os
import random
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

import text
from net import Net, Shape

HERE = Path(__file__).parent
END, START, STOP = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SEED = 20240607
PRE = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


# ---- text to tokens ----

def make_tokenizer(work, shape):
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    rng = random.Random(SEED)
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PRE), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=shape.vocab,
        special_tokens=[END, START, STOP],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    docs = (text.plain(text.document(rng)) for _ in range(30000))
    tok.train_from_iterator(docs, trainer)
    tok.save(str(work / "tokenizer.json"))
    return tok


def load_tokenizer(work):
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(work / "tokenizer.json"))


def corpus(work, shape, tokens):
    """Flat token ids, where each document starts, and its domain; the last 2% is held out."""
    tok = make_tokenizer(work, shape)
    rng = random.Random(SEED + 1)
    ids, starts, domains, total = [], [], [], 0
    while total < tokens:
        docs = [text.document(rng) for _ in range(4000)]
        for (domain, _), enc in zip(docs, tok.encode_batch([text.marked(d) for d in docs])):
            starts.append(total)
            domains.append(text.DOMAINS.index(domain))
            ids.append(np.array(enc.ids, np.uint16))
            total += len(enc.ids)
    np.savez(work / "corpus.npz", ids=np.concatenate(ids), starts=np.array(starts + [total]), domains=np.array(domains, np.uint8))
    print(f"{len(starts)} documents, {total} tokens")


class Rows:
    """Packs documents into rows. A row opens where a document opens, as every prompt does; one cut
    by a row's end is dealt again at the start of the next, so that endings are learnt as well."""

    def __init__(self, work, held_out):
        z = np.load(work / "corpus.npz")
        self.ids, self.starts, self.domains = z["ids"], z["starts"], z["domains"]
        cut = int(len(self.domains) * 0.98)
        self.docs = range(cut, len(self.domains)) if held_out else range(cut)
        self.at = 0

    def take(self, batch, length):
        rows = np.zeros((batch, length + 1), np.int64)
        labels = np.zeros((batch, length + 1), np.int64)
        for r in range(batch):
            filled = 0
            while filled <= length:
                d = self.docs[self.at % len(self.docs)]
                doc = self.ids[self.starts[d]:self.starts[d + 1]][:length + 1 - filled]
                rows[r, filled:filled + len(doc)] = doc
                labels[r, filled:filled + len(doc)] = self.domains[d]
                filled += len(doc)
                whole = len(doc) == self.starts[d + 1] - self.starts[d]
                if whole or filled == len(doc):
                    self.at += 1
        return torch.from_numpy(rows), torch.from_numpy(labels)


# ---- training ----

def train(work, shape, steps, minutes, threads, batch_tokens=2048, peak=2e-3):
    torch.set_num_threads(threads)
    torch.manual_seed(SEED)
    net = Net(shape)
    decayed = [p for p in net.parameters() if p.dim() > 1]
    plain = [p for p in net.parameters() if p.dim() == 1]
    opt = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}],
        lr=peak, betas=(0.9, 0.95), fused=True,
    )
    data, first, spent, tokens = Rows(work, False), 0, 0.0, 0
    saved = work / "last.pt"
    if saved.exists():
        state = torch.load(saved)
        net.load_state_dict(state["net"])
        opt.load_state_dict(state["opt"])
        first, data.at, spent, tokens = state["step"], state["at"], state["spent"], state["tokens"]
    began, smooth, logged = time.time() - spent, None, time.time()
    warm = 200
    step = first
    while step < steps:
        # The schedule follows the share of the work done, in steps or in minutes, whichever is further.
        done = max(step / steps, (time.time() - began) / 60 / minutes)
        if done >= 1:
            break
        rate = peak * min(1, (step + 1) / warm) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
        for g in opt.param_groups:
            g["lr"] = rate
        # Short rows are cheaper; the whole context comes in for the last third.
        length = shape.context // 2 if done < 0.67 else shape.context
        rows, _ = data.take(batch_tokens // length, length)
        logits, balance = net(rows[:, :-1])
        loss = F.cross_entropy(logits.view(-1, shape.vocab), rows[:, 1:].reshape(-1))
        (loss + 0.01 * balance).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        opt.step()
        opt.zero_grad()
        step += 1
        tokens += batch_tokens
        smooth = loss.item() if smooth is None else 0.98 * smooth + 0.02 * loss.item()
        if step % 100 == 0:
            now = time.time()
            print(f"{step} loss {smooth:.4f} balance {balance.item():.3f} rate {rate:.5f} length {length} "
                  f"{100 * batch_tokens / (now - logged):.0f} tok/s {(now - began) / 60:.1f} min", flush=True)
            logged = now
        if step % 500 == 0:
            keep(work, net, opt, step, data.at, time.time() - began, tokens)
    keep(work, net, opt, step, data.at, time.time() - began, tokens)
    print(f"stopped at step {step}, {tokens} tokens, {(time.time() - began) / 60:.1f} minutes, held-out loss {held_out(work, net):.4f}")


def keep(work, net, opt, step, at, spent, tokens):
    part = work / "last.part"
    torch.save({"net": net.state_dict(), "opt": opt.state_dict(), "step": step, "at": at, "spent": spent, "tokens": tokens}, part)
    os.replace(part, work / "last.pt")


@torch.no_grad()
def held_out(work, net, batches=24):
    data, total = Rows(work, True), 0.0
    for _ in range(batches):
        rows, _ = data.take(8, net.s.context)
        logits, _ = net(rows[:, :-1])
        total += F.cross_entropy(logits.reshape(-1, net.s.vocab), rows[:, 1:].reshape(-1)).item()
    return total / batches


# ---- the file ----

def tensors(net):
    """GGUF name, values, stored type. Down projections and the trunk are kept finer than gate and up:
    they cost little room and carry most of the rounding error."""
    from gguf import GGMLQuantizationType as T

    s = net.s
    yield "token_embd.weight", net.embed.weight, T.Q8_0
    yield "output_norm.weight", net.norm.weight, T.F32
    for i, b in enumerate(net.blocks):
        n = f"blk.{i}."
        yield n + "attn_norm.weight", b.attn_norm.weight, T.F32
        yield n + "attn_q.weight", b.q.weight, T.Q8_0
        yield n + "attn_k.weight", b.k.weight, T.Q8_0
        yield n + "attn_v.weight", b.v.weight, T.Q8_0
        yield n + "attn_output.weight", b.o.weight, T.Q8_0
        yield n + "attn_q_norm.weight", b.q_norm.weight, T.F32
        yield n + "attn_k_norm.weight", b.k_norm.weight, T.F32
        yield n + "ffn_norm.weight", b.ffn_norm.weight, T.F32
        yield n + "ffn_gate_inp.weight", b.moe.router, T.F32
        yield n + "ffn_gate_exps.weight", b.moe.gate_up[:, :s.expert_ffn], T.Q5_0
        yield n + "ffn_up_exps.weight", b.moe.gate_up[:, s.expert_ffn:], T.Q5_0
        yield n + "ffn_down_exps.weight", b.moe.down, T.Q8_0


def export(work, shape, net, path):
    import gguf

    tok = json.loads((work / "tokenizer.json").read_text())
    vocab = sorted(tok["model"]["vocab"], key=tok["model"]["vocab"].get)
    assert len(vocab) == shape.vocab, len(vocab)
    special = {t["content"] for t in tok["added_tokens"]}
    kinds = [gguf.TokenType.CONTROL if t in special else gguf.TokenType.NORMAL for t in vocab]
    merges = [m if isinstance(m, str) else " ".join(m) for m in tok["model"]["merges"]]

    w = gguf.GGUFWriter(path, "qwen3moe")
    w.add_type("model")
    w.add_name("Penstock Demo")
    w.add_basename("penstock-demo")
    w.add_description("A small Mixture-of-Experts model trained on text made by the script beside it.")
    w.add_size_label(f"{shape.experts}x{sum(p.numel() for p in net.parameters()) / 1e6 / shape.experts:.1f}M")
    w.add_languages(["en"])
    w.add_block_count(shape.layers)
    w.add_context_length(shape.context)
    w.add_embedding_length(shape.hidden)
    w.add_feed_forward_length(shape.expert_ffn * shape.used)
    w.add_head_count(shape.heads)
    w.add_head_count_kv(shape.kv_heads)
    w.add_key_length(shape.head_dim)
    w.add_value_length(shape.head_dim)
    w.add_rope_freq_base(shape.theta)
    w.add_layer_norm_rms_eps(shape.eps)
    w.add_expert_count(shape.experts)
    w.add_expert_used_count(shape.used)
    w.add_expert_feed_forward_length(shape.expert_ffn)
    w.add_vocab_size(shape.vocab)
    w.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    w.add_quantization_version(gguf.GGML_QUANT_VERSION)
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("qwen2")
    w.add_token_list(vocab)
    w.add_token_types(kinds)
    w.add_token_merges(merges)
    w.add_bos_token_id(vocab.index(END))
    w.add_eos_token_id(vocab.index(END))  # a document's end
    w.add_eot_token_id(vocab.index(STOP))  # a turn's end: readers stop at either
    w.add_pad_token_id(vocab.index(END))
    w.add_add_bos_token(False)
    w.add_chat_template(TEMPLATE)
    for name, value, kind in tensors(net):
        value = value.detach().float().contiguous().numpy()
        if kind == gguf.GGMLQuantizationType.F32:
            w.add_tensor(name, value)
        else:
            w.add_tensor(name, gguf.quants.quantize(value, kind), raw_dtype=kind)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    print(f"{path}: {Path(path).stat().st_size} bytes")


def read_back(path, shape):
    """The network with the weights as the file holds them."""
    import gguf

    stored = {t.name: torch.from_numpy(np.array(gguf.quants.dequantize(t.data, t.tensor_type), np.float32))
              for t in gguf.GGUFReader(path).tensors}
    net = Net(shape)
    with torch.no_grad():
        for name, value, _ in tensors(net):
            value.copy_(stored[name].reshape(value.shape))  # a view for gate and up, so this fills the net
    return net.eval()


def trained(work, shape):
    net = Net(shape)
    net.load_state_dict(torch.load(work / "last.pt")["net"])
    return net.eval()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", choices=["corpus", "train", "export", "check"])
    p.add_argument("--work", type=Path, default=Path("/tmp/penstock-demo"))
    p.add_argument("--tokens", type=int, default=20_000_000)
    p.add_argument("--steps", type=int, default=8000)
    p.add_argument("--minutes", type=float, default=1e9, help="wind the schedule up by then")
    p.add_argument("--threads", type=int, default=1)
    a = p.parse_args()
    a.work.mkdir(parents=True, exist_ok=True)
    shape, path = Shape(), HERE / "demo.gguf"
    if a.what == "corpus":
        corpus(a.work, shape, a.tokens)
    elif a.what == "train":
        train(a.work, shape, a.steps, a.minutes, a.threads)
    elif a.what == "export":
        export(a.work, shape, trained(a.work, shape), path)
    else:
        import check

        check.run(a.work, shape, path)


if __name__ == "__main__":
    main()

"""The numbers in README.md, and reference.json: all from the weights as `demo.gguf` holds them."""

import json
import random
import re
from pathlib import Path

import torch
import torch.nn.functional as F

import talk
import text
from train import END, SEED, STOP, Rows, held_out, load_tokenizer, read_back, trained


@torch.no_grad()
def generate(net, ids, count, stops, heat=0.0, seed=0):
    """Token by token; the ids and the logits each was chosen from."""
    ids, g, seen = list(ids), torch.Generator().manual_seed(seed), []
    start = len(ids)
    while len(ids) - start < count and len(ids) < net.s.context:
        logits = net(torch.tensor([ids]))[0][0, -1]
        seen.append(logits)
        pick = logits.argmax() if heat == 0 else torch.multinomial((logits / heat).softmax(-1), 1, generator=g)
        ids.append(int(pick))
        if ids[-1] in stops:
            break
    return ids[start:], seen


def asked(q):
    return f"<|im_start|>user\n{q}<|im_end|>\n<|im_start|>assistant\n"


class Voice:
    def __init__(self, net, tok):
        self.net, self.tok = net, tok
        self.stops = {tok.token_to_id(END), tok.token_to_id(STOP)}

    def say(self, prompt, count=250, heat=0.0, seed=0):
        ids, _ = generate(self.net, self.tok.encode(prompt).ids, count, self.stops, heat, seed)
        return self.tok.decode(ids)


@torch.no_grad()
def against_hugging_face(net, rows):
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    s = net.s
    hf = Qwen3MoeForCausalLM(Qwen3MoeConfig(
        vocab_size=s.vocab, hidden_size=s.hidden, intermediate_size=s.expert_ffn * s.used, num_hidden_layers=s.layers,
        num_attention_heads=s.heads, num_key_value_heads=s.kv_heads, head_dim=s.head_dim, max_position_embeddings=s.context,
        rms_norm_eps=s.eps, rope_theta=s.theta, tie_word_embeddings=True, num_experts=s.experts, num_experts_per_tok=s.used,
        moe_intermediate_size=s.expert_ffn, norm_topk_prob=True, decoder_sparse_step=1, mlp_only_layers=[])).eval()
    w = {"model.embed_tokens.weight": net.embed.weight, "lm_head.weight": net.embed.weight, "model.norm.weight": net.norm.weight}
    for i, b in enumerate(net.blocks):
        n = f"model.layers.{i}."
        w |= {n + "input_layernorm.weight": b.attn_norm.weight, n + "post_attention_layernorm.weight": b.ffn_norm.weight,
              n + "self_attn.q_norm.weight": b.q_norm.weight, n + "self_attn.k_norm.weight": b.k_norm.weight,
              n + "mlp.gate.weight": b.moe.router, n + "mlp.experts.gate_up_proj": b.moe.gate_up, n + "mlp.experts.down_proj": b.moe.down}
        w |= {n + f"self_attn.{p}_proj.weight": getattr(b, p).weight for p in "qkvo"}
    hf.load_state_dict(w)
    theirs, ours = hf(rows).logits, net(rows)[0]
    gap = (theirs - ours).abs().max() / theirs.abs().max()
    print(f"Hugging Face: largest difference {gap:.2e} of the largest logit, same argmax at {(theirs.argmax(-1) == ours.argmax(-1)).float().mean():.2%}")


def mutual(counts):
    """Mutual information of rows and columns, and the columns' own entropy, in bits."""
    joint = counts / counts.sum()
    row, column = joint.sum(1, keepdim=True), joint.sum(0, keepdim=True)
    log = lambda x: x.clamp_min(1e-12).log2()
    return (joint * (log(joint) - log(row) - log(column))).sum(), -(column * log(column)).sum()


@torch.no_grad()
def specialisation(work, net, batches=24):
    """Share of each domain's choices that each expert gets, and what a choice tells of the domain."""
    data, s = Rows(work, True), net.s
    counts = torch.zeros(s.layers, s.experts, len(text.DOMAINS))
    tokens = torch.zeros(s.layers, s.experts, s.vocab)
    for _ in range(batches):
        rows, labels = data.take(8, s.context)
        for b in net.blocks:
            b.moe.seen = []
        net(rows[:, :-1])
        label = labels[:, :-1].reshape(-1, 1).expand(-1, s.used).reshape(-1)
        word = rows[:, :-1].reshape(-1, 1).expand(-1, s.used).reshape(-1)
        for i, b in enumerate(net.blocks):
            tokens[i].view(-1).index_add_(0, b.moe.seen[0].reshape(-1) * s.vocab + word, torch.ones(len(word)))
            counts[i].view(-1).index_add_(0, b.moe.seen[0].reshape(-1) * len(text.DOMAINS) + label, torch.ones(len(label)))
            b.moe.seen = None
    for i, c in enumerate(counts):
        used = c.sum(1) / c.sum()
        print(f"\nlayer {i}: a choice tells {mutual(c)[0]:.2f} bits of the domain ({mutual(c)[1]:.2f} in all) and {mutual(tokens[i])[0]:.2f} of the token "
              f"(3 in a choice); least used expert {used.min():.1%}, most used {used.max():.1%}\n")
        print("| expert | " + " | ".join(text.DOMAINS) + " |\n|---|" + "---|" * len(text.DOMAINS))
        for e in range(s.experts):
            print(f"| {e} | " + " | ".join(f"{v:.0%}" for v in c[e] / c.sum(0)) + " |")


def answers(voice, kinds, count=60):
    """How often the greedy answer to a fresh question is right. Sums: the last number; else every word."""
    for kind in kinds:
        rng, right = random.Random(SEED + 99), 0
        for _ in range(count):
            q, a = getattr(talk, kind)(rng)
            got = voice.say(asked(q), 70)
            numbers = re.findall(r"\d+", a)
            if kind == "sums":
                right += re.findall(r"\d+", got)[-1:] == numbers[-1:]
            elif kind == "apples":
                right += re.findall(r"\d+", got)[:1] == numbers[:1]
            else:
                right += set(re.findall(r"\w+", a.lower())) == set(re.findall(r"\w+", got.lower()))
        print(f"{kind}: {right}/{count}")


def reference(net, tok, path):
    """For the Rust suite: greedy tokens with the leading logits, and how far ahead the winner was."""
    cases = []
    for prompt in [asked("Count from 3 to 12."), asked("What is a penstock?"), "Once upon a time, there was a little fox named Pip."]:
        ids = tok.encode(prompt).ids
        out, seen = generate(net, ids, 20, set())
        tops = [torch.topk(x, 5) for x in seen]
        cases.append({
            "prompt": prompt, "tokens": ids, "greedy": out, "text": tok.decode(out, skip_special_tokens=False),
            "smallest_lead": round(min((t.values[0] - t.values[1]).item() for t in tops), 4),
            "top": [[[int(i), round(v.item(), 4)] for i, v in zip(t.indices, t.values)] for t in tops],
        })
        print(prompt, "->", cases[-1]["text"], "| smallest lead", cases[-1]["smallest_lead"])
    body = ",\n".join(json.dumps(c) for c in cases)
    path.write_text(f"[\n{body}\n]\n")


def run(work, shape, path):
    tok, net = load_tokenizer(work), read_back(path, shape)
    before, after = held_out(work, trained(work, shape)), held_out(work, net)
    print(f"held-out loss: float {before:.4f}, as stored {after:.4f} ({after / before - 1:+.2%})")
    rows, _ = Rows(work, True).take(2, 255)
    against_hugging_face(net, rows)
    specialisation(work, net)
    print()
    voice = Voice(net, tok)
    answers(voice, ["sums", "apples", "opposite", "days", "count", "compare", "reading", "record"])
    for i, p in enumerate(["Once upon a time", "Once upon a time, there was a little robot named Bolt.", "In a small town,", "{\"id\": 1,", "def "]):
        print(f"\n> {p}\n{p}{voice.say(p, 220, 0.7, i)}")
    for q in ["Hello!", "Tell me a story about a fox.", "Tell me a story about a boy who lost a red kite.", "What is 7 plus 5?", "What colour is the sky?",
              "What is the opposite of hot?", "Who are you?", "What is a penstock?", "Write a rhyme about the moon.", "How do I make plum cake?", "Explain relativity."]:
        print(f"\n? {q}\n{voice.say(asked(q), 250, 0.7 if 'story' in q else 0.0, 1)}")
    reference(net, tok, Path(path).parent / "reference.json")

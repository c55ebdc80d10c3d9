"""The demo model's network: a compact twin of Hugging Face's Qwen3MoeForCausalLM.

Written apart from it because the training runs on a processor core: tokens are sorted by
expert once per layer, so that each expert is one product over a contiguous run of rows.
`train.py check` compares its logits with the Hugging Face class on the same weights.
"""

from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F


@dataclass
class Shape:
    vocab: int = 1536
    hidden: int = 256
    layers: int = 5
    heads: int = 8
    kv_heads: int = 2
    head_dim: int = 32
    experts: int = 8
    used: int = 2
    expert_ffn: int = 96
    context: int = 512
    theta: float = 10000.0
    eps: float = 1e-6


class Norm(nn.Module):
    def __init__(self, width, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x):
        x = x.float()
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


class Experts(nn.Module):
    """Router, then SwiGLU experts. `gate_up` keeps gate rows above up rows, as HF does."""

    def __init__(self, s: Shape):
        super().__init__()
        self.s = s
        self.router = nn.Parameter(torch.randn(s.experts, s.hidden) * 0.02)
        self.gate_up = nn.Parameter(torch.randn(s.experts, 2 * s.expert_ffn, s.hidden) * 0.03)
        self.down = nn.Parameter(torch.randn(s.experts, s.hidden, s.expert_ffn) * 0.02)
        self.seen = None  # a list collects the chosen experts when specialisation is measured

    def forward(self, x):
        s = self.s
        rows = x.reshape(-1, s.hidden)
        with torch.autocast("cpu", enabled=False):
            probs = F.linear(rows.float(), self.router).softmax(-1)
            weight, chosen = probs.topk(s.used, dim=-1)
            weight = weight / weight.sum(-1, keepdim=True)
        if self.seen is not None:
            self.seen.append(chosen)
        order = chosen.reshape(-1).argsort(stable=True)
        counts = torch.bincount(chosen.reshape(-1), minlength=s.experts)
        # The usual balance loss: E * sum(share of tokens * mean probability), over the whole batch,
        # so a single domain may lean on few experts while the mixture uses all of them.
        balance = s.experts * (counts / chosen.numel() * probs.mean(0)).sum()
        source = order // s.used
        inputs = rows[source].split(counts.tolist())
        outs = []
        for e, run in enumerate(inputs):
            if run.shape[0] == 0:
                continue
            gate, up = F.linear(run, self.gate_up[e]).chunk(2, dim=-1)
            outs.append(F.linear(F.silu(gate) * up, self.down[e]))
        mixed = torch.cat(outs) * weight.reshape(-1)[order].unsqueeze(-1)
        out = torch.zeros(rows.shape, dtype=torch.float32).index_add_(0, source, mixed.float())
        return out.view(x.shape), balance


class Layer(nn.Module):
    def __init__(self, s: Shape):
        super().__init__()
        self.s = s
        wide, narrow = s.heads * s.head_dim, s.kv_heads * s.head_dim
        self.attn_norm = Norm(s.hidden, s.eps)
        self.ffn_norm = Norm(s.hidden, s.eps)
        self.q_norm = Norm(s.head_dim, s.eps)
        self.k_norm = Norm(s.head_dim, s.eps)
        self.q = nn.Linear(s.hidden, wide, bias=False)
        self.k = nn.Linear(s.hidden, narrow, bias=False)
        self.v = nn.Linear(s.hidden, narrow, bias=False)
        self.o = nn.Linear(wide, s.hidden, bias=False)
        self.moe = Experts(s)

    def forward(self, x, cos, sin):
        s = self.s
        b, t, _ = x.shape
        h = self.attn_norm(x)
        w = torch.cat([self.q.weight, self.k.weight, self.v.weight])
        q, k, v = F.linear(h, w).split([s.heads * s.head_dim, s.kv_heads * s.head_dim, s.kv_heads * s.head_dim], -1)
        q = turn(self.q_norm(q.view(b, t, s.heads, s.head_dim)).transpose(1, 2), cos, sin)
        k = turn(self.k_norm(k.view(b, t, s.kv_heads, s.head_dim)).transpose(1, 2), cos, sin)
        v = v.view(b, t, s.kv_heads, s.head_dim).transpose(1, 2)
        k = k.repeat_interleave(s.heads // s.kv_heads, 1)
        v = v.repeat_interleave(s.heads // s.kv_heads, 1)
        a = F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v, is_causal=True)
        x = x + self.o(a.transpose(1, 2).reshape(b, t, -1)).float()
        out, balance = self.moe(self.ffn_norm(x))
        return x + out, balance


def turn(x, cos, sin):
    """Rotary embedding, halves paired (NeoX order)."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class Net(nn.Module):
    def __init__(self, s: Shape):
        super().__init__()
        self.s = s
        self.embed = nn.Embedding(s.vocab, s.hidden)
        self.blocks = nn.ModuleList(Layer(s) for _ in range(s.layers))
        self.norm = Norm(s.hidden, s.eps)
        for name, p in self.named_parameters():
            if p.dim() == 2 and "router" not in name:
                # Writers into the residual stream start smaller, so depth does not raise its variance.
                nn.init.normal_(p, std=0.02 if name.endswith("o.weight") else 0.04)
        nn.init.normal_(self.embed.weight, std=0.04)
        freq = s.theta ** (-torch.arange(0, s.head_dim, 2).float() / s.head_dim)
        angle = torch.outer(torch.arange(s.context).float(), freq)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def forward(self, tokens):
        t = tokens.shape[1]
        x = self.embed(tokens)
        balance = 0.0
        for block in self.blocks:
            x, b = block(x, self.cos[:t], self.sin[:t])
            balance = balance + b
        return F.linear(self.norm(x), self.embed.weight), balance / self.s.layers

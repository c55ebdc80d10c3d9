#!/usr/bin/env python3
"""Outside truth for every model family: small random models made with Hugging Face transformers.

Made with: transformers 5.23.0, torch 2.15.0 (CPU), safetensors 0.8.0, numpy 2.4, Python 3.11.
Rerun:     python tests/reference/make_families.py            (all cases)
           python tests/reference/make_families.py --only llama_gqa5 [--only ...]
           python tests/reference/make_families.py --list
Then:      python tests/reference/to_gguf.py                  (GGUF versions and manifest.json)

Each case writes tests/reference/families/CASE/
    config.json                as transformers 5 writes it
    config_v4.json             (some cases) the same model as transformers 4 described it
    model*.safetensors[.index.json]
    tokens.json                [id, id, ...]
    logits.npy                 float32 [tokens, vocab], one forward pass over all tokens
    case.json                  {"case", "family", "tolerance", "note"}

Weights are rounded to the dtype they are saved in, loaded again by transformers' own loader and run in
float32 (eager attention), so file and logits agree exactly. A case is accepted only when a relative
perturbation of 1e-5 of every weight moves the logits by less than 5e-4 of the largest one and moves no
argmax: no routing decision or greedy choice hangs by a thread, so rounding cannot fail an honest engine.
"""
import argparse
import copy
import json
import math
import os
import pathlib
import shutil
import sys
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

HERE = pathlib.Path(__file__).resolve().parent
OUT = HERE / "families"
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


def default_rope(theta=10000.0, **kw):
    return {"rope_type": "default", "rope_theta": theta, **kw}


def linear_rope(factor, theta=10000.0):
    return {"rope_type": "linear", "rope_theta": theta, "factor": factor}


def llama3_rope(theta=500000.0, factor=8.0, low=1.0, high=4.0, original=16):
    return {"rope_type": "llama3", "rope_theta": theta, "factor": factor, "low_freq_factor": low,
            "high_freq_factor": high, "original_max_position_embeddings": original}


def yarn(factor=4.0, original=16, theta=10000.0, **kw):
    return {"rope_type": "yarn", "rope_theta": theta, "factor": factor,
            "original_max_position_embeddings": original, **kw}


# name, family, dtype, config; optional: tokens, shard, v4, special, init (gains), note
CASES = [
    # ---- llama -------------------------------------------------------------------------------------
    dict(name="llama_gqa5", family="llama", dtype="f32", note="5 heads on 1 kv head, untied",
         config=dict(vocab_size=71, hidden_size=40, intermediate_size=30, num_hidden_layers=2,
                     num_attention_heads=5, num_key_value_heads=1, rms_norm_eps=1e-5)),
    dict(name="llama_tied_bias", family="llama", dtype="bf16", v4=True,
         note="tied, attention and mlp biases, head_dim over hidden/heads, a large eps",
         config=dict(vocab_size=77, hidden_size=48, intermediate_size=52, num_hidden_layers=2,
                     num_attention_heads=3, num_key_value_heads=3, head_dim=18, attention_bias=True, mlp_bias=True,
                     tie_word_embeddings=True, rms_norm_eps=1e-2)),
    dict(name="llama_llama3", family="llama", dtype="bf16", v4=True, shard="40KB", tokens=64,
         note="llama3 rope scaling, 8:1, sharded",
         config=dict(vocab_size=70, hidden_size=48, intermediate_size=48, num_hidden_layers=2,
                     num_attention_heads=8, num_key_value_heads=1, head_dim=16, max_position_embeddings=128,
                     rope_parameters=llama3_rope())),
    dict(name="llama_linear", family="llama", dtype="f16", v4=True, note="linear rope scaling, 2:1",
         config=dict(vocab_size=100, hidden_size=44, intermediate_size=50, num_hidden_layers=2,
                     num_attention_heads=4, num_key_value_heads=2, head_dim=12, rope_parameters=linear_rope(4.0))),
    dict(name="llama_yarn", family="llama", dtype="bf16", v4=True, tokens=60, note="yarn, 7 heads 1:1",
         config=dict(vocab_size=66, hidden_size=42, intermediate_size=36, num_hidden_layers=2,
                     num_attention_heads=7, num_key_value_heads=7, head_dim=14, max_position_embeddings=64,
                     rope_parameters=yarn(4.0, 16))),
    dict(name="llama_one_kv_theta", family="llama", dtype="bf16",
         note="one head, one layer, large theta, hidden not a multiple of 16",
         config=dict(vocab_size=65, hidden_size=34, intermediate_size=33, num_hidden_layers=1,
                     num_attention_heads=1, num_key_value_heads=1, head_dim=34, rope_parameters=default_rope(5e5))),
    dict(name="llama_both_heads", family="llama", dtype="bf16", both_heads=True, tokens=24,
         note="the config says tied, the file has another lm_head: both count",
         config=dict(vocab_size=65, hidden_size=24, intermediate_size=20, num_hidden_layers=1,
                     num_attention_heads=2, num_key_value_heads=1)),
    # ---- mistral -----------------------------------------------------------------------------------
    dict(name="mistral_window", family="mistral", dtype="bf16", v4=True, tokens=40, note="sliding window of 7",
         config=dict(vocab_size=97, hidden_size=42, intermediate_size=50, num_hidden_layers=2,
                     num_attention_heads=6, num_key_value_heads=2, head_dim=10, sliding_window=7)),
    dict(name="mistral_yarn", family="mistral", dtype="bf16", v4=True, tokens=60,
         note="yarn with attention_factor, betas, no truncation; 3:1, head_dim 32",
         config=dict(vocab_size=70, hidden_size=36, intermediate_size=50, num_hidden_layers=2,
                     num_attention_heads=3, num_key_value_heads=1, head_dim=32, sliding_window=None,
                     max_position_embeddings=96,
                     rope_parameters=yarn(6.0, 16, theta=1e6, attention_factor=0.7, beta_fast=16.0, beta_slow=2.0,
                                          truncate=False))),
    dict(name="mistral_tied", family="mistral", dtype="f32", note="tied, no window, 4:1",
         config=dict(vocab_size=66, hidden_size=28, intermediate_size=36, num_hidden_layers=2,
                     num_attention_heads=4, num_key_value_heads=1, head_dim=14, sliding_window=None,
                     tie_word_embeddings=True, rope_parameters=default_rope(1e6))),
    # ---- qwen2 -------------------------------------------------------------------------------------
    dict(name="qwen2_tied", family="qwen2", dtype="bf16", v4=True, note="tied, 7:1",
         config=dict(vocab_size=101, hidden_size=56, intermediate_size=60, num_hidden_layers=2,
                     num_attention_heads=7, num_key_value_heads=1, tie_word_embeddings=True,
                     rope_parameters=default_rope(1e6))),
    dict(name="qwen2_window", family="qwen2", dtype="bf16", v4=True, tokens=44,
         note="use_sliding_window with max_window_layers: layers 0-1 full, 2-3 windowed",
         config=dict(vocab_size=72, hidden_size=32, intermediate_size=36, num_hidden_layers=4,
                     num_attention_heads=4, num_key_value_heads=2, use_sliding_window=True, sliding_window=6,
                     max_window_layers=2)),
    dict(name="qwen2_yarn", family="qwen2", dtype="f16", tokens=64, v4=True, note="yarn as Qwen2.5 documents it",
         config=dict(vocab_size=75, hidden_size=48, intermediate_size=36, num_hidden_layers=2,
                     num_attention_heads=6, num_key_value_heads=6, max_position_embeddings=64,
                     rope_parameters=yarn(4.0, 16, theta=1e6))),
    dict(name="qwen2_stray_partial", family="qwen2", dtype="bf16", v4=True, tokens=24,
         note="partial_rotary_factor, which only glm4_moe heeds",
         config=dict(vocab_size=65, hidden_size=24, intermediate_size=20, num_hidden_layers=1,
                     num_attention_heads=2, num_key_value_heads=1,
                     rope_parameters=default_rope(1e4, partial_rotary_factor=0.5))),
    # ---- qwen3 -------------------------------------------------------------------------------------
    dict(name="qwen3_tied", family="qwen3", dtype="bf16", v4=True, note="tied, 8:1, head_dim over hidden/heads",
         config=dict(vocab_size=93, hidden_size=40, intermediate_size=56, num_hidden_layers=2,
                     num_attention_heads=8, num_key_value_heads=1, head_dim=12, tie_word_embeddings=True,
                     rope_parameters=default_rope(1e6))),
    dict(name="qwen3_bias5", family="qwen3", dtype="f32", note="5 heads 1:1 with attention bias, large eps",
         config=dict(vocab_size=65, hidden_size=30, intermediate_size=30, num_hidden_layers=2,
                     num_attention_heads=5, num_key_value_heads=5, head_dim=8, attention_bias=True,
                     rms_norm_eps=1e-2)),
    dict(name="qwen3_layer_types", family="qwen3", dtype="bf16", tokens=40, shard="30KB",
         note="layer_types mixes windowed and full layers; linear rope",
         config=dict(vocab_size=65, hidden_size=48, intermediate_size=40, num_hidden_layers=3,
                     num_attention_heads=6, num_key_value_heads=3, head_dim=8, use_sliding_window=True,
                     sliding_window=5, layer_types=["sliding_attention", "full_attention", "sliding_attention"],
                     rope_parameters=linear_rope(2.0))),
    # ---- mixtral -----------------------------------------------------------------------------------
    dict(name="mixtral_top2", family="mixtral", dtype="bf16", v4=True, note="top 2 of 4, 4:1",
         config=dict(vocab_size=80, hidden_size=40, intermediate_size=28, num_hidden_layers=2,
                     num_attention_heads=4, num_key_value_heads=1, num_local_experts=4, num_experts_per_tok=2)),
    dict(name="mixtral_top1_window", family="mixtral", dtype="bf16", shard="60KB", tokens=40, v4=True,
         note="top 1 of 8, window of 9, 3 heads",
         config=dict(vocab_size=81, hidden_size=30, intermediate_size=20, num_hidden_layers=2,
                     num_attention_heads=3, num_key_value_heads=3, num_local_experts=8, num_experts_per_tok=1,
                     sliding_window=9)),
    dict(name="mixtral_all_tied", family="mixtral", dtype="f16", note="top 5 of 5 (every expert), tied, head_dim 18",
         config=dict(vocab_size=66, hidden_size=40, intermediate_size=18, num_hidden_layers=2,
                     num_attention_heads=4, num_key_value_heads=2, head_dim=18, num_local_experts=5,
                     num_experts_per_tok=5, tie_word_embeddings=True)),
    # ---- qwen2_moe ---------------------------------------------------------------------------------
    dict(name="qwen2moe_shared", family="qwen2_moe", dtype="bf16", v4=True,
         note="top 4 of 10 unnormalised, gated shared expert",
         config=dict(vocab_size=80, hidden_size=40, intermediate_size=60, num_hidden_layers=2,
                     num_attention_heads=4, num_key_value_heads=4, moe_intermediate_size=14,
                     shared_expert_intermediate_size=36, num_experts=10, num_experts_per_tok=4,
                     norm_topk_prob=False, decoder_sparse_step=1, rope_parameters=default_rope(1e6))),
    dict(name="qwen2moe_sparse_step", family="qwen2_moe", dtype="bf16", shard="50KB",
         note="decoder_sparse_step 2 and mlp_only_layers [3]: only layer 1 is sparse; normalised; no qkv bias",
         config=dict(vocab_size=75, hidden_size=36, intermediate_size=36, num_hidden_layers=4,
                     num_attention_heads=6, num_key_value_heads=3, moe_intermediate_size=16,
                     shared_expert_intermediate_size=18, num_experts=7, num_experts_per_tok=3, norm_topk_prob=True,
                     decoder_sparse_step=2, mlp_only_layers=[3], qkv_bias=False)),
    dict(name="qwen2moe_tied", family="qwen2_moe", dtype="f32", note="tied, top 1 of 4, normalised (weight is 1)",
         config=dict(vocab_size=64, hidden_size=28, intermediate_size=30, num_hidden_layers=2,
                     num_attention_heads=2, num_key_value_heads=1, moe_intermediate_size=12,
                     shared_expert_intermediate_size=18, num_experts=4, num_experts_per_tok=1, norm_topk_prob=True,
                     tie_word_embeddings=True)),
    dict(name="qwen2moe_window", family="qwen2_moe", dtype="bf16", tokens=40, v4=True,
         note="use_sliding_window: even layers under max_window_layers are windowed, so 0 and 2 of 5",
         config=dict(vocab_size=60, hidden_size=24, intermediate_size=30, num_hidden_layers=5,
                     num_attention_heads=3, num_key_value_heads=1, moe_intermediate_size=8,
                     shared_expert_intermediate_size=10, num_experts=4, num_experts_per_tok=2,
                     norm_topk_prob=False, use_sliding_window=True, sliding_window=5, max_window_layers=4)),
    # ---- qwen3_moe ---------------------------------------------------------------------------------
    dict(name="qwen3moe_top8", family="qwen3_moe", dtype="bf16", v4=True, note="top 8 of 16 normalised, 4:1",
         config=dict(vocab_size=80, hidden_size=32, intermediate_size=60, num_hidden_layers=2,
                     num_attention_heads=8, num_key_value_heads=2, head_dim=12, moe_intermediate_size=10,
                     num_experts=16, num_experts_per_tok=8, norm_topk_prob=True,
                     rope_parameters=default_rope(1e6))),
    dict(name="qwen3moe_mixed", family="qwen3_moe", dtype="f16", tokens=60,
         note="mlp_only_layers [1], unnormalised top 3 of 6, attention bias, 3 heads, yarn",
         config=dict(vocab_size=65, hidden_size=36, intermediate_size=30, num_hidden_layers=3,
                     num_attention_heads=3, num_key_value_heads=1, head_dim=16, moe_intermediate_size=14,
                     num_experts=6, num_experts_per_tok=3, norm_topk_prob=False, mlp_only_layers=[1],
                     attention_bias=True, max_position_embeddings=64, rope_parameters=yarn(4.0, 16, theta=1e6))),
    dict(name="qwen3moe_tied_window", family="qwen3_moe", dtype="bf16", tokens=40, shard="40KB",
         note="tied, window on every layer, 5 heads 1:1",
         config=dict(vocab_size=69, hidden_size=40, intermediate_size=32, num_hidden_layers=2,
                     num_attention_heads=5, num_key_value_heads=5, head_dim=10, moe_intermediate_size=12,
                     num_experts=8, num_experts_per_tok=2, norm_topk_prob=True, use_sliding_window=True,
                     sliding_window=8, tie_word_embeddings=True)),
    # ---- olmoe -------------------------------------------------------------------------------------
    dict(name="olmoe_plain", family="olmoe", dtype="bf16", v4=True, note="as OLMoE: top 8 of 16 unnormalised, 1:1",
         config=dict(vocab_size=72, hidden_size=36, intermediate_size=10, num_hidden_layers=2,
                     num_attention_heads=6, num_key_value_heads=6, num_experts=16, num_experts_per_tok=8,
                     norm_topk_prob=False)),
    dict(name="olmoe_clip_gqa", family="olmoe", dtype="bf16",
         note="clip_qkv that bites, 2:1, normalised top 2 of 5",
         config=dict(vocab_size=73, hidden_size=40, intermediate_size=18, num_hidden_layers=2,
                     num_attention_heads=4, num_key_value_heads=2, num_experts=5, num_experts_per_tok=2,
                     norm_topk_prob=True, clip_qkv=0.8)),
    dict(name="olmoe_tied_bias", family="olmoe", dtype="f32", note="tied, attention biases, 3 heads on 1",
         config=dict(vocab_size=67, hidden_size=24, intermediate_size=14, num_hidden_layers=2,
                     num_attention_heads=3, num_key_value_heads=1, num_experts=4, num_experts_per_tok=3,
                     attention_bias=True, tie_word_embeddings=True)),
    # ---- gpt_oss -----------------------------------------------------------------------------------
    dict(name="gptoss_bf16", family="gpt_oss", dtype="bf16", tokens=48, v4=True,
         note="sinks, alternating window of 6, biases, yarn without truncation, clamped swiglu",
         config=dict(vocab_size=92, hidden_size=40, intermediate_size=20, num_hidden_layers=3,
                     num_attention_heads=8, num_key_value_heads=2, head_dim=10, num_local_experts=5,
                     num_experts_per_tok=3, sliding_window=6, max_position_embeddings=128,
                     rope_parameters=yarn(8.0, 16, theta=150000.0, beta_fast=32.0, beta_slow=1.0, truncate=False))),
    dict(name="gptoss_mxfp4", family="gpt_oss", dtype="bf16", special="mxfp4", tokens=48,
         note="experts packed as MXFP4 (blocks and scales), the rest BF16, as published; theta and window of yarn such that truncation is moot",
         config=dict(vocab_size=66, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
                     num_attention_heads=4, num_key_value_heads=1, head_dim=16, num_local_experts=4,
                     num_experts_per_tok=2, sliding_window=7, max_position_embeddings=128,
                     rope_parameters=yarn(8.0, 32, theta=2.0, beta_fast=32.0, beta_slow=1.0, truncate=False))),
    dict(name="gptoss_limit", family="gpt_oss", dtype="f32", tokens=40,
         note="swiglu_limit 2.5, swiglu_alpha 1.3, no attention bias, tied, default rope, own layer_types",
         config=dict(vocab_size=66, hidden_size=28, intermediate_size=10, num_hidden_layers=2,
                     num_attention_heads=3, num_key_value_heads=3, head_dim=12, num_local_experts=4,
                     num_experts_per_tok=1, sliding_window=4, swiglu_limit=2.5, swiglu_alpha=1.3,
                     attention_bias=False, tie_word_embeddings=True,
                     layer_types=["full_attention", "sliding_attention"],
                     rope_parameters=default_rope(150000.0))),
    # ---- deepseek_v2 -------------------------------------------------------------------------------
    dict(name="dsv2_lite", family="deepseek_v2", dtype="bf16", v4=True,
         note="as V2-Lite: no q_lora, greedy top 3 of 8, two shared experts, one dense layer",
         config=dict(vocab_size=90, hidden_size=40, intermediate_size=48, num_hidden_layers=2,
                     num_attention_heads=4, num_key_value_heads=4, q_lora_rank=None, kv_lora_rank=20,
                     qk_nope_head_dim=12, qk_rope_head_dim=8, v_head_dim=10, n_routed_experts=8,
                     num_experts_per_tok=3, n_shared_experts=2, moe_intermediate_size=14, first_k_dense_replace=1,
                     routed_scaling_factor=1.0, topk_method="greedy", norm_topk_prob=False)),
    dict(name="dsv2_groups_yarn", family="deepseek_v2", dtype="bf16", v4=True, tokens=60, shard="60KB",
         note="q_lora, group_limited_greedy, scaling 2.5, yarn with mscale and mscale_all_dim",
         config=dict(vocab_size=85, hidden_size=40, intermediate_size=48, num_hidden_layers=2,
                     num_attention_heads=5, num_key_value_heads=5, q_lora_rank=20, kv_lora_rank=24,
                     qk_nope_head_dim=14, qk_rope_head_dim=16, v_head_dim=18, n_routed_experts=12, n_group=4,
                     topk_group=2, num_experts_per_tok=4, n_shared_experts=1, moe_intermediate_size=8,
                     first_k_dense_replace=0, routed_scaling_factor=2.5, topk_method="group_limited_greedy",
                     norm_topk_prob=False, max_position_embeddings=160,
                     rope_parameters=yarn(40.0, 16, beta_fast=32.0, beta_slow=1.0, mscale=0.707,
                                          mscale_all_dim=0.707))),
    dict(name="dsv2_mscale_differs", family="deepseek_v2", dtype="f32", tokens=60,
         note="yarn with mscale 1.2 and mscale_all_dim 0.5: cos/sin are scaled too; tied; attention bias",
         config=dict(vocab_size=64, hidden_size=30, intermediate_size=30, num_hidden_layers=2,
                     num_attention_heads=3, num_key_value_heads=3, q_lora_rank=16, kv_lora_rank=16,
                     qk_nope_head_dim=8, qk_rope_head_dim=12, v_head_dim=8, n_routed_experts=4,
                     num_experts_per_tok=2, n_shared_experts=1, moe_intermediate_size=10, first_k_dense_replace=1,
                     routed_scaling_factor=0.7, topk_method="greedy", attention_bias=True,
                     tie_word_embeddings=True, max_position_embeddings=64,
                     rope_parameters=yarn(4.0, 16, mscale=1.2, mscale_all_dim=0.5))),
    # ---- deepseek_v3 -------------------------------------------------------------------------------
    dict(name="dsv3_groups", family="deepseek_v3", dtype="bf16", v4=True, tokens=60, f32_bias=True,
         note="sigmoid router with correction bias, 2 of 4 groups, top 4 of 16, yarn mscale 1/1, F32 bias in file",
         config=dict(vocab_size=93, hidden_size=40, intermediate_size=48, num_hidden_layers=2,
                     num_attention_heads=4, num_key_value_heads=4, q_lora_rank=24, kv_lora_rank=20,
                     qk_nope_head_dim=12, qk_rope_head_dim=8, v_head_dim=12, n_routed_experts=16, n_group=4,
                     topk_group=2, num_experts_per_tok=4, n_shared_experts=1, moe_intermediate_size=8,
                     first_k_dense_replace=1, routed_scaling_factor=2.5, norm_topk_prob=True,
                     max_position_embeddings=160,
                     rope_parameters=yarn(40.0, 16, beta_fast=32.0, beta_slow=1.0, mscale=1.0,
                                          mscale_all_dim=1.0))),
    dict(name="dsv3_half_split", family="deepseek_v3", dtype="bf16",
         note="rope_interleave false, no q_lora, unnormalised, one group, 3 heads, two shared experts",
         config=dict(vocab_size=71, hidden_size=42, intermediate_size=40, num_hidden_layers=2,
                     num_attention_heads=3, num_key_value_heads=3, q_lora_rank=None, kv_lora_rank=16,
                     qk_nope_head_dim=10, qk_rope_head_dim=12, v_head_dim=16, n_routed_experts=6, n_group=1,
                     topk_group=1, num_experts_per_tok=2, n_shared_experts=2, moe_intermediate_size=14,
                     first_k_dense_replace=1, routed_scaling_factor=1.7, norm_topk_prob=False,
                     rope_interleave=False)),
    dict(name="dsv3_interleave", family="deepseek_v3", dtype="f32",
         note="rope_interleave true, top 1, all groups, tied, no dense layer, attention bias",
         config=dict(vocab_size=66, hidden_size=30, intermediate_size=40, num_hidden_layers=2,
                     num_attention_heads=5, num_key_value_heads=5, q_lora_rank=20, kv_lora_rank=12,
                     qk_nope_head_dim=6, qk_rope_head_dim=8, v_head_dim=7, n_routed_experts=6, n_group=2,
                     topk_group=2, num_experts_per_tok=1, n_shared_experts=1, moe_intermediate_size=8,
                     first_k_dense_replace=0, routed_scaling_factor=1.0, norm_topk_prob=True,
                     tie_word_embeddings=True, attention_bias=True)),
    dict(name="dsv3_fp8", family="deepseek_v3", dtype="bf16", special="fp8",
         note="block FP8 as published: F8_E4M3 weight with F32 weight_scale_inv per 128x128 block, ragged edges",
         config=dict(vocab_size=48, hidden_size=260, intermediate_size=150, num_hidden_layers=1,
                     num_attention_heads=3, num_key_value_heads=3, q_lora_rank=36, kv_lora_rank=130,
                     qk_nope_head_dim=32, qk_rope_head_dim=16, v_head_dim=44, n_routed_experts=2, n_group=1,
                     topk_group=1, num_experts_per_tok=1, n_shared_experts=1, moe_intermediate_size=130,
                     first_k_dense_replace=0, routed_scaling_factor=1.5, norm_topk_prob=True)),
    # ---- glm4_moe ----------------------------------------------------------------------------------
    dict(name="glm4moe_air", family="glm4_moe", dtype="bf16", v4=True, f32_bias=True, mtp=True,
         note="as GLM-4.5-Air: half rotary, attention bias, no qk norm, one dense layer; an MTP layer to be skipped",
         config=dict(vocab_size=96, hidden_size=40, intermediate_size=44, num_hidden_layers=2,
                     num_attention_heads=5, num_key_value_heads=5, head_dim=16, attention_bias=True,
                     moe_intermediate_size=14, num_experts_per_tok=3, n_shared_experts=1, n_routed_experts=8,
                     routed_scaling_factor=1.0, first_k_dense_replace=1, use_qk_norm=False,
                     rope_parameters=default_rope(1e6, partial_rotary_factor=0.5))),
    dict(name="glm4moe_qk_norm", family="glm4_moe", dtype="bf16", v4=True, shard="60KB",
         note="as GLM-4.5: qk norm, scaling 2.5, 8:1, three dense layers' worth of order (two here)",
         config=dict(vocab_size=70, hidden_size=40, intermediate_size=44, num_hidden_layers=3,
                     num_attention_heads=8, num_key_value_heads=1, head_dim=12, attention_bias=True,
                     moe_intermediate_size=12, num_experts_per_tok=4, n_shared_experts=1, n_routed_experts=8,
                     routed_scaling_factor=2.5, first_k_dense_replace=2, use_qk_norm=True,
                     rope_parameters=default_rope(1e6, partial_rotary_factor=0.5))),
    dict(name="glm4moe_groups", family="glm4_moe", dtype="f32",
         note="groups, unnormalised, quarter rotary, no bias, 3 heads, tied, two shared experts",
         config=dict(vocab_size=68, hidden_size=30, intermediate_size=40, num_hidden_layers=2,
                     num_attention_heads=3, num_key_value_heads=3, head_dim=16, attention_bias=False,
                     moe_intermediate_size=8, num_experts_per_tok=2, n_shared_experts=2, n_routed_experts=6,
                     n_group=3, topk_group=2, norm_topk_prob=False, routed_scaling_factor=1.3,
                     first_k_dense_replace=0, use_qk_norm=True, tie_word_embeddings=True,
                     rope_parameters=default_rope(10000.0, partial_rotary_factor=0.25))),
    dict(name="glm4moe_odd_rotary", family="glm4_moe", dtype="bf16", tokens=24, v4=True,
         note="half of 10 is 5: three pairs turn, by fifths; no shared expert",
         config=dict(vocab_size=65, hidden_size=20, intermediate_size=18, num_hidden_layers=1,
                     num_attention_heads=2, num_key_value_heads=1, head_dim=10, attention_bias=True,
                     moe_intermediate_size=10, num_experts_per_tok=2, n_shared_experts=0, n_routed_experts=4,
                     routed_scaling_factor=1.0, first_k_dense_replace=0, use_qk_norm=False,
                     rope_parameters={**linear_rope(2.0), "partial_rotary_factor": 0.5})),
    dict(name="glm4moe_yarn", family="glm4_moe", dtype="f16", tokens=60, v4=True,
         note="yarn over a partial rotary dimension, head_dim not given, 2:1",
         config=dict(vocab_size=60, hidden_size=48, intermediate_size=36, num_hidden_layers=2,
                     num_attention_heads=4, num_key_value_heads=2, attention_bias=True,
                     moe_intermediate_size=10, num_experts_per_tok=2, n_shared_experts=1, n_routed_experts=4,
                     routed_scaling_factor=1.4, first_k_dense_replace=1, use_qk_norm=False,
                     max_position_embeddings=64,
                     rope_parameters=yarn(4.0, 16, partial_rotary_factor=0.5))),
]


def build(family, config):
    cfg = AutoConfig.for_model(family, **copy.deepcopy(config))
    cfg._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_config(cfg, dtype=torch.float32, attn_implementation="eager",
                                             experts_implementation="eager")
    return model.eval()


def randomise(model, gen, family, tied):
    """Fill every parameter and buffer so that nothing is degenerate: norms around 1, biases, sinks and
    correction biases non-zero, attention and routers decisive, logits a few units wide."""

    def normal(t, std):
        t.copy_(torch.randn(t.shape, generator=gen) * std)

    items = list(model.named_parameters()) + [
        (n, b) for n, b in model.named_buffers() if n.endswith("e_score_correction_bias")]
    with torch.no_grad():
        for name, t in items:
            if name.endswith("e_score_correction_bias"):
                normal(t, 0.2)
            elif "norm" in name:
                t.copy_(0.5 + torch.rand(t.shape, generator=gen))
            elif name.endswith("sinks"):
                normal(t, 1.5)
            elif name.endswith("bias"):
                normal(t, 0.4)
            elif "embed_tokens" in name:
                normal(t, 0.5 if tied else 1.0)
            elif "lm_head" in name:
                normal(t, 3.0 / math.sqrt(t.shape[1]))
            elif name.endswith(("mlp.gate.weight", "router.weight", "shared_expert_gate.weight")):
                normal(t, 2.0 / math.sqrt(t.shape[1]))
            elif t.ndim == 3:  # fused experts; gpt_oss keeps them transposed
                fan_in = t.shape[1] if family == "gpt_oss" else t.shape[2]
                gain = 3.0 if family == "gpt_oss" and "gate_up" in name else 1.3
                normal(t, gain / math.sqrt(fan_in))
            elif any(k in name for k in ("q_proj", "k_proj", "q_b_proj", "q_a_proj", "kv_a_proj")):
                normal(t, 1.5 / math.sqrt(t.shape[1]))
            else:
                normal(t, 1.2 / math.sqrt(max(t.shape[1], 1)))


def forward(model, tokens):
    with torch.no_grad():
        return model(torch.tensor([tokens]), use_cache=False).logits[0].float()


def sensitivity(model, tokens, base, gen):
    """How far logits move when every weight moves by one part in 1e5."""
    kept = {n: t.detach().clone() for n, t in model.state_dict().items()}
    worst, flips = 0.0, 0
    for _ in range(3):
        with torch.no_grad():
            for n, t in model.state_dict().items():
                if t.is_floating_point():
                    t.copy_(kept[n] * (1 + 1e-5 * torch.randn(t.shape, generator=gen)))
        moved = forward(model, tokens)
        worst = max(worst, ((moved - base).abs().max() / base.abs().max()).item())
        flips += int((moved.argmax(-1) != base.argmax(-1)).sum())
    model.load_state_dict(kept)
    return worst, flips


def append_mtp(folder, gen):
    """A multi-token-prediction layer after the last one, as published GLM and DeepSeek-V3 files have it.
    The plain forward pass never touches it."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    cfg = json.loads((folder / "config.json").read_text())
    n, h = cfg["num_hidden_layers"], cfg["hidden_size"]
    last, new = f"model.layers.{n - 1}.", f"model.layers.{n}."
    for name, t in list(tensors.items()):
        if name.startswith(last):
            tensors[new + name[len(last):]] = t.flip(0).contiguous()
    dtype = tensors["model.norm.weight"].dtype
    tensors[new + "eh_proj.weight"] = torch.randn(h, 2 * h, generator=gen).to(dtype)
    for part in ("enorm", "hnorm", "shared_head.norm"):
        tensors[new + part + ".weight"] = (0.5 + torch.rand(h, generator=gen)).to(dtype)
    save_file(tensors, path, metadata={"format": "pt"})
    assert cfg["num_nextn_predict_layers"] == 1


V4_DROP = {"rope_parameters", "dtype", "layer_types", "num_mtp_layers", "transformers_version"}


def v4_config(cfg, family):
    """The same model, as transformers 4 (and nearly every published checkpoint) writes it."""
    out = {k: v for k, v in cfg.items() if k not in V4_DROP}
    rope = dict(cfg.get("rope_parameters") or {})
    out["rope_theta"] = rope.pop("rope_theta", 10000.0)
    if "partial_rotary_factor" in rope:
        out["partial_rotary_factor"] = rope.pop("partial_rotary_factor")
    kind = rope.pop("rope_type", "default")
    if kind == "default":
        out["rope_scaling"] = None
    elif family.startswith("deepseek"):
        out["rope_scaling"] = {"type": kind, **rope}  # DeepSeek's files say "type"
    elif family == "qwen2":
        out["rope_scaling"] = {"type": kind, "rope_type": kind, **rope}
    else:
        out["rope_scaling"] = {"rope_type": kind, **rope}
    if family == "gpt_oss":
        out["layer_types"] = cfg["layer_types"]
        out["swiglu_limit"] = 7.0
        out["initial_context_length"] = rope["original_max_position_embeddings"]
        out["experts_per_token"] = out["num_experts_per_tok"]
    if family.startswith("deepseek"):
        out["num_nextn_predict_layers"] = 0
        out["moe_layer_freq"] = 1
        out["scoring_func"] = "sigmoid" if family == "deepseek_v3" else "softmax"
        if family == "deepseek_v3":
            out["topk_method"] = "noaux_tc"
            out["ep_size"] = 1
            for k in ("rope_interleave", "head_dim", "qk_head_dim"):
                out.pop(k, None)  # published V3 files do not have them; interleaved is the default
    if family in ("llama", "mixtral") and out.get("head_dim") in (None, out["hidden_size"] // out["num_attention_heads"]):
        out.pop("head_dim", None)
    if family == "llama" and out["num_key_value_heads"] == out["num_attention_heads"]:
        out.pop("num_key_value_heads")  # as files from before grouped queries leave it out
    for key in ("tie_word_embeddings", "attention_bias", "mlp_bias", "use_sliding_window"):
        if out.get(key) is False:  # the default in the families made here with it false
            out.pop(key)
    out["torch_dtype"] = cfg.get("dtype", "float32")
    out["transformers_version"] = "4.46.0"
    return out


# ---- MXFP4 (e2m1 codes, one e8m0 scale per 32) --------------------------------------------------------
FP4 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])


def mxfp4_pack(w):
    """[..., K] float -> blocks u8 [..., K/32, 16], scales u8 [..., K/32]. Low nibble is the even position."""
    b = w.reshape(*w.shape[:-1], -1, 32)
    amax = b.abs().amax(-1, keepdim=True).clamp_min(2.0 ** -100)
    exp = torch.floor(torch.log2(amax)) - 2
    x = b / torch.exp2(exp)
    code = (x.abs().unsqueeze(-1) - FP4).abs().argmin(-1).to(torch.uint8)
    code = code | ((x < 0).to(torch.uint8) << 3)
    blocks = code[..., 0::2] | (code[..., 1::2] << 4)
    return blocks.contiguous(), (exp.squeeze(-1) + 127).to(torch.uint8)


def write_mxfp4(folder):
    """Turn the BF16 experts that save_pretrained wrote into *_blocks and *_scales."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    out = {}
    for name, t in tensors.items():
        if name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            blocks, scales = mxfp4_pack(t.float().transpose(1, 2).contiguous())  # file order: [E, out, in]
            out[name + "_blocks"], out[name + "_scales"] = blocks, scales
        else:
            out[name] = t
    save_file(out, path, metadata={"format": "pt"})
    cfg = json.loads((folder / "config.json").read_text())
    cfg["quantization_config"] = {
        "quant_method": "mxfp4",
        "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens",
                                   "lm_head"]}
    (folder / "config.json").write_text(json.dumps(cfg, indent=2, sort_keys=True) + "\n")


def mxfp4_dense(tensors):
    """Dequantise with transformers' own function, back to the names and layout the model has in memory."""
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors
    out = {}
    for name, t in tensors.items():
        if name.endswith("_blocks"):
            stem = name[: -len("_blocks")]
            dense = convert_moe_packed_tensors(t, tensors[stem + "_scales"], dtype=torch.float32)
            out[stem] = dense.contiguous()
        elif not name.endswith("_scales"):
            out[name] = t.float()
    return out


# ---- block FP8 ----------------------------------------------------------------------------------------
def write_fp8(folder):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    out = {}
    for name, t in tensors.items():
        quantised = name.endswith("proj.weight") or name.endswith("kv_a_proj_with_mqa.weight")
        if not quantised:
            out[name] = t
            continue
        rows, cols = t.shape
        br, bc = -(-rows // 128), -(-cols // 128)
        padded = torch.zeros(br * 128, bc * 128)
        padded[:rows, :cols] = t.float()
        # Blocks of very different size, so that a scale applied to the wrong block shows.
        spread = torch.tensor([[2.0 ** ((i + 2 * j) % 3 - 1) for j in range(bc)] for i in range(br)])
        padded = padded.reshape(br, 128, bc, 128) * spread[:, None, :, None]
        scale = padded.abs().amax(dim=(1, 3)) / 448.0
        q = (padded / scale[:, None, :, None]).reshape(br * 128, bc * 128)[:rows, :cols]
        out[name] = q.to(torch.float8_e4m3fn).contiguous()
        out[name + "_scale_inv"] = scale.float().contiguous()
    save_file(out, path, metadata={"format": "pt"})
    cfg = json.loads((folder / "config.json").read_text())
    cfg["quantization_config"] = {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
                                  "weight_block_size": [128, 128]}
    (folder / "config.json").write_text(json.dumps(cfg, indent=2, sort_keys=True) + "\n")


def fp8_dense(tensors):
    out = {}
    for name, t in tensors.items():
        if name.endswith("_scale_inv"):
            continue
        if name + "_scale_inv" in tensors:
            s = tensors[name + "_scale_inv"].repeat_interleave(128, 0).repeat_interleave(128, 1)
            out[name] = t.float() * s[: t.shape[0], : t.shape[1]]
        else:
            out[name] = t.float()
    return out


def load_special(folder, dense):
    """Run the dequantised weights through transformers' ordinary loader: a float32 twin in a temporary folder."""
    with tempfile.TemporaryDirectory() as tmp:
        tmp = pathlib.Path(tmp)
        cfg = json.loads((folder / "config.json").read_text())
        cfg.pop("quantization_config")
        cfg["dtype"] = "float32"
        (tmp / "config.json").write_text(json.dumps(cfg))
        save_file({k: v.contiguous() for k, v in dense.items()}, tmp / "model.safetensors", metadata={"format": "pt"})
        return load(tmp)


def load(folder, config=None):
    kw = {"config": config} if config is not None else {}
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager",
        output_loading_info=True, **kw)
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info.get(key), f"{folder}: {key}: {info[key]}"
    return model.eval()


def make(case, attempt=0):
    name, family = case["name"], case["family"]
    seed = sum(ord(c) * (i + 1) for i, c in enumerate(name)) + 100003 * attempt
    gen = torch.Generator().manual_seed(seed)
    config = dict(case["config"])
    config.setdefault("max_position_embeddings", 256)
    config.update(bos_token_id=1, eos_token_id=2, pad_token_id=None)
    tied = config.get("tie_word_embeddings", False)
    model = build(family, config)
    randomise(model, gen, family, tied)

    dtype = DTYPES[case["dtype"]]
    model.to(dtype)
    if case.get("f32_bias"):
        for n, b in model.named_buffers():
            if n.endswith("e_score_correction_bias"):
                b.data = b.data.float()
    model.config.dtype = dtype

    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    model.save_pretrained(folder, max_shard_size=case.get("shard", "50GB"))

    if case.get("both_heads"):
        cfg = json.loads((folder / "config.json").read_text())
        cfg["tie_word_embeddings"] = True
        (folder / "config.json").write_text(json.dumps(cfg, indent=2, sort_keys=True) + "\n")
    special = case.get("special")
    if special == "mxfp4":
        write_mxfp4(folder)
        run = load_special(folder, mxfp4_dense(load_file(folder / "model.safetensors")))
    elif special == "fp8":
        write_fp8(folder)
        run = load_special(folder, fp8_dense(load_file(folder / "model.safetensors")))
    else:
        run = load(folder)

    count = case.get("tokens", 32)
    tokens = torch.randint(0, config["vocab_size"], (count,), generator=gen).tolist()
    tokens[3] = tokens[2]  # a repeat, as text has them
    logits = forward(run, tokens)
    assert torch.isfinite(logits).all()
    worst, flips = sensitivity(run, tokens, logits, gen)
    if worst > 5e-4 or flips:
        if attempt > 20:
            raise SystemExit(f"{name}: no stable seed (moves {worst:.1e}, {flips} flips)")
        return make(case, attempt + 1)

    np.save(folder / "logits.npy", logits.numpy().astype(np.float32))
    (folder / "tokens.json").write_text(json.dumps(tokens) + "\n")
    tolerance = "kl" if special == "mxfp4" else "float"
    (folder / "case.json").write_text(json.dumps(
        {"case": name, "family": family, "tolerance": tolerance, "note": case.get("note", "")}, indent=2) + "\n")

    if case.get("v4"):
        cfg = json.loads((folder / "config.json").read_text())
        v4 = v4_config(cfg, family)
        (folder / "config_v4.json").write_text(json.dumps(v4, indent=2, sort_keys=True) + "\n")
        kw = {k: v for k, v in v4.items() if k not in ("model_type", "architectures", "transformers_version")}
        again = forward(load(folder, AutoConfig.for_model(family, **kw)), tokens)
        assert torch.equal(again, logits), f"{name}: the v4 config describes another model"

    if case.get("mtp"):
        append_mtp(folder, gen)
    size = sum(f.stat().st_size for f in folder.iterdir())
    files = len(list(folder.glob("*.safetensors")))
    print(f"{name:24} {family:12} {case['dtype']:5} {count:3} tokens  max|logit| {logits.abs().max():6.2f}  "
          f"std {logits.std():5.2f}  distinct argmax {logits.argmax(-1).unique().numel():3}  "
          f"moves {worst:.0e}  try {attempt}  {files} file(s)  {size / 1024:6.0f} KiB", flush=True)


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--only", action="append", help="case or family name; may be repeated")
    ap.add_argument("--list", action="store_true")
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    chosen = [c for c in CASES if not args.only or c["name"] in args.only or c["family"] in args.only]
    if not chosen:
        sys.exit("no such case; --list shows them")
    for case in chosen:
        if args.list:
            print(f"{case['name']:24} {case['family']:12} {case.get('note', '')}")
        else:
            make(case)


if __name__ == "__main__":
    main()

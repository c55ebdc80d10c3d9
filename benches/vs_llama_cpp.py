#!/usr/bin/env python3
"""Prefill and decode side by side with llama.cpp, on the same file, tokens and number of threads.

    pip install llama-cpp-python numpy
    cargo build --release
    python benches/vs_llama_cpp.py MODEL.gguf [--prompt 128] [--decode 32] [--rounds 3] [--threads 1]

Rounds alternate, so that a machine whose speed drifts drifts for both; medians are printed. The
file is read once before anything is timed. llama.cpp runs as it comes: mmap, flash attention and
weight repacking at their defaults.
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import time

import llama_cpp

HERE = pathlib.Path(__file__).resolve().parent.parent


def ours(binary, model, text, decode):
    command = [binary, "run", model, text, "--raw", "--json", "-n", str(decode), "-t", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    said = json.loads(done.stdout)
    return said["prefill_tokens_per_second"], said["decode_tokens_per_second"]


def theirs(engine, tokens, decode):
    engine.reset()
    start = time.perf_counter()
    engine.eval(tokens)
    token = engine.sample(temp=0.0)
    first = time.perf_counter()
    for _ in range(decode - 1):
        engine.eval([token])
        token = engine.sample(temp=0.0)
    end = time.perf_counter()
    return len(tokens) / (first - start), (decode - 1) / (end - first)


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("model")
    options.add_argument("--prompt", type=int, default=128, help="words of the prompt, about a token each")
    options.add_argument("--decode", type=int, default=32)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--penstock", default=str(HERE / "target/release/penstock"))
    args = options.parse_args()

    text = " ".join(f"a{i % 10}" for i in range(args.prompt // 2))
    ids = subprocess.run([args.penstock, "tokenize", args.model, text, "--ids"],
                         capture_output=True, text=True, check=True).stdout
    tokens = [int(n) for n in ids.split(",")]
    context = len(tokens) + args.decode + 8
    engine = llama_cpp.Llama(args.model, n_ctx=context, n_threads=args.threads, n_batch=512,
                             n_threads_batch=args.threads, verbose=False)
    theirs(engine, tokens, 4)
    ours(args.penstock, args.model, text, 4)
    rows = []
    for _ in range(args.rounds):
        rows.append((ours(args.penstock, args.model, text, args.decode), theirs(engine, tokens, args.decode)))
    print(f"{pathlib.Path(args.model).name}: {len(tokens)} tokens of prompt, {args.decode} of answer, "
          f"llama.cpp with {args.threads} thread(s)")
    for i, what in enumerate(["prefill", "decode"]):
        mine = statistics.median(row[0][i] for row in rows)
        other = statistics.median(row[1][i] for row in rows)
        ratio = statistics.median(row[0][i] / row[1][i] for row in rows)
        print(f"  {what:8} {mine:8.1f} tok/s, llama.cpp {other:8.1f}, ratio {ratio:.2f}")


main()

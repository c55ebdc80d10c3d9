#!/usr/bin/env python3
"""Prefill and decode side by side with llama.cpp, on the same file and number of threads.

    pip install llama-cpp-python
    cargo build --release
    python benches/vs_llama_cpp.py MODEL.gguf [--prefill 512] [--batch 1,8,32] [--threads 2] [--rounds 3]

Each program is started anew and alone for every round, loads the model, warms up and is measured;
rounds alternate, so that a machine whose speed drifts drifts for both. Medians are printed. The
prompt's tokens are arbitrary and the same in number; decoding starts behind 32 positions, each
session with other tokens, for 32 steps. llama.cpp runs as it comes (mmap, flash attention at its
default, an F16 cache), once with and once without weight repacking: its better number counts.
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent.parent
DEPTH, STEPS = 32, 32


def ours(args):
    command = [args.penstock, "bench", args.model, "--cores", str(args.threads), "--json",
               "--prefill", args.prefill, "--batch", args.batch, "--context", str(DEPTH),
               "--decode", str(STEPS), "--rounds", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    said = json.loads(done.stdout)
    found = {}
    for run in said["measured"][0]["runs"]:
        what = run["what"]
        name = (f"prefill {what['prefill']['prompt']}" if "prefill" in what
                else f"decode, {what['decode']['batch']} at once")
        found[name] = (run["tokens_per_second"], run["bytes_per_second"], run["operations_per_second"])
    found["roof"] = (said["limits"]["memory"]["reads"][-1]["bytes_per_second"], 0, 0)
    return found


def theirs(args, repack):
    command = [sys.executable, __file__, args.model, "--worker", "--threads", str(args.threads),
               "--prefill", args.prefill, "--batch", args.batch] + ["--repack"] * repack
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def worker(args):
    """llama.cpp alone, by its C interface."""
    import ctypes
    import llama_cpp as lc
    quiet = lc.llama_log_callback(lambda *_: None)  # kept, for llama.cpp calls it until the end
    lc.llama_log_set(quiet, ctypes.c_void_p(0))
    lc.llama_backend_init()
    params = lc.llama_model_default_params()
    params.n_gpu_layers = 0
    if hasattr(params, "use_extra_bufts"):
        params.use_extra_bufts = args.repack
    model = lc.llama_model_load_from_file(args.model.encode(), params)
    vocab = lc.llama_vocab_n_tokens(lc.llama_model_get_vocab(model))

    def measure(sessions, prompt, steps):
        params = lc.llama_context_default_params()
        params.n_ctx = sessions * (prompt + steps + 32)
        params.n_batch = params.n_ubatch = 512
        params.n_seq_max = sessions
        params.n_threads = params.n_threads_batch = args.threads
        if hasattr(params, "kv_unified"):
            params.kv_unified = True
        context = lc.llama_init_from_model(model, params)
        batch = lc.llama_batch_init(512, 0, 1)

        def feed(rows):
            batch.n_tokens = len(rows)
            for i, (token, position, session, wanted) in enumerate(rows):
                batch.token[i], batch.pos[i] = token, position
                batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = 1, session, wanted
            if lc.llama_decode(context, batch):
                raise SystemExit("llama_decode failed")
            lc.llama_synchronize(context)

        token = lambda i, seed: (i * 7919 + seed * 104729) % vocab
        start = time.perf_counter()
        for session in range(sessions):
            rows = [(token(i, session), i, session, i + 1 == prompt) for i in range(prompt)]
            for at in range(0, prompt, 512):
                feed(rows[at:at + 512])
        between = time.perf_counter()
        for step in range(steps):
            feed([(token(step, session + 77), prompt + step, session, True) for session in range(sessions)])
        end = time.perf_counter()
        lc.llama_batch_free(batch)
        lc.llama_free(context)
        return sessions * prompt / (between - start), sessions * steps / max(end - between, 1e-9)

    measure(1, 64, 4)
    measure(1, 512, 0)
    found = {f"prefill {n}": measure(1, int(n), 0)[0] for n in args.prefill.split(",")}
    for n in args.batch.split(","):
        found[f"decode, {n} at once"] = measure(int(n), DEPTH, STEPS)[1]
    print(json.dumps(found))


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("model")
    options.add_argument("--prefill", default="512")
    options.add_argument("--batch", default="1,8,32")
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--penstock", default=str(HERE / "target/release/penstock"))
    options.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options.add_argument("--repack", action="store_true", help=argparse.SUPPRESS)
    args = options.parse_args()
    if args.worker:
        return worker(args)
    mine, plain, repacked = [], [], []
    for _ in range(args.rounds):
        mine.append(ours(args))
        plain.append(theirs(args, False))
        repacked.append(theirs(args, True))
    print(f"{pathlib.Path(args.model).name}, {args.threads} threads each, medians of {args.rounds}; "
          f"memory read {statistics.median(m['roof'][0] for m in mine) / 1e9:.1f} GB/s")
    for what in plain[0]:
        middle = lambda values: statistics.median(values)
        speed, moved, done = (middle([m[what][i] for m in mine]) for i in range(3))
        without, with_ = middle([t[what] for t in plain]), middle([t[what] for t in repacked])
        best = max(without, with_)
        print(f"  {what:20} {speed:8.1f} tok/s ({moved / 1e9:5.1f} GB/s, {done / 1e9:5.0f} Gop/s)   "
              f"llama.cpp {best:8.1f} (plain {without:.1f}, repacked {with_:.1f})   ratio {speed / best:.2f}")


main()

#!/usr/bin/env python3
"""Time to the first token from a cold page cache, and what was read for it.

    cargo build --release
    target/release/penstock synth --shape olmoe-1b-7b --quant q4_k --layers 4 /tmp/moe.gguf
    sudo python3 benches/first_token.py /tmp/moe.gguf [--rounds 5] [--penstock OTHER_BINARY]

Needs root, to drop the page cache. Counted is what the process made the block device read.
"""
import argparse
import os
import pathlib
import resource
import statistics
import subprocess
import time

HERE = pathlib.Path(__file__).resolve().parent.parent


def read_bytes():
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_inblock * 512


def cold(command):
    os.sync()
    pathlib.Path("/proc/sys/vm/drop_caches").write_text("3")
    before, start = read_bytes(), time.perf_counter()
    subprocess.run(command, capture_output=True, check=True)
    return time.perf_counter() - start, read_bytes() - before


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("model")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--penstock", default=str(HERE / "target/release/penstock"))
    args = options.parse_args()
    size = os.stat(args.model).st_size
    for name, command in [
        ("inspect", [args.penstock, "inspect", args.model]),
        ("first token", [args.penstock, "run", args.model, "Hello", "--raw", "-n", "1"]),
    ]:
        runs = [cold(command) for _ in range(args.rounds)]
        seconds, read = (statistics.median(run[i] for run in runs) for i in (0, 1))
        print(f"{name:12} {seconds:.3f} s, {read / 1e6:.0f} MB read of {size / 1e6:.0f}")


main()

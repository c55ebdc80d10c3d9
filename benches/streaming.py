#!/usr/bin/env python3
"""A model larger than its memory, side by side with llama.cpp, each alone in a memory cgroup.

    pip install llama-cpp-python
    cargo build --release
    sudo python benches/streaming.py MODEL.gguf [--budgets 8,4] [--rows decode1,prefill512]
                                     [--programs llama,penstock] [--read-ahead tuned,found]

Before each run the page cache is dropped and the disk's bandwidth measured (direct reads). llama.cpp
maps its file; it runs with `read_ahead_kb` of the disk at 128 (tuned) and as found, which is put
back at the end. Its weights are not repacked, for that would be a copy in memory. Decoding starts
behind a prompt of 32 tokens, which fills what cache there is; a row ends after --tokens steps or
--seconds. "% of ideal" is the time that the bytes read (of penstock: the experts that were needed
and not in memory) would take at the disk's bandwidth, beside the time it took. "Hits" are the part of
the experts' bytes that was in memory already; what came by a forecast is no hit. Peak memory is the cgroup's, page cache included: llama.cpp fills its budget
with that, by design.
"""
import argparse
import contextlib
import json
import mmap
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent.parent
ROWS = ["decode1", "decode8", "decode32", "prefill512", "prefill2048", "first"]
PROMPT = 32
GIB = 1 << 30


class Cgroup:
    """A memory cgroup, of the first version or the second, that is gone afterwards."""

    def __init__(self, budget):
        name, v1 = f"penstock-bench-{os.getpid()}", pathlib.Path("/sys/fs/cgroup/memory")
        if (v1 / "memory.limit_in_bytes").exists():
            self.folder, self.peak_file = v1 / name, "memory.max_usage_in_bytes"
            settings = {"memory.limit_in_bytes": budget, "memory.swappiness": 0}
        else:
            root = pathlib.Path("/sys/fs/cgroup")
            if "memory" not in (root / "cgroup.subtree_control").read_text().split():
                (root / "cgroup.subtree_control").write_text("+memory")
            self.folder, self.peak_file = root / name, "memory.peak"
            settings = {"memory.max": budget, "memory.swap.max": 0}
        self.folder.mkdir()
        for file, value in settings.items():
            with contextlib.suppress(FileNotFoundError, PermissionError, OSError):
                (self.folder / file).write_text(str(value))

    def enter(self):
        (self.folder / "cgroup.procs").write_text(str(os.getpid()))

    def peak(self):
        try:
            return int((self.folder / self.peak_file).read_text())
        except (OSError, ValueError):
            return None

    def stat(self):
        """What of it is no page cache, now."""
        try:
            lines = dict(l.split() for l in (self.folder / "memory.stat").read_text().splitlines())
            return int(lines.get("total_rss", lines.get("anon", 0)))
        except (OSError, ValueError):
            return 0

    def remove(self):
        for _ in range(100):
            with contextlib.suppress(OSError):
                self.folder.rmdir()
                return
            time.sleep(0.05)


def read_ahead_file(path):
    """The switch of the disk that holds a file, None where there is none."""
    device = os.stat(path).st_dev
    at = pathlib.Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve()
    for folder in (at, at.parent):
        if (folder / "queue/read_ahead_kb").exists():
            return folder / "queue/read_ahead_kb"
    return None


def drop_caches():
    os.sync()
    pathlib.Path("/proc/sys/vm/drop_caches").write_text("3")


def disk_bandwidth(path, seconds=1.0, threads=4, size=1 << 20):
    """Bytes per second of direct reads of large pieces, a few at once, all over the file."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECT)
    pieces, end, done = os.fstat(handle).st_size // size, time.monotonic() + seconds, [0] * threads
    begin = time.monotonic()

    def read(thread):
        buffer, at = mmap.mmap(-1, size), thread * pieces // threads
        while time.monotonic() < end and pieces:
            done[thread] += os.preadv(handle, [buffer], at % pieces * size)
            at += 1

    crew = [threading.Thread(target=read, args=(i,)) for i in range(threads)]
    [thread.start() for thread in crew]
    [thread.join() for thread in crew]
    os.close(handle)
    return sum(done) / (time.monotonic() - begin)


def alone(command, budget, limit):
    """Runs a command in a cgroup of its own: what it printed, its peak, what it read, how it ended."""
    group, process = Cgroup(budget), None
    read, anonymous = 0, 0
    try:
        begin = time.monotonic()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                   preexec_fn=group.enter)
        said = [[], []]
        ears = [threading.Thread(target=lambda stream, lines: lines.extend(stream), args=pair)
                for pair in ((process.stdout, said[0]), (process.stderr, said[1]))]
        [ear.start() for ear in ears]
        ended = "ended"
        while process.poll() is None:
            with contextlib.suppress(OSError):
                io = pathlib.Path(f"/proc/{process.pid}/io").read_text()
                read = max(read, int(io.split("\nread_bytes:")[1].split()[0]))
            anonymous = max(anonymous, group.stat())
            if time.monotonic() - begin > limit:
                process.kill()
                ended = f"stopped after {limit} s"
            time.sleep(0.1)
        [ear.join() for ear in ears]
        if process.returncode == -signal.SIGKILL and ended == "ended":
            ended = "killed (memory)"
        elif process.returncode not in (0, -signal.SIGKILL):
            ended = f"failed: {''.join(said[1]).strip()[-200:]}"
        return {"out": said[0], "err": said[1], "peak": group.peak(), "anonymous": anonymous,
                "read": read, "seconds": time.monotonic() - begin, "ended": ended}
    finally:
        if process:
            process.kill()
            process.wait()
        group.remove()


def work(row):
    """(sessions, prompt tokens to measure)"""
    if row.startswith("decode"):
        return int(row[6:]), 0
    return 1, int(row[7:]) if row.startswith("prefill") else 1


def theirs(args, row, budget):
    command = [args.python, __file__, args.model, "--worker", "--rows", row, "--threads", str(args.threads),
               "--tokens", str(args.tokens), "--seconds", str(args.seconds)]
    ran = alone(command, budget, args.limit)
    found = {}
    for line in ran["out"]:
        with contextlib.suppress(ValueError):
            found.update(json.loads(line))
    return {"tokens_per_second": found.get("tokens_per_second"), "bytes": found.get("bytes"),
            "tokens": found.get("tokens"), "seconds": found.get("seconds"), **ran}


def ours(args, row, budget):
    sessions, prompt = work(row)
    size = ["--memory", f"{budget >> 20}MiB"]
    if row == "first":
        ran = alone([args.penstock, "run", args.model, "a", "-n", "1", *size, "--cores", str(args.threads),
                     *args.ours], budget, args.limit)
        seconds = ran["seconds"] if ran["ended"] == "ended" else None
        return {**ran, "seconds": seconds, "tokens": 1, "bytes": ran["read"],
                "tokens_per_second": seconds and 1 / seconds}
    command = [args.penstock, "bench", args.model, "--json", "--rounds", "1", "--cores", str(args.threads),
               "--batch", str(sessions), "--context", str(PROMPT),
               "--decode", str(args.tokens if row.startswith("decode") else 1),
               "--prefill", str(prompt or 16), *size, *args.ours]
    ran = alone(command, budget, args.limit)
    try:
        said = json.loads("".join(ran["out"]))
        wanted = "decode" if row.startswith("decode") else "prefill"
        run = next(r for r in said["measured"][0]["runs"] if wanted in r["what"])
    except (ValueError, KeyError, IndexError, StopIteration):
        return {**ran, "tokens_per_second": None}
    speed, seconds, experts = run["tokens_per_second"], run["seconds"], run.get("experts") or {}
    held = experts and experts["hit_rate"] - experts["forecast_rate"]
    return {**ran, "tokens_per_second": speed, "tokens": round(speed * seconds), "seconds": seconds,
            "bytes": experts.get("missed"), "hit_rate": held or None,
            "waited": experts and experts["waited"] * seconds,
            "bandwidth": (said.get("streams") or {}).get("disk")}


def worker(args):
    """llama.cpp, by its C interface: a line after every step, so that what was done by the time it
    is stopped is known."""
    import ctypes
    import llama_cpp as lc
    quiet = lc.llama_log_callback(lambda *_: None)  # kept, for llama.cpp calls it until the end
    lc.llama_log_set(quiet, ctypes.c_void_p(0))
    row = args.rows
    sessions, prompt = work(row)
    begin = time.perf_counter()
    lc.llama_backend_init()
    params = lc.llama_model_default_params()
    params.n_gpu_layers, params.use_mmap = 0, True
    if hasattr(params, "use_extra_bufts"):
        params.use_extra_bufts = False
    model = lc.llama_model_load_from_file(args.model.encode(), params)
    vocab = lc.llama_vocab_n_tokens(lc.llama_model_get_vocab(model))
    params = lc.llama_context_default_params()
    params.n_ctx = sessions * (max(prompt, PROMPT) + args.tokens + 32)
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
    read = lambda: int(open("/proc/self/io").read().split("\nread_bytes:")[1].split()[0])

    def say(tokens, since, before):
        seconds = time.perf_counter() - since
        print(json.dumps({"tokens": tokens, "seconds": seconds, "bytes": read() - before,
                          "tokens_per_second": tokens / seconds}), flush=True)

    if not row.startswith("decode"):
        start, before = (begin, 0) if row == "first" else (time.perf_counter(), read())
        rows = [(token(i, 0), i, 0, i + 1 == prompt) for i in range(prompt)]
        for at in range(0, prompt, 512):
            feed(rows[at:at + 512])
            say(min(at + 512, prompt), start, before)
        return
    for session in range(sessions):
        count = max(PROMPT // sessions, 1)
        feed([(token(i, session), i, session, i + 1 == count) for i in range(count)])
    start, before = time.perf_counter(), read()
    for step in range(args.tokens):
        feed([(token(step, session + 77), count + step, session, True) for session in range(sessions)])
        say((step + 1) * sessions, start, before)
        if time.perf_counter() - start > args.seconds:
            break


def line(row, budget, name, found, disk, base):
    speed, seconds, moved = (found.get(key) for key in ("tokens_per_second", "seconds", "bytes"))
    disk = found.get("bandwidth") or disk
    number = lambda value, form, unit="": "-" if value is None else f"{value:{form}}{unit}"
    rate = moved / seconds if moved and seconds else None
    peak = found.get("peak")
    verdict = "-" if peak is None else f"{peak / GIB:.2f} GiB{'' if peak <= budget else ' OVER'}"
    ratio = " / ".join(number(speed / other if speed and other else None, ".2f") for other in base)
    if row == "first":
        shown = number(seconds, ".2f", " s")
    else:
        shown = number(speed, ".2f", " tok/s")
    cells = [row, f"{budget / GIB:g} GiB", name, shown, ratio, number(rate and rate / 1e9, ".2f"),
             f"{disk / 1e9:.2f}", number(rate and 100 * rate / disk, ".0f", "%"),
             number(found.get("hit_rate") and 100 * found["hit_rate"], ".1f", "%"),
             number(found.get("waited"), ".2f", " s"), verdict,
             f"{found.get('anonymous', 0) / GIB:.2f}",
             found["ended"] + (f", {found['tokens']} tokens" if found.get("tokens") else "")]
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("model")
    options.add_argument("--budgets", default="8,4", help="GiB each")
    options.add_argument("--rows", default="decode1,prefill512", help=",".join(ROWS))
    options.add_argument("--programs", default="llama,penstock")
    options.add_argument("--read-ahead", default="tuned,found", help="for llama.cpp: tuned (128 KiB), found")
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--tokens", type=int, default=32, help="steps of a decode row")
    options.add_argument("--seconds", type=float, default=60, help="after which llama.cpp begins no step")
    options.add_argument("--limit", type=float, default=300, help="seconds after which a run is stopped")
    options.add_argument("--penstock", default=str(HERE / "target/release/penstock"))
    options.add_argument("--python", default=sys.executable, help="one that has llama_cpp")
    options.add_argument("--ours", nargs=argparse.REMAINDER, default=[], help="further options, last")
    options.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = options.parse_args()
    if args.worker:
        return worker(args)
    if os.geteuid():
        raise SystemExit("cgroups and page caches are root's: run this with sudo")
    switch = read_ahead_file(args.model)
    as_found = switch.read_text().strip() if switch else None
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    programs = args.programs.split(",")
    print(f"{pathlib.Path(args.model).name}, {args.threads} threads, read_ahead_kb as found {as_found}\n")
    heads = ["work", "budget", "program", "speed", "ratio to llama.cpp (tuned / found)", "GB/s read",
             "disk GB/s", "% of ideal", "hits", "waited for disk", "peak", "no cache, GiB", "end"]
    print("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads), flush=True)
    try:
        for row in args.rows.split(","):
            for budget in (int(float(b) * GIB) for b in args.budgets.split(",")):
                base = {"tuned": None, "found": None}
                for how in (h for h in args.read_ahead.split(",") if "llama" in programs):
                    if switch:
                        switch.write_text("128" if how == "tuned" else as_found)
                    drop_caches()
                    disk = disk_bandwidth(args.model)
                    found = theirs(args, row, budget)
                    base[how] = found.get("tokens_per_second")
                    line(row, budget, f"llama.cpp, {how}", found, disk, [])
                if switch:
                    switch.write_text(as_found)
                if "penstock" in programs:
                    drop_caches()
                    disk = disk_bandwidth(args.model)
                    found = ours(args, row, budget)
                    line(row, budget, "penstock", found, disk, [base["tuned"], base["found"]])
    finally:
        if switch:
            switch.write_text(as_found)


main()

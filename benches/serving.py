#!/usr/bin/env python3
"""The server from outside: many at once, arrivals at random, a long prompt, a flood.

    cargo build --release
    python benches/serving.py MODEL.gguf [--serve "--memory 8GiB"] [WHAT ...]

WHAT is any of these, all of them without one:

    together   3 and 10 (and more) requests at once against one after another; with --llama the same
               by llama.cpp's batches, with as many slots (pip install llama-cpp-python)
    load       requests that come at random, at 30, 60 and 90 % of what the server can do
    stall      the longest that decoders wait while a prompt of 4,000 tokens comes in
    fair       a request of high priority in a flood of low ones, and alone
    cores      the same crowd on one core and on all
    overhead   what a client waits beyond its own prompt's and answer's steps, with nobody else there
    guess      an answer that repeats itself, which guesses make shorter, against one that does not

A server is started for each part; clients speak HTTP over its Unix socket from this process, which
takes some per cent of the same cores. Prompts are of tokens drawn at random, so that no two begin
alike, and answers are as long as was asked. Times are as a client sees them.
"""
import argparse
import asyncio
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent.parent


class Server:
    def __init__(self, args, *more):
        self.folder = tempfile.TemporaryDirectory()
        self.socket = os.path.join(self.folder.name, "socket")
        command = [args.penstock, "serve", args.model, "--socket", self.socket,
                   *args.serve.split(), *more]
        self.log = open(os.path.join(self.folder.name, "log"), "w+")
        self.child = subprocess.Popen(command, stderr=self.log)

    async def __aenter__(self):
        while True:
            if self.child.poll() is not None:
                self.log.seek(0)
                sys.exit(self.log.read())
            try:
                if (await call(self.socket, "GET", "/health/ready"))[0] == 200:
                    break
            except OSError:
                pass
            await asyncio.sleep(0.1)
        # What is touched for the first time is brought into memory.
        await asyncio.gather(*(answer(self.socket, 64, 8) for _ in range(4)))
        return self

    async def __aexit__(self, *_):
        self.child.terminate()
        await asyncio.to_thread(self.child.wait)

    async def metric(self, name):
        text = (await call(self.socket, "GET", "/metrics"))[1].decode()
        lines = [line for line in text.splitlines() if line.startswith(name) and line[len(name)] in " {"]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


async def call(socket, method, path, body=b""):
    reader, writer = await asyncio.open_unix_connection(socket)
    writer.write(f"{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n"
                 f"content-length: {len(body)}\r\n\r\n".encode() + body)
    said = await reader.read()
    writer.close()
    head, _, body = said.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


class Seen:
    """One answer, as its client saw it."""

    def __init__(self, status, began, tokens, end=None):
        self.status, self.began, self.tokens, self.end = status, began, tokens, end

    first = property(lambda self: self.tokens[0] - self.began)
    whole = property(lambda self: self.tokens[-1] - self.began)
    gaps = property(lambda self: [b - a for a, b in zip(self.tokens, self.tokens[1:])])


VOCABULARY = 1000


async def answer(socket, prompt, tokens, priority="medium", stop=None, **more):
    ids = [random.randrange(10, VOCABULARY) for _ in range(prompt)]
    body = json.dumps({"prompt": ids, "raw": True, "max_tokens": tokens, "ignore_eos": True,
                       "temperature": 0, **more}).encode()
    reader, writer = await asyncio.open_unix_connection(socket, limit=1 << 20)
    began = time.perf_counter()
    writer.write(b"POST /execute HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
                 b"x-request-priority: %s\r\ncontent-length: %d\r\n\r\n" % (priority.encode(), len(body)) + body)
    status = int((await reader.readline()).split()[1])
    while (await reader.readline()).strip():
        pass
    seen = []
    while status == 200:
        size = int(await reader.readline(), 16)
        chunk = await reader.readexactly(size + 2)
        now = time.perf_counter()
        if not size:
            break
        seen += [now] * chunk.count(b"event: token")
        if stop and stop.is_set():
            break
    writer.close()
    return Seen(status, began, seen[:tokens])


def at(values, part):
    values = sorted(values)
    return values[min(int(len(values) * part), len(values) - 1)] if values else float("nan")


def spread(values, scale=1e3):
    return " / ".join(f"{at(values, part) * scale:.0f}" for part in (0.5, 0.95, 0.99))


async def timed(jobs):
    began = time.perf_counter()
    seen = await jobs
    return seen, time.perf_counter() - began


async def together(args):
    sizes = [int(n) for n in args.sizes.split(",")]
    print(f"together: prompts of {args.prompt}, answers of {args.tokens} tokens")
    async with Server(args, "--parallel", str(max(sizes))) as server:
        async def one_by_one(n):
            return [await answer(server.socket, args.prompt, args.tokens) for _ in range(n)]
        for n in sizes:
            rates, alone, crowd = [], [], []
            for _ in range(args.rounds):
                serial, slow = await timed(one_by_one(min(n, 3)))
                slow *= n / min(n, 3)
                many, fast = await timed(asyncio.gather(
                    *(answer(server.socket, args.prompt, args.tokens) for _ in range(n))))
                assert all(seen.status == 200 and len(seen.tokens) == args.tokens for seen in serial + many)
                rates.append((n * args.tokens / slow, n * args.tokens / fast))
                alone += [seen.whole for seen in serial]
                crowd += [seen.whole for seen in many]
            rates.sort(key=lambda rate: rate[1] / rate[0])
            serial, many = rates[len(rates) // 2]
            print(f"  {n:3} at once {many:8.1f} tok/s, one by one {serial:8.1f}: {many / serial:5.2f} x;  "
                  f"one answer {at(alone, .5):.2f} s alone, {at(crowd, .5):.2f} s in the crowd")
    if args.llama:
        command = [args.python, __file__, args.model, "--worker", "--sizes", args.sizes,
                   "--prompt", str(args.prompt), "--tokens", str(args.tokens)]
        for n, (serial, many) in json.loads(subprocess.check_output(command)).items():
            print(f"  llama.cpp {n:>3} at once {many:8.1f} tok/s, one by one {serial:8.1f}: {many / serial:5.2f} x")


async def overhead(args):
    async with Server(args) as server:
        beyond, queued = [], []
        for _ in range(args.rounds * 8):
            prompt = [random.randrange(10, VOCABULARY) for _ in range(args.prompt)]
            body = json.dumps({"prompt": prompt, "max_tokens": 8, "ignore_eos": True, "temperature": 0}).encode()
            (status, said), took = await timed(call(server.socket, "POST", "/v1/completions", body))
            assert status == 200, said
            own = json.loads(said)["penstock"]
            beyond.append(took - (own["prefill_ms"] + own["decode_ms"]) / 1e3)
            queued.append(own["queue_ms"] / 1e3)
        print(f"overhead: {at(beyond, .5) * 1e3:.2f} ms at the median, {max(beyond) * 1e3:.2f} at most; of it "
              f"in the queue {at(queued, .5) * 1e3:.2f} and {max(queued) * 1e3:.2f} ms; {len(beyond)} requests")


async def guess(args):
    kinds = {"any text": {}, "of two tokens": {"logit_bias": {"300": 100, "301": 100}}}
    async with Server(args) as server:
        async def counted():
            return [await server.metric(f"penstock_{name}_tokens_total") for name in ("drafted", "accepted")]
        for name, more in kinds.items():
            took, before = [], await counted()
            for _ in range(args.rounds):
                one = await answer(server.socket, args.prompt, args.tokens, **more)
                assert one.status == 200, f"refused: {one.status}"
                took.append(one.tokens[-1] - one.tokens[0])
            drafted, accepted = (after - b for after, b in zip(await counted(), before))
            rate = (args.tokens - 1) / at(took, .5)
            print(f"guess: {name}: {rate:.1f} tok/s; of {args.tokens * args.rounds} tokens {accepted:.0f} were "
                  f"guessed right, of {drafted:.0f} guesses")


async def load(args):
    async with Server(args, "--parallel", str(args.parallel)) as server:
        crowd = [answer(server.socket, args.prompt, args.tokens) for _ in range(2 * args.parallel)]
        _, took = await timed(asyncio.gather(*crowd))
        capacity = len(crowd) / took
        print(f"load: prompts of {args.prompt}, answers of {args.tokens} tokens, --parallel {args.parallel}; "
              f"capacity {capacity:.2f} requests/s, {capacity * args.tokens:.0f} tok/s")
        for part in (0.3, 0.6, 0.9):
            jobs, until = [], time.perf_counter() + args.seconds
            while time.perf_counter() < until:
                jobs.append(asyncio.create_task(answer(server.socket, args.prompt, args.tokens)))
                await asyncio.sleep(random.expovariate(part * capacity))
            seen = await asyncio.gather(*jobs)
            good = [one for one in seen if one.status == 200]
            gaps = [gap for one in good for gap in one.gaps]
            print(f"  {part * 100:.0f} %: {len(good)} of {len(seen)} answered; first token p50/p95/p99 "
                  f"{spread([one.first for one in good])} ms; between tokens {spread(gaps)} ms")


async def stall(args):
    for bound in args.stalls.split(","):
        async with Server(args, "--stall", bound, "--context", "12000") as server:
            stop = asyncio.Event()
            jobs = [asyncio.create_task(answer(server.socket, 32, 4000, stop=stop)) for _ in range(3)]
            await asyncio.sleep(args.seconds / 4)
            began = time.perf_counter()
            long = await answer(server.socket, 4000, 2)
            ended = time.perf_counter()
            await asyncio.sleep(1)
            stop.set()
            seen = await asyncio.gather(*jobs)
            pairs = [(b, b - a) for one in seen for a, b in zip(one.tokens, one.tokens[1:])]
            inside = [gap for when, gap in pairs if began < when < ended]
            before = [gap for when, gap in pairs if when < began]
            print(f"stall: --stall {bound}: 3 decoders, gaps p50/p95/p99 {spread(before)} ms before, "
                  f"{spread(inside)} ms and at most {max(inside) * 1e3:.0f} ms while 4,000 tokens came in "
                  f"({long.first:.1f} s to their first token)")


async def fair(args):
    async with Server(args, "--parallel", "8", "--queue", "512") as server:
        ask = lambda priority: answer(server.socket, args.prompt, args.tokens, priority)
        alone = [await ask("high") for _ in range(args.high)]
        flood = [asyncio.create_task(ask("low")) for _ in range(100)]
        await asyncio.sleep(0.5)
        high = []
        for _ in range(args.high):
            high.append(await ask("high"))
            await asyncio.sleep(0.05)
        low = await asyncio.gather(*flood)
        lost = sum(one.status != 200 or len(one.tokens) != args.tokens for one in low)
        print(f"fair: high alone: first token p50/p95/p99 {spread([one.first for one in alone])} ms, whole "
              f"{spread([one.whole for one in alone])} ms; among 100 low: first token "
              f"{spread([one.first for one in high])} ms, whole {spread([one.whole for one in high])} ms; "
              f"low: {lost} lost, whole {spread([one.whole for one in low])} ms")


async def cores(args):
    rates = []
    for count in (1, os.cpu_count()):
        async with Server(args, "--parallel", "8", "--cores", str(count)) as server:
            n = 16
            best = 0
            for _ in range(args.rounds):
                crowd = (answer(server.socket, args.prompt, args.tokens) for _ in range(n))
                _, took = await timed(asyncio.gather(*crowd))
                best = max(best, n * args.tokens / took)
            rates.append(best)
            print(f"cores: {count}: {best:.1f} tok/s of 8 at once")
    print(f"cores: {rates[1] / rates[0]:.2f} x")


def worker(args):
    """llama.cpp by its C interface: as many sequences in one batch as there are requests."""
    import ctypes
    import llama_cpp as lc
    quiet = lc.llama_log_callback(lambda *_: None)
    lc.llama_log_set(quiet, ctypes.c_void_p(0))
    lc.llama_backend_init()
    params = lc.llama_model_default_params()
    params.n_gpu_layers = 0
    if hasattr(params, "use_extra_bufts"):
        params.use_extra_bufts = False
    model = lc.llama_model_load_from_file(args.model.encode(), params)

    def run(sessions):
        params = lc.llama_context_default_params()
        params.n_ctx = sessions * (args.prompt + args.tokens + 32)
        params.n_batch = params.n_ubatch = 512
        params.n_seq_max = sessions
        params.n_threads = params.n_threads_batch = os.cpu_count()
        if hasattr(params, "kv_unified"):
            params.kv_unified = True
        context = lc.llama_init_from_model(model, params)
        batch = lc.llama_batch_init(512, 0, 1)

        def feed(rows):
            for start in range(0, len(rows), 512):
                some = rows[start:start + 512]
                batch.n_tokens = len(some)
                for i, (token, position, session, wanted) in enumerate(some):
                    batch.token[i], batch.pos[i] = token, position
                    batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = 1, session, wanted
                if lc.llama_decode(context, batch):
                    raise SystemExit("llama_decode failed")
                lc.llama_synchronize(context)

        token = lambda: random.randrange(10, VOCABULARY)
        start = time.perf_counter()
        feed([(token(), i, session, i + 1 == args.prompt)
              for session in range(sessions) for i in range(args.prompt)])
        for step in range(args.tokens - 1):
            feed([(token(), args.prompt + step, session, True) for session in range(sessions)])
        took = time.perf_counter() - start
        lc.llama_batch_free(batch)
        lc.llama_free(context)
        return sessions * args.tokens / took

    run(1)
    serial = run(1)
    print(json.dumps({n: (serial, run(n)) for n in map(int, args.sizes.split(","))}))


def main():
    parts = {"together": together, "load": load, "stall": stall, "fair": fair, "cores": cores, "overhead": overhead, "guess": guess}
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("model")
    options.add_argument("what", nargs="*", metavar="WHAT")
    options.add_argument("--serve", default="", help="more options of `penstock serve`")
    options.add_argument("--prompt", type=int, default=32)
    options.add_argument("--tokens", type=int, default=64)
    options.add_argument("--sizes", default="3,10")
    options.add_argument("--parallel", type=int, default=8)
    options.add_argument("--seconds", type=float, default=20)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--high", type=int, default=20)
    options.add_argument("--stalls", default="200ms,1s")
    options.add_argument("--llama", action="store_true")
    options.add_argument("--penstock", default=str(HERE / "target/release/penstock"))
    options.add_argument("--python", default=sys.executable, help="one that has llama_cpp")
    options.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = options.parse_intermixed_args()
    if args.worker:
        return worker(args)
    unknown = [what for what in args.what if what not in parts]
    if unknown:
        options.error(f"{unknown[0]} is none of {', '.join(parts)}")
    for name, part in parts.items():
        if not args.what or name in args.what:
            asyncio.run(part(args))


main()

"""OpenAI's own client reads the answers in `golden/`, which the unit tests compare with the server's.

    python -m venv venv && venv/bin/pip install openai && venv/bin/python check_golden.py

A server of the standard library replays the files; the client parses them strictly, so that a field
of a wrong type is an error and not a surprise.
"""

import json
import pathlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import openai
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

GOLDEN = pathlib.Path(__file__).parent / "golden"


class Replay(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        reply = (GOLDEN / body["user"]).read_bytes()
        kind = "application/json" if body["user"].endswith(".json") else "text/event-stream"
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Replay)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.server_port}/v1", api_key="none")


def strict(kind, value):
    """Once more, by types that do not bend."""
    dumped = value.model_dump(warnings=False)
    if kind is Completion:
        # Its type has no null here, which events before the last have in OpenAI's streams too.
        for choice in dumped["choices"]:
            choice["finish_reason"] = choice["finish_reason"] or "stop"
    kind.model_validate(dumped, strict=True)
    return value


def chat(name):
    message = [{"role": "user", "content": "Hi"}]
    stream = name.endswith(".sse")
    got = client.chat.completions.create(model="demo", messages=message, user=name, stream=stream)
    if stream:
        return [strict(ChatCompletionChunk, chunk) for chunk in got]
    return strict(ChatCompletion, got)


def text(name):
    stream = name.endswith(".sse")
    got = client.completions.create(model="demo", prompt="Once", user=name, stream=stream)
    return [strict(Completion, chunk) for chunk in got] if stream else strict(Completion, got)


def joined(chunks, index=0):
    deltas = [c.delta for chunk in chunks for c in chunk.choices if c.index == index]
    return "".join(delta.content or "" for delta in deltas)


# Whole and streamed answers say the same.
whole, streamed = chat("chat.json"), chat("chat.sse")
assert whole.choices[0].message.content == joined(streamed) == 'Hello\n"world"!'
assert whole.choices[0].message.reasoning_content == "Hm é"
assert whole.choices[0].finish_reason == "stop"
assert streamed[0].choices[0].delta.role == "assistant"
assert streamed[-1].usage == whole.usage and streamed[-1].choices == []
assert all(chunk.usage is None for chunk in streamed[:-1])
assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
assert whole.usage.prompt_tokens_details.cached_tokens == 1
assert whole.usage.completion_tokens_details.reasoning_tokens > 0
assert streamed[-1].penstock == whole.penstock and whole.penstock["hit_rate"] == 0.75
plain = chat("chat_without_usage.sse")
assert plain[-1].choices[0].finish_reason == "stop" and plain[-1].penstock == whole.penstock

two, streamed = chat("chat_two.json"), chat("chat_two.sse")
assert [c.finish_reason for c in two.choices] == ["stop", "length"]
assert [c.message.content for c in two.choices] == [joined(streamed, 0), joined(streamed, 1)]

whole, streamed = chat("chat_logprobs.json"), chat("chat_logprobs.sse")
entries = whole.choices[0].logprobs.content
told = [e for s in streamed for c in s.choices if c.logprobs for e in c.logprobs.content]
assert told == entries
assert b"".join(bytes(e.bytes) for e in entries).decode() == whole.choices[0].message.content
assert all(len(e.top_logprobs) == 2 and e.logprob == -0.25 for e in entries)

whole, streamed = chat("chat_tools.json"), chat("chat_tools.sse")
calls = whole.choices[0].message.tool_calls
assert [c.function.name for c in calls] == ["get_weather", "now"]
assert json.loads(calls[0].function.arguments) == {"city": "Oslo"}
assert whole.choices[0].finish_reason == streamed[-2].choices[0].finish_reason == "tool_calls"
deltas = [d for s in streamed for c in s.choices for d in c.delta.tool_calls or []]
for index, call in enumerate(calls):
    mine = [d for d in deltas if d.index == index]
    assert (mine[0].id, mine[0].function.name) == (call.id, call.function.name)
    assert "".join(d.function.arguments for d in mine) == call.function.arguments
assert len(chat("chat_one_tool.json").choices[0].message.tool_calls) == 1

whole, streamed = text("text.json"), text("text.sse")
assert len(whole.choices) == 2
for index, choice in enumerate(whole.choices):
    mine = [c for chunk in streamed for c in chunk.choices if c.index == index]
    assert "".join(c.text for c in mine) == choice.text
    lists = choice.logprobs
    assert len(lists.tokens) == len(lists.token_logprobs) == len(lists.text_offset)
    assert len(lists.top_logprobs) == len(lists.tokens)
    assert [t for c in mine if c.logprobs for t in c.logprobs.tokens] == lists.tokens
    offsets = [o for c in mine if c.logprobs for o in c.logprobs.text_offset]
    assert offsets == lists.text_offset
echo = text("text_echo.json").choices[0].text
assert echo.startswith("Once") and echo == "".join(c.choices[0].text for c in text("text_echo.sse"))

print(f"openai {openai.__version__} reads all of it")

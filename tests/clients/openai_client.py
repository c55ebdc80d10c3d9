"""OpenAI's own client against a running `penstock serve`.

    venv/bin/python openai_client.py /run/user/1000/penstock.sock     over a Unix socket
    venv/bin/python openai_client.py http://127.0.0.1:8080            over TCP

Any model will do: what is checked is the protocol, not what the model says. With `--forms` the
model's answers can be held to a form; with `--tools` its family has tool calls. Without them it is
checked that the server says so.
"""

import argparse
import json
import threading

import openai

try:
    import httpx2 as httpx  # What the client is built on since its version 3.
except ImportError:
    import httpx

options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
options.add_argument("server", help="a socket's path or an address")
options.add_argument("--forms", action="store_true")
options.add_argument("--tools", action="store_true")
options = options.parse_args()

if options.server.startswith("http"):
    http, base = httpx.Client(timeout=120), options.server.rstrip("/")
else:
    transport = httpx.HTTPTransport(uds=options.server)
    http, base = httpx.Client(transport=transport, timeout=120), "http://penstock"
client = openai.OpenAI(base_url=f"{base}/v1", api_key="none", http_client=http, max_retries=0)

MESSAGES = [{"role": "user", "content": "Tell me a story."}]
checks = []


def check(function):
    checks.append(function)
    return function


def chat(**fields):
    fields = {"model": model, "messages": MESSAGES, "max_tokens": 16, **fields}
    return client.chat.completions.create(**fields)


def complete(**fields):
    fields = {"model": model, "prompt": "Once upon a time", "max_tokens": 8, **fields}
    return client.completions.create(**fields)


def refused(kind, param, ask, **fields):
    try:
        ask(**fields)
    except kind as error:
        assert error.body["param"] == param, error.body
        assert error.body["message"], error.body
        return error
    raise AssertionError(f"{fields} was taken")


@check
def models():
    listed = client.models.list().data
    assert [m.id for m in listed] == [model]
    assert client.models.retrieve(model).id == model
    refused(openai.NotFoundError, "model", client.models.retrieve, model="no-such-model")
    refused(openai.NotFoundError, "model", chat, model="no-such-model")


@check
def whole_answers():
    raw = client.chat.completions.with_raw_response.create(
        model=model, messages=MESSAGES, max_tokens=16, extra_headers={"X-Request-Id": "me-1"}
    )
    for name in ["x-queue-time", "x-processing-time"]:
        assert raw.headers[name].endswith("ms"), raw.headers
    assert int(raw.headers["x-batch-size"]) >= 1
    assert raw.headers["x-request-id"] == "me-1"
    got = raw.parse()
    assert got.object == "chat.completion" and got.id.startswith("chatcmpl-")
    assert got.choices[0].finish_reason in ("stop", "length")
    assert got.usage.completion_tokens <= 16
    assert got.usage.total_tokens == got.usage.prompt_tokens + got.usage.completion_tokens
    assert got.penstock["queue_ms"] >= 0 and got.system_fingerprint


@check
def streams_say_what_whole_answers_say():
    fields = {"seed": 7, "temperature": 0.8, "max_tokens": 32}
    whole = chat(**fields).choices[0]
    chunks = list(chat(stream=True, stream_options={"include_usage": True}, **fields))
    deltas = [c.delta for chunk in chunks for c in chunk.choices]
    assert deltas[0].role == "assistant"
    assert "".join(d.content or "" for d in deltas) == (whole.message.content or "")
    reasons = [c.finish_reason for chunk in chunks for c in chunk.choices if c.finish_reason]
    assert reasons == [whole.finish_reason]
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens > 0
    assert chunks[-1].penstock["queue_ms"] >= 0


@check
def seeds():
    def say(seed, **fields):
        return chat(seed=seed, temperature=1.0, max_tokens=24, **fields).choices

    assert say(1)[0].message.content == say(1)[0].message.content
    several = [c.message.content for c in say(1, n=3)]
    assert several[0] == say(1)[0].message.content
    assert several[1] == say(2)[0].message.content
    assert chat(temperature=0).choices[0].message == chat(temperature=0).choices[0].message


@check
def several_answers_in_one_stream():
    chunks = list(chat(n=3, stream=True, seed=1))
    seen = {c.index for chunk in chunks for c in chunk.choices}
    ended = [c.index for chunk in chunks for c in chunk.choices if c.finish_reason]
    assert seen == {0, 1, 2} and sorted(ended) == [0, 1, 2]


@check
def stop_strings():
    text = complete(temperature=0, max_tokens=32).choices[0].text
    mark = text.strip()[4:7]
    if not mark:
        return
    cut = complete(temperature=0, max_tokens=32, stop=[mark, "\0"]).choices[0]
    assert cut.text == text[: text.index(mark)] and cut.finish_reason == "stop"


@check
def logprobs():
    got = chat(logprobs=True, top_logprobs=3, temperature=0, max_tokens=8).choices[0]
    entries = got.logprobs.content
    assert 0 < len(entries) <= 8
    for entry in entries:
        assert entry.logprob <= 0 and len(entry.top_logprobs) == 3
        assert entry.top_logprobs[0].logprob >= entry.logprob - 1e-6
        assert entry.token == entry.top_logprobs[0].token, "greedy takes the likeliest"
    legacy = complete(logprobs=2, temperature=0).choices[0]
    lists = legacy.logprobs
    assert len(lists.tokens) == len(lists.token_logprobs) == len(lists.top_logprobs)
    assert lists.text_offset == sorted(lists.text_offset)


@check
def biases():
    first = chat(logprobs=True, temperature=0, max_tokens=1).choices[0]
    shown = http.post(f"{base}/tokenize", json={"text": first.message.content}).json()
    if shown["count"] == 1:
        banned = chat(
            logprobs=True, temperature=0, max_tokens=1, logit_bias={str(shown["tokens"][0]): -100}
        )
        assert banned.choices[0].message.content != first.message.content


@check
def completions():
    got = complete(prompt=["Once", "The"], n=2)
    assert [c.index for c in got.choices] == [0, 1, 2, 3]
    echo = complete(prompt="Once", echo=True).choices[0].text
    assert echo.startswith("Once")
    ids = http.post(f"{base}/tokenize", json={"text": "Once", "add_special": True}).json()["tokens"]
    assert complete(prompt=ids, temperature=0).choices[0].finish_reason in ("stop", "length")
    chunks = list(complete(stream=True, temperature=0))
    text = "".join(c.text for chunk in chunks for c in chunk.choices)
    assert text == complete(temperature=0).choices[0].text


@check
def errors():
    bad = openai.BadRequestError
    refused(bad, "temperature", chat, temperature=-1)
    refused(bad, "messages", chat, messages=[])
    refused(bad, "messages[0].role", chat, messages=[{"role": "robot", "content": "x"}])
    refused(bad, "n", chat, n=1000)
    refused(bad, "stop", chat, stop=["a"] * 100)
    refused(bad, "x-max-wait-time", lowered, extra_headers={"X-Max-Wait-Time": "soon"})
    long = refused(bad, "messages", chat, messages=[{"role": "user", "content": "a b " * 400_000}])
    assert long.code == "context_length_exceeded"


def lowered(**fields):
    try:
        chat(**fields)
    except openai.BadRequestError as error:
        error.body["param"] = error.body["param"].lower()
        raise


@check
def forms():
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 99}},
        "required": ["a"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema, "strict": True}}
    if not options.forms:
        path = "response_format.json_schema.schema"
        refused(openai.BadRequestError, path, chat, response_format=form)
        return
    for seed in range(3):
        got = json.loads(chat(response_format=form, seed=seed, max_tokens=64).choices[0].message.content)
        assert set(got) == {"a"} and 0 <= got["a"] <= 99
    word = chat(extra_body={"guided_choice": ["red", "green"]}).choices[0].message.content
    assert word in ("red", "green")


@check
def tools():
    function = {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}},
            "required": ["city"],
            "additionalProperties": False,
        },
    }
    given = [{"type": "function", "function": function}]
    ask = [{"role": "user", "content": "What is the weather in Oslo?"}]
    fields = {"messages": ask, "tools": given, "tool_choice": "required", "max_tokens": 200}
    if not options.tools:
        refused(openai.BadRequestError, "tools", chat, **fields)
        return
    got = chat(**fields).choices[0]
    assert got.finish_reason == "tool_calls"
    call = got.message.tool_calls[0]
    assert call.function.name == "get_weather" and "city" in json.loads(call.function.arguments)
    back = {"role": "tool", "tool_call_id": call.id, "content": "rain"}
    again = chat(messages=[*ask, got.message, back], tools=given, max_tokens=8)
    assert again.choices[0].finish_reason


@check
def cancelling():
    stream = chat(stream=True, max_tokens=100_000, extra_body={"ignore_eos": True})
    first = next(iter(stream))
    assert http.post(f"{base}/cancel", json={"id": first.id}).status_code == 200
    try:
        for _ in stream:
            pass
    except openai.APIError as error:
        assert "cancelled" in str(error), error
    else:
        raise AssertionError("the stream ended well")
    assert http.post(f"{base}/cancel", json={"id": first.id}).status_code == 404


@check
def many_at_once():
    alone = complete(temperature=0.9, seed=3).choices[0].text
    texts = []
    ask = lambda: texts.append(complete(temperature=0.9, seed=3).choices[0].text)
    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == [alone] * 8


@check
def execute():
    names, text = [], ""
    asked = {"prompt": "Tell me a story.", "max_tokens": 12}
    with http.stream("POST", f"{base}/execute", json=asked) as reply:
        for line in reply.iter_lines():
            if line.startswith("event: "):
                names.append(line[7:])
            elif line.startswith("data: "):
                data = json.loads(line[6:])
                text += data.get("text", "") if names[-1] == "token" else ""
    assert names[0] == "started" and names[-1] == "end" and set(names[1:-1]) <= {"token"}
    assert data["reason"] in ("stop", "length") and data["usage"]["prompt_tokens"] > 0
    ids = http.post(f"{base}/tokenize", json={"text": text}).json()["tokens"]
    back = http.post(f"{base}/detokenize", json={"tokens": ids}).json()["content"]
    assert back == text


model = client.models.list().data[0].id
for function in checks:
    function()
    print(f"ok  {function.__name__.replace('_', ' ')}")
print(f"openai {openai.__version__}: {len(checks)} checks")

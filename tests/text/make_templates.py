"""Renders tests/text/templates/*.jinja the way transformers does and records what comes out.

    python tests/text/make_templates.py

needs transformers and jinja2; nothing is downloaded. Writes templates.json beside itself.
"""
import datetime
import json
import pathlib

from transformers.utils import chat_template_utils

HERE = pathlib.Path(__file__).parent
NOW = 1753488000  # 2025-07-26 00:00:00 UTC


class FixedTime(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(NOW, datetime.timezone.utc)


chat_template_utils.datetime = FixedTime

USER = {"role": "user", "content": "  What's the time in 東京? \n"}
SYSTEM = {"role": "system", "content": "Be brief.\nBe kind."}
ANSWER = {"role": "assistant", "content": "<think>\nhm, let me see\n</think>\n\nIt is noon. "}
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {
            "id": "abc123def",
            "type": "function",
            "function": {"name": "clock", "arguments": {"city": "東京", "offset": 1.5, "dst": False, "tags": ["a", None]}},
        }
    ],
}
RESULT = {"role": "tool", "content": "12:00 \"sharp\"", "name": "clock"}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "clock",
            "description": "Tells the time <b>now</b> & then",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "The city's name"},
                    "unit": {"type": "string", "enum": ["s", "ms"], "default": "s"},
                    "offsets": {"type": "array", "items": {"type": "number"}, "default": [0, 1]},
                    "where": {"type": "object", "properties": {"lat": {"type": "number"}, "ok": {"type": "boolean"}}},
                    "any": {"oneOf": [{"type": "string", "default": "x"}, {"type": ["null", "integer"]}]},
                },
                "required": ["city"],
            },
        },
    },
    {"type": "function", "function": {"name": "noop", "description": "Nothing", "parameters": {}}},
]
PARTS = {"role": "user", "content": [{"type": "text", "text": "part one, "}, {"type": "text", "text": "part two"}]}

CONVERSATIONS = {
    "one": dict(messages=[USER]),
    "prompted": dict(messages=[SYSTEM, USER], add_generation_prompt=True),
    "long": dict(messages=[SYSTEM, USER, ANSWER, {"role": "user", "content": "And now?"}], add_generation_prompt=True),
    "answered": dict(messages=[USER, ANSWER]),
    "called": dict(messages=[SYSTEM, USER, CALL, RESULT, ANSWER], tools=TOOLS),
    "calling": dict(messages=[USER, CALL, RESULT], tools=TOOLS, add_generation_prompt=True),
    "no thinking": dict(messages=[USER, ANSWER, USER], add_generation_prompt=True, extra=dict(enable_thinking=False, reasoning_effort="high")),
    "reasoned": dict(messages=[USER, {"role": "assistant", "content": "Noon.", "reasoning_content": "easy"}]),
    "parts": dict(messages=[PARTS], add_generation_prompt=True),
    "wrong order": dict(messages=[USER, USER]),
    "two calls": dict(messages=[USER, {**CALL, "tool_calls": CALL["tool_calls"] * 2}]),
}


def render(source, case):
    special = dict(bos_token="<s>", eos_token="</s>")
    messages = chat_template_utils._alias_reasoning_fields(case["messages"])
    try:
        template = chat_template_utils._compile_jinja_template(source)
        return template.render(
            messages=messages,
            tools=case.get("tools"),
            documents=None,
            add_generation_prompt=case.get("add_generation_prompt", False),
            **special,
            **case.get("extra", {}),
        )
    except Exception as error:  # whatever the template raises is its verdict
        return {"error": str(error)}


out = {"now": NOW, "conversations": CONVERSATIONS, "expected": {}}
for path in sorted((HERE / "templates").glob("*.jinja")):
    source = path.read_text()
    out["expected"][path.stem] = {name: render(source, case) for name, case in CONVERSATIONS.items()}
(HERE / "templates.json").write_text(json.dumps(out, ensure_ascii=False, indent=1) + "\n")
for stem, cases in out["expected"].items():
    print(stem, {n: (v["error"][:60] if isinstance(v, dict) else len(v)) for n, v in cases.items()})

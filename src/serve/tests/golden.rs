//! Answers as they go over the wire, kept in `tests/clients/golden`, where OpenAI's client reads
//! them too. `PENSTOCK_WRITE_GOLDEN=1 cargo test --lib serve` writes them anew.

use std::path::Path;

use serde_json::{Value, json};

use super::{Fate, ask, chat, house, post, set};
use crate::engine::End;
use crate::model::channels::Voice::{Answer, Thought};

/// Ids and times are the only things that differ between two runs.
fn settled(body: &str) -> String {
    let mut out = String::new();
    let mut rest = body;
    while let Some(at) = ["chatcmpl-", "cmpl-", "exec-"]
        .iter()
        .filter_map(|name| Some((rest.find(name)?, name.len())))
        .min()
    {
        let end = at.0 + at.1;
        out += &rest[..end];
        out += "0123456789abcdef";
        rest = &rest[end + 16..];
    }
    out += rest;
    let parts: Vec<&str> = out.split("\"created\":").collect();
    let cut = |part: &&str| {
        let end = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(0);
        part[end..].to_owned()
    };
    let rest: Vec<String> = parts[1..].iter().map(cut).collect();
    [&[parts[0].to_owned()], &rest[..]].concat().join("\"created\":1700000000")
}

fn check(name: &str, path: &str, body: Value, fates: Vec<Fate>) {
    let (house, stage) = house();
    *stage.fates.borrow_mut() = fates.into();
    let seen = ask(&house, post(path, &body));
    let got = settled(&seen.body);
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/golden").join(name);
    if std::env::var_os("PENSTOCK_WRITE_GOLDEN").is_some() {
        std::fs::write(&file, &got).unwrap();
    }
    let expected = std::fs::read_to_string(&file).unwrap();
    assert_eq!(got, expected, "{name}");
    if seen.header("content-type") == "application/json" {
        assert_eq!(seen.header("x-queue-time"), "1.50ms");
        assert_eq!(seen.header("x-processing-time"), "50.00ms");
        // An average of 2.5, to even.
        assert_eq!(seen.header("x-batch-size"), "2");
    }
}

fn thinks() -> Fate {
    Fate::Says(vec![(Thought, "Hm é"), (Answer, "Hello\n\"world\"")], End::Stop, "!")
}

fn calls() -> Fate {
    let text = "So: @get_weather{\"city\": \"Oslo\"}@@now{}@";
    Fate::Says(vec![(Answer, text)], End::Text, "")
}

fn tools() -> Value {
    let tool = |name: &str| json!({ "type": "function", "function": { "name": name } });
    json!({ "tools": [tool("get_weather"), tool("now")] })
}

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "/v1/completions";

fn stream(body: &Value) -> Value {
    set(body, json!({ "stream": true, "stream_options": { "include_usage": true } }))
}

#[test]
fn chat_answers() {
    check("chat.json", CHAT, chat(), vec![thinks()]);
    check("chat.sse", CHAT, stream(&chat()), vec![thinks()]);
    let without_usage = set(&chat(), json!({ "stream": true }));
    check("chat_without_usage.sse", CHAT, without_usage, vec![thinks()]);
    let length = Fate::Says(vec![(Answer, "Hello")], End::Length, "");
    let two = set(&chat(), json!({ "n": 2 }));
    check("chat_two.json", CHAT, two.clone(), vec![thinks(), length]);
    let length = Fate::Says(vec![(Answer, "Hello")], End::Length, "");
    check("chat_two.sse", CHAT, stream(&two), vec![thinks(), length]);
}

#[test]
fn chat_logprobs() {
    let body = set(&chat(), json!({ "logprobs": true, "top_logprobs": 2 }));
    let says = || Fate::Says(vec![(Answer, "Hello é")], End::Text, "");
    check("chat_logprobs.json", CHAT, body.clone(), vec![says()]);
    check("chat_logprobs.sse", CHAT, stream(&body), vec![says()]);
}

#[test]
fn chat_calls() {
    let body = set(&chat(), tools());
    check("chat_tools.json", CHAT, body.clone(), vec![calls()]);
    check("chat_tools.sse", CHAT, stream(&body), vec![calls()]);
    let single = set(&body, json!({ "parallel_tool_calls": false }));
    check("chat_one_tool.json", CHAT, single, vec![calls()]);
}

#[test]
fn completions() {
    let body = json!({ "prompt": ["Once", "é"], "logprobs": 2, "max_tokens": 5 });
    let says = || Fate::Says(vec![(Answer, "Hello é")], End::Length, "");
    check("text.json", TEXT, body.clone(), vec![says(), thinks()]);
    check("text.sse", TEXT, stream(&body), vec![says(), thinks()]);
    let echo = json!({ "prompt": "Once", "echo": true });
    check("text_echo.json", TEXT, echo.clone(), vec![says()]);
    check("text_echo.sse", TEXT, set(&echo, json!({ "stream": true })), vec![says()]);
}

#[test]
fn execute() {
    let body = json!({ "prompt": "Hi", "logprobs": 0 });
    check("execute.sse", "/execute", body, vec![thinks()]);
}

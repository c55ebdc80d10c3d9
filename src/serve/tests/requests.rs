//! What good requests become on the engine's side.

use std::time::Duration;

use serde_json::{Value, json};

use super::{ask, call, chat, house, post, set, text, with};
use crate::engine::scheduler::{Batching, Priority};
use crate::model::Message;
use crate::serve::family::Shape;

#[test]
fn all_that_is_asked_arrives() {
    let (house, stage) = house();
    let body = set(
        &chat(),
        json!({
            "temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.05,
            "repetition_penalty": 1.1, "presence_penalty": 0.5, "frequency_penalty": -0.5,
            "logit_bias": { "7": -100, "9": 1.5 }, "seed": -1, "n": 3, "max_completion_tokens": 9,
            "stop": ["a", "b", "c", "d", "e"], "logprobs": true, "top_logprobs": 2,
            "ignore_eos": true, "priority": "low", "user": "me", "metadata": {}, "store": false,
            "made_up": [1], "service_tier": "auto", "tools": [], "response_format": null,
        }),
    );
    let asked = with(post("/v1/chat/completions", &body), "x-batch-preference", "disable");
    let asked = with(asked, "x-max-wait-time", "2s");
    assert_eq!(ask(&house, asked).status, 200);
    let requests = stage.requests.borrow();
    assert_eq!(requests.len(), 3);
    for (at, request) in requests.iter().enumerate() {
        let s = &request.settings;
        assert_eq!(s.sampling.seed, u64::MAX.wrapping_add(at as u64));
        assert_eq!((s.sampling.temperature, s.sampling.top_p, s.sampling.top_k), (0.5, 0.9, 40));
        assert_eq!((s.sampling.min_p, s.sampling.repetition_penalty), (0.05, 1.1));
        assert_eq!((s.sampling.presence_penalty, s.sampling.frequency_penalty), (0.5, -0.5));
        assert_eq!(s.sampling.logit_bias, [(7, -100.0), (9, 1.5)].into());
        assert_eq!((s.sampling.logprobs, s.max_tokens, s.ignore_end), (Some(2), Some(9), true));
        assert_eq!(s.stop, ["a", "b", "c", "d", "e"]);
        assert!(s.tokenizer.is_some());
        assert_eq!((request.priority, request.batching), (Priority::Low, Batching::Disable));
        assert_eq!(request.max_wait, Some(Duration::from_secs(2)));
        assert_eq!(request.prompt, text().chat_tokens(&[Message::new("user", "Hi")]).unwrap());
    }
}

#[test]
fn defaults_are_those_of_the_protocol_and_seeds_differ() {
    let (house, stage) = house();
    ask(&house, post("/v1/chat/completions", &set(&chat(), json!({ "model": "" }))));
    ask(&house, post("/v1/completions", &json!({ "prompt": "Once", "n": 2 })));
    let asked = post("/execute", &json!({ "prompt": "Once", "max_tokens": 7 }));
    ask(&house, with(asked, "x-request-priority", "high"));
    let requests = stage.requests.borrow();
    let of = |at: usize| (requests[at].settings.max_tokens, requests[at].settings.sampling.seed);
    assert_eq!((of(0).0, of(1).0, of(3).0), (None, Some(16), Some(7)));
    let mut seeds: Vec<u64> = (0..4).map(|at| of(at).1).collect();
    seeds.sort_unstable();
    seeds.dedup();
    assert_eq!(seeds.len(), 4, "every answer has a seed of its own");
    assert_eq!(requests[0].settings.sampling.temperature, 1.0);
    assert_eq!((requests[0].priority, requests[3].priority), (Priority::Medium, Priority::High));
    assert_eq!(requests[0].settings.sampling.logprobs, None);
}

#[test]
fn prompts_of_every_kind() {
    let (house, stage) = house();
    let once = text().continue_tokens("Once").unwrap();
    for (prompt, expected) in [
        (json!("Once"), vec![once.clone()]),
        (json!(["Once", "Once"]), vec![once.clone(), once.clone()]),
        (json!([7, 8.0, 9]), vec![vec![7, 8, 9]]),
        (json!([[7], [8, 9]]), vec![vec![7], vec![8, 9]]),
    ] {
        stage.requests.borrow_mut().clear();
        let seen = ask(&house, post("/v1/completions", &json!({ "prompt": prompt })));
        assert_eq!(seen.status, 200, "{}", seen.body);
        assert_eq!(seen.json()["choices"].as_array().unwrap().len(), expected.len());
        let got: Vec<_> = stage.requests.borrow().iter().map(|r| r.prompt.clone()).collect();
        assert_eq!(got, expected);
    }
    stage.requests.borrow_mut().clear();
    ask(&house, post("/execute", &json!({ "prompt": "Once", "raw": true })));
    ask(&house, post("/execute", &json!({ "prompt": [5, 6], "raw": true })));
    ask(&house, post("/execute", &json!({ "prompt": "Hi", "system": "Be short" })));
    let chat = [Message::new("system", "Be short"), Message::new("user", "Hi")];
    let chat = text().chat_tokens(&chat).unwrap();
    let got: Vec<_> = stage.requests.borrow().iter().map(|r| r.prompt.clone()).collect();
    assert_eq!(got, [once, vec![5, 6], chat]);
}

#[test]
fn messages_reach_the_template_as_it_wants_them() {
    let (house, stage) = house();
    let function = json!({ "name": "f", "arguments": "{\"a\": [1]}" });
    let tools = json!([{ "type": "function", "function": { "name": "f", "parameters": {} } }]);
    let body = json!({
        "messages": [
            { "role": "developer", "content": [{ "type": "text", "text": "a" },
                { "type": "text", "text": "b" }] },
            { "role": "user", "content": "Hi", "name": "ann", "other": 1 },
            { "role": "assistant", "content": null, "reasoning_content": "hm", "tool_calls": [
                { "id": "c1", "type": "function", "function": function },
                { "id": "c2", "function": { "name": "g", "arguments": "no json" } }] },
            { "role": "tool", "tool_call_id": "c1", "content": "5" },
        ],
        "tools": tools,
        "reasoning_effort": "low",
        "chat_template_kwargs": { "enable_thinking": false },
    });
    // They are right, but this model's template cannot write a message without content.
    let seen = ask(&house, post("/v1/chat/completions", &body)).json();
    assert_eq!(seen["error"]["param"], "messages");
    let messages = stage.messages.borrow();
    assert_eq!(messages[0], Message::new("system", "a\nb"));
    assert_eq!(Value::Object(messages[1].fields.clone()), json!({ "name": "ann" }));
    assert_eq!(messages[2].content, Value::Null);
    let calls = &messages[2].fields["tool_calls"];
    assert_eq!(calls[0]["function"]["arguments"], json!({ "a": [1] }));
    assert_eq!(calls[1]["function"]["arguments"], "no json");
    assert_eq!(messages[2].fields["reasoning_content"], "hm");
    assert_eq!(messages[3].fields["tool_call_id"], "c1");
    let options = stage.options.borrow();
    assert_eq!(options.tools, Some(tools));
    let extra = json!({ "reasoning_effort": "low", "enable_thinking": false });
    assert_eq!(Value::Object(options.extra.clone()), extra);
}

#[test]
fn forms_reach_the_family() {
    let (house, stage) = house();
    let schema = json!({ "type": "object" });
    let format = json!({ "type": "json_schema", "json_schema": { "name": "x", "schema": schema } });
    let tool = |name: &str| json!({ "type": "function", "function": { "name": name } });
    for (fields, shape) in [
        (json!({ "response_format": { "type": "json_object" } }), Shape::JsonObject),
        (json!({ "response_format": format }), Shape::JsonSchema(schema.clone())),
        (json!({ "guided_json": "{\"type\": \"object\"}" }), Shape::JsonSchema(schema.clone())),
        (json!({ "grammar": "start: \"a\"" }), Shape::Lark("start: \"a\"".into())),
        (json!({ "guided_regex": "a+" }), Shape::Regex("a+".into())),
        (json!({ "guided_choice": ["a.b", "c"] }), Shape::Regex("(?:a\\.b|c)".into())),
        (
            json!({ "response_format": { "type": "text" }, "grammar": { "regex": "b" } }),
            Shape::Regex("b".into()),
        ),
        (
            json!({ "tools": [tool("f"), tool("g")], "tool_choice": "required" }),
            Shape::Call { tools: vec![tool("f"), tool("g")], named: None },
        ),
        (
            json!({ "tools": [tool("f"), tool("g")], "tool_choice": tool("g") }),
            Shape::Call { tools: vec![tool("g")], named: Some("g".into()) },
        ),
    ] {
        stage.shapes.borrow_mut().clear();
        let seen = ask(&house, post("/v1/chat/completions", &set(&chat(), fields.clone())));
        assert_eq!(seen.status, 200, "{fields}: {}", seen.body);
        assert_eq!(*stage.shapes.borrow(), [shape], "{fields}");
    }
    let none = json!({ "tools": [tool("f")], "tool_choice": "none" });
    ask(&house, post("/v1/chat/completions", &set(&chat(), none)));
    assert_eq!(stage.options.borrow().tools, None);
}

#[test]
fn tokens_and_text() {
    let (house, _) = house();
    let ids = json!([749, 492, 365, 223, 130, 105]);
    let seen = ask(&house, post("/tokenize", &json!({ "content": "Hello world é" })));
    assert_eq!(seen.json(), json!({ "tokens": ids, "count": 6 }));
    let pieces = json!({ "text": "é", "with_pieces": true });
    let pieces = ask(&house, post("/tokenize", &pieces)).json();
    let expected = json!([{ "id": 130, "piece": [195] }, { "id": 105, "piece": [169] }]);
    assert_eq!(pieces["tokens"], expected);
    let control = |parse| json!({ "text": "<|im_end|>", "parse_special": parse });
    let count = |parse| ask(&house, post("/tokenize", &control(parse))).json()["count"].clone();
    assert_eq!(count(true), 1);
    assert!(count(false).as_u64().unwrap() > 1);
    let seen = ask(&house, post("/detokenize", &json!({ "tokens": ids })));
    assert_eq!(seen.json(), json!({ "content": "Hello world é" }));
}

#[test]
fn models_health_and_metrics() {
    let (house, stage) = house();
    let models = ask(&house, call("GET", "/v1/models", "")).json();
    assert_eq!(models["data"][0]["id"], "demo");
    for name in ["demo", "demo-q4.gguf", "our%2Fdemo", "our/demo/"] {
        let seen = ask(&house, call("GET", &format!("/v1/models/{name}"), ""));
        assert_eq!((seen.status, &seen.json()["id"]), (200, &json!("demo")), "{name}");
    }
    let metrics = ask(&house, call("GET", "/metrics?x=1", ""));
    assert!(metrics.header("content-type").starts_with("text/plain; version=0.0.4"));
    assert_eq!(metrics.body, "# TYPE penstock_up gauge\npenstock_up 1\n");

    let health = |path| {
        let seen = ask(&house, call("GET", path, ""));
        (seen.status, seen.json()["status"].as_str().unwrap_or("").to_owned())
    };
    assert_eq!(health("/health"), (200, "ready".into()));
    house.ready.set(false);
    assert_eq!(health("/health/ready"), (503, "loading".into()));
    assert_eq!(health("/health/live"), (200, String::new()));
    let early = ask(&house, post("/v1/chat/completions", &chat()));
    assert_eq!((early.status, early.header("retry-after")), (503, "2"));
    assert_eq!(early.json()["error"]["code"], "model_loading");
    house.ready.set(true);
    stage.load.set(crate::engine::desk::Load { draining: true, ..Default::default() });
    assert_eq!(health("/health"), (503, "draining".into()));
}

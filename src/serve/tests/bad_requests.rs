//! Requests that are wrong, each with the status, the field and a part of the sentence that its
//! client is told.

use serde_json::{Value, json};

use super::{CONTEXT, Seen, ask, call, chat, house, post, set, with};

fn check(seen: &Seen, status: u16, param: Option<&str>, said: &str, of: &str) {
    let error = &seen.json()["error"];
    let message = error["message"].as_str().unwrap();
    assert_eq!(seen.status, status, "{of}: {message}");
    assert_eq!(error["param"].as_str(), param, "{of}: {message}");
    assert!(message.contains(said), "{of}: {message:?} should say {said:?}");
    assert!(error["type"].is_string() && error.get("code").is_some(), "{of}");
}

fn refused(path: &str, base: &Value, cases: &[(Value, &str, &str)]) {
    let (house, stage) = house();
    for (fields, param, said) in cases {
        let seen = ask(&house, post(path, &set(base, fields.clone())));
        check(&seen, 400, Some(param), said, &fields.to_string());
        assert!(!seen.header("x-request-id").is_empty());
    }
    assert!(stage.requests.borrow().is_empty(), "something reached the engine");
}

#[test]
fn sampling_and_limits() {
    let long = "x".repeat(5000);
    let cases = [
        (json!({ "temperature": "hot" }), "temperature", "must be a number, not a string"),
        (json!({ "temperature": -1 }), "temperature", "is -1, but must be between 0 and 100"),
        (json!({ "temperature": 1e300 }), "temperature", "between 0 and 100"),
        (json!({ "top_p": 0 }), "top_p", "above 0 and at most 1"),
        (json!({ "top_p": 1.5 }), "top_p", "is 1.5"),
        (json!({ "top_p": [] }), "top_p", "not a list"),
        (json!({ "top_k": 1.5 }), "top_k", "whole number of at least -1"),
        (json!({ "top_k": -2 }), "top_k", "at least -1"),
        (json!({ "min_p": 2 }), "min_p", "between 0 and 1"),
        (json!({ "repetition_penalty": 0 }), "repetition_penalty", "above 0"),
        (json!({ "presence_penalty": 101 }), "presence_penalty", "between -100 and 100"),
        (json!({ "frequency_penalty": -101 }), "frequency_penalty", "between -100 and 100"),
        (json!({ "n": 0 }), "n", "from 1 to 16"),
        (json!({ "n": 17 }), "n", "from 1 to 16"),
        (json!({ "n": "2" }), "n", "must be a whole number, not a string"),
        (json!({ "seed": 0.5 }), "seed", "whole number"),
        (json!({ "seed": 1e30 }), "seed", "whole number"),
        (json!({ "max_tokens": 0 }), "max_tokens", "at least 1"),
        (json!({ "max_tokens": -5 }), "max_tokens", "at least 1"),
        (json!({ "max_completion_tokens": "all" }), "max_completion_tokens", "not a string"),
        (json!({ "max_tokens": 5, "max_completion_tokens": 6 }), "max_tokens", "give one of them"),
        (json!({ "stop": 5 }), "stop", "a string or a list of strings, not a number"),
        (json!({ "stop": ["a", 5] }), "stop[1]", "must be a string"),
        (json!({ "stop": ["a", ""] }), "stop[1]", "is empty"),
        (json!({ "stop": "" }), "stop", "is empty"),
        (json!({ "stop": vec!["a"; 17] }), "stop", "at most 16"),
        (json!({ "stop": [long] }), "stop[0]", "at most 4096"),
        (json!({ "logit_bias": [1] }), "logit_bias", "object of token ids"),
        (json!({ "logit_bias": { "x": 1 } }), "logit_bias.x", "no token id below 1536"),
        (json!({ "logit_bias": { "1536": 1 } }), "logit_bias.1536", "no token id below 1536"),
        (json!({ "logit_bias": { "-1": 1 } }), "logit_bias.-1", "no token id"),
        (json!({ "logit_bias": { "5": "1" } }), "logit_bias.5", "must be a number"),
        (json!({ "logit_bias": { "5": 1e9 } }), "logit_bias.5", "between -1000000"),
        (json!({ "ignore_eos": 1 }), "ignore_eos", "true or false, not a number"),
        (json!({ "priority": "urgent" }), "priority", "high, medium or low"),
        (json!({ "priority": 3 }), "priority", "must be a string"),
        (json!({ "stream": "yes" }), "stream", "true or false"),
        (json!({ "stream_options": {} }), "stream_options", "only for requests with stream"),
        (json!({ "stream": true, "stream_options": 1 }), "stream_options", "must be an object"),
        (
            json!({ "stream": true, "stream_options": { "include_usage": 1 } }),
            "stream_options.include_usage",
            "true or false",
        ),
        (json!({ "model": 5 }), "model", "must be a string"),
    ];
    refused("/v1/chat/completions", &chat(), &cases);
}

#[test]
fn messages() {
    let one = |message: Value| json!({ "messages": [{ "role": "user", "content": "a" }, message] });
    let called = |call: Value| one(json!({ "role": "assistant", "tool_calls": [call] }));
    let cases = [
        (json!({ "messages": null }), "messages", "is missing"),
        (json!({ "messages": "Hi" }), "messages", "must be a list of messages, not a string"),
        (json!({ "messages": [] }), "messages", "is empty"),
        (one(json!("Hi")), "messages[1]", "must be an object, not a string"),
        (one(json!({ "content": "Hi" })), "messages[1].role", "is missing"),
        (one(json!({ "role": "bot", "content": "" })), "messages[1].role", "is \"bot\""),
        (one(json!({ "role": 1, "content": "" })), "messages[1].role", "must be a string"),
        (one(json!({ "role": "user" })), "messages[1].content", "is missing"),
        (one(json!({ "role": "user", "content": null })), "messages[1].content", "is missing"),
        (one(json!({ "role": "user", "content": 5 })), "messages[1].content", "not a number"),
        (one(json!({ "role": "user", "content": {} })), "messages[1].content", "not an object"),
        (one(json!({ "role": "user", "content": ["a"] })), "messages[1].content[0]", "an object"),
        (
            one(json!({ "role": "user", "content": [{ "text": "a" }] })),
            "messages[1].content[0].type",
            "is missing",
        ),
        (
            one(json!({ "role": "user", "content": [{ "type": "text", "text": "a" },
                { "type": "image_url", "image_url": { "url": "http://x" } }] })),
            "messages[1].content[1].type",
            "is \"image_url\", but this model reads parts of type text alone",
        ),
        (
            one(json!({ "role": "user", "content": [{ "type": "text" }] })),
            "messages[1].content[0].text",
            "is missing",
        ),
        (one(json!({ "role": "user", "content": "a", "name": 1 })), "messages[1].name", "a string"),
        (one(json!({ "role": "tool", "content": "a" })), "messages[1].tool_call_id", "is missing"),
        (one(json!({ "role": "assistant" })), "messages[1].content", "is missing"),
        (
            one(json!({ "role": "assistant", "tool_calls": {} })),
            "messages[1].tool_calls",
            "must be a list",
        ),
        (called(json!(1)), "messages[1].tool_calls[0]", "must be an object"),
        (called(json!({ "id": "a" })), "messages[1].tool_calls[0].function", "is missing"),
        (
            called(json!({ "function": { "name": "f", "arguments": "{}" } })),
            "messages[1].tool_calls[0].id",
            "is missing",
        ),
        (
            called(json!({ "id": "a", "function": { "name": "f" } })),
            "messages[1].tool_calls[0].function.arguments",
            "is missing",
        ),
        (
            called(json!({ "id": "a", "function": { "name": "f", "arguments": 5 } })),
            "messages[1].tool_calls[0].function.arguments",
            "a string of JSON",
        ),
        (
            called(json!({ "id": "a", "type": "custom" })),
            "messages[1].tool_calls[0].type",
            "must be function",
        ),
        (json!({ "reasoning_effort": 5 }), "reasoning_effort", "must be a string"),
        (json!({ "chat_template_kwargs": [] }), "chat_template_kwargs", "must be an object"),
        (
            json!({ "chat_template_kwargs": { "messages": [] } }),
            "chat_template_kwargs.messages",
            "leave it out",
        ),
        (json!({ "chat_template_kwargs": { "refuse": 1 } }), "messages", "template refuses"),
    ];
    refused("/v1/chat/completions", &chat(), &cases);
}

#[test]
fn tools_and_forms() {
    let tool = |name: &str| json!({ "type": "function", "function": { "name": name } });
    let tools = |choice: Value| json!({ "tools": [tool("f")], "tool_choice": choice });
    let format = |format: Value| json!({ "response_format": format });
    let cases = [
        (json!({ "tools": {} }), "tools", "must be a list of tools"),
        (json!({ "tools": ["f"] }), "tools[0]", "must be an object"),
        (json!({ "tools": [{ "function": {} }] }), "tools[0].type", "is missing"),
        (json!({ "tools": [{ "type": "web" }] }), "tools[0].type", "must be function"),
        (json!({ "tools": [{ "type": "function" }] }), "tools[0].function", "is missing"),
        (json!({ "tools": [tool("a b")] }), "tools[0].function.name", "letters, digits"),
        (json!({ "tools": [tool("")] }), "tools[0].function.name", "1 to 64"),
        (json!({ "tools": [tool("f"), tool("f")] }), "tools[1].function.name", "another tool"),
        (json!({ "tools": vec![tool("f"); 129] }), "tools", "at most 128"),
        (
            json!({ "tools": [{ "type": "function", "function": { "name": "f", "parameters": 1 } }] }),
            "tools[0].function.parameters",
            "must be an object",
        ),
        (tools(json!("maybe")), "tool_choice", "none, auto, required"),
        (tools(json!(1)), "tool_choice", "a string or an object"),
        (tools(json!({ "type": "function" })), "tool_choice.function", "is missing"),
        (tools(tool("g")), "tool_choice.function.name", "none of the tools"),
        (json!({ "tool_choice": "required" }), "tool_choice", "only for requests with tools"),
        (json!({ "parallel_tool_calls": 1 }), "parallel_tool_calls", "true or false"),
        (json!({ "functions": [] }), "functions", "use tools"),
        (json!({ "function_call": "auto" }), "function_call", "use tool_choice"),
        (format(json!("json")), "response_format", "must be an object"),
        (format(json!({})), "response_format.type", "is missing"),
        (format(json!({ "type": "xml" })), "response_format.type", "text, json_object or"),
        (format(json!({ "type": "json_schema" })), "response_format.json_schema", "is missing"),
        (
            format(json!({ "type": "json_schema", "json_schema": { "name": "a" } })),
            "response_format.json_schema.schema",
            "is missing",
        ),
        (
            format(json!({ "type": "json_schema", "json_schema": { "schema": [] } })),
            "response_format.json_schema.schema",
            "which is an object, not a list",
        ),
        (json!({ "guided_json": "{" }), "guided_json", "not valid JSON"),
        (json!({ "guided_regex": 1 }), "guided_regex", "must be a string"),
        (json!({ "guided_regex": "a(" }), "guided_regex", "unclosed group"),
        (json!({ "guided_grammar": [] }), "guided_grammar", "must be a string"),
        (json!({ "guided_choice": [] }), "guided_choice", "1 to 1000"),
        (json!({ "guided_choice": [1] }), "guided_choice[0]", "must be a string"),
        (json!({ "grammar": 1 }), "grammar", "a Lark grammar"),
        (json!({ "grammar": {} }), "grammar", "one of lark and regex"),
        (json!({ "grammar": { "regex": "(" } }), "grammar.regex", "unclosed group"),
        (
            json!({ "grammar": "start: \"a\"", "guided_regex": "a" }),
            "guided_regex",
            "cannot be combined with grammar",
        ),
        (
            json!({ "tools": [tool("f")], "response_format": { "type": "json_object" } }),
            "response_format",
            "cannot be combined with tools",
        ),
        (json!({ "logprobs": 5 }), "logprobs", "true or false"),
        (json!({ "top_logprobs": 5 }), "top_logprobs", "only for requests with logprobs"),
        (json!({ "logprobs": true, "top_logprobs": 21 }), "top_logprobs", "from 0 to 20"),
    ];
    refused("/v1/chat/completions", &chat(), &cases);
}

#[test]
fn completions() {
    let base = json!({ "prompt": "Once" });
    let cases = [
        (json!({ "prompt": null }), "prompt", "is missing"),
        (json!({ "prompt": 5 }), "prompt", "a string, a list of strings or token ids"),
        (json!({ "prompt": [] }), "prompt", "is empty"),
        (json!({ "prompt": "" }), "prompt", "nothing to continue"),
        (json!({ "prompt": ["a", 5] }), "prompt[1]", "a string or a list of token ids"),
        (json!({ "prompt": [5, "a"] }), "prompt[1]", "must be a whole number"),
        (json!({ "prompt": [5, 1536] }), "prompt[1]", "from 0 to 1535"),
        (json!({ "prompt": [[5], [-1]] }), "prompt[1][0]", "from 0 to 1535"),
        (json!({ "prompt": [[]] }), "prompt[0]", "is empty"),
        (json!({ "prompt": vec!["a"; 129] }), "prompt", "at most 128"),
        (json!({ "prompt": vec!["a"; 30], "n": 5 }), "prompt", "at most 128"),
        (json!({ "prompt": vec![5; 256] }), "prompt", "room for 256"),
        (json!({ "suffix": "the end" }), "suffix", "is not taken"),
        (json!({ "best_of": 2 }), "best_of", "must be 1"),
        (json!({ "echo": true, "logprobs": 1 }), "echo", "cannot be combined with logprobs"),
        (json!({ "echo": 1 }), "echo", "true or false"),
        (json!({ "logprobs": 21 }), "logprobs", "from 0 to 20"),
        (json!({ "logprobs": "all" }), "logprobs", "not a string"),
    ];
    refused("/v1/completions", &base, &cases);
}

#[test]
fn houses_own_paths() {
    let base = json!({ "prompt": "Once" });
    let cases = [
        (json!({ "prompt": null }), "prompt", "is missing"),
        (json!({ "prompt": [1, 2] }), "prompt", "token ids with raw"),
        (json!({ "prompt": {}, "raw": true }), "prompt", "not an object"),
        (json!({ "prompt": [1536], "raw": true }), "prompt[0]", "from 0 to 1535"),
        (json!({ "prompt": "", "raw": true }), "prompt", "is empty"),
        (json!({ "raw": true, "system": "a" }), "system", "not raw"),
        (json!({ "system": 1 }), "system", "must be a string"),
        (json!({ "n": 2 }), "n", "must be 1"),
        (json!({ "logprobs": true }), "logprobs", "whole number"),
    ];
    refused("/execute", &base, &cases);
    refused("/tokenize", &json!({ "text": 5 }), &[(json!({}), "text", "must be a string")]);
    refused("/tokenize", &json!({ "content": [] }), &[(json!({}), "content", "a string")]);
    refused("/tokenize", &json!({}), &[(json!({}), "text", "is missing")]);
    refused(
        "/tokenize",
        &json!({ "text": "", "with_pieces": 1 }),
        &[(json!({}), "with_pieces", "")],
    );
    refused("/detokenize", &json!({}), &[(json!({}), "tokens", "is missing")]);
    refused("/detokenize", &json!({ "tokens": ["a"] }), &[(json!({}), "tokens[0]", "number")]);
    refused("/cancel", &json!({ "id": 5 }), &[(json!({}), "id", "must be a string")]);
}

#[test]
fn bodies_headers_paths_and_methods() {
    let (house, _) = house();
    let path = "/v1/chat/completions";
    for (body, said) in [
        ("", "the body is empty"),
        ("[]", "must be a JSON object"),
        ("{\"messages\":\n [,]}", "line 2 column 3"),
        ("{\"a\": 1e999}", "number out of range"),
    ] {
        check(&ask(&house, call("POST", path, body)), 400, None, said, body);
    }
    for (name, value) in
        [("x-request-priority", "1"), ("x-batch-preference", "on"), ("x-max-wait-time", "soon")]
    {
        let seen = ask(&house, with(post(path, &chat()), name, value));
        let param = seen.json()["error"]["param"].as_str().unwrap().to_ascii_lowercase();
        assert_eq!((seen.status, &*param), (400, name));
    }
    let other = ask(&house, post(path, &set(&chat(), json!({ "model": "gpt-4" }))));
    check(&other, 404, Some("model"), "the model \"gpt-4\" is not here", "model");
    assert_eq!(other.json()["error"]["code"], "model_not_found");
    check(&ask(&house, call("GET", "/v1/models/x%20y", "")), 404, Some("model"), "x y", "models");

    let words = "word ".repeat(CONTEXT);
    let long = json!({ "messages": [{ "role": "user", "content": words }] });
    let long = ask(&house, post(path, &long));
    check(&long, 400, Some("messages"), "room for 256", "long");
    assert_eq!(long.json()["error"]["code"], "context_length_exceeded");

    for path in ["/", "/v2/models", "/v1/chat", "/etc/passwd", "", "/metrics/x"] {
        check(&ask(&house, call("GET", path, "")), 404, None, "nothing at this path", path);
    }
    for (method, path, allow) in [
        ("GET", "/v1/chat/completions", "POST, OPTIONS"),
        ("POST", "/v1/models", "GET, HEAD, OPTIONS"),
        ("DELETE", "/v1/models/demo", "GET, HEAD, OPTIONS"),
        ("PUT", "/execute", "POST, OPTIONS"),
    ] {
        let seen = ask(&house, call(method, path, ""));
        check(&seen, 405, None, allow, path);
        assert_eq!(seen.header("allow"), allow);
        let options = ask(&house, call("OPTIONS", path, ""));
        assert_eq!((options.status, options.header("allow")), (204, allow));
    }
}

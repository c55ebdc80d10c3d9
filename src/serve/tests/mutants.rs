//! Good requests, damaged at random, the same ones on every run: each is answered or refused with
//! an error object, and none panics.

use serde_json::{Value, json};

use super::{ask, call, house};

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}

/// Every field there is, with a good value.
fn seeds() -> Vec<(&'static str, Value)> {
    let shared = json!({
        "model": "demo", "temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.05,
        "repetition_penalty": 1.1, "presence_penalty": 0.5, "frequency_penalty": -0.5,
        "logit_bias": { "7": -100 }, "seed": 5, "n": 2, "max_tokens": 9, "stop": ["a", "b"],
        "ignore_eos": true, "priority": "low", "stream": true,
        "stream_options": { "include_usage": true },
    });
    let function = json!({ "name": "f", "description": "d", "parameters": { "type": "object" } });
    let tool = json!({ "type": "function", "function": function });
    let chat = json!({
        "messages": [
            { "role": "system", "content": [{ "type": "text", "text": "Be short" }] },
            { "role": "user", "content": "Hi", "name": "ann" },
            { "role": "assistant", "content": "x", "reasoning_content": "hm", "tool_calls": [
                { "id": "c1", "type": "function", "function": { "name": "f", "arguments": "{}" } }] },
            { "role": "tool", "tool_call_id": "c1", "content": "5" },
        ],
        "logprobs": true, "top_logprobs": 2, "tools": [tool], "tool_choice": "auto",
        "parallel_tool_calls": false, "reasoning_effort": "low",
        "chat_template_kwargs": { "enable_thinking": false },
    });
    let format = json!({ "type": "json_schema", "json_schema": { "schema": {} } });
    let formed =
        json!({ "messages": [{ "role": "user", "content": "Hi" }], "response_format": format });
    let texts = json!({ "prompt": ["a", "b"], "logprobs": 2, "echo": false, "best_of": 1 });
    let ids = json!({ "prompt": [[7, 8], [9]], "echo": true, "suffix": "" });
    let execute = json!({ "prompt": "Hi", "raw": false, "system": "s", "n": 1, "logprobs": 1 });
    let join = |other: &Value| super::set(&shared, other.clone());
    vec![
        ("/v1/chat/completions", join(&chat)),
        ("/v1/chat/completions", join(&formed)),
        ("/v1/completions", join(&texts)),
        ("/v1/completions", join(&ids)),
        ("/execute", join(&execute)),
        ("/tokenize", json!({ "text": "Hi", "add_special": true, "with_pieces": true })),
        ("/detokenize", json!({ "tokens": [1, 2, 3] })),
        ("/cancel", json!({ "id": "x" })),
    ]
}

fn strange(random: &mut Random) -> Value {
    let strange = [
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(1.5),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(1e308),
        json!(""),
        json!("\u{0}\u{fdd0}<|im_start|>é🙂"),
        json!("high"),
        json!("x".repeat(100)),
        json!([]),
        json!([[]]),
        json!([1, "a", null]),
        json!({}),
        json!({ "type": "function", "": 1 }),
    ];
    strange[random.below(strange.len())].clone()
}

/// Damages one place: a value is replaced, dropped, doubled or put one level deeper.
fn damage(value: &mut Value, random: &mut Random) {
    let inner = match value {
        Value::Array(list) if !list.is_empty() => {
            let at = random.below(list.len());
            match random.below(8) {
                0 => return drop(list.remove(at)),
                1 => return list.insert(at, list[at].clone()),
                _ => Some(&mut list[at]),
            }
        }
        Value::Object(map) if !map.is_empty() => {
            let at = random.below(map.len());
            let name = map.keys().nth(at).cloned().unwrap();
            if random.below(8) == 0 {
                map.remove(&name);
                return;
            }
            map.get_mut(&name)
        }
        _ => None,
    };
    match inner {
        Some(inner) if random.below(4) > 0 => damage(inner, random),
        _ if random.below(6) == 0 => *value = json!([value.clone()]),
        _ => *value = strange(random),
    }
}

#[test]
fn damaged_requests_are_answered_or_refused() {
    let (house, stage) = house();
    let mut random = Random(5);
    let (mut good, mut bad) = (0, 0);
    for round in 0..1500 {
        for (path, seed) in seeds() {
            let mut body = seed;
            for _ in 0..1 + round % 2 {
                damage(&mut body, &mut random);
            }
            let mut bytes = body.to_string().into_bytes();
            if random.below(10) == 0 {
                let at = random.below(bytes.len());
                bytes[at] = random.next() as u8;
            }
            let sent = String::from_utf8_lossy(&bytes).into_owned();
            let seen = ask(&house, call("POST", path, bytes));
            match seen.status {
                200 => good += 1,
                400 | 404 => {
                    bad += 1;
                    let error = &seen.json()["error"];
                    assert!(!error["message"].as_str().unwrap().is_empty(), "{sent}");
                    assert!(seen.body.len() < 2000, "{sent}: {}", seen.body);
                }
                other => panic!("{path} {sent}: {other} {}", seen.body),
            }
        }
        stage.requests.borrow_mut().clear();
    }
    assert!(good > 500 && bad > 500, "{good} good, {bad} bad");
    assert!(stage.open.borrow().is_empty() && house.is_quiet());
}

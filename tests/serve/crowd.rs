//! Many at once, and more than there is room for.

use std::thread;

use serde_json::{Value, json};

use super::server::Server;

/// A prompt whose answer takes a while.
pub fn long(tokens: usize) -> Value {
    json!({
        "prompt": "Once upon a time", "max_tokens": tokens, "ignore_eos": true, "temperature": 1,
        "seed": 1, "stream": true,
    })
}

#[test]
fn a_hundred_at_once_are_all_answered() {
    let mut server = Server::start("demo", &["--context", "400000", "--parallel", "8"]);
    thread::scope(|scope| {
        for i in 0..100 {
            let server = &server;
            scope.spawn(move || {
                let priority = ["low", "medium", "high"][i % 3];
                let body = json!({
                    "prompt": format!("Number {i}"), "max_tokens": 5 + i % 20, "ignore_eos": true,
                    "seed": i,
                });
                let answer =
                    server.post("/v1/completions", &[("x-request-priority", priority)], &body);
                let queue = answer.head.get("x-queue-time").map(str::to_owned);
                assert!(queue.is_some_and(|time| time.ends_with("ms")), "{:?}", answer.head);
                let answer = answer.good();
                assert_eq!(answer["usage"]["completion_tokens"], 5 + i % 20);
            });
        }
    });
    assert_eq!(server.metric("penstock_requests_total", "end=\"length\""), 100.0);
    server.is_empty();
}

/// One runs, two wait, and no more are taken: they are told when to come again.
#[test]
fn a_full_queue_says_when_to_come_again() {
    let mut server =
        Server::start("demo", &["--context", "400000", "--parallel", "1", "--queue", "2"]);
    let mut busy: Vec<_> = (0..3)
        .map(|i| {
            let mut client = server.client();
            client.send("POST", "/v1/completions", &[], long(100_000).to_string().as_bytes());
            let (running, waiting) = (1.0, f64::from(i));
            server.wait_for("queued", |server| {
                server.metric("penstock_requests_running", "") == running
                    && server.metric("penstock_requests_waiting", "") == waiting
            });
            client
        })
        .collect();
    let refused = server.post("/v1/completions", &[], &long(10));
    assert_eq!(refused.head.status, 429);
    let after: u64 = refused.head.get("retry-after").unwrap().parse().unwrap();
    assert!(after >= 1);
    let error = refused.json()["error"].clone();
    assert!(error["message"].as_str().unwrap().contains("2 requests wait"), "{error}");
    busy.clear();
    server.is_empty();
    server.post("/v1/completions", &[], &long(10)).events();
}

#[test]
fn nobody_waits_longer_than_they_said() {
    let mut server = Server::start("demo", &["--context", "400000", "--parallel", "1"]);
    let mut busy = server.client();
    busy.send("POST", "/v1/completions", &[], long(100_000).to_string().as_bytes());
    assert_eq!(busy.head().status, 200);
    busy.chunk().unwrap();
    // Either it is known at once that it takes longer, or it turns out so.
    let late = server.post("/v1/completions", &[("x-max-wait-time", "30ms")], &long(10));
    assert_eq!(late.head.status, 429, "{:?}", String::from_utf8_lossy(&late.body));
    assert!(late.head.get("retry-after").is_some());
    let wrong = server.post("/v1/completions", &[("x-max-wait-time", "soon")], &long(10));
    assert_eq!(wrong.head.status, 400);
    drop(busy);
    server.is_empty();
}

/// In order, one at a time, however many come. They end in the order in which they began.
#[test]
fn sequential_is_first_come_first_served() {
    let mut server =
        Server::start("demo", &["--context", "400000", "--cores", "1", "--sequential"]);
    let mut first = server.client();
    first.send("POST", "/v1/completions", &[], long(100_000).to_string().as_bytes());
    assert_eq!(first.head().status, 200);
    // Each is known by the length of its answer.
    let mut clients: Vec<_> = (0..4)
        .map(|i| {
            let mut client = server.client();
            let headers = [("x-request-priority", if i == 3 { "high" } else { "low" })];
            client.send("POST", "/v1/completions", &headers, long(20 + i).to_string().as_bytes());
            server.wait_for("queued", |server| {
                server.metric("penstock_requests_waiting", "") == (i + 1) as f64
            });
            client
        })
        .collect();
    drop(first);
    for client in &mut clients {
        assert_eq!(client.answer().head.status, 200);
    }
    let mut lengths = Vec::new();
    server.wait_for("written down", |server| {
        let log = server.log();
        let tokens =
            log.lines().filter_map(|line| line.split_once(" tokens,")?.0.rsplit_once("+ "));
        lengths = tokens.map(|(_, length)| length.parse::<usize>().unwrap()).skip(1).collect();
        lengths.len() == 4
    });
    assert_eq!(lengths, [20, 21, 22, 23], "{}", server.log());
}

/// Whoever asks to be computed alone is, also while others are answered.
#[test]
fn who_wants_no_company_has_none() {
    let mut server = Server::start("demo", &["--context", "400000"]);
    let mut busy: Vec<_> = (0..2)
        .map(|_| {
            let mut client = server.client();
            client.send("POST", "/v1/completions", &[], long(100_000).to_string().as_bytes());
            assert_eq!(client.head().status, 200);
            client.chunk().unwrap();
            client
        })
        .collect();
    let ask = |preference: &str| {
        let body = json!({"prompt": "Once", "max_tokens": 20, "ignore_eos": true, "seed": 1});
        server.post("/v1/completions", &[("x-batch-preference", preference)], &body)
    };
    // Of all its steps, not of most.
    let alone = ask("disable");
    assert_eq!(alone.head.get("x-batch-size"), Some("1"));
    let alone = alone.good();
    assert_eq!(alone["penstock"]["batch"], 1.0, "{alone}");
    for preference in ["enable", "auto"] {
        let answer = ask(preference);
        let answer = answer.good();
        assert!(answer["penstock"]["batch"].as_f64().unwrap() > 1.0, "{preference}: {answer}");
        assert_eq!(answer["choices"], alone["choices"], "{preference}");
    }
    let wrong = ask("sometimes");
    assert_eq!(wrong.head.status, 400);
    let message = wrong.json()["error"]["message"].to_string();
    assert!(message.contains("X-Batch-Preference") && message.contains("disable"), "{message}");
    busy.clear();
    server.is_empty();
}

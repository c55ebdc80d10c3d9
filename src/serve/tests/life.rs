//! Answers that are refused, fail, are cancelled or lose their client.

use std::time::Duration;

use futures_lite::future::{block_on, poll_once};
use serde_json::{Value, json};

use super::{Fate, ask, chat, house, post, see, set, with};
use crate::engine::End;
use crate::engine::desk::{Load, Refusal};
use crate::model::channels::Voice;
use crate::model::sampling::SampleError;
use crate::serve::reply::Body;
use crate::serve::routes;

const CHAT: &str = "/v1/chat/completions";

fn streamed() -> Value {
    set(&chat(), json!({ "stream": true }))
}

#[test]
fn refusals_are_statuses_for_whole_answers_and_streams() {
    let second = Duration::from_millis(1200);
    for body in [chat(), streamed()] {
        let (house, stage) = house();
        let late = Refusal::Late { expected: second, limit: Duration::ZERO, retry_after: second };
        for (refusal, status, after, code) in [
            (Refusal::Full { waiting: 8, retry_after: second }, 429, "2", "rate_limit_exceeded"),
            (late, 429, "2", "rate_limit_exceeded"),
            (Refusal::Draining, 503, "2", "draining"),
        ] {
            stage.fates.borrow_mut().push_back(Fate::Refused(refusal));
            let seen = ask(&house, post(CHAT, &body));
            assert_eq!((seen.status, seen.header("retry-after")), (status, after));
            assert_eq!(seen.json()["error"]["code"], code);
        }
    }
}

#[test]
fn one_refusal_takes_the_other_answers_with_it() {
    let (house, stage) = house();
    let refusal = Refusal::Full { waiting: 8, retry_after: Duration::ZERO };
    stage.fates.borrow_mut().extend([Fate::Hangs("a"), Fate::Refused(refusal)]);
    let seen = ask(&house, post(CHAT, &set(&chat(), json!({ "n": 2 }))));
    assert_eq!(seen.status, 429);
    assert!(stage.open.borrow().is_empty(), "the first was not let go");
}

#[test]
fn what_ends_in_the_queue_is_a_status_even_for_streams() {
    for body in [chat(), streamed()] {
        let (house, stage) = house();
        stage.load.set(Load { first_token: Duration::from_secs(3), ..Load::default() });
        let die = |end, wait: Option<&str>| {
            stage.fates.borrow_mut().push_back(Fate::Dies(end));
            let call = post(CHAT, &body);
            ask(&house, wait.map_or(call, |wait| with(post(CHAT, &body), "x-max-wait-time", wait)))
        };
        let seen = die(End::Expired, Some("50ms"));
        assert_eq!((seen.status, seen.header("retry-after")), (429, "3"));
        assert_eq!(seen.json()["error"]["code"], "max_wait_exceeded");
        assert!(seen.body.contains("50 ms"), "{}", seen.body);
        let seen = die(End::Lost("layer 3 cannot be read".into()), None);
        assert_eq!((seen.status, &seen.json()["error"]["type"]), (500, &json!("server_error")));
        assert!(seen.body.contains("layer 3 cannot be read"));
        assert_eq!(die(End::Failed(SampleError::Nothing), None).status, 500);
        assert_eq!(die(End::ContextFull, None).status, 200);
        stage.load.set(Load { draining: true, ..Load::default() });
        assert_eq!(die(End::Cancelled, None).status, 503);
    }
}

#[test]
fn what_fails_in_the_middle_ends_a_stream_with_an_error() {
    let lost = || Fate::Says(vec![(Voice::Answer, "Hello")], End::Lost("no disk".into()), "!");
    let (house, stage) = house();
    stage.fates.borrow_mut().extend([lost(), lost(), lost(), lost()]);
    assert_eq!(ask(&house, post(CHAT, &chat())).status, 500);

    let seen = ask(&house, post(CHAT, &streamed()));
    let events = seen.events();
    assert_eq!((seen.status, seen.header("x-queue-time")), (200, "1.50ms"));
    assert_eq!(events.last().unwrap()["error"]["message"], "no disk");
    assert!(events.iter().any(|e| e["choices"][0]["delta"]["content"] == "Hello"));
    assert!(!seen.body.contains("[DONE]"), "it is not whole");

    let stream = json!({ "prompt": "Once", "stream": true });
    let seen = ask(&house, post("/v1/completions", &stream));
    assert_eq!(seen.events().last().unwrap()["error"]["message"], "no disk");

    let seen = ask(&house, post("/execute", &json!({ "prompt": "Once" })));
    assert!(seen.body.ends_with(
        "event: error\ndata: {\"error\":{\"message\":\"no disk\",\"type\":\"server_error\",\
         \"param\":null,\"code\":null}}\n\n"
    ));
}

#[test]
fn a_client_that_leaves_takes_its_requests_along() {
    let (house, stage) = house();
    // Before its head, whole and streamed; and in the middle of a stream.
    for body in [chat(), streamed(), set(&chat(), json!({ "n": 3 }))] {
        let waits = [Fate::Waits, Fate::Waits, Fate::Waits];
        *stage.fates.borrow_mut() = waits.into();
        let mut answer = Box::pin(routes::answer(&house, post(CHAT, &body)));
        for _ in 0..3 {
            assert!(block_on(poll_once(&mut answer)).is_none());
        }
        assert!(!stage.open.borrow().is_empty());
        drop(answer);
        assert!(stage.open.borrow().is_empty());
    }
    *stage.fates.borrow_mut() = [Fate::Hangs("Hello world")].into();
    let reply = block_on(routes::answer(&house, post(CHAT, &streamed())));
    let Body::Events(mut events) = reply.body else { panic!("no stream") };
    let first = block_on(futures_lite::future::poll_fn(|context| events.poll_next(context)));
    assert!(!first.unwrap().is_empty());
    assert_eq!(stage.open.borrow().len(), 1);
    drop(events);
    assert!(stage.open.borrow().is_empty());
    assert!(house.is_quiet(), "a name was left behind");
}

#[test]
fn answers_are_cancelled_by_their_ids() {
    let cancel = |id: &str| post("/cancel", &json!({ "id": id }));
    for path in [CHAT, "/v1/completions", "/execute"] {
        let (house, stage) = house();
        *stage.fates.borrow_mut() = [Fate::Hangs("Hello"), Fate::Hangs("Hello")].into();
        let body = json!({ "prompt": "Once", "messages": chat()["messages"], "stream": true });
        for by_request in [false, true] {
            let call = with(post(path, &body), "x-request-id", "mine-1");
            let reply = block_on(routes::answer(&house, call));
            assert_eq!(reply.headers["x-request-id"], "mine-1");
            let Body::Events(mut events) = reply.body else { panic!("no stream") };
            let mut next =
                || block_on(futures_lite::future::poll_fn(|context| events.poll_next(context)));
            let first = String::from_utf8(next().unwrap().to_vec()).unwrap();
            let id = first.split("\"id\":\"").nth(1).unwrap().split('"').next().unwrap();
            let id = if by_request { "mine-1" } else { id };
            let seen = ask(&house, cancel(id));
            assert_eq!(seen.json(), json!({ "id": id, "cancelled": true }), "{path}");
            assert_eq!(ask(&house, cancel(id)).status, 404);
            let mut rest = String::new();
            while let Some(chunk) = next() {
                rest += std::str::from_utf8(&chunk).unwrap();
            }
            let said = match path {
                "/execute" => "\"reason\":\"cancelled\"",
                _ => "\"code\":\"cancelled\"",
            };
            assert!(rest.contains(said), "{path}: {rest}");
        }
        assert!(house.is_quiet());
    }
    let (house, _) = house();
    let seen = ask(&house, cancel("chatcmpl-none"));
    assert_eq!((seen.status, &seen.json()["error"]["code"]), (404, &json!("not_found")));
}

#[test]
fn a_cancelled_whole_answer_is_not_passed_off_as_one() {
    let (house, stage) = house();
    *stage.fates.borrow_mut() = [Fate::Hangs("Hello")].into();
    let call = with(post(CHAT, &chat()), "x-request-id", "mine-2");
    let mut answer = Box::pin(routes::answer(&house, call));
    assert!(block_on(poll_once(&mut answer)).is_none());
    assert_eq!(ask(&house, post("/cancel", &json!({ "id": "mine-2" }))).status, 200);
    let seen = see(block_on(answer));
    assert_eq!((seen.status, &seen.json()["error"]["type"]), (499, &json!("cancelled")));
}

#[test]
fn many_waiting_tokens_come_in_few_chunks() {
    let (house, stage) = house();
    let text: &'static str = "word ".repeat(400).leak();
    *stage.fates.borrow_mut() = [Fate::Says(vec![(Voice::Answer, text)], End::Text, "")].into();
    let reply = block_on(routes::answer(&house, post(CHAT, &streamed())));
    let Body::Events(mut events) = reply.body else { panic!("no stream") };
    let (mut chunks, mut tokens) = (0, 0);
    while let Some(chunk) =
        block_on(futures_lite::future::poll_fn(|context| events.poll_next(context)))
    {
        chunks += 1;
        tokens += std::str::from_utf8(&chunk).unwrap().matches("data: ").count();
        assert!(chunk.len() < 20 << 10 && chunk.ends_with(b"\n\n"));
    }
    assert!(tokens > 400 && chunks < tokens / 20, "{tokens} tokens in {chunks} chunks");
}

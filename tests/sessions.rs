//! Sessions at their edges: pages that run out, cancels and restarts at any token.

use std::rc::Rc;

use penstock::engine::{End, Engine, Options, Session, Settings, What};
use penstock::model::sampling::SamplingParams;
use penstock::model::{Model, demo};
use penstock::shard::now;

fn engine(context: usize) -> Engine {
    let model = Rc::new(Model::open(&demo::source().unwrap()).unwrap());
    // Each computes its own pages; those that share are in `tests/prefix.rs`.
    let options = Options {
        context: Some(context),
        prefill_chunk: 16,
        share_prefixes: false,
        ..Options::default()
    };
    Engine::new(model, options).unwrap()
}

fn settings(max_tokens: Option<usize>) -> Settings {
    let sampling = SamplingParams { temperature: 0.0, ..SamplingParams::default() };
    Settings { sampling, max_tokens, ..Settings::default() }
}

fn prompt(len: usize) -> Vec<u32> {
    (0..len as u32).map(|i| 10 + i * 7 % 400).collect()
}

fn run_to_end(engine: &mut Engine, session: &mut Session) -> End {
    while session.end_reason().is_none() {
        now(engine.step(&mut [&mut *session]));
    }
    session.end_reason().unwrap().clone()
}

#[test]
fn a_full_context_ends_the_answer_with_its_last_token() {
    let mut engine = engine(64);
    let mut session = engine.open(prompt(40), settings(None)).unwrap();
    assert_eq!(run_to_end(&mut engine, &mut session), End::ContextFull);
    // The token after the last position is chosen; it is its own turn that has no room.
    assert_eq!(session.tokens().len(), 65);
    assert!(engine.open(prompt(64), settings(None)).is_err(), "no room for an answer");
    assert!(engine.open(prompt(63), settings(None)).is_ok());
    assert!(engine.open(vec![], settings(None)).is_err());
    assert!(engine.open(vec![1 << 30], settings(None)).is_err());
}

/// Pages for one full context: two long answers cannot both finish at once, and none is lost.
#[test]
fn sessions_wait_for_pages_and_the_youngest_gives_way() {
    let mut engine = engine(96);
    let all = engine.free_pages();
    let mut old = engine.open(prompt(40), settings(None)).unwrap();
    let mut young = engine.open(prompt(40), settings(None)).unwrap();
    while old.end_reason().is_none() || young.end_reason().is_none() {
        now(engine.step(&mut [&mut old, &mut young]));
        if young.end_reason().is_some() && young.end_reason() == Some(&End::NoPages) {
            break;
        }
    }
    assert_eq!(young.end_reason(), Some(&End::NoPages));
    assert!(old.end_reason().is_none(), "the older one goes on");
    assert!(!young.answer().is_empty(), "both had a part of the pages");
    drop(young);
    assert_eq!(run_to_end(&mut engine, &mut old), End::ContextFull);

    // One that only waited goes on when the other leaves.
    drop(old);
    let mut first = engine.open(prompt(90), settings(Some(2))).unwrap();
    let mut second = engine.open(prompt(50), settings(Some(3))).unwrap();
    while first.answer().is_empty() {
        now(engine.step(&mut [&mut first]));
    }
    assert_eq!(engine.free_pages(), 0);
    while first.end_reason().is_none() {
        now(engine.step(&mut [&mut first, &mut second]));
    }
    assert_eq!((first.end_reason(), second.end_reason()), (Some(&End::Length), None));
    drop(first);
    assert_eq!(run_to_end(&mut engine, &mut second), End::Length);
    assert_eq!(second.answer().len(), 3);
    drop(second);
    assert_eq!(engine.free_pages(), all);
}

#[test]
fn a_session_can_be_cancelled_and_reopened_at_any_moment() {
    let mut engine = engine(128);
    let mut whole = engine.open(prompt(40), settings(Some(4))).unwrap();
    run_to_end(&mut engine, &mut whole);
    let expected = whole.answer().to_vec();
    drop(whole);

    // In the middle of the prompt, at its end, after a token; running or paused.
    for steps in 0..5 {
        for paused in [false, true] {
            let mut session = engine.open(prompt(40), settings(Some(4))).unwrap();
            for _ in 0..steps {
                now(engine.step(&mut [&mut session]));
            }
            if paused {
                session.pause();
                assert!(now(engine.step(&mut [&mut session])).is_empty());
            }
            let event = session.cancel().unwrap();
            assert!(matches!(event.what, What::Ended { end: End::Cancelled, .. }));
            assert!(session.cancel().is_none() && now(engine.step(&mut [&mut session])).is_empty());
            session.resume();
            assert_eq!(session.end_reason(), Some(&End::Cancelled), "an end is an end");

            engine.reopen(&mut session, prompt(40), settings(Some(4))).unwrap();
            assert_eq!(run_to_end(&mut engine, &mut session), End::Length);
            assert_eq!(session.answer(), expected, "{steps} steps");
        }
    }
}

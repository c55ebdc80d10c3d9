//! The model inside the program: what its maker computed is what this engine computes, and it
//! speaks. `src/model/demo/check.py` wrote the reference.

use std::fs;
use std::path::Path;
use std::rc::Rc;

use penstock::engine::{End, Engine, Error, Options, Settings, What};
use penstock::model::sampling::SamplingParams;
use penstock::model::tokenizer::Special;
use penstock::model::{Message, Model, Text, demo};
use penstock::shard::now;
use serde::Deserialize;

#[derive(Deserialize)]
struct Case {
    prompt: String,
    tokens: Vec<u32>,
    greedy: Vec<u32>,
    text: String,
    /// How far the likeliest token was ahead where it was closest.
    smallest_lead: f32,
    /// The five largest logits behind each greedy token.
    top: Vec<Vec<(u32, f32)>>,
}

fn open() -> (Engine, Text) {
    let source = demo::source().unwrap();
    let model = Rc::new(Model::open(&source).unwrap());
    (Engine::new(model, Options::default()).unwrap(), Text::open(&source).unwrap())
}

fn greedy() -> SamplingParams {
    SamplingParams { temperature: 0.0, ..SamplingParams::default() }
}

#[test]
fn it_computes_what_its_maker_computed() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/model/demo/reference.json");
    let cases: Vec<Case> = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let (mut engine, text) = open();
    let (mut compared, mut followed) = (0, 0);
    for case in &cases {
        let tokens = text.tokenizer.encode(&case.prompt, Special::Parse, false).unwrap();
        assert_eq!(tokens, case.tokens, "{}", case.prompt);

        // The maker used float activations; 8 bits may move a logit by this much.
        let all = [tokens.as_slice(), &case.greedy].concat();
        now(engine.logits::<Error>(&all, |position, row| {
            let Some(step) = (position + 1).checked_sub(tokens.len()) else { return Ok(()) };
            for (id, logit) in case.top.get(step).into_iter().flatten() {
                let off = (row[*id as usize] - logit).abs();
                assert!(off < 0.6, "{}: step {step}, token {id}: {off}", case.prompt);
                compared += 1;
            }
            Ok(())
        }))
        .unwrap();

        if case.smallest_lead < 0.2 {
            continue;
        }
        let settings = Settings {
            sampling: greedy(),
            max_tokens: Some(case.greedy.len()),
            tokenizer: Some(Rc::clone(&text.tokenizer)),
            ..Settings::default()
        };
        let mut session = engine.open(tokens, settings).unwrap();
        let mut written = String::new();
        while session.end_reason().is_none() {
            for event in now(engine.step(&mut [&mut session])) {
                match event.what {
                    What::Token { text, .. } | What::Ended { text, .. } => written += &text,
                    What::Prefilled { .. } => {}
                }
            }
        }
        followed += 1;
        assert_eq!(session.answer(), case.greedy);
        assert_eq!(written.trim_end(), case.text.trim_end());
    }
    assert!(compared >= 250, "only {compared} logits were compared");
    assert!(followed >= 2, "only {followed} answers were followed");
}

/// It answers, ends by itself, and what it says is made of words.
#[test]
fn it_speaks() {
    let (mut engine, text) = open();
    for (question, word) in [("What is a penstock?", "water"), ("Who are you?", "Penstock")] {
        let prompt = text.chat_tokens(&[Message::new("user", question)]).unwrap();
        let settings = Settings {
            sampling: greedy(),
            max_tokens: Some(200),
            tokenizer: Some(Rc::clone(&text.tokenizer)),
            ..Settings::default()
        };
        let mut session = engine.open(prompt, settings).unwrap();
        while session.end_reason().is_none() {
            now(engine.step(&mut [&mut session]));
        }
        assert_eq!(session.end_reason(), Some(&End::Text), "{question}");
        let answer = text.tokenizer.decode(session.answer(), true);
        assert!(answer.contains(word), "{question} {answer}");
    }
}

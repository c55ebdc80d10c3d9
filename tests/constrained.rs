//! Sessions that keep to a grammar, from prompt to end.

use std::rc::Rc;

use penstock::engine::{End, Engine, Options, Session, Settings, What};
use penstock::model::grammar::Grammar;
use penstock::model::sampling::{SampleError, SamplingParams};
use penstock::model::{Message, Model, Text, demo};
use penstock::shard::now;
use serde_json::{Value, json};

fn open() -> (Engine, Text) {
    let source = demo::source().unwrap();
    let model = Rc::new(Model::open(&source).unwrap());
    (Engine::new(model, Options::default()).unwrap(), Text::open(&source).unwrap())
}

fn settings(text: &Text, grammar: Option<Grammar>, temperature: f32, seed: u64) -> Settings {
    Settings {
        sampling: SamplingParams { temperature, seed, logprobs: Some(2), ..Default::default() },
        max_tokens: Some(300),
        tokenizer: Some(Rc::clone(&text.tokenizer)),
        grammar,
        ..Settings::default()
    }
}

fn prompt(text: &Text, question: &str) -> Vec<u32> {
    text.chat_tokens(&[Message::new("user", question)]).unwrap()
}

/// Runs sessions together; gives each one's text and end.
fn run(engine: &mut Engine, mut sessions: Vec<Session>) -> Vec<(String, End, Vec<u32>)> {
    let mut texts = vec![String::new(); sessions.len()];
    while sessions.iter().any(|s| s.end_reason().is_none()) {
        let ids: Vec<u64> = sessions.iter().map(Session::id).collect();
        for event in now(engine.step(&mut sessions.iter_mut().collect::<Vec<_>>())) {
            let at = ids.iter().position(|&id| id == event.session).unwrap();
            match event.what {
                What::Token { text, .. } | What::Ended { text, .. } => texts[at] += &text,
                What::Prefilled { .. } => {}
            }
        }
    }
    let ended = |(text, session): (String, &Session)| {
        (text, session.end_reason().unwrap().clone(), session.answer().to_vec())
    };
    texts.into_iter().zip(&sessions).map(ended).collect()
}

fn schema() -> Value {
    json!({"type": "object", "properties": {"word": {"type": "string", "maxLength": 12},
        "good": {"type": "boolean"}}, "required": ["word", "good"], "additionalProperties": false})
}

#[test]
fn answers_are_json_alone_and_in_company() {
    let (mut engine, text) = open();
    let grammar = Grammar::json_schema(&text.vocabulary().unwrap(), &schema()).unwrap();
    let prompt = prompt(&text, "What is a penstock?");
    let mut alone = Vec::new();
    for (temperature, seed) in [(0.0, 0), (1.0, 1), (1.0, 2), (1.5, 3)] {
        let settings = settings(&text, Some(grammar.clone()), temperature, seed);
        let session = engine.open(prompt.clone(), settings).unwrap();
        let answer = run(&mut engine, vec![session]).pop().unwrap();
        assert_eq!(answer.1, End::Text, "{}", answer.0);
        let value: Value = serde_json::from_str(&answer.0).unwrap();
        assert!(value["word"].is_string() && value["good"].is_boolean(), "{value}");
        alone.push(answer);
    }
    // The same, all at once, beside one without a grammar.
    let plain = engine.open(prompt.clone(), settings(&text, None, 0.0, 0)).unwrap();
    let mut sessions = vec![plain];
    for (temperature, seed) in [(0.0, 0), (1.0, 1), (1.0, 2), (1.5, 3)] {
        let settings = settings(&text, Some(grammar.clone()), temperature, seed);
        sessions.push(engine.open(prompt.clone(), settings).unwrap());
    }
    let together = run(&mut engine, sessions);
    assert_eq!(together[1..], alone);
    let plain = engine.open(prompt, settings(&text, None, 0.0, 0)).unwrap();
    assert_eq!(run(&mut engine, vec![plain])[0], together[0]);
}

#[test]
fn an_answer_ends_where_its_grammar_does() {
    let (mut engine, text) = open();
    let vocabulary = text.vocabulary().unwrap();
    let prompt = prompt(&text, "Who are you?");
    for ignore_end in [false, true] {
        let grammar = Grammar::regex(&vocabulary, "(yes|no)").unwrap();
        let settings = Settings { ignore_end, ..settings(&text, Some(grammar), 1.0, 5) };
        let session = engine.open(prompt.clone(), settings).unwrap();
        let (said, end, tokens) = run(&mut engine, vec![session]).pop().unwrap();
        assert!(said == "yes" || said == "no", "{said}");
        assert_eq!(end, End::Text);
        // No step is spent on the only token that could follow.
        assert!(!text.tokenizer.is_end(*tokens.last().unwrap()));
    }
}

#[test]
fn a_grammar_that_cannot_go_on_ends_one_answer() {
    let (mut engine, text) = open();
    let vocabulary = text.vocabulary().unwrap();
    let prompt = prompt(&text, "Who are you?");
    // All that the grammar allows is forbidden.
    let grammar = Grammar::regex(&vocabulary, "[0-9]{3}").unwrap();
    let mut stuck = settings(&text, Some(grammar), 0.0, 0);
    for id in 0..text.tokenizer.vocab_size() as u32 {
        if text.tokenizer.token_bytes(id).iter().any(u8::is_ascii_digit) {
            stuck.sampling.logit_bias.insert(id, f32::NEG_INFINITY);
        }
    }
    let stuck = engine.open(prompt.clone(), stuck).unwrap();
    let fine = engine.open(prompt, settings(&text, None, 0.0, 0)).unwrap();
    let ended = run(&mut engine, vec![stuck, fine]);
    assert_eq!(ended[0].1, End::Failed(SampleError::Nothing));
    assert_eq!(ended[1].1, End::Text);
}

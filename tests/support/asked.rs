//! Requests to an engine and what is heard of them, to the bit.
//!
//! Use it from a test with `#[path = "support/asked.rs"] mod asked;`.

use penstock::engine::{Census, End, Engine, Event, Session, Settings, What};
use penstock::model::sampling::SamplingParams;
use penstock::shard::now;

/// A fixed stream of numbers.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % below
    }
}

/// A prompt that means nothing.
pub fn prompt(vocab: usize, len: usize, seed: u64) -> Vec<u32> {
    let mut dice = Dice(seed);
    (0..len).map(|_| dice.roll(vocab) as u32).collect()
}

#[derive(Clone)]
pub struct Asked {
    pub prompt: Vec<u32>,
    pub settings: Settings,
}

impl Asked {
    pub fn new(prompt: Vec<u32>, temperature: f32, max_tokens: usize) -> Asked {
        let sampling = SamplingParams {
            temperature,
            seed: prompt.len() as u64,
            logprobs: Some(3),
            ..SamplingParams::default()
        };
        let settings = Settings { sampling, max_tokens: Some(max_tokens), ..Settings::default() };
        Asked { prompt, settings }
    }

    pub fn open(&self, engine: &mut Engine) -> Session {
        engine.open(self.prompt.clone(), self.settings.clone()).unwrap()
    }

    /// What is heard where nobody else is.
    pub fn alone(&self, mut engine: Engine) -> Vec<Heard> {
        let mut session = self.open(&mut engine);
        let mut all = Vec::new();
        while session.end_reason().is_none() {
            all.extend(now(engine.step(&mut [&mut session])).into_iter().filter_map(heard));
        }
        all
    }
}

/// What is heard of a session, log-probabilities to the bit.
#[derive(Clone, Debug, PartialEq)]
pub enum Heard {
    Token { id: u32, logprob: u32, top: Vec<(u32, u32)>, text: String },
    Ended { end: End, text: String },
}

/// `None` for news of the prompt, of which there may be more or less.
pub fn heard(event: Event) -> Option<Heard> {
    match event.what {
        What::Prefilled { done, total } => {
            assert!(done < total);
            None
        }
        What::Token { choice, text, .. } => {
            let (chosen, top) = choice.logprobs.unwrap();
            let top = top.iter().map(|p| (p.id, p.logprob.to_bits())).collect();
            Some(Heard::Token { id: choice.id, logprob: chosen.logprob.to_bits(), top, text })
        }
        What::Ended { end, text } => Some(Heard::Ended { end, text }),
    }
}

/// Nothing is held when nobody is left, and nothing is lost.
pub fn nothing_held(pages: Census) {
    let Census { total, free, cached, held } = pages;
    assert_eq!((free + cached, held), (total, 0));
}

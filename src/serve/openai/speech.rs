//! One answer of a chat, from the engine's updates to what its client is told.

use super::super::family::{Calls, Said};
use super::logprobs::Told;
use crate::model::channels::Voice;
use crate::model::sampling::Choice;

/// What a client is told.
#[derive(Clone, Debug, PartialEq)]
pub enum Piece {
    Said(Said),
    Thought(String),
}

#[derive(Default)]
pub struct Speech {
    /// Takes tool calls out of the text, where there may be some.
    calls: Option<Box<dyn Calls>>,
    /// Calls after the first are dropped.
    single: bool,
    called: bool,
    /// Log-probabilities that have not been told.
    pub told: Vec<Told>,
    scratch: Vec<Said>,
}

impl Speech {
    pub fn new(calls: Option<Box<dyn Calls>>, single: bool) -> Speech {
        Speech { calls, single, ..Speech::default() }
    }

    /// A token was chosen. What it completes is appended to `pieces`.
    pub fn hear(&mut self, choice: Choice, text: String, voice: Voice, pieces: &mut Vec<Piece>) {
        self.told.extend(Told::of(choice, 0));
        if text.is_empty() {
            return;
        }
        if voice == Voice::Thought {
            pieces.push(Piece::Thought(text));
        } else {
            self.say(text, pieces);
        }
    }

    /// The answer has ended, with what was held back.
    pub fn finish(&mut self, text: String, pieces: &mut Vec<Piece>) {
        if !text.is_empty() {
            self.say(text, pieces);
        }
        if let Some(calls) = &mut self.calls {
            calls.finish(&mut self.scratch);
            self.pass(pieces);
        }
    }

    /// Whether the answer has a tool call.
    pub fn called(&self) -> bool {
        self.called
    }

    fn say(&mut self, text: String, pieces: &mut Vec<Piece>) {
        match &mut self.calls {
            None => pieces.push(Piece::Said(Said::Text(text))),
            Some(calls) => {
                calls.push(&text, &mut self.scratch);
                self.pass(pieces);
            }
        }
    }

    fn pass(&mut self, pieces: &mut Vec<Piece>) {
        for said in self.scratch.drain(..) {
            match said {
                Said::Text(text) if text.is_empty() => {}
                Said::Call { index, .. } | Said::Arguments { index, .. }
                    if self.single && index > 0 => {}
                said => {
                    self.called |= matches!(said, Said::Call { .. });
                    pieces.push(Piece::Said(said));
                }
            }
        }
    }
}

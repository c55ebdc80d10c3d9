//! Finds calls in an answer as it comes.

use super::forms::{self, Call, Taken};
use super::{ToolFamily, Tools};

/// A part of an answer: text, or a call by its number in the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    Text(String),
    /// A call begins.
    Begin {
        index: usize,
        name: String,
    },
    /// More of its arguments: all of these, joined, are one JSON object.
    Arguments {
        index: usize,
        json: String,
    },
}

/// Splits an answer into text and calls. Text that may yet turn out to begin a call is held back,
/// and a call until it is whole: one that breaks off is text, so nothing of it may be given away
/// before. White space that follows a call is dropped.
pub struct Calls {
    family: ToolFamily,
    tools: Tools,
    /// What is held back.
    held: String,
    /// Calls so far.
    index: usize,
    /// Something other than white space was said.
    begun: bool,
    /// The last piece was a call.
    behind_call: bool,
    /// How long `held` must be before it is worth another look.
    patience: usize,
}

/// Calls longer than this are looked at again only when they have grown by an eighth.
const SHORT: usize = 4096;

impl Calls {
    /// The tools tell the types of arguments where a form writes all of them as text.
    pub fn new(family: ToolFamily, tools: Tools) -> Calls {
        Calls {
            family,
            tools,
            held: String::new(),
            index: 0,
            begun: false,
            behind_call: false,
            patience: 0,
        }
    }

    /// How many calls there were.
    pub fn count(&self) -> usize {
        self.index
    }

    /// Takes the next piece of the answer.
    pub fn push(&mut self, text: &str) -> Vec<Piece> {
        self.held.push_str(text);
        let mut pieces = Vec::new();
        if self.held.len() >= self.patience {
            self.advance(false, &mut pieces);
        }
        pieces
    }

    /// The answer is over: what is held back is a call that needed no end, or text after all.
    pub fn finish(&mut self) -> Vec<Piece> {
        let mut pieces = Vec::new();
        self.advance(true, &mut pieces);
        pieces
    }

    fn advance(&mut self, done: bool, pieces: &mut Vec<Piece>) {
        self.patience = 0;
        loop {
            if self.behind_call {
                let kept = forms::behind_call(self.family, &self.held, done);
                self.held.drain(..self.held.len() - kept);
            }
            if self.held.is_empty() {
                return;
            }
            let alone = !self.begun || self.behind_call;
            let (before, opener) = forms::find(self.family, alone, &self.held, done);
            self.text(before, pieces);
            let Some(opener) = opener else { return };
            match forms::take(self.family, &self.tools, opener, &self.held, done) {
                Taken::Calls(calls, used) => {
                    self.held.drain(..used);
                    (self.begun, self.behind_call) = (true, true);
                    calls.into_iter().for_each(|call| self.call(call, pieces));
                }
                Taken::More if !done => {
                    if self.held.len() > SHORT {
                        self.patience = self.held.len() + self.held.len() / 8;
                    }
                    return;
                }
                Taken::More | Taken::No => self.text(opener, pieces),
            }
        }
    }

    /// Gives away the first `len` bytes of what is held.
    fn text(&mut self, len: usize, pieces: &mut Vec<Piece>) {
        if len == 0 {
            return;
        }
        let text: String = self.held.drain(..len).collect();
        if !text.trim().is_empty() {
            (self.begun, self.behind_call) = (true, false);
        }
        match pieces.last_mut() {
            Some(Piece::Text(last)) => last.push_str(&text),
            _ => pieces.push(Piece::Text(text)),
        }
    }

    fn call(&mut self, call: Call, pieces: &mut Vec<Piece>) {
        let index = self.index;
        self.index += 1;
        pieces.push(Piece::Begin { index, name: call.name });
        pieces.push(Piece::Arguments { index, json: call.arguments });
    }
}

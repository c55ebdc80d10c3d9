//! Answers as OpenAI's events.

use std::rc::Rc;
use std::time::Duration;

use super::super::account::{Attribution, Bill};
use super::super::answers::Finish;
use super::super::family::Said;
use super::super::fields::Result;
use super::super::house::House;
use super::super::sse::Frames;
use super::super::stream::Teller;
use super::chat::reason;
use super::logprobs::{self, Told};
use super::speech::{Piece, Speech};
use super::wire::{Call, ChatDelta, Delta, Envelope, Function, Head, TextChoice};
use crate::engine::desk::Account;
use crate::model::channels::Voice;
use crate::model::sampling::Choice;

const CHAT: &str = "chat.completion.chunk";
const TEXT: &str = "text_completion";

/// Whose events these are, and what all of them have in common.
struct Common {
    house: Rc<House>,
    head: Head,
    bill: Bill,
    include_usage: bool,
    logprobs: bool,
}

impl Common {
    /// An event. With usage asked for, all but the last say that they have none.
    fn envelope<C>(&self, object: &'static str, choice: C) -> Envelope<'_, [C; 1]> {
        let mut envelope = self.head.envelope(object, [choice]);
        envelope.usage = self.include_usage.then_some(None);
        envelope
    }

    /// Where the time went, in the last event that there is.
    fn attribution(&self, is_last: bool) -> Option<Attribution> {
        (is_last && !self.include_usage).then(|| Attribution::of(&self.bill.sum()))
    }

    fn close(&self, object: &'static str, frames: &mut Frames) {
        if self.include_usage {
            let none: [(); 0] = [];
            let mut envelope = self.head.envelope(object, none);
            envelope.usage = Some(Some(self.bill.usage()));
            envelope.penstock = Some(Attribution::of(&self.bill.sum()));
            frames.data(&envelope);
        }
        frames.done();
    }
}

pub struct ChatTeller {
    common: Common,
    speeches: Vec<Speech>,
    /// Which answers have had their first event.
    begun: Vec<bool>,
    pieces: Vec<Piece>,
}

impl ChatTeller {
    pub fn new(
        house: Rc<House>,
        head: Head,
        bill: Bill,
        speeches: Vec<Speech>,
        include_usage: bool,
        logprobs: bool,
    ) -> ChatTeller {
        let begun = vec![false; speeches.len()];
        let common = Common { house, head, bill, include_usage, logprobs };
        ChatTeller { common, speeches, begun, pieces: Vec::new() }
    }

    fn event(
        &mut self,
        frames: &mut Frames,
        index: usize,
        delta: Delta,
        finish_reason: Option<&'static str>,
        attribution: Option<Attribution>,
    ) {
        let told = std::mem::take(&mut self.speeches[index].told);
        let tokenizer = &*self.common.house.text.tokenizer;
        let logprobs = (self.common.logprobs && !told.is_empty())
            .then_some(logprobs::Chat { tokenizer, told: &told });
        let choice = ChatDelta { index, delta, logprobs, finish_reason };
        let mut envelope = self.common.envelope(CHAT, choice);
        envelope.penstock = attribution;
        frames.data(&envelope);
    }

    /// The first event of an answer says who speaks.
    fn begin(&mut self, frames: &mut Frames, at: usize) {
        if !std::mem::replace(&mut self.begun[at], true) {
            let delta = Delta { role: Some("assistant"), content: Some(""), ..Delta::default() };
            self.event(frames, at, delta, None, None);
        }
    }

    fn tell(&mut self, frames: &mut Frames, at: usize) {
        let mut pieces = std::mem::take(&mut self.pieces);
        for piece in pieces.drain(..) {
            let function = |name, arguments| Function { name, arguments };
            let (text, thought, call) = match piece {
                Piece::Said(Said::Text(text)) => (Some(text), None, None),
                Piece::Thought(text) => (None, Some(text), None),
                Piece::Said(Said::Call { index, id, name }) => {
                    let function = function(Some(name), String::new());
                    let (id, kind) = (Some(id), Some("function"));
                    (None, None, Some(Call { index: Some(index), id, kind, function }))
                }
                Piece::Said(Said::Arguments { index, delta }) => {
                    let function = function(None, delta);
                    (None, None, Some(Call { index: Some(index), id: None, kind: None, function }))
                }
            };
            let delta = Delta {
                role: None,
                content: text.as_deref(),
                reasoning_content: thought.as_deref(),
                tool_calls: call.as_ref().map(|call| [call]),
            };
            self.event(frames, at, delta, None, None);
        }
        self.pieces = pieces;
    }
}

impl Teller for ChatTeller {
    fn started(&mut self, frames: &mut Frames, at: usize, _: Duration) {
        self.begin(frames, at);
    }

    fn token(
        &mut self,
        frames: &mut Frames,
        at: usize,
        choice: Choice,
        text: String,
        voice: Voice,
    ) {
        if voice == Voice::Thought {
            self.common.bill.thought();
        }
        self.speeches[at].hear(choice, text, voice, &mut self.pieces);
        self.tell(frames, at);
    }

    fn ended(
        &mut self,
        frames: &mut Frames,
        at: usize,
        outcome: Result<Finish>,
        text: String,
        account: Account,
    ) {
        self.begin(frames, at);
        self.speeches[at].finish(text, &mut self.pieces);
        self.tell(frames, at);
        match outcome {
            Ok(finish) => {
                let is_last = self.common.bill.take(at, account);
                let attribution = self.common.attribution(is_last);
                let reason = reason(finish, &self.speeches[at]);
                self.event(frames, at, Delta::default(), Some(reason), attribution);
            }
            Err(fault) => frames.data(&fault.envelope()),
        }
    }

    fn closed(&mut self, frames: &mut Frames) {
        self.common.close(CHAT, frames);
    }
}

/// A completion, as far as it is told.
pub struct Continuation {
    /// The prompt, where it is to be repeated.
    echo: Option<String>,
    /// Characters told.
    length: usize,
    told: Vec<Told>,
}

impl Continuation {
    pub fn new(echo: Option<String>) -> Continuation {
        Continuation { echo, length: 0, told: Vec::new() }
    }

    /// The prompt first, the first time.
    pub fn hear(&mut self, choice: Option<Choice>, text: String) -> String {
        let text = match self.echo.take() {
            Some(prompt) => {
                self.length += prompt.chars().count();
                let offset = self.length;
                self.note(choice, offset);
                self.length += text.chars().count();
                return prompt + &text;
            }
            None => text,
        };
        self.note(choice, self.length);
        self.length += text.chars().count();
        text
    }

    fn note(&mut self, choice: Option<Choice>, offset: usize) {
        self.told.extend(choice.and_then(|choice| Told::of(choice, offset)));
    }

    pub fn told(&mut self) -> Vec<Told> {
        std::mem::take(&mut self.told)
    }
}

pub struct TextTeller {
    common: Common,
    texts: Vec<Continuation>,
}

impl TextTeller {
    pub fn new(
        house: Rc<House>,
        head: Head,
        bill: Bill,
        texts: Vec<Continuation>,
        include_usage: bool,
        logprobs: bool,
    ) -> TextTeller {
        let common = Common { house, head, bill, include_usage, logprobs };
        TextTeller { common, texts }
    }

    fn event(
        &mut self,
        frames: &mut Frames,
        index: usize,
        text: &str,
        finish_reason: Option<&'static str>,
        attribution: Option<Attribution>,
    ) {
        let told = self.texts[index].told();
        let tokenizer = &*self.common.house.text.tokenizer;
        let logprobs = (self.common.logprobs && !told.is_empty())
            .then_some(logprobs::Legacy { tokenizer, told: &told });
        let choice = TextChoice { index, text, logprobs, finish_reason };
        let mut envelope = self.common.envelope(TEXT, choice);
        envelope.penstock = attribution;
        frames.data(&envelope);
    }
}

impl Teller for TextTeller {
    fn token(
        &mut self,
        frames: &mut Frames,
        at: usize,
        choice: Choice,
        text: String,
        voice: Voice,
    ) {
        if voice == Voice::Thought {
            self.common.bill.thought();
        }
        let text = self.texts[at].hear(Some(choice), text);
        if !text.is_empty() {
            self.event(frames, at, &text, None, None);
        }
    }

    fn ended(
        &mut self,
        frames: &mut Frames,
        at: usize,
        outcome: Result<Finish>,
        text: String,
        account: Account,
    ) {
        let text = self.texts[at].hear(None, text);
        match outcome {
            Ok(finish) => {
                let is_last = self.common.bill.take(at, account);
                let attribution = self.common.attribution(is_last);
                self.event(frames, at, &text, Some(finish.name()), attribution);
            }
            Err(fault) => {
                if !text.is_empty() {
                    self.event(frames, at, &text, None, None);
                }
                frames.data(&fault.envelope());
            }
        }
    }

    fn closed(&mut self, frames: &mut Frames) {
        self.common.close(TEXT, frames);
    }
}

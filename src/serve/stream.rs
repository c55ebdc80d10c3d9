//! Answers as server-sent events while they are written.

use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::Bytes;

use super::answers::{Answers, Finish};
use super::fields::Result;
use super::reply::Events;
use super::sse::Frames;
use crate::engine::desk::{Account, Update};
use crate::model::channels::Voice;
use crate::model::sampling::Choice;

/// Writes updates down in one protocol's events. `at` is the answer's place among those of the
/// request.
pub trait Teller {
    fn started(&mut self, _: &mut Frames, _at: usize, _waited: Duration) {}

    fn token(&mut self, frames: &mut Frames, at: usize, choice: Choice, text: String, voice: Voice);

    /// `text` is what was held back. After a fault nothing more is told.
    fn ended(
        &mut self,
        frames: &mut Frames,
        at: usize,
        outcome: Result<Finish>,
        text: String,
        account: Account,
    );

    /// All answers have ended well.
    fn closed(&mut self, _: &mut Frames) {}
}

pub struct Stream<T> {
    /// `None` once all is told.
    answers: Option<Answers>,
    frames: Frames,
    teller: T,
}

impl<T: Teller> Stream<T> {
    pub fn new(answers: Answers, teller: T) -> Stream<T> {
        Stream { answers: Some(answers), frames: Frames::default(), teller }
    }
}

impl<T: Teller> Events for Stream<T> {
    /// All that is there goes into one chunk, up to what one should hold.
    fn poll_next(&mut self, context: &mut Context) -> Poll<Option<Bytes>> {
        while let (Some(answers), false) = (&mut self.answers, self.frames.is_full()) {
            let (at, update) = match answers.poll_next(context) {
                Poll::Ready(Some(update)) => update,
                Poll::Ready(None) => {
                    self.teller.closed(&mut self.frames);
                    self.answers = None;
                    break;
                }
                Poll::Pending => {
                    return match self.frames.take() {
                        Some(chunk) => Poll::Ready(Some(chunk)),
                        None => Poll::Pending,
                    };
                }
            };
            match update {
                Update::Started { waited } => self.teller.started(&mut self.frames, at, waited),
                Update::Token { choice, text, voice } => {
                    self.teller.token(&mut self.frames, at, choice, text, voice);
                }
                Update::Ended { end, text, account } => {
                    let outcome = answers.outcome(at, &end);
                    let failed = outcome.is_err();
                    self.teller.ended(&mut self.frames, at, outcome, text, account);
                    if failed {
                        // The others leave with it: no client listens on after an error.
                        self.answers = None;
                    }
                }
            }
        }
        Poll::Ready(self.frames.take())
    }
}

//! The answers of one request to the server: one or several requests to the engine, whose updates
//! come in as they come.
//!
//! Dropping it, as happens when the client leaves, cancels whatever has not ended.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::fault::Fault;
use super::fields::Result;
use super::house::{House, Registered, Updates};
use crate::engine::End;
use crate::engine::desk::{Account, Request, Update};

/// Why an answer that is good ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model ended it, or a stop string did.
    Stop,
    /// It became as long as it may.
    Length,
}

impl Finish {
    pub fn name(self) -> &'static str {
        match self {
            Finish::Stop => "stop",
            Finish::Length => "length",
        }
    }
}

pub struct Answers {
    house: Rc<House>,
    names: Vec<Registered>,
    each: Vec<One>,
    /// Whose turn it is to be looked at first.
    turn: usize,
    /// Updates that were looked at before anybody was told of them.
    early: VecDeque<(usize, Update)>,
}

struct One {
    /// `None` once it has ended.
    updates: Option<Box<dyn Updates>>,
    max_wait: Option<Duration>,
}

impl Answers {
    /// Hands the requests in, all or none, and makes them known under each of `names`.
    pub fn order(
        house: &Rc<House>,
        names: &[&str],
        requests: impl IntoIterator<Item = Request>,
    ) -> Result<Answers> {
        let (mut each, mut ids) = (Vec::new(), Vec::new());
        for request in requests {
            let max_wait = request.max_wait;
            let updates = house.counter.submit(request).map_err(Fault::refused)?;
            ids.push(updates.id());
            each.push(One { updates: Some(updates), max_wait });
        }
        let names = names.iter().map(|name| house.register(name, &ids)).collect();
        let early = VecDeque::new();
        Ok(Answers { house: Rc::clone(house), names, each, turn: 0, early })
    }

    /// Waits until the first of them has left the queue, and says how long that took. Until then
    /// nothing is said to the client, so that a status can still tell what went wrong.
    pub async fn begin(&mut self) -> Result<Duration> {
        let Some((at, update)) = self.next().await else {
            return Err(Fault::server("nothing was asked of the engine"));
        };
        let waited = match &update {
            Update::Started { waited } => *waited,
            Update::Token { .. } => Duration::ZERO,
            Update::Ended { end, account, .. } => {
                self.outcome(at, end)?;
                account.queued
            }
        };
        self.early.push_back((at, update));
        Ok(waited)
    }

    pub async fn next(&mut self) -> Option<(usize, Update)> {
        poll_fn(|context| self.poll_next(context)).await
    }

    /// The next update of any of them, each in its turn; `None` when all have ended.
    pub fn poll_next(&mut self, context: &mut Context) -> Poll<Option<(usize, Update)>> {
        if let Some(early) = self.early.pop_front() {
            return Poll::Ready(Some(early));
        }
        let mut all_ended = true;
        for i in 0..self.each.len() {
            let at = (self.turn + i) % self.each.len();
            let one = &mut self.each[at];
            let Some(updates) = &mut one.updates else { continue };
            all_ended = false;
            let update = match updates.poll_next(context) {
                Poll::Pending => continue,
                Poll::Ready(Some(update)) => update,
                Poll::Ready(None) => Update::Ended {
                    end: End::Lost("the engine stopped before the answer's end".into()),
                    text: String::new(),
                    account: Account::default(),
                },
            };
            if let Update::Ended { .. } = &update {
                one.updates = None;
            }
            self.turn = at + 1;
            return Poll::Ready(Some((at, update)));
        }
        match all_ended {
            true => Poll::Ready(None),
            false => Poll::Pending,
        }
    }

    /// What an end means to the client.
    pub fn outcome(&self, at: usize, end: &End) -> Result<Finish> {
        match end {
            End::Text | End::Stop => Ok(Finish::Stop),
            End::Length | End::ContextFull | End::NoPages => Ok(Finish::Length),
            End::Failed(error) => Err(Fault::server(error.to_string())),
            End::Lost(reason) => Err(Fault::server(reason.as_str())),
            End::Expired => Err(self.expired(at)),
            End::Cancelled => Err(self.cancelled()),
        }
    }

    fn expired(&self, at: usize) -> Fault {
        let limit = self.each[at].max_wait.unwrap_or_default();
        Fault::waited(limit, self.house.counter.load().first_token)
    }

    fn cancelled(&self) -> Fault {
        let asked = self.names.iter().any(Registered::is_cancelled);
        match self.house.counter.load().draining && !asked {
            true => Fault::draining(),
            false => Fault::cancelled(),
        }
    }
}

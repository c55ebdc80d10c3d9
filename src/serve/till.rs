//! The engine's desk as the protocols know it, with a line in the log for every request.

use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::house::{Counter, Updates};
use super::log::{Access, Log};
use crate::engine::desk::{Account, Desk, Load, Refusal, Request, Ticket, Update};
use crate::engine::scheduler::Priority;
use crate::engine::telemetry::{end_name, refusal_name};

pub struct Till {
    pub desk: Desk,
    pub log: Log,
}

impl Counter for Till {
    fn submit(&self, request: Request) -> Result<Box<dyn Updates>, Refusal> {
        let (priority, prompt_tokens) = (request.priority, request.prompt.len());
        let began = Instant::now();
        let entry = Entry { log: self.log.clone(), priority, prompt_tokens, began };
        match self.desk.submit(request) {
            Ok(ticket) => Ok(Box::new(Watched { ticket, entry: Some(entry), heard: 0 })),
            Err(refusal) => {
                entry.close(0, refusal_name(&refusal), &Account::default());
                Err(refusal)
            }
        }
    }

    fn load(&self) -> Load {
        self.desk.load()
    }

    fn cancel(&self, id: u64) -> bool {
        self.desk.cancel(id)
    }
}

/// A request's line in the log, before it is written.
struct Entry {
    log: Log,
    priority: Priority,
    prompt_tokens: usize,
    began: Instant,
}

impl Entry {
    fn close(self, id: u64, end: &'static str, account: &Account) {
        let Account { queued, prefill, decode, answer_tokens, .. } = *account;
        let gaps = answer_tokens.saturating_sub(1) as f32;
        self.log.access(Access {
            id,
            priority: self.priority,
            prompt_tokens: self.prompt_tokens,
            answer_tokens,
            queued,
            first_token: (prefill > Duration::ZERO).then_some(queued + prefill),
            taken: self.began.elapsed(),
            speed: (decode > Duration::ZERO).then(|| gaps / decode.as_secs_f32()),
            end,
        });
    }
}

struct Watched {
    ticket: Ticket,
    /// `None` once it is written.
    entry: Option<Entry>,
    /// Tokens that the client was told of.
    heard: usize,
}

impl Updates for Watched {
    fn id(&self) -> u64 {
        self.ticket.id()
    }

    fn poll_next(&mut self, context: &mut Context) -> Poll<Option<Update>> {
        let update = self.ticket.poll_next(context);
        match &update {
            Poll::Ready(Some(Update::Token { .. })) => self.heard += 1,
            Poll::Ready(Some(Update::Ended { end, account, .. })) => {
                if let Some(entry) = self.entry.take() {
                    entry.close(self.ticket.id(), end_name(end), account);
                }
            }
            Poll::Ready(Some(Update::Started { .. }) | None) | Poll::Pending => {}
        }
        update
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some(entry) = self.entry.take() {
            let account = Account { answer_tokens: self.heard, ..Account::default() };
            entry.close(self.ticket.id(), "gone", &account);
        }
    }
}

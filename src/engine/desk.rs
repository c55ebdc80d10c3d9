//! Where requests are handed in and answers come out.
//!
//! Both sides live on the lead's reactor: sockets in one task queue, the steps in another. Nothing
//! here is shared between threads, and nobody waits for a lock.

use std::time::Duration;

use super::scheduler::{Batching, Priority};
use super::{End, Error, Settings};
use crate::model::channels::Voice;
use crate::model::sampling::Choice;

/// What is asked of the engine.
pub struct Request {
    pub prompt: Vec<u32>,
    pub settings: Settings,
    pub priority: Priority,
    pub batching: Batching,
    /// It is refused when its first token is not expected within this, and ends when it has waited
    /// this long in the queue.
    pub max_wait: Option<Duration>,
}

/// Why a request is not taken.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("{waiting} requests wait already, and no more are taken")]
    Full { waiting: usize, retry_after: Duration },

    #[error(
        "the first token is expected in {} ms, which is more than the {} ms asked for",
        expected.as_millis(), limit.as_millis()
    )]
    Late { expected: Duration, limit: Duration, retry_after: Duration },

    #[error("the server is about to stop and takes no more requests")]
    Draining,

    #[error(transparent)]
    Invalid(#[from] Error),
}

/// What becomes of a request, in this order: one `Started`, tokens, one `Ended`. One that ends
/// before it has begun has no `Started`.
#[derive(Clone, Debug)]
pub enum Update {
    /// It left the queue.
    Started { waited: Duration },
    /// `text` is what the token completes: whole characters, possibly none.
    Token { choice: Choice, text: String, voice: Voice },
    /// `text` is what was still held back.
    Ended { end: End, text: String, account: Account },
}

/// Where the time of an answer went, and what it cost. Times are as the request lived through
/// them; bytes are its share of each step's, by rows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Account {
    /// In the queue, and while preempted.
    pub queued: Duration,
    /// From leaving the queue to the first token.
    pub prefill: Duration,
    /// From the first token to the last.
    pub decode: Duration,
    /// Of both, waiting for the disk.
    pub disk: Duration,
    pub prompt_tokens: usize,
    /// Of these, those whose keys and values an earlier request had left.
    pub shared_tokens: usize,
    pub answer_tokens: usize,
    pub steps: u64,
    /// Requests in its steps, on average.
    pub batch: f32,
    pub preempted: u32,
    /// Tokens that were guessed, and those of them that were right.
    pub drafted: u64,
    pub accepted: u64,
    /// Bytes of weights that went through the cores for it.
    pub moved: u64,
    /// Bytes of experts that were in memory, and that were not.
    pub held: u64,
    pub read: u64,
}

/// How busy the engine is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    pub running: usize,
    pub waiting: usize,
    pub pages: usize,
    pub free_pages: usize,
    /// When a request that came now would see its first token.
    pub first_token: Duration,
    pub draining: bool,
}

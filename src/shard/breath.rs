//! Going through the reactor in the middle of a step.

use std::time::{Duration, Instant};

use super::Error;
use crate::host::bell::{Bell, Ear};

/// A bell that a shard rings for itself.
pub struct Breath {
    bell: Bell,
    ear: Ear,
    every: Duration,
    last: Instant,
}

/// When a shard asked whether to breathe, and when it went on: the same where it did not.
#[derive(Clone, Copy)]
pub struct Pause {
    pub begin: Instant,
    pub end: Instant,
}

impl Breath {
    /// To be called on the reactor it is for.
    pub fn new(every: Duration) -> Result<Breath, Error> {
        let made = Bell::new().and_then(|bell| Ok((bell.ear()?, bell)));
        let (ear, bell) = made.map_err(|e| Error::Reactor { reason: e.to_string() })?;
        Ok(Breath { bell, ear, every, last: Instant::now() })
    }

    /// Breathes if it is time to.
    pub async fn breathe(&mut self) -> Pause {
        let begin = Instant::now();
        if begin.saturating_duration_since(self.last) < self.every {
            return Pause { begin, end: begin };
        }
        self.bell.ring();
        self.ear.listen().await;
        self.last = Instant::now();
        Pause { begin, end: self.last }
    }
}

//! What a shard counts of itself, and how the lead hears of it.
//!
//! A mate counts in its own memory. It hands all of it over by a ring of messages, about every
//! tenth of a second and before it parks; a message has the whole count, so that one that finds no
//! room is no loss.

use std::time::{Duration, Instant};

use rtrb::{Consumer, Producer, RingBuffer};

/// Counted from the beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Computing; in a step with nothing to compute; asleep. A lead's times are those of stages:
    /// what else it does is the engine's to tell.
    pub computing: Duration,
    pub spinning: Duration,
    pub parked: Duration,
    /// Chunks of stages, and those of them that were another shard's.
    pub chunks: u64,
    pub stolen: u64,
    /// Reads that this shard's mover sent to the disk.
    pub reads: u64,
    pub bytes: u64,
}

/// How old a mate's counters may be while it computes.
const OFTEN: Duration = Duration::from_millis(100);

/// A mate's end.
pub struct Teller {
    ring: Producer<Counters>,
    told: Instant,
}

/// The lead's end, and what it heard last.
pub struct Listener {
    ring: Consumer<Counters>,
    last: Counters,
}

pub fn pair() -> (Teller, Listener) {
    let (to, from) = RingBuffer::new(2);
    (Teller { ring: to, told: Instant::now() }, Listener { ring: from, last: Counters::default() })
}

impl Teller {
    /// Whether the lead should hear again.
    pub fn is_due(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.told) >= OFTEN
    }

    pub fn tell(&mut self, now: Instant, counters: Counters) {
        self.told = now;
        // Full, the lead has not asked since: the next message says it all.
        let _ = self.ring.push(counters);
    }
}

impl Listener {
    pub fn latest(&mut self) -> Counters {
        while let Ok(counters) = self.ring.pop() {
            self.last = counters;
        }
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_finds_no_room_is_in_the_next_message() {
        let (mut teller, mut listener) = pair();
        let now = Instant::now();
        let counters = |chunks| Counters { chunks, ..Counters::default() };
        assert!(!teller.is_due(now) && teller.is_due(now + 2 * OFTEN));
        (1..=5).for_each(|n| teller.tell(now, counters(n)));
        assert_eq!(listener.latest(), counters(2));
        teller.tell(now, counters(6));
        assert_eq!([listener.latest(), listener.latest()], [counters(6); 2]);
    }
}

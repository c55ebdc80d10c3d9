//! Floor 3: shards. A shard is a seat: one pinned thread with one glommio reactor.
//!
//! Owns threads, their cores, their reactors, the rings between them, and the order in which a
//! shard looks at things. Knows no session and no layer: what shards compute is handed to them by
//! the lead's [`Crew`], stage by stage. Imports `model` (what a shard holds in its hands), `host`,
//! `base`.
//!
//! ```text
//! shard 0, the lead          engine, and later the socket; the thread the program began on
//! shards 1.., its mates      wait for the lead's word
//!
//! orders:  lead ──ring──▶ mate     begin a step, rest, leave; the only ring that is waited for, so
//!                                  no edge of the ring graph can close a circle
//! stages:  crew's board            see `host::crew`
//! counts:  mate ──ring──▶ lead     what the mate has counted of itself (`count`); nobody waits for it
//! spans:   shard ──ring──▶ lead    where a timeline is written, see `base::trace`
//! reads:   lead ══rings══▶ mate     where experts stream: reads to send, and what came of them;
//!                                  see `host::mover`
//! ```
//!
//! **Poll order.** In a step a shard looks at (1) the board, for a stage to help with, (2) its ring
//! of orders, and (3) its mover: what has come from disk, what may be sent. Between two chunks of a
//! stage it looks at (3) alone. It spins, and never parks. It *breathes* when a millisecond has passed: it
//! sends itself once through its reactor, so that sockets and timers on it are served
//! ([`Lead::breathe`]). Between steps it looks at its orders alone, spins for a moment (the next
//! token of an answer is not far), and then parks in its reactor until its bell rings.
//!
//! With one core there are no mates, no rings and no board: the same code without its waiting.

use std::time::Duration;

use crate::base::trace::Tracer;
use crate::host::mover::Kit;

mod breath;
mod count;
mod lead;
mod mate;
mod queues;

use std::future::Future;

pub use count::Counters;
pub use glommio::Task;
pub use lead::{Lead, now, run};
pub use queues::Queues;

/// Where shards sit and how they live.
#[derive(Clone, Debug)]
pub struct Seats {
    /// The core of each shard, the lead's first. `None` leaves one to the host's scheduler.
    pub cores: Vec<Option<usize>>,
    /// How long a shard computes before it breathes.
    pub breath: Duration,
}

impl Seats {
    pub fn on(cores: impl IntoIterator<Item = usize>) -> Seats {
        Seats { cores: cores.into_iter().map(Some).collect(), breath: BREATH }
    }

    /// So many shards on whatever cores there are, for tests.
    pub fn anywhere(shards: usize) -> Seats {
        Seats { cores: vec![None; shards], breath: BREATH }
    }
}

/// Lets so much time pass. To be awaited inside a reactor.
pub fn sleep(time: Duration) -> impl Future<Output = ()> {
    let timer = glommio::timer::Timer::new(time);
    async move {
        timer.await;
    }
}

/// A breath takes 6 to 9 µs, so that this costs less than a hundredth; a socket on the same reactor
/// answers within it.
const BREATH: Duration = Duration::from_millis(1);

/// What the lead tells a mate.
enum Order {
    /// A step begins: look at the board and at nothing else for long.
    Begin,
    /// It is over.
    Rest,
    /// Open a mover, and turn it from now on.
    Equip(Box<Kit>),
    /// Note spans from now on: of stages, and of reads.
    Trace(Box<[Tracer; 2]>),
    /// The program is over.
    Leave,
}

/// Orders on their way to one mate: at most a rest, tracers, a kit, a beginning, a rest and a leave.
const ORDERS: usize = 6;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "a reactor cannot be started: {reason}; io_uring must be allowed (kernel.io_uring_disabled \
         = 0, no seccomp filter against it) and RLIMIT_MEMLOCK be 512 KiB or more"
    )]
    Reactor { reason: String },

    #[error("cannot start a thread for shard {seat}: {reason}")]
    Thread { seat: usize, reason: std::io::Error },
}

#[cfg(test)]
mod tests;

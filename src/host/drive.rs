//! How bytes are asked of a disk: what a read says, and what comes back.
//!
//! Memory travels with the read. A [`Read`] owns the [`Region`] that it is to fill, and the region
//! comes back with [`Done`], whatever happened. So nobody can look at bytes while the disk still
//! writes them, and nobody can give the memory to something else.
//!
//! A read goes through three states:
//!
//! ```text
//! queued ──turn──▶ sent ──turn──▶ done ──done()──▶ handed back
//!    └──give_up──────────────────▲
//! ```
//!
//! Queued reads are sent by urgency, and in order within one urgency; those of a ticket can be
//! hurried or given up. What was sent comes back when the disk gives it back and cannot be
//! recalled: the disk may be writing to it.

use std::time::Duration;

use super::arena::Region;
use crate::base::trace::Tracer;

/// How much a read matters. A greater one overtakes all lesser ones that were not sent yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Urgency {
    /// May be useful some day.
    Warm,
    /// Will probably be needed soon.
    Forecast,
    /// Somebody waits for it.
    Demand,
}

impl Urgency {
    pub const ALL: [Urgency; 3] = [Urgency::Warm, Urgency::Forecast, Urgency::Demand];

    pub const fn name(self) -> &'static str {
        match self {
            Urgency::Warm => "warm",
            Urgency::Forecast => "forecast",
            Urgency::Demand => "demand",
        }
    }
}

/// One block to be read: one request to the disk, so at most some megabytes.
#[derive(Debug)]
pub struct Read {
    /// The caller's name for it. Several reads may bear the same, which are then hurried and given
    /// up together.
    pub ticket: u64,
    /// Which of the files that the drive was made with.
    pub file: u32,
    /// A multiple of 4096, as the region's length and address are.
    pub offset: u64,
    /// Filled whole.
    pub into: Region,
    /// What the bytes must sum up to (`base::sum`), if that is to be looked at.
    pub sum: Option<u64>,
    pub urgency: Urgency,
}

/// Why a region was not filled with what was asked for. Its bytes are then anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("{}", std::io::Error::from_raw_os_error(*.0))]
    Io(i32),
    /// The file ends within the block.
    #[error("the file ends after {got} bytes of the block")]
    Short { got: usize },
    /// What was read is not what was written once.
    #[error("the block's checksum does not match")]
    Sum,
    /// It was given up before it was sent.
    #[error("given up")]
    Dropped,
}

/// A read that is over. The region always comes back.
#[derive(Debug)]
pub struct Done {
    pub ticket: u64,
    pub into: Region,
    pub outcome: Result<(), Fault>,
}

/// What a drive has read on the thread it is asked on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    pub reads: u64,
    pub bytes: u64,
}

/// Where reads are sent: a disk, several, or a simulated one. Nothing here ever blocks.
pub trait Drive {
    /// Queues a read. It is sent by a [`turn`](Drive::turn).
    fn read(&mut self, read: Read);

    /// Sends what may be sent and takes in what has come. To be called often: nothing else moves
    /// a byte. Costs nanoseconds when there is nothing to do.
    fn turn(&mut self);

    /// The next read that is over, in no particular order.
    fn done(&mut self) -> Option<Done>;

    /// Gives another urgency to all reads of a ticket that were not sent yet. They queue up behind
    /// those that have it already, in the order they had among themselves.
    fn hurry(&mut self, ticket: u64, urgency: Urgency);

    /// Reads of a ticket that were not sent yet come back as [`Fault::Dropped`]; those that were
    /// come as they will.
    fn give_up(&mut self, ticket: u64);

    /// Reads that [`done`](Drive::done) has not handed back yet.
    fn under_way(&self) -> usize;

    /// To be asked before the thread goes to sleep. If so, this drive is asked for nothing more
    /// before its thread's bell is rung; if not, it has work, and is to be turned.
    fn may_rest(&mut self) -> bool {
        self.under_way() == 0
    }

    /// A clock, from an arbitrary start.
    fn now(&self) -> Duration;

    /// What this thread's part of it has read. One that does not count says nothing.
    fn moved(&self) -> Moved {
        Moved::default()
    }

    /// Has this thread's reads noted from now on, by a drive that knows how to.
    fn trace(&mut self, _tracer: Tracer) {}
}

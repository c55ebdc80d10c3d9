//! What moves bytes from disk into memory on one shard: reads wait here by urgency, a few at a time
//! are before the kernel, and what has come is verified.
//!
//! Few reads saturate a disk, and what is before the kernel cannot be overtaken. So there is a
//! bound on how many reads are sent, and a smaller one for those that nobody waits for.
//!
//! ```text
//! a shard alone      Mover                           read ─▶ queue ─▶ ring ─▶ sum ─▶ done
//! several shards     Fleet ── own Mover
//!                      └───── Line ══▶ Kit, opened as a Mover on another shard's thread
//! ```
//!
//! A [`Fleet`] spreads reads over its own mover and those at the other ends of its lines. What it
//! asks of them goes through one ring of messages each way; regions travel with the messages.

mod fleet;
mod queue;
#[cfg(all(test, not(miri)))]
mod tests;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::arena::Arena;
use super::bell::Bell;
use super::drive::{Done, Drive, Fault, Moved, Read, Urgency};
use super::ring::{Grants, Landed, Ring, RingError, Source};
use crate::base::sum::sum;
use crate::base::trace::{Tracer, What};

use fleet::{Command, Ends, Report};
pub use fleet::{Fleet, Line, line};
use queue::{Item, Queue};

/// How many reads are before the kernel at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Depth {
    pub demand: usize,
    /// Beyond so many, only a demand is sent.
    pub other: usize,
}

impl Depth {
    /// Half of it for what nobody waits for.
    pub fn of(depth: usize) -> Depth {
        Depth { demand: depth.max(1), other: (depth / 2).max(1) }
    }

    fn of_urgency(self, urgency: Urgency) -> usize {
        match urgency {
            Urgency::Demand => self.demand,
            Urgency::Forecast | Urgency::Warm => self.other.min(self.demand),
        }
    }
}

/// What a mover is made of.
#[derive(Clone, Debug)]
pub struct Setup {
    pub files: Vec<Source>,
    /// Memory that regions will be of. It is registered with the kernel, which takes all of it at
    /// once; regions of other arenas are read into as well, at a higher cost.
    pub arenas: Vec<Arena>,
    pub depth: Depth,
}

/// A mover that is not open yet, to be sent to the thread that it will live on.
pub struct Kit {
    setup: Setup,
    ends: Option<Ends>,
}

impl Kit {
    /// For a mover that serves the thread it is on. [`line`] makes those that serve another.
    pub fn new(setup: Setup) -> Kit {
        Kit { setup, ends: None }
    }
}

/// What a read is known by while it is before the kernel.
struct Load {
    ticket: u64,
    sum: Option<u64>,
    tag: u32,
    urgency: Urgency,
    /// When it was sent, where that is to be noted.
    sent: Option<Instant>,
}

/// Reads on one ring, for the thread that it was opened on.
pub struct Mover {
    queue: Queue,
    ring: Ring<Load>,
    depth: Depth,
    landed: Vec<Landed<Load>>,
    done: VecDeque<(Done, u32)>,
    ends: Option<Ends>,
    began: Instant,
    moved: Moved,
    tracer: Tracer,
}

impl Mover {
    /// Makes the ring, on the thread that will use it. If that fails, the other end of the kit's
    /// line, where it has one, is told too.
    pub fn open(kit: Kit) -> Result<Mover, RingError> {
        let Kit { setup, mut ends } = kit;
        let Setup { files, arenas, depth } = setup;
        let depth = Depth { demand: depth.demand.max(1), other: depth.other.max(1) };
        let ring = match Ring::open(&files, &arenas, depth.demand) {
            Ok(ring) => ring,
            Err(error) => {
                ends.iter_mut().for_each(|ends| ends.failed(error.to_string()));
                return Err(error);
            }
        };
        if let Some(ends) = &mut ends {
            ends.report(Report::Open(ring.grants().clone()));
        }
        Ok(Mover {
            queue: Queue::default(),
            ring,
            depth,
            landed: Vec::new(),
            done: VecDeque::new(),
            ends,
            began: Instant::now(),
            moved: Moved::default(),
            tracer: Tracer::default(),
        })
    }

    /// What the kernel granted.
    pub fn grants(&self) -> &Grants {
        self.ring.grants()
    }

    pub fn depth(&self) -> Depth {
        self.depth
    }

    /// The ticket of the read that is before the kernel for the longest time, if that is longer
    /// than this. It comes back when the disk gives it back; until then its region is the disk's.
    pub fn overdue(&self, bound: Duration) -> Option<(u64, Duration)> {
        let (load, time) = self.ring.oldest()?;
        (time > bound).then_some((load.ticket, time))
    }

    /// As [`Drive::turn`], but waits for at most this long while there are reads before the kernel
    /// and none has come: for a thread with nothing else to do.
    pub fn wait(&mut self, timeout: Duration) {
        self.turn();
        if self.done.is_empty() && self.ring.under_way() > 0 {
            let landed = &mut self.landed;
            self.ring.wait(timeout, |read| landed.push(read));
            self.settle();
        }
    }

    /// Has the bell rung whenever a read is over, for a thread that sleeps in its reactor.
    pub fn ring_bell(&self, bell: &Bell) -> std::io::Result<()> {
        self.ring.ring_bell(bell)
    }

    fn queue(&mut self, read: Read, tag: u32) {
        self.queue.push(Item { read, tag });
    }

    /// Does what the other end of the line asks for.
    fn listen(&mut self) {
        while let Some(command) = self.ends.as_mut().and_then(Ends::next) {
            match command {
                Command::Read { read, tag } => self.queue(read, tag),
                Command::Hurry { ticket, urgency } => self.queue.hurry(ticket, urgency),
                Command::GiveUp { ticket } => self.give_up(ticket),
            }
        }
    }

    /// Puts before the kernel what may be.
    fn feed(&mut self) {
        while let Some(urgency) = self.queue.urgency()
            && self.ring.under_way() < self.depth.of_urgency(urgency)
            && let Some(Item { read, tag }) = self.queue.pop()
        {
            let Read { ticket, file, offset, into, sum, urgency } = read;
            let sent = self.tracer.is_on().then(Instant::now);
            let load = Load { ticket, sum, tag, urgency, sent };
            // Refused, it is over.
            self.landed.extend(self.ring.send(file, offset, into, load));
        }
    }

    /// Sends what takes the place of what has come, and only then looks at that: the disk shall
    /// not wait for sums.
    fn settle(&mut self) {
        if self.landed.is_empty() {
            return;
        }
        self.feed();
        self.ring.flush();
        for Landed { load, into, outcome } in self.landed.drain(..) {
            let Load { ticket, sum: wanted, tag, urgency, sent } = load;
            self.moved.reads += 1;
            self.moved.bytes += into.len() as u64;
            if let Some(sent) = sent {
                let (bytes, urgency) = (into.len() as u32, urgency.name());
                self.tracer.note(What::Read { ticket, bytes, urgency }, sent, Instant::now());
            }
            let outcome = outcome.and_then(|()| match wanted {
                Some(wanted) if sum(&into) != wanted => Err(Fault::Sum),
                _ => Ok(()),
            });
            self.done.push_back((Done { ticket, into, outcome }, tag));
        }
        self.answer();
    }

    /// Tells the other end of the line what is over.
    fn answer(&mut self) {
        let Some(ends) = &mut self.ends else { return };
        while let Some((done, tag)) = self.done.pop_front() {
            ends.report(Report::Done { done, tag });
        }
    }
}

impl Drive for Mover {
    fn may_rest(&mut self) -> bool {
        self.turn();
        let idle = self.queue.is_empty() && self.ring.under_way() == 0 && self.done.is_empty();
        idle && self.ends.as_mut().is_none_or(Ends::rest)
    }

    fn read(&mut self, read: Read) {
        self.queue(read, 0);
    }

    fn turn(&mut self) {
        if self.ends.is_some() {
            self.listen();
        }
        if self.queue.is_empty() && self.ring.under_way() == 0 {
            return;
        }
        self.feed();
        let landed = &mut self.landed;
        self.ring.turn(|read| landed.push(read));
        self.settle();
    }

    fn done(&mut self) -> Option<Done> {
        self.done.pop_front().map(|(done, _)| done)
    }

    fn hurry(&mut self, ticket: u64, urgency: Urgency) {
        self.queue.hurry(ticket, urgency);
    }

    fn give_up(&mut self, ticket: u64) {
        for Item { read, tag } in self.queue.take(ticket) {
            self.done.push_back((dropped(read), tag));
        }
        self.answer();
    }

    fn under_way(&self) -> usize {
        self.queue.len() + self.ring.under_way() + self.done.len()
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn moved(&self) -> Moved {
        self.moved
    }

    fn trace(&mut self, tracer: Tracer) {
        self.tracer = tracer;
    }
}

fn dropped(read: Read) -> Done {
    Done { ticket: read.ticket, into: read.into, outcome: Err(Fault::Dropped) }
}

impl Drop for Mover {
    /// Waits for the kernel. The other end of a line gets all its regions back.
    fn drop(&mut self) {
        if self.ends.is_none() || std::thread::panicking() {
            // The ring waits when it is dropped.
            return;
        }
        self.listen();
        while let Some(Item { read, tag }) = self.queue.pop() {
            self.done.push_back((dropped(read), tag));
        }
        let landed = &mut self.landed;
        self.ring.finish(|read| landed.push(read));
        self.settle();
        self.answer();
    }
}

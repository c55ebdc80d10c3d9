//! A disk and a clock that do what a seed says, in no time: reads overtake each other, come late,
//! come damaged or come back as errors. What is on this disk is in memory.
//!
//! For tests that go through thousands of schedules; the same seed is the same schedule.

use std::collections::VecDeque;
use std::time::Duration;

use super::drive::{Done, Drive, Fault, Read, Urgency};
use crate::base::sum::sum;

/// How often, in 65,536 reads, something is wrong.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// An error of the drive.
    pub error: u16,
    /// A bit that is not what it was.
    pub flip: u16,
    /// A file that ends too early.
    pub short: u16,
    /// A read that takes seconds.
    pub stall: u16,
}

/// The simulated drive.
pub struct SimDrive {
    files: Vec<Vec<u8>>,
    faults: Faults,
    seed: u64,
    now: Duration,
    queued: Vec<Read>,
    sent: Vec<(Duration, Read)>,
    done: VecDeque<Done>,
    depth: usize,
    /// Bytes read.
    pub bytes: u64,
}

const ERROR: i32 = 5;

impl SimDrive {
    pub fn new(files: Vec<Vec<u8>>, depth: usize, seed: u64, faults: Faults) -> SimDrive {
        SimDrive {
            files,
            faults,
            seed,
            now: Duration::ZERO,
            queued: Vec::new(),
            sent: Vec::new(),
            done: VecDeque::new(),
            depth,
            bytes: 0,
        }
    }

    /// What is on the disk, to be changed under the engine's feet.
    pub fn files(&mut self) -> &mut [Vec<u8>] {
        &mut self.files
    }

    /// SplitMix64.
    fn random(&mut self) -> u64 {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn happens(&mut self, of_65536: u16) -> bool {
        (self.random() & 0xffff) < u64::from(of_65536)
    }

    fn send(&mut self) {
        while self.sent.len() < self.depth {
            let most = self.queued.iter().map(|read| read.urgency).max();
            let Some(i) = self.queued.iter().position(|read| Some(read.urgency) == most) else {
                return;
            };
            let read = self.queued.remove(i);
            let mut takes = Duration::from_micros(50 + self.random() % 500);
            if self.happens(self.faults.stall) {
                takes += Duration::from_millis(500 + self.random() % 60_000);
            }
            self.sent.push((self.now + takes, read));
        }
    }

    fn finish(&mut self, read: Read) {
        let Read { ticket, file, offset, mut into, sum: wanted, .. } = read;
        let from = &self.files[file as usize];
        let have = from.len().saturating_sub(offset as usize).min(into.len());
        into[..have].copy_from_slice(&from[offset as usize..][..have]);
        self.bytes += have as u64;
        let faults = self.faults;
        if self.happens(faults.flip) {
            let at = self.random() as usize % into.len();
            into[at] ^= 1 << (self.random() % 8);
        }
        let outcome = if self.happens(faults.error) {
            Err(Fault::Io(ERROR))
        } else if have < into.len() || self.happens(faults.short) {
            Err(Fault::Short { got: have.min(into.len() - 1) })
        } else if wanted.is_some_and(|wanted| sum(&into) != wanted) {
            Err(Fault::Sum)
        } else {
            Ok(())
        };
        self.done.push_back(Done { ticket, into, outcome });
    }
}

impl Drive for SimDrive {
    fn read(&mut self, read: Read) {
        self.queued.push(read);
    }

    fn turn(&mut self) {
        self.send();
        let takes = 20 + self.random() % 200;
        self.now += Duration::from_micros(takes);
        let mut due: Vec<(Duration, Read)> = Vec::new();
        let mut i = 0;
        while i < self.sent.len() {
            match self.sent[i].0 <= self.now {
                true => due.push(self.sent.swap_remove(i)),
                false => i += 1,
            }
        }
        due.sort_by_key(|(at, _)| *at);
        due.into_iter().for_each(|(_, read)| self.finish(read));
        // Nobody waits for a stalled disk in real time.
        if self.done.is_empty() && self.queued.is_empty() {
            let next = self.sent.iter().map(|(at, _)| *at).min();
            self.now = next.map_or(self.now, |at| at.min(self.now + Duration::from_millis(100)));
        }
    }

    fn done(&mut self) -> Option<Done> {
        self.done.pop_front()
    }

    fn hurry(&mut self, ticket: u64, urgency: Urgency) {
        let of_ticket = self.queued.iter_mut().filter(|read| read.ticket == ticket);
        of_ticket.for_each(|read| read.urgency = urgency);
    }

    fn give_up(&mut self, ticket: u64) {
        let (dropped, kept) = self.queued.drain(..).partition(|read| read.ticket == ticket);
        self.queued = kept;
        let dropped: Vec<Read> = dropped;
        self.done.extend(dropped.into_iter().map(|Read { ticket, into, .. }| Done {
            ticket,
            into,
            outcome: Err(Fault::Dropped),
        }));
    }

    fn under_way(&self) -> usize {
        self.queued.len() + self.sent.len() + self.done.len()
    }

    fn now(&self) -> Duration {
        self.now
    }
}

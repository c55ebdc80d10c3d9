//! What a world is, what is asked of it and what is told of it afterwards.

use std::collections::BTreeMap;
use std::time::Duration;

use penstock::engine::scheduler::{Arrival, Limits, Priority};

pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.unit() * n as f64) as usize
    }

    pub fn chance(&mut self, p: f64) -> bool {
        self.unit() < p
    }

    /// Exponential, with mean 1.
    pub fn wait(&mut self) -> f64 {
        -(1.0 - self.unit()).ln()
    }
}

pub fn secs(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds.max(0.0))
}

pub fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// What is asked for, and what will become of it.
#[derive(Clone)]
pub struct Ask {
    pub at: Duration,
    pub arrival: Arrival,
    /// Tokens it will write unless it is cancelled.
    pub answer: usize,
    pub cancel: Option<Duration>,
    /// Its prompt begins like those of others: which, and how many pages are common.
    pub group: usize,
    pub common: usize,
}

#[derive(Clone)]
pub struct World {
    pub seed: u64,
    pub limits: Limits,
    pub pages: usize,
    /// Seconds of any step, of a row, of a token of prompt, and how curved the latter two are.
    pub cost: (f64, f64, f64, f64),
    pub noise: f64,
    pub storms: bool,
    /// Requests are put on hold for a while before they begin.
    pub holds: bool,
    /// First guesses are wrong by this factor.
    pub guess: f64,
}

impl World {
    pub fn new(seed: u64) -> World {
        World {
            seed,
            limits: Limits {
                running: 16,
                waiting: 200,
                chunk: 512,
                context: 10_240,
                stall: ms(200),
                form: ms(50),
                age: Duration::from_secs(10),
                sequential: false,
            },
            pages: 4_000,
            cost: (0.010, 0.002, 0.0008, 1.0),
            noise: 0.1,
            storms: false,
            holds: false,
            guess: 1.0,
        }
    }

    pub fn took(&self, rows: usize, tokens: usize) -> f64 {
        let (base, row, token, curve) = self.cost;
        let curved = |n: usize, each: f64| each * (n as f64).powf(curve);
        base + curved(rows, row) + curved(tokens, token)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    Finished,
    Expired,
    Cancelled,
    Full,
    Late,
    TooLong,
    Stuck,
}

#[derive(Default)]
pub struct Report {
    pub fates: BTreeMap<Fate, usize>,
    /// Of each request with a first token: priority, estimated and real time to it, preempted?
    pub firsts: Vec<(Priority, f64, f64, bool)>,
    pub begun_after: Vec<(Priority, f64)>,
    pub most_preempted: u32,
    pub steps: usize,
    /// Sessions that steps might have, step by step.
    pub batches: Vec<usize>,
    pub ended_at: BTreeMap<u64, Duration>,
    pub most_asks: usize,
    /// Positions that were computed, and those that preemption lost.
    pub computed: usize,
    pub lost: usize,
    /// Times that one was put on hold.
    pub held: usize,
}

impl Report {
    pub fn count(&self, fate: Fate) -> usize {
        self.fates.get(&fate).copied().unwrap_or(0)
    }
}

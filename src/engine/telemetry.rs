//! What is measured of the engine while it serves.
//!
//! Owned by the loop that steps, on the lead's thread, in plain numbers: nothing here is shared, so
//! nothing is locked and nothing is atomic. Mates count for themselves and send what they have
//! (`shard::Counters`). Recording allocates nothing. Reading it all out (`serve::metrics`) happens
//! on the same thread, between two turns of the loop.
//!
//! ```text
//! histogram   times and sizes, exact at fixed bounds
//! timeline    spans of all shards, written as a file for a trace viewer
//! ```

mod histogram;
mod timeline;

use std::time::{Duration, Instant};

use super::desk::{Account, Load, Refusal};
use super::scheduler::Priority;
use super::spill::Spilled;
use super::{End, Meter};
use crate::base::trace::{Tracer, What};
use crate::model::compute::Stage;
use crate::shard::Counters;
use crate::weights::stage::{Notice, Reading};

/// What residency counts, under a name for those who know no weights.
pub use crate::weights::residency::Counters as Slabs;
pub use histogram::{Bucket, Histogram};
pub use timeline::Timeline;

/// Counts by the names of what is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named<const N: usize> {
    names: [&'static str; N],
    counts: [u64; N],
}

impl<const N: usize> Named<N> {
    pub const fn new(names: [&'static str; N]) -> Named<N> {
        Named { names, counts: [0; N] }
    }

    /// # Panics
    /// If it is none of the names.
    pub fn add(&mut self, name: &'static str) {
        let at = self.names.iter().position(|known| *known == name);
        self.counts[at.unwrap_or_else(|| panic!("{name} is not counted"))] += 1;
    }

    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.names.into_iter().zip(self.counts)
    }
}

/// The parts of a step's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Projections, rotation, keys and values, attention itself.
    Attention,
    /// Which rows go to which experts, and which experts the next layer will need.
    Routing,
    /// Feed-forward blocks, routed or not.
    Experts,
    Norms,
    /// Embedding and logits.
    Vocabulary,
    /// Weights brought into memory before their first use.
    Settling,
    /// Nothing to compute before the disk answered.
    Disk,
    /// Between stages: the reactor's turn, and what the lead does alone.
    Between,
}

impl Part {
    pub const ALL: [Part; 8] = [
        Part::Attention,
        Part::Routing,
        Part::Experts,
        Part::Norms,
        Part::Vocabulary,
        Part::Settling,
        Part::Disk,
        Part::Between,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Part::Attention => "attention",
            Part::Routing => "routing",
            Part::Experts => "experts",
            Part::Norms => "norms",
            Part::Vocabulary => "vocabulary",
            Part::Settling => "settling",
            Part::Disk => "disk",
            Part::Between => "between",
        }
    }

    const fn of(stage: Stage) -> Part {
        match stage {
            Stage::Settle => Part::Settling,
            Stage::Embed | Stage::Logits => Part::Vocabulary,
            Stage::Norm => Part::Norms,
            Stage::Qkv | Stage::Rope | Stage::Store | Stage::Attend | Stage::AttentionOut => {
                Part::Attention
            }
            Stage::Router | Stage::Choose | Stage::Forecast => Part::Routing,
            Stage::GateUp | Stage::Activate | Stage::Down | Stage::Combine => Part::Experts,
        }
    }

    /// Where the time of steps went; the sum is all of it.
    pub fn split(meter: &Meter) -> [Duration; Part::ALL.len()] {
        let mut parts = [Duration::ZERO; Part::ALL.len()];
        for (stage, taken) in Stage::ALL.into_iter().zip(meter.tally.taken) {
            parts[Part::of(stage) as usize] += taken;
        }
        let stages: Duration = parts.iter().sum();
        // A forecast is computed while the disk is waited for, and is counted as a stage.
        let rest = meter.taken.saturating_sub(stages);
        parts[Part::Disk as usize] = meter.reading.waited.min(rest);
        parts[Part::Between as usize] = rest - parts[Part::Disk as usize];
        parts
    }
}

/// A part of a request's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Queued,
    Prefill,
    Decode,
}

impl Phase {
    pub const fn name(self) -> &'static str {
        match self {
            Phase::Queued => "queued",
            Phase::Prefill => "prefill",
            Phase::Decode => "decode",
        }
    }
}

/// Names under which ends of requests are counted.
const ENDS: [&str; 9] = [
    "text",
    "stop",
    "length",
    "context_full",
    "no_pages",
    "cancelled",
    "failed",
    "lost",
    "expired",
];

/// The name of an end.
pub fn end_name(end: &End) -> &'static str {
    match end {
        End::Text => "text",
        End::Stop => "stop",
        End::Length => "length",
        End::ContextFull => "context_full",
        End::NoPages => "no_pages",
        End::Cancelled => "cancelled",
        End::Expired => "expired",
        End::Failed(_) => "failed",
        End::Lost(_) => "lost",
    }
}

/// Names under which refusals are counted.
const REFUSALS: [&str; 4] = ["full", "late", "draining", "invalid"];

/// The name of a refusal.
pub fn refusal_name(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::Full { .. } => "full",
        Refusal::Late { .. } => "late",
        Refusal::Draining => "draining",
        Refusal::Invalid(_) => "invalid",
    }
}

/// By priority, the lowest first, as `Priority as usize` numbers them.
pub const PRIORITIES: [(Priority, &str); 3] =
    [(Priority::Low, "low"), (Priority::Medium, "medium"), (Priority::High, "high")];

/// Sums since the start.
#[derive(Clone, Debug)]
pub struct Sums {
    pub arrived: u64,
    pub refused: Named<4>,
    pub ended: Named<9>,
    /// Of requests that ended.
    pub prompt_tokens: u64,
    /// Of these, those whose keys and values an earlier request had left.
    pub shared_tokens: u64,
    /// Chosen, whether their requests have ended or not.
    pub answer_tokens: u64,
    /// Rows of steps that were prompts'.
    pub prompt_rows: u64,
    pub drafted: u64,
    pub accepted: u64,
    pub preempted: u64,
    /// Pages that went to disk and came back.
    pub spilled: Spilled,
    /// What the steps did.
    pub meter: Meter,
    /// By [`Part`].
    pub parts: [Duration; Part::ALL.len()],
    /// Times that the disk fell silent.
    pub stalls: u64,
}

/// How things stand; told anew whenever they are read out.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    pub load: Load,
    /// Pages that a prefix may find again, and that sessions hold.
    pub cached_pages: usize,
    pub held_pages: usize,
    /// Bytes of memory taken, and that may be.
    pub resident: u64,
    pub memory_limit: u64,
    /// What residency counted, where experts stream.
    pub slabs: Option<Slabs>,
    /// By shard, the lead first.
    pub shards: Vec<Counters>,
}

pub struct Telemetry {
    /// By priority.
    pub queued: [Histogram; 3],
    pub first_token: [Histogram; 3],
    /// Between two tokens of one answer.
    pub gap: Histogram,
    /// From arrival to end.
    pub request: Histogram,
    pub step: Histogram,
    /// By [`Part`].
    pub parts: [Histogram; Part::ALL.len()],
    /// Sessions and rows of a step.
    pub sessions: Histogram,
    pub rows: Histogram,
    pub sums: Sums,
    pub standing: Standing,
    /// Where lives of requests are noted.
    tracer: Tracer,
}

impl Default for Telemetry {
    fn default() -> Telemetry {
        let times = Histogram::of_times;
        Telemetry {
            queued: std::array::from_fn(|_| times()),
            first_token: std::array::from_fn(|_| times()),
            gap: times(),
            request: times(),
            step: times(),
            parts: std::array::from_fn(|_| times()),
            sessions: Histogram::of_sizes(),
            rows: Histogram::of_sizes(),
            sums: Sums {
                arrived: 0,
                refused: Named::new(REFUSALS),
                ended: Named::new(ENDS),
                prompt_tokens: 0,
                shared_tokens: 0,
                answer_tokens: 0,
                prompt_rows: 0,
                drafted: 0,
                accepted: 0,
                preempted: 0,
                spilled: Spilled::default(),
                meter: Meter::default(),
                parts: Default::default(),
                stalls: 0,
            },
            standing: Standing::default(),
            tracer: Tracer::default(),
        }
    }
}

impl Telemetry {
    /// Notes lives of requests from now on ([`Timeline::requests`]).
    pub fn trace(&mut self, tracer: Tracer) {
        self.tracer = tracer;
    }

    /// A request was handed in, whatever becomes of it.
    pub fn arrived(&mut self) {
        self.sums.arrived += 1;
    }

    pub fn refused(&mut self, refusal: &Refusal) {
        self.sums.refused.add(refusal_name(refusal));
    }

    /// It left the queue for the first time.
    pub fn started(&mut self, priority: Priority, waited: Duration) {
        self.queued[priority as usize].time(waited);
    }

    /// Its first token was chosen, so long after it had arrived.
    pub fn first_token(&mut self, priority: Priority, after: Duration) {
        self.sums.answer_tokens += 1;
        self.first_token[priority as usize].time(after);
    }

    /// Another was, so long after the one before.
    pub fn token_gap(&mut self, gap: Duration) {
        self.sums.answer_tokens += 1;
        self.gap.time(gap);
    }

    /// A step is over; `delta` is what the meter gained by it, and `prompt_rows` of its rows were
    /// of prompts.
    pub fn stepped(&mut self, delta: &Meter, sessions: usize, prompt_rows: usize) {
        self.sums.prompt_rows += prompt_rows as u64;
        self.step.time(delta.taken);
        for (i, part) in Part::split(delta).into_iter().enumerate() {
            // What most steps have none of is not worth a count of zeros.
            if !part.is_zero() {
                self.parts[i].time(part);
            }
            self.sums.parts[i] += part;
        }
        self.sessions.size(sessions as u64);
        self.rows.size(delta.rows);
        add(&mut self.sums.meter, delta);
    }

    pub fn ended(&mut self, end: &End, account: &Account) {
        self.sums.ended.add(end_name(end));
        self.request.time(account.queued + account.prefill + account.decode);
        self.sums.prompt_tokens += account.prompt_tokens as u64;
        self.sums.shared_tokens += account.shared_tokens as u64;
        self.sums.drafted += account.drafted;
        self.sums.accepted += account.accepted;
        self.sums.preempted += u64::from(account.preempted);
    }

    pub fn noticed(&mut self, notice: &Notice) {
        match notice {
            Notice::Silent(_) => self.sums.stalls += 1,
            Notice::Answers(_) => {}
        }
    }

    /// A part of a request's life is over.
    pub fn lived(&mut self, id: u64, phase: Phase, since: Instant, until: Instant) {
        self.tracer.note(What::Request { id, part: phase.name() }, since, until);
    }
}

fn add(sum: &mut Meter, delta: &Meter) {
    let Meter { steps, rows, taken, tally, reading } = delta;
    sum.steps += steps;
    sum.rows += rows;
    sum.taken += *taken;
    sum.tally.moved += tally.moved;
    sum.tally.operations += tally.operations;
    for i in 0..Stage::ALL.len() {
        sum.tally.taken[i] += tally.taken[i];
        sum.tally.waited[i] += tally.waited[i];
    }
    let Reading { held, forecast_used, demanded, forecast_vain, .. } = *reading;
    sum.reading.held += held;
    sum.reading.forecast_used += forecast_used;
    sum.reading.demanded += demanded;
    sum.reading.forecast_vain += forecast_vain;
    let Reading { read, reads, again, lost, waited, .. } = *reading;
    sum.reading.read += read;
    sum.reading.reads += reads;
    sum.reading.again += again;
    sum.reading.lost += lost;
    sum.reading.waited += waited;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meter() -> Meter {
        let mut meter = Meter { steps: 1, rows: 3, ..Meter::default() };
        meter.taken = Duration::from_millis(100);
        for (i, taken) in meter.tally.taken.iter_mut().enumerate() {
            *taken = Duration::from_millis(i as u64 % 4);
        }
        meter.reading.waited = Duration::from_millis(20);
        (meter.reading.read, meter.reading.held, meter.tally.moved) = (7, 5, 11);
        meter
    }

    #[test]
    fn the_parts_of_a_step_are_all_of_it() {
        let mut delta = meter();
        assert_eq!(Part::split(&delta).iter().sum::<Duration>(), delta.taken);
        assert_eq!(Part::split(&delta)[Part::Disk as usize], Duration::from_millis(20));
        // A wait that a forecast filled in part.
        delta.reading.waited = Duration::from_millis(90);
        assert_eq!(Part::split(&delta).iter().sum::<Duration>(), delta.taken);
        assert_eq!(Part::split(&delta)[Part::Between as usize], Duration::ZERO);
    }

    #[test]
    fn sums_of_steps_are_what_the_meter_says() {
        let mut telemetry = Telemetry::default();
        let (mut total, before) = (Meter::default(), Meter::default());
        for _ in 0..3 {
            telemetry.stepped(&meter(), 2, 1);
            add(&mut total, &meter());
        }
        assert_eq!(telemetry.sums.meter, total);
        assert_eq!(total.since(&before), total);
        assert_eq!((total.steps, total.reading.read, total.tally.moved), (3, 21, 33));
        assert_eq!((telemetry.step.count(), telemetry.rows.sum()), (3, 9.0));
    }

    #[test]
    fn every_end_and_refusal_has_a_name_that_is_counted() {
        let mut telemetry = Telemetry::default();
        let ends = [
            End::Text,
            End::Stop,
            End::Length,
            End::ContextFull,
            End::NoPages,
            End::Cancelled,
            End::Lost("it".into()),
        ];
        ends.iter().for_each(|end| telemetry.ended(end, &Account::default()));
        telemetry.ended(&End::Expired, &Account::default());
        let zero = Duration::ZERO;
        telemetry.refused(&Refusal::Full { waiting: 1, retry_after: zero });
        telemetry.refused(&Refusal::Late { expected: zero, limit: zero, retry_after: zero });
        telemetry.refused(&Refusal::Draining);
        telemetry.refused(&Refusal::Invalid(super::super::Error::EmptyPrompt));
        assert!(telemetry.sums.refused.iter().all(|(_, count)| count == 1));
        let ended: u64 = telemetry.sums.ended.iter().map(|(_, count)| count).sum();
        assert_eq!((ended, telemetry.request.count()), (8, 8));
    }
}

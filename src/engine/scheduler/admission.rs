//! Whether a request gets into the queue, and when its first token is expected.
//!
//! The estimate is built from three parts: until a slot is free, until the prompts that are
//! computed before its own are done, and until its own is. What is not known (how long answers will
//! be) is taken from those that ended. What the estimate gets wrong is measured: every first token says
//! by which factor it came later or earlier, and a mean of these, for each kind of wait apart,
//! corrects the next estimate.

use std::time::Duration;

use super::plan::Bin;
use super::queue::{Entry, Rank, moment};
use super::{Arrival, Batching, LEAST_CHUNK, Pages, Priority, Scheduler, Turned};
use crate::base::limits::PAGE;

/// Before anything has ended.
const FIRST_ANSWER: f64 = 128.0;
/// The part of a mean that a new value replaces.
const RATE: f64 = 0.05;
/// Over which time the drain of the queue is counted.
const DRAIN_SECONDS: f64 = 20.0;
const LEAST_RETRY: Duration = Duration::from_millis(100);
const MOST_RETRY: Duration = Duration::from_secs(600);
/// No estimate is corrected by more than this factor.
const MOST_CORRECTION: f64 = 8.0;
/// No estimate is longer.
const MOST_SECONDS: f64 = 1e6;
/// Kinds of wait: none, for one of those that run, for a queue.
const KINDS: usize = 3;

/// What was learned from requests.
#[derive(Clone, Debug)]
pub(super) struct Experience {
    /// Tokens of an answer.
    answer: f64,
    /// Seconds that a request takes; 0: none has been seen.
    usual: f64,
    /// Logarithms of true over estimated time to the first token, and how many were seen.
    off: [f64; KINDS],
    seen: [u32; KINDS],
    /// Departures from the queue, forgotten at an even pace.
    drained: f64,
    drained_at: Duration,
}

impl Default for Experience {
    fn default() -> Experience {
        Experience {
            answer: FIRST_ANSWER,
            usual: 0.0,
            off: [0.0; KINDS],
            seen: [0; KINDS],
            drained: 0.0,
            drained_at: Duration::ZERO,
        }
    }
}

impl Experience {
    /// One has left the queue.
    pub fn drained(&mut self, now: Duration) {
        self.drained = self.drained_until(now) + 1.0;
        self.drained_at = now;
    }

    fn drained_until(&self, now: Duration) -> f64 {
        let since = now.saturating_sub(self.drained_at).as_secs_f64();
        self.drained * (-since / DRAIN_SECONDS).exp()
    }

    pub fn first_token(&mut self, now: Duration, entry: &Entry) {
        // Who was preempted before lived through what no estimate knows.
        if entry.displaced + entry.gave_way > 0 || entry.estimate <= 0.0 {
            return;
        }
        let took = now.saturating_sub(entry.arrived).as_secs_f64();
        let off = (took / entry.estimate).clamp(1.0 / MOST_CORRECTION, MOST_CORRECTION).ln();
        let seen = &mut self.seen[entry.kind];
        *seen = seen.saturating_add(1);
        let mean = &mut self.off[entry.kind];
        *mean += RATE.max(1.0 / f64::from(*seen + 1)) * (off - *mean);
    }

    pub fn ended(&mut self, entry: &Entry) {
        self.answer += RATE * (entry.written as f64 - self.answer);
    }

    /// Tokens it is expected to write still, at least 1.
    pub fn answer_left(&self, entry: &Entry) -> usize {
        // The longer one has written, the longer it is likely to go on.
        let left = (self.answer - entry.written as f64).max(self.answer / 2.0) as usize;
        let most = entry.most.map_or(usize::MAX, |most| most.saturating_sub(entry.written));
        left.min(most).max(1)
    }
}

/// An estimate before it is corrected.
#[derive(Clone, Copy)]
struct Estimate {
    seconds: f64,
    kind: usize,
}

impl Scheduler {
    /// Takes a request into the queue, and says when its first token is expected.
    pub fn arrive(
        &mut self,
        now: Duration,
        arrival: Arrival,
        pages: Pages,
    ) -> Result<Duration, Turned> {
        let Arrival { id, priority, batching, prompt, most, max_wait, .. } = arrival;
        let known = self.line.holds(id) || self.running.iter().any(|entry| entry.id == id);
        debug_assert!(prompt > 0 && !known, "request {id} of {prompt} tokens");
        if prompt + 1 > self.limits.context || (prompt + 1).div_ceil(PAGE) > pages.total {
            return Err(Turned::TooLong);
        }
        let waiting = self.line.unbegun;
        if waiting >= self.places(priority) {
            let retry_after = self.drain_time(now);
            return Err(Turned::Full { waiting, retry_after });
        }
        let shared = arrival.shared.min(prompt.saturating_sub(1));
        let mut estimate = self.estimate(now, priority, prompt - shared);
        let idle = self.running.is_empty() && self.line.eager == 0 && !self.limits.sequential;
        if idle && batching == Batching::Enable {
            estimate.seconds += self.limits.form.as_secs_f64();
        }
        estimate.seconds *= self.governor.slowness();
        let expected = self.corrected(estimate);
        if let Some(limit) = max_wait.filter(|limit| expected > *limit) {
            let retry_after = (expected - limit).clamp(LEAST_RETRY, MOST_RETRY);
            return Err(Turned::Late { expected, limit, retry_after });
        }
        let rank = self.rank(now, &arrival, prompt - shared);
        self.line.insert(Entry {
            id,
            priority,
            batching,
            arrived: now,
            max_wait,
            prompt,
            shared,
            most,
            rank,
            computed: 0,
            written: 0,
            begun: None,
            kept: false,
            displaced: 0,
            gave_way: 0,
            served: 0,
            estimate: estimate.seconds,
            kind: estimate.kind,
        });
        Ok(expected)
    }

    fn rank(&mut self, now: Duration, arrival: &Arrival, prompt: usize) -> Rank {
        self.arrivals += 1;
        let order = self.arrivals;
        if self.limits.sequential {
            return Rank { below: true, at: 0, order };
        }
        let answer = arrival
            .most
            .map_or(self.experience.answer, |most| self.experience.answer.min(most as f64));
        let time = self.prompt_seconds(prompt) + answer * self.row_seconds();
        let usual = &mut self.experience.usual;
        if *usual == 0.0 {
            *usual = time;
        }
        let bin = Bin::of_time(time, *usual);
        *usual += RATE * (time - *usual);
        let age = self.limits.age;
        let head = moment(age.saturating_mul(arrival.priority as u32));
        let head = head + moment(bin.head_start(age));
        let below = arrival.priority != Priority::High;
        Rank { below, at: moment(now) - head, order }
    }

    /// Places in the queue for those of a priority.
    fn places(&self, priority: Priority) -> usize {
        let all = self.limits.waiting;
        if self.limits.sequential {
            return all;
        }
        all - all * (Priority::High as usize - priority as usize) / 8
    }

    /// Until a quarter of the queue has left, at the rate of late.
    fn drain_time(&self, now: Duration) -> Duration {
        let rate = self.experience.drained_until(now) / DRAIN_SECONDS;
        let quarter = (self.line.unbegun / 4 + 1) as f64;
        let seconds = (quarter / rate.max(1e-9)).min(MOST_RETRY.as_secs_f64());
        Duration::from_secs_f64(seconds).clamp(LEAST_RETRY, MOST_RETRY)
    }

    pub(super) fn expected_ordinary(&self, now: Duration) -> Duration {
        let estimate = self.estimate(now, Priority::Medium, LEAST_CHUNK);
        let seconds = estimate.seconds * self.governor.slowness();
        self.corrected(Estimate { seconds, ..estimate })
    }

    fn corrected(&self, estimate: Estimate) -> Duration {
        let off = self.experience.off[estimate.kind].exp();
        Duration::from_secs_f64((estimate.seconds * off).clamp(0.0, MOST_SECONDS))
    }

    /// Rows that steps have when all slots are taken that can be.
    fn rows(&self, coming: usize) -> usize {
        let all = self.running.len() + self.line.len() + coming;
        all.clamp(1, self.limits.running.min(self.governor.batch()))
    }

    /// Seconds that a token of an answer costs, shared among those in the step.
    fn row_seconds(&self) -> f64 {
        let rows = self.rows(1);
        self.speed.seconds(rows, 0) / rows as f64
    }

    /// Seconds for so many tokens of prompts beside those that write, and what they add to the
    /// time that these would take anyway.
    fn prompt_costs(&self, tokens: usize, writing: usize) -> (f64, f64) {
        let most = self.limits.chunk;
        let chunk = if writing == 0 { most } else { self.beside(writing) };
        let step = self.speed.seconds(writing, chunk.min(tokens));
        let steps = if tokens <= chunk { 1.0 } else { tokens as f64 / chunk as f64 };
        (steps * step, steps * (step - self.speed.seconds(writing, 0)).max(0.0))
    }

    fn prompt_seconds(&self, tokens: usize) -> f64 {
        self.prompt_costs(tokens, 0).0
    }

    /// Requests in the queue that come before a new one of a priority, and the tokens of
    /// their prompts.
    fn ahead(&self, now: Duration, priority: Priority) -> (usize, usize) {
        let oldest = self.line.first_below().map_or(now, |entry| entry.arrived);
        let span = now.saturating_sub(oldest).as_secs_f64();
        let mut ahead = (0.0, 0.0);
        for (other, tally) in self.line.tallies.iter().enumerate() {
            let part = if self.limits.sequential || other >= priority as usize {
                1.0
            } else if priority == Priority::High || span == 0.0 {
                0.0
            } else {
                // Lower ones that have waited long enough, if they came evenly.
                (1.0 - self.limits.age.as_secs_f64() / span).max(0.0)
            };
            ahead.0 += part * tally.count as f64;
            ahead.1 += part * tally.tokens as f64;
        }
        (ahead.0.round() as usize, ahead.1.round() as usize)
    }

    fn estimate(&self, now: Duration, priority: Priority, prompt: usize) -> Estimate {
        let slots = self.limits.running.min(self.governor.batch());
        let (ahead, tokens) = self.ahead(now, priority);
        // Those that give way count as if they were not there.
        let displaces = |e: &Entry| {
            !self.limits.sequential && priority == Priority::High && e.rank.below && !e.kept
        };
        let stay = self.running.iter().filter(|e| !displaces(e)).count();
        let writing = self.running.iter().filter(|e| e.writes()).count();
        let writing = if self.limits.sequential { 0 } else { writing.min(slots.saturating_sub(1)) };

        // Prompts take turns: of a longer one, as much is done before ours as of ours.
        let begun = self.running.iter().filter(|e| !e.writes() && !displaces(e));
        let beside: usize = begun.map(|e| e.left().min(prompt)).sum();
        let later = ahead.min(slots.saturating_sub(stay));
        let beside = beside + later * prompt.min(tokens.checked_div(ahead).unwrap_or(0));
        let own = self.prompt_costs(prompt + beside, writing).0;
        if stay + ahead < slots {
            // It joins after the step under way.
            let step = self.over_at.saturating_sub(now).as_secs_f64();
            return Estimate { seconds: own + step, kind: 0 };
        }

        // The slot is that of whoever ends as the so-manieth.
        let step = self.speed.seconds(self.rows(1), 0);
        let mut ends: Vec<f64> = self
            .running
            .iter()
            .filter(|e| !displaces(e))
            .map(|e| {
                let prompt = if e.writes() { 0.0 } else { self.prompt_costs(e.left(), writing).0 };
                prompt + self.experience.answer_left(e) as f64 * step
            })
            .collect();
        let missing = stay + ahead - slots;
        let (rounds, place) = (missing / slots, missing % slots);
        let place = place.min(ends.len().saturating_sub(1));
        let first = match ends.is_empty() {
            true => 0.0,
            false => *ends.select_nth_unstable_by(place, f64::total_cmp).1,
        };
        let round = self.experience.answer * step;
        let prompts = self.prompt_costs(tokens, writing).1;
        let seconds = first + rounds as f64 * round + prompts + own;
        Estimate { seconds, kind: if ahead == 0 { 1 } else { 2 } }
    }
}

//! How many sessions a step may have: all, until steps are slower than they should be.
//!
//! A disk that chokes or a neighbour that takes the cores shows as steps that take far longer than
//! was predicted. Then fewer sessions at a time are better: those that go on still answer at a
//! speed worth reading, and the machine gets air. As TCP does with a congested path, the batch is
//! halved at every moment of slowness, down to one, and grows by one at every moment without.

use std::time::Duration;

/// A step that takes more than this times its prediction is slow, less than that is well.
const SLOW: f64 = 2.0;
const WELL: f64 = 1.5;
/// Slow steps and time spent in them before the batch is halved: a single hiccup is none.
const STEPS: u32 = 3;
const MOMENT: Duration = Duration::from_millis(250);
/// Steps that are well before the batch grows by one.
const RECOVERY: u32 = 4;

#[derive(Clone, Debug)]
pub(super) struct Governor {
    most: usize,
    batch: usize,
    slow_steps: u32,
    slow_time: Duration,
    well: u32,
    slowness: f64,
}

impl Governor {
    pub fn new(most: usize) -> Governor {
        let most = most.max(1);
        let (slow_time, slowness) = (Duration::ZERO, 1.0);
        Governor { most, batch: most, slow_steps: 0, slow_time, well: 0, slowness }
    }

    /// Sessions in a step at most; at least one.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Times that steps take longer than predicted, of late; at least 1.
    pub fn slowness(&self) -> f64 {
        self.slowness.max(1.0)
    }

    /// In a storm even steps are judged whose like was never seen: smaller ones, as it happens.
    pub fn alarmed(&self) -> bool {
        self.batch < self.most || self.slowness > SLOW
    }

    pub fn is_slow(predicted: Duration, took: Duration) -> bool {
        took.as_secs_f64() > SLOW * predicted.as_secs_f64()
    }

    /// A step with `sessions` took so long.
    pub fn stepped(&mut self, predicted: Duration, took: Duration, sessions: usize) {
        let ratio = took.as_secs_f64() / predicted.as_secs_f64().max(1e-9);
        self.slowness += 0.25 * (ratio.clamp(0.25, 16.0) - self.slowness);
        if Governor::is_slow(predicted, took) {
            self.slow_steps += 1;
            self.slow_time += took;
            self.well = 0;
            if self.slow_steps >= STEPS && self.slow_time >= MOMENT {
                // Half of what the step had: halving a bound that was not reached changes nothing.
                self.batch = (self.batch.min(sessions) / 2).max(1);
                (self.slow_steps, self.slow_time) = (0, Duration::ZERO);
            }
            return;
        }
        self.slow_steps = self.slow_steps.saturating_sub(1);
        if self.slow_steps == 0 {
            self.slow_time = Duration::ZERO;
        }
        if ratio < WELL {
            self.well += 1;
            if self.well >= RECOVERY {
                self.well = 0;
                self.batch = (self.batch + 1).min(self.most);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_batch_is_halved_in_a_storm_and_grows_by_one_after_it() {
        let ms = Duration::from_millis;
        let mut governor = Governor::new(16);
        governor.stepped(ms(50), ms(5_000), 16);
        assert_eq!(governor.batch(), 16, "one hiccup is none");
        let mut seen = vec![];
        for _ in 0..20 {
            governor.stepped(ms(50), ms(500), governor.batch());
            seen.push(governor.batch());
        }
        seen.dedup();
        assert_eq!(seen, [16, 8, 4, 2, 1]);
        assert!(governor.slowness() > 8.0);
        seen.clear();
        for _ in 0..100 {
            governor.stepped(ms(50), ms(50), governor.batch());
            seen.push(governor.batch());
        }
        seen.dedup();
        assert_eq!(seen, (1..=16).collect::<Vec<_>>());
        assert!(governor.slowness() < 1.1);
    }

    #[test]
    fn a_bound_that_was_not_reached_comes_down_to_what_was() {
        let ms = Duration::from_millis;
        let mut governor = Governor::new(64);
        for _ in 0..STEPS {
            governor.stepped(ms(50), ms(500), 4);
        }
        assert_eq!(governor.batch(), 2);
    }
}

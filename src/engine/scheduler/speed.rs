//! What a step takes: learned from the steps there were.
//!
//! A step's time is thought of as the sum of two broken lines: one over the rows of the sessions
//! that write (with what any step costs), one over the tokens of prompts. Broken, because neither is
//! straight: with experts that stream, the first rows pay for most of the reads, and sixteen
//! tokens of prompt touch nearly as many experts as five hundred.
//!
//! Each step moves the two or three knots it lies between, by normalised least mean squares: every
//! knot takes that part of the error which its share of the time suggests. There is no matrix that
//! could lose its condition; errors are clipped and the lines kept rising, so no measurement can make
//! a cost negative or carry it away. Knots no step came near keep the shape of the first guess and
//! follow the others in scale.

use std::time::Duration;

use super::LEAST_CHUNK;

const ROWS: [u32; 10] = [0, 1, 2, 4, 8, 16, 32, 64, 128, 256];
const TOKENS: [u32; 10] = [0, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096];
const KNOTS: usize = ROWS.len();

/// No cost falls below this many seconds, and none rises above.
const LEAST: f64 = 1e-7;
const MOST: f64 = 3600.0;
/// Part of an error that is learned from a step once the knots are known.
const RATE: f64 = 0.15;
/// A knot is known when so many steps came near it.
const KNOWN: u32 = 6;

/// A line through knots, rising.
#[derive(Clone, Debug)]
struct Line {
    at: &'static [u32; KNOTS],
    cost: [f64; KNOTS],
    seen: [u32; KNOTS],
}

/// The two knots about a place, and how near the upper one is (beyond 1 past the last knot).
#[derive(Clone, Copy)]
struct Spot {
    low: usize,
    part: f64,
}

impl Line {
    fn new(at: &'static [u32; KNOTS], base: f64, each: f64) -> Line {
        let cost = at.map(|x| (base + f64::from(x) * each).clamp(0.0, MOST));
        Line { at, cost, seen: [0; KNOTS] }
    }

    fn spot(&self, x: usize) -> Spot {
        let x = x.min(1 << 24) as u32;
        let low = self.at.partition_point(|knot| *knot <= x).clamp(1, KNOTS - 1) - 1;
        let width = f64::from(self.at[low + 1] - self.at[low]);
        Spot { low, part: (f64::from(x) - f64::from(self.at[low])) / width }
    }

    fn cost(&self, spot: Spot) -> f64 {
        let (low, high) = (self.cost[spot.low], self.cost[spot.low + 1]);
        (low + (high - low) * spot.part).clamp(0.0, MOST)
    }

    fn known(&self, spot: Spot) -> u32 {
        if spot.part < 0.5 { self.seen[spot.low] } else { self.seen[spot.low + 1] }
    }

    /// The shares of both knots in the cost there.
    fn shares(&self, spot: Spot) -> [f64; 2] {
        let part = spot.part.min(1.0);
        [self.cost[spot.low] * (1.0 - part), self.cost[spot.low + 1] * part]
    }

    /// Adds to both knots, then lets those nobody saw follow and keeps the line rising.
    fn shift(&mut self, spot: Spot, by: [f64; 2], first_is_zero: bool) {
        let before = self.cost(spot).max(LEAST);
        let part = spot.part.min(1.0);
        for (i, weight) in [1.0 - part, part].into_iter().enumerate() {
            let knot = spot.low + i;
            self.cost[knot] = (self.cost[knot] + by[i]).clamp(LEAST, MOST);
            if weight >= 0.25 {
                self.seen[knot] = self.seen[knot].saturating_add(1);
            }
        }
        let scale = (self.cost(spot) / before).clamp(0.01, 100.0);
        for knot in 0..KNOTS {
            // One beside the place whose share in it is small was not learned either.
            if self.seen[knot] == 0 {
                self.cost[knot] = (self.cost[knot] * scale).clamp(LEAST, MOST);
            }
        }
        for knot in (0..spot.low).rev() {
            self.cost[knot] = self.cost[knot].min(self.cost[knot + 1]);
        }
        for knot in spot.low + 1..KNOTS {
            self.cost[knot] = self.cost[knot].max(self.cost[knot - 1]);
        }
        if first_is_zero {
            self.cost[0] = 0.0;
        }
    }
}

/// How much is to be learned from a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) enum Lesson {
    /// Its like was not seen before: everything.
    First,
    Usual,
    /// It was slow: little, so that bad weather becomes what is expected only if it lasts.
    Slow,
}

/// What a step takes.
#[derive(Clone, Debug)]
pub struct Speed {
    rows: Line,
    tokens: Line,
    /// The largest chunk there was.
    largest: usize,
}

impl Speed {
    /// First guesses: what any step costs, each row of a session that writes, and each token of a
    /// prompt. Ten times too much or too little is made good within some ten steps.
    pub fn new(step: Duration, row: Duration, token: Duration) -> Speed {
        let seconds = |time: Duration| time.as_secs_f64().clamp(LEAST, MOST);
        Speed {
            rows: Line::new(&ROWS, seconds(step), seconds(row)),
            tokens: Line::new(&TOKENS, 0.0, seconds(token)),
            largest: LEAST_CHUNK,
        }
    }

    /// The time of a step with so many rows and tokens of prompts.
    pub fn predict(&self, rows: usize, tokens: usize) -> Duration {
        Duration::from_secs_f64(self.seconds(rows, tokens))
    }

    /// The time of all steps for so many tokens of a prompt alone.
    pub fn prompt(&self, tokens: usize) -> Duration {
        let chunk = tokens.min(self.largest).max(1);
        let steps = tokens as f64 / chunk as f64;
        Duration::from_secs_f64((steps * self.seconds(0, chunk)).min(MOST))
    }

    pub(super) fn seconds(&self, rows: usize, tokens: usize) -> f64 {
        let (a, b) = (self.rows.spot(rows), self.tokens.spot(tokens));
        (self.rows.cost(a) + self.tokens.cost(b)).clamp(LEAST, MOST)
    }

    /// Whether steps like this one were seen often enough to call another one slow.
    pub(in crate::engine) fn knows(&self, rows: usize, tokens: usize) -> bool {
        let chunk = tokens == 0 || self.tokens.known(self.tokens.spot(tokens)) >= KNOWN;
        chunk && self.rows.known(self.rows.spot(rows)) >= KNOWN
    }

    /// As many tokens of prompts as fit beside so many rows into a time, at most `most`, and at most
    /// twice as many as there ever were: a first guess is no promise.
    pub(in crate::engine) fn tokens_within(&self, rows: usize, seconds: f64, most: usize) -> usize {
        let (mut fits, mut over) = (0, most.min(2 * self.largest) + 1);
        while over - fits > 1 {
            let middle = fits + (over - fits) / 2;
            if self.seconds(rows, middle) <= seconds { fits = middle } else { over = middle }
        }
        fits
    }

    pub(in crate::engine) fn learn(
        &mut self,
        rows: usize,
        tokens: usize,
        took: Duration,
        lesson: Lesson,
    ) {
        self.largest = self.largest.max(tokens);
        let (a, b) = (self.rows.spot(rows), self.tokens.spot(tokens));
        let predicted = self.seconds(rows, tokens);
        let error = took.as_secs_f64().clamp(LEAST, MOST) - predicted;
        let clipped = error.clamp(-0.5 * predicted, 0.5 * predicted);
        let seen = self.rows.known(a).min(if tokens == 0 { KNOWN } else { self.tokens.known(b) });
        let (rate, error) = match lesson {
            Lesson::First => (RATE.max(0.7 / f64::from(seen + 1)), error),
            Lesson::Usual => (RATE, clipped),
            Lesson::Slow => (RATE / 20.0, clipped),
        };

        // `spent[k]` is what knot k contributes to the time; `weight[k]` its influence on it.
        let (of_rows, of_tokens) = (self.rows.shares(a), self.tokens.shares(b));
        let spent = [of_rows[0], of_rows[1], of_tokens[0], of_tokens[1]];
        let sum: f64 = spent.iter().map(|s| s * s).sum();
        if sum <= 0.0 {
            return;
        }
        let weight = |part: f64| [(1.0 - part).clamp(1e-3, 1.0), part.clamp(1e-3, 1.0)];
        let (wa, wb) = (weight(a.part), weight(b.part));
        let step = |spent: f64, weight: f64| rate * error * spent * spent / sum / weight;
        self.rows.shift(a, [step(spent[0], wa[0]), step(spent[1], wa[1])], false);
        if tokens > 0 {
            self.tokens.shift(b, [step(spent[2], wb[0]), step(spent[3], wb[1])], true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: f64 = 1e-3;

    /// A machine whose first rows and tokens cost most, as when experts stream.
    fn truth(rows: usize, tokens: usize) -> f64 {
        let rows = 8.0 * MS + 6.0 * MS * (rows as f64).sqrt();
        rows + 9.0 * MS * (tokens as f64).powf(0.6)
    }

    fn taught(guess: f64, steps: usize, noise: impl Fn(usize) -> f64) -> Speed {
        let guess = |ms: f64| Duration::from_secs_f64(ms * MS * guess);
        let mut speed = Speed::new(guess(10.0), guess(1.0), guess(1.0));
        for i in 0..steps {
            let rows = [1, 3, 8, 0, 20, 13][i % 6];
            let tokens = [0, 512, 0, 100, 32, 0, 200][i % 7];
            let took = truth(rows, tokens) * noise(i);
            let known = speed.knows(rows, tokens);
            let lesson = if known { Lesson::Usual } else { Lesson::First };
            speed.learn(rows, tokens, Duration::from_secs_f64(took), lesson);
        }
        speed
    }

    fn worst(speed: &Speed) -> f64 {
        let steps = [(1, 0), (8, 0), (20, 0), (3, 512), (8, 100), (13, 200), (1, 32)];
        let off = steps.map(|(r, t)| (speed.seconds(r, t) / truth(r, t)).ln().abs());
        off.into_iter().fold(0.0, f64::max)
    }

    #[test]
    fn a_curved_machine_is_learned_from_any_first_guess() {
        for guess in [0.05, 1.0, 20.0] {
            let off = worst(&taught(guess, 2_000, |_| 1.0));
            assert!(off < 0.25, "guess x {guess}: off by e^{off}");
        }
    }

    #[test]
    fn spikes_and_noise_do_not_carry_it_away() {
        let noise = |i: usize| match i % 50 {
            0 => 400.0,
            25 => 0.0,
            n => 0.9 + 0.2 * (n % 7) as f64 / 7.0,
        };
        let speed = taught(1.0, 5_000, noise);
        assert!(worst(&speed) < 0.5, "off by e^{}", worst(&speed));
        for pair in [0, 1, 5, 16, 17, 300, 5_000, 1 << 30].windows(2) {
            for other in [0, 7, 300] {
                assert!(speed.seconds(pair[0], other) <= speed.seconds(pair[1], other));
                assert!(speed.seconds(other, pair[0]) <= speed.seconds(other, pair[1]));
            }
        }
    }

    #[test]
    fn a_chunk_is_as_large_as_the_time_allows() {
        let ms = Duration::from_millis;
        let mut speed = Speed::new(ms(10), ms(1), ms(1));
        assert_eq!(speed.tokens_within(10, 0.1, 512), 2 * LEAST_CHUNK, "nothing is known yet");
        speed.learn(0, 512, ms(522), Lesson::First);
        assert_eq!(speed.tokens_within(10, 0.1, 512), 80);
        assert_eq!(speed.tokens_within(10, 0.1, 64), 64);
        assert_eq!(speed.tokens_within(100, 0.1, 64), 0);
    }

    /// Or a session that writes alone would never guess, for a second row would seem to cost what
    /// was guessed of the machine before anything was known.
    #[test]
    fn what_more_rows_cost_follows_from_one() {
        let ms = Duration::from_millis;
        for step in [5, 40, 400] {
            let mut speed = Speed::new(ms(50), ms(5), ms(5));
            speed.learn(0, 40, ms(3 * step), Lesson::First);
            (0..50).for_each(|_| speed.learn(1, 0, ms(step), Lesson::First));
            let (one, two) = (speed.seconds(1, 0), speed.seconds(2, 0));
            assert!(two > one && two < 1.2 * one, "{step} ms: {one} and {two}");
        }
    }

    #[test]
    fn a_slow_step_teaches_little() {
        let mut speed = taught(1.0, 2_000, |_| 1.0);
        let before = speed.seconds(8, 0);
        for _ in 0..10 {
            speed.learn(8, 0, Duration::from_secs(1), Lesson::Slow);
        }
        assert!(speed.seconds(8, 0) < 1.1 * before);
    }
}

//! Guesses: what a session may write next, and how many guesses are worth their time.
//!
//! A text repeats itself: names, code, what was quoted from the prompt. So the tokens that followed
//! the last time, when the same two or three came before, are a guess that costs nothing to make.
//! Guesses are computed as further rows of the step that computes the session's last token, and one
//! is taken only if it is what the model chooses anyway: they change when tokens come, never which.
//! A smaller model guesses too, where there is one (`drafter`). Each kind is judged by itself.

use std::time::Duration;

/// Tokens that have to be the same; the longer run is the better guess.
const LONG: usize = 3;
const SHORT: usize = 2;

/// Appends to `drafts` what followed the last time, at most `most` tokens. A text that ran into its
/// own end then is a loop, and goes round again.
pub fn propose(tokens: &[u32], most: usize, drafts: &mut Vec<u32>) {
    let len = tokens.len();
    if most == 0 || len <= SHORT {
        return;
    }
    let mut short = None;
    let mut long = None;
    // From the latest earlier place on which the last tokens could stand.
    for end in (SHORT..len).rev() {
        if tokens[end - SHORT..end] != tokens[len - SHORT..] {
            continue;
        }
        if end >= LONG && tokens[end - LONG] == tokens[len - LONG] {
            long = Some(end);
            break;
        }
        short = short.or(Some(end));
    }
    let Some(from) = long.or(short) else { return };
    let first = drafts.len();
    for at in from..from + most {
        let token = match tokens.get(at) {
            Some(&token) => token,
            None => drafts[first + at - len],
        };
        drafts.push(token);
    }
}

/// How a session's guesses did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tally {
    pub drafted: u64,
    pub accepted: u64,
    /// Guesses that were put to the test, lately, and those that were right.
    tested: f64,
    right: f64,
    /// Steps since the last guess, and after how many of them one is tried that does not seem to
    /// pay.
    quiet: u32,
    probe: u32,
}

/// What is believed of a session that never guessed: as if so many had been right of so many.
const PRIOR: (f64, f64) = (1.0, 2.0);

/// Weight of what was known before, each time guesses are tested.
const MEMORY: f64 = 0.9;

/// Steps without a guess after which one is tried that does not seem to pay, …
const PROBE: u32 = 64;

/// … and if it is another model's, which has to read first what was written since.
const MODEL_PROBE: u32 = 256;

impl Default for Tally {
    fn default() -> Tally {
        Tally { drafted: 0, accepted: 0, tested: PRIOR.1, right: PRIOR.0, quiet: 0, probe: PROBE }
    }
}

impl Tally {
    /// Of guesses that another model makes.
    pub fn of_model() -> Tally {
        Tally { probe: MODEL_PROBE, ..Tally::default() }
    }

    /// What is to be believed of one that begins, after others that have come to this.
    pub(super) fn heir(&self) -> Tally {
        match self.drafted {
            0 => Tally::of_model(),
            _ => Tally { right: PRIOR.1 * self.chance(), ..Tally::of_model() },
        }
    }

    /// Takes in what another one has learned.
    pub(super) fn add(&mut self, other: &Tally) {
        let before = if self.drafted == 0 { 0.0 } else { MEMORY };
        self.drafted += other.drafted;
        self.accepted += other.accepted;
        self.tested = self.tested * before + other.tested;
        self.right = self.right * before + other.right;
    }

    /// The first `accepted` of `drafted` guesses were right. What came after the first wrong one
    /// was not tested.
    pub fn note(&mut self, drafted: usize, accepted: usize) {
        if drafted == 0 {
            self.quiet = self.quiet.saturating_add(1);
            return;
        }
        self.quiet = 0;
        self.drafted += drafted as u64;
        self.accepted += accepted as u64;
        let tested = drafted.min(accepted + 1);
        self.tested = self.tested * MEMORY + tested as f64;
        self.right = self.right * MEMORY + accepted as f64;
    }

    /// How likely a guess is right, if those before it were.
    fn chance(&self) -> f64 {
        self.right / self.tested
    }
}

/// How many guesses give a session the most tokens for its time, at most `at_most`. `base` is what
/// its turn takes without them (its part of the step, where others share it), `each` what
/// each guess more takes: a row, which where experts stream is mostly their bytes, and the making of
/// the guess. A session whose guesses do not pay makes none, but for one now and then to see whether
/// that has changed.
pub fn worth(tally: &Tally, base: Duration, each: Duration, at_most: usize) -> usize {
    weigh(tally, base, each, at_most).guesses
}

/// So many guesses are worth their time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Worth {
    pub guesses: usize,
    /// Seconds that a token takes with them; 0 where they are made to see how they do.
    pub token: f64,
}

pub(super) fn weigh(tally: &Tally, base: Duration, each: Duration, at_most: usize) -> Worth {
    let (base, each) = (base.as_secs_f64(), each.as_secs_f64());
    let chance = tally.chance();
    let (mut best, mut best_time) = (0, base);
    let (mut tokens, mut run) = (1.0, 1.0);
    for drafts in 1..=at_most {
        run *= chance;
        tokens += run;
        let time = (base + drafts as f64 * each) / tokens;
        if time < best_time {
            (best, best_time) = (drafts, time);
        }
    }
    match best {
        0 if tally.quiet >= tally.probe => Worth { guesses: at_most.min(1), token: 0.0 },
        guesses => Worth { guesses, token: best_time },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drafts(tokens: &[u32], most: usize) -> Vec<u32> {
        let mut drafts = Vec::new();
        propose(tokens, most, &mut drafts);
        drafts
    }

    #[test]
    fn what_followed_the_last_time_is_guessed() {
        assert_eq!(drafts(&[1, 2, 3, 4, 5, 9, 1, 2, 3], 2), [4, 5]);
        assert_eq!(drafts(&[1, 2, 3, 4, 7, 1, 2, 3, 5, 7, 1, 2, 3], 1), [5], "the latest");
        assert_eq!(drafts(&[1, 2, 3, 4, 7, 2, 3, 5, 7, 1, 2, 3], 1), [4], "three before two");
        assert_eq!(drafts(&[8, 2, 3, 4, 7, 1, 2, 3], 3), [4, 7, 1], "two where three are not");
        assert_eq!(drafts(&[5, 6, 5, 6], 5), [5, 6, 5, 6, 5], "a loop");
        assert_eq!(drafts(&[5, 5, 5], 3), [5, 5, 5]);
        for none in [&[][..], &[1], &[1, 1], &[1, 2, 3, 4], &[3, 1, 2, 3]] {
            assert!(drafts(none, 4).is_empty());
        }
        assert!(drafts(&[1, 2, 1, 2], 0).is_empty());
    }

    const STEP: Duration = Duration::from_millis(100);

    fn after(rounds: &[(usize, usize)]) -> Tally {
        let mut tally = Tally::default();
        rounds.iter().for_each(|&(drafted, accepted)| tally.note(drafted, accepted));
        tally
    }

    #[test]
    fn guesses_are_made_as_far_as_they_pay() {
        let good = after(&[(4, 4); 20]);
        let bad = after(&[(4, 0); 20]);
        assert_eq!(worth(&good, STEP, Duration::ZERO, 8), 8);
        assert_eq!(worth(&good, STEP, STEP / 20, 8), 8);
        assert_eq!(worth(&good, STEP, STEP * 2, 8), 0, "a row dearer than a step");
        assert_eq!(worth(&bad, STEP, STEP / 4, 8), 0);
        // The chance is a half at first: a guess pays if a row costs less than half a turn.
        assert_eq!(worth(&Tally::default(), STEP, STEP * 49 / 100, 8), 1);
        assert_eq!(worth(&Tally::default(), STEP, STEP * 51 / 100, 8), 0);
        assert_eq!(worth(&good, STEP, Duration::ZERO, 0), 0);
        // The dearer a row, the fewer.
        let half = after(&[(4, 2); 20]);
        let by_cost = (1..50).map(|cost| worth(&half, STEP, STEP * cost / 50, 16));
        assert!(by_cost.is_sorted_by(|a, b| a >= b));
    }

    /// The choice is the best of all by trying them all.
    #[test]
    fn no_other_number_of_guesses_gives_more() {
        for right in 0..=10 {
            for cost in 1..40 {
                let mut tally = after(&[(10, right); 30]);
                tally.quiet = 0;
                let chance = tally.chance();
                let rate = |drafts: usize| {
                    let tokens: f64 = (0..=drafts).map(|k| chance.powi(k as i32)).sum();
                    tokens / (1.0 + drafts as f64 * f64::from(cost) / 20.0)
                };
                let worth = worth(&tally, STEP, STEP * cost / 20, 12);
                assert!((0..=12).all(|other| rate(other) <= rate(worth) * 1.000_001));
            }
        }
    }

    #[test]
    fn one_that_gave_up_tries_again_now_and_then() {
        let mut tally = after(&[(4, 0); 20]);
        let mut probes = 0;
        for _ in 0..1000 {
            let drafts = worth(&tally, STEP, STEP / 4, 8);
            probes += drafts;
            tally.note(drafts, 0);
        }
        assert_eq!(probes, 1000 / (PROBE as usize + 1));
        // When the text begins to repeat itself, a few probes bring the guesses back.
        let mut steps = 0;
        while worth(&tally, STEP, STEP / 4, 8) < 2 {
            let drafts = worth(&tally, STEP, STEP / 4, 8);
            tally.note(drafts, drafts);
            steps += 1;
        }
        assert!(steps <= 8 * PROBE, "{steps} steps");
    }
}

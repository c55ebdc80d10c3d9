//! From logits to the next token.
//!
//! Owns the order of the stages, the random numbers and stop strings. All of it is pure: the
//! same logits, parameters, history and position give the same token on every machine. Knows no
//! model and no vocabulary beyond its size. The softmax is `math`'s, whose bits are promised; the
//! system's `exp` is never called.
//!
//! The stages, in this order:
//!
//! 0. *The mask*, if there is one: tokens outside it have the logit minus infinity, which no later
//!    stage can raise. A mask of all tokens changes no bit.
//! 1. *Logit bias*, then *penalties*. Repetition: a token that occurred among the last
//!    `penalty_window` tokens has its logit divided by the penalty if positive, multiplied
//!    otherwise. Frequency: less its penalty for each time it occurred. Presence: less its
//!    penalty if it occurred.
//! 2. *Greedy*: if the temperature is 0, the highest logit is the answer; of equals the lowest id.
//! 3. *Temperature*: logits are divided by it.
//! 4. *Top-k*: the k highest stay; of equals the lowest ids.
//! 5. *Top-p*: of the softmax of those, in falling order, the fewest whose sum reaches p stay.
//! 6. *Min-p*: those below `min_p` times the highest probability go.
//! 7. *The draw*: a number in [0, 1) from (seed, position) picks from what is left, in the same
//!    falling order.
//!
//! *Falling order* is that of the logits after stage 3, and of equals the lowest id is first. So
//! that no sum depends on a machine, each has one order. The softmax is taken over the candidates
//! (all tokens, or those that top-k leaves) by rising id, in the lanes of `math`. Top-p's sum and
//! the draw's run in falling order. What the draw takes for the whole is the sum of what is left,
//! in falling order; but if neither top-p nor min-p is asked for, all candidates by rising id.
//!
//! None of this needs more than the likeliest tokens sorted, so usually no more are. How many are
//! is not part of the definition, and the result is the same for any number.

mod mask;
mod params;
mod philox;
mod stop;

pub use mask::Mask;
pub use params::{MAX_LOGPROBS, ParamError, SamplingParams};
pub use philox::{philox4x32, uniform};
pub use stop::StopMatcher;

use std::collections::HashMap;

use crate::math::Kernels;

/// A token with the logarithm of its probability.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LogProb {
    pub id: u32,
    pub logprob: f32,
}

/// The token drawn, and what the caller asked to know about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    pub id: u32,
    /// Present if log-probabilities were asked for: the chosen token's, then the n likeliest.
    /// They come from the model's own logits, before mask, bias, penalties and temperature.
    pub logprobs: Option<(LogProb, Vec<LogProb>)>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SampleError {
    #[error("the model gave no logits")]
    Empty,
    #[error("the logit of token {0} is not a number: the weights or their reading are damaged")]
    NotANumber(u32),
    #[error("no token can follow: every logit is minus infinity")]
    Nothing,
    /// The grammar of the answer could not say what may follow.
    #[error("the answer's grammar: {0}")]
    Grammar(String),
}

/// Draws tokens for one session. It keeps scratch memory and nothing that a draw depends on.
#[derive(Debug, Clone)]
pub struct Sampler {
    params: SamplingParams,
    kernels: Kernels,
    logits: Vec<f32>,
    counts: HashMap<u32, u32>,
    order: Vec<u64>,
    weights: Vec<f32>,
}

/// How many tokens are sorted at first; eight times as many each time that they do not suffice.
const FIRST: usize = 512;

impl Sampler {
    pub fn new(params: SamplingParams, kernels: Kernels) -> Result<Sampler, ParamError> {
        params.check()?;
        Ok(Sampler {
            params,
            kernels,
            logits: Vec::new(),
            counts: HashMap::new(),
            order: Vec::new(),
            weights: Vec::new(),
        })
    }

    pub fn params(&self) -> &SamplingParams {
        &self.params
    }

    /// The token at `position` (counted in the whole sequence, prompt included) after `history`,
    /// all the tokens before it.
    pub fn sample(
        &mut self,
        logits: &[f32],
        history: &[u32],
        position: u64,
    ) -> Result<Choice, SampleError> {
        self.sample_among(None, logits, history, position)
    }

    /// The same, of the tokens in `mask` alone.
    pub fn sample_among(
        &mut self,
        mask: Option<&Mask>,
        logits: &[f32],
        history: &[u32],
        position: u64,
    ) -> Result<Choice, SampleError> {
        if logits.is_empty() {
            return Err(SampleError::Empty);
        }
        all_numbers(logits)?;
        let plain = mask.is_none() && self.params.logit_bias.is_empty() && !self.penalises();
        let id = match self.params.temperature {
            // The likeliest needs no copy of its own.
            0.0 if plain => highest(logits)?,
            temperature => {
                self.logits.clear();
                self.logits.extend_from_slice(logits);
                if let Some(mask) = mask {
                    mask.apply(&mut self.logits);
                }
                self.bias();
                self.penalise(history);
                all_numbers(&self.logits)?;
                match temperature {
                    0.0 => highest(&self.logits)?,
                    temperature => self.draw(temperature, position)?,
                }
            }
        };
        let logprobs = self.params.logprobs.map(|n| self.logprobs(logits, id, n));
        Ok(Choice { id, logprobs })
    }

    fn bias(&mut self) {
        for (&id, &bias) in &self.params.logit_bias {
            if let Some(logit) = self.logits.get_mut(id as usize) {
                *logit += bias;
            }
        }
    }

    fn penalises(&self) -> bool {
        let p = &self.params;
        p.repetition_penalty != 1.0 || p.presence_penalty != 0.0 || p.frequency_penalty != 0.0
    }

    fn penalise(&mut self, history: &[u32]) {
        if !self.penalises() {
            return;
        }
        let p = &self.params;
        let window = p.penalty_window.unwrap_or(history.len()).min(history.len());
        self.counts.clear();
        for &id in &history[history.len() - window..] {
            *self.counts.entry(id).or_insert(0) += 1;
        }
        // Each token is changed by itself, so the order of the map does not matter.
        for (&id, &count) in &self.counts {
            if let Some(logit) = self.logits.get_mut(id as usize) {
                *logit = match *logit > 0.0 {
                    true => *logit / p.repetition_penalty,
                    false => *logit * p.repetition_penalty,
                };
                *logit -= count as f32 * p.frequency_penalty;
                *logit -= p.presence_penalty;
            }
        }
    }

    fn draw(&mut self, temperature: f32, position: u64) -> Result<u32, SampleError> {
        let top = highest(&self.logits)?;
        // Differences to the highest cannot overflow, however small the temperature.
        let peak = self.logits[top as usize];
        for logit in &mut self.logits {
            *logit = (*logit - peak) / temperature;
        }
        self.order.clear();
        self.order.extend(self.logits.iter().enumerate().map(falling));
        let k = self.params.top_k;
        if k > 0 && k < self.order.len() {
            sort_least(&mut self.order, k);
            self.order.truncate(k);
            self.order.sort_unstable_by_key(|&key| id_of(key));
            self.weights.clear();
            self.weights.extend(self.order.iter().map(|&key| self.logits[id_of(key)]));
            self.kernels.softmax(&mut self.weights);
        } else {
            self.weights.clone_from(&self.logits);
            self.kernels.softmax(&mut self.weights);
        }
        let whole = match self.limited() {
            true => None,
            false => Some(self.weights.iter().map(|w| f64::from(*w)).sum()),
        };
        // From here on the place of a token's probability is its id.
        if self.weights.len() == self.logits.len() {
            std::mem::swap(&mut self.weights, &mut self.logits);
        } else {
            for (&key, &weight) in self.order.iter().zip(&self.weights) {
                self.logits[id_of(key)] = weight;
            }
        }
        let u = uniform(self.params.seed, position);
        let (mut sorted, mut wanted) = (0, FIRST);
        loop {
            let rest = &mut self.order[sorted..];
            if wanted >= sorted + rest.len() {
                rest.sort_unstable();
                return Ok(self.settle(self.order.len(), whole, u).unwrap_or(top));
            }
            sort_least(rest, wanted - sorted);
            if let Some(id) = self.settle(wanted, whole, u) {
                return Ok(id);
            }
            (sorted, wanted) = (wanted, wanted * 8);
        }
    }

    fn limited(&self) -> bool {
        self.params.top_p < 1.0 || self.params.min_p > 0.0
    }

    /// The token that `u` picks, if the first `sorted` candidates suffice to tell. All of them do.
    fn settle(&mut self, sorted: usize, whole: Option<f64>, u: f64) -> Option<u32> {
        let all = sorted == self.order.len();
        self.weights.clear();
        self.weights.extend(self.order[..sorted].iter().map(|&key| self.logits[id_of(key)]));
        let at = match whole {
            Some(whole) => pick(&self.weights, u * whole)
                // The two orders of summing may differ by a last bit.
                .or_else(|| if all { self.weights.iter().rposition(|w| *w > 0.0) } else { None })?,
            None => {
                let kept = self.nucleus().or(all.then_some(sorted))?;
                let left = &self.weights[..kept];
                let whole: f64 = left.iter().map(|w| f64::from(*w)).sum();
                pick(left, u * whole).unwrap_or(kept - 1)
            }
        };
        Some(id_of(self.order[at]) as u32)
    }

    /// How many of the likeliest tokens top-p and min-p leave, at least one; nothing if the limit
    /// is not among those that `weights` holds.
    fn nucleus(&self) -> Option<usize> {
        let floor = self.params.min_p * self.weights[0];
        let mut sum = 0.0;
        for (at, weight) in self.weights.iter().enumerate() {
            if at > 0 && *weight < floor {
                return Some(at);
            }
            sum += weight;
            if self.params.top_p < 1.0 && sum >= self.params.top_p {
                return Some(at + 1);
            }
        }
        None
    }

    fn logprobs(&mut self, logits: &[f32], id: u32, n: usize) -> (LogProb, Vec<LogProb>) {
        let n = n.min(logits.len());
        self.order.clear();
        self.order.extend(logits.iter().enumerate().map(falling));
        sort_least(&mut self.order, n);
        self.order.truncate(n);
        // There is a highest logit: a token has been chosen.
        let top = highest(logits).unwrap_or(id) as usize;
        self.weights.clear();
        self.weights.extend_from_slice(logits);
        self.kernels.softmax(&mut self.weights);
        // The likeliest token's probability is 1 / Σ exp(l - peak), so its logarithm gives the
        // normaliser for all, and a token whose probability is 0 in f32 still has its logarithm.
        let log_first = ln(self.weights[top]);
        let of =
            |id: usize| LogProb { id: id as u32, logprob: logits[id] - logits[top] + log_first };
        (of(id as usize), self.order.iter().map(|&key| of(id_of(key))).collect())
    }
}

/// A token as a number whose rising order is the falling order of logits, and of equals the
/// rising order of ids, which are its low half. There are no NaNs: `sample` has refused them.
fn falling((id, logit): (usize, &f32)) -> u64 {
    // Adding zero makes -0 and 0 the same. The bits of floats rise with them once those of
    // negative ones are turned over and the others' sign is set; all turned over, they fall.
    let bits = (logit + 0.0).to_bits();
    let falling = if bits >> 31 == 1 { bits } else { bits ^ 0x7fff_ffff };
    u64::from(falling) << 32 | id as u64
}

/// Brings the `n` least keys to the front, sorted.
fn sort_least(keys: &mut [u64], n: usize) {
    if n == 0 {
        return;
    }
    let mut among = keys.len();
    if among / 8 >= n {
        // Of n stretches each has a key no greater than this, so the n least are not above it.
        let least = |stretch: &[u64]| stretch.iter().copied().min();
        let bound = keys.chunks_exact(among / n).take(n).filter_map(least).max();
        let bound = bound.unwrap_or(u64::MAX);
        among = 0;
        for at in 0..keys.len() {
            if keys[at] <= bound {
                keys.swap(among, at);
                among += 1;
            }
        }
    }
    if n < among {
        keys[..among].select_nth_unstable(n - 1);
    }
    keys[..n].sort_unstable();
}

fn id_of(key: u64) -> usize {
    key as u32 as usize
}

/// Logits that are looked at together, so that the compiler can use vectors.
const RUN: usize = 1024;

/// Refuses what is not a number, and infinity, which no softmax can use.
fn all_numbers(logits: &[f32]) -> Result<(), SampleError> {
    let unfit = |logit: &f32| logit.is_nan() || *logit == f32::INFINITY;
    for (run, logits) in logits.chunks(RUN).enumerate() {
        if logits.iter().fold(false, |any, logit| any | unfit(logit)) {
            let at = logits.iter().position(unfit).unwrap_or(0);
            return Err(SampleError::NotANumber((run * RUN + at) as u32));
        }
    }
    Ok(())
}

/// The highest; of equals the lowest id. All are numbers.
fn highest(logits: &[f32]) -> Result<u32, SampleError> {
    let greatest = |logits: &[f32]| {
        let mut lanes = [f32::NEG_INFINITY; 16];
        let (whole, rest) = logits.as_chunks::<16>();
        for logits in whole {
            for (lane, logit) in lanes.iter_mut().zip(logits) {
                *lane = if *logit > *lane { *logit } else { *lane };
            }
        }
        lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max)
    };
    let (mut best, mut run) = (f32::NEG_INFINITY, 0);
    for (i, logits) in logits.chunks(RUN).enumerate() {
        let own = greatest(logits);
        if own > best {
            (best, run) = (own, i);
        }
    }
    let at = logits.iter().skip(run * RUN).position(|logit| *logit == best);
    match at {
        Some(at) if best > f32::NEG_INFINITY => Ok((run * RUN + at) as u32),
        _ => Err(SampleError::Nothing),
    }
}

/// The first place at which the running sum passes `mark`.
fn pick(weights: &[f32], mark: f64) -> Option<usize> {
    // In f64 the sums of up to 2^29 f32 values in falling order lose nothing that could decide.
    let mut sum = 0.0;
    weights.iter().position(|weight| {
        sum += f64::from(*weight);
        mark < sum
    })
}

/// The natural logarithm of a number in (0, 1], the same on every machine: mantissa by an atanh
/// series, exponent by a constant, in f64. The error stays below 1e-14, far under f32's.
fn ln(x: f32) -> f32 {
    if x <= 0.0 {
        return f32::NEG_INFINITY;
    }
    let bits = f64::from(x).to_bits();
    let exponent = (bits >> 52) as i64 - 1023;
    let mut mantissa = f64::from_bits(bits & ((1 << 52) - 1) | 1023 << 52);
    let mut exponent = exponent as f64;
    if mantissa > std::f64::consts::SQRT_2 {
        mantissa /= 2.0;
        exponent += 1.0;
    }
    // ln m = 2 atanh((m - 1) / (m + 1)), and |(m - 1) / (m + 1)| < 0.172.
    let t = (mantissa - 1.0) / (mantissa + 1.0);
    let square = t * t;
    let mut series = 0.0;
    for n in (0..9).rev() {
        series = series * square + 1.0 / f64::from(2 * n + 1);
    }
    (exponent * std::f64::consts::LN_2 + 2.0 * t * series) as f32
}

#[cfg(test)]
mod tests;

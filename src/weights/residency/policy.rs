//! How far off a slab's next use is thought to be.
//!
//! Each policy gives every slab a key, which changes only when the slab's layer is entered, and
//! turns it into a distance when slabs of different layers are compared.

use std::fmt;
use std::str::FromStr;

use super::{History, Shape};

/// How victims are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// The farthest *expected* next use: the layers until its layer comes round, and a whole pass
    /// for each step that is likely to pass it by.
    #[default]
    Expected,
    /// The longest unused. A step that touches more slabs than there are slots finds nothing.
    Lru,
    /// The longest unused of the same layer; every layer has as many slots.
    LayerLru,
    /// The least frequent, older uses counting less.
    Lfu,
    /// The one unused for most steps; of equals, the one whose layer comes last.
    LeastStale,
}

impl Policy {
    pub const ALL: [Policy; 5] =
        [Policy::Expected, Policy::LeastStale, Policy::Lfu, Policy::LayerLru, Policy::Lru];

    pub fn name(self) -> &'static str {
        match self {
            Policy::Expected => "expected",
            Policy::Lru => "lru",
            Policy::LayerLru => "layer-lru",
            Policy::Lfu => "lfu",
            Policy::LeastStale => "least-stale",
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Policy {
    type Err = String;

    fn from_str(text: &str) -> Result<Policy, String> {
        Policy::ALL.into_iter().find(|policy| policy.name() == text).ok_or_else(|| {
            let names: Vec<_> = Policy::ALL.iter().map(|policy| policy.name()).collect();
            format!("expected one of {}", names.join(", "))
        })
    }
}

/// How much a step counts in each memory: the last few steps, a paragraph, the whole run.
const RATES: [f32; MEMORIES] = [1.0 / 3.0, 1.0 / 24.0, 1.0 / 512.0];
const MEMORIES: usize = 3;
/// Steps that what is taken for granted (all experts alike) weighs.
const PRIOR: f32 = 4.0;
/// Steps that a history weighs at most: this run's text may be another.
const PAST: f32 = 32.0;
/// How much one layer of one step counts in the trust in each memory.
const TRUST: f32 = 1.0 / 512.0;
/// No slab is thought rarer than this, compared with an average one.
const RAREST: f32 = 1.0 / 64.0;
/// How likely a forecast is thought to be right.
const FORECAST: f64 = 0.5;

/// What a policy knows of every slab.
///
/// **How often** a slab is used is remembered compared with its layer's average, by three memories
/// of different length. Which to trust depends on the text and the model (independent tokens: the
/// longest; a topic: the others), so each use asks which memory foresaw it, and trust moves there.
/// **How many** experts steps use is remembered apart and for all layers together: else a sweep
/// would make the layers that it has been to look busier than those it comes to next, and throw
/// out what it needs. A step that uses all experts tells nothing of any.
pub(super) struct Ranks {
    policy: Policy,
    shape: Shape,
    keys: Vec<f64>,
    often: [Vec<f32>; MEMORIES],
    /// Together 1.
    trust: [f32; MEMORIES],
    /// The part of a layer's experts that steps use of late.
    width: f32,
    /// Steps that each layer has seen, those that tell little counting less.
    seen: Vec<f32>,
    steps: Vec<u64>,
    /// Layers entered so far.
    time: u64,
}

impl Ranks {
    pub fn new(shape: Shape, policy: Policy) -> Ranks {
        let slabs = shape.slabs();
        Ranks {
            policy,
            shape,
            keys: vec![0.0; slabs],
            often: std::array::from_fn(|_| vec![1.0; slabs]),
            trust: [1.0 / MEMORIES as f32; MEMORIES],
            width: 1.0,
            seen: vec![0.0; shape.layers],
            steps: vec![0; shape.layers],
            time: 0,
        }
    }

    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// Of slabs of one layer, the one with the greatest key is farthest off.
    pub fn key(&self, slab: usize) -> f64 {
        self.keys[slab]
    }

    /// A step uses these experts of a layer.
    pub fn learn(&mut self, layer: usize, experts: &[u32]) {
        if experts.is_empty() {
            return;
        }
        self.time += 1;
        self.steps[layer] += 1;
        // All policies remember: the history is saved whatever chooses the victims.
        self.remember(layer, experts);
        let first = layer * self.shape.experts;
        let used = experts.iter().map(|&expert| first + expert as usize);
        match self.policy {
            Policy::Expected | Policy::Lfu => self.rank(first..first + self.shape.experts),
            Policy::Lru | Policy::LayerLru => {
                used.for_each(|slab| self.keys[slab] = -(self.time as f64));
            }
            Policy::LeastStale => {
                let since = -(self.shape.layers as f64) * self.steps[layer] as f64;
                used.for_each(|slab| self.keys[slab] = since);
            }
        }
    }

    fn remember(&mut self, layer: usize, experts: &[u32]) {
        let first = layer * self.shape.experts;
        let part = experts.len() as f32 / self.shape.experts as f32;
        // Over the last two passes, and from the first one on.
        let rate = 1.0 / self.time.min(2 * self.shape.layers as u64) as f32;
        self.width += rate * (part - self.width);

        // The trust that fits a mixture best, by expectation and maximisation.
        let weight = (2.0 * (1.0 - part)).min(1.0);
        let mut right = [0.0; MEMORIES];
        for &expert in experts {
            let said: [f32; MEMORIES] = std::array::from_fn(|memory| {
                self.trust[memory] * self.often[memory][first + expert as usize].max(RAREST)
            });
            let all: f32 = said.iter().sum();
            right.iter_mut().zip(said).for_each(|(right, said)| *right += said / all);
        }
        for (trust, right) in self.trust.iter_mut().zip(right) {
            *trust += TRUST * weight * (right / experts.len() as f32 - *trust);
        }

        self.seen[layer] += weight;
        for (often, rate) in self.often.iter_mut().zip(RATES) {
            // While little is known, every step counts alike.
            let rate = weight * rate.max(1.0 / (self.seen[layer] + PRIOR));
            let often = &mut often[first..first + self.shape.experts];
            often.iter_mut().for_each(|often| *often -= rate * *often);
            for &expert in experts {
                often[expert as usize] += rate / part;
            }
        }
    }

    fn rank(&mut self, slabs: std::ops::Range<usize>) {
        let [few, some, all] = &self.often;
        for slab in slabs {
            let often = match self.policy {
                // The middle one did best alone.
                Policy::Lfu => some[slab],
                _ => {
                    let trust = self.trust;
                    trust[0] * few[slab] + trust[1] * some[slab] + trust[2] * all[slab]
                }
            };
            self.keys[slab] = 1.0 / f64::from(often.max(RAREST));
        }
    }

    /// How far off the next use of a layer's slab with this key is thought to be, in layers from
    /// `now` on, or on a scale of the policy's own. `newcomer` is the layer that a slot is wanted
    /// for, `held` how many slots the slab's layer has.
    pub fn distance(&self, key: f64, layer: usize, newcomer: usize, now: usize, held: u32) -> f64 {
        match self.policy {
            Policy::Lru | Policy::Lfu => key,
            Policy::LeastStale => key + self.ahead(layer, now),
            Policy::Expected => {
                // A chance of p is met after 1/p − 1 passes in vain.
                let passes = (key / f64::from(self.width) - 1.0).max(0.0);
                self.shape.layers as f64 * passes + self.ahead(layer, now)
            }
            Policy::LayerLru => {
                let Shape { layers, slots, .. } = self.shape;
                // The first layers have one more where the slots do not divide.
                let quota = slots / layers + usize::from(layer < slots % layers);
                let wanted = held as usize + usize::from(layer == newcomer);
                // Greater than any difference between keys.
                (wanted as f64 - quota as f64) * 2f64.powi(36) + key
            }
        }
    }

    /// How far off a forecast's use is thought to be, on the same scale.
    pub fn forecast(&self, layer: usize, now: usize) -> f64 {
        match self.policy {
            Policy::Expected => {
                let passes = 1.0 / FORECAST - 1.0;
                self.shape.layers as f64 * passes + self.ahead(layer, now)
            }
            _ => f64::NEG_INFINITY,
        }
    }

    /// Layers until a layer comes round.
    fn ahead(&self, layer: usize, now: usize) -> f64 {
        let round = if layer > now { 0 } else { self.shape.layers };
        (layer + round - now) as f64
    }

    pub fn history(&self) -> History {
        let [.., all] = &self.often;
        History {
            layers: self.shape.layers,
            experts: self.shape.experts,
            steps: self.steps.iter().copied().max().unwrap_or(0),
            often: all.clone(),
        }
    }

    /// Takes over what a history says. Its shape is this one.
    pub fn recall(&mut self, history: &History) {
        for often in &mut self.often {
            often.copy_from_slice(&history.often);
        }
        self.seen.fill(PAST.min(history.steps as f32));
        if matches!(self.policy, Policy::Expected | Policy::Lfu) {
            self.rank(0..self.shape.slabs());
        }
    }
}

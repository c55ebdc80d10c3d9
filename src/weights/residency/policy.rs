//! How far off a slab's next use is thought to be.
//!
//! Each policy gives a key to every slab and a number to every layer; their sum is compared.

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

/// How much a step counts in what is remembered for long, and for short.
const SLOW: f32 = 1.0 / 128.0;
const FAST: f32 = 1.0 / 4.0;
/// The part of the short memory in the estimate.
const RECENT: f32 = 0.25;
/// No slab is thought rarer than this.
const RAREST: f32 = 1.0 / 4096.0;
/// How likely a forecast is thought to be right.
const FORECAST: f64 = 0.5;

/// What a policy knows of every slab.
pub(super) struct Ranks {
    policy: Policy,
    shape: Shape,
    keys: Vec<f64>,
    /// The part of steps that used a slab.
    slow: Vec<f32>,
    fast: Vec<f32>,
    /// Steps that each layer has seen.
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
            slow: vec![0.0; slabs],
            fast: vec![0.0; slabs],
            steps: vec![0; shape.layers],
            time: 0,
        }
    }

    pub fn policy(&self) -> Policy {
        self.policy
    }

    pub fn key(&self, slab: usize) -> f64 {
        self.keys[slab]
    }

    /// A step uses these experts of a layer.
    pub fn learn(&mut self, layer: usize, experts: &[u32]) {
        self.time += 1;
        self.steps[layer] += 1;
        let first = layer * self.shape.experts;
        let range = first..first + self.shape.experts;
        // While little is known, every step counts alike.
        let slow = SLOW.max(1.0 / (self.steps[layer] + 1) as f32);
        self.slow[range.clone()].iter_mut().for_each(|p| *p -= slow * *p);
        self.fast[range.clone()].iter_mut().for_each(|p| *p -= FAST * *p);
        for &expert in experts {
            self.slow[first + expert as usize] += slow;
            self.fast[first + expert as usize] += FAST;
        }
        match self.policy {
            Policy::Expected | Policy::Lfu => self.rank(range),
            Policy::Lru | Policy::LayerLru => {
                for &expert in experts {
                    self.keys[first + expert as usize] = -(self.time as f64);
                }
            }
            Policy::LeastStale => {
                let pass = self.shape.layers as f64;
                for &expert in experts {
                    self.keys[first + expert as usize] = -pass * self.steps[layer] as f64;
                }
            }
        }
    }

    fn rank(&mut self, slabs: std::ops::Range<usize>) {
        let pass = self.shape.layers as f32;
        for slab in slabs {
            let (slow, fast) = (self.slow[slab], self.fast[slab]);
            self.keys[slab] = match self.policy {
                Policy::Lfu => -f64::from(slow),
                _ => {
                    let likely = (slow + RECENT * (fast - slow)).max(RAREST);
                    f64::from(pass / likely - pass)
                }
            };
        }
    }

    /// What all slabs of a layer have in common, seen from layer `now`, when a slot is looked for
    /// on behalf of layer `newcomer`.
    pub fn of_layer(&self, layer: usize, newcomer: usize, now: usize, held: u32) -> f64 {
        match self.policy {
            Policy::Lru | Policy::Lfu => 0.0,
            Policy::Expected | Policy::LeastStale => self.ahead(layer, now),
            Policy::LayerLru => {
                // The first layers have one more where the slots do not divide.
                let (each, more) =
                    (self.shape.slots / self.shape.layers, self.shape.slots % self.shape.layers);
                let quota = each + usize::from(layer < more);
                let over = f64::from(held) + f64::from(u8::from(layer == newcomer)) - quota as f64;
                // Greater than any difference between keys.
                over * 2f64.powi(36)
            }
        }
    }

    /// The same for a slab that has no slot yet.
    pub fn own(&self, slab: usize, layer: usize, now: usize, held: &[u32]) -> f64 {
        self.keys[slab] + self.of_layer(layer, layer, now, held[layer])
    }

    /// How far off a forecast's use is thought to be, on the scale of the others.
    pub fn forecast(&self, layer: usize, now: usize) -> f64 {
        match self.policy {
            Policy::Expected => {
                self.ahead(layer, now) + self.shape.layers as f64 * (1.0 / FORECAST - 1.0)
            }
            _ => f64::NEG_INFINITY,
        }
    }

    /// Layers until a layer comes round.
    fn ahead(&self, layer: usize, now: usize) -> f64 {
        let layers = self.shape.layers;
        (if layer > now { layer - now } else { layer + layers - now }) as f64
    }

    pub fn history(&self) -> History {
        History {
            layers: self.shape.layers,
            experts: self.shape.experts,
            steps: self.steps.iter().copied().max().unwrap_or(0),
            frequency: self.slow.clone(),
        }
    }

    /// Takes over what a history says. Its shape is this one.
    pub fn recall(&mut self, history: &History) {
        self.slow.copy_from_slice(&history.frequency);
        self.fast.copy_from_slice(&history.frequency);
        // Worth a part of the memory at most: this run's text may be another.
        self.steps.fill(history.steps.min(32));
        if matches!(self.policy, Policy::Expected | Policy::Lfu) {
            self.rank(0..self.shape.slabs());
        }
    }
}

//! How fast a plan may be expected to be, and which of disk, memory and arithmetic limits it.

use std::fmt;

use serde::Serialize;

use super::{Ask, Facts, Plan};
use crate::model::config::{AttentionKind, Config, Ffn};

/// Of what memory can be read at, and of the arithmetic that a core can do, what this engine
/// reached where it was measured (see `benches/RESULTS.md`).
const MEMORY_REACHED: f64 = 0.8;
const ARITHMETIC_REACHED: f64 = 0.44;

/// How often an expert that is needed is found in memory.
#[derive(Clone, Debug, PartialEq)]
pub enum Hits {
    /// All experts are as likely, so as often as the share of them that is kept.
    Uniform,
    /// By the number of kept slabs, ascending, as a recorded trace was replayed.
    Replayed(Vec<(usize, f64)>),
}

impl Hits {
    /// The part of the experts needed that is there.
    pub fn at(&self, plan: &Plan) -> f64 {
        let kept = plan.slots - plan.transit;
        match self {
            _ if plan.fits => 1.0,
            Hits::Uniform => plan.share(),
            Hits::Replayed(points) => {
                let after = points.partition_point(|(slots, _)| *slots <= kept);
                let (from, low) = if after == 0 { (0, 0.0) } else { points[after - 1] };
                let Some(&(to, high)) = points.get(after) else { return low };
                low + (high - low) * (kept - from) as f64 / (to - from).max(1) as f64
            }
        }
    }
}

/// What a step waits for most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Term {
    Disk,
    Memory,
    Arithmetic,
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Term::Disk => "disk",
            Term::Memory => "memory",
            Term::Arithmetic => "arithmetic",
        })
    }
}

/// Seconds of one step by what they are spent on; `None` where the host's rate is not known.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Step {
    /// Tokens that it writes or takes in.
    pub tokens: usize,
    /// Bytes that it reads from the disk.
    pub missed: f64,
    pub disk: Option<f64>,
    /// Reading the trunk and the experts from memory.
    pub memory: Option<f64>,
    pub arithmetic: Option<f64>,
    /// The part of memory and arithmetic that no reading from the disk goes on beside.
    alone: f64,
}

impl Step {
    /// Decoding of so many sessions together.
    pub fn decode(plan: &Plan, facts: &Facts, hits: &Hits, sessions: usize) -> Step {
        Step::of(plan, facts, hits, sessions, sessions as f64, false)
    }

    /// A chunk of a long prompt.
    pub fn prefill(plan: &Plan, facts: &Facts, hits: &Hits) -> Step {
        Step::of(plan, facts, hits, plan.prefill_chunk, 1.0, true)
    }

    fn of(
        plan: &Plan,
        facts: &Facts,
        hits: &Hits,
        tokens: usize,
        logits: f64,
        sweeps: bool,
    ) -> Step {
        let Facts { config, weights, rates, .. } = facts;
        let parameters = Parameters::of(config);
        // A sweep comes to every slab once and in one order, whatever was hit before: what is
        // kept is hit, and that is all.
        let missing = 1.0 - if sweeps { plan.share() } else { hits.at(plan) };
        let slabs: f64 = weights
            .layers
            .iter()
            .map(|layer| distinct(config, layer.experts, tokens) * layer.bytes as f64)
            .sum();
        let trunk = (weights.trunk - weights.embedding) as f64;
        let missed = slabs * missing;
        let reached = |rate: Option<f64>, part: f64| rate.map(|rate| rate * part);
        let memory = reached(rates.memory, MEMORY_REACHED);
        let arithmetic = reached(rates.arithmetic, ARITHMETIC_REACHED * plan.cores.max(1) as f64);
        let over = |work: f64, rate: Option<f64>| rate.map(|rate| work / rate.max(1.0));
        let tokens_in = tokens as f64;
        let of_trunk = 2.0 * (tokens_in * parameters.trunk + logits * parameters.output);
        let all = of_trunk + 2.0 * tokens_in * parameters.experts;
        // One token's trunk is computed while its experts are not known yet; a sweep knows them
        // all beforehand.
        let alone = match sweeps {
            true => 0.0,
            false => longest([over(trunk, memory), over(of_trunk, arithmetic)]),
        };
        Step {
            tokens,
            missed,
            disk: over(missed, rates.disk),
            memory: over(trunk + slabs, memory),
            arithmetic: over(all, arithmetic),
            alone,
        }
    }

    /// Seconds of it, `None` if nothing is known.
    fn seconds(&self) -> Option<f64> {
        let compute = longest([self.memory, self.arithmetic]);
        let disk = self.disk.unwrap_or(0.0);
        let waited = if disk > 0.0 { disk + self.alone } else { 0.0 };
        Some(waited.max(compute)).filter(|seconds| *seconds > 0.0)
    }

    pub fn tokens_per_second(&self) -> Option<f64> {
        Some(self.tokens as f64 / self.seconds()?)
    }

    /// What takes longest.
    pub fn limit(&self) -> Option<Term> {
        let terms = [
            (Term::Disk, self.disk),
            (Term::Memory, self.memory),
            (Term::Arithmetic, self.arithmetic),
        ];
        let known = terms.into_iter().filter_map(|(term, seconds)| Some((term, seconds?)));
        known.max_by(|a, b| a.1.total_cmp(&b.1)).map(|(term, _)| term)
    }

    /// Whether the disk is read for less time than the rest takes, if both are known.
    pub fn disk_is_hidden(&self) -> Option<bool> {
        let compute = longest([self.memory, self.arithmetic]);
        match (self.disk, compute > 0.0) {
            (Some(disk), true) => Some(disk <= compute),
            _ => None,
        }
    }
}

fn longest(terms: [Option<f64>; 2]) -> f64 {
    terms.into_iter().flatten().fold(0.0, f64::max)
}

/// Experts of a layer that so many tokens go to, if all are as likely.
fn distinct(config: &Config, experts: usize, tokens: usize) -> f64 {
    let Some(shape) = &config.experts else { return 0.0 };
    let untouched = 1.0 - shape.used as f64 / experts.max(1) as f64;
    experts as f64 * (1.0 - untouched.powf(tokens as f64))
}

/// Weights that a token meets.
struct Parameters {
    trunk: f64,
    experts: f64,
    output: f64,
}

impl Parameters {
    fn of(config: &Config) -> Parameters {
        let hidden = config.hidden as f64;
        let heads = config.attention.heads as f64;
        let attention = match config.attention.kind {
            AttentionKind::Grouped { kv_heads, key_dim, value_dim, .. } => {
                let kv = kv_heads as f64 * (key_dim + value_dim) as f64;
                hidden * (heads * (key_dim + value_dim) as f64 + kv)
            }
            AttentionKind::Latent { q_rank, kv_rank, nope_dim, rope_dim, value_dim, .. } => {
                let query = heads * (nope_dim + rope_dim) as f64;
                let query = match q_rank {
                    Some(rank) => rank as f64 * (hidden + query),
                    None => hidden * query,
                };
                let carried = heads * (nope_dim + value_dim) as f64 * kv_rank as f64;
                let key = hidden * (kv_rank + rope_dim) as f64;
                query + key + carried + heads * value_dim as f64 * hidden
            }
        };
        let mut parameters =
            Parameters { trunk: 0.0, experts: 0.0, output: hidden * config.vocab as f64 };
        for layer in &config.layers {
            parameters.trunk += attention;
            match (layer.ffn, &config.experts) {
                (Ffn::Dense { width }, _) => parameters.trunk += 3.0 * hidden * width as f64,
                (Ffn::Experts, Some(experts)) => {
                    let shared = experts.shared.map_or(0, |shared| shared.width) as f64;
                    parameters.trunk += hidden * (experts.count as f64 + 3.0 * shared);
                    parameters.experts += 3.0 * hidden * (experts.used * experts.width) as f64;
                }
                (Ffn::Experts, None) => {}
            }
        }
        parameters
    }
}

/// Prompt tokens that take as long to compute as it takes to read the missing share of all slabs
/// from the disk. `None` where disk or arithmetic were not measured.
pub(super) fn sweep_tokens(facts: &Facts, cores: usize, missing: f64) -> Option<f64> {
    let arithmetic = facts.rates.arithmetic? * cores.max(1) as f64 * ARITHMETIC_REACHED;
    let sweep = facts.weights.slabs_bytes() as f64 * missing / facts.rates.disk?;
    let parameters = Parameters::of(&facts.config);
    let operations = 2.0 * (parameters.trunk + parameters.experts);
    Some(sweep * arithmetic / operations.max(1.0))
}

/// Where more memory stops mattering.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Knee {
    pub budget: u64,
    /// Whether everything fits there; else the disk is read beside what is computed.
    pub fits: bool,
}

impl Knee {
    /// The least budget with which one session's decoding is not held up by the disk.
    pub fn find(ask: &Ask, facts: &Facts, hits: &Hits) -> Knee {
        let (mut low, mut high) = (Plan::least(ask, facts), Plan::enough(ask, facts));
        let facts = Facts { free: None, ..facts.clone() };
        let plan = |budget| Plan::new(&Ask { memory: Some(budget), ..*ask }, &facts).ok();
        let hidden = |budget| {
            plan(budget).is_some_and(|plan| {
                plan.fits || Step::decode(&plan, &facts, hits, 1).disk_is_hidden() == Some(true)
            })
        };
        // What is chosen freely grows with the budget, so a little more may be needed for the rest.
        while !hidden(high) && high < u64::MAX / 8 {
            (low, high) = (high, high + high / 8 + 1);
        }
        while high - low > 1 << 20 {
            let middle = low + (high - low) / 2;
            match hidden(middle) {
                true => high = middle,
                false => low = middle,
            }
        }
        Knee { budget: high, fits: plan(high).is_some_and(|plan| plan.fits) }
    }
}

//! `penstock replay`: what a cache would have hit, by its size and policy.

mod plot;
mod routing;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{Outcome, Usage, counted, positive};
use crate::base::units::Bytes;
use crate::weights::residency::{Belady, Counters, Policy, Residency, Shape};
use crate::weights::trace::{Header, Trace};

use plot::Line;
use routing::Routing;

/// Show what part of a recorded run's experts a cache would have held, by size and policy
///
/// The trace is written by `run --record-trace FILE`. Every policy is replayed at every size, and
/// beside them Belady's optimum, which knows the future: no cache can hit more.
#[derive(clap::Args)]
pub struct Args {
    /// A recorded trace
    trace: PathBuf,

    /// Cache sizes, in percent of all slabs
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = percent)]
    #[arg(default_values = ["5", "10", "20", "30", "40", "50", "75", "100"])]
    sizes: Vec<f64>,

    /// Cache sizes in slots, in place of --sizes
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = positive)]
    slots: Vec<usize>,

    /// Policies to compare [default: all]
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = policy)]
    policy: Vec<Policy>,

    /// Sessions that decode together: the steps that decode are cut into N runs, which go on side
    /// by side; steps with a prompt are left out
    #[arg(long, value_name = "N", value_parser = positive)]
    batch: Option<usize>,

    /// Write the hit rates as a picture
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

fn percent(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(part) if part > 0.0 && part <= 100.0 => Ok(part),
        _ => Err("expected a number above 0, at most 100".into()),
    }
}

fn policy(text: &str) -> Result<Policy, String> {
    text.parse()
}

pub fn run(args: Args) -> Outcome {
    let trace = Trace::open(&args.trace)?;
    let routing = match args.batch {
        None => Routing::of(&trace),
        Some(sessions) => Routing::batched(&trace, sessions)
            .ok_or(Usage("--batch asks for more sessions than the trace has steps that decode"))?,
    };
    let report = Report::new(&args, &trace, &routing);
    let mut out = io::stdout().lock();
    match args.json {
        true => writeln!(out, "{}", report.json())?,
        false => report.print(&mut out)?,
    }
    match &args.svg {
        Some(path) => report.draw(path),
        None => Ok(()),
    }
}

struct Report<'a> {
    trace: &'a Trace,
    routing: &'a Routing,
    facts: routing::Facts,
    batch: Option<usize>,
    policies: Vec<Policy>,
    sizes: Vec<Size>,
}

/// What a cache of one size hits.
struct Size {
    slots: usize,
    /// One for each policy.
    counters: Vec<Counters>,
    belady: Belady,
}

impl<'a> Report<'a> {
    fn new(args: &Args, trace: &'a Trace, routing: &'a Routing) -> Report<'a> {
        let Header { layers, experts, .. } = trace.header;
        let slabs = (layers * experts) as usize;
        let mut slots = args.slots.clone();
        if slots.is_empty() {
            let of = |part: &f64| ((slabs as f64 * part / 100.0).round() as usize).max(1);
            slots = args.sizes.iter().map(of).collect();
        }
        // Small to large, so that the columns and the lines rise.
        slots.sort_unstable();
        slots.dedup();
        let policies = match args.policy.is_empty() {
            true => Policy::ALL.to_vec(),
            false => args.policy.clone(),
        };
        let uses = routing.uses();
        let sizes = slots.into_iter().map(|slots| {
            let shape = Shape { layers: layers as usize, experts: experts as usize, slots };
            let counters = policies.iter().map(|&policy| replay(shape, policy, &uses)).collect();
            Size { slots, counters, belady: Belady::run(shape, &uses) }
        });
        let sizes = sizes.collect();
        let facts = routing::Facts::of(trace, routing);
        Report { trace, routing, facts, batch: args.batch, policies, sizes }
    }

    fn slabs(&self) -> usize {
        (self.trace.header.layers * self.trace.header.experts) as usize
    }

    fn part(&self, size: &Size) -> f64 {
        size.slots as f64 / self.slabs() as f64
    }

    fn lines(&self) -> Vec<(&'static str, String)> {
        let Header { layers, experts, used, slab_bytes, .. } = self.trace.header;
        let facts = &self.facts;
        let percent = |part: f64| format!("{:.1}%", part * 100.0);
        let shape = format!(
            "{} of {}, {used} for each token; {} slabs of {}",
            counted(layers as usize, "layer"),
            counted(experts as usize, "expert"),
            self.slabs(),
            Bytes(slab_bytes)
        );
        let mut steps = counted(self.routing.steps(), "step");
        match self.batch {
            Some(sessions) => steps += &format!(" of {}", counted(sessions, "session")),
            None => steps += &format!(", {} of them with a prompt", facts.prompts),
        }
        steps += &format!("; {}", counted(facts.tokens as usize, "token"));
        if self.trace.cut {
            steps += "; the last one is cut off and left out";
        }
        let mut lines = vec![
            ("model", self.trace.header.name().to_string()),
            ("shape", shape),
            ("steps", steps),
        ];
        let mut wide = format!("{:.1} experts of a layer in a step", facts.distinct);
        if let Some(prompt) = facts.distinct_with_prompt {
            wide += &format!("; {prompt:.1} where it has a prompt");
        }
        lines.push(("distinct", wide));
        if let Some(overlap) = facts.overlap {
            let chance = f64::from(used) / f64::from(experts);
            let line = format!(
                "{} of a token's experts were the last token's too (chance: {})",
                percent(overlap),
                percent(chance)
            );
            lines.push(("overlap", line));
        }
        let line = format!("the busiest quarter of experts has {} of the work", percent(facts.top));
        lines.push(("skew", line));
        let line = format!("{} of demands, which no cache can hit", percent(facts.first));
        lines.push(("first uses", line));
        lines
    }

    fn print(&self, out: &mut impl Write) -> io::Result<()> {
        for (name, value) in self.lines() {
            writeln!(out, "{name:<13} {value}")?;
        }
        write!(out, "\nHit rate\n{:>7}{:>8}{:>12}", "CACHED", "SLOTS", "BYTES")?;
        for policy in &self.policies {
            write!(out, "{:>13}", policy.name().to_uppercase())?;
        }
        writeln!(out, "{:>9}", "BELADY")?;
        for size in &self.sizes {
            let bytes = Bytes((size.slots as u64).saturating_mul(self.trace.header.slab_bytes));
            let (part, bytes) = (self.part(size) * 100.0, bytes.to_string());
            write!(out, "{part:>6.1}%{:>8}{bytes:>12}", size.slots)?;
            for counters in &size.counters {
                write!(out, "{:>12.1}%", rate(counters.hits, counters.misses) * 100.0)?;
            }
            writeln!(out, "{:>8.1}%", rate(size.belady.hits, size.belady.misses) * 100.0)?;
        }
        Ok(())
    }

    fn json(&self) -> Value {
        let Header { layers, experts, used, slab_bytes, ref model } = self.trace.header;
        let facts = &self.facts;
        let sizes = self.sizes.iter().map(|size| {
            let policies: serde_json::Map<String, Value> = (self.policies.iter())
                .zip(&size.counters)
                .map(|(policy, counters)| {
                    let value = json!({
                        "hit_rate": rate(counters.hits, counters.misses),
                        "hits": counters.hits,
                        "misses": counters.misses,
                        "evictions": counters.evictions,
                        "bypasses": counters.bypasses,
                    });
                    (policy.name().into(), value)
                })
                .collect();
            json!({
                "slots": size.slots,
                "part": self.part(size),
                "policies": policies,
                "belady": {
                    "hit_rate": rate(size.belady.hits, size.belady.misses),
                    "hits": size.belady.hits,
                    "misses": size.belady.misses,
                },
            })
        });
        let sizes: Vec<Value> = sizes.collect();
        json!({
            "model": model,
            "layers": layers,
            "experts": experts,
            "used": used,
            "slab_bytes": slab_bytes,
            "steps": self.routing.steps(),
            "prompt_steps": facts.prompts,
            "tokens": facts.tokens,
            "cut": self.trace.cut,
            "batch": self.batch,
            "distinct": facts.distinct,
            "distinct_with_prompt": facts.distinct_with_prompt,
            "overlap": facts.overlap,
            "top_quarter": facts.top,
            "first_uses": facts.first,
            "default_policy": Policy::default().name(),
            "sizes": sizes,
        })
    }

    fn draw(&self, path: &Path) -> Outcome {
        let mut lines: Vec<Line> = Vec::new();
        let points = |hits: &dyn Fn(&Size) -> f64| {
            self.sizes.iter().map(|size| (self.part(size).min(1.0), hits(size))).collect()
        };
        for (at, policy) in self.policies.iter().enumerate() {
            let hits = |size: &Size| rate(size.counters[at].hits, size.counters[at].misses);
            lines.push(Line { name: policy.name(), bound: false, points: points(&hits) });
        }
        let hits = |size: &Size| rate(size.belady.hits, size.belady.misses);
        lines.push(Line { name: "belady", bound: true, points: points(&hits) });
        let of = match self.batch {
            Some(sessions) => format!(", {}", counted(sessions, "session")),
            None => String::new(),
        };
        let title = format!("Hit rate by cache size: {}{of}", self.trace.header.name());
        std::fs::write(path, plot::svg(&title, &lines))
            .map_err(|e| format!("cannot write {}: {e}", path.display()).into())
    }
}

fn rate(hits: u64, misses: u64) -> f64 {
    hits as f64 / (hits + misses).max(1) as f64
}

/// Runs a trace through a cache.
fn replay(shape: Shape, policy: Policy, uses: &[(usize, &[u32])]) -> Counters {
    let mut residency = Residency::new(shape, policy);
    let (mut vain, mut grants) = (Vec::new(), Vec::new());
    for &(layer, experts) in uses {
        if layer == 0 {
            residency.begin_step();
        }
        residency.enter(layer, experts, &mut vain);
        // One window, unless the cache is smaller than the layer.
        let mut rest = experts;
        while !rest.is_empty() {
            let (window, later) = rest.split_at(residency.fitting(layer, rest));
            grants.clear();
            residency.demand(layer, window, &mut grants);
            residency.release(layer, window);
            rest = later;
        }
    }
    residency.counters()
}

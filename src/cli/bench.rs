//! `penstock bench`: how fast a model runs here, beside what the host could do at most.

mod measure;
mod report;

use std::io::{self, Write};
use std::rc::Rc;

use serde::Serialize;

use super::open::Wish;
use super::{How, Outcome, beside, open, positive};
use crate::host::memory;
use crate::host::roof::Roof;
use crate::host::topology::{Cpu, Topology};
use crate::math::peak::{Arithmetic, peak_ops};
use crate::math::{Isa, IsaChoice, Kernels};
use crate::model::Model;
use crate::shard::{self, Lead, Seats};
use crate::weights::Source;
use crate::weights::stage::{self, Staging};

use measure::Run;

/// Measures how fast a model runs on this host, and how near that is to the host's limits.
///
/// All weights are brought into memory first. The limits (memory bandwidth, the processor's
/// arithmetic, how fast cores hear each other) are measured in the same run, and every result is
/// given as a part of them: decoding is bound by memory, a long prompt by arithmetic.
#[derive(clap::Args, Clone)]
#[command(after_help = "Prompts are made of arbitrary tokens, answers are greedy and end when \
    they are long enough. For a host without a model, `penstock synth` makes one of any shape.")]
pub struct Args {
    /// GGUF file, Hugging Face folder, or demo
    model: String,

    /// Numbers of cores to measure, one after the other [default: 1 and all]
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = positive)]
    cores: Vec<usize>,

    /// Lengths of prompts
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = positive)]
    #[arg(default_values_t = [512])]
    prefill: Vec<usize>,

    /// Numbers of sessions that decode together
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = positive)]
    #[arg(default_values_t = [1, 8])]
    batch: Vec<usize>,

    /// Positions that each session has behind it when its decoding is measured
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = positive)]
    #[arg(default_values_t = [32])]
    context: Vec<usize>,

    /// Tokens that each session decodes
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = positive)]
    decode: usize,

    /// Times that everything is measured; the median is given
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = positive)]
    rounds: usize,

    /// Leave the host's limits unmeasured
    #[arg(long)]
    no_limits: bool,

    /// One JSON object instead of tables
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    how: How,
}

/// The host's limits.
#[derive(Serialize)]
struct Limits {
    memory: Roof,
    /// Operations per second of one core, a multiply-add counted as two.
    int8_peak: Option<f64>,
    float32_peak: Option<f64>,
}

impl Limits {
    fn measure(cpus: &[Cpu], isa: Isa) -> Outcome<Limits> {
        Ok(Limits {
            memory: Roof::measure(cpus)?,
            int8_peak: peak_ops(isa, Arithmetic::Int8),
            float32_peak: peak_ops(isa, Arithmetic::Float32),
        })
    }
}

/// Of a model whose experts stream.
#[derive(Clone, Copy, Serialize)]
struct Streams {
    slots: usize,
    slabs: usize,
    slab_bytes: usize,
    /// Bytes per second that the drive gives at most, where that was asked for.
    disk: Option<f64>,
}

impl Streams {
    fn of(staging: &Staging, measured: bool) -> Outcome<Streams> {
        let pack = staging.pack();
        // A pack on several drives has its blocks on all of them alike.
        let drives = pack.files().len() as f64;
        let disk = match measured {
            true => Some(beside::measure(pack)?.bytes_per_second * drives),
            false => None,
        };
        let shape = staging.residency().shape();
        let slab_bytes = stage::slot_bytes(pack);
        Ok(Streams { slots: shape.slots, slabs: shape.slabs(), slab_bytes, disk })
    }
}

/// What is measured with one number of cores.
#[derive(Clone, Serialize)]
struct OnCores {
    cores: usize,
    runs: Vec<Run>,
}

/// Everything that was found out.
#[derive(Serialize)]
struct Report {
    model: String,
    isa: &'static str,
    /// Why the best instruction set there is was not taken, where nobody asked for another.
    lacks: Option<String>,
    weights: u64,
    /// What the process had in memory at the end, and what was to be expected there.
    resident: Option<u64>,
    keys_and_values: u64,
    /// What these are kept in.
    kv: &'static str,
    pages: String,
    /// What streams, and from where.
    streams: Option<Streams>,
    limits: Option<Limits>,
    measured: Vec<OnCores>,
}

pub fn run(args: Args) -> Outcome {
    let isa = Kernels::new(args.how.isa)?.isa();
    let source = Rc::new(open::source(&args.model)?);
    let topology = Topology::read();
    let all = topology.seats(None)?;
    let mut counts = args.cores.clone();
    if counts.is_empty() {
        counts = vec![1, all.len()];
        counts.dedup();
    }
    let seats: Vec<Vec<Cpu>> =
        counts.iter().map(|&count| topology.seats(Some(count))).collect::<Result<_, _>>()?;
    let widest = seats.iter().max_by_key(|cpus| cpus.len());
    // Before the weights take the memory that this needs.
    let limits = match (args.no_limits, widest) {
        (false, Some(cpus)) => Some(Limits::measure(cpus, isa)?),
        _ => None,
    };
    let model = open::model(&source)?;
    let mut report = Report {
        model: args.model.clone(),
        isa: isa.name(),
        lacks: match args.how.isa {
            IsaChoice::Auto => IsaChoice::Amx.resolve().err().map(|error| error.to_string()),
            _ => None,
        },
        weights: 0,
        resident: None,
        keys_and_values: 0,
        kv: args.how.kv.name(),
        pages: String::new(),
        streams: None,
        limits,
        measured: Vec::new(),
    };
    model.parts.each_weight(|weight, _| report.weights += weight.bytes());
    for cpus in seats {
        let seats = Seats::on(cpus.iter().map(|cpu| cpu.id));
        let (model, args) = (Rc::clone(&model), args.clone());
        let source = Rc::clone(&source);
        let found = shard::run(&seats, |lead, _| on(source, model, args, lead))??;
        report.measured.push(OnCores { cores: cpus.len(), runs: found.runs });
        report.keys_and_values = found.keys_and_values;
        // Weights settle once, for the first.
        if report.pages.is_empty() {
            report.pages = found.pages;
        }
        report.resident = found.resident.or(report.resident);
        report.streams = found.streams.or(report.streams);
    }
    let mut out = io::stdout().lock();
    match args.json {
        true => writeln!(out, "{}", serde_json::to_string(&report)?)?,
        false => report::print(&mut out, &report)?,
    }
    Ok(())
}

/// What was found with the shards of one lead.
struct Found {
    runs: Vec<Run>,
    keys_and_values: u64,
    pages: String,
    resident: Option<u64>,
    streams: Option<Streams>,
}

async fn on(source: Rc<Source>, model: Rc<Model>, args: Args, lead: Lead) -> Outcome<Found> {
    let positions = |prompts: usize, each: usize| prompts * (each + args.decode + 32);
    let longest = args.context.iter().max().map_or(0, |&context| context);
    let widest = args.batch.iter().max().map_or(0, |&batch| batch);
    let prompt = args.prefill.iter().max().map_or(0, |&prompt| prompt);
    let context = positions(widest, longest).max(positions(1, prompt));
    let wish = Wish { context: Some(context), sessions: widest, afresh: true, ..Wish::default() };
    let mut engine = open::engine(&source, model, &args.how, wish, lead).await?;
    engine.settle().await;
    let streams = engine.staging().map(|staging| Streams::of(staging, !args.no_limits));
    let mut runs = Vec::new();
    for &prompt in &args.prefill {
        runs.push(measure::prefill(&mut engine, prompt, args.rounds).await?);
    }
    for &context in &args.context {
        for &batch in &args.batch {
            let asked = measure::Decode { context, batch, tokens: args.decode };
            runs.push(measure::decode(&mut engine, asked, args.rounds).await?);
        }
    }
    Ok(Found {
        runs,
        keys_and_values: engine.page_bytes(),
        pages: engine.weights_arena().pages().to_string(),
        streams: streams.transpose()?,
        resident: memory::resident().map(|resident| resident.total),
    })
}

//! Floor 6: the commands.
//!
//! Owns options, what is printed and the exit code: 0, or 1 with one sentence on standard error,
//! or 2 for a command line that makes no sense. Computes nothing a model would. Imports every
//! floor below.

mod bench;
mod beside;
mod chat;
mod doctor;
mod draft;
mod inspect;
mod logits;
mod npy;
mod open;
mod out;
mod pack;
mod packs;
mod perplexity;
mod plan;
mod progress;
mod read;
mod replay;
mod run;
mod serve;
mod signals;
mod size;
mod synth;
mod tokenize;
mod top;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::host::limits;
use crate::host::topology::Topology;
use crate::math::{IsaChoice, KvFormat};
use crate::shard::{self, Lead, Seats};
use crate::weights::residency::Policy;

/// Serves Mixture-of-Experts language models on one dedicated Linux host.
///
/// MODEL is a GGUF file (any part of a split one), a Hugging Face folder with config.json and
/// safetensors, or the word `demo` for the small model inside this program.
#[derive(Parser)]
#[command(name = "penstock", version, max_term_width = 100)]
#[command(after_help = "The same prompt, seed and model give the same bits, whatever --cores, \
    --isa or --prefill-chunk say; `penstock logits` and `cmp` let you check.")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Run(run::Args),
    Serve(Box<serve::Args>),
    Inspect(inspect::Args),
    Tokenize(tokenize::Args),
    Logits(logits::Args),
    Perplexity(perplexity::Args),
    Synth(synth::Args),
    Bench(bench::Args),
    Pack(pack::Args),
    Plan(plan::Args),
    Doctor(doctor::Args),
    Replay(replay::Args),
    Top(top::Args),
}

/// What any command can fail with: one sentence for the user.
type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// Options that are right one by one and make no sense together.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Usage(&'static str);

pub fn main() -> ExitCode {
    limits::outlive_large_files();
    let command = match Args::try_parse() {
        Ok(args) => args.command,
        Err(asked) => return explain(&asked),
    };
    let outcome = match command {
        Command::Run(args) => run::run(args),
        Command::Serve(args) => serve::run(*args),
        Command::Inspect(args) => inspect::run(args),
        Command::Tokenize(args) => tokenize::run(args),
        Command::Logits(args) => logits::run(args),
        Command::Perplexity(args) => perplexity::run(args),
        Command::Synth(args) => synth::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Pack(args) => pack::run(args),
        Command::Plan(args) => plan::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Replay(args) => replay::run(args),
        Command::Top(args) => top::run(args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of a pipe has seen enough (`penstock inspect … | head`).
        Err(error) if out::is_broken_pipe(&*error) => ExitCode::SUCCESS,
        Err(error) => {
            if let Some(signal) = error.downcast_ref::<signals::Interrupted>() {
                return ExitCode::from(signal.die() as u8);
            }
            match error.is::<std::io::Error>() {
                // What else can fail is given a name where it fails.
                true => out::note!("penstock: cannot write to standard output: {error}"),
                false => out::note!("penstock: {error}"),
            }
            match error.is::<Usage>() {
                true => ExitCode::from(2),
                false => ExitCode::FAILURE,
            }
        }
    }
}

/// Prints help, the version, or what is wrong with a command line.
fn explain(asked: &clap::Error) -> ExitCode {
    match (asked.print(), asked.exit_code()) {
        (Err(error), 0) if !out::is_broken_pipe(&error) => ExitCode::FAILURE,
        (_, code) => ExitCode::from(code as u8),
    }
}

/// "1 token", "2 tokens".
fn counted(count: usize, thing: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {thing}{plural}")
}

/// Where the one option stands that changes answers.
const KV: &str = "What to keep (another choice gives another answer)";

/// How to compute. None of these but `kv` changes a bit of any answer.
#[derive(clap::Args, Clone)]
#[command(next_help_heading = "How to compute (the answer stays the same)")]
#[command(allow_negative_numbers = true)]
struct Compute {
    /// Cores to compute on, each with a thread of its own [default: all this process may use]
    #[arg(long, value_name = "N", value_parser = positive)]
    cores: Option<usize>,

    #[command(flatten)]
    how: How,
}

/// The same for any number of cores.
#[derive(clap::Args, Clone)]
#[command(next_help_heading = "How to compute (the answer stays the same)")]
struct How {
    /// Instruction set: scalar, avx2, avx512, amx, or auto for the best this host has
    #[arg(long, default_value = "auto", value_name = "ISA")]
    isa: IsaChoice,

    /// Memory for everything, as 8GiB or 80%; experts that do not fit stream from the disk
    /// [default: the control group's limit, or what is free]
    #[arg(long, value_name = "SIZE", value_parser = size::size)]
    memory: Option<size::Size>,

    /// What keys and values are kept in: f32, or int8, which takes about a quarter of the memory
    /// and gives slightly different answers (the same ones each time, whatever else is said here)
    #[arg(long, default_value = "f32", value_name = "FORMAT", help_heading = KV)]
    kv: KvFormat,

    /// Prompt tokens that are computed in one step [default: 512, more where experts stream]
    #[arg(long, value_name = "N", value_parser = chunk)]
    prefill_chunk: Option<usize>,

    #[command(flatten)]
    packs: packs::PackArgs,

    /// Which experts give way to others: expected, least-stale, lfu, layer-lru or lru
    #[arg(long, value_name = "NAME", default_value_t = Policy::default(), hide_short_help = true)]
    policy: Policy,

    /// Experts of the next layer that are read ahead, for each that a token uses
    #[arg(long, value_name = "X", default_value_t = 1.0, hide_short_help = true)]
    #[arg(value_parser = forecast)]
    forecast: f32,

    /// Write down which experts every token goes to, for `penstock replay`
    #[arg(long, value_name = "FILE")]
    record_trace: Option<std::path::PathBuf>,

    /// Reads that wait for the disk at once [default: as few as saturate it]
    #[arg(long, value_name = "N", hide_short_help = true, value_parser = positive)]
    depth: Option<usize>,
}

fn forecast(text: &str) -> Result<f32, String> {
    match text.parse() {
        Ok(x) if (0.0..=16.0).contains(&x) => Ok(x),
        _ => Err("expected a number from 0 to 16".into()),
    }
}

fn chunk(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n) if (1..=65536).contains(&n) => Ok(n),
        _ => Err("expected a whole number from 1 to 65536".into()),
    }
}

/// A whole number of a type that has no negative ones.
fn whole<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| "expected a whole number, 0 or more".into())
}

fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n) if (1..=1 << 30).contains(&n) => Ok(n),
        _ => Err("expected a whole number from 1 to 2^30".into()),
    }
}

impl Compute {
    /// Seats the shards and runs `command` on the lead.
    fn seated<F>(&self, command: impl FnOnce(Lead) -> F + 'static) -> Outcome
    where
        F: Future<Output = Outcome> + 'static,
    {
        seated(self.cores, command)
    }
}

/// Seats a shard on each of so many cores, or on all, and runs `command` on the lead.
fn seated<F>(cores: Option<usize>, command: impl FnOnce(Lead) -> F + 'static) -> Outcome
where
    F: Future<Output = Outcome> + 'static,
{
    let cores = Topology::read().seats(cores)?;
    shard::run(&Seats::on(cores.iter().map(|cpu| cpu.id)), |lead, _| command(lead))?
}

//! `penstock synth`: a random model of a real shape.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::out::note;
use super::progress::Progress;
use super::signals::Stop;
use super::{Outcome, counted};
use crate::base::units::{Bytes, Count};
use crate::host::output::Output;
use crate::model::synth::{self, Quant, Recipe, Shape};

/// Write a random model of a real shape as GGUF, to measure a host without downloading weights
///
/// The file has the tensors, keys and vocabulary size of the real model, so this program,
/// llama.cpp and their like load it, read as many bytes and compute as much. What it says is
/// nonsense. The bytes follow from the options alone: the same command writes the same file.
#[derive(clap::Args)]
#[command(after_long_help = HELP)]
pub struct Args {
    /// The model whose shape it shall have; `list` shows them, `tiny-NAME` is one for tests
    #[arg(long, value_name = "NAME", value_parser = shape)]
    shape: String,

    /// What the matrices are written in: f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1, q2_k, q3_k,
    /// q4_k, q5_k, q6_k, iq4_nl, iq4_xs or mxfp4
    #[arg(long, value_name = "TYPE", default_value = "q4_k", value_parser = quant)]
    quant: Quant,

    /// How unequally experts are chosen: 0 for all alike, 0.5 or 1 for favourites (measured below)
    #[arg(long, value_name = "S", default_value_t = 0.0, value_parser = skew)]
    skew: f64,

    /// Layers, if not as many as the real model has
    #[arg(long, value_name = "N", value_parser = layers)]
    layers: Option<usize>,

    /// Another seed writes another model
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,

    /// Where to write; a file of that name is replaced when the new one is complete
    #[arg(value_name = "OUT.gguf")]
    out: Option<PathBuf>,
}

/// The table is what `--shape list` prints; a test compares them.
const HELP: &str = "\
Shapes (parameters in all and at work for a token; bytes of weights):

SHAPE               PARAMETERS   AT WORK     AS Q4_K     AS Q8_0
olmoe-1b-7b              6.9 B     1.2 B     3.6 GiB     6.9 GiB
qwen3-30b-a3b           30.5 B     3.0 B    16.0 GiB    30.2 GiB
gpt-oss-20b             20.9 B     3.6 B    10.6 GiB    11.3 GiB
mixtral-8x7b            46.7 B    12.7 B    24.5 GiB    46.2 GiB
deepseek-v2-lite        15.7 B     2.5 B     8.8 GiB    15.6 GiB
llama-1b                 1.2 B     1.2 B   663.2 MiB     1.2 GiB
qwen3-0.6b             596.0 M   596.0 M   320.0 MiB   604.1 MiB

tiny-NAME is the family with two small layers; tiny is tiny-olmoe-1b-7b.

Types: every matrix, embedding and output included, is written in the type (llama.cpp calls that
pure); norms, biases and routers are F32. Rows that 256 does not divide take llama.cpp's own
substitute: Q5_0 for Q4_K, Q5_1 for Q5_K, Q8_0 for Q6_K, Q4_0 for Q2_K and Q3_K, IQ4_NL for
IQ4_XS. The experts of gpt-oss are MXFP4 whatever the type; as mxfp4, feed-forward matrices are
MXFP4 and the others Q8_0.

Routing: weights have the spread that training begins with, 1/sqrt(inputs), but attention's output
is 20 times smaller: else all tokens come to look alike and go to the same experts. So --skew 0
routes uniformly. --skew S multiplies each row of a router by exp(S N(0, 1)), which makes some
experts popular. Measured with random tokens, mean over the layers; \"repeated\" is the part of a
token's experts that the token before had too, LRU how often a cache of 20, 40 or 50% of the
experts, least recently used dropped, has the one wanted:

                     --skew   repeated   to the top quarter   LRU 20 / 40 / 50%
olmoe-1b-7b             0        13%            30%             14 / 36 / 47%
                        0.5      19%            51%             21 / 52 / 67%
                        1        26%            64%             30 / 70 / 85%
qwen3-30b-a3b           0         6%            33%             17 / 38 / 48%
                        0.5      14%            66%             38 / 72 / 84%
                        1        22%            84%             58 / 93 / 98%

Examples:
  penstock synth --shape olmoe-1b-7b olmoe.gguf
  penstock synth --shape qwen3-30b-a3b --quant q4_k --skew 0.5 qwen.gguf
  penstock synth --shape gpt-oss-20b --layers 2 --seed 7 small.gguf";

const LIST: &str = "list";

fn shape(name: &str) -> Result<String, String> {
    if name == LIST || Shape::find(name).is_some() {
        return Ok(name.into());
    }
    let names: Vec<&str> = synth::ALL.iter().map(|shape| shape.name).collect();
    Err(format!("known are {}, any of them as tiny-NAME, and tiny", names.join(", ")))
}

fn quant(name: &str) -> Result<Quant, String> {
    let known = Quant::ALL.into_iter().filter(|quant| *quant != Quant::F8E4M3);
    let mut known = known.map(|quant| (quant.name().to_lowercase(), quant));
    let found = known.clone().find(|(known, _)| name.eq_ignore_ascii_case(known));
    found.map(|(_, quant)| quant).ok_or_else(|| {
        let names = known.by_ref().map(|(name, _)| name).collect::<Vec<_>>();
        format!("known are {}", names.join(", "))
    })
}

fn skew(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(skew) if (0.0..=4.0).contains(&skew) => Ok(skew),
        _ => Err("expected a number from 0 to 4".into()),
    }
}

fn layers(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n) if (1..=1000).contains(&n) => Ok(n),
        _ => Err("expected a whole number from 1 to 1000".into()),
    }
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(
        "{}: the disk is full after {} of {}; nothing is left of it",
        path.display(), Bytes(*done), Bytes(*whole)
    )]
    Full { path: PathBuf, done: u64, whole: u64 },
    #[error("cannot write {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
}

pub fn run(args: Args) -> Outcome {
    if args.shape == LIST {
        return Ok(write!(io::stdout().lock(), "{}", table())?);
    }
    let Some(path) = &args.out else {
        let message = "say where to write: penstock synth --shape NAME OUT.gguf\n";
        clap::Error::raw(clap::error::ErrorKind::MissingRequiredArgument, message).exit();
    };
    let recipe = Recipe::new(&args.shape, args.quant, args.layers, args.skew, args.seed)
        .ok_or("there is no such shape")?;
    let start = Instant::now();
    write_file(&recipe, path)?;
    let (bytes, took) = (recipe.weight_bytes(), start.elapsed().as_secs_f64());
    note!(
        "{}: {}, {} parameters, {} of weights in {took:.1} s, {}/s",
        path.display(),
        counted(recipe.shape().layers, "layer"),
        Count(recipe.parameters()),
        Bytes(bytes),
        Bytes((bytes as f64 / took.max(1e-3)) as u64)
    );
    Ok(())
}

fn write_file(recipe: &Recipe, path: &Path) -> Outcome {
    let (mut progress, whole) = (Progress::new("", recipe.weight_bytes()), recipe.weight_bytes());
    // A signal takes the unfinished file away.
    let stop = Stop::on_any()?;
    let (mut done, mut stopped) = (0, None);
    let written = Output::create(path).and_then(|output| {
        let output = recipe.write(output, |bytes| {
            done = bytes;
            progress.show(bytes);
            stop.check().map_err(|signal| {
                stopped = Some(signal);
                // Not Interrupted: that would be tried again.
                io::Error::other("stopped")
            })
        })?;
        progress.clear();
        output.finish()
    });
    progress.clear();
    if let Some(signal) = stopped {
        return Err(signal.into());
    }
    written.map_err(|source| {
        let path = path.into();
        let error = match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Error::Full { path, done, whole }
            }
            _ => Error::Write { path, source },
        };
        error.into()
    })
}

/// The shapes with their sizes.
fn table() -> String {
    let mut text = format!(
        "{:<18}{:>12}{:>10}{:>12}{:>12}\n",
        "SHAPE", "PARAMETERS", "AT WORK", "AS Q4_K", "AS Q8_0"
    );
    for shape in synth::ALL {
        let recipe = |quant| Recipe::new(shape.name, quant, None, 0.0, 0);
        let (Some(small), Some(large)) = (recipe(Quant::Q4K), recipe(Quant::Q8_0)) else {
            continue;
        };
        text += &format!(
            "{:<18}{:>12}{:>10}{:>12}{:>12}\n",
            shape.name,
            Count(small.parameters()).to_string(),
            Count(small.active_parameters()).to_string(),
            Bytes(small.weight_bytes()).to_string(),
            Bytes(large.weight_bytes()).to_string()
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_shows_the_shapes_there_are() {
        assert!(HELP.contains(&table()), "put this into HELP:\n{}", table());
    }
}

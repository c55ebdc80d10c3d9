//! `penstock pack`: a model's weights as compute reads them, in a file of their own.

use std::io::{self, Write};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Instant;

use serde_json::json;

use super::out::note;
use super::{Outcome, counted, open, packs, positive};
use crate::base::units::Bytes;
use crate::model::Model;
use crate::shard::Lead;
use crate::weights::Source;
use crate::weights::pack::{Contents, Damage, Fingerprint, LARGEST_BLOCK, Pack};

/// Pack a model's weights into the form in which they are computed with and read from disk
///
/// A pack is a cache: it is made from a model, needs it beside it, and can be deleted and made
/// again. It takes about as many bytes as the model. Other commands find it by themselves, and
/// make it where it is needed. A pack that is interrupted leaves nothing; one that is there
/// already is replaced when the new one is complete.
#[derive(clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// A GGUF file or a Hugging Face folder
    model: String,

    /// Where to write [default: MODEL.penstock beside MODEL.gguf, model.penstock in a folder];
    /// given several times, on several drives, it is read from all of them at once
    #[arg(short, long, value_name = "FILE")]
    out: Vec<PathBuf>,

    /// Bytes that are read at once, with K or M for KiB and MiB; a multiple of 4K, up to 16M
    #[arg(long, value_name = "SIZE", default_value = "1M", value_parser = block)]
    block: usize,

    /// Cores to pack with [default: all this process may use]
    #[arg(long, value_name = "N", value_parser = positive)]
    cores: Option<usize>,

    /// Read a pack that is there again instead, and name every damaged place in it
    #[arg(long)]
    verify: bool,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  penstock pack qwen.gguf
  penstock pack qwen.gguf -o /nvme0/qwen.penstock -o /nvme1/qwen.penstock
  penstock pack --verify qwen.gguf";

fn block(text: &str) -> Result<usize, String> {
    let (digits, unit) = match text.strip_suffix(['K', 'k']) {
        Some(digits) => (digits, 1 << 10),
        None => match text.strip_suffix(['M', 'm']) {
            Some(digits) => (digits, 1 << 20),
            None => (text, 1),
        },
    };
    let bytes = digits.parse().ok().and_then(|n: usize| n.checked_mul(unit));
    match bytes {
        Some(n) if n > 0 && n <= LARGEST_BLOCK && n % 4096 == 0 => Ok(n),
        _ => Err("expected a multiple of 4K, up to 16M, such as 256K".into()),
    }
}

pub fn run(args: Args) -> Outcome {
    super::seated(args.cores, |lead| pack(args, lead))
}

async fn pack(args: Args, mut lead: Lead) -> Outcome {
    let source = open::source(&args.model)?;
    if !packs::in_files(&source) {
        return Err(format!("{} lies inside this program and needs no pack", args.model).into());
    }
    let model = Rc::new(Model::open(&source)?);
    let (contents, fingerprint) = (model.parts.contents(), Fingerprint::of(&source)?);
    let files = match args.out.is_empty() {
        true => vec![packs::place_beside(&source)],
        false => args.out.clone(),
    };
    if args.verify {
        return verify(&args, &files, &contents, &fingerprint, &mut lead);
    }
    refuse_source(&source, &files)?;
    let start = Instant::now();
    let built = packs::build(&contents, &fingerprint, &files, args.block, &mut lead)?;
    let seconds = start.elapsed().as_secs_f64();
    // What is read back is what other commands will find.
    let pack = Pack::open(&files[0], &contents, &fingerprint)?;
    if args.json {
        let report = json!({
            "files": files,
            "bytes": built.bytes,
            "block": pack.block(),
            "blocks": built.blocks,
            "trunk_bytes": trunk_bytes(&pack),
            "seconds": seconds,
        });
        writeln!(io::stdout().lock(), "{report}")?;
    }
    let more = match files.len() {
        1 => String::new(),
        n => format!(" and {}", counted(n - 1, "other file")),
    };
    note!(
        "{}{more}: trunk {}, {}; {}",
        files[0].display(),
        Bytes(trunk_bytes(&pack)),
        slabs(&pack),
        packs::summary(built.bytes, seconds)
    );
    Ok(())
}

fn trunk_bytes(pack: &Pack) -> u64 {
    pack.trunk().iter().map(|matrix| matrix.bytes as u64).sum()
}

/// "6144 slabs of 2.5 MiB"
fn slabs(pack: &Pack) -> String {
    let layers = pack.layers();
    let count = layers.iter().map(|layer| layer.experts).sum();
    let sizes = || layers.iter().map(|layer| layer.slab_bytes as u64);
    let slabs = counted(count, "slab");
    match (sizes().min(), sizes().max()) {
        (Some(least), Some(most)) if least == most => format!("{slabs} of {}", Bytes(most)),
        (Some(least), Some(most)) => format!("{slabs} of {} to {}", Bytes(least), Bytes(most)),
        _ => slabs,
    }
}

/// A pack is not written over its own source.
fn refuse_source(source: &Source, files: &[PathBuf]) -> Outcome {
    for file in files {
        let Ok(place) = file.canonicalize() else { continue };
        if source.parts().iter().any(|part| part.canonicalize().is_ok_and(|part| part == place)) {
            return Err(format!("{} is the model itself: name another file", file.display()).into());
        }
    }
    Ok(())
}

fn verify(
    args: &Args,
    files: &[PathBuf],
    contents: &Contents,
    fingerprint: &Fingerprint,
    lead: &mut Lead,
) -> Outcome {
    let pack = Pack::open(&files[0], contents, fingerprint)?;
    let start = Instant::now();
    let damages = packs::verify(&pack, lead)?;
    let seconds = start.elapsed().as_secs_f64();
    if args.json {
        let damage = |damage: &Damage| {
            json!({
                "place": damage.place.to_string(),
                "file": damage.file,
                "offset": damage.offset,
                "bytes": damage.len,
                "error": damage.error.as_ref().map(|error| error.to_string()),
            })
        };
        let report = json!({
            "files": pack.files(),
            "bytes": pack.bytes(),
            "seconds": seconds,
            "damages": damages.iter().map(damage).collect::<Vec<_>>(),
        });
        writeln!(io::stdout().lock(), "{report}")?;
    }
    if damages.is_empty() {
        note!(
            "{}: every block is as it was written; {}",
            files[0].display(),
            packs::summary(pack.bytes(), seconds)
        );
        return Ok(());
    }
    damages.iter().for_each(|damage| note!("{damage}"));
    let blocks = counted(damages.len(), "damaged block");
    Err(format!(
        "{}: {blocks}: pack the model again, and look after the disk and the memory",
        files[0].display()
    )
    .into())
}

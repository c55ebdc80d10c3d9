//! `penstock logits`: the raw numbers, for comparing engines, hosts and options bit for bit.

use std::path::PathBuf;

use super::open::Wish;
use super::out::note;
use super::signals::Stop;
use super::{Compute, Outcome, npy, open, positive, read};
use crate::shard::Lead;

/// Write the logits at every position to a NumPy file
///
/// The file is a float32 matrix [tokens, vocabulary]. Its bytes do not depend on how they were
/// computed: run the command twice with different options and compare with `cmp`.
#[derive(clap::Args)]
pub struct Args {
    /// A GGUF file, a Hugging Face folder, or `demo`
    model: String,

    /// Token ids, separated by commas; @FILE reads them from a file
    #[arg(long, value_name = "IDS", value_parser = Tokens::parse, allow_hyphen_values = true)]
    #[arg(required_unless_present = "text", conflicts_with = "text")]
    tokens: Option<Tokens>,

    /// Or a text to tokenize, with the token the model wants at its beginning
    #[arg(long, allow_hyphen_values = true)]
    text: Option<String>,

    /// Where to write
    #[arg(long, value_name = "FILE.npy")]
    out: PathBuf,

    /// Positions to make room for [default: as many as there are tokens]
    #[arg(long, value_name = "N", value_parser = positive)]
    context: Option<usize>,

    #[command(flatten)]
    compute: Compute,
}

pub fn run(args: Args) -> Outcome {
    args.compute.clone().seated(|lead| write(args, lead))
}

async fn write(args: Args, lead: Lead) -> Outcome {
    let source = open::source(&args.model)?;
    let tokens = match (args.tokens, &args.text) {
        (Some(tokens), _) => tokens.read()?,
        (None, Some(text)) => open::text(&source)?.continue_tokens(text)?,
        (None, None) => return Err("give --tokens or --text".into()),
    };
    let model = open::model(&source)?;
    let vocab = model.config.vocab;
    let context = args.context.or(Some(tokens.len().max(1)));
    let wish = Wish { context, sessions: 1, every_logit: true, ..Wish::default() };
    let mut engine = open::engine(&source, model, &args.compute.how, wish, lead).await?;
    let stop = Stop::on_any()?;
    // Before anything is computed, so that a place that cannot be written is known at once.
    let mut file = npy::Writer::create(&args.out, tokens.len(), vocab)?;
    let each = |_, row: &[f32]| -> Outcome {
        stop.check()?;
        Ok(file.row(row)?)
    };
    engine.logits(&tokens, each).await?;
    open::close(&mut engine, &args.compute.how)?;
    file.finish()?;
    note!("{}: float32 [{}, {vocab}]", args.out.display(), tokens.len());
    Ok(())
}

/// The --tokens option.
#[derive(Clone)]
enum Tokens {
    List(Vec<u32>),
    File(PathBuf),
}

impl Tokens {
    fn parse(text: &str) -> Result<Tokens, String> {
        match text.strip_prefix('@') {
            Some(path) => Ok(Tokens::File(path.into())),
            None => list(text).map(Tokens::List),
        }
    }

    fn read(self) -> Outcome<Vec<u32>> {
        let path = match self {
            Tokens::List(tokens) => return Ok(tokens),
            Tokens::File(path) => path,
        };
        let text = read::file(&path)?;
        Ok(list(&text).map_err(|reason| format!("{}: {reason}", path.display()))?)
    }
}

/// Ids between commas or spaces, with or without the brackets of a JSON list around them.
fn list(text: &str) -> Result<Vec<u32>, String> {
    let text = text.trim();
    let inside = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    if inside.trim().is_empty() {
        return Err("there are no token ids in it".into());
    }
    let mut ids = Vec::new();
    for between_commas in inside.split(',') {
        if between_commas.trim().is_empty() {
            return Err(format!("after {} ids there is a comma and no id", ids.len()));
        }
        for word in between_commas.split_whitespace() {
            ids.push(word.parse().map_err(|_| {
                let word: String = word.chars().take(40).collect();
                format!("{word:?} is not a token id")
            })?);
        }
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_ids_as_people_write_them() {
        for text in ["1,2,3", "1, 2, 3\n", "[1, 2, 3]", " 1 2\n3 "] {
            assert_eq!(list(text).unwrap(), [1, 2, 3], "{text}");
        }
        for text in ["", " ", "[]", "1,,2", ",1", "1,", "-1", "1.5", "x", "4294967296", "[1"] {
            assert!(list(text).is_err(), "{text}");
        }
    }
}

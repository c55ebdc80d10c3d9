//! `penstock perplexity`: how well a model predicts a text, and how far it is from another.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

use serde_json::json;

use super::open::Wish;
use super::out::note;
use super::signals::Stop;
use super::{Compute, Outcome, counted, npy, open, positive, read};
use crate::model::score::Score;
use crate::model::tokenizer::Special;
use crate::shard::Lead;

/// Measure how well a model predicts a text, and its distance from a base model
///
/// The text is cut into windows of --context tokens, each beginning anew, with the token the model
/// wants at a beginning; the second half of a window is scored, so that every scored token has
/// seen at least half a window. What is left after the last whole window is not used; a text
/// shorter than one window is scored from its second token on.
///
/// To judge a quantisation: save the float model's logits with --save-logits, then give them to
/// the quantised model as --base. Text, tokenizer and --context must be the same.
#[derive(clap::Args)]
pub struct Args {
    /// A GGUF file, a Hugging Face folder, or `demo`
    model: String,

    /// A text file
    file: PathBuf,

    /// Tokens in a window
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = window)]
    context: usize,

    /// Windows to use at most [default: all]
    #[arg(long, value_name = "N", value_parser = positive)]
    windows: Option<usize>,

    /// Logits of a base model, as --save-logits or `penstock logits` wrote them
    #[arg(long, value_name = "FILE.npy")]
    base: Option<PathBuf>,

    /// Write this model's logits at every position, for --base
    #[arg(long, value_name = "FILE.npy")]
    save_logits: Option<PathBuf>,

    /// Print one JSON object
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    compute: Compute,
}

pub fn run(args: Args) -> Outcome {
    args.compute.clone().seated(|lead| measure(args, lead))
}

async fn measure(args: Args, lead: Lead) -> Outcome {
    let text = read::file(&args.file)?;
    let source = open::source(&args.model)?;
    let tokenizer = open::text(&source)?.tokenizer;
    let prefix = tokenizer.prefix();
    if args.context < prefix.len() + 2 {
        let (least, begins) = (prefix.len() + 2, counted(prefix.len(), "token"));
        return Err(format!(
            "--context {}: every window begins with {begins} of the model's own; give at least \
             {least}",
            args.context
        )
        .into());
    }
    let tokens = tokenizer.encode(&text, Special::Plain, false)?;
    if prefix.len() + tokens.len() < 2 {
        let name = args.file.display();
        return Err(format!("{name} is too short: there is no token to predict in it").into());
    }
    let windows = cut(prefix, &tokens, args.context, args.windows);
    let positions: usize = windows.iter().map(Vec::len).sum();

    let model = open::model(&source)?;
    let vocab = model.config.vocab;
    let base = match &args.base {
        None => None,
        Some(path) => {
            let base = npy::Matrix::open(path)?;
            if (base.rows, base.cols) != (positions, vocab) {
                return Err(format!(
                    "{} holds [{}, {}] where this text and model have [{positions}, {vocab}]; it \
                     was made with another text, tokenizer or --context",
                    path.display(),
                    base.rows,
                    base.cols
                )
                .into());
            }
            Some((path, base))
        }
    };
    let trained = model.config.context;
    if args.context > trained {
        note!(
            "penstock: the model was trained for {trained} positions, --context is {}",
            args.context
        );
    }
    let context = Some(args.context);
    let wish = Wish { context, sessions: 1, every_logit: true, ..Wish::default() };
    let mut engine = open::engine(&source, model, &args.compute.how, wish, lead).await?;
    let stop = Stop::on_any()?;
    let mut save = match &args.save_logits {
        None => None,
        Some(path) => Some(npy::Writer::create(path, positions, vocab)?),
    };
    let watched = io::stderr().is_terminal();

    let mut score = Score::default();
    let mut base_row = Vec::new();
    let mut row_index = 0;
    for (i, window) in windows.iter().enumerate() {
        let from = first_scored(window.len(), args.context);
        let each = |position: usize, row: &[f32]| -> Outcome {
            stop.check()?;
            if let Some(save) = &mut save {
                save.row(row)?;
            }
            if let Some(&next) = window.get(position + 1)
                && position + 1 >= from
            {
                let at = |name: &str| format!("{name}, position {row_index}");
                score.token(row, next).map_err(|e| format!("{}: {e}", at(&args.model)))?;
                if let Some((path, base)) = &base {
                    base.row(row_index, &mut base_row);
                    let distance = score.distance(&base_row, row);
                    distance.map_err(|e| format!("{}: {e}", at(&path.display().to_string())))?;
                }
            }
            row_index += 1;
            Ok(())
        };
        engine.logits(window, each).await?;
        if watched {
            let (done, all, so_far) = (i + 1, windows.len(), score.perplexity());
            let _ = write!(io::stderr(), "\rwindow {done} of {all}: perplexity {so_far:.4} ");
        }
    }
    if watched {
        note!();
    }
    if let Some(save) = save {
        save.finish()?;
    }
    report(&args, &score, windows.len())?;
    Ok(())
}

fn report(args: &Args, score: &Score, windows: usize) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let kl = score.kl();
    if args.json {
        let kl = kl.map(|kl| {
            json!({
                "mean": kl.mean, "median": kl.median, "p99": kl.p99, "max": kl.max,
                "same_top": kl.same_top,
            })
        });
        let object = json!({
            "perplexity": score.perplexity(),
            "standard_error": score.standard_error(),
            "tokens_scored": score.len(),
            "windows": windows,
            "context": args.context,
            "kl": kl,
        });
        return writeln!(out, "{object}");
    }
    writeln!(
        out,
        "perplexity   {:.4} ± {:.4} over {} in {}",
        score.perplexity(),
        score.standard_error(),
        counted(score.len(), "token"),
        counted(windows, "window")
    )?;
    if let Some(kl) = kl {
        writeln!(
            out,
            "KL from base {:.6} mean, {:.6} median, {:.6} 99%, {:.6} most",
            kl.mean, kl.median, kl.p99, kl.max
        )?;
        writeln!(out, "same top     {:.2}% of tokens", kl.same_top * 100.0)?;
    }
    Ok(())
}

fn window(text: &str) -> Result<usize, String> {
    match positive(text) {
        Ok(1) => Err("a window of 1 token has none to score; expected 2 or more".into()),
        other => other,
    }
}

/// Whole windows, each with the model's own beginning before its part of the text; a text shorter
/// than one window is a window of its own.
fn cut(prefix: &[u32], text: &[u32], context: usize, most: Option<usize>) -> Vec<Vec<u32>> {
    let part = context - prefix.len();
    let window = |text: &[u32]| [prefix, text].concat();
    if text.len() < part {
        return vec![window(text)];
    }
    text.chunks_exact(part).take(most.unwrap_or(usize::MAX)).map(window).collect()
}

/// The first position of a window whose token is scored.
fn first_scored(window: usize, context: usize) -> usize {
    if window < context { 1 } else { (context / 2).max(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_whole_and_their_second_half_is_scored() {
        let tokens: Vec<u32> = (0..10).collect();
        assert_eq!(cut(&[], &tokens, 4, None), [[0, 1, 2, 3], [4, 5, 6, 7]]);
        assert_eq!(cut(&[], &tokens, 4, Some(1)), [[0, 1, 2, 3]]);
        assert_eq!(cut(&[], &tokens, 11, None), [tokens.as_slice()]);
        assert_eq!(cut(&[99], &tokens, 4, None), [[99, 0, 1, 2], [99, 3, 4, 5], [99, 6, 7, 8]]);
        assert_eq!(cut(&[99], &tokens[..2], 4, None), [[99, 0, 1]]);
        assert_eq!((first_scored(4, 4), first_scored(3, 4)), (2, 1));
    }
}

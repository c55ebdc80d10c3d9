//! `penstock tokenize`: text to token ids.

use std::io::{self, IsTerminal, Write};

use super::out::note;
use super::{Outcome, counted, open, read};
use crate::model::tokenizer::{Special, Tokenizer};

/// Show how a model's tokenizer cuts a text
#[derive(clap::Args)]
pub struct Args {
    /// A GGUF file, a Hugging Face folder, or `demo`
    model: String,

    /// The text; standard input if it is left out. One that begins with a dash goes after `--`
    text: Option<String>,

    /// Read special tokens written in the text (<|im_start|>) as such, as a chat template's
    /// output is read. Without it they are ordinary text.
    #[arg(long)]
    special: bool,

    /// Add what the model wants at the beginning and the end of a text
    #[arg(long)]
    bos: bool,

    /// Print nothing but the ids, separated by commas (for `logits --tokens`)
    #[arg(long, conflicts_with = "json")]
    ids: bool,

    /// Print a JSON array of {"id", "text", "bytes"}
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Outcome {
    let source = open::source(&args.model)?;
    let tokenizer = open::text(&source)?.tokenizer;
    let text = match args.text {
        Some(text) => text,
        None => {
            if io::stdin().is_terminal() {
                note!("reading the text from the terminal; end it with Ctrl-D");
            }
            read::stdin()?
        }
    };
    let special = if args.special { Special::Parse } else { Special::Plain };
    let ids = tokenizer.encode(&text, special, args.bos)?;

    let mut out = io::stdout().lock();
    if args.json {
        let list: Vec<_> = ids.iter().map(|&id| token_json(&tokenizer, id)).collect();
        writeln!(out, "{}", serde_json::Value::from(list))?;
    } else if args.ids {
        let list: Vec<String> = ids.iter().map(u32::to_string).collect();
        writeln!(out, "{}", list.join(","))?;
    } else {
        for &id in &ids {
            writeln!(out, "{id:>8}  {}", shown(tokenizer.token_bytes(id)))?;
        }
        let characters = counted(text.chars().count(), "character");
        writeln!(out, "{}, {characters}", counted(ids.len(), "token"))?;
    }
    Ok(())
}

/// A token as it stands in a text, in quotes; a part of a character as its bytes.
fn shown(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => format!("{text:?}"),
        Err(_) => format!("\"{}\"", bytes.escape_ascii()),
    }
}

/// A token for programs. Its text is not all of it where characters are cut, so bytes go along.
pub fn token_json(tokenizer: &Tokenizer, id: u32) -> serde_json::Value {
    let bytes = tokenizer.token_bytes(id);
    serde_json::json!({ "id": id, "text": String::from_utf8_lossy(bytes), "bytes": bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_shown_as_text_and_parts_of_characters_as_bytes() {
        assert_eq!(shown(b" the"), "\" the\"");
        assert_eq!(shown(b"\n\""), r#""\n\"""#);
        assert_eq!(shown("é".as_bytes()), "\"é\"");
        assert_eq!(shown(b"\xe2\x9d"), r#""\xe2\x9d""#);
    }
}

//! Log-probabilities as OpenAI's two endpoints write them.

use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Serialize, Serializer};

use crate::model::sampling::{Choice, LogProb};
use crate::model::tokenizer::Tokenizer;

/// A token that was chosen, and the likeliest ones in its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    chosen: LogProb,
    top: Vec<LogProb>,
    /// Characters of the answer before it.
    offset: usize,
}

impl Told {
    /// `None` if they were not asked for.
    pub fn of(choice: Choice, offset: usize) -> Option<Told> {
        let (chosen, top) = choice.logprobs?;
        Some(Told { chosen, top, offset })
    }
}

/// Chat's way: under `content` an entry for each token.
pub struct Chat<'a> {
    pub tokenizer: &'a Tokenizer,
    pub told: &'a [Told],
}

/// The way of completions: four lists.
pub struct Legacy<'a> {
    pub tokenizer: &'a Tokenizer,
    pub told: &'a [Told],
}

/// What clients are told instead of minus infinity, which JSON does not have.
const IMPOSSIBLE: f32 = -9999.0;

fn number(logprob: &LogProb) -> f32 {
    logprob.logprob.max(IMPOSSIBLE)
}

/// A token's text; one that is part of a character is written in escapes.
fn name(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.escape_ascii().to_string(),
    }
}

#[derive(Serialize)]
struct Entry<'a> {
    token: String,
    logprob: f32,
    bytes: &'a [u8],
    #[serde(skip_serializing_if = "Option::is_none")]
    top_logprobs: Option<Vec<Entry<'a>>>,
}

impl<'a> Entry<'a> {
    fn of(tokenizer: &'a Tokenizer, one: &LogProb, top: Option<&[LogProb]>) -> Entry<'a> {
        let bytes = tokenizer.token_bytes(one.id);
        let each = |top: &[LogProb]| top.iter().map(|t| Entry::of(tokenizer, t, None)).collect();
        Entry { token: name(bytes), logprob: number(one), bytes, top_logprobs: top.map(each) }
    }
}

impl Serialize for Chat<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(Some(2))?;
        map.serialize_entry("content", &Entries(self))?;
        map.serialize_entry("refusal", &())?;
        map.end()
    }
}

struct Entries<'a>(&'a Chat<'a>);

impl Serialize for Entries<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let Chat { tokenizer, told } = self.0;
        let mut list = to.serialize_seq(Some(told.len()))?;
        for one in *told {
            list.serialize_element(&Entry::of(tokenizer, &one.chosen, Some(&one.top)))?;
        }
        list.end()
    }
}

#[derive(Serialize)]
struct Lists<'a> {
    tokens: Vec<String>,
    token_logprobs: Vec<f32>,
    top_logprobs: Vec<Top<'a>>,
    text_offset: Vec<usize>,
}

impl Serialize for Legacy<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let Legacy { tokenizer, told } = self;
        let text = |id| name(tokenizer.token_bytes(id));
        Lists {
            tokens: told.iter().map(|one| text(one.chosen.id)).collect(),
            token_logprobs: told.iter().map(|one| number(&one.chosen)).collect(),
            top_logprobs: told.iter().map(|one| Top(tokenizer, one)).collect(),
            text_offset: told.iter().map(|one| one.offset).collect(),
        }
        .serialize(to)
    }
}

/// The likeliest tokens by their texts, and the chosen one among them. Of two that have the same
/// text, the likelier stands.
struct Top<'a>(&'a Tokenizer, &'a Told);

impl Serialize for Top<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let Top(tokenizer, told) = self;
        let mut map = to.serialize_map(None)?;
        let mut seen: Vec<&[u8]> = Vec::new();
        for one in told.top.iter().chain([&told.chosen]) {
            let bytes = tokenizer.token_bytes(one.id);
            if !seen.contains(&bytes) {
                seen.push(bytes);
                map.serialize_entry(&name(bytes), &number(one))?;
            }
        }
        map.end()
    }
}

//! The JSON of tokenizer files, deserialised without trust.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::super::error::{Blame, Result};
use super::JsonFile;

#[derive(Deserialize)]
pub(super) struct File {
    #[serde(default)]
    pub added_tokens: Vec<AddedEntry>,
    #[serde(default)]
    pub normalizer: Value,
    #[serde(default)]
    pub pre_tokenizer: Value,
    #[serde(default)]
    pub post_processor: Value,
    #[serde(default)]
    pub decoder: Value,
    pub model: ModelPart,
}

#[derive(Deserialize)]
pub(super) struct AddedEntry {
    #[serde(default)]
    pub id: u32,
    pub content: String,
    #[serde(default)]
    pub single_word: bool,
    #[serde(default)]
    pub lstrip: bool,
    #[serde(default)]
    pub rstrip: bool,
    #[serde(default)]
    pub normalized: bool,
    #[serde(default)]
    pub special: bool,
}

#[derive(Deserialize)]
pub(super) struct ModelPart {
    #[serde(rename = "type")]
    pub kind: Option<String>,
    pub vocab: Vocab,
    #[serde(default)]
    pub merges: Merges,
    pub dropout: Option<f32>,
    pub unk_token: Option<String>,
    pub continuing_subword_prefix: Option<String>,
    pub end_of_word_suffix: Option<String>,
    #[serde(default)]
    pub fuse_unk: bool,
    #[serde(default)]
    pub byte_fallback: bool,
    #[serde(default)]
    pub ignore_merges: bool,
}

pub(super) enum Vocab {
    /// In the order of the file, duplicates included.
    Map(Vec<(String, u32)>),
    /// Some other model's shape.
    Other,
}

impl<'de> Deserialize<'de> for Vocab {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Visit;
        impl<'de> Visitor<'de> for Visit {
            type Value = Vocab;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a map from token to id")
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<Vocab, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Vocab::Map(entries))
            }

            fn visit_seq<A: SeqAccess<'de>>(
                self,
                mut seq: A,
            ) -> std::result::Result<Vocab, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Vocab::Other)
            }
        }
        deserializer.deserialize_any(Visit)
    }
}

/// Pairs, written as `"a b"` or `["a", "b"]`.
#[derive(Default, Deserialize)]
pub(super) struct Merges(pub Vec<Pair>);

pub(super) struct Pair(pub String, pub String);

impl<'de> Deserialize<'de> for Pair {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Visit;
        impl<'de> Visitor<'de> for Visit {
            type Value = Pair;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a merge: two tokens")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> std::result::Result<Pair, E> {
                match text.split_once(' ') {
                    Some((left, right)) if !right.contains(' ') => {
                        Ok(Pair(left.to_owned(), right.to_owned()))
                    }
                    _ => Err(E::custom("a merge is not two tokens with a space between")),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(
                self,
                mut seq: A,
            ) -> std::result::Result<Pair, A::Error> {
                let short = || A::Error::custom("a merge has fewer than two tokens");
                let left = seq.next_element()?.ok_or_else(short)?;
                let right = seq.next_element()?.ok_or_else(short)?;
                match seq.next_element::<IgnoredAny>()? {
                    None => Ok(Pair(left, right)),
                    Some(_) => Err(A::Error::custom("a merge has more than two tokens")),
                }
            }
        }
        deserializer.deserialize_any(Visit)
    }
}

pub(super) fn object(file: JsonFile) -> Result<Map<String, Value>> {
    let blame = Blame(file.name);
    match serde_json::from_slice(file.bytes) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(blame.bad("JSON", "is not an object")),
        Err(e) => Err(blame.bad("JSON", e.to_string())),
    }
}

/// An id or a list of ids; anything else is none.
pub(super) fn ids(value: &Value) -> Vec<u32> {
    let id = |v: &Value| v.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Value::Array(list) => list.iter().filter_map(id).collect(),
        other => id(other).into_iter().collect(),
    }
}

/// Tokens that `tokenizer_config.json` adds or describes anew, in the order of their ids.
pub(super) fn added_tokens_decoder(
    blame: Blame,
    config: &Map<String, Value>,
) -> Result<Vec<AddedEntry>> {
    let Some(Value::Object(tokens)) = config.get("added_tokens_decoder") else {
        return Ok(vec![]);
    };
    let mut entries = Vec::with_capacity(tokens.len());
    for (id, token) in tokens {
        let field = || format!("added_tokens_decoder.{}", super::shown(id));
        let mut entry: AddedEntry =
            AddedEntry::deserialize(token).map_err(|e| blame.bad(field(), e.to_string()))?;
        entry.id = id.parse().map_err(|_| blame.bad(field(), "is no token id"))?;
        entries.push(entry);
    }
    entries.sort_by_key(|e| e.id);
    Ok(entries)
}

//! `tokenizer.json` and the files beside it.
//!
//! The file is read by hand as far as its structure goes, and only checked parts reach the
//! `tokenizers` crate, which trusts what it is given: a damaged file must end in a sentence, not
//! in the crate's panics. Kinds of parts that no model served here uses are refused by name.

mod parts;
mod read;

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;
use tokenizers::{NormalizedString, NormalizerWrapper};

use super::added::{Added, Matcher};
use super::error::{Blame, Result, shown};
use super::merger::{Merger, Rule};
use super::pieces::{Kind, Pieces, byte_level, fallback_byte};
use super::special::SpecialIds;
use super::{Tokenizer, normalize};
use parts::Spelling;
use read::{AddedEntry, File, Merges, ModelPart, Pair, Vocab};

/// The bytes of a file and the name by which messages call it.
#[derive(Debug, Clone, Copy)]
pub struct JsonFile<'a> {
    pub name: &'a str,
    pub bytes: &'a [u8],
}

/// A Hugging Face folder as far as text is concerned. Only `tokenizer` has to be there.
#[derive(Debug, Clone, Copy)]
pub struct JsonFiles<'a> {
    pub tokenizer: JsonFile<'a>,
    /// `tokenizer_config.json`: names of bos, eos ..., and whether they are added.
    pub tokenizer_config: Option<JsonFile<'a>>,
    /// `generation_config.json`: the ids that end an answer.
    pub generation_config: Option<JsonFile<'a>>,
    /// `config.json`: read only for what the two files above leave open.
    pub config: Option<JsonFile<'a>>,
}

pub(super) fn build(files: &JsonFiles) -> Result<Tokenizer> {
    let blame = Blame(files.tokenizer.name);
    let file: File = serde_json::from_slice(files.tokenizer.bytes)
        .map_err(|e| blame.bad("JSON", e.to_string()))?;
    let empty = Default::default();
    let config = files.tokenizer_config.map(read::object).transpose()?.unwrap_or(empty);

    check_model(blame, &file.model)?;
    let vocab = vocabulary(blame, &file.model)?;
    let config_blame = Blame(files.tokenizer_config.map_or("tokenizer_config.json", |f| f.name));
    let mut entries = file.added_tokens;
    entries.extend(read::added_tokens_decoder(config_blame, &config)?);
    let normalizers = parts::normalizers(blame, &file.normalizer)?;
    let added = added_tokens(blame, entries, &vocab, &normalizers)?;

    let (spelling, joining) = parts::decoder(blame, &file.decoder)?;
    let byte_tokens = file.model.byte_fallback;
    let pieces = table(blame, &vocab, &added, &spelling, byte_tokens)?;
    let merger = merger(blame, &file.model, vocab, &pieces)?;

    let (raw, normalized) = matchers(blame, added)?;
    let pre = parts::pre_tokenizer(blame, &file.pre_tokenizer)?;

    let special = roles(files, &config, &index(&pieces), file.model.unk_token.as_deref())?;
    let (prefix, suffix) = ends(blame, &config, &file.post_processor, &special, &pieces)?;
    Ok(Tokenizer {
        file: files.tokenizer.name.to_owned(),
        raw,
        normalized,
        normalizers,
        pre,
        merger,
        pieces,
        joining,
        prefix,
        suffix,
        special,
    })
}

fn check_model(blame: Blame, model: &ModelPart) -> Result<()> {
    let kind = model.kind.as_deref().unwrap_or("BPE");
    if kind != "BPE" {
        let reason = format!("\"{}\" is not read, only BPE is", shown(kind));
        return Err(blame.bad("model.type", reason));
    }
    if model.dropout.is_some_and(|p| p != 0.0) {
        return Err(blame.bad("model.dropout", "would tokenize the same text differently"));
    }
    for (field, value) in [
        ("model.continuing_subword_prefix", &model.continuing_subword_prefix),
        ("model.end_of_word_suffix", &model.end_of_word_suffix),
    ] {
        if value.as_deref().is_some_and(|v| !v.is_empty()) {
            return Err(blame.bad(field, "is not read: no model served here uses it"));
        }
    }
    Ok(())
}

/// The model's own tokens, by name.
fn vocabulary(blame: Blame, model: &ModelPart) -> Result<HashMap<Box<str>, u32>> {
    let Vocab::Map(entries) = &model.vocab else {
        return Err(blame.bad("model.vocab", "is not a map from token to id"));
    };
    let mut vocab = HashMap::with_capacity(entries.len());
    for (name, id) in entries {
        if let Some(other) = vocab.insert(name.as_str().into(), *id) {
            let reason = format!("token \"{}\" has the ids {other} and {id}", shown(name));
            return Err(blame.bad("model.vocab", reason));
        }
    }
    Ok(vocab)
}

/// Added tokens with their ids settled: the vocabulary's where it has the token, otherwise the
/// file's own. A later entry of the same content replaces an earlier one.
fn added_tokens(
    blame: Blame,
    entries: Vec<AddedEntry>,
    vocab: &HashMap<Box<str>, u32>,
    normalizers: &[NormalizerWrapper],
) -> Result<Vec<(Added, bool)>> {
    let mut settled: Vec<(Added, bool)> = Vec::with_capacity(entries.len());
    let mut seen: HashMap<String, usize> = HashMap::with_capacity(entries.len());
    for entry in entries {
        let AddedEntry { id, content, single_word, lstrip, rstrip, normalized, special } = entry;
        if content.is_empty() {
            continue;
        }
        let before = seen.get(&content).copied();
        let fixed = vocab.get(content.as_str()).copied();
        let id = fixed.or(before.map(|at| settled[at].0.id)).unwrap_or(id);
        let kind = if special { Kind::Control } else { Kind::Added };
        let mut pattern = NormalizedString::from(content.as_str());
        if normalized {
            normalize(normalizers, &mut pattern)
                .map_err(|e| blame.bad("added_tokens", e.to_string()))?;
        }
        let pattern = pattern.get().to_owned();
        let token =
            Added { id, content: content.clone(), pattern, kind, single_word, lstrip, rstrip };
        match before {
            Some(at) => settled[at] = (token, normalized),
            None => {
                seen.insert(content, settled.len());
                settled.push((token, normalized));
            }
        }
    }
    let mut by_id: HashMap<u32, &str> = vocab.iter().map(|(n, id)| (*id, &**n)).collect();
    for (token, _) in &settled {
        if let Some(other) = by_id.insert(token.id, &token.content)
            && other != token.content
        {
            let (content, other) = (shown(&token.content), shown(other));
            let reason = format!("\"{content}\" has the id {} of \"{other}\"", token.id);
            return Err(blame.bad("added_tokens", reason));
        }
    }
    Ok(settled)
}

struct Row<'a> {
    kind: Kind,
    name: &'a str,
    /// What the name spells is spelt by this.
    text: &'a str,
}

/// The table of all tokens. Ids may have gaps, but not absurd ones: the table has a row for each.
fn table(
    blame: Blame,
    vocab: &HashMap<Box<str>, u32>,
    added: &[(Added, bool)],
    spelling: &Spelling,
    byte_tokens: bool,
) -> Result<Pieces> {
    let count = vocab.len() + added.len();
    let limit = count.saturating_mul(2).saturating_add(4096).min(u32::MAX as usize) as u32;
    let mut rows: BTreeMap<u32, Row> = BTreeMap::new();
    for (name, &id) in vocab {
        let byte = byte_tokens && fallback_byte(name.as_bytes()).is_some();
        let kind = if byte { Kind::Byte } else { Kind::Normal };
        if let Some(Row { name: other, .. }) = rows.insert(id, Row { kind, name, text: name }) {
            let (a, b) = (shown(name).min(shown(other)), shown(name).max(shown(other)));
            let reason = format!("id {id} belongs to \"{a}\" and to \"{b}\"");
            return Err(blame.bad("model.vocab", reason));
        }
    }
    for (token, _) in added {
        let (kind, name, text) = (token.kind, &token.content, &token.pattern);
        rows.insert(token.id, Row { kind, name, text });
    }
    if let Some((&id, Row { name, .. })) = rows.range(limit..).next() {
        let reason = format!("id {id} of \"{}\" is absurd among {count} tokens", shown(name));
        return Err(blame.bad("model.vocab", reason));
    }
    let mut pieces = Pieces::default();
    for (id, Row { kind, name, text }) in rows {
        while (pieces.len() as u32) < id {
            pieces.push(Kind::Hole, b"", b"");
        }
        let bytes = match (kind, spelling) {
            // Added tokens are written as they are, whatever the alphabet of the others.
            (Kind::Added | Kind::Control, Spelling::ByteLevel) => text.as_bytes().to_vec(),
            (_, Spelling::ByteLevel) => byte_level(name),
            (_, Spelling::Marks { replace, byte_tokens }) => match fallback_byte(name.as_bytes()) {
                Some(byte) if *byte_tokens => vec![byte],
                _ => replaced(blame, text, replace)?.into_bytes(),
            },
        };
        pieces.push(kind, name.as_bytes(), &bytes);
    }
    Ok(pieces)
}

/// The text of a token. Replacements may not blow it up: they would act on every token.
fn replaced(blame: Blame, name: &str, replace: &[(String, String)]) -> Result<String> {
    let mut text = name.to_owned();
    for (from, to) in replace {
        text = text.replace(from, to);
        if text.len() > 4 * name.len() + 64 {
            return Err(blame.bad("decoder", format!("makes \"{}\" too long", shown(name))));
        }
    }
    Ok(text)
}

fn merger(
    blame: Blame,
    model: &ModelPart,
    mut vocab: HashMap<Box<str>, u32>,
    pieces: &Pieces,
) -> Result<Merger> {
    let Merges(merges) = &model.merges;
    let mut ranks = HashMap::with_capacity(merges.len());
    let mut joined = String::new();
    // Text never merges into a token that steers the model, nor into one that names a byte.
    let plain = |id: u32| !matches!(pieces.kind(id), Kind::Control | Kind::Byte);
    for (rank, Pair(left, right)) in merges.iter().enumerate() {
        joined.clear();
        joined.push_str(left);
        joined.push_str(right);
        let id = |name: &str| {
            vocab.get(name).copied().ok_or_else(|| {
                let reason = format!("\"{}\" is not in the vocabulary", shown(name));
                blame.bad(format!("model.merges[{rank}]"), reason)
            })
        };
        let (left, right, id) = (id(left)?, id(right)?, id(&joined)?);
        if [left, right, id].into_iter().all(plain) {
            ranks.insert((left, right), (rank as u32, id));
        }
    }
    let unknown = match model.unk_token.as_deref() {
        None => None,
        Some(name) => Some(vocab.get(name).copied().ok_or_else(|| {
            blame.bad("model.unk_token", format!("\"{}\" is no token", shown(name)))
        })?),
    };
    let bytes = model.byte_fallback.then(|| byte_ids(&vocab)).flatten();
    vocab.retain(|_, id| plain(*id));
    Ok(Merger {
        vocab,
        rule: Rule::Ranks(ranks),
        bytes,
        unknown,
        fuse_unknown: model.fuse_unk,
        whole_words: model.ignore_merges,
    })
}

fn byte_ids(vocab: &HashMap<Box<str>, u32>) -> Option<Box<[u32; 256]>> {
    let mut ids = Box::new([0; 256]);
    for (byte, id) in ids.iter_mut().enumerate() {
        *id = *vocab.get(format!("<0x{byte:02X}>").as_str())?;
    }
    Some(ids)
}

/// Added tokens that are looked for before and after normalisation.
fn matchers(blame: Blame, added: Vec<(Added, bool)>) -> Result<(Matcher, Matcher)> {
    let (normalized, raw): (Vec<_>, Vec<_>) = added.into_iter().partition(|(_, late)| *late);
    let matcher = |tokens: Vec<(Added, bool)>| {
        Matcher::new(tokens.into_iter().map(|(token, _)| token).collect())
            .map_err(|e| blame.bad("added_tokens", e))
    };
    Ok((matcher(raw)?, matcher(normalized)?))
}

type Index<'a> = HashMap<&'a [u8], (u32, Kind)>;

fn index(pieces: &Pieces) -> Index<'_> {
    (0..pieces.len() as u32)
        .map(|id| (pieces.name(id), (id, pieces.kind(id))))
        .filter(|(_, (_, kind))| *kind != Kind::Hole)
        .collect()
}

/// Which id has which role: `tokenizer_config.json` by name, then the configs by number.
fn roles(
    files: &JsonFiles,
    config: &serde_json::Map<String, Value>,
    by_name: &Index,
    unknown: Option<&str>,
) -> Result<SpecialIds> {
    let named = |field: &str| {
        let value = config.get(field)?;
        let name = value.as_str().or_else(|| value.get("content")?.as_str())?;
        by_name.get(name.as_bytes()).map(|(id, _)| *id)
    };
    let generation = files.generation_config.map(read::object).transpose()?;
    let model = files.config.map(read::object).transpose()?;
    let numbered = |field: &str| {
        let from = |map: &Option<serde_json::Map<String, Value>>| map.as_ref()?.get(field).cloned();
        let value = from(&generation).or_else(|| from(&model));
        value.map(|v| read::ids(&v)).unwrap_or_default()
    };
    let ends = numbered("eos_token_id");
    let mut special = SpecialIds {
        bos: named("bos_token").or_else(|| numbered("bos_token_id").first().copied()),
        eos: named("eos_token").or_else(|| ends.first().copied()),
        eot: None,
        unknown: named("unk_token").or_else(|| by_name.get(unknown?.as_bytes()).map(|(id, _)| *id)),
        pad: named("pad_token").or_else(|| numbered("pad_token_id").first().copied()),
        end_of_generation: ends.into_iter().collect(),
    };
    special.add_ends(|name| by_name.get(name.as_bytes()).copied());
    Ok(special)
}

/// What goes before and after a text. Explicit flags in `tokenizer_config.json` overrule the
/// post-processor, as they do in `transformers`.
fn ends(
    blame: Blame,
    config: &serde_json::Map<String, Value>,
    post_processor: &Value,
    special: &SpecialIds,
    pieces: &Pieces,
) -> Result<(Vec<u32>, Vec<u32>)> {
    let flag = |field: &str| config.get(field).and_then(Value::as_bool);
    let (bos, eos) = (flag("add_bos_token"), flag("add_eos_token"));
    if bos.is_some() || eos.is_some() {
        let one = |wanted: Option<bool>, id: Option<u32>| {
            id.filter(|_| wanted == Some(true)).into_iter().collect()
        };
        return Ok((one(bos, special.bos), one(eos, special.eos)));
    }
    parts::post_processor(blame, post_processor, pieces)
}

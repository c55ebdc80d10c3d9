//! The vocabulary of a GGUF file.
//!
//! `gpt2` files hold a byte-level vocabulary with merges and the name of a pre-tokenizer; `llama`
//! files a SentencePiece vocabulary with scores. Where files leave room, the reading is that of
//! llama.cpp: merges that name unknown tokens are skipped (others still apply), a token listed
//! twice is an error, an empty token stands for nothing, some tokens are control tokens by name.

use std::collections::HashMap;

use tokenizers::NormalizerWrapper;
use tokenizers::normalizers::{Prepend, Replace};

use super::Tokenizer;
use super::added::{Added, Matcher};
use super::detokenizer::{First, Joining};
use super::error::{Blame, Result, shown};
use super::merger::{Merger, Rule};
use super::pieces::{Kind, Pieces, byte_level, fallback_byte};
use super::pre::{self, Pre};
use super::special::{SpecialIds, looks_like_control};

/// The fields under `tokenizer.ggml.` as the file has them.
#[derive(Debug, Clone, Default)]
pub struct GgufVocab {
    /// What messages call the file.
    pub file: String,
    pub model: String,
    pub pre: Option<String>,
    pub tokens: Vec<Vec<u8>>,
    pub scores: Option<Vec<f32>>,
    /// `token_type`: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte.
    pub types: Option<Vec<i32>>,
    pub merges: Option<Vec<Vec<u8>>>,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub eot: Option<u32>,
    pub eom: Option<u32>,
    pub unknown: Option<u32>,
    pub pad: Option<u32>,
    pub add_bos: Option<bool>,
    pub add_eos: Option<bool>,
    pub add_space_prefix: Option<bool>,
}

const MARK: &str = "▁";
const TOKENS: &str = "tokenizer.ggml.tokens";
const SCORES: &str = "tokenizer.ggml.scores";

pub(super) fn build(vocab: &GgufVocab) -> Result<Tokenizer> {
    let blame = Blame(&vocab.file);
    match vocab.model.as_str() {
        "gpt2" => byte_level_model(blame, vocab),
        "llama" => sentence_piece(blame, vocab),
        other => {
            let reason = format!("\"{}\" is not read; known are gpt2 and llama", shown(other));
            Err(blame.bad("tokenizer.ggml.model", reason))
        }
    }
}

fn byte_level_model(blame: Blame, vocab: &GgufVocab) -> Result<Tokenizer> {
    let name = vocab.pre.as_deref().unwrap_or("default");
    let cut: &Pre = pre::find(name).ok_or_else(|| {
        let known = pre::names().join(", ");
        let reason = format!("\"{}\" is not known; known are {known}", shown(name));
        blame.bad("tokenizer.ggml.pre", reason)
    })?;
    let table = Table::new(blame, vocab, |kind, name| match kind {
        Kind::Added | Kind::Control => name.to_vec(),
        _ => std::str::from_utf8(name).map_or_else(|_| name.to_vec(), byte_level),
    })?;
    let plain = table.plain();
    let rule = match &vocab.merges {
        Some(merges) => Rule::Ranks(ranks(merges, &plain)),
        // Kimi's files have no merges: any two neighbours that make a token are joined, the
        // token with the lowest id first.
        None if name == "kimi-k2" => {
            Rule::Scores((0..vocab.tokens.len()).map(|id| -(id as f32)).collect())
        }
        None => return Err(blame.bad("tokenizer.ggml.merges", "is missing")),
    };
    let merger = Merger {
        vocab: plain,
        rule,
        bytes: None,
        unknown: None,
        fuse_unknown: false,
        whole_words: cut.whole_words,
    };
    let roles = Roles::new(blame, vocab, None, None, None)?;
    let pre = cut.build().map_err(|e| blame.bad("tokenizer.ggml.pre", e.to_string()))?;
    let joining = Joining { first: First::Keep, between: "", each_byte: false };
    let add_bos = vocab.add_bos.unwrap_or(cut.add_bos && roles.bos.is_some());
    let tokenizer = Parts { table, merger, roles, joining, normalizers: vec![], add_bos };
    tokenizer.assemble(blame, vocab, Some(pre), |name| name.to_owned())
}

fn sentence_piece(blame: Blame, vocab: &GgufVocab) -> Result<Tokenizer> {
    let table = Table::new(blame, vocab, |kind, name| match kind {
        Kind::Byte => fallback_byte(name).map_or_else(|| name.to_vec(), |b| vec![b]),
        Kind::Control => name.to_vec(),
        _ => match std::str::from_utf8(name) {
            Ok(text) => text.replace(MARK, " ").into_bytes(),
            Err(_) => name.to_vec(),
        },
    })?;
    let scores = vocab.scores.as_ref().ok_or_else(|| blame.bad(SCORES, "is missing"))?;
    if scores.len() < vocab.tokens.len() {
        let reason = format!("{} for {} tokens", scores.len(), vocab.tokens.len());
        return Err(blame.bad(SCORES, reason));
    }
    if let Some(at) = scores.iter().position(|s| !s.is_finite()) {
        return Err(blame.bad(SCORES, format!("that of token {at} is not a finite number")));
    }
    // Files may lack these three: they are where SentencePiece puts them by default.
    let there = |id: u32| ((id as usize) < vocab.tokens.len()).then_some(id);
    let roles = Roles::new(blame, vocab, there(1), there(2), there(0))?;
    let merger = Merger {
        vocab: table.plain(),
        rule: Rule::Scores(scores.clone()),
        bytes: table.byte_tokens(),
        unknown: roles.unknown,
        fuse_unknown: true,
        whole_words: false,
    };
    let space = vocab.add_space_prefix.unwrap_or(true);
    let replace = Replace::new(" ", MARK).map_err(|e| blame.bad("spaces", e.to_string()))?;
    let mut normalizers: Vec<NormalizerWrapper> = vec![replace.into()];
    if space {
        normalizers.insert(0, Prepend::new(MARK.to_owned()).into());
    }
    let first = if space { First::StripSpaces(1) } else { First::Keep };
    let joining = Joining { first, between: "", each_byte: true };
    let add_bos = vocab.add_bos.unwrap_or(roles.bos.is_some());
    let parts = Parts { table, merger, roles, joining, normalizers, add_bos };
    parts.assemble(blame, vocab, None, |name| name.replace(MARK, " "))
}

/// The tokens with their kinds and bytes.
struct Table<'a> {
    pieces: Pieces,
    by_name: HashMap<&'a [u8], u32>,
}

impl<'a> Table<'a> {
    fn new(
        blame: Blame,
        vocab: &'a GgufVocab,
        spell: impl Fn(Kind, &[u8]) -> Vec<u8>,
    ) -> Result<Table<'a>> {
        let count = vocab.tokens.len();
        if count == 0 {
            return Err(blame.bad(TOKENS, "is empty"));
        }
        // The id that means "none" below must not be a token's.
        if count > i32::MAX as usize {
            return Err(blame.bad(TOKENS, format!("{count} tokens are more than ids can count")));
        }
        if let Some(types) = &vocab.types
            && types.len() < count
        {
            let reason = format!("{} for {count} tokens", types.len());
            return Err(blame.bad("tokenizer.ggml.token_type", reason));
        }
        let mut pieces = Pieces::default();
        let mut by_name = HashMap::with_capacity(count);
        for (id, name) in vocab.tokens.iter().enumerate() {
            if name.is_empty() {
                pieces.push(Kind::Hole, b"", b"");
                continue;
            }
            if let Some(other) = by_name.insert(name.as_slice(), id as u32) {
                let name = shown(&String::from_utf8_lossy(name));
                let reason = format!("\"{name}\" is token {other} and token {id}");
                return Err(blame.bad(TOKENS, reason));
            }
            let kind = kind(vocab, id, name);
            if kind == Kind::Byte && fallback_byte(name).is_none() {
                let name = shown(&String::from_utf8_lossy(name));
                let reason = format!("byte token {id} is \"{name}\" instead of <0x00> to <0xFF>");
                return Err(blame.bad(TOKENS, reason));
            }
            pieces.push(kind, name, &spell(kind, name));
        }
        Ok(Table { pieces, by_name })
    }

    /// Tokens that plain text may become.
    fn plain(&self) -> HashMap<Box<str>, u32> {
        let plain = |id: u32| matches!(self.pieces.kind(id), Kind::Normal | Kind::Added);
        let named = self.by_name.iter().filter(|&(_, &id)| plain(id));
        named.filter_map(|(name, &id)| Some((std::str::from_utf8(name).ok()?.into(), id))).collect()
    }

    fn byte_tokens(&self) -> Option<Box<[u32; 256]>> {
        let mut found = [None; 256];
        for id in 0..self.pieces.len() as u32 {
            if self.pieces.kind(id) == Kind::Byte {
                let byte = self.pieces.bytes(id).first().copied()?;
                found[byte as usize] = found[byte as usize].or(Some(id));
            }
        }
        let mut ids = Box::new([0; 256]);
        for (id, found) in ids.iter_mut().zip(found) {
            *id = found?;
        }
        Some(ids)
    }
}

fn kind(vocab: &GgufVocab, id: usize, name: &[u8]) -> Kind {
    let by_type = match vocab.types.as_ref().map(|t| t[id]) {
        Some(2 | 3) => Kind::Control,
        Some(4) => Kind::Added,
        Some(6) if vocab.model == "llama" => Kind::Byte,
        Some(_) => Kind::Normal,
        // Without types, the tokens with a role are all that is known.
        None => {
            let roles = [vocab.bos, vocab.eos, vocab.eot, vocab.eom, vocab.unknown, vocab.pad];
            match roles.contains(&Some(id as u32)) {
                true => Kind::Control,
                false if vocab.model == "llama" && fallback_byte(name).is_some() => Kind::Byte,
                false => Kind::Normal,
            }
        }
    };
    match by_type {
        Kind::Normal | Kind::Added if std::str::from_utf8(name).is_ok_and(looks_like_control) => {
            Kind::Control
        }
        other => other,
    }
}

fn ranks(merges: &[Vec<u8>], plain: &HashMap<Box<str>, u32>) -> HashMap<(u32, u32), (u32, u32)> {
    let mut ranks = HashMap::with_capacity(merges.len());
    for (rank, merge) in merges.iter().enumerate() {
        // A token may itself begin with a space, but none is empty.
        let Some(at) = merge.iter().skip(1).position(|&b| b == b' ').map(|at| at + 1) else {
            continue;
        };
        let id = |name: &[u8]| plain.get(std::str::from_utf8(name).ok()?).copied();
        let (left, right) = (&merge[..at], &merge[at + 1..]);
        let joined = [left, right].concat();
        if let (Some(left), Some(right), Some(id)) = (id(left), id(right), id(&joined)) {
            ranks.entry((left, right)).or_insert((rank as u32, id));
        }
    }
    ranks
}

/// The ids with roles, each inside the vocabulary.
struct Roles {
    bos: Option<u32>,
    eos: Option<u32>,
    eot: Option<u32>,
    eom: Option<u32>,
    unknown: Option<u32>,
    pad: Option<u32>,
}

impl Roles {
    fn new(
        blame: Blame,
        vocab: &GgufVocab,
        bos: Option<u32>,
        eos: Option<u32>,
        unknown: Option<u32>,
    ) -> Result<Roles> {
        let check = |field: &str, id: Option<u32>, default: Option<u32>| match id {
            // Converters write -1 for "none".
            None | Some(u32::MAX) => Ok(default),
            Some(id) if (id as usize) < vocab.tokens.len() => Ok(Some(id)),
            Some(id) => {
                let reason = format!("{id} is outside the {} tokens", vocab.tokens.len());
                Err(blame.bad(format!("tokenizer.ggml.{field}_token_id"), reason))
            }
        };
        Ok(Roles {
            bos: check("bos", vocab.bos, bos)?,
            eos: check("eos", vocab.eos, eos)?,
            eot: check("eot", vocab.eot, None)?,
            eom: check("eom", vocab.eom, None)?,
            unknown: check("unknown", vocab.unknown, unknown)?,
            pad: check("padding", vocab.pad, None)?,
        })
    }
}

struct Parts<'a> {
    table: Table<'a>,
    merger: Merger,
    roles: Roles,
    joining: Joining,
    normalizers: Vec<NormalizerWrapper>,
    add_bos: bool,
}

impl Parts<'_> {
    fn assemble(
        self,
        blame: Blame,
        vocab: &GgufVocab,
        pre: Option<tokenizers::PreTokenizerWrapper>,
        written: impl Fn(&str) -> String,
    ) -> Result<Tokenizer> {
        let Parts { table: Table { pieces, by_name }, merger, roles, joining, normalizers, .. } =
            self;
        let mut added = Vec::new();
        for id in 0..pieces.len() as u32 {
            let kind = pieces.kind(id);
            if let (Kind::Control | Kind::Added, Ok(name)) =
                (kind, std::str::from_utf8(pieces.name(id)))
            {
                let pattern = if kind == Kind::Added { written(name) } else { name.to_owned() };
                let content = name.to_owned();
                let (single_word, lstrip, rstrip) = (false, false, false);
                added.push(Added { id, content, pattern, kind, single_word, lstrip, rstrip });
            }
        }
        let one = |field: &str, wanted: bool, id: Option<u32>| match (wanted, id) {
            (false, _) => Ok(vec![]),
            (true, Some(id)) => Ok(vec![id]),
            (true, None) => {
                let reason = format!("is true, but the file names no {field} token");
                Err(blame.bad(format!("tokenizer.ggml.add_{field}_token"), reason))
            }
        };
        let prefix = one("bos", self.add_bos, roles.bos)?;
        let suffix = one("eos", vocab.add_eos.unwrap_or(false), roles.eos)?;
        let mut special = SpecialIds {
            bos: roles.bos,
            eos: roles.eos,
            eot: roles.eot,
            unknown: roles.unknown,
            pad: roles.pad,
            end_of_generation: roles.eom.into_iter().collect(),
        };
        special.add_ends(|name| by_name.get(name.as_bytes()).map(|&id| (id, pieces.kind(id))));
        let raw = Matcher::new(added).map_err(|e| blame.bad(TOKENS, e))?;
        let normalized = Matcher::new(vec![]).map_err(|e| blame.bad(TOKENS, e))?;
        Ok(Tokenizer {
            file: vocab.file.clone(),
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
}

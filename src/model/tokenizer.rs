//! Text to tokens and back.
//!
//! Owns the vocabulary, the cutting and merging of text, the roles of special tokens and the
//! detokenizer. Reads `tokenizer.json` and the vocabulary of a GGUF file, both already in memory:
//! it knows no file and no GGUF parser, and no model either. Imports nothing of the house.
//!
//! Normalisation and pre-tokenization are the `tokenizers` crate's, so that they agree with
//! Python's; merging is written here (see `merger`). The crate links rayon in, but only its batch
//! and training functions use it, and none of them is called: `tests/text.rs` counts threads.

mod added;
mod detokenizer;
mod error;
mod gguf;
mod json;
mod merger;
mod pieces;
mod pre;
mod special;

use tokenizers::{
    NormalizedString, Normalizer, NormalizerWrapper, OffsetReferential, OffsetType,
    PreTokenizedString, PreTokenizer, PreTokenizerWrapper,
};

pub use detokenizer::Detokenizer;
pub use error::{Error, Result};
pub use gguf::GgufVocab;
pub use json::{JsonFile, JsonFiles};
pub use pieces::Kind;
pub use special::SpecialIds;

use added::Matcher;
use detokenizer::Joining;
use error::Blame;
use merger::Merger;
use pieces::Pieces;

/// Longest text that is tokenized in one go. Positions inside it are kept in 32 bits, and the
/// normaliser keeps some 20 bytes for each of its bytes.
pub const MAX_TEXT: usize = 1 << 30;

/// How far normalisation may stretch a text. NFKC's worst is 18 characters for one; a damaged
/// file could ask for any number.
const MAX_STRETCH: usize = 64;

/// What becomes of special tokens that are written out in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Special {
    /// They become control tokens: for rendered templates.
    Parse,
    /// They are ordinary text: for anything a user wrote. No control token is ever returned.
    Plain,
}

pub struct Tokenizer {
    file: String,
    raw: Matcher,
    normalized: Matcher,
    normalizers: Vec<NormalizerWrapper>,
    pre: Option<PreTokenizerWrapper>,
    merger: Merger,
    pieces: Pieces,
    joining: Joining,
    prefix: Vec<u32>,
    suffix: Vec<u32>,
    special: SpecialIds,
}

impl Tokenizer {
    /// From `tokenizer.json` and the files beside it.
    pub fn from_json(files: &JsonFiles) -> Result<Tokenizer> {
        json::build(files)
    }

    /// From the metadata of a GGUF file.
    pub fn from_gguf(vocab: &GgufVocab) -> Result<Tokenizer> {
        gguf::build(vocab)
    }

    /// The tokens of `text`. With `ends`, also those that the model's files put before and after
    /// a text (usually `bos`). Text from outside that may not be UTF-8 is converted by
    /// `String::from_utf8_lossy` before it comes here.
    pub fn encode(&self, text: &str, special: Special, ends: bool) -> Result<Vec<u32>> {
        let mut ids = Vec::with_capacity(text.len() / 3 + 2);
        if ends {
            ids.extend(&self.prefix);
        }
        self.encode_into(text, special, &[], &mut ids)?;
        if ends {
            ids.extend(&self.suffix);
        }
        Ok(ids)
    }

    /// The tokens of `text`, special tokens parsed, except that no control token is found across
    /// one of `guards`, ascending byte offsets in `text`: a name with a guard inside is ordinary
    /// text, merged with what stands around it as [`Special::Plain`] would.
    pub fn encode_guarded(&self, text: &str, guards: &[usize]) -> Result<Vec<u32>> {
        debug_assert!(guards.is_sorted());
        let mut ids = Vec::with_capacity(text.len() / 3 + 2);
        self.encode_into(text, Special::Parse, guards, &mut ids)?;
        Ok(ids)
    }

    fn encode_into(
        &self,
        text: &str,
        special: Special,
        guards: &[usize],
        ids: &mut Vec<u32>,
    ) -> Result<()> {
        if text.len() > MAX_TEXT {
            let reason = format!("{} bytes, more than the {MAX_TEXT} taken at once", text.len());
            return Err(self.refuse(&reason));
        }
        self.cut_and_merge(text, special, guards, ids).map_err(|e| self.refuse(&e.to_string()))
    }

    fn refuse(&self, reason: &str) -> Error {
        Blame(&self.file).bad("text", reason)
    }

    fn cut_and_merge(
        &self,
        text: &str,
        special: Special,
        guards: &[usize],
        ids: &mut Vec<u32>,
    ) -> tokenizers::Result<()> {
        let mut parts = PreTokenizedString::from(text);
        parts.split(|_, part| Ok(self.raw.split(part, special, guards)))?;
        parts.split(|_, mut part| {
            normalize(&self.normalizers, &mut part)?;
            Ok(self.normalized.split(part, special, guards))
        })?;
        if let Some(pre) = &self.pre {
            pre.pre_tokenize(&mut parts)?;
        }
        for (word, _, tokens) in parts.get_splits(OffsetReferential::Normalized, OffsetType::Byte) {
            match tokens {
                Some(tokens) => ids.extend(tokens.iter().map(|t| t.id)),
                None => self.merger.encode(word, ids),
            }
        }
        Ok(())
    }

    /// The text of `ids`, as [`Detokenizer`] gives it.
    pub fn decode(&self, ids: &[u32], skip_control: bool) -> String {
        let mut out = String::new();
        let mut detokenizer = Detokenizer::new(self, skip_control);
        for &id in ids {
            detokenizer.push(self, id, &mut out);
        }
        detokenizer.finish(self, &mut out);
        out
    }

    /// The bytes that one token stands for inside a text; empty for an id that no token has.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.pieces.bytes(id)
    }

    /// The token as its vocabulary writes it, for display.
    pub fn token_text(&self, id: u32) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(self.pieces.name(id))
    }

    pub fn kind(&self, id: u32) -> Kind {
        self.pieces.kind(id)
    }

    /// One more than the highest id.
    pub fn vocab_size(&self) -> usize {
        self.pieces.len()
    }

    pub fn special(&self) -> &SpecialIds {
        &self.special
    }

    pub fn is_end(&self, id: u32) -> bool {
        self.special.end_of_generation.contains(&id)
    }

    /// What `encode` puts before a text when asked for ends.
    pub fn prefix(&self) -> &[u32] {
        &self.prefix
    }

    /// What `encode` puts after a text when asked for ends.
    pub fn suffix(&self) -> &[u32] {
        &self.suffix
    }

    /// A token by its name in the vocabulary, control tokens included. Walks the vocabulary.
    pub fn find(&self, name: &str) -> Option<u32> {
        (0..self.pieces.len() as u32)
            .find(|&id| self.kind(id) != Kind::Hole && self.pieces.name(id) == name.as_bytes())
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("file", &self.file)
            .field("vocab_size", &self.vocab_size())
            .field("special", &self.special)
            .finish_non_exhaustive()
    }
}

fn normalize(steps: &[NormalizerWrapper], text: &mut NormalizedString) -> tokenizers::Result<()> {
    let limit = text.get().len().saturating_mul(MAX_STRETCH).clamp(1 << 16, MAX_TEXT);
    for step in steps {
        let inserted = match step {
            NormalizerWrapper::Replace(replace) => replace.content.len(),
            _ => 0,
        };
        // The length before a replacement bounds the length after it, so memory is bounded too.
        if text.get().len().saturating_mul(inserted + 1) > limit {
            return Err("its normalizer makes the text over 64 times longer".into());
        }
        step.normalize(text)?;
    }
    Ok(())
}

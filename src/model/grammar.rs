//! Answers that keep to a grammar: a JSON schema, a regular expression or rules in Lark's notation.
//!
//! Owns what may follow at each token. The work is llguidance's: it walks the vocabulary as a tree
//! of bytes and says which tokens a grammar can go on with. It is used without its `rayon`
//! feature, and starts no thread.
//!
//! Grammars come from clients and are not trusted. `limits` bounds their size and how deep they
//! nest before the library sees them, and sets what it may spend on reading one and on each token;
//! its own panics it catches. Whatever a client sends, that
//! client's answer ends in a sentence, and no other's.
//!
//! `reins` says for which part of an answer a grammar holds.

mod limits;
mod reins;

use std::rc::Rc;
use std::sync::Arc;

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, TokRxInfo, TokTrie};
use llguidance::{ParserFactory, TokenParser};
use serde_json::{Value, json};

use super::sampling::Mask;
use super::tokenizer::{Kind, Tokenizer};

pub use reins::Reins;

/// Longest name of a token that a grammar may use. Longer ones are runs of spaces and dashes.
const MAX_TOKEN: usize = 512;
/// Bytes of all tokens together, far above the 2 MB of the largest vocabularies.
const MAX_VOCABULARY: usize = 3 << 20;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error(
        "this model's vocabulary has {bytes} bytes, more than the {MAX_VOCABULARY} that grammars can use"
    )]
    Vocabulary { bytes: usize },
    #[error("this model's vocabulary cannot be used with grammars: {0}")]
    Library(String),
}

/// What is wrong with a client's grammar, in a sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct GrammarError(String);

/// A model's tokens as the library wants them. Made once for a model, before clients come: 150,000
/// tokens take about half a second, and some 30 MB.
pub struct Vocabulary {
    factory: ParserFactory,
    ends: Vec<u32>,
}

impl Vocabulary {
    pub fn new(tokenizer: &Tokenizer) -> Result<Rc<Vocabulary>, Error> {
        let words: Vec<Vec<u8>> =
            (0..tokenizer.vocab_size() as u32).map(|id| word(tokenizer, id)).collect();
        let bytes = words.iter().map(Vec::len).sum();
        if bytes > MAX_VOCABULARY {
            return Err(Error::Vocabulary { bytes });
        }
        let ends: Vec<u32> = tokenizer.special().end_of_generation.iter().copied().collect();
        // Without an end the library wants a number that no token has.
        let info = TokRxInfo::new(words.len() as u32, ends.first().copied().unwrap_or(u32::MAX));
        let mut trie = TokTrie::from(&info, &words);
        if !ends.is_empty() {
            trie = trie.with_eos_tokens(&ends);
        }
        // A model may write a text in any tokens that spell it, as it does without a grammar.
        let env = Arc::new(ApproximateTokEnv::new(trie));
        let caps = InferenceCapabilities::default();
        let slices = llguidance::earley::SlicedBiasComputer::general_slices();
        let made = ParserFactory::new(&(env as _), caps, &slices);
        let mut factory = made.map_err(|e| Error::Library(first_line(&e.to_string())))?;
        factory.quiet();
        *factory.limits_mut() = limits::parser();
        Ok(Rc::new(Vocabulary { factory, ends }))
    }

    fn read(&self, grammar: TopLevelGrammar, what: &str) -> Result<TokenParser, GrammarError> {
        let read = self.factory.create_parser(grammar);
        read.map_err(|e| GrammarError(format!("{what}: {}", first_line(&e.to_string()))))
    }
}

/// The bytes by which grammars know a token: none for one that they cannot use, a mark and the
/// name for those that are no text.
fn word(tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
    let bytes = tokenizer.token_bytes(id);
    let mark = TokTrie::SPECIAL_TOKEN_MARKER;
    match tokenizer.kind(id) {
        Kind::Control if bytes.len() <= MAX_TOKEN => [&[mark], bytes].concat(),
        Kind::Normal | Kind::Added | Kind::Byte
            if bytes.len() <= MAX_TOKEN && !bytes.starts_with(&[mark]) =>
        {
            bytes.to_vec()
        }
        _ => Vec::new(),
    }
}

/// What of the library's messages is meant for users. After it come states and backtraces.
fn first_line(message: &str) -> String {
    let line = message.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("");
    let mut short: String = line.chars().take(300).collect();
    if short.starts_with("panic: ") {
        short = "it cannot be read".into();
    }
    short
}

/// A grammar that was read, not yet begun. Answers that share one have nothing else in common.
#[derive(Clone)]
pub struct Grammar {
    vocabulary: Rc<Vocabulary>,
    parser: Rc<TokenParser>,
    whole: bool,
}

impl std::fmt::Debug for Grammar {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.debug_struct("Grammar").field("whole", &self.whole).finish_non_exhaustive()
    }
}

impl Grammar {
    /// JSON that a schema describes, with a bounded stretch of white space at a time. `oneOf` is read as `anyOf`: an answer that fits two of its cases is let through.
    pub fn json_schema(
        vocabulary: &Rc<Vocabulary>,
        schema: &Value,
    ) -> Result<Grammar, GrammarError> {
        limits::check_schema(schema).map_err(GrammarError)?;
        let grammar = TopLevelGrammar::from_json_schema(limits::with_options(schema));
        Grammar::of(vocabulary, grammar, "the schema")
    }

    /// Any JSON object.
    pub fn json_object(vocabulary: &Rc<Vocabulary>) -> Result<Grammar, GrammarError> {
        Grammar::json_schema(vocabulary, &json!({"type": "object"}))
    }

    /// Rules in the notation of Lark, as the library reads it, from the rule `start`.
    pub fn lark(vocabulary: &Rc<Vocabulary>, rules: &str) -> Result<Grammar, GrammarError> {
        let rules = limits::check_lark(rules).map_err(GrammarError)?;
        Grammar::of(vocabulary, TopLevelGrammar::from_lark(rules), "the grammar")
    }

    /// Text that a regular expression matches from end to end.
    pub fn regex(vocabulary: &Rc<Vocabulary>, regex: &str) -> Result<Grammar, GrammarError> {
        limits::check_regex(regex).map_err(GrammarError)?;
        Grammar::of(vocabulary, TopLevelGrammar::from_regex(regex), "the regular expression")
    }

    fn of(
        vocabulary: &Rc<Vocabulary>,
        grammar: TopLevelGrammar,
        what: &str,
    ) -> Result<Grammar, GrammarError> {
        let parser = Rc::new(vocabulary.read(grammar, what)?);
        Ok(Grammar { vocabulary: Rc::clone(vocabulary), parser, whole: false })
    }

    /// The same, holding from the first token on, thoughts and frames included: for grammars that
    /// spell those themselves.
    pub fn over_all(mut self) -> Grammar {
        self.whole = true;
        self
    }

    pub fn begin(&self) -> Matcher {
        let vocabulary = Rc::clone(&self.vocabulary);
        // Nothing is shared with other answers, so that a limit one of them hits is its own.
        let state = llguidance::Matcher::new(Ok(self.parser.deep_clone()));
        Matcher { vocabulary, state, mask: Mask::default(), over: false }
    }
}

/// How far one answer has come in its grammar.
pub struct Matcher {
    vocabulary: Rc<Vocabulary>,
    state: llguidance::Matcher,
    mask: Mask,
    over: bool,
}

impl Matcher {
    /// The tokens that may come next. Those that end a text are among them if it may end here.
    pub fn mask(&mut self) -> Result<&Mask, GrammarError> {
        if self.over {
            self.mask = Mask::default();
            self.vocabulary.ends.iter().for_each(|&id| self.mask.allow(id));
            return Ok(&self.mask);
        }
        let set = self.state.compute_mask().map_err(|e| stopped(&e.to_string()))?;
        self.mask.set(set.as_slice());
        Ok(&self.mask)
    }

    /// Goes on by a token that was chosen.
    pub fn accept(&mut self, token: u32) -> Result<(), GrammarError> {
        if self.over {
            return match self.vocabulary.ends.contains(&token) {
                true => Ok(()),
                false => Err(GrammarError("nothing can follow its end".into())),
            };
        }
        self.state.consume_token(token).map_err(|e| stopped(&e.to_string()))?;
        self.over = self.state.is_stopped();
        Ok(())
    }

    /// Whether it can only end here.
    pub fn over(&self) -> bool {
        self.over
    }
}

fn stopped(message: &str) -> GrammarError {
    GrammarError(match first_line(message) {
        line if line.is_empty() => "it leads to a place where no token of this model fits".into(),
        line => line,
    })
}

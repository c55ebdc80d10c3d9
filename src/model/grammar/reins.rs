//! For which part of an answer its grammar holds.
//!
//! Models that think before they answer are let think: a grammar holds for what is said aloud,
//! from its first token on. Until then every token may come but those that would end the text. A
//! call in a channel of its own goes by no grammar either. Models without such frames keep to the
//! grammar from the first token, and so do all where the grammar spells the frames itself
//! ([`Grammar::over_all`]).

use super::{Grammar, GrammarError, Matcher};
use crate::model::channels::{Channels, Voice};
use crate::model::sampling::Mask;
use crate::model::tokenizer::Tokenizer;

/// A grammar held over one answer.
pub struct Reins {
    matcher: Matcher,
    channels: Option<Channels>,
    /// All tokens but ends.
    free: Mask,
    /// What [`Matcher::mask`] gives, and the token that opens a thought.
    wider: Mask,
}

impl Reins {
    /// For the answer to `prompt`.
    pub fn new(grammar: &Grammar, tokenizer: Option<&Tokenizer>, prompt: &[u32]) -> Reins {
        let tokenizer = tokenizer.filter(|_| !grammar.whole);
        let channels = tokenizer.and_then(|t| Channels::new(t, prompt));
        let mut free = Mask::default();
        if let (Some(tokenizer), Some(_)) = (tokenizer, &channels) {
            free.set(&vec![u32::MAX; tokenizer.vocab_size().div_ceil(32)]);
            grammar.vocabulary.ends.iter().for_each(|&id| free.forbid(id));
        }
        Reins { matcher: grammar.begin(), channels, free, wider: Mask::default() }
    }

    /// The tokens that may come next; `None` if all may.
    pub fn mask(&mut self) -> Result<Option<&Mask>, GrammarError> {
        let Some(channels) = &self.channels else { return self.matcher.mask().map(Some) };
        match (channels.voice(), channels.thought()) {
            (Some(Voice::Answer), None) => self.matcher.mask().map(Some),
            (Some(Voice::Answer), Some(open)) => {
                self.wider.clone_from(self.matcher.mask()?);
                self.wider.allow(open);
                Ok(Some(&self.wider))
            }
            (Some(Voice::Thought) | None, _) => Ok(Some(&self.free)),
            (Some(Voice::Call), _) => Ok(None),
        }
    }

    /// Goes on by a token that was chosen.
    pub fn accept(
        &mut self,
        tokenizer: Option<&Tokenizer>,
        token: u32,
    ) -> Result<(), GrammarError> {
        let (Some(channels), Some(tokenizer)) = (&mut self.channels, tokenizer) else {
            return self.matcher.accept(token);
        };
        let held = channels.voice() == Some(Voice::Answer);
        match channels.push(tokenizer, token) {
            Some(Voice::Answer) if held => self.matcher.accept(token),
            _ => Ok(()),
        }
    }

    /// Whether the answer can only end here.
    pub fn over(&self) -> bool {
        self.matcher.over()
    }
}

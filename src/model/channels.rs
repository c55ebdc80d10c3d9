//! What a model says aloud and what it says to itself.
//!
//! gpt-oss writes its answer in channels: `<|channel|>analysis<|message|>…<|end|>` is thinking,
//! `<|channel|>final<|message|>…` the answer. The tokens that frame them are no text.

use super::tokenizer::{Kind, Tokenizer};

/// Whom a piece of text is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Voice {
    Answer,
    Thought,
}

/// Follows the channels of one answer, token by token.
pub struct Channels {
    start: u32,
    channel: u32,
    message: u32,
    /// Bytes between `<|channel|>` and `<|message|>`.
    header: Option<Vec<u8>>,
    voice: Voice,
}

impl Channels {
    /// `None` for a tokenizer without the framing tokens.
    pub fn new(tokenizer: &Tokenizer) -> Option<Channels> {
        let control = |name| tokenizer.find(name).filter(|&id| tokenizer.kind(id) == Kind::Control);
        Some(Channels {
            start: control("<|start|>")?,
            channel: control("<|channel|>")?,
            message: control("<|message|>")?,
            header: None,
            voice: Voice::Answer,
        })
    }

    /// Whom the token's text is for; `None` if it belongs to the frame.
    pub fn push(&mut self, tokenizer: &Tokenizer, token: u32) -> Option<Voice> {
        if token == self.start || token == self.channel {
            self.header = Some(Vec::new());
            return None;
        }
        let Some(header) = &mut self.header else { return Some(self.voice) };
        if token == self.message {
            self.voice = match header.starts_with(b"final") {
                true => Voice::Answer,
                false => Voice::Thought,
            };
            self.header = None;
        } else {
            header.extend_from_slice(tokenizer.token_bytes(token));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::tokenizer::GgufVocab;
    use super::*;

    /// Single letters and the framing tokens.
    fn tokenizer() -> Tokenizer {
        let letters = (b'a'..=b'z').map(|c| (vec![c], 1));
        let frames = ["<|start|>", "<|channel|>", "<|message|>", "<|end|>"];
        let frames = frames.iter().map(|name| (name.as_bytes().to_vec(), 3));
        let (tokens, types) = letters.chain(frames).unzip();
        let vocab = GgufVocab {
            file: "test".into(),
            model: "gpt2".into(),
            pre: Some("gpt-2".into()),
            tokens,
            types: Some(types),
            merges: Some(Vec::new()),
            ..GgufVocab::default()
        };
        Tokenizer::from_gguf(&vocab).unwrap()
    }

    #[test]
    fn thoughts_and_answers_are_told_apart() {
        let tokenizer = tokenizer();
        let mut channels = Channels::new(&tokenizer).unwrap();
        let mut said = (String::new(), String::new());
        let mut say = |text: &str| {
            let special = super::super::tokenizer::Special::Parse;
            for id in tokenizer.encode(text, special, false).unwrap() {
                let piece = tokenizer.decode(&[id], true);
                match channels.push(&tokenizer, id) {
                    Some(Voice::Answer) => said.0 += &piece,
                    Some(Voice::Thought) => said.1 += &piece,
                    None => {}
                }
            }
        };
        say("plain");
        say("<|channel|>analysis<|message|>hm<|end|>");
        say("<|start|>assistant<|channel|>final<|message|>yes");
        assert_eq!(said, ("plainyes".to_string(), "hm".to_string()));
    }
}

//! What a model says aloud, what it says to itself, and what it says to a tool.
//!
//! gpt-oss writes its answer in channels: `<|channel|>analysis<|message|>…<|end|>` is thinking,
//! `<|channel|>final<|message|>…` the answer, `<|channel|>commentary to=functions.NAME …` the
//! arguments of a call. Other models think between `<think>` and `</think>`, and answer behind it.
//! The tokens that frame all this are no text.

use super::tokenizer::{Kind, Tokenizer};

/// Whom a piece of text is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Voice {
    Answer,
    Thought,
    /// A call in a channel of its own; `model::tools` reads it.
    Call,
}

/// What stands before the arguments of a call in the text of [`Voice::Call`], and behind its name.
pub const CALL: &str = "<|channel|>commentary to=functions.";
pub const ARGUMENTS: &str = "<|message|>";

/// Follows the channels of one answer, token by token.
pub struct Channels {
    frames: Frames,
    voice: Voice,
    /// The call that a frame has just opened, as text.
    opened: Option<String>,
}

enum Frames {
    Harmony {
        start: u32,
        channel: u32,
        message: u32,
        /// Bytes between `<|start|>` or `<|channel|>` and `<|message|>`.
        header: Option<Vec<u8>>,
    },
    Blocks {
        open: u32,
        close: u32,
        /// Something was said aloud. From there on `<think>` is a word like others.
        begun: bool,
        /// The thinking is over.
        closed: bool,
    },
}

impl Channels {
    /// For the answer to a prompt, which may have opened one. `None` for a tokenizer without the
    /// framing tokens.
    pub fn new(tokenizer: &Tokenizer, prompt: &[u32]) -> Option<Channels> {
        let mut channels =
            Channels { frames: Frames::of(tokenizer)?, voice: Voice::Answer, opened: None };
        match &mut channels.frames {
            Frames::Harmony { start, .. } => {
                let start = *start;
                let turn = prompt.iter().rposition(|&id| id == start).unwrap_or(prompt.len());
                for &token in &prompt[turn..] {
                    channels.push(tokenizer, token);
                }
                channels.opened = None;
            }
            Frames::Blocks { open, close, closed, .. } => {
                // As far back as the mark that gives the model its turn.
                let mark = |id: u32| id == *open || id == *close || control(tokenizer, id);
                let last = prompt.iter().rfind(|&&id| mark(id));
                *closed = last == Some(close);
                if last == Some(open) {
                    channels.voice = Voice::Thought;
                }
            }
        }
        Some(channels)
    }

    /// Whom the token's text is for; `None` if it belongs to the frame.
    pub fn push(&mut self, tokenizer: &Tokenizer, token: u32) -> Option<Voice> {
        match &mut self.frames {
            Frames::Harmony { start, channel, message, header } => {
                if token == *start {
                    *header = Some(Vec::new());
                    return None;
                }
                if token == *channel {
                    // Whom it is to may stand on either side.
                    header.get_or_insert_default().push(b' ');
                    return None;
                }
                let Some(bytes) = header else { return Some(self.voice) };
                if token == *message {
                    (self.voice, self.opened) = read_header(&String::from_utf8_lossy(bytes));
                    *header = None;
                } else {
                    bytes.extend_from_slice(tokenizer.token_bytes(token));
                }
                None
            }
            Frames::Blocks { open, close, begun, closed } => {
                if token == *open && !*begun && !*closed {
                    self.voice = Voice::Thought;
                    return None;
                }
                if token == *close && self.voice == Voice::Thought {
                    (self.voice, *closed) = (Voice::Answer, true);
                    return None;
                }
                if self.voice == Voice::Answer {
                    *begun |= !tokenizer.token_bytes(token).iter().all(u8::is_ascii_whitespace);
                }
                Some(self.voice)
            }
        }
    }

    /// After a frame that opened a call, its text: [`CALL`], the name, [`ARGUMENTS`].
    pub fn take_opened(&mut self) -> Option<String> {
        self.opened.take()
    }

    /// Whom the next token's text is for; `None` inside of a frame.
    pub fn voice(&self) -> Option<Voice> {
        match &self.frames {
            Frames::Harmony { header: Some(_), .. } => None,
            Frames::Harmony { .. } | Frames::Blocks { .. } => Some(self.voice),
        }
    }

    /// The token that may open a thought where an answer could begin.
    pub fn thought(&self) -> Option<u32> {
        match self.frames {
            Frames::Blocks { open, begun: false, closed: false, .. } => Some(open),
            Frames::Blocks { .. } | Frames::Harmony { .. } => None,
        }
    }
}

impl Frames {
    fn of(tokenizer: &Tokenizer) -> Option<Frames> {
        let frame = |name| tokenizer.find(name).filter(|&id| control(tokenizer, id));
        if let (Some(start), Some(channel), Some(message)) =
            (frame("<|start|>"), frame("<|channel|>"), frame("<|message|>"))
        {
            return Some(Frames::Harmony { start, channel, message, header: None });
        }
        // Either kind is in use for these.
        let whole = |name| {
            let id = tokenizer.find(name)?;
            matches!(tokenizer.kind(id), Kind::Control | Kind::Added).then_some(id)
        };
        let (open, close) = (whole("<think>")?, whole("</think>")?);
        Some(Frames::Blocks { open, close, begun: false, closed: false })
    }
}

fn control(tokenizer: &Tokenizer, id: u32) -> bool {
    tokenizer.kind(id) == Kind::Control
}

/// Whom a message is for, by its role, recipient and channel; for a call also how it opens.
fn read_header(header: &str) -> (Voice, Option<String>) {
    let mut words = header.split_ascii_whitespace();
    if let Some(to) = header.split_ascii_whitespace().find_map(|w| w.strip_prefix("to=functions."))
    {
        // `<|constrain|>` follows without a space at times.
        let name = to.split_once('<').map_or(to, |(name, _)| name);
        return (Voice::Call, Some(format!("{CALL}{name}{ARGUMENTS}")));
    }
    match words.any(|word| word.starts_with("final")) {
        true => (Voice::Answer, None),
        false => (Voice::Thought, None),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tokenizer::GgufVocab;
    use super::*;

    const HARMONY: [&str; 4] = ["<|start|>", "<|channel|>", "<|message|>", "<|end|>"];

    /// Single letters and framing tokens.
    fn tokenizer(frames: &[&str]) -> Tokenizer {
        let letters = (b'!'..=b'~').map(|c| (vec![c], 1)).chain([("Ġ".into(), 1)]);
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
        let tokenizer = tokenizer(&HARMONY);
        let mut channels = Channels::new(&tokenizer, &[]).unwrap();
        let mut said = (String::new(), String::new());
        let mut say = |text: &str| {
            let special = super::super::tokenizer::Special::Parse;
            for id in tokenizer.encode(text, special, false).unwrap() {
                let piece = tokenizer.decode(&[id], true);
                match channels.push(&tokenizer, id) {
                    Some(Voice::Answer) => said.0 += &piece,
                    Some(Voice::Thought) => said.1 += &piece,
                    Some(Voice::Call) => panic!("no call"),
                    None => {}
                }
            }
        };
        say("plain");
        say("<|channel|>analysis<|message|>hm<|end|>");
        say("<|start|>assistant<|channel|>final<|message|>yes");
        assert_eq!(said, ("plainyes".to_string(), "hm".to_string()));
    }

    /// Answer, thought and calls of what follows a prompt.
    fn said(tokenizer: &Tokenizer, prompt: &str, answer: &str) -> [String; 3] {
        let tokens = |text: &str| {
            tokenizer.encode(text, super::super::tokenizer::Special::Parse, false).unwrap()
        };
        let mut channels = Channels::new(tokenizer, &tokens(prompt)).unwrap();
        let mut said = [const { String::new() }; 3];
        for id in tokens(answer) {
            let voice = channels.push(tokenizer, id);
            said[2] += &channels.take_opened().unwrap_or_default();
            let at = match voice {
                Some(Voice::Answer) => 0,
                Some(Voice::Thought) => 1,
                Some(Voice::Call) => 2,
                None => continue,
            };
            said[at] += &tokenizer.decode(&[id], true);
        }
        said
    }

    #[test]
    fn calls_have_a_voice_and_a_name() {
        let tokenizer = tokenizer(&HARMONY);
        let call = |text: &str| said(&tokenizer, "<|start|>assistant", text);
        let opened = format!("{CALL}f{ARGUMENTS}{{}}");
        for text in [
            "<|channel|>commentary to=functions.f <|message|>{}",
            "<|channel|>commentary to=functions.f json<|message|>{}",
            " to=functions.f<|channel|>commentary json<|message|>{}",
        ] {
            assert_eq!(call(text), [String::new(), String::new(), opened.clone()], "{text}");
        }
        let text = "<|channel|>analysis<|message|>hm<|start|>assistant<|channel|>final<|message|>a";
        assert_eq!(call(text), ["a".to_string(), "hm".into(), String::new()]);
    }

    #[test]
    fn a_block_of_thought_stands_before_an_answer() {
        let tokenizer = tokenizer(&["<think>", "</think>", "<|im_end|>"]);
        for (prompt, answer, expected) in [
            ("x", "<think>hm</think>yes", ["yes", "hm"]),
            ("x<think>", "hm</think>yes", ["yes", "hm"]),
            ("x<think></think>", "yes", ["yes", ""]),
            ("<|im_end|>x<think>y", "hm</think>yes", ["yes", "hm"]),
            ("<think>a</think>b<|im_end|>", " <think>hm</think>yes", [" yes", "hm"]),
            ("x", "yes", ["yes", ""]),
            ("x", "<think>hm", ["", "hm"]),
            // Not where one can be.
            ("x", "say<think>", ["say<think>", ""]),
            ("x", "a</think>", ["a</think>", ""]),
            ("x", "<think>hm</think><think>", ["<think>", "hm"]),
        ] {
            let got = said(&tokenizer, prompt, answer);
            // The names of control tokens are not printed.
            let plain = expected[0].replace("<think>", "").replace("</think>", "");
            assert_eq!([&*got[0], &*got[1]], [&*plain, expected[1]], "{prompt} {answer}");
        }
    }
}

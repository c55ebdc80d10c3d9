//! Tokens back to text, one at a time.

use std::rc::Rc;

use super::Tokenizer;
use super::pieces::Kind;

/// How the bytes of tokens make text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Joining {
    pub first: First,
    /// What stands between two tokens (nothing, except in files without a decoder).
    pub between: &'static str,
    /// Bytes that are no UTF-8 become U+FFFD each, as SentencePiece has it; otherwise each
    /// maximal broken sequence becomes one.
    pub each_byte: bool,
}

/// What happens where the text begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum First {
    Keep,
    /// Up to so many spaces are dropped: the encoder put them there.
    StripSpaces(usize),
    /// The first token loses every space it was written with.
    DropMarks(char),
}

/// Turns tokens into text as they come. What it has emitted is always whole characters, and
/// all that it emitted, joined, is what [`Tokenizer::decode`] gives for all the tokens.
///
/// It borrows nothing, so that it can live in a session beside the tokenizer.
#[derive(Debug, Clone)]
pub struct Detokenizer {
    skip_control: bool,
    /// Control tokens that are printed all the same.
    shown: Rc<[u32]>,
    begun: bool,
    strip: usize,
    /// The start of a character whose rest has not come yet: at most 3 bytes.
    tail: Vec<u8>,
}

impl Detokenizer {
    /// `skip_control`: control tokens are not printed.
    pub fn new(tokenizer: &Tokenizer, skip_control: bool) -> Detokenizer {
        let strip = match tokenizer.joining.first {
            First::StripSpaces(n) => n,
            First::Keep | First::DropMarks(_) => 0,
        };
        Detokenizer { skip_control, shown: Rc::default(), begun: false, strip, tail: Vec::new() }
    }

    /// Prints these control tokens, whatever becomes of the others.
    pub fn show(mut self, shown: Rc<[u32]>) -> Detokenizer {
        self.shown = shown;
        self
    }

    /// Appends to `out` the text that `id` completes. An id that no token has adds nothing: a
    /// model's output layer is often padded beyond its vocabulary.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32, out: &mut String) {
        let kind = tokenizer.pieces.kind(id);
        let hidden = kind == Kind::Control && self.skip_control && !self.shown.contains(&id);
        if kind == Kind::Hole || hidden {
            return;
        }
        let joining = &tokenizer.joining;
        let first = !std::mem::replace(&mut self.begun, true);
        if !first {
            self.tail.extend_from_slice(joining.between.as_bytes());
        }
        let bytes = tokenizer.pieces.bytes(id);
        match joining.first {
            First::DropMarks(mark) if first => {
                let name = String::from_utf8_lossy(tokenizer.pieces.name(id)).replace(mark, "");
                self.tail.extend_from_slice(name.as_bytes());
            }
            _ if self.strip > 0 => {
                let spaces = bytes.iter().take(self.strip).take_while(|&&b| b == b' ').count();
                self.strip = if spaces == bytes.len() { self.strip - spaces } else { 0 };
                self.tail.extend_from_slice(&bytes[spaces..]);
            }
            _ => self.tail.extend_from_slice(bytes),
        }
        self.drain(joining.each_byte, false, out);
    }

    /// The end of the text: what is left of an unfinished character becomes U+FFFD.
    pub fn finish(&mut self, tokenizer: &Tokenizer, out: &mut String) {
        self.drain(tokenizer.joining.each_byte, true, out);
    }

    fn drain(&mut self, each_byte: bool, end: bool, out: &mut String) {
        let mut rest = self.tail.as_slice();
        loop {
            let error = match std::str::from_utf8(rest) {
                Ok(text) => {
                    out.push_str(text);
                    rest = &[];
                    break;
                }
                Err(error) => error,
            };
            let (good, bad) = rest.split_at(error.valid_up_to());
            // Lossless: `good` was just found to be UTF-8.
            out.push_str(&String::from_utf8_lossy(good));
            rest = bad;
            let width = match error.error_len() {
                Some(width) => width,
                None if end => rest.len(),
                None => break,
            };
            for _ in 0..if each_byte { width } else { 1 } {
                out.push(char::REPLACEMENT_CHARACTER);
            }
            rest = &rest[width..];
        }
        let keep = rest.len();
        self.tail.drain(..self.tail.len() - keep);
    }
}

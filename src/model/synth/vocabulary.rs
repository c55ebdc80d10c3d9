//! A byte-level vocabulary of any size that tokenizes any text.
//!
//! 256 bytes, then words of two, three and four letters with the merges that make them, then the
//! family's control tokens where the family has them, the rest unused.

/// What a family's vocabulary looks like from outside.
#[derive(Clone, Copy, Debug)]
pub struct Vocabulary {
    pub size: usize,
    /// How text is cut: a name that `tokenizer.ggml.pre` may have.
    pub pre: &'static str,
    /// The first id that is no text.
    pub first_special: usize,
    /// Control tokens, by their distance from `first_special`.
    pub controls: &'static [(usize, &'static str)],
    pub bos: Option<&'static str>,
    pub eos: &'static str,
    pub pad: Option<&'static str>,
    pub add_bos: Option<bool>,
}

/// Kinds of tokens, as GGUF numbers them.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const UNUSED: i32 = 5;

/// The vocabulary as GGUF has it.
pub struct Tokens {
    pub names: Vec<String>,
    pub types: Vec<i32>,
    pub merges: Vec<String>,
}

impl Vocabulary {
    pub fn id(&self, control: &str) -> Option<u32> {
        let found = self.controls.iter().find(|(_, name)| *name == control)?;
        Some((self.first_special + found.0) as u32)
    }

    pub fn tokens(&self) -> Tokens {
        let mut names: Vec<String> = (0..=255u8).map(|b| letter(b).to_string()).collect();
        let mut merges = Vec::with_capacity(self.first_special);
        for word in words().take(self.first_special - names.len()) {
            let cut = word.char_indices().next_back().map_or(0, |(at, _)| at);
            merges.push(format!("{} {}", &word[..cut], &word[cut..]));
            names.push(word);
        }
        assert_eq!(names.len(), self.first_special, "there are not so many words");
        let mut types = vec![NORMAL; names.len()];
        for at in 0..self.size - self.first_special {
            let control = self.controls.iter().find(|(distance, _)| *distance == at);
            types.push(if control.is_some() { CONTROL } else { UNUSED });
            let unused = || format!("[PAD{}]", self.first_special + at);
            names.push(control.map_or_else(unused, |(_, name)| name.to_string()));
        }
        Tokens { names, types, merges }
    }
}

/// The letter that stands for a byte in byte-level vocabularies: printable ones for themselves,
/// the others from 256 on.
fn letter(byte: u8) -> char {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    if printable(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|b| !printable(*b)).count() as u32;
    char::from_u32(256 + before).unwrap_or('?')
}

/// Words of two letters, of three, of four, of which the first may be a space. Every word without
/// its last letter is a word before it.
fn words() -> impl Iterator<Item = String> {
    [2, 3, 4].into_iter().flat_map(|len| {
        let count = 27 * 26u64.pow(len - 1);
        // The stride shares no factor with 26 or 27, so this is every word once, in an order that
        // takes a part of them evenly from the alphabet.
        (0..count).map(move |i| {
            let mut rest = i * 100_003 % count;
            let mut word = String::with_capacity(5);
            word.push(match rest % 27 {
                26 => letter(b' '),
                n => char::from(b'a' + n as u8),
            });
            rest /= 27;
            for _ in 1..len {
                word.push(char::from(b'a' + (rest % 26) as u8));
                rest /= 26;
            }
            word
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn words_differ_and_follow_from_earlier_ones() {
        let mut seen: HashSet<String> = (0..=255u8).map(|b| letter(b).to_string()).collect();
        assert_eq!(seen.len(), 256);
        for word in words().take(200_000) {
            let mut start = word.clone();
            start.pop();
            assert!(seen.contains(&start), "{word}");
            assert!(seen.insert(word));
        }
    }
}

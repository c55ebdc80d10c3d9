//! The table of tokens: for each id its kind, its name in the vocabulary and the bytes it stands
//! for. Two arenas with offsets, so that a vocabulary of 200,000 tokens is four allocations and
//! decoding a token is one slice.

/// What a token is to those who read or write text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// No token has this id.
    Hole,
    /// Ordinary text.
    Normal,
    /// Steers the model, and is never produced from plain text nor printed unless asked.
    Control,
    /// Added by hand: matched as a whole wherever it occurs in text, and printed.
    Added,
    /// One byte of a character that has no token of its own.
    Byte,
}

#[derive(Debug, Default)]
struct Arena {
    data: Vec<u8>,
    ends: Vec<usize>,
}

impl Arena {
    fn push(&mut self, bytes: &[u8]) {
        self.data.extend_from_slice(bytes);
        self.ends.push(self.data.len());
    }

    fn get(&self, i: usize) -> &[u8] {
        let Some(&end) = self.ends.get(i) else { return &[] };
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        &self.data[start..end]
    }
}

#[derive(Debug, Default)]
pub(super) struct Pieces {
    kinds: Vec<Kind>,
    names: Arena,
    bytes: Arena,
}

impl Pieces {
    pub fn push(&mut self, kind: Kind, name: &[u8], bytes: &[u8]) {
        self.kinds.push(kind);
        self.names.push(name);
        self.bytes.push(bytes);
    }

    pub fn len(&self) -> usize {
        self.kinds.len()
    }

    pub fn kind(&self, id: u32) -> Kind {
        self.kinds.get(id as usize).copied().unwrap_or(Kind::Hole)
    }

    pub fn name(&self, id: u32) -> &[u8] {
        self.names.get(id as usize)
    }

    pub fn bytes(&self, id: u32) -> &[u8] {
        self.bytes.get(id as usize)
    }
}

/// The byte behind a character of the byte-level alphabet, in which every byte is written as a
/// printable character: itself where it is printable in Latin-1, and the next free one from
/// U+0100 on otherwise.
fn byte_of(c: char) -> Option<u8> {
    let code = c as u32;
    match code {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => Some(code as u8),
        0x100..=0x120 => Some((code - 0x100) as u8),
        0x121..=0x142 => Some((code - 0x121 + 0x7f) as u8),
        0x143 => Some(0xad),
        _ => None,
    }
}

/// The bytes that a byte-level token stands for. A token that uses other characters was never
/// byte-level and stands for itself.
pub(super) fn byte_level(name: &str) -> Vec<u8> {
    name.chars().map(byte_of).collect::<Option<Vec<u8>>>().unwrap_or_else(|| name.into())
}

/// The byte that a SentencePiece byte token (`<0x0A>`) stands for.
pub(super) fn fallback_byte(name: &[u8]) -> Option<u8> {
    let hex = name.strip_prefix(b"<0x")?.strip_suffix(b">")?;
    if hex.len() != 2 || !hex.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_exactly_one_character() {
        let mut seen = [0; 256];
        for c in (0..0x400).filter_map(char::from_u32) {
            if let Some(b) = byte_of(c) {
                seen[b as usize] += 1;
            }
        }
        assert_eq!(seen, [1; 256]);
        assert_eq!(byte_of('Ġ'), Some(b' '));
        assert_eq!(byte_of('Ċ'), Some(b'\n'));
    }

    #[test]
    fn only_two_hex_digits_make_a_byte_token() {
        assert_eq!(fallback_byte(b"<0x0A>"), Some(10));
        assert_eq!(fallback_byte(b"<0xfF>"), Some(255));
        for name in [&b"<0x+A>"[..], b"<0xA>", b"<0x0AA>", b"<0x\xc3\xa9>", b"<0x>", b"<0x0A"] {
            assert_eq!(fallback_byte(name), None);
        }
    }
}

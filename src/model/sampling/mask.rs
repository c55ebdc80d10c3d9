//! Which tokens may be drawn at all.

/// A set of token ids. Ids beyond its size are not in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mask {
    words: Vec<u32>,
}

impl Mask {
    /// From 32 ids a word, the lowest in the lowest bit.
    pub fn set(&mut self, words: &[u32]) {
        self.words.clear();
        self.words.extend_from_slice(words);
    }

    pub fn allow(&mut self, id: u32) {
        let at = id as usize / 32;
        if at >= self.words.len() {
            self.words.resize(at + 1, 0);
        }
        self.words[at] |= 1 << (id % 32);
    }

    pub fn forbid(&mut self, id: u32) {
        if let Some(word) = self.words.get_mut(id as usize / 32) {
            *word &= !(1 << (id % 32));
        }
    }

    pub fn allows(&self, id: u32) -> bool {
        self.words.get(id as usize / 32).is_some_and(|word| word >> (id % 32) & 1 == 1)
    }

    /// Makes the logits of all other tokens minus infinity.
    pub(super) fn apply(&self, logits: &mut [f32]) {
        for (at, stretch) in logits.chunks_mut(32).enumerate() {
            match self.words.get(at).copied().unwrap_or(0) {
                0 => stretch.fill(f32::NEG_INFINITY),
                u32::MAX => {}
                word => {
                    for (bit, logit) in stretch.iter_mut().enumerate() {
                        if word >> bit & 1 == 0 {
                            *logit = f32::NEG_INFINITY;
                        }
                    }
                }
            }
        }
    }
}

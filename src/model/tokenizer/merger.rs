//! Byte-pair merging: characters of a word are joined, best pair first, until no pair is known.
//!
//! Two rules decide which pair is best. *Ranks* (the byte-level family, and `tokenizer.json`):
//! a list of merges, the earlier the better. *Scores* (SentencePiece): any two neighbours whose
//! joined text is a token, the higher its score the better. Ties go to the leftmost pair. Both
//! run on one heap, so a word of n characters costs O(n log n); the whole text is one word in
//! SentencePiece models, which is why that matters.
//!
//! This is written here rather than taken from the `tokenizers` crate because that one knows no
//! scores, would let plain text merge into a control token, keeps per-thread caches, and panics
//! on some damaged files.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

pub(super) enum Rule {
    /// (left id, right id) → (rank, joined id).
    Ranks(HashMap<(u32, u32), (u32, u32)>),
    /// The score of each id.
    Scores(Vec<f32>),
}

pub(super) struct Merger {
    /// Tokens that plain text may become. Control and byte tokens are not among them.
    pub vocab: HashMap<Box<str>, u32>,
    pub rule: Rule,
    /// Tokens for single bytes, used for a character that is no token. All 256 or none.
    pub bytes: Option<Box<[u32; 256]>>,
    pub unknown: Option<u32>,
    /// A run of unknown characters becomes one unknown token rather than one each.
    pub fuse_unknown: bool,
    /// A word that is a token is that token, whatever the merges would give.
    pub whole_words: bool,
}

const NONE: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct Symbol {
    start: u32,
    end: u32,
    id: u32,
    prev: u32,
    next: u32,
}

/// A pair that may be joined: ordered by priority, then position. `end` tells whether the pair
/// is still the one that was meant.
type Candidate = Reverse<(u32, u32, u32, u32)>;

impl Merger {
    /// Appends the ids of one word. A word is under 4 GiB: the caller checks the text's length.
    pub fn encode(&self, word: &str, ids: &mut Vec<u32>) {
        if self.whole_words
            && let Some(&id) = self.vocab.get(word)
        {
            ids.push(id);
            return;
        }
        let mut symbols = self.characters(word);
        self.join(word, &mut symbols);
        self.emit(word, &symbols, ids);
    }

    fn characters(&self, word: &str) -> Vec<Symbol> {
        let mut symbols: Vec<Symbol> = Vec::with_capacity(word.len());
        for (start, c) in word.char_indices() {
            let end = start + c.len_utf8();
            let id = self.vocab.get(&word[start..end]).copied().unwrap_or(NONE);
            let at = symbols.len() as u32;
            symbols.push(Symbol {
                start: start as u32,
                end: end as u32,
                id,
                prev: at.wrapping_sub(1),
                next: at + 1,
            });
        }
        if let Some(last) = symbols.last_mut() {
            last.next = NONE;
        }
        symbols
    }

    fn candidate(&self, word: &str, symbols: &[Symbol], at: u32) -> Option<Candidate> {
        let left = symbols[at as usize];
        if left.next == NONE {
            return None;
        }
        let right = symbols[left.next as usize];
        let (priority, id) = match &self.rule {
            Rule::Ranks(ranks) => *ranks.get(&(left.id, right.id))?,
            Rule::Scores(scores) => {
                let &id = self.vocab.get(&word[left.start as usize..right.end as usize])?;
                (descending(*scores.get(id as usize)?), id)
            }
        };
        Some(Reverse((priority, at, right.end, id)))
    }

    fn join(&self, word: &str, symbols: &mut [Symbol]) {
        let mut heap: BinaryHeap<Candidate> = (0..symbols.len() as u32)
            .filter_map(|at| self.candidate(word, symbols, at))
            .collect::<Vec<_>>()
            .into();
        while let Some(Reverse((_, at, end, id))) = heap.pop() {
            let left = symbols[at as usize];
            // A consumed symbol has no width; a pair whose end moved is no longer this pair.
            if left.start == left.end || left.next == NONE {
                continue;
            }
            let right = symbols[left.next as usize];
            if right.end != end {
                continue;
            }
            symbols[left.next as usize].end = right.start;
            symbols[at as usize] = Symbol { end, id, next: right.next, ..left };
            if right.next != NONE {
                symbols[right.next as usize].prev = at;
            }
            if left.prev != NONE {
                heap.extend(self.candidate(word, symbols, left.prev));
            }
            heap.extend(self.candidate(word, symbols, at));
        }
    }

    fn emit(&self, word: &str, symbols: &[Symbol], ids: &mut Vec<u32>) {
        let mut in_unknown = false;
        for symbol in symbols.iter().filter(|s| s.start != s.end) {
            if symbol.id != NONE {
                ids.push(symbol.id);
                in_unknown = false;
            } else if let Some(bytes) = &self.bytes {
                let text = &word[symbol.start as usize..symbol.end as usize];
                ids.extend(text.bytes().map(|b| bytes[b as usize]));
            } else if let Some(unknown) = self.unknown {
                if !(in_unknown && self.fuse_unknown) {
                    ids.push(unknown);
                }
                in_unknown = true;
            }
        }
    }
}

/// A key that is smaller the higher the (finite) score.
fn descending(score: f32) -> u32 {
    // Adding zero turns -0.0 into 0.0, so that equal scores have equal keys.
    let bits = (score + 0.0).to_bits();
    !(if bits >> 31 == 0 { bits | 1 << 31 } else { !bits })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merger(tokens: &[(&str, f32)], rule: Option<Rule>) -> Merger {
        let scores = tokens.iter().map(|t| t.1).collect();
        Merger {
            vocab: tokens.iter().enumerate().map(|(i, t)| (t.0.into(), i as u32)).collect(),
            rule: rule.unwrap_or(Rule::Scores(scores)),
            bytes: None,
            unknown: None,
            fuse_unknown: false,
            whole_words: false,
        }
    }

    fn encode(m: &Merger, word: &str) -> Vec<u32> {
        let mut ids = vec![];
        m.encode(word, &mut ids);
        ids
    }

    #[test]
    fn keys_order_scores_downwards() {
        let scores = [f32::MAX, 3.5, 1.0, 1e-40, 0.0, -1e-40, -1.0, -7.0, f32::MIN];
        assert!(scores.windows(2).all(|w| descending(w[0]) < descending(w[1])));
        assert_eq!(descending(0.0), descending(-0.0));
    }

    #[test]
    fn the_higher_score_wins_and_ties_go_left() {
        let m = merger(&[("a", 0.), ("b", 0.), ("c", 0.), ("ab", -2.), ("bc", -1.)], None);
        assert_eq!(encode(&m, "abc"), [0, 4]);
        let m = merger(&[("a", 0.), ("aa", -1.)], None);
        assert_eq!(encode(&m, "aaaaa"), [1, 1, 0]);
    }

    #[test]
    fn the_earlier_merge_wins() {
        let ranks = HashMap::from([((0, 1), (1, 3)), ((1, 2), (0, 4)), ((3, 2), (2, 5))]);
        let tokens = [("a", 0.), ("b", 0.), ("c", 0.), ("ab", 0.), ("bc", 0.), ("abc", 0.)];
        let mut m = merger(&tokens, Some(Rule::Ranks(ranks)));
        assert_eq!(encode(&m, "abc"), [0, 4]);
        m.whole_words = true;
        assert_eq!(encode(&m, "abc"), [5]);
    }

    #[test]
    fn unknown_characters_fuse_only_when_told() {
        let mut m = merger(&[("a", 0.), ("?", 0.)], None);
        assert_eq!(encode(&m, "xaxx"), [0]);
        m.unknown = Some(1);
        assert_eq!(encode(&m, "xaxx"), [1, 0, 1, 1]);
        m.fuse_unknown = true;
        assert_eq!(encode(&m, "xaxx"), [1, 0, 1]);
    }

    #[test]
    fn a_long_word_is_not_quadratic() {
        let m = merger(&[("a", 0.), ("aa", -1.), ("aaaa", -2.), ("aaaaaaaa", -3.)], None);
        let word = "a".repeat(1 << 20);
        let ids = encode(&m, &word);
        assert_eq!(ids, vec![3; 1 << 17]);
    }
}

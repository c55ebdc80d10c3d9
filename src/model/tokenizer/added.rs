//! Tokens that are matched as a whole in text, before anything is split or merged.

use aho_corasick::{AhoCorasick, Input, MatchKind};
use tokenizers::normalizer::Range;
use tokenizers::{NormalizedString, Token};

use super::Special;
use super::pieces::Kind;

#[derive(Debug, Clone)]
pub(super) struct Added {
    pub id: u32,
    /// Its name in the vocabulary.
    pub content: String,
    /// The text it is matched against and printed as: the content, or what the normalizer makes
    /// of it if it is looked for in normalized text.
    pub pattern: String,
    pub kind: Kind,
    pub single_word: bool,
    pub lstrip: bool,
    pub rstrip: bool,
}

/// Finds added tokens in text: the leftmost, and of those that start there the longest.
pub(super) struct Matcher {
    tokens: Vec<Added>,
    automaton: Option<AhoCorasick>,
}

type Fragment = (NormalizedString, Option<Vec<Token>>);

impl Matcher {
    /// Fails only if the automaton would exceed the library's own limits.
    pub fn new(mut tokens: Vec<Added>) -> Result<Matcher, String> {
        // An empty pattern would match everywhere and mean nothing.
        tokens.retain(|t| !t.pattern.is_empty());
        let automaton = if tokens.is_empty() {
            None
        } else {
            let built = AhoCorasick::builder()
                .match_kind(MatchKind::LeftmostLongest)
                .build(tokens.iter().map(|t| &t.pattern));
            Some(built.map_err(|e| e.to_string())?)
        };
        Ok(Matcher { tokens, automaton })
    }

    /// Cuts `text` into plain fragments and added tokens. No control token is found across one of
    /// `guards`: ascending offsets in the text as it was before normalisation.
    pub fn split(
        &self,
        text: NormalizedString,
        special: Special,
        guards: &[usize],
    ) -> Vec<Fragment> {
        let found = self.find(text.get(), special, |range| crosses(&text, range, guards));
        if found.is_empty() {
            return vec![(text, None)];
        }
        let mut fragments = Vec::with_capacity(found.len() * 2 + 1);
        let mut done = 0;
        let total = text.get().len();
        let mut cut = |range: std::ops::Range<usize>, id: Option<u32>| {
            let Some(slice) = text.slice(Range::Normalized(range.clone())) else { return };
            let tokens = id.map(|id| vec![Token::new(id, String::new(), (0, range.len()))]);
            fragments.push((slice, tokens));
        };
        for (id, start, end) in found {
            if done < start {
                cut(done..start, None);
            }
            cut(start..end, Some(id));
            done = end;
        }
        if done < total {
            cut(done..total, None);
        }
        fragments
    }

    /// The tokens in `text` with their places. `guarded` says of a control token's place that it
    /// is text all the same.
    fn find(
        &self,
        text: &str,
        special: Special,
        guarded: impl Fn(std::ops::Range<usize>) -> bool,
    ) -> Vec<(u32, usize, usize)> {
        let Some(automaton) = &self.automaton else { return vec![] };
        let mut found = Vec::new();
        let (mut done, mut next) = (0, 0);
        while let Some(m) = automaton.find(Input::new(text).span(next..text.len())) {
            let mut token = &self.tokens[m.pattern().as_usize()];
            next = m.end();
            if token.kind == Kind::Control {
                if special == Special::Plain {
                    continue;
                }
                if guarded(m.range()) {
                    let (whole, behind) = self.unguarded(text, m.start(), &guarded);
                    next = behind;
                    match whole {
                        Some(shorter) => token = shorter,
                        None => continue,
                    }
                }
            }
            let (mut start, mut end) = (m.start(), next);
            // Spaces taken by the token before may hold the start of this one.
            if start < done {
                continue;
            }
            if token.single_word {
                let before = text[..start].chars().next_back();
                let after = text[end..].chars().next();
                if before.is_some_and(is_word) || after.is_some_and(is_word) {
                    continue;
                }
            }
            if token.lstrip {
                start = done + text[done..start].trim_end().len();
            }
            if token.rstrip {
                end += text[end..].len() - text[end..].trim_start().len();
            }
            found.push((token.id, start, end));
            done = end;
        }
        found
    }

    /// The longest control token at `start` that is not guarded, and where to go on. A guarded
    /// match may begin or end with a token that stands there by right, so the search goes on
    /// behind the shortest guarded name if there is none.
    fn unguarded(
        &self,
        text: &str,
        start: usize,
        guarded: impl Fn(std::ops::Range<usize>) -> bool,
    ) -> (Option<&Added>, usize) {
        let mut whole: Option<&Added> = None;
        let mut behind = text.len();
        for token in self.tokens.iter().filter(|t| t.kind == Kind::Control) {
            if !text[start..].starts_with(&*token.pattern) {
                continue;
            }
            let length = token.pattern.len();
            if guarded(start..start + length) {
                behind = behind.min(start + length);
            } else if whole.is_none_or(|w| w.pattern.len() < length) {
                whole = Some(token);
            }
        }
        (whole, whole.map_or(behind, |w| start + w.pattern.len()))
    }
}

/// Whether what became `range` of a normalized text stood on both sides of a guard. A place that
/// cannot be traced back is taken to.
fn crosses(text: &NormalizedString, range: std::ops::Range<usize>, guards: &[usize]) -> bool {
    if guards.is_empty() {
        return false;
    }
    let Some(range) = text.convert_offsets(Range::Normalized(range)) else { return true };
    let shift = text.offsets_original().0;
    let behind = guards.partition_point(|&guard| guard <= shift + range.start);
    guards.get(behind).is_some_and(|&guard| guard < shift + range.end)
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(id: u32, content: &str) -> Added {
        let (content, pattern) = (content.to_owned(), content.to_owned());
        let kind = Kind::Control;
        Added { id, content, pattern, kind, single_word: false, lstrip: false, rstrip: false }
    }

    #[test]
    fn the_leftmost_longest_token_is_found() {
        let m = Matcher::new(vec![token(1, "<a>"), token(2, "<a><b>"), token(3, "b>")]).unwrap();
        assert_eq!(m.find("x<a><b>b>", Special::Parse, |_| false), [(2, 1, 7), (3, 7, 9)]);
        assert_eq!(m.find("x<a><b>b>", Special::Plain, |_| false), []);
    }

    #[test]
    fn no_token_is_found_across_a_guard() {
        let tokens = [token(1, "<a>"), token(2, "<a><b>"), token(3, "<b>")];
        let m = Matcher::new(tokens.to_vec()).unwrap();
        let found = |text: &str, guards: &[usize]| {
            let whole = NormalizedString::from(text);
            m.find(text, Special::Parse, |range| crosses(&whole, range, guards))
        };
        // The longer name does not take the guarded shorter one, nor what follows it along.
        assert_eq!(found("x<a><b><a>", &[2]), [(3, 4, 7), (1, 7, 10)]);
        assert_eq!(found("x<a><b><a>", &[2, 5]), [(1, 7, 10)]);
        // A guard between tokens keeps only the one that spans it.
        assert_eq!(found("<a><b>", &[3]), [(1, 0, 3), (3, 3, 6)]);
        assert_eq!(found("<a><b>", &[0, 6]), [(2, 0, 6)]);
    }

    #[test]
    fn a_token_may_swallow_the_spaces_beside_it() {
        let mut mask = token(7, "<m>");
        (mask.lstrip, mask.rstrip) = (true, true);
        let m = Matcher::new(vec![mask, token(8, " x")]).unwrap();
        assert_eq!(
            m.find("a  <m> \u{a0} x <m>", Special::Parse, |_| false),
            [(7, 1, 10), (7, 11, 15)]
        );
    }

    #[test]
    fn a_single_word_stands_alone() {
        let mut word = token(7, "day");
        word.single_word = true;
        let m = Matcher::new(vec![word]).unwrap();
        assert_eq!(
            m.find("day days ä_day day", Special::Parse, |_| false),
            [(7, 0, 3), (7, 16, 19)]
        );
    }
}

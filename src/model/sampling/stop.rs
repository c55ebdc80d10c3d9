//! Stop strings in streamed text.

/// Watches text go by and ends it just before the first stop string, wherever tokens cut it.
/// Text that may yet turn out to begin a stop string is held back, and no more than that.
#[derive(Debug, Clone, Default)]
pub struct StopMatcher {
    stops: Vec<String>,
    held: String,
    stopped: bool,
}

impl StopMatcher {
    /// Empty strings would stop everything at once; they are left out.
    pub fn new(stops: impl IntoIterator<Item = String>) -> StopMatcher {
        let stops = stops.into_iter().filter(|s| !s.is_empty()).collect();
        StopMatcher { stops, held: String::new(), stopped: false }
    }

    /// Takes the next piece of text and appends to `out` what may be shown. Returns true once a
    /// stop string has come; all later text is dropped.
    ///
    /// The text ends where the earliest completed stop string begins. Strings that complete with
    /// the same character are told apart by their beginning: the earlier one counts.
    pub fn push(&mut self, text: &str, out: &mut String) -> bool {
        if self.stopped {
            return true;
        }
        let fresh = self.held.len();
        self.held.push_str(text);
        if let Some(start) = self.find(fresh) {
            out.push_str(&self.held[..start]);
            self.held.clear();
            self.stopped = true;
            return true;
        }
        let keep = self.pending();
        out.push_str(&self.held[..keep]);
        self.held.drain(..keep);
        false
    }

    /// The text is over: what was held back is shown after all.
    pub fn finish(&mut self, out: &mut String) {
        out.push_str(&self.held);
        self.held.clear();
    }

    pub fn stopped(&self) -> bool {
        self.stopped
    }

    /// Where the first stop string to be complete begins. None was complete in the first `fresh`
    /// bytes, so only matches that end after them are looked for.
    fn find(&self, fresh: usize) -> Option<usize> {
        let first = self.stops.iter().filter_map(|stop| {
            let mut from = (fresh + 1).saturating_sub(stop.len());
            while !self.held.is_char_boundary(from) {
                from -= 1;
            }
            let start = from + self.held[from..].find(stop.as_str())?;
            Some((start + stop.len(), start))
        });
        first.min().map(|(_, start)| start)
    }

    /// The place from which the text is a beginning of some stop string; its end if it is none.
    fn pending(&self) -> usize {
        let longest = self.stops.iter().map(String::len).max().unwrap_or(1);
        let from = self.held.len().saturating_sub(longest - 1);
        (from..self.held.len())
            .find(|&at| {
                self.held.is_char_boundary(at)
                    && self.stops.iter().any(|stop| stop.starts_with(&self.held[at..]))
            })
            .unwrap_or(self.held.len())
    }
}

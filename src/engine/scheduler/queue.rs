//! The waiting line, in order of rank, and what is known of a request.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Batching, Priority};
use crate::base::limits::PAGE;

/// Nanoseconds, less than the start's if need be.
pub(super) type Moment = i64;

pub(super) fn moment(time: Duration) -> Moment {
    Moment::try_from(time.as_nanos()).unwrap_or(Moment::MAX / 4).min(Moment::MAX / 4)
}

/// What is known of a request, waiting or running.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub id: u64,
    pub priority: Priority,
    pub batching: Batching,
    pub arrived: Duration,
    pub max_wait: Option<Duration>,
    pub prompt: usize,
    /// Of these, what the prefix cache was expected to have.
    pub shared: usize,
    pub most: Option<usize>,
    pub rank: Rank,
    /// Positions in its pages; tokens written.
    pub computed: usize,
    pub written: usize,
    /// When it began for the first time.
    pub begun: Option<Duration>,
    /// First in every step and for every page, and displaced by no priority.
    pub kept: bool,
    /// How often it was displaced by priority, and gave way when pages ran out.
    pub displaced: u32,
    pub gave_way: u32,
    /// The step it last had a turn in.
    pub served: u64,
    /// The estimate of its first token, before correction, and which kind it was.
    pub estimate: f64,
    pub kind: usize,
}

/// The order of requests. It never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    /// High ones come first.
    pub below: bool,
    /// The moment of arrival, less what priority and shortness are worth.
    pub at: Moment,
    pub order: u64,
}

impl Entry {
    /// Positions to compute before the next token can be chosen.
    pub fn target(&self) -> usize {
        self.prompt + self.written
    }

    pub fn left(&self) -> usize {
        self.target().saturating_sub(self.computed)
    }

    /// A row in every step; else a prompt that is computed in chunks.
    pub fn writes(&self) -> bool {
        self.left() <= 1
    }

    pub fn held(&self) -> usize {
        self.computed.div_ceil(PAGE)
    }

    /// Order among those that run.
    pub fn seat(&self) -> (bool, Rank) {
        (!self.kept, self.rank)
    }
}

/// Numbers of those that wait, by priority.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub count: usize,
    /// Tokens of prompts that are to be computed.
    pub tokens: usize,
}

#[derive(Default)]
pub(super) struct Line {
    entries: BTreeMap<Rank, Entry>,
    /// Those that are on hold. They wait, and nobody looks at them.
    held: BTreeMap<u64, Entry>,
    ranks: BTreeMap<u64, Rank>,
    deadlines: BTreeSet<(Duration, u64)>,
    pub tallies: [Tally; 3],
    /// Those that do not wait for company.
    pub eager: usize,
    /// Those that never began.
    pub unbegun: usize,
}

impl Line {
    /// With those on hold.
    pub fn len(&self) -> usize {
        self.entries.len() + self.held.len()
    }

    /// Whether there is nobody who could begin.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn on_hold(&self) -> usize {
        self.held.len()
    }

    /// Takes it out of the order, with its place in it.
    pub fn hold(&mut self, id: u64) {
        let entry = self.ranks.get(&id).and_then(|rank| self.entries.remove(rank));
        if let Some(entry) = entry {
            self.eager -= usize::from(Line::eager(&entry));
            self.held.insert(id, entry);
        }
    }

    /// Puts it back to its place.
    pub fn release(&mut self, id: u64) {
        if let Some(entry) = self.held.remove(&id) {
            self.eager += usize::from(Line::eager(&entry));
            self.entries.insert(entry.rank, entry);
        }
    }

    pub fn holds(&self, id: u64) -> bool {
        self.ranks.contains_key(&id)
    }

    fn eager(entry: &Entry) -> bool {
        entry.batching != Batching::Enable || entry.begun.is_some()
    }

    pub fn insert(&mut self, entry: Entry) {
        let tally = &mut self.tallies[entry.priority as usize];
        tally.count += 1;
        tally.tokens += entry.target().saturating_sub(entry.shared);
        self.eager += usize::from(Line::eager(&entry));
        self.unbegun += usize::from(entry.begun.is_none());
        if let Some(deadline) = deadline(&entry) {
            self.deadlines.insert((deadline, entry.id));
        }
        self.ranks.insert(entry.id, entry.rank);
        self.entries.insert(entry.rank, entry);
    }

    pub fn remove(&mut self, id: u64) -> Option<Entry> {
        self.release(id);
        let rank = self.ranks.remove(&id)?;
        let entry = self.entries.remove(&rank)?;
        let tally = &mut self.tallies[entry.priority as usize];
        tally.count -= 1;
        tally.tokens -= entry.target().saturating_sub(entry.shared);
        self.eager -= usize::from(Line::eager(&entry));
        self.unbegun -= usize::from(entry.begun.is_none());
        if let Some(deadline) = deadline(&entry) {
            self.deadlines.remove(&(deadline, id));
        }
        Some(entry)
    }

    /// The first in rank.
    pub fn first(&self) -> Option<&Entry> {
        self.entries.first_key_value().map(|(_, entry)| entry)
    }

    /// The first in rank that is not high.
    pub fn first_below(&self) -> Option<&Entry> {
        let least = Rank { below: true, at: Moment::MIN, order: 0 };
        self.entries.range(least..).next().map(|(_, entry)| entry)
    }

    /// In order of rank, without those on hold.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// One whose time in the queue is over.
    pub fn overdue(&self, now: Duration) -> Option<u64> {
        let (deadline, id) = *self.deadlines.first()?;
        (deadline <= now).then_some(id)
    }

    pub fn next_deadline(&self) -> Option<Duration> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }
}

/// It counts only until it has begun.
fn deadline(entry: &Entry) -> Option<Duration> {
    if entry.begun.is_some() {
        return None;
    }
    entry.max_wait.map(|limit| entry.arrived.saturating_add(limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: u64, below: bool, at: Moment) -> Entry {
        Entry {
            id,
            priority: if below { Priority::Low } else { Priority::High },
            batching: Batching::Auto,
            arrived: Duration::from_secs(1),
            max_wait: Some(Duration::from_secs(id)),
            prompt: 20,
            shared: 0,
            most: None,
            rank: Rank { below, at, order: id },
            computed: 0,
            written: 0,
            begun: None,
            kept: false,
            displaced: 0,
            gave_way: 0,
            served: 0,
            estimate: 0.0,
            kind: 0,
        }
    }

    #[test]
    fn the_line_is_in_order_of_rank_and_counts_to_zero() {
        let mut line = Line::default();
        for (id, below, at) in [(1, true, -5), (2, true, 7), (3, false, 90), (4, true, -5)] {
            line.insert(entry(id, below, at));
        }
        assert_eq!(line.iter().map(|e| e.id).collect::<Vec<_>>(), [3, 1, 4, 2]);
        assert_eq!(line.first_below().unwrap().id, 1);
        assert_eq!(line.tallies[Priority::Low as usize].tokens, 60);
        assert_eq!(line.next_deadline(), Some(Duration::from_secs(2)));
        assert_eq!(line.overdue(Duration::from_secs(2)), Some(1));
        assert_eq!(line.overdue(Duration::from_millis(1_999)), None);
        assert!(line.remove(9).is_none());
        line.hold(3);
        line.hold(1);
        line.hold(9);
        assert_eq!((line.first().unwrap().id, line.len(), line.on_hold()), (4, 4, 2));
        assert_eq!(
            (line.eager, line.unbegun, line.next_deadline()),
            (2, 4, Some(Duration::from_secs(2)))
        );
        line.release(1);
        line.release(1);
        assert_eq!(line.iter().map(|e| e.id).collect::<Vec<_>>(), [1, 4, 2]);
        for id in [4, 3, 1, 2] {
            assert!(line.holds(id) && line.remove(id).is_some() && !line.holds(id));
        }
        assert!(line.is_empty() && line.next_deadline().is_none() && line.first_below().is_none());
        assert_eq!((line.eager, line.unbegun), (0, 0));
        assert!(line.tallies.iter().all(|t| t.count == 0 && t.tokens == 0));
    }
}

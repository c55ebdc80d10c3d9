//! Who has pages: requests begin, and running ones give way.

use std::time::Duration;

use super::queue::{Entry, moment};
use super::{Batching, DISPLACED, PASSES, Pages, Scheduler, StepPlan};
use crate::base::limits::PAGE;

/// Tokens that everyone should be able to write before pages run out, when one more begins.
/// Doubled for each time that the one has given way.
const AIR: usize = 64;
const MOST_DOUBLINGS: u32 = 6;

impl Scheduler {
    /// Ends what has waited too long.
    pub(super) fn expire(&mut self, now: Duration, out: &mut StepPlan) {
        while let Some(id) = self.line.overdue(now) {
            self.line.remove(id);
            self.experience.drained(now);
            out.expired.push(id);
        }
    }

    /// Lets requests begin, and displaces others for them.
    pub(super) fn seat(&mut self, now: Duration, pages: Pages, out: &mut StepPlan) {
        if self.relieved && !self.running.is_empty() {
            return;
        }
        // It can only be the first.
        if self.limits.sequential && self.line.on_hold() > 0 {
            return;
        }
        if let Some(until) = self.formation(now) {
            out.idle_until = Some(until);
            return;
        }
        let mut promised: usize =
            self.running.iter().map(|entry| self.reach(entry, pages) - entry.held()).sum();
        loop {
            let insists = self.insists(now);
            let next = if insists { self.line.first_below() } else { self.line.first() };
            let Some(next) = next else { return };
            let needed = self.reach(next, pages);
            // With nobody there who could make room, waiting for it would last for ever.
            let room = self.running.is_empty() || needed + promised <= pages.free;
            if room && self.has_seat(next, insists) {
                promised += needed;
                let id = next.id;
                self.begin(now, id, insists);
                out.begin.push(id);
                continue;
            }
            // Those that begin do so before anybody is displaced, so that order is what it seems.
            let waits = insists || self.limits.sequential || !out.begin.is_empty();
            if waits || !self.gets_turns(next) {
                return;
            }
            let givers = self.givers(next, needed, promised, pages);
            for _ in 0..givers {
                let next = self.line.first();
                let giver = next.and_then(|n| self.running.iter().rposition(|y| yields(y, n)));
                let Some(at) = giver else { break };
                let mut entry = self.running.remove(at);
                entry.displaced += 1;
                out.preempt.push(entry.id);
                self.line.insert(returning(entry));
            }
            return;
        }
    }

    /// How many have to give way so that `next` can begin; 0 if it cannot all the same.
    fn givers(&self, next: &Entry, needed: usize, promised: usize, pages: Pages) -> usize {
        let (mut free, mut promised) = (pages.free, promised);
        let mut running = self.running.len();
        let mut givers = 0;
        for giver in self.running.iter().rev().filter(|giver| yields(giver, next)) {
            givers += 1;
            running -= 1;
            free += giver.held();
            promised -= self.reach(giver, pages) - giver.held();
            let fits = running == 0 || needed + promised <= free;
            if fits && running < self.limits.running {
                return givers;
            }
        }
        0
    }

    fn has_seat(&self, next: &Entry, insists: bool) -> bool {
        self.running.len() < self.limits.running && (insists || self.gets_turns(next))
    }

    /// When steps are slow, a step has room for fewer sessions than there are slots, and another
    /// slot is of use only to those that come before others.
    fn gets_turns(&self, next: &Entry) -> bool {
        let last = self.running.get(self.governor.batch() - 1);
        last.is_none_or(|last| (true, next.rank) < last.seat())
    }

    /// Until when an idle engine waits for company of those that asked for it. Two prompts in one
    /// step read each expert once, and nobody but they wait meanwhile.
    fn formation(&self, now: Duration) -> Option<Duration> {
        let alone = self.limits.sequential || self.line.eager > 0 || !self.running.is_empty();
        if alone || self.line.is_empty() || self.line.len() >= self.governor.batch() {
            return None;
        }
        // Not longer than half of what it has.
        let patience = |e: &Entry| e.max_wait.map_or(self.limits.form, |w| w / 2);
        let until = |e: &Entry| e.arrived.saturating_add(patience(e).min(self.limits.form));
        let until = self.line.iter().map(until).min()?;
        (now < until).then_some(until)
    }

    /// One that has risen was passed often enough.
    fn insists(&self, now: Duration) -> bool {
        !self.limits.sequential
            && self.passed >= PASSES
            && self.line.first_below().is_some_and(|entry| self.has_risen(now, entry))
            && self.kept() < self.may_be_kept()
    }

    /// It has waited until it ranks with high ones that come now.
    fn has_risen(&self, now: Duration, entry: &Entry) -> bool {
        entry.rank.below
            && entry.rank.at <= moment(now) - 2 * moment(self.limits.age.min(Duration::MAX / 4))
    }

    pub(super) fn kept(&self) -> usize {
        self.running.iter().filter(|entry| entry.kept).count()
    }

    pub(super) fn may_be_kept(&self) -> usize {
        (self.limits.running / 4).max(1)
    }

    fn begin(&mut self, now: Duration, id: u64, insists: bool) {
        let risen = self.line.first_below().is_some_and(|first| self.has_risen(now, first));
        let Some(mut entry) = self.line.remove(id) else {
            return;
        };
        if entry.rank.below {
            self.passed = 0;
        } else if risen {
            self.passed += 1;
        }
        if entry.begun.is_none() {
            self.experience.drained(now);
            entry.begun = Some(now);
        }
        let must_keep = insists || entry.displaced >= DISPLACED;
        entry.kept = must_keep && !self.limits.sequential && self.kept() < self.may_be_kept();
        entry.served = self.steps;
        let at = self.running.partition_point(|other| other.seat() < entry.seat());
        self.running.insert(at, entry);
    }

    /// Pages it needs for its prompt and the next tokens, all told.
    fn reach(&self, entry: &Entry, pages: Pages) -> usize {
        let air = AIR << entry.gave_way.min(MOST_DOUBLINGS);
        let ahead = self.experience.answer_left(entry).clamp(1, air);
        let positions = (entry.target() + ahead).min(self.limits.context);
        // Someone alone must always be able to begin.
        positions.div_ceil(PAGE).min(pages.total).max(entry.held())
    }

    /// Takes pages from the last in rank, so that those before it get on. `false` if there is
    /// nobody to take them from.
    pub(super) fn relieve(&mut self, out: &mut StepPlan) -> bool {
        if self.running.len() < 2 {
            return false;
        }
        let Some(mut entry) = self.running.pop() else {
            return false;
        };
        entry.gave_way += 1;
        out.preempt.push(entry.id);
        self.line.insert(returning(entry));
        self.relieved = true;
        true
    }
}

/// Whether a running one gives way to a waiting one: to a higher priority that comes before it in
/// rank (a medium one comes before a low one only for an age), unless it is kept.
fn yields(running: &Entry, waiting: &Entry) -> bool {
    let higher = waiting.priority > running.priority && waiting.rank < running.rank;
    higher && !running.kept
}

fn returning(mut entry: Entry) -> Entry {
    // What it has computed goes to the prefix cache; what is left of that is known when it returns.
    entry.shared = entry.computed;
    entry.computed = 0;
    entry.kept = false;
    entry
}

pub(super) fn alone(entry: &Entry) -> bool {
    entry.batching == Batching::Disable
}

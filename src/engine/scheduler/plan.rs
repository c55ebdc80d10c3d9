//! What those that run compute in the next step.

use std::time::Duration;

use super::queue::Entry;
use super::seats::alone;
use super::{DRAFT_ROWS, LEAST_CHUNK, Pages, ROUND, Scheduler, StepPlan, Turn};
use crate::base::limits::PAGE;

/// The part of the allowed time that a step is planned to take: predictions are not exact.
const AIM: f64 = 0.9;

impl Scheduler {
    /// What to do now. See [`StepPlan`].
    pub fn plan(&mut self, now: Duration, pages: Pages, out: &mut StepPlan) {
        out.clear();
        self.expire(now, out);
        self.seat(now, pages, out);
        out.again = !out.begin.is_empty() || !out.preempt.is_empty();
        if out.again {
            return;
        }
        if !self.running.is_empty() {
            self.turn(pages, out);
        }
        if out.turns.is_empty() && !out.again {
            let deadline = self.line.next_deadline();
            out.idle_until = match (out.idle_until, deadline) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        }
        self.turns.clear();
        self.turns.extend_from_slice(&out.turns);
        self.over_at = now + out.expected;
    }

    fn turn(&mut self, pages: Pages, out: &mut StepPlan) {
        let members = self.members();
        let mut free = pages.free;

        // Everyone who writes has a row, and where it begins a page, that page.
        let mut rows = 0;
        for &at in &members {
            let entry = &self.running[at];
            if !entry.writes() {
                continue;
            }
            let page = (entry.computed + 1).div_ceil(PAGE) - entry.held();
            if page > free {
                return self.out_of_pages(at, out);
            }
            free -= page;
            rows += 1;
            out.turns.push(Turn { id: entry.id, tokens: 1, drafts: 0 });
        }

        let tokens = self.chunks(&members, rows, &mut free, out);
        // The first in rank always moves.
        let first = members[0];
        let moves = |id| out.turns.iter().any(|turn| turn.id == id);
        let waits_for_pages = pages_for(&self.running[first], free) == 0;
        if !moves(self.running[first].id) && (waits_for_pages || out.turns.is_empty()) {
            return self.out_of_pages(first, out);
        }
        let drafts = if tokens == 0 { self.drafts(rows, free, out) } else { 0 };
        out.expected = self.speed.predict(rows + drafts, tokens);
    }

    /// Who takes part in the step, by place in `running`: as many as the governor allows, in
    /// rank. Those that compute alone have every second step if others run too.
    fn members(&self) -> Vec<usize> {
        let batch = self.governor.batch();
        if batch == 1 {
            return vec![0];
        }
        let places =
            |of: bool| (0..self.running.len()).filter(move |at| alone(&self.running[*at]) == of);
        let together: Vec<usize> = places(false).take(batch).collect();
        let single = places(true).min_by_key(|at| self.running[*at].served);
        match single {
            Some(at) if together.is_empty() || !self.alone => vec![at],
            _ => together,
        }
    }

    /// Shares the step's tokens among prompts; returns how many it has.
    fn chunks(
        &self,
        members: &[usize],
        rows: usize,
        free: &mut usize,
        out: &mut StepPlan,
    ) -> usize {
        let mut prompts: Vec<usize> =
            members.iter().copied().filter(|at| !self.running[*at].writes()).collect();
        if prompts.is_empty() {
            return 0;
        }
        let budget = self.budget(rows);
        if self.chunks % ROUND == ROUND - 1 {
            prompts.sort_by_key(|at| (self.running[*at].served, *at));
        } else {
            prompts.sort_by_key(|at| {
                let entry = &self.running[*at];
                (!entry.kept, entry.rank.below, Bin::of(entry.left(), budget), entry.served, *at)
            });
        }
        let mut unused = budget;
        // A page that the first in rank needs is not for others.
        let first = members[0];
        let mut kept = usize::from(pages_for(&self.running[first], 0) == 0);
        for at in prompts {
            let entry = &self.running[at];
            if at == first {
                kept = 0;
            }
            let whole = entry.left();
            let room = pages_for(entry, free.saturating_sub(kept));
            let mut tokens = whole.min(unused).min(room);
            if tokens < whole {
                // Chunks end where pages end, so that none is computed in parts for no reason.
                let end = (entry.computed + tokens) / PAGE * PAGE;
                let crumb = end <= entry.computed && unused < budget;
                tokens = match end.checked_sub(entry.computed) {
                    Some(aligned) if aligned > 0 => aligned,
                    _ if crumb => 0,
                    _ => tokens,
                };
            }
            if tokens == 0 {
                continue;
            }
            *free -= (entry.computed + tokens).div_ceil(PAGE) - entry.held();
            unused -= tokens;
            out.turns.push(Turn { id: entry.id, tokens, drafts: 0 });
            if unused == 0 {
                break;
            }
        }
        budget - unused
    }

    /// Tokens of prompts that the step may have beside `rows`.
    fn budget(&self, rows: usize) -> usize {
        // Those that write wait for this step whether or not they have a row in it.
        let waited_for = self.running.iter().any(Entry::writes);
        if waited_for { self.beside(rows) } else { self.limits.chunk }
    }

    /// Tokens of prompts that a step may have for which somebody waits.
    pub(super) fn beside(&self, rows: usize) -> usize {
        let most = self.limits.chunk;
        let time = AIM * self.limits.stall.as_secs_f64() / self.governor.slowness();
        self.speed.tokens_within(rows, time, most).max(LEAST_CHUNK.min(most))
    }

    /// Allows drafts where there are few rows; returns how many there may be.
    fn drafts(&self, rows: usize, mut free: usize, out: &mut StepPlan) -> usize {
        let each = (DRAFT_ROWS / rows.max(1)).saturating_sub(1);
        let mut sum = 0;
        for turn in &mut out.turns {
            let Some(entry) = self.running.iter().find(|entry| entry.id == turn.id) else {
                continue;
            };
            // The last token that it may write needs no successor.
            let useful = entry.most.map_or(each, |most| most.saturating_sub(entry.written + 1));
            let place = self.limits.context.saturating_sub(entry.computed + 1);
            let held = (entry.computed + 1).div_ceil(PAGE);
            let fits = (held + free) * PAGE - entry.computed - 1;
            turn.drafts = each.min(useful).min(place).min(fits);
            free -= (entry.computed + 1 + turn.drafts).div_ceil(PAGE) - held;
            sum += turn.drafts;
        }
        sum
    }

    fn out_of_pages(&mut self, at: usize, out: &mut StepPlan) {
        out.turns.clear();
        out.again = true;
        if !self.relieve(out) {
            // Alone, and all there is does not suffice.
            out.stuck.push(self.running.remove(at).id);
        }
    }
}

/// Positions it may add.
fn pages_for(entry: &Entry, free: usize) -> usize {
    (entry.held() + free) * PAGE - entry.computed
}

/// How much of a prompt is left, measured in steps. Those with little left go first: their
/// first token is near, and they cost the others little.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Bin {
    Fast,
    Medium,
    Slow,
}

impl Bin {
    fn of(left: usize, budget: usize) -> Bin {
        match left / budget.max(1) {
            0..=3 => Bin::Fast,
            4..=31 => Bin::Medium,
            _ => Bin::Slow,
        }
    }

    /// Bins of whole requests: their time as a part of the usual.
    pub(super) fn of_time(time: f64, usual: f64) -> Bin {
        if time < usual / 2.0 {
            Bin::Fast
        } else if time < usual * 2.0 {
            Bin::Medium
        } else {
            Bin::Slow
        }
    }

    /// The head start of a request in the queue, as a part of an age.
    pub(super) fn head_start(self, age: Duration) -> Duration {
        match self {
            Bin::Fast => age / 2,
            Bin::Medium => age / 4,
            Bin::Slow => Duration::ZERO,
        }
    }
}

//! Who computes what in the next step. Pure: no clock, no I/O, no chance; the same calls give the
//! same answers. Times are handed in, as time since the start.
//!
//! **Order.** Every request has a *rank* that never changes: whether it is high, then the moment
//! it arrived, less one [`Limits::age`] for each priority above low, less a head start of at most
//! half an age if it is expected to be short. So waiting for one age weighs as much as one
//! priority, any two requests keep their order for ever, and a request that was preempted returns
//! to the place it had. Among equals that is first come, first served: slots go round as they
//! become free.
//!
//! **Nobody starves.** A request that has waited until its rank is as old as a high one's would be
//! (two ages for a low one, one for a medium one, less its head start) *has risen*. While one that
//! has risen waits, at most [`PASSES`] high ones begin before it; then it *insists*: nobody else
//! begins, and when it begins it is *kept*, which means that it is first in every step and for
//! every page and that no priority displaces it. A quarter of the slots (at least one) may be kept
//! at a time. It can be passed, then, by those that are kept, by [`PASSES`] high ones for each
//! time that less than that quarter is kept, and by requests of its own kind that arrived no later
//! than `(their priority - its priority + 1/2) x age` after it, and by no others, however many come.
//! Whoever was displaced [`DISPLACED`] times by priority is kept too as soon as there is room, so
//! nobody is thrown out for ever.
//!
//! **A step** has a row for every session that writes and a chunk of prompts beside them, as long
//! as the time of the step is expected to stay within [`Limits::stall`]; at least [`LEAST_CHUNK`]
//! tokens, so that prompts move on too. High ones' prompts come first, then those with little left,
//! and equals take turns; every [`ROUND`]th chunk goes to whoever has waited longest for one, so
//! that a prompt of 4,000 tokens moves on beneath any stream of short ones.
//!
//! **Pages.** No step is planned that needs more than are free. A request begins if its prompt and
//! the next tokens of everyone fit; when writing runs into the end of the pages all the same, the
//! last in rank gives way, and needs twice as much air to return. The first in rank always moves, so by
//! induction all do.
//!
//! **On hold** is a request for which something is fetched that it can begin without, but better
//! with. It waits and keeps its rank; meanwhile others begin as if it were not there, but in a
//! sequential line nobody does.
//!
//! Work that shares experts already resident is *not* preferred: in a step every expert is read
//! once for all, and which experts a prompt will want is not known before it is computed.

mod admission;
mod governor;
mod plan;
mod queue;
mod seats;
mod speed;

use std::time::Duration;

use admission::Experience;
use governor::Governor;
use queue::{Entry, Line};
pub(super) use speed::Lesson;

pub use speed::Speed;

/// Tokens of prompt that a step has at least, if there are any left.
pub const LEAST_CHUNK: usize = 16;

/// High requests that may begin before one that has risen.
pub const PASSES: u32 = 3;

/// How often a session is displaced by priority before it is kept.
pub const DISPLACED: u32 = 3;

/// One in so many chunks goes to the session that has waited longest for one.
pub const ROUND: u64 = 4;

/// Rows up to which a step may have drafts, and drafts of one session.
pub const DRAFT_ROWS: usize = 8;

/// How urgent a request is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    Low,
    #[default]
    Medium,
    High,
}

/// Whether a request may share its steps with others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Batching {
    /// As the scheduler likes.
    #[default]
    Auto,
    /// It may wait a moment for others of its kind.
    Enable,
    /// It computes alone.
    Disable,
}

/// What the scheduler keeps to.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Sessions that hold pages and take part in steps.
    pub running: usize,
    /// Requests that wait. Low ones may fill three quarters of the places, medium ones seven
    /// eighths: a flood of them does not shut out those above.
    pub waiting: usize,
    /// Tokens of prompts in a step; where nobody writes, whoever comes waits for so many.
    pub chunk: usize,
    /// Positions of a session.
    pub context: usize,
    /// A step that somebody waits for who is writing is planned to take no longer.
    pub stall: Duration,
    /// A request that asks to be batched waits so long for company on an idle engine. On a busy
    /// one it joins the next step: waiting would gain nothing.
    pub form: Duration,
    /// Waiting so long weighs as much as one priority.
    pub age: Duration,
    /// One request at a time, in the order of arrival; priorities and batching mean nothing.
    pub sequential: bool,
}

#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    pub id: u64,
    pub priority: Priority,
    pub batching: Batching,
    pub prompt: usize,
    /// Prompt tokens that the prefix cache is expected to have.
    pub shared: usize,
    /// Tokens it may write.
    pub most: Option<usize>,
    /// It is turned away if its first token is expected later, and expires when it has waited so
    /// long without having begun. Once it has begun it goes on.
    pub max_wait: Option<Duration>,
}

/// Why a request does not get into the queue. `retry_after` is never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turned {
    /// The queue is full; it is expected to have drained by a quarter after `retry_after`.
    Full {
        waiting: usize,
        retry_after: Duration,
    },
    Late {
        expected: Duration,
        limit: Duration,
        retry_after: Duration,
    },
    /// It fits neither the context nor the pages, even alone.
    TooLong,
}

/// The pages there are. `free` has those too that only the prefix cache holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pages {
    pub total: usize,
    pub free: usize,
}

/// What one session computes in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    pub id: u64,
    /// Positions to compute: a chunk of the prompt, or 1.
    pub tokens: usize,
    /// Guessed tokens that it may add. Pages for them are counted.
    pub drafts: usize,
}

/// What to do now. Carry out `expired`, `stuck`, `preempt` and `begin` in this order; then, if
/// `again`, ask for another plan at once (there are no turns yet: what the prefix cache has and
/// which pages came free is known only now). Else compute `turns`, if any.
#[derive(Clone, Debug, Default)]
pub struct StepPlan {
    /// They waited too long. They have left.
    pub expired: Vec<u64>,
    /// The pages they need are not to be had although nobody else runs. They have left.
    pub stuck: Vec<u64>,
    /// They give up their pages and wait again.
    pub preempt: Vec<u64>,
    /// They leave the queue or come back. Say what they have with [`Scheduler::resumed`].
    pub begin: Vec<u64>,
    pub again: bool,
    pub turns: Vec<Turn>,
    /// What the step should take.
    pub expected: Duration,
    /// With no turns: nothing to do before this time, unless something is told to the scheduler.
    pub idle_until: Option<Duration>,
}

impl StepPlan {
    fn clear(&mut self) {
        for list in [&mut self.expired, &mut self.stuck, &mut self.preempt, &mut self.begin] {
            list.clear();
        }
        self.turns.clear();
        self.again = false;
        self.expected = Duration::ZERO;
        self.idle_until = None;
    }
}

/// What became of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    pub id: u64,
    /// Positions now in its pages.
    pub computed: usize,
    /// Tokens it chose in this step.
    pub written: usize,
    /// Drafts that were computed, right or wrong.
    pub drafted: usize,
    /// It has left.
    pub ended: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    pub running: usize,
    /// Those that were preempted wait too.
    pub waiting: usize,
    /// Of those that run, the ones that no priority displaces.
    pub kept: usize,
    /// Sessions that a step may have at present: fewer than the limit when steps are slow.
    pub batch: usize,
    /// When an ordinary request that came now would see its first token.
    pub first_token: Duration,
}

pub struct Scheduler {
    limits: Limits,
    line: Line,
    /// Those with pages, first in rank first.
    running: Vec<Entry>,
    speed: Speed,
    governor: Governor,
    experience: Experience,
    /// High ones that began while one that has risen waited.
    passed: u32,
    /// Steps there were, and those with a chunk in them.
    steps: u64,
    chunks: u64,
    /// The last step was of one that computes alone.
    alone: bool,
    /// Someone gave way in this step: nobody begins before the next.
    relieved: bool,
    /// The step under way, and when it should be over.
    turns: Vec<Turn>,
    over_at: Duration,
    arrivals: u64,
}

impl Scheduler {
    /// `speed` is a first guess.
    pub fn new(limits: Limits, speed: Speed) -> Scheduler {
        let running = if limits.sequential { 1 } else { limits.running.max(1) };
        let limits = Limits { running, chunk: limits.chunk.max(1), ..limits };
        Scheduler {
            limits,
            line: Line::default(),
            running: Vec::with_capacity(running),
            speed,
            governor: Governor::new(running),
            experience: Experience::default(),
            passed: 0,
            steps: 0,
            chunks: 0,
            alone: false,
            relieved: false,
            turns: Vec::new(),
            over_at: Duration::ZERO,
            arrivals: 0,
        }
    }

    /// It was cancelled, or its client has vanished: it is forgotten. Unknown ones are ignored.
    pub fn leave(&mut self, now: Duration, id: u64) {
        if self.line.remove(id).is_some() {
            self.experience.drained(now);
        } else if let Some(at) = self.running.iter().position(|entry| entry.id == id) {
            self.running.remove(at);
        }
    }

    /// Those that may begin before this is asked again, first in rank first.
    pub fn soon(&self) -> impl Iterator<Item = u64> {
        let seats = match self.limits.sequential {
            true => 1 - self.line.on_hold().min(1),
            false => self.limits.running - self.running.len() + 1,
        };
        self.line.iter().take(seats).map(|entry| entry.id)
    }

    /// Lets one that waits not begin before it is [released](Scheduler::release). Others are
    /// ignored.
    pub fn hold(&mut self, id: u64) {
        self.line.hold(id);
    }

    /// It may begin.
    pub fn release(&mut self, id: u64) {
        self.line.release(id);
    }

    /// What the prefix cache had for one that begins: positions in its pages now.
    pub fn resumed(&mut self, id: u64, computed: usize) {
        if let Some(entry) = self.running.iter_mut().find(|entry| entry.id == id) {
            entry.computed = computed.min(entry.target() - 1);
        }
    }

    /// The step that was planned last, or a part of it, has been computed.
    pub fn stepped(&mut self, now: Duration, took: Duration, done: &[Done]) {
        let (mut rows, mut tokens, mut sessions, mut near) = (0, 0, 0, 0);
        let mut alone = false;
        self.steps += 1;
        self.over_at = now;
        for done in done {
            let asked = position(&self.turns, near, |turn| turn.id == done.id);
            if let Some(at) = asked {
                match self.turns[at].tokens {
                    1 => rows += 1 + done.drafted,
                    chunk => tokens += chunk,
                }
                sessions += 1;
                near = at + 1;
            }
            // Both lists are nearly in the order of `running`.
            let Some(at) = position(&self.running, near, |entry| entry.id == done.id) else {
                continue;
            };
            let entry = &mut self.running[at];
            alone |= entry.batching == Batching::Disable;
            entry.served = self.steps;
            entry.computed = done.computed;
            let first = entry.written == 0 && done.written > 0;
            entry.written += done.written;
            if first {
                self.experience.first_token(now, entry);
            }
            if done.ended {
                let entry = self.running.remove(at);
                self.experience.ended(&entry);
            }
        }
        self.relieved = false;
        self.chunks += u64::from(tokens > 0);
        self.alone = alone;
        if sessions == 0 {
            return;
        }
        let predicted = self.speed.predict(rows, tokens);
        let known = self.speed.knows(rows, tokens) || self.governor.alarmed();
        let lesson = match Governor::is_slow(predicted, took) {
            _ if !known => Lesson::First,
            true => Lesson::Slow,
            false => Lesson::Usual,
        };
        if known {
            self.governor.stepped(predicted, took, sessions);
        }
        self.speed.learn(rows, tokens, took, lesson);
    }

    pub fn load(&self, now: Duration) -> Load {
        Load {
            running: self.running.len(),
            waiting: self.line.len(),
            kept: self.kept(),
            batch: self.governor.batch(),
            first_token: self.expected_ordinary(now),
        }
    }

    pub fn speed(&self) -> &Speed {
        &self.speed
    }
}

/// Looks from `near` on, and round.
fn position<T>(list: &[T], near: usize, is: impl Fn(&T) -> bool) -> Option<usize> {
    let near = near.min(list.len());
    let (before, after) = list.split_at(near);
    let after = after.iter().position(&is).map(|at| at + near);
    after.or_else(|| before.iter().position(is))
}

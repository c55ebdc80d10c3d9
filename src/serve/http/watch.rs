//! What a connection is doing, since when, and whether that takes too long.

use std::cell::{Cell, RefCell};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use super::Limits;

/// What a connection is waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// For a call.
    Idle,
    /// For the rest of its head.
    Head,
    /// For the rest of its body.
    Body,
    /// For the handler, or for the client to take the answer.
    Answer,
    /// For the client to have heard that this is the end.
    Linger,
}

/// Why a connection is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// It has been idle for a moment: hyper's buffers can go.
    Rest,
    /// What it waits for in this phase has not come in its time.
    Late(Phase),
    /// The client has taken nothing for too long.
    Stalled,
    /// The server stops.
    Cut,
}

/// A connection's note of what it does. It alone writes it, but for the word, which is for it.
pub struct Watch {
    phase: Cell<Phase>,
    since: Cell<Instant>,
    /// Bytes that have come in this phase.
    received: Cell<usize>,
    /// Since when the client has taken nothing of what there is for it.
    blocked: Cell<Option<Instant>>,
    /// Since when an answer of events has said nothing.
    silent: Cell<Option<Instant>>,
    /// It has said nothing for so long that it is to say that it goes on.
    mute: Cell<bool>,
    word: Cell<Option<Word>>,
    waker: RefCell<Option<Waker>>,
    /// Whether hyper holds buffers for it.
    seated: Cell<bool>,
}

impl Watch {
    pub fn new() -> Watch {
        Watch {
            phase: Cell::new(Phase::Idle),
            since: Cell::new(Instant::now()),
            received: Cell::new(0),
            blocked: Cell::new(None),
            silent: Cell::new(None),
            mute: Cell::new(false),
            word: Cell::new(None),
            waker: RefCell::new(None),
            seated: Cell::new(false),
        }
    }

    pub fn enter(&self, phase: Phase) {
        self.phase.set(phase);
        self.since.set(Instant::now());
        self.received.set(0);
        self.silent.set(None);
        self.mute.set(false);
    }

    /// An answer of events begins, or has said something.
    pub fn spoke(&self) {
        self.silent.set(Some(Instant::now()));
        self.mute.set(false);
    }

    /// Whether an answer that has nothing to say is to say so.
    pub fn is_mute(&self) -> bool {
        self.mute.get()
    }

    /// So many bytes came.
    pub fn received(&self, bytes: usize) {
        if self.phase.get() == Phase::Idle {
            self.enter(Phase::Head);
        }
        self.received.set(self.received.get() + bytes);
    }

    /// The client took something, or did not.
    pub fn written(&self, progress: bool) {
        match (progress, self.blocked.get()) {
            (true, _) => self.blocked.set(None),
            (false, None) => self.blocked.set(Some(Instant::now())),
            (false, Some(_)) => {}
        }
    }

    pub fn seat(&self, seated: bool) {
        self.seated.set(seated);
    }

    /// Whether a call is being read or answered.
    pub fn is_busy(&self) -> bool {
        matches!(self.phase.get(), Phase::Body | Phase::Answer) || self.blocked.get().is_some()
    }

    /// Whether nothing at all goes on.
    pub fn is_idle(&self) -> bool {
        self.phase.get() == Phase::Idle && self.blocked.get().is_none()
    }

    pub fn take_word(&self) -> Option<Word> {
        self.word.take()
    }

    /// To be called whenever the connection's task is about to wait.
    pub fn listen(&self, context: &Context) {
        let mut waker = self.waker.borrow_mut();
        match &mut *waker {
            Some(waker) => waker.clone_from(context.waker()),
            None => *waker = Some(context.waker().clone()),
        }
    }

    pub fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    pub fn cut(&self) {
        self.say(Word::Cut);
    }

    pub fn look(&self, now: Instant, limits: &Limits) {
        if let Some(word) = self.judge(now, limits) {
            self.say(word);
        }
        let silent = |since: Instant| now.saturating_duration_since(since) >= limits.silence;
        if self.silent.get().is_some_and(silent) {
            self.mute.set(true);
            self.wake();
        }
    }

    fn say(&self, word: Word) {
        self.word.set(Some(word));
        self.wake();
    }

    fn judge(&self, now: Instant, limits: &Limits) -> Option<Word> {
        let longer = |since: Instant, limit| now.saturating_duration_since(since) >= limit;
        if self.blocked.get().is_some_and(|since| longer(since, limits.stalled)) {
            return Some(Word::Stalled);
        }
        let (phase, since) = (self.phase.get(), self.since.get());
        let limit = match phase {
            Phase::Idle => limits.idle,
            Phase::Head => limits.head_time,
            Phase::Body => {
                let earned = self.received.get() as f64 / limits.body_rate.max(1) as f64;
                limits.body_time + Duration::from_secs_f64(earned)
            }
            Phase::Answer => return None,
            Phase::Linger => limits.linger,
        };
        if longer(since, limit) {
            return Some(Word::Late(phase));
        }
        let rests = phase == Phase::Idle && self.seated.get() && self.blocked.get().is_none();
        (rests && longer(since, limits.rest)).then_some(Word::Rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(watch: &Watch, seconds: u64) -> Option<Word> {
        watch.judge(watch.since.get() + Duration::from_secs(seconds), &Limits::default())
    }

    #[test]
    fn each_phase_has_its_time() {
        let watch = Watch::new();
        assert_eq!(after(&watch, 74), None);
        assert_eq!(after(&watch, 75), Some(Word::Late(Phase::Idle)));
        watch.received(1);
        assert_eq!(after(&watch, 9), None);
        // A byte a second does not make it longer.
        watch.received(1);
        assert_eq!(after(&watch, 10), Some(Word::Late(Phase::Head)));
        watch.enter(Phase::Body);
        assert_eq!(after(&watch, 29), None);
        watch.received(29);
        assert_eq!(after(&watch, 31), Some(Word::Late(Phase::Body)));
        // A large body at a fair rate does.
        watch.received(Limits::default().body_rate * 60);
        assert_eq!(after(&watch, 89), None);
        assert_eq!(after(&watch, 91), Some(Word::Late(Phase::Body)));
        watch.enter(Phase::Answer);
        assert_eq!(after(&watch, 1 << 20), None);
    }

    #[test]
    fn an_answer_that_nobody_takes_ends() {
        let watch = Watch::new();
        watch.enter(Phase::Answer);
        watch.written(false);
        assert_eq!(after(&watch, 29), None);
        assert_eq!(after(&watch, 31), Some(Word::Stalled));
        watch.written(true);
        assert_eq!(after(&watch, 31), None);
    }

    #[test]
    fn events_that_do_not_come_are_noticed() {
        let watch = Watch::new();
        let look = |seconds| {
            let since = watch.silent.get().unwrap_or(watch.since.get());
            watch.look(since + Duration::from_secs(seconds), &Limits::default());
            watch.is_mute()
        };
        watch.enter(Phase::Answer);
        assert!(!look(60), "it may be one that comes whole");
        watch.spoke();
        assert!(!look(14));
        assert!(look(15));
        watch.spoke();
        assert!(!look(14));
        assert!(look(16));
        watch.enter(Phase::Idle);
        assert!(!look(16));
    }

    #[test]
    fn only_the_idle_rest() {
        let watch = Watch::new();
        assert_eq!(after(&watch, 2), None, "it holds nothing");
        watch.seat(true);
        assert_eq!(after(&watch, 2), Some(Word::Rest));
        watch.written(false);
        assert_eq!(after(&watch, 2), None, "an answer is still on its way");
        watch.written(true);
        watch.received(1);
        assert_eq!(after(&watch, 2), None);
    }
}

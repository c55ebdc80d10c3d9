//! Turns: which sessions a step moves forward, and how far.

use super::session::{End, Event, Session};
use super::{Engine, Error};

/// A session's part in a step.
pub struct Turn<'a> {
    pub session: &'a mut Session,
    /// Positions it may compute of what is missing before its last token: of its prompt, or of what
    /// it lost when it was parked. The last token itself is always computed.
    pub chunk: usize,
    /// Tokens it may guess to come next.
    pub drafts: usize,
    /// What another model has guessed: where there is anything, it guesses nothing itself.
    pub(super) guesses: Vec<u32>,
    /// What came of it.
    pub done: Done,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Rows of the step that were its own, guesses included.
    pub rows: usize,
    /// Guesses among them.
    pub drafted: usize,
    /// Tokens that were chosen, the one that ends a text included.
    pub chosen: usize,
    /// Others hold the pages it needs, so it had to wait.
    pub starved: bool,
}

impl Turn<'_> {
    pub fn new(session: &mut Session, chunk: usize, drafts: usize) -> Turn<'_> {
        Turn { session, chunk, drafts, guesses: Vec::new(), done: Done::default() }
    }
}

impl Engine {
    /// Moves every running session forward: by a chunk while its prompt is not computed, then
    /// token by token. Prompts share the chunk in the order of the sessions; a session that finds
    /// nothing left of it waits. Paused and ended sessions are left alone. What goes wrong with one
    /// ends that one. One that finds no free pages waits for others to end; if all wait, the
    /// youngest ends.
    pub async fn step(&mut self, sessions: &mut [&mut Session]) -> Vec<Event> {
        let turns = sessions.iter_mut().map(|session| Turn::new(session, usize::MAX, 0));
        let mut turns: Vec<Turn> = turns.collect();
        let mut events = self.compute(&mut turns, self.options.prefill_chunk).await;
        if turns.iter().all(|turn| turn.done.rows == 0) {
            let starved = turns.iter_mut().filter(|turn| turn.done.starved);
            if let Some(youngest) = starved.max_by_key(|turn| turn.session.id()) {
                events.push(youngest.session.end(End::NoPages));
            }
        }
        events
    }

    /// Moves sessions forward as they are told, each at most once. What goes wrong with one ends
    /// that one; one that finds no free pages is told so.
    pub async fn advance(&mut self, turns: &mut [Turn<'_>]) -> Vec<Event> {
        self.compute(turns, usize::MAX).await
    }

    /// `common` is what all have together for their chunks.
    async fn compute(&mut self, turns: &mut [Turn<'_>], mut common: usize) -> Vec<Event> {
        let mut events = Vec::new();
        self.batch.clear();
        for turn in turns.iter_mut() {
            let Turn { session, chunk, drafts, guesses, done } = turn;
            *done = Done::default();
            let Some(range) = session.take_turn(common.min(*chunk)) else { continue };
            if range.end > self.context {
                session.turn = None;
                events.push(session.end(End::ContextFull));
                continue;
            }
            if !session.reserve(range.end) {
                session.turn = None;
                done.starved = true;
                continue;
            }
            if range.len() > 1 {
                common -= range.len();
            }
            if range.end == session.tokens().len() {
                session.draft(*drafts, guesses, self.context);
            }
            done.drafted = session.drafts().len();
            done.rows = range.len() + done.drafted;
            let pages = self.batch.session(session.pages(), range.len());
            for position in range.clone() {
                let token = session.tokens()[position];
                let wanted = position + 1 == session.tokens().len();
                self.batch.push(pages, token, position, wanted);
            }
            for (position, &token) in (range.end..).zip(session.drafts()) {
                self.batch.push(pages, token, position, true);
            }
        }
        if let Err(error) = self.ready().await {
            self.batch.clear();
            self.lose(turns, error, &mut events);
            return events;
        }
        if self.batch.is_empty() {
            return events;
        }
        let Engine { step, model, store, lead, arena, batch, listener, .. } = self;
        step.run(model, store, lead, arena.floats_mut(), batch, listener).await;
        let (logits, spoiled) = step.results();
        let vocab = self.model.config.vocab;
        let (mut row, mut logits) = (0, &*logits);
        for turn in turns {
            let session = &mut *turn.session;
            let Some(range) = session.turn.take() else { continue };
            let rows = row..row + turn.done.rows;
            row = rows.end;
            let behind = match range.end == session.tokens().len() {
                true => 1 + session.drafts().len(),
                false => 0,
            };
            let (own, others) = logits.split_at(behind * vocab);
            logits = others;
            let spoiled = spoiled.iter().filter(|spoiled| rows.contains(&(spoiled.row as usize)));
            let first = spoiled.min_by_key(|spoiled| spoiled.row);
            // Of a guess that came to nothing it is not known whether it was right.
            let good = match first.map(|spoiled| spoiled.row as usize - rows.start) {
                Some(good) => good,
                None => rows.len(),
            };
            if let (Some(first), true) = (first, good < range.len()) {
                events.push(session.end(End::Lost(store.sentence(first))));
                continue;
            }
            events.extend(session.computed_to(range.end));
            let good = behind.min(1 + good - range.len());
            turn.done.chosen = session.write(own.chunks_exact(vocab).take(good), &mut events);
        }
        events
    }

    /// What every token needs is lost, and with it whoever had a turn.
    fn lose(&self, turns: &mut [Turn<'_>], error: Error, events: &mut Vec<Event>) {
        for turn in turns {
            if turn.session.turn.take().is_some() {
                events.push(turn.session.end(End::Lost(error.to_string())));
            }
        }
    }
}

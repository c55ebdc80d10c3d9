//! Floor 4: sessions and steps.
//!
//! Owns the sequences being written (`session`), the pages that hold their keys and values
//! (`pages`) and the pass of a batch through all layers (`step`). Decides nothing about a
//! model's shape and reads no file. Imports `model`, `weights`, `math`, `host`, `base`.
//!
//! Nothing here holds a model for the length of an answer: a [`Session`] is a state, and
//! [`Engine::step`] moves any set of sessions forward by one token or one chunk of prompt.

mod pages;
mod session;
mod step;

use std::rc::Rc;

use crate::base::limits::PAGE;
use crate::base::units::Bytes;
use crate::host;
use crate::math::{IsaChoice, IsaError, Kernels};
use crate::model::sampling::ParamError;
use crate::model::{KvShape, Model};

pub use session::{End, Event, Session, Settings, What};
pub use step::Meter;

use pages::{PagePool, PageTable};
use step::{Row, Step};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Isa(#[from] IsaError),

    #[error(
        "a context of {context} tokens needs {} of memory for keys and values and {} is free; \
         ask for at most {fits} with --context",
        Bytes(*needed), Bytes(*free)
    )]
    Context { context: usize, needed: u64, free: u64, fits: usize },

    #[error("the prompt is empty: there is nothing to continue")]
    EmptyPrompt,

    #[error(
        "{tokens} tokens need more room than the context of {context} has; give fewer or raise \
         --context (the model was trained for {trained})"
    )]
    LongPrompt { tokens: usize, context: usize, trained: usize },

    #[error("other sessions hold the memory that {tokens} tokens need; end one of them")]
    NoPages { tokens: usize },

    #[error("token {token} is not in the vocabulary of {vocab}")]
    Token { token: u32, vocab: usize },

    #[error(transparent)]
    Param(#[from] ParamError),
}

/// How an engine computes. No choice here changes a bit of any answer.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub isa: IsaChoice,
    /// Prompt tokens of one session that enter one step, at least 1.
    pub prefill_chunk: usize,
    /// Positions to have room for; `None`: what the model was trained for, or as much of it as a
    /// quarter of the free memory holds.
    pub context: Option<usize>,
}

impl Default for Options {
    fn default() -> Options {
        Options { isa: IsaChoice::Auto, prefill_chunk: 64, context: None }
    }
}

/// A model being run: its step, its pages.
pub struct Engine {
    model: Rc<Model>,
    options: Options,
    context: usize,
    step: Step,
    /// `[pages][floats of a page]`; untouched pages cost no memory.
    arena: Vec<f32>,
    pool: PagePool,
    sessions_opened: u64,
}

impl Engine {
    pub fn new(model: Rc<Model>, options: Options) -> Result<Engine, Error> {
        let kernels = Kernels::new(options.isa)?;
        let kv = KvShape::new(&model.config);
        let context = plan_context(&model, &kv, options.context)?;
        let pages = context.div_ceil(PAGE);
        let options = Options { prefill_chunk: options.prefill_chunk.max(1), ..options };
        Ok(Engine {
            context,
            step: Step::new(&model.config, kernels, kv.clone()),
            arena: vec![0.0; pages * kv.page_floats],
            pool: PagePool::new(pages as u32),
            sessions_opened: 0,
            options,
            model,
        })
    }

    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Positions there is room for.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Pages that no session holds.
    pub fn free_pages(&self) -> usize {
        self.pool.free()
    }

    /// What the steps so far have done.
    pub fn meter(&self) -> Meter {
        self.step.meter()
    }

    /// A session that will continue `prompt`.
    pub fn open(&mut self, prompt: Vec<u32>, settings: Settings) -> Result<Session, Error> {
        self.check_prompt(&prompt)?;
        self.sessions_opened += 1;
        let pages = PageTable::new(&self.pool);
        Session::new(self.sessions_opened, prompt, settings, pages, *self.step.kernels())
    }

    /// Gives a session another prompt, keeping what it has computed of their common beginning.
    pub fn reopen(
        &self,
        session: &mut Session,
        prompt: Vec<u32>,
        settings: Settings,
    ) -> Result<(), Error> {
        self.check_prompt(&prompt)?;
        session.restart(prompt, settings, *self.step.kernels())
    }

    fn check_prompt(&self, prompt: &[u32]) -> Result<(), Error> {
        self.check_tokens(prompt)?;
        if prompt.len() >= self.context {
            let trained = self.model.config.context;
            // An answer needs room for one token at least.
            let (tokens, context) = (prompt.len() + 1, self.context);
            return Err(Error::LongPrompt { tokens, context, trained });
        }
        Ok(())
    }

    fn check_tokens(&self, tokens: &[u32]) -> Result<(), Error> {
        let vocab = self.model.config.vocab;
        if tokens.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        match tokens.iter().find(|&&t| t as usize >= vocab) {
            Some(&token) => Err(Error::Token { token, vocab }),
            None => Ok(()),
        }
    }

    /// Moves every running session forward: by a chunk while its prompt is not computed, then
    /// token by token. Paused and ended sessions are left alone. What goes wrong with one ends
    /// that one. One that finds no free pages waits for others to end; if all wait, the youngest
    /// ends.
    pub fn step(&mut self, sessions: &mut [&mut Session]) -> Vec<Event> {
        let mut events = Vec::new();
        let mut rows: Vec<Row> = Vec::new();
        let mut turns = Vec::new();
        let mut waiting = Vec::new();
        for (i, session) in sessions.iter_mut().enumerate() {
            let Some(turn) = session.take_turn(self.options.prefill_chunk) else { continue };
            if turn.end > self.context {
                events.push(session.end(End::ContextFull));
            } else if session.reserve(turn.end) {
                turns.push((i, turn));
            } else {
                waiting.push(i);
            }
        }
        if turns.is_empty()
            && let Some(&youngest) = waiting.iter().max_by_key(|&&i| sessions[i].id())
        {
            events.push(sessions[youngest].end(End::NoPages));
        }
        for (i, turn) in &turns {
            let session = &sessions[*i];
            for position in turn.start..turn.end {
                rows.push(Row {
                    token: session.tokens()[position],
                    position,
                    pages: session.pages(),
                    wanted: position + 1 == session.tokens().len(),
                });
            }
        }
        if rows.is_empty() {
            return events;
        }
        let logits = self.step.run(&self.model, &mut self.arena, &rows);
        let vocab = self.model.config.vocab;
        let mut next_logits = logits.chunks_exact_mut(vocab);
        drop(rows);
        for (i, turn) in turns {
            let session = &mut sessions[i];
            session.computed_to(turn.end);
            if turn.end < session.tokens().len() {
                events.push(session.prefilled());
            } else if let Some(row) = next_logits.next() {
                events.extend(session.choose(row));
            }
        }
        events
    }

    /// The logits at every position of `tokens`, handed over row by row. The pages are the
    /// engine's own and go back at the end.
    pub fn logits<E: From<Error>>(
        &mut self,
        tokens: &[u32],
        mut each: impl FnMut(usize, &[f32]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.check_tokens(tokens)?;
        let mut pages = PageTable::new(&self.pool);
        if tokens.len() > self.context {
            let (context, trained) = (self.context, self.model.config.context);
            return Err(Error::LongPrompt { tokens: tokens.len(), context, trained }.into());
        }
        if !pages.reserve(tokens.len()) {
            return Err(Error::NoPages { tokens: tokens.len() }.into());
        }
        for start in (0..tokens.len()).step_by(self.options.prefill_chunk) {
            let end = (start + self.options.prefill_chunk).min(tokens.len());
            let rows: Vec<Row> = (start..end)
                .map(|position| Row {
                    token: tokens[position],
                    position,
                    pages: pages.pages(),
                    wanted: true,
                })
                .collect();
            let logits = self.step.run(&self.model, &mut self.arena, &rows);
            for (row, position) in logits.chunks_exact(self.model.config.vocab).zip(start..) {
                each(position, row)?;
            }
        }
        Ok(())
    }
}

/// How many positions to make room for.
fn plan_context(model: &Model, kv: &KvShape, asked: Option<usize>) -> Result<usize, Error> {
    let page_bytes = (kv.page_floats * size_of::<f32>()) as u64;
    let free = host::memory::available();
    let fits = |bytes: u64| (bytes / page_bytes.max(1)).min(1 << 26) as usize * PAGE;
    match asked {
        Some(context) => {
            let needed = (context.div_ceil(PAGE) as u64).saturating_mul(page_bytes);
            if needed > free {
                return Err(Error::Context { context, needed, free, fits: fits(free) });
            }
            Ok(context)
        }
        None => Ok(model.config.context.min(fits(free / 4)).max(PAGE)),
    }
}

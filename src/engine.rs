//! Floor 4: sessions and steps.
//!
//! Owns the sequences being written (`session`), the pages that hold their keys and values
//! (`kv`), who moves how far in a step (`turn`) with what guesses (`draft`, and `drafter` where a
//! smaller model makes them), and the pass of a batch through all layers (`step`), with experts that
//! stream where they do not fit (`stream`).
//!
//! Above them, the server's half of an engine: where requests are handed in (`desk`), who computes
//! what (`scheduler`), the loop that does it (`service`), pages that go to disk and come back
//! (`spill`), and what is measured of all that (`telemetry`).
//!
//! Decides nothing about a model's shape, reads no file itself and starts no thread. Imports
//! `shard`, `model`, `weights`, `math`, `host`, `base`.
//!
//! Nothing here holds a model for the length of an answer: a [`Session`] is a state, and
//! [`Engine::advance`] moves any set of sessions forward by some tokens or a chunk of prompt.

pub mod desk;
mod draft;
mod drafter;
mod kv;
pub mod scheduler;
pub mod service;
mod session;
pub mod spill;
mod step;
mod stream;
pub mod telemetry;
mod turn;

use std::path::PathBuf;
use std::rc::Rc;

use crate::base::limits::PAGE;
use crate::base::units::Bytes;
use crate::host;
use crate::host::arena::{Arena, ArenaError, Region};
use crate::host::ring::RingError;
use crate::math::{IsaChoice, IsaError, Kernels, KvFormat};
use crate::model::sampling::ParamError;
use crate::model::{KvShape, Model};
use crate::shard::{self, Lead};
use crate::weights::home::{Home, room_of};
use crate::weights::residency;

pub use draft::{Tally, worth};
pub use drafter::{Drafter, Price};
pub use kv::Census;
pub use session::{End, Event, Session, Settings, What};
pub use step::Meter;
pub use stream::{PATIENCE, Stream};
pub use turn::{Done, Turn};

use crate::weights::stage::Notice;
use kv::{PagePool, PageTable};
use step::{Batch, Step, Store};

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

    #[error(
        "what every token needs (weights, pages, working memory) takes {} and {} of memory is free: \
         free some, or raise the limit of the control group",
        Bytes(*needed), Bytes(*free)
    )]
    Memory { needed: u64, free: u64 },

    #[error(transparent)]
    Arena(#[from] ArenaError),

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

    #[error(transparent)]
    Ring(#[from] RingError),

    #[error("{}: cannot be opened: {error}", path.display())]
    Open { path: PathBuf, error: std::io::Error },

    #[error("{}: {error}", path.display())]
    Trace { path: PathBuf, error: std::io::Error },

    #[error("{0}")]
    Lost(String),
}

/// How an engine computes. No choice here but `kv` changes a bit of any answer.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// What keys and values are kept in.
    pub kv: KvFormat,
    pub isa: IsaChoice,
    /// Prompt tokens that enter one step, of all sessions together, at least 1.
    pub prefill_chunk: usize,
    /// Positions to have room for; `None`: what the model was trained for, or as much of it as a
    /// quarter of the free memory holds.
    pub context: Option<usize>,
    /// Bytes of weights to keep in memory; `None`: all, or as many as there is memory for. What has
    /// no room is packed again for every use.
    pub room: Option<usize>,
    /// Whether a session may hold what another has computed of the same beginning.
    pub share_prefixes: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            kv: KvFormat::F32,
            isa: IsaChoice::Auto,
            prefill_chunk: 512,
            context: None,
            room: None,
            share_prefixes: true,
        }
    }
}

/// A model being run: its shards, its weights in memory, its step, its pages.
pub struct Engine {
    model: Rc<Model>,
    options: Options,
    context: usize,
    lead: Lead,
    store: Store,
    step: Step,
    batch: Batch,
    /// `[pages][floats of a page]`; untouched pages cost no memory.
    arena: Region,
    pool: PagePool,
    sessions_opened: u64,
    /// Who hears what there is to say of the disk.
    listener: Box<dyn FnMut(Notice)>,
}

impl Engine {
    /// An engine on this thread alone. Its futures never wait: see [`crate::shard::now`].
    pub fn new(model: Rc<Model>, options: Options) -> Result<Engine, Error> {
        Engine::seated(model, options, Lead::alone())
    }

    /// An engine on the shards that `lead` leads.
    pub fn seated(model: Rc<Model>, options: Options, lead: Lead) -> Result<Engine, Error> {
        let kv = KvShape::new(&model.config, options.kv);
        let context = plan_context(&model, &kv, options.context)?;
        let home = plan_home(&model, page_bytes(&kv, context), options.room)?;
        let options = Options { context: Some(context), ..options };
        Engine::with(model, options, lead, Store::new(home))
    }

    fn with(model: Rc<Model>, options: Options, lead: Lead, store: Store) -> Result<Engine, Error> {
        let kernels = Kernels::new(options.isa)?;
        let kv = KvShape::new(&model.config, options.kv);
        let context = plan_context(&model, &kv, options.context)?;
        let pages = context.div_ceil(PAGE);
        let kv_bytes = page_bytes(&kv, context);
        let options = Options { prefill_chunk: options.prefill_chunk.max(1), ..options };
        Ok(Engine {
            context,
            lead,
            store,
            step: Step::new(&model.config, kernels, kv.clone()),
            batch: Batch::default(),
            arena: plan_pages(kv_bytes)?,
            pool: PagePool::new(pages as u32, options.share_prefixes),
            sessions_opened: 0,
            listener: Box::new(|_| ()),
            options,
            model,
        })
    }

    /// Brings all weights into memory, which otherwise happens when tokens first need them.
    pub async fn settle(&mut self) {
        if self.store.staging.is_some() {
            return;
        }
        self.step.settle(&self.model, &self.store.home, &mut self.lead).await;
    }

    /// Where the weights are.
    pub fn weights_arena(&self) -> &Arena {
        self.store.home.arena()
    }

    /// Shards that compute.
    pub fn shards(&self) -> usize {
        self.lead.shards()
    }

    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Positions there is room for.
    pub fn context(&self) -> usize {
        self.context
    }

    pub fn pages(&self) -> Census {
        self.pool.census()
    }

    /// Pages that no session holds.
    pub fn free_pages(&self) -> usize {
        let Census { free, cached, .. } = self.pool.census();
        free + cached
    }

    /// Bytes of all pages.
    pub fn page_bytes(&self) -> u64 {
        self.arena.len() as u64
    }

    /// What the steps so far have done.
    pub fn meter(&self) -> Meter {
        self.step.meter()
    }

    /// What each shard has counted of itself, the lead's first.
    pub fn shard_counters(&mut self) -> impl Iterator<Item = shard::Counters> {
        self.lead.counters()
    }

    /// What residency has counted, where experts stream.
    pub fn slabs(&self) -> Option<residency::Counters> {
        self.store.staging.as_ref().map(|staging| staging.residency().counters())
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

    /// Takes a session's pages from it, so that others have room. What it wrote and how it goes on
    /// stays as it is; full pages can be found again until their room is needed.
    pub fn park(&mut self, session: &mut Session) {
        session.park();
    }

    /// Gives a parked session what is left of its pages, and says how many of its positions are
    /// computed. It computes the others anew and goes on where it was.
    pub fn resume(&mut self, session: &mut Session) -> usize {
        session.look();
        session.computed()
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

    /// The logits at every position of `tokens`, handed over row by row. The pages are the
    /// engine's own and go back at the end.
    pub async fn logits<E: From<Error>>(
        &mut self,
        tokens: &[u32],
        mut each: impl FnMut(usize, &[f32]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.check_tokens(tokens)?;
        self.ready().await?;
        let mut table = PageTable::new(&self.pool);
        if tokens.len() > self.context {
            let (context, trained) = (self.context, self.model.config.context);
            return Err(Error::LongPrompt { tokens: tokens.len(), context, trained }.into());
        }
        if !table.reserve(tokens.len()) {
            return Err(Error::NoPages { tokens: tokens.len() }.into());
        }
        for start in (0..tokens.len()).step_by(self.options.prefill_chunk) {
            let end = (start + self.options.prefill_chunk).min(tokens.len());
            self.batch.clear();
            let pages = self.batch.session(table.pages(), end - start);
            for (position, &token) in (start..end).zip(&tokens[start..end]) {
                self.batch.push(pages, token, position, true);
            }
            let Engine { step, model, store, lead, arena, batch, listener, .. } = self;
            step.run(model, store, lead, arena.floats_mut(), batch, listener).await;
            let (logits, spoiled) = step.results();
            if let Some(spoiled) = spoiled.first() {
                return Err(Error::Lost(store.sentence(spoiled)).into());
            }
            for (row, position) in logits.chunks_exact(self.model.config.vocab).zip(start..) {
                each(position, row)?;
            }
        }
        Ok(())
    }
}

/// Bytes of the pages for so many positions.
fn page_bytes(kv: &KvShape, context: usize) -> u64 {
    context.div_ceil(PAGE) as u64 * kv.page_bytes()
}

/// Memory that is left for everything but weights and pages: activations, the program, the host.
const MARGIN: u64 = 256 << 20;

/// Room for the weights: all of them where they fit, else what does, of which the trunk must.
fn plan_home(model: &Model, kv_bytes: u64, room: Option<usize>) -> Result<Home, Error> {
    if let Some(room) = room {
        return Ok(Home::new(room)?);
    }
    let (mut trunk, mut all) = (0, 0);
    model.parts.each_weight(|weight, routed| {
        // One that settled for an engine before this one has its room.
        let room = if weight.is_settled() { 0 } else { room_of(weight) };
        all += room;
        if !routed {
            trunk += room;
        }
    });
    let free = host::memory::available();
    let room = free.saturating_sub(kv_bytes).saturating_sub(MARGIN);
    if trunk as u64 > room {
        return Err(Error::Memory { needed: trunk as u64 + kv_bytes + MARGIN, free });
    }
    Ok(Home::new(all.min(usize::try_from(room).unwrap_or(usize::MAX)))?)
}

fn plan_pages(bytes: u64) -> Result<Region, Error> {
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
    let region = Arena::reserve(bytes)?.take(bytes, PAGE_ALIGN);
    Ok(region.expect("an arena has the bytes it was reserved with"))
}

/// Pages begin on a cache line.
const PAGE_ALIGN: usize = 64;

/// How many positions to make room for.
fn plan_context(model: &Model, kv: &KvShape, asked: Option<usize>) -> Result<usize, Error> {
    let page_bytes = kv.page_bytes();
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

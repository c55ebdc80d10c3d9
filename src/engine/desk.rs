//! Where requests are handed in and answers come out.
//!
//! Both sides live on the lead's reactor: sockets in one task queue, the steps in another. Nothing
//! here is shared between threads, and nobody waits for a lock. What comes in while a step is under
//! way lies on the desk until the [service](super::service) looks, which it does between steps.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::kv::{Census, PagePool};
use super::scheduler::{Arrival, Batching, Pages, Priority, Scheduler, Turned};
use super::telemetry::Telemetry;
use super::{End, Error, Settings};
use crate::base::trace::Tracer;
use crate::host::memory;
use crate::model::channels::Voice;
use crate::model::sampling::Choice;
use crate::weights::stage::Notice;

/// What is asked of the engine.
pub struct Request {
    pub prompt: Vec<u32>,
    pub settings: Settings,
    pub priority: Priority,
    pub batching: Batching,
    /// It is refused when its first token is not expected within this, and ends when it has waited
    /// this long in the queue.
    pub max_wait: Option<Duration>,
}

/// Why a request is not taken.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("{waiting} requests wait already, and no more are taken")]
    Full { waiting: usize, retry_after: Duration },

    #[error(
        "the first token is expected in {} ms, which is more than the {} ms asked for",
        expected.as_millis(), limit.as_millis()
    )]
    Late { expected: Duration, limit: Duration, retry_after: Duration },

    #[error("the server is about to stop and takes no more requests")]
    Draining,

    #[error(transparent)]
    Invalid(#[from] Error),
}

/// What becomes of a request, in this order: one `Started`, tokens, one `Ended`. One that ends
/// before it has begun has no `Started`.
#[derive(Clone, Debug)]
pub enum Update {
    /// It left the queue.
    Started { waited: Duration },
    /// `text` is what the token completes: whole characters, possibly none.
    Token { choice: Choice, text: String, voice: Voice },
    /// `text` is what was still held back.
    Ended { end: End, text: String, account: Account },
}

/// Where the time of an answer went, and what it cost. Times are as the request lived through
/// them; bytes are its share of each step's, by rows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Account {
    /// In the queue, and while preempted.
    pub queued: Duration,
    /// From leaving the queue to the first token.
    pub prefill: Duration,
    /// From the first token to the last.
    pub decode: Duration,
    /// Of both, waiting for the disk.
    pub disk: Duration,
    pub prompt_tokens: usize,
    /// Of these, those whose keys and values an earlier request had left.
    pub shared_tokens: usize,
    pub answer_tokens: usize,
    pub steps: u64,
    /// Requests in its steps, on average.
    pub batch: f32,
    pub preempted: u32,
    /// Tokens that were guessed, and those of them that were right.
    pub drafted: u64,
    pub accepted: u64,
    /// Bytes of weights that went through the cores for it.
    pub moved: u64,
    /// Bytes of experts that were in memory, and that were not.
    pub held: u64,
    pub read: u64,
}

/// How busy the engine is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    pub running: usize,
    pub waiting: usize,
    /// Requests that a step may have at present.
    pub batch: usize,
    pub pages: usize,
    pub free_pages: usize,
    /// When an ordinary request that came now would see its first token.
    pub first_token: Duration,
    pub draining: bool,
}

/// Takes requests. Cheap to clone, for the lead's reactor alone.
#[derive(Clone)]
pub struct Desk(Rc<Inner>);

/// What lies on the desk.
pub(super) struct Inner {
    /// Times are counted from here.
    began: Instant,
    pub scheduler: RefCell<Scheduler>,
    pub telemetry: RefCell<Telemetry>,
    pub pool: PagePool,
    /// What a request must keep to.
    rules: Rules,
    /// Those that have not begun, and when they came.
    pub waiting: RefCell<BTreeMap<u64, (Request, Duration)>>,
    lines: RefCell<BTreeMap<u64, Rc<RefCell<Line>>>>,
    /// Those whose client has gone, or asked for the end.
    leaving: RefCell<Vec<u64>>,
    last: Cell<u64>,
    draining: Cell<bool>,
    /// The service, when it has nothing to do.
    service: RefCell<Option<Waker>>,
    /// Whether something came since the service looked.
    news: Cell<bool>,
    /// Those who wait for the desk to be empty.
    closers: RefCell<Vec<Waker>>,
}

/// What can be said of a request without the engine, which may be in the middle of a step.
#[derive(Clone, Copy)]
pub(super) struct Rules {
    pub vocab: usize,
    pub context: usize,
    pub trained: usize,
}

/// Updates on their way to one client.
#[derive(Default)]
struct Line {
    updates: VecDeque<Update>,
    over: bool,
    waker: Option<Waker>,
}

/// A request that was taken. Dropped, it is cancelled.
pub struct Ticket {
    id: u64,
    line: Rc<RefCell<Line>>,
    desk: Rc<Inner>,
}

impl Desk {
    pub(super) fn new(inner: Rc<Inner>) -> Desk {
        Desk(inner)
    }

    /// Takes a request, or says why not and when to come again.
    pub fn submit(&self, request: Request) -> Result<Ticket, Refusal> {
        self.0.telemetry.borrow_mut().arrived();
        let taken = self.take(request);
        if let Err(refusal) = &taken {
            self.0.telemetry.borrow_mut().refused(refusal);
        }
        taken
    }

    fn take(&self, mut request: Request) -> Result<Ticket, Refusal> {
        let desk = &self.0;
        if desk.draining.get() {
            return Err(Refusal::Draining);
        }
        desk.rules.check(&request)?;
        let room = desk.rules.context - request.prompt.len();
        let most = request.settings.max_tokens.map_or(room, |most| most.min(room));
        request.settings.max_tokens = Some(most);
        let id = desk.last.get() + 1;
        let arrival = Arrival {
            id,
            priority: request.priority,
            batching: request.batching,
            prompt: request.prompt.len(),
            shared: desk.pool.knows(&request.prompt),
            most: Some(most),
            max_wait: request.max_wait,
        };
        let now = desk.now();
        let mut scheduler = desk.scheduler.borrow_mut();
        scheduler.arrive(now, arrival, desk.pages()).map_err(|turned| match turned {
            Turned::Full { waiting, retry_after } => Refusal::Full { waiting, retry_after },
            Turned::Late { expected, limit, retry_after } => {
                Refusal::Late { expected, limit, retry_after }
            }
            Turned::TooLong => Refusal::Invalid(desk.rules.too_long(&request)),
        })?;
        desk.last.set(id);
        let line = Rc::new(RefCell::new(Line::default()));
        desk.waiting.borrow_mut().insert(id, (request, now));
        desk.lines.borrow_mut().insert(id, Rc::clone(&line));
        desk.ring();
        Ok(Ticket { id, line, desk: Rc::clone(desk) })
    }

    /// Ends a request at its next token. `false`: there is none of this number.
    pub fn cancel(&self, id: u64) -> bool {
        let known = self.0.lines.borrow().contains_key(&id);
        if known {
            self.0.leave(id);
        }
        known
    }

    pub fn load(&self) -> Load {
        let desk = &self.0;
        let Census { total, free, cached, .. } = desk.pool.census();
        let planned = desk.scheduler.borrow().load(desk.now());
        Load {
            running: planned.running,
            waiting: planned.waiting,
            batch: planned.batch,
            pages: total,
            free_pages: free + cached,
            first_token: planned.first_token,
            draining: desk.draining.get(),
        }
    }

    /// What was measured, and how things stand now.
    pub fn telemetry<T>(&self, read: impl FnOnce(&Telemetry) -> T) -> T {
        let mut telemetry = self.0.telemetry.borrow_mut();
        let Census { cached, held, .. } = self.0.pool.census();
        let (load, standing) = (self.load(), &mut telemetry.standing);
        standing.load = load;
        (standing.cached_pages, standing.held_pages) = (cached, held);
        standing.resident = memory::resident().map_or(0, |resident| resident.total);
        read(&telemetry)
    }

    /// The memory that may be taken, for who reads what was measured.
    pub fn budget(&self, bytes: u64) {
        self.0.telemetry.borrow_mut().standing.memory_limit = bytes;
    }

    /// There was something to say of the disk.
    pub fn noticed(&self, notice: &Notice) {
        self.0.telemetry.borrow_mut().noticed(notice);
    }

    /// Notes the lives of requests from now on.
    pub fn trace(&self, tracer: Tracer) {
        self.0.telemetry.borrow_mut().trace(tracer);
    }

    /// Takes no more requests.
    pub fn drain(&self) {
        self.0.draining.set(true);
        self.0.ring();
    }

    /// Until every request has ended.
    pub async fn idle(&self) {
        poll_fn(|context| match self.0.lines.borrow().is_empty() {
            true => Poll::Ready(()),
            false => {
                self.0.closers.borrow_mut().push(context.waker().clone());
                Poll::Pending
            }
        })
        .await
    }
}

impl Ticket {
    pub fn id(&self) -> u64 {
        self.id
    }

    /// What has become of the request; `None` after its end.
    pub fn poll_next(&mut self, context: &mut Context) -> Poll<Option<Update>> {
        let mut line = self.line.borrow_mut();
        match line.updates.pop_front() {
            Some(update) => Poll::Ready(Some(update)),
            None if line.over => Poll::Ready(None),
            None => {
                line.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }

    pub async fn next(&mut self) -> Option<Update> {
        poll_fn(|context| self.poll_next(context)).await
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.line.borrow().over {
            self.desk.leave(self.id);
        }
    }
}

impl Rules {
    fn check(&self, request: &Request) -> Result<(), Error> {
        let vocab = self.vocab;
        if request.prompt.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        if let Some(&token) = request.prompt.iter().find(|&&token| token as usize >= vocab) {
            return Err(Error::Token { token, vocab });
        }
        if request.prompt.len() >= self.context {
            return Err(self.too_long(request));
        }
        Ok(request.settings.sampling.check()?)
    }

    fn too_long(&self, request: &Request) -> Error {
        let Rules { context, trained, .. } = *self;
        // An answer needs room for one token at least.
        Error::LongPrompt { tokens: request.prompt.len() + 1, context, trained }
    }
}

impl Inner {
    pub fn new(scheduler: Scheduler, pool: PagePool, rules: Rules) -> Rc<Inner> {
        Rc::new(Inner {
            began: Instant::now(),
            scheduler: RefCell::new(scheduler),
            telemetry: RefCell::default(),
            pool,
            rules,
            waiting: RefCell::default(),
            lines: RefCell::default(),
            leaving: RefCell::default(),
            last: Cell::new(0),
            draining: Cell::new(false),
            service: RefCell::default(),
            news: Cell::new(false),
            closers: RefCell::default(),
        })
    }

    /// Whether something came since the service looked.
    pub fn has_news(&self) -> bool {
        self.news.get()
    }

    /// Since the desk was opened.
    pub fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// A moment of [`Inner::now`].
    pub fn moment(&self, then: Duration) -> Instant {
        self.began + then
    }

    pub fn pages(&self) -> Pages {
        let Census { total, free, cached, .. } = self.pool.census();
        Pages { total, free: free + cached }
    }

    fn leave(&self, id: u64) {
        self.leaving.borrow_mut().push(id);
        self.ring();
    }

    /// Those who have left since this was last asked.
    pub fn left(&self) -> Vec<u64> {
        std::mem::take(&mut self.leaving.borrow_mut())
    }

    /// Tells the service that there is something on the desk.
    pub fn ring(&self) {
        self.news.set(true);
        if let Some(service) = self.service.borrow_mut().take() {
            service.wake();
        }
    }

    /// Waits until something is put on the desk. What came before counts.
    pub async fn news(&self) {
        poll_fn(|context| match self.news.take() {
            true => Poll::Ready(()),
            false => {
                *self.service.borrow_mut() = Some(context.waker().clone());
                Poll::Pending
            }
        })
        .await
    }

    /// Sends a client word.
    pub fn tell(&self, id: u64, update: Update) {
        let over = matches!(update, Update::Ended { .. });
        let mut lines = self.lines.borrow_mut();
        let Some(line) = lines.get(&id) else { return };
        let mut on_line = line.borrow_mut();
        on_line.updates.push_back(update);
        on_line.over = over;
        let waker = on_line.waker.take();
        drop(on_line);
        if over {
            lines.remove(&id);
            if lines.is_empty() {
                self.closers.take().into_iter().for_each(Waker::wake);
            }
        }
        drop(lines);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

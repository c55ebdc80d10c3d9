//! The lead: the shard that drives a step, and the making of all the others.

use std::future::Future;
use std::pin::pin;
use std::sync::mpsc::{Sender, channel};
use std::task::{Context, Poll, Waker};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use core_affinity::CoreId;
use glommio::{LocalExecutor, LocalExecutorBuilder, Placement, spawn_local_into};

use super::breath::Breath;
use super::mate::{self, Line};
use super::{Counters, Error, Order, Queues, Seats};
use crate::base::trace::{Track, What, track};
use crate::host::crew::{Crew, Mate};
use crate::host::mover::{Depth, Fleet, Kit, Mover, Setup};
use crate::host::ring::RingError;
use crate::model::Hand;

/// Memory that glommio sets aside for its own files; weights come by a ring of our own.
const IO_MEMORY: usize = 64 << 10;

/// The lead's hold on all shards.
pub struct Lead {
    crew: Crew<Hand>,
    lines: Vec<Line>,
    /// None outside a reactor, in tests and tools that compute on the thread they are on.
    breath: Option<Breath>,
    threads: Vec<JoinHandle<()>>,
}

impl Lead {
    /// A lead without mates and without a reactor. What waits for it never waits.
    pub fn alone() -> Lead {
        Lead {
            crew: Crew::alone(Hand::default()),
            lines: Vec::new(),
            breath: None,
            threads: Vec::new(),
        }
    }

    /// Shards, this one included.
    pub fn shards(&self) -> usize {
        self.crew.seats()
    }

    /// Gives shards movers of their own, and the lead a drive that hands reads to all of them.
    /// `depth` reads are under way at once; where that is less than there are shards, so many have
    /// a mover, for some drives are slower the more is asked of them at once.
    pub fn equip(&mut self, mut setup: Setup, depth: usize) -> Result<(), RingError> {
        let movers = depth.clamp(1, self.shards());
        setup.depth = Depth::of(depth.div_ceil(movers));
        let own = Mover::open(Kit::new(setup.clone()))?;
        let equipped = self.lines.iter_mut().take(movers - 1);
        let equipped = equipped.map(|line| line.equip(setup.clone()));
        let fleet = Fleet::new(own, equipped.collect());
        self.crew.own().equip(Box::new(fleet));
        Ok(())
    }

    /// Has all shards note spans from now on, until so many wait to be read. What comes back are
    /// the tracks of each shard, the lead's first: of its stages, and of its reads. To be called
    /// between steps.
    pub fn trace(&mut self, room: usize) -> Vec<[Track; 2]> {
        let ((stages, lead), (reads, own_reads)) = (track(room), track(room));
        self.crew.own().trace(stages, reads);
        let mut tracks = vec![[lead, own_reads]];
        for line in &mut self.lines {
            let ((stages, mate), (reads, mate_reads)) = (track(room), track(room));
            line.tell(Order::Trace(Box::new([stages, reads])));
            tracks.push([mate, mate_reads]);
        }
        tracks
    }

    /// What each shard has counted, the lead's first; a mate's count may be a tenth of a second
    /// old, or from when it parked.
    pub fn counters(&mut self) -> impl Iterator<Item = Counters> {
        let (chunks, spinning) = (self.crew.chunks(), self.crew.waited());
        let hand = self.crew.own();
        let moved = hand.drive.as_ref().map(|drive| drive.moved()).unwrap_or_default();
        let own = Counters {
            computing: hand.computing,
            spinning,
            parked: Duration::ZERO,
            chunks: chunks.done,
            stolen: chunks.stolen,
            reads: moved.reads,
            bytes: moved.bytes,
        };
        std::iter::once(own).chain(self.lines.iter_mut().map(Line::counters))
    }

    /// Calls the mates together for a step. They spin until [`Lead::rest`].
    pub fn begin(&mut self) {
        self.lines.iter_mut().for_each(|line| line.tell(Order::Begin));
    }

    pub fn rest(&mut self) {
        self.lines.iter_mut().for_each(|line| line.tell(Order::Rest));
    }

    pub fn crew(&mut self) -> &mut Crew<Hand> {
        &mut self.crew
    }

    /// To be awaited between the parts of a step: lets this shard's reactor look around when it is
    /// time to.
    pub async fn breathe(&mut self) {
        if let Some(breath) = &mut self.breath {
            let pause = breath.breathe().await;
            if pause.end > pause.begin {
                self.crew.own().tracer.note(What::Breath, pause.begin, pause.end);
            }
        }
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        // After a panic the program is over, and a mate that panicked would be waited for for ever.
        if thread::panicking() {
            return;
        }
        self.lines.iter_mut().for_each(|line| line.tell(Order::Leave));
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// What a future comes to that never waits: those of a lead without a reactor.
///
/// # Panics
/// If it waits.
pub fn now<T>(future: impl Future<Output = T>) -> T {
    let mut context = Context::from_waker(Waker::noop());
    match pin!(future).poll(&mut context) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("this future waits; it needs a reactor"),
    }
}

/// Seats the shards, the first of them on this thread, and runs `body` on it.
pub fn run<T, F>(seats: &Seats, body: impl FnOnce(Lead, Queues) -> F + 'static) -> Result<T, Error>
where
    F: Future<Output = T> + 'static,
    T: 'static,
{
    let breath = seats.breath;
    let (own, others) = seats.cores.split_first().unwrap_or((&None, &[]));
    let (crew, mates) = Crew::with_mates(Hand::default(), others.len());
    let mut lead = Lead { crew, lines: Vec::new(), breath: None, threads: Vec::new() };
    let (ready, seated) = channel();
    for (mate, core) in mates.into_iter().zip(others) {
        let seat = mate.seat();
        let failed = |reason| Error::Thread { seat, reason };
        let (line, post) = mate::line().map_err(failed)?;
        let (core, ready) = (*core, ready.clone());
        let thread = thread::Builder::new()
            .name(format!("shard-{seat}"))
            .spawn(move || serve(core, post, mate, breath, ready))
            .map_err(failed)?;
        lead.lines.push(line);
        lead.threads.push(thread);
    }
    drop(ready);
    let reactor = reactor(*own)?;
    // A mate that could not be seated has left, and the others are told to with the lead.
    seated.iter().take(others.len()).collect::<Result<(), Error>>()?;
    reactor.run(async move {
        let queues = Queues::open();
        lead.breath = Some(Breath::new(breath)?);
        let body = async move { body(lead, queues).await };
        let task = spawn_local_into(body, queues.compute).map_err(refused)?;
        Ok(task.await)
    })
}

/// A mate's thread. It says once whether it is seated.
fn serve(
    core: Option<usize>,
    post: mate::Post,
    mate: Mate<Hand>,
    breath: Duration,
    ready: Sender<Result<(), Error>>,
) {
    let seated = reactor(core).map(|reactor| {
        reactor.run(async move {
            let queues = Queues::open();
            match mate::Life::new(post, mate, breath) {
                Ok(life) => {
                    let _ = ready.send(Ok(()));
                    drop(ready);
                    match spawn_local_into(life.live(), queues.compute) {
                        Ok(task) => task.await,
                        Err(_) => unreachable!("the queue was made on this reactor"),
                    }
                }
                Err(error) => drop(ready.send(Err(error))),
            }
        })
    });
    let _ = seated;
}

/// A reactor for this thread, which is pinned first, so that glommio's own helper thread is too.
fn reactor(core: Option<usize>) -> Result<LocalExecutor, Error> {
    if let Some(id) = core {
        core_affinity::set_for_current(CoreId { id });
    }
    let builder = LocalExecutorBuilder::new(Placement::Unbound).io_memory(IO_MEMORY);
    builder.make().map_err(refused)
}

fn refused(error: glommio::GlommioError<()>) -> Error {
    Error::Reactor { reason: error.to_string() }
}

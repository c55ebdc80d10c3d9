//! Threads that do one piece of work together.
//!
//! A crew is a lead and its mates, each on a thread of its own with something that is its own
//! (`S`). The lead lends a piece of work, cut in numbered chunks, to all of them and waits until
//! every chunk is done ([`Crew::each`]); so the work may borrow what the lead holds, and nothing
//! that changes is ever shared but the chunks' numbers. Who computes a chunk is chance; what is
//! computed must not depend on it.
//!
//! ```text
//! board, a cache line each                     written by
//!   post     number of the stage, the work     the lead
//!   done     number of the last stage done     its mate
//!   share    chunks front..back not yet taken  filled by the lead; its shard takes from the
//!                                              front, the others, when their own is empty, from
//!                                              the back
//! ```
//!
//! Nothing here is a lock, and nobody writes what another spins on but the owner of the line. The
//! one read-modify-write is the taking of a chunk: a compare-exchange on a line that nobody else
//! looks at before they have run out of work.
//!
//! How threads are made, pinned, parked and woken is the business of floor 3; here a mate only
//! asks whether there is work ([`Mate::help`]).

mod world;

use std::sync::Arc;
use std::time::{Duration, Instant};

use world::{Machine, Slot, Word, World};

/// One thread's part in a crew, on cache lines of its own (two: processors fetch lines in pairs).
#[repr(align(128))]
struct Line<T>(T);

/// The work of a stage. The lifetime of the borrow is the lead's call of `each`, which does not
/// return before all mates are done with it.
struct Lent<S> {
    work: *const (dyn Fn(&mut S, usize) + Sync),
    label: u32,
}

// SAFETY: what is pointed to is Sync, and mates only call it.
unsafe impl<S> Send for Lent<S> {}
// SAFETY: as above.
unsafe impl<S> Sync for Lent<S> {}

struct Board<S, W: World> {
    stage: Line<W::Word>,
    /// Written by the lead while no mate works, read by mates after they saw the stage's number.
    work: Line<W::Slot<Option<Lent<S>>>>,
    /// By mate; seat 0 is the lead's, whose line is not used.
    done: Box<[Line<W::Word>]>,
    shares: Box<[Line<W::Word>]>,
    /// Set when a mate's work panicked.
    failed: Line<W::Word>,
}

// SAFETY: the words are atomic, and the slot is written only while nobody reads it: the lead
// writes it after it saw every mate's `done` reach the stage before (acquire), and a mate reads it
// after it saw the new stage (acquire), which the lead stored afterwards (release).
unsafe impl<S, W: World> Sync for Board<S, W> {}
// SAFETY: as above.
unsafe impl<S, W: World> Send for Board<S, W> {}

/// Chunks not yet taken: the first in the low half, the end in the high half.
const fn share(front: u32, back: u32) -> u64 {
    front as u64 | (back as u64) << 32
}

const fn bounds(share: u64) -> (u32, u32) {
    (share as u32, (share >> 32) as u32)
}

impl<S, W: World> Board<S, W> {
    fn new(seats: usize) -> Board<S, W> {
        let words = |count: usize| (0..count).map(|_| Line(W::Word::new(0))).collect();
        Board {
            stage: Line(W::Word::new(0)),
            work: Line(W::Slot::new(None)),
            done: words(seats),
            shares: words(seats),
            failed: Line(W::Word::new(0)),
        }
    }

    fn seats(&self) -> usize {
        self.shares.len()
    }

    /// A chunk for `seat`: the next of its own share, else the last of another's.
    fn take(&self, seat: usize, done: &mut Chunks) -> Option<usize> {
        let seats = self.seats();
        let own = self.take_from(seat, true);
        let chunk = own.or_else(|| {
            let stolen = (1..seats).find_map(|i| self.take_from((seat + i) % seats, false));
            done.stolen += u64::from(stolen.is_some());
            stolen
        });
        done.done += u64::from(chunk.is_some());
        chunk
    }

    fn take_from(&self, seat: usize, from_front: bool) -> Option<usize> {
        let share_of = &self.shares[seat].0;
        let mut seen = share_of.load_relaxed();
        loop {
            let (front, back) = bounds(seen);
            if front >= back {
                return None;
            }
            let (chunk, rest) = match from_front {
                true => (front, share(front + 1, back)),
                false => (back - 1, share(front, back - 1)),
            };
            // Relaxed is enough: chunk numbers carry nothing with them. What a chunk reads was
            // published by the stage's number, what it wrote is by `done`.
            match share_of.exchange_relaxed(seen, rest) {
                Ok(()) => return Some(chunk as usize),
                Err(now) => seen = now,
            }
        }
    }

    /// Does chunks until none are left.
    fn work(
        &self,
        seat: usize,
        own: &mut S,
        done: &mut Chunks,
        work: &(dyn Fn(&mut S, usize) + Sync),
    ) {
        while let Some(chunk) = self.take(seat, done) {
            work(own, chunk);
        }
    }
}

/// What a thread of a crew has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chunks {
    pub done: u64,
    /// Of these, those from another's share.
    pub stolen: u64,
}

/// The lead's end of a crew.
pub struct Crew<S, W: World = Machine> {
    own: S,
    /// `None`: there are no mates, and nothing here costs anything.
    board: Option<Arc<Board<S, W>>>,
    stage: u64,
    waited: Duration,
    chunks: Chunks,
    /// What the next stages are called, for the mates' own records.
    pub label: u32,
}

/// A mate's end of a crew.
pub struct Mate<S, W: World = Machine> {
    board: Arc<Board<S, W>>,
    seat: usize,
    seen: u64,
    chunks: Chunks,
    label: u32,
}

impl<S> Crew<S> {
    /// A crew of one.
    pub fn alone(own: S) -> Crew<S> {
        Crew::new(own, None)
    }

    /// A crew with `mates` mates, whose ends are to be handed to threads.
    pub fn with_mates(own: S, mates: usize) -> (Crew<S>, Vec<Mate<S>>) {
        Crew::gather(own, mates)
    }
}

impl<S, W: World> Crew<S, W> {
    fn new(own: S, board: Option<Arc<Board<S, W>>>) -> Crew<S, W> {
        let (waited, chunks) = (Duration::ZERO, Chunks::default());
        Crew { own, board, stage: 0, waited, chunks, label: 0 }
    }

    fn gather(own: S, mates: usize) -> (Crew<S, W>, Vec<Mate<S, W>>) {
        if mates == 0 {
            return (Crew::new(own, None), Vec::new());
        }
        let board = Arc::new(Board::new(mates + 1));
        let mate = |seat| {
            let chunks = Chunks::default();
            Mate { board: Arc::clone(&board), seat, seen: 0, chunks, label: 0 }
        };
        let mates = (1..=mates).map(mate).collect();
        (Crew::new(own, Some(board)), mates)
    }

    /// Threads in the crew.
    pub fn seats(&self) -> usize {
        self.board.as_ref().map_or(1, |board| board.seats())
    }

    /// What is the lead's own.
    pub fn own(&mut self) -> &mut S {
        &mut self.own
    }

    /// How long the lead has waited for mates that were still at work when it had no more.
    pub fn waited(&self) -> Duration {
        self.waited
    }

    /// What the lead itself has done.
    pub fn chunks(&self) -> Chunks {
        self.chunks
    }

    /// Does `work` once for every chunk of `0..chunks`, on all threads of the crew, and returns
    /// when all are done.
    ///
    /// # Panics
    /// If `work` panics, on whatever thread.
    pub fn each(&mut self, chunks: usize, work: impl Fn(&mut S, usize) + Sync) {
        let board = match &self.board {
            Some(board) if chunks > 1 => Arc::clone(board),
            _ => {
                self.chunks.done += chunks as u64;
                return (0..chunks).for_each(|chunk| work(&mut self.own, chunk));
            }
        };
        assert!(chunks <= u32::MAX as usize, "chunks are numbered in 32 bits");
        let seats = board.seats();
        for (seat, line) in board.shares.iter().enumerate() {
            let front = (chunks * seat / seats) as u32;
            let back = (chunks * (seat + 1) / seats) as u32;
            line.0.store_relaxed(share(front, back));
        }
        let work: &(dyn Fn(&mut S, usize) + Sync) = &work;
        let lent: *const (dyn Fn(&mut S, usize) + Sync + '_) = work;
        // SAFETY: the types differ in the borrow's lifetime alone. `Waiting` below keeps this
        // call from ending, even by a panic, while a mate may still use it.
        let lent: *const (dyn Fn(&mut S, usize) + Sync + 'static) =
            unsafe { std::mem::transmute(lent) };
        // SAFETY: no mate reads the slot now: all are done with the stage before.
        unsafe { board.work.0.write(Some(Lent { work: lent, label: self.label })) };
        self.stage += 1;
        board.stage.0.store_release(self.stage);

        let waiting = Waiting { board: &board, stage: self.stage };
        board.work(0, &mut self.own, &mut self.chunks, work);
        let idle = Instant::now();
        drop(waiting);
        self.waited += idle.elapsed();
        assert!(
            board.failed.0.load_relaxed() == 0,
            "a shard's work panicked; its message is above"
        );
    }
}

/// Keeps the lead inside `each` until every mate is done.
struct Waiting<'a, S, W: World> {
    board: &'a Board<S, W>,
    stage: u64,
}

impl<S, W: World> Drop for Waiting<'_, S, W> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // What is left is not begun.
            self.board.shares.iter().for_each(|line| line.0.store_relaxed(0));
        }
        for line in &self.board.done[1..] {
            let mut patience = W::patience();
            while line.0.load_acquire() != self.stage {
                W::relax(&mut patience);
            }
        }
    }
}

impl<S, W: World> Mate<S, W> {
    /// Which of the crew this is; the lead is 0.
    pub fn seat(&self) -> usize {
        self.seat
    }

    /// Whether there is a stage to take part in.
    pub fn is_called(&self) -> bool {
        self.board.stage.0.load_acquire() != self.seen
    }

    /// What this mate has done.
    pub fn chunks(&self) -> Chunks {
        self.chunks
    }

    /// What the lead called the last stage.
    pub fn label(&self) -> u32 {
        self.label
    }

    /// Takes part in the stage the lead has posted. `false` if there is none that was not done.
    pub fn help(&mut self, own: &mut S) -> bool {
        let stage = self.board.stage.0.load_acquire();
        if stage == self.seen {
            return false;
        }
        self.seen = stage;
        let done = Done { board: &self.board, seat: self.seat, stage };
        // SAFETY: the stage's number was seen, so the slot is written, and it is not written again
        // before `done` says that this mate is through.
        if let Some(Lent { work, label }) = unsafe { self.board.work.0.read() } {
            self.label = *label;
            // SAFETY: the lead keeps what it lent alive until `done`.
            self.board.work(self.seat, own, &mut self.chunks, unsafe { &**work });
        }
        drop(done);
        true
    }
}

/// Says that a mate is through with a stage, however it ended.
struct Done<'a, S, W: World> {
    board: &'a Board<S, W>,
    seat: usize,
    stage: u64,
}

impl<S, W: World> Drop for Done<'_, S, W> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.board.failed.0.store_relaxed(1);
        }
        self.board.done[self.seat].0.store_release(self.stage);
    }
}

#[cfg(test)]
mod tests;

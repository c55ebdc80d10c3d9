//! The crew in every order of its threads that loom finds, and on real ones.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::*;

/// The atomics of loom: a model of the crew is run in every order that the orderings allow.
struct Loom;

/// loom watches who reads and writes it; the reference is handed out on the tests' own word.
struct Watched<T>(loom::cell::UnsafeCell<T>);

impl World for Loom {
    type Word = loom::sync::atomic::AtomicU64;
    type Slot<T> = Watched<T>;
    type Patience = ();

    fn patience() {}

    fn relax(_: &mut ()) {
        loom::thread::yield_now();
    }
}

impl Word for loom::sync::atomic::AtomicU64 {
    fn new(value: u64) -> Self {
        loom::sync::atomic::AtomicU64::new(value)
    }

    fn load_relaxed(&self) -> u64 {
        self.load(Ordering::Relaxed)
    }

    fn load_acquire(&self) -> u64 {
        self.load(Ordering::Acquire)
    }

    fn store_relaxed(&self, value: u64) {
        self.store(value, Ordering::Relaxed);
    }

    fn store_release(&self, value: u64) {
        self.store(value, Ordering::Release);
    }

    fn exchange_relaxed(&self, seen: u64, value: u64) -> Result<(), u64> {
        self.compare_exchange(seen, value, Ordering::Relaxed, Ordering::Relaxed).map(drop)
    }
}

impl<T> Slot<T> for Watched<T> {
    fn new(value: T) -> Self {
        Watched(loom::cell::UnsafeCell::new(value))
    }

    unsafe fn write(&self, value: T) {
        // SAFETY: loom fails the test if anybody reads at the same time.
        self.0.with_mut(|at| unsafe { *at = value });
    }

    unsafe fn read(&self) -> &T {
        // SAFETY: loom fails the test if anybody wrote at the same time.
        self.0.with(|at| unsafe { &*at })
    }
}

/// Two stages on two threads, whose chunks write to what only the lead looks at afterwards: loom
/// fails if a chunk is done twice or not at all, if the lead could see a cell that is still being
/// written, or if a mate could use the work of a stage that is over.
#[test]
fn every_order_of_two_threads_does_every_chunk_once() {
    let mut model = loom::model::Builder::new();
    // Every order with up to so many switches that no thread asked for; all of them take minutes
    // and find no more.
    model.preemption_bound = Some(3);
    model.check(|| {
        let (mut crew, mut mates) = Crew::<(), Loom>::gather((), 1);
        let mut mate = mates.remove(0);
        let thread = loom::thread::spawn(move || {
            for _ in 0..2 {
                while !mate.help(&mut ()) {
                    loom::thread::yield_now();
                }
            }
        });
        for stage in 1..=2 {
            let cells: Vec<_> = (0..2).map(|_| loom::cell::UnsafeCell::new(0)).collect();
            struct Cells(Vec<loom::cell::UnsafeCell<u32>>);
            // SAFETY: loom fails the test if two threads are at one cell.
            unsafe impl Sync for Cells {}
            let cells = Cells(cells);
            let all = &cells;
            // SAFETY: as above.
            crew.each(2, |(), chunk| all.0[chunk].with_mut(|at| unsafe { *at += stage }));
            for cell in &cells.0 {
                // SAFETY: as above.
                assert_eq!(cell.with(|at| unsafe { *at }), stage);
            }
        }
        thread.join().unwrap();
    });
}

/// A crew on ordinary threads that help until they are told to stop.
fn with_threads<R>(mates: usize, body: impl FnOnce(&mut Crew<u64>) -> R) -> R {
    let (mut crew, mates) = Crew::with_mates(0, mates);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for mut mate in mates {
            let stop = &stop;
            scope.spawn(move || {
                let mut own = 0;
                while !stop.load(Ordering::Relaxed) {
                    if !mate.help(&mut own) {
                        std::thread::yield_now();
                    }
                }
            });
        }
        struct Stop<'a>(&'a AtomicBool);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let _stop = Stop(&stop);
        body(&mut crew)
    })
}

#[test]
fn chunks_are_done_once_whatever_the_number_of_threads() {
    for mates in [0, 1, 3] {
        with_threads(mates, |crew| {
            assert_eq!(crew.seats(), mates + 1);
            for chunks in [0, 1, 2, 3, 7, 64, 1000] {
                let done: Vec<AtomicU32> = (0..chunks).map(|_| AtomicU32::new(0)).collect();
                crew.each(chunks, |own, chunk| {
                    *own += 1;
                    done[chunk].fetch_add(1, Ordering::Relaxed);
                });
                assert!(done.iter().all(|n| n.load(Ordering::Relaxed) == 1));
            }
        });
    }
}

#[test]
fn work_of_a_late_shard_is_taken_from_the_tail() {
    // The mate never looks: the lead does all of it, and only then waits.
    let (mut crew, mut mates) = Crew::with_mates(0, 1);
    let done = AtomicU32::new(0);
    let mut mate = mates.remove(0);
    std::thread::scope(|scope| {
        let seen = &done;
        scope.spawn(move || {
            while seen.load(Ordering::Relaxed) < 10 {
                std::thread::yield_now();
            }
            assert!(mate.help(&mut 0));
            assert!(!mate.help(&mut 0));
        });
        crew.each(10, |own, _| {
            *own += 1;
            done.fetch_add(1, Ordering::Relaxed);
        });
    });
    assert_eq!(*crew.own(), 10);
}

#[test]
fn a_panic_on_any_thread_reaches_the_lead_and_nobody_waits_for_ever() {
    for culprit in [0, 50, 99] {
        let (mut crew, mut mates) = Crew::with_mates(0, 1);
        let mut mate = mates.remove(0);
        let thread = std::thread::spawn(move || {
            catch_unwind(AssertUnwindSafe(|| while !mate.help(&mut 0) {})).is_err()
        });
        let lead = catch_unwind(AssertUnwindSafe(|| {
            crew.each(100, |_, chunk| assert!(chunk != culprit));
        }));
        assert!(lead.is_err(), "chunk {culprit}");
        let _ = thread.join();
    }
}

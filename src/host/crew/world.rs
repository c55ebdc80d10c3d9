//! What a crew is made of: the machine's atomics, or in tests loom's, which run a crew through
//! every order its threads could take.

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicU64, Ordering};

/// A number that several threads see.
pub trait Word {
    fn new(value: u64) -> Self;
    fn load_relaxed(&self) -> u64;
    fn load_acquire(&self) -> u64;
    fn store_relaxed(&self, value: u64);
    fn store_release(&self, value: u64);
    /// `Err` holds what was there instead.
    fn exchange_relaxed(&self, seen: u64, value: u64) -> Result<(), u64>;
}

/// A place that is written while nobody looks.
pub trait Slot<T> {
    fn new(value: T) -> Self;
    /// # Safety
    /// Nobody else reads or writes it at the same time.
    unsafe fn write(&self, value: T);
    /// # Safety
    /// Nobody writes it while the reference lives.
    unsafe fn read(&self) -> &T;
}

pub trait World {
    type Word: Word;
    type Slot<T>: Slot<T>;
    type Patience;

    fn patience() -> Self::Patience;
    /// Lets some time pass while another thread is waited for.
    fn relax(patience: &mut Self::Patience);
}

/// The real one.
pub struct Machine;

/// Turns that are spun before the processor is offered to others: some ten microseconds. Shards
/// have cores of their own, so this is for hosts where they have not.
const SPINS: u32 = 1 << 10;

impl World for Machine {
    type Word = AtomicU64;
    type Slot<T> = UnsafeCell<T>;
    type Patience = u32;

    fn patience() -> u32 {
        0
    }

    fn relax(spins: &mut u32) {
        if *spins < SPINS {
            *spins += 1;
            std::hint::spin_loop();
        } else {
            std::thread::yield_now();
        }
    }
}

impl Word for AtomicU64 {
    fn new(value: u64) -> Self {
        AtomicU64::new(value)
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
        let (ok, failed) = (Ordering::Relaxed, Ordering::Relaxed);
        self.compare_exchange_weak(seen, value, ok, failed).map(drop)
    }
}

impl<T> Slot<T> for UnsafeCell<T> {
    fn new(value: T) -> Self {
        UnsafeCell::new(value)
    }

    unsafe fn write(&self, value: T) {
        // SAFETY: the caller's promise.
        unsafe { *self.get() = value };
    }

    unsafe fn read(&self) -> &T {
        // SAFETY: the caller's promise.
        unsafe { &*self.get() }
    }
}

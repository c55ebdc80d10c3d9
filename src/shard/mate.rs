//! A mate: a shard that helps.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::time::{Duration, Instant};

use rtrb::{Consumer, Producer, PushError};

use super::breath::{Breath, Pause};
use super::count::{self, Listener, Teller};
use super::{Counters, Error, Order};
use crate::base::trace::What;
use crate::host::bell::{Bell, Ear};
use crate::host::crew::Mate;
use crate::host::mover::{self, Mover, Setup};
use crate::model::Hand;
use crate::model::compute::labelled;

/// How long a mate spins between two steps before it parks. Waking it costs 20 to 90 µs; between
/// two tokens the lead chooses one, prints it and is back well within this.
const LINGER: Duration = Duration::from_millis(2);
/// Turns between two looks at the clock.
const TURNS: u32 = 256;
/// Turns within a step before the processor is offered to others, which matters where shards share
/// one.
const SPINS: u32 = 1 << 10;

/// The lead's end of the ring to one mate.
pub struct Line {
    orders: Producer<Order>,
    parked: Arc<AtomicBool>,
    bell: Bell,
    counts: Listener,
}

/// The mate's end.
pub struct Post {
    orders: Consumer<Order>,
    parked: Arc<AtomicBool>,
    bell: Bell,
    counts: Teller,
}

/// A ring from the lead to a mate, and a bell for when the mate sleeps.
pub fn line() -> std::io::Result<(Line, Post)> {
    let (to, from) = rtrb::RingBuffer::new(super::ORDERS);
    let (parked, bell) = (Arc::new(AtomicBool::new(false)), Bell::new()?);
    let (teller, counts) = count::pair();
    let line = Line { orders: to, parked: Arc::clone(&parked), bell: bell.clone(), counts };
    Ok((line, Post { orders: from, parked, bell, counts: teller }))
}

impl Line {
    pub fn tell(&mut self, mut order: Order) {
        // The lead never has more orders under way than the ring holds: a mate takes each before
        // the step after it can end.
        while let Err(PushError::Full(back)) = self.orders.push(order) {
            order = back;
            std::thread::yield_now();
        }
        // Either the mate sees the order after it said that it parks, or this sees that it parks.
        fence(Ordering::SeqCst);
        if self.parked.load(Ordering::Relaxed) {
            self.bell.ring();
        }
    }
}

impl Line {
    /// Gives the mate a mover, and the caller the other end of a line to it.
    pub fn equip(&mut self, setup: Setup) -> mover::Line {
        let (line, kit) = mover::line(setup, Some(self.bell.clone()));
        self.tell(Order::Equip(Box::new(kit)));
        line
    }

    /// What the mate has last said of itself.
    pub fn counters(&mut self) -> Counters {
        self.counts.latest()
    }
}

/// A mate on its reactor.
pub struct Life {
    post: Post,
    ear: Ear,
    breath: Breath,
    mate: Mate<Hand>,
    hand: Hand,
    counters: Counters,
}

impl Life {
    /// To be called inside the mate's reactor.
    pub fn new(post: Post, mate: Mate<Hand>, breath: Duration) -> Result<Life, Error> {
        let ear = post.bell.ear().map_err(|e| Error::Reactor { reason: e.to_string() })?;
        let (breath, hand) = (Breath::new(breath)?, Hand::default());
        Ok(Life { post, ear, breath, mate, hand, counters: Counters::default() })
    }

    /// Until the lead says to leave.
    pub async fn live(mut self) {
        loop {
            match self.next().await {
                Order::Begin => {
                    if let Order::Leave = self.step().await {
                        return;
                    }
                }
                Order::Rest => {}
                // The lead hears of it by the kit's own line.
                Order::Equip(kit) => match Mover::open(*kit) {
                    Ok(mover) => self.hand.equip(Box::new(mover)),
                    Err(_) => self.hand.drive = None,
                },
                Order::Trace(tracers) => {
                    let [stages, reads] = *tracers;
                    self.hand.trace(stages, reads);
                }
                Order::Leave => return,
            }
        }
    }

    /// The next order; parks while there is none, and nothing to move.
    async fn next(&mut self) -> Order {
        let (mut turns, began) = (0u32, Instant::now());
        if self.post.counts.is_due(began) {
            self.report(began);
        }
        loop {
            if let Ok(order) = self.post.orders.pop() {
                return order;
            }
            self.hand.turn();
            turns += 1;
            std::hint::spin_loop();
            if !turns.is_multiple_of(TURNS) {
                continue;
            }
            if began.elapsed() < LINGER {
                std::thread::yield_now();
                continue;
            }
            if !self.hand.may_rest() {
                std::thread::yield_now();
                continue;
            }
            let asleep = Instant::now();
            self.report(asleep);
            self.post.parked.store(true, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            if self.post.orders.is_empty() {
                self.ear.listen().await;
            }
            self.post.parked.store(false, Ordering::Relaxed);
            self.counters.parked += asleep.elapsed();
        }
    }

    /// Helps until the lead says that the step is over, or everything.
    async fn step(&mut self) -> Order {
        let (mut turns, mut free) = (0u32, Instant::now());
        loop {
            if self.mate.is_called() {
                let began = Instant::now();
                self.mate.help(&mut self.hand);
                let Pause { begin: ended, end } = self.breath.breathe().await;
                self.counters.spinning += began.saturating_duration_since(free);
                self.counters.computing += ended.saturating_duration_since(began);
                if self.hand.tracer.is_on() {
                    self.note(began, Pause { begin: ended, end });
                }
                if self.post.counts.is_due(end) {
                    self.report(end);
                }
                (turns, free) = (0, end);
                continue;
            }
            match self.post.orders.pop() {
                // The step before was given up in the middle.
                Ok(Order::Begin) | Err(_) => {}
                // Only between steps.
                Ok(Order::Equip(_) | Order::Trace(_)) => {}
                Ok(order) => {
                    self.counters.spinning += free.elapsed();
                    return order;
                }
            }
            self.hand.turn();
            turns += 1;
            match turns < SPINS {
                true => std::hint::spin_loop(),
                false => std::thread::yield_now(),
            }
        }
    }

    /// Notes what it did of a stage, and its breath.
    fn note(&mut self, began: Instant, pause: Pause) {
        let (stage, layer) = labelled(self.mate.label());
        let what = What::Stage { name: stage.name(), layer, waited: 0 };
        self.hand.tracer.note(what, began, pause.begin);
        if pause.end > pause.begin {
            self.hand.tracer.note(What::Breath, pause.begin, pause.end);
        }
    }

    /// Says what it has counted.
    fn report(&mut self, now: Instant) {
        let chunks = self.mate.chunks();
        let moved = self.hand.drive.as_ref().map(|drive| drive.moved()).unwrap_or_default();
        self.counters.chunks = chunks.done;
        self.counters.stolen = chunks.stolen;
        self.counters.reads = moved.reads;
        self.counters.bytes = moved.bytes;
        self.post.counts.tell(now, self.counters);
    }
}

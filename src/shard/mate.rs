//! A mate: a shard that helps.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::time::{Duration, Instant};

use rtrb::{Consumer, Producer, PushError};

use super::breath::Breath;
use super::{Error, Order};
use crate::host::bell::{Bell, Ear};
use crate::host::crew::Mate;
use crate::host::mover::{self, Mover, Setup};
use crate::model::Hand;

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
}

/// The mate's end.
pub struct Post {
    orders: Consumer<Order>,
    parked: Arc<AtomicBool>,
    bell: Bell,
}

/// A ring from the lead to a mate, and a bell for when the mate sleeps.
pub fn line() -> std::io::Result<(Line, Post)> {
    let (to, from) = rtrb::RingBuffer::new(super::ORDERS);
    let (parked, bell) = (Arc::new(AtomicBool::new(false)), Bell::new()?);
    let line = Line { orders: to, parked: Arc::clone(&parked), bell: bell.clone() };
    Ok((line, Post { orders: from, parked, bell }))
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
}

impl Post {
    /// The next order; parks while there is none, and nothing to move.
    async fn next(&mut self, ear: &Ear, hand: &mut Hand) -> Order {
        let (mut turns, began) = (0u32, Instant::now());
        loop {
            if let Ok(order) = self.orders.pop() {
                return order;
            }
            hand.turn();
            turns += 1;
            std::hint::spin_loop();
            if !turns.is_multiple_of(TURNS) {
                continue;
            }
            if began.elapsed() < LINGER {
                std::thread::yield_now();
                continue;
            }
            if !hand.may_rest() {
                std::thread::yield_now();
                continue;
            }
            self.parked.store(true, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            if self.orders.is_empty() {
                ear.listen().await;
            }
            self.parked.store(false, Ordering::Relaxed);
        }
    }
}

/// A mate on its reactor.
pub struct Life {
    post: Post,
    ear: Ear,
    breath: Breath,
    mate: Mate<Hand>,
    hand: Hand,
}

impl Life {
    /// To be called inside the mate's reactor.
    pub fn new(post: Post, mate: Mate<Hand>, breath: Duration) -> Result<Life, Error> {
        let ear = post.bell.ear().map_err(|e| Error::Reactor { reason: e.to_string() })?;
        Ok(Life { post, ear, breath: Breath::new(breath)?, mate, hand: Hand::default() })
    }

    /// Until the lead says to leave.
    pub async fn live(mut self) {
        loop {
            match self.post.next(&self.ear, &mut self.hand).await {
                Order::Begin => {
                    if let Order::Leave = self.step().await {
                        return;
                    }
                }
                Order::Rest => {}
                // The lead hears of it by the kit's own line.
                Order::Equip(kit) => {
                    self.hand.drive = Mover::open(*kit).ok().map(|mover| Box::new(mover) as _);
                }
                Order::Leave => return,
            }
        }
    }

    /// Helps until the lead says that the step is over, or everything.
    async fn step(&mut self) -> Order {
        let mut turns = 0u32;
        loop {
            if self.mate.help(&mut self.hand) {
                self.breath.breathe().await;
                turns = 0;
                continue;
            }
            match self.post.orders.pop() {
                // The step before was given up in the middle.
                Ok(Order::Begin) | Err(_) => {}
                // Only between steps.
                Ok(Order::Equip(_)) => {}
                Ok(order) => return order,
            }
            self.hand.turn();
            turns += 1;
            match turns < SPINS {
                true => std::hint::spin_loop(),
                false => std::thread::yield_now(),
            }
        }
    }
}

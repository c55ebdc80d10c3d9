//! The mover: the only one that brings weights from a pack into memory.
//!
//! Owns the slots, what is on its way into each, and what was lost. Decides nothing about who gets
//! a slot (that is [`residency`](super::residency), a pure function of the routing) and touches no
//! disk (that is a [`Drive`], lent by the caller, always the same): it turns grants into reads
//! and reads into slabs.
//!
//! ```text
//! enter      a layer and the experts it needs
//! open       a window's experts are needed now: granted, sent for, pinned
//! take_in    blocks that came; slabs that are whole can be computed with
//! close      the window is computed: its slabs may go
//! forecast   experts that will probably be needed: sent for behind everything else
//! ```
//!
//! What residency grants and what has arrived are two things: a slot may be granted anew while
//! blocks of the old slab are still away. The new slab's reads then begin when the last is back.

mod fill;
mod reading;
mod slots;
mod trunk;

use std::fmt;
use std::time::Duration;

use super::pack::Pack;
use super::residency::{Grant, History, HistoryError, Policy, Residency, Shape};
use crate::host::arena::{Arena, Region};
use crate::host::direct::SECTOR;
use crate::host::drive::{Done, Drive, Fault, Urgency};

pub use fill::Trouble;
pub use reading::Reading;
pub use slots::{Part, Slots};
pub use trunk::{LostTrunk, room_of};

use fill::Fill;
use trunk::Trunk;

/// What there is room for.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Slabs in memory.
    pub slots: usize,
    /// Experts in a window: one is computed while the next is read.
    pub window: usize,
}

/// Memory for a slab, and the slab that has it.
#[derive(Default)]
struct Slot {
    /// What residency gave the slot to.
    slab: Option<Slab>,
    fill: Fill,
    /// What `fill` brings, or brought last.
    filling: Option<Slab>,
    /// Its reads could not begin yet: blocks of the slab before it are away.
    waits: Option<Urgency>,
    /// Sent for before it was needed, and not needed yet.
    forecast: bool,
    /// The memory, while it is neither away nor a slab.
    spare: Option<Region>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slab {
    ordinal: usize,
    expert: u32,
}

/// A slab that could not be read, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    pub layer: usize,
    pub expert: u32,
    pub trouble: Trouble,
}

/// What a user should know about the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Nothing has come for so long.
    Silent(Duration),
    /// After so long it answers again.
    Answers(Duration),
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Notice::Silent(time) => {
                write!(f, "the disk has not answered for {:.1} s", time.as_secs_f64())
            }
            Notice::Answers(time) => {
                write!(f, "the disk answers again, after {:.1} s", time.as_secs_f64())
            }
        }
    }
}

pub struct Staging {
    pack: Pack,
    residency: Residency,
    window: usize,
    slots: Slots,
    fills: Vec<Slot>,
    /// Fills begun: a part of every ticket, so that no two have the same.
    begun: u64,
    grants: Vec<Grant>,
    lost: Vec<Loss>,
    reading: Reading,
    patience: Patience,
    /// The step before did not end.
    in_step: bool,
    trunk: Trunk,
}

/// How long a step waits for the disk.
struct Patience {
    /// Since when there has been nothing to compute, and since when nothing has come.
    waiting: Option<Duration>,
    silent: Duration,
    complained: bool,
    notice: Option<Notice>,
    most: Duration,
}

/// Slots and trunk matrices are numbered in so many bits of a ticket.
const PLACE_BITS: u32 = 24;
/// Tickets of the trunk have this bit, tickets of slots do not.
const OF_TRUNK: u64 = 1 << 63;
/// A disk that is silent for so long is worth a word.
const SILENCE: Duration = Duration::from_secs(2);

/// Bytes of a slot: the largest slab's.
pub fn slot_bytes(pack: &Pack) -> usize {
    let largest = pack.layers().iter().map(|layer| layer.slab_bytes).max();
    largest.unwrap_or(0).next_multiple_of(SECTOR)
}

impl Staging {
    /// Takes the memory of `room.slots` slots from `arena`. A step that has waited for one layer's
    /// slabs longer than `patience` goes on without them.
    ///
    /// # Panics
    /// If it is not there.
    pub fn new(
        pack: Pack,
        arena: &Arena,
        room: Room,
        policy: Policy,
        patience: Duration,
    ) -> Staging {
        let bytes = slot_bytes(&pack);
        let slot = |_| Slot {
            spare: Some(arena.take(bytes, SECTOR).expect("an arena with room for all slots")),
            ..Slot::default()
        };
        let layers = pack.layers();
        let shape = Shape {
            layers: layers.len(),
            experts: layers.iter().map(|layer| layer.experts).max().unwrap_or(0),
            slots: room.slots,
        };
        Staging {
            residency: Residency::new(shape, policy),
            window: room.window.clamp(1, room.slots.max(1)),
            slots: Slots::new(&pack, room.slots),
            fills: (0..room.slots).map(slot).collect(),
            begun: 0,
            grants: Vec::new(),
            lost: Vec::new(),
            reading: Reading::default(),
            patience: Patience {
                waiting: None,
                silent: Duration::ZERO,
                complained: false,
                notice: None,
                most: patience,
            },
            in_step: false,
            trunk: Trunk::default(),
            pack,
        }
    }

    /// The slabs, for computing.
    pub fn slots(&self) -> &Slots {
        &self.slots
    }

    pub fn reading(&self) -> Reading {
        self.reading
    }

    pub fn pack(&self) -> &Pack {
        &self.pack
    }

    pub fn residency(&self) -> &Residency {
        &self.residency
    }

    /// What there is to say since the last time.
    pub fn notice(&mut self) -> Option<Notice> {
        self.patience.notice.take()
    }

    /// A step begins. What one that was given up had asked for is asked for no more.
    pub fn begin_step(&mut self, drive: &mut dyn Drive) {
        if std::mem::replace(&mut self.in_step, true) {
            for slot in &mut self.fills {
                slot.give_up(drive);
            }
        }
        self.patience.waiting = None;
        self.lost.clear();
        self.residency.begin_step();
    }

    pub fn end_step(&mut self) {
        self.in_step = false;
    }

    /// Experts that a window has at most.
    pub fn window(&self) -> usize {
        self.window
    }

    /// How many of these experts, from the first, a window may have now: at least one while no
    /// window is open, none if the one that is leaves no room.
    pub fn fitting(&self, layer: usize, experts: &[u32]) -> usize {
        let experts = &experts[..experts.len().min(self.window)];
        self.residency.fitting(self.slots.ordinal(layer), experts)
    }

    /// The step comes to a layer and needs these experts of it: forecasts that were wrong need not
    /// be read any more.
    pub fn enter(&mut self, drive: &mut dyn Drive, layer: usize, experts: &[u32]) {
        let ordinal = self.slots.ordinal(layer);
        let mut grants = std::mem::take(&mut self.grants);
        grants.clear();
        self.residency.enter(ordinal, experts, &mut grants);
        for &Grant { slot, .. } in &grants {
            let slot = &mut self.fills[slot as usize];
            if std::mem::take(&mut slot.forecast) {
                self.reading.forecast_vain += self.pack.layers()[ordinal].slab_bytes as u64;
            }
            slot.give_up(drive);
        }
        self.grants = grants;
    }

    /// These experts are needed now.
    pub fn open(&mut self, drive: &mut dyn Drive, layer: usize, experts: &[u32]) {
        let ordinal = self.slots.ordinal(layer);
        let bytes = self.pack.layers()[ordinal].slab_bytes as u64;
        self.lost.retain(|loss| loss.layer != layer || !experts.contains(&loss.expert));
        let mut grants = std::mem::take(&mut self.grants);
        grants.clear();
        self.residency.demand(ordinal, experts, &mut grants);
        for &Grant { expert, slot, .. } in &grants {
            let forecast = std::mem::take(&mut self.fills[slot as usize].forecast);
            match self.want(drive, slot, Slab { ordinal, expert }, Urgency::Demand) {
                true => self.reading.demanded += bytes,
                false if forecast => self.reading.forecast_used += bytes,
                false => self.reading.held += bytes,
            }
        }
        self.grants = grants;
        drive.turn();
    }

    /// The window is computed.
    pub fn close(&mut self, layer: usize, experts: &[u32]) {
        self.residency.release(self.slots.ordinal(layer), experts);
    }

    /// Experts that a layer will probably need, the likeliest first: at most `most` of them are
    /// sent for, behind all that is needed now.
    pub fn forecast(&mut self, drive: &mut dyn Drive, layer: usize, ranked: &[u32], most: usize) {
        let ordinal = self.slots.ordinal(layer);
        let mut grants = std::mem::take(&mut self.grants);
        grants.clear();
        self.residency.forecast(ordinal, ranked, most, &mut grants);
        for &Grant { expert, slot, .. } in &grants {
            if self.want(drive, slot, Slab { ordinal, expert }, Urgency::Forecast) {
                self.fills[slot as usize].forecast = true;
            }
        }
        self.grants = grants;
        drive.turn();
    }

    /// Begins with what was used before: the likeliest slabs are read when there is nothing else
    /// to read.
    pub fn recall(&mut self, drive: &mut dyn Drive, history: &History) -> Result<(), HistoryError> {
        self.residency.recall(history)?;
        self.warm(drive, &history.ranked());
        Ok(())
    }

    /// Fills the slots that are empty with some of each layer's slabs, when there is nothing else
    /// to read: any is better than none, and a host may take seconds to give memory that is touched
    /// for the first time.
    pub fn fill_up(&mut self, drive: &mut dyn Drive) {
        let layers = self.pack.layers();
        let most = layers.iter().map(|layer| layer.experts).max().unwrap_or(0);
        let every: Vec<(usize, u32)> = (0..most)
            .flat_map(|expert| (0..layers.len()).map(move |ordinal| (ordinal, expert)))
            .filter(|&(ordinal, expert)| expert < layers[ordinal].experts)
            .map(|(ordinal, expert)| (ordinal, expert as u32))
            .collect();
        self.warm(drive, &every);
    }

    /// Sends for slabs while slots are empty.
    fn warm(&mut self, drive: &mut dyn Drive, ranked: &[(usize, u32)]) {
        let mut grants = Vec::new();
        self.residency.warm(ranked, &mut grants);
        for (ordinal, Grant { expert, slot, .. }) in grants {
            self.want(drive, slot, Slab { ordinal, expert }, Urgency::Warm);
        }
    }

    /// Sees to it that a slab comes into its slot. `true`: it has to be read for this.
    fn want(&mut self, drive: &mut dyn Drive, at: u32, slab: Slab, urgency: Urgency) -> bool {
        let slot = &mut self.fills[at as usize];
        if slot.slab == Some(slab) {
            if self.slots.whole[at as usize].is_some() {
                return false;
            }
            if let Some(waits) = &mut slot.waits {
                *waits = (*waits).max(urgency);
                return false;
            }
            if slot.fill.comes() {
                drive.hurry(slot.fill.ticket(), urgency);
                return false;
            }
        } else {
            if let Some(before) = slot.slab.replace(slab) {
                self.slots.forget(at, before.ordinal, before.expert);
            }
            if let Some(memory) = self.slots.whole[at as usize].take() {
                slot.spare = Some(memory);
            }
            slot.give_up(drive);
            self.slots.learn(at, slab.ordinal, slab.expert);
        }
        slot.waits = Some(urgency);
        self.begin(drive, at);
        true
    }

    /// Begins the reads a slot waits for, if its memory is back.
    fn begin(&mut self, drive: &mut dyn Drive, at: u32) {
        let slot = &mut self.fills[at as usize];
        let (Some(slab), Some(urgency)) = (slot.slab, slot.waits) else { return };
        let Some(memory) = slot.spare.take() else { return };
        (slot.waits, slot.filling) = (None, Some(slab));
        self.begun += 1;
        let ticket = (self.begun << PLACE_BITS | u64::from(at)) & !OF_TRUNK;
        let blocks = self.pack.slab_blocks(slab.ordinal, slab.expert as usize);
        slot.fill.begin(drive, ticket, memory, blocks, urgency);
    }

    /// Takes in what has come.
    pub fn take_in(&mut self, drive: &mut dyn Drive) {
        while let Some(done) = drive.done() {
            self.reading.reads += 1;
            if done.outcome != Err(Fault::Dropped) {
                self.reading.read += done.into.len() as u64;
                self.patience.hears(drive);
            }
            match done.ticket & OF_TRUNK {
                0 => self.take_block(drive, done),
                _ => self.trunk.take(drive, &self.pack, done),
            }
        }
    }

    fn take_block(&mut self, drive: &mut dyn Drive, done: Done) {
        let at = (done.ticket & ((1 << PLACE_BITS) - 1)) as u32;
        let slot = &mut self.fills[at as usize];
        let Some(slab) = slot.filling else { unreachable!("blocks come after they were sent for") };
        let pack = &self.pack;
        let block = |i| pack.slab_blocks(slab.ordinal, slab.expert as usize).nth(i);
        let Some((memory, outcome)) = slot.fill.take(drive, done, block) else { return };
        self.reading.again += slot.fill.reread() as u64;
        let wanted = slot.slab == Some(slab);
        if outcome.is_ok() && wanted {
            slot.waits = None;
            self.slots.whole[at as usize] = Some(memory);
            return;
        }
        slot.spare = Some(memory);
        if slot.waits.is_some() {
            return self.begin(drive, at);
        }
        if wanted {
            slot.slab = None;
            self.slots.forget(at, slab.ordinal, slab.expert);
            if let Err(trouble @ Trouble::Bad { .. }) = outcome {
                self.lose(slab, trouble);
            }
        }
    }

    /// Goes on without a slab.
    fn lose(&mut self, slab: Slab, trouble: Trouble) {
        let Slab { ordinal, expert } = slab;
        self.lost.push(Loss { layer: self.pack.layers()[ordinal].index, expert, trouble });
        self.reading.lost += 1;
        self.residency.lost(ordinal, expert);
    }

    /// Whether a slab that was asked for will not come, and why.
    pub fn loss(&self, layer: usize, expert: u32) -> Option<Loss> {
        self.lost.iter().find(|loss| (loss.layer, loss.expert) == (layer, expert)).copied()
    }

    /// There is nothing to compute before one of these experts comes.
    pub fn wait(
        &mut self,
        drive: &mut dyn Drive,
        layer: usize,
        experts: impl Iterator<Item = u32>,
    ) {
        drive.turn();
        let now = drive.now();
        let since = *self.patience.waiting.get_or_insert(now);
        if now.saturating_sub(since) < self.patience.most {
            self.patience.looks(now, since);
            return;
        }
        let ordinal = self.slots.ordinal(layer);
        experts.for_each(|expert| self.lose(Slab { ordinal, expert }, Trouble::Late));
        self.go_on(drive);
    }

    /// There is something to compute.
    pub fn go_on(&mut self, drive: &dyn Drive) {
        if let Some(since) = self.patience.waiting.take() {
            self.reading.waited += drive.now().saturating_sub(since);
        }
    }
}

impl Slot {
    /// Nothing more needs to come into it.
    fn give_up(&mut self, drive: &mut dyn Drive) {
        self.waits = None;
        if self.fill.comes() {
            self.fill.give_up(drive);
        }
    }
}

impl Patience {
    /// Something came.
    fn hears(&mut self, drive: &dyn Drive) {
        let now = drive.now();
        if std::mem::take(&mut self.complained) {
            self.notice = Some(Notice::Answers(now.saturating_sub(self.silent)));
        }
        self.silent = now;
    }

    /// Nothing came, and the step waits.
    fn looks(&mut self, now: Duration, since: Duration) {
        let silence = now.saturating_sub(self.silent.max(since));
        if silence > SILENCE && !std::mem::replace(&mut self.complained, true) {
            self.silent = self.silent.max(since);
            self.notice = Some(Notice::Silent(silence));
        }
    }
}

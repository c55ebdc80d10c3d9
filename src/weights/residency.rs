//! Which slab has which slot: a pure state machine.
//!
//! Decisions follow from the routing alone, in its order; when bytes arrive is not known here, so
//! all shards that are fed the same routing decide alike without exchanging a word. No I/O, no
//! clock, no chance, and no allocation once the caller's lists have grown.
//!
//! A step calls, layer by layer: [`Residency::enter`] with every expert that the layer needs, then
//! for each window [`Residency::demand`], and [`Residency::release`] when it was computed. What
//! the layer still needs is kept for its window. Next to that, [`Residency::forecast`] for a layer
//! to come.
//!
//! **Victims.** Every policy says how far off a slab's next use is thought to be; the farthest
//! goes. Within a layer that order changes only when a step comes to the layer, so its candidate
//! is looked for when that or the slab's going changed it, and a victim costs one comparison per
//! layer.
//!
//! **Bypass.** What is read must lie somewhere while it is computed, and a slab that nobody will
//! soon need again is itself the farthest as soon as its window is released: the next one missing
//! takes its place. So a sweep runs through as many slots as it pins at a time, and the others
//! keep what they hold. No slots are set apart for it: they would be reused in the order of
//! arrival, which is worse than by expectation.

mod belady;
mod history;
mod policy;

use std::collections::VecDeque;

pub use belady::Belady;
pub use history::{History, HistoryError};
pub use policy::Policy;

use policy::Ranks;

/// The sizes that the plan decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Layers that have experts.
    pub layers: usize,
    /// Experts in each of them.
    pub experts: usize,
    pub slots: usize,
}

impl Shape {
    pub fn slabs(&self) -> usize {
        self.layers * self.experts
    }
}

/// A slab's slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    pub expert: u32,
    pub slot: u32,
    pub what: What,
}

/// What is in the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A step has asked for it before: its bytes were read then.
    Held,
    /// A forecast or the warm-up granted it: its bytes are there, or on their way, or the stage
    /// gave the reads up.
    Coming,
    /// Whatever was there is forgotten: its bytes must be read.
    Read,
}

/// What has been counted since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Demanded and held.
    pub hits: u64,
    /// Demanded and granted before by a forecast or the warm-up.
    pub coming: u64,
    /// Demanded and not there.
    pub misses: u64,
    /// Slots given to forecasts, and what became of them.
    pub forecasts: u64,
    pub forecasts_used: u64,
    pub forecasts_in_vain: u64,
    /// Slabs that gave up their slot.
    pub evictions: u64,
    /// Among them, those that gave way to a slab that is expected later than they are.
    pub bypasses: u64,
}

impl Counters {
    pub fn demanded(&self) -> u64 {
        self.hits + self.coming + self.misses
    }
}

const NONE: u32 = u32::MAX;

/// It has a slot.
const HELD: u8 = 1;
/// A window that is open computes with it.
const PINNED: u8 = 2;
/// The layer that was entered needs it in a window still to come.
const NEEDED: u8 = 4;
/// Granted by a forecast or the warm-up and not demanded since.
const FRESH: u8 = 8;
/// Forecast for the next time that its layer comes.
const AWAITED: u8 = 16;
/// Forecast and not demanded: first to be reused.
const VAIN: u8 = 32;
/// A forecast granted it, and its layer has not come since.
const GUESSED: u8 = 64;

/// A layer's candidate for eviction.
#[derive(Clone, Copy)]
enum Candidate {
    Unknown,
    None,
    Slab(u32),
}

pub struct Residency {
    shape: Shape,
    ranks: Ranks,
    flags: Vec<u8>,
    /// Slot by slab and slab by slot.
    slot_of: Vec<u32>,
    slab_in: Vec<u32>,
    /// Slots that hold nothing, the next one last.
    free: Vec<u32>,
    /// Slabs marked VAIN, oldest first.
    vain: VecDeque<u32>,
    candidates: Vec<Candidate>,
    /// Slabs held, of each layer.
    held: Vec<u32>,
    /// Slabs marked PINNED or NEEDED, of each layer.
    busy: Vec<u32>,
    pinned: usize,
    /// Held and NEEDED, not yet PINNED.
    owed: usize,
    /// The layer that was entered last.
    now: usize,
    counters: Counters,
}

impl Residency {
    /// # Panics
    /// If there is no slab, or no slot.
    pub fn new(shape: Shape, policy: Policy) -> Residency {
        let slabs = shape.slabs();
        assert!(slabs > 0 && slabs < NONE as usize, "{shape:?}");
        assert!(shape.slots > 0 && shape.slots < NONE as usize, "{shape:?}");
        Residency {
            shape,
            ranks: Ranks::new(shape, policy),
            flags: vec![0; slabs],
            slot_of: vec![NONE; slabs],
            slab_in: vec![NONE; shape.slots],
            free: (0..shape.slots as u32).rev().collect(),
            vain: VecDeque::with_capacity(shape.slots),
            candidates: vec![Candidate::None; shape.layers],
            held: vec![0; shape.layers],
            busy: vec![0; shape.layers],
            pinned: 0,
            owed: 0,
            now: 0,
            counters: Counters::default(),
        }
    }

    pub fn shape(&self) -> Shape {
        self.shape
    }

    pub fn policy(&self) -> Policy {
        self.ranks.policy()
    }

    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// The slot of a slab, if it has one.
    pub fn slot(&self, layer: usize, expert: u32) -> Option<u32> {
        let slot = self.slot_of[self.slab(layer, expert)];
        (slot != NONE).then_some(slot)
    }

    /// Layer and expert of what a slot holds.
    pub fn slab_in(&self, slot: u32) -> Option<(usize, u32)> {
        let slab = self.slab_in[slot as usize];
        (slab != NONE).then(|| self.name(slab as usize))
    }

    /// A step begins. What an abandoned one left pinned or needed is released.
    pub fn begin_step(&mut self) {
        for layer in 0..self.shape.layers {
            if self.busy[layer] > 0 {
                let first = layer * self.shape.experts;
                for flags in &mut self.flags[first..first + self.shape.experts] {
                    *flags &= !(PINNED | NEEDED);
                }
                self.busy[layer] = 0;
                self.candidates[layer] = Candidate::Unknown;
            }
        }
        self.pinned = 0;
        self.owed = 0;
    }

    /// The step comes to a layer where it needs these experts, each named once. `vain` hears which
    /// forecasts for the layer were wrong: their slots are the first to be reused, and reads that
    /// are not on their way yet may be given up.
    pub fn enter(&mut self, layer: usize, experts: &[u32], vain: &mut Vec<Grant>) {
        self.now = layer;
        let first = layer * self.shape.experts;
        for &expert in experts {
            let slab = self.slab(layer, expert);
            if self.flags[slab] & (NEEDED | PINNED) == 0 {
                self.flags[slab] |= NEEDED;
                self.busy[layer] += 1;
                self.owed += usize::from(self.flags[slab] & HELD != 0);
            }
        }
        self.ranks.learn(layer, experts);
        for slab in first..first + self.shape.experts {
            let flags = self.flags[slab];
            if flags & AWAITED == 0 {
                continue;
            }
            self.flags[slab] &= !(AWAITED | GUESSED);
            if flags & GUESSED == 0 {
                continue;
            }
            if flags & NEEDED != 0 {
                self.counters.forecasts_used += 1;
            } else {
                self.counters.forecasts_in_vain += 1;
                self.flags[slab] |= VAIN;
                self.vain.push_back(slab as u32);
                vain.push(self.grant(slab, What::Coming));
            }
        }
        self.candidates[layer] = Candidate::Unknown;
    }

    /// How many missing experts the windows opened next may have, all in all. Never 0 while no
    /// window is open.
    pub fn room(&self) -> usize {
        let spare = self.shape.slots - self.pinned - self.owed;
        // With hardly any slots, what a later window needs must give way to the first.
        if spare == 0 && self.pinned == 0 { self.shape.slots } else { spare }
    }

    /// How many of these experts, from the first, can be demanded together now. Never 0 while no
    /// window is open.
    pub fn fitting(&self, layer: usize, experts: &[u32]) -> usize {
        let spare = self.shape.slots - self.pinned - self.owed;
        let (mut held, mut missing) = (0, 0);
        for (count, &expert) in experts.iter().enumerate() {
            match self.flags[self.slab(layer, expert)] & HELD != 0 {
                true => held += 1,
                false => missing += 1,
            }
            if missing > spare && (self.pinned > 0 || held + missing > self.shape.slots) {
                return count;
            }
        }
        experts.len()
    }

    /// Opens a window: pins these experts of the layer that was entered, and adds a grant for
    /// each, in the order given. Every one that is missing gets a slot.
    ///
    /// # Panics
    /// If more are missing than there is room for.
    pub fn demand(&mut self, layer: usize, experts: &[u32], out: &mut Vec<Grant>) {
        let first = out.len();
        for &expert in experts {
            let slab = self.slab(layer, expert);
            let flags = self.flags[slab];
            debug_assert!(flags & NEEDED != 0, "expert {expert} of {layer} was not entered");
            let what = match flags & (HELD | FRESH) {
                0 => What::Read,
                HELD => What::Held,
                _ => What::Coming,
            };
            if what != What::Read {
                self.pin(slab, layer);
            }
            match what {
                What::Held => self.counters.hits += 1,
                What::Coming => self.counters.coming += 1,
                What::Read => self.counters.misses += 1,
            }
            out.push(Grant { expert, slot: self.slot_of[slab], what });
        }
        // Only now: the window's own slabs are no victims.
        for grant in &mut out[first..] {
            if grant.what == What::Read {
                let slab = layer * self.shape.experts + grant.expert as usize;
                grant.slot = self.slot_for_demand(slab, layer);
                self.place(slab, grant.slot);
                self.pin(slab, layer);
            }
        }
    }

    /// A window was computed.
    pub fn release(&mut self, layer: usize, experts: &[u32]) {
        for &expert in experts {
            let slab = self.slab(layer, expert);
            let flags = self.flags[slab];
            if flags & PINNED != 0 {
                self.pinned -= 1;
                self.busy[layer] -= 1;
                self.flags[slab] = flags & !(PINNED | NEEDED);
            }
        }
        self.candidates[layer] = Candidate::Unknown;
    }

    /// Slots for experts that a layer to come will perhaps need, likeliest first: adds a grant for
    /// each that is not held, at most `most`. Takes no slot that is pinned, needed, forecast
    /// itself, or holds what is thought to be used earlier. What is held already is kept until
    /// its layer comes.
    pub fn forecast(&mut self, layer: usize, ranked: &[u32], most: usize, out: &mut Vec<Grant>) {
        let mut granted = 0;
        for &expert in ranked {
            let slab = self.slab(layer, expert);
            let flags = self.flags[slab];
            if flags & HELD != 0 {
                if flags & VAIN != 0 {
                    self.forgive(slab);
                }
                self.flags[slab] |= AWAITED;
                self.recheck(layer, slab);
                continue;
            }
            if granted == most {
                continue;
            }
            let Some(slot) = self.slot_for_forecast(layer) else { break };
            self.place(slab, slot);
            self.flags[slab] |= FRESH | AWAITED | GUESSED;
            self.counters.forecasts += 1;
            granted += 1;
            out.push(self.grant(slab, What::Read));
        }
    }

    /// At the start: the slots that are empty go to these slabs (layer and expert, likeliest
    /// first), which is a prior and no reservation.
    pub fn warm(&mut self, ranked: &[(usize, u32)], out: &mut Vec<(usize, Grant)>) {
        for &(layer, expert) in ranked {
            let slab = self.slab(layer, expert);
            if self.flags[slab] & HELD != 0 {
                continue;
            }
            let Some(slot) = self.free.pop() else { break };
            self.place(slab, slot);
            self.flags[slab] |= FRESH;
            out.push((layer, self.grant(slab, What::Read)));
        }
    }

    /// A slab's bytes could not be read: its slot is free, its pin is gone. Where shards must
    /// agree, each has to hear of it at the same point of the routing.
    pub fn lost(&mut self, layer: usize, expert: u32) {
        let slab = self.slab(layer, expert);
        let flags = self.flags[slab];
        if flags & HELD == 0 {
            return;
        }
        if flags & PINNED != 0 {
            self.pinned -= 1;
            // A second try within the step finds it needed.
            self.flags[slab] = (flags & !PINNED) | NEEDED;
        } else if flags & NEEDED != 0 {
            self.owed -= 1;
        }
        let slot = self.slot_of[slab];
        self.vacate(slab);
        self.free.push(slot);
    }

    /// What has been learnt of the routing, to be saved beside the pack.
    pub fn history(&self) -> History {
        self.ranks.history()
    }

    /// Begins with what an earlier run learnt. Refused if it is of a model of another shape.
    pub fn recall(&mut self, history: &History) -> Result<(), HistoryError> {
        history.check(self.shape)?;
        self.ranks.recall(history);
        self.candidates.fill(Candidate::Unknown);
        Ok(())
    }

    fn slab(&self, layer: usize, expert: u32) -> usize {
        assert!(layer < self.shape.layers && (expert as usize) < self.shape.experts);
        layer * self.shape.experts + expert as usize
    }

    fn name(&self, slab: usize) -> (usize, u32) {
        (slab / self.shape.experts, (slab % self.shape.experts) as u32)
    }

    fn grant(&self, slab: usize, what: What) -> Grant {
        Grant { expert: self.name(slab).1, slot: self.slot_of[slab], what }
    }

    /// Pins a slab that is held and needed.
    fn pin(&mut self, slab: usize, layer: usize) {
        let flags = self.flags[slab];
        if flags & VAIN != 0 {
            self.forgive(slab);
        }
        if flags & PINNED == 0 {
            self.pinned += 1;
            self.busy[layer] += u32::from(flags & NEEDED == 0);
            self.owed -= usize::from(flags & NEEDED != 0);
        }
        self.flags[slab] = HELD | PINNED;
        self.recheck(layer, slab);
    }

    /// A slab gets a slot that nothing is in.
    fn place(&mut self, slab: usize, slot: u32) {
        let layer = slab / self.shape.experts;
        self.slot_of[slab] = slot;
        self.slab_in[slot as usize] = slab as u32;
        self.flags[slab] |= HELD;
        self.owed += usize::from(self.flags[slab] & NEEDED != 0);
        self.held[layer] += 1;
        self.candidates[layer] = Candidate::Unknown;
    }

    /// A slab loses its slot.
    fn vacate(&mut self, slab: usize) {
        let flags = self.flags[slab];
        let layer = slab / self.shape.experts;
        if flags & VAIN != 0 {
            self.forgive(slab);
        }
        self.slab_in[self.slot_of[slab] as usize] = NONE;
        self.slot_of[slab] = NONE;
        self.held[layer] -= 1;
        self.counters.forecasts_in_vain += u64::from(flags & GUESSED != 0);
        self.flags[slab] &= NEEDED;
        self.recheck(layer, slab);
    }

    /// A slab is no longer among the first to be reused.
    fn forgive(&mut self, slab: usize) {
        self.flags[slab] &= !VAIN;
        self.vain.retain(|&vain| vain as usize != slab);
    }

    /// Forgets the layer's candidate if it is this slab.
    fn recheck(&mut self, layer: usize, slab: usize) {
        if matches!(self.candidates[layer], Candidate::Slab(known) if known as usize == slab) {
            self.candidates[layer] = Candidate::Unknown;
        }
    }

    fn slot_for_demand(&mut self, slab: usize, layer: usize) -> u32 {
        if let Some(slot) = self.free.pop().or_else(|| self.reuse_vain()) {
            return slot;
        }
        let victim = match self.farthest(layer) {
            Some((victim, score)) => {
                let (key, held) = (self.ranks.key(slab), self.held[layer]);
                let own = self.ranks.distance(key, layer, layer, self.now, held);
                self.counters.bypasses += u64::from(own >= score);
                victim
            }
            None => self.last_resort(),
        };
        self.evict(victim)
    }

    fn slot_for_forecast(&mut self, layer: usize) -> Option<u32> {
        if let Some(slot) = self.free.pop().or_else(|| self.reuse_vain()) {
            return Some(slot);
        }
        let (victim, score) = self.farthest(layer)?;
        let dearer = score <= self.ranks.forecast(layer, self.now);
        if dearer { None } else { Some(self.evict(victim)) }
    }

    fn reuse_vain(&mut self) -> Option<u32> {
        // One that a step needs after all is kept for its window.
        let flags = &self.flags;
        let at = self.vain.iter().position(|&slab| flags[slab as usize] & NEEDED == 0)?;
        let slab = self.vain.remove(at)?;
        self.flags[slab as usize] &= !VAIN;
        Some(self.evict(slab as usize))
    }

    fn evict(&mut self, slab: usize) -> u32 {
        let slot = self.slot_of[slab];
        self.owed -= usize::from(self.flags[slab] & NEEDED != 0);
        self.vacate(slab);
        self.counters.evictions += 1;
        slot
    }

    /// The slab whose next use is thought to be farthest off, and how far, among those that
    /// nothing keeps. `layer` is whom the slot is for.
    fn farthest(&mut self, layer: usize) -> Option<(usize, f64)> {
        let mut best: Option<(usize, f64)> = None;
        for other in 0..self.shape.layers {
            if matches!(self.candidates[other], Candidate::Unknown) {
                self.candidates[other] = self.candidate(other);
            }
            if let Candidate::Slab(slab) = self.candidates[other] {
                let slab = slab as usize;
                let held = self.held[other];
                let score = self.ranks.distance(self.ranks.key(slab), other, layer, self.now, held);
                if best.is_none_or(|(_, most)| score > most) {
                    best = Some((slab, score));
                }
            }
        }
        best
    }

    /// A layer's slab with the greatest key; of equals, the first.
    fn candidate(&self, layer: usize) -> Candidate {
        if self.held[layer] == 0 {
            return Candidate::None;
        }
        let first = layer * self.shape.experts;
        let mut best = (Candidate::None, f64::NEG_INFINITY);
        for slab in first..first + self.shape.experts {
            let kept = PINNED | NEEDED | AWAITED;
            if self.flags[slab] & (HELD | kept) == HELD && self.ranks.key(slab) > best.1 {
                best = (Candidate::Slab(slab as u32), self.ranks.key(slab));
            }
        }
        best.0
    }

    /// Everything that is not pinned is needed or awaited: what is awaited goes first, then what
    /// would be computed last.
    fn last_resort(&self) -> usize {
        let loose = |&slab: &usize| self.flags[slab] & (HELD | PINNED) == HELD;
        let slabs = || (0..self.flags.len()).rev().filter(loose);
        let awaited = slabs().find(|&slab| self.flags[slab] & NEEDED == 0);
        match awaited.or_else(|| slabs().next()) {
            Some(slab) => slab,
            None => panic!("a window has more missing experts than there is room for"),
        }
    }
}

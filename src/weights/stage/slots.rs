//! Slabs in memory, as compute sees them.

use std::ops::Range;

use crate::host::arena::Region;
use crate::weights::pack::Pack;

/// A matrix of an expert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Gate,
    Up,
    Down,
}

/// Where a slab is said to be when it is in no slot.
const NOWHERE: u32 = u32::MAX;

/// Memory for so many slabs, and which are in it.
pub struct Slots {
    /// `None` while blocks are on their way into it, and of one whose bytes are not a slab's.
    pub(super) whole: Vec<Option<Region>>,
    /// By slab: its slot, whether its bytes are there or on their way.
    slot: Vec<u32>,
    experts: usize,
    /// By layer of the model: its number among those with experts.
    ordinals: Vec<usize>,
    parts: Vec<[Range<usize>; 3]>,
}

impl Slots {
    pub(super) fn new(pack: &Pack, slots: usize) -> Slots {
        let layers = pack.layers();
        let experts = layers.iter().map(|layer| layer.experts).max().unwrap_or(0);
        let last = layers.iter().map(|layer| layer.index + 1).max().unwrap_or(0);
        let mut ordinals = vec![usize::MAX; last];
        layers.iter().enumerate().for_each(|(i, layer)| ordinals[layer.index] = i);
        Slots {
            whole: (0..slots).map(|_| None).collect(),
            slot: vec![NOWHERE; layers.len() * experts],
            experts,
            ordinals,
            parts: layers
                .iter()
                .map(|layer| layer.parts.each_ref().map(|p| p.range.clone()))
                .collect(),
        }
    }

    /// The bytes of an expert, if all of them are there.
    pub fn slab(&self, layer: usize, expert: u32) -> Option<&[u8]> {
        let slot = self.slot[self.slab_at(self.ordinal(layer), expert)];
        self.whole.get(slot as usize)?.as_deref()
    }

    /// A matrix of an expert as panels, if the slab is there.
    pub fn part(&self, layer: usize, expert: u32, part: Part) -> Option<&[u8]> {
        let slab = self.slab(layer, expert)?;
        Some(&slab[self.parts[self.ordinal(layer)][part as usize].clone()])
    }

    /// A slab is in a slot, or will be.
    pub(super) fn learn(&mut self, slot: u32, ordinal: usize, expert: u32) {
        let slab = self.slab_at(ordinal, expert);
        self.slot[slab] = slot;
    }

    /// A slab is no longer in a slot.
    pub(super) fn forget(&mut self, slot: u32, ordinal: usize, expert: u32) {
        let slab = self.slab_at(ordinal, expert);
        if self.slot[slab] == slot {
            self.slot[slab] = NOWHERE;
        }
    }

    pub(super) fn ordinal(&self, layer: usize) -> usize {
        self.ordinals[layer]
    }

    /// A slab's number among all.
    fn slab_at(&self, ordinal: usize, expert: u32) -> usize {
        ordinal * self.experts + expert as usize
    }
}

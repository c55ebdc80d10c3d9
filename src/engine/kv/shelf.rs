//! What is on disk of pages, and where. Numbers only.
//!
//! The disk is divided into slots of a page each. What a slot holds is known by its *place*: the
//! tokens of the page after the place before it, up to the first page of all. A place is the same
//! as another only if all tokens up to its end are, so nothing deceives, however long a page's
//! predecessors have been gone. Places live as long as somebody needs them: a slot, a page in
//! memory, or a place that continues them.
//!
//! When all slots are taken, the one is used again whose page was wanted longest ago: written, read
//! or thrown out of memory. Pages leave memory from the last to the first, so of one conversation
//! the end goes first here too.

use std::collections::{BTreeMap, HashMap};

use crate::base::limits::PAGE;

pub struct Shelf {
    places: Vec<Place>,
    vacant: Vec<u32>,
    index: HashMap<(Option<u32>, [u32; PAGE]), u32>,
    /// Those that were ever used, of so many.
    slots: Vec<Slot>,
    total: u32,
    unused: Vec<u32>,
    /// Slots that hold something, by when it was wanted.
    order: BTreeMap<u64, u32>,
    clock: u64,
}

struct Place {
    before: Option<u32>,
    tokens: [u32; PAGE],
    /// Who needs it.
    uses: u32,
    slot: Option<u32>,
}

#[derive(Clone, Copy)]
enum Slot {
    Unused,
    /// It is being written.
    Taken {
        place: u32,
    },
    Kept {
        place: u32,
        sum: u64,
        wanted: u64,
    },
}

/// A page on disk: where, and the sum of its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    pub slot: u32,
    pub sum: u64,
}

impl Shelf {
    pub fn new(slots: u32) -> Shelf {
        Shelf {
            places: Vec::new(),
            vacant: Vec::new(),
            index: HashMap::new(),
            slots: Vec::new(),
            total: slots,
            unused: Vec::new(),
            order: BTreeMap::new(),
            clock: 0,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// The place of a page with these tokens after that place, for a page in memory, which
    /// [leaves](Shelf::leave) it in the end.
    pub fn enter(&mut self, before: Option<u32>, tokens: [u32; PAGE]) -> u32 {
        if let Some(place) = self.follow(before, &tokens) {
            self.places[place as usize].uses += 1;
            return place;
        }
        if let Some(before) = before {
            self.places[before as usize].uses += 1;
        }
        let new = Place { before, tokens, uses: 1, slot: None };
        let place = match self.vacant.pop() {
            Some(place) => {
                self.places[place as usize] = new;
                place
            }
            None => {
                self.places.push(new);
                self.places.len() as u32 - 1
            }
        };
        self.index.insert((before, tokens), place);
        place
    }

    /// The page in memory is gone.
    pub fn leave(&mut self, place: u32) {
        if let Some(kept) = self.kept(place) {
            self.want(kept.slot);
        }
        self.unuse(place);
    }

    fn unuse(&mut self, place: u32) {
        let mut next = Some(place);
        while let Some(place) = next {
            let at = &mut self.places[place as usize];
            at.uses -= 1;
            if at.uses > 0 {
                return;
            }
            self.index.remove(&(at.before, at.tokens));
            self.vacant.push(place);
            next = at.before;
        }
    }

    /// The place that continues another with these tokens, if anybody needs it.
    pub fn follow(&self, before: Option<u32>, tokens: &[u32; PAGE]) -> Option<u32> {
        self.index.get(&(before, *tokens)).copied()
    }

    /// Whether its page is on disk or about to be.
    pub fn has(&self, place: u32) -> bool {
        self.places[place as usize].slot.is_some()
    }

    /// Where its page is.
    pub fn kept(&self, place: u32) -> Option<Kept> {
        let slot = self.places[place as usize].slot?;
        match self.slots[slot as usize] {
            Slot::Kept { sum, .. } => Some(Kept { slot, sum }),
            Slot::Unused | Slot::Taken { .. } => None,
        }
    }

    /// A slot to write its page to; [`Shelf::wrote`] is to follow. `None` if all are being written.
    pub fn begin(&mut self, place: u32) -> Option<u32> {
        let slot = match self.unused.pop() {
            Some(slot) => slot,
            None if self.slots.len() < self.total as usize => {
                self.slots.push(Slot::Unused);
                self.slots.len() as u32 - 1
            }
            None => {
                let (_, slot) = self.order.first_key_value()?;
                let slot = *slot;
                self.clear(slot);
                self.unused.pop()?
            }
        };
        self.slots[slot as usize] = Slot::Taken { place };
        let at = &mut self.places[place as usize];
        at.slot = Some(slot);
        at.uses += 1;
        Some(slot)
    }

    /// It is written, with this sum; or it could not be.
    pub fn wrote(&mut self, slot: u32, sum: Option<u64>) {
        let Slot::Taken { place } = self.slots[slot as usize] else { return };
        match sum {
            Some(sum) => {
                self.slots[slot as usize] = Slot::Kept { place, sum, wanted: 0 };
                self.want(slot);
            }
            None => self.clear(slot),
        }
    }

    /// What is in it was wanted just now.
    pub fn want(&mut self, slot: u32) {
        if let Slot::Kept { wanted, .. } = &mut self.slots[slot as usize] {
            self.clock += 1;
            self.order.remove(wanted);
            *wanted = self.clock;
            self.order.insert(self.clock, slot);
        }
    }

    /// What was there is no more, unless it is something else by now.
    pub fn lose(&mut self, lost: Kept) {
        match self.slots[lost.slot as usize] {
            Slot::Kept { sum, .. } if sum == lost.sum => self.clear(lost.slot),
            Slot::Kept { .. } | Slot::Taken { .. } | Slot::Unused => {}
        }
    }

    fn clear(&mut self, slot: u32) {
        let place = match std::mem::replace(&mut self.slots[slot as usize], Slot::Unused) {
            Slot::Unused => return,
            Slot::Taken { place } => place,
            Slot::Kept { place, wanted, .. } => {
                self.order.remove(&wanted);
                place
            }
        };
        self.unused.push(slot);
        self.places[place as usize].slot = None;
        self.unuse(place);
    }
}

#[cfg(test)]
mod tests;

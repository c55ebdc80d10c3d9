//! Which pages go to disk, and what is there of a prompt.
//!
//! Pages are written while they are in the cache, before their room is needed: then a page that is
//! thrown out costs nothing. Only those are that will be thrown out soon.

use super::shelf::{Kept, Shelf};
use super::{PagePool, PageTable, State};
use crate::base::limits::PAGE;

/// So many pages are free or on disk too, unless that is more than half of all: a few steps' need.
const AHEAD: usize = 256;

/// A page to write, and where to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ToSpill {
    pub page: u32,
    pub slot: u32,
}

/// What continues a prompt on disk, page by page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Continuation {
    /// Its pages that memory has.
    pub known: usize,
    pub kept: Vec<Kept>,
}

impl PagePool {
    /// From now on pages may be on disk, in so many slots.
    pub fn shelve(&self, slots: u32) {
        self.state.borrow_mut().shelf = Some(Shelf::new(slots));
    }

    /// The page that should be written next; [`PagePool::spilled`] is to follow.
    pub fn next_to_spill(&self) -> Option<ToSpill> {
        let mut state = self.state.borrow_mut();
        let ahead = (state.total as usize / 2).min(AHEAD);
        let mut at = state.oldest;
        for _ in state.free()..ahead {
            let page = at?;
            let place = state.place(page)?;
            let shelf = state.shelf.as_mut()?;
            if !shelf.has(place) {
                let slot = shelf.begin(place)?;
                return Some(ToSpill { page, slot });
            }
            at = state.pages[page as usize].newer;
        }
        None
    }

    /// A page is on disk, with this sum, or could not be written.
    pub fn spilled(&self, slot: u32, sum: Option<u64>) {
        if let Some(shelf) = &mut self.state.borrow_mut().shelf {
            shelf.wrote(slot, sum);
        }
    }

    /// What is on disk was not what had been written, or was not to be had.
    pub fn lost(&self, kept: Kept) {
        if let Some(shelf) = &mut self.state.borrow_mut().shelf {
            shelf.lose(kept);
        }
    }

    /// What there is on disk of a prompt behind what memory has of it.
    pub fn continuation(&self, prompt: &[u32]) -> Option<Continuation> {
        if self.state.borrow().shelf.as_ref()?.is_empty() {
            return None;
        }
        let known = self.knows(prompt) / PAGE;
        let mut state = self.state.borrow_mut();
        let shelf = state.shelf.as_mut()?;
        let (mut place, mut kept) = (None, Vec::new());
        for (i, tokens) in whole_pages(prompt).iter().enumerate() {
            let Some(next) = shelf.follow(place, tokens) else { break };
            place = Some(next);
            if i >= known {
                let Some(here) = shelf.kept(next) else { break };
                kept.push(here);
            }
        }
        kept.iter().rev().for_each(|kept| shelf.want(kept.slot));
        (!kept.is_empty()).then_some(Continuation { known, kept })
    }
}

/// The pages of a prompt that can be found; its last token is always computed.
fn whole_pages(prompt: &[u32]) -> &[[u32; PAGE]] {
    prompt[..prompt.len().saturating_sub(1)].as_chunks::<PAGE>().0
}

impl PageTable {
    /// Takes a page for the tokens behind the known ones, has it filled with what was computed for
    /// them, and makes it known. `false` if others hold too many, or it cannot be known.
    pub fn bring(&mut self, tokens: &[u32], fill: impl FnOnce(u32)) -> bool {
        let (before, len) = (self.known, (self.known + 1) * PAGE);
        if tokens.len() < len || !self.reserve(len) {
            return false;
        }
        fill(self.pages[before]);
        self.register(&tokens[..len]);
        self.known > before
    }
}

impl State {
    /// The place on the shelf of a known page.
    fn place(&mut self, page: u32) -> Option<u32> {
        let mut missing = Vec::new();
        let mut at = Some(page);
        let mut place = None;
        while let Some(page) = at {
            let here = &self.pages[page as usize];
            if here.place.is_some() {
                place = here.place;
                break;
            }
            missing.push(page);
            at = here.known.as_ref()?.before;
        }
        let shelf = self.shelf.as_mut()?;
        for page in missing.into_iter().rev() {
            let here = &mut self.pages[page as usize];
            place = Some(shelf.enter(place, here.known.as_ref()?.tokens));
            here.place = place;
        }
        place
    }
}

#[cfg(test)]
mod tests;

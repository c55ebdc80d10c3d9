//! KV pages: who holds which, and what is in those that are full. Numbers only; the floats lie in
//! the engine's arena.
//!
//! A page whose 16 positions are computed becomes *known*: by the sum of all tokens up to its end.
//! Every session whose tokens begin like that may hold it instead of computing its own, for that
//! would have the same bits. A known page is never written again. When nobody holds it any more it
//! stays in the cache, until its room is needed and it is the one that was let go longest ago.
//!
//! Two rules keep this simple. A session's pages run from its first position on, so who holds a
//! known page holds all those before it. And pages are let go from the last to the first. So in
//! the order of letting go, a page always comes before the one it continues: the oldest of the
//! cache is continued by none, and can be forgotten alone, in a few steps however large the cache.
//!
//! Where there is a disk for them, pages of the cache are written to it before their room is needed
//! (`spilled`), and it is known what lies there (`shelf`).

mod shelf;
mod spilled;

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::rc::Rc;

use crate::base::limits::PAGE;
use crate::base::sum::sum;

pub use shelf::Kept;
use shelf::Shelf;
pub use spilled::{Continuation, ToSpill};

/// All pages of one arena. Cloning gives another handle to the same pool.
#[derive(Clone)]
pub struct PagePool {
    state: Rc<RefCell<State>>,
}

/// Where the pages are. Each is in one place: `free + cached + held == total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Census {
    pub total: usize,
    /// With nothing in them that is known.
    pub free: usize,
    /// Known and held by no session: there for whoever begins alike, and for whoever needs room.
    pub cached: usize,
    /// By one session or several.
    pub held: usize,
}

struct State {
    total: u32,
    /// Those that were ever used; the others cost no memory.
    pages: Vec<Page>,
    /// Free ones among them; the latest is taken first, since its memory is warm.
    returned: Vec<u32>,
    /// By sum, where known pages may be found.
    share: bool,
    sum: fn(&[u8]) -> u64,
    known: HashMap<u64, u32>,
    /// Ends of the cache, a list in the order of letting go.
    oldest: Option<u32>,
    newest: Option<u32>,
    cached: usize,
    /// What is on disk.
    shelf: Option<Shelf>,
}

#[derive(Default)]
struct Page {
    holders: u32,
    known: Option<Known>,
    /// Neighbours in the cache.
    older: Option<u32>,
    newer: Option<u32>,
    /// Where it is, or may come to be, on the shelf.
    place: Option<u32>,
}

/// What is in a page. With the page before it, which is known too, this says all tokens up to its
/// end, so two sums that happen to be equal deceive nobody.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Known {
    sum: u64,
    before: Option<u32>,
    tokens: [u32; PAGE],
}

impl PagePool {
    /// A pool of so many pages. Where they are not shared, none is ever known.
    pub fn new(pages: u32, share: bool) -> PagePool {
        PagePool::with_sum(pages, share, sum)
    }

    fn with_sum(pages: u32, share: bool, sum: fn(&[u8]) -> u64) -> PagePool {
        let known = if share { pages as usize } else { 0 };
        let state = State {
            total: pages,
            // All at once: growing would copy in the middle of a step.
            pages: Vec::with_capacity(pages as usize),
            returned: Vec::new(),
            share,
            sum,
            known: HashMap::with_capacity(known),
            oldest: None,
            newest: None,
            cached: 0,
            shelf: None,
        };
        PagePool { state: Rc::new(RefCell::new(state)) }
    }

    /// Positions of a prompt whose pages are known, so that only the rest is to be computed.
    pub fn knows(&self, prompt: &[u32]) -> usize {
        let state = self.state.borrow();
        let (mut before, mut found) = (None, 0);
        // The last token is always computed.
        let whole = prompt.len().saturating_sub(1) / PAGE * PAGE;
        for tokens in prompt[..whole].as_chunks::<PAGE>().0 {
            let Some(page) = state.find(&state.name(before, *tokens)) else { break };
            (before, found) = (Some(page), found + PAGE);
        }
        found
    }

    pub fn census(&self) -> Census {
        let state = self.state.borrow();
        let (total, free) = (state.total as usize, state.free());
        Census { total, free, cached: state.cached, held: total - free - state.cached }
    }
}

impl State {
    fn free(&self) -> usize {
        self.returned.len() + self.total as usize - self.pages.len()
    }

    /// A page for one session alone.
    fn take(&mut self) -> Option<u32> {
        let page = match self.returned.pop() {
            Some(page) => page,
            None if self.pages.len() < self.total as usize => {
                self.pages.push(Page::default());
                self.pages.len() as u32 - 1
            }
            None => self.forget_oldest()?,
        };
        self.pages[page as usize].holders = 1;
        Some(page)
    }

    fn forget_oldest(&mut self) -> Option<u32> {
        let page = self.oldest?;
        self.leave_cache(page);
        if let Some(known) = self.pages[page as usize].known.take() {
            self.known.remove(&known.sum);
        }
        if let (Some(place), Some(shelf)) =
            (self.pages[page as usize].place.take(), &mut self.shelf)
        {
            shelf.leave(place);
        }
        Some(page)
    }

    /// One holder more.
    fn hold(&mut self, page: u32) {
        if self.pages[page as usize].holders == 0 {
            self.leave_cache(page);
        }
        self.pages[page as usize].holders += 1;
    }

    /// One holder less.
    fn let_go(&mut self, page: u32) {
        let at = &mut self.pages[page as usize];
        at.holders -= 1;
        match (at.holders, at.known) {
            (0, Some(_)) => self.enter_cache(page),
            (0, None) => self.returned.push(page),
            _ => {}
        }
    }

    fn enter_cache(&mut self, page: u32) {
        let older = self.newest.replace(page);
        match older {
            Some(older) => self.pages[older as usize].newer = Some(page),
            None => self.oldest = Some(page),
        }
        self.pages[page as usize].older = older;
        self.cached += 1;
    }

    fn leave_cache(&mut self, page: u32) {
        let at = &mut self.pages[page as usize];
        let (older, newer) = (at.older.take(), at.newer.take());
        match older {
            Some(older) => self.pages[older as usize].newer = newer,
            None => self.oldest = newer,
        }
        match newer {
            Some(newer) => self.pages[newer as usize].older = older,
            None => self.newest = older,
        }
        self.cached -= 1;
    }

    /// What a page with these tokens after the known page `before` is known as.
    fn name(&self, before: Option<u32>, tokens: [u32; PAGE]) -> Known {
        let before_sum = before
            .and_then(|page| self.pages[page as usize].known.as_ref())
            .map_or(0, |known| known.sum);
        let mut bytes = [0; size_of::<u64>() + PAGE * size_of::<u32>()];
        let (head, rest) = bytes.split_at_mut(size_of::<u64>());
        head.copy_from_slice(&before_sum.to_le_bytes());
        for (bytes, token) in rest.chunks_exact_mut(size_of::<u32>()).zip(tokens) {
            bytes.copy_from_slice(&token.to_le_bytes());
        }
        Known { sum: (self.sum)(&bytes), before, tokens }
    }

    /// The page that is known as this.
    fn find(&self, name: &Known) -> Option<u32> {
        let page = *self.known.get(&name.sum)?;
        (self.pages[page as usize].known.as_ref() == Some(name)).then_some(page)
    }
}

/// The pages of one session, in order of position. They go back to the pool with it, whenever
/// and however it ends.
pub struct PageTable {
    pages: Vec<u32>,
    /// The first so many are known, and maybe held by others too. The rest is this session's alone.
    known: usize,
    pool: PagePool,
}

impl PageTable {
    pub fn new(pool: &PagePool) -> PageTable {
        PageTable { pages: Vec::new(), known: 0, pool: pool.clone() }
    }

    pub fn pages(&self) -> &[u32] {
        &self.pages
    }

    /// Makes room for positions below `len`. `false`, and nothing taken, if others hold too many.
    pub fn reserve(&mut self, len: usize) -> bool {
        let missing = len.div_ceil(PAGE).saturating_sub(self.pages.len());
        if missing == 0 {
            return true;
        }
        let mut state = self.pool.state.borrow_mut();
        if missing > state.free() + state.cached {
            return false;
        }
        self.pages.extend((0..missing).map_while(|_| state.take()));
        true
    }

    /// Gives back the pages that positions below `len` do not need, and says how many positions may
    /// be kept: a known page is not written again, so it is kept as a whole or not at all.
    pub fn truncate(&mut self, len: usize) -> usize {
        let len = match len / PAGE < self.known {
            true => len / PAGE * PAGE,
            false => len,
        };
        let mut state = self.pool.state.borrow_mut();
        while self.pages.len() > len.div_ceil(PAGE) {
            if let Some(page) = self.pages.pop() {
                state.let_go(page);
            }
        }
        self.known = self.known.min(self.pages.len());
        len
    }

    /// Takes the known pages that continue what is `computed`, as far as they hold these tokens.
    /// Says how many positions are computed then. A page begun gives way to a whole one.
    pub fn find(&mut self, tokens: &[u32], computed: usize) -> usize {
        let mut found = computed;
        // Where a page of its own is not known, none behind it can be.
        while self.known == found / PAGE {
            let Some(name) = self.name(tokens) else { break };
            let Some(page) = self.pool.state.borrow().find(&name) else { break };
            self.truncate(self.known * PAGE);
            self.pool.state.borrow_mut().hold(page);
            self.pages.push(page);
            self.known += 1;
            found = self.known * PAGE;
        }
        found
    }

    /// Makes known the pages that these tokens fill, all of which are computed. Where another page
    /// is known for the same, that one is held and the session's own given back: the bits are the
    /// same.
    pub fn register(&mut self, tokens: &[u32]) {
        while let Some(name) = self.name(tokens) {
            let mut state = self.pool.state.borrow_mut();
            let own = self.pages[self.known];
            if let Some(other) = state.find(&name) {
                state.hold(other);
                state.let_go(own);
                self.pages[self.known] = other;
            } else if let Entry::Vacant(entry) = state.known.entry(name.sum) {
                entry.insert(own);
                state.pages[own as usize].known = Some(name);
            } else {
                // The sum of other tokens. This session shares no more.
                return;
            }
            self.known += 1;
        }
    }

    /// What the first page that is not known would be known as, if these tokens fill it.
    fn name(&self, tokens: &[u32]) -> Option<Known> {
        let tokens = tokens.get(self.known * PAGE..)?.first_chunk::<PAGE>()?;
        let state = self.pool.state.borrow();
        let before = self.known.checked_sub(1).map(|last| self.pages[last]);
        state.share.then(|| state.name(before, *tokens))
    }
}

impl Drop for PageTable {
    fn drop(&mut self) {
        self.truncate(0);
    }
}

#[cfg(test)]
mod tests;

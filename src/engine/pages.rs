//! KV pages: who holds which. Numbers only; the floats lie in the engine's arena.

use std::cell::RefCell;
use std::rc::Rc;

use crate::base::limits::PAGE;

/// All pages of one arena. Cloning gives another handle to the same pool.
#[derive(Clone)]
pub struct PagePool {
    state: Rc<RefCell<State>>,
}

struct State {
    /// Pages that were given back; the latest is taken first, since its memory is warm.
    returned: Vec<u32>,
    /// Pages from here on were never used.
    untouched: u32,
    pages: u32,
}

impl PagePool {
    pub fn new(pages: u32) -> PagePool {
        let state = State { returned: Vec::new(), untouched: 0, pages };
        PagePool { state: Rc::new(RefCell::new(state)) }
    }

    pub fn free(&self) -> usize {
        let state = self.state.borrow();
        state.returned.len() + (state.pages - state.untouched) as usize
    }

    fn take(&self) -> Option<u32> {
        let mut state = self.state.borrow_mut();
        if let Some(page) = state.returned.pop() {
            return Some(page);
        }
        if state.untouched == state.pages {
            return None;
        }
        state.untouched += 1;
        Some(state.untouched - 1)
    }

    fn give(&self, page: u32) {
        self.state.borrow_mut().returned.push(page);
    }
}

/// The pages of one session, in order of position. They go back to the pool with it, whenever
/// and however it ends.
pub struct PageTable {
    pages: Vec<u32>,
    pool: PagePool,
}

impl PageTable {
    pub fn new(pool: &PagePool) -> PageTable {
        PageTable { pages: Vec::new(), pool: pool.clone() }
    }

    pub fn pages(&self) -> &[u32] {
        &self.pages
    }

    /// Makes room for positions below `len`. `false`, and nothing taken, if the pool is too empty.
    pub fn reserve(&mut self, len: usize) -> bool {
        let missing = len.div_ceil(PAGE).saturating_sub(self.pages.len());
        if missing > self.pool.free() {
            return false;
        }
        self.pages.extend((0..missing).map_while(|_| self.pool.take()));
        true
    }

    /// Gives back the pages that positions below `len` do not need.
    pub fn truncate(&mut self, len: usize) {
        while self.pages.len() > len.div_ceil(PAGE) {
            if let Some(page) = self.pages.pop() {
                self.pool.give(page);
            }
        }
    }
}

impl Drop for PageTable {
    fn drop(&mut self) {
        self.truncate(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_has_one_holder_and_comes_back() {
        let pool = PagePool::new(5);
        let (mut a, mut b) = (PageTable::new(&pool), PageTable::new(&pool));
        assert!(a.reserve(PAGE + 1) && b.reserve(3 * PAGE));
        assert_eq!(pool.free(), 0);
        let mut all = [a.pages(), b.pages()].concat();
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2, 3, 4]);

        assert!(!a.reserve(2 * PAGE + 1), "the pool is empty");
        assert_eq!(a.pages().len(), 2, "a refusal takes nothing");
        b.truncate(PAGE);
        assert_eq!(pool.free(), 2);
        assert!(a.reserve(4 * PAGE));
        drop((a, b));
        assert_eq!(pool.free(), 5);
    }
}

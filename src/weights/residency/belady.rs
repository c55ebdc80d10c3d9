//! The bound: what a cache that knows the future would hit.
//!
//! After each layer it keeps, of what it held and what was used, the slabs whose next use comes
//! first. A slab is kept from one use to the next or not at all, so a use is an interval, and to
//! keep as many as possible with no more than `slots` at a time, dropping what ends last is
//! optimal. It may pass a slab by entirely, which a real cache cannot: it has to lie somewhere.

use std::collections::BTreeSet;

use super::Shape;

/// What the optimum hits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Belady {
    pub hits: u64,
    pub misses: u64,
}

impl Belady {
    /// `uses`: layer and experts, in the order in which a run comes to them.
    pub fn run(shape: Shape, uses: &[(usize, &[u32])]) -> Belady {
        let slab = |layer: usize, expert: u32| layer * shape.experts + expert as usize;
        // When each use's slab is used next, by going backwards.
        let never = usize::MAX;
        let mut seen = vec![never; shape.slabs()];
        let mut next: Vec<Vec<usize>> = vec![Vec::new(); uses.len()];
        for (time, &(layer, experts)) in uses.iter().enumerate().rev() {
            next[time] = experts.iter().map(|&expert| seen[slab(layer, expert)]).collect();
            for &expert in experts {
                seen[slab(layer, expert)] = time;
            }
        }
        let mut kept: BTreeSet<(usize, usize)> = BTreeSet::new();
        let mut found = Belady::default();
        for (time, &(layer, experts)) in uses.iter().enumerate() {
            for &expert in experts {
                match kept.remove(&(time, slab(layer, expert))) {
                    true => found.hits += 1,
                    false => found.misses += 1,
                }
            }
            for (&expert, &next) in experts.iter().zip(&next[time]) {
                if next != never {
                    kept.insert((next, slab(layer, expert)));
                }
            }
            while kept.len() > shape.slots {
                kept.pop_last();
            }
        }
        found
    }
}

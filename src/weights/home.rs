//! Where weights live once they are in memory: panels in one arena, huge pages where the host has
//! them.
//!
//! A matrix *settles* when it is first needed: the shards read its rows from the file and write
//! them as panels, each its share. The trunk settles with the first step, an expert when the first
//! token goes to it. When the arena is full, what has not settled is packed again for every
//! use, into the hand of the shard that uses it: slow, but never more memory than was planned.

use crate::host::arena::{Arena, ArenaError, Region};

use super::Matrix;

/// The arena of a model's weights.
pub struct Home {
    arena: Arena,
}

impl Home {
    /// Room for `bytes` of panels; nothing is taken from the host before it is used.
    pub fn new(bytes: usize) -> Result<Home, ArenaError> {
        Ok(Home { arena: Arena::reserve(bytes)? })
    }

    /// A home whose rooms were given out elsewhere.
    pub fn of(arena: Arena) -> Home {
        Home { arena }
    }

    /// Room for a matrix. `None` if it has settled, or there is none left.
    pub fn room(&self, matrix: &Matrix) -> Option<Region> {
        match matrix.is_settled() {
            true => None,
            false => self.arena.take(matrix.panel_bytes(), ALIGN),
        }
    }

    pub fn arena(&self) -> &Arena {
        &self.arena
    }
}

/// Bytes a matrix takes in an arena.
pub fn room_of(matrix: &Matrix) -> usize {
    matrix.panel_bytes().next_multiple_of(ALIGN)
}

/// Panels begin on a cache line, so that vector loads do not straddle two.
const ALIGN: usize = 64;

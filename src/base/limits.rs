//! Limits that more than one room relies on, each with the reason it has its value, and the
//! relations between them proved when the crate is compiled.

/// Lanes of the abstract vector machine that all kernels are written for.
pub const LANES: usize = 16;

/// Output rows of a matrix that are computed side by side, one per lane.
pub const PANEL_ROWS: usize = LANES;

/// Columns of a matrix that form one chain of additions; the segments' sums are then added in
/// ascending order.
pub const SEGMENT: usize = 512;

/// Weights that share one activation scale in the super-block formats (Q2_K … Q6_K, IQ4_XS).
pub const SUPER_BLOCK: usize = 256;

/// Weights that share one activation scale in every other quantised format.
pub const SMALL_BLOCK: usize = 32;

/// Positions in one KV page: one key per lane.
pub const PAGE: usize = LANES;

/// Positions by which online softmax advances, aligned to absolute position.
pub const ATTENTION_BLOCK: usize = 64;

/// Positions of context that are reduced alone before being merged in ascending order.
pub const ATTENTION_SEGMENT: usize = 1024;

/// Queries that walk over keys and values together: enough that bringing those to the core costs
/// little beside what is done with them, few enough that their own state stays near it.
pub const ATTENTION_TILE: usize = 64;

// A segment holds whole activation blocks, so no block's scale is split between two chains.
const _: () =
    assert!(SEGMENT.is_multiple_of(SUPER_BLOCK) && SUPER_BLOCK.is_multiple_of(SMALL_BLOCK));
// Online softmax steps over whole pages, and a context segment over whole steps.
const _: () = assert!(ATTENTION_BLOCK.is_multiple_of(PAGE));
const _: () = assert!(ATTENTION_SEGMENT.is_multiple_of(ATTENTION_BLOCK));
// What queries have come to is kept in lanes.
const _: () = assert!(ATTENTION_TILE.is_multiple_of(LANES));

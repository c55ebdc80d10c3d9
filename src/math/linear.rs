//! `y = W x` over panels, written once for all instruction sets: a lane for every row of a panel.
//!
//! ```text
//! for some panels:
//!     for each segment of 512 columns:
//!         for each panel:                        (quantised, many tokens: unpacked here, once)
//!             for some tokens at a time:  acc = 0
//!                 quantised, each block:  isum = Σ_sub k·Σ c·q        in i32, exact
//!                                         acc  = fma(isum, d·a, acc)  and the minimum likewise
//!                 floats, each k:         acc  = fma(w, x, acc)
//!                 out += acc              (the first segment is stored, not added)
//! ```
//!
//! Integer sums are exact, hence free in their order. Float sums are one chain for each lane, in
//! ascending order, as the contract says; chains of other panels or tokens hide its latency. A
//! segment is read from memory once: all tokens pass over it while it is near.
//!
//! `lanes.rs` knows what the bytes of a panel mean, `tile.rs` keeps a segment unpacked, `dots.rs`
//! multiplies either with some tokens; `few.rs` and `many.rs` lead few tokens and many through the
//! panels, with `ahead.rs` fetching what they come to next; `floats.rs` is the float formats' own.

// Several arrays are walked by one index, over ranges that the compiler unrolls.
#![allow(clippy::needless_range_loop)]

mod ahead;
mod dots;
mod few;
mod floats;
mod lanes;
mod many;
mod tile;

use std::ops::Range;

use super::activations::{Quantised, Tokens};
use super::columns::Columns;
use super::panels::Panels;
use super::simd::{Row, Simd};
use crate::base::limits::{LANES, PANEL_ROWS};
use ahead::Ahead;
use dots::{Act, Source};

pub(super) use floats::floats;
pub(super) use lanes::LaneCodes;
pub(super) use tile::Tile;

/// Tokens from which unpacking a segment into a tile is earned back: measured, with 32 registers
/// and with 16.
const MANY: [usize; 2] = [40, 8];

/// What is to be multiplied.
#[derive(Clone, Copy)]
struct Product<'a> {
    w: &'a Panels<'a>,
    x: &'a Quantised,
    tokens: Tokens<'a>,
}

#[inline(always)]
pub(super) fn quantised<S: Simd, F: LaneCodes>(
    s: S,
    w: &Panels,
    x: &Quantised,
    tokens: Tokens,
    out: &mut Columns,
) {
    let product = Product { w, x, tokens };
    if w.count() == 0 {
        return;
    }
    if tokens.len() < MANY[if S::WIDE { 0 } else { 1 }] {
        few::multiply::<S, F>(s, product, out);
    } else {
        many::multiply::<S, F>(s, product, out);
    }
}

impl<'a> Product<'a> {
    /// Makes ready what token `i` has in the segment that begins with column `k0`.
    #[inline(always)]
    fn set<S: Simd, F: LaneCodes>(&self, s: S, act: &mut Act<'a>, i: usize, k0: usize) {
        act.set::<S, F>(s, self.x, self.w.cols(), self.tokens.at(i), k0);
    }
}

/// Where in the matrix some sources of codes come from.
#[derive(Clone, Copy)]
struct At {
    /// The first source's panel.
    panel: usize,
    /// The first column.
    k0: usize,
    blocks: usize,
}

/// The last tokens of `range`, where it has fewer than `T` computed with those before it.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn group<S: Simd, F: LaneCodes, W: Source<S>, const P: usize, const T: usize>(
    s: S,
    from: [W; P],
    acts: &[Act; T],
    range: Range<usize>,
    at: At,
    ahead: Ahead,
    out: &mut Columns,
) {
    let first = range.end - T;
    let acc = dots::segment::<S, F, W, P, T>(s, from, at.blocks, acts, ahead);
    for t in range.start - first..T {
        let row = out.row(first + t);
        for p in 0..P {
            add_panel(s, acc[p][t], at.k0 == 0, row, at.panel + p);
        }
    }
}

/// Stores a panel's lanes to a row of the result, or adds them to what earlier segments left.
#[inline(always)]
pub(super) fn add_panel<S: Simd>(s: S, acc: S::F, store: bool, row: &mut [f32], panel: usize) {
    let out = &mut row[panel * PANEL_ROWS..];
    if let Some(out) = out.first_chunk_mut::<LANES>() {
        let sum = if store { acc } else { s.add(s.load(out), acc) };
        s.store(sum, out);
        return;
    }
    let mut lanes: Row = [0.0; LANES];
    s.store(acc, &mut lanes);
    for (out, acc) in out.iter_mut().zip(lanes) {
        *out = if store { acc } else { *out + acc };
    }
}

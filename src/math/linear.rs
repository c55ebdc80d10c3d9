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
//! multiplies either with some tokens, `floats.rs` is the float formats' own.

// Several arrays are walked by one index, over ranges that the compiler unrolls.
#![allow(clippy::needless_range_loop)]

mod dots;
mod floats;
mod lanes;
mod tile;

use std::ops::Range;

use super::activations::{Quantised, Tokens};
use super::columns::Columns;
use super::panels::Panels;
use super::simd::{Row, Simd};
use crate::base::limits::{LANES, PANEL_ROWS, SEGMENT};
use dots::{Act, Ahead, Direct, LINE, Source, Unpacked, prefetch};

pub(super) use floats::floats;
pub(super) use lanes::LaneCodes;
pub(super) use tile::Tile;

/// Tokens from which unpacking a segment into a tile is earned back: measured, with 32 registers
/// and with 16.
const MANY: [usize; 2] = [16, 8];
/// Bytes by which several tokens' fetching is ahead of their multiplying.
const AHEAD: usize = 16 << 10;
// A group is filled.
const _: () = assert!(MANY[0] >= 4 && MANY[1] >= 4);

#[inline(always)]
pub(super) fn quantised<S: Simd, F: LaneCodes>(
    s: S,
    w: &Panels,
    x: &Quantised,
    tokens: Tokens,
    out: &mut Columns,
) {
    if tokens.len() < MANY[if S::WIDE { 0 } else { 1 }] {
        direct::<S, F>(s, w, x, tokens, out);
    } else {
        tiled::<S, F>(s, w, x, tokens, out);
    }
}

/// Few tokens: codes are unpacked in registers, again for each group of tokens.
#[inline(always)]
fn direct<S: Simd, F: LaneCodes>(
    s: S,
    w: &Panels,
    x: &Quantised,
    tokens: Tokens,
    out: &mut Columns,
) {
    // A segment's fields are several streams, among which a processor's own prefetching loses its
    // way: it gets 7 to 10 GB/s on a Zen 4 core. One token or two are done with a segment soon
    // after it came, and get most of a plain read's 28 by a load of each line, in order, before
    // the multiplying. From two on there is time to fetch other lines meanwhile: for four tokens
    // of Q4_K, to the second level 19 GB/s and to the first 14, presumably because the tokens' own
    // codes then queue behind the few misses that the first can wait for.
    let several = tokens.len() > 1;
    if several && w.count() > 0 {
        let start = w.segment(0, 0).bytes.as_ptr();
        (0..AHEAD).step_by(LINE).for_each(|i| prefetch::<false>(start.wrapping_add(i)));
    }
    for p in 0..w.count() {
        for k0 in (0..w.cols()).step_by(SEGMENT) {
            let segment = w.segment(p, k0);
            let start = segment.bytes.as_ptr();
            let mut ahead = Ahead::NOTHING;
            if several {
                ahead.far = Some(start.wrapping_add(AHEAD));
            }
            if tokens.len() <= 2 {
                segment.bytes.iter().step_by(LINE).for_each(|byte| s.touch(byte));
            }
            if tokens.len() > 4 {
                // Measured: a sixth more for Q8_0, nothing lost elsewhere.
                ahead.near = Some(start.wrapping_add(segment.bytes.len()));
            }
            let from = [Direct::<F>::new(segment)];
            let at = At { panel: p, k0, blocks: segment.blocks };
            let mut i = 0;
            while i < tokens.len() {
                // No group of one at the end, where that can be.
                let end = i + match tokens.len() - i {
                    6 | 9 | 10 | 12.. if S::WIDE => 6,
                    4.. if S::WIDE => 4,
                    3 if S::WIDE => 3,
                    2.. => 2,
                    _ => 1,
                };
                match end - i {
                    6 if S::WIDE => {
                        group::<S, F, _, 1, 6>(s, from, w, x, tokens, i..end, at, ahead, out)
                    }
                    4 if S::WIDE => {
                        group::<S, F, _, 1, 4>(s, from, w, x, tokens, i..end, at, ahead, out)
                    }
                    3 if S::WIDE => {
                        group::<S, F, _, 1, 3>(s, from, w, x, tokens, i..end, at, ahead, out)
                    }
                    2 => group::<S, F, _, 1, 2>(s, from, w, x, tokens, i..end, at, ahead, out),
                    _ => group::<S, F, _, 1, 1>(s, from, w, x, tokens, i..end, at, ahead, out),
                }
                ahead = Ahead::NOTHING; // the first group fetched all
                i = end;
            }
        }
    }
}

/// Many tokens: codes are unpacked once for all of them.
#[inline(always)]
fn tiled<S: Simd, F: LaneCodes>(
    s: S,
    w: &Panels,
    x: &Quantised,
    tokens: Tokens,
    out: &mut Columns,
) {
    let mut tiles = [const { Tile::new() }; 2];
    for p0 in (0..w.count()).step_by(2) {
        for k0 in (0..w.cols()).step_by(SEGMENT) {
            let count = (w.count() - p0).min(2);
            for (p, tile) in tiles[..count].iter_mut().enumerate() {
                tile.fill::<S, F>(s, w.segment(p0 + p, k0));
            }
            let blocks = SEGMENT.min(w.cols() - k0) / F::LEN;
            let at = At { panel: p0, k0, blocks };
            if S::WIDE && count == 2 {
                let from = [Unpacked::<F>::new(&tiles[0]), Unpacked::<F>::new(&tiles[1])];
                all::<S, F, _, 2, 4>(s, from, w, x, tokens, at, out);
                continue;
            }
            for (p, tile) in tiles[..count].iter().enumerate() {
                let at = At { panel: p0 + p, ..at };
                let from = [Unpacked::<F>::new(tile)];
                all::<S, F, _, 1, 4>(s, from, w, x, tokens, at, out);
            }
        }
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

/// All tokens, of which there are `T` or more. The last group takes up some of the one before once
/// more, which is cheaper than smaller groups.
#[inline(always)]
fn all<S: Simd, F: LaneCodes, W: Source<S>, const P: usize, const T: usize>(
    s: S,
    from: [W; P],
    w: &Panels,
    x: &Quantised,
    tokens: Tokens,
    at: At,
    out: &mut Columns,
) {
    for i in (0..tokens.len()).step_by(T) {
        let end = tokens.len().min(i + T);
        group::<S, F, W, P, T>(s, from, w, x, tokens, i..end, at, Ahead::NOTHING, out);
    }
}

/// The last tokens of `range`, where it has fewer than `T` computed with those before it.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn group<S: Simd, F: LaneCodes, W: Source<S>, const P: usize, const T: usize>(
    s: S,
    from: [W; P],
    w: &Panels,
    x: &Quantised,
    tokens: Tokens,
    range: Range<usize>,
    at: At,
    ahead: Ahead,
    out: &mut Columns,
) {
    let first = range.end - T;
    let mut acts = [const { Act::EMPTY }; T];
    for (t, act) in acts.iter_mut().enumerate() {
        act.set::<S, F>(s, x, w.cols(), tokens.at(first + t), at.k0, at.blocks);
    }
    let acc = dots::segment::<S, F, W, P, T>(s, from, at.blocks, &acts, ahead);
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

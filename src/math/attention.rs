//! Attention over paged keys and values, written once for all instruction sets.
//!
//! A page holds 16 positions, as `pages.rs` lays them out. The query sees positions `first..len`;
//! nothing outside them is ever added, whatever the pages hold there.
//!
//! The whole order (it extends the numbers contract):
//!
//! ```text
//! total = none
//! for each segment of 1,024 absolute positions that the query sees part of, ascending:
//!     m = -inf, l = 0, o[dv] = 0
//!     for each block of 64 absolute positions that the query sees part of, ascending:
//!         s[i]  = (Σ_d fma(q[d], k[d][i], ·) from 0, ascending d) · scale;  -inf where unseen
//!         b     = max over the block: lane j over pages 0, 1, 2, 3, then folded 16→8→4→2→1
//!         m'    = max(m, b)
//!         c     = exp(m - m')                                 (0 for the first block)
//!         p[i]  = exp(s[i] - m')
//!         l     = fma(l, c, fold(((p0 + p1) + p2) + p3))      p0..p3: the block's four pages
//!         o[j]  = o[j] · c, then fma(p[i], v[i][j], o[j]) for each seen i, ascending
//!         m     = m'
//!     total = (m, l, o) if none, else merge(total, (m, l, o))
//! merge:  m' = max(M, m), a = exp(M - m'), b = exp(m - m')
//!         L  = fma(L, a, l · b),  O[j] = fma(O[j], a, o[j] · b),  M = m'
//! sink:   last, as a merge with m = sink, l = 1 and no values: O[j] = O[j] · a
//! out[j] = O[j] / L;  zeros when the query sees nothing
//! ```
//!
//! `max(x, y)` is `if x > y { x } else { y }`. Blocks and segments lie at absolute positions, so
//! prefill in any chunks, a reused prefix and decode take the same steps for the same query.
//!
//! Pages in int8. The numbers contract allows a quantised cache as a named option alone; this one
//! is `--kv int8`. A key is quantised once, when it is stored, whole and alone, and so is a value:
//!
//! ```text
//! amax  = max |x|                                     over the vector; a NaN makes it NaN
//! scale = amax / 127
//! code  = round_ties_even(x · (127 / amax)), within ±127;  0 where amax is 0
//! ```
//!
//! as activations are (the head of `math.rs` says what becomes of infinities). With codes for k and
//! v, scales a[i] of the keys and b[i] of the values, two lines of the order are others:
//!
//! ```text
//!         s[i]  = (Σ_d fma(q[d], k[d][i], ·) from 0, ascending d) · (a[i] · scale)
//!         o[j]  = o[j] · c, then fma(p[i] · b[i], v[i][j], o[j]) for each seen i, ascending
//! ```
//!
//! A number that is not finite makes its vector's scale so, and with it whatever sees the position.
//!
//! Queries know nothing of each other, so many walk together (a tile): those of all heads that
//! share the keys, at consecutive positions. A vector of keys or values, once loaded, then serves
//! as many queries as there are registers for. For each of them the order above is kept to the
//! letter.

// Several arrays are walked by one index, over ranges that the compiler unrolls.
#![allow(clippy::needless_range_loop)]

mod block;
mod lanes;

use std::ops::Range;

use block::{Scores, State, Tile};

use super::columns::Columns;
use super::elementwise::{divide, exp_one, scale};
use super::pages::{Cell, KvFormat, KvView};
use super::simd::Simd;
use crate::base::limits::{ATTENTION_BLOCK, ATTENTION_SEGMENT, ATTENTION_TILE, LANES, PAGE};

const PAGES: usize = ATTENTION_BLOCK / PAGE;

/// Queries of the heads that share a key-value head, at consecutive positions of one sequence.
#[derive(Clone, Copy, Debug)]
pub struct Queries<'a> {
    /// `[positions][stride]`: the queries of a position lie side by side, head by head, at the
    /// beginning of its stride.
    pub q: &'a [f32],
    pub stride: usize,
    pub heads: usize,
    pub scale: f32,
    /// What the first position's queries see ends here; for each further position, one later.
    pub end: usize,
    /// How many of the last positions before its end a query sees, `None`: all.
    pub window: Option<usize>,
    /// By head, a logit that takes part in the softmax and has no value.
    pub sinks: Option<&'a [f32]>,
}

impl<'a> Queries<'a> {
    /// The query of a head at a position.
    #[inline(always)]
    pub(super) fn query(&self, position: usize, head: usize, d: usize) -> &'a [f32] {
        &self.q[position * self.stride + head * d..][..d]
    }

    /// What the queries of a position see.
    #[inline(always)]
    pub(super) fn seen(&self, position: usize) -> Range<usize> {
        let end = self.end + position;
        end - self.window.unwrap_or(end).min(end)..end
    }
}

/// Buffers that `attend` needs, kept from call to call.
#[derive(Debug, Default)]
pub struct AttentionScratch {
    /// Queries side by side
    pub(super) q: Vec<f32>,
    /// By query, the scores of a block, then what its values are weighed by
    pub(super) p: Vec<Scores>,
    /// By query, the sums of a segment
    pub(super) o: Vec<f32>,
}

impl AttentionScratch {
    pub fn new() -> Self {
        Self::default()
    }
}

#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

#[inline(always)]
fn overlap(a: Range<usize>, b: Range<usize>) -> Range<usize> {
    let start = a.start.max(b.start);
    start..a.end.min(b.end).max(start)
}

/// Attention of all queries; row i of `out` is for the i-th position, its heads side by side.
#[inline(always)]
pub(super) fn attend<S: Simd>(
    s: S,
    queries: &Queries,
    kv: &KvView,
    out: &mut Columns,
    scratch: &mut AttentionScratch,
) {
    assert_eq!(out.cols(), queries.heads * kv.dv, "each head has its place in the output");
    assert!(queries.sinks.is_none_or(|sinks| sinks.len() == queries.heads), "a sink by head");
    match kv.format {
        KvFormat::F32 => tiles::<S, f32>(s, queries, kv, out, scratch),
        KvFormat::Int8 => tiles::<S, u8>(s, queries, kv, out, scratch),
    }
}

#[inline(always)]
fn tiles<S: Simd, C: Cell>(
    s: S,
    queries: &Queries,
    kv: &KvView,
    out: &mut Columns,
    scratch: &mut AttentionScratch,
) {
    let count = out.rows() * queries.heads;
    for first in (0..count).step_by(ATTENTION_TILE) {
        let tile = Tile::new(queries, kv, first, ATTENTION_TILE.min(count - first));
        walk::<S, C>(s, &tile, out, scratch);
    }
}

/// Attention of the queries of a tile.
#[inline(always)]
fn walk<S: Simd, C: Cell>(s: S, tile: &Tile, out: &mut Columns, scratch: &mut AttentionScratch) {
    let (count, dv, sinks) = (tile.count, tile.kv.dv, tile.queries.sinks);
    tile.pack::<S>(&mut scratch.q);
    let room = tile.room();
    scratch.p.resize(room, Scores::NONE);
    scratch.o.clear();
    scratch.o.resize(room * dv, 0.0);
    let (q, p, o) = (&scratch.q[..], &mut scratch.p[..], &mut scratch.o[..]);

    let mut total = State::NONE;
    let all = tile.starts[0]..tile.ends[count - 1];
    let mut at = all.start / ATTENTION_SEGMENT * ATTENTION_SEGMENT;
    while at < all.end {
        let segment = overlap(all.clone(), at..at + ATTENTION_SEGMENT);
        let mut part = State::NONE;
        let mut block = segment.start / ATTENTION_BLOCK * ATTENTION_BLOCK;
        while block < segment.end {
            tile.block::<S, C>(s, block, q, p, o, &mut part);
            block += ATTENTION_BLOCK;
        }
        for i in 0..count {
            let seen = tile.seen(i);
            if overlap(seen.clone(), segment.clone()).is_empty() {
                continue;
            }
            let (position, head) = tile.place(i);
            let out = &mut out.row(position)[head * dv..][..dv];
            let o = &mut o[i * dv..][..dv];
            if seen.start >= at {
                out.copy_from_slice(o);
                (total.m[i], total.l[i]) = (part.m[i], part.l[i]);
            } else {
                let m = larger(total.m[i], part.m[i]);
                let a = exp_one(s, total.m[i] - m);
                let b = exp_one(s, part.m[i] - m);
                merge(s, out, a, o, b);
                (total.m[i], total.l[i]) = (m, total.l[i].mul_add(a, part.l[i] * b));
            }
            if segment.end < all.end {
                o.fill(0.0);
            }
        }
        at += ATTENTION_SEGMENT;
    }

    for i in 0..count {
        let (position, head) = tile.place(i);
        let out = &mut out.row(position)[head * dv..][..dv];
        if tile.seen(i).is_empty() {
            out.fill(0.0);
            continue;
        }
        let mut l = total.l[i];
        if let Some(sinks) = sinks {
            let m = larger(total.m[i], sinks[head]);
            let a = exp_one(s, total.m[i] - m);
            l = l.mul_add(a, exp_one(s, sinks[head] - m));
            scale(s, a, out);
        }
        divide(s, out, l);
    }
}

/// `o = fma(o, a, part * b)`.
#[inline(always)]
fn merge<S: Simd>(s: S, o: &mut [f32], a: f32, part: &[f32], b: f32) {
    let (rows, tail) = o.as_chunks_mut::<LANES>();
    let (parts, part_tail) = part.as_chunks::<LANES>();
    for (row, part) in rows.iter_mut().zip(parts) {
        let part = s.mul(s.load(part), s.splat(b));
        let sum = s.fma(s.load(row), s.splat(a), part);
        s.store(sum, row);
    }
    for (o, part) in tail.iter_mut().zip(part_tail) {
        *o = o.mul_add(a, part * b);
    }
}

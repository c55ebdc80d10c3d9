//! A tile of queries, and how it is taken over one block of positions.

use std::ops::Range;

use super::super::elementwise::{exp_lanes, scale};
use super::super::pages::{Cell, KvView};
use super::super::simd::{Row, Simd};
use super::lanes::{Keys, scores, weigh};
use super::{PAGES, Queries, larger};
use crate::base::limits::{ATTENTION_BLOCK, ATTENTION_TILE, LANES, PAGE};

/// One query's scores of a block of positions. What follows them keeps those of queries side by
/// side out of each other's way: some caches cannot read two numbers at once that lie at the same
/// place of different lines.
#[derive(Clone, Copy, Debug)]
pub(in crate::math) struct Scores {
    pub(super) pages: [Row; PAGES],
    _apart: [f32; 4],
}

impl Scores {
    pub(super) const NONE: Scores = Scores { pages: [[0.0; LANES]; PAGES], _apart: [0.0; 4] };
}

/// What queries have come to, beside their sums.
pub(super) struct State {
    pub(super) m: [f32; ATTENTION_TILE],
    pub(super) l: [f32; ATTENTION_TILE],
}

impl State {
    pub(super) const NONE: State =
        State { m: [f32::NEG_INFINITY; ATTENTION_TILE], l: [0.0; ATTENTION_TILE] };
}

/// Some of the queries, counted by position, then by head.
pub(super) struct Tile<'a> {
    pub(super) queries: &'a Queries<'a>,
    pub(super) kv: &'a KvView<'a>,
    first: usize,
    pub(super) count: usize,
    /// What each sees: neither ever goes back from one to the next.
    pub(super) starts: [usize; ATTENTION_TILE],
    pub(super) ends: [usize; ATTENTION_TILE],
}

impl<'a> Tile<'a> {
    #[inline(always)]
    pub(super) fn new(
        queries: &'a Queries<'a>,
        kv: &'a KvView<'a>,
        first: usize,
        count: usize,
    ) -> Self {
        let (starts, ends) = ([0; ATTENTION_TILE], [0; ATTENTION_TILE]);
        let mut tile = Tile { queries, kv, first, count, starts, ends };
        for i in 0..count {
            let seen = queries.seen(tile.place(i).0);
            (tile.starts[i], tile.ends[i]) = (seen.start, seen.end);
        }
        tile
    }

    /// Position and head of a query.
    #[inline(always)]
    pub(super) fn place(&self, i: usize) -> (usize, usize) {
        ((self.first + i) / self.queries.heads, (self.first + i) % self.queries.heads)
    }

    #[inline(always)]
    pub(super) fn seen(&self, i: usize) -> Range<usize> {
        self.starts[i]..self.ends[i]
    }

    /// How many queries are packed and scored side by side, from one on.
    #[inline(always)]
    fn side<S: Simd>(&self, from: usize) -> usize {
        match self.count - from {
            1 => 1,
            2 => 2,
            3 | 4 => 4,
            _ if S::WIDE => 8,
            _ => 6,
        }
    }

    /// Queries that there is room for: up to three more (of eight) are worked on in vain.
    #[inline(always)]
    pub(super) fn room(&self) -> usize {
        if self.count > 2 { self.count + 3 } else { self.count }
    }

    /// Lays queries that are scored side by side next to each other, dimension by dimension.
    #[inline(always)]
    pub(super) fn pack<S: Simd>(&self, q: &mut Vec<f32>) {
        let d = self.kv.d;
        q.clear();
        q.resize(self.room() * d, 0.0);
        let mut from = 0;
        while from < self.count {
            let side = self.side::<S>(from);
            for i in from..self.count.min(from + side) {
                let (position, head) = self.place(i);
                let query = self.queries.query(position, head, d);
                for (j, x) in query.iter().enumerate() {
                    q[from * d + j * side + (i - from)] = *x;
                }
            }
            from += side;
        }
    }

    /// Takes the queries that see some of it over the block of positions at `block`.
    #[inline(always)]
    pub(super) fn block<S: Simd, C: Cell>(
        &self,
        s: S,
        block: usize,
        q: &[f32],
        p: &mut [Scores],
        o: &mut [f32],
        state: &mut State,
    ) {
        let seen = |i: usize| {
            let start = self.starts[i].saturating_sub(block).min(ATTENTION_BLOCK);
            start..self.ends[i].saturating_sub(block).min(ATTENTION_BLOCK).max(start)
        };
        let Some(from) = (0..self.count).find(|i| !seen(*i).is_empty()) else { return };
        let to = (from + 1..self.count).find(|i| seen(*i).is_empty()).unwrap_or(self.count);

        let (d, dv) = (self.kv.d, self.kv.dv);
        let mut keys: [&[[C; LANES]]; PAGES] = [&[]; PAGES];
        let mut values: [&[C]; PAGES] = [&[]; PAGES];
        let (mut key_scales, mut value_scales) = ([&[0.0; LANES]; PAGES], [&[0.0; LANES]; PAGES]);
        for page in seen(from).start / PAGE..seen(to - 1).end.div_ceil(PAGE) {
            let (cells, scales) = C::of_room(self.kv.keys(block / PAGE + page), d);
            (keys[page], key_scales[page]) = (cells.as_chunks().0, scales);
            let (cells, scales) = C::of_room(self.kv.values(block / PAGE + page), dv);
            (values[page], value_scales[page]) = (cells, scales);
        }

        let mut first = 0;
        while first < to {
            let side = self.side::<S>(first);
            let last = (first + side).min(to) - 1;
            if last >= from {
                let pages = seen(first.max(from)).start / PAGE..seen(last).end.div_ceil(PAGE);
                let (q, p) = (&q[first * d..][..side * d], &mut p[first..first + side]);
                let keys = Keys { cells: &keys, scales: &key_scales, scale: self.queries.scale };
                scores(s, side, q, &keys, pages, p);
            }
            first += side;
        }

        let mut c = [0.0; ATTENTION_TILE + LANES];
        for i in from..to {
            let (seen, pages) = (seen(i), &mut p[i].pages);
            if seen.len() < ATTENTION_BLOCK {
                for (j, score) in pages.as_flattened_mut().iter_mut().enumerate() {
                    if !seen.contains(&j) {
                        *score = f32::NEG_INFINITY;
                    }
                }
            }
            let mut largest = s.load(&pages[0]);
            for page in &pages[1..] {
                largest = s.max(largest, s.load(page));
            }
            let m = larger(state.m[i], s.fold_max(largest));
            c[i] = state.m[i] - m;
            state.m[i] = m;
        }
        // Sixteen queries' at once: lanes do not know what they are of.
        for c in &mut c.as_chunks_mut::<LANES>().0[from / LANES..to.div_ceil(LANES)] {
            let e = exp_lanes(s, s.load(c));
            s.store(e, c);
        }
        for i in from..to {
            let mut sum = s.splat(0.0);
            for (j, page) in p[i].pages.iter_mut().enumerate() {
                let e = exp_lanes(s, s.sub(s.load(page), s.splat(state.m[i])));
                sum = if j == 0 { e } else { s.add(sum, e) };
                let weight = if C::SCALED { s.mul(e, s.load(value_scales[j])) } else { e };
                s.store(weight, page);
            }
            state.l[i] = state.l[i].mul_add(c[i], s.fold_add(sum));
        }

        let mut first = from;
        while first < to {
            // Those that see nothing here must not be touched, behind the last one is room.
            let side = match self.side::<S>(first) {
                side if first + side <= to || to == self.count => side,
                _ => 1,
            };
            // Positions that all of them see they walk together; each sees the rest alone.
            let each = first..(first + side).min(to);
            let common = seen(each.end - 1).start..seen(first).end;
            let common = common.start..common.end.max(common.start);
            let mut rescale = Some(&c[first..]);
            if seen(first).start < common.start {
                for i in each.clone() {
                    let o = &mut o[i * dv..];
                    scale(s, c[i], &mut o[..dv]);
                    let before = seen(i).start..seen(i).end.min(common.start);
                    weigh(s, 1, &p[i..], &values, before, None, o, dv);
                }
                rescale = None;
            }
            weigh(s, side, &p[first..], &values, common.clone(), rescale, &mut o[first * dv..], dv);
            for i in each {
                let after = seen(i).start.max(common.end)..seen(i).end;
                weigh(s, 1, &p[i..], &values, after, None, &mut o[i * dv..], dv);
            }
            first += side;
        }
    }
}

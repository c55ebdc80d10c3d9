//! Where attention's time goes: queries against keys, weights against values.
//!
//! What is loaded serves as many sums as there are registers for. `T` queries times `P` pages of
//! keys, or times `J` vectors of values, are the sums; a key or value and a query's number beside
//! them. Of 32 registers up to 16 are sums. AVX2 has 8 pairs, and up to 6 are.

use std::ops::Range;

use super::super::elementwise::padded;
use super::super::pages::Cell;
use super::super::simd::{Row, Simd};
use super::PAGES;
use super::block::Scores;
use crate::base::limits::{LANES, PAGE};

/// Keys of a block, and what their scores are multiplied by: all alike, and by position.
pub(super) struct Keys<'a, C> {
    pub(super) cells: &'a [&'a [[C; LANES]]; PAGES],
    pub(super) scales: &'a [&'a Row; PAGES],
    pub(super) scale: f32,
}

/// The scores of whole pages, seen or not, for queries side by side.
#[inline(always)]
pub(super) fn scores<S: Simd, C: Cell>(
    s: S,
    side: usize,
    q: &[f32],
    keys: &Keys<C>,
    pages: Range<usize>,
    p: &mut [Scores],
) {
    match (side, S::WIDE) {
        (1, _) => pages_by::<S, C, 1, 4>(s, q, keys, pages, p),
        (2, true) => pages_by::<S, C, 2, 4>(s, q, keys, pages, p),
        (2, false) => pages_by::<S, C, 2, 2>(s, q, keys, pages, p),
        (4, true) => pages_by::<S, C, 4, 4>(s, q, keys, pages, p),
        (4, false) => pages_by::<S, C, 4, 1>(s, q, keys, pages, p),
        (_, true) => pages_by::<S, C, 8, 2>(s, q, keys, pages, p),
        (_, false) => pages_by::<S, C, 6, 1>(s, q, keys, pages, p),
    }
}

#[inline(always)]
fn pages_by<S: Simd, C: Cell, const T: usize, const P: usize>(
    s: S,
    q: &[f32],
    keys: &Keys<C>,
    pages: Range<usize>,
    p: &mut [Scores],
) {
    let (q, _) = q.as_chunks::<T>();
    let p: &mut [Scores; T] = p.first_chunk_mut().expect("scores of each");
    let mut page = pages.start;
    while page + P <= pages.end {
        some_scores::<S, C, T, P>(s, q, keys, page, p);
        page += P;
    }
    while page < pages.end {
        some_scores::<S, C, T, 1>(s, q, keys, page, p);
        page += 1;
    }
}

#[inline(always)]
fn some_scores<S: Simd, C: Cell, const T: usize, const P: usize>(
    s: S,
    q: &[[f32; T]],
    keys: &Keys<C>,
    page: usize,
    p: &mut [Scores; T],
) {
    let mut sums = [[s.splat(0.0); P]; T];
    let cells: [&[[C; LANES]]; P] = std::array::from_fn(|i| &keys.cells[page + i][..q.len()]);
    for (d, q) in q.iter().enumerate() {
        let mut key = [s.splat(0.0); P];
        for i in 0..P {
            key[i] = C::lanes(s, &cells[i][d]);
        }
        for t in 0..T {
            for i in 0..P {
                sums[t][i] = s.fma(s.splat(q[t]), key[i], sums[t][i]);
            }
        }
    }
    let mut scale = [s.splat(keys.scale); P];
    if C::SCALED {
        for i in 0..P {
            scale[i] = s.mul(s.load(keys.scales[page + i]), scale[i]);
        }
    }
    for t in 0..T {
        for i in 0..P {
            s.store(s.mul(sums[t][i], scale[i]), &mut p[t].pages[page + i]);
        }
    }
}

/// Scales the sums `o` of queries side by side by `c`, if there is one, and adds to them the
/// values of the positions `seen` of a block, weighed by `p`.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
pub(super) fn weigh<S: Simd, C: Cell>(
    s: S,
    side: usize,
    p: &[Scores],
    values: &[&[C]; PAGES],
    seen: Range<usize>,
    c: Option<&[f32]>,
    o: &mut [f32],
    dv: usize,
) {
    if seen.is_empty() && c.is_none() {
        return;
    }
    let part = Part { values, seen, c, dv };
    match (side, S::WIDE) {
        (1, true) => part.weigh::<S, 1, 8>(s, p, o),
        (1, false) => part.weigh::<S, 1, 4>(s, p, o),
        (2, true) => part.weigh::<S, 2, 8>(s, p, o),
        (2, false) => part.weigh::<S, 2, 2>(s, p, o),
        (4, true) => part.weigh::<S, 4, 4>(s, p, o),
        (4, false) => part.weigh::<S, 4, 1>(s, p, o),
        (_, true) => part.weigh::<S, 8, 2>(s, p, o),
        (_, false) => part.weigh::<S, 6, 1>(s, p, o),
    }
}

/// Values of a block and how they are added.
struct Part<'a, C> {
    values: &'a [&'a [C]; PAGES],
    seen: Range<usize>,
    c: Option<&'a [f32]>,
    dv: usize,
}

impl<C: Cell> Part<'_, C> {
    #[inline(always)]
    fn weigh<S: Simd, const T: usize, const J: usize>(&self, s: S, p: &[Scores], o: &mut [f32]) {
        let dv = self.dv;
        let p: &[Scores; T] = p.first_chunk().expect("scores of each");
        let mut at = 0;
        while at + J * LANES <= dv {
            self.vectors::<S, T, J>(s, p, o, at);
            at += J * LANES;
        }
        while J > 4 && at + 4 * LANES <= dv {
            self.vectors::<S, T, 4>(s, p, o, at);
            at += 4 * LANES;
        }
        while at + LANES <= dv {
            self.vectors::<S, T, 1>(s, p, o, at);
            at += LANES;
        }
        if at == dv {
            return;
        }
        for t in 0..T {
            let o = &mut o[t * dv + at..(t + 1) * dv];
            let mut row = padded(o);
            let mut sum = s.load(&row);
            if let Some(c) = self.c {
                sum = s.mul(sum, s.splat(c[t]));
            }
            for i in self.seen.clone() {
                let value = padded(&self.values[i / PAGE][i % PAGE * dv..][at..dv]);
                let value = C::lanes(s, &value);
                sum = s.fma(s.splat(p[t].pages.as_flattened()[i]), value, sum);
            }
            s.store(sum, &mut row);
            o.copy_from_slice(&row[..o.len()]);
        }
    }

    /// The `J` vectors at `at` of every value.
    #[inline(always)]
    fn vectors<S: Simd, const T: usize, const J: usize>(
        &self,
        s: S,
        p: &[Scores; T],
        o: &mut [f32],
        at: usize,
    ) {
        let (dv, seen) = (self.dv, &self.seen);
        let mut sums = [[s.splat(0.0); J]; T];
        for t in 0..T {
            let (o, _) = o[t * dv + at..][..J * LANES].as_chunks::<LANES>();
            for j in 0..J {
                sums[t][j] = s.load(&o[j]);
            }
            if let Some(c) = self.c {
                for j in 0..J {
                    sums[t][j] = s.mul(sums[t][j], s.splat(c[t]));
                }
            }
        }
        for page in seen.start / PAGE..seen.end.div_ceil(PAGE).min(PAGES) {
            let first = seen.start.max(page * PAGE) - page * PAGE;
            let end = (seen.end - page * PAGE).min(PAGE);
            let mut rest = &self.values[page][first * dv + at..];
            for slot in first..end {
                let (value, _) = rest[..J * LANES].as_chunks::<LANES>();
                rest = rest.get(dv..).unwrap_or_default();
                let mut v = [s.splat(0.0); J];
                for j in 0..J {
                    v[j] = C::lanes(s, &value[j]);
                }
                for t in 0..T {
                    for j in 0..J {
                        sums[t][j] = s.fma(s.splat(p[t].pages[page][slot]), v[j], sums[t][j]);
                    }
                }
            }
        }
        for t in 0..T {
            let (o, _) = o[t * dv + at..][..J * LANES].as_chunks_mut::<LANES>();
            for j in 0..J {
                s.store(sums[t][j], &mut o[j]);
            }
        }
    }
}

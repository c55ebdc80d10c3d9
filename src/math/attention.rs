//! Attention of one query over paged keys and values, written once for all instruction sets.
//!
//! A page holds 16 positions: its keys as `[d][16]`, so that one vector holds one dimension of 16
//! keys, its values as `[16][dv]`. The query sees positions `first..len`; nothing outside them is
//! ever added, whatever the pages hold there.
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

// Several arrays are walked by one index, over ranges that the compiler unrolls.
#![allow(clippy::needless_range_loop)]

use super::elementwise::{exp_lanes, exp_one};
use super::simd::{Row, Simd};
use crate::base::limits::{ATTENTION_BLOCK, ATTENTION_SEGMENT, LANES, PAGE};

const PAGES: usize = ATTENTION_BLOCK / PAGE;

/// The keys and values of one head, in pages of an arena. Page p's floats start at
/// `pages[p] * page_floats`, its keys (`[d][16]`) lie `k_at` further on, its values (`[16][dv]`)
/// `v_at` further on. Only pages of positions that the query sees are looked up.
#[derive(Clone, Copy, Debug)]
pub struct KvView<'a> {
    pub arena: &'a [f32],
    pub pages: &'a [u32],
    pub page_floats: usize,
    pub k_at: usize,
    pub v_at: usize,
    pub d: usize,
    pub dv: usize,
}

impl<'a> KvView<'a> {
    #[inline(always)]
    pub(super) fn keys(&self, page: usize) -> &'a [f32] {
        let at = self.pages[page] as usize * self.page_floats + self.k_at;
        &self.arena[at..at + self.d * PAGE]
    }

    #[inline(always)]
    pub(super) fn values(&self, page: usize) -> &'a [f32] {
        let at = self.pages[page] as usize * self.page_floats + self.v_at;
        &self.arena[at..at + self.dv * PAGE]
    }
}

/// Writes the key of one position into the keys (`[d][16]`) of its page.
pub fn store_k(keys: &mut [f32], slot: usize, key: &[f32]) {
    assert!(slot < PAGE && keys.len() == key.len() * PAGE, "a key has its slot in the page");
    for (lanes, k) in keys.chunks_exact_mut(PAGE).zip(key) {
        lanes[slot] = *k;
    }
}

/// Writes the value of one position into the values (`[16][dv]`) of its page.
pub fn store_v(values: &mut [f32], slot: usize, value: &[f32]) {
    assert!(slot < PAGE && values.len() == value.len() * PAGE, "a value has its slot in the page");
    values[slot * value.len()..][..value.len()].copy_from_slice(value);
}

/// Buffers that `attend` needs, kept from call to call.
#[derive(Debug, Default)]
pub struct AttentionScratch {
    pub(super) o: Vec<f32>,
}

impl AttentionScratch {
    pub fn new() -> Self {
        Self::default()
    }
}

/// One query and what it sees.
#[derive(Clone, Copy)]
pub(super) struct Query<'a> {
    pub q: &'a [f32],
    pub scale: f32,
    pub first: usize,
    pub len: usize,
}

/// What a stretch of positions adds up to, beside its `o`.
#[derive(Clone, Copy)]
struct State {
    m: f32,
    l: f32,
}

#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

#[inline(always)]
pub(super) fn attend<S: Simd>(
    s: S,
    query: Query,
    kv: &KvView,
    sink: Option<f32>,
    out: &mut [f32],
    scratch: &mut AttentionScratch,
) {
    assert!(query.q.len() == kv.d && out.len() == kv.dv, "query and output have the head's width");
    out.fill(0.0);
    if query.first >= query.len {
        return;
    }
    scratch.o.resize(kv.dv, 0.0);
    let o = &mut scratch.o[..];
    let mut total = None;
    let mut at = query.first / ATTENTION_SEGMENT * ATTENTION_SEGMENT;
    while at < query.len {
        let first = query.first.max(at);
        let end = query.len.min(at + ATTENTION_SEGMENT);
        total = Some(match total {
            None => segment(s, query, kv, first, end, out),
            Some(State { m, l }) => {
                let part = segment(s, query, kv, first, end, o);
                let largest = larger(m, part.m);
                let a = exp_one(s, m - largest);
                let b = exp_one(s, part.m - largest);
                merge(s, out, a, o, b);
                State { m: largest, l: l.mul_add(a, part.l * b) }
            }
        });
        at += ATTENTION_SEGMENT;
    }
    let Some(State { m, mut l }) = total else { return };
    if let Some(sink) = sink {
        let largest = larger(m, sink);
        let a = exp_one(s, m - largest);
        l = l.mul_add(a, exp_one(s, sink - largest));
        rescale(s, out, a);
    }
    super::elementwise::divide(s, out, l);
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

#[inline(always)]
fn rescale<S: Simd>(s: S, o: &mut [f32], c: f32) {
    super::elementwise::scale(s, c, o);
}

/// Reduces positions `first..end`, which lie in one segment, into `o`.
#[inline(always)]
fn segment<S: Simd>(
    s: S,
    query: Query,
    kv: &KvView,
    first: usize,
    end: usize,
    o: &mut [f32],
) -> State {
    o.fill(0.0);
    let mut state = State { m: f32::NEG_INFINITY, l: 0.0 };
    let mut block = first / ATTENTION_BLOCK * ATTENTION_BLOCK;
    while block < end {
        let seen = first.max(block) - block..(end - block).min(ATTENTION_BLOCK);
        let mut p = [[f32::NEG_INFINITY; LANES]; PAGES];
        let page0 = block / PAGE;
        let pages = seen.start / PAGE..seen.end.div_ceil(PAGE);
        if pages.len() == PAGES {
            let k: [&[f32]; PAGES] =
                [kv.keys(page0), kv.keys(page0 + 1), kv.keys(page0 + 2), kv.keys(page0 + 3)];
            scores(s, query, k, &mut p);
        } else {
            for i in pages.clone() {
                let (_, rest) = p.split_at_mut(i);
                scores(s, query, [kv.keys(page0 + i)], rest);
            }
        }
        for (i, score) in p.as_flattened_mut().iter_mut().enumerate() {
            if !seen.contains(&i) {
                *score = f32::NEG_INFINITY;
            }
        }

        let mut largest = s.load(&p[0]);
        for row in &p[1..] {
            largest = s.max(largest, s.load(row));
        }
        let m = larger(state.m, s.fold_max(largest));
        let c = exp_one(s, state.m - m);
        let mut sum = s.splat(0.0);
        for (i, row) in p.iter_mut().enumerate() {
            let e = exp_lanes(s, s.sub(s.load(row), s.splat(m)));
            s.store(e, row);
            sum = if i == 0 { e } else { s.add(sum, e) };
        }
        state = State { m, l: state.l.mul_add(c, s.fold_add(sum)) };

        rescale(s, o, c);
        for i in pages {
            let seen = seen.start.max(i * PAGE) - i * PAGE..(seen.end - i * PAGE).min(PAGE);
            let values = &kv.values(page0 + i)[seen.start * kv.dv..seen.end * kv.dv];
            weigh(s, &p[i][seen], values, o);
        }
        block += ATTENTION_BLOCK;
    }
    state
}

/// The scores of `P` whole pages, seen or not.
#[inline(always)]
fn scores<S: Simd, const P: usize>(s: S, query: Query, keys: [&[f32]; P], out: &mut [Row]) {
    let mut acc = [s.splat(0.0); P];
    let keys = keys.map(|keys| &keys.as_chunks::<LANES>().0[..query.q.len()]);
    for (d, q) in query.q.iter().enumerate() {
        for i in 0..P {
            acc[i] = s.fma(s.splat(*q), s.load(&keys[i][d]), acc[i]);
        }
    }
    for i in 0..P {
        s.store(s.mul(acc[i], s.splat(query.scale)), &mut out[i]);
    }
}

/// Adds a page's seen values, weighed by `p`, to `o`.
#[inline(always)]
fn weigh<S: Simd>(s: S, p: &[f32], values: &[f32], o: &mut [f32]) {
    let dv = o.len();
    if dv == 0 {
        return;
    }
    let mut at = 0;
    // Four chains of additions side by side hide each other's latency.
    while at + 4 * LANES <= dv {
        let (rows, _) = o[at..at + 4 * LANES].as_chunks_mut::<LANES>();
        let mut acc = [s.load(&rows[0]), s.load(&rows[1]), s.load(&rows[2]), s.load(&rows[3])];
        for (p, value) in p.iter().zip(values.chunks_exact(dv)) {
            let (value, _) = value[at..at + 4 * LANES].as_chunks::<LANES>();
            for i in 0..4 {
                acc[i] = s.fma(s.splat(*p), s.load(&value[i]), acc[i]);
            }
        }
        for i in 0..4 {
            s.store(acc[i], &mut rows[i]);
        }
        at += 4 * LANES;
    }
    while at < dv {
        let width = LANES.min(dv - at);
        let mut row = super::elementwise::padded(&o[at..at + width]);
        let mut acc = s.load(&row);
        for (p, value) in p.iter().zip(values.chunks_exact(dv)) {
            let value = super::elementwise::padded(&value[at..at + width]);
            acc = s.fma(s.splat(*p), s.load(&value), acc);
        }
        s.store(acc, &mut row);
        o[at..at + width].copy_from_slice(&row[..width]);
        at += width;
    }
}

//! The inner kernels: a segment of some panels times some tokens.

// Several arrays are walked by one index, over ranges that the compiler unrolls.
#![allow(clippy::needless_range_loop)]

use std::marker::PhantomData;

use super::super::activations::Quantised;
use super::super::block::Minimum;
use super::super::panels::Segment;
use super::super::simd::{Bytes, Ints, Row, Simd, quads};
use super::ahead::Ahead;
use super::lanes::{Block, Integers, LaneCodes};
use super::tile::Tile;
use crate::base::limits::{LANES, SEGMENT, SMALL_BLOCK, SUPER_BLOCK};

/// `$body` for each run of 32 of a super-block. Runs whose codes lie in the same bytes follow each
/// other with constant numbers, so that shifts are immediate and a load serves them all; all
/// eight would make more code than loads can be folded in.
macro_rules! for_runs {
    ($F:ident, |$group:ident, $i:ident| $body:expr) => {
        for $group in 0..SUPER_BLOCK / SMALL_BLOCK / $F::GROUP {
            {
                let $i = 0;
                $body;
            }
            if $F::GROUP > 1 {
                let $i = 1;
                $body;
            }
            if $F::GROUP > 2 {
                {
                    let $i = 2;
                    $body;
                }
                {
                    let $i = 3;
                    $body;
                }
            }
        }
    };
}
pub(super) use for_runs;

/// Quads of codes in a run of 32.
const QUADS: usize = SMALL_BLOCK / 4;

/// One token's activations in a segment.
#[repr(align(64))]
pub(super) struct Act<'a> {
    /// With an offset: what the sums of runs, or of their halves, start with to make up for it.
    /// With float minima: the sum of each run. With integer ones: what the pairs of minima are
    /// multiplied with.
    sums: [Ints; 2],
    codes: &'a [[u8; 4]],
    scales: &'a [f32],
}

impl<'a> Act<'a> {
    pub const EMPTY: Act<'static> = Act { sums: [[0; LANES]; 2], codes: &[], scales: &[] };

    #[inline(always)]
    pub fn set<S: Simd, F: LaneCodes>(
        &mut self,
        s: S,
        x: &'a Quantised,
        cols: usize,
        token: usize,
        k0: usize,
    ) {
        let (at, len) = (token * cols + k0, SEGMENT.min(cols - k0));
        self.codes = quads(&x.codes[at..][..len]);
        self.scales = &x.scales[at / F::LEN..][..len / F::LEN];
        if F::OFFSET == 0 && matches!(F::MINIMUM, Minimum::None) {
            return;
        }
        let from = &x.sums[at / SMALL_BLOCK..][..len / SMALL_BLOCK];
        let sums = match from.first_chunk() {
            Some(sums) => s.load_int(sums),
            None => {
                let mut sums = [0; LANES];
                sums[..from.len()].copy_from_slice(from);
                s.load_int(&sums)
            }
        };
        if F::OFFSET != 0 {
            let less = -F::OFFSET & 0xffff;
            if F::HALVES {
                s.store_int(s.dot_pairs(s.zero(), sums, less), &mut self.sums[0]);
                s.store_int(s.dot_pairs(s.zero(), sums, less << 16), &mut self.sums[1]);
            } else {
                s.store_int(s.dot_pairs(s.zero(), sums, less | less << 16), &mut self.sums[0]);
            }
        }
        const { assert!(F::OFFSET == 0 || matches!(F::MINIMUM, Minimum::None), "room for one") };
        let runs = s.dot_pairs(s.zero(), sums, 1 | 1 << 16);
        match F::MINIMUM {
            Minimum::None => {}
            Minimum::Float => s.store_int(runs, &mut self.sums[0]),
            Minimum::Integer if F::HALVES => s.store_int(sums, &mut self.sums[0]),
            Minimum::Integer => s.store_int(s.pair_up(runs), &mut self.sums[0]),
        }
    }
}

/// Where the codes of a segment of a panel come from.
pub(super) trait Source<S: Simd>: Copy {
    /// One block, and room for what is made of it.
    type Block: Copy;
    type Room;
    const ROOM: Self::Room;

    fn block(self, s: S, b: usize, room: &mut Self::Room) -> Self::Block;
    fn quad(s: S, block: Self::Block, group: usize, i: usize, j: usize) -> S::I;
    /// The integer scale of run, or half run, `i`.
    fn k(s: S, block: Self::Block, room: &Self::Room, i: usize) -> S::I;
    /// The `i`th pair of integer minima.
    fn m(s: S, block: Self::Block, room: &Self::Room, i: usize) -> S::I;
    fn d(s: S, block: Self::Block) -> S::F;
    fn min(s: S, block: Self::Block) -> S::F;
}

/// The panel's own bytes, unpacked on the way.
pub(super) struct Direct<'a, F> {
    segment: Segment<'a>,
    format: PhantomData<F>,
}

impl<F> Clone for Direct<'_, F> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<F> Copy for Direct<'_, F> {}

impl<'a, F> Direct<'a, F> {
    #[inline(always)]
    pub fn new(segment: Segment<'a>) -> Self {
        Direct { segment, format: PhantomData }
    }
}

impl<'a, S: Simd, F: LaneCodes> Source<S> for Direct<'a, F> {
    type Block = Block<'a>;
    type Room = Integers;
    const ROOM: Integers = Integers::new();

    #[inline(always)]
    fn block(self, s: S, b: usize, room: &mut Integers) -> Block<'a> {
        let block = F::block(self.segment, b);
        F::integers(s, block, room);
        block
    }

    #[inline(always)]
    fn quad(s: S, block: Block<'a>, group: usize, i: usize, j: usize) -> S::I {
        F::quad(s, block, group, i, j)
    }

    #[inline(always)]
    fn k(s: S, block: Block<'a>, room: &Integers, i: usize) -> S::I {
        s.widen_i8(F::k(block, room, i))
    }

    #[inline(always)]
    fn m(s: S, _: Block<'a>, room: &Integers, i: usize) -> S::I {
        room.pair(s, i)
    }

    #[inline(always)]
    fn d(s: S, block: Block<'a>) -> S::F {
        F::d(s, block)
    }

    #[inline(always)]
    fn min(s: S, block: Block<'a>) -> S::F {
        s.widen_f16(block.min.first_chunk().expect("a minimum for each row"))
    }
}

/// Unpacked before.
impl<'a, S: Simd, F: LaneCodes> Source<S> for Unpacked<'a, F> {
    type Block = Opened<'a>;
    type Room = ();
    const ROOM: () = ();

    #[inline(always)]
    fn block(self, _: S, b: usize, _: &mut ()) -> Opened<'a> {
        let tile = self.tile;
        let count = if F::HALVES { 16 } else { 8 };
        let (k, m) = match F::LEN {
            SUPER_BLOCK => (&tile.k[b * count..][..count], &tile.m[b * count / 2..][..count / 2]),
            _ => (&[][..], &[][..]),
        };
        let codes = &tile.codes[b * F::LEN / 4..][..F::LEN / 4];
        Opened { codes, k, m, d: &tile.d[b], min: &tile.min[b] }
    }

    #[inline(always)]
    fn quad(s: S, block: Opened<'a>, group: usize, i: usize, j: usize) -> S::I {
        s.load_bytes(&block.codes[(group * F::GROUP + i) * QUADS + j])
    }

    #[inline(always)]
    fn k(s: S, block: Opened<'a>, _: &(), i: usize) -> S::I {
        s.load_int(&block.k[i])
    }

    #[inline(always)]
    fn m(s: S, block: Opened<'a>, _: &(), i: usize) -> S::I {
        s.load_int(&block.m[i])
    }

    #[inline(always)]
    fn d(s: S, block: Opened<'a>) -> S::F {
        s.load(block.d)
    }

    #[inline(always)]
    fn min(s: S, block: Opened<'a>) -> S::F {
        s.load(block.min)
    }
}

/// A tile of codes of `F`.
pub(super) struct Unpacked<'a, F> {
    tile: &'a Tile,
    format: PhantomData<F>,
}

impl<F> Clone for Unpacked<'_, F> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<F> Copy for Unpacked<'_, F> {}

impl<'a, F> Unpacked<'a, F> {
    #[inline(always)]
    pub fn new(tile: &'a Tile) -> Self {
        Unpacked { tile, format: PhantomData }
    }
}

/// One block of a tile.
#[derive(Clone, Copy)]
pub(super) struct Opened<'a> {
    codes: &'a [Bytes],
    k: &'a [Ints],
    m: &'a [Ints],
    d: &'a Row,
    min: &'a Row,
}

/// One segment's chains for `P` panels and `T` tokens.
#[inline(always)]
pub(super) fn segment<S: Simd, F: LaneCodes, W: Source<S>, const P: usize, const T: usize>(
    s: S,
    from: [W; P],
    blocks: usize,
    x: &[Act; T],
    ahead: Ahead,
) -> [[S::F; T]; P] {
    let mut acc = [[s.splat(0.0); T]; P];
    let mut rooms = [const { W::ROOM }; P];
    // Cut to what is walked, so that no step needs to look whether it is there.
    let mut runs: [&[[[u8; 4]; QUADS]]; T] = [&[]; T];
    let mut scales: [&[f32]; T] = [&[]; T];
    for t in 0..T {
        if F::LEN == SMALL_BLOCK {
            runs[t] = &x[t].codes.as_chunks().0[..blocks];
        }
        scales[t] = &x[t].scales[..blocks];
    }
    for b in 0..blocks {
        let mut opened = [from[0].block(s, b, &mut rooms[0]); P];
        for p in 1..P {
            opened[p] = from[p].block(s, b, &mut rooms[p]);
        }
        let isum = match F::LEN {
            SUPER_BLOCK => scaled_dots::<S, F, W, P, T>(s, opened, &rooms, b, x, ahead),
            _ => {
                ahead.fetch::<F>(b);
                let mut sums = [[s.zero(); T]; P];
                let mut q: [&[[u8; 4]]; T] = [&[]; T];
                for t in 0..T {
                    q[t] = &runs[t][b];
                    if F::OFFSET != 0 {
                        for p in 0..P {
                            sums[p][t] = s.splat_int(x[t].sums[0][b % LANES]);
                        }
                    }
                }
                dots::<S, F, W, P, T>(s, opened, [0, 0], 0..QUADS, q, sums)
            }
        };
        for p in 0..P {
            let d = W::d(s, opened[p]);
            for t in 0..T {
                let a = s.splat(scales[t][b]);
                acc[p][t] = s.fma(s.to_float(isum[p][t]), s.mul(d, a), acc[p][t]);
            }
            match F::MINIMUM {
                Minimum::None => {}
                Minimum::Float => {
                    let min = W::min(s, opened[p]);
                    for t in 0..T {
                        let a = s.splat(scales[t][b]);
                        let sum = s.splat(x[t].sums[0][b % LANES] as f32);
                        acc[p][t] = s.fma(sum, s.mul(min, a), acc[p][t]);
                    }
                }
                Minimum::Integer => {
                    let min = s.mul(W::min(s, opened[p]), s.splat(-1.0));
                    let mut msum = [s.zero(); T];
                    let (count, step) = if F::HALVES { (8, 1) } else { (4, 2) };
                    for i in 0..count {
                        let m = W::m(s, opened[p], &rooms[p], i);
                        for t in 0..T {
                            msum[t] =
                                s.dot_pairs(msum[t], m, x[t].sums[0][(b * 8 + i * step) % LANES]);
                        }
                    }
                    for t in 0..T {
                        let a = s.splat(scales[t][b]);
                        acc[p][t] = s.fma(s.to_float(msum[t]), s.mul(min, a), acc[p][t]);
                    }
                }
            }
        }
    }
    acc
}

/// `Σ k·Σ c·q` of a super-block.
#[inline(always)]
fn scaled_dots<S: Simd, F: LaneCodes, W: Source<S>, const P: usize, const T: usize>(
    s: S,
    opened: [W::Block; P],
    rooms: &[W::Room; P],
    b: usize,
    x: &[Act; T],
    ahead: Ahead,
) -> [[S::I; T]; P] {
    let mut isum = [[s.zero(); T]; P];
    let mut codes: [&[[u8; 4]]; T] = [&[]; T];
    for t in 0..T {
        codes[t] = &x[t].codes[b * (SUPER_BLOCK / 4)..][..SUPER_BLOCK / 4];
    }
    for_runs!(F, |group, i| {
        let run = group * F::GROUP + i;
        if i == 0 {
            // Not among a group's runs: loads that they share would be repeated after it.
            ahead.fetch::<F>(b * 8 + run);
        }
        let mut q = codes;
        for t in 0..T {
            q[t] = &codes[t][run * QUADS..][..QUADS];
        }
        if F::HALVES {
            half::<S, F, W, P, T>(s, opened, rooms, b, [group, i], 0, x, q, &mut isum);
            half::<S, F, W, P, T>(s, opened, rooms, b, [group, i], 1, x, q, &mut isum);
        } else {
            let mut sums = [[s.zero(); T]; P];
            if F::OFFSET != 0 {
                for t in 0..T {
                    for p in 0..P {
                        sums[p][t] = s.splat_int(x[t].sums[0][(b * 8 + run) % LANES]);
                    }
                }
            }
            let sums = dots::<S, F, W, P, T>(s, opened, [group, i], 0..QUADS, q, sums);
            scale::<S, W, P, T>(s, opened, rooms, run, sums, &mut isum);
        }
    });
    isum
}

/// Half of a run that has two scales.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn half<S: Simd, F: LaneCodes, W: Source<S>, const P: usize, const T: usize>(
    s: S,
    opened: [W::Block; P],
    rooms: &[W::Room; P],
    b: usize,
    at: [usize; 2],
    half: usize,
    x: &[Act; T],
    q: [&[[u8; 4]]; T],
    isum: &mut [[S::I; T]; P],
) {
    let run = at[0] * F::GROUP + at[1];
    let mut sums = [[s.zero(); T]; P];
    if F::OFFSET != 0 {
        for t in 0..T {
            for p in 0..P {
                sums[p][t] = s.splat_int(x[t].sums[half][(b * 8 + run) % LANES]);
            }
        }
    }
    let range = half * QUADS / 2..(half + 1) * QUADS / 2;
    let sums = dots::<S, F, W, P, T>(s, opened, at, range, q, sums);
    scale::<S, W, P, T>(s, opened, rooms, 2 * run + half, sums, isum);
}

#[inline(always)]
fn scale<S: Simd, W: Source<S>, const P: usize, const T: usize>(
    s: S,
    opened: [W::Block; P],
    rooms: &[W::Room; P],
    i: usize,
    sums: [[S::I; T]; P],
    isum: &mut [[S::I; T]; P],
) {
    for p in 0..P {
        let k = W::k(s, opened[p], &rooms[p], i);
        for t in 0..T {
            isum[p][t] = s.add_int(isum[p][t], s.mul_int(sums[p][t], k));
        }
    }
}

/// `Σ u·q` over some quads of a run, which is given by its group and its place there.
#[inline(always)]
fn dots<S: Simd, F: LaneCodes, W: Source<S>, const P: usize, const T: usize>(
    s: S,
    opened: [W::Block; P],
    [group, i]: [usize; 2],
    range: std::ops::Range<usize>,
    q: [&[[u8; 4]]; T],
    mut sums: [[S::I; T]; P],
) -> [[S::I; T]; P] {
    for j in range {
        let mut u = [s.zero(); P];
        for p in 0..P {
            u[p] = W::quad(s, opened[p], group, i, j);
        }
        for t in 0..T {
            let q = i32::from_ne_bytes(q[t][j]);
            for p in 0..P {
                sums[p][t] = match F::TOP > 128 {
                    true => s.dot_bytes::<true>(sums[p][t], u[p], q),
                    false => s.dot_bytes::<false>(sums[p][t], u[p], q),
                };
            }
        }
    }
    sums
}

//! `y = W x` for many tokens of a quantised matrix by AMX: tiles of 16 tokens × 16 rows.
//!
//! ```text
//! for each 256 tokens at most, each segment of 512 columns:
//!     pack the tokens' codes: blocks of sixteen tokens, 64 columns to a tile
//!     for each panel of 16 rows:
//!         unpack it, and expand its codes to signed bytes (`operand.rs`)
//!         for each two blocks of tokens, each item of columns:        (2 × 2 tiles of sums)
//!             multiply the item and store its sums
//!             floats of the item before it, which the multiplication hides
//! ```
//!
//! A tile multiplies bytes, and its sums must be taken out wherever a float scale changes.
//! - In the super-block formats that is every 256 columns. There the sub-block scale `k` is
//!   multiplied into the code `c`, and where the product does not fit a byte it is split as
//!   `64·h + l`, each half multiplied on its own: an item is 256 columns, and its 2 × 2 are two
//!   blocks of tokens × both halves.
//! - In the others it is every 32 columns: an item is two such blocks, and its 2 × 2 two blocks of
//!   tokens × two of columns, in tiles of half the depth.
//!
//! Either way `isum` is the exact integer of the numbers contract, and the float operations are
//! those of the other kernels, in their order; the bits are the same.
//!
//! The float pass reads sums from memory, so it lies beside the tile instructions of the next item
//! and a processor that reorders runs both at once; two buffers of sums take turns.
//!
//! Tokens are cut in blocks of even size, for a tile takes as long as it has rows of tokens: 20
//! are ten and ten, not sixteen and four. All tiles then have one configuration for the call.

// Several arrays are walked by one index, over ranges that the compiler unrolls.
#![allow(clippy::needless_range_loop)]

mod detect;
mod operand;
mod tiles;

use std::mem::MaybeUninit;

use super::activations::{self, Tokens};
use super::block::{Codes, Minimum};
use super::columns::Columns;
use super::linear::{Tile, add_panel};
use super::panels::Panels;
use super::simd::{Row, Simd};
use crate::base::limits::{LANES, SEGMENT, SMALL_BLOCK, SUPER_BLOCK};
use operand::{Lanes, Operand, Split};
use tiles::{ATile, Aligned, CTile, ROWS, Tiles, WIDTH};

pub use detect::Amx;
pub(super) use operand::Ranges;
pub(super) use tiles::Registers;

/// Sixteen i32, or sixteen pairs of i16, low half first.
type Ints = [i32; LANES];

/// Tokens from which this way is taken; fewer go by VNNI. Reckoned from the costs of single
/// instructions, to be measured: a panel's segment of a super-block format takes some 800 cycles
/// to expand, which no token shares, and then a token 16 to 20 against VNNI's 60 to 80.
pub(super) const FROM_TOKENS: usize = 24;

/// Tokens that are packed at once. A panel is unpacked and expanded again for each such run.
const RUN: usize = 256;
/// Tiles that hold a segment of one block of tokens.
const SEGMENT_TILES: usize = SEGMENT / WIDTH;
/// Tiles of sums in an item: two blocks of tokens × two halves, or × two blocks of columns.
const SUMS: usize = 4;
/// Runs of 32 columns in a segment.
const RUNS: usize = SEGMENT / SMALL_BLOCK;

/// The whole product, for `FROM_TOKENS` and more, by tiles that `configure` makes for so many
/// tokens and so many columns of activations.
#[inline(always)]
pub(super) fn quantised<S, F: Ranges, T: Tiles>(
    s: S,
    configure: impl Fn(usize, usize) -> T,
    w: &Panels,
    x: &activations::Quantised,
    tokens: Tokens,
    out: &mut Columns,
) where
    S: Simd + Lanes<F = <S as Simd>::F>,
{
    let x = Quantised { cols: w.cols(), codes: &x.codes, sums: &x.sums, scales: &x.scales };
    let mut operand = Aligned(Operand::new());
    let mut packed = Packed::new();
    let mut tile = Tile::new();
    for first in (0..tokens.len()).step_by(RUN) {
        let run = RUN.min(tokens.len() - first);
        let ids = |i: usize| tokens.at(first + i);
        let mut tiles = configure(Cut::even(run).size, depth::<F>());
        for k0 in (0..w.cols()).step_by(SEGMENT) {
            packed.pack::<F>(x, k0, run, ids);
            for p in 0..w.count() {
                let from = w.segment(p, k0);
                tile.fill::<S, F>(s, from);
                let columns = from.blocks * F::LEN;
                let k = columns / if F::HALVES { 16 } else { 32 };
                operand.0.expand::<_, F>(s, &tile.codes[..columns / 4], &tile.k[..k]);
                let scales = Scales { d: &tile.d, min: &tile.min, m: &tile.m };
                let add = |i: usize, sum| add_panel(s, sum, k0 == 0, out.row(first + i), p);
                segment::<_, F, _>(s, &mut tiles, &operand.0, scales, &packed, x, ids, add);
            }
        }
    }
}

/// What the floats of a panel's segment are made with, as the unpacked panel has it.
#[derive(Clone, Copy)]
struct Scales<'a> {
    /// `[block]`.
    pub d: &'a [Row],
    /// `[block]`, if the format has minima.
    pub min: &'a [Row],
    /// If they are integers, pairs of i16, low half first: the minima of two runs of 32 columns
    /// (or of 16 in the formats with `HALVES`) one after the other.
    pub m: &'a [Ints],
}

/// `[tokens][cols]` activations in 8 bits.
#[derive(Clone, Copy)]
struct Quantised<'a> {
    pub cols: usize,
    pub codes: &'a [i8],
    /// `[tokens][cols / 32]` pairs of i16, low half first, each the sum of 16 codes.
    pub sums: &'a [i32],
    /// `[tokens][cols / block]`.
    pub scales: &'a [f32],
}

/// How a run of tokens is cut: blocks of one size, of which the last may be short.
#[derive(Clone, Copy)]
struct Cut {
    tokens: usize,
    size: usize,
}

impl Cut {
    fn even(tokens: usize) -> Self {
        Cut { tokens, size: tokens.div_ceil(tokens.div_ceil(ROWS)) }
    }

    fn blocks(self) -> usize {
        self.tokens.div_ceil(self.size)
    }

    /// The tokens of block `i`.
    fn block(self, i: usize) -> std::ops::Range<usize> {
        i * self.size..self.tokens.min((i + 1) * self.size)
    }
}

/// A run of tokens in one segment: their codes as tiles, `[block][column / 64]`, and their sums as
/// the minima are multiplied with them.
struct Packed {
    tiles: [MaybeUninit<Aligned<ATile>>; RUN / ROWS * SEGMENT_TILES],
    /// For float minima the sum of each 32 codes, else pairs like those of [`Scales::m`]. Zero
    /// where the format has no minima.
    sums: [Ints; RUN],
    cut: Cut,
    k0: usize,
    cols: usize,
}

// However a run is cut, it has no more blocks than full ones would be.
const _: () = assert!(RUN.is_multiple_of(ROWS));

impl Packed {
    pub fn new() -> Self {
        Packed {
            tiles: [const { MaybeUninit::uninit() }; RUN / ROWS * SEGMENT_TILES],
            sums: [[0; RUNS]; RUN],
            cut: Cut { tokens: 0, size: 1 },
            k0: 0,
            cols: 0,
        }
    }

    /// Packs the columns of the segment at `k0`; token `i` of the run is row `ids(i)`.
    #[inline(always)]
    pub fn pack<F: Ranges>(
        &mut self,
        x: Quantised,
        k0: usize,
        tokens: usize,
        ids: impl Fn(usize) -> usize,
    ) {
        assert!((1..=RUN).contains(&tokens));
        (self.cut, self.k0, self.cols) = (Cut::even(tokens), k0, SEGMENT.min(x.cols - k0));
        if F::MINIMUM != Minimum::None {
            for (i, sums) in self.sums[..tokens].iter_mut().enumerate() {
                let from = (ids(i) * x.cols + k0) / SMALL_BLOCK;
                minima_sums::<F>(&x.sums[from..][..self.cols / SMALL_BLOCK], sums);
            }
        }
        let (tiles, _) = self.tiles.as_chunks_mut::<SEGMENT_TILES>();
        for (block, tiles) in tiles[..self.cut.blocks()].iter_mut().enumerate() {
            let ids = self.cut.block(block).map(&ids);
            let mut rows: [&[i8]; ROWS] = [&[]; ROWS];
            for (row, id) in rows.iter_mut().zip(ids) {
                *row = &x.codes[id * x.cols + k0..][..self.cols];
            }
            for (i, tile) in tiles[..self.cols.div_ceil(WIDTH)].iter_mut().enumerate() {
                let tile = &mut tile.write(Aligned([[0; WIDTH]; ROWS])).0;
                for (to, from) in tile.iter_mut().zip(rows) {
                    let from = from.get(i * WIDTH..).unwrap_or(&[]);
                    match from.first_chunk() {
                        Some(from) => *to = *from,
                        None => to[..from.len()].copy_from_slice(from),
                    }
                }
            }
        }
    }

    /// The tiles of block `i`.
    fn block(&self, i: usize) -> &[Aligned<ATile>] {
        assert!(i < self.cut.blocks());
        let tiles = &self.tiles[i * SEGMENT_TILES..][..self.cols.div_ceil(WIDTH)];
        // SAFETY: `pack` wrote so many tiles of each block of the cut.
        unsafe { std::slice::from_raw_parts(tiles.as_ptr().cast(), tiles.len()) }
    }
}

/// From pairs of sums of 16 codes, what [`Packed`] keeps.
#[inline(always)]
fn minima_sums<F: Ranges>(pairs: &[i32], out: &mut Ints) {
    let whole = |pair: i32| (pair as i16 as i32) + (pair >> 16);
    match F::MINIMUM {
        Minimum::None => {}
        Minimum::Float => {
            for (out, pair) in out.iter_mut().zip(pairs) {
                *out = whole(*pair);
            }
        }
        Minimum::Integer if F::HALVES => out[..pairs.len()].copy_from_slice(pairs),
        Minimum::Integer => {
            for (out, [a, b]) in out.iter_mut().zip(pairs.as_chunks().0) {
                *out = whole(*a) & 0xffff | whole(*b) << 16;
            }
        }
    }
}

/// Columns of a tile of activations: as many as share a float scale, up to its width.
const fn depth<F: Codes>() -> usize {
    if F::LEN == SUPER_BLOCK { WIDTH } else { SMALL_BLOCK }
}

/// An item: columns of two blocks of tokens.
#[derive(Clone, Copy)]
struct Item {
    /// The first of the two blocks of tokens.
    tokens: usize,
    /// The super-block, or the first of two small ones.
    block: usize,
}

/// The products of one panel's segment with a run of tokens. Hands the sum of the segment's chain
/// for token `i` of the run to `add(i, ...)`.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn segment<S: Lanes, F: Ranges, T: Tiles>(
    s: S,
    tiles: &mut T,
    operand: &Operand,
    scales: Scales,
    packed: &Packed,
    x: Quantised,
    ids: impl Fn(usize) -> usize,
    mut add: impl FnMut(usize, S::F),
) {
    let blocks = packed.cols / F::LEN;
    let mut sums = Aligned([[[[0; LANES]; ROWS]; SUMS]; 2]);
    let mut chains = Aligned([[0.0; LANES]; 2 * ROWS]);
    let (sums, chains) = (&mut sums.0, &mut chains.0);
    let step = if F::LEN == SUPER_BLOCK { 1 } else { 2 };
    let mut before: Option<Item> = None;
    let mut turn = 0;
    for tokens in (0..packed.cut.blocks()).step_by(2) {
        for block in (0..blocks).step_by(step) {
            let item = Item { tokens, block };
            multiply::<F, T>(tiles, operand, packed, item, blocks, &mut sums[turn]);
            if let Some(before) = before {
                let sums = &sums[1 - turn];
                floats::<S, F>(s, sums, scales, packed, before, x, &ids, chains, &mut add);
            }
            before = Some(item);
            turn = 1 - turn;
        }
    }
    if let Some(before) = before {
        let sums = &sums[1 - turn];
        floats::<S, F>(s, sums, scales, packed, before, x, &ids, chains, &mut add);
    }
}

/// The integer sums of an item: tile `2t + j` is for block `t` of tokens and half or block of
/// columns `j`.
#[inline(always)]
fn multiply<F: Ranges, T: Tiles>(
    tiles: &mut T,
    operand: &Operand,
    packed: &Packed,
    item: Item,
    blocks: usize,
    sums: &mut [CTile; SUMS],
) {
    let first = packed.block(item.tokens);
    let second = match item.tokens + 1 < packed.cut.blocks() {
        true => Some(packed.block(item.tokens + 1)),
        false => None,
    };
    let both = match F::SPLIT {
        Split::None => item.block + 1 < blocks,
        Split::Two => true,
        Split::One | Split::Negated => false,
    };
    tiles.zero::<0>();
    tiles.zero::<1>();
    tiles.zero::<2>();
    tiles.zero::<3>();
    if F::LEN == SUPER_BLOCK {
        const STEPS: usize = SUPER_BLOCK / WIDTH;
        for i in item.block * STEPS..(item.block + 1) * STEPS {
            tiles.load_b::<6>(&operand.low[i * ROWS..][..ROWS]);
            tiles.load_a::<4>(&first[i].0, 0);
            tiles.dot::<0, 4, 6>();
            if both {
                tiles.load_b::<7>(&operand.high[i * ROWS..][..ROWS]);
                tiles.dot::<1, 4, 7>();
            }
            if let Some(second) = second {
                tiles.load_a::<5>(&second[i].0, 0);
                tiles.dot::<2, 5, 6>();
                if both {
                    tiles.dot::<3, 5, 7>();
                }
            }
        }
    } else {
        const QUADS: usize = SMALL_BLOCK / 4;
        // Two blocks are the halves of one tile's columns.
        let i = item.block / 2;
        tiles.load_b::<6>(&operand.low[item.block * QUADS..][..QUADS]);
        tiles.load_a::<4>(&first[i].0, 0);
        tiles.dot::<0, 4, 6>();
        if let Some(second) = second {
            tiles.load_a::<5>(&second[i].0, 0);
            tiles.dot::<2, 5, 6>();
        }
        if both {
            tiles.load_b::<7>(&operand.low[(item.block + 1) * QUADS..][..QUADS]);
            tiles.load_a::<4>(&first[i].0, 1);
            tiles.dot::<1, 4, 7>();
            if let Some(second) = second {
                tiles.load_a::<5>(&second[i].0, 1);
                tiles.dot::<3, 5, 7>();
            }
        }
    }
    tiles.store::<0>(&mut sums[0]);
    if both {
        tiles.store::<1>(&mut sums[1]);
    }
    if second.is_some() {
        tiles.store::<2>(&mut sums[2]);
        if both {
            tiles.store::<3>(&mut sums[3]);
        }
    }
}

/// Carries the tokens' chains on by an item, and hands them over after the segment's last.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn floats<S: Lanes, F: Ranges>(
    s: S,
    sums: &[CTile; SUMS],
    scales: Scales,
    packed: &Packed,
    item: Item,
    x: Quantised,
    ids: &impl Fn(usize) -> usize,
    chains: &mut [Row; 2 * ROWS],
    add: &mut impl FnMut(usize, S::F),
) {
    let blocks = packed.cols / F::LEN;
    let width = if F::LEN == SUPER_BLOCK { 1 } else { 2.min(blocks - item.block) };
    let last = item.block + width == blocks;
    for t in 0..2.min(packed.cut.blocks() - item.tokens) {
        for (r, token) in packed.cut.block(item.tokens + t).enumerate() {
            let start = ids(token) * x.cols + packed.k0;
            let a = &x.scales[start / F::LEN + item.block..][..width];
            let chain = &mut chains[t * ROWS + r];
            let mut acc = if item.block == 0 { s.splat(0.0) } else { s.load(chain) };
            for j in 0..width {
                let block = item.block + j;
                let isum = match F::SPLIT {
                    Split::None => s.ints(&sums[2 * t + j][r]),
                    Split::One => s.ints(&sums[2 * t][r]),
                    Split::Negated => s.minus(s.ints(&sums[2 * t][r])),
                    Split::Two => s.join(s.ints(&sums[2 * t + 1][r]), s.ints(&sums[2 * t][r])),
                };
                let a = s.splat(a[j]);
                acc = s.fma(s.to_float(isum), s.mul(s.load(&scales.d[block]), a), acc);
                match F::MINIMUM {
                    Minimum::None => {}
                    Minimum::Float => {
                        let sum = s.splat(packed.sums[token][block] as f32);
                        acc = s.fma(sum, s.mul(s.load(&scales.min[block]), a), acc);
                    }
                    Minimum::Integer => {
                        let pairs = if F::HALVES { 8 } else { 4 };
                        let m = &scales.m[block * pairs..][..pairs];
                        let sums = &packed.sums[token][block * pairs..][..pairs];
                        let mut msum = s.zero();
                        for i in 0..pairs {
                            msum = s.dot_pairs(msum, &m[i], sums[i]);
                        }
                        let scale = s.mul(s.load(&scales.min[block]), a);
                        let minus = s.mul(scale, s.splat(-1.0));
                        acc = s.fma(s.to_float(msum), minus, acc);
                    }
                }
            }
            if last {
                add(token, acc);
            } else {
                s.store(acc, chain);
            }
        }
    }
}

#[cfg(test)]
mod tests;

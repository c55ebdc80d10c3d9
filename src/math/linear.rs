//! `y = W x`, written once for all instruction sets. Up to three tokens of a quantised matrix go
//! by rows (`rows.rs`); this file is the way of all others, by tiles.
//!
//! ```text
//! for each panel of 16 rows:                         (floats: four panels side by side)
//!     for each segment of 512 columns:
//!         unpack the rows' blocks and turn them: a tile whose vectors hold one k of 16 rows
//!         for each token:  acc = 0
//!             quantised, each block:  isum = Σ (code·k)·q             in i32, exact
//!                                     acc  = fma(isum, d·a, acc)      and the minimum likewise
//!             floats, each k:         acc  = fma(w, x, acc)
//!             out += acc              (the first segment is stored, not added)
//! ```
//!
//! - The integer scale `k` of a sub-block is multiplied into the code when it is unpacked. The
//!   product fits i16 for every format, so no sub-block scale is left in the inner loop
//!   (`block.rs` proves this, and that no i32 sum can overflow).
//! - Integer sums are exact, hence free: they run over pairs, in as many chains as hide the
//!   latency. Float sums are one chain for each lane, in ascending order, as the contract says.
//! - Turning costs 64 shuffles for 16 × 32 codes. It goes away when weights are stored in panels.
//! - Lanes beyond the last row compute rubbish that is never written.

// Several arrays are walked by one index, over ranges that the compiler unrolls.
#![allow(clippy::needless_range_loop)]

mod codes;
mod rows;

use super::activations::{Activations, Quantised, Tokens};
use super::block::{Block, Codes, Minimum, SUB_BLOCK, SUBS};
use super::float::{Float, scale_row};
use super::matrix::Matrix;
use super::simd::{Aligned, Narrow, Pairs, Row, Simd, bits, halves_mut, square_bits_mut};
use crate::base::limits::{LANES, PANEL_ROWS, SEGMENT, SMALL_BLOCK, SUPER_BLOCK};

pub(super) use codes::RowCodes;

/// Blocks in a segment, at most.
const BLOCKS: usize = SEGMENT / SMALL_BLOCK;
/// Pairs of columns in a segment.
const SEGMENT_PAIRS: usize = SEGMENT / 2;
/// Pairs of minima in a super-block.
const SUB_PAIRS: usize = SUBS / 2;

/// 16 rows × 512 columns of a quantised matrix, turned: 16 KiB of codes and their scales.
struct Tile {
    codes: [Pairs; SEGMENT_PAIRS],
    minima: [[Pairs; LANES]; SEGMENT / SUPER_BLOCK],
    d: [Row; BLOCKS],
    min: [Row; BLOCKS],
}

/// Rows as they are unpacked, before they are turned.
struct Rows {
    codes: [[i32; SEGMENT_PAIRS]; PANEL_ROWS],
    minima: [[Pairs; PANEL_ROWS]; SEGMENT / SUPER_BLOCK],
}

#[inline(always)]
pub(super) fn quantised<S: Simd + Narrow, F: RowCodes>(
    s: S,
    matrix: &Matrix,
    x: &Quantised,
    tokens: Tokens,
    out: &mut [f32],
) {
    // Measured with prompts of 33 tokens on 64 experts, 8 at work: by tiles alone they took 1.3 to
    // 1.5 times as long, and the third token still gained 3 to 11 in a hundred.
    match tokens.len() {
        1 => rows::quantised::<S, F, 1>(s, matrix, x, [tokens.at(0)], out),
        2 => rows::quantised::<S, F, 2>(s, matrix, x, [tokens.at(0), tokens.at(1)], out),
        3 => {
            let ids = [tokens.at(0), tokens.at(1), tokens.at(2)];
            rows::quantised::<S, F, 3>(s, matrix, x, ids, out)
        }
        _ => by_tiles::<S, F>(s, matrix, x, tokens, out),
    }
}

#[inline(always)]
fn by_tiles<S: Simd, F: Codes>(
    s: S,
    matrix: &Matrix,
    x: &Quantised,
    tokens: Tokens,
    out: &mut [f32],
) {
    let mut tile = Aligned(Tile {
        codes: [[0; LANES]; SEGMENT_PAIRS],
        minima: [[[0; LANES]; LANES]; SEGMENT / SUPER_BLOCK],
        d: [[0.0; LANES]; BLOCKS],
        min: [[0.0; LANES]; BLOCKS],
    });
    let mut rows = Aligned(Rows {
        codes: [[0; SEGMENT_PAIRS]; PANEL_ROWS],
        minima: [[[0; LANES]; PANEL_ROWS]; SEGMENT / SUPER_BLOCK],
    });
    let tile = &mut tile.0;
    for row0 in (0..matrix.rows()).step_by(PANEL_ROWS) {
        let count = PANEL_ROWS.min(matrix.rows() - row0);
        for k0 in (0..matrix.cols()).step_by(SEGMENT) {
            let blocks = SEGMENT.min(matrix.cols() - k0) / F::LEN;
            fill::<S, F>(s, matrix, row0, count, k0, blocks, &mut rows.0, tile);
            // With 32 registers two integer chains to a token hide the dot product's latency.
            let mut i = 0;
            while i + 4 <= tokens.len() {
                let ids = [tokens.at(i), tokens.at(i + 1), tokens.at(i + 2), tokens.at(i + 3)];
                let acc = if S::WIDE {
                    segment::<S, F, 4, 2>(s, tile, blocks, x, matrix.cols(), k0, ids)
                } else {
                    segment::<S, F, 4, 1>(s, tile, blocks, x, matrix.cols(), k0, ids)
                };
                for (t, acc) in acc.into_iter().enumerate() {
                    let out = &mut out[(i + t) * matrix.rows() + row0..][..count];
                    add_lanes(s, acc, k0 == 0, out);
                }
                i += 4;
            }
            while i < tokens.len() {
                let ids = [tokens.at(i)];
                let [acc] = segment::<S, F, 1, 4>(s, tile, blocks, x, matrix.cols(), k0, ids);
                add_lanes(s, acc, k0 == 0, &mut out[i * matrix.rows() + row0..][..count]);
                i += 1;
            }
        }
    }
}

/// Unpacks `blocks` blocks of `count` rows, from column `k0`, and turns them.
///
/// All rows are unpacked before any is turned: a load that spans stores still under way waits.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn fill<S: Simd, F: Codes>(
    s: S,
    matrix: &Matrix,
    row0: usize,
    count: usize,
    k0: usize,
    blocks: usize,
    rows: &mut Rows,
    tile: &mut Tile,
) {
    let mut unpacked = Block::new();
    for r in 0..count {
        let bytes = &matrix.row(row0 + r)[k0 / F::LEN * F::BYTES..][..blocks * F::BYTES];
        let codes = halves_mut(&mut rows.codes[r]);
        for b in 0..blocks {
            F::unpack(s, &bytes[b * F::BYTES..], &mut unpacked);
            tile.d[b][r] = unpacked.d;
            let (codes, _) = codes[b * F::LEN..(b + 1) * F::LEN].as_chunks_mut::<SUB_BLOCK>();
            let (from, _) = unpacked.codes.as_chunks::<SUB_BLOCK>();
            for sub in 0..F::LEN / SUB_BLOCK {
                let k = if F::LEN == SUPER_BLOCK { unpacked.k[sub] } else { 1 };
                s.scale_codes(&from[sub], k, &mut codes[sub]);
            }
            if F::MINIMUM != Minimum::None {
                tile.min[b][r] = unpacked.min;
            }
            if F::MINIMUM == Minimum::Integer {
                let minima = halves_mut(&mut rows.minima[b][r]);
                for (to, from) in minima.iter_mut().zip(unpacked.m) {
                    *to = from as i16;
                }
            }
        }
    }
    let (squares, _) = tile.codes.as_chunks_mut::<LANES>();
    for (i, square) in squares[..blocks * F::LEN / 2 / LANES].iter_mut().enumerate() {
        s.transpose(&rows.codes.as_flattened()[i * LANES..], SEGMENT_PAIRS, square);
    }
    if F::MINIMUM == Minimum::Integer {
        for b in 0..blocks {
            s.transpose(rows.minima[b].as_flattened(), LANES, &mut tile.minima[b]);
        }
    }
}

/// One segment's chain for `T` tokens, each integer sum in `P` parts.
#[inline(always)]
fn segment<S: Simd, F: Codes, const T: usize, const P: usize>(
    s: S,
    tile: &Tile,
    blocks: usize,
    x: &Quantised,
    cols: usize,
    k0: usize,
    ids: [usize; T],
) -> [S::F; T] {
    let mut codes: [&[i32]; T] = [&[]; T];
    let mut sums: [&[i32]; T] = [&[]; T];
    let mut scales: [&[f32]; T] = [&[]; T];
    for t in 0..T {
        codes[t] = &x.codes[(ids[t] * cols + k0) / 2..][..blocks * F::LEN / 2];
        sums[t] = &x.sums[(ids[t] * cols + k0) / SMALL_BLOCK..][..blocks * F::LEN / SMALL_BLOCK];
        scales[t] = &x.scales[(ids[t] * cols + k0) / F::LEN..][..blocks];
    }
    let mut acc = [s.splat(0.0); T];
    for b in 0..blocks {
        let w = &tile.codes[b * F::LEN / 2..][..F::LEN / 2];
        let mut q: [&[i32]; T] = [&[]; T];
        for t in 0..T {
            q[t] = &codes[t][b * F::LEN / 2..][..F::LEN / 2];
        }
        let mut parts = [[s.zero(); P]; T];
        for k in (0..F::LEN / 2).step_by(P) {
            for p in 0..P {
                for t in 0..T {
                    parts[t][p] = s.dot_pairs(parts[t][p], &w[k + p], q[t][k + p]);
                }
            }
        }
        let d = s.load(&tile.d[b]);
        for t in 0..T {
            let mut isum = parts[t][0];
            for part in &parts[t][1..] {
                isum = s.add_int(isum, *part);
            }
            let a = s.splat(scales[t][b]);
            acc[t] = s.fma(s.to_float(isum), s.mul(d, a), acc[t]);
            match F::MINIMUM {
                Minimum::None => {}
                Minimum::Float => {
                    let pair = sums[t][b];
                    let sum = s.splat((pair as i16 as i32 + (pair >> 16)) as f32);
                    acc[t] = s.fma(sum, s.mul(s.load(&tile.min[b]), a), acc[t]);
                }
                Minimum::Integer => {
                    let sums = &sums[t][b * SUB_PAIRS..][..SUB_PAIRS];
                    let mut msum = s.zero();
                    for i in 0..SUB_PAIRS {
                        msum = s.dot_pairs(msum, &tile.minima[b][i], sums[i]);
                    }
                    let scale = s.mul(s.load(&tile.min[b]), a);
                    let minus = s.mul(scale, s.splat(-1.0));
                    acc[t] = s.fma(s.to_float(msum), minus, acc[t]);
                }
            }
        }
    }
    acc
}

/// Stores a panel's lanes, or adds them to what earlier segments left.
#[inline(always)]
fn add_lanes<S: Simd>(s: S, acc: S::F, store: bool, out: &mut [f32]) {
    if let Ok(out) = <&mut Row>::try_from(&mut *out) {
        let sum = if store { acc } else { s.add(s.load(out), acc) };
        s.store(sum, out);
        return;
    }
    let mut row = [0.0; LANES];
    s.store(acc, &mut row);
    for (out, acc) in out.iter_mut().zip(row) {
        *out = if store { acc } else { *out + acc };
    }
}

/// Panels of a float matrix that are computed side by side: one token's chains are so many, and
/// a chain that waits for its own last addition leaves the others to run.
const GROUP: usize = 4;
/// Columns of a float tile: with four panels of f32 it takes 32 KiB.
const STEP: usize = 128;
/// Tokens whose segment sums are kept at once. A matrix is widened again for each such run.
const RUN: usize = 64;

type FloatTile = [[Row; STEP]; GROUP];

#[inline(always)]
pub(super) fn floats<S: Simd, F: Float>(
    s: S,
    matrix: &Matrix,
    x: &Activations,
    tokens: Tokens,
    out: &mut [f32],
) {
    let (rows, cols) = (matrix.rows(), matrix.cols());
    let mut tile: Aligned<FloatTile> = Aligned([[[0.0; LANES]; STEP]; GROUP]);
    let mut sums = Aligned([[[0.0; LANES]; GROUP]; RUN]);
    let mut widened = Aligned([[0.0; STEP]; PANEL_ROWS]);
    let (tile, sums) = (&mut tile.0, &mut sums.0);
    for row0 in (0..rows).step_by(GROUP * PANEL_ROWS) {
        let count = (GROUP * PANEL_ROWS).min(rows - row0);
        let panels = count.div_ceil(PANEL_ROWS);
        for first in (0..tokens.len()).step_by(RUN) {
            let run = RUN.min(tokens.len() - first);
            for segment in (0..cols).step_by(SEGMENT) {
                let end = cols.min(segment + SEGMENT);
                sums[..run].fill([[0.0; LANES]; GROUP]);
                for k0 in (segment..end).step_by(STEP) {
                    let len = STEP.min(end - k0);
                    for p in 0..panels {
                        let count = PANEL_ROWS.min(count - p * PANEL_ROWS);
                        let row0 = row0 + p * PANEL_ROWS;
                        let (rows, tile) = (&mut widened.0, &mut tile[p]);
                        widen::<S, F>(s, matrix, row0, count, k0, len, rows, tile);
                    }
                    let at = |i: usize| &x.token(tokens.at(first + i))[k0..k0 + len];
                    let mut i = 0;
                    while i + 4 <= run {
                        let x = [at(i), at(i + 1), at(i + 2), at(i + 3)];
                        let mut p = 0;
                        while S::WIDE && p + 2 <= panels {
                            chains::<S, 2, 4>(s, &tile[p..], len, x, &mut sums[i..], p);
                            p += 2;
                        }
                        while p < panels {
                            chains::<S, 1, 4>(s, &tile[p..], len, x, &mut sums[i..], p);
                            p += 1;
                        }
                        i += 4;
                    }
                    while i < run {
                        if panels == GROUP {
                            chains::<S, GROUP, 1>(s, tile, len, [at(i)], &mut sums[i..], 0);
                        } else {
                            for p in 0..panels {
                                chains::<S, 1, 1>(s, &tile[p..], len, [at(i)], &mut sums[i..], p);
                            }
                        }
                        i += 1;
                    }
                }
                for (i, sums) in sums[..run].iter().enumerate() {
                    let out = &mut out[(first + i) * rows + row0..][..count];
                    for (out, sum) in out.chunks_mut(PANEL_ROWS).zip(sums) {
                        add_lanes(s, s.load(sum), segment == 0, out);
                    }
                }
            }
        }
    }
}

/// Widens, in `rows`, columns `k0..k0 + len` of a panel and turns them.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn widen<S: Simd, F: Float>(
    s: S,
    matrix: &Matrix,
    row0: usize,
    count: usize,
    k0: usize,
    len: usize,
    rows: &mut [[f32; STEP]; PANEL_ROWS],
    tile: &mut [Row; STEP],
) {
    for (r, row) in rows[..count].iter_mut().enumerate() {
        let bytes = &matrix.row(row0 + r)[k0 * F::BYTES..][..len * F::BYTES];
        F::widen(s, bytes, &mut row[..len]);
        if let Some(scales) = matrix.scales() {
            scale_row(&scales, matrix.cols(), row0 + r, k0, &mut row[..len]);
        }
    }
    let (squares, _) = tile.as_chunks_mut::<LANES>();
    for (i, square) in squares[..len.div_ceil(LANES)].iter_mut().enumerate() {
        s.transpose(bits(&rows.as_flattened()[i * LANES..]), STEP, square_bits_mut(square));
    }
}

/// Carries the chains of `P` panels and `T` tokens on by `len` columns.
#[inline(always)]
fn chains<S: Simd, const P: usize, const T: usize>(
    s: S,
    tile: &[[Row; STEP]],
    len: usize,
    x: [&[f32]; T],
    sums: &mut [[Row; GROUP]],
    panel: usize,
) {
    let mut acc = [[s.splat(0.0); P]; T];
    let mut w: [&[Row]; P] = [&[]; P];
    for p in 0..P {
        w[p] = &tile[p][..len];
        for t in 0..T {
            acc[t][p] = s.load(&sums[t][panel + p]);
        }
    }
    let x = x.map(|x| &x[..len]);
    for k in 0..len {
        for p in 0..P {
            let w = s.load(&w[p][k]);
            for t in 0..T {
                acc[t][p] = s.fma(w, s.splat(x[t][k]), acc[t][p]);
            }
        }
    }
    for t in 0..T {
        for p in 0..P {
            s.store(acc[t][p], &mut sums[t][panel + p]);
        }
    }
}

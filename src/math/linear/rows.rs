//! `y = W x` for few tokens: straight from the bytes of the rows.
//!
//! ```text
//! for each four rows:                                 (four streams of memory side by side)
//!     for each segment of 512 columns:  acc = 0
//!         for each block:
//!             for each row, each token:               32 codes to a register
//!                 eight partial sums in i32           (`codes.rs`: exact, in any order)
//!             isum = four rows' partial sums, folded into four lanes; msum likewise
//!             acc  = fma(isum, d·a, acc)              four lanes, one to a row
//!         out += acc                                  (the first segment is stored, not added)
//! ```
//!
//! One token reuses no weight, so what the tiles spend on turning is never earned back. Here
//! nothing is turned and no code is widened before it is multiplied. Instructions for a row of
//! one block, one token, with VNNI: Q8_0 4, Q4_0 8, Q4_K about 60, Q6_K about 75; then a quarter
//! of a fold (7 shuffles, 4 additions) for each sum and of the floats (3, or 6 with a minimum).
//!
//! The rest is memory. A row of a few KiB ends before the processor's own prefetching has got into
//! step with it, so each block asks for the same block four rows on: on a Zen 5 core that is 21
//! GB/s where it was 8.
//!
//! Rows beyond the last are the last one again; their lanes are never written.

// Several arrays are walked by one index, over ranges that the compiler unrolls.
#![allow(clippy::needless_range_loop)]

use super::super::activations::Quantised;
use super::super::block::Minimum;
use super::super::matrix::Matrix;
use super::super::simd::Narrow;
use super::codes::{Act, RowCodes};
use crate::base::limits::{SEGMENT, SMALL_BLOCK};

/// Rows side by side.
pub(super) const ROWS: usize = 4;
/// Rows by which memory is asked in advance. Eight or twelve do as well, but start later.
const AHEAD: usize = ROWS;
/// Bytes of a cache line.
const LINE: usize = 64;

#[inline(always)]
pub(super) fn quantised<S: Narrow, F: RowCodes, const T: usize>(
    s: S,
    matrix: &Matrix,
    x: &Quantised,
    ids: [usize; T],
    out: &mut [f32],
) {
    let (rows, cols) = (matrix.rows(), matrix.cols());
    let blocks = cols / F::LEN;
    let mut q: [&[[i8; SMALL_BLOCK]]; T] = [&[]; T];
    let mut sums: [&[i32]; T] = [&[]; T];
    let mut scales: [&[f32]; T] = [&[]; T];
    for t in 0..T {
        q[t] = x.bytes[ids[t] * cols..][..cols].as_chunks().0;
        sums[t] = &x.sums[ids[t] * cols / SMALL_BLOCK..][..cols / SMALL_BLOCK];
        scales[t] = &x.scales[ids[t] * blocks..][..blocks];
    }
    for row0 in (0..rows).step_by(ROWS) {
        let mut bytes: [&[u8]; ROWS] = [&[]; ROWS];
        let mut ahead = bytes;
        for r in 0..ROWS {
            bytes[r] = matrix.row((row0 + r).min(rows - 1));
            ahead[r] = matrix.row((row0 + r + AHEAD).min(rows - 1));
        }
        let mut total = [s.splat(0.0); T];
        for b0 in (0..blocks).step_by(SEGMENT / F::LEN) {
            let mut acc = [s.splat(0.0); T];
            for b in b0..blocks.min(b0 + SEGMENT / F::LEN) {
                for row in ahead {
                    for at in (0..F::BYTES).step_by(LINE) {
                        s.prefetch(row, b * F::BYTES + at);
                    }
                }
                block::<S, F, T>(s, bytes, b, q, sums, scales, &mut acc);
            }
            for t in 0..T {
                total[t] = if b0 == 0 { acc[t] } else { s.add(total[t], acc[t]) };
            }
        }
        let count = ROWS.min(rows - row0);
        for t in 0..T {
            let total = s.to_array(total[t]);
            out[t * rows + row0..][..count].copy_from_slice(&total[..count]);
        }
    }
}

/// Carries the chains of four rows on by block `b`.
#[inline(always)]
fn block<S: Narrow, F: RowCodes, const T: usize>(
    s: S,
    rows: [&[u8]; ROWS],
    b: usize,
    q: [&[[i8; SMALL_BLOCK]]; T],
    sums: [&[i32]; T],
    scales: [&[f32]; T],
    acc: &mut [S::F; T],
) {
    let runs = F::LEN / SMALL_BLOCK;
    let mut x = [Act { q: &[], sums: &[] }; T];
    for t in 0..T {
        x[t].q = &q[t][b * runs..][..runs];
        x[t].sums = &sums[t][b * runs..][..runs];
    }
    let mut bytes = rows;
    let mut isum = [[s.zeros(); ROWS]; T];
    let mut msum = [[s.zeros(); ROWS]; T];
    for r in 0..ROWS {
        bytes[r] = &rows[r][b * F::BYTES..][..F::BYTES];
        let dots = F::dot::<S, T>(s, bytes[r], x);
        for t in 0..T {
            (isum[t][r], msum[t][r]) = dots[t];
        }
    }
    let (d, min) = F::scales(s, bytes);
    for t in 0..T {
        let a = s.splat(scales[t][b]);
        acc[t] = s.fma(s.to_float(s.fold(isum[t])), s.mul(d, a), acc[t]);
        match F::MINIMUM {
            Minimum::None => {}
            Minimum::Float => {
                let pair = sums[t][b];
                let sum = s.splat((pair as i16 as i32 + (pair >> 16)) as f32);
                acc[t] = s.fma(sum, s.mul(min, a), acc[t]);
            }
            Minimum::Integer => {
                acc[t] = s.fma_minus(s.to_float(s.fold(msum[t])), s.mul(min, a), acc[t]);
            }
        }
    }
}

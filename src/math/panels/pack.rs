//! Rows of blocks into panels.

use std::ops::Range;

use super::super::format::Field;
use super::super::matrix::Matrix;
use crate::base::limits::{PANEL_ROWS, SEGMENT};

/// Writes some panels of a matrix to `out`, which has exactly their length.
pub fn pack(matrix: &Matrix, panels: Range<usize>, out: &mut [u8]) {
    let format = matrix.format();
    let (block, bytes) = (format.block(), format.block_bytes());
    let size = PANEL_ROWS * (matrix.cols() / block) * bytes;
    assert!(panels.end <= matrix.rows().div_ceil(PANEL_ROWS), "panels of the matrix");
    assert_eq!(Some(out.len()), panels.len().checked_mul(size), "room for the panels");
    if size == 0 {
        return;
    }
    // What stands for the rows that the last panel lacks.
    let zeros = [0; 4 * SEGMENT];
    for (panel, out) in panels.zip(out.chunks_exact_mut(size)) {
        let mut rest = out;
        for k0 in (0..matrix.cols()).step_by(SEGMENT) {
            let blocks = SEGMENT.min(matrix.cols() - k0) / block;
            let rows: [&[u8]; PANEL_ROWS] = std::array::from_fn(|r| {
                let row = panel * PANEL_ROWS + r;
                match row < matrix.rows() {
                    true => &matrix.row(row)[k0 / block * bytes..][..blocks * bytes],
                    false => &zeros[..blocks * bytes],
                }
            });
            for field in format.fields() {
                let (out, after) = rest.split_at_mut(PANEL_ROWS * blocks * field.len);
                rest = after;
                match field.unit {
                    4 => interleave::<4>(&rows, *field, bytes, out),
                    2 => interleave::<2>(&rows, *field, bytes, out),
                    _ => interleave::<1>(&rows, *field, bytes, out),
                }
            }
        }
    }
}

/// One field of a segment's blocks, which follow each other every `block` bytes.
fn interleave<const UNIT: usize>(
    rows: &[&[u8]; PANEL_ROWS],
    mut field: Field,
    block: usize,
    out: &mut [u8],
) {
    // Blocks that are nothing but this field are one.
    if field.len == block {
        field.len = rows[0].len();
    }
    for (b, out) in out.chunks_exact_mut(PANEL_ROWS * field.len).enumerate() {
        let from = rows.map(|row| &row[b * block + field.offset..][..field.len]);
        let done = squares::<UNIT>(&from, out);
        let from = from.map(|row| row[done..].as_chunks::<UNIT>().0);
        let (out, _) = out[PANEL_ROWS * done..].as_chunks_mut::<UNIT>();
        let (out, _) = out.as_chunks_mut::<PANEL_ROWS>();
        for (u, out) in out.iter_mut().enumerate() {
            for (out, from) in out.iter_mut().zip(from) {
                *out = from[u];
            }
        }
    }
}

/// Does what it can by vectors: the first bytes of all rows, whose number it returns.
#[cfg(target_arch = "x86_64")]
fn squares<const UNIT: usize>(rows: &[&[u8]; PANEL_ROWS], out: &mut [u8]) -> usize {
    use std::arch::x86_64::*;

    let from = rows.map(|row| row.as_chunks::<16>().0);
    let (out, _) = out.as_chunks_mut::<16>();
    // Rows that fill a vector with one unit each; so many units has a vector of one row.
    let side = 16 / UNIT;
    for i in 0..from[0].len() {
        for group in 0..UNIT {
            // SAFETY: SSE2 is part of x86-64; vectors are read from and written to arrays of 16.
            unsafe {
                let mut a = [_mm_setzero_si128(); PANEL_ROWS];
                for (a, from) in a[..side].iter_mut().zip(&from[group * side..]) {
                    *a = _mm_loadu_si128(from[i].as_ptr().cast());
                }
                // Each round interleaves the first half with the second; as many as halve `side`
                // down to one turn rows into columns.
                for _ in 0..side.ilog2() {
                    let b = a;
                    for r in 0..side / 2 {
                        let (x, y) = (b[r], b[side / 2 + r]);
                        (a[2 * r], a[2 * r + 1]) = match UNIT {
                            1 => (_mm_unpacklo_epi8(x, y), _mm_unpackhi_epi8(x, y)),
                            2 => (_mm_unpacklo_epi16(x, y), _mm_unpackhi_epi16(x, y)),
                            _ => (_mm_unpacklo_epi32(x, y), _mm_unpackhi_epi32(x, y)),
                        };
                    }
                }
                for (u, a) in a[..side].iter().enumerate() {
                    let out = &mut out[(i * side + u) * UNIT + group];
                    _mm_storeu_si128(out.as_mut_ptr().cast(), *a);
                }
            }
        }
    }
    16 * from[0].len()
}

#[cfg(not(target_arch = "x86_64"))]
fn squares<const UNIT: usize>(_: &[&[u8]; PANEL_ROWS], _: &mut [u8]) -> usize {
    0
}

const _: () = assert!(super::LARGEST_BLOCK <= 4 * SEGMENT);

//! A segment of a panel, unpacked once for many tokens.

use super::super::block::Minimum;
use super::super::panels::Segment;
use super::super::simd::{Bytes, Ints, Row, Simd};
use super::lanes::{Integers, LaneCodes};
use crate::base::limits::{LANES, SEGMENT, SMALL_BLOCK, SUPER_BLOCK};

/// 16 rows × 512 columns. All arrays have the sixteen rows innermost.
///
/// - `codes[k / 4][row][k % 4]`: unsigned, `OFFSET` above what they stand for. Sixteen of these
///   lines, 64 columns, are an operand of AMX's `tdpbsud` as they lie: its `B` in tiles of 16 × 64
///   bytes, with the activations' signed codes as `A`.
/// - `k[i][row]`: the integer scale of 32 columns, or of 16 in the formats with `HALVES`; block 1
///   follows block 0.
/// - `m[i][row]`: pairs of i16, low half first: the integer minima of two runs of 32 columns (or
///   of 16) one after the other.
/// - `d[b][row]`, `min[b][row]`: the scale and the float minimum, or the minima's scale, of block
///   `b` of 256 (or 32) columns.
///
/// What a format lacks, or a shorter segment does not fill, is left over from before.
#[repr(C, align(64))]
pub(in crate::math) struct Tile {
    pub codes: [Bytes; SEGMENT / 4],
    pub k: [Ints; SEGMENT / 16],
    pub m: [Ints; SEGMENT / 32],
    pub d: [Row; SEGMENT / SMALL_BLOCK],
    pub min: [Row; SEGMENT / SMALL_BLOCK],
}

impl Tile {
    pub const fn new() -> Self {
        Tile {
            codes: [[0; 4 * LANES]; SEGMENT / 4],
            k: [[0; LANES]; SEGMENT / 16],
            m: [[0; LANES]; SEGMENT / 32],
            d: [[0.0; LANES]; SEGMENT / SMALL_BLOCK],
            min: [[0.0; LANES]; SEGMENT / SMALL_BLOCK],
        }
    }

    #[inline(always)]
    pub fn fill<S: Simd, F: LaneCodes>(&mut self, s: S, segment: Segment) {
        let mut integers = Integers::new();
        for b in 0..segment.blocks {
            let block = F::block(segment, b);
            s.store(F::d(s, block), &mut self.d[b]);
            if F::MINIMUM != Minimum::None {
                let min = s.widen_f16(block.min.first_chunk().expect("a minimum for each row"));
                s.store(min, &mut self.min[b]);
            }
            let codes = &mut self.codes[b * F::LEN / 4..][..F::LEN / 4];
            let (runs, _) = codes.as_chunks_mut::<{ SMALL_BLOCK / 4 }>();
            if F::LEN < SUPER_BLOCK {
                fill_run::<S, F>(s, block, [0, 0], &mut runs[0]);
                continue;
            }
            super::dots::for_runs!(F, |group, i| {
                let run = &mut runs[group * F::GROUP + i];
                fill_run::<S, F>(s, block, [group, i], run)
            });
            F::integers(s, block, &mut integers);
            let count = if F::HALVES { 16 } else { 8 };
            for (i, k) in self.k[b * count..][..count].iter_mut().enumerate() {
                s.store_int(s.widen_i8(F::k(block, &integers, i)), k);
            }
            if F::MINIMUM == Minimum::Integer {
                let count = count / 2;
                for (i, m) in self.m[b * count..][..count].iter_mut().enumerate() {
                    s.store_int(integers.pair(s, i), m);
                }
            }
        }
    }
}

#[inline(always)]
fn fill_run<S: Simd, F: LaneCodes>(
    s: S,
    block: super::lanes::Block,
    [group, i]: [usize; 2],
    out: &mut [Bytes; SMALL_BLOCK / 4],
) {
    for (j, out) in out.iter_mut().enumerate() {
        s.store_bytes(F::quad(s, block, group, i, j), out);
    }
}

//! The float weight formats: exact widening to f32.

use super::matrix::BlockScales;
use super::simd::Simd;
use crate::base::limits::LANES;

/// Exactly f16 → f32, in integers: an f16 is an f32 with the exponent's bias wrong by 112.
pub(super) fn f16(bits: u16) -> f32 {
    let sign = ((bits & 0x8000) as u32) << 16;
    let magnitude = ((bits & 0x7fff) as u32) << 13;
    // 2^112 mends the bias; a subnormal f16 is a subnormal f32 here, so the product is exact.
    let finite = (f32::from_bits(magnitude) * f32::from_bits(0x7780_0000)).to_bits();
    let special = magnitude | 0x7f80_0000;
    f32::from_bits(sign | if bits & 0x7c00 == 0x7c00 { special } else { finite })
}

/// A format whose weights stand alone.
pub(super) trait Float {
    const BYTES: usize;

    /// One weight, from exactly `BYTES` bytes.
    fn one(bytes: &[u8]) -> f32;

    /// Many weights.
    #[inline(always)]
    fn widen<S: Simd>(_: S, bytes: &[u8], out: &mut [f32]) {
        for (out, bytes) in out.iter_mut().zip(bytes.chunks_exact(Self::BYTES)) {
            *out = Self::one(bytes);
        }
    }
}

pub(super) struct F32;

impl Float for F32 {
    const BYTES: usize = 4;

    #[inline(always)]
    fn one(bytes: &[u8]) -> f32 {
        f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }
}

pub(super) struct F16;

impl Float for F16 {
    const BYTES: usize = 2;

    #[inline(always)]
    fn one(bytes: &[u8]) -> f32 {
        f16(u16::from_le_bytes([bytes[0], bytes[1]]))
    }

    #[inline(always)]
    fn widen<S: Simd>(s: S, bytes: &[u8], out: &mut [f32]) {
        let (full, tail) = bytes.as_chunks::<{ 2 * LANES }>();
        let (rows, rest) = out.as_chunks_mut::<LANES>();
        for (row, bytes) in rows.iter_mut().zip(full) {
            s.widen_f16(bytes, row);
        }
        for (out, bytes) in rest.iter_mut().zip(tail.chunks_exact(2)) {
            *out = Self::one(bytes);
        }
    }
}

pub(super) struct BF16;

impl Float for BF16 {
    const BYTES: usize = 2;

    #[inline(always)]
    fn one(bytes: &[u8]) -> f32 {
        f32::from_bits((u16::from_le_bytes([bytes[0], bytes[1]]) as u32) << 16)
    }
}

pub(super) struct F8E4M3;

impl Float for F8E4M3 {
    const BYTES: usize = 1;

    /// The "fn" kind: no infinities, all ones is NaN.
    #[inline(always)]
    fn one(bytes: &[u8]) -> f32 {
        let byte = bytes[0] as u32;
        // As for f16: only the bias is wrong, by 120.
        let magnitude = f32::from_bits((byte & 0x7f) << 20) * f32::from_bits(0x7b80_0000);
        let bits = if byte & 0x7f == 0x7f { 0x7fc0_0000 } else { magnitude.to_bits() };
        f32::from_bits((byte & 0x80) << 24 | bits)
    }

    #[inline(always)]
    fn widen<S: Simd>(s: S, bytes: &[u8], out: &mut [f32]) {
        let (full, tail) = bytes.as_chunks::<LANES>();
        let (rows, rest) = out.as_chunks_mut::<LANES>();
        for (row, bytes) in rows.iter_mut().zip(full) {
            s.widen_f8(bytes, row);
        }
        for (out, byte) in rest.iter_mut().zip(tail) {
            *out = Self::one(&[*byte]);
        }
    }
}

/// Multiplies columns `k0..` of row `r` by their block scales.
#[inline(always)]
pub(super) fn scale_row(scales: &BlockScales, cols: usize, r: usize, k0: usize, row: &mut [f32]) {
    let mut k = 0;
    while k < row.len() {
        let scale = scales.at(cols, r, k0 + k);
        // To the end of the scale's block.
        let run = scales.block_cols - (k0 + k) % scales.block_cols;
        let end = row.len().min(k.saturating_add(run));
        for w in &mut row[k..end] {
            *w *= scale;
        }
        k = end;
    }
}

//! The float weight formats: exact widening to f32.

use super::simd::Simd;

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

    /// The bytes of sixteen weights: a column of a panel.
    type Column: Copy;

    fn columns(bytes: &[u8]) -> &[Self::Column];
    fn widen<S: Simd>(s: S, column: &Self::Column) -> S::F;
}

pub(super) struct F32;

impl Float for F32 {
    const BYTES: usize = 4;

    type Column = [u8; 64];

    #[inline(always)]
    fn one(bytes: &[u8]) -> f32 {
        f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }

    #[inline(always)]
    fn columns(bytes: &[u8]) -> &[[u8; 64]] {
        bytes.as_chunks().0
    }

    #[inline(always)]
    fn widen<S: Simd>(s: S, column: &[u8; 64]) -> S::F {
        s.float_of_bits(s.load_bytes(column))
    }
}

pub(super) struct F16;

impl Float for F16 {
    const BYTES: usize = 2;

    type Column = [u8; 32];

    #[inline(always)]
    fn one(bytes: &[u8]) -> f32 {
        f16(u16::from_le_bytes([bytes[0], bytes[1]]))
    }

    #[inline(always)]
    fn columns(bytes: &[u8]) -> &[[u8; 32]] {
        bytes.as_chunks().0
    }

    #[inline(always)]
    fn widen<S: Simd>(s: S, column: &[u8; 32]) -> S::F {
        s.widen_f16(column)
    }
}

pub(super) struct BF16;

impl Float for BF16 {
    const BYTES: usize = 2;

    type Column = [u8; 32];

    #[inline(always)]
    fn one(bytes: &[u8]) -> f32 {
        f32::from_bits((u16::from_le_bytes([bytes[0], bytes[1]]) as u32) << 16)
    }

    #[inline(always)]
    fn columns(bytes: &[u8]) -> &[[u8; 32]] {
        bytes.as_chunks().0
    }

    #[inline(always)]
    fn widen<S: Simd>(s: S, column: &[u8; 32]) -> S::F {
        s.float_of_bits(s.shl(s.widen_u16(column), 16))
    }
}

pub(super) struct F8E4M3;

impl Float for F8E4M3 {
    const BYTES: usize = 1;

    type Column = [u8; 16];

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
    fn columns(bytes: &[u8]) -> &[[u8; 16]] {
        bytes.as_chunks().0
    }

    #[inline(always)]
    fn widen<S: Simd>(s: S, column: &[u8; 16]) -> S::F {
        s.widen_f8(column)
    }
}

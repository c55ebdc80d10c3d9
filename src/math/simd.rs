//! The abstract machine of sixteen lanes, as a trait that each instruction set's token implements.
//!
//! The token is the proof that the host has the set, so the methods are safe, and the kernels
//! written against this trait hold no unsafe code. Every method is `inline(always)`: the kernels
//! are inlined into functions compiled for the instruction set (see `rooms.rs`), and only there
//! do these calls become single instructions.

use crate::base::limits::LANES;

/// Sixteen f32, as they lie in memory.
pub(super) type Row = [f32; LANES];
/// Sixteen i32, or sixteen pairs of i16 (low half first), as they lie in memory.
pub(super) type Pairs = [i32; LANES];

/// What unpacking a block asks of an instruction set.
pub(super) trait Decode: Copy {
    /// One f16 to f32, exactly.
    fn f16(self, bits: u16) -> f32;
    /// The table's codes for the low nibbles of `qs`, then for the high ones.
    fn nibbles(self, table: &[i8; 16], qs: &[u8; 16], out: &mut [i8; 32]);
}

/// The oracle's way, one at a time.
#[derive(Clone, Copy)]
pub(super) struct Plain;

impl Decode for Plain {
    fn f16(self, bits: u16) -> f32 {
        super::float::f16(bits)
    }

    fn nibbles(self, table: &[i8; 16], qs: &[u8; 16], out: &mut [i8; 32]) {
        for (i, q) in qs.iter().enumerate() {
            out[i] = table[(q & 15) as usize];
            out[16 + i] = table[(q >> 4) as usize];
        }
    }
}

pub(super) trait Simd: Decode {
    /// Sixteen f32.
    type F: Copy;
    /// Sixteen i32.
    type I: Copy;

    /// Whether there are registers enough (32) for wide blocks of accumulators.
    const WIDE: bool;

    fn splat(self, x: f32) -> Self::F;
    fn load(self, x: &Row) -> Self::F;
    fn store(self, v: Self::F, out: &mut Row);

    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `if a > b { a } else { b }`: the second where either is NaN.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// `if a < b { a } else { b }`: the second where either is NaN.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// To the nearest integer, ties to even.
    fn round(self, a: Self::F) -> Self::F;
    /// `a * 2^n`, rounded once, for integral `n` in -252..=254 and `|a|` in 0.5..2.
    fn scale_by_power(self, a: Self::F, n: Self::F) -> Self::F;
    /// The sum of all lanes, folded 16 → 8 → 4 → 2 → 1 (lane i with lane i + half).
    fn fold_add(self, v: Self::F) -> f32;
    /// The largest lane, folded alike.
    fn fold_max(self, v: Self::F) -> f32;

    fn zero(self) -> Self::I;
    fn add_int(self, a: Self::I, b: Self::I) -> Self::I;
    /// Each lane: `acc + w.low * q.low + w.high * q.high` in i32, with one pair `q` for all.
    fn dot_pairs(self, acc: Self::I, w: &Pairs, q: i32) -> Self::I;
    /// To f32, rounded to nearest, ties to even.
    fn to_float(self, v: Self::I) -> Self::F;

    /// Turns sixteen rows of sixteen 32-bit words, `stride` words apart, into columns.
    fn transpose(self, src: &[i32], stride: usize, out: &mut [Pairs; LANES]);
    /// Sixteen codes times their scale, in i16.
    fn scale_codes(self, codes: &[i8; LANES], k: i8, out: &mut [i16; LANES]);
    /// Sixteen little-endian f16 to f32.
    fn widen_f16(self, src: &[u8; 2 * LANES], out: &mut Row);
    /// Sixteen E4M3 to f32.
    fn widen_f8(self, src: &[u8; LANES], out: &mut Row);
}

/// The second shape, for products of few tokens: 32 codes of one row in a register, and floats in
/// four lanes, one for each of four rows.
pub(super) trait Narrow: Decode {
    /// 32 bytes, 16 i16 or 8 i32.
    type V: Copy;
    /// Four i32.
    type I: Copy;
    /// Four f32.
    type F: Copy;

    /// Asks for the cache line that holds byte `at` of `from`.
    fn prefetch(self, from: &[u8], at: usize);

    fn bytes(self, from: &[u8; 32]) -> Self::V;
    fn codes(self, from: &[i8; 32]) -> Self::V;
    fn words(self, from: &[i32; 8]) -> Self::V;
    fn zeros(self) -> Self::V;
    fn splat_byte(self, byte: u8) -> Self::V;
    /// The low nibbles of sixteen bytes, then the high ones.
    fn unfold(self, from: &[u8; 16]) -> Self::V;
    /// Thirty-two bits, the lowest first: 255 where set, else 0.
    fn spread(self, bits: u32) -> Self::V;
    /// Eight signed bytes to i16, the same eight in both halves.
    fn eight_scales(self, k: u64) -> Self::V;
    /// Sixteen signed bytes to i16: those of even place in the lower half, of odd place in the
    /// upper.
    fn sixteen_scales(self, k: [u64; 2]) -> Self::V;
    /// Sixteen signed bytes to i16, in order.
    fn in_order(self, m: [u64; 2]) -> Self::V;
    /// Eight bytes to i16, each twice, in order.
    fn twins(self, m: u64) -> Self::V;
    /// In each half, its i16 of number `i` everywhere.
    fn pick(self, scales: Self::V, i: usize) -> Self::V;

    fn and(self, a: Self::V, b: Self::V) -> Self::V;
    fn or(self, a: Self::V, b: Self::V) -> Self::V;
    /// Each i16 shifted left by `n`, or right where `n` is negative. What crosses from byte to
    /// byte must be masked off.
    fn shift(self, v: Self::V, n: i32) -> Self::V;
    /// Each byte, below 16, replaced from the table.
    fn look_up(self, table: &[i8; 16], v: Self::V) -> Self::V;

    /// i16: `u0 * q0 + u1 * q1` with unsigned `u`, which must not exceed i16.
    fn pairs(self, u: Self::V, q: Self::V) -> Self::V;
    /// The same with signed `w` and with `q` above -128.
    fn pairs_signed(self, w: Self::V, q: Self::V) -> Self::V;
    /// i32: `acc + p0 * k0 + p1 * k1` of i16.
    fn dot_words(self, acc: Self::V, p: Self::V, k: Self::V) -> Self::V;
    /// i32: the sum of four products, each two of which must not exceed i16.
    fn dot_bytes(self, u: Self::V, q: Self::V) -> Self::V;
    fn dot_signed(self, w: Self::V, q: Self::V) -> Self::V;
    /// i32: `a - b * 2^n`.
    fn sub_shifted(self, a: Self::V, b: Self::V, n: i32) -> Self::V;
    /// The sum of the eight i32 of each.
    fn fold(self, rows: [Self::V; 4]) -> Self::I;

    fn f16s(self, bits: [u16; 4]) -> Self::F;
    fn floats(self, x: [f32; 4]) -> Self::F;
    fn splat(self, x: f32) -> Self::F;
    fn to_float(self, v: Self::I) -> Self::F;
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `c - a * b`, rounded once.
    fn fma_minus(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    fn to_array(self, v: Self::F) -> [f32; 4];
}

/// The first lane: for one number that must go through a lane function.
#[inline(always)]
pub(super) fn first<S: Simd>(s: S, v: S::F) -> f32 {
    let mut row = [0.0; LANES];
    s.store(v, &mut row);
    row[0]
}

/// Words seen as their halves, low half first on the little-endian machines that have vectors.
pub(super) fn halves_mut(words: &mut [i32]) -> &mut [i16] {
    let len = words.len() * 2;
    // SAFETY: an i32 is two i16 of weaker alignment, any bits are valid, the borrow is handed on.
    unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), len) }
}

/// Floats seen as their bits.
pub(super) fn bits(floats: &[f32]) -> &[i32] {
    // SAFETY: f32 and i32 agree in size and alignment, any bits are valid.
    unsafe { std::slice::from_raw_parts(floats.as_ptr().cast(), floats.len()) }
}

/// A square of floats seen as its bits.
pub(super) fn square_bits_mut(square: &mut [Row; LANES]) -> &mut [Pairs; LANES] {
    // SAFETY: f32 and i32 agree in size and alignment, any bits are valid.
    unsafe { &mut *std::ptr::from_mut(square).cast() }
}

/// A value on a cache line of its own, so that no vector load straddles two.
#[repr(C, align(64))]
pub(super) struct Aligned<T>(pub T);

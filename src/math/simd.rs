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
pub(super) type Ints = [i32; LANES];
/// The same bytes as four to a lane.
pub(super) type Bytes = [u8; 4 * LANES];

pub(super) trait Simd: Copy {
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
    fn splat_int(self, x: i32) -> Self::I;
    fn load_int(self, x: &Ints) -> Self::I;
    fn store_int(self, v: Self::I, out: &mut Ints);
    fn load_bytes(self, x: &Bytes) -> Self::I;
    fn store_bytes(self, v: Self::I, out: &mut Bytes);
    fn add_int(self, a: Self::I, b: Self::I) -> Self::I;
    /// The low half of the product.
    fn mul_int(self, a: Self::I, b: Self::I) -> Self::I;
    fn max_int(self, a: Self::I, b: Self::I) -> Self::I;
    fn min_int(self, a: Self::I, b: Self::I) -> Self::I;
    fn and(self, a: Self::I, b: Self::I) -> Self::I;
    fn or(self, a: Self::I, b: Self::I) -> Self::I;
    fn xor(self, a: Self::I, b: Self::I) -> Self::I;
    /// Each lane shifted, zeros coming in. What crosses from byte to byte must be masked off.
    fn shl(self, v: Self::I, n: u32) -> Self::I;
    fn shr(self, v: Self::I, n: u32) -> Self::I;
    /// Each byte, below 16, replaced from the table.
    fn look_up(self, table: &[u8; 16], v: Self::I) -> Self::I;
    /// Byte `i` of each lane: 255 where the lane's bit `4j + i` is set, else 0.
    fn spread(self, v: Self::I, j: usize) -> Self::I;
    /// The even lanes become pairs of i16: their own low half, and that of the lane after them.
    fn pair_up(self, v: Self::I) -> Self::I;
    /// Each lane: `acc + w.low * q.low + w.high * q.high` in i32, with one pair `q` for all.
    fn dot_pairs(self, acc: Self::I, w: Self::I, q: i32) -> Self::I;
    /// Each lane: `acc + Σ u·q` over its four bytes, unsigned in `u`, signed and above -128 in
    /// `q`, one word for all. `ANY`: bytes of `u` may be above 128.
    fn dot_bytes<const ANY: bool>(self, acc: Self::I, u: Self::I, q: i32) -> Self::I;

    fn widen_i8(self, x: &[u8; LANES]) -> Self::I;
    fn widen_u8(self, x: &[u8; LANES]) -> Self::I;
    fn widen_u16(self, x: &[u8; 2 * LANES]) -> Self::I;
    fn widen_f16(self, x: &[u8; 2 * LANES]) -> Self::F;
    fn widen_f8(self, x: &[u8; LANES]) -> Self::F;
    /// To f32, rounded to nearest, ties to even.
    fn to_float(self, v: Self::I) -> Self::F;
    /// The floats that have these bits.
    fn float_of_bits(self, v: Self::I) -> Self::F;

    /// Loads a byte for the sake of its cache line.
    #[inline(always)]
    fn touch(self, byte: &u8) {
        // SAFETY: a reference is valid to read.
        unsafe { std::ptr::from_ref(byte).read_volatile() };
    }
}

/// The first lane: for one number that must go through a lane function.
#[inline(always)]
pub(super) fn first<S: Simd>(s: S, v: S::F) -> f32 {
    let mut row = [0.0; LANES];
    s.store(v, &mut row);
    row[0]
}

/// Codes by fours: what a lane of an integer dot product takes.
pub(super) fn quads(codes: &[i8]) -> &[[u8; 4]] {
    // SAFETY: i8 and u8 agree in size and alignment, any bits are valid, the borrow is handed on.
    let bytes = unsafe { std::slice::from_raw_parts(codes.as_ptr().cast::<u8>(), codes.len()) };
    bytes.as_chunks().0
}

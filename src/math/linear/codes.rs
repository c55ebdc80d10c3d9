//! The integer sums of one row's block with the activations, for each format.
//!
//! A register holds 32 codes as bytes, unsigned where the format allows. A product with the
//! activations is summed by pairs into i16, and a pair times its sub-block's scale into i32:
//!
//! ```text
//! isum = Σ_runs  dot_words(pairs(u, q), k)            super-blocks; 16 codes share a k in a half
//! isum = isum - OFFSET · Σ_sub k·s                    where the codes are stored with an offset
//! isum = dot_bytes(u, q)                              small blocks
//! ```
//!
//! Signed codes go as |code| times the activation with the code's sign, which is exact because
//! no activation is -128.

// Several arrays are walked by one index, over ranges that the compiler unrolls.
#![allow(clippy::needless_range_loop)]

use super::super::block::*;
use super::super::simd::Narrow;
use super::rows::ROWS;
use crate::base::limits::{SMALL_BLOCK, SUPER_BLOCK};

/// One token's activations for one block.
#[derive(Clone, Copy)]
pub(in super::super) struct Act<'a> {
    /// Runs of 32 codes.
    pub q: &'a [[i8; SMALL_BLOCK]],
    /// Pairs of sums, each of 16 codes.
    pub sums: &'a [i32],
}

/// A format that can be multiplied row by row.
pub(in super::super) trait RowCodes: Codes {
    /// The largest byte that meets an activation.
    const BYTE: i32;
    /// Where a block's f16 scale and minimum lie.
    const D: usize;
    const MIN: usize = Self::D;

    /// Partial sums, to be added up, of `isum` and `msum` for each token.
    fn dot<S: Narrow, const T: usize>(s: S, bytes: &[u8], x: [Act; T]) -> [(S::V, S::V); T];

    /// The scales and minima of four rows' blocks.
    #[inline(always)]
    fn scales<S: Narrow>(s: S, rows: [&[u8]; ROWS]) -> (S::F, S::F) {
        (s.f16s(halves(rows, Self::D)), s.f16s(halves(rows, Self::MIN)))
    }
}

// What keeps the sums exact, beside what `block.rs` proves:
// - two products fit i16;
// - with codes that carry an offset, and before it is taken away, a block's sum stays below 2^29.
const fn capacity<F: RowCodes>(k: i64) {
    assert!(2 * F::BYTE * LARGEST_Q <= i16::MAX as i32);
    assert!(F::LEN as i64 * F::BYTE as i64 * k * (LARGEST_Q as i64) < 1 << 29);
}
const _: () = {
    capacity::<Q8_0>(1);
    capacity::<Q4_0>(1);
    capacity::<Q4_1>(1);
    capacity::<Q5_0>(1);
    capacity::<Q5_1>(1);
    capacity::<IQ4NL>(1);
    capacity::<MXFP4>(1);
    capacity::<Q2K>(15);
    capacity::<Q3K>(32);
    capacity::<Q4K>(63);
    capacity::<Q5K>(63);
    capacity::<Q6K>(128);
    capacity::<IQ4XS>(32);
};

#[inline(always)]
fn halves(rows: [&[u8]; ROWS], at: usize) -> [u16; ROWS] {
    let mut halves = [0; ROWS];
    for r in 0..ROWS {
        halves[r] = u16::from_le_bytes(*part(rows[r], at));
    }
    halves
}

#[inline(always)]
fn part<const N: usize>(bytes: &[u8], at: usize) -> &[u8; N] {
    bytes[at..].first_chunk().expect("a block has its length")
}

#[inline(always)]
fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*part(bytes, at))
}

#[inline(always)]
fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(*part(bytes, at))
}

#[inline(always)]
fn one_run<S: Narrow, const T: usize>(
    s: S,
    codes: S::V,
    signed: bool,
    x: [Act; T],
) -> [(S::V, S::V); T] {
    let mut dots = [(s.zeros(), s.zeros()); T];
    for t in 0..T {
        let q = s.codes(&x[t].q[0]);
        dots[t].0 = if signed { s.dot_signed(codes, q) } else { s.dot_bytes(codes, q) };
    }
    dots
}

/// A small format: `$codes` makes a run's codes of the block's bytes.
macro_rules! small {
    ($F:ident, $byte:expr, $d:expr, $min:expr, $signed:expr, |$s:ident, $bytes:ident| $codes:expr) => {
        impl RowCodes for $F {
            const BYTE: i32 = $byte;
            const D: usize = $d;
            const MIN: usize = $min;

            #[inline(always)]
            fn dot<S: Narrow, const T: usize>(
                $s: S,
                $bytes: &[u8],
                x: [Act; T],
            ) -> [(S::V, S::V); T] {
                one_run($s, $codes, $signed, x)
            }
        }
    };
}

small!(Q8_0, 128, 0, 0, true, |s, bytes| s.bytes(part(bytes, 2)));
small!(Q4_0, 8, 0, 0, true, |s, bytes| s.look_up(&SIGNED4, s.unfold(part(bytes, 2))));
small!(IQ4NL, 127, 0, 0, true, |s, bytes| s.look_up(&IQ4, s.unfold(part(bytes, 2))));
small!(Q4_1, 15, 0, 2, false, |s, bytes| s.unfold(part(bytes, 4)));
// A clear bit takes 16 away, which in two's complement sets the upper four.
small!(Q5_0, 16, 0, 0, true, |s, bytes| s
    .or(s.unfold(part(bytes, 6)), s.and(s.spread(!word(bytes, 2)), s.splat_byte(0xf0))));
small!(Q5_1, 31, 0, 2, false, |s, bytes| s
    .or(s.unfold(part(bytes, 8)), s.and(s.spread(word(bytes, 4)), s.splat_byte(16))));

impl RowCodes for MXFP4 {
    const BYTE: i32 = 12;
    const D: usize = 0;

    #[inline(always)]
    fn dot<S: Narrow, const T: usize>(s: S, bytes: &[u8], x: [Act; T]) -> [(S::V, S::V); T] {
        one_run(s, s.look_up(&E2M1, s.unfold(part(bytes, 1))), true, x)
    }

    #[inline(always)]
    fn scales<S: Narrow>(s: S, rows: [&[u8]; ROWS]) -> (S::F, S::F) {
        let mut d = [0.0; ROWS];
        for r in 0..ROWS {
            d[r] = half_e8m0(rows[r][0]);
        }
        (s.floats(d), s.splat(0.0))
    }
}

/// A super-block format's codes and scales.
trait Runs: Codes {
    const SIGNED: bool = false;
    /// The power of two that was added to each code.
    const OFFSET: Option<i32> = None;

    /// Run `i` of 32 codes.
    fn run<S: Narrow>(s: S, bytes: &[u8], i: usize) -> S::V;
    /// The scales as `pick` takes them; in order, to be multiplied by the sums, where there is an
    /// offset; and the minima, in order, where there are any.
    fn integers<S: Narrow>(s: S, bytes: &[u8]) -> [S::V; 3];
}

#[inline(always)]
fn runs<S: Narrow, F: Runs, const T: usize>(s: S, bytes: &[u8], x: [Act; T]) -> [(S::V, S::V); T] {
    let [k, k_in_order, m] = F::integers(s, bytes);
    let mut dots = [(s.zeros(), s.zeros()); T];
    for i in 0..SUPER_BLOCK / SMALL_BLOCK {
        let codes = F::run(s, bytes, i);
        let k = s.pick(k, i);
        for t in 0..T {
            let q = s.codes(&x[t].q[i]);
            let pairs = if F::SIGNED { s.pairs_signed(codes, q) } else { s.pairs(codes, q) };
            dots[t].0 = s.dot_words(dots[t].0, pairs, k);
        }
    }
    for t in 0..T {
        let sums = s.words(x[t].sums.first_chunk().expect("a block has its sums"));
        if let Some(offset) = F::OFFSET {
            let more = s.dot_words(s.zeros(), sums, k_in_order);
            dots[t].0 = s.sub_shifted(dots[t].0, more, offset);
        }
        if F::MINIMUM == Minimum::Integer {
            dots[t].1 = s.dot_words(s.zeros(), sums, m);
        }
    }
    dots
}

macro_rules! large {
    ($F:ident, $byte:expr, $d:expr, $min:expr) => {
        impl RowCodes for $F {
            const BYTE: i32 = $byte;
            const D: usize = $d;
            const MIN: usize = $min;

            #[inline(always)]
            fn dot<S: Narrow, const T: usize>(
                s: S,
                bytes: &[u8],
                x: [Act; T],
            ) -> [(S::V, S::V); T] {
                runs::<S, $F, T>(s, &bytes[..Self::BYTES], x)
            }
        }
    };
}

large!(Q2K, 3, 80, 82);
large!(Q3K, 7, 108, 108);
large!(Q4K, 15, 0, 2);
large!(Q5K, 31, 0, 2);
large!(Q6K, 63, 208, 208);
large!(IQ4XS, 127, 0, 0);

/// Every byte of a word.
const fn each(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; 8])
}

/// Eight bytes below 64, less 32 each: below 32 the upper three bits are set, else bit 5 cleared.
#[inline(always)]
fn minus_32(v: u64) -> u64 {
    v & each(0x1f) | ((!v & each(0x20)) * 7)
}

/// Bits `from..` of each byte moved to `to..`, and no other bit of `mask`.
#[inline(always)]
fn bits<S: Narrow>(s: S, v: S::V, from: usize, to: usize, mask: u8) -> S::V {
    s.and(s.shift(v, to as i32 - from as i32), s.splat_byte(mask))
}

#[inline(always)]
fn two_bits<S: Narrow>(s: S, qs: &[u8], i: usize) -> S::V {
    bits(s, s.bytes(part(qs, i / 4 * 32)), 2 * (i % 4), 0, 3)
}

/// The six-bit scales and minima of Q4_K and Q5_K.
#[inline(always)]
fn six_bits<S: Narrow>(s: S, bytes: &[u8]) -> [S::V; 3] {
    let (a, b, c) = (word(bytes, 4), word(bytes, 8), word(bytes, 12));
    let (low, nibble, top) = (0x3f3f_3f3f, 0x0f0f_0f0f, 0x3030_3030);
    let k = (a & low) as u64 | ((c & nibble | a >> 2 & top) as u64) << 32;
    let m = (b & low) as u64 | ((c >> 4 & nibble | b >> 2 & top) as u64) << 32;
    [s.eight_scales(k), s.zeros(), s.twins(m)]
}

impl Runs for Q2K {
    #[inline(always)]
    fn run<S: Narrow>(s: S, bytes: &[u8], i: usize) -> S::V {
        two_bits(s, &bytes[16..80], i)
    }

    #[inline(always)]
    fn integers<S: Narrow>(s: S, bytes: &[u8]) -> [S::V; 3] {
        let (a, b, low) = (long(bytes, 0), long(bytes, 8), each(15));
        [s.sixteen_scales([a & low, b & low]), s.zeros(), s.in_order([a >> 4 & low, b >> 4 & low])]
    }
}

impl Runs for Q3K {
    const OFFSET: Option<i32> = Some(2);

    #[inline(always)]
    fn run<S: Narrow>(s: S, bytes: &[u8], i: usize) -> S::V {
        let third = bits(s, s.bytes(part(bytes, 0)), i, 2, 4);
        s.or(two_bits(s, &bytes[32..96], i), third)
    }

    #[inline(always)]
    fn integers<S: Narrow>(s: S, bytes: &[u8]) -> [S::V; 3] {
        let (low, high) = (long(bytes, 96), word(bytes, 104) as u64);
        let high = high | high << 30;
        let first = low & each(15) | (high & each(3)) << 4;
        let second = low >> 4 & each(15) | (high >> 4 & each(3)) << 4;
        let k = [minus_32(first), minus_32(second)];
        [s.sixteen_scales(k), s.in_order(k), s.zeros()]
    }
}

impl Runs for Q4K {
    #[inline(always)]
    fn run<S: Narrow>(s: S, bytes: &[u8], i: usize) -> S::V {
        bits(s, s.bytes(part(bytes, 16 + i / 2 * 32)), 4 * (i % 2), 0, 15)
    }

    #[inline(always)]
    fn integers<S: Narrow>(s: S, bytes: &[u8]) -> [S::V; 3] {
        six_bits(s, bytes)
    }
}

impl Runs for Q5K {
    #[inline(always)]
    fn run<S: Narrow>(s: S, bytes: &[u8], i: usize) -> S::V {
        let low = bits(s, s.bytes(part(bytes, 48 + i / 2 * 32)), 4 * (i % 2), 0, 15);
        s.or(low, bits(s, s.bytes(part(bytes, 16)), i, 4, 16))
    }

    #[inline(always)]
    fn integers<S: Narrow>(s: S, bytes: &[u8]) -> [S::V; 3] {
        six_bits(s, bytes)
    }
}

impl Runs for Q6K {
    const OFFSET: Option<i32> = Some(5);

    #[inline(always)]
    fn run<S: Narrow>(s: S, bytes: &[u8], i: usize) -> S::V {
        let (half, quarter) = (i / 4, i % 4);
        let low = s.bytes(part(bytes, half * 64 + quarter % 2 * 32));
        let high = s.bytes(part(bytes, 128 + half * 32));
        s.or(bits(s, low, quarter / 2 * 4, 0, 15), bits(s, high, 2 * quarter, 4, 0x30))
    }

    #[inline(always)]
    fn integers<S: Narrow>(s: S, bytes: &[u8]) -> [S::V; 3] {
        let k = [long(bytes, 192), long(bytes, 200)];
        [s.sixteen_scales(k), s.in_order(k), s.zeros()]
    }
}

impl Runs for IQ4XS {
    const SIGNED: bool = true;

    #[inline(always)]
    fn run<S: Narrow>(s: S, bytes: &[u8], i: usize) -> S::V {
        s.look_up(&IQ4, s.unfold(part(bytes, 8 + 16 * i)))
    }

    #[inline(always)]
    fn integers<S: Narrow>(s: S, bytes: &[u8]) -> [S::V; 3] {
        // Eight nibbles and eight pairs of bits, spread over eight bytes.
        let low = word(bytes, 4) as u64;
        let low = (low | low << 16) & 0x0000_ffff_0000_ffff;
        let low = (low | low << 8) & 0x00ff_00ff_00ff_00ff;
        let low = (low | low << 4) & each(15);
        let high = u16::from_le_bytes(*part(bytes, 2)) as u64;
        let high = (high | high << 24) & 0x0000_00ff_0000_00ff;
        let high = (high | high << 12) & 0x000f_000f_000f_000f;
        let high = (high | high << 6) & each(3);
        [s.eight_scales(minus_32(low | high << 4)), s.zeros(), s.zeros()]
    }
}

//! What the bytes of a panel mean, sixteen rows at a time: codes as unsigned bytes, four to a
//! lane; scales a lane each.

// Several arrays are walked by one index, over ranges that the compiler unrolls.
#![allow(clippy::needless_range_loop)]

use super::super::block::{
    Codes, E2M1, IQ4, IQ4NL, IQ4XS, MXFP4, Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0,
};
use super::super::format::Field;
use super::super::panels::Segment;
use super::super::simd::{Bytes, Simd};
use crate::base::limits::{LANES, SMALL_BLOCK, SUPER_BLOCK};

/// One block of sixteen rows, by its fields. Those a format lacks are empty.
#[derive(Clone, Copy)]
pub(in crate::math) struct Block<'a> {
    pub d: &'a [u8],
    pub min: &'a [u8],
    pub scales: &'a [[u8; LANES]],
    /// The codes' low bits, and the rest of them.
    pub low: &'a [Bytes],
    pub high: &'a [Bytes],
}

/// The integer scales and minima of a super-block, a byte for each row, four rows of bytes
/// together.
pub(in crate::math) struct Integers {
    /// Signed. One for each 16 codes ([`LaneCodes::HALVES`]) or 32.
    k: [Bytes; 4],
    m: [Bytes; 4],
}

impl Integers {
    pub const fn new() -> Self {
        Integers { k: [[0; 4 * LANES]; 4], m: [[0; 4 * LANES]; 4] }
    }

    #[inline(always)]
    pub fn k(&self, i: usize) -> &[u8; LANES] {
        &self.k.as_flattened().as_chunks().0[i]
    }

    /// Two minima, the first in the low half.
    #[inline(always)]
    pub fn pair<S: Simd>(&self, s: S, i: usize) -> S::I {
        let m = self.m.as_flattened().as_chunks().0;
        s.or(s.widen_u8(&m[2 * i]), s.shl(s.widen_u8(&m[2 * i + 1]), 16))
    }
}

/// A quantised format in panels.
///
/// Codes are unsigned: `OFFSET` is added to each, and what that adds to a sum, `OFFSET · Σ q`, is
/// what the sum starts below zero with.
pub(in crate::math) trait LaneCodes: Codes {
    const OFFSET: i32 = 0;
    /// The largest unsigned code.
    const TOP: i32;
    /// Whether an integer scale belongs to 16 codes, not to 32.
    const HALVES: bool = false;
    /// Runs of 32 whose codes lie in the same bytes.
    const GROUP: usize = 1;
    /// The fields, by their number; `NONE` where there is none.
    const D: usize = 0;
    const MIN: usize = NONE;
    const SCALES: usize = NONE;
    const LOW: usize;
    const HIGH: usize = NONE;

    /// Codes `4j..4j + 4` of run `i` of group `group`.
    fn quad<S: Simd>(s: S, block: Block, group: usize, i: usize, j: usize) -> S::I;

    fn integers<S: Simd>(_: S, _: Block, _: &mut Integers) {}

    /// The integer scale `i`, where `integers` made them.
    #[inline(always)]
    fn k<'a>(_: Block<'a>, integers: &'a Integers, i: usize) -> &'a [u8; LANES] {
        integers.k(i)
    }

    /// The scale `d` of each row.
    #[inline(always)]
    fn d<S: Simd>(s: S, block: Block) -> S::F {
        s.widen_f16(block.d.first_chunk().expect("a scale for each row"))
    }

    #[inline(always)]
    fn block(segment: Segment, b: usize) -> Block {
        Block {
            d: field::<Self>(segment, b, Self::D),
            min: field::<Self>(segment, b, Self::MIN),
            scales: field::<Self>(segment, b, Self::SCALES).as_chunks().0,
            low: field::<Self>(segment, b, Self::LOW).as_chunks().0,
            high: field::<Self>(segment, b, Self::HIGH).as_chunks().0,
        }
    }
}

const NONE: usize = usize::MAX;

#[inline(always)]
fn field<F: LaneCodes + ?Sized>(segment: Segment<'_>, b: usize, i: usize) -> &[u8] {
    match i {
        NONE => &[],
        i => {
            let Field { offset, len, .. } = F::FORMAT.fields()[i];
            segment.field(offset, len, b)
        }
    }
}

// What keeps the sums exact, for each format:
// - a code fits the byte that the dot product takes;
// - a block's sum of unsigned codes times their scales stays below 2^30, and so does what the
//   offset takes away, so that no partial sum in i32 can overflow;
// - an offset fits the i16 that it is multiplied in.
const fn capacity<F: LaneCodes>(k: i32) {
    const Q: i64 = super::super::block::LARGEST_Q as i64;
    assert!(F::TOP <= u8::MAX as i32 && F::OFFSET <= 128);
    assert!(F::LEN as i64 * (F::TOP as i64) * (k as i64) * Q < 1 << 30);
    assert!(F::LEN as i64 * (F::OFFSET as i64) * (k as i64) * Q < 1 << 30);
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

/// Every byte of a lane.
const fn each(byte: u8) -> i32 {
    i32::from_ne_bytes([byte; 4])
}

/// Bits `from..` of each byte moved to `to..`, and no other bit of `mask`.
#[inline(always)]
fn bits<S: Simd>(s: S, v: S::I, from: usize, to: usize, mask: u8) -> S::I {
    let moved = match from > to {
        true => s.shr(v, (from - to) as u32),
        false => s.shl(v, (to - from) as u32),
    };
    s.and(moved, s.splat_int(each(mask)))
}

/// Rows of bytes by fours.
#[inline(always)]
fn fours(rows: &[[u8; LANES]]) -> &[Bytes] {
    rows.as_flattened().as_chunks().0
}

/// Each byte, below 64, less 32.
#[inline(always)]
fn less_32<S: Simd>(s: S, v: S::I) -> S::I {
    let turned = s.xor(v, s.splat_int(each(32)));
    s.or(turned, s.or(bits(s, turned, 5, 6, 64), bits(s, turned, 5, 7, 128)))
}

/// Where the low nibbles of 16 bytes are the first 16 codes, the high ones the others.
#[inline(always)]
fn nibble<S: Simd>(s: S, low: &[Bytes], j: usize) -> S::I {
    bits(s, s.load_bytes(&low[j % 4]), j / 4 * 4, 0, 15)
}

/// Where each run of 32 bytes holds 128 codes, 32 to a bit pair.
#[inline(always)]
fn two_bits<S: Simd>(s: S, low: &[Bytes], group: usize, i: usize, j: usize) -> S::I {
    bits(s, s.load_bytes(&low[group * 8 + j]), 2 * i, 0, 3)
}

/// Where each run of 32 bytes holds 64 codes, 32 to a nibble.
#[inline(always)]
fn four_bits<S: Simd>(s: S, low: &[Bytes], group: usize, i: usize, j: usize) -> S::I {
    bits(s, s.load_bytes(&low[group * 8 + j]), 4 * i, 0, 15)
}

/// A codebook made unsigned.
const fn raised(table: &[i8; 16], by: i32) -> [u8; 16] {
    let (mut raised, mut i) = ([0; 16], 0);
    while i < 16 {
        raised[i] = (table[i] as i32 + by) as u8;
        i += 1;
    }
    raised
}

const IQ4_RAISED: [u8; 16] = raised(&IQ4, 128);
const E2M1_RAISED: [u8; 16] = raised(&E2M1, 12);

impl LaneCodes for Q8_0 {
    const OFFSET: i32 = 128;
    const TOP: i32 = 255;
    const LOW: usize = 1;

    #[inline(always)]
    fn quad<S: Simd>(s: S, block: Block, _: usize, _: usize, j: usize) -> S::I {
        s.xor(s.load_bytes(&block.low[j]), s.splat_int(each(0x80)))
    }
}

impl LaneCodes for Q4_0 {
    const OFFSET: i32 = 8;
    const TOP: i32 = 15;
    const LOW: usize = 1;

    #[inline(always)]
    fn quad<S: Simd>(s: S, block: Block, _: usize, _: usize, j: usize) -> S::I {
        nibble(s, block.low, j)
    }
}

impl LaneCodes for Q4_1 {
    const TOP: i32 = 15;
    const MIN: usize = 1;
    const LOW: usize = 2;

    #[inline(always)]
    fn quad<S: Simd>(s: S, block: Block, _: usize, _: usize, j: usize) -> S::I {
        nibble(s, block.low, j)
    }
}

/// Nibbles, and a word for each row that holds the fifth bits.
#[inline(always)]
fn five_bits<S: Simd>(s: S, block: Block, j: usize) -> S::I {
    let fifth = s.spread(s.load_bytes(&block.high[0]), j);
    s.or(nibble(s, block.low, j), s.and(fifth, s.splat_int(each(16))))
}

impl LaneCodes for Q5_0 {
    const OFFSET: i32 = 16;
    const TOP: i32 = 31;
    const LOW: usize = 2;
    const HIGH: usize = 1;

    #[inline(always)]
    fn quad<S: Simd>(s: S, block: Block, _: usize, _: usize, j: usize) -> S::I {
        five_bits(s, block, j)
    }
}

impl LaneCodes for Q5_1 {
    const TOP: i32 = 31;
    const MIN: usize = 1;
    const LOW: usize = 3;
    const HIGH: usize = 2;

    #[inline(always)]
    fn quad<S: Simd>(s: S, block: Block, _: usize, _: usize, j: usize) -> S::I {
        five_bits(s, block, j)
    }
}

impl LaneCodes for IQ4NL {
    const OFFSET: i32 = 128;
    const TOP: i32 = 255;
    const LOW: usize = 1;

    #[inline(always)]
    fn quad<S: Simd>(s: S, block: Block, _: usize, _: usize, j: usize) -> S::I {
        s.look_up(&IQ4_RAISED, nibble(s, block.low, j))
    }
}

impl LaneCodes for MXFP4 {
    const OFFSET: i32 = 12;
    const TOP: i32 = 24;
    const LOW: usize = 1;

    #[inline(always)]
    fn quad<S: Simd>(s: S, block: Block, _: usize, _: usize, j: usize) -> S::I {
        s.look_up(&E2M1_RAISED, nibble(s, block.low, j))
    }

    /// `half_e8m0` in lanes: the two lowest are subnormal, and larger than what the others' rule
    /// makes of them.
    #[inline(always)]
    fn d<S: Simd>(s: S, block: Block) -> S::F {
        let e = s.widen_u8(block.d.first_chunk().expect("a scale for each row"));
        let normal = s.shl(s.add_int(e, s.splat_int(-1)), 23);
        let one = s.splat_int(1);
        let subnormal = s.shl(s.add_int(s.min_int(e, one), one), 21);
        s.float_of_bits(s.max_int(normal, subnormal))
    }
}

impl LaneCodes for Q2K {
    const TOP: i32 = 3;
    const HALVES: bool = true;
    const D: usize = 2;
    const MIN: usize = 3;
    const SCALES: usize = 0;
    const GROUP: usize = 4;
    const LOW: usize = 1;

    #[inline(always)]
    fn quad<S: Simd>(s: S, block: Block, group: usize, i: usize, j: usize) -> S::I {
        two_bits(s, block.low, group, i, j)
    }

    #[inline(always)]
    fn integers<S: Simd>(s: S, block: Block, out: &mut Integers) {
        for (i, both) in fours(block.scales).iter().enumerate() {
            let both = s.load_bytes(both);
            s.store_bytes(bits(s, both, 0, 0, 15), &mut out.k[i]);
            s.store_bytes(bits(s, both, 4, 0, 15), &mut out.m[i]);
        }
    }
}

impl LaneCodes for Q3K {
    const OFFSET: i32 = 4;
    const TOP: i32 = 7;
    const HALVES: bool = true;
    const D: usize = 3;
    const SCALES: usize = 2;
    const GROUP: usize = 4;
    const LOW: usize = 1;
    const HIGH: usize = 0;

    #[inline(always)]
    fn quad<S: Simd>(s: S, block: Block, group: usize, i: usize, j: usize) -> S::I {
        let third = s.shr(s.load_bytes(&block.high[j]), 4 * group as u32);
        let third = bits(s, third, i, 2, 4);
        s.or(two_bits(s, block.low, group, i, j), third)
    }

    #[inline(always)]
    fn integers<S: Simd>(s: S, block: Block, out: &mut Integers) {
        let scales = fours(block.scales);
        let high = s.load_bytes(&scales[2]);
        for i in 0..4 {
            let low = bits(s, s.load_bytes(&scales[i % 2]), i / 2 * 4, 0, 15);
            let k = s.or(low, bits(s, high, 2 * i, 4, 0x30));
            s.store_bytes(less_32(s, k), &mut out.k[i]);
        }
    }
}

/// The six-bit scales and minima of Q4_K and Q5_K.
#[inline(always)]
fn six_bits<S: Simd>(s: S, scales: &[[u8; LANES]], out: &mut Integers) {
    let scales = fours(scales);
    let (k, m, high) =
        (s.load_bytes(&scales[0]), s.load_bytes(&scales[1]), s.load_bytes(&scales[2]));
    s.store_bytes(bits(s, k, 0, 0, 63), &mut out.k[0]);
    s.store_bytes(bits(s, m, 0, 0, 63), &mut out.m[0]);
    let more = s.or(bits(s, high, 0, 0, 15), bits(s, k, 2, 0, 0x30));
    s.store_bytes(more, &mut out.k[1]);
    let more = s.or(bits(s, high, 4, 0, 15), bits(s, m, 2, 0, 0x30));
    s.store_bytes(more, &mut out.m[1]);
}

impl LaneCodes for Q4K {
    const TOP: i32 = 15;
    const MIN: usize = 1;
    const SCALES: usize = 2;
    const GROUP: usize = 2;
    const LOW: usize = 3;

    #[inline(always)]
    fn quad<S: Simd>(s: S, block: Block, group: usize, i: usize, j: usize) -> S::I {
        four_bits(s, block.low, group, i, j)
    }

    #[inline(always)]
    fn integers<S: Simd>(s: S, block: Block, out: &mut Integers) {
        six_bits(s, block.scales, out);
    }
}

impl LaneCodes for Q5K {
    const TOP: i32 = 31;
    const MIN: usize = 1;
    const SCALES: usize = 2;
    const GROUP: usize = 2;
    const LOW: usize = 4;
    const HIGH: usize = 3;

    #[inline(always)]
    fn quad<S: Simd>(s: S, block: Block, group: usize, i: usize, j: usize) -> S::I {
        let fifth = s.shr(s.load_bytes(&block.high[j]), 2 * group as u32);
        let fifth = bits(s, fifth, i, 4, 16);
        s.or(four_bits(s, block.low, group, i, j), fifth)
    }

    #[inline(always)]
    fn integers<S: Simd>(s: S, block: Block, out: &mut Integers) {
        six_bits(s, block.scales, out);
    }
}

impl LaneCodes for Q6K {
    const OFFSET: i32 = 32;
    const TOP: i32 = 63;
    const HALVES: bool = true;
    const D: usize = 3;
    const SCALES: usize = 2;
    const GROUP: usize = 4;
    const LOW: usize = 0;
    const HIGH: usize = 1;

    #[inline(always)]
    fn quad<S: Simd>(s: S, block: Block, group: usize, i: usize, j: usize) -> S::I {
        let low = s.load_bytes(&block.low[group * 16 + i % 2 * 8 + j]);
        let high = s.load_bytes(&block.high[group * 8 + j]);
        s.or(bits(s, low, i / 2 * 4, 0, 15), bits(s, high, 2 * i, 4, 0x30))
    }

    #[inline(always)]
    fn k<'a>(block: Block<'a>, _: &'a Integers, i: usize) -> &'a [u8; LANES] {
        &block.scales[i]
    }
}

impl LaneCodes for IQ4XS {
    const OFFSET: i32 = 128;
    const TOP: i32 = 255;
    /// The scales' upper bits stand in its place.
    const MIN: usize = 1;
    const SCALES: usize = 2;
    const LOW: usize = 3;

    #[inline(always)]
    fn quad<S: Simd>(s: S, block: Block, group: usize, _: usize, j: usize) -> S::I {
        s.look_up(&IQ4_RAISED, nibble(s, &block.low[4 * group..][..4], j))
    }

    #[inline(always)]
    fn integers<S: Simd>(_: S, block: Block, out: &mut Integers) {
        let high = block.min.as_chunks::<LANES>().0;
        for i in 0..8 {
            for r in 0..LANES {
                let low = block.scales[i / 2][r] >> (4 * (i % 2)) & 15;
                let high = high[i / 4][r] >> (2 * (i % 4)) & 3;
                out.k.as_flattened_mut()[i * LANES + r] = (low | high << 4).wrapping_sub(32);
            }
        }
    }
}

// The layout that the kernels take for granted.
const _: () = assert!(SUPER_BLOCK == 8 * SMALL_BLOCK && LANES == 16);

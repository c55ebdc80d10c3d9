//! What the bits of one quantised block mean: integer codes, their scales, their minima.
//!
//! One function for each format, used by the dot products and by dequantisation alike.

// Several arrays are walked by one index, over ranges that the compiler unrolls.
#![allow(clippy::needless_range_loop)]

use super::float::f16;
use super::format::Format;
use crate::base::limits::{SMALL_BLOCK, SUPER_BLOCK};

/// Codes that share an integer scale or minimum, in the super-block formats. Those that share
/// one among 32 carry it twice.
pub(super) const SUB_BLOCK: usize = 16;
pub(super) const SUBS: usize = SUPER_BLOCK / SUB_BLOCK;

/// One unpacked block. Weight i is `d * codes[i]` (+ `min`) in the small formats and
/// `(d * k[i / 16]) * codes[i]` (− `min * m[i / 16]`) in the super-block ones.
pub(super) struct Block {
    pub codes: [i8; SUPER_BLOCK],
    pub k: [i8; SUBS],
    pub m: [u8; SUBS],
    pub d: f32,
    pub min: f32,
}

impl Block {
    pub const fn new() -> Self {
        Block { codes: [0; SUPER_BLOCK], k: [0; SUBS], m: [0; SUBS], d: 0.0, min: 0.0 }
    }
}

/// Whether a block has a minimum beside its scale.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Minimum {
    None,
    /// `min` is added to every weight.
    Float,
    /// `min * m` of the sub-block is taken away from every weight.
    Integer,
}

/// A quantised format.
pub(super) trait Codes {
    const FORMAT: Format;
    const MINIMUM: Minimum;
    /// The largest |code * k| (|code| in the small formats).
    const LARGEST: i32;
    /// The largest |m|.
    const LARGEST_M: i32 = 0;

    const LEN: usize = Self::FORMAT.block();
    const BYTES: usize = Self::FORMAT.block_bytes();

    /// Reads one block from exactly `BYTES` bytes.
    fn unpack(bytes: &[u8], out: &mut Block);
}

pub(super) const LARGEST_Q: i32 = 127;

// What keeps the integer sums exact, for each format:
// - a code times its scale fits the i16 that the dot product multiplies;
// - a sum of activations fits the i16 that the minima multiply;
// - a block's sum stays below 2^28, so no partial sum in i32 can overflow.
const fn capacity<F: Codes>() {
    assert!(F::LARGEST <= i16::MAX as i32);
    assert!(SMALL_BLOCK as i32 * LARGEST_Q <= i16::MAX as i32);
    assert!(F::LEN as i64 * F::LARGEST as i64 * (LARGEST_Q as i64) < 1 << 28);
    assert!(F::LEN as i64 * F::LARGEST_M as i64 * (LARGEST_Q as i64) < 1 << 28);
}
const _: () = {
    capacity::<Q8_0>();
    capacity::<Q4_0>();
    capacity::<Q4_1>();
    capacity::<Q5_0>();
    capacity::<Q5_1>();
    capacity::<Q2K>();
    capacity::<Q3K>();
    capacity::<Q4K>();
    capacity::<Q5K>();
    capacity::<Q6K>();
    capacity::<IQ4NL>();
    capacity::<IQ4XS>();
    capacity::<MXFP4>();
};

/// The non-linear codebook of IQ4_NL and IQ4_XS.
pub(super) const IQ4: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// E2M1, doubled so that every value is an integer.
pub(super) const E2M1: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// The linear codebooks of Q4_0 and Q4_1.
pub(super) const SIGNED4: [i8; 16] = [-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7];
const UNSIGNED4: [i8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

fn f16_at(bytes: &[u8], at: usize) -> f32 {
    f16(u16::from_le_bytes([bytes[at], bytes[at + 1]]))
}

/// 2^(e - 128): half of the E8M0 value, since the codes are doubled. The two lowest are
/// subnormal.
pub(super) fn half_e8m0(e: u8) -> f32 {
    f32::from_bits(if e < 2 { 0x0020_0000 << e } else { (e as u32 - 1) << 23 })
}

/// Sixteen bytes of nibbles through a table: a run of 32 codes, low nibbles first.
fn nibbles(table: &[i8; 16], qs: &[u8], out: &mut [i8]) {
    for i in 0..16 {
        out[i] = table[(qs[i] & 15) as usize];
        out[16 + i] = table[(qs[i] >> 4) as usize];
    }
}

pub(super) struct Q8_0;

impl Codes for Q8_0 {
    const FORMAT: Format = Format::Q8_0;
    const MINIMUM: Minimum = Minimum::None;
    const LARGEST: i32 = 128;

    fn unpack(bytes: &[u8], out: &mut Block) {
        let bytes = &bytes[..Self::BYTES];
        out.d = f16_at(bytes, 0);
        for j in 0..32 {
            out.codes[j] = bytes[2 + j] as i8;
        }
    }
}

pub(super) struct Q4_0;

impl Codes for Q4_0 {
    const FORMAT: Format = Format::Q4_0;
    const MINIMUM: Minimum = Minimum::None;
    const LARGEST: i32 = 8;

    fn unpack(bytes: &[u8], out: &mut Block) {
        let bytes = &bytes[..Self::BYTES];
        out.d = f16_at(bytes, 0);
        nibbles(&SIGNED4, &bytes[2..], &mut out.codes);
    }
}

pub(super) struct Q4_1;

impl Codes for Q4_1 {
    const FORMAT: Format = Format::Q4_1;
    const MINIMUM: Minimum = Minimum::Float;
    const LARGEST: i32 = 15;

    fn unpack(bytes: &[u8], out: &mut Block) {
        let bytes = &bytes[..Self::BYTES];
        out.d = f16_at(bytes, 0);
        out.min = f16_at(bytes, 2);
        nibbles(&UNSIGNED4, &bytes[4..], &mut out.codes);
    }
}

/// The fifth bit of code `j`.
fn fifth_bit(bits: &[u8], j: usize) -> i8 {
    (bits[j / 8] >> (j % 8) & 1) as i8
}

pub(super) struct Q5_0;

impl Codes for Q5_0 {
    const FORMAT: Format = Format::Q5_0;
    const MINIMUM: Minimum = Minimum::None;
    const LARGEST: i32 = 16;

    fn unpack(bytes: &[u8], out: &mut Block) {
        let bytes = &bytes[..Self::BYTES];
        out.d = f16_at(bytes, 0);
        nibbles(&UNSIGNED4, &bytes[6..], &mut out.codes);
        for j in 0..32 {
            out.codes[j] += 16 * fifth_bit(&bytes[2..6], j) - 16;
        }
    }
}

pub(super) struct Q5_1;

impl Codes for Q5_1 {
    const FORMAT: Format = Format::Q5_1;
    const MINIMUM: Minimum = Minimum::Float;
    const LARGEST: i32 = 31;

    fn unpack(bytes: &[u8], out: &mut Block) {
        let bytes = &bytes[..Self::BYTES];
        out.d = f16_at(bytes, 0);
        out.min = f16_at(bytes, 2);
        nibbles(&UNSIGNED4, &bytes[8..], &mut out.codes);
        for j in 0..32 {
            out.codes[j] += 16 * fifth_bit(&bytes[4..8], j);
        }
    }
}

pub(super) struct Q2K;

impl Codes for Q2K {
    const FORMAT: Format = Format::Q2K;
    const MINIMUM: Minimum = Minimum::Integer;
    const LARGEST: i32 = 3 * 15;
    const LARGEST_M: i32 = 15;

    fn unpack(bytes: &[u8], out: &mut Block) {
        let bytes = &bytes[..Self::BYTES];
        out.d = f16_at(bytes, 80);
        out.min = f16_at(bytes, 82);
        for i in 0..16 {
            out.k[i] = (bytes[i] & 15) as i8;
            out.m[i] = bytes[i] >> 4;
        }
        two_bits(&bytes[16..80], &mut out.codes);
    }
}

/// Codes of two bits: each run of 32 bytes holds 128 codes, 32 to a bit pair.
fn two_bits(qs: &[u8], codes: &mut [i8; SUPER_BLOCK]) {
    let qs = &qs[..64];
    for half in 0..2 {
        for pair in 0..4 {
            for j in 0..32 {
                codes[half * 128 + pair * 32 + j] = (qs[half * 32 + j] >> (2 * pair) & 3) as i8;
            }
        }
    }
}

pub(super) struct Q3K;

impl Codes for Q3K {
    const FORMAT: Format = Format::Q3K;
    const MINIMUM: Minimum = Minimum::None;
    const LARGEST: i32 = 4 * 32;

    fn unpack(bytes: &[u8], out: &mut Block) {
        let bytes = &bytes[..Self::BYTES];
        out.d = f16_at(bytes, 108);
        let scales = &bytes[96..108];
        for i in 0..16 {
            let low = scales[i % 8] >> (4 * (i / 8)) & 15;
            let high = scales[8 + i % 4] >> (2 * (i / 4)) & 3;
            out.k[i] = (low | high << 4) as i8 - 32;
        }
        two_bits(&bytes[32..96], &mut out.codes);
        // The third bit counts when it is clear: it takes 4 away.
        for bit in 0..8 {
            for j in 0..32 {
                let clear = !bytes[j] >> bit & 1;
                out.codes[bit * 32 + j] -= (clear << 2) as i8;
            }
        }
    }
}

/// The six-bit scales and minima of Q4_K and Q5_K, eight of each in twelve bytes.
fn six_bits(s: &[u8], out: &mut Block) {
    let s = &s[..12];
    for i in 0..4 {
        let k = [s[i] & 63, s[8 + i] & 15 | s[i] >> 2 & 0x30];
        let m = [s[4 + i] & 63, s[8 + i] >> 4 | s[4 + i] >> 2 & 0x30];
        for (half, at) in [(0, 2 * i), (1, 8 + 2 * i)] {
            for twin in 0..2 {
                out.k[at + twin] = k[half] as i8;
                out.m[at + twin] = m[half];
            }
        }
    }
}

pub(super) struct Q4K;

impl Codes for Q4K {
    const FORMAT: Format = Format::Q4K;
    const MINIMUM: Minimum = Minimum::Integer;
    const LARGEST: i32 = 15 * 63;
    const LARGEST_M: i32 = 63;

    fn unpack(bytes: &[u8], out: &mut Block) {
        let bytes = &bytes[..Self::BYTES];
        out.d = f16_at(bytes, 0);
        out.min = f16_at(bytes, 2);
        six_bits(&bytes[4..16], out);
        let qs = &bytes[16..];
        for chunk in 0..4 {
            for j in 0..32 {
                let pair = qs[chunk * 32 + j];
                out.codes[chunk * 64 + j] = (pair & 15) as i8;
                out.codes[chunk * 64 + 32 + j] = (pair >> 4) as i8;
            }
        }
    }
}

pub(super) struct Q5K;

impl Codes for Q5K {
    const FORMAT: Format = Format::Q5K;
    const MINIMUM: Minimum = Minimum::Integer;
    const LARGEST: i32 = 31 * 63;
    const LARGEST_M: i32 = 63;

    fn unpack(bytes: &[u8], out: &mut Block) {
        let bytes = &bytes[..Self::BYTES];
        out.d = f16_at(bytes, 0);
        out.min = f16_at(bytes, 2);
        six_bits(&bytes[4..16], out);
        let (qh, qs) = (&bytes[16..48], &bytes[48..]);
        for chunk in 0..4 {
            for j in 0..32 {
                let (pair, high) = (qs[chunk * 32 + j], qh[j] >> (2 * chunk));
                out.codes[chunk * 64 + j] = (pair & 15 | (high & 1) << 4) as i8;
                out.codes[chunk * 64 + 32 + j] = (pair >> 4 | (high & 2) << 3) as i8;
            }
        }
    }
}

pub(super) struct Q6K;

impl Codes for Q6K {
    const FORMAT: Format = Format::Q6K;
    const MINIMUM: Minimum = Minimum::None;
    const LARGEST: i32 = 32 * 128;

    fn unpack(bytes: &[u8], out: &mut Block) {
        let bytes = &bytes[..Self::BYTES];
        out.d = f16_at(bytes, 208);
        for i in 0..16 {
            out.k[i] = bytes[192 + i] as i8;
        }
        let (ql, qh) = (&bytes[..128], &bytes[128..192]);
        for half in 0..2 {
            for quarter in 0..4 {
                let low = &ql[half * 64 + quarter % 2 * 32..][..32];
                for j in 0..32 {
                    let low = low[j] >> (4 * (quarter / 2)) & 15;
                    let high = qh[half * 32 + j] >> (2 * quarter) & 3;
                    out.codes[half * 128 + quarter * 32 + j] = (low | high << 4) as i8 - 32;
                }
            }
        }
    }
}

pub(super) struct IQ4NL;

impl Codes for IQ4NL {
    const FORMAT: Format = Format::IQ4NL;
    const MINIMUM: Minimum = Minimum::None;
    const LARGEST: i32 = 127;

    fn unpack(bytes: &[u8], out: &mut Block) {
        let bytes = &bytes[..Self::BYTES];
        out.d = f16_at(bytes, 0);
        nibbles(&IQ4, &bytes[2..], &mut out.codes);
    }
}

pub(super) struct IQ4XS;

impl Codes for IQ4XS {
    const FORMAT: Format = Format::IQ4XS;
    const MINIMUM: Minimum = Minimum::None;
    const LARGEST: i32 = 127 * 32;

    fn unpack(bytes: &[u8], out: &mut Block) {
        let bytes = &bytes[..Self::BYTES];
        out.d = f16_at(bytes, 0);
        let high = u16::from_le_bytes([bytes[2], bytes[3]]);
        for i in 0..8 {
            let low = bytes[4 + i / 2] >> (4 * (i % 2)) & 15;
            let k = (low + 16 * (high >> (2 * i) & 3) as u8) as i8 - 32;
            out.k[2 * i] = k;
            out.k[2 * i + 1] = k;
        }
        for i in 0..8 {
            nibbles(&IQ4, &bytes[8 + 16 * i..], &mut out.codes[32 * i..]);
        }
    }
}

pub(super) struct MXFP4;

impl Codes for MXFP4 {
    const FORMAT: Format = Format::MXFP4;
    const MINIMUM: Minimum = Minimum::None;
    const LARGEST: i32 = 12;

    fn unpack(bytes: &[u8], out: &mut Block) {
        let bytes = &bytes[..Self::BYTES];
        out.d = half_e8m0(bytes[0]);
        nibbles(&E2M1, &bytes[1..], &mut out.codes);
    }
}

/// Runs `$body` with `$F` standing for the format's type; `$floats` for the float formats.
macro_rules! with_codes {
    ($format:expr, $F:ident => $body:expr, $floats:expr) => {{
        macro_rules! arm {
            ($t:ident) => {{
                type $F = crate::math::block::$t;
                $body
            }};
        }
        match $format {
            Format::Q8_0 => arm!(Q8_0),
            Format::Q4_0 => arm!(Q4_0),
            Format::Q4_1 => arm!(Q4_1),
            Format::Q5_0 => arm!(Q5_0),
            Format::Q5_1 => arm!(Q5_1),
            Format::Q2K => arm!(Q2K),
            Format::Q3K => arm!(Q3K),
            Format::Q4K => arm!(Q4K),
            Format::Q5K => arm!(Q5K),
            Format::Q6K => arm!(Q6K),
            Format::IQ4NL => arm!(IQ4NL),
            Format::IQ4XS => arm!(IQ4XS),
            Format::MXFP4 => arm!(MXFP4),
            Format::F32 | Format::F16 | Format::BF16 | Format::F8E4M3 => $floats,
        }
    }};
}
pub(super) use with_codes;

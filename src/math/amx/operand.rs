//! Weights as tiles take them: signed bytes, four codes of a row to a lane.

use std::arch::x86_64::*;

use super::Ints;
use super::tiles::Quad;
use crate::base::limits::{LANES, SEGMENT, SUPER_BLOCK};
use crate::math::block::{self, SUB_BLOCK};
use crate::math::isa::Avx512;
use crate::math::linear::LaneCodes;
use crate::math::simd::Row;

/// What of `code · k` a byte holds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::math) enum Split {
    /// The code alone: the format has no integer scales.
    None,
    /// The product.
    One,
    /// The product with its sign turned: the range is 128 long on the wrong side.
    Negated,
    /// Two bytes, the product being `64·high + low`.
    Two,
}

/// A quantised format whose codes and integer scales have known ends.
pub(in crate::math) trait Ranges: LaneCodes {
    /// The least and the largest code. Unpacked panels hold `code + OFFSET`.
    const CODES: (i32, i32);
    /// The least and the largest integer scale.
    const K: (i32, i32);

    const PRODUCTS: (i32, i32) = products(Self::CODES, Self::K);
    const SPLIT: Split = split(Self::LEN, Self::PRODUCTS);
}

const fn products(c: (i32, i32), k: (i32, i32)) -> (i32, i32) {
    let corners = [c.0 * k.0, c.0 * k.1, c.1 * k.0, c.1 * k.1];
    let (mut least, mut largest, mut i) = (corners[0], corners[0], 1);
    while i < 4 {
        least = if corners[i] < least { corners[i] } else { least };
        largest = if corners[i] > largest { corners[i] } else { largest };
        i += 1;
    }
    (least, largest)
}

const fn split(block: usize, (least, largest): (i32, i32)) -> Split {
    if block != SUPER_BLOCK {
        Split::None
    } else if least >= -128 && largest <= 127 {
        Split::One
    } else if least >= -127 && largest <= 128 {
        Split::Negated
    } else {
        Split::Two
    }
}

macro_rules! ranges {
    ($($format:ident: $codes:expr, $k:expr;)*) => {
        $(
            impl Ranges for block::$format {
                const CODES: (i32, i32) = $codes;
                const K: (i32, i32) = $k;
            }
        )*
        const _: () = { $(fits::<block::$format>();)* };
    };
}

ranges! {
    Q8_0: (-128, 127), (1, 1);
    Q4_0: (-8, 7), (1, 1);
    Q4_1: (0, 15), (1, 1);
    Q5_0: (-16, 15), (1, 1);
    Q5_1: (0, 31), (1, 1);
    Q2K: (0, 3), (0, 15);
    Q3K: (-4, 3), (-32, 31);
    Q4K: (0, 15), (0, 63);
    Q5K: (0, 31), (0, 63);
    Q6K: (-32, 31), (-128, 127);
    IQ4NL: (-127, 113), (1, 1);
    IQ4XS: (-127, 113), (-32, 31);
    MXFP4: (-12, 12), (1, 1);
}

/// What makes the bytes exact: the ends agree with those of `block.rs`, an unpacked code is a
/// byte, and so is whatever the split leaves of a product.
const fn fits<F: Ranges>() {
    let ((c0, c1), (p0, p1)) = (F::CODES, F::PRODUCTS);
    assert!(-p0 <= F::LARGEST && p1 <= F::LARGEST);
    assert!(-p0 == F::LARGEST || p1 == F::LARGEST);
    assert!(c0 + F::OFFSET >= 0 && c1 + F::OFFSET <= 255);
    assert!(c0 >= -128 && c1 <= 127);
    match F::SPLIT {
        Split::None => assert!(F::LEN < SUPER_BLOCK),
        Split::One => assert!(p0 >= -128 && p1 <= 127),
        Split::Negated => assert!(-p1 >= -128 && -p0 <= 127),
        // An arithmetic shift rounds down, so the low part is in 0..64.
        Split::Two => assert!(p0 >> 6 >= -128 && p1 >> 6 <= 127),
    }
}

/// Quads of a segment.
const QUADS: usize = SEGMENT / 4;

/// 16 rows × 512 columns of weights, for tiles.
pub(in crate::math) struct Operand {
    pub low: [Quad; QUADS],
    /// Only where the product is split.
    pub high: [Quad; QUADS],
}

impl Operand {
    pub const fn new() -> Self {
        Operand { low: [[0; 4 * LANES]; QUADS], high: [[0; 4 * LANES]; QUADS] }
    }

    /// From an unpacked panel's codes, `[column / 4][row][4]`, and integer scales, one for each 32
    /// columns, or 16 in the formats with `HALVES`.
    #[inline(always)]
    pub fn expand<S: Lanes, F: Ranges>(&mut self, s: S, codes: &[[u8; 4 * LANES]], k: &[Ints]) {
        if F::SPLIT == Split::None {
            for (from, to) in codes.iter().zip(&mut self.low) {
                s.centre(from, F::OFFSET as u8, to);
            }
            return;
        }
        let quads = if F::HALVES { SUB_BLOCK / 4 } else { SUB_BLOCK / 2 };
        let (low, high) = (self.low.chunks_exact_mut(quads), self.high.chunks_exact_mut(quads));
        for (((codes, k), low), high) in codes.chunks_exact(quads).zip(k).zip(low).zip(high) {
            s.fold_scales::<F>(codes, k, low, high);
        }
    }
}

/// What the kernel asks of sixteen lanes.
pub(in crate::math) trait Lanes: Copy {
    /// Sixteen f32.
    type F: Copy;
    /// Sixteen i32.
    type I: Copy;

    fn splat(self, x: f32) -> Self::F;
    fn load(self, x: &Row) -> Self::F;
    fn store(self, v: Self::F, out: &mut Row);
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;

    fn zero(self) -> Self::I;
    fn ints(self, x: &Ints) -> Self::I;
    fn minus(self, v: Self::I) -> Self::I;
    /// `64 * high + low`.
    fn join(self, high: Self::I, low: Self::I) -> Self::I;
    /// Each lane: `acc + w.low * q.low + w.high * q.high`, of pairs of i16.
    fn dot_pairs(self, acc: Self::I, w: &Ints, q: i32) -> Self::I;
    /// To f32, rounded to nearest, ties to even.
    fn to_float(self, v: Self::I) -> Self::F;

    /// `u - offset`.
    fn centre(self, u: &[u8; 4 * LANES], offset: u8, out: &mut Quad);
    /// A sub-block's codes times their row's scale, in the format's split.
    fn fold_scales<F: Ranges>(
        self,
        codes: &[[u8; 4 * LANES]],
        k: &Ints,
        low: &mut [Quad],
        high: &mut [Quad],
    );
}

// SAFETY, for every block below: the features are there, because `self` is the token that only
// detection makes; pointers come from references to as many bytes as are loaded or stored.
impl Lanes for Avx512 {
    type F = __m512;
    type I = __m512i;

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    fn load(self, x: &Row) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_loadu_ps(x.as_ptr()) }
    }

    #[inline(always)]
    fn store(self, v: __m512, out: &mut Row) {
        // SAFETY: see above.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), v) }
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn zero(self) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_setzero_si512() }
    }

    #[inline(always)]
    fn ints(self, x: &Ints) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
    }

    #[inline(always)]
    fn minus(self, v: __m512i) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_sub_epi32(_mm512_setzero_si512(), v) }
    }

    #[inline(always)]
    fn join(self, high: __m512i, low: __m512i) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_add_epi32(_mm512_slli_epi32::<6>(high), low) }
    }

    #[inline(always)]
    fn dot_pairs(self, acc: __m512i, w: &Ints, q: i32) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_dpwssd_epi32(acc, self.ints(w), _mm512_set1_epi32(q)) }
    }

    #[inline(always)]
    fn to_float(self, v: __m512i) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_cvtepi32_ps(v) }
    }

    #[inline(always)]
    fn centre(self, u: &[u8; 4 * LANES], offset: u8, out: &mut Quad) {
        // SAFETY: see above.
        unsafe {
            let u = _mm512_loadu_si512(u.as_ptr().cast());
            let c = _mm512_sub_epi8(u, _mm512_set1_epi8(offset as i8));
            _mm512_storeu_si512(out.as_mut_ptr().cast(), c);
        }
    }

    #[inline(always)]
    fn fold_scales<F: Ranges>(
        self,
        codes: &[[u8; 4 * LANES]],
        k: &Ints,
        low: &mut [Quad],
        high: &mut [Quad],
    ) {
        // In each quarter of a register lie four rows; their codes widened to i16 are two rows in
        // the lower register and two in the upper, and packing puts them back.
        // SAFETY: see above.
        unsafe {
            let zero = _mm512_setzero_si512();
            let k = self.ints(k);
            let k = if F::SPLIT == Split::Negated { self.minus(k) } else { k };
            let twice = _mm512_mask_blend_epi16(0xaaaa_aaaa, k, _mm512_slli_epi32::<16>(k));
            let k = [_mm512_unpacklo_epi32(twice, twice), _mm512_unpackhi_epi32(twice, twice)];
            let offset = _mm512_set1_epi16(F::OFFSET as i16);
            let low_bits = _mm512_set1_epi16(63);
            for ((codes, low), high) in codes.iter().zip(low).zip(high) {
                let u = _mm512_loadu_si512(codes.as_ptr().cast());
                let mut p = [_mm512_unpacklo_epi8(u, zero), _mm512_unpackhi_epi8(u, zero)];
                for j in 0..2 {
                    if F::OFFSET != 0 {
                        p[j] = _mm512_sub_epi16(p[j], offset);
                    }
                    p[j] = _mm512_mullo_epi16(p[j], k[j]);
                }
                if F::SPLIT == Split::Two {
                    let h = p.map(|p| _mm512_srai_epi16::<6>(p));
                    let h = _mm512_packs_epi16(h[0], h[1]);
                    _mm512_storeu_si512(high.as_mut_ptr().cast(), h);
                    p = p.map(|p| _mm512_and_si512(p, low_bits));
                }
                let l = _mm512_packs_epi16(p[0], p[1]);
                _mm512_storeu_si512(low.as_mut_ptr().cast(), l);
            }
        }
    }
}

/// The same, one lane at a time.
#[cfg(test)]
#[derive(Clone, Copy)]
pub(in crate::math) struct Plain;

#[cfg(test)]
impl Lanes for Plain {
    type F = Row;
    type I = Ints;

    fn splat(self, x: f32) -> Row {
        [x; LANES]
    }

    fn load(self, x: &Row) -> Row {
        *x
    }

    fn store(self, v: Row, out: &mut Row) {
        *out = v;
    }

    fn mul(self, a: Row, b: Row) -> Row {
        std::array::from_fn(|i| a[i] * b[i])
    }

    fn fma(self, a: Row, b: Row, c: Row) -> Row {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }

    fn zero(self) -> Ints {
        [0; LANES]
    }

    fn ints(self, x: &Ints) -> Ints {
        *x
    }

    fn minus(self, v: Ints) -> Ints {
        v.map(|v| -v)
    }

    fn join(self, high: Ints, low: Ints) -> Ints {
        std::array::from_fn(|i| 64 * high[i] + low[i])
    }

    fn dot_pairs(self, acc: Ints, w: &Ints, q: i32) -> Ints {
        let half = |word: i32, high: bool| if high { word >> 16 } else { word as i16 as i32 };
        std::array::from_fn(|i| {
            acc[i] + half(w[i], false) * half(q, false) + half(w[i], true) * half(q, true)
        })
    }

    fn to_float(self, v: Ints) -> Row {
        v.map(|v| v as f32)
    }

    fn centre(self, u: &[u8; 4 * LANES], offset: u8, out: &mut Quad) {
        *out = u.map(|u| i8::try_from(u as i32 - offset as i32).unwrap());
    }

    fn fold_scales<F: Ranges>(
        self,
        codes: &[[u8; 4 * LANES]],
        k: &Ints,
        low: &mut [Quad],
        high: &mut [Quad],
    ) {
        for i in 0..codes.len() {
            for j in 0..4 * LANES {
                let product = (codes[i][j] as i32 - F::OFFSET) * k[j / 4];
                let (h, l) = match F::SPLIT {
                    Split::Two => (product.div_euclid(64), product.rem_euclid(64)),
                    Split::Negated => (0, -product),
                    _ => (0, product),
                };
                low[i][j] = i8::try_from(l).unwrap();
                high[i][j] = i8::try_from(h).unwrap();
            }
        }
    }
}

//! Sixteen lanes in two AVX2 registers.

use std::arch::x86_64::*;

use super::isa::Avx2;
use super::simd::{Decode, Pairs, Row, Simd};
use crate::base::limits::LANES;

// Each method is a few intrinsics, once for each half. SAFETY, for every block in this file: the
// features are there, because `self` is the token that only detection makes; pointers come from
// references to arrays at least as large as what is loaded or stored.

#[derive(Clone, Copy)]
pub(super) struct Floats(__m256, __m256);

#[derive(Clone, Copy)]
pub(super) struct Ints(__m256i, __m256i);

impl Decode for Avx2 {
    #[inline(always)]
    fn f16(self, bits: u16) -> f32 {
        // In hardware, where a subnormal costs no more than another.
        // SAFETY: see the head of the file.
        unsafe { _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(bits as i32))) }
    }

    #[inline(always)]
    fn nibbles(self, table: &[i8; 16], qs: &[u8; 16], out: &mut [i8; 32]) {
        // SAFETY: see the head of the file.
        unsafe {
            let table = _mm_loadu_si128(table.as_ptr().cast());
            let qs = _mm_loadu_si128(qs.as_ptr().cast());
            let mask = _mm_set1_epi8(15);
            let low = _mm_and_si128(qs, mask);
            let high = _mm_and_si128(_mm_srli_epi16::<4>(qs), mask);
            _mm_storeu_si128(out.as_mut_ptr().cast(), _mm_shuffle_epi8(table, low));
            _mm_storeu_si128(out.as_mut_ptr().add(16).cast(), _mm_shuffle_epi8(table, high));
        }
    }
}

impl Avx2 {
    /// In two steps: 2^n may lie outside f32 where a * 2^n does not. The first is exact.
    /// (A closure would not be compiled for the instruction set, and cost forty times as much.)
    #[inline(always)]
    fn scale_half(self, a: __m256, n: __m256) -> __m256 {
        // SAFETY: see the head of the file.
        unsafe {
            let n = _mm256_cvtps_epi32(n);
            let n0 = _mm256_srai_epi32::<1>(n);
            let n1 = _mm256_sub_epi32(n, n0);
            let bias = _mm256_set1_epi32(127);
            let p0 = _mm256_slli_epi32::<23>(_mm256_add_epi32(n0, bias));
            let p1 = _mm256_slli_epi32::<23>(_mm256_add_epi32(n1, bias));
            _mm256_mul_ps(_mm256_mul_ps(a, _mm256_castsi256_ps(p0)), _mm256_castsi256_ps(p1))
        }
    }
}

impl Simd for Avx2 {
    type F = Floats;
    type I = Ints;

    const WIDE: bool = false;

    #[inline(always)]
    fn splat(self, x: f32) -> Floats {
        // SAFETY: see the head of the file.
        unsafe { Floats(_mm256_set1_ps(x), _mm256_set1_ps(x)) }
    }

    #[inline(always)]
    fn load(self, x: &Row) -> Floats {
        // SAFETY: see the head of the file.
        unsafe { Floats(_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(x.as_ptr().add(8))) }
    }

    #[inline(always)]
    fn store(self, v: Floats, out: &mut Row) {
        // SAFETY: see the head of the file.
        unsafe {
            _mm256_storeu_ps(out.as_mut_ptr(), v.0);
            _mm256_storeu_ps(out.as_mut_ptr().add(8), v.1);
        }
    }

    #[inline(always)]
    fn add(self, a: Floats, b: Floats) -> Floats {
        // SAFETY: see the head of the file.
        unsafe { Floats(_mm256_add_ps(a.0, b.0), _mm256_add_ps(a.1, b.1)) }
    }

    #[inline(always)]
    fn sub(self, a: Floats, b: Floats) -> Floats {
        // SAFETY: see the head of the file.
        unsafe { Floats(_mm256_sub_ps(a.0, b.0), _mm256_sub_ps(a.1, b.1)) }
    }

    #[inline(always)]
    fn mul(self, a: Floats, b: Floats) -> Floats {
        // SAFETY: see the head of the file.
        unsafe { Floats(_mm256_mul_ps(a.0, b.0), _mm256_mul_ps(a.1, b.1)) }
    }

    #[inline(always)]
    fn div(self, a: Floats, b: Floats) -> Floats {
        // SAFETY: see the head of the file.
        unsafe { Floats(_mm256_div_ps(a.0, b.0), _mm256_div_ps(a.1, b.1)) }
    }

    #[inline(always)]
    fn fma(self, a: Floats, b: Floats, c: Floats) -> Floats {
        // SAFETY: see the head of the file.
        unsafe { Floats(_mm256_fmadd_ps(a.0, b.0, c.0), _mm256_fmadd_ps(a.1, b.1, c.1)) }
    }

    #[inline(always)]
    fn max(self, a: Floats, b: Floats) -> Floats {
        // SAFETY: see the head of the file.
        unsafe { Floats(_mm256_max_ps(a.0, b.0), _mm256_max_ps(a.1, b.1)) }
    }

    #[inline(always)]
    fn min(self, a: Floats, b: Floats) -> Floats {
        // SAFETY: see the head of the file.
        unsafe { Floats(_mm256_min_ps(a.0, b.0), _mm256_min_ps(a.1, b.1)) }
    }

    #[inline(always)]
    fn round(self, a: Floats) -> Floats {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        // SAFETY: see the head of the file.
        unsafe { Floats(_mm256_round_ps::<NEAREST>(a.0), _mm256_round_ps::<NEAREST>(a.1)) }
    }

    #[inline(always)]
    fn scale_by_power(self, a: Floats, n: Floats) -> Floats {
        Floats(self.scale_half(a.0, n.0), self.scale_half(a.1, n.1))
    }

    #[inline(always)]
    fn fold_add(self, v: Floats) -> f32 {
        // SAFETY: see the head of the file.
        unsafe {
            let v = _mm256_add_ps(v.0, v.1);
            let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
        }
    }

    #[inline(always)]
    fn fold_max(self, v: Floats) -> f32 {
        // SAFETY: see the head of the file.
        unsafe {
            let v = _mm256_max_ps(v.0, v.1);
            let v = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_max_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_max_ss(v, _mm_movehdup_ps(v)))
        }
    }

    #[inline(always)]
    fn zero(self) -> Ints {
        // SAFETY: see the head of the file.
        unsafe { Ints(_mm256_setzero_si256(), _mm256_setzero_si256()) }
    }

    #[inline(always)]
    fn add_int(self, a: Ints, b: Ints) -> Ints {
        // SAFETY: see the head of the file.
        unsafe { Ints(_mm256_add_epi32(a.0, b.0), _mm256_add_epi32(a.1, b.1)) }
    }

    #[inline(always)]
    fn dot_pairs(self, acc: Ints, w: &Pairs, q: i32) -> Ints {
        // SAFETY: see the head of the file.
        unsafe {
            let w0 = _mm256_loadu_si256(w.as_ptr().cast());
            let w1 = _mm256_loadu_si256(w.as_ptr().add(8).cast());
            let q = _mm256_set1_epi32(q);
            Ints(
                _mm256_add_epi32(acc.0, _mm256_madd_epi16(w0, q)),
                _mm256_add_epi32(acc.1, _mm256_madd_epi16(w1, q)),
            )
        }
    }

    #[inline(always)]
    fn to_float(self, v: Ints) -> Floats {
        // SAFETY: see the head of the file.
        unsafe { Floats(_mm256_cvtepi32_ps(v.0), _mm256_cvtepi32_ps(v.1)) }
    }

    #[inline(always)]
    fn transpose(self, src: &[i32], stride: usize, out: &mut [Pairs; LANES]) {
        assert!(stride < usize::MAX / LANES && src.len() >= 15 * stride + LANES);
        // Four squares of eight by eight.
        for (row, column) in [(0, 0), (0, 8), (8, 0), (8, 8)] {
            // SAFETY: see the head of the file; row 15 ends inside `src` by the assertion.
            unsafe {
                let mut a = [_mm256_setzero_si256(); 8];
                for (i, v) in a.iter_mut().enumerate() {
                    let at = src.as_ptr().add((row + i) * stride + column);
                    *v = _mm256_loadu_si256(at.cast());
                }
                let mut b = a;
                for i in 0..4 {
                    b[2 * i] = _mm256_unpacklo_epi32(a[2 * i], a[2 * i + 1]);
                    b[2 * i + 1] = _mm256_unpackhi_epi32(a[2 * i], a[2 * i + 1]);
                }
                for i in 0..2 {
                    a[4 * i] = _mm256_unpacklo_epi64(b[4 * i], b[4 * i + 2]);
                    a[4 * i + 1] = _mm256_unpackhi_epi64(b[4 * i], b[4 * i + 2]);
                    a[4 * i + 2] = _mm256_unpacklo_epi64(b[4 * i + 1], b[4 * i + 3]);
                    a[4 * i + 3] = _mm256_unpackhi_epi64(b[4 * i + 1], b[4 * i + 3]);
                }
                // a[c]: columns c and 4 + c of rows 0..4; a[4 + c]: of rows 4..8.
                for c in 0..4 {
                    let low = _mm256_permute2x128_si256::<0x20>(a[c], a[4 + c]);
                    let high = _mm256_permute2x128_si256::<0x31>(a[c], a[4 + c]);
                    let at = out[column + c].as_mut_ptr().add(row);
                    _mm256_storeu_si256(at.cast(), low);
                    let at = out[column + 4 + c].as_mut_ptr().add(row);
                    _mm256_storeu_si256(at.cast(), high);
                }
            }
        }
    }

    #[inline(always)]
    fn scale_codes(self, codes: &[i8; LANES], k: i8, out: &mut [i16; LANES]) {
        // SAFETY: see the head of the file.
        unsafe {
            let codes = _mm256_cvtepi8_epi16(_mm_loadu_si128(codes.as_ptr().cast()));
            let codes = _mm256_mullo_epi16(codes, _mm256_set1_epi16(k as i16));
            _mm256_storeu_si256(out.as_mut_ptr().cast(), codes);
        }
    }

    #[inline(always)]
    fn widen_f16(self, src: &[u8; 2 * LANES], out: &mut Row) {
        // SAFETY: see the head of the file.
        unsafe {
            let v0 = _mm256_cvtph_ps(_mm_loadu_si128(src.as_ptr().cast()));
            let v1 = _mm256_cvtph_ps(_mm_loadu_si128(src.as_ptr().add(16).cast()));
            _mm256_storeu_ps(out.as_mut_ptr(), v0);
            _mm256_storeu_ps(out.as_mut_ptr().add(8), v1);
        }
    }

    #[inline(always)]
    fn widen_f8(self, src: &[u8; LANES], out: &mut Row) {
        // By way of f16, whose bias is 8 more; all ones stays NaN.
        // SAFETY: see the head of the file.
        unsafe {
            let bytes = _mm256_cvtepu8_epi16(_mm_loadu_si128(src.as_ptr().cast()));
            let magnitude = _mm256_and_si256(bytes, _mm256_set1_epi16(0x7f));
            let nan = _mm256_cmpeq_epi16(magnitude, _mm256_set1_epi16(0x7f));
            let sign = _mm256_slli_epi16::<8>(_mm256_xor_si256(bytes, magnitude));
            let h = _mm256_or_si256(_mm256_slli_epi16::<7>(magnitude), sign);
            let h = _mm256_or_si256(h, _mm256_and_si256(nan, _mm256_set1_epi16(0x7e00)));
            let v0 = _mm256_cvtph_ps(_mm256_castsi256_si128(h));
            let v1 = _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(h));
            let bias = _mm256_set1_ps(256.0);
            _mm256_storeu_ps(out.as_mut_ptr(), _mm256_mul_ps(v0, bias));
            _mm256_storeu_ps(out.as_mut_ptr().add(8), _mm256_mul_ps(v1, bias));
        }
    }
}

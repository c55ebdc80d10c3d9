//! Sixteen lanes in one AVX-512 register.

use std::arch::x86_64::*;

use super::isa::Avx512;
use super::simd::{Decode, Pairs, Row, Simd};
use crate::base::limits::LANES;

// Each method is one or a few intrinsics. SAFETY, for every block in this file: the features
// are there, because `self` is the token that only detection makes; pointers come from
// references to arrays at least as large as what is loaded or stored.

impl Decode for Avx512 {
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

impl Simd for Avx512 {
    type F = __m512;
    type I = __m512i;

    const WIDE: bool = true;

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        // SAFETY: see the head of the file.
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    fn load(self, x: &Row) -> __m512 {
        // SAFETY: see the head of the file.
        unsafe { _mm512_loadu_ps(x.as_ptr()) }
    }

    #[inline(always)]
    fn store(self, v: __m512, out: &mut Row) {
        // SAFETY: see the head of the file.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), v) }
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see the head of the file.
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see the head of the file.
        unsafe { _mm512_sub_ps(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see the head of the file.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see the head of the file.
        unsafe { _mm512_div_ps(a, b) }
    }

    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: see the head of the file.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see the head of the file.
        unsafe { _mm512_max_ps(a, b) }
    }

    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see the head of the file.
        unsafe { _mm512_min_ps(a, b) }
    }

    #[inline(always)]
    fn round(self, a: __m512) -> __m512 {
        // SAFETY: see the head of the file.
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }

    #[inline(always)]
    fn scale_by_power(self, a: __m512, n: __m512) -> __m512 {
        // SAFETY: see the head of the file.
        unsafe { _mm512_scalef_ps(a, n) }
    }

    #[inline(always)]
    fn fold_add(self, v: __m512) -> f32 {
        // SAFETY: see the head of the file.
        unsafe {
            let v = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
            let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
        }
    }

    #[inline(always)]
    fn fold_max(self, v: __m512) -> f32 {
        // SAFETY: see the head of the file.
        unsafe {
            let v = _mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
            let v = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_max_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_max_ss(v, _mm_movehdup_ps(v)))
        }
    }

    #[inline(always)]
    fn zero(self) -> __m512i {
        // SAFETY: see the head of the file.
        unsafe { _mm512_setzero_si512() }
    }

    #[inline(always)]
    fn add_int(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: see the head of the file.
        unsafe { _mm512_add_epi32(a, b) }
    }

    #[inline(always)]
    fn dot_pairs(self, acc: __m512i, w: &Pairs, q: i32) -> __m512i {
        // SAFETY: see the head of the file.
        unsafe {
            let w = _mm512_loadu_si512(w.as_ptr().cast());
            _mm512_dpwssd_epi32(acc, w, _mm512_set1_epi32(q))
        }
    }

    #[inline(always)]
    fn to_float(self, v: __m512i) -> __m512 {
        // SAFETY: see the head of the file.
        unsafe { _mm512_cvtepi32_ps(v) }
    }

    #[inline(always)]
    fn transpose(self, src: &[i32], stride: usize, out: &mut [Pairs; LANES]) {
        assert!(stride < usize::MAX / LANES && src.len() >= 15 * stride + LANES);
        // SAFETY: see the head of the file; row 15 ends inside `src` by the assertion.
        unsafe {
            let mut a = [_mm512_setzero_si512(); LANES];
            for (i, row) in a.iter_mut().enumerate() {
                *row = _mm512_loadu_si512(src.as_ptr().add(i * stride).cast());
            }
            // Words, then pairs of words, within 128-bit quarters; then the quarters twice.
            let mut b = a;
            for i in 0..8 {
                b[2 * i] = _mm512_unpacklo_epi32(a[2 * i], a[2 * i + 1]);
                b[2 * i + 1] = _mm512_unpackhi_epi32(a[2 * i], a[2 * i + 1]);
            }
            for i in 0..4 {
                a[4 * i] = _mm512_unpacklo_epi64(b[4 * i], b[4 * i + 2]);
                a[4 * i + 1] = _mm512_unpackhi_epi64(b[4 * i], b[4 * i + 2]);
                a[4 * i + 2] = _mm512_unpacklo_epi64(b[4 * i + 1], b[4 * i + 3]);
                a[4 * i + 3] = _mm512_unpackhi_epi64(b[4 * i + 1], b[4 * i + 3]);
            }
            // a[4g + c], quarter h: column 4h + c of rows 4g..4g + 4.
            for c in 0..4 {
                let even = _mm512_shuffle_i32x4::<0b10_00_10_00>(a[c], a[4 + c]);
                let odd = _mm512_shuffle_i32x4::<0b11_01_11_01>(a[c], a[4 + c]);
                let even_high = _mm512_shuffle_i32x4::<0b10_00_10_00>(a[8 + c], a[12 + c]);
                let odd_high = _mm512_shuffle_i32x4::<0b11_01_11_01>(a[8 + c], a[12 + c]);
                let column = [
                    (c, _mm512_shuffle_i32x4::<0b10_00_10_00>(even, even_high)),
                    (8 + c, _mm512_shuffle_i32x4::<0b11_01_11_01>(even, even_high)),
                    (4 + c, _mm512_shuffle_i32x4::<0b10_00_10_00>(odd, odd_high)),
                    (12 + c, _mm512_shuffle_i32x4::<0b11_01_11_01>(odd, odd_high)),
                ];
                for (at, v) in column {
                    _mm512_storeu_si512(out[at].as_mut_ptr().cast(), v);
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
            let v = _mm512_cvtph_ps(_mm256_loadu_si256(src.as_ptr().cast()));
            _mm512_storeu_ps(out.as_mut_ptr(), v);
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
            let v = _mm512_mul_ps(_mm512_cvtph_ps(h), _mm512_set1_ps(256.0));
            _mm512_storeu_ps(out.as_mut_ptr(), v);
        }
    }
}

//! Sixteen lanes in one AVX-512 register.

use std::arch::x86_64::*;

use super::isa::Avx512;
use super::simd::{Bytes, Ints, Row, Simd};
use crate::base::limits::LANES;

// Each method is one or a few intrinsics. SAFETY, for every block in this file: the features
// are there, because `self` is the token that only detection makes; pointers come from
// references to arrays at least as large as what is loaded or stored.

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
    fn splat_int(self, x: i32) -> __m512i {
        // SAFETY: see the head of the file.
        unsafe { _mm512_set1_epi32(x) }
    }

    #[inline(always)]
    fn load_int(self, x: &Ints) -> __m512i {
        // SAFETY: see the head of the file.
        unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
    }

    #[inline(always)]
    fn store_int(self, v: __m512i, out: &mut Ints) {
        // SAFETY: see the head of the file.
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), v) }
    }

    #[inline(always)]
    fn load_bytes(self, x: &Bytes) -> __m512i {
        // SAFETY: see the head of the file.
        unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
    }

    #[inline(always)]
    fn store_bytes(self, v: __m512i, out: &mut Bytes) {
        // SAFETY: see the head of the file.
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), v) }
    }

    #[inline(always)]
    fn add_int(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: see the head of the file.
        unsafe { _mm512_add_epi32(a, b) }
    }

    #[inline(always)]
    fn mul_int(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: see the head of the file.
        unsafe { _mm512_mullo_epi32(a, b) }
    }

    #[inline(always)]
    fn max_int(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: see the head of the file.
        unsafe { _mm512_max_epi32(a, b) }
    }

    #[inline(always)]
    fn min_int(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: see the head of the file.
        unsafe { _mm512_min_epi32(a, b) }
    }

    #[inline(always)]
    fn and(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: see the head of the file.
        unsafe { _mm512_and_si512(a, b) }
    }

    #[inline(always)]
    fn or(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: see the head of the file.
        unsafe { _mm512_or_si512(a, b) }
    }

    #[inline(always)]
    fn xor(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: see the head of the file.
        unsafe { _mm512_xor_si512(a, b) }
    }

    #[inline(always)]
    fn shl(self, v: __m512i, n: u32) -> __m512i {
        // An immediate, where the caller's count is a constant.
        // SAFETY: see the head of the file.
        unsafe { _mm512_sllv_epi32(v, _mm512_set1_epi32(n as i32)) }
    }

    #[inline(always)]
    fn shr(self, v: __m512i, n: u32) -> __m512i {
        // SAFETY: see the head of the file.
        unsafe { _mm512_srlv_epi32(v, _mm512_set1_epi32(n as i32)) }
    }

    #[inline(always)]
    fn look_up(self, table: &[u8; 16], v: __m512i) -> __m512i {
        // SAFETY: see the head of the file.
        unsafe {
            let table = _mm_loadu_si128(table.as_ptr().cast());
            _mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), v)
        }
    }

    #[inline(always)]
    fn spread(self, v: __m512i, j: usize) -> __m512i {
        // SAFETY: see the head of the file.
        unsafe {
            let byte = _mm512_set_epi32(12, 8, 4, 0, 12, 8, 4, 0, 12, 8, 4, 0, 12, 8, 4, 0);
            let byte = _mm512_add_epi32(byte, _mm512_set1_epi32(j as i32 / 2));
            let four = _mm512_set1_epi32(0x0101_0101);
            let v = _mm512_shuffle_epi8(v, _mm512_mullo_epi32(byte, four));
            let bits = _mm512_set1_epi32(if j.is_multiple_of(2) {
                0x0804_0201
            } else {
                0x8040_2010_u32 as i32
            });
            _mm512_movm_epi8(_mm512_test_epi8_mask(v, bits))
        }
    }

    #[inline(always)]
    fn pair_up(self, v: __m512i) -> __m512i {
        // SAFETY: see the head of the file.
        unsafe {
            let low = _mm512_and_si512(v, _mm512_set1_epi64(0xffff));
            _mm512_or_si512(
                low,
                _mm512_srli_epi64::<16>(_mm512_andnot_si512(_mm512_set1_epi64(0xffff_ffff), v)),
            )
        }
    }

    #[inline(always)]
    fn dot_pairs(self, acc: __m512i, w: __m512i, q: i32) -> __m512i {
        // SAFETY: see the head of the file.
        unsafe { _mm512_dpwssd_epi32(acc, w, _mm512_set1_epi32(q)) }
    }

    #[inline(always)]
    fn dot_bytes<const ANY: bool>(self, acc: __m512i, u: __m512i, q: i32) -> __m512i {
        // SAFETY: see the head of the file.
        unsafe { _mm512_dpbusd_epi32(acc, u, _mm512_set1_epi32(q)) }
    }

    #[inline(always)]
    fn widen_i8(self, x: &[u8; LANES]) -> __m512i {
        // SAFETY: see the head of the file.
        unsafe { _mm512_cvtepi8_epi32(_mm_loadu_si128(x.as_ptr().cast())) }
    }

    #[inline(always)]
    fn widen_u8(self, x: &[u8; LANES]) -> __m512i {
        // SAFETY: see the head of the file.
        unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(x.as_ptr().cast())) }
    }

    #[inline(always)]
    fn widen_u16(self, x: &[u8; 2 * LANES]) -> __m512i {
        // SAFETY: see the head of the file.
        unsafe { _mm512_cvtepu16_epi32(_mm256_loadu_si256(x.as_ptr().cast())) }
    }

    #[inline(always)]
    fn widen_f16(self, x: &[u8; 2 * LANES]) -> __m512 {
        // SAFETY: see the head of the file.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(x.as_ptr().cast())) }
    }

    #[inline(always)]
    fn widen_f8(self, x: &[u8; LANES]) -> __m512 {
        // By way of f16, whose bias is 8 more; all ones stays NaN.
        // SAFETY: see the head of the file.
        unsafe {
            let bytes = _mm256_cvtepu8_epi16(_mm_loadu_si128(x.as_ptr().cast()));
            let magnitude = _mm256_and_si256(bytes, _mm256_set1_epi16(0x7f));
            let nan = _mm256_cmpeq_epi16(magnitude, _mm256_set1_epi16(0x7f));
            let sign = _mm256_slli_epi16::<8>(_mm256_xor_si256(bytes, magnitude));
            let h = _mm256_or_si256(_mm256_slli_epi16::<7>(magnitude), sign);
            let h = _mm256_or_si256(h, _mm256_and_si256(nan, _mm256_set1_epi16(0x7e00)));
            _mm512_mul_ps(_mm512_cvtph_ps(h), _mm512_set1_ps(256.0))
        }
    }

    #[inline(always)]
    fn to_float(self, v: __m512i) -> __m512 {
        // SAFETY: see the head of the file.
        unsafe { _mm512_cvtepi32_ps(v) }
    }

    #[inline(always)]
    fn float_of_bits(self, v: __m512i) -> __m512 {
        // SAFETY: see the head of the file.
        unsafe { _mm512_castsi512_ps(v) }
    }
}

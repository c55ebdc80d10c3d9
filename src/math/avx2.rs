//! Sixteen lanes in two AVX2 registers.

use std::arch::x86_64::*;

use super::isa::Avx2;
use super::simd::{Bytes, Ints, Row, Simd};
use crate::base::limits::LANES;

// Each method is a few intrinsics, once for each half. SAFETY, for every block in this file: the
// features are there, because `self` is the token that only detection makes; pointers come from
// references to arrays at least as large as what is loaded or stored.

#[derive(Clone, Copy)]
pub(super) struct Floats(__m256, __m256);

#[derive(Clone, Copy)]
pub(super) struct Pair(__m256i, __m256i);

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

    #[inline(always)]
    fn pair_up_half(self, v: __m256i) -> __m256i {
        // SAFETY: see the head of the file.
        unsafe {
            let low = _mm256_and_si256(v, _mm256_set1_epi64x(0xffff));
            let high = _mm256_andnot_si256(_mm256_set1_epi64x(0xffff_ffff), v);
            _mm256_or_si256(low, _mm256_srli_epi64::<16>(high))
        }
    }

    /// The products of two bytes must not exceed i16 where they are added: above 128 a byte is
    /// cut in its upper seven bits and its lowest.
    #[inline(always)]
    fn dot_half<const ANY: bool>(self, acc: __m256i, u: __m256i, q: i32) -> __m256i {
        // SAFETY: see the head of the file.
        unsafe {
            let (q, ones) = (_mm256_set1_epi32(q), _mm256_set1_epi16(1));
            if !ANY {
                let pairs = _mm256_maddubs_epi16(u, q);
                return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, ones));
            }
            let high = _mm256_and_si256(_mm256_srli_epi16::<1>(u), _mm256_set1_epi8(0x7f));
            let low = _mm256_and_si256(u, _mm256_set1_epi8(1));
            let high = _mm256_madd_epi16(_mm256_maddubs_epi16(high, q), _mm256_set1_epi16(2));
            let low = _mm256_madd_epi16(_mm256_maddubs_epi16(low, q), ones);
            _mm256_add_epi32(acc, _mm256_add_epi32(high, low))
        }
    }
}

impl Simd for Avx2 {
    type F = Floats;
    type I = Pair;

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
    fn zero(self) -> Pair {
        // SAFETY: see the head of the file.
        unsafe { Pair(_mm256_setzero_si256(), _mm256_setzero_si256()) }
    }

    #[inline(always)]
    fn splat_int(self, x: i32) -> Pair {
        // SAFETY: see the head of the file.
        unsafe { Pair(_mm256_set1_epi32(x), _mm256_set1_epi32(x)) }
    }

    #[inline(always)]
    fn load_int(self, x: &Ints) -> Pair {
        // SAFETY: see the head of the file.
        unsafe {
            let at = x.as_ptr().cast::<__m256i>();
            Pair(_mm256_loadu_si256(at), _mm256_loadu_si256(at.add(1)))
        }
    }

    #[inline(always)]
    fn store_int(self, v: Pair, out: &mut Ints) {
        // SAFETY: see the head of the file.
        unsafe {
            let at = out.as_mut_ptr().cast::<__m256i>();
            _mm256_storeu_si256(at, v.0);
            _mm256_storeu_si256(at.add(1), v.1);
        }
    }

    #[inline(always)]
    fn load_bytes(self, x: &Bytes) -> Pair {
        // SAFETY: see the head of the file.
        unsafe {
            let at = x.as_ptr().cast::<__m256i>();
            Pair(_mm256_loadu_si256(at), _mm256_loadu_si256(at.add(1)))
        }
    }

    #[inline(always)]
    fn store_bytes(self, v: Pair, out: &mut Bytes) {
        // SAFETY: see the head of the file.
        unsafe {
            let at = out.as_mut_ptr().cast::<__m256i>();
            _mm256_storeu_si256(at, v.0);
            _mm256_storeu_si256(at.add(1), v.1);
        }
    }

    #[inline(always)]
    fn add_int(self, a: Pair, b: Pair) -> Pair {
        // SAFETY: see the head of the file.
        unsafe { Pair(_mm256_add_epi32(a.0, b.0), _mm256_add_epi32(a.1, b.1)) }
    }

    #[inline(always)]
    fn mul_int(self, a: Pair, b: Pair) -> Pair {
        // SAFETY: see the head of the file.
        unsafe { Pair(_mm256_mullo_epi32(a.0, b.0), _mm256_mullo_epi32(a.1, b.1)) }
    }

    #[inline(always)]
    fn max_int(self, a: Pair, b: Pair) -> Pair {
        // SAFETY: see the head of the file.
        unsafe { Pair(_mm256_max_epi32(a.0, b.0), _mm256_max_epi32(a.1, b.1)) }
    }

    #[inline(always)]
    fn min_int(self, a: Pair, b: Pair) -> Pair {
        // SAFETY: see the head of the file.
        unsafe { Pair(_mm256_min_epi32(a.0, b.0), _mm256_min_epi32(a.1, b.1)) }
    }

    #[inline(always)]
    fn and(self, a: Pair, b: Pair) -> Pair {
        // SAFETY: see the head of the file.
        unsafe { Pair(_mm256_and_si256(a.0, b.0), _mm256_and_si256(a.1, b.1)) }
    }

    #[inline(always)]
    fn or(self, a: Pair, b: Pair) -> Pair {
        // SAFETY: see the head of the file.
        unsafe { Pair(_mm256_or_si256(a.0, b.0), _mm256_or_si256(a.1, b.1)) }
    }

    #[inline(always)]
    fn xor(self, a: Pair, b: Pair) -> Pair {
        // SAFETY: see the head of the file.
        unsafe { Pair(_mm256_xor_si256(a.0, b.0), _mm256_xor_si256(a.1, b.1)) }
    }

    #[inline(always)]
    fn shl(self, v: Pair, n: u32) -> Pair {
        // An immediate, where the caller's count is a constant.
        // SAFETY: see the head of the file.
        unsafe {
            let n = _mm256_set1_epi32(n as i32);
            Pair(_mm256_sllv_epi32(v.0, n), _mm256_sllv_epi32(v.1, n))
        }
    }

    #[inline(always)]
    fn shr(self, v: Pair, n: u32) -> Pair {
        // SAFETY: see the head of the file.
        unsafe {
            let n = _mm256_set1_epi32(n as i32);
            Pair(_mm256_srlv_epi32(v.0, n), _mm256_srlv_epi32(v.1, n))
        }
    }

    #[inline(always)]
    fn look_up(self, table: &[u8; 16], v: Pair) -> Pair {
        // SAFETY: see the head of the file.
        unsafe {
            let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
            Pair(_mm256_shuffle_epi8(table, v.0), _mm256_shuffle_epi8(table, v.1))
        }
    }

    #[inline(always)]
    fn spread(self, v: Pair, j: usize) -> Pair {
        // SAFETY: see the head of the file.
        unsafe {
            let byte = _mm256_set_epi32(12, 8, 4, 0, 12, 8, 4, 0);
            let byte = _mm256_add_epi32(byte, _mm256_set1_epi32(j as i32 / 2));
            let byte = _mm256_mullo_epi32(byte, _mm256_set1_epi32(0x0101_0101));
            let bits = if j.is_multiple_of(2) { 0x0804_0201 } else { 0x8040_2010_u32 as i32 };
            let bits = _mm256_set1_epi32(bits);
            let v0 = _mm256_and_si256(_mm256_shuffle_epi8(v.0, byte), bits);
            let v1 = _mm256_and_si256(_mm256_shuffle_epi8(v.1, byte), bits);
            Pair(_mm256_cmpeq_epi8(v0, bits), _mm256_cmpeq_epi8(v1, bits))
        }
    }

    #[inline(always)]
    fn pair_up(self, v: Pair) -> Pair {
        Pair(self.pair_up_half(v.0), self.pair_up_half(v.1))
    }

    #[inline(always)]
    fn dot_pairs(self, acc: Pair, w: Pair, q: i32) -> Pair {
        // SAFETY: see the head of the file.
        unsafe {
            let q = _mm256_set1_epi32(q);
            Pair(
                _mm256_add_epi32(acc.0, _mm256_madd_epi16(w.0, q)),
                _mm256_add_epi32(acc.1, _mm256_madd_epi16(w.1, q)),
            )
        }
    }

    #[inline(always)]
    fn dot_bytes<const ANY: bool>(self, acc: Pair, u: Pair, q: i32) -> Pair {
        Pair(self.dot_half::<ANY>(acc.0, u.0, q), self.dot_half::<ANY>(acc.1, u.1, q))
    }

    #[inline(always)]
    fn widen_i8(self, x: &[u8; LANES]) -> Pair {
        // SAFETY: see the head of the file.
        unsafe {
            let at = x.as_ptr();
            Pair(
                _mm256_cvtepi8_epi32(_mm_loadl_epi64(at.cast())),
                _mm256_cvtepi8_epi32(_mm_loadl_epi64(at.add(8).cast())),
            )
        }
    }

    #[inline(always)]
    fn widen_u8(self, x: &[u8; LANES]) -> Pair {
        // SAFETY: see the head of the file.
        unsafe {
            let at = x.as_ptr();
            Pair(
                _mm256_cvtepu8_epi32(_mm_loadl_epi64(at.cast())),
                _mm256_cvtepu8_epi32(_mm_loadl_epi64(at.add(8).cast())),
            )
        }
    }

    #[inline(always)]
    fn widen_u16(self, x: &[u8; 2 * LANES]) -> Pair {
        // SAFETY: see the head of the file.
        unsafe {
            let at = x.as_ptr().cast::<__m128i>();
            Pair(
                _mm256_cvtepu16_epi32(_mm_loadu_si128(at)),
                _mm256_cvtepu16_epi32(_mm_loadu_si128(at.add(1))),
            )
        }
    }

    #[inline(always)]
    fn widen_f16(self, x: &[u8; 2 * LANES]) -> Floats {
        // SAFETY: see the head of the file.
        unsafe {
            let at = x.as_ptr().cast::<__m128i>();
            Floats(
                _mm256_cvtph_ps(_mm_loadu_si128(at)),
                _mm256_cvtph_ps(_mm_loadu_si128(at.add(1))),
            )
        }
    }

    #[inline(always)]
    fn widen_f8(self, x: &[u8; LANES]) -> Floats {
        // By way of f16, whose bias is 8 more; all ones stays NaN.
        // SAFETY: see the head of the file.
        unsafe {
            let bytes = _mm256_cvtepu8_epi16(_mm_loadu_si128(x.as_ptr().cast()));
            let magnitude = _mm256_and_si256(bytes, _mm256_set1_epi16(0x7f));
            let nan = _mm256_cmpeq_epi16(magnitude, _mm256_set1_epi16(0x7f));
            let sign = _mm256_slli_epi16::<8>(_mm256_xor_si256(bytes, magnitude));
            let h = _mm256_or_si256(_mm256_slli_epi16::<7>(magnitude), sign);
            let h = _mm256_or_si256(h, _mm256_and_si256(nan, _mm256_set1_epi16(0x7e00)));
            let v0 = _mm256_cvtph_ps(_mm256_castsi256_si128(h));
            let v1 = _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(h));
            let bias = _mm256_set1_ps(256.0);
            Floats(_mm256_mul_ps(v0, bias), _mm256_mul_ps(v1, bias))
        }
    }

    #[inline(always)]
    fn to_float(self, v: Pair) -> Floats {
        // SAFETY: see the head of the file.
        unsafe { Floats(_mm256_cvtepi32_ps(v.0), _mm256_cvtepi32_ps(v.1)) }
    }

    #[inline(always)]
    fn float_of_bits(self, v: Pair) -> Floats {
        // SAFETY: see the head of the file.
        unsafe { Floats(_mm256_castsi256_ps(v.0), _mm256_castsi256_ps(v.1)) }
    }
}

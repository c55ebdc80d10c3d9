//! 32 codes in one YMM register and four rows in one XMM register, for AVX2 and AVX-512 alike.
//!
//! Products of few tokens wait for memory. Half an AVX-512 register is enough for that, needs no
//! sorting of blocks into registers, and keeps one set of code; what AVX-512 adds is VNNI.

use std::arch::x86_64::*;

use super::isa::{Avx2, Avx512};
use super::simd::Narrow;

// SAFETY, for every block in this file: the features are there, because `self` is a token that
// only detection makes, and AVX-512's proves AVX2 and VL too; pointers come from references to
// arrays at least as large as what is loaded or stored.

/// Masks that spread one i16 over a half: mask i takes bytes 2i and 2i + 1.
static PICK: [[u8; 32]; 8] = {
    let mut masks = [[0; 32]; 8];
    let mut i = 0;
    while i < 8 * 32 {
        masks[i / 32][i % 32] = (i / 32 * 2 + i % 2) as u8;
        i += 1;
    }
    masks
};

/// Bytes of even place, then of odd place, each into the upper byte of an i16; 128 stands for 0.
static ALTERNATE: [u8; 32] = {
    let mut mask = [128; 32];
    let mut i = 0;
    while i < 16 {
        mask[2 * i + 1] = (2 * (i % 8) + i / 8) as u8;
        i += 1;
    }
    mask
};

/// Byte j from byte j / 8 of four.
static EIGHTFOLD: [u8; 32] = {
    let mut mask = [0; 32];
    let mut i = 0;
    while i < 32 {
        mask[i] = (i / 8) as u8;
        i += 1;
    }
    mask
};

macro_rules! narrow {
    ($token:ident { $($own:tt)* }) => {
        impl Narrow for $token {
            type V = __m256i;
            type I = __m128i;
            type F = __m128;

            #[inline(always)]
            fn prefetch(self, from: &[u8], at: usize) {
                // SAFETY: a prefetch reads nothing, whatever it is given.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(from.as_ptr().wrapping_add(at).cast()) }
            }

            #[inline(always)]
            fn bytes(self, from: &[u8; 32]) -> __m256i {
                // SAFETY: see the head of the file.
                unsafe { _mm256_loadu_si256(from.as_ptr().cast()) }
            }

            #[inline(always)]
            fn codes(self, from: &[i8; 32]) -> __m256i {
                // SAFETY: see the head of the file.
                unsafe { _mm256_loadu_si256(from.as_ptr().cast()) }
            }

            #[inline(always)]
            fn words(self, from: &[i32; 8]) -> __m256i {
                // SAFETY: see the head of the file.
                unsafe { _mm256_loadu_si256(from.as_ptr().cast()) }
            }

            #[inline(always)]
            fn zeros(self) -> __m256i {
                // SAFETY: see the head of the file.
                unsafe { _mm256_setzero_si256() }
            }

            #[inline(always)]
            fn splat_byte(self, byte: u8) -> __m256i {
                // SAFETY: see the head of the file.
                unsafe { _mm256_set1_epi8(byte as i8) }
            }

            #[inline(always)]
            fn unfold(self, from: &[u8; 16]) -> __m256i {
                // SAFETY: see the head of the file.
                unsafe {
                    let low = _mm_loadu_si128(from.as_ptr().cast());
                    let both = _mm256_set_m128i(_mm_srli_epi16::<4>(low), low);
                    _mm256_and_si256(both, _mm256_set1_epi8(15))
                 }
            }

            #[inline(always)]
            fn spread(self, bits: u32) -> __m256i {
                // SAFETY: see the head of the file.
                unsafe {
                    let bytes = _mm256_set1_epi32(bits as i32);
                    let mask = _mm256_loadu_si256(EIGHTFOLD.as_ptr().cast());
                    // Within each half the four bytes repeat, so places 0 to 3 are always there.
                    let bytes = _mm256_shuffle_epi8(bytes, mask);
                    let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201u64 as i64);
                    _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit), bit)
                 }
            }

            #[inline(always)]
            fn eight_scales(self, k: u64) -> __m256i {
                // SAFETY: see the head of the file.
                unsafe { _mm256_broadcastsi128_si256(_mm_cvtepi8_epi16(_mm_cvtsi64_si128(k as i64))) }
            }

            #[inline(always)]
            fn sixteen_scales(self, k: [u64; 2]) -> __m256i {
                // SAFETY: see the head of the file.
                unsafe {
                    let k = _mm_set_epi64x(k[1] as i64, k[0] as i64);
                    let mask = _mm256_loadu_si256(ALTERNATE.as_ptr().cast());
                    _mm256_srai_epi16::<8>(_mm256_shuffle_epi8(_mm256_broadcastsi128_si256(k), mask))
                 }
            }

            #[inline(always)]
            fn in_order(self, m: [u64; 2]) -> __m256i {
                // SAFETY: see the head of the file.
                unsafe { _mm256_cvtepi8_epi16(_mm_set_epi64x(m[1] as i64, m[0] as i64)) }
            }

            #[inline(always)]
            fn twins(self, m: u64) -> __m256i {
                // SAFETY: see the head of the file.
                unsafe {
                    let m = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(m as i64));
                    _mm256_or_si256(m, _mm256_slli_epi32::<16>(m))
                 }
            }

            #[inline(always)]
            fn pick(self, scales: __m256i, i: usize) -> __m256i {
                // SAFETY: see the head of the file.
                unsafe { _mm256_shuffle_epi8(scales, _mm256_loadu_si256(PICK[i].as_ptr().cast())) }
            }

            #[inline(always)]
            fn and(self, a: __m256i, b: __m256i) -> __m256i {
                // SAFETY: see the head of the file.
                unsafe { _mm256_and_si256(a, b) }
            }

            #[inline(always)]
            fn or(self, a: __m256i, b: __m256i) -> __m256i {
                // SAFETY: see the head of the file.
                unsafe { _mm256_or_si256(a, b) }
            }

            #[inline(always)]
            fn shift(self, v: __m256i, n: i32) -> __m256i {
                // SAFETY: see the head of the file.
                unsafe {
                    // Immediates, once the caller's loop is unrolled.
                    let count = _mm_cvtsi32_si128(n.abs());
                    if n < 0 { _mm256_srl_epi16(v, count) } else { _mm256_sll_epi16(v, count) }
                 }
            }

            #[inline(always)]
            fn look_up(self, table: &[i8; 16], v: __m256i) -> __m256i {
                // SAFETY: see the head of the file.
                unsafe {
                    let table = _mm_loadu_si128(table.as_ptr().cast());
                    _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), v)
                 }
            }

            #[inline(always)]
            fn pairs(self, u: __m256i, q: __m256i) -> __m256i {
                // SAFETY: see the head of the file.
                unsafe { _mm256_maddubs_epi16(u, q) }
            }

            #[inline(always)]
            fn pairs_signed(self, w: __m256i, q: __m256i) -> __m256i {
                // SAFETY: see the head of the file.
                unsafe { _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(q, w)) }
            }

            #[inline(always)]
            fn dot_signed(self, w: __m256i, q: __m256i) -> __m256i {
                // SAFETY: see the head of the file.
                unsafe { self.dot_bytes(_mm256_abs_epi8(w), _mm256_sign_epi8(q, w)) }
            }

            #[inline(always)]
            fn sub_shifted(self, a: __m256i, b: __m256i, n: i32) -> __m256i {
                // SAFETY: see the head of the file.
                unsafe { _mm256_sub_epi32(a, _mm256_sll_epi32(b, _mm_cvtsi32_si128(n))) }
            }

            #[inline(always)]
            fn fold(self, rows: [__m256i; 4]) -> __m128i {
                // SAFETY: see the head of the file.
                unsafe {
                    let [a, b, c, d] = rows;
                    let ab = _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
                    let cd = _mm256_add_epi32(_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
                    let v = _mm256_add_epi32(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd));
                    _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v))
                 }
            }

            #[inline(always)]
            fn f16s(self, bits: [u16; 4]) -> __m128 {
                // SAFETY: see the head of the file.
                unsafe {
                    let [a, b, c, d] = bits;
                    _mm_cvtph_ps(_mm_set_epi16(0, 0, 0, 0, d as i16, c as i16, b as i16, a as i16))
                 }
            }

            #[inline(always)]
            fn floats(self, x: [f32; 4]) -> __m128 {
                // SAFETY: see the head of the file.
                unsafe { _mm_loadu_ps(x.as_ptr()) }
            }

            #[inline(always)]
            fn splat(self, x: f32) -> __m128 {
                // SAFETY: see the head of the file.
                unsafe { _mm_set1_ps(x) }
            }

            #[inline(always)]
            fn to_float(self, v: __m128i) -> __m128 {
                // SAFETY: see the head of the file.
                unsafe { _mm_cvtepi32_ps(v) }
            }

            #[inline(always)]
            fn add(self, a: __m128, b: __m128) -> __m128 {
                // SAFETY: see the head of the file.
                unsafe { _mm_add_ps(a, b) }
            }

            #[inline(always)]
            fn mul(self, a: __m128, b: __m128) -> __m128 {
                // SAFETY: see the head of the file.
                unsafe { _mm_mul_ps(a, b) }
            }

            #[inline(always)]
            fn fma(self, a: __m128, b: __m128, c: __m128) -> __m128 {
                // SAFETY: see the head of the file.
                unsafe { _mm_fmadd_ps(a, b, c) }
            }

            #[inline(always)]
            fn fma_minus(self, a: __m128, b: __m128, c: __m128) -> __m128 {
                // SAFETY: see the head of the file.
                unsafe { _mm_fnmadd_ps(a, b, c) }
            }

            #[inline(always)]
            fn to_array(self, v: __m128) -> [f32; 4] {
                // SAFETY: see the head of the file.
                unsafe {
                    let mut out = [0.0; 4];
                    _mm_storeu_ps(out.as_mut_ptr(), v);
                    out
                 }
            }
            $($own)*
        }
    };
}

narrow!(Avx2 {
    #[inline(always)]
    fn dot_words(self, acc: __m256i, p: __m256i, k: __m256i) -> __m256i {
        // SAFETY: see the head of the file.
        unsafe { _mm256_add_epi32(acc, _mm256_madd_epi16(p, k)) }
    }

    #[inline(always)]
    fn dot_bytes(self, u: __m256i, q: __m256i) -> __m256i {
        // SAFETY: see the head of the file.
        unsafe { _mm256_madd_epi16(_mm256_maddubs_epi16(u, q), _mm256_set1_epi16(1)) }
    }
});

narrow!(Avx512 {
    #[inline(always)]
    fn dot_words(self, acc: __m256i, p: __m256i, k: __m256i) -> __m256i {
        // SAFETY: see the head of the file.
        unsafe { _mm256_dpwssd_epi32(acc, p, k) }
    }

    #[inline(always)]
    fn dot_bytes(self, u: __m256i, q: __m256i) -> __m256i {
        // SAFETY: see the head of the file.
        unsafe { _mm256_dpbusd_epi32(_mm256_setzero_si256(), u, q) }
    }
});

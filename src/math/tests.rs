//! Every instruction set of the host against the oracle, bit for bit, and the oracle against
//! outside truth and f64.

mod attention;
mod elementwise;
mod linear;
mod vectors;

use super::format::Format;
use super::isa::{Isa, IsaChoice};
use super::kernels::Kernels;

/// SplitMix64: small, seeded, good enough to fill buffers.
pub(super) struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// In -1..1.
    pub fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    }

    pub fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.unit()).collect()
    }

    /// Floats of very different sizes, zeros of both signs among them.
    pub fn wild(&mut self, n: usize) -> Vec<f32> {
        (0..n)
            .map(|_| match self.below(8) {
                0 => 0.0,
                1 => -0.0,
                2 => self.unit() * 1e-30,
                3 => self.unit() * 1e3,
                _ => self.unit(),
            })
            .collect()
    }

    /// An f16 whose sign, exponent and mantissa are all random, but which is finite.
    fn finite_f16(&mut self) -> [u8; 2] {
        let bits = self.next() as u16;
        (if bits & 0x7c00 == 0x7c00 { bits & 0xbbff } else { bits }).to_le_bytes()
    }

    /// Random blocks of a format: any codes and sub-scales, any finite scales, subnormal ones too.
    pub fn blocks(&mut self, format: Format, weights: usize) -> Vec<u8> {
        let size = format.row_bytes(weights).unwrap();
        let mut bytes: Vec<u8> = (0..size).map(|_| self.next() as u8).collect();
        let scales: &[usize] = match format {
            Format::F32 => {
                for chunk in bytes.chunks_exact_mut(4) {
                    chunk.copy_from_slice(&(self.unit() * 2.0).to_le_bytes());
                }
                return bytes;
            }
            Format::F16 => &[0],
            Format::BF16 => {
                for chunk in bytes.chunks_exact_mut(2) {
                    chunk.copy_from_slice(&self.unit().to_bits().to_le_bytes()[2..]);
                }
                return bytes;
            }
            Format::F8E4M3 => {
                for byte in &mut bytes {
                    if *byte & 0x7f == 0x7f {
                        *byte = 0;
                    }
                }
                return bytes;
            }
            Format::MXFP4 => {
                for block in bytes.chunks_exact_mut(17) {
                    block[0] = self.below(246) as u8;
                }
                return bytes;
            }
            Format::Q8_0 | Format::Q4_0 | Format::Q5_0 | Format::IQ4NL | Format::IQ4XS => &[0],
            Format::Q4_1 | Format::Q5_1 | Format::Q4K | Format::Q5K => &[0, 2],
            Format::Q2K => &[80, 82],
            Format::Q3K => &[108],
            Format::Q6K => &[208],
        };
        for block in bytes.chunks_exact_mut(format.block_bytes()) {
            for at in scales {
                block[*at..at + 2].copy_from_slice(&self.finite_f16());
            }
        }
        bytes
    }
}

pub(super) fn oracle() -> Kernels {
    Kernels::new(IsaChoice::Scalar).unwrap()
}

/// The vector instruction sets that this host has.
pub(super) fn vectors() -> Vec<Kernels> {
    Isa::detected()
        .filter(|isa| *isa != Isa::Scalar)
        .map(|isa| Kernels::new(isa.name().parse().unwrap()).unwrap())
        .collect()
}

#[track_caller]
pub(super) fn same_bits(got: &[f32], want: &[f32], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let same = got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan();
        assert!(same, "{what}, element {i}: {got:e} is not {want:e}");
    }
}

#[test]
fn the_small_parts_do_what_they_say() {
    #[cfg(target_arch = "x86_64")]
    {
        use super::simd::Simd;
        fn ints<S: Simd>(s: S, v: S::I) -> [i32; 16] {
            let mut out = [0; 16];
            s.store_int(v, &mut out);
            out
        }
        fn check<S: Simd>(s: S) {
            let mut rng = Rng(31);
            let mut bytes = || -> [u8; 64] { std::array::from_fn(|_| rng.next() as u8) };
            for _ in 0..200 {
                let (u, q) = (bytes(), bytes().first_chunk::<4>().unwrap().map(|q| q.max(129)));
                let dot = |u: &[u8]| -> i32 {
                    u.iter().zip(q).map(|(u, q)| *u as i32 * (q as i8) as i32).sum()
                };
                let word = i32::from_ne_bytes(q);
                let any = s.dot_bytes::<true>(s.splat_int(7), s.load_bytes(&u), word);
                assert_eq!(ints(s, any), std::array::from_fn(|l| 7 + dot(&u[4 * l..][..4])));
                let u = u.map(|u| u % 129);
                let few = s.dot_bytes::<false>(s.splat_int(7), s.load_bytes(&u), word);
                assert_eq!(ints(s, few), std::array::from_fn(|l| 7 + dot(&u[4 * l..][..4])));

                let v = ints(s, s.load_bytes(&u));
                let half = |v: i32, i: i32| (v >> (16 * i)) as i16 as i32;
                let pairs = s.dot_pairs(s.splat_int(-3), s.load_int(&v), word);
                let pair = |v| half(v, 0) * half(word, 0) + half(v, 1) * half(word, 1);
                assert_eq!(ints(s, pairs), v.map(|v| pair(v) - 3));
                let paired = ints(s, s.pair_up(s.load_int(&v)));
                for i in (0..16).step_by(2) {
                    assert_eq!(paired[i], v[i] & 0xffff | v[i + 1] << 16);
                }
                for j in 0..8 {
                    let spread = s.spread(s.load_int(&v), j);
                    let want = v.map(|v| {
                        let bit = |i: usize| if v >> (4 * j + i) & 1 == 1 { 255 } else { 0 };
                        i32::from_le_bytes([bit(0), bit(1), bit(2), bit(3)])
                    });
                    assert_eq!(ints(s, spread), want);
                }
                let table: [u8; 16] = *u.first_chunk().unwrap();
                let mut found = [0; 64];
                s.store_bytes(s.look_up(&table, s.load_bytes(&u.map(|u| u & 15))), &mut found);
                assert_eq!(found, u.map(|u| table[u as usize & 15]));

                let few: &[u8; 16] = u.last_chunk().unwrap();
                assert_eq!(ints(s, s.widen_i8(few)), few.map(|b| b as i8 as i32));
                assert_eq!(ints(s, s.widen_u8(few)), few.map(|b| b as i32));
                let more: &[u8; 32] = u.last_chunk().unwrap();
                let (halves, _) = more.as_chunks::<2>();
                let words = |i: usize| u16::from_le_bytes(halves[i]) as i32;
                assert_eq!(ints(s, s.widen_u16(more)), std::array::from_fn(words));
            }
            let mut row = [0.0; 16];
            for first in (0..=u16::MAX).step_by(16) {
                let bits: [u16; 16] = std::array::from_fn(|i| first + i as u16);
                let bytes = bits.map(u16::to_le_bytes);
                s.store(s.widen_f16(bytes.as_flattened().first_chunk().unwrap()), &mut row);
                same_bits(&row, &bits.map(super::float::f16), "f16");
            }
            for high in 0..16u8 {
                let bytes: [u8; 16] = std::array::from_fn(|i| high * 16 + i as u8);
                let mut want = [0.0; 16];
                s.store(s.widen_f8(&bytes), &mut row);
                assert!(super::dequantise(Format::F8E4M3, &bytes, &mut want));
                same_bits(&row, &want, "F8_E4M3");
            }
        }
        if let Some(s) = super::isa::Avx2::detect() {
            check(s);
        }
        if let Some(s) = super::isa::Avx512::detect() {
            check(s);
        }
    }
}

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
        use super::simd::{Decode, Simd};
        fn check<S: Simd>(s: S) {
            let stride = 19;
            let src: Vec<i32> = (0..15 * stride as i32 + 16).collect();
            let mut out = [[0; 16]; 16];
            s.transpose(&src, stride, &mut out);
            for (c, column) in out.iter().enumerate() {
                for (r, word) in column.iter().enumerate() {
                    assert_eq!(*word, src[r * stride + c], "row {r}, column {c}");
                }
            }
            let mut back = [[0; 16]; 16];
            s.transpose(out.as_flattened(), 16, &mut back);
            for (r, row) in back.iter().enumerate() {
                assert_eq!(row[..], src[r * stride..][..16]);
            }
            let table: [i8; 16] = std::array::from_fn(|i| i as i8 * 7 - 60);
            let (mut found, mut want) = ([0; 32], [0; 32]);
            let qs = std::array::from_fn(|i| 0x1e + 0x0f * i as u8);
            s.nibbles(&table, &qs, &mut found);
            super::simd::Plain.nibbles(&table, &qs, &mut want);
            assert_eq!(found, want);
            for bits in 0..=u16::MAX {
                same_bits(&[s.f16(bits)], &[super::simd::Plain.f16(bits)], "f16");
            }
            for high in 0..16u8 {
                let bytes: [u8; 16] = std::array::from_fn(|i| high * 16 + i as u8);
                let (mut got, mut want) = ([0.0; 16], [0.0; 16]);
                s.widen_f8(&bytes, &mut got);
                assert!(super::dequantise(Format::F8E4M3, &bytes, &mut want));
                same_bits(&got, &want, "F8_E4M3");
            }
            let codes = std::array::from_fn(|i| (i as i8 - 8) * 16);
            let mut scaled = [0; 16];
            for k in [-128, -32, -1, 0, 1, 63, 127] {
                s.scale_codes(&codes, k, &mut scaled);
                assert_eq!(scaled, codes.map(|c| c as i16 * k as i16));
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

//! Rotary positions: frequencies per the family's scaling, and the tables made from them.
//!
//! Powers, logarithms and angles are the `libm` crate's, which is the same code everywhere: those
//! of glibc and musl differ in last bits that survive the rounding to f32.

use crate::math::RopeStyle;

/// How positions turn queries and keys.
#[derive(Clone, Debug)]
pub struct Rope {
    /// Leading dimensions of a head that are rotated; an odd number takes one more along, as
    /// GLM-4's reference does.
    pub dims: usize,
    pub base: f64,
    pub style: RopeStyle,
    pub scaling: Scaling,
}

/// How frequencies are stretched for contexts longer than the model first saw.
#[derive(Clone, Debug, PartialEq)]
pub enum Scaling {
    None,
    Linear {
        factor: f64,
    },
    Llama3 {
        factor: f64,
        low: f64,
        high: f64,
        original: f64,
    },
    Yarn {
        factor: f64,
        original: f64,
        beta_fast: f64,
        beta_slow: f64,
        /// Correction bounds are rounded outward to whole dimensions.
        truncate: bool,
        /// Multiplies cosines and sines.
        magnitude: f64,
    },
    /// One divisor per frequency, as GGUF's `rope_freqs.weight` holds them.
    Divisors(Vec<f32>),
}

impl Rope {
    pub fn pairs(&self) -> usize {
        self.dims.div_ceil(2)
    }

    /// Angle per position of each rotated pair.
    pub fn frequencies(&self) -> Vec<f64> {
        let dims = self.dims as f64;
        let plain = (0..self.pairs()).map(|i| libm::pow(self.base, -2.0 * i as f64 / dims));
        match &self.scaling {
            Scaling::None => plain.collect(),
            Scaling::Linear { factor } => plain.map(|f| f / factor).collect(),
            Scaling::Divisors(by) => plain.zip(by).map(|(f, &d)| f / f64::from(d)).collect(),
            Scaling::Llama3 { factor, low, high, original } => plain
                .map(|f| {
                    // Turns this pair makes within the original context decide how far it is
                    // stretched: fast pairs not at all, slow ones fully, between them a blend.
                    let turns = original * f / std::f64::consts::TAU;
                    let keep = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                    (1.0 - keep) * f / factor + keep * f
                })
                .collect(),
            Scaling::Yarn { factor, original, beta_fast, beta_slow, truncate, .. } => {
                // The dimension whose pair makes `turns` turns within the original context.
                let at = |turns: f64| {
                    dims * libm::log(original / (turns * std::f64::consts::TAU))
                        / (2.0 * libm::log(self.base))
                };
                let (mut from, mut to) = (at(*beta_fast), at(*beta_slow));
                if *truncate {
                    (from, to) = (from.floor(), to.ceil());
                }
                let (from, mut to) = (from.max(0.0), to.min(dims - 1.0));
                if from == to {
                    to += 0.001;
                }
                plain
                    .enumerate()
                    .map(|(i, f)| {
                        let stretch = ((i as f64 - from) / (to - from)).clamp(0.0, 1.0);
                        stretch * f / factor + (1.0 - stretch) * f
                    })
                    .collect()
            }
        }
    }

    fn magnitude(&self) -> f64 {
        match self.scaling {
            Scaling::Yarn { magnitude, .. } => magnitude,
            _ => 1.0,
        }
    }
}

/// YaRN's growth of attention with the logarithm of the stretch.
pub fn yarn_growth(factor: f64, weight: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * weight * libm::log(factor) + 1.0 }
}

/// Cosines and sines per position, computed in f64 and rounded once. Grows with the positions in
/// use, so a long trained context costs nothing until it is needed.
pub struct RopeTable {
    frequencies: Vec<f64>,
    magnitude: f64,
    /// `[positions][pairs]`
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl RopeTable {
    pub fn new(rope: &Rope) -> RopeTable {
        RopeTable {
            frequencies: rope.frequencies(),
            magnitude: rope.magnitude(),
            cos: Vec::new(),
            sin: Vec::new(),
        }
    }

    /// Makes sure that positions below `len` are there.
    pub fn extend_to(&mut self, len: usize) {
        let half = self.frequencies.len();
        let have = self.cos.len().checked_div(half).unwrap_or(len);
        for position in have..len {
            for frequency in &self.frequencies {
                let (sin, cos) = libm::sincos(position as f64 * frequency);
                self.cos.push((cos * self.magnitude) as f32);
                self.sin.push((sin * self.magnitude) as f32);
            }
        }
    }

    /// Cosines and sines of one position, one each per pair.
    pub fn at(&self, position: usize) -> (&[f32], &[f32]) {
        let half = self.frequencies.len();
        let row = position * half..(position + 1) * half;
        (&self.cos[row.clone()], &self.sin[row])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rope(scaling: Scaling) -> Rope {
        Rope { dims: 64, base: 10_000.0, style: RopeStyle::Halves, scaling }
    }

    #[test]
    fn scaling_keeps_fast_pairs_and_stretches_slow_ones() {
        let plain = rope(Scaling::None).frequencies();
        for scaling in [
            Scaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 8192.0 },
            Scaling::Yarn {
                factor: 8.0,
                original: 4096.0,
                beta_fast: 32.0,
                beta_slow: 1.0,
                truncate: true,
                magnitude: 1.0,
            },
        ] {
            let scaled = rope(scaling).frequencies();
            assert_eq!(scaled[0], plain[0]);
            assert!((scaled[31] * 8.0 / plain[31] - 1.0).abs() < 1e-12);
            assert!(scaled.windows(2).all(|w| w[0] > w[1]));
        }
    }

    /// The tables are part of what must not change with the host or the compiler.
    #[test]
    fn the_table_keeps_its_bits() {
        let mut hash = 0xcbf29ce484222325u64;
        for base in [1e4, 5e5, 1e6, 8e6] {
            let mut table = RopeTable::new(&Rope { base, ..rope(Scaling::None) });
            table.extend_to(20_000);
            for position in [1, 77, 4096, 19_999] {
                let (cos, sin) = table.at(position);
                for value in cos.iter().chain(sin) {
                    hash = (hash ^ u64::from(value.to_bits())).wrapping_mul(0x100000001b3);
                }
            }
        }
        assert_eq!(hash, 0x802d15ecd5ce79f3, "{hash:#x}");
    }

    #[test]
    fn the_table_grows_without_changing_what_it_held() {
        let mut table = RopeTable::new(&rope(Scaling::None));
        table.extend_to(3);
        let before: Vec<f32> = table.at(2).0.to_vec();
        table.extend_to(100);
        assert_eq!(table.at(2).0, before);
        assert_eq!(table.at(0).0, [1.0; 32]);
        assert_eq!(table.at(0).1, [0.0; 32]);
    }
}

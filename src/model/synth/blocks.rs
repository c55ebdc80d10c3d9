//! Random weights in any format, without quantising floats.
//!
//! A tensor's bytes are random words. What is not a code is then put in order, block by block:
//! the random byte where a scale belongs picks one of a few scales that give the weights the
//! spread they should have. Weights come out nearly uniform, with a mean of zero: where codes
//! are lopsided (−8 to 7) the scale takes either sign, where there is a minimum it takes away the
//! mean of the codes. A common mean would be one direction that every layer amplifies.

use half::{bf16, f16};

use super::random::Stream;
use crate::math::Format;

/// So many blocks end at a whole word, whatever the format.
pub const GROUP: usize = 8;

/// Bytes that are filled and then put in order while they are in the nearest cache.
const STRETCH: usize = 24 << 10;

/// Scales to pick from: as many magnitudes, each with both signs.
const MAGNITUDES: usize = 16;

/// A tensor's weights as a function of position.
pub struct Blocks {
    format: Format,
    stream: Stream,
    arrange: Arrange,
}

/// How random bytes become blocks.
enum Arrange {
    /// Floats uniform between ±limit.
    F32 { limit: f32 },
    /// Twelve bits of the random word pick one of evenly spaced values.
    Half { values: Box<[u16; 4096]> },
    /// A scale, and a minimum where the format has one.
    Scaled { scales: [[u16; 2]; 2 * MAGNITUDES] },
    /// Powers of two: one of them `of_256` times in 256, else the next.
    Exponent { smaller: u8, of_256: u16 },
}

impl Blocks {
    /// Weights with standard deviation `sigma`.
    pub fn new(format: Format, stream: Stream, sigma: f64) -> Blocks {
        let arrange = match format {
            Format::F32 => Arrange::F32 { limit: (sigma * 3f64.sqrt()) as f32 },
            Format::F16 => Arrange::Half { values: even(sigma, |v| f16::from_f64(v).to_bits()) },
            Format::BF16 => Arrange::Half { values: even(sigma, |v| bf16::from_f64(v).to_bits()) },
            Format::MXFP4 => exponents(sigma),
            _ => Arrange::Scaled { scales: scales(format, sigma) },
        };
        Blocks { format, stream, arrange }
    }

    /// The bytes from `offset`, which is a multiple of [`GROUP`] blocks as the length is of one.
    pub fn fill(&self, offset: u64, out: &mut [u8]) {
        let group = GROUP * self.format.block_bytes();
        assert!(offset.is_multiple_of(group as u64));
        let stretch = STRETCH / group * group;
        for (piece, i) in out.chunks_mut(stretch).zip(0u64..) {
            self.stream.fill((offset + i * stretch as u64) / 8, piece);
            self.arrange(piece);
        }
    }

    fn arrange(&self, bytes: &mut [u8]) {
        match &self.arrange {
            Arrange::F32 { limit } => {
                for value in bytes.as_chunks_mut::<4>().0 {
                    let unit = i32::from_le_bytes(*value) as f32 * (1.0 / (1u64 << 31) as f32);
                    *value = (unit * limit).to_le_bytes();
                }
            }
            Arrange::Half { values } => {
                for value in bytes.as_chunks_mut::<2>().0 {
                    let at = u16::from_le_bytes(*value) & 4095;
                    *value = values[at as usize].to_le_bytes();
                }
            }
            Arrange::Exponent { smaller, of_256 } => {
                for block in bytes.as_chunks_mut::<17>().0 {
                    block[0] = smaller + u8::from(u16::from(block[0]) >= *of_256);
                }
            }
            Arrange::Scaled { scales } => self.scale(scales, bytes),
        }
    }

    fn scale(&self, scales: &[[u16; 2]; 2 * MAGNITUDES], bytes: &mut [u8]) {
        let pick = |byte: u8| scales[byte as usize % scales.len()].map(u16::to_le_bytes);
        // A macro, since every format has another length that the compiler should know.
        macro_rules! blocks {
            ($bytes:literal, |$block:ident| $arrange:expr) => {
                for $block in bytes.as_chunks_mut::<$bytes>().0 {
                    $arrange
                }
            };
        }
        /// A scale at the given place.
        macro_rules! at {
            ($block:ident, $place:literal) => {
                [$block[$place], $block[$place + 1]] = pick($block[$place])[0]
            };
        }
        /// A scale and a minimum behind it.
        macro_rules! two_at {
            ($block:ident, $place:literal) => {{
                let [scale, minimum] = pick($block[$place]);
                [$block[$place], $block[$place + 1]] = scale;
                [$block[$place + 2], $block[$place + 3]] = minimum;
            }};
        }
        match self.format {
            Format::Q8_0 => blocks!(34, |block| {
                at!(block, 0);
                // No quantiser makes a code of −128.
                for code in &mut block[2..] {
                    *code = if *code == 128 { 0 } else { *code };
                }
            }),
            Format::Q4_0 | Format::IQ4NL => blocks!(18, |block| at!(block, 0)),
            Format::Q5_0 => blocks!(22, |block| at!(block, 0)),
            Format::Q4_1 => blocks!(20, |block| two_at!(block, 0)),
            Format::Q5_1 => blocks!(24, |block| two_at!(block, 0)),
            Format::Q2K => blocks!(84, |block| {
                for both in &mut block[..16] {
                    *both = (*both & 7 | 8) * 0x11;
                }
                two_at!(block, 80);
            }),
            Format::Q3K => blocks!(110, |block| at!(block, 108)),
            Format::Q4K => blocks!(144, |block| {
                six_bits(block.first_chunk_mut().expect("longer"));
                two_at!(block, 0);
            }),
            Format::Q5K => blocks!(176, |block| {
                six_bits(block.first_chunk_mut().expect("longer"));
                two_at!(block, 0);
            }),
            Format::Q6K => blocks!(210, |block| at!(block, 208)),
            Format::IQ4XS => blocks!(136, |block| at!(block, 0)),
            Format::F32 | Format::F16 | Format::BF16 | Format::MXFP4 | Format::F8E4M3 => {
                unreachable!("{} has no scale of this kind", self.format)
            }
        }
    }
}

/// Gives the eight sub-blocks of Q4_K and Q5_K scales of 32 to 63, and minima as large.
fn six_bits(block: &mut [u8; 16]) {
    for i in 4..8 {
        let (k, high) = (block[i] & 31 | 32, block[i + 8] & 31 | 32);
        block[i] = k | (high & 48) << 2;
        block[i + 4] = block[i];
        block[i + 8] = (high & 15) * 0x11;
    }
}

/// Mean square of a block's weights when its scale is 1, and the mean of its codes, which the
/// minimum takes away.
fn spread(format: Format) -> (f64, f64) {
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let square = |values: &[f64]| mean(&values.iter().map(|v| v * v).collect::<Vec<_>>());
    let range = |low: i32, high: i32| (low..=high).map(f64::from).collect::<Vec<_>>();
    // Codes from zero to `top` around their mean.
    let centred = |top: i32| {
        let middle = f64::from(top) / 2.0;
        (square(&range(0, top).iter().map(|c| c - middle).collect::<Vec<_>>()), middle)
    };
    const IQ4: [f64; 16] = [
        -127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0,
        69.0, 89.0, 113.0,
    ];
    match format {
        Format::Q8_0 => (square(&range(-127, 127)), 0.0),
        Format::Q4_0 => (square(&range(-8, 7)), 0.0),
        Format::Q5_0 => (square(&range(-16, 15)), 0.0),
        Format::Q4_1 => centred(15),
        Format::Q5_1 => centred(31),
        Format::Q2K => (centred(3).0 * square(&range(8, 15)), centred(3).1),
        Format::Q3K => (square(&range(-4, 3)) * square(&range(-32, 31)), 0.0),
        Format::Q4K => (centred(15).0 * square(&range(32, 63)), centred(15).1),
        Format::Q5K => (centred(31).0 * square(&range(32, 63)), centred(31).1),
        Format::Q6K => (square(&range(-32, 31)) * square(&range(-128, 127)), 0.0),
        Format::IQ4NL => (square(&IQ4), 0.0),
        Format::IQ4XS => (square(&IQ4) * square(&range(-32, 31)), 0.0),
        Format::F32 | Format::F16 | Format::BF16 | Format::MXFP4 | Format::F8E4M3 => {
            unreachable!("{format} has no scale of this kind")
        }
    }
}

/// Scales around the one that gives `sigma`, each with its minimum.
fn scales(format: Format, sigma: f64) -> [[u16; 2]; 2 * MAGNITUDES] {
    let (square, middle) = spread(format);
    let factor = |i: usize| 0.7 + 0.6 * i as f64 / (MAGNITUDES - 1) as f64;
    let factors = (0..MAGNITUDES).map(|i| factor(i).powi(2)).sum::<f64>() / MAGNITUDES as f64;
    let unit = sigma / (square * factors).sqrt();
    std::array::from_fn(|i| {
        // A scale of nothing would make a block of nothing.
        let scale = f16::from_f64(unit * factor(i % MAGNITUDES)).max(f16::from_bits(1));
        // Q4_1 and Q5_1 add their minimum, the super-block formats take it away.
        let down = if format.block() == crate::base::limits::SMALL_BLOCK { -1.0 } else { 1.0 };
        let minimum = f16::from_f64(scale.to_f64() * middle * down);
        match (middle == 0.0, i < MAGNITUDES) {
            (true, true) => [(-scale).to_bits(), 0],
            _ => [scale.to_bits(), minimum.to_bits()],
        }
    })
}

/// 4096 values, evenly spaced, symmetric, with standard deviation `sigma`.
fn even(sigma: f64, bits: impl Fn(f64) -> u16) -> Box<[u16; 4096]> {
    let step = sigma * 3f64.sqrt() / 2048.0;
    let values: Vec<u16> = (0..4096).map(|i| bits((f64::from(i) - 2047.5) * step)).collect();
    values.try_into().expect("as many as were asked for")
}

/// The two powers of two around the scale that gives `sigma`, in the right mixture.
fn exponents(sigma: f64) -> Arrange {
    // Mean square of the sixteen values of E2M1.
    let square =
        [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0f64].map(|v| v * v).iter().sum::<f64>() / 8.0;
    let scale = sigma / square.sqrt();
    let low = scale.log2().floor();
    // p + 4 (1 - p) = (scale / 2^low)^2
    let smaller = (4.0 - (scale / low.exp2()).powi(2)) / 3.0;
    Arrange::Exponent {
        smaller: (low + 127.0).clamp(1.0, 250.0) as u8,
        of_256: (smaller * 256.0).round() as u16,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::dequantise;

    fn written() -> impl Iterator<Item = Format> {
        Format::ALL.into_iter().filter(|f| *f != Format::F8E4M3)
    }

    #[test]
    fn weights_have_the_spread_they_should_have() {
        const N: usize = 1 << 16;
        for format in written() {
            for sigma in [1.0, 0.022, 0.0008] {
                let blocks = Blocks::new(format, Stream::new(3, "w"), sigma);
                let mut bytes = vec![0; format.row_bytes(N).unwrap()];
                blocks.fill(0, &mut bytes);
                let mut values = vec![0.0; N];
                assert!(dequantise(format, &bytes, &mut values));
                let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / N as f64;
                let square = values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / N as f64;
                // Super-block scales of small weights are subnormal halves, hence the width.
                let ratio = square.sqrt() / sigma;
                assert!((ratio - 1.0).abs() < 0.06, "{format} at {sigma}: {ratio} times too wide");
                assert!(mean.abs() < 0.02 * sigma, "{format} at {sigma}: mean {mean}");
                let largest = values.iter().fold(0f32, |a, v| a.max(v.abs()));
                assert!(f64::from(largest) < 8.0 * sigma, "{format} at {sigma}: {largest}");
            }
        }
    }

    #[test]
    fn bytes_do_not_depend_on_pieces() {
        for format in written() {
            let blocks = Blocks::new(format, Stream::new(3, "w"), 0.1);
            let group = GROUP * format.block_bytes();
            let mut whole = vec![0; group * 1000 / format.block()];
            let len = whole.len() / format.block_bytes() * format.block_bytes();
            whole.truncate(len);
            blocks.fill(0, &mut whole);
            let mut pieces = vec![0; len];
            for (i, piece) in pieces.chunks_mut(3 * group).enumerate() {
                blocks.fill((i * 3 * group) as u64, piece);
            }
            assert!(whole == pieces, "{format}");
        }
    }
}

//! Random words that are a function of (key, position), so that bytes do not depend on the order
//! or the pieces in which they are made. Not the sampler's Philox: 17 GB of it would take minutes.

/// The finaliser of SplitMix64 (Steele, Lea and Flood).
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// One stream of random words.
#[derive(Clone, Copy, Debug)]
pub struct Stream(u64);

impl Stream {
    /// The stream of a name under a seed.
    pub fn new(seed: u64, name: &str) -> Stream {
        let named = name.bytes().fold(mix(!seed), |key, byte| mix(key ^ u64::from(byte)));
        Stream(mix(named ^ seed))
    }

    #[inline(always)]
    pub fn word(self, at: u64) -> u64 {
        mix(self.0.wrapping_add(at.wrapping_mul(0x9E37_79B9_7F4A_7C15)))
    }

    /// The bytes of the words from `first` on; the last word may be cut.
    pub fn fill(self, first: u64, out: &mut [u8]) {
        let (words, rest) = out.as_chunks_mut::<8>();
        for (word, at) in words.iter_mut().zip(first..) {
            *word = self.word(at).to_le_bytes();
        }
        let last = self.word(first + words.len() as u64).to_le_bytes();
        rest.copy_from_slice(&last[..rest.len()]);
    }

    /// A number from the standard normal distribution (Box and Muller).
    pub fn normal(self, at: u64) -> f64 {
        let word = self.word(at);
        let unit = |bits: u64| ((bits & 0xFFFF_FFFF) as f64 + 0.5) / (1u64 << 32) as f64;
        let (radius, angle) = (unit(word), unit(word >> 32));
        (-2.0 * radius.ln()).sqrt() * (angle * std::f64::consts::TAU).cos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_do_not_depend_on_pieces() {
        let stream = Stream::new(7, "a");
        let mut whole = [0; 100];
        stream.fill(3, &mut whole);
        let mut pieces = [0; 100];
        for (i, piece) in pieces.chunks_mut(24).enumerate() {
            stream.fill(3 + 3 * i as u64, piece);
        }
        assert_eq!(whole, pieces);
        assert_ne!(stream.word(0), Stream::new(8, "a").word(0));
        assert_ne!(stream.word(0), Stream::new(7, "b").word(0));
    }

    #[test]
    fn normal_numbers_are_normal() {
        let n = 20_000;
        let values: Vec<f64> = (0..n).map(|i| Stream::new(1, "n").normal(i)).collect();
        let moment = |k: i32| values.iter().map(|v| v.powi(k)).sum::<f64>() / n as f64;
        assert!(moment(1).abs() < 0.03 && (moment(2) - 1.0).abs() < 0.05, "{}", moment(2));
        assert!((moment(4) - 3.0).abs() < 0.3, "{}", moment(4));
    }
}

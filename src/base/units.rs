//! How quantities are printed: binary units for memory, decimal for rates.

use std::fmt;

/// A number of bytes, printed as a person reads it: `512 B`, `1.5 MiB`, `17.3 GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
        if self.0 < 1024 {
            return write!(f, "{} B", self.0);
        }
        let mut value = self.0 as f64 / 1024.0;
        let mut unit = 0;
        // 1023.95 would print as 1024.0 of the smaller unit.
        while value >= 1023.95 && unit + 1 < UNITS.len() {
            value /= 1024.0;
            unit += 1;
        }
        write!(f, "{value:.1} {}", UNITS[unit])
    }
}

/// A count with a decimal suffix: `6.9 B` parameters, `151.9 K` tokens.
#[derive(Clone, Copy, Debug)]
pub struct Count(pub u64);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (value, unit) = match self.0 {
            // 999,950 would print as 1000.0 of the smaller unit.
            0..1_000 => return write!(f, "{}", self.0),
            1_000..999_950 => (self.0 as f64 / 1e3, "K"),
            999_950..999_950_000 => (self.0 as f64 / 1e6, "M"),
            999_950_000..999_950_000_000 => (self.0 as f64 / 1e9, "B"),
            _ => (self.0 as f64 / 1e12, "T"),
        };
        write!(f, "{value:.1} {unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_read_like_a_person_writes_them() {
        for (n, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1024 * 1024 - 1, "1.0 MiB"),
            (1536 * 1024, "1.5 MiB"),
            (u64::MAX, "16384.0 PiB"),
        ] {
            assert_eq!(Bytes(n).to_string(), text);
        }
    }

    #[test]
    fn counts_read_like_a_person_writes_them() {
        assert_eq!(Count(999).to_string(), "999");
        assert_eq!(Count(999_999).to_string(), "1.0 M");
        assert_eq!(Count(6_900_000_000).to_string(), "6.9 B");
    }
}

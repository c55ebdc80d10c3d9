//! The sum by which a block of bytes is known again: XXH3 in 64 bits.
//!
//! It finds what disks and memory do to bytes, not what an enemy does.

/// The same on every processor; vectors are used where there are some.
pub fn sum(bytes: &[u8]) -> u64 {
    twox_hash::XxHash3_64::oneshot(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sums are written to disks, so they can never change. From the reference implementation.
    #[test]
    fn sums_are_those_of_xxh3() {
        assert_eq!(sum(b""), 0x2d06800538d394c2);
        assert_eq!(sum(b"a"), 0xe6c632b61e964e1f);
        assert_eq!(sum(b"abc"), 0x78af5f94892f3950);
    }
}

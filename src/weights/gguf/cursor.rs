//! Reading numbers and strings from a header, never past its end.

use std::fmt;
use std::ops::Range;

pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// More was asked for than the file holds.
#[derive(Debug)]
pub(super) struct Short {
    wanted: u64,
    at: usize,
    left: usize,
}

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Short { wanted, at, left } = self;
        write!(
            f,
            "the file is cut short or damaged: {wanted} bytes are wanted at offset {at}, where \
             {left} are left"
        )
    }
}

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8]) -> Cursor<'a> {
        Cursor { bytes, at: 0 }
    }

    pub fn at(&self) -> usize {
        self.at
    }

    pub fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// Steps over `len` bytes and says where they are.
    pub fn skip(&mut self, len: u64) -> Result<Range<usize>, Short> {
        match usize::try_from(len) {
            Ok(len) if len <= self.left() => {
                let start = self.at;
                self.at += len;
                Ok(start..self.at)
            }
            _ => Err(Short { wanted: len, at: self.at, left: self.left() }),
        }
    }

    pub fn take(&mut self, len: u64) -> Result<&'a [u8], Short> {
        let range = self.skip(len)?;
        Ok(&self.bytes[range])
    }

    pub fn u32(&mut self) -> Result<u32, Short> {
        let bytes = self.take(4)?;
        Ok(u32::from_le_bytes(bytes.try_into().unwrap_or_default()))
    }

    pub fn u64(&mut self) -> Result<u64, Short> {
        let bytes = self.take(8)?;
        Ok(u64::from_le_bytes(bytes.try_into().unwrap_or_default()))
    }

    /// A string: its length, then its bytes.
    pub fn string(&mut self) -> Result<Range<usize>, Short> {
        let len = self.u64()?;
        self.skip(len)
    }
}

//! The weight formats: how many weights share a block, and how many bytes the block takes.

use std::fmt;

use crate::base::limits::{SMALL_BLOCK, SUPER_BLOCK};

/// How the weights of a matrix are written. Layouts are those of GGUF; `F8E4M3` is the
/// safetensors one, whose scales lie in a second tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Format {
    F32,
    F16,
    BF16,
    F8E4M3,
    Q8_0,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    IQ4NL,
    IQ4XS,
    MXFP4,
}

use Format::*;

impl Format {
    pub const ALL: [Format; 17] = [
        F32, F16, BF16, F8E4M3, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2K, Q3K, Q4K, Q5K, Q6K, IQ4NL,
        IQ4XS, MXFP4,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            F32 => "F32",
            F16 => "F16",
            BF16 => "BF16",
            F8E4M3 => "F8_E4M3",
            Q8_0 => "Q8_0",
            Q4_0 => "Q4_0",
            Q4_1 => "Q4_1",
            Q5_0 => "Q5_0",
            Q5_1 => "Q5_1",
            Q2K => "Q2_K",
            Q3K => "Q3_K",
            Q4K => "Q4_K",
            Q5K => "Q5_K",
            Q6K => "Q6_K",
            IQ4NL => "IQ4_NL",
            IQ4XS => "IQ4_XS",
            MXFP4 => "MXFP4",
        }
    }

    /// Weights in one block. 1 for the float formats.
    pub const fn block(self) -> usize {
        match self {
            F32 | F16 | BF16 | F8E4M3 => 1,
            Q8_0 | Q4_0 | Q4_1 | Q5_0 | Q5_1 | IQ4NL | MXFP4 => SMALL_BLOCK,
            Q2K | Q3K | Q4K | Q5K | Q6K | IQ4XS => SUPER_BLOCK,
        }
    }

    /// Bytes of one block.
    pub const fn block_bytes(self) -> usize {
        match self {
            F32 => 4,
            F16 | BF16 => 2,
            F8E4M3 => 1,
            Q8_0 => 2 + 32,
            Q4_0 | IQ4NL => 2 + 16,
            Q4_1 => 4 + 16,
            Q5_0 => 2 + 4 + 16,
            Q5_1 => 4 + 4 + 16,
            MXFP4 => 1 + 16,
            Q2K => 16 + 64 + 4,
            Q3K => 32 + 64 + 12 + 2,
            Q4K => 4 + 12 + 128,
            Q5K => 4 + 12 + 32 + 128,
            Q6K => 128 + 64 + 16 + 2,
            IQ4XS => 2 + 2 + 4 + 128,
        }
    }

    /// Activations that share a scale when this format is multiplied in integers; `None` for the
    /// float formats, whose activations stay f32.
    pub const fn activation_block(self) -> Option<usize> {
        match self.block() {
            1 => None,
            block => Some(block),
        }
    }

    /// Bytes of a row of `cols` weights, `None` if the blocks do not divide it or it overflows.
    pub fn row_bytes(self, cols: usize) -> Option<usize> {
        if !cols.is_multiple_of(self.block()) {
            return None;
        }
        (cols / self.block()).checked_mul(self.block_bytes())
    }
}

/// A run of bytes in a block that hold the same kind of number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    pub offset: usize,
    pub len: usize,
    /// Bytes that stay together where the rows of a panel are interleaved.
    pub unit: usize,
}

impl Format {
    /// The fields of a block, in order and without a gap.
    ///
    /// The bytes of codes stay together by fours, which is what an integer dot product takes in a
    /// lane; scales one by one.
    pub const fn fields(self) -> &'static [Field] {
        macro_rules! fields {
            ($($offset:literal, $len:literal, $unit:literal);*) => {
                &[$(Field { offset: $offset, len: $len, unit: $unit }),*]
            };
        }
        match self {
            F32 => fields![0, 4, 4],
            F16 | BF16 => fields![0, 2, 2],
            F8E4M3 => fields![0, 1, 1],
            Q8_0 => fields![0, 2, 2; 2, 32, 4],
            Q4_0 | IQ4NL => fields![0, 2, 2; 2, 16, 4],
            Q4_1 => fields![0, 2, 2; 2, 2, 2; 4, 16, 4],
            Q5_0 => fields![0, 2, 2; 2, 4, 4; 6, 16, 4],
            Q5_1 => fields![0, 2, 2; 2, 2, 2; 4, 4, 4; 8, 16, 4],
            MXFP4 => fields![0, 1, 1; 1, 16, 4],
            Q2K => fields![0, 16, 1; 16, 64, 4; 80, 2, 2; 82, 2, 2],
            Q3K => fields![0, 32, 4; 32, 64, 4; 96, 12, 1; 108, 2, 2],
            Q4K => fields![0, 2, 2; 2, 2, 2; 4, 12, 1; 16, 128, 4],
            Q5K => fields![0, 2, 2; 2, 2, 2; 4, 12, 1; 16, 32, 4; 48, 128, 4],
            Q6K => fields![0, 128, 4; 128, 64, 4; 192, 16, 1; 208, 2, 2],
            IQ4XS => fields![0, 2, 2; 2, 2, 1; 4, 4, 1; 8, 128, 4],
        }
    }
}

// The fields are the block.
const _: () = {
    let mut f = 0;
    while f < Format::ALL.len() {
        let format = Format::ALL[f];
        let (fields, mut i, mut at) = (format.fields(), 0, 0);
        while i < fields.len() {
            assert!(fields[i].offset == at && fields[i].len.is_multiple_of(fields[i].unit));
            at += fields[i].len;
            i += 1;
        }
        assert!(at == format.block_bytes());
        f += 1;
    }
};

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

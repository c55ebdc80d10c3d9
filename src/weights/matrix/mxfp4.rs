//! MXFP4 as gpt-oss has it in safetensors, made into GGUF's blocks when a row is looked at. Not a
//! bit of a weight changes.
//!
//! ```text
//! safetensors: byte k of 16 holds weight 2k (low nibble) and 2k+1 (high); exponents apart
//! GGUF:        exponent, then byte k of 16 holds weight k (low nibble) and k+16 (high)
//! ```

use crate::host::mapping::Bytes;
use crate::math::Format;
use crate::weights::error::Result;
use crate::weights::tensor::{DType, Tensor};

const BLOCK: usize = Format::MXFP4.block();
const PACKED: usize = BLOCK / 2;

/// One expert as the file has it.
pub(super) struct Expert {
    pub rows: usize,
    pub cols: usize,
    pub packed: Bytes,
    pub exponents: Bytes,
}

impl Expert {
    pub fn find(blocks: &Tensor, scales: &Tensor, e: usize) -> Result<Expert> {
        let [experts, rows, across, PACKED] = blocks.shape[..] else {
            let reason =
                format!("expected [experts, rows, cols/32, {PACKED}], found {:?}", blocks.shape);
            return Err(blocks.bad(reason));
        };
        for tensor in [blocks, scales] {
            if tensor.dtype != DType::U8 {
                return Err(tensor.bad(format!("expected U8, found {}", tensor.dtype)));
            }
        }
        scales.expect_shape(&[experts, rows, across])?;
        if e >= experts {
            return Err(blocks.bad(format!("holds {experts} experts, number {e} is asked for")));
        }
        // A dimension of size 0 lets the others be anything, so even this is checked.
        let (Some(count), Some(cols)) = (rows.checked_mul(across), across.checked_mul(BLOCK))
        else {
            return Err(blocks.bad(format!("its shape {:?} is beyond any memory", blocks.shape)));
        };
        let packed = blocks.data.slice(e * count * PACKED..(e + 1) * count * PACKED);
        let exponents = scales.data.slice(e * count..(e + 1) * count);
        match (packed, exponents) {
            (Some(packed), Some(exponents)) => Ok(Expert { rows, cols, packed, exponents }),
            _ => Err(blocks.bad("its data is shorter than its shape says")),
        }
    }
}

/// Bytes of a row of `cols` weights without their exponents, and the exponents.
pub(super) fn row_bytes(cols: usize) -> (usize, usize) {
    (cols / BLOCK * PACKED, cols / BLOCK)
}

/// Writes a row of GGUF's blocks.
pub(super) fn join(packed: &[u8], exponents: &[u8], out: &mut [u8]) {
    let (packed, _) = packed.as_chunks::<PACKED>();
    let (out, _) = out.as_chunks_mut::<{ 1 + PACKED }>();
    for ((packed, exponent), [first, out @ ..]) in packed.iter().zip(exponents).zip(out) {
        *first = *exponent;
        let (low, high) = packed.split_at(PACKED / 2);
        let (out, _) = out.as_chunks_mut::<2>();
        for ((low, high), [even, odd]) in low.iter().zip(high).zip(out) {
            *even = low & 15 | high << 4;
            *odd = low >> 4 | high & 0xf0;
        }
    }
}

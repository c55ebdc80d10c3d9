//! MXFP4 as gpt-oss has it in safetensors, made into GGUF's blocks. Not a bit of a weight changes.
//!
//! ```text
//! safetensors: byte k of 16 holds weight 2k (low nibble) and 2k+1 (high); exponents apart
//! GGUF:        exponent, then byte k of 16 holds weight k (low nibble) and k+16 (high)
//! ```

use crate::math::Format;
use crate::weights::error::Result;
use crate::weights::tensor::{DType, Tensor};

const BLOCK: usize = Format::MXFP4.block();
const PACKED: usize = BLOCK / 2;

/// Rows, columns and bytes of one expert.
pub(super) fn repack(
    blocks: &Tensor,
    scales: &Tensor,
    e: usize,
) -> Result<(usize, usize, Vec<u8>)> {
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
    let (Some(count), Some(cols)) = (rows.checked_mul(across), across.checked_mul(BLOCK)) else {
        return Err(blocks.bad(format!("its shape {:?} is beyond any memory", blocks.shape)));
    };
    let packed = &blocks.data[e * count * PACKED..(e + 1) * count * PACKED];
    let exponents = &scales.data[e * count..(e + 1) * count];
    let mut made = Vec::with_capacity(count * Format::MXFP4.block_bytes());
    let (packed, _) = packed.as_chunks::<PACKED>();
    for (packed, exponent) in packed.iter().zip(exponents) {
        made.push(*exponent);
        let nibble = |i: usize| (packed[i / 2] >> (4 * (i % 2))) & 15;
        made.extend((0..PACKED).map(|k| nibble(k) | nibble(k + PACKED) << 4));
    }
    Ok((rows, cols, made))
}

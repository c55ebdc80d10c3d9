//! Weights back to f32, bit for bit as the reference package for GGUF writes them: products and
//! sums are rounded one by one, never fused.

use super::block::{Block, Codes, Minimum, SUB_BLOCK, with_codes};
use super::float::{self, Float};
use super::format::Format;
use crate::base::limits::SUPER_BLOCK;

/// Writes the weights of consecutive blocks. `false`, and nothing written, if `bytes` are not
/// exactly the blocks that `out.len()` weights take.
#[must_use]
pub fn dequantise(format: Format, bytes: &[u8], out: &mut [f32]) -> bool {
    if format.row_bytes(out.len()) != Some(bytes.len()) {
        return false;
    }
    with_codes!(
        format,
        F => blocks::<F>(bytes, out),
        match format {
            Format::F16 => floats::<float::F16>(bytes, out),
            Format::BF16 => floats::<float::BF16>(bytes, out),
            Format::F8E4M3 => floats::<float::F8E4M3>(bytes, out),
            _ => floats::<float::F32>(bytes, out),
        }
    );
    true
}

fn floats<F: Float>(bytes: &[u8], out: &mut [f32]) {
    for (out, bytes) in out.iter_mut().zip(bytes.chunks_exact(F::BYTES)) {
        *out = F::one(bytes);
    }
}

fn blocks<F: Codes>(bytes: &[u8], out: &mut [f32]) {
    let mut block = Block::new();
    for (out, bytes) in out.chunks_exact_mut(F::LEN).zip(bytes.chunks_exact(F::BYTES)) {
        F::unpack(bytes, &mut block);
        for (j, out) in out.iter_mut().enumerate() {
            let code = block.codes[j] as f32;
            let sub = j / SUB_BLOCK;
            let d = if F::LEN == SUPER_BLOCK { block.d * block.k[sub] as f32 } else { block.d };
            *out = match F::MINIMUM {
                Minimum::None => d * code,
                Minimum::Float => d * code + block.min,
                Minimum::Integer => d * code - block.min * block.m[sub] as f32,
            };
        }
    }
}

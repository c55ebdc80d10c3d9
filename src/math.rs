//! Floor 1: numbers. Weight formats, and the kernels that work on them.
//!
//! Owns what the bits of a weight mean, the order of every addition (the numbers contract) and
//! the choice of an instruction set. Knows no model, no file, no session. Imports `base`. Unsafe
//! code is allowed here, each block with its reason.
//!
//! ```text
//! format, matrix, panels,       what is multiplied, and where the result goes
//!   activations, columns
//! pages                         how keys and values lie in a page, as f32 or in 8 bits
//! block, float                  what the bits of a weight mean
//! linear, elementwise,          the kernels, written once for sixteen lanes (simd)
//!   attention
//! avx2, avx512, rooms           the lanes of each instruction set; the kernels compiled for it
//! amx                           products of many tokens by tiles
//! oracle                        the same, naive and scalar: the vector kernels must equal it
//! isa, kernels                  detection and choice; the door to all of them
//! router                        top-k
//! peak                          what a core can do at most, to measure kernels against
//! ```
//!
//! Where the numbers contract leaves a choice open, it is made here, once, and the oracle makes
//! the same:
//! - The first segment of a sum is stored and the others are added to it; it is not added to 0.
//! - Activation codes are clamped to ±127, which only matters where `127 / amax` overflows; there
//!   0 · ∞ counts as 0. A NaN makes its block's scale NaN, so it is seen in the result.
//! - `max(a, b)` is `a > b ? a : b`.
//! - RMSNorm is `(x · scale) · w`; `silu(x)` is `x / (1 + exp(-x))`, and GELU the same with twice
//!   tanh's argument. [`Kernels::rope`] says the order of a rotation.
//! - Attention's whole order stands at the head of `attention.rs`. A query that sees nothing gets
//!   zeros.

mod activations;
mod attention;
mod block;
mod columns;
mod dequantise;
mod elementwise;
mod float;
pub mod format;
mod isa;
mod kernels;
mod linear;
mod matrix;
mod oracle;
mod pages;
mod panels;
pub mod peak;
mod router;
mod simd;

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod rooms;

pub use activations::{ActivationShares, Activations, Forms, RowsMut};
pub use attention::{AttentionScratch, Queries};
pub use columns::{Columns, MAX_PARTS, Shares};
pub use dequantise::dequantise;
pub use format::Format;
pub use isa::{Isa, IsaChoice, IsaError};
pub use kernels::{Kernels, RopeStyle};
pub use matrix::{BlockScales, Matrix, MatrixError};
pub use pages::{KvFormat, KvFormatError, KvView, Store};
pub use panels::{Panels, pack};
pub use router::top_k;

#[cfg(test)]
mod tests;

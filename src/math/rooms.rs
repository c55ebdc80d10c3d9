//! Thin rooms: the generic kernels compiled once for each instruction set.
//!
//! A method of a token calls a function that is compiled with the token's features, into which
//! the generic kernel and all its lanes are inlined.

use super::activations::{Activations, Quantised, Tokens};
use super::attention::{self, AttentionScratch, KvView, Query};
use super::block::{Codes, with_codes};
use super::elementwise;
use super::float::{self, Float};
use super::format::Format;
use super::isa::{Avx2, Avx512};
use super::linear::{self, RowCodes};
use super::matrix::Matrix;

macro_rules! kernels {
    ($token:ident, $features:tt, $($path:ident :: $name:ident ( $($arg:ident : $ty:ty),* );)*) => {
        $(
            pub(super) fn $name(self, $($arg: $ty),*) {
                #[target_feature(enable = $features)]
                fn inner(s: $token, $($arg: $ty),*) {
                    $path::$name(s, $($arg),*)
                }
                // SAFETY: the token was made by detecting these features.
                unsafe { inner(self, $($arg),*) }
            }
        )*
    };
}

macro_rules! room {
    ($token:ident, $features:tt) => {
        impl $token {
            kernels! { $token, $features,
                elementwise::exp(x: &mut [f32]);
                elementwise::sigmoid(x: &mut [f32]);
                elementwise::softmax(x: &mut [f32]);
                elementwise::silu_mul(gate: &[f32], up: &[f32], out: &mut [f32]);
                elementwise::gelu_mul(gate: &[f32], up: &[f32], out: &mut [f32]);
                elementwise::clamped_swiglu_mul(
                    gate: &[f32], up: &[f32], alpha: f32, limit: f32, out: &mut [f32]
                );
                elementwise::add(y: &mut [f32], x: &[f32]);
                elementwise::axpy(a: f32, x: &[f32], y: &mut [f32]);
                elementwise::scale(a: f32, x: &mut [f32]);
                elementwise::rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]);
                elementwise::quantise(
                    x: &[f32], block: usize,
                    codes: &mut [i32], sums: &mut [i32], scales: &mut [f32]
                );
                elementwise::rope_interleaved(x: &mut [f32], cos: &[f32], sin: &[f32]);
                elementwise::rope_halves(x: &mut [f32], cos: &[f32], sin: &[f32]);
                attention::attend(
                    query: Query, kv: &KvView, sink: Option<f32>,
                    out: &mut [f32], scratch: &mut AttentionScratch
                );
            }

            pub(super) fn linear(
                self,
                matrix: &Matrix,
                x: &Activations,
                tokens: Tokens,
                out: &mut [f32],
            ) {
                #[target_feature(enable = $features)]
                fn quantised<F: RowCodes>(
                    s: $token,
                    matrix: &Matrix,
                    x: &Quantised,
                    tokens: Tokens,
                    out: &mut [f32],
                ) {
                    linear::quantised::<$token, F>(s, matrix, x, tokens, out)
                }

                #[target_feature(enable = $features)]
                fn floats<F: Float>(
                    s: $token,
                    matrix: &Matrix,
                    x: &Activations,
                    tokens: Tokens,
                    out: &mut [f32],
                ) {
                    linear::floats::<$token, F>(s, matrix, x, tokens, out)
                }

                // SAFETY, for all: the token was made by detecting these features.
                with_codes!(
                    matrix.format(),
                    F => {
                        let x = x.quantised(F::FORMAT);
                        // SAFETY: see above.
                        unsafe { quantised::<F>(self, matrix, x, tokens, out) }
                    },
                    match matrix.format() {
                        // SAFETY: see above.
                        Format::F16 => unsafe {
                            floats::<float::F16>(self, matrix, x, tokens, out)
                        },
                        // SAFETY: see above.
                        Format::BF16 => unsafe {
                            floats::<float::BF16>(self, matrix, x, tokens, out)
                        },
                        // SAFETY: see above.
                        Format::F8E4M3 => unsafe {
                            floats::<float::F8E4M3>(self, matrix, x, tokens, out)
                        },
                        // SAFETY: see above.
                        _ => unsafe { floats::<float::F32>(self, matrix, x, tokens, out) },
                    }
                )
            }
        }
    };
}

room!(Avx2, "avx2,fma,f16c,bmi1,bmi2");
room!(Avx512, "avx2,fma,f16c,bmi1,bmi2,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni");

//! Thin rooms: the generic kernels compiled once for each instruction set.
//!
//! A method of a token calls a function that is compiled with the token's features, into which
//! the generic kernel and all its lanes are inlined.

use super::activations::{Activations, Quantised, Tokens};
use super::amx::{self, Ranges, Registers};
use super::attention::{self, AttentionScratch, Queries};
use super::block::{Codes, with_codes};
use super::columns::Columns;
use super::elementwise;
use super::float::{self, Float};
use super::format::Format;
use super::isa::{Amx, Avx2, Avx512};
use super::linear::{self, LaneCodes};
use super::pages::KvView;
use super::panels::Panels;

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
                elementwise::rms_norm_in_place(x: &mut [f32], weight: &[f32], eps: f32);
                elementwise::quantise(
                    x: &[f32], block: usize,
                    codes: &mut [i8], sums: &mut [i32], scales: &mut [f32]
                );
                elementwise::quantise_whole(x: &[f32], codes: &mut [i8], scale: &mut f32);
                elementwise::rope_interleaved(x: &mut [f32], cos: &[f32], sin: &[f32]);
                elementwise::rope_halves(x: &mut [f32], cos: &[f32], sin: &[f32]);
                attention::attend(
                    queries: &Queries, kv: &KvView, out: &mut Columns,
                    scratch: &mut AttentionScratch
                );
            }

            pub(super) fn linear(
                self,
                w: &Panels,
                x: &Activations,
                tokens: Tokens,
                out: &mut Columns,
            ) {
                #[target_feature(enable = $features)]
                fn quantised<F: LaneCodes>(
                    s: $token,
                    w: &Panels,
                    x: &Quantised,
                    tokens: Tokens,
                    out: &mut Columns,
                ) {
                    linear::quantised::<$token, F>(s, w, x, tokens, out)
                }

                #[target_feature(enable = $features)]
                fn floats<F: Float>(
                    s: $token,
                    w: &Panels,
                    x: &Activations,
                    tokens: Tokens,
                    out: &mut Columns,
                ) {
                    linear::floats::<$token, F>(s, w, x, tokens, out)
                }

                // SAFETY, for all: the token was made by detecting these features.
                with_codes!(
                    w.format(),
                    F => {
                        let x = x.quantised(F::FORMAT);
                        // SAFETY: see above.
                        unsafe { quantised::<F>(self, w, x, tokens, out) }
                    },
                    match w.format() {
                        // SAFETY: see above.
                        Format::F16 => unsafe {
                            floats::<float::F16>(self, w, x, tokens, out)
                        },
                        // SAFETY: see above.
                        Format::BF16 => unsafe {
                            floats::<float::BF16>(self, w, x, tokens, out)
                        },
                        // SAFETY: see above.
                        Format::F8E4M3 => unsafe {
                            floats::<float::F8E4M3>(self, w, x, tokens, out)
                        },
                        // SAFETY: see above.
                        _ => unsafe { floats::<float::F32>(self, w, x, tokens, out) },
                    }
                )
            }
        }
    };
}

room!(Avx2, "avx2,fma,f16c,bmi1,bmi2");
room!(Avx512, "avx2,fma,f16c,bmi1,bmi2,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni");

macro_rules! by_avx512 {
    ($($name:ident ( $($arg:ident : $ty:ty),* );)*) => {
        $(
            pub(super) fn $name(self, $($arg: $ty),*) {
                self.avx512().$name($($arg),*)
            }
        )*
    };
}

/// The kernels of AVX-512, and tiles where many tokens meet a quantised matrix.
impl Amx {
    by_avx512! {
        exp(x: &mut [f32]);
        sigmoid(x: &mut [f32]);
        softmax(x: &mut [f32]);
        silu_mul(gate: &[f32], up: &[f32], out: &mut [f32]);
        gelu_mul(gate: &[f32], up: &[f32], out: &mut [f32]);
        clamped_swiglu_mul(gate: &[f32], up: &[f32], alpha: f32, limit: f32, out: &mut [f32]);
        add(y: &mut [f32], x: &[f32]);
        axpy(a: f32, x: &[f32], y: &mut [f32]);
        scale(a: f32, x: &mut [f32]);
        rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]);
        rms_norm_in_place(x: &mut [f32], weight: &[f32], eps: f32);
        quantise(x: &[f32], block: usize, codes: &mut [i8], sums: &mut [i32], scales: &mut [f32]);
        quantise_whole(x: &[f32], codes: &mut [i8], scale: &mut f32);
        rope_interleaved(x: &mut [f32], cos: &[f32], sin: &[f32]);
        rope_halves(x: &mut [f32], cos: &[f32], sin: &[f32]);
        attend(
            queries: &Queries, kv: &KvView, out: &mut Columns, scratch: &mut AttentionScratch
        );
    }

    pub(super) fn linear(self, w: &Panels, x: &Activations, tokens: Tokens, out: &mut Columns) {
        #[target_feature(
            enable = "avx2,fma,f16c,bmi1,bmi2,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni"
        )]
        fn quantised<F: Ranges>(
            amx: Amx,
            w: &Panels,
            x: &Quantised,
            tokens: Tokens,
            out: &mut Columns,
        ) {
            let tiles = |tokens, depth| Registers::configure(amx, tokens, depth);
            amx::quantised::<_, F, _>(amx.avx512(), tiles, w, x, tokens, out)
        }

        if tokens.len() < amx::FROM_TOKENS {
            return self.avx512().linear(w, x, tokens, out);
        }
        with_codes!(
            w.format(),
            F => {
                let x = x.quantised(F::FORMAT);
                // SAFETY: the token was made by detecting these features.
                unsafe { quantised::<F>(self, w, x, tokens, out) }
            },
            self.avx512().linear(w, x, tokens, out)
        )
    }
}

//! The kernels of the chosen instruction set, behind one safe door.

use super::activations::{Activations, Tokens};
use super::attention::{AttentionScratch, Queries};
use super::columns::Columns;
#[cfg(target_arch = "x86_64")]
use super::isa::{Amx, Avx2, Avx512};
use super::isa::{Isa, IsaChoice, IsaError};
use super::oracle;
use super::pages::KvView;
use super::panels::Panels;

/// How a rotary embedding pairs dimensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeStyle {
    /// Dimension 2i with 2i + 1.
    Interleaved,
    /// Dimension i with i + n/2.
    Halves,
}

/// What was detected and chosen; the choice is made once, each call is one jump.
#[derive(Clone, Copy, Debug)]
pub struct Kernels {
    room: Room,
}

#[derive(Clone, Copy, Debug)]
enum Room {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    #[cfg(target_arch = "x86_64")]
    Amx(Amx),
}

macro_rules! call {
    ($self:ident, $name:ident ( $($arg:expr),* $(,)? )) => {
        match $self.room {
            Room::Scalar => oracle::$name($($arg),*),
            #[cfg(target_arch = "x86_64")]
            Room::Avx2(room) => room.$name($($arg),*),
            #[cfg(target_arch = "x86_64")]
            Room::Avx512(room) => room.$name($($arg),*),
            #[cfg(target_arch = "x86_64")]
            Room::Amx(room) => room.$name($($arg),*),
        }
    };
}

impl Kernels {
    /// The kernels that satisfy the choice on this host.
    pub fn new(choice: IsaChoice) -> Result<Self, IsaError> {
        let room = match choice.resolve()? {
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => Amx::detect().map(Room::Amx),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => Avx512::detect().map(Room::Avx512),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => Avx2::detect().map(Room::Avx2),
            _ => None,
        };
        Ok(Kernels { room: room.unwrap_or(Room::Scalar) })
    }

    pub fn isa(&self) -> Isa {
        match self.room {
            Room::Scalar => Isa::Scalar,
            #[cfg(target_arch = "x86_64")]
            Room::Avx2(_) => Isa::Avx2,
            #[cfg(target_arch = "x86_64")]
            Room::Avx512(_) => Isa::Avx512,
            #[cfg(target_arch = "x86_64")]
            Room::Amx(_) => Isa::Amx,
        }
    }

    /// `out.row(i)[r] = Σ_k w[r][k] · x[tokens[i]][k]` for all rows of `w`; `tokens` `None`: all of
    /// `x`. For a quantised matrix the activations must have its form.
    pub fn linear(&self, w: &Panels, x: &Activations, tokens: Option<&[u32]>, out: &mut Columns) {
        let tokens = tokens.map_or(Tokens::All(x.tokens()), Tokens::List);
        assert_eq!(w.cols(), x.cols(), "the matrix is as wide as the activations");
        assert_eq!((out.rows(), out.cols()), (tokens.len(), w.rows()), "a row for each token");
        if w.cols() == 0 {
            (0..out.rows()).for_each(|i| out.row(i).fill(0.0));
            return;
        }
        call!(self, linear(w, x, tokens, out))
    }

    /// `x[blocks][block] →` codes, sums of 16 codes in pairs, scales.
    pub(super) fn quantise(
        &self,
        x: &[f32],
        block: usize,
        codes: &mut [i8],
        sums: &mut [i32],
        scales: &mut [f32],
    ) {
        call!(self, quantise(x, block, codes, sums, scales))
    }

    /// All of `x →` codes and one scale.
    pub(super) fn quantise_whole(&self, x: &[f32], codes: &mut [i8], scale: &mut f32) {
        call!(self, quantise_whole(x, codes, scale))
    }

    /// `x / sqrt(mean(x²) + eps) · weight`: the scale is rounded, then each of the two products.
    pub fn rms_norm(&self, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        call!(self, rms_norm(x, weight, eps, out))
    }

    pub fn rms_norm_in_place(&self, x: &mut [f32], weight: &[f32], eps: f32) {
        call!(self, rms_norm_in_place(x, weight, eps))
    }

    pub fn softmax(&self, x: &mut [f32]) {
        call!(self, softmax(x))
    }

    /// Below 1.05 ulp off; -inf → 0, above 88.73 → infinity, NaN → NaN.
    pub fn exp(&self, x: &mut [f32]) {
        call!(self, exp(x))
    }

    /// `1 / (1 + exp(-x))`.
    pub fn sigmoid(&self, x: &mut [f32]) {
        call!(self, sigmoid(x))
    }

    /// SwiGLU: `(gate / (1 + exp(-gate))) · up`.
    pub fn silu_mul(&self, gate: &[f32], up: &[f32], out: &mut [f32]) {
        call!(self, silu_mul(gate, up, out))
    }

    /// GeGLU with the tanh form of GELU.
    pub fn gelu_mul(&self, gate: &[f32], up: &[f32], out: &mut [f32]) {
        call!(self, gelu_mul(gate, up, out))
    }

    /// The clamped SwiGLU of gpt-oss: `gate` at most `limit`, `up` within ±`limit`,
    /// `(up + 1) · gate · sigmoid(alpha · gate)`.
    pub fn clamped_swiglu_mul(
        &self,
        gate: &[f32],
        up: &[f32],
        alpha: f32,
        limit: f32,
        out: &mut [f32],
    ) {
        call!(self, clamped_swiglu_mul(gate, up, alpha, limit, out))
    }

    /// `y += x`.
    pub fn add(&self, y: &mut [f32], x: &[f32]) {
        call!(self, add(y, x))
    }

    /// `y = fma(a, x, y)`.
    pub fn axpy(&self, a: f32, x: &[f32], y: &mut [f32]) {
        call!(self, axpy(a, x, y))
    }

    /// `x *= a`.
    pub fn scale(&self, a: f32, x: &mut [f32]) {
        call!(self, scale(a, x))
    }

    /// Rotates the first `2 · cos.len()` dimensions of one head: with the pair (a, b),
    /// `a' = fma(a, cos, -(b · sin))` and `b' = fma(a, sin, b · cos)`.
    pub fn rope(&self, x: &mut [f32], cos: &[f32], sin: &[f32], style: RopeStyle) {
        match style {
            RopeStyle::Interleaved => call!(self, rope_interleaved(x, cos, sin)),
            RopeStyle::Halves => call!(self, rope_halves(x, cos, sin)),
        }
    }

    /// Attention of some queries over what they see of one key-value head, in the order that
    /// `attention.rs` states. Row i of `out` is for the i-th position, its heads side by side.
    pub fn attend(
        &self,
        queries: &Queries,
        kv: &KvView,
        out: &mut Columns,
        scratch: &mut AttentionScratch,
    ) {
        call!(self, attend(queries, kv, out, scratch))
    }
}

//! The scalar oracle: the numbers contract word by word, one lane at a time.
//!
//! It shares with the vector kernels the meaning of a block (`block.rs`), the constants of `exp`
//! and nothing else: no loop, no helper. It is also the `scalar` instruction set, for hosts
//! without vectors; it is meant to be obvious, not fast.

// Several arrays are walked by one index, over ranges that the compiler unrolls.
#![allow(clippy::needless_range_loop)]

mod attention;

pub(super) use attention::attend;

use super::activations::{Activations, Tokens};
use super::block::{Block, Codes, Minimum, SUB_BLOCK, with_codes};
use super::columns::Columns;
use super::elementwise::{
    EXP_HIGHEST, EXP_LOWEST, EXP_POLYNOMIAL, GELU_CUBIC, GELU_SCALE, LN2_HIGH, LN2_LOW, LOG2_E,
};
use super::float::{self, Float};
use super::format::Format;
use super::panels::Panels;
use crate::base::limits::{LANES, SEGMENT};

fn max(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

fn min(a: f32, b: f32) -> f32 {
    if a < b { a } else { b }
}

/// Lane i with lane i + half, until one is left.
fn fold(mut lanes: [f32; LANES], op: fn(f32, f32) -> f32) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] = op(lanes[i], lanes[i + half]);
        }
        half /= 2;
    }
    lanes[0]
}

fn exp_of(x: f32) -> f32 {
    let x = min(EXP_HIGHEST, max(EXP_LOWEST, x));
    let n = (x * LOG2_E).round_ties_even();
    let r = n.mul_add(-LN2_HIGH, x);
    let r = n.mul_add(-LN2_LOW, r);
    let mut p = EXP_POLYNOMIAL[4];
    for c in EXP_POLYNOMIAL[..4].iter().rev() {
        p = p.mul_add(r, *c);
    }
    let y = 1.0 + p.mul_add(r * r, r);
    // 2^n in two factors, for n reaches beyond the exponents of f32.
    let power = |n: i32| f32::from_bits(((n + 127) as u32) << 23);
    if x.is_nan() {
        return x;
    }
    let n = n as i32;
    y * power(n / 2) * power(n - n / 2)
}

pub(super) fn exp(x: &mut [f32]) {
    for x in x {
        *x = exp_of(*x);
    }
}

pub(super) fn sigmoid(x: &mut [f32]) {
    for x in x {
        *x = 1.0 / (1.0 + exp_of(-*x));
    }
}

pub(super) fn silu_mul(gate: &[f32], up: &[f32], out: &mut [f32]) {
    assert!(gate.len() == out.len() && up.len() == out.len(), "slices agree in length");
    for i in 0..out.len() {
        out[i] = gate[i] / (1.0 + exp_of(-gate[i])) * up[i];
    }
}

pub(super) fn gelu_mul(gate: &[f32], up: &[f32], out: &mut [f32]) {
    assert!(gate.len() == out.len() && up.len() == out.len(), "slices agree in length");
    for i in 0..out.len() {
        let g = gate[i];
        let z = (g * g * g).mul_add(GELU_CUBIC, g);
        out[i] = g / (1.0 + exp_of(z * (-2.0 * GELU_SCALE))) * up[i];
    }
}

pub(super) fn clamped_swiglu_mul(
    gate: &[f32],
    up: &[f32],
    alpha: f32,
    limit: f32,
    out: &mut [f32],
) {
    assert!(gate.len() == out.len() && up.len() == out.len(), "slices agree in length");
    for i in 0..out.len() {
        let g = min(limit, gate[i]);
        let u = max(-limit, min(limit, up[i]));
        out[i] = (u + 1.0) * (g / (1.0 + exp_of(g * -alpha)));
    }
}

pub(super) fn add(y: &mut [f32], x: &[f32]) {
    assert_eq!(x.len(), y.len(), "slices agree in length");
    for i in 0..y.len() {
        y[i] += x[i];
    }
}

pub(super) fn axpy(a: f32, x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len(), "slices agree in length");
    for i in 0..y.len() {
        y[i] = a.mul_add(x[i], y[i]);
    }
}

pub(super) fn scale(a: f32, x: &mut [f32]) {
    for x in x {
        *x *= a;
    }
}

pub(super) fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    assert!(x.len() == out.len() && weight.len() == out.len(), "slices agree in length");
    let mut lanes = [0.0; LANES];
    for (i, x) in x.iter().enumerate() {
        lanes[i % LANES] = x.mul_add(*x, lanes[i % LANES]);
    }
    let mean = fold(lanes, |a, b| a + b) / x.len() as f32;
    let scale = 1.0 / (mean + eps).sqrt();
    for i in 0..out.len() {
        out[i] = x[i] * scale * weight[i];
    }
}

pub(super) fn rms_norm_in_place(x: &mut [f32], weight: &[f32], eps: f32) {
    let before = x.to_vec();
    rms_norm(&before, weight, eps, x);
}

pub(super) fn softmax(x: &mut [f32]) {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for (i, x) in x.iter().enumerate() {
        lanes[i % LANES] = max(lanes[i % LANES], *x);
    }
    let largest = fold(lanes, max);
    let mut lanes = [0.0; LANES];
    for (i, x) in x.iter_mut().enumerate() {
        *x = exp_of(*x - largest);
        lanes[i % LANES] += *x;
    }
    let sum = fold(lanes, |a, b| a + b);
    for x in x {
        *x /= sum;
    }
}

pub(super) fn rope_interleaved(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    assert!(cos.len() == sin.len() && 2 * cos.len() <= x.len(), "the tables fit the head");
    for i in 0..cos.len() {
        rotate(x, 2 * i, 2 * i + 1, cos[i], sin[i]);
    }
}

pub(super) fn rope_halves(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    assert!(cos.len() == sin.len() && 2 * cos.len() <= x.len(), "the tables fit the head");
    for i in 0..cos.len() {
        rotate(x, i, cos.len() + i, cos[i], sin[i]);
    }
}

fn rotate(x: &mut [f32], i: usize, j: usize, cos: f32, sin: f32) {
    let (a, b) = (x[i], x[j]);
    x[i] = a.mul_add(cos, -(b * sin));
    x[j] = a.mul_add(sin, b * cos);
}

pub(super) fn quantise(
    x: &[f32],
    block: usize,
    codes: &mut [i8],
    sums: &mut [i32],
    scales: &mut [f32],
) {
    sums.fill(0);
    for b in 0..scales.len() {
        quantise_whole(
            &x[b * block..(b + 1) * block],
            &mut codes[b * block..(b + 1) * block],
            &mut scales[b],
        );
    }
    for (at, code) in codes.iter().enumerate() {
        let sum = get_half(sums[at / 32], at / 16 % 2) + *code as i32;
        put_half(&mut sums[at / 32], at / 16 % 2, sum);
    }
}

pub(super) fn quantise_whole(x: &[f32], codes: &mut [i8], scale: &mut f32) {
    assert_eq!(x.len(), codes.len(), "slices agree in length");
    let mut amax = 0.0f32;
    for x in x {
        // A NaN takes the scale, and so the whole result, with it.
        if x.abs() > amax || x.is_nan() {
            amax = x.abs();
        }
        if amax.is_nan() {
            break;
        }
    }
    *scale = amax / 127.0;
    for (i, x) in x.iter().enumerate() {
        let q = if amax == 0.0 { 0.0 } else { (x * (127.0 / amax)).round_ties_even() };
        // Out of range only where 127 / amax is infinite; 0 · infinity is taken as 0.
        codes[i] = q.clamp(-127.0, 127.0) as i8;
    }
}

fn put_half(word: &mut i32, half: usize, value: i32) {
    *word = if half == 0 { *word & !0xffff | value & 0xffff } else { *word & 0xffff | value << 16 };
}

fn get_half(word: i32, half: usize) -> i32 {
    if half == 0 { word as i16 as i32 } else { word >> 16 }
}

pub(super) fn linear(w: &Panels, x: &Activations, tokens: Tokens, out: &mut Columns) {
    for i in 0..tokens.len() {
        let token = tokens.at(i);
        for r in 0..w.rows() {
            out.row(i)[r] = with_codes!(
                w.format(),
                F => quantised::<F>(w, x, token, r),
                match w.format() {
                    Format::F16 => floats::<float::F16>(w, x, token, r),
                    Format::BF16 => floats::<float::BF16>(w, x, token, r),
                    Format::F8E4M3 => floats::<float::F8E4M3>(w, x, token, r),
                    _ => floats::<float::F32>(w, x, token, r),
                }
            );
        }
    }
}

/// Adds a segment's sum to those before it; the first stands alone.
fn add_segment(total: Option<f32>, segment: f32) -> Option<f32> {
    Some(match total {
        None => segment,
        Some(total) => total + segment,
    })
}

fn floats<F: Float>(panels: &Panels, x: &Activations, token: usize, r: usize) -> f32 {
    let x = x.token(token);
    let mut total = None;
    for k0 in (0..panels.cols()).step_by(SEGMENT) {
        let mut acc = 0.0f32;
        for k in k0..panels.cols().min(k0 + SEGMENT) {
            let mut w = F::one(&panels.block(r, k)[..F::BYTES]);
            if panels.has_scales() {
                w *= panels.scale(r, k);
            }
            acc = w.mul_add(x[k], acc);
        }
        total = add_segment(total, acc);
    }
    total.unwrap_or(0.0)
}

fn quantised<F: Codes>(panels: &Panels, x: &Activations, token: usize, r: usize) -> f32 {
    let (x, cols) = (x.quantised(F::FORMAT), panels.cols());
    let mut total = None;
    let mut block = Block::new();
    for k0 in (0..cols).step_by(SEGMENT) {
        let mut acc = 0.0f32;
        for k in (k0..cols.min(k0 + SEGMENT)).step_by(F::LEN) {
            F::unpack(&panels.block(r, k / F::LEN)[..F::BYTES], &mut block);
            let a = x.scales[(token * cols + k) / F::LEN];
            let (mut isum, mut msum, mut s) = (0i32, 0i32, 0i32);
            for sub in 0..F::LEN / SUB_BLOCK {
                let (mut dot, mut sum) = (0, 0);
                for j in sub * SUB_BLOCK..(sub + 1) * SUB_BLOCK {
                    let at = token * cols + k + j;
                    let q = x.codes[at] as i32;
                    dot += block.codes[j] as i32 * q;
                    sum += q;
                }
                isum += if F::LEN > 32 { block.k[sub] as i32 * dot } else { dot };
                msum += block.m[sub] as i32 * sum;
                s += sum;
            }
            acc = (isum as f32).mul_add(block.d * a, acc);
            acc = match F::MINIMUM {
                Minimum::None => acc,
                Minimum::Float => (s as f32).mul_add(block.min * a, acc),
                Minimum::Integer => (msum as f32).mul_add(-(block.min * a), acc),
            };
        }
        total = add_segment(total, acc);
    }
    total.unwrap_or(0.0)
}

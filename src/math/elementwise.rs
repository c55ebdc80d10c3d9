//! Norms, activations and softmax, written once for all instruction sets.
//!
//! A slice is walked sixteen at a time. The last, partial sixteen is padded with zeros, which no
//! sum below can tell from nothing.
//!
//! The transcendental functions all stand on one `exp`:
//!
//! ```text
//! x = min(max(x, -104), 89)            NaN passes; below is 0, above is infinity, in f32
//! n = round(x · log2 e)                ties to even
//! r = fma(n, -ln2_low, fma(n, -ln2_high, x))       |r| ≤ 0.347; n · ln2_high is exact
//! e^r = 1 + fma(p(r), r·r, r)          p of degree 4, each step fused
//! e^x = e^r · 2^n                      rounded once
//! ```
//!
//! Its error is below 1.05 ulp of the result (below 0.8 where that is subnormal): the polynomial
//! is off by 4e-9, the rest is rounding. The tests measure it over every 61st float.

// Several arrays are walked by one index, over ranges that the compiler unrolls.
#![allow(clippy::needless_range_loop)]

use super::simd::{Row, Simd, first};
use crate::base::limits::LANES;

pub(super) const EXP_LOWEST: f32 = -104.0;
pub(super) const EXP_HIGHEST: f32 = 89.0;
pub(super) const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// ln 2 in two parts. The first has 9 significant bits, so its product with n is exact.
pub(super) const LN2_HIGH: f32 = 355.0 / 512.0;
pub(super) const LN2_LOW: f32 = -0.000_212_194_44;
/// (e^r - 1 - r) / r² on |r| ≤ ln 2 / 2, least maximal relative error, ascending powers.
pub(super) const EXP_POLYNOMIAL: [f32; 5] =
    [0.499_999_94, 0.166_665_21, 0.041_668_39, 0.008_368_745, 0.001_381_454];

/// sqrt(2 / π) and the cubic term of the tanh form of GELU.
pub(super) const GELU_SCALE: f32 = 0.797_884_6;
pub(super) const GELU_CUBIC: f32 = 0.044_715;

#[inline(always)]
pub(super) fn exp_lanes<S: Simd>(s: S, x: S::F) -> S::F {
    // The bound comes first: where x is NaN, the second operand is taken.
    let x = s.min(s.splat(EXP_HIGHEST), s.max(s.splat(EXP_LOWEST), x));
    let n = s.round(s.mul(x, s.splat(LOG2_E)));
    let r = s.fma(n, s.splat(-LN2_HIGH), x);
    let r = s.fma(n, s.splat(-LN2_LOW), r);
    let [c0, c1, c2, c3, c4] = EXP_POLYNOMIAL;
    let p = s.fma(s.splat(c4), r, s.splat(c3));
    let p = s.fma(p, r, s.splat(c2));
    let p = s.fma(p, r, s.splat(c1));
    let p = s.fma(p, r, s.splat(c0));
    let y = s.add(s.splat(1.0), s.fma(p, s.mul(r, r), r));
    s.scale_by_power(y, n)
}

/// One number through `exp_lanes`.
#[inline(always)]
pub(super) fn exp_one<S: Simd>(s: S, x: f32) -> f32 {
    first(s, exp_lanes(s, s.splat(x)))
}

/// `x / (1 + exp(-alpha x))`.
#[inline(always)]
fn gated<S: Simd>(s: S, x: S::F, alpha: f32) -> S::F {
    let e = exp_lanes(s, s.mul(x, s.splat(-alpha)));
    s.div(x, s.add(s.splat(1.0), e))
}

/// Applies `$f` to every sixteen of `$x` and `$y` into `$out`; a macro, because a closure would
/// not be compiled for the instruction set.
macro_rules! zip_lanes {
    ($s:ident, $out:ident, |$($v:ident = $x:ident),+| $f:expr) => {{
        $( assert_eq!($x.len(), $out.len(), "slices agree in length"); )+
        let (rows, tail) = $out.as_chunks_mut::<LANES>();
        for (i, row) in rows.iter_mut().enumerate() {
            $( let $v = $s.load(chunk($x, i)); )+
            let result = $f;
            $s.store(result, row);
        }
        if !tail.is_empty() {
            let at = rows.len() * LANES;
            $( let $v = $s.load(&padded(&$x[at..])); )+
            let mut row = [0.0; LANES];
            let result = $f;
            $s.store(result, &mut row);
            tail.copy_from_slice(&row[..tail.len()]);
        }
    }};
}

/// The same in place.
macro_rules! map_lanes {
    ($s:ident, $x:ident, |$v:ident| $f:expr) => {{
        let (rows, tail) = $x.as_chunks_mut::<LANES>();
        for row in rows {
            let $v = $s.load(row);
            let result = $f;
            $s.store(result, row);
        }
        if !tail.is_empty() {
            let mut row = padded(tail);
            let $v = $s.load(&row);
            let result = $f;
            $s.store(result, &mut row);
            tail.copy_from_slice(&row[..tail.len()]);
        }
    }};
}

#[inline(always)]
fn chunk(x: &[f32], i: usize) -> &Row {
    x[i * LANES..].first_chunk().expect("slices agree in length")
}

#[inline(always)]
pub(super) fn padded<T: Copy + Default>(tail: &[T]) -> [T; LANES] {
    let mut row = [T::default(); LANES];
    row[..tail.len()].copy_from_slice(tail);
    row
}

#[inline(always)]
pub(super) fn exp<S: Simd>(s: S, x: &mut [f32]) {
    map_lanes!(s, x, |v| exp_lanes(s, v));
}

#[inline(always)]
pub(super) fn sigmoid<S: Simd>(s: S, x: &mut [f32]) {
    let one = s.splat(1.0);
    map_lanes!(s, x, |v| {
        let e = exp_lanes(s, s.mul(v, s.splat(-1.0)));
        s.div(one, s.add(one, e))
    });
}

#[inline(always)]
pub(super) fn silu_mul<S: Simd>(s: S, gate: &[f32], up: &[f32], out: &mut [f32]) {
    zip_lanes!(s, out, |g = gate, u = up| s.mul(gated(s, g, 1.0), u));
}

#[inline(always)]
pub(super) fn gelu_mul<S: Simd>(s: S, gate: &[f32], up: &[f32], out: &mut [f32]) {
    // 0.5 g (1 + tanh z) = g / (1 + exp(-2z)), z = sqrt(2/π) (g + 0.044715 g³).
    zip_lanes!(s, out, |g = gate, u = up| {
        let cube = s.mul(s.mul(g, g), g);
        let z = s.fma(cube, s.splat(GELU_CUBIC), g);
        let e = exp_lanes(s, s.mul(z, s.splat(-2.0 * GELU_SCALE)));
        s.mul(s.div(g, s.add(s.splat(1.0), e)), u)
    });
}

#[inline(always)]
pub(super) fn clamped_swiglu_mul<S: Simd>(
    s: S,
    gate: &[f32],
    up: &[f32],
    alpha: f32,
    limit: f32,
    out: &mut [f32],
) {
    zip_lanes!(s, out, |g = gate, u = up| {
        let g = s.min(s.splat(limit), g);
        let u = s.max(s.splat(-limit), s.min(s.splat(limit), u));
        s.mul(s.add(u, s.splat(1.0)), gated(s, g, alpha))
    });
}

#[inline(always)]
pub(super) fn add<S: Simd>(s: S, y: &mut [f32], x: &[f32]) {
    axpy(s, 1.0, x, y);
}

#[inline(always)]
pub(super) fn axpy<S: Simd>(s: S, a: f32, x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len(), "slices agree in length");
    let (rows, tail) = y.as_chunks_mut::<LANES>();
    for (i, row) in rows.iter_mut().enumerate() {
        let sum = s.fma(s.splat(a), s.load(chunk(x, i)), s.load(row));
        s.store(sum, row);
    }
    if !tail.is_empty() {
        let mut row = padded(tail);
        let x = padded(&x[rows.len() * LANES..]);
        let sum = s.fma(s.splat(a), s.load(&x), s.load(&row));
        s.store(sum, &mut row);
        tail.copy_from_slice(&row[..tail.len()]);
    }
}

#[inline(always)]
pub(super) fn scale<S: Simd>(s: S, a: f32, x: &mut [f32]) {
    map_lanes!(s, x, |v| s.mul(v, s.splat(a)));
}

/// `x / a`, element by element.
#[inline(always)]
pub(super) fn divide<S: Simd>(s: S, x: &mut [f32], a: f32) {
    map_lanes!(s, x, |v| s.div(v, s.splat(a)));
}

#[inline(always)]
pub(super) fn rms_norm<S: Simd>(s: S, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let scale = s.splat(rms_scale(s, x, eps));
    zip_lanes!(s, out, |v = x, w = weight| s.mul(s.mul(v, scale), w));
}

#[inline(always)]
pub(super) fn rms_norm_in_place<S: Simd>(s: S, x: &mut [f32], weight: &[f32], eps: f32) {
    assert!(x.len() == weight.len(), "slices agree in length");
    let scale = rms_scale(s, x, eps);
    let (rows, tail) = x.as_chunks_mut::<LANES>();
    let (weights, tail_weights) = weight.as_chunks::<LANES>();
    for (row, weight) in rows.iter_mut().zip(weights) {
        s.store(s.mul(s.mul(s.load(row), s.splat(scale)), s.load(weight)), row);
    }
    for (x, weight) in tail.iter_mut().zip(tail_weights) {
        *x = *x * scale * weight;
    }
}

#[inline(always)]
fn rms_scale<S: Simd>(s: S, x: &[f32], eps: f32) -> f32 {
    let (rows, tail) = x.as_chunks::<LANES>();
    let mut squares = s.splat(0.0);
    for row in rows {
        let v = s.load(row);
        squares = s.fma(v, v, squares);
    }
    if !tail.is_empty() {
        let v = s.load(&padded(tail));
        squares = s.fma(v, v, squares);
    }
    let mean = s.fold_add(squares) / x.len() as f32;
    1.0 / (mean + eps).sqrt()
}

#[inline(always)]
pub(super) fn softmax<S: Simd>(s: S, x: &mut [f32]) {
    let (rows, tail) = x.as_chunks_mut::<LANES>();
    let mut last = [f32::NEG_INFINITY; LANES];
    last[..tail.len()].copy_from_slice(tail);
    let mut max = s.splat(f32::NEG_INFINITY);
    for row in rows.iter() {
        max = s.max(max, s.load(row));
    }
    max = s.max(max, s.load(&last));
    let max = s.splat(s.fold_max(max));

    let mut sum = s.splat(0.0);
    for row in rows.iter_mut() {
        let p = exp_lanes(s, s.sub(s.load(row), max));
        s.store(p, row);
        sum = s.add(sum, p);
    }
    let p = exp_lanes(s, s.sub(s.load(&last), max));
    s.store(p, &mut last);
    // Lanes beyond the end hold exp(-inf) = 0.
    if !tail.is_empty() {
        sum = s.add(sum, p);
    }
    tail.copy_from_slice(&last[..tail.len()]);
    let sum = s.splat(s.fold_add(sum));
    map_lanes!(s, x, |p| s.div(p, sum));
}

/// `rows of x → 8 bits`: plain loops, exact or element by element, which the compiler turns into
/// vectors itself.
#[inline(always)]
pub(super) fn quantise<S: Simd>(
    _: S,
    x: &[f32],
    block: usize,
    codes: &mut [i8],
    sums: &mut [i32],
    scales: &mut [f32],
) {
    let codes = codes.chunks_exact_mut(block);
    let sums = sums.chunks_exact_mut(block / 32);
    for (((x, codes), sums), scale) in x.chunks_exact(block).zip(codes).zip(sums).zip(scales) {
        let inverse;
        (*scale, inverse) = scale_of(x);
        let (runs, _) = x.as_chunks::<32>();
        let (codes, _) = codes.as_chunks_mut::<32>();
        for ((x, codes), pair) in runs.iter().zip(codes).zip(sums) {
            let mut sum = [0i32; 2];
            for half in 0..2 {
                for j in half * 16..half * 16 + 16 {
                    let q = code_of(x[j], inverse);
                    codes[j] = q as i8;
                    sum[half] += q;
                }
            }
            *pair = sum[0] & 0xffff | sum[1] << 16;
        }
    }
}

/// All of `x → 8 bits` with one scale, of any length.
#[inline(always)]
pub(super) fn quantise_whole<S: Simd>(_: S, x: &[f32], codes: &mut [i8], scale: &mut f32) {
    assert_eq!(x.len(), codes.len(), "slices agree in length");
    let inverse;
    (*scale, inverse) = scale_of(x);
    for (code, x) in codes.iter_mut().zip(x) {
        *code = code_of(*x, inverse) as i8;
    }
}

/// The scale of numbers in 8 bits, and what brings them there.
#[inline(always)]
fn scale_of(x: &[f32]) -> (f32, f32) {
    // The bits of |x| are ordered as |x| is, and NaN comes last: it is not lost.
    let mut largest = 0;
    for x in x {
        largest = largest.max(x.to_bits() & 0x7fff_ffff);
    }
    let amax = f32::from_bits(largest);
    (amax / 127.0, if amax == 0.0 { 0.0 } else { 127.0 / amax })
}

#[inline(always)]
fn code_of(x: f32, inverse: f32) -> i32 {
    (x * inverse).round_ties_even().clamp(-127.0, 127.0) as i32
}

#[inline(always)]
pub(super) fn rope_interleaved<S: Simd>(_: S, x: &mut [f32], cos: &[f32], sin: &[f32]) {
    assert!(cos.len() == sin.len() && 2 * cos.len() <= x.len(), "the tables fit the head");
    let (pairs, _) = x.as_chunks_mut::<2>();
    for ((pair, c), s) in pairs.iter_mut().zip(cos).zip(sin) {
        let [x0, x1] = *pair;
        *pair = [x0.mul_add(*c, -(x1 * s)), x0.mul_add(*s, x1 * c)];
    }
}

#[inline(always)]
pub(super) fn rope_halves<S: Simd>(_: S, x: &mut [f32], cos: &[f32], sin: &[f32]) {
    let half = cos.len();
    assert!(half == sin.len() && 2 * half <= x.len(), "the tables fit the head");
    let (low, high) = x.split_at_mut(half);
    for (((x0, x1), c), s) in low.iter_mut().zip(high).zip(cos).zip(sin) {
        let (a, b) = (*x0, *x1);
        *x0 = a.mul_add(*c, -(b * s));
        *x1 = a.mul_add(*s, b * c);
    }
}

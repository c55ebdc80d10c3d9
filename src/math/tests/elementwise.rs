//! Norms, activations, softmax, rotation.

use super::*;
use crate::math::RopeStyle;

const LENGTHS: [usize; 9] = [1, 3, 15, 16, 17, 64, 100, 511, 1024];

/// Runs `$call` with every instruction set and compares its `$out` with the oracle's.
macro_rules! compare {
    ($what:literal, $out:expr, |$k:ident, $o:ident| $call:expr) => {{
        let run = |$k: &Kernels| {
            let mut $o = $out.clone();
            $call;
            $o
        };
        let want = run(&oracle());
        for kernels in vectors() {
            same_bits(&run(&kernels), &want, $what);
        }
        want
    }};
}

#[test]
fn every_instruction_set_equals_the_oracle() {
    let mut rng = Rng(11);
    for n in LENGTHS {
        let (x, y, w) = (rng.wild(n), rng.wild(n), rng.floats(n));
        let wide: Vec<f32> = x.iter().map(|x| x * 40.0).collect();
        compare!("rms_norm", x, |k, o| k.rms_norm(&y, &w, 1e-5, &mut o));
        compare!("softmax", wide, |k, o| k.softmax(&mut o));
        compare!("exp", wide, |k, o| k.exp(&mut o));
        compare!("sigmoid", wide, |k, o| k.sigmoid(&mut o));
        compare!("silu_mul", x, |k, o| k.silu_mul(&wide, &y, &mut o));
        compare!("gelu_mul", x, |k, o| k.gelu_mul(&wide, &y, &mut o));
        compare!("clamped", x, |k, o| k.clamped_swiglu_mul(&wide, &y, 1.702, 7.0, &mut o));
        compare!("add", x, |k, o| k.add(&mut o, &y));
        compare!("axpy", x, |k, o| k.axpy(0.3, &y, &mut o));
        compare!("scale", x, |k, o| k.scale(-0.7, &mut o));
    }
}

#[test]
fn exp_keeps_its_error_bound() {
    // Every 61st float from -104 to 89, and the ends.
    let (mut worst, mut worst_subnormal) = (0.0f64, 0.0f64);
    let mut bits = 0u32;
    let mut batch = Vec::new();
    let kernels = vectors().pop().unwrap_or(oracle());
    while bits < 104f32.to_bits() {
        batch.clear();
        for _ in 0..4096 {
            let x = f32::from_bits(bits);
            batch.extend([x, -x]);
            bits += 61;
        }
        let mut got = batch.clone();
        kernels.exp(&mut got);
        for (x, got) in batch.iter().zip(got) {
            if *x > 88.722_8 || *x < -104.0 {
                continue;
            }
            let want = (*x as f64).exp();
            // The distance between floats around the result; it is the same below 2^-126.
            let ulp = 2f64.powi((want.log2().floor() as i32).max(-126) - 23);
            let error = (got as f64 - want).abs() / ulp;
            if want < f32::MIN_POSITIVE as f64 {
                worst_subnormal = worst_subnormal.max(error);
            } else {
                worst = worst.max(error);
            }
        }
    }
    assert!(worst < 1.05 && worst_subnormal < 0.8, "off by {worst} and {worst_subnormal} ulp");
    // Rounding alone costs half: less would be a mistake of this test.
    assert!(worst > 0.5, "off by {worst} ulp");
}

#[test]
fn exp_reaches_its_ends() {
    for kernels in vectors().into_iter().chain([oracle()]) {
        let nan = f32::NAN;
        let mut x = [f32::NEG_INFINITY, -1e30, -104.5, 0.0, -0.0, 88.73, 1e30, f32::INFINITY, nan];
        kernels.exp(&mut x);
        let want = [0.0, 0.0, 0.0, 1.0, 1.0, f32::INFINITY, f32::INFINITY, f32::INFINITY, f32::NAN];
        same_bits(&x, &want, kernels.isa().name());
    }
}

fn close(got: &[f32], want: impl Iterator<Item = f64>, relative: f64, what: &str) {
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let error = (*got as f64 - want).abs();
        assert!(error <= relative * want.abs() + 1e-36, "{what}, element {i}: {got} for {want}");
    }
}

#[test]
fn functions_are_what_their_names_say() {
    let mut rng = Rng(12);
    let n = 999;
    let gate: Vec<f32> = rng.floats(n).iter().map(|x| x * 12.0).collect();
    let up: Vec<f32> = rng.floats(n).iter().map(|x| x * 12.0).collect();
    let both = || gate.iter().zip(&up).map(|(g, u)| (*g as f64, *u as f64));
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let zero = vec![0.0f32; n];

    let got = compare!("silu", zero, |k, o| k.silu_mul(&gate, &up, &mut o));
    close(&got, both().map(|(g, u)| g * sigmoid(g) * u), 1e-6, "silu");
    let got = compare!("sigmoid", gate, |k, o| k.sigmoid(&mut o));
    close(&got, both().map(|(g, _)| sigmoid(g)), 1e-6, "sigmoid");
    let got = compare!("gelu", zero, |k, o| k.gelu_mul(&gate, &up, &mut o));
    let gelu = |g: f64| {
        let z = (2.0 / std::f64::consts::PI).sqrt() * (g + 0.044715 * g * g * g);
        g * sigmoid(2.0 * z)
    };
    // The argument of exp reaches 140 here: its rounding is what the bound is made of.
    close(&got, both().map(|(g, u)| gelu(g) * u), 4e-5, "gelu");
    let got =
        compare!("clamped", zero, |k, o| k.clamped_swiglu_mul(&gate, &up, 1.702, 7.0, &mut o));
    let clamped = |(g, u): (f64, f64)| {
        let (g, u) = (g.min(7.0), u.clamp(-7.0, 7.0));
        (u + 1.0) * g * sigmoid(1.702f32 as f64 * g)
    };
    close(&got, both().map(clamped), 4e-6, "clamped");

    let got = compare!("rms_norm", zero, |k, o| k.rms_norm(&gate, &up, 1e-6, &mut o));
    let mean = gate.iter().map(|g| *g as f64 * *g as f64).sum::<f64>() / n as f64;
    let scale = 1.0 / (mean + 1e-6).sqrt();
    close(&got, both().map(|(g, u)| g * scale * u), 1e-6, "rms_norm");
    let got = compare!("softmax", gate, |k, o| k.softmax(&mut o));
    let total: f64 = gate.iter().map(|g| (*g as f64).exp()).sum();
    close(&got, both().map(|(g, _)| g.exp() / total), 2e-6, "softmax");
}

#[test]
fn softmax_of_one_and_of_equals() {
    for kernels in vectors().into_iter().chain([oracle()]) {
        let mut x = [-3.5];
        kernels.softmax(&mut x);
        assert_eq!(x, [1.0]);
        let mut x = [1e30; 8];
        x[3] = f32::NEG_INFINITY;
        kernels.softmax(&mut x);
        assert_eq!(x[3], 0.0);
        assert_eq!(x[0], 1.0 / 7.0);
    }
}

#[test]
fn rope_turns_pairs() {
    let mut rng = Rng(13);
    for (dims, pairs) in [(8, 4), (64, 32), (128, 64), (80, 16), (6, 3), (576, 32)] {
        let x = rng.floats(dims);
        let angles: Vec<f64> = (0..pairs).map(|_| rng.unit() as f64 * 3.0).collect();
        let cos: Vec<f32> = angles.iter().map(|a| a.cos() as f32).collect();
        let sin: Vec<f32> = angles.iter().map(|a| a.sin() as f32).collect();
        for style in [RopeStyle::Interleaved, RopeStyle::Halves] {
            let got = compare!("rope", x, |k, o| k.rope(&mut o, &cos, &sin, style));
            for (i, angle) in angles.iter().enumerate() {
                let (a, b) = match style {
                    RopeStyle::Interleaved => (2 * i, 2 * i + 1),
                    RopeStyle::Halves => (i, pairs + i),
                };
                let (xa, xb) = (x[a] as f64, x[b] as f64);
                let want =
                    [xa * angle.cos() - xb * angle.sin(), xa * angle.sin() + xb * angle.cos()];
                assert!((got[a] as f64 - want[0]).abs() < 3e-7);
                assert!((got[b] as f64 - want[1]).abs() < 3e-7);
            }
            same_bits(&got[2 * pairs..], &x[2 * pairs..], "dimensions that are not turned");
        }
    }
}

//! The feed-forward half of a layer: one dense block, or routed experts.
//!
//! Experts run in ascending id, each once for all tokens that go to it, and each adds its
//! weighted answer to the tokens' sums: the order of additions for a token does not depend on who
//! shares the batch with it.

use super::compute::Compute;
use super::config::{Activation, Config};
use super::parts::{Experts, Ffn, Mlp};
use super::router::{self, Route};
use crate::math::{Activations, Kernels};

/// Buffers that are kept from layer to layer and step to step.
#[derive(Default)]
pub struct Scratch {
    gate: Vec<f32>,
    up: Vec<f32>,
    inner: Activations,
    answer: Vec<f32>,
    logits: Vec<f32>,
    router: router::Scratch,
    chosen: Vec<Route>,
    /// `(expert, token, weight)` of the whole batch, by expert and token.
    routes: Vec<(u32, u32, f32)>,
    tokens: Vec<u32>,
}

/// `x` (normed, `[rows][hidden]`) through the block; `out` becomes `[rows][hidden]`.
pub fn ffn(
    compute: &mut Compute,
    config: &Config,
    scratch: &mut Scratch,
    ffn: &Ffn,
    x: &mut Activations,
    out: &mut Vec<f32>,
) {
    match ffn {
        Ffn::Dense(mlp) => {
            inner(compute, config.activation, scratch, mlp, x, None);
            compute.linear(&mlp.down, &mut scratch.inner, out);
        }
        Ffn::Experts(parts) => experts(compute, config, scratch, parts, x, out),
    }
}

/// The gated middle of a block into `scratch.inner`, for all tokens or the listed ones.
fn inner(
    compute: &mut Compute,
    activation: Activation,
    scratch: &mut Scratch,
    mlp: &Mlp,
    x: &mut Activations,
    tokens: Option<&[u32]>,
) {
    let Scratch { gate, up, inner, .. } = scratch;
    match tokens {
        None => {
            compute.linear(&mlp.gate, x, gate);
            compute.linear(&mlp.up, x, up);
        }
        Some(tokens) => {
            compute.linear_rows(&mlp.gate, x, tokens, gate);
            compute.linear_rows(&mlp.up, x, tokens, up);
        }
    }
    let width = mlp.gate.weight.rows();
    let out = inner.reset(gate.len() / width, width);
    activate(&compute.kernels, activation, gate, up, out);
}

fn activate(kernels: &Kernels, kind: Activation, gate: &[f32], up: &[f32], out: &mut [f32]) {
    match kind {
        Activation::Silu => kernels.silu_mul(gate, up, out),
        Activation::ClampedSwiglu { alpha, limit } => {
            kernels.clamped_swiglu_mul(gate, up, alpha, limit, out);
        }
    }
}

fn experts(
    compute: &mut Compute,
    config: &Config,
    scratch: &mut Scratch,
    parts: &Experts,
    x: &mut Activations,
    out: &mut Vec<f32>,
) {
    let Some(shape) = &config.experts else { unreachable!("experts come with their shape") };
    let (rows, hidden) = (x.tokens(), x.cols());
    route(compute, shape, scratch, parts, x);

    out.clear();
    out.resize(rows * hidden, 0.0);
    let kernels = compute.kernels;
    let routes = std::mem::take(&mut scratch.routes);
    let mut tokens = std::mem::take(&mut scratch.tokens);
    let by_expert = || routes.chunk_by(|a, b| a.0 == b.0);
    for of_expert in by_expert() {
        parts.experts[of_expert[0].0 as usize].stage();
    }
    for of_expert in by_expert() {
        let mlp = &parts.experts[of_expert[0].0 as usize];
        tokens.clear();
        tokens.extend(of_expert.iter().map(|(_, token, _)| *token));
        inner(compute, config.activation, scratch, mlp, x, Some(&tokens));
        compute.linear(&mlp.down, &mut scratch.inner, &mut scratch.answer);
        for ((_, token, weight), answer) in
            of_expert.iter().zip(scratch.answer.chunks_exact(hidden))
        {
            let at = *token as usize * hidden;
            kernels.axpy(*weight, answer, &mut out[at..at + hidden]);
        }
    }
    (scratch.routes, scratch.tokens) = (routes, tokens);

    if let Some(shared) = &parts.shared {
        inner(compute, config.activation, scratch, &shared.mlp, x, None);
        compute.linear(&shared.mlp.down, &mut scratch.inner, &mut scratch.answer);
        let gates = match &shared.gate {
            Some(gate) => {
                compute.matrix(gate, x, &mut scratch.logits);
                kernels.sigmoid(&mut scratch.logits);
                Some(&scratch.logits)
            }
            None => None,
        };
        for (i, answer) in scratch.answer.chunks_exact(hidden).enumerate() {
            let weight = gates.map_or(1.0, |gates| gates[i]);
            kernels.axpy(weight, answer, &mut out[i * hidden..(i + 1) * hidden]);
        }
    }
}

/// Fills `scratch.routes`.
fn route(
    compute: &mut Compute,
    shape: &super::config::Experts,
    scratch: &mut Scratch,
    parts: &Experts,
    x: &mut Activations,
) {
    let Scratch { logits, router, chosen, routes, .. } = scratch;
    compute.linear(&parts.router, x, logits);
    routes.clear();
    for (token, logits) in logits.chunks_exact_mut(shape.count).enumerate() {
        let correction = parts.correction.as_deref();
        let kernels = &compute.kernels;
        router::choose(kernels, &shape.router, correction, shape.used, logits, router, chosen);
        routes.extend(chosen.iter().map(|r| (r.expert, token as u32, r.weight)));
    }
    // Stable, so that the tokens of an expert stay in batch order.
    routes.sort_by_key(|(expert, ..)| *expert);
}

//! Which experts the next layer will probably need: its router is asked early, with what this
//! layer has so far. Costs a product of a thousandth of a layer's size, while the step has nothing
//! else to do.

use super::super::compute::{Compute, Product, Stage, To};
use super::super::config::Config;
use super::super::parts::{Ffn, Layer};
use super::super::router::{self, Route};
use super::Groups;
use crate::math::Activations;
use crate::weights::stage::Staging;

/// Buffers that are kept.
#[derive(Default)]
pub struct Scratch {
    x: Activations,
    logits: Vec<f32>,
    routes: Vec<Route>,
    router: router::Scratch,
    /// By expert: the sum of its weights over the rows.
    score: Vec<f32>,
    ranked: Vec<u32>,
}

/// Rows beyond which nothing is forecast by the router: together they need most experts anyway.
const ROWS: usize = 16;
/// A layer to come, and how much of it to send for.
#[derive(Clone, Copy)]
pub struct Next<'a> {
    pub index: usize,
    pub layer: &'a Layer,
    /// Experts for each that a token uses.
    pub ahead: f32,
}

/// Sends for what the next layer will need. `hidden` is the residual stream `[rows][hidden]`.
pub fn forecast(
    compute: &mut Compute,
    staging: &mut Staging,
    config: &Config,
    scratch: &mut Scratch,
    groups: &Groups,
    next: Next,
    hidden: &[f32],
) {
    let Next { index, layer, ahead } = next;
    let (Ffn::Experts(parts), Some(shape)) = (&layer.ffn, &config.experts) else { return };
    let rows = hidden.len() / config.hidden;
    let Scratch { x, logits, routes, router, score, ranked } = scratch;
    ranked.clear();
    if groups.sweeps() {
        ranked.extend(0..shape.count as u32);
        return staging.forecast(compute.drive(), index, ranked, 2 * staging.window());
    }
    let most = (ahead * shape.used as f32).ceil() as usize;
    if rows > ROWS || most == 0 {
        return;
    }
    x.reset(rows, config.hidden, parts.router.forms());
    let kernels = compute.kernels;
    let whole = x.split(rows);
    let mut part = whole.take(0);
    for row in 0..rows {
        let from = &hidden[row * config.hidden..][..config.hidden];
        kernels.rms_norm(from, &layer.ffn_norm, config.norm_eps, part.row_mut(row));
    }
    part.finish(&kernels);
    compute.products(Stage::Forecast, [Product::new(&parts.router, x, To::Buffer(logits))]);
    score.clear();
    score.resize(shape.count, 0.0);
    routes.resize(shape.used.max(most).min(shape.count), Route::default());
    for logits in logits.chunks_exact_mut(shape.count) {
        let correction = parts.correction.as_deref();
        router::choose(&kernels, &shape.router, correction, logits, router, routes);
        routes.iter().for_each(|route| score[route.expert as usize] += route.weight);
    }
    ranked.extend((0..shape.count as u32).filter(|&expert| score[expert as usize] > 0.0));
    ranked.sort_unstable_by(|&a, &b| {
        let by_score = score[b as usize].total_cmp(&score[a as usize]);
        by_score.then(a.cmp(&b))
    });
    ranked.truncate(most * rows);
    staging.forecast(compute.drive(), index, ranked, most * rows);
}

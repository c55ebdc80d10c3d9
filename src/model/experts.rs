//! The feed-forward half of a layer: one dense block, or routed experts.
//!
//! Every expert is computed once for all tokens that go to it. A chunk of the last stage owns some
//! columns of the result and goes through the experts in ascending id, so the order of additions
//! for a token depends neither on who shares the batch with it nor on who computes what.

use super::compute::{Compute, Product, Stage, To, product};
use super::config::{self, Activation, Config};
use super::parts::{Experts, Ffn, Linear, Mlp};
use super::router::{self, Route};
use crate::base::limits::PANEL_ROWS;
use crate::math::{Activations, Columns, Forms, Kernels, MAX_PARTS, Shares};

/// Buffers that are kept from layer to layer and step to step.
#[derive(Default)]
pub struct Scratch {
    gate: Vec<f32>,
    up: Vec<f32>,
    inner: Activations,
    /// The same for the shared experts.
    shared_gate: Vec<f32>,
    shared_up: Vec<f32>,
    shared_inner: Activations,
    shared_weight: Vec<f32>,
    logits: Vec<f32>,
    router: Vec<router::Scratch>,
    groups: Groups,
}

/// The batch's routes by expert: who computes what for whom.
#[derive(Default)]
struct Groups {
    /// `[rows][used]` as chosen, by ascending expert.
    routes: Vec<Route>,
    /// The experts that are used, ascending, and where their runs of the lists below begin; one
    /// more start than experts.
    experts: Vec<u32>,
    starts: Vec<u32>,
    /// By expert, then by row: the row, and the weight of the answer in its sum.
    rows: Vec<u32>,
    weights: Vec<f32>,
    /// `0, 1, 2, ..`: an expert's tokens among the inner activations, which are in this order.
    places: Vec<u32>,
    /// Routes of each expert, then where its next one goes.
    next: Vec<u32>,
}

impl Groups {
    /// Sorts the routes of `used` experts per row by expert; stable, so that an expert's rows stay
    /// in batch order.
    fn sort(&mut self, count: usize, used: usize) {
        let Groups { routes, experts, starts, rows, weights, places, next } = self;
        next.clear();
        next.resize(count, 0);
        routes.iter().for_each(|route| next[route.expert as usize] += 1);
        experts.clear();
        starts.clear();
        let mut start = 0;
        for (expert, next) in next.iter_mut().enumerate() {
            if *next > 0 {
                experts.push(expert as u32);
                starts.push(start);
            }
            (*next, start) = (start, start + *next);
        }
        starts.push(start);
        rows.resize(routes.len(), 0);
        weights.resize(routes.len(), 0.0);
        for (i, route) in routes.iter().enumerate() {
            let at = &mut next[route.expert as usize];
            rows[*at as usize] = (i / used) as u32;
            weights[*at as usize] = route.weight;
            *at += 1;
        }
        if places.len() < routes.len() {
            places.extend(places.len() as u32..routes.len() as u32);
        }
    }

    /// Where the run of the `i`th used expert lies.
    fn run(&self, i: usize) -> std::ops::Range<usize> {
        self.starts[i] as usize..self.starts[i + 1] as usize
    }
}

/// What the block wants its `x` in.
pub fn forms(ffn: &Ffn) -> Forms {
    let of = |mlp: &Mlp| mlp.gate.forms() | mlp.up.forms();
    match ffn {
        Ffn::Dense(mlp) => of(mlp),
        Ffn::Experts(parts) => {
            let shared = parts.shared.as_ref().map_or(Forms::NONE, |shared| {
                of(&shared.mlp) | shared.gate.as_ref().map_or(Forms::NONE, Linear::forms)
            });
            let routed = parts.experts.iter().fold(Forms::NONE, |forms, mlp| forms | of(mlp));
            parts.router.forms() | routed | shared
        }
    }
}

/// Adds to the residual stream `hidden` what the block makes of `x` (normed and ready, both
/// `[rows][hidden]`).
pub fn ffn(
    compute: &mut Compute,
    config: &Config,
    scratch: &mut Scratch,
    ffn: &Ffn,
    x: &Activations,
    hidden: &mut [f32],
) {
    match ffn {
        Ffn::Dense(mlp) => {
            let Scratch { gate, up, inner, .. } = scratch;
            middle(compute, config.activation, mlp, x, gate, up, inner);
            compute.products(Stage::Down, [Product::new(&mlp.down, inner, To::Sum(hidden))]);
        }
        Ffn::Experts(parts) => experts(compute, config, scratch, parts, x, hidden),
    }
}

/// The gated middle of a block for all rows: `act(gate(x)) · up(x)`.
fn middle(
    compute: &mut Compute,
    activation: Activation,
    mlp: &Mlp,
    x: &Activations,
    gate: &mut Vec<f32>,
    up: &mut Vec<f32>,
    inner: &mut Activations,
) {
    let products =
        [Product::new(&mlp.gate, x, To::Buffer(gate)), Product::new(&mlp.up, x, To::Buffer(up))];
    compute.products(Stage::GateUp, products);
    inner.reset(x.tokens(), mlp.gate.weight.rows(), mlp.down.forms());
    activated(compute, activation, gate, up, inner);
}

/// `inner = act(gate) · up`, row by row.
fn activated(
    compute: &mut Compute,
    activation: Activation,
    gate: &[f32],
    up: &[f32],
    inner: &mut Activations,
) {
    let (rows, width) = (inner.tokens(), inner.cols());
    let (kernels, cut) = (compute.kernels, compute.cut(rows));
    let parts = inner.split(cut.run);
    compute.each(Stage::Activate, cut.count(), |_, i| {
        let mut part = parts.take(i);
        for (j, row) in cut.range(i).enumerate() {
            let at = row * width..(row + 1) * width;
            activate(&kernels, activation, &gate[at.clone()], &up[at], part.row_mut(j));
        }
        part.finish(&kernels);
    });
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
    x: &Activations,
    hidden: &mut [f32],
) {
    let Some(shape) = &config.experts else { unreachable!("experts come with their shape") };
    route(compute, shape, scratch, parts, x);
    let Scratch { gate, up, inner, groups, .. } = scratch;
    let groups = &*groups;
    let used = || groups.experts.iter().map(|&expert| &parts.experts[expert as usize]);
    compute.settle(used().flat_map(Mlp::weights));
    for (i, mlp) in used().enumerate() {
        let tokens = groups.run(i).len();
        mlp.weights().into_iter().for_each(|weight| compute.count(weight, tokens));
    }
    gate_up(compute, parts, groups, x, gate, up);

    let first = &parts.experts[0];
    let forms = parts.experts.iter().fold(Forms::NONE, |forms, mlp| forms | mlp.down.forms());
    inner.reset(groups.rows.len(), first.gate.weight.rows(), forms);
    activated(compute, config.activation, gate, up, inner);

    if let Some(shared) = &parts.shared {
        let Scratch { shared_gate, shared_up, shared_inner, shared_weight, .. } = scratch;
        let mlp = &shared.mlp;
        middle(compute, config.activation, mlp, x, shared_gate, shared_up, shared_inner);
        if let Some(gate) = &shared.gate {
            let product = Product::new(gate, x, To::Buffer(shared_weight));
            compute.products(Stage::Router, [product]);
            compute.kernels.sigmoid(shared_weight);
        }
        compute.settle([&mlp.down.weight]);
        compute.count(&mlp.down.weight, x.tokens());
    }
    combine(compute, scratch, parts, hidden);
}

/// The chosen experts' gates and ups, `[routes][width]` each, in the order of `groups`.
fn gate_up(
    compute: &mut Compute,
    parts: &Experts,
    groups: &Groups,
    x: &Activations,
    gate: &mut Vec<f32>,
    up: &mut Vec<f32>,
) {
    let weight = &parts.experts[0].gate.weight;
    let (width, panels, routes) = (weight.rows(), weight.panel_count(), groups.rows.len());
    gate.resize(routes * width, 0.0);
    up.resize(routes * width, 0.0);
    let used = groups.experts.len();
    let each = compute.worth(2 * weight.bytes() as usize * used, routes / used.max(1));
    let most = (MAX_PARTS / used.max(1)).max(1);
    let run = compute.run_of(panels, each.div_ceil(used.max(1)).min(most), routes / used.max(1));
    let gates = Shares::runs(gate, width, &groups.starts, run * PANEL_ROWS);
    let ups = Shares::runs(up, width, &groups.starts, run * PANEL_ROWS);
    let (kernels, across) = (compute.kernels, panels.div_ceil(run));
    compute.each(Stage::GateUp, used * across, |hand, i| {
        let (expert, part) = (i / across, i % across);
        let mlp = &parts.experts[groups.experts[expert] as usize];
        let (panels, tokens) = (part * run..panels.min((part + 1) * run), groups.run(expert));
        let tokens = Some(&groups.rows[tokens]);
        product(&kernels, hand, &mlp.gate, panels.clone(), x, tokens, &mut gates.take(i));
        product(&kernels, hand, &mlp.up, panels, x, tokens, &mut ups.take(i));
    });
}

/// The experts' answers, weighted and summed by ascending id, then the shared experts', are added
/// to the residual stream.
fn combine(compute: &mut Compute, scratch: &mut Scratch, parts: &Experts, hidden: &mut [f32]) {
    let Scratch { inner, shared_inner, shared_weight, groups, .. } = scratch;
    let (inner, shared_inner, shared_weight, groups) =
        (&*inner, &*shared_inner, &*shared_weight, &*groups);
    let weight = &parts.experts[0].down.weight;
    let (cols, panels, used) = (weight.rows(), weight.panel_count(), groups.experts.len());
    let (rows, routes) = (hidden.len() / cols, groups.rows.len());
    let chunks = compute.worth(weight.bytes() as usize * used, routes / used.max(1));
    let run = compute.run_of(panels, chunks, routes / used.max(1));
    let sums = Shares::by_columns(hidden, cols, run * PANEL_ROWS);
    let kernels = compute.kernels;
    compute.each(Stage::Down, sums.parts(), |hand, i| {
        let mut sum = sums.take(i);
        let (panels, width) = (i * run..panels.min((i + 1) * run), sum.cols());
        let mut floats = std::mem::take(&mut hand.floats);
        // The sums of these columns, and behind them one expert's answers.
        floats.clear();
        floats.resize(2 * rows * width, 0.0);
        let (all, answers) = floats.split_at_mut(rows * width);
        for (i, &expert) in groups.experts.iter().enumerate() {
            let (of_expert, down) = (groups.run(i), &parts.experts[expert as usize].down);
            let answers = &mut answers[..of_expert.len() * width];
            let tokens = Some(&groups.places[of_expert.clone()]);
            let mut to = Columns::whole(answers, width);
            product(&kernels, hand, down, panels.clone(), inner, tokens, &mut to);
            for (route, answer) in of_expert.zip(answers.chunks_exact(width)) {
                let at = groups.rows[route] as usize * width;
                kernels.axpy(groups.weights[route], answer, &mut all[at..at + width]);
            }
        }
        if let Some(shared) = &parts.shared {
            let mut to = Columns::whole(answers, width);
            product(&kernels, hand, &shared.mlp.down, panels, shared_inner, None, &mut to);
            for (row, answer) in answers.chunks_exact(width).enumerate() {
                let weight = if shared.gate.is_some() { shared_weight[row] } else { 1.0 };
                kernels.axpy(weight, answer, &mut all[row * width..(row + 1) * width]);
            }
        }
        for (row, all) in all.chunks_exact(width).enumerate() {
            kernels.add(sum.row(row), all);
        }
        hand.floats = floats;
    });
}

/// Fills `scratch.groups`.
fn route(
    compute: &mut Compute,
    shape: &config::Experts,
    scratch: &mut Scratch,
    parts: &Experts,
    x: &Activations,
) {
    let Scratch { logits, router, groups, .. } = scratch;
    compute.products(Stage::Router, [Product::new(&parts.router, x, To::Buffer(logits))]);
    let rows = x.tokens();
    let (kernels, cut) = (compute.kernels, compute.cut(rows));
    let correction = parts.correction.as_deref();
    groups.routes.resize(rows * shape.used, Route::default());
    router.resize_with(cut.count().max(router.len()), Default::default);
    {
        let logits = Shares::by_rows(logits, shape.count, cut.run);
        let routes = Shares::by_rows(&mut groups.routes, shape.used, cut.run);
        let buffers = Shares::by_rows(router, 1, 1);
        compute.each(Stage::Choose, cut.count(), |_, i| {
            let (mut logits, mut routes) = (logits.take(i), routes.take(i));
            let mut buffers = buffers.take(i);
            let scratch = &mut buffers.row(0)[0];
            for row in 0..logits.rows() {
                let (logits, routes) = (logits.row(row), routes.row(row));
                router::choose(&kernels, &shape.router, correction, logits, scratch, routes);
            }
        });
    }
    groups.sort(shape.count, shape.used);
}

//! The feed-forward half of a layer: one dense block, or routed experts.
//!
//! Every expert is computed once for all tokens that go to it. The experts of a layer are gone
//! through in *windows*, runs of them by ascending id that bound what has to be in memory at once.
//! Inside a window they are computed in *waves*: what is in memory first, the others as they come
//! from disk. A window's answers are summed when it is complete, by ascending id, so the order of
//! additions for a token depends neither on who shares the batch with it, nor on who computes what,
//! nor on what arrived when.
//!
//! ```text
//! begin      router, choice, shared experts
//! advance    until it says Done; between two calls that say Waits the caller may breathe
//! ```

mod forecast;
mod groups;
mod wave;

use std::ops::Range;

use super::compute::{Compute, Product, Stage, To};
use super::config::{self, Activation, Config};
use super::parts::{Experts, Ffn, Linear, Mlp};
use super::router::{self, Route};
use crate::math::{Activations, Forms, Kernels, MAX_PARTS, Shares};
use crate::weights::stage::Staging;

pub use forecast::Next;
use forecast::forecast;
use groups::Groups;
use wave::{Wave, combine, compute_wave};

/// Buffers that are kept from layer to layer and step to step, and how far a layer has come.
#[derive(Default)]
pub struct Scratch {
    gate: Vec<f32>,
    up: Vec<f32>,
    inner: Activations,
    /// `[routes of the window][hidden]`
    answers: Vec<f32>,
    /// `[rows][hidden]`: the answers of the windows so far.
    sums: Vec<f32>,
    /// Gate, up and inner of the shared experts, and the weight of their answer.
    shared_gate: Vec<f32>,
    shared_up: Vec<f32>,
    shared_inner: Activations,
    shared_weight: Vec<f32>,
    logits: Vec<f32>,
    router: Vec<router::Scratch>,
    groups: Groups,
    window: Window,
    /// Where the runs of the window's routes begin in its answers.
    within: Vec<u32>,
    wave: Wave,
    spoiled: Vec<Spoiled>,
    forecast: forecast::Scratch,
}

/// A row that went to an expert whose weights cannot be had.
#[derive(Clone, Copy, Debug)]
pub struct Spoiled {
    pub row: u32,
    pub layer: u32,
    pub expert: u32,
}

impl Scratch {
    /// A step begins.
    pub fn begin_step(&mut self) {
        self.spoiled.clear();
    }

    /// The experts that the block's rows go to, row after row.
    pub fn routed(&self) -> impl ExactSizeIterator<Item = u32> {
        self.groups.routes.iter().map(|route| route.expert)
    }

    /// Rows of the step so far that came to nothing.
    pub fn spoiled(&self) -> &[Spoiled] {
        &self.spoiled
    }
}

/// Where a layer's experts are gone through; places among the used ones.
#[derive(Default)]
struct Window {
    now: Range<usize>,
    /// The next one, if the stage was asked for it already.
    next: Range<usize>,
    /// Those of `now` that are not computed.
    left: Vec<u32>,
    /// The next layer was looked at.
    forecast: bool,
}

/// Whether a block is computed, or waits for weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    Waits,
    Done,
}

/// The block of one layer.
pub struct Block<'a> {
    pub config: &'a Config,
    pub ffn: &'a Ffn,
    pub layer: usize,
    /// Where experts stream: the layer whose experts may be sent for early.
    pub next: Option<Next<'a>>,
}

/// Bytes that the widest buffer of a window may take, unless one expert's rows need more.
pub const WINDOW_BYTES: usize = 16 << 20;

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

/// Begins the block: a dense one is computed, of others the routing. `x` is normed and ready, `hidden`
/// the residual stream, both `[rows][hidden]`.
pub fn begin(
    compute: &mut Compute,
    block: &Block,
    scratch: &mut Scratch,
    x: &Activations,
    hidden: &mut [f32],
) {
    let Block { config, ffn, .. } = *block;
    scratch.window = Window { left: std::mem::take(&mut scratch.window.left), ..Window::default() };
    match ffn {
        Ffn::Dense(mlp) => {
            let Scratch { gate, up, inner, .. } = scratch;
            middle(compute, config.activation, mlp, x, gate, up, inner);
            compute.products(Stage::Down, [Product::new(&mlp.down, inner, To::Sum(hidden))]);
        }
        Ffn::Experts(parts) => experts(compute, config, scratch, parts, x),
    }
}

/// Computes what can be computed now; when all is, what the block makes of `x` has been added to
/// `hidden`.
pub fn advance(
    compute: &mut Compute,
    mut staging: Option<&mut Staging>,
    block: &Block,
    scratch: &mut Scratch,
    x: &Activations,
    hidden: &mut [f32],
) -> Progress {
    let Ffn::Experts(parts) = block.ffn else { return Progress::Done };
    loop {
        if scratch.window.now.is_empty() {
            if !scratch.open(compute, staging.as_deref_mut(), block) {
                scratch.forecast(compute, staging, block, hidden);
                return Progress::Done;
            }
            if scratch.window.now.start == 0 {
                shared(compute, block.config, scratch, parts, x);
            }
            if staging.is_none() {
                let used = &scratch.groups.experts[scratch.window.now.clone()];
                let experts = used.iter().map(|&expert| &parts.experts[expert as usize]);
                compute.settle(experts.flat_map(Mlp::weights));
            }
        }
        scratch.look_ahead(compute, staging.as_deref_mut(), block);
        if scratch.groups.sweeps() && scratch.all_asked() {
            scratch.forecast(compute, staging.as_deref_mut(), block, hidden);
        }
        scratch.gather(compute, staging.as_deref_mut(), block);
        if !scratch.wave.is_empty() {
            if let Some(staging) = &mut staging {
                staging.go_on(compute.drive());
                compute.goes_on();
            }
            let slots = staging.as_deref().map(Staging::slots);
            compute_wave(compute, slots, block, parts, scratch, x);
        }
        match &mut staging {
            Some(staging) if !scratch.window.left.is_empty() => {
                if scratch.wave.is_empty() {
                    let Scratch { window, groups, .. } = scratch;
                    let left = window.left.iter().map(|&i| groups.experts[i as usize]);
                    staging.wait(compute.drive(), block.layer, left);
                    scratch.forecast(compute, Some(staging), block, hidden);
                    compute.waits();
                    return Progress::Waits;
                }
                continue;
            }
            _ => {}
        }
        combine(compute, parts, scratch, hidden);
        let done = scratch.window.now.clone();
        if let Some(staging) = &mut staging {
            staging.go_on(compute.drive());
            compute.goes_on();
            staging.close(block.layer, &scratch.groups.experts[done.clone()]);
        }
        scratch.window.now = done.end..done.end;
    }
}

impl Scratch {
    /// Begins with the next window. `false`: that was the last.
    fn open(
        &mut self,
        compute: &mut Compute,
        staging: Option<&mut Staging>,
        block: &Block,
    ) -> bool {
        let Scratch { window, groups, answers, .. } = self;
        let from = window.now.end;
        if from == groups.experts.len() {
            return false;
        }
        window.now = match (std::mem::take(&mut window.next), staging) {
            (next, _) if !next.is_empty() => next,
            (_, None) => cut(groups, block.config, from, usize::MAX),
            (_, Some(staging)) => {
                let drive = compute.drive();
                if from == 0 {
                    staging.enter(drive, block.layer, &groups.experts);
                }
                let room = staging.fitting(block.layer, &groups.experts[from..]);
                let now = cut(groups, block.config, from, room);
                staging.open(drive, block.layer, &groups.experts[now.clone()]);
                now
            }
        };
        window.left.clear();
        window.left.extend(window.now.clone().map(|i| i as u32));
        answers.resize(groups.runs(&window.now).len() * block.config.hidden, 0.0);
        true
    }

    /// Asks for the next window's weights while this one is computed, if there is room for both.
    fn look_ahead(&mut self, compute: &mut Compute, staging: Option<&mut Staging>, block: &Block) {
        let Some(staging) = staging else { return };
        let Window { now, next, .. } = &mut self.window;
        if next.start < next.end || now.end == self.groups.experts.len() {
            return;
        }
        let room = staging.fitting(block.layer, &self.groups.experts[now.end..]);
        if room > 0 {
            let ahead = cut(&self.groups, block.config, now.end, room);
            staging.open(compute.drive(), block.layer, &self.groups.experts[ahead.clone()]);
            *next = ahead;
        }
    }

    /// Whether every expert of the layer was asked for.
    fn all_asked(&self) -> bool {
        self.window.now.end.max(self.window.next.end) == self.groups.experts.len()
    }

    /// Looks at the next layer, once.
    fn forecast(
        &mut self,
        compute: &mut Compute,
        staging: Option<&mut Staging>,
        block: &Block,
        hidden: &[f32],
    ) {
        let (Some(staging), Some(next)) = (staging, block.next) else { return };
        if !std::mem::replace(&mut self.window.forecast, true) {
            let Scratch { groups, forecast: scratch, .. } = self;
            forecast(compute, staging, block.config, scratch, groups, next, hidden);
        }
    }

    /// The wave of those whose weights are there. The rows of those that will never come are
    /// spoiled, and their answers 0.
    fn gather(&mut self, compute: &mut Compute, staging: Option<&mut Staging>, block: &Block) {
        let Scratch { groups, window, wave, answers, spoiled, .. } = self;
        wave.clear();
        let Some(staging) = staging else {
            window.left.drain(..).for_each(|i| wave.push(groups, i));
            return;
        };
        let (layer, hidden) = (block.layer, block.config.hidden);
        let first = groups.starts[window.now.start] as usize;
        staging.take_in(compute.drive());
        window.left.retain(|&i| {
            let expert = groups.experts[i as usize];
            if staging.slots().slab(layer, expert).is_some() {
                wave.push(groups, i);
                return false;
            }
            if staging.loss(layer, expert).is_none() {
                return true;
            }
            let run = groups.run(i as usize);
            answers[(run.start - first) * hidden..(run.end - first) * hidden].fill(0.0);
            let spoil = |&row: &u32| Spoiled { row, layer: layer as u32, expert };
            spoiled.extend(groups.rows[run].iter().map(spoil));
            false
        });
    }
}

/// The window that begins with the used expert `from`: as many as the buffers hold the routes of,
/// and as there is `room` for, at least one.
fn cut(groups: &Groups, config: &Config, from: usize, room: usize) -> Range<usize> {
    let width = config.experts.as_ref().map_or(0, |shape| shape.width).max(config.hidden);
    let most = (WINDOW_BYTES / (width * size_of::<f32>())).max(1);
    let room = room.clamp(1, MAX_PARTS / 2);
    let last = groups.experts.len().min(from.saturating_add(room));
    let first = groups.starts[from] as usize;
    let fits = |to: &usize| groups.starts[*to] as usize - first <= most;
    let to = (from + 1..=last).take_while(fits).last().unwrap_or(from + 1);
    from..to
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

/// Routes, and counts what the chosen experts will read and compute.
fn experts(
    compute: &mut Compute,
    config: &Config,
    scratch: &mut Scratch,
    parts: &Experts,
    x: &Activations,
) {
    let Some(shape) = &config.experts else { unreachable!("experts come with their shape") };
    route(compute, shape, scratch, parts, x);
    for (i, &expert) in scratch.groups.experts.iter().enumerate() {
        let tokens = scratch.groups.run(i).len();
        let weights = parts.experts[expert as usize].weights();
        weights.into_iter().for_each(|weight| compute.count(weight, tokens));
    }
}

/// What the shared experts make of all rows, but for their last product.
fn shared(
    compute: &mut Compute,
    config: &Config,
    scratch: &mut Scratch,
    parts: &Experts,
    x: &Activations,
) {
    let Some(shared) = &parts.shared else { return };
    let Scratch { shared_gate, shared_up, shared_inner, shared_weight, .. } = scratch;
    let mlp = &shared.mlp;
    middle(compute, config.activation, mlp, x, shared_gate, shared_up, shared_inner);
    if let Some(gate) = &shared.gate {
        compute.products(Stage::Router, [Product::new(gate, x, To::Buffer(shared_weight))]);
        compute.kernels.sigmoid(shared_weight);
    }
    compute.settle([&mlp.down.weight]);
    compute.count(&mlp.down.weight, x.tokens());
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

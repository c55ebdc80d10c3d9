//! A wave: some experts of a window, computed together; and the sum that ends a window.

use super::super::compute::{Compute, Stage, Weights, product};
use super::super::parts::Experts;
use super::groups::Groups;
use super::{Block, Scratch, activated};
use crate::base::limits::PANEL_ROWS;
use crate::math::{Activations, Columns, MAX_PARTS, Shares};
use crate::weights::stage::{Part, Slots};

/// The experts of a wave by their places among the used ones, and their routes, run by run.
#[derive(Default)]
pub struct Wave {
    members: Vec<u32>,
    starts: Vec<u32>,
    /// The rows of the batch behind the routes.
    rows: Vec<u32>,
    /// `0, 1, 2, ..`: the routes among the inner activations, which are in this order.
    places: Vec<u32>,
}

impl Wave {
    pub fn clear(&mut self) {
        self.members.clear();
        self.rows.clear();
        self.starts.clear();
        self.starts.push(0);
    }

    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub fn push(&mut self, groups: &Groups, i: u32) {
        self.members.push(i);
        self.rows.extend(&groups.rows[groups.run(i as usize)]);
        let end = self.rows.len() as u32;
        self.starts.push(end);
        self.places.extend(self.places.len() as u32..end);
    }

    fn run(&self, member: usize) -> std::ops::Range<usize> {
        self.starts[member] as usize..self.starts[member + 1] as usize
    }
}

/// The answers of a wave's experts, each for its rows, into the window's `answers`.
pub fn compute_wave(
    compute: &mut Compute,
    slots: Option<&Slots>,
    block: &Block,
    parts: &Experts,
    scratch: &mut Scratch,
    x: &Activations,
) {
    let Scratch { gate, up, inner, answers, groups, window, within, wave, .. } = scratch;
    let weights = |member: usize, part: Part| {
        let expert = groups.experts[wave.members[member] as usize];
        let mlp = &parts.experts[expert as usize];
        let linear = match part {
            Part::Gate => &mlp.gate,
            Part::Up => &mlp.up,
            Part::Down => &mlp.down,
        };
        Weights { linear, panels: slots.and_then(|slots| slots.part(block.layer, expert, part)) }
    };
    let (count, routes) = (wave.members.len(), wave.rows.len());
    let each = routes.div_ceil(count);
    // `of` runs of routes are cut alike, though only those of the wave are computed.
    let cuts = |compute: &Compute, panels: usize, bytes: usize, of: usize| {
        let chunks = compute.worth(bytes * count, each).div_ceil(count);
        compute.run_of(panels, chunks.min(MAX_PARTS / of).max(1), each)
    };
    let kernels = compute.kernels;

    let weight = &parts.experts[0].gate.weight;
    let (width, panels) = (weight.rows(), weight.panel_count());
    gate.resize(routes * width, 0.0);
    up.resize(routes * width, 0.0);
    let run = cuts(compute, panels, 2 * weight.bytes() as usize, count);
    {
        let gates = Shares::runs(gate, width, &wave.starts, run * PANEL_ROWS);
        let ups = Shares::runs(up, width, &wave.starts, run * PANEL_ROWS);
        let across = panels.div_ceil(run);
        compute.each(Stage::GateUp, count * across, |hand, i| {
            let (member, at) = (i / across, i % across);
            let panels = at * run..panels.min((at + 1) * run);
            let rows = Some(&wave.rows[wave.run(member)]);
            for (part, out) in [(Part::Gate, &gates), (Part::Up, &ups)] {
                let (weights, mut out) = (weights(member, part), out.take(i));
                product(&kernels, hand, weights, panels.clone(), x, rows, &mut out);
            }
        });
    }

    inner.reset(routes, width, parts.down_forms());
    activated(compute, block.config.activation, gate, up, inner);

    let weight = &parts.experts[0].down.weight;
    let (hidden, panels) = (weight.rows(), weight.panel_count());
    let run = cuts(compute, panels, weight.bytes() as usize, window.now.len());
    let first = groups.starts[window.now.start];
    let starts = &groups.starts[window.now.start..=window.now.end];
    within.clear();
    within.extend(starts.iter().map(|start| start - first));
    let answers = Shares::runs(answers, hidden, within, run * PANEL_ROWS);
    let (across, inner) = (panels.div_ceil(run), &*inner);
    compute.each(Stage::Down, count * across, |hand, i| {
        let (member, at) = (i / across, i % across);
        let panels = at * run..panels.min((at + 1) * run);
        let places = Some(&wave.places[wave.run(member)]);
        let in_window = wave.members[member] as usize - window.now.start;
        let (weights, mut out) =
            (weights(member, Part::Down), answers.take(in_window * across + at));
        product(&kernels, hand, weights, panels, inner, places, &mut out);
    });
}

/// A window's answers, weighted and summed by ascending id, on top of those of the windows before.
/// With the last window come the shared experts' and all is added to the residual stream.
pub fn combine(compute: &mut Compute, parts: &Experts, scratch: &mut Scratch, hidden: &mut [f32]) {
    let Scratch { answers, sums, shared_inner, shared_weight, groups, window, .. } = scratch;
    let weight = &parts.experts[0].down.weight;
    let (cols, panels) = (weight.rows(), weight.panel_count());
    let rows = hidden.len() / cols;
    let (begins, ends) = (window.now.start == 0, window.now.end == groups.experts.len());
    let routes = groups.runs(&window.now);
    let (answers, groups, shared_inner) = (&*answers, &*groups, &*shared_inner);
    let chunks = match (&parts.shared, ends) {
        (Some(shared), true) => compute.worth(shared.mlp.down.weight.bytes() as usize, rows),
        _ => compute.worth(routes.len() * cols * size_of::<f32>(), 1),
    };
    let run = compute.run_of(panels, chunks, rows);
    sums.resize(hidden.len(), 0.0);
    let sums = Shares::by_columns(sums, cols, run * PANEL_ROWS);
    let hidden = Shares::by_columns(hidden, cols, run * PANEL_ROWS);
    let kernels = compute.kernels;
    compute.each(Stage::Combine, sums.parts(), |hand, i| {
        let (mut sum, mut hidden) = (sums.take(i), hidden.take(i));
        let (panels, width) = (i * run..panels.min((i + 1) * run), sum.cols());
        if begins {
            (0..rows).for_each(|row| sum.row(row).fill(0.0));
        }
        let first = i * run * PANEL_ROWS;
        for route in routes.clone() {
            let answer = &answers[(route - routes.start) * cols + first..][..width];
            kernels.axpy(groups.weights[route], answer, sum.row(groups.rows[route] as usize));
        }
        if !ends {
            return;
        }
        if let Some(shared) = &parts.shared {
            let mut floats = std::mem::take(&mut hand.floats);
            floats.resize(rows * width, 0.0);
            let mut to = Columns::whole(&mut floats, width);
            let weights = Weights::of(&shared.mlp.down);
            product(&kernels, hand, weights, panels, shared_inner, None, &mut to);
            (0..rows).for_each(|row| {
                let weight = if shared.gate.is_some() { shared_weight[row] } else { 1.0 };
                kernels.axpy(weight, to.row(row), sum.row(row));
            });
            hand.floats = floats;
        }
        (0..rows).for_each(|row| kernels.add(hidden.row(row), sum.row(row)));
    });
}

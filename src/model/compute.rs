//! Stages: what the shards of a crew do side by side between one look at each other and the next.
//!
//! A stage is cut in chunks, and a chunk writes a part of the result that is its alone: runs of
//! panels of a product, runs of a batch's rows, heads. Where it is cut changes nothing but time:
//! a number is always computed whole, by one shard, in the order of the numbers contract.

use std::ops::Range;
use std::time::{Duration, Instant};

use super::parts::Linear;
use crate::base::limits::PANEL_ROWS;
use crate::base::trace::{NO_LAYER, Tracer, What};
use crate::host::crew::Crew;
use crate::host::drive::Drive;
use crate::math::{Activations, AttentionScratch, Columns, Forms, Kernels, MAX_PARTS, Shares};
use crate::weights::Matrix;
use crate::weights::home::Home;

/// What a shard works with that is its own: buffers that are kept from chunk to chunk.
pub struct Hand {
    pub attend: AttentionScratch,
    /// Results on their way to be added somewhere.
    pub floats: Vec<f32>,
    pub query: Vec<f32>,
    /// A key or value in 8 bits, on its way to its page.
    pub codes: Vec<i8>,
    /// Panels of weights that have not settled.
    panels: Vec<u8>,
    /// What moves bytes on this shard, where experts stream.
    pub drive: Option<Box<dyn Drive>>,
    /// Where this shard's spans are noted, and those of a drive that it is still to get.
    pub tracer: Tracer,
    reads: Tracer,
    /// The layer the lead is at.
    pub layer: u16,
    /// Since when it has waited for the disk, where that is to be noted.
    waits: Option<Instant>,
    /// How long the lead has computed. A mate's time is kept where its clock is read.
    pub computing: Duration,
}

impl Default for Hand {
    fn default() -> Hand {
        Hand {
            attend: AttentionScratch::default(),
            floats: Vec::new(),
            query: Vec::new(),
            codes: Vec::new(),
            panels: Vec::new(),
            drive: None,
            tracer: Tracer::default(),
            reads: Tracer::default(),
            layer: NO_LAYER,
            waits: None,
            computing: Duration::ZERO,
        }
    }
}

impl Hand {
    /// Seats a drive.
    pub fn equip(&mut self, mut drive: Box<dyn Drive>) {
        if self.reads.is_on() {
            drive.trace(std::mem::take(&mut self.reads));
        }
        self.drive = Some(drive);
    }

    /// Notes spans from now on: stages, and reads of the drive that is there or to come.
    pub fn trace(&mut self, stages: Tracer, reads: Tracer) {
        (self.tracer, self.reads) = (stages, reads);
        if let Some(drive) = self.drive.take() {
            self.equip(drive);
        }
    }

    /// Whether there is nothing to move, nor will be before the bell rings.
    pub fn may_rest(&mut self) -> bool {
        self.drive.as_mut().is_none_or(|drive| drive.may_rest())
    }

    /// Gives the drive its turn.
    pub fn turn(&mut self) {
        if let Some(drive) = &mut self.drive {
            drive.turn();
        }
    }
}

/// The stages of a step, for the breakdown of its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Settle,
    Embed,
    Norm,
    Qkv,
    Rope,
    Store,
    Attend,
    AttentionOut,
    Router,
    Choose,
    GateUp,
    Activate,
    Down,
    Combine,
    Forecast,
    Logits,
}

impl Stage {
    pub const ALL: [Stage; 16] = [
        Stage::Settle,
        Stage::Embed,
        Stage::Norm,
        Stage::Qkv,
        Stage::Rope,
        Stage::Store,
        Stage::Attend,
        Stage::AttentionOut,
        Stage::Router,
        Stage::Choose,
        Stage::GateUp,
        Stage::Activate,
        Stage::Down,
        Stage::Combine,
        Stage::Forecast,
        Stage::Logits,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Stage::Settle => "settle",
            Stage::Embed => "embed",
            Stage::Norm => "norm",
            Stage::Qkv => "q, k, v",
            Stage::Rope => "rope",
            Stage::Store => "store k, v",
            Stage::Attend => "attend",
            Stage::AttentionOut => "attention out",
            Stage::Router => "router",
            Stage::Choose => "choose experts",
            Stage::GateUp => "gate, up",
            Stage::Activate => "activate",
            Stage::Down => "down",
            Stage::Combine => "combine",
            Stage::Forecast => "forecast",
            Stage::Logits => "logits",
        }
    }
}

/// What a stage is called on a crew's board: which it is, and of which layer.
pub fn label(stage: Stage, layer: u16) -> u32 {
    stage as u32 | u32::from(layer) << 16
}

/// The stage, and the layer or [`NO_LAYER`], behind a label.
pub fn labelled(label: u32) -> (Stage, u16) {
    (Stage::ALL[label as usize % Stage::ALL.len()], (label >> 16) as u16)
}

/// What the stages so far have done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Bytes of weights read, each once for all that a stage did with it.
    pub moved: u64,
    /// Multiply-adds of weights and activations, counted as two.
    pub operations: u64,
    /// By stage: from its beginning to its end, and the part of it that the lead waited for mates.
    pub taken: [Duration; Stage::ALL.len()],
    pub waited: [Duration; Stage::ALL.len()],
}

impl Tally {
    /// What was added since `before`.
    pub fn since(&self, before: &Tally) -> Tally {
        let mut tally = *self;
        tally.moved -= before.moved;
        tally.operations -= before.operations;
        for i in 0..Stage::ALL.len() {
            tally.taken[i] -= before.taken[i];
            tally.waited[i] -= before.waited[i];
        }
        tally
    }
}

/// The shards, as the parts of a model use them.
pub struct Compute<'a> {
    pub kernels: Kernels,
    pub crew: &'a mut Crew<Hand>,
    pub home: &'a Home,
    pub tally: &'a mut Tally,
}

/// Chunks of a stage for each shard. Fewer leave shards waiting for the last one's last chunk,
/// more spend their time beginning.
const CHUNKS: usize = 16;
/// Weights below which a chunk is not worth beginning, when one token uses them.
const LEAST_CHUNK: usize = 32 << 10;

/// A batch's rows cut in runs.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    rows: usize,
    /// Rows of a run.
    pub run: usize,
}

impl Cut {
    pub fn count(self) -> usize {
        self.rows.div_ceil(self.run)
    }

    pub fn range(self, i: usize) -> Range<usize> {
        i * self.run..self.rows.min((i + 1) * self.run)
    }
}

/// Where a product goes.
pub enum To<'a> {
    /// It becomes the buffer `[tokens][rows]`.
    Buffer(&'a mut Vec<f32>),
    /// It is added to the buffer `[tokens][rows]`.
    Sum(&'a mut [f32]),
}

/// `W x + b` for all tokens of `x`.
pub struct Product<'a> {
    linear: &'a Linear,
    x: &'a Activations,
    into: To<'a>,
}

impl<'a> Product<'a> {
    pub fn new(linear: &'a Linear, x: &'a Activations, into: To<'a>) -> Product<'a> {
        Product { linear, x, into }
    }
}

impl Compute<'_> {
    /// The drive that the lead asks for experts.
    ///
    /// # Panics
    /// If there is none: who streams has one.
    pub fn drive(&mut self) -> &mut dyn Drive {
        &mut **self.crew.own().drive.as_mut().expect("experts stream by a drive")
    }

    /// Does `work` for each chunk, on all shards, and notes the time.
    pub fn each(&mut self, stage: Stage, chunks: usize, work: impl Fn(&mut Hand, usize) + Sync) {
        let layer = self.crew.own().layer;
        self.crew.label = label(stage, layer);
        let (began, waited) = (Instant::now(), self.crew.waited());
        self.crew.each(chunks, |hand, i| {
            work(hand, i);
            hand.turn();
        });
        let (ended, waited) = (Instant::now(), self.crew.waited() - waited);
        let taken = ended - began;
        self.tally.taken[stage as usize] += taken;
        self.tally.waited[stage as usize] += waited;
        let hand = self.crew.own();
        hand.computing += taken - waited;
        let waited = u32::try_from(waited.as_nanos()).unwrap_or(u32::MAX);
        hand.tracer.note(What::Stage { name: stage.name(), layer, waited }, began, ended);
    }

    /// There is nothing to compute before the disk has answered.
    pub fn waits(&mut self) {
        let hand = self.crew.own();
        if hand.tracer.is_on() {
            hand.waits.get_or_insert_with(Instant::now);
        }
    }

    /// There is something to compute.
    pub fn goes_on(&mut self) {
        let hand = self.crew.own();
        if let Some(since) = hand.waits.take() {
            hand.tracer.note(What::Wait { layer: hand.layer }, since, Instant::now());
        }
    }

    /// Cuts a batch for the shards.
    pub fn cut(&self, rows: usize) -> Cut {
        let chunks = match self.crew.seats() {
            1 => 1,
            seats => seats * CHUNKS / 4,
        };
        Cut { rows, run: rows.div_ceil(chunks).max(1) }
    }

    /// Chunks that `bytes` of weights for `tokens` tokens are worth.
    pub fn worth(&self, bytes: usize, tokens: usize) -> usize {
        match self.crew.seats() {
            1 => 1,
            seats => (bytes * tokens.max(1) / LEAST_CHUNK).clamp(1, seats * CHUNKS),
        }
    }

    /// Panels of each of `chunks` chunks; an even number where more tokens than a few go by pairs.
    pub fn run_of(&self, panels: usize, chunks: usize, tokens: usize) -> usize {
        let run = panels.div_ceil(chunks).max(1);
        let run = if tokens > 4 { run.next_multiple_of(2) } else { run };
        run.max(panels.div_ceil(MAX_PARTS))
    }

    /// Makes `x`, whose values are there, ready in the forms it was given.
    pub fn finish(&mut self, stage: Stage, x: &mut Activations) {
        if x.forms() == Forms::NONE {
            return;
        }
        let kernels = self.kernels;
        let cut = self.cut(x.tokens());
        let parts = x.split(cut.run);
        self.each(stage, cut.count(), |_, i| parts.take(i).finish(&kernels));
    }

    /// One stage of several products, of one batch each.
    pub fn products<const N: usize>(&mut self, stage: Stage, products: [Product; N]) {
        let bytes: usize = products.iter().map(|p| p.linear.weight.bytes() as usize).sum();
        let tokens = products.iter().map(|p| p.x.tokens()).max().unwrap_or(0);
        for product in &products {
            self.settle([&product.linear.weight]);
            self.count(&product.linear.weight, tokens);
        }
        let chunks = self.worth(bytes, tokens);
        let share = |p: &Product| {
            let part = p.linear.weight.bytes() as usize * chunks / bytes.max(1);
            self.run_of(p.linear.weight.panel_count(), part.max(1), tokens)
        };
        let parts = products.map(|p| {
            let (run, cols) = (share(&p), p.linear.weight.rows());
            let (out, add) = match p.into {
                To::Buffer(buffer) => {
                    buffer.resize(p.x.tokens() * cols, 0.0);
                    (&mut buffer[..], false)
                }
                To::Sum(sum) => (sum, true),
            };
            (p.linear, p.x, Shares::by_columns(out, cols, run * PANEL_ROWS), run, add)
        });
        let kernels = self.kernels;
        let count = parts.iter().map(|(_, _, shares, ..)| shares.parts()).sum();
        self.each(stage, count, |hand, mut i| {
            for (linear, x, shares, run, add) in &parts {
                if i >= shares.parts() {
                    i -= shares.parts();
                    continue;
                }
                let panels = i * run..linear.weight.panel_count().min((i + 1) * run);
                let mut out = shares.take(i);
                match add {
                    false => {
                        product(&kernels, hand, Weights::of(linear), panels, x, None, &mut out)
                    }
                    true => {
                        let (rows, cols) = (out.rows(), out.cols());
                        let mut floats = std::mem::take(&mut hand.floats);
                        floats.resize(rows * cols, 0.0);
                        let mut part = Columns::whole(&mut floats, cols);
                        product(&kernels, hand, Weights::of(linear), panels, x, None, &mut part);
                        (0..rows).for_each(|row| kernels.add(out.row(row), part.row(row)));
                        hand.floats = floats;
                    }
                }
                return;
            }
        });
    }

    /// Brings weights into memory, if there is room for them there.
    pub fn settle<'m, W>(&mut self, weights: W)
    where
        W: IntoIterator<Item = &'m Matrix, IntoIter: Clone>,
    {
        let unsettled = weights.into_iter().filter(|matrix| !matrix.is_settled());
        unsettled.clone().for_each(Matrix::prefetch);
        for matrix in unsettled {
            let Some(mut room) = self.home.room(matrix) else { continue };
            let panels = matrix.panel_count();
            // A chunk is read in one go; some hundred KiB keep a disk busy.
            let chunks = (matrix.panel_bytes() >> 18).clamp(1, MAX_PARTS);
            let run = panels.div_ceil(chunks);
            let width = matrix.panel_bytes() / panels * run;
            let len = room.len();
            let parts = Shares::by_columns(&mut room[..], len, width);
            self.each(Stage::Settle, parts.parts(), |_, i| {
                let range = i * run..panels.min((i + 1) * run);
                matrix.pack(range, parts.take(i).row(0));
            });
            matrix.settle(room.freeze());
        }
    }

    /// Counts a matrix that is read once and used for `tokens` tokens.
    pub fn count(&mut self, weight: &Matrix, tokens: usize) {
        self.tally.moved += weight.bytes();
        self.tally.operations += 2 * (weight.rows() * weight.cols() * tokens) as u64;
    }
}

/// The weights of a product, and their panels where those are not the matrix's own: a slab's.
#[derive(Clone, Copy)]
pub struct Weights<'a> {
    pub linear: &'a Linear,
    pub panels: Option<&'a [u8]>,
}

impl<'a> Weights<'a> {
    pub fn of(linear: &'a Linear) -> Weights<'a> {
        Weights { linear, panels: None }
    }
}

/// `out.row(i) = W x[tokens[i]] + b` for some panels of `W`; `tokens` `None`: all of `x`.
pub fn product(
    kernels: &Kernels,
    hand: &mut Hand,
    weights: Weights,
    panels: Range<usize>,
    x: &Activations,
    tokens: Option<&[u32]>,
    out: &mut Columns,
) {
    let weight = &weights.linear.weight;
    match weights.panels {
        Some(bytes) => {
            let all = weight.as_panels(bytes, 0..weight.panel_count());
            kernels.linear(&all.part(panels.clone()), x, tokens, out);
        }
        None => matrix(kernels, hand, weight, panels.clone(), x, tokens, out),
    }
    if let Some(bias) = &weights.linear.bias {
        let first = panels.start * PANEL_ROWS;
        let bias = &bias[first..first + out.cols()];
        (0..out.rows()).for_each(|row| kernels.add(out.row(row), bias));
    }
}

/// The same without a bias.
pub fn matrix(
    kernels: &Kernels,
    hand: &mut Hand,
    weight: &Matrix,
    panels: Range<usize>,
    x: &Activations,
    tokens: Option<&[u32]>,
    out: &mut Columns,
) {
    if let Some(settled) = weight.panels() {
        return kernels.linear(&settled.part(panels), x, tokens, out);
    }
    let bytes = weight.panel_bytes() / weight.panel_count() * panels.len();
    hand.panels.resize(bytes, 0);
    weight.pack(panels.clone(), &mut hand.panels);
    kernels.linear(&weight.as_panels(&hand.panels, panels), x, tokens, out);
}

//! One pass of a batch through all layers.
//!
//! ```text
//! embed ─▶ for each layer:  norm ─▶ q, k, v ─▶ rope ─▶ store ─▶ attend ─▶ out ─┐
//!                           norm ─▶ router ─▶ choose ─▶ settle ─▶ gate, up ─▶ down ─┐
//!          norm ─▶ logits of the rows that want them                                 └▶ + hidden
//! ```
//!
//! Every arrow is a look of all shards at each other: a stage begins when the one before is done
//! everywhere. Between the halves of a layer the lead breathes.

use std::io;
use std::time::{Duration, Instant};

use super::stream::lost;
use crate::base::trace::{NO_LAYER, What};
use crate::math::{Activations, Forms, Kernels, Shares};
use crate::model::attention::{self, Context, Place, attention};
use crate::model::compute::{Compute, Product, Stage, Tally, To};
use crate::model::config::{Config, RopeTable};
use crate::model::experts::{self, Block, Next, Progress, Spoiled};
use crate::model::parts::Ffn;
use crate::model::{KvShape, Model};
use crate::shard::Lead;
use crate::weights::Matrix;
use crate::weights::home::Home;
use crate::weights::stage::{Notice, Reading, Staging};
use crate::weights::trace::Recorder;

/// What is to be computed: rows, and the pages of their sessions.
#[derive(Default)]
pub struct Batch {
    rows: Vec<Row>,
    places: Vec<Place>,
    pages: Vec<u32>,
    /// Rows of prompts.
    prompt: u32,
}

/// One token of a batch.
struct Row {
    token: u32,
    /// Whether the logits behind this token are asked for.
    wanted: bool,
}

impl Batch {
    pub fn clear(&mut self) {
        self.rows.clear();
        self.places.clear();
        self.pages.clear();
        self.prompt = 0;
    }

    /// Begins the rows of a session with these pages. More than one that are to be computed, not
    /// guessed, are of a prompt.
    pub fn session(&mut self, pages: &[u32], rows: usize) -> usize {
        let at = self.pages.len();
        if rows > 1 {
            self.prompt += rows as u32;
        }
        self.pages.extend(pages);
        at
    }

    /// A token of the session whose pages begin at `pages`.
    pub fn push(&mut self, pages: usize, token: u32, position: usize, wanted: bool) {
        self.rows.push(Row { token, wanted });
        self.places.push(Place { position, pages });
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

/// What the steps so far have done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meter {
    pub steps: u64,
    pub rows: u64,
    /// From the first stage's beginning to the last one's end.
    pub taken: Duration,
    pub tally: Tally,
    /// Of experts, where they stream.
    pub reading: Reading,
}

impl Meter {
    /// What was added since `before`.
    pub fn since(&self, before: &Meter) -> Meter {
        Meter {
            steps: self.steps - before.steps,
            rows: self.rows - before.rows,
            taken: self.taken - before.taken,
            tally: self.tally.since(&before.tally),
            reading: self.reading.since(&before.reading),
        }
    }
}

/// Where the weights are.
pub struct Store {
    pub home: Home,
    /// What brings the experts that are not at home, for a model that has a pack.
    pub staging: Option<Staging>,
    /// Experts of the next layer sent for, for each that a token uses.
    pub ahead: f32,
    /// Writes down who is routed where.
    pub recorder: Option<Recorder>,
    /// Why it stopped.
    pub untold: Option<io::Error>,
}

impl Store {
    /// With everything at home.
    pub fn new(home: Home) -> Store {
        Store { home, staging: None, ahead: 0.0, recorder: None, untold: None }
    }

    /// Why a row came to nothing.
    pub fn sentence(&self, spoiled: &Spoiled) -> String {
        let Spoiled { layer, expert, .. } = *spoiled;
        let staging = self.staging.as_ref();
        let loss =
            staging.and_then(|staging| Some((staging, staging.loss(layer as usize, expert)?)));
        match loss {
            Some((staging, loss)) => lost(staging.pack(), loss),
            None => format!("expert {expert} of layer {layer} cannot be read"),
        }
    }
}

/// The executor: kernels, tables and the buffers a step works in.
pub struct Step {
    kernels: Kernels,
    rope: RopeTable,
    kv: KvShape,
    meter: Meter,
    /// The residual stream, `[rows][hidden]`
    hidden: Vec<f32>,
    normed: Activations,
    logits: Vec<f32>,
    attention: attention::Scratch,
    ffn: experts::Scratch,
}

impl Step {
    pub fn new(config: &Config, kernels: Kernels, kv: KvShape) -> Step {
        Step {
            kernels,
            rope: RopeTable::new(&config.rope),
            kv,
            meter: Meter::default(),
            hidden: Vec::new(),
            normed: Activations::new(),
            logits: Vec::new(),
            attention: attention::Scratch::default(),
            ffn: experts::Scratch::default(),
        }
    }

    pub fn kernels(&self) -> &Kernels {
        &self.kernels
    }

    pub fn meter(&self) -> Meter {
        self.meter
    }

    /// Brings all weights into memory before a token needs them.
    pub async fn settle(&mut self, model: &Model, home: &Home, lead: &mut Lead) {
        let parts = &model.parts;
        lead.begin();
        for layer in &parts.layers {
            let mut shards = compute(self.kernels, home, lead, &mut self.meter);
            layer.trunk(|weight| shards.settle([weight]));
            shards.settle(layer.experts());
            lead.breathe().await;
        }
        compute(self.kernels, home, lead, &mut self.meter).settle([&parts.output.weight]);
        lead.rest();
    }

    /// Computes the batch. [`Step::results`] stay valid until the next step.
    pub async fn run(
        &mut self,
        model: &Model,
        store: &mut Store,
        lead: &mut Lead,
        arena: &mut [f32],
        batch: &Batch,
        listener: &mut dyn FnMut(Notice),
    ) {
        let config = &model.config;
        let began = Instant::now();
        lead.crew().own().layer = NO_LAYER;
        let Store { home, staging, ahead, recorder, untold } = store;
        lead.begin();
        if let Some(staging) = staging {
            staging.begin_step(compute(self.kernels, home, lead, &mut self.meter).drive());
        }
        let end = batch.places.iter().map(|place| place.position + 1).max().unwrap_or(0);
        self.rope.extend_to(end);
        self.ffn.begin_step();
        if let Some(recorder) = recorder {
            recorder.begin(batch.rows.len() as u32, batch.prompt);
        }
        let mut shards = compute(self.kernels, home, lead, &mut self.meter);
        embed(&mut shards, model, batch, &mut self.hidden);

        for (layer, parts) in model.parts.layers.iter().enumerate() {
            lead.crew().own().layer = layer as u16;
            // The first time, the next layer's bytes come while this one is computed.
            let fetch = |weight: &Matrix| {
                if !weight.is_settled() {
                    weight.prefetch();
                }
            };
            match model.parts.layers.get(layer + 1) {
                Some(next) => next.trunk(fetch),
                None => fetch(&model.parts.output.weight),
            }
            let (hidden, x, eps) = (&mut self.hidden, &mut self.normed, config.norm_eps);
            let mut shards = compute(self.kernels, home, lead, &mut self.meter);
            let forms = attention::forms(&parts.attention);
            norm(&mut shards, &parts.attention_norm, eps, hidden, forms, x);
            let context = Context {
                config,
                kv: &self.kv,
                rope: &self.rope,
                places: &batch.places,
                pages: &batch.pages,
                layer,
            };
            let scratch = &mut self.attention;
            attention(&mut shards, &context, scratch, arena, &parts.attention, x, hidden);
            lead.breathe().await;

            let mut shards = compute(self.kernels, home, lead, &mut self.meter);
            norm(&mut shards, &parts.ffn_norm, eps, hidden, experts::forms(&parts.ffn), x);
            let next = model.parts.layers.get(layer + 1);
            let next = next.map(|next| Next { index: layer + 1, layer: next, ahead: *ahead });
            let block = Block { config, ffn: &parts.ffn, layer, next };
            experts::begin(&mut shards, &block, &mut self.ffn, x, hidden);
            if let (Some(recorder), Ffn::Experts(_)) = (&mut *recorder, &parts.ffn) {
                recorder.layer(self.ffn.routed());
            }
            loop {
                let mut shards = compute(self.kernels, home, lead, &mut self.meter);
                let (mover, scratch) = (staging.as_mut(), &mut self.ffn);
                match experts::advance(&mut shards, mover, &block, scratch, x, hidden) {
                    Progress::Done => break,
                    Progress::Waits => {
                        if let Some(notice) = staging.as_mut().and_then(|mover| mover.notice()) {
                            listener(notice);
                        }
                        lead.breathe().await;
                    }
                }
            }
            lead.breathe().await;
        }

        lead.crew().own().layer = NO_LAYER;
        self.keep_wanted(batch, config.hidden);
        let (hidden, x, output) = (&mut self.hidden, &mut self.normed, &model.parts.output);
        let mut shards = compute(self.kernels, home, lead, &mut self.meter);
        self.logits.clear();
        if !hidden.is_empty() {
            norm(&mut shards, &model.parts.norm, config.norm_eps, hidden, output.forms(), x);
            shards.products(Stage::Logits, [Product::new(output, x, To::Buffer(&mut self.logits))]);
        }
        lead.rest();
        if let Some(staging) = staging {
            staging.end_step();
            self.meter.reading = staging.reading();
        }
        if let Some(Err(error)) = recorder.as_mut().map(Recorder::end) {
            (*recorder, *untold) = (None, Some(error));
        }
        self.meter.steps += 1;
        self.meter.rows += batch.rows.len() as u64;
        let ended = Instant::now();
        self.meter.taken += ended - began;
        let what = What::Step { number: self.meter.steps, rows: batch.rows.len() as u32 };
        lead.crew().own().tracer.note(what, began, ended);
    }

    /// The logits `[wanted rows][vocab]`, and the rows of the batch that came to nothing.
    pub fn results(&mut self) -> (&mut [f32], &[Spoiled]) {
        (&mut self.logits, self.ffn.spoiled())
    }

    /// Drops the rows whose logits nobody asks for.
    fn keep_wanted(&mut self, batch: &Batch, hidden: usize) {
        let mut kept = 0;
        for (i, _) in batch.rows.iter().enumerate().filter(|(_, row)| row.wanted) {
            self.hidden.copy_within(i * hidden..(i + 1) * hidden, kept * hidden);
            kept += 1;
        }
        self.hidden.truncate(kept * hidden);
    }
}

fn compute<'a>(
    kernels: Kernels,
    home: &'a Home,
    lead: &'a mut Lead,
    meter: &'a mut Meter,
) -> Compute<'a> {
    Compute { kernels, crew: lead.crew(), home, tally: &mut meter.tally }
}

/// Token embeddings become the residual stream.
fn embed(shards: &mut Compute, model: &Model, batch: &Batch, hidden: &mut Vec<f32>) {
    let (embedding, width) = (&model.parts.embedding, model.config.hidden);
    hidden.resize(batch.rows.len() * width, 0.0);
    let cut = shards.cut(batch.rows.len());
    let parts = Shares::by_rows(hidden, width, cut.run);
    shards.each(Stage::Embed, cut.count(), |_, i| {
        let mut part = parts.take(i);
        for (j, row) in batch.rows[cut.range(i)].iter().enumerate() {
            embedding.read_row(row.token as usize, part.row(j));
        }
    });
}

/// Norms the residual stream, row by row, into `x`.
fn norm(
    shards: &mut Compute,
    weight: &[f32],
    eps: f32,
    hidden: &[f32],
    forms: Forms,
    x: &mut Activations,
) {
    let (rows, cols) = (hidden.len() / weight.len(), weight.len());
    x.reset(rows, cols, forms);
    let (kernels, cut) = (shards.kernels, shards.cut(rows));
    let parts = x.split(cut.run);
    shards.each(Stage::Norm, cut.count(), |_, i| {
        let mut part = parts.take(i);
        for (j, row) in cut.range(i).enumerate() {
            kernels.rms_norm(&hidden[row * cols..][..cols], weight, eps, part.row_mut(j));
        }
        part.finish(&kernels);
    });
}

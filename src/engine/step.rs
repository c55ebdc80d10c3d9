//! One pass of a batch through all layers.

use crate::math::{Activations, Kernels};
use crate::model::attention::{self, Context, Place, attention};
use crate::model::compute::Compute;
use crate::model::config::{Config, RopeTable};
use crate::model::experts::{self, ffn};
use crate::model::{KvShape, Model};

/// One token of a batch.
#[derive(Clone, Copy)]
pub struct Row<'a> {
    pub token: u32,
    pub position: usize,
    /// Pages of the token's session, by position.
    pub pages: &'a [u32],
    /// Whether the logits behind this token are asked for.
    pub wanted: bool,
}

/// What the steps so far have done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meter {
    pub rows: u64,
    /// Bytes of weights read.
    pub moved: u64,
}

/// The executor: kernels, tables and the buffers a step works in.
pub struct Step {
    compute: Compute,
    rope: RopeTable,
    kv: KvShape,
    meter: Meter,
    /// The residual stream, `[rows][hidden]`
    hidden: Vec<f32>,
    normed: Activations,
    out: Vec<f32>,
    logits: Vec<f32>,
    attention: attention::Scratch,
    ffn: experts::Scratch,
}

impl Step {
    pub fn new(config: &Config, kernels: Kernels, kv: KvShape) -> Step {
        Step {
            compute: Compute::new(kernels),
            rope: RopeTable::new(&config.rope),
            kv,
            meter: Meter::default(),
            hidden: Vec::new(),
            normed: Activations::new(),
            out: Vec::new(),
            logits: Vec::new(),
            attention: attention::Scratch::default(),
            ffn: experts::Scratch::default(),
        }
    }

    pub fn kernels(&self) -> &Kernels {
        &self.compute.kernels
    }

    pub fn meter(&self) -> Meter {
        Meter { moved: self.compute.moved, ..self.meter }
    }

    /// Computes the batch; the logits `[wanted rows][vocab]` stay valid until the next step.
    pub fn run(&mut self, model: &Model, arena: &mut [f32], rows: &[Row]) -> &mut [f32] {
        let config = &model.config;
        let end = rows.iter().map(|row| row.position + 1).max().unwrap_or(0);
        self.rope.extend_to(end);
        self.embed(model, rows);

        let places: Vec<Place> =
            rows.iter().map(|row| Place { position: row.position, pages: row.pages }).collect();
        for (layer, parts) in model.parts.layers.iter().enumerate() {
            // The first time, the next layer's bytes come while this one computes.
            match model.parts.layers.get(layer + 1) {
                Some(next) => next.stage(),
                None => model.parts.output.weight.stage(),
            }
            self.norm(&parts.attention_norm, config.norm_eps);
            let context = Context { config, kv: &self.kv, rope: &self.rope, layer };
            attention(
                &mut self.compute,
                &context,
                &mut self.attention,
                arena,
                &places,
                &parts.attention,
                &mut self.normed,
                &mut self.out,
            );
            self.compute.kernels.add(&mut self.hidden, &self.out);

            self.norm(&parts.ffn_norm, config.norm_eps);
            let (x, out) = (&mut self.normed, &mut self.out);
            ffn(&mut self.compute, config, &mut self.ffn, &parts.ffn, x, out);
            self.compute.kernels.add(&mut self.hidden, &self.out);
        }

        self.keep_wanted(rows, config.hidden);
        self.norm(&model.parts.norm, config.norm_eps);
        self.logits.clear();
        if self.normed.tokens() > 0 {
            self.compute.linear(&model.parts.output, &mut self.normed, &mut self.logits);
        }
        self.meter.rows += rows.len() as u64;
        &mut self.logits
    }

    /// Token embeddings become the residual stream.
    fn embed(&mut self, model: &Model, rows: &[Row]) {
        let (embedding, hidden) = (&model.parts.embedding, model.config.hidden);
        self.hidden.resize(rows.len() * hidden, 0.0);
        for (row, out) in rows.iter().zip(self.hidden.chunks_exact_mut(hidden)) {
            embedding.read_row(row.token as usize, out);
        }
    }

    /// Norms the residual stream, row by row, into `normed`.
    fn norm(&mut self, weight: &[f32], eps: f32) {
        let cols = weight.len();
        let out = self.normed.reset(self.hidden.len() / cols, cols);
        for (x, out) in self.hidden.chunks_exact(cols).zip(out.chunks_exact_mut(cols)) {
            self.compute.kernels.rms_norm(x, weight, eps, out);
        }
    }

    /// Drops the rows whose logits nobody asked for: the output matrix is the largest of all.
    fn keep_wanted(&mut self, rows: &[Row], hidden: usize) {
        let mut kept = 0;
        for (i, row) in rows.iter().enumerate() {
            if row.wanted {
                self.hidden.copy_within(i * hidden..(i + 1) * hidden, kept * hidden);
                kept += 1;
            }
        }
        self.hidden.truncate(kept * hidden);
    }
}

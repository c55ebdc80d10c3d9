//! Attention of one layer for the rows of a step.
//!
//! The keys and values of all rows are stored first and every row then looks back from its own
//! position, so a chunk of prompt and a single token take identical steps. Stages are cut by rows
//! where each row is worked on alone, and by heads where pages are written or read.

use std::ops::Range;

use super::compute::{Compute, Hand, Product, Stage, To, Weights, product};
use super::config::{Attention as Shape, AttentionKind, Config, QkNorm, RopeTable};
use super::kv::KvShape;
use super::parts::{Attention, Grouped, Latent, LatentQuery, LowRank};
use crate::base::limits::{ATTENTION_TILE, PAGE};
use crate::math::{
    Activations, Columns, Forms, Kernels, KvView, MAX_PARTS, Queries, Shares, Store,
};

/// A token of the batch: where it stands in its own sequence.
#[derive(Clone, Copy)]
pub struct Place {
    pub position: usize,
    /// Where the pages of its sequence begin in the batch's list.
    pub pages: usize,
}

/// Buffers that are kept from layer to layer and step to step.
#[derive(Default)]
pub struct Scratch {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    /// What all heads saw, `[rows][heads * value_dim]`
    heads: Activations,
    low_rank: Vec<f32>,
    compressed: Activations,
    /// `[rows * heads][nope_dim]`, then `[rows * heads][kv_rank]`
    nope: Activations,
    seen: Activations,
    /// By head, the rows of the two above: `[heads][rows]`
    of_head: Vec<u32>,
}

/// What attention needs beside the layer's weights.
pub struct Context<'a> {
    pub config: &'a Config,
    pub kv: &'a KvShape,
    pub rope: &'a RopeTable,
    pub places: &'a [Place],
    /// The pages of all sequences of the batch.
    pub pages: &'a [u32],
    pub layer: usize,
}

impl Context<'_> {
    /// The pages of the sequence that a place is in, by position.
    fn pages_of(&self, place: &Place) -> &[u32] {
        &self.pages[place.pages..]
    }

    /// Each head's part of every page, to be written.
    fn heads_of<'b>(&self, arena: &'b mut [f32]) -> Shares<'b> {
        let (from, to) = (self.kv.k_at(self.layer, 0), self.kv.k_at(self.layer, self.kv.heads));
        Shares::within(arena, self.kv.page_floats, from..to, self.kv.head_floats())
    }

    /// What writes into pages.
    fn store<'b>(&self, kernels: &'b Kernels, hand: &'b mut Hand) -> Store<'b> {
        Store { kernels, format: self.kv.format, codes: &mut hand.codes }
    }

    /// The rooms of a head's keys and values in the page of a place, and its slot there.
    fn rooms<'b>(
        &self,
        head: &'b mut Columns,
        place: &Place,
    ) -> (usize, &'b mut [f32], &'b mut [f32]) {
        let page = self.pages_of(place)[place.position / PAGE] as usize;
        let (keys, values) = head.row(page).split_at_mut(self.kv.key_floats());
        (place.position % PAGE, keys, values)
    }

    fn view<'b>(&'b self, arena: &'b [f32], place: &Place, head: usize) -> KvView<'b> {
        KvView {
            format: self.kv.format,
            arena,
            pages: self.pages_of(place),
            page_floats: self.kv.page_floats,
            k_at: self.kv.k_at(self.layer, head),
            v_at: self.kv.v_at(self.layer, head),
            d: self.kv.key_dim,
            dv: self.kv.value_dim,
        }
    }
}

/// Rows that follow each other in one sequence: their queries walk together.
fn runs(places: &[Place]) -> impl Iterator<Item = Range<usize>> {
    let follows = |a: &Place, b: &Place| (b.pages, b.position) == (a.pages, a.position + 1);
    places.chunk_by(follows).scan(0, |end, run| {
        *end += run.len();
        Some(*end - run.len()..*end)
    })
}

/// Rows and heads whose queries one chunk takes: a tile full, but let no shard be without, and
/// keep to heads that look at the same keys, of which there are `group`.
fn tile(compute: &Compute, rows: usize, heads: usize, group: usize) -> (usize, usize) {
    let share = (rows * heads / compute.crew.seats()).clamp(1, ATTENTION_TILE.min(group));
    let width = (1..=share).rev().find(|width| group.is_multiple_of(*width)).unwrap_or(1);
    let run = compute.cut(rows).run.min(ATTENTION_TILE / width);
    (run.max(rows.div_ceil(MAX_PARTS / (heads / width).min(MAX_PARTS))), width)
}

/// Adds to the residual stream `hidden` what attention makes of `x` (normed and ready, both
/// `[rows][hidden]`).
pub fn attention(
    compute: &mut Compute,
    context: &Context,
    scratch: &mut Scratch,
    arena: &mut [f32],
    attention: &Attention,
    x: &Activations,
    hidden: &mut [f32],
) {
    let out = match attention {
        Attention::Grouped(parts) => {
            grouped(compute, context, scratch, arena, parts, x);
            &parts.o
        }
        Attention::Latent(parts) => {
            latent(compute, context, scratch, arena, parts, x);
            &parts.o
        }
    };
    let product = Product::new(out, &scratch.heads, To::Sum(hidden));
    compute.products(Stage::AttentionOut, [product]);
}

/// What attention wants its `x` in.
pub fn forms(attention: &Attention) -> Forms {
    match attention {
        Attention::Grouped(g) => g.q.forms() | g.k.forms() | g.v.forms(),
        Attention::Latent(l) => {
            let q = match &l.q {
                LatentQuery::Direct(q) => q,
                LatentQuery::LowRank(parts) => &parts.a,
            };
            q.forms() | l.kv_a.forms()
        }
    }
}

fn grouped(
    compute: &mut Compute,
    context: &Context,
    scratch: &mut Scratch,
    arena: &mut [f32],
    parts: &Grouped,
    x: &Activations,
) {
    let Shape { heads, ref kind, scale, clip, .. } = context.config.attention;
    let AttentionKind::Grouped { kv_heads, key_dim, value_dim, qk_norm } = *kind else {
        unreachable!("grouped weights come with a grouped config")
    };
    let Scratch { q, k, v, heads: seen, .. } = scratch;
    compute.products(
        Stage::Qkv,
        [
            Product::new(&parts.q, x, To::Buffer(q)),
            Product::new(&parts.k, x, To::Buffer(k)),
            Product::new(&parts.v, x, To::Buffer(v)),
        ],
    );

    let (kernels, eps, style) =
        (compute.kernels, context.config.norm_eps, context.config.rope.style);
    let cut = compute.cut(context.places.len());
    {
        let qs = Shares::by_rows(q, heads * key_dim, cut.run);
        let ks = Shares::by_rows(k, kv_heads * key_dim, cut.run);
        let vs = Shares::by_rows(v, kv_heads * value_dim, cut.run);
        compute.each(Stage::Rope, cut.count(), |_, i| {
            let (mut q, mut k, mut v) = (qs.take(i), ks.take(i), vs.take(i));
            for (row, place) in context.places[cut.range(i)].iter().enumerate() {
                let (cos, sin) = context.rope.at(place.position);
                let v = v.row(row);
                for (values, weight) in [(q.row(row), &parts.q_norm), (k.row(row), &parts.k_norm)] {
                    if let (Some(weight), true) = (weight, qk_norm != QkNorm::None) {
                        for vector in values.chunks_exact_mut(weight.len()) {
                            kernels.rms_norm_in_place(vector, weight, eps);
                        }
                    }
                    if let Some(limit) = clip {
                        values.iter_mut().for_each(|value| *value = value.clamp(-limit, limit));
                    }
                    for head in values.chunks_exact_mut(key_dim) {
                        kernels.rope(head, cos, sin, style);
                    }
                }
                if let Some(limit) = clip {
                    v.iter_mut().for_each(|value| *value = value.clamp(-limit, limit));
                }
            }
        });
    }

    let (q, k, v) = (&q[..], &k[..], &v[..]);
    let pages = context.heads_of(arena);
    compute.each(Stage::Store, kv_heads, |hand, head| {
        let (mut pages, mut store) = (pages.take(head), context.store(&kernels, hand));
        for (i, place) in context.places.iter().enumerate() {
            let key = &k[(i * kv_heads + head) * key_dim..][..key_dim];
            let value = &v[(i * kv_heads + head) * value_dim..][..value_dim];
            let (slot, keys, values) = context.rooms(&mut pages, place);
            store.key(keys, slot, key);
            store.value(values, slot, value);
        }
    });

    let group = heads / kv_heads;
    let rows = context.places.len();
    let (run, width) = tile(compute, rows, heads, group);
    let out = seen.reset(rows, heads * value_dim, parts.o.forms());
    let outs = Shares::grid(out, heads * value_dim, run, width * value_dim);
    let (arena, across) = (&*arena, heads / width);
    compute.each(Stage::Attend, outs.parts(), |hand, i| {
        let (first_row, head) = (i / across * run, i % across * width);
        let mut out = outs.take(i);
        let places = &context.places[first_row..][..out.rows()];
        for rows in runs(places) {
            let place = &places[rows.start];
            let queries = Queries {
                q: &q[((first_row + rows.start) * heads + head) * key_dim..],
                stride: heads * key_dim,
                heads: width,
                scale,
                end: place.position + 1,
                window: context.config.layers[context.layer].window,
                sinks: parts.sinks.as_ref().map(|sinks| &sinks[head..head + width]),
            };
            let view = context.view(arena, place, head / group);
            kernels.attend(&queries, &view, &mut out.some(rows), &mut hand.attend);
        }
    });
    compute.finish(Stage::Attend, seen);
}

fn latent(
    compute: &mut Compute,
    context: &Context,
    scratch: &mut Scratch,
    arena: &mut [f32],
    parts: &Latent,
    x: &Activations,
) {
    let Shape { heads, ref kind, scale, .. } = context.config.attention;
    let AttentionKind::Latent { kv_rank, nope_dim, rope_dim, value_dim, latent_eps, .. } = *kind
    else {
        unreachable!("latent weights come with a latent config")
    };
    let (kernels, style) = (compute.kernels, context.config.rope.style);
    let rows = context.places.len();
    let cut = compute.cut(rows);
    let Scratch { q, k, low_rank, compressed, nope, seen, of_head, heads: all, .. } = scratch;
    let kv_a = &parts.kv_a;
    match &parts.q {
        LatentQuery::Direct(linear) => {
            let q = Product::new(linear, x, To::Buffer(q));
            compute.products(Stage::Qkv, [q, Product::new(kv_a, x, To::Buffer(k))]);
        }
        LatentQuery::LowRank(parts) => {
            let LowRank { a, norm, b } = &**parts;
            let a = Product::new(a, x, To::Buffer(low_rank));
            compute.products(Stage::Qkv, [a, Product::new(kv_a, x, To::Buffer(k))]);
            compressed.reset(rows, norm.len(), b.forms());
            let to = compressed.split(cut.run);
            let from = &low_rank[..];
            compute.each(Stage::Norm, cut.count(), |_, i| {
                let mut to = to.take(i);
                for (j, row) in cut.range(i).enumerate() {
                    let from = &from[row * norm.len()..][..norm.len()];
                    kernels.rms_norm(from, norm, latent_eps, to.row_mut(j));
                }
                to.finish(&kernels);
            });
            compute.products(Stage::Qkv, [Product::new(b, compressed, To::Buffer(q))]);
        }
    }

    // A row of `nope` and `seen` is one head of one row.
    let q_dim = nope_dim + rope_dim;
    nope.reset(rows * heads, nope_dim, parts.k_up[0].forms());
    {
        let qs = Shares::by_rows(q, heads * q_dim, cut.run);
        let ks = Shares::by_rows(k, kv_rank + rope_dim, cut.run);
        let nopes = nope.split(cut.run * heads);
        compute.each(Stage::Rope, cut.count(), |_, i| {
            let (mut q, mut k, mut nope) = (qs.take(i), ks.take(i), nopes.take(i));
            for (row, place) in context.places[cut.range(i)].iter().enumerate() {
                let (cos, sin) = context.rope.at(place.position);
                for (head, query) in q.row(row).chunks_exact_mut(q_dim).enumerate() {
                    nope.row_mut(row * heads + head).copy_from_slice(&query[..nope_dim]);
                    kernels.rope(&mut query[nope_dim..], cos, sin, style);
                }
                let (vector, rotated) = k.row(row).split_at_mut(kv_rank);
                kernels.rms_norm_in_place(vector, &parts.kv_norm, latent_eps);
                kernels.rope(rotated, cos, sin, style);
            }
            nope.finish(&kernels);
        });
    }
    let pages = context.heads_of(arena);
    compute.each(Stage::Store, 1, |hand, _| {
        let (mut pages, mut store) = (pages.take(0), context.store(&kernels, hand));
        for (key, place) in k.chunks_exact(kv_rank + rope_dim).zip(context.places) {
            let (slot, keys, values) = context.rooms(&mut pages, place);
            store.key(keys, slot, key);
            store.value(values, slot, &key[..kv_rank]);
        }
    });

    of_head.clear();
    of_head
        .extend((0..heads).flat_map(|head| (0..rows).map(move |row| (row * heads + head) as u32)));
    let of_head = &of_head[..];

    // One form for prompt and answer alike: queries are carried into the compressed space, and
    // what they saw there is carried back.
    for up in parts.k_up.iter().chain(&parts.v_up) {
        compute.settle([&up.weight]);
        compute.count(&up.weight, rows);
    }
    let (q, arena, nope) = (&q[..], &*arena, &*nope);
    let out = seen.reset(rows * heads, kv_rank, parts.v_up[0].forms());
    {
        let run = rows.div_ceil(MAX_PARTS / heads.min(MAX_PARTS)).max(cut.run.min(16));
        // Rows of a head are not next to each other: as columns of a row they are.
        let outs = Shares::grid(out, heads * kv_rank, run, kv_rank);
        compute.each(Stage::Attend, outs.parts(), |hand, i| {
            let (first_row, head) = (i / heads * run, i % heads);
            let mut out = outs.take(i);
            let tokens = &of_head[head * rows + first_row..][..out.rows()];
            let (up, x) = (&parts.k_up[head], nope);
            let panels = 0..up.weight.panel_count();
            product(&kernels, hand, Weights::of(up), panels, x, Some(tokens), &mut out);
        });
    }
    // Where a query stood comes what it saw.
    let (run, width) = tile(compute, rows, heads, heads);
    let outs = Shares::grid(out, heads * kv_rank, run, width * kv_rank);
    let across = heads / width;
    compute.each(Stage::Attend, outs.parts(), |hand, i| {
        let (first_row, head) = (i / across * run, i % across * width);
        let mut out = outs.take(i);
        let places = &context.places[first_row..][..out.rows()];
        hand.query.clear();
        for row in 0..out.rows() {
            let rotated = q[((first_row + row) * heads + head) * q_dim..].chunks_exact(q_dim);
            for (absorbed, q) in out.row(row).chunks_exact(kv_rank).zip(rotated) {
                hand.query.extend(absorbed);
                hand.query.extend(&q[nope_dim..]);
            }
        }
        let stride = width * (kv_rank + rope_dim);
        for rows in runs(places) {
            let place = &places[rows.start];
            let queries = Queries {
                q: &hand.query[rows.start * stride..],
                stride,
                heads: width,
                scale,
                end: place.position + 1,
                window: context.config.layers[context.layer].window,
                sinks: None,
            };
            let view = context.view(arena, place, 0);
            kernels.attend(&queries, &view, &mut out.some(rows), &mut hand.attend);
        }
    });
    compute.finish(Stage::Attend, seen);

    let seen = &*seen;
    let out = all.reset(rows, heads * value_dim, parts.o.forms());
    let outs = Shares::by_columns(out, heads * value_dim, value_dim);
    compute.each(Stage::Attend, heads, |hand, head| {
        let (up, tokens) = (&parts.v_up[head], &of_head[head * rows..][..rows]);
        let panels = 0..up.weight.panel_count();
        product(&kernels, hand, Weights::of(up), panels, seen, Some(tokens), &mut outs.take(head));
    });
    compute.finish(Stage::Attend, all);
}

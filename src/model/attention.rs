//! Attention of one layer for the rows of a step.
//!
//! The keys and values of all rows are stored first and every row then looks back from its own
//! position, so a chunk of prompt and a single token take identical steps.

use super::compute::Compute;
use super::config::{Attention as Shape, AttentionKind, Config, QkNorm, RopeTable};
use super::kv::KvShape;
use super::parts::{Attention, Grouped, Latent, LatentQuery, LowRank};
use crate::base::limits::PAGE;
use crate::math::{Activations, AttentionScratch, KvView, RopeStyle, store_k, store_v};

/// Where a row of the batch stands in its own sequence.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    pub position: usize,
    /// Pages of its sequence, by position.
    pub pages: &'a [u32],
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
    head: Activations,
    absorbed: Vec<f32>,
    query: Vec<f32>,
    attend: AttentionScratch,
}

/// What attention needs beside the layer's weights.
pub struct Context<'a> {
    pub config: &'a Config,
    pub kv: &'a KvShape,
    pub rope: &'a RopeTable,
    pub layer: usize,
}

impl Context<'_> {
    /// First position that a query at `position` sees in this layer.
    fn first_seen(&self, position: usize) -> usize {
        match self.config.layers[self.layer].window {
            Some(window) => (position + 1).saturating_sub(window),
            None => 0,
        }
    }

    fn rope_style(&self) -> RopeStyle {
        self.config.rope.style
    }

    fn store(&self, arena: &mut [f32], place: &Place, head: usize, key: &[f32], value: &[f32]) {
        let page = place.pages[place.position / PAGE] as usize;
        let slot = place.position % PAGE;
        let page = &mut arena[page * self.kv.page_floats..(page + 1) * self.kv.page_floats];
        let (k_at, v_at) = (self.kv.k_at(self.layer, head), self.kv.v_at(self.layer, head));
        store_k(&mut page[k_at..k_at + self.kv.key_dim * PAGE], slot, key);
        store_v(&mut page[v_at..v_at + self.kv.value_dim * PAGE], slot, value);
    }

    fn view<'b>(&self, arena: &'b [f32], place: &Place<'b>, head: usize) -> KvView<'b> {
        KvView {
            arena,
            pages: place.pages,
            page_floats: self.kv.page_floats,
            k_at: self.kv.k_at(self.layer, head),
            v_at: self.kv.v_at(self.layer, head),
            d: self.kv.key_dim,
            dv: self.kv.value_dim,
        }
    }
}

/// `x` (normed, `[rows][hidden]`) through attention; `out` becomes `[rows][hidden]`.
#[allow(clippy::too_many_arguments)]
pub fn attention(
    compute: &mut Compute,
    context: &Context,
    scratch: &mut Scratch,
    arena: &mut [f32],
    places: &[Place],
    attention: &Attention,
    x: &mut Activations,
    out: &mut Vec<f32>,
) {
    match attention {
        Attention::Grouped(parts) => {
            grouped(compute, context, scratch, arena, places, parts, x);
            compute.linear(&parts.o, &mut scratch.heads, out);
        }
        Attention::Latent(parts) => {
            latent(compute, context, scratch, arena, places, parts, x);
            compute.linear(&parts.o, &mut scratch.heads, out);
        }
    }
}

fn grouped(
    compute: &mut Compute,
    context: &Context,
    scratch: &mut Scratch,
    arena: &mut [f32],
    places: &[Place],
    parts: &Grouped,
    x: &mut Activations,
) {
    let Shape { heads, kind, scale, clip, .. } = &context.config.attention;
    let AttentionKind::Grouped { kv_heads, key_dim, value_dim, qk_norm } = *kind else {
        unreachable!("grouped weights come with a grouped config")
    };
    let Scratch { q, k, v, .. } = scratch;
    compute.linear(&parts.q, x, q);
    compute.linear(&parts.k, x, k);
    compute.linear(&parts.v, x, v);

    let kernels = compute.kernels;
    let eps = context.config.norm_eps;
    for (values, weight) in [(&mut *q, &parts.q_norm), (&mut *k, &parts.k_norm)] {
        if let (Some(weight), true) = (weight, qk_norm != QkNorm::None) {
            compute.norm(values, weight, eps);
        }
    }
    if let Some(limit) = clip {
        for value in q.iter_mut().chain(k.iter_mut()).chain(v.iter_mut()) {
            *value = value.clamp(-limit, *limit);
        }
    }
    let style = context.rope_style();
    for (i, place) in places.iter().enumerate() {
        let (cos, sin) = context.rope.at(place.position);
        let row = |dims: usize| i * dims..(i + 1) * dims;
        for head in q[row(heads * key_dim)].chunks_exact_mut(key_dim) {
            kernels.rope(head, cos, sin, style);
        }
        for head in k[row(kv_heads * key_dim)].chunks_exact_mut(key_dim) {
            kernels.rope(head, cos, sin, style);
        }
        let keys = k[row(kv_heads * key_dim)].chunks_exact(key_dim);
        let values = v[row(kv_heads * value_dim)].chunks_exact(value_dim);
        for (head, (key, value)) in keys.zip(values).enumerate() {
            context.store(arena, place, head, key, value);
        }
    }

    let group = heads / kv_heads;
    let out = scratch.heads.reset(places.len(), heads * value_dim);
    let outs = out.chunks_exact_mut(value_dim);
    for (i, (query, out)) in scratch.q.chunks_exact(key_dim).zip(outs).enumerate() {
        let (place, head) = (&places[i / heads], i % heads);
        let view = context.view(arena, place, head / group);
        let sink = parts.sinks.as_ref().map(|sinks| sinks[head]);
        let (first, len) = (context.first_seen(place.position), place.position + 1);
        kernels.attend(query, *scale, &view, first, len, sink, out, &mut scratch.attend);
    }
}

fn latent(
    compute: &mut Compute,
    context: &Context,
    scratch: &mut Scratch,
    arena: &mut [f32],
    places: &[Place],
    parts: &Latent,
    x: &mut Activations,
) {
    let Shape { heads, ref kind, scale, .. } = context.config.attention;
    let AttentionKind::Latent { kv_rank, nope_dim, rope_dim, value_dim, latent_eps, .. } = *kind
    else {
        unreachable!("latent weights come with a latent config")
    };
    let kernels = compute.kernels;
    let style = context.rope_style();
    let Scratch { q, k, low_rank, head, absorbed, query, attend, .. } = scratch;
    match &parts.q {
        LatentQuery::Direct(linear) => compute.linear(linear, x, q),
        LatentQuery::LowRank(parts) => {
            let LowRank { a, norm, b } = &**parts;
            compute.linear(a, x, low_rank);
            compute.norm(low_rank, norm, latent_eps);
            head.copy_from(norm.len(), low_rank);
            compute.linear(b, head, q);
        }
    }
    compute.linear(&parts.kv_a, x, k);

    let q_dim = nope_dim + rope_dim;
    for (i, place) in places.iter().enumerate() {
        let (cos, sin) = context.rope.at(place.position);
        for head in q[i * heads * q_dim..(i + 1) * heads * q_dim].chunks_exact_mut(q_dim) {
            kernels.rope(&mut head[nope_dim..], cos, sin, style);
        }
        let key = &mut k[i * (kv_rank + rope_dim)..(i + 1) * (kv_rank + rope_dim)];
        let (compressed, rotated) = key.split_at_mut(kv_rank);
        compute.norm(compressed, &parts.kv_norm, latent_eps);
        kernels.rope(rotated, cos, sin, style);
        context.store(arena, place, 0, key, &key[..kv_rank]);
    }

    // One form for prompt and answer alike: queries are carried into the compressed space, and
    // what they saw there is carried back.
    let rows = places.len();
    scratch.heads.reset(rows, heads * value_dim);
    for h in 0..heads {
        let nope = head.reset(rows, nope_dim);
        for (to, from) in nope.chunks_exact_mut(nope_dim).zip(q[h * q_dim..].chunks(heads * q_dim))
        {
            to.copy_from_slice(&from[..nope_dim]);
        }
        compute.matrix(&parts.k_up[h], head, absorbed);
        let seen = head.reset(rows, kv_rank);
        for (i, place) in places.iter().enumerate() {
            let rotated = i * heads * q_dim + h * q_dim + nope_dim;
            query.clear();
            query.extend(&absorbed[i * kv_rank..(i + 1) * kv_rank]);
            query.extend(&q[rotated..rotated + rope_dim]);
            let view = context.view(arena, place, 0);
            let (first, len) = (context.first_seen(place.position), place.position + 1);
            let out = &mut seen[i * kv_rank..(i + 1) * kv_rank];
            kernels.attend(query, scale, &view, first, len, None, out, attend);
        }
        compute.matrix(&parts.v_up[h], head, absorbed);
        let all = scratch.heads.values_mut();
        for (i, from) in absorbed.chunks_exact(value_dim).enumerate() {
            let at = i * heads * value_dim + h * value_dim;
            all[at..at + value_dim].copy_from_slice(from);
        }
    }
}

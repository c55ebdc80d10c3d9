//! Attention one number at a time, in the order that `math/attention.rs` states.

use std::ops::Range;

use super::{LANES, exp_of, fold, max};
use crate::base::limits::{ATTENTION_BLOCK, ATTENTION_SEGMENT, PAGE};
use crate::math::attention::{AttentionScratch, Queries};
use crate::math::columns::Columns;
use crate::math::pages::{KvFormat, KvView};

struct Part {
    m: f32,
    l: f32,
    o: Vec<f32>,
}

pub(in crate::math) fn attend(
    queries: &Queries,
    kv: &KvView,
    out: &mut Columns,
    _: &mut AttentionScratch,
) {
    assert_eq!(out.cols(), queries.heads * kv.dv, "each head has its place in the output");
    for position in 0..out.rows() {
        for head in 0..queries.heads {
            let query = Query {
                q: queries.query(position, head, kv.d),
                scale: queries.scale,
                seen: queries.seen(position),
            };
            let sink = queries.sinks.map(|sinks| sinks[head]);
            let out = &mut out.row(position)[head * kv.dv..][..kv.dv];
            alone(&query, kv, sink, out);
        }
    }
}

/// One query, which knows nothing of the others.
struct Query<'a> {
    q: &'a [f32],
    scale: f32,
    seen: Range<usize>,
}

fn alone(query: &Query, kv: &KvView, sink: Option<f32>, out: &mut [f32]) {
    let mut total: Option<Part> = None;
    for segment in 0..query.seen.end.div_ceil(ATTENTION_SEGMENT) {
        let at = segment * ATTENTION_SEGMENT;
        let seen: Vec<usize> =
            (at..at + ATTENTION_SEGMENT).filter(|i| query.seen.contains(i)).collect();
        if seen.is_empty() {
            continue;
        }
        let part = reduce(query, kv, &seen);
        total = Some(match total {
            None => part,
            Some(total) => merge(total, part),
        });
    }
    let Some(mut total) = total else {
        out.fill(0.0);
        return;
    };
    if let Some(sink) = sink {
        let m = max(total.m, sink);
        let a = exp_of(total.m - m);
        total.l = total.l.mul_add(a, exp_of(sink - m));
        for o in &mut total.o {
            *o *= a;
        }
    }
    for (out, o) in out.iter_mut().zip(total.o) {
        *out = o / total.l;
    }
}

fn merge(total: Part, part: Part) -> Part {
    let m = max(total.m, part.m);
    let (a, b) = (exp_of(total.m - m), exp_of(part.m - m));
    let o = total.o.iter().zip(&part.o).map(|(t, p)| t.mul_add(a, p * b)).collect();
    Part { m, l: total.l.mul_add(a, part.l * b), o }
}

/// The seen positions of one segment.
fn reduce(query: &Query, kv: &KvView, seen: &[usize]) -> Part {
    let mut part = Part { m: f32::NEG_INFINITY, l: 0.0, o: vec![0.0; kv.dv] };
    for block in seen.chunk_by(|a, b| a / ATTENTION_BLOCK == b / ATTENTION_BLOCK) {
        let mut scores = [f32::NEG_INFINITY; ATTENTION_BLOCK];
        for &i in block {
            let keys = kv.keys(i / PAGE);
            let mut dot = 0.0f32;
            for d in 0..kv.d {
                dot = query.q[d].mul_add(number(kv.format, keys, d * PAGE + i % PAGE), dot);
            }
            scores[i % ATTENTION_BLOCK] = match kv.format {
                KvFormat::F32 => dot * query.scale,
                KvFormat::Int8 => dot * (scale(keys, i) * query.scale),
            };
        }
        let mut lanes = [0.0; LANES];
        for (j, lane) in lanes.iter_mut().enumerate() {
            *lane = scores[j];
            for page in 1..ATTENTION_BLOCK / PAGE {
                *lane = max(*lane, scores[page * PAGE + j]);
            }
        }
        let m = max(part.m, fold(lanes, max));
        let c = exp_of(part.m - m);
        let p = scores.map(|s| exp_of(s - m));
        for (j, lane) in lanes.iter_mut().enumerate() {
            *lane = ((p[j] + p[PAGE + j]) + p[2 * PAGE + j]) + p[3 * PAGE + j];
        }
        part.l = part.l.mul_add(c, fold(lanes, |a, b| a + b));
        part.m = m;
        for j in 0..kv.dv {
            part.o[j] *= c;
            for &i in block {
                let values = kv.values(i / PAGE);
                let v = number(kv.format, values, i % PAGE * kv.dv + j);
                let weight = match kv.format {
                    KvFormat::F32 => p[i % ATTENTION_BLOCK],
                    KvFormat::Int8 => p[i % ATTENTION_BLOCK] * scale(values, i),
                };
                part.o[j] = weight.mul_add(v, part.o[j]);
            }
        }
    }
    part
}

/// A number of a room, or its code.
fn number(format: KvFormat, room: &[f32], at: usize) -> f32 {
    match format {
        KvFormat::F32 => room[at],
        KvFormat::Int8 => room[at / 4].to_bits().to_ne_bytes()[at % 4] as i8 as f32,
    }
}

/// The scale of a position: the last 16 floats of its room are.
fn scale(room: &[f32], position: usize) -> f32 {
    room[room.len() - PAGE + position % PAGE]
}

//! What a step works in, for the largest batch it may be given: an upper bound, buffer by buffer,
//! of what `engine::step` and the parts of `model` allocate.

use super::Ask;
use crate::base::limits::{LANES, PAGE, PANEL_ROWS};
use crate::model::config::{AttentionKind, Config, Ffn};
use crate::model::experts::WINDOW_BYTES;

const WINDOW: u64 = WINDOW_BYTES as u64;

const F32: u64 = 4;
/// Chunks of a stage for each shard.
const CHUNKS: u64 = 16;

/// Bytes for chunks of `chunk` prompt tokens and a context of so many positions.
pub fn bytes(config: &Config, ask: &Ask, context: usize, chunk: usize) -> u64 {
    let sessions = ask.sessions.max(1) as u64;
    // Those who decode are in the same step as a chunk.
    let rows = chunk as u64 + sessions;
    let (hidden, vocab) = (config.hidden as u64, config.vocab as u64);
    let wanted = if ask.every_logit { rows } else { sessions };
    let stream = rows * hidden * F32 + activations(rows, hidden) + wanted * vocab * F32;
    // A session keeps the logits it chooses from, their order and their weights.
    let sampling = sessions * vocab * (4 + 8 + 4);
    // Tables of positions, lists of pages and tokens.
    let (context, pairs) = (context as u64, config.rope.pairs() as u64);
    let positions = context * (2 * pairs * F32 + 16) + context.div_ceil(PAGE as u64) * 8;
    let sum = stream
        + sampling
        + positions
        + rows * 24
        + attention(config, rows)
        + feed_forward(config, rows)
        + hands(config, rows, ask.cores.max(1) as u64);
    // What an allocator loses between buffers.
    sum + sum / 64 + (1 << 20)
}

/// Rows in floats and in both 8-bit forms.
fn activations(rows: u64, cols: u64) -> u64 {
    let values = rows * cols;
    // Codes; sums of half blocks; scales.
    let small = values + values.div_ceil(32) * 4 + values.div_ceil(32) * 4;
    let large = values + values.div_ceil(32) * 4 + values.div_ceil(256) * 4;
    values * F32 + small + large
}

fn attention(config: &Config, rows: u64) -> u64 {
    let heads = config.attention.heads as u64;
    match config.attention.kind {
        AttentionKind::Grouped { kv_heads, key_dim, value_dim, .. } => {
            let (kv_heads, key, value) = (kv_heads as u64, key_dim as u64, value_dim as u64);
            rows * (heads * key + kv_heads * (key + value)) * F32 + activations(rows, heads * value)
        }
        AttentionKind::Latent { q_rank, kv_rank, nope_dim, rope_dim, value_dim, .. } => {
            let (nope, rope, rank) = (nope_dim as u64, rope_dim as u64, kv_rank as u64);
            let q_rank = q_rank.unwrap_or(0) as u64;
            rows * (heads * (nope + rope) + rank + rope + q_rank + heads) * F32
                + activations(rows, q_rank)
                + activations(rows * heads, nope)
                + activations(rows * heads, rank)
                + activations(rows, heads * value_dim as u64)
        }
    }
}

/// Gates, ups and what becomes of them, of dense blocks and of a window of experts in the same
/// buffers, of shared experts in others; answers; routes.
fn feed_forward(config: &Config, rows: u64) -> u64 {
    let dense = config.layers.iter().filter_map(|layer| match layer.ffn {
        Ffn::Dense { width } => Some(rows * width as u64),
        Ffn::Experts => None,
    });
    let dense = dense.max().unwrap_or(0);
    let (mut routed, mut rest) = (0, 0);
    if let Some(experts) = &config.experts {
        let (width, hidden) = (experts.width as u64, config.hidden as u64);
        let (used, count) = (experts.used as u64, experts.count as u64);
        let window = |cols: u64| (rows * used * cols).min((WINDOW / F32).max(rows * cols));
        routed = window(width);
        rest += window(hidden) * F32;
        rest += rows * count * F32 + rows * used * (8 + 4 + 4 + 4) + count * 16;
        if let Some(shared) = &experts.shared {
            let width = shared.width as u64;
            rest += 2 * rows * width * F32 + activations(rows, width) + rows * F32;
        }
    }
    let middle = dense.max(routed);
    2 * middle * F32 + activations(1, middle) + rest
}

/// What the shards have of their own: a product's columns on their way into a sum, and beside
/// them those of one expert.
fn hands(config: &Config, rows: u64, cores: u64) -> u64 {
    let hidden = config.hidden as u64;
    let columns = match cores {
        1 => hidden,
        _ => {
            let panels = hidden.div_ceil(PANEL_ROWS as u64);
            let run = panels.div_ceil(cores * CHUNKS).next_multiple_of(2);
            (run * PANEL_ROWS as u64).min(hidden.next_multiple_of(LANES as u64))
        }
    };
    let absorbed = match config.attention.kind {
        AttentionKind::Latent { kv_rank, rope_dim, .. } => {
            rows.max(16) * kv_rank as u64 + (kv_rank + rope_dim) as u64
        }
        AttentionKind::Grouped { .. } => 0,
    };
    // Small batches are cut less finely; they fill what they take of it less.
    let floats = (2 * rows * columns).max(absorbed).max(64 << 10);
    cores * floats * F32
}

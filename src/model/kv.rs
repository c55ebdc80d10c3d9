//! How a page of 16 positions is laid out: for each layer and each key-value head a key part,
//! one lane per position, and a value part, one row per position.

use super::config::{AttentionKind, Config};
use crate::base::limits::PAGE;

/// Sizes, in floats, of one KV page of a model.
#[derive(Clone, Debug)]
pub struct KvShape {
    pub heads: usize,
    /// Length of a key. Latent attention keeps the compressed vector followed by the rotated part.
    pub key_dim: usize,
    /// Length of a value. Latent attention's values are the compressed vector again, by rows.
    pub value_dim: usize,
    pub page_floats: usize,
}

impl KvShape {
    pub fn new(config: &Config) -> KvShape {
        let (heads, key_dim, value_dim) = match config.attention.kind {
            AttentionKind::Grouped { kv_heads, key_dim, value_dim, .. } => {
                (kv_heads, key_dim, value_dim)
            }
            AttentionKind::Latent { kv_rank, rope_dim, .. } => (1, kv_rank + rope_dim, kv_rank),
        };
        let page_floats = config.layers.len() * heads * (key_dim + value_dim) * PAGE;
        KvShape { heads, key_dim, value_dim, page_floats }
    }

    /// Where the keys `[key_dim][16]` of a layer's head begin in a page.
    pub fn k_at(&self, layer: usize, head: usize) -> usize {
        (layer * self.heads + head) * (self.key_dim + self.value_dim) * PAGE
    }

    /// Where the values `[16][value_dim]` begin.
    pub fn v_at(&self, layer: usize, head: usize) -> usize {
        self.k_at(layer, head) + self.key_dim * PAGE
    }
}

//! How a page of 16 positions is laid out: for each layer and each key-value head a key part,
//! one lane per position, and a value part, one row per position.

use super::config::{AttentionKind, Config};
use crate::math::KvFormat;

/// Sizes, in floats, of one KV page of a model.
#[derive(Clone, Debug)]
pub struct KvShape {
    pub format: KvFormat,
    pub heads: usize,
    /// Length of a key. Latent attention keeps the compressed vector followed by the rotated part.
    pub key_dim: usize,
    /// Length of a value. Latent attention's values are the compressed vector again, by rows.
    pub value_dim: usize,
    pub page_floats: usize,
}

impl KvShape {
    pub fn new(config: &Config, format: KvFormat) -> KvShape {
        let (heads, key_dim, value_dim) = match config.attention.kind {
            AttentionKind::Grouped { kv_heads, key_dim, value_dim, .. } => {
                (kv_heads, key_dim, value_dim)
            }
            AttentionKind::Latent { kv_rank, rope_dim, .. } => (1, kv_rank + rope_dim, kv_rank),
        };
        let mut shape = KvShape { format, heads, key_dim, value_dim, page_floats: 0 };
        shape.page_floats = shape.k_at(config.layers.len(), 0);
        shape
    }

    /// Bytes of a page.
    pub fn page_bytes(&self) -> u64 {
        (self.page_floats * size_of::<f32>()) as u64
    }

    /// Floats of a head's part of a layer: the room of its keys, then that of its values.
    pub fn head_floats(&self) -> usize {
        self.key_floats() + self.format.room(self.value_dim)
    }

    /// Floats of the room of keys.
    pub fn key_floats(&self) -> usize {
        self.format.room(self.key_dim)
    }

    /// Where the keys of a layer's head begin in a page.
    pub fn k_at(&self, layer: usize, head: usize) -> usize {
        (layer * self.heads + head) * self.head_floats()
    }

    /// Where the values begin.
    pub fn v_at(&self, layer: usize, head: usize) -> usize {
        self.k_at(layer, head) + self.key_floats()
    }
}

//! What a model is, as numbers: one decoder described by data.
//!
//! Families differ only in the fields of [`Config`]; what computes never asks for a family's name.
//! Only `import` does, for the names that its checkpoints give to tensors.
//! `hf` reads the fields from `config.json`, `gguf` from GGUF metadata; both follow the family's
//! own reference implementation where a key is absent.

mod fields;
mod gguf;
mod hf;
mod rope;
#[cfg(test)]
mod tests;

use std::fmt;

use crate::weights::{Error, Result, Source};

pub use rope::{Rope, RopeTable, Scaling};

/// The families this engine runs. Behaviour is in [`Config`]; the name is for people and for
/// finding tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Llama,
    Mistral,
    Mixtral,
    Qwen2,
    Qwen2Moe,
    Qwen3,
    Qwen3Moe,
    Olmoe,
    GptOss,
    DeepseekV2,
    DeepseekV3,
    Glm4Moe,
}

/// Every family with its name in `config.json` (`model_type`) and in GGUF
/// (`general.architecture`), best known first.
const FAMILIES: [(Family, &str, &str); 12] = [
    (Family::Llama, "llama", "llama"),
    (Family::Mistral, "mistral", "llama"),
    (Family::Mixtral, "mixtral", "llama"),
    (Family::Qwen2, "qwen2", "qwen2"),
    (Family::Qwen2Moe, "qwen2_moe", "qwen2moe"),
    (Family::Qwen3, "qwen3", "qwen3"),
    (Family::Qwen3Moe, "qwen3_moe", "qwen3moe"),
    (Family::Olmoe, "olmoe", "olmoe"),
    (Family::GptOss, "gpt_oss", "gpt-oss"),
    (Family::DeepseekV2, "deepseek_v2", "deepseek2"),
    (Family::DeepseekV3, "deepseek_v3", "deepseek2"),
    (Family::Glm4Moe, "glm4_moe", "glm4moe"),
];

impl Family {
    /// The family a `config.json` names by `model_type`.
    pub fn from_model_type(name: &str) -> Option<Family> {
        // Kimi K2 is DeepSeek V3 with other numbers and says so in its own code.
        let name = if name == "kimi_k2" { "deepseek_v3" } else { name };
        FAMILIES.iter().find(|f| f.1 == name).map(|f| f.0)
    }

    /// The family a GGUF file names by `general.architecture`; where several share the name the
    /// reader tells them apart by other keys.
    pub fn from_architecture(name: &str) -> Option<Family> {
        FAMILIES.iter().find(|f| f.2 == name).map(|f| f.0)
    }

    pub fn name(self) -> &'static str {
        FAMILIES.iter().find(|f| f.0 == self).map_or("?", |f| f.1)
    }

    /// `llama, mistral, mixtral, …` for the sentence that refuses an unknown family.
    pub fn known() -> String {
        FAMILIES.map(|f| f.1).join(", ")
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A model's shape.
#[derive(Clone, Debug)]
pub struct Config {
    pub family: Family,
    pub hidden: usize,
    pub vocab: usize,
    /// Positions the model was trained for.
    pub context: usize,
    pub norm_eps: f32,
    pub attention: Attention,
    pub rope: Rope,
    pub activation: Activation,
    pub layers: Vec<Layer>,
    /// The routed experts of every layer that has them.
    pub experts: Option<Experts>,
}

/// What differs from layer to layer.
#[derive(Clone, Copy, Debug)]
pub struct Layer {
    /// A query sees itself and this many positions less one before it; `None`: all of them.
    pub window: Option<usize>,
    pub ffn: Ffn,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ffn {
    Dense { width: usize },
    Experts,
}

#[derive(Clone, Debug)]
pub struct Attention {
    pub heads: usize,
    pub kind: AttentionKind,
    /// Multiplies q·k.
    pub scale: f32,
    /// q, k and v are clamped to ±this after projection (OLMoE's `clip_qkv`).
    pub clip: Option<f32>,
    /// Each head has a learned logit that takes part in the softmax and brings no value.
    pub sinks: bool,
}

#[derive(Clone, Debug)]
pub enum AttentionKind {
    /// Query heads in groups that share a key and value head.
    Grouped { kv_heads: usize, key_dim: usize, value_dim: usize, qk_norm: QkNorm },
    /// Multi-head latent attention: one compressed key-value vector for all heads.
    Latent {
        /// Rank of the compressed query; `None` where queries are projected directly.
        q_rank: Option<usize>,
        kv_rank: usize,
        nope_dim: usize,
        rope_dim: usize,
        value_dim: usize,
        /// Epsilon of the norms on the compressed vectors.
        latent_eps: f32,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkNorm {
    None,
    /// Each head is normed alone with one shared weight (Qwen3, GLM-4).
    PerHead,
    /// All heads together (OLMoE).
    Whole,
}

/// The gate of a feed-forward block.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// `silu(gate) · up`
    Silu,
    /// gpt-oss: `(clamp(up) + 1) · min(gate, limit) · sigmoid(alpha · gate)`
    ClampedSwiglu { alpha: f32, limit: f32 },
}

#[derive(Clone, Debug)]
pub struct Experts {
    pub count: usize,
    /// Experts each token goes to.
    pub used: usize,
    pub width: usize,
    pub router: Router,
    pub shared: Option<Shared>,
}

#[derive(Clone, Debug)]
pub struct Router {
    pub score: Score,
    /// The chosen experts' weights are divided by their sum.
    pub normalise: bool,
    /// Then multiplied by this.
    pub scale: f32,
    pub groups: Option<Groups>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Score {
    /// Softmax over all experts, then the choice.
    Softmax,
    /// Sigmoid of each expert's logit; a correction bias may steer the choice, not the weight.
    Sigmoid,
    /// The choice by logit, then softmax over the chosen ones (gpt-oss).
    SoftmaxOfChosen,
}

/// Experts are chosen from the best groups only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Groups {
    pub count: usize,
    pub kept: usize,
    pub by: GroupScore,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupScore {
    /// A group is as good as its best expert (DeepSeek V2).
    Best,
    /// … as the sum of its two best (DeepSeek V3, GLM-4).
    TwoBest,
}

/// Experts that every token goes to, packed as one.
#[derive(Clone, Copy, Debug)]
pub struct Shared {
    pub width: usize,
    /// Its output is multiplied by the sigmoid of a learned gate (Qwen2-MoE).
    pub gated: bool,
}

impl Config {
    /// Refuses numbers that contradict each other; `bad` makes the error from field and reason.
    /// Called by both readers, so that nothing behind them needs to doubt a config.
    fn check(self, bad: impl Fn(&str, String) -> Error) -> Result<Config> {
        let bad = |field: &str, reason: String| Err(bad(field, reason));
        let heads = self.attention.heads;
        for (field, value, most) in [
            ("hidden size", self.hidden, 1 << 20),
            ("vocabulary size", self.vocab, 1 << 24),
            ("number of layers", self.layers.len(), 4096),
            ("number of attention heads", heads, 1 << 16),
            ("context length", self.context, 1 << 30),
        ] {
            if value == 0 || value > most {
                return bad(field, format!("{value} is not between 1 and {most}"));
            }
        }
        if !(0.0..=1.0).contains(&self.norm_eps) {
            return bad("norm epsilon", format!("{} is not between 0 and 1", self.norm_eps));
        }
        let rope_space = match self.attention.kind {
            AttentionKind::Grouped { kv_heads, key_dim, value_dim, .. } => {
                if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
                    let reason = format!("{kv_heads} does not divide the {heads} query heads");
                    return bad("number of key-value heads", reason);
                }
                for (field, dim) in [("key length", key_dim), ("value length", value_dim)] {
                    if dim == 0 || dim > 1 << 16 {
                        return bad(field, format!("{dim} is not between 1 and 65536"));
                    }
                }
                key_dim
            }
            AttentionKind::Latent { q_rank, kv_rank, nope_dim, rope_dim, value_dim, .. } => {
                for (field, dim) in [
                    ("query rank", q_rank.unwrap_or(1)),
                    ("key-value rank", kv_rank),
                    ("key length without rope", nope_dim),
                    ("rope length", rope_dim),
                    ("value length", value_dim),
                ] {
                    if dim == 0 || dim > 1 << 16 {
                        return bad(field, format!("{dim} is not between 1 and 65536"));
                    }
                }
                rope_dim
            }
        };
        if 2 * self.rope.pairs() > rope_space {
            let reason = format!("{} in pairs do not fit into {rope_space}", self.rope.dims);
            return bad("rotated dimensions", reason);
        }
        if !self.attention.scale.is_finite() {
            return bad("attention scale", format!("{} is not a number", self.attention.scale));
        }
        for layer in &self.layers {
            if let Ffn::Dense { width } = layer.ffn
                && (width == 0 || width > 1 << 24)
            {
                return bad("feed-forward width", format!("{width} is not between 1 and 2^24"));
            }
            if layer.window == Some(0) {
                return bad("sliding window", "0 would leave a token nothing to look at".into());
            }
        }
        if self.layers.iter().any(|l| l.ffn == Ffn::Experts) {
            let Some(e) = &self.experts else {
                return bad("number of experts", "missing".into());
            };
            if e.count == 0 || e.count > 1 << 16 {
                return bad("number of experts", format!("{} is not in 1..=65536", e.count));
            }
            if e.used == 0 || e.used > e.count {
                let reason = format!("{} is not between 1 and the {} there are", e.used, e.count);
                return bad("experts per token", reason);
            }
            if e.width == 0 || e.width > 1 << 24 || e.shared.is_some_and(|s| s.width > 1 << 24) {
                return bad("expert width", format!("{} is not between 1 and 2^24", e.width));
            }
            if let Some(g) = e.router.groups {
                if g.count == 0 || !e.count.is_multiple_of(g.count) {
                    let reason = format!("{} does not divide the {} experts", g.count, e.count);
                    return bad("number of expert groups", reason);
                }
                if g.kept == 0 || g.kept > g.count {
                    return bad("expert groups kept", format!("{} of {}", g.kept, g.count));
                }
                if g.kept * (e.count / g.count) < e.used {
                    let reason = format!("{} groups hold fewer than {} experts", g.kept, e.used);
                    return bad("expert groups kept", reason);
                }
            }
        }
        Ok(self)
    }
}

/// The shape of a model, from its headers.
pub fn read(source: &Source) -> Result<Config> {
    match source {
        Source::Gguf(file) => gguf::read(file),
        Source::Folder(folder) => hf::read(&folder.config_path(), folder.config()),
    }
}

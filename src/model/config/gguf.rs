//! A [`Config`] from GGUF metadata.
//!
//! Where GGUF has no key for something a family does (gpt-oss's alternating windows, OLMoE's
//! unnormalised routing), the value is the family's own. Whether an optional part is there at all
//! (biases, query and key norms) is seen from the tensors.

use super::{
    Activation, Attention, AttentionKind, Config, Experts, Family, Ffn, GroupScore, Groups, Layer,
    QkNorm, Rope, Router, Scaling, Score, Shared, rope::yarn_growth,
};
use crate::math::RopeStyle;
use crate::weights::gguf::{Gguf, Metadata};
use crate::weights::{Error, Result, vector};

pub fn read(file: &Gguf) -> Result<Config> {
    let meta = file.metadata();
    let name = meta.string("general.architecture")?;
    let family = Family::from_architecture(name).ok_or_else(|| {
        let reason = format!(
            "the family {name:?} is not one this engine knows; it knows {}",
            Family::known()
        );
        meta.bad("general.architecture", reason)
    })?;
    let blocks = meta.u32(&format!("{name}.block_count"))? as usize;
    let reader = Reader { file, meta, arch: name, family, blocks };
    Reader { family: reader.refine()?, ..reader }.read()
}

struct Reader<'a> {
    file: &'a Gguf,
    meta: &'a Metadata,
    arch: &'a str,
    family: Family,
    /// All blocks in the file, those that only predict further tokens included.
    blocks: usize,
}

/// Values of `expert_gating_func`.
const GATE_SOFTMAX: usize = 1;
const GATE_SIGMOID: usize = 2;
const GATE_SOFTMAX_OF_CHOSEN: usize = 3;

impl Reader<'_> {
    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.arch)
    }

    fn size(&self, key: &str) -> Result<Option<usize>> {
        Ok(self.meta.u32_opt(&self.key(key))?.map(|n| n as usize))
    }

    fn need_size(&self, key: &str) -> Result<usize> {
        Ok(self.meta.u32(&self.key(key))? as usize)
    }

    fn number(&self, key: &str) -> Result<Option<f64>> {
        Ok(self.meta.f32_opt(&self.key(key))?.map(f64::from))
    }

    fn bad(&self, key: &str, reason: impl Into<String>) -> Error {
        self.meta.bad(&self.key(key), reason)
    }

    /// A value that may be given once or per layer.
    fn per_layer(&self, key: &str) -> Result<Option<Vec<usize>>> {
        let values = self.meta.u32_per_layer_opt(&self.key(key), self.blocks)?;
        Ok(values.map(|v| v.into_iter().map(|n| n as usize).collect()))
    }

    fn has(&self, tensor: &str) -> bool {
        self.file.tensor(tensor).is_some()
    }

    /// Families that share an architecture name are told apart by what they have.
    fn refine(&self) -> Result<Family> {
        Ok(match self.family {
            Family::Llama if self.size("expert_count")?.unwrap_or(0) > 0 => Family::Mixtral,
            Family::DeepseekV2 if self.gate()? == Some(GATE_SIGMOID) => Family::DeepseekV3,
            family => family,
        })
    }

    fn gate(&self) -> Result<Option<usize>> {
        Ok(self.size("expert_gating_func")?.filter(|&g| g != 0))
    }

    fn is_latent(&self) -> bool {
        matches!(self.family, Family::DeepseekV2 | Family::DeepseekV3)
    }

    fn read(&self) -> Result<Config> {
        let blocks = self.blocks;
        // Blocks at the end that only predict further tokens take no part in the model proper.
        let extra = self.size("nextn_predict_layers")?.unwrap_or(0);
        if blocks > 4096 || extra >= blocks {
            let reason = format!("{blocks} blocks, of which {extra} predict further tokens");
            return Err(self.bad("block_count", reason));
        }
        let count = blocks - extra;
        let hidden = self.need_size("embedding_length")?;
        let context = self.need_size("context_length")?;
        let norm_eps = self.meta.f32(&self.key("attention.layer_norm_rms_epsilon"))?;
        let embedding = self.file.require("token_embd.weight")?;
        let scaling = self.scaling(context as f64)?;
        let attention = self.attention(hidden, norm_eps, &scaling)?;
        let rope = self.rope(&attention, scaling)?;
        let config = Config {
            family: self.family,
            hidden,
            vocab: embedding.shape.first().copied().unwrap_or(0),
            context,
            norm_eps,
            attention,
            rope,
            activation: match self.family {
                Family::GptOss => Activation::ClampedSwiglu { alpha: 1.702, limit: 7.0 },
                _ => Activation::Silu,
            },
            layers: self.layers(count)?,
            experts: self.experts()?,
        };
        config.check(|field, reason| self.meta.bad(field, reason))
    }

    /// The one value of a setting that this engine wants equal in all layers.
    fn uniform(&self, key: &str) -> Result<Option<usize>> {
        let Some(values) = self.per_layer(key)? else { return Ok(None) };
        if values.iter().any(|v| *v != values[0]) {
            let reason = "differs from layer to layer, which this engine does not run";
            return Err(self.bad(key, reason));
        }
        Ok(values.first().copied())
    }

    fn attention(&self, hidden: usize, norm_eps: f32, scaling: &Yarn) -> Result<Attention> {
        let heads = self.uniform("attention.head_count")?;
        let Some(heads) = heads.filter(|&h| h > 0) else {
            return Err(self.bad("attention.head_count", "missing or zero"));
        };
        let clip = self.number("attention.clamp_kqv")?.filter(|&c| c > 0.0).map(|c| c as f32);
        if self.is_latent() {
            let rope_dim = self.need_size("rope.dimension_count")?;
            // Newer files give the lengths of the compressed form as key_length and those of
            // the heads as *_mla; older ones have the heads' under the plain names.
            let key = match self.size("attention.key_length_mla")? {
                Some(key) => key,
                None => self.need_size("attention.key_length")?,
            };
            let value_dim = match self.size("attention.value_length_mla")? {
                Some(value) => value,
                None => self.need_size("attention.value_length")?,
            };
            let Some(nope_dim) = key.checked_sub(rope_dim).filter(|&n| n > 0) else {
                let reason = format!("{key} leaves nothing beside {rope_dim} rotated dimensions");
                return Err(self.bad("attention.key_length", reason));
            };
            let growth = scaling.latent_growth;
            return Ok(Attention {
                heads,
                kind: AttentionKind::Latent {
                    q_rank: self.size("attention.q_lora_rank")?.filter(|&r| r > 0),
                    kv_rank: self.need_size("attention.kv_lora_rank")?,
                    nope_dim,
                    rope_dim,
                    value_dim,
                    latent_eps: norm_eps,
                },
                scale: ((key as f64).powf(-0.5) * growth * growth) as f32,
                clip,
                sinks: false,
            });
        }
        let kv_heads = self.uniform("attention.head_count_kv")?.unwrap_or(heads);
        let key_dim = self.size("attention.key_length")?.unwrap_or(hidden / heads);
        let value_dim = self.size("attention.value_length")?.unwrap_or(hidden / heads);
        let qk_norm = match self.family {
            Family::Olmoe => QkNorm::Whole,
            Family::Qwen3 | Family::Qwen3Moe => QkNorm::PerHead,
            _ if self.has("blk.0.attn_q_norm.weight") => QkNorm::PerHead,
            _ => QkNorm::None,
        };
        Ok(Attention {
            heads,
            kind: AttentionKind::Grouped { kv_heads, key_dim, value_dim, qk_norm },
            scale: (key_dim as f64).powf(-0.5) as f32,
            clip,
            sinks: self.family == Family::GptOss,
        })
    }

    fn rope(&self, attention: &Attention, scaling: Yarn) -> Result<Rope> {
        let whole = match attention.kind {
            AttentionKind::Grouped { key_dim, .. } => key_dim,
            AttentionKind::Latent { rope_dim, .. } => rope_dim,
        };
        let dims = self.size("rope.dimension_count")?.unwrap_or(whole);
        if dims > whole || !dims.is_multiple_of(2) {
            let reason = format!("{dims} must be even and at most {whole}");
            return Err(self.bad("rope.dimension_count", reason));
        }
        let base = self.number("rope.freq_base")?.unwrap_or(10_000.0);
        if base <= 1.0 || !base.is_finite() {
            let reason = format!("{base} is not greater than 1");
            return Err(self.bad("rope.freq_base", reason));
        }
        // The llama converter reorders rows so that rotated pairs are neighbours.
        let style = match self.arch {
            "llama" | "deepseek2" => RopeStyle::Interleaved,
            _ => RopeStyle::Halves,
        };
        let mut scaling = scaling.scaling;
        if let Some(tensor) = self.file.tensor("rope_freqs.weight") {
            let divisors = vector(tensor, dims / 2)?;
            if divisors.iter().any(|&d| !(d > 0.0 && d.is_finite())) {
                return Err(tensor.bad("expected positive numbers"));
            }
            if scaling == Scaling::None {
                scaling = Scaling::Divisors(divisors);
            }
        }
        Ok(Rope { dims, base, style, scaling })
    }

    fn scaling(&self, context: f64) -> Result<Yarn> {
        let plain = |scaling| Ok(Yarn { scaling, latent_growth: 1.0 });
        let kind = self.meta.string_opt(&self.key("rope.scaling.type"))?;
        // Very old files have the factor alone.
        let factor = match self.number("rope.scaling.factor")? {
            Some(factor) => Some(factor),
            None => self.number("rope.scale_linear")?,
        };
        let factor = factor.filter(|&f| f != 0.0);
        if factor.is_some_and(|f| !(f > 0.0 && f.is_finite())) {
            let reason = "is not a positive number";
            return Err(self.bad("rope.scaling.factor", reason));
        }
        match (kind, factor) {
            (None | Some("none"), None) | (Some("none"), _) => plain(Scaling::None),
            (None | Some("linear"), Some(factor)) => plain(Scaling::Linear { factor }),
            (Some("linear"), None) => plain(Scaling::None),
            (Some("yarn"), Some(factor)) => {
                let original =
                    self.positive("rope.scaling.original_context_length")?.unwrap_or(context);
                let beta = |name: &str, default| -> Result<f64> {
                    Ok(self.number(name)?.unwrap_or(default))
                };
                // DeepSeek's files carry a tenth of `mscale_all_dim`. Its `mscale` has the same
                // value in every published model, so the two cancel in the cosines and sines and
                // only the attention scale grows.
                let tenth = self.number("rope.scaling.yarn_log_multiplier")?.filter(|&m| m != 0.0);
                let (magnitude, latent_growth) = match tenth {
                    Some(tenth) if self.is_latent() => (1.0, yarn_growth(factor, tenth / 0.1)),
                    _ => (yarn_growth(factor, 1.0), 1.0),
                };
                let given = self.number("rope.scaling.attn_factor")?.unwrap_or(1.0);
                Ok(Yarn {
                    scaling: Scaling::Yarn {
                        factor,
                        original,
                        beta_fast: beta("rope.scaling.yarn_beta_fast", 32.0)?,
                        beta_slow: beta("rope.scaling.yarn_beta_slow", 1.0)?,
                        truncate: self.family != Family::GptOss,
                        magnitude: magnitude * given,
                    },
                    latent_growth,
                })
            }
            (Some("yarn"), None) => Err(self.bad("rope.scaling.factor", "missing")),
            (Some(other), _) => {
                let reason = format!(
                    "rope scaling {other:?} is not one this engine knows; it knows none, linear \
                     and yarn"
                );
                Err(self.bad("rope.scaling.type", reason))
            }
        }
    }

    fn positive(&self, key: &str) -> Result<Option<f64>> {
        Ok(self.size(key)?.map(|n| n as f64).filter(|&n| n >= 1.0))
    }

    fn layers(&self, count: usize) -> Result<Vec<Layer>> {
        let lead = match self.family {
            Family::Mixtral | Family::Olmoe | Family::GptOss => 0,
            Family::DeepseekV2 | Family::DeepseekV3 | Family::Glm4Moe => {
                self.size("leading_dense_block_count")?.unwrap_or(0)
            }
            Family::Qwen2Moe | Family::Qwen3Moe => 0,
            Family::Llama | Family::Mistral | Family::Qwen2 | Family::Qwen3 => count,
        };
        let widths = self.per_layer("feed_forward_length")?;
        let window = self.size("attention.sliding_window")?.filter(|&w| w > 0);
        let window = |i: usize| match self.family {
            // Every other layer looks back a short way only, beginning with the first.
            Family::GptOss => window.or(Some(128)).filter(|_| i.is_multiple_of(2)),
            _ => window,
        };
        (0..count)
            .map(|i| {
                // Some MoE files mark a dense layer by the lack of a router alone.
                let experts = i >= lead && self.has(&format!("blk.{i}.ffn_gate_inp.weight"));
                let ffn = match (experts, &widths) {
                    (true, _) => Ffn::Experts,
                    (false, Some(widths)) => Ffn::Dense { width: widths[i] },
                    (false, None) => {
                        return Err(self.bad("feed_forward_length", "missing"));
                    }
                };
                Ok(Layer { window: window(i), ffn })
            })
            .collect()
    }

    fn experts(&self) -> Result<Option<Experts>> {
        let score = match self.gate()? {
            None => match self.family {
                Family::Glm4Moe => Score::Sigmoid,
                Family::GptOss => Score::SoftmaxOfChosen,
                _ => Score::Softmax,
            },
            Some(GATE_SOFTMAX) => Score::Softmax,
            Some(GATE_SIGMOID) => Score::Sigmoid,
            Some(GATE_SOFTMAX_OF_CHOSEN) => Score::SoftmaxOfChosen,
            Some(other) => {
                let reason = format!("{other} is not 1 (softmax), 2 (sigmoid) or 3");
                return Err(self.bad("expert_gating_func", reason));
            }
        };
        let normalise = match self.meta.bool_opt(&self.key("expert_weights_norm"))? {
            Some(given) => given,
            None => matches!(self.family, Family::Mixtral | Family::Qwen3Moe),
        };
        if matches!(self.family, Family::Llama | Family::Mistral | Family::Qwen2 | Family::Qwen3) {
            return Ok(None);
        }
        let count = self.need_size("expert_count")?;
        let used = self.need_size("expert_used_count")?;
        let dense_width = self.per_layer("feed_forward_length")?;
        let width = match self.size("expert_feed_forward_length")?.filter(|&w| w > 0) {
            Some(width) => width,
            None => {
                let whole = dense_width.and_then(|w| w.last().copied()).unwrap_or(0);
                match self.family {
                    // These two had files before the key existed.
                    Family::Qwen2Moe | Family::Qwen3Moe => whole / used.max(1),
                    _ => whole,
                }
            }
        };
        let shared = match self.family {
            Family::Qwen2Moe => {
                let given = self.size("expert_shared_feed_forward_length")?;
                let whole = || {
                    let tensor = self.file.tensor("blk.0.ffn_gate_shexp.weight");
                    tensor.and_then(|t| t.shape.first().copied()).unwrap_or(0)
                };
                let width = given.filter(|&w| w > 0).unwrap_or_else(whole);
                Some(Shared { width, gated: true })
            }
            Family::DeepseekV2 | Family::DeepseekV3 | Family::Glm4Moe => {
                let n = self.size("expert_shared_count")?.unwrap_or(0);
                (n > 0).then(|| Shared { width: width.saturating_mul(n), gated: false })
            }
            _ => None,
        };
        let groups = match (self.size("expert_group_count")?, self.size("expert_group_used_count")?)
        {
            (Some(count), Some(kept)) if kept > 0 && kept < count => Some(Groups {
                count,
                kept,
                by: match score {
                    Score::Sigmoid => GroupScore::TwoBest,
                    _ => GroupScore::Best,
                },
            }),
            _ => None,
        };
        let scale = self.number("expert_weights_scale")?.filter(|&s| s != 0.0).unwrap_or(1.0);
        Ok(Some(Experts {
            count,
            used,
            width,
            router: Router { score, normalise, scale: scale as f32, groups },
            shared,
        }))
    }
}

/// Scaling, and DeepSeek's growth of the attention scale that comes with it.
struct Yarn {
    scaling: Scaling,
    latent_growth: f64,
}

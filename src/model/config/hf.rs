//! A [`Config`] from a Hugging Face `config.json`.
//!
//! Absent keys take the default that the family's own configuration class has. Both spellings of
//! rope settings are read: `rope_parameters` and the older `rope_theta` with `rope_scaling`.

use std::path::Path;

use serde_json::Value;

use super::fields::Fields;
use super::{
    Activation, Attention, AttentionKind, Config, Experts, Family, Ffn, GroupScore, Groups, Layer,
    QkNorm, Rope, Router, Scaling, Score, Shared, rope::yarn_growth,
};
use crate::math::RopeStyle;
use crate::weights::{Error, error::Result};

/// What a family's configuration class supplies where the file is silent.
struct Defaults {
    context: usize,
    norm_eps: f64,
    rope_base: f64,
    head_dim: Option<usize>,
    window: Option<usize>,
}

fn defaults(family: Family) -> Defaults {
    use Family::*;
    let plain = Defaults {
        context: 2048,
        norm_eps: 1e-6,
        rope_base: 10_000.0,
        head_dim: None,
        window: None,
    };
    match family {
        Llama | DeepseekV2 => plain,
        DeepseekV3 => Defaults { context: 4096, ..plain },
        Mistral => Defaults { context: 131_072, window: Some(4096), ..plain },
        Mixtral => Defaults { context: 131_072, norm_eps: 1e-5, rope_base: 1e6, ..plain },
        Qwen2 | Qwen2Moe | Qwen3Moe => Defaults { context: 32_768, window: Some(4096), ..plain },
        Qwen3 => Defaults { context: 32_768, window: Some(4096), head_dim: Some(128), ..plain },
        Olmoe => Defaults { context: 4096, norm_eps: 1e-5, ..plain },
        GptOss => Defaults {
            context: 131_072,
            norm_eps: 1e-5,
            rope_base: 150_000.0,
            head_dim: Some(64),
            window: Some(128),
        },
        Glm4Moe => Defaults { context: 131_072, norm_eps: 1e-5, ..plain },
    }
}

/// Reads the config of the folder whose `config.json` is at `path`.
pub fn read(path: &Path, json: &Value) -> Result<Config> {
    let Some(object) = json.as_object() else {
        return Err(Error::bad(path, "the file", "expected a JSON object"));
    };
    let fields = Fields { path, object };
    let name = fields.text("model_type")?.ok_or_else(|| fields.bad("model_type", "missing"))?;
    let family = Family::from_model_type(name).ok_or_else(|| {
        let reason = format!(
            "the family {name:?} is not one this engine knows; it knows {}",
            Family::known()
        );
        fields.bad("model_type", reason)
    })?;
    Reader { fields, family, defaults: defaults(family) }.read()
}

struct Reader<'a> {
    fields: Fields<'a>,
    family: Family,
    defaults: Defaults,
}

impl Reader<'_> {
    fn read(&self) -> Result<Config> {
        let f = &self.fields;
        let count = f.need_size("num_hidden_layers")?;
        if count > 4096 {
            return Err(f.bad("num_hidden_layers", format!("{count} is more than 4096")));
        }
        let rope = self.rope()?;
        let config = Config {
            family: self.family,
            hidden: f.need_size("hidden_size")?,
            vocab: f.need_size("vocab_size")?,
            context: f.size("max_position_embeddings")?.unwrap_or(self.defaults.context),
            norm_eps: f.number("rms_norm_eps")?.unwrap_or(self.defaults.norm_eps) as f32,
            attention: self.attention(&rope)?,
            activation: self.activation()?,
            layers: self.layers(count)?,
            experts: self.experts()?,
            rope: rope.rope,
        };
        config.check(|field, reason| f.bad(field, reason))
    }

    fn heads(&self) -> Result<usize> {
        self.fields.need_size("num_attention_heads")
    }

    fn is_latent(&self) -> bool {
        matches!(self.family, Family::DeepseekV2 | Family::DeepseekV3)
    }

    fn head_dim(&self) -> Result<usize> {
        let given = self.fields.size("head_dim")?.or(self.defaults.head_dim);
        match given {
            Some(dim) => Ok(dim),
            None => Ok(self.fields.need_size("hidden_size")? / self.heads()?.max(1)),
        }
    }

    fn attention(&self, rope: &RopeFields) -> Result<Attention> {
        let f = &self.fields;
        let heads = self.heads()?;
        if self.is_latent() {
            // A query rank that the file leaves out has a default; only `null` means "none".
            let q_rank = match f.object.get("q_lora_rank") {
                None => Some(1536),
                Some(_) => f.size("q_lora_rank")?,
            };
            let nope_dim = f.size("qk_nope_head_dim")?.unwrap_or(128);
            let rope_dim = f.size("qk_rope_head_dim")?.unwrap_or(64);
            let mut scale = (nope_dim.saturating_add(rope_dim) as f64).powf(-0.5);
            if let Some(weight) = rope.latent_growth {
                scale *= weight * weight;
            }
            let kind = AttentionKind::Latent {
                q_rank,
                kv_rank: f.size("kv_lora_rank")?.unwrap_or(512),
                nope_dim,
                rope_dim,
                value_dim: f.size("v_head_dim")?.unwrap_or(128),
                // The reference builds these norms without passing its epsilon on.
                latent_eps: 1e-6,
            };
            return Ok(Attention { heads, kind, scale: scale as f32, clip: None, sinks: false });
        }
        let head_dim = self.head_dim()?;
        let kv_default = match self.family {
            Family::Mistral | Family::Mixtral | Family::GptOss | Family::Glm4Moe => 8,
            Family::Qwen3Moe => 4,
            _ => heads,
        };
        let qk_norm = match self.family {
            Family::Qwen3 | Family::Qwen3Moe => QkNorm::PerHead,
            Family::Olmoe => QkNorm::Whole,
            Family::Glm4Moe if f.flag("use_qk_norm")?.unwrap_or(false) => QkNorm::PerHead,
            _ => QkNorm::None,
        };
        let kv_heads = match f.object.get("num_key_value_heads") {
            Some(Value::Null) => heads,
            _ => f.size("num_key_value_heads")?.unwrap_or(kv_default),
        };
        let clip = match self.family {
            Family::Olmoe => f.number("clip_qkv")?.map(|c| c as f32),
            _ => None,
        };
        if clip.is_some_and(|c| c < 0.0) {
            return Err(f.bad("clip_qkv", "is less than 0"));
        }
        Ok(Attention {
            heads,
            kind: AttentionKind::Grouped {
                kv_heads,
                key_dim: head_dim,
                value_dim: head_dim,
                qk_norm,
            },
            scale: (head_dim as f64).powf(-0.5) as f32,
            clip,
            sinks: self.family == Family::GptOss,
        })
    }

    fn activation(&self) -> Result<Activation> {
        let f = &self.fields;
        if self.family == Family::GptOss {
            return Ok(Activation::ClampedSwiglu {
                alpha: f.number("swiglu_alpha")?.unwrap_or(1.702) as f32,
                limit: f.number("swiglu_limit")?.unwrap_or(7.0) as f32,
            });
        }
        match f.text("hidden_act")?.unwrap_or("silu") {
            "silu" | "swish" => Ok(Activation::Silu),
            other => {
                let reason =
                    format!("the activation {other:?} is not known; {} uses silu", self.family);
                Err(f.bad("hidden_act", reason))
            }
        }
    }

    fn layers(&self, count: usize) -> Result<Vec<Layer>> {
        let f = &self.fields;
        let windows = self.windows(count)?;
        let dense = Ffn::Dense { width: f.size("intermediate_size")?.unwrap_or(0) };
        let only_dense: Vec<u64> = match f.list("mlp_only_layers")? {
            Some(list) => list.iter().filter_map(Value::as_u64).collect(),
            None => Vec::new(),
        };
        let step = f.size("decoder_sparse_step")?.unwrap_or(1);
        let lead = match self.family {
            Family::DeepseekV2 => f.size("first_k_dense_replace")?.unwrap_or(0),
            Family::DeepseekV3 => f.size("first_k_dense_replace")?.unwrap_or(3),
            Family::Glm4Moe => f.size("first_k_dense_replace")?.unwrap_or(1),
            _ => 0,
        };
        let has_experts = |i: usize| match self.family {
            Family::Llama | Family::Mistral | Family::Qwen2 | Family::Qwen3 => false,
            Family::Mixtral | Family::Olmoe | Family::GptOss => true,
            Family::Qwen2Moe | Family::Qwen3Moe => {
                !only_dense.contains(&(i as u64))
                    && f.size("num_experts").is_ok_and(|n| n != Some(0))
                    && step > 0
                    && (i + 1).is_multiple_of(step)
            }
            Family::DeepseekV2 | Family::DeepseekV3 | Family::Glm4Moe => i >= lead,
        };
        let layer = |i: usize| Layer {
            window: windows[i],
            ffn: if has_experts(i) { Ffn::Experts } else { dense },
        };
        Ok((0..count).map(layer).collect())
    }

    /// The sliding window of each layer.
    fn windows(&self, count: usize) -> Result<Vec<Option<usize>>> {
        let f = &self.fields;
        let window = match f.object.get("sliding_window") {
            None => self.defaults.window,
            Some(_) => f.size("sliding_window")?,
        };
        // Families that can window but do so only when told.
        let on_request = matches!(
            self.family,
            Family::Qwen2 | Family::Qwen2Moe | Family::Qwen3 | Family::Qwen3Moe
        );
        let never = matches!(self.family, Family::Llama | Family::Olmoe | Family::Glm4Moe)
            || self.is_latent();
        if never
            || window.is_none()
            || (on_request && !f.flag("use_sliding_window")?.unwrap_or(false))
        {
            return Ok(vec![None; count]);
        }
        let by_layer = matches!(
            self.family,
            Family::Qwen2 | Family::Qwen2Moe | Family::Qwen3 | Family::GptOss
        );
        if !by_layer {
            return Ok(vec![window; count]);
        }
        if let Some(types) = f.list("layer_types")? {
            if types.len() < count {
                let reason = format!("{} entries for {count} layers", types.len());
                return Err(f.bad("layer_types", reason));
            }
            return types[..count]
                .iter()
                .map(|t| match t.as_str() {
                    Some("sliding_attention") => Ok(window),
                    Some("full_attention") => Ok(None),
                    _ => Err(f.bad(
                        "layer_types",
                        format!("{t} is neither sliding_attention nor full_attention"),
                    )),
                })
                .collect();
        }
        let from = f.size("max_window_layers")?.unwrap_or(28);
        let slides = |i: usize| match self.family {
            Family::GptOss => i.is_multiple_of(2),
            Family::Qwen2Moe => i.is_multiple_of(2) && i < from,
            _ => i >= from,
        };
        Ok((0..count).map(|i| window.filter(|_| slides(i))).collect())
    }

    fn experts(&self) -> Result<Option<Experts>> {
        let f = &self.fields;
        let first = |keys: &[&str]| -> Result<Option<usize>> {
            for key in keys {
                if let Some(n) = f.size(key)? {
                    return Ok(Some(n));
                }
            }
            Ok(None)
        };
        let count = |default| -> Result<usize> {
            let names: &[&str] = match self.family {
                Family::Qwen2Moe => &["num_experts"],
                _ => &["num_local_experts", "num_experts"],
            };
            Ok(first(names)?.unwrap_or(default))
        };
        let used =
            |default| -> Result<usize> { Ok(f.size("num_experts_per_tok")?.unwrap_or(default)) };
        let normalise =
            |default| -> Result<bool> { Ok(f.flag("norm_topk_prob")?.unwrap_or(default)) };
        let plain = |score, normalise| Router { score, normalise, scale: 1.0, groups: None };
        let inner = || f.need_size("intermediate_size");
        let moe =
            |default| -> Result<usize> { Ok(f.size("moe_intermediate_size")?.unwrap_or(default)) };
        let experts = match self.family {
            Family::Llama | Family::Mistral | Family::Qwen2 | Family::Qwen3 => return Ok(None),
            Family::Mixtral => Experts {
                count: count(8)?,
                used: used(2)?,
                width: inner()?,
                router: plain(Score::Softmax, true),
                shared: None,
            },
            Family::Olmoe => Experts {
                count: count(64)?,
                used: used(8)?,
                width: inner()?,
                router: plain(Score::Softmax, normalise(false)?),
                shared: None,
            },
            Family::GptOss => Experts {
                count: count(128)?,
                used: first(&["num_experts_per_tok", "experts_per_token"])?.unwrap_or(4),
                width: inner()?,
                router: plain(Score::SoftmaxOfChosen, false),
                shared: None,
            },
            Family::Qwen2Moe => Experts {
                count: count(60)?,
                used: used(4)?,
                width: moe(1408)?,
                router: plain(Score::Softmax, normalise(false)?),
                shared: Some(Shared {
                    width: f.size("shared_expert_intermediate_size")?.unwrap_or(5632),
                    gated: true,
                }),
            },
            Family::Qwen3Moe => Experts {
                count: count(128)?,
                used: used(8)?,
                width: moe(768)?,
                router: plain(Score::Softmax, normalise(false)?),
                shared: None,
            },
            Family::DeepseekV2 | Family::DeepseekV3 | Family::Glm4Moe => self.grouped_experts()?,
        };
        Ok(Some(experts))
    }

    /// DeepSeek's and GLM-4's experts: groups, a scale, shared experts.
    fn grouped_experts(&self) -> Result<Experts> {
        let f = &self.fields;
        let v2 = self.family == Family::DeepseekV2;
        let glm = self.family == Family::Glm4Moe;
        let pick = |v2_value, v3_value, glm_value| match (v2, glm) {
            (true, _) => v2_value,
            (_, true) => glm_value,
            _ => v3_value,
        };
        let scale = if v2 || glm { 1.0 } else { 2.5 };
        let group_fields = (f.size("n_group")?, f.size("topk_group")?);
        let groups = if v2 {
            match f.text("topk_method")?.unwrap_or("greedy") {
                "greedy" => None,
                "group_limited_greedy" => {
                    let count = f.need_size("n_group")?;
                    Some(Groups { count, kept: f.need_size("topk_group")?, by: GroupScore::Best })
                }
                other => {
                    let reason = format!("{other:?} is neither greedy nor group_limited_greedy");
                    return Err(f.bad("topk_method", reason));
                }
            }
        } else {
            let count = group_fields.0.unwrap_or(pick(1, 8, 1));
            let kept = group_fields.1.unwrap_or(pick(1, 4, 1));
            // One group, or all kept, restricts nothing.
            (kept < count).then_some(Groups { count, kept, by: GroupScore::TwoBest })
        };
        let width = f.size("moe_intermediate_size")?.unwrap_or(pick(1407, 2048, 1408));
        let shared = f.size("n_shared_experts")?.unwrap_or(pick(2, 1, 1));
        if shared == 0 && v2 && f.flag("mlp_bias")? == Some(true) {
            let reason = "0 with mlp_bias would be a bias alone, which this engine does not run";
            return Err(f.bad("n_shared_experts", reason));
        }
        let count = match f.size("n_routed_experts")? {
            Some(count) => count,
            None => {
                let other_name = if v2 { "num_experts" } else { "num_local_experts" };
                f.size(other_name)?.unwrap_or(pick(64, 256, 128))
            }
        };
        let used = f.size("num_experts_per_tok")?.unwrap_or(8);
        let used = match groups {
            // V2's reference gives experts outside the kept groups a weight of 0, so choosing
            // more than those groups hold adds nothing.
            Some(g) if v2 => used.min(g.kept.saturating_mul(count / g.count.max(1))),
            _ => used,
        };
        Ok(Experts {
            count,
            used,
            width,
            router: Router {
                score: if v2 { Score::Softmax } else { Score::Sigmoid },
                // The reference reads norm_topk_prob for V3 and GLM-4 only.
                normalise: !v2 && f.nullable_flag("norm_topk_prob", true)?,
                scale: f.number("routed_scaling_factor")?.unwrap_or(scale) as f32,
                groups,
            },
            shared: (shared > 0)
                .then(|| Shared { width: width.saturating_mul(shared), gated: false }),
        })
    }

    fn rope(&self) -> Result<RopeFields> {
        let f = &self.fields;
        // An empty `rope_scaling` counts as none.
        let scaling = match f.object("rope_scaling")? {
            Some(fields) if !fields.object.is_empty() => Some(fields),
            _ => f.object("rope_parameters")?,
        };
        let number = |key: &str| -> Result<Option<f64>> {
            match scaling {
                Some(s) => s.number(key),
                None => Ok(None),
            }
        };
        let base = match number("rope_theta")? {
            Some(base) => base,
            None => f.number("rope_theta")?.unwrap_or(self.defaults.rope_base),
        };
        if base <= 1.0 {
            return Err(f.bad("rope_theta", format!("{base} is not greater than 1")));
        }
        // The other families' reference rotates the whole head whatever this key says.
        let partial = match self.family {
            Family::Glm4Moe => match number("partial_rotary_factor")? {
                Some(part) => part,
                None => f.number("partial_rotary_factor")?.unwrap_or(0.5),
            },
            _ => 1.0,
        };
        let head_dim = match self.is_latent() {
            true => f.size("qk_rope_head_dim")?.unwrap_or(64),
            false => self.head_dim()?,
        };
        if !(0.0..=1.0).contains(&partial) {
            let reason = format!("{partial} is not between 0 and 1");
            return Err(f.bad("partial_rotary_factor", reason));
        }
        let interleaved = match self.family {
            Family::DeepseekV2 => true,
            Family::DeepseekV3 => f.nullable_flag("rope_interleave", true)?,
            _ => false,
        };
        let mut latent_growth = None;
        let kind = match scaling {
            None => None,
            Some(s) => match s.text("rope_type")? {
                Some(kind) => Some(kind),
                None => s.text("type")?,
            },
        };
        let need = |key: &str| -> Result<f64> {
            match number(key)? {
                Some(value) if value > 0.0 => Ok(value),
                Some(value) => Err(f.bad(key, format!("{value} is not greater than 0"))),
                None => Err(f.bad(key, "missing from the rope settings")),
            }
        };
        let context = f.size("max_position_embeddings")?.unwrap_or(self.defaults.context) as f64;
        let original = |f: &Fields| -> Result<f64> {
            let outside = f.number("original_max_position_embeddings")?;
            let original =
                outside.or(number("original_max_position_embeddings")?).unwrap_or(context);
            if original < 1.0 {
                let reason = format!("{original} is less than 1");
                return Err(f.bad("original_max_position_embeddings", reason));
            }
            Ok(original)
        };
        // DeepSeek's reference grows the attention scale with any scaling that has this weight.
        let growth_weight = number("mscale_all_dim")?.filter(|m| *m != 0.0);
        if let (true, Some(weight), Some(_)) =
            (self.is_latent(), growth_weight, kind.filter(|kind| *kind != "default"))
        {
            let factor = match number("factor")? {
                Some(factor) => factor,
                None => context / original(f)?,
            };
            latent_growth = Some(yarn_growth(factor, weight));
        }
        let gpt_oss_default = self.family == Family::GptOss && scaling.is_none();
        let scaling = match kind {
            _ if gpt_oss_default => Scaling::Yarn {
                factor: 32.0,
                original: f.number("original_max_position_embeddings")?.unwrap_or(4096.0),
                beta_fast: 32.0,
                beta_slow: 1.0,
                truncate: false,
                magnitude: yarn_growth(32.0, 1.0),
            },
            None | Some("default") => Scaling::None,
            Some("linear") => Scaling::Linear { factor: need("factor")? },
            Some("llama3") => {
                let (low, high) = (need("low_freq_factor")?, need("high_freq_factor")?);
                if high <= low {
                    let reason = format!("{high} is not greater than low_freq_factor {low}");
                    return Err(f.bad("high_freq_factor", reason));
                }
                Scaling::Llama3 { factor: need("factor")?, low, high, original: original(f)? }
            }
            Some("yarn") => {
                let original = original(f)?;
                let factor = match number("factor")? {
                    Some(_) => need("factor")?,
                    None => context / original,
                };
                let weights = (number("mscale")?.filter(|m| *m != 0.0), growth_weight);
                let magnitude = match (number("attention_factor")?, weights) {
                    (Some(given), _) => given,
                    (None, (Some(m), Some(all))) => {
                        yarn_growth(factor, m) / yarn_growth(factor, all)
                    }
                    (None, _) => yarn_growth(factor, 1.0),
                };
                let beta = |key, default| -> Result<f64> {
                    Ok(number(key)?.filter(|b| *b != 0.0).unwrap_or(default))
                };
                Scaling::Yarn {
                    factor,
                    original,
                    beta_fast: beta("beta_fast", 32.0)?,
                    beta_slow: beta("beta_slow", 1.0)?,
                    truncate: match scaling {
                        Some(s) => s.nullable_flag("truncate", true)?,
                        None => true,
                    },
                    magnitude,
                }
            }
            Some(other) => {
                let reason = format!(
                    "rope scaling {other:?} is not one this engine knows; it knows default, \
                     linear, llama3 and yarn"
                );
                return Err(f.bad("rope_type", reason));
            }
        };
        let dims = (head_dim as f64 * partial) as usize;
        if matches!(scaling, Scaling::Yarn { .. }) && !dims.is_multiple_of(2) {
            let reason = format!("yarn needs an even number of rotated dimensions, not {dims}");
            return Err(f.bad("partial_rotary_factor", reason));
        }
        Ok(RopeFields {
            rope: Rope {
                dims,
                base,
                style: if interleaved { RopeStyle::Interleaved } else { RopeStyle::Halves },
                scaling,
            },
            latent_growth,
        })
    }
}

struct RopeFields {
    rope: Rope,
    /// DeepSeek multiplies its attention scale by the square of this.
    latent_growth: Option<f64>,
}

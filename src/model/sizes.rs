//! How large a model is, part by part, from its headers alone.

use std::collections::BTreeMap;

use super::config::{Config, Ffn};
use crate::weights::{DType, Source, Tensor};

#[derive(Clone, Debug, Default)]
pub struct Sizes {
    /// Bytes of every weight that is not a routed expert.
    pub trunk: u64,
    /// Bytes of all routed experts.
    pub experts: u64,
    /// Bytes of one routed expert (gate, up, down).
    pub expert: u64,
    /// Bytes that computing one token reads.
    pub active: u64,
    /// Bytes in the file that this engine has no use for (layers that predict further tokens).
    pub unused: u64,
    pub parameters: u64,
    pub active_parameters: u64,
    /// Bytes by format.
    pub formats: BTreeMap<String, u64>,
}

impl Sizes {
    pub fn new(source: &Source, config: &Config) -> Sizes {
        let mut sizes = Sizes::default();
        let layers = config.layers.len();
        let (mut embedding, mut expert_parameters) = ((0, 0), 0);
        let tied = ["output.weight", "lm_head.weight"].iter().all(|t| source.tensor(t).is_none());
        for tensor in source.tensors() {
            let (bytes, parameters) = (tensor.data.len() as u64, parameters(tensor));
            if layer_of(&tensor.name).is_some_and(|layer| layer >= layers) {
                sizes.unused += bytes;
                continue;
            }
            *sizes.formats.entry(format_name(tensor)).or_default() += bytes;
            sizes.parameters += parameters;
            if is_routed_expert(&tensor.name) {
                sizes.experts += bytes;
                expert_parameters += parameters;
            } else {
                sizes.trunk += bytes;
                if matches!(&*tensor.name, "token_embd.weight" | "model.embed_tokens.weight") {
                    embedding = (bytes, parameters);
                }
            }
        }
        // An embedding that is not also the output gives a token one row.
        let row = |whole: u64| if tied { 0 } else { whole - whole / config.vocab.max(1) as u64 };
        sizes.active = sizes.trunk - row(embedding.0);
        sizes.active_parameters = sizes.parameters - expert_parameters - row(embedding.1);
        if let Some(experts) = &config.experts {
            let layers = config.layers.iter().filter(|l| l.ffn == Ffn::Experts).count() as u64;
            let all = (layers * experts.count as u64).max(1);
            sizes.expert = sizes.experts / all;
            let used = layers * experts.used as u64;
            sizes.active += sizes.expert * used;
            sizes.active_parameters += expert_parameters / all * used;
        }
        sizes
    }
}

/// Weights in a tensor. Packed MXFP4 has two to the byte; scales are part of no count.
fn parameters(tensor: &Tensor) -> u64 {
    let elements = tensor.elements() as u64;
    if tensor.name.ends_with("_blocks") {
        return elements * 2;
    }
    let is_scale = tensor.name.ends_with("_scales") || tensor.name.ends_with("_scale_inv");
    if is_scale { 0 } else { elements }
}

fn format_name(tensor: &Tensor) -> String {
    match tensor.dtype {
        DType::U8 if tensor.name.ends_with("_blocks") || tensor.name.ends_with("_scales") => {
            "MXFP4".into()
        }
        other => other.to_string(),
    }
}

/// The layer a tensor belongs to: the first number in `blk.7.…` or `model.layers.7.…`.
fn layer_of(name: &str) -> Option<usize> {
    let rest = name.strip_prefix("blk.").or_else(|| name.strip_prefix("model.layers."))?;
    rest.split('.').next()?.parse().ok()
}

fn is_routed_expert(name: &str) -> bool {
    let stacked = name.contains("_exps.");
    // `blk.0.ffn_gate.3.weight`, from before experts were stacked.
    let numbered = name.starts_with("blk.")
        && name.contains(".ffn_")
        && name.split('.').nth(3).is_some_and(|part| part.parse::<usize>().is_ok());
    stacked || numbered || name.contains(".experts.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn experts_are_known_by_their_names() {
        for name in [
            "blk.3.ffn_gate_exps.weight",
            "blk.3.ffn_down.7.weight",
            "model.layers.3.mlp.experts.7.up_proj.weight",
            "model.layers.3.block_sparse_moe.experts.0.w1.weight",
        ] {
            assert!(is_routed_expert(name), "{name}");
            assert_eq!(layer_of(name), Some(3));
        }
        for name in [
            "blk.3.ffn_gate_inp.weight",
            "blk.3.ffn_gate_shexp.weight",
            "blk.3.ffn_down.weight",
            "model.layers.3.mlp.shared_experts.up_proj.weight",
            "output.weight",
        ] {
            assert!(!is_routed_expert(name), "{name}");
        }
    }
}

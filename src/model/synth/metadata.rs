//! What a GGUF file says of a shape, key by key as converters write it.

use super::shapes::{Kind, Shape};
use super::{Quant, Recipe};
use crate::weights::gguf::write::Field;

pub(super) fn fields(recipe: &Recipe) -> Vec<(String, Field)> {
    let Recipe { shape, quant, seed, skew, .. } = recipe;
    let mut fields = Fields { list: Vec::new(), architecture: shape.kind.architecture() };
    fields.plain("general.architecture", shape.kind.architecture().into());
    fields.plain("general.type", "model".into());
    let name = format!("{} shape, random weights", shape.title);
    fields.plain("general.name", Field::String(name));
    let how = format!(
        "penstock synth --shape {} --quant {} --layers {} --skew {skew} --seed {seed}",
        recipe.name,
        quant.name(),
        shape.layers
    );
    fields.plain("general.description", Field::String(how));
    fields.plain("general.file_type", Field::U32(quant.file_type()));
    fields.plain("general.quantization_version", Field::U32(2));
    model(&mut fields, shape);
    text(&mut fields, shape);
    fields.list
}

struct Fields {
    list: Vec<(String, Field)>,
    architecture: &'static str,
}

impl Fields {
    fn plain(&mut self, key: &str, value: Field) {
        self.list.push((key.into(), value));
    }

    fn own(&mut self, key: &str, value: Field) {
        self.list.push((format!("{}.{key}", self.architecture), value));
    }

    fn size(&mut self, key: &str, value: usize) {
        self.own(key, Field::U32(value as u32));
    }
}

fn model(fields: &mut Fields, shape: &Shape) {
    fields.size("block_count", shape.layers);
    fields.size("context_length", shape.context);
    fields.size("embedding_length", shape.hidden);
    fields.size("feed_forward_length", shape.dense_width);
    fields.size("vocab_size", shape.vocabulary.size);
    fields.size("attention.head_count", shape.heads);
    fields.size("attention.head_count_kv", shape.kv_heads);
    fields.own("attention.layer_norm_rms_epsilon", Field::F32(shape.eps));
    fields.own("rope.freq_base", Field::F32(shape.rope_base));
    match shape.latent {
        None => {
            fields.size("attention.key_length", shape.head);
            fields.size("attention.value_length", shape.head);
            fields.size("rope.dimension_count", shape.head);
        }
        Some(latent) => {
            // Lengths of the compressed form, then those of the heads.
            fields.size("attention.kv_lora_rank", latent.rank);
            fields.size("attention.key_length", latent.rank + latent.rope);
            fields.size("attention.value_length", latent.rank);
            fields.size("attention.key_length_mla", latent.nope + latent.rope);
            fields.size("attention.value_length_mla", shape.head);
            fields.size("rope.dimension_count", latent.rope);
            // None; llama.cpp insists on the key unless there are 26 or 27 layers.
            fields.size("attention.q_lora_rank", 0);
        }
    }
    if let Some(experts) = shape.experts {
        fields.size("expert_count", experts.count);
        fields.size("expert_used_count", experts.used);
        if shape.kind != Kind::Mixtral && shape.kind != Kind::Olmoe {
            fields.size("expert_feed_forward_length", experts.width);
        }
    }
    match shape.kind {
        Kind::GptOss => {
            fields.size("attention.sliding_window", 128);
            yarn(fields, 32.0);
        }
        Kind::DeepseekV2 => {
            let experts = shape.experts.expect("the family has experts");
            fields.size("leading_dense_block_count", experts.lead);
            fields.size("expert_shared_count", experts.shared);
            fields.own("expert_weights_scale", Field::F32(1.0));
            fields.own("expert_weights_norm", Field::Bool(false));
            fields.size("expert_gating_func", 1);
            yarn(fields, 40.0);
            fields.own("rope.scaling.yarn_log_multiplier", Field::F32(0.0707));
        }
        Kind::Llama | Kind::Mixtral | Kind::Olmoe | Kind::Qwen3 | Kind::Qwen3Moe => {}
    }
}

fn yarn(fields: &mut Fields, factor: f32) {
    fields.own("rope.scaling.type", "yarn".into());
    fields.own("rope.scaling.factor", Field::F32(factor));
    fields.size("rope.scaling.original_context_length", 4096);
}

fn text(fields: &mut Fields, shape: &Shape) {
    let vocabulary = &shape.vocabulary;
    let tokens = vocabulary.tokens();
    fields.plain("tokenizer.ggml.model", "gpt2".into());
    fields.plain("tokenizer.ggml.pre", vocabulary.pre.into());
    fields.plain("tokenizer.ggml.tokens", Field::Strings(tokens.names));
    fields.plain("tokenizer.ggml.token_type", Field::I32s(tokens.types));
    fields.plain("tokenizer.ggml.merges", Field::Strings(tokens.merges));
    let roles =
        [("bos", vocabulary.bos), ("eos", Some(vocabulary.eos)), ("padding", vocabulary.pad)];
    for (role, name) in roles {
        if let Some(id) = name.and_then(|name| vocabulary.id(name)) {
            fields.plain(&format!("tokenizer.ggml.{role}_token_id"), Field::U32(id));
        }
    }
    if let Some(add) = vocabulary.add_bos {
        fields.plain("tokenizer.ggml.add_bos_token", Field::Bool(add));
    }
}

impl Quant {
    /// llama.cpp's number for files that are mostly of this type.
    fn file_type(self) -> u32 {
        match self {
            Quant::F32 => 0,
            Quant::F16 => 1,
            Quant::Q4_0 => 2,
            Quant::Q4_1 => 3,
            Quant::Q8_0 => 7,
            Quant::Q5_0 => 8,
            Quant::Q5_1 => 9,
            Quant::Q2K => 10,
            Quant::Q3K => 11,
            Quant::Q4K => 14,
            Quant::Q5K => 16,
            Quant::Q6K => 18,
            Quant::IQ4NL => 25,
            Quant::IQ4XS => 30,
            Quant::BF16 => 32,
            Quant::MXFP4 => 38,
            Quant::F8E4M3 => unreachable!("GGUF has none"),
        }
    }
}

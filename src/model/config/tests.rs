//! What odd but lawful `config.json` files mean, where the meaning is easily missed. The numbers
//! are checked against the reference in `tests/reference`; here it is the reading alone.

use std::path::Path;

use serde_json::{Value, json};

use super::{AttentionKind, Config, Experts, Ffn, Scaling, hf};
use crate::math::RopeStyle;

fn read(family: &str, more: Value) -> Result<Config, String> {
    let mut config = json!({
        "model_type": family, "hidden_size": 16, "vocab_size": 20, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 8,
        "max_position_embeddings": 64, "q_lora_rank": null, "kv_lora_rank": 6,
        "qk_nope_head_dim": 4, "qk_rope_head_dim": 4, "v_head_dim": 4, "n_routed_experts": 8,
        "num_experts_per_tok": 2, "moe_intermediate_size": 4, "n_group": 4, "topk_group": 2,
        "first_k_dense_replace": 0,
    });
    let fields = config.as_object_mut().unwrap();
    for (key, value) in more.as_object().unwrap() {
        fields.insert(key.clone(), value.clone());
    }
    hf::read(Path::new("config.json"), &config).map_err(|e| e.to_string())
}

fn experts(config: Config) -> Experts {
    config.experts.expect("a family with experts")
}

#[test]
fn null_is_false_where_the_reference_takes_it_so() {
    let absent = read("deepseek_v3", json!({})).unwrap();
    assert_eq!(absent.rope.style, RopeStyle::Interleaved);
    assert!(experts(absent).router.normalise);
    let null =
        read("deepseek_v3", json!({ "rope_interleave": null, "norm_topk_prob": null })).unwrap();
    assert_eq!(null.rope.style, RopeStyle::Halves);
    assert!(!experts(null).router.normalise);

    let yarn = json!({ "rope_type": "yarn", "factor": 4.0, "truncate": null });
    let config = read("llama", json!({ "rope_parameters": yarn })).unwrap();
    assert!(matches!(config.rope.scaling, Scaling::Yarn { truncate: false, .. }));
}

#[test]
fn empty_rope_scaling_is_as_if_absent() {
    let linear = json!({ "rope_type": "linear", "factor": 3.0, "rope_theta": 500.0 });
    let config = read("llama", json!({ "rope_scaling": {}, "rope_parameters": linear })).unwrap();
    assert_eq!(config.rope.scaling, Scaling::Linear { factor: 3.0 });
    assert_eq!(config.rope.base, 500.0);
    // Nothing at all means yarn to gpt-oss.
    let config = read("gpt_oss", json!({ "rope_scaling": {} })).unwrap();
    assert!(matches!(config.rope.scaling, Scaling::Yarn { factor: 32.0, .. }));
}

#[test]
fn only_glm_rotates_a_part_of_the_head() {
    let part = json!({ "head_dim": 10, "partial_rotary_factor": 0.5 });
    assert_eq!(read("qwen3", part.clone()).unwrap().rope.dims, 10);
    let rope = read("glm4_moe", part.clone()).unwrap().rope;
    // Half of ten is five; three pairs turn, and the exponents go by fifths.
    assert_eq!((rope.dims, rope.frequencies().len()), (5, 3));
    assert_eq!(rope.frequencies()[2], rope.base.powf(-0.8));

    let mut yarn = part;
    yarn["rope_parameters"] = json!({ "rope_type": "yarn", "factor": 4.0 });
    assert!(read("glm4_moe", yarn).unwrap_err().contains("even number of rotated dimensions"));
    // A whole head of odd length has no partner for its last dimension.
    assert!(read("qwen3", json!({ "head_dim": 9 })).unwrap_err().contains("rotated dimensions"));
}

#[test]
fn deepseek_grows_its_scale_with_any_scaling_that_says_so() {
    let with = |kind: &str| {
        let rope = json!({ "rope_type": kind, "factor": 4.0, "mscale_all_dim": 1.0 });
        read("deepseek_v3", json!({ "rope_parameters": rope })).unwrap().attention.scale
    };
    let plain = 8f64.powf(-0.5);
    let grown = plain * (0.1 * 4f64.ln() + 1.0).powi(2);
    assert_eq!(with("default"), plain as f32);
    assert_eq!(with("linear"), grown as f32);
    assert_eq!(with("yarn"), grown as f32);
}

#[test]
fn other_names_for_the_number_of_experts() {
    let count = |family, more| experts(read(family, more).unwrap()).count;
    let named = |key: &str| json!({ "n_routed_experts": null, key: 12 });
    assert_eq!(count("deepseek_v3", named("num_local_experts")), 12);
    assert_eq!(count("glm4_moe", named("num_local_experts")), 12);
    assert_eq!(count("deepseek_v2", named("num_experts")), 12);
    assert_eq!(count("mixtral", named("num_experts")), 12);
    assert_eq!(count("olmoe", named("num_local_experts")), 12);
    // Qwen2-MoE knows one name, and another family's key beside it is nothing.
    let both = json!({ "num_experts": 12, "num_local_experts": 3 });
    assert_eq!(count("qwen2_moe", both), 12);
}

#[test]
fn groups_too_small_for_the_choice() {
    let few = json!({
        "topk_method": "group_limited_greedy", "topk_group": 1, "num_experts_per_tok": 5,
    });
    // V2 gives what it chooses beyond the groups a weight of 0; V3 would choose anything.
    assert_eq!(experts(read("deepseek_v2", few.clone()).unwrap()).used, 2);
    assert!(read("deepseek_v3", few).unwrap_err().contains("fewer than 5 experts"));
}

#[test]
fn keys_the_reference_does_not_read_change_nothing() {
    let config = read("deepseek_v3", json!({ "moe_layer_freq": 2, "sliding_window": 3 })).unwrap();
    assert!(config.layers.iter().all(|l| l.ffn == Ffn::Experts && l.window.is_none()));
    let config = read("llama", json!({ "clip_qkv": 0.5, "qk_rope_head_dim": 2 })).unwrap();
    assert_eq!((config.attention.clip, config.rope.dims), (None, 8));
    assert!(matches!(config.attention.kind, AttentionKind::Grouped { key_dim: 8, .. }));
}

#[test]
fn contradictions_are_refused_by_name() {
    let llama3 = json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 1.0,
    });
    for (family, more, word) in [
        ("olmoe", json!({ "clip_qkv": -1.0 }), "clip_qkv"),
        ("llama", json!({ "rope_parameters": llama3 }), "high_freq_factor"),
        ("glm4_moe", json!({ "partial_rotary_factor": 1.5 }), "partial_rotary_factor"),
        ("glm4_moe", json!({ "partial_rotary_factor": -0.5 }), "partial_rotary_factor"),
        ("deepseek_v2", json!({ "n_shared_experts": 0, "mlp_bias": true }), "n_shared_experts"),
        ("mixtral", json!({ "num_local_experts": 1 }), "experts per token"),
        ("llama", json!({ "num_key_value_heads": 3 }), "key-value heads"),
    ] {
        let error = read(family, more).unwrap_err();
        assert!(error.contains(word), "{error}");
    }
}

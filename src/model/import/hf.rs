//! Parts by the names Hugging Face checkpoints give them.

use super::super::config::{Config, Experts as Shape, Family};
use super::super::parts::{Experts, Linear, Mlp, Parts, Shared};
use super::block::{Block, Container, Names, bare, vector_row};
use crate::base::units::Bytes;
use crate::host::memory;
use crate::math::Format;
use crate::weights::{DType, Error, HfFolder, Matrix, Tensor, error::Result, vector};

pub fn parts(folder: &HfFolder, config: &Config) -> Result<Parts> {
    let Config { hidden, vocab, .. } = *config;
    let checkpoint = Checkpoint { folder, block: scale_block(folder)? };
    if config.family == Family::GptOss {
        check_room(folder)?;
    }
    // "Tied" is a promise that one of the two matrices is enough. Where a file has both, both
    // count, whatever the config says of them: so does the reference.
    let (input, output) = ("model.embed_tokens", "lm_head");
    let tied = folder.config().get("tie_word_embeddings").and_then(|v| v.as_bool()) == Some(true);
    let has = |name: &str| folder.tensor(&format!("{name}.weight")).is_some();
    let one = |name| checkpoint.matrix(name, vocab, hidden);
    let twice = |matrix: Matrix| (matrix.clone(), matrix);
    let (embedding, output) = match tied {
        true if !has(output) => twice(one(input)?),
        true if !has(input) => twice(one(output)?),
        _ => (one(input)?, one(output)?),
    };
    Ok(Parts {
        layers: Block::layers(&checkpoint, config)?,
        norm: vector(folder.require("model.norm.weight")?, hidden)?,
        output: bare(output),
        embedding,
    })
}

/// gpt-oss's experts in floats are turned in memory, which must be there.
fn check_room(folder: &HfFolder) -> Result<()> {
    let turned = |name: &str| name.contains(".mlp.experts.") && name.ends_with("_proj");
    let experts = folder.tensors().filter(|tensor| turned(&tensor.name));
    let (needed, free) = (experts.map(|t| t.data.len() as u64).sum(), memory::available());
    if needed <= free {
        return Ok(());
    }
    let reason = format!(
        "its experts must be turned in memory, which takes {}, and {} is free; convert the \
         model to GGUF, where they are used as they lie",
        Bytes(needed),
        Bytes(free)
    );
    Err(Error::bad(folder.path(), "experts", reason))
}

/// Rows and columns that share one scale in an FP8 checkpoint.
fn scale_block(folder: &HfFolder) -> Result<[usize; 2]> {
    let given = folder.config().pointer("/quantization_config/weight_block_size");
    let Some(sizes) = given.filter(|v| !v.is_null()) else { return Ok([128, 128]) };
    let size = |i: usize| sizes.get(i)?.as_u64().filter(|&n| n > 0 && n <= 1 << 20);
    match (size(0), size(1)) {
        (Some(rows), Some(cols)) => Ok([rows as usize, cols as usize]),
        _ => Err(Error::bad(
            &folder.config_path(),
            "quantization_config.weight_block_size",
            format!("expected two positive numbers, found {sizes}"),
        )),
    }
}

struct Checkpoint<'a> {
    folder: &'a HfFolder,
    block: [usize; 2],
}

impl Container for Checkpoint<'_> {
    const NAMES: Names = Names {
        layer: "model.layers.",
        attention_norm: "input_layernorm",
        ffn_norm: &["post_attention_layernorm"],
        q: "self_attn.q_proj",
        k: "self_attn.k_proj",
        v: "self_attn.v_proj",
        o: "self_attn.o_proj",
        q_norm: "self_attn.q_norm",
        k_norm: "self_attn.k_norm",
        sinks: "self_attn.sinks",
        q_a: "self_attn.q_a_proj",
        q_a_norm: "self_attn.q_a_layernorm",
        q_b: "self_attn.q_b_proj",
        kv_a: "self_attn.kv_a_proj_with_mqa",
        kv_norm: "self_attn.kv_a_layernorm",
        kv_b: "self_attn.kv_b_proj",
        mlp: ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"],
    };

    fn find(&self, name: &str) -> Option<&Tensor> {
        self.folder.tensor(name)
    }

    fn need(&self, name: &str) -> Result<&Tensor> {
        self.folder.require(name)
    }

    /// With its block scales where it is FP8.
    fn matrix(&self, name: &str, rows: usize, cols: usize) -> Result<Matrix> {
        let weight = self.need(&format!("{name}.weight"))?;
        let matrix = match weight.dtype {
            DType::Weights(Format::F8E4M3) => {
                let scales = self.need(&format!("{name}.weight_scale_inv"))?;
                Matrix::block_scaled(weight, scales, self.block)?
            }
            _ => Matrix::whole(weight)?,
        };
        matrix.expect(rows, cols)
    }

    fn experts(&self, block: &Block<Self>, shape: &Shape) -> Result<Experts> {
        let hidden = block.config.hidden;
        let router = match block.config.family {
            Family::Mixtral => "block_sparse_moe.gate",
            Family::GptOss => "mlp.router",
            _ => "mlp.gate",
        };
        let correction = block.find("mlp.gate.e_score_correction_bias");
        let shared = match &shape.shared {
            None => None,
            Some(shared) if shared.gated => Some(Shared {
                mlp: mlp_named(block, "mlp.shared_expert", shared.width)?,
                gate: Some(block.linear("mlp.shared_expert_gate", 1, hidden)?),
            }),
            Some(shared) => Some(Shared {
                mlp: mlp_named(block, "mlp.shared_experts", shared.width)?,
                gate: None,
            }),
        };
        let expert = |e| match block.config.family {
            Family::Mixtral => mixtral_expert(block, shape, e),
            Family::GptOss => gpt_oss_expert(block, shape, e),
            _ => mlp_named(block, &format!("mlp.experts.{e}"), shape.width),
        };
        Ok(Experts {
            router: block.linear(router, shape.count, hidden)?,
            correction: correction.map(|tensor| vector(tensor, shape.count)).transpose()?,
            experts: (0..shape.count).map(expert).collect::<Result<_>>()?,
            shared,
        })
    }
}

/// A block whose three projections have the usual names under one.
fn mlp_named(block: &Block<Checkpoint>, name: &str, width: usize) -> Result<Mlp> {
    let names = ["gate_proj", "up_proj", "down_proj"].map(|part| format!("{name}.{part}"));
    block.mlp(names.each_ref().map(String::as_str), width)
}

fn mixtral_expert(block: &Block<Checkpoint>, shape: &Shape, e: usize) -> Result<Mlp> {
    let (hidden, width) = (block.config.hidden, shape.width);
    let part = |w| format!("block_sparse_moe.experts.{e}.{w}");
    Ok(Mlp {
        gate: block.linear(&part("w1"), width, hidden)?,
        up: block.linear(&part("w3"), width, hidden)?,
        down: block.linear(&part("w2"), hidden, width)?,
    })
}

/// gpt-oss stacks its experts and interleaves gate and up. MXFP4 experts are stored by
/// output row; float ones by input row, so they are turned.
fn gpt_oss_expert(block: &Block<Checkpoint>, shape: &Shape, e: usize) -> Result<Mlp> {
    let (hidden, width) = (block.config.hidden, shape.width);
    let weight = |part: &str, rows: usize, cols: usize| -> Result<Matrix> {
        let name = format!("mlp.experts.{part}");
        let matrix = match block.find(&format!("{name}_blocks")) {
            Some(blocks) => {
                let scales = block.need(&format!("{name}_scales"))?;
                Matrix::mxfp4_expert(blocks, scales, e)?
            }
            None => {
                let tensor = block.need(&name)?;
                tensor.expect_shape(&[shape.count, cols, rows])?;
                Matrix::expert(tensor, e)?.transposed()?
            }
        };
        matrix.expect(rows, cols)
    };
    let bias = |part: &str, len: usize| -> Result<Vec<f32>> {
        vector_row(block.need(&format!("mlp.experts.{part}_bias"))?, e, len)
    };
    let both = weight("gate_up_proj", 2 * width, hidden)?;
    let both_bias = bias("gate_up_proj", 2 * width)?;
    let half = |first: usize| -> Result<Linear> {
        Ok(Linear {
            weight: both.every_second(first)?,
            bias: Some(both_bias.iter().skip(first).step_by(2).copied().collect()),
        })
    };
    Ok(Mlp {
        gate: half(0)?,
        up: half(1)?,
        down: Linear {
            weight: weight("down_proj", hidden, width)?,
            bias: Some(bias("down_proj", hidden)?),
        },
    })
}

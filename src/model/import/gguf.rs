//! Parts by the names GGUF gives them.

use super::super::config::{AttentionKind, Config, Experts as Shape};
use super::super::parts::{Experts, Linear, Mlp, Parts, Shared};
use super::block::{Block, Container, Names, Widths, bare, vector_row};
use crate::weights::{Gguf, Matrix, Tensor, error::Result, vector};

pub fn parts(file: &Gguf, config: &Config) -> Result<Parts> {
    let Config { hidden, vocab, .. } = *config;
    let embedding = file.matrix("token_embd", vocab, hidden)?;
    let output = match file.tensor("output.weight") {
        Some(_) => file.matrix("output", vocab, hidden)?,
        None => embedding.clone(),
    };
    Ok(Parts {
        layers: Block::layers(file, config)?,
        norm: vector(file.require("output_norm.weight")?, hidden)?,
        output: bare(output),
        embedding,
    })
}

impl Container for Gguf {
    const NAMES: Names = Names {
        layer: "blk.",
        attention_norm: "attn_norm",
        // Families whose second norm has a name of its own mean the same place by it.
        ffn_norm: &["ffn_norm", "post_attention_norm"],
        q: "attn_q",
        k: "attn_k",
        v: "attn_v",
        o: "attn_output",
        q_norm: "attn_q_norm",
        k_norm: "attn_k_norm",
        sinks: "attn_sinks.weight",
        q_a: "attn_q_a",
        q_a_norm: "attn_q_a_norm",
        q_b: "attn_q_b",
        kv_a: "attn_kv_a_mqa",
        kv_norm: "attn_kv_a_norm",
        kv_b: "attn_kv_b",
        mlp: ["ffn_gate", "ffn_up", "ffn_down"],
    };

    fn find(&self, name: &str) -> Option<&Tensor> {
        self.tensor(name)
    }

    fn need(&self, name: &str) -> Result<&Tensor> {
        self.require(name)
    }

    fn fused_qkv(&self, block: &Block<Self>, widths: &Widths) -> Result<Option<[Linear; 3]>> {
        if block.find("attn_qkv.weight").is_none() {
            return Ok(None);
        }
        let rows = widths.q + widths.k + widths.v;
        let all = block.linear("attn_qkv", rows, block.config.hidden)?;
        Ok(Some([
            part_of(&all, 0, widths.q)?,
            part_of(&all, widths.q, widths.k)?,
            part_of(&all, widths.q + widths.k, widths.v)?,
        ]))
    }

    fn latent_up(&self, block: &Block<Self>) -> Result<Option<(Vec<Linear>, Vec<Linear>)>> {
        let AttentionKind::Latent { kv_rank, nope_dim, value_dim, .. } =
            block.config.attention.kind
        else {
            return Ok(None);
        };
        let Some(k_b) = block.find("attn_k_b.weight") else { return Ok(None) };
        let heads = block.config.attention.heads;
        let per_head = |tensor, rows, cols| -> Result<Vec<Linear>> {
            (0..heads).map(|h| Ok(stacked(tensor, h, [heads, rows, cols])?.into())).collect()
        };
        let v_b = block.need("attn_v_b.weight")?;
        Ok(Some((per_head(k_b, kv_rank, nope_dim)?, per_head(v_b, value_dim, kv_rank)?)))
    }

    fn experts(&self, block: &Block<Self>, shape: &Shape) -> Result<Experts> {
        let hidden = block.config.hidden;
        let correction = block.find("exp_probs_b.bias").or_else(|| block.find("exp_probs_b"));
        let names = ["ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp"];
        let shared = |shared: &super::super::config::Shared| -> Result<Shared> {
            Ok(Shared {
                mlp: block.mlp(names, shared.width)?,
                gate: match shared.gated {
                    true => Some(block.matrix("ffn_gate_inp_shexp", 1, hidden)?.into()),
                    false => None,
                },
            })
        };
        Ok(Experts {
            router: block.linear("ffn_gate_inp", shape.count, hidden)?,
            correction: correction.map(|tensor| vector(tensor, shape.count)).transpose()?,
            experts: (0..shape.count).map(|e| expert(block, shape, e)).collect::<Result<_>>()?,
            shared: shape.shared.as_ref().map(shared).transpose()?,
        })
    }
}

fn expert(block: &Block<Gguf>, shape: &Shape, e: usize) -> Result<Mlp> {
    let (hidden, width) = (block.config.hidden, shape.width);
    // Files from before experts were stacked have a tensor for each.
    let single = ["ffn_gate", "ffn_up", "ffn_down"].map(|part| format!("{part}.{e}"));
    if block.find("ffn_gate_exps.weight").is_none()
        && block.find(&format!("{}.weight", single[0])).is_some()
    {
        return block.mlp(single.each_ref().map(String::as_str), width);
    }
    let linear = |part: &str, rows: usize, cols: usize| -> Result<Linear> {
        let weights = block.need(&format!("{part}.weight"))?;
        let weight = stacked(weights, e, [shape.count, rows, cols])?;
        let bias = block.find(&format!("{part}.bias")).map(|b| vector_row(b, e, rows));
        Ok(Linear { weight, bias: bias.transpose()? })
    };
    let down = linear("ffn_down_exps", hidden, width)?;
    if block.find("ffn_gate_up_exps.weight").is_some() {
        let both = linear("ffn_gate_up_exps", 2 * width, hidden)?;
        return Ok(Mlp {
            gate: part_of(&both, 0, width)?,
            up: part_of(&both, width, width)?,
            down,
        });
    }
    Ok(Mlp {
        gate: linear("ffn_gate_exps", width, hidden)?,
        up: linear("ffn_up_exps", width, hidden)?,
        down,
    })
}

/// `len` of the rows of a projection, from row `start`.
fn part_of(whole: &Linear, start: usize, len: usize) -> Result<Linear> {
    Ok(Linear {
        weight: whole.weight.rows_in(start..start + len)?,
        bias: whole.bias.as_ref().map(|bias| bias[start..start + len].to_vec()),
    })
}

/// Matrix `index` of a stack of the given shape. Writers of GGUF drop outer dimensions of 1.
fn stacked(tensor: &Tensor, index: usize, shape: [usize; 3]) -> Result<Matrix> {
    let [count, rows, cols] = shape;
    if tensor.shape != shape && (count != 1 || tensor.shape != [rows, cols]) {
        return Err(tensor.bad(format!("expected shape {shape:?}, found {:?}", tensor.shape)));
    }
    Matrix::expert(tensor, index)?.expect(rows, cols)
}

//! The parts of one layer, whatever their container calls them.

use super::super::config::{AttentionKind, Config, Experts as Shape, Ffn as FfnShape, QkNorm};
use super::super::parts::{
    Attention, Experts, Ffn, Grouped, Latent, LatentQuery, Layer, Linear, LowRank, Mlp,
};
use crate::weights::{Matrix, Tensor, error::Result, vector};

/// What a container calls the parts of a layer. Names without an ending have `.weight` and
/// perhaps `.bias` after them.
pub struct Names {
    /// What stands before the layer's number.
    pub layer: &'static str,
    pub attention_norm: &'static str,
    /// The first that is there.
    pub ffn_norm: &'static [&'static str],
    pub q: &'static str,
    pub k: &'static str,
    pub v: &'static str,
    pub o: &'static str,
    pub q_norm: &'static str,
    pub k_norm: &'static str,
    /// With its ending.
    pub sinks: &'static str,
    pub q_a: &'static str,
    pub q_a_norm: &'static str,
    pub q_b: &'static str,
    pub kv_a: &'static str,
    pub kv_norm: &'static str,
    pub kv_b: &'static str,
    /// Gate, up and down of a dense block.
    pub mlp: [&'static str; 3],
}

/// A form in which models come.
pub trait Container: Sized {
    const NAMES: Names;

    fn find(&self, name: &str) -> Option<&Tensor>;

    /// The tensor, or the sentence that it is missing.
    fn need(&self, name: &str) -> Result<&Tensor>;

    /// `NAME.weight`
    fn matrix(&self, name: &str, rows: usize, cols: usize) -> Result<Matrix> {
        Matrix::whole(self.need(&format!("{name}.weight"))?)?.expect(rows, cols)
    }

    /// Queries, keys and values where one matrix holds all three.
    fn fused_qkv(&self, _: &Block<Self>, _: &Widths) -> Result<Option<[Linear; 3]>> {
        Ok(None)
    }

    /// Latent attention's two up-projections where they come apart, head by head.
    fn latent_up(&self, _: &Block<Self>) -> Result<Option<(Vec<Linear>, Vec<Linear>)>> {
        Ok(None)
    }

    fn experts(&self, block: &Block<Self>, shape: &Shape) -> Result<Experts>;
}

/// Rows of the projections around grouped attention, and the columns of the last.
pub struct Widths {
    pub q: usize,
    pub k: usize,
    pub v: usize,
    pub o: usize,
}

pub struct Block<'a, C> {
    pub container: &'a C,
    pub config: &'a Config,
    pub index: usize,
}

impl<'a, C: Container> Block<'a, C> {
    /// The layers of a model.
    pub fn layers(container: &'a C, config: &'a Config) -> Result<Vec<Layer>> {
        let layer = |index| Block { container, config, index }.layer();
        (0..config.layers.len()).map(layer).collect()
    }

    fn name(&self, part: &str) -> String {
        format!("{}{}.{part}", C::NAMES.layer, self.index)
    }

    pub fn find(&self, part: &str) -> Option<&'a Tensor> {
        self.container.find(&self.name(part))
    }

    pub fn need(&self, part: &str) -> Result<&'a Tensor> {
        self.container.need(&self.name(part))
    }

    pub fn matrix(&self, part: &str, rows: usize, cols: usize) -> Result<Matrix> {
        self.container.matrix(&self.name(part), rows, cols)
    }

    /// A projection with its bias, if the file has one.
    pub fn linear(&self, part: &str, rows: usize, cols: usize) -> Result<Linear> {
        let bias = self.find(&format!("{part}.bias")).map(|tensor| vector(tensor, rows));
        Ok(Linear { weight: self.matrix(part, rows, cols)?, bias: bias.transpose()? })
    }

    fn norm(&self, part: &str, len: usize) -> Result<Vec<f32>> {
        vector(self.need(&format!("{part}.weight"))?, len)
    }

    /// A gated block by the names of gate, up and down.
    pub fn mlp(&self, parts: [&str; 3], width: usize) -> Result<Mlp> {
        let hidden = self.config.hidden;
        let [gate, up, down] = parts;
        Ok(Mlp {
            gate: self.linear(gate, width, hidden)?,
            up: self.linear(up, width, hidden)?,
            down: self.linear(down, hidden, width)?,
        })
    }

    fn layer(&self) -> Result<Layer> {
        let hidden = self.config.hidden;
        let has = |name: &&&str| self.find(&format!("{name}.weight")).is_some();
        let ffn_norm = C::NAMES.ffn_norm.iter().find(has).unwrap_or(&C::NAMES.ffn_norm[0]);
        Ok(Layer {
            attention_norm: self.norm(C::NAMES.attention_norm, hidden)?,
            attention: match self.config.attention.kind {
                AttentionKind::Grouped { .. } => Attention::Grouped(self.grouped()?),
                AttentionKind::Latent { .. } => Attention::Latent(self.latent()?),
            },
            ffn_norm: self.norm(ffn_norm, hidden)?,
            ffn: match (self.config.layers[self.index].ffn, &self.config.experts) {
                (FfnShape::Dense { width }, _) => {
                    Ffn::Dense(Box::new(self.mlp(C::NAMES.mlp, width)?))
                }
                (FfnShape::Experts, Some(shape)) => {
                    Ffn::Experts(Box::new(self.container.experts(self, shape)?))
                }
                (FfnShape::Experts, None) => unreachable!("a checked config"),
            },
        })
    }

    fn grouped(&self) -> Result<Grouped> {
        let Config { hidden, ref attention, .. } = *self.config;
        let AttentionKind::Grouped { kv_heads, key_dim, value_dim, qk_norm } = attention.kind
        else {
            unreachable!("called for grouped attention")
        };
        let heads = attention.heads;
        let widths = Widths {
            q: heads * key_dim,
            k: kv_heads * key_dim,
            v: kv_heads * value_dim,
            o: heads * value_dim,
        };
        let [q, k, v] = match self.container.fused_qkv(self, &widths)? {
            Some(fused) => fused,
            None => [
                self.linear(C::NAMES.q, widths.q, hidden)?,
                self.linear(C::NAMES.k, widths.k, hidden)?,
                self.linear(C::NAMES.v, widths.v, hidden)?,
            ],
        };
        let head_norm = |part, whole| match qk_norm {
            QkNorm::None => Ok(None),
            QkNorm::PerHead => self.norm(part, key_dim).map(Some),
            QkNorm::Whole => self.norm(part, whole).map(Some),
        };
        let sinks = match attention.sinks {
            true => Some(vector(self.need(C::NAMES.sinks)?, heads)?),
            false => None,
        };
        Ok(Grouped {
            q,
            k,
            v,
            o: self.linear(C::NAMES.o, hidden, widths.o)?,
            q_norm: head_norm(C::NAMES.q_norm, widths.q)?,
            k_norm: head_norm(C::NAMES.k_norm, widths.k)?,
            sinks,
        })
    }

    fn latent(&self) -> Result<Latent> {
        let Config { hidden, ref attention, .. } = *self.config;
        let AttentionKind::Latent { q_rank, kv_rank, nope_dim, rope_dim, value_dim, .. } =
            attention.kind
        else {
            unreachable!("called for latent attention")
        };
        let heads = attention.heads;
        let q_width = heads * (nope_dim + rope_dim);
        let q = match q_rank {
            None => LatentQuery::Direct(self.linear(C::NAMES.q, q_width, hidden)?),
            Some(rank) => LatentQuery::LowRank(Box::new(LowRank {
                a: self.linear(C::NAMES.q_a, rank, hidden)?,
                norm: self.norm(C::NAMES.q_a_norm, rank)?,
                b: self.linear(C::NAMES.q_b, q_width, rank)?,
            })),
        };
        let (k_up, v_up) = match self.container.latent_up(self)? {
            Some(apart) => apart,
            None => {
                let rows = heads * (nope_dim + value_dim);
                let both = self.matrix(C::NAMES.kv_b, rows, kv_rank)?;
                split_kv_b(&both, heads, nope_dim, value_dim)?
            }
        };
        Ok(Latent {
            q,
            kv_a: self.linear(C::NAMES.kv_a, kv_rank + rope_dim, hidden)?,
            kv_norm: self.norm(C::NAMES.kv_norm, kv_rank)?,
            k_up,
            v_up,
            o: self.linear(C::NAMES.o, hidden, heads * value_dim)?,
        })
    }
}

/// Splits DeepSeek's `kv_b` `[heads * (nope_dim + value_dim), kv_rank]` into what absorbed
/// attention multiplies with: per head the transposed key half and the value half.
fn split_kv_b(
    kv_b: &Matrix,
    heads: usize,
    nope_dim: usize,
    value_dim: usize,
) -> Result<(Vec<Linear>, Vec<Linear>)> {
    let (mut k_up, mut v_up) = (Vec::with_capacity(heads), Vec::with_capacity(heads));
    for head in 0..heads {
        let start = head * (nope_dim + value_dim);
        k_up.push(kv_b.rows_in(start..start + nope_dim)?.transposed()?.into());
        v_up.push(kv_b.rows_in(start + nope_dim..start + nope_dim + value_dim)?.into());
    }
    Ok((k_up, v_up))
}

/// A vector that is one row of a matrix `[rows, len]` (an expert's bias).
pub fn vector_row(tensor: &Tensor, row: usize, len: usize) -> Result<Vec<f32>> {
    let matrix = Matrix::whole(tensor)?;
    if matrix.cols() != len || row >= matrix.rows() {
        return Err(tensor.bad(format!("expected rows of {len}, found shape {:?}", tensor.shape)));
    }
    Ok(matrix.row_values(row))
}

pub fn bare(weight: Matrix) -> Linear {
    Linear { weight, bias: None }
}

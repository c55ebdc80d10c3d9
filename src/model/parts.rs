//! A model's weights, part by part. Shapes are in the names of [`super::Config`].

use crate::weights::Matrix;

/// `y = W x (+ b)`
#[derive(Clone, Debug)]
pub struct Linear {
    /// `[outputs, inputs]`
    pub weight: Matrix,
    pub bias: Option<Vec<f32>>,
}

pub struct Parts {
    /// `[vocab, hidden]`
    pub embedding: Matrix,
    pub layers: Vec<Layer>,
    /// `[hidden]`
    pub norm: Vec<f32>,
    /// `[vocab, hidden]`; the embedding again where the two are tied.
    pub output: Linear,
}

pub struct Layer {
    /// `[hidden]`
    pub attention_norm: Vec<f32>,
    pub attention: Attention,
    /// `[hidden]`
    pub ffn_norm: Vec<f32>,
    pub ffn: Ffn,
}

pub enum Attention {
    Grouped(Grouped),
    Latent(Latent),
}

pub struct Grouped {
    /// `[heads * key_dim, hidden]`
    pub q: Linear,
    /// `[kv_heads * key_dim, hidden]`
    pub k: Linear,
    /// `[kv_heads * value_dim, hidden]`
    pub v: Linear,
    /// `[hidden, heads * value_dim]`
    pub o: Linear,
    /// `[key_dim]`, or the whole width where all heads are normed together.
    pub q_norm: Option<Vec<f32>>,
    pub k_norm: Option<Vec<f32>>,
    /// `[heads]`
    pub sinks: Option<Vec<f32>>,
}

pub struct Latent {
    pub q: LatentQuery,
    /// `[kv_rank + rope_dim, hidden]`
    pub kv_a: Linear,
    /// `[kv_rank]`
    pub kv_norm: Vec<f32>,
    /// Per head `[kv_rank, nope_dim]`: carries a query into the compressed space.
    pub k_up: Vec<Matrix>,
    /// Per head `[value_dim, kv_rank]`: carries a sum of compressed vectors back.
    pub v_up: Vec<Matrix>,
    /// `[hidden, heads * value_dim]`
    pub o: Linear,
}

pub enum LatentQuery {
    /// `[heads * (nope_dim + rope_dim), hidden]`
    Direct(Linear),
    LowRank(Box<LowRank>),
}

pub struct LowRank {
    /// `[q_rank, hidden]`
    pub a: Linear,
    /// `[q_rank]`
    pub norm: Vec<f32>,
    /// `[heads * (nope_dim + rope_dim), q_rank]`
    pub b: Linear,
}

pub enum Ffn {
    Dense(Box<Mlp>),
    Experts(Box<Experts>),
}

/// A gated feed-forward block: `down(act(gate(x)) · up(x))`.
pub struct Mlp {
    /// `[width, hidden]`
    pub gate: Linear,
    /// `[width, hidden]`
    pub up: Linear,
    /// `[hidden, width]`
    pub down: Linear,
}

pub struct Experts {
    /// `[experts, hidden]`
    pub router: Linear,
    /// `[experts]`: added to the scores for the choice alone.
    pub correction: Option<Vec<f32>>,
    pub experts: Vec<Mlp>,
    pub shared: Option<Shared>,
}

pub struct Shared {
    pub mlp: Mlp,
    /// `[1, hidden]`
    pub gate: Option<Matrix>,
}

impl Mlp {
    /// Asks the host for the bytes of all three.
    pub fn stage(&self) {
        [&self.gate, &self.up, &self.down].iter().for_each(|linear| linear.weight.stage());
    }
}

impl Layer {
    /// Asks the host for what every token needs of this layer.
    pub fn stage(&self) {
        match &self.attention {
            Attention::Grouped(g) => [&g.q, &g.k, &g.v, &g.o].iter().for_each(|l| l.weight.stage()),
            Attention::Latent(l) => {
                match &l.q {
                    LatentQuery::Direct(q) => q.weight.stage(),
                    LatentQuery::LowRank(q) => [&q.a, &q.b].iter().for_each(|l| l.weight.stage()),
                }
                l.kv_a.weight.stage();
                l.k_up.iter().chain(&l.v_up).for_each(Matrix::stage);
                l.o.weight.stage();
            }
        }
        match &self.ffn {
            Ffn::Dense(mlp) => mlp.stage(),
            Ffn::Experts(experts) => {
                experts.router.weight.stage();
                if let Some(shared) = &experts.shared {
                    shared.mlp.stage();
                }
            }
        }
    }
}

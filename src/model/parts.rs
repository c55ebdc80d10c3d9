//! A model's weights, part by part. Shapes are in the names of [`super::Config`].

use crate::math::Forms;
use crate::weights::Matrix;
use crate::weights::pack::{self, Contents};

/// `y = W x (+ b)`
#[derive(Clone, Debug)]
pub struct Linear {
    /// `[outputs, inputs]`
    pub weight: Matrix,
    pub bias: Option<Vec<f32>>,
}

impl Linear {
    /// What its input must be ready in.
    pub fn forms(&self) -> Forms {
        Forms::of(self.weight.format())
    }
}

impl From<Matrix> for Linear {
    fn from(weight: Matrix) -> Linear {
        Linear { weight, bias: None }
    }
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
    pub k_up: Vec<Linear>,
    /// Per head `[value_dim, kv_rank]`: carries a sum of compressed vectors back.
    pub v_up: Vec<Linear>,
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
    pub gate: Option<Linear>,
}

impl Parts {
    /// Hands every matrix that products use to `each`, with whether it is a routed expert's.
    pub fn each_weight<'a>(&'a self, mut each: impl FnMut(&'a Matrix, bool)) {
        for layer in &self.layers {
            layer.trunk(|weight| each(weight, false));
            layer.experts().for_each(|weight| each(weight, true));
        }
        each(&self.output.weight, false);
    }

    /// What a pack of the model holds. The trunk is in the order in which a step uses it.
    pub fn contents(&self) -> Contents {
        let mut trunk = vec![self.embedding.clone()];
        let mut layers = Vec::new();
        for (index, layer) in self.layers.iter().enumerate() {
            layer.trunk(|weight| trunk.push(weight.clone()));
            if let Ffn::Experts(parts) = &layer.ffn {
                let experts = parts.experts.iter().map(|mlp| mlp.weights().map(Matrix::clone));
                layers.push(pack::Layer { index, experts: experts.collect() });
            }
        }
        if !self.output.weight.is(&self.embedding) {
            trunk.push(self.output.weight.clone());
        }
        Contents { trunk, layers }
    }
}

impl Mlp {
    pub fn weights(&self) -> [&Matrix; 3] {
        [&self.gate.weight, &self.up.weight, &self.down.weight]
    }
}

impl Experts {
    /// What the input of the experts' last matrices must be ready in.
    pub fn down_forms(&self) -> Forms {
        self.experts.iter().fold(Forms::NONE, |forms, mlp| forms | mlp.down.forms())
    }
}

impl Layer {
    /// Hands every matrix that each token needs to `each`: all but the routed experts.
    pub fn trunk<'a>(&'a self, mut each: impl FnMut(&'a Matrix)) {
        match &self.attention {
            Attention::Grouped(g) => {
                [&g.q, &g.k, &g.v, &g.o].into_iter().for_each(|l| each(&l.weight))
            }
            Attention::Latent(l) => {
                match &l.q {
                    LatentQuery::Direct(q) => each(&q.weight),
                    LatentQuery::LowRank(q) => [&q.a, &q.b].iter().for_each(|l| each(&l.weight)),
                }
                each(&l.kv_a.weight);
                l.k_up.iter().chain(&l.v_up).for_each(|up| each(&up.weight));
                each(&l.o.weight);
            }
        }
        match &self.ffn {
            Ffn::Dense(mlp) => mlp.weights().into_iter().for_each(each),
            Ffn::Experts(experts) => {
                each(&experts.router.weight);
                if let Some(shared) = &experts.shared {
                    shared.mlp.weights().into_iter().for_each(&mut each);
                    shared.gate.iter().for_each(|gate| each(&gate.weight));
                }
            }
        }
    }

    /// The routed experts' matrices.
    pub fn experts(&self) -> impl Iterator<Item = &Matrix> + Clone {
        let experts = match &self.ffn {
            Ffn::Dense(_) => &[][..],
            Ffn::Experts(experts) => &experts.experts[..],
        };
        experts.iter().flat_map(Mlp::weights)
    }
}

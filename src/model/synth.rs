//! Models of real shapes with random weights, for measuring a host without downloading anything.
//!
//! A [`Recipe`] decides every byte of a GGUF file from a shape, a format, a skew and a seed.
//! `shapes` holds the sizes of real models, `metadata` what their files say, `vocabulary` a
//! tokenizer of the right size, `blocks` random weights in every format, `random` the numbers.
//!
//! The weights have the spread that training begins with, 1/√inputs, so that hidden states stay
//! near 1 and logits finite. Two things differ. Attention's output is 20 times smaller: else the
//! mean over the context, which is common to all tokens, takes over the residual stream layer by
//! layer, and all tokens go to the same experts. And embeddings are 1 where the output has a
//! matrix of its own, so that the token is what the stream mostly says.

mod blocks;
mod metadata;
mod random;
mod shapes;
mod vocabulary;

use std::io::{self, Write};

pub use shapes::{ALL, Shape};

/// What the matrices are written in.
pub use crate::math::Format as Quant;
use crate::math::Format;
use crate::weights::gguf::write::{self, Described};

use blocks::{Blocks, GROUP};
use random::Stream;
use shapes::{Experts, Kind};

/// Attention's output, compared with other matrices.
const ATTENTION_OUTPUT: f64 = 0.05;

/// Bytes that are made and handed over at a time.
const PIECE: usize = 2 << 20;

/// A model to be written.
pub struct Recipe {
    /// The name its shape was asked for by.
    name: String,
    shape: Shape,
    quant: Quant,
    /// Router rows are multiplied by exp(skew · N(0, 1)).
    skew: f64,
    seed: u64,
    tensors: Vec<Tensor>,
}

struct Tensor {
    described: Described,
    content: Content,
}

/// What a tensor holds.
enum Content {
    /// Random, with this standard deviation.
    Random {
        sigma: f64,
    },
    /// The same, some rows larger than others.
    Router {
        sigma: f64,
    },
    /// Random between `middle` ± `reach`.
    Near {
        middle: f32,
        reach: f32,
    },
    Given(Vec<f32>),
}

impl Recipe {
    /// `layers` in place of the shape's own number. `None` if there is no shape of that name.
    pub fn new(
        name: &str,
        quant: Quant,
        layers: Option<usize>,
        skew: f64,
        seed: u64,
    ) -> Option<Recipe> {
        let mut shape = Shape::find(name)?;
        shape.layers = layers.unwrap_or(shape.layers);
        let tensors = Plan { shape: &shape, quant, tensors: Vec::new() }.all();
        Some(Recipe { name: name.into(), shape, quant, skew, seed, tensors })
    }

    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Bytes of all weights.
    pub fn weight_bytes(&self) -> u64 {
        self.tensors.iter().map(Tensor::bytes).sum()
    }

    pub fn parameters(&self) -> u64 {
        self.tensors.iter().map(Tensor::elements).sum()
    }

    /// Parameters that work for one token.
    pub fn active_parameters(&self) -> u64 {
        let active = |tensor: &Tensor| match (self.shape.experts, &*tensor.described.name) {
            // One row, which the output's own matrix makes up for where the two are tied.
            (_, "token_embd.weight") if !self.shape.tied => self.shape.hidden as u64,
            (Some(experts), name) if name.contains("_exps.") => {
                tensor.elements() / experts.count as u64 * experts.used as u64
            }
            _ => tensor.elements(),
        };
        self.tensors.iter().map(active).sum()
    }

    /// Writes the file. `each` hears how many bytes of weights are written so far and may stop it.
    pub fn write<W: Write>(
        &self,
        out: W,
        mut each: impl FnMut(u64) -> io::Result<()>,
    ) -> io::Result<W> {
        let described: Vec<Described> = self.tensors.iter().map(|t| t.described.clone()).collect();
        let mut writer = write::Writer::new(out, &metadata::fields(self), &described)?;
        let mut piece = vec![0; PIECE];
        let mut done = 0;
        for tensor in &self.tensors {
            let filler = Filler::new(self, tensor);
            let group = GROUP * tensor.described.format.block_bytes();
            let whole = PIECE / group * group;
            let bytes = tensor.bytes();
            let mut offset = 0;
            while offset < bytes {
                let piece = &mut piece[..whole.min((bytes - offset) as usize)];
                filler.fill(offset, piece);
                writer.data(piece)?;
                offset += piece.len() as u64;
                each(done + offset)?;
            }
            done += bytes;
        }
        Ok(writer.finish())
    }
}

impl Tensor {
    fn bytes(&self) -> u64 {
        self.described.bytes().expect("the plan chose a format that fits")
    }

    fn elements(&self) -> u64 {
        self.described.shape.iter().map(|n| *n as u64).product()
    }
}

/// Makes the bytes of a tensor.
enum Filler<'a> {
    Blocks(Blocks),
    /// F32, each a function of its index.
    Floats(Box<dyn Fn(usize) -> f32 + 'a>),
}

impl<'a> Filler<'a> {
    fn new(recipe: &Recipe, tensor: &'a Tensor) -> Filler<'a> {
        let name = &tensor.described.name;
        let stream = Stream::new(recipe.seed, name);
        // Uniform between ±1
        let unit = move |i: usize| (stream.word(i as u64) as i64 as f64 / i64::MAX as f64) as f32;
        match &tensor.content {
            Content::Random { sigma } => {
                Filler::Blocks(Blocks::new(tensor.described.format, stream, *sigma))
            }
            Content::Router { sigma } => {
                let [rows, cols] = tensor.described.shape[..] else {
                    unreachable!("a router is a matrix")
                };
                let reach = sigma * 3f64.sqrt();
                let sizes = Stream::new(recipe.seed, &format!("{name} rows"));
                let size = |row| (reach * (recipe.skew * sizes.normal(row as u64)).exp()) as f32;
                let sizes: Vec<f32> = (0..rows).map(size).collect();
                Filler::Floats(Box::new(move |i| sizes[i / cols] * unit(i)))
            }
            Content::Near { middle, reach } => {
                Filler::Floats(Box::new(move |i| middle + reach * unit(i)))
            }
            Content::Given(values) => Filler::Floats(Box::new(move |i| values[i])),
        }
    }

    fn fill(&self, offset: u64, out: &mut [u8]) {
        match self {
            Filler::Blocks(blocks) => blocks.fill(offset, out),
            Filler::Floats(value) => {
                let first = (offset / 4) as usize;
                for (out, i) in out.as_chunks_mut::<4>().0.iter_mut().zip(first..) {
                    *out = value(i).to_le_bytes();
                }
            }
        }
    }
}

/// What a matrix of a role is written in when `quant` was asked for and its rows have `cols`
/// weights. Where 256 does not divide them, llama.cpp's own substitute of 32.
fn fitting(quant: Quant, cols: usize) -> Format {
    let substitute = match quant {
        Format::IQ4XS => Format::IQ4NL,
        Format::Q2K | Format::Q3K => Format::Q4_0,
        Format::Q4K => Format::Q5_0,
        Format::Q5K => Format::Q5_1,
        Format::Q6K => Format::Q8_0,
        other => other,
    };
    let fits = |format: &Format| cols.is_multiple_of(format.block());
    [quant, substitute].into_iter().find(fits).unwrap_or(Format::F16)
}

/// Lists the tensors of a shape.
struct Plan<'a> {
    shape: &'a Shape,
    quant: Quant,
    tensors: Vec<Tensor>,
}

impl Plan<'_> {
    fn all(mut self) -> Vec<Tensor> {
        let shape = self.shape;
        let Shape { hidden, vocabulary, .. } = *shape;
        if shape.kind == Kind::Llama {
            self.push(
                "rope_freqs.weight",
                &[shape.head / 2],
                Content::Given(llama3_divisors(shape)),
            );
        }
        // A tied embedding must also do as the output's matrix.
        let embedding = if shape.tied { (hidden as f64).powf(-0.5) } else { 1.0 };
        self.matrix("token_embd", &[vocabulary.size, hidden], embedding);
        for layer in 0..shape.layers {
            self.layer(&format!("blk.{layer}."), layer);
        }
        self.norm("output_norm", hidden);
        if !shape.tied {
            self.weights("output", &[vocabulary.size, hidden]);
        }
        self.tensors
    }

    fn push(&mut self, name: &str, shape: &[usize], content: Content) {
        let described = Described { name: name.into(), shape: shape.into(), format: Format::F32 };
        self.tensors.push(Tensor { described, content });
    }

    fn norm(&mut self, name: &str, len: usize) {
        self.push(&format!("{name}.weight"), &[len], Content::Near { middle: 1.0, reach: 0.1 });
    }

    /// A bias for each of these rows.
    fn bias(&mut self, name: &str, shape: &[usize]) {
        self.push(&format!("{name}.bias"), shape, Content::Near { middle: 0.0, reach: 0.05 });
    }

    /// A matrix or a stack of them.
    fn matrix(&mut self, name: &str, shape: &[usize], sigma: f64) {
        self.push(&format!("{name}.weight"), shape, Content::Random { sigma });
        let (cols, format) = (shape[shape.len() - 1], self.format(name));
        let tensor = self.tensors.last_mut().expect("just pushed");
        tensor.described.format = fitting(format, cols);
    }

    /// A matrix with the spread that its number of inputs asks for.
    fn weights(&mut self, name: &str, shape: &[usize]) {
        self.matrix(name, shape, (shape[shape.len() - 1] as f64).powf(-0.5));
    }

    fn format(&self, name: &str) -> Format {
        let feeds_forward = name.contains("ffn_");
        match (self.shape.kind, self.quant) {
            (Kind::GptOss, _) if feeds_forward => Format::MXFP4,
            (_, Format::MXFP4) if !feeds_forward => Format::Q8_0,
            (_, quant) => quant,
        }
    }

    fn layer(&mut self, prefix: &str, layer: usize) {
        let Shape { kind, hidden, .. } = *self.shape;
        let name = |part: &str| format!("{prefix}{part}");
        self.norm(&name("attn_norm"), hidden);
        self.attention(&name);
        let second = if kind == Kind::GptOss { "post_attention_norm" } else { "ffn_norm" };
        self.norm(&name(second), hidden);
        match self.shape.experts {
            Some(experts) if layer >= experts.lead => self.experts(&name, experts),
            _ => self.mlp(&name, "", &[], self.shape.dense_width),
        }
    }

    fn attention(&mut self, name: &dyn Fn(&str) -> String) {
        let Shape { kind, hidden, heads, kv_heads, head, latent, .. } = *self.shape;
        match latent {
            None => {
                for (part, width) in
                    [("q", heads * head), ("k", kv_heads * head), ("v", kv_heads * head)]
                {
                    self.weights(&name(&format!("attn_{part}")), &[width, hidden]);
                    match kind {
                        Kind::GptOss => self.bias(&name(&format!("attn_{part}")), &[width]),
                        Kind::Olmoe if part != "v" => {
                            self.norm(&name(&format!("attn_{part}_norm")), width);
                        }
                        Kind::Qwen3 | Kind::Qwen3Moe if part != "v" => {
                            self.norm(&name(&format!("attn_{part}_norm")), head);
                        }
                        _ => {}
                    }
                }
            }
            Some(latent) => {
                self.weights(&name("attn_q"), &[heads * (latent.nope + latent.rope), hidden]);
                self.weights(&name("attn_kv_a_mqa"), &[latent.rank + latent.rope, hidden]);
                self.norm(&name("attn_kv_a_norm"), latent.rank);
                // Stored the other way round: the rank is what a key is made from.
                let sigma = (latent.rank as f64).powf(-0.5);
                self.matrix(&name("attn_k_b"), &[heads, latent.rank, latent.nope], sigma);
                self.weights(&name("attn_v_b"), &[heads, head, latent.rank]);
            }
        }
        let inputs = heads * head;
        let sigma = ATTENTION_OUTPUT * (inputs as f64).powf(-0.5);
        self.matrix(&name("attn_output"), &[hidden, inputs], sigma);
        if kind == Kind::GptOss {
            self.bias(&name("attn_output"), &[hidden]);
            let content = Content::Near { middle: 0.0, reach: 1.0 };
            self.push(&name("attn_sinks.weight"), &[heads], content);
        }
    }

    fn experts(&mut self, name: &dyn Fn(&str) -> String, experts: Experts) {
        let hidden = self.shape.hidden;
        let Experts { count, width, shared, .. } = experts;
        let sigma = (hidden as f64).powf(-0.5);
        self.push(&name("ffn_gate_inp.weight"), &[count, hidden], Content::Router { sigma });
        if self.shape.kind == Kind::GptOss {
            // Larger ones would make some experts popular.
            let content = Content::Near { middle: 0.0, reach: 0.01 };
            self.push(&name("ffn_gate_inp.bias"), &[count], content);
        }
        self.mlp(name, "_exps", &[count], width);
        if shared > 0 {
            self.mlp(name, "_shexp", &[], shared * width);
        }
    }

    /// Gate, up and down, `outer` times.
    fn mlp(&mut self, name: &dyn Fn(&str) -> String, suffix: &str, outer: &[usize], width: usize) {
        let hidden = self.shape.hidden;
        for (part, rows, cols) in
            [("gate", width, hidden), ("up", width, hidden), ("down", hidden, width)]
        {
            let part = name(&format!("ffn_{part}{suffix}"));
            self.weights(&part, &[outer, &[rows, cols]].concat());
            if self.shape.kind == Kind::GptOss {
                self.bias(&part, &[outer, &[rows]].concat());
            }
        }
    }
}

/// What Llama 3.1 and later divide their rotations by: nothing where they are fast, 32 where they
/// are slower than the 8192 positions of the first training, between the two in between.
fn llama3_divisors(shape: &Shape) -> Vec<f32> {
    const FACTOR: f64 = 32.0;
    const ORIGINAL: f64 = 8192.0;
    (0..shape.head / 2)
        .map(|i| {
            let wave = f64::from(shape.rope_base).powf(2.0 * i as f64 / shape.head as f64);
            // Turns within the original context: at most one is slow, four or more are fast.
            let turns = ORIGINAL / (wave * std::f64::consts::TAU);
            let smooth = ((turns - 1.0) / 3.0).clamp(0.0, 1.0);
            (1.0 / ((1.0 - smooth) / FACTOR + smooth)) as f32
        })
        .collect()
}

//! How a model routes: `cargo run --release --example routing -- MODEL [TOKENS]`.
//!
//! Feeds a sequence of random tokens through every layer and prints, averaged over the layers,
//! how unequally the experts are chosen, how many of a token's experts the token before it had
//! chosen too, and how often a cache of the most recently used experts would have the one that
//! is wanted. It walks the layers itself, so the engine's own step carries no counters for it.

use std::collections::VecDeque;
use std::error::Error;
use std::path::Path;

use penstock::base::limits::PAGE;
use penstock::host::crew::Crew;
use penstock::math::{Activations, Forms, IsaChoice, Kernels, top_k};
use penstock::model::attention::{self, Context, Place, attention};
use penstock::model::compute::{Compute, Product, Stage, Tally, To};
use penstock::model::config::{Config, RopeTable};
use penstock::model::experts::{self, ffn};
use penstock::model::parts::Ffn;
use penstock::model::{Hand, KvShape, Model};
use penstock::weights::Source;
use penstock::weights::home::Home;

/// Tokens that go through a layer together.
const CHUNK: usize = 64;

/// Parts of all experts that the imagined caches hold.
const CACHED: [f64; 3] = [0.2, 0.4, 0.5];

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("usage: routing MODEL [TOKENS]")?;
    let count = args.next().map_or(Ok(512), |n| n.parse())?;
    let model = Model::open(&Source::open(Path::new(&path))?)?;
    let Some(shape) = &model.config.experts else { return Err("the model has no experts".into()) };
    let layers = walk(&model, &tokens(model.config.vocab, count))?;

    let expected = shape.used as f64 / shape.count as f64;
    println!("{path}: {} layers with experts, {count} tokens", layers.len());
    let line = |name: &str, of: &dyn Fn(&Layer) -> f64| {
        let values: Vec<f64> = layers.iter().map(|layer| 100.0 * of(layer)).collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let (first, last) = (values[0], values[values.len() - 1]);
        println!("{name:<34} {mean:>5.1}%   (first layer {first:.1}%, last {last:.1}%)");
    };
    println!("{:<34} {:>5.1}%", "chance that two tokens share", 100.0 * expected);
    line("shared with the token before", &|layer| overlap(layer));
    line("tokens to the top quarter", &|layer| top_quarter(layer, shape.count));
    for part in CACHED {
        let room = (part * shape.count as f64) as usize;
        let name = format!("found among the last {:.0}%", 100.0 * part);
        line(&name, &|layer| recently_used(layer, room));
    }
    Ok(())
}

/// The experts of every token, in one layer.
type Layer = Vec<Vec<u32>>;

fn tokens(vocab: usize, count: usize) -> Vec<u32> {
    let mut state = 1u64;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) as usize % vocab) as u32
    };
    (0..count).map(|_| next()).collect()
}

fn walk(model: &Model, tokens: &[u32]) -> Result<Vec<Layer>, Box<dyn Error>> {
    let config: &Config = &model.config;
    let kernels = Kernels::new(IsaChoice::Auto)?;
    let kv = KvShape::new(config);
    let mut rope = RopeTable::new(&config.rope);
    rope.extend_to(tokens.len());
    let pages: Vec<u32> = (0..tokens.len().div_ceil(PAGE) as u32).collect();
    let mut arena = vec![0.0; pages.len() * kv.page_floats];
    let mut crew = Crew::alone(Hand::default());
    // Weights are packed for every use: this walk is short, and the model may be large.
    let (home, mut tally) = (Home::new(0)?, Tally::default());
    let mut compute = Compute { kernels, crew: &mut crew, home: &home, tally: &mut tally };
    let (mut attend, mut forward) = (attention::Scratch::default(), experts::Scratch::default());
    let (mut x, mut scores) = (Activations::new(), Vec::new());
    let mut layers: Vec<Layer> = vec![Vec::new(); model.parts.layers.len()];

    for (chunk, start) in tokens.chunks(CHUNK).zip((0..).step_by(CHUNK)) {
        let mut hidden = vec![0.0; chunk.len() * config.hidden];
        for (token, row) in chunk.iter().zip(hidden.chunks_exact_mut(config.hidden)) {
            model.parts.embedding.read_row(*token as usize, row);
        }
        let place = |i| Place { position: start + i, pages: 0 };
        let places: Vec<Place> = (0..chunk.len()).map(place).collect();
        for (layer, parts) in model.parts.layers.iter().enumerate() {
            let forms = attention::forms(&parts.attention);
            norm(&kernels, &hidden, &parts.attention_norm, config.norm_eps, forms, &mut x);
            let (places, pages) = (&places[..], &pages[..]);
            let context = Context { config, kv: &kv, rope: &rope, places, pages, layer };
            let (weights, arena) = (&parts.attention, &mut arena[..]);
            attention(&mut compute, &context, &mut attend, arena, weights, &x, &mut hidden);
            let forms = experts::forms(&parts.ffn);
            norm(&kernels, &hidden, &parts.ffn_norm, config.norm_eps, forms, &mut x);
            if let (Ffn::Experts(parts), Some(shape)) = (&parts.ffn, &config.experts) {
                // Softmax and sigmoid keep the order. Groups and corrections would not; the
                // shapes that this measures have neither.
                let router = Product::new(&parts.router, &x, To::Buffer(&mut scores));
                compute.products(Stage::Router, [router]);
                for scores in scores.chunks_exact(shape.count) {
                    let mut best = Vec::new();
                    top_k(scores, shape.used, &mut best);
                    layers[layer].push(best.iter().map(|(expert, _)| *expert).collect());
                }
            }
            ffn(&mut compute, config, &mut forward, &parts.ffn, &x, &mut hidden);
        }
    }
    layers.retain(|layer| !layer.is_empty());
    Ok(layers)
}

fn norm(
    kernels: &Kernels,
    hidden: &[f32],
    weight: &[f32],
    eps: f32,
    forms: Forms,
    x: &mut Activations,
) {
    let (rows, cols) = (hidden.len() / weight.len(), weight.len());
    x.reset(rows, cols, forms);
    let parts = x.split(rows);
    let mut part = parts.take(0);
    for (i, row) in hidden.chunks_exact(cols).enumerate() {
        kernels.rms_norm(row, weight, eps, part.row_mut(i));
    }
    part.finish(kernels);
}

/// The part of a token's experts that the token before it had too.
fn overlap(layer: &Layer) -> f64 {
    let shared: usize =
        layer.windows(2).map(|pair| pair[1].iter().filter(|e| pair[0].contains(e)).count()).sum();
    shared as f64 / (layer.len() - 1) as f64 / layer[0].len() as f64
}

/// The part of all choices that fall on the most popular quarter of the experts.
fn top_quarter(layer: &Layer, count: usize) -> f64 {
    let mut chosen = vec![0; count];
    layer.iter().flatten().for_each(|expert| chosen[*expert as usize] += 1);
    chosen.sort_unstable_by_key(|n| std::cmp::Reverse(*n));
    chosen[..count / 4].iter().sum::<usize>() as f64 / chosen.iter().sum::<usize>() as f64
}

/// The part of all choices that are among the `room` experts used last. The first half of the
/// tokens fills the cache and does not count.
fn recently_used(layer: &Layer, room: usize) -> f64 {
    let (mut recent, mut found, mut wanted) = (VecDeque::new(), 0.0, 0.0);
    for (i, experts) in layer.iter().enumerate() {
        for expert in experts {
            let at = recent.iter().position(|e| e == expert);
            if 2 * i >= layer.len() {
                wanted += 1.0;
                found += f64::from(at.is_some());
            }
            match at {
                Some(at) => _ = recent.remove(at),
                None if recent.len() == room => _ = recent.pop_back(),
                None => {}
            }
            recent.push_front(*expert);
        }
    }
    found / wanted
}

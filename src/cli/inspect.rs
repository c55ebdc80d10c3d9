//! `penstock inspect`: what a model is, from its headers.

use std::io::{self, Write};

use serde_json::{Value, json};

use super::{Outcome, counted, open};
use crate::base::limits::PAGE;
use crate::base::units::{Bytes, Count};
use crate::math::KvFormat;
use crate::model::config::{
    Activation, AttentionKind, Config, Experts, Ffn, QkNorm, Scaling, Score,
};
use crate::model::sizes::Sizes;
use crate::model::{KvShape, Text, config};
use crate::weights::Source;

/// Show what a model is: shape, sizes, tokenizer. Reads headers only.
#[derive(clap::Args)]
pub struct Args {
    /// A GGUF file, a Hugging Face folder, or `demo`
    model: String,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Outcome {
    let source = open::source(&args.model)?;
    let config = config::read(&source)?;
    let sizes = Sizes::new(&source, &config);
    // A model without a tokenizer is still a model; its absence is part of the report.
    let text = Text::open(&source).map_err(|e| e.to_string());
    let report = Report { source: &source, config: &config, sizes: &sizes, text: &text };

    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{}", report.json())?;
    } else {
        for (name, value) in report.lines() {
            writeln!(out, "{name:<13} {value}")?;
        }
    }
    Ok(())
}

struct Report<'a> {
    source: &'a Source,
    config: &'a Config,
    sizes: &'a Sizes,
    text: &'a Result<Text, String>,
}

impl Report<'_> {
    fn container(&self) -> String {
        match self.source {
            Source::Gguf(file) => format!("GGUF v{}", file.version()),
            Source::Folder(_) => "Hugging Face folder".into(),
        }
    }

    fn kv_bytes(&self) -> u64 {
        KvShape::new(self.config, KvFormat::F32).page_bytes() / PAGE as u64
    }

    fn lines(&self) -> Vec<(&'static str, String)> {
        let Report { source, config, sizes, .. } = *self;
        let mut lines = vec![
            ("model", source.path().display().to_string()),
            ("container", format!("{}, {}", self.container(), files(source))),
            ("family", config.family.to_string()),
            (
                "parameters",
                format!(
                    "{}, of which {} work for a token",
                    Count(sizes.parameters),
                    Count(sizes.active_parameters)
                ),
            ),
            (
                "shape",
                format!(
                    "{}, hidden {}, vocabulary {}, context {}",
                    counted(config.layers.len(), "layer"),
                    config.hidden,
                    config.vocab,
                    config.context
                ),
            ),
            ("attention", attention(config)),
            ("rope", rope(config)),
            ("feed-forward", feed_forward(config)),
        ];
        if let Some(experts) = &config.experts {
            lines.push(("experts", expert_line(experts)));
        }
        let formats = quantisation(sizes);
        let formats: Vec<String> =
            formats.iter().map(|(name, _, share)| format!("{name} {share:.1}%")).collect();
        lines.push(("quantisation", formats.join(", ") + " (of bytes)"));
        lines.push(("trunk", Bytes(sizes.trunk).to_string()));
        if sizes.experts > 0 {
            let line = format!("{}, {} each", Bytes(sizes.experts), Bytes(sizes.expert));
            lines.push(("all experts", line));
        }
        if sizes.unused > 0 {
            lines.push(("not used", Bytes(sizes.unused).to_string()));
        }
        let kv = Bytes(self.kv_bytes());
        lines.push((
            "per token",
            format!("{} of weights read, {kv} of KV kept", Bytes(sizes.active)),
        ));
        match self.text {
            Ok(text) => {
                lines.push(("tokenizer", tokenizer(text)));
                lines.push(("template", template(text)));
            }
            Err(reason) => lines.push(("tokenizer", format!("none: {reason}"))),
        }
        lines
    }

    fn json(&self) -> Value {
        let Report { source, config, sizes, .. } = *self;
        let experts = config.experts.as_ref().map(|e| {
            json!({
                "count": e.count,
                "used": e.used,
                "width": e.width,
                "layers": config.layers.iter().filter(|l| l.ffn == Ffn::Experts).count(),
                "shared_width": e.shared.map(|s| s.width),
                "router": router(e),
            })
        });
        let attention = match config.attention.kind {
            AttentionKind::Grouped { kv_heads, key_dim, value_dim, .. } => json!({
                "kind": "grouped",
                "heads": config.attention.heads,
                "kv_heads": kv_heads,
                "key_length": key_dim,
                "value_length": value_dim,
            }),
            AttentionKind::Latent { q_rank, kv_rank, nope_dim, rope_dim, value_dim, .. } => json!({
                "kind": "latent",
                "heads": config.attention.heads,
                "query_rank": q_rank,
                "kv_rank": kv_rank,
                "key_length": nope_dim + rope_dim,
                "rope_length": rope_dim,
                "value_length": value_dim,
            }),
        };
        let bytes: serde_json::Map<String, Value> =
            quantisation(sizes).into_iter().map(|(name, bytes, _)| (name, bytes.into())).collect();
        let text = match self.text {
            Ok(text) => json!({
                "vocabulary": text.tokenizer.vocab_size(),
                "bos": text.tokenizer.special().bos,
                "eos": text.tokenizer.special().eos,
                "ends": text.tokenizer.special().end_of_generation,
                "template": text.template_source(),
            }),
            Err(reason) => json!({ "error": reason }),
        };
        json!({
            "path": source.path(),
            "container": self.container(),
            "files": source.parts().len(),
            "file_bytes": source.file_bytes(),
            "family": config.family.name(),
            "layers": config.layers.len(),
            "hidden": config.hidden,
            "vocabulary": config.vocab,
            "context": config.context,
            "attention": attention,
            "windows": config.layers.iter().map(|l| l.window).collect::<Vec<_>>(),
            "experts": experts,
            "bytes_by_format": bytes,
            "parameters": sizes.parameters,
            "active_parameters": sizes.active_parameters,
            "trunk_bytes": sizes.trunk,
            "expert_bytes": sizes.experts,
            "bytes_per_expert": sizes.expert,
            "unused_bytes": sizes.unused,
            "active_bytes_per_token": sizes.active,
            "kv_bytes_per_token": self.kv_bytes(),
            "tokenizer": text,
        })
    }
}

fn files(source: &Source) -> String {
    let size = Bytes(source.file_bytes());
    match source.parts().len() {
        1 => size.to_string(),
        n => format!("{size} in {n} files"),
    }
}

/// Formats with their bytes and their share in percent, largest first.
fn quantisation(sizes: &Sizes) -> Vec<(String, u64, f64)> {
    let all = sizes.formats.values().sum::<u64>().max(1) as f64;
    let share = |bytes: u64| bytes as f64 * 100.0 / all;
    let mut list: Vec<_> =
        sizes.formats.iter().map(|(name, &bytes)| (name.clone(), bytes, share(bytes))).collect();
    list.sort_by_key(|(_, bytes, _)| std::cmp::Reverse(*bytes));
    list
}

fn attention(config: &Config) -> String {
    let heads = config.attention.heads;
    let mut line = match config.attention.kind {
        AttentionKind::Grouped { kv_heads, key_dim, qk_norm, .. } => {
            let norm = match qk_norm {
                QkNorm::None => "",
                QkNorm::PerHead => ", query and key norms",
                QkNorm::Whole => ", query and key norms over all heads",
            };
            let (heads, kv_heads) = (counted(heads, "head"), counted(kv_heads, "key-value head"));
            format!("{heads} of {key_dim} on {kv_heads}{norm}")
        }
        AttentionKind::Latent { q_rank, kv_rank, nope_dim, rope_dim, value_dim, .. } => {
            let query = q_rank.map_or(String::new(), |rank| format!(", queries from rank {rank}"));
            format!(
                "latent, rank {kv_rank}, {} of {nope_dim} + {rope_dim} (values {value_dim}){query}",
                counted(heads, "head")
            )
        }
    };
    let windowed = config.layers.iter().filter(|l| l.window.is_some()).count();
    if let Some(window) = config.layers.iter().find_map(|l| l.window) {
        let layers = counted(config.layers.len(), "layer");
        line += &format!(", window {window} in {windowed} of {layers}");
    }
    if config.attention.sinks {
        line += ", sinks";
    }
    line
}

fn rope(config: &Config) -> String {
    let rope = &config.rope;
    let scaling = match &rope.scaling {
        Scaling::None => String::new(),
        Scaling::Linear { factor } => format!(", linear × {factor}"),
        Scaling::Llama3 { factor, original, .. } => {
            format!(", llama3 × {factor} beyond {original}")
        }
        Scaling::Yarn { factor, original, .. } => format!(", yarn × {factor} beyond {original}"),
        Scaling::Divisors(_) => ", frequency factors from the file".into(),
    };
    format!("{} dimensions, base {}{scaling}", rope.dims, rope.base)
}

fn feed_forward(config: &Config) -> String {
    let dense: Vec<usize> = config
        .layers
        .iter()
        .filter_map(|l| match l.ffn {
            Ffn::Dense { width } => Some(width),
            Ffn::Experts => None,
        })
        .collect();
    let kind = match config.activation {
        Activation::Silu => "SwiGLU",
        Activation::ClampedSwiglu { .. } => "clamped SwiGLU",
    };
    let sparse = config.layers.len() - dense.len();
    match (dense.first(), sparse) {
        (Some(width), 0) => format!("{kind}, width {width}"),
        (Some(width), _) => format!(
            "{kind}; experts in {}, dense of width {width} in {}",
            counted(sparse, "layer"),
            dense.len()
        ),
        (None, _) => format!("{kind}; experts in all layers"),
    }
}

fn router(experts: &Experts) -> String {
    let score = match experts.router.score {
        Score::Softmax => "softmax",
        Score::Sigmoid => "sigmoid",
        Score::SoftmaxOfChosen => "softmax of the chosen",
    };
    let mut line = score.to_string();
    if experts.router.normalise {
        line += ", normalised";
    }
    if experts.router.scale != 1.0 {
        line += &format!(", × {}", experts.router.scale);
    }
    if let Some(groups) = experts.router.groups {
        line += &format!(", from {} of {} groups", groups.kept, groups.count);
    }
    line
}

fn expert_line(experts: &Experts) -> String {
    let shared = match experts.shared {
        None => String::new(),
        Some(shared) if shared.gated => format!(", and a gated shared one of {}", shared.width),
        Some(shared) => format!(", and a shared one of {}", shared.width),
    };
    format!(
        "{} per layer of width {}, {} for each token{shared}; router: {}",
        experts.count,
        experts.width,
        experts.used,
        router(experts)
    )
}

fn tokenizer(text: &Text) -> String {
    let tokenizer = &text.tokenizer;
    let special = tokenizer.special();
    let names = |ids: &mut dyn Iterator<Item = u32>| {
        let list: Vec<_> = ids.map(|id| tokenizer.token_text(id)).collect();
        if list.is_empty() { "nothing".into() } else { list.join(" ") }
    };
    format!(
        "{} tokens, begins with {}, ends with {}",
        tokenizer.vocab_size(),
        names(&mut tokenizer.prefix().iter().copied()),
        names(&mut special.end_of_generation.iter().copied())
    )
}

fn template(text: &Text) -> String {
    match text.template_source() {
        Some(source) => format!("chat, {} characters", source.chars().count()),
        None => "none: prompts are continued as they are".into(),
    }
}

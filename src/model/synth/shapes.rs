//! The shapes of real models, from their published `config.json` files.

use super::vocabulary::Vocabulary;

/// Which tensors and keys a shape has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Llama,
    Mixtral,
    Olmoe,
    Qwen3,
    Qwen3Moe,
    GptOss,
    DeepseekV2,
}

impl Kind {
    /// The name GGUF has for it.
    pub fn architecture(self) -> &'static str {
        match self {
            Kind::Llama | Kind::Mixtral => "llama",
            Kind::Olmoe => "olmoe",
            Kind::Qwen3 => "qwen3",
            Kind::Qwen3Moe => "qwen3moe",
            Kind::GptOss => "gpt-oss",
            Kind::DeepseekV2 => "deepseek2",
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub name: &'static str,
    /// What people call it.
    pub title: &'static str,
    pub kind: Kind,
    pub hidden: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    /// Length of a head's query, key and value; of the value alone where `latent` is given.
    pub head: usize,
    /// Width of dense layers; what the file calls the width where there are none.
    pub dense_width: usize,
    pub context: usize,
    pub rope_base: f32,
    pub eps: f32,
    /// The output matrix is the embedding.
    pub tied: bool,
    pub experts: Option<Experts>,
    pub latent: Option<Latent>,
    pub vocabulary: Vocabulary,
}

#[derive(Clone, Copy, Debug)]
pub struct Experts {
    pub count: usize,
    pub used: usize,
    pub width: usize,
    /// Experts that every token goes to.
    pub shared: usize,
    /// Layers at the beginning that have none.
    pub lead: usize,
}

#[derive(Clone, Copy, Debug)]
pub struct Latent {
    pub rank: usize,
    /// Parts of a key that are not rotated, and that are.
    pub nope: usize,
    pub rope: usize,
}

const fn experts(count: usize, used: usize, width: usize) -> Option<Experts> {
    Some(Experts { count, used, width, shared: 0, lead: 0 })
}

const QWEN: Vocabulary = Vocabulary {
    size: 151_936,
    pre: "qwen2",
    first_special: 151_643,
    controls: &[(0, "<|endoftext|>"), (1, "<|im_start|>"), (2, "<|im_end|>")],
    bos: Some("<|endoftext|>"),
    eos: "<|im_end|>",
    pad: Some("<|endoftext|>"),
    add_bos: Some(false),
};

pub const ALL: [Shape; 7] = [
    Shape {
        name: "olmoe-1b-7b",
        title: "OLMoE-1B-7B",
        kind: Kind::Olmoe,
        hidden: 2048,
        layers: 16,
        heads: 16,
        kv_heads: 16,
        head: 128,
        dense_width: 1024,
        context: 4096,
        rope_base: 1e4,
        eps: 1e-5,
        tied: false,
        experts: experts(64, 8, 1024),
        latent: None,
        vocabulary: Vocabulary {
            size: 50_304,
            pre: "olmo",
            first_special: 50_279,
            controls: &[(0, "<|endoftext|>"), (1, "<|padding|>")],
            bos: None,
            eos: "<|endoftext|>",
            pad: Some("<|padding|>"),
            add_bos: None,
        },
    },
    Shape {
        name: "qwen3-30b-a3b",
        title: "Qwen3-30B-A3B",
        kind: Kind::Qwen3Moe,
        hidden: 2048,
        layers: 48,
        heads: 32,
        kv_heads: 4,
        head: 128,
        dense_width: 6144,
        context: 40_960,
        rope_base: 1e6,
        eps: 1e-6,
        tied: false,
        experts: experts(128, 8, 768),
        latent: None,
        vocabulary: QWEN,
    },
    Shape {
        name: "gpt-oss-20b",
        title: "gpt-oss-20b",
        kind: Kind::GptOss,
        hidden: 2880,
        layers: 24,
        heads: 64,
        kv_heads: 8,
        head: 64,
        dense_width: 2880,
        context: 131_072,
        rope_base: 150_000.0,
        eps: 1e-5,
        tied: false,
        experts: experts(32, 4, 2880),
        latent: None,
        vocabulary: Vocabulary {
            size: 201_088,
            pre: "gpt-4o",
            first_special: 199_998,
            controls: &[
                (0, "<|startoftext|>"),
                (1, "<|endoftext|>"),
                (4, "<|return|>"),
                (5, "<|constrain|>"),
                (7, "<|channel|>"),
                (8, "<|start|>"),
                (9, "<|end|>"),
                (10, "<|message|>"),
                (14, "<|call|>"),
            ],
            bos: Some("<|startoftext|>"),
            eos: "<|return|>",
            pad: Some("<|endoftext|>"),
            add_bos: None,
        },
    },
    Shape {
        name: "mixtral-8x7b",
        title: "Mixtral-8x7B",
        kind: Kind::Mixtral,
        hidden: 4096,
        layers: 32,
        heads: 32,
        kv_heads: 8,
        head: 128,
        dense_width: 14_336,
        context: 32_768,
        rope_base: 1e6,
        eps: 1e-5,
        tied: false,
        experts: experts(8, 2, 14_336),
        latent: None,
        vocabulary: Vocabulary {
            size: 32_000,
            pre: "gpt-2",
            first_special: 31_997,
            controls: &[(0, "<unk>"), (1, "<s>"), (2, "</s>")],
            bos: Some("<s>"),
            eos: "</s>",
            pad: None,
            add_bos: Some(true),
        },
    },
    Shape {
        name: "deepseek-v2-lite",
        title: "DeepSeek-V2-Lite",
        kind: Kind::DeepseekV2,
        hidden: 2048,
        layers: 27,
        heads: 16,
        kv_heads: 1,
        head: 128,
        dense_width: 10_944,
        context: 163_840,
        rope_base: 1e4,
        eps: 1e-6,
        tied: false,
        experts: Some(Experts { count: 64, used: 6, width: 1408, shared: 2, lead: 1 }),
        latent: Some(Latent { rank: 512, nope: 128, rope: 64 }),
        vocabulary: Vocabulary {
            size: 102_400,
            pre: "deepseek-llm",
            first_special: 100_000,
            controls: &[(0, "<｜begin▁of▁sentence｜>"), (1, "<｜end▁of▁sentence｜>")],
            bos: Some("<｜begin▁of▁sentence｜>"),
            eos: "<｜end▁of▁sentence｜>",
            pad: Some("<｜end▁of▁sentence｜>"),
            add_bos: Some(true),
        },
    },
    Shape {
        name: "llama-1b",
        title: "Llama-3.2-1B",
        kind: Kind::Llama,
        hidden: 2048,
        layers: 16,
        heads: 32,
        kv_heads: 8,
        head: 64,
        dense_width: 8192,
        context: 131_072,
        rope_base: 500_000.0,
        eps: 1e-5,
        tied: true,
        experts: None,
        latent: None,
        vocabulary: Vocabulary {
            size: 128_256,
            pre: "llama-bpe",
            first_special: 128_000,
            controls: &[
                (0, "<|begin_of_text|>"),
                (1, "<|end_of_text|>"),
                (6, "<|start_header_id|>"),
                (7, "<|end_header_id|>"),
                (8, "<|eom_id|>"),
                (9, "<|eot_id|>"),
            ],
            bos: Some("<|begin_of_text|>"),
            eos: "<|end_of_text|>",
            pad: None,
            add_bos: None,
        },
    },
    Shape {
        name: "qwen3-0.6b",
        title: "Qwen3-0.6B",
        kind: Kind::Qwen3,
        hidden: 1024,
        layers: 28,
        heads: 16,
        kv_heads: 8,
        head: 128,
        dense_width: 3072,
        context: 40_960,
        rope_base: 1e6,
        eps: 1e-6,
        tied: true,
        experts: None,
        latent: None,
        vocabulary: QWEN,
    },
];

impl Shape {
    /// A shape by name: one of [`ALL`], `tiny-NAME` for one made small, or `tiny`.
    pub fn find(name: &str) -> Option<Shape> {
        let named = |name: &str| ALL.iter().find(|shape| shape.name == name).copied();
        match name.strip_prefix("tiny") {
            Some("") => named("olmoe-1b-7b").map(Shape::tiny),
            Some(rest) => named(rest.strip_prefix('-')?).map(Shape::tiny),
            None => named(name),
        }
    }

    /// The same family with everything small. Rows that 256 does not divide keep that property.
    fn tiny(self) -> Shape {
        let small = |n: usize| if n.is_multiple_of(256) { 256 } else { 288 };
        let width = |n: usize| small(n) + 256;
        let (first_special, size) = (480, 512);
        Shape {
            hidden: small(self.hidden),
            layers: 2,
            heads: 4,
            kv_heads: (4 * self.kv_heads / self.heads).max(1),
            head: 64,
            dense_width: width(self.dense_width),
            context: 512,
            experts: self.experts.map(|e| Experts {
                count: 8,
                used: 2,
                width: width(e.width),
                shared: e.shared.min(1),
                ..e
            }),
            latent: self.latent.map(|_| Latent { rank: 256, nope: 32, rope: 32 }),
            vocabulary: Vocabulary { first_special, size, ..self.vocabulary },
            ..self
        }
    }
}

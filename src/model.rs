//! Floor 2: what a model is.
//!
//! Owns shape (`config`), weights by part (`parts`, `import`), what each part computes
//! (`attention`, `experts`, `router`, `compute`), text (`tokenizer`, `template`, `channels`,
//! `tools`, `text`), the choice of a token (`sampling`, `grammar`), how good a prediction was (`score`) and models of
//! random weights (`synth`). Knows no
//! session, no batch order and no core: `engine` drives it layer by layer. Imports `weights`,
//! `math`, `host`, `base`.

pub mod attention;
pub mod channels;
pub mod compute;
pub mod config;
pub mod demo;
pub mod experts;
pub mod grammar;
mod import;
mod kv;
pub mod parts;
mod router;
pub mod sampling;
pub mod score;
pub mod sizes;
pub mod synth;
pub mod template;
mod text;
pub mod tokenizer;
pub mod tools;

pub use compute::Hand;
pub use kv::KvShape;
pub use template::Message;
pub use text::{Chat, Ending, Text};

use crate::weights::{Result, Source};
use config::Config;
use parts::Parts;

/// A model whose every weight was found and has the shape it should have. The weights' bytes stay
/// in their file until a step touches them; only what must be rearranged is read at once (half of
/// latent attention's `kv_b`, and gpt-oss's experts as safetensors of plain floats).
pub struct Model {
    pub config: Config,
    pub parts: Parts,
}

impl Model {
    pub fn open(source: &Source) -> Result<Model> {
        let config = config::read(source)?;
        let parts = import::parts(source, &config)?;
        Ok(Model { config, parts })
    }
}

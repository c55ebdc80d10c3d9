//! From the tensors of a file to a model's [`Parts`]: which tensor is which part, and the
//! lossless rearrangements that file habits demand (fused or interleaved rows, stacked experts).
//!
//! `gguf` and `hf` know the names and the habits; what the parts are and how large they must be
//! comes from the [`Config`] and is written once, in `block`. Every shape is checked here, so that
//! nothing behind this door doubts one.

mod block;
mod gguf;
mod hf;

use super::config::Config;
use super::parts::Parts;
use crate::weights::{Source, error::Result};

pub fn parts(source: &Source, config: &Config) -> Result<Parts> {
    match source {
        Source::Gguf(file) => gguf::parts(file, config),
        Source::Folder(folder) => hf::parts(folder, config),
    }
}

//! The model inside the program.

use crate::host::mapping::Bytes;
use crate::weights::{Gguf, Source, error::Result};

/// Made by `demo/train.py`.
static FILE: &[u8] = include_bytes!("demo/demo.gguf");

const _: () = assert!(FILE.len() <= 4_000_000, "the program stays small");

pub fn source() -> Result<Source> {
    Gguf::from_bytes("demo", Bytes::fixed(FILE)).map(Source::Gguf)
}

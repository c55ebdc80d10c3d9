//! GGUF files, version 2 and 3, little-endian, whole or split into parts; `write` makes new ones.
//!
//! Opening one walks its header once and checks everything that a later step relies on; tensor
//! data is mapped and not touched. Arrays (a vocabulary of 150 000 strings, say) stay in the
//! mapped file and are decoded when they are walked.

mod cursor;
mod kinds;
mod metadata;
mod parse;
mod split;
mod value;
pub mod write;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use metadata::Metadata;
pub use value::{Array, Kind, Text, Value};

use super::error::{Error, Result};
use super::sniff;
use super::tensor::{Tensor, Tensors, bad_tensor};
use crate::host::mapping::Bytes;

/// The first four bytes of every GGUF file.
pub const MAGIC: &[u8; 4] = b"GGUF";

/// A model in GGUF form, all its parts opened.
#[derive(Debug)]
pub struct Gguf {
    path: Arc<Path>,
    parts: Vec<Arc<Path>>,
    version: u32,
    metadata: Metadata,
    tensors: Tensors,
    file_bytes: u64,
}

impl Gguf {
    /// Opens a file; of a split model, all parts, whichever of them `path` names.
    pub fn open(path: &Path) -> Result<Gguf> {
        let part = Part::open(path.into())?;
        match split::Split::read(&part)? {
            None => Gguf::from_parts(path.into(), vec![part]),
            Some(split) => {
                let parts = split.open_all(part)?;
                Gguf::from_parts(path.into(), parts)
            }
        }
    }

    /// Reads a file that is in memory (a model inside the program). `name` stands for the path in
    /// messages.
    pub fn from_bytes(name: &str, bytes: Bytes) -> Result<Gguf> {
        let path: Arc<Path> = Path::new(name).into();
        let part = parse::parse(path.clone(), &bytes)?;
        if split::Split::read(&part)?.is_some() {
            return Err(Error::bad(
                &path,
                split::COUNT.field(),
                "this is one part of a split model, which can only be opened from files",
            ));
        }
        Gguf::from_parts(path, vec![part])
    }

    /// `parts` in order. The first part's metadata describes the model.
    fn from_parts(path: Arc<Path>, parts: Vec<Part>) -> Result<Gguf> {
        let file_bytes = parts.iter().map(|part| part.bytes).sum();
        let paths = parts.iter().map(|part| part.path.clone()).collect();
        let mut parts = parts.into_iter();
        let Some(Part { version, metadata, mut tensors, .. }) = parts.next() else {
            return Err(Error::bad(&path, "parts", "there are none"));
        };
        for part in parts {
            tensors.extend(part.tensors);
        }
        let tensors = Tensors::new(tensors)?;
        Ok(Gguf { path, parts: paths, version, metadata, tensors, file_bytes })
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Every file it consists of, in order.
    pub fn parts(&self) -> impl Iterator<Item = &Path> {
        self.parts.iter().map(|path| &**path)
    }

    /// GGUF version: 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// The tensor, or the sentence that it is missing.
    pub fn require(&self, name: &str) -> Result<&Tensor> {
        self.tensor(name).ok_or_else(|| bad_tensor(&self.path, name, "is missing"))
    }

    /// All tensors in file order.
    pub fn tensors(&self) -> std::slice::Iter<'_, Tensor> {
        self.tensors.iter()
    }

    /// Bytes of all parts together.
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }
}

/// One file of a model.
struct Part {
    path: Arc<Path>,
    version: u32,
    metadata: Metadata,
    tensors: Vec<Tensor>,
    bytes: u64,
}

impl Part {
    fn open(path: PathBuf) -> Result<Part> {
        let bytes = Bytes::map(&path).map_err(|source| Error::open(&path, source))?;
        parse::parse(path.into(), &bytes)
    }
}

/// Refuses what is not GGUF at all, saying what it is when that is known.
fn check_magic(path: &Path, bytes: &[u8]) -> Result<()> {
    if bytes.starts_with(MAGIC) {
        return Ok(());
    }
    let reason = match sniff::stranger(bytes) {
        Some(reason) => reason.into(),
        None => format!(
            "this is not a GGUF file: it starts with \"{}\" where \"GGUF\" belongs",
            sniff::first_bytes(bytes)
        ),
    };
    Err(Error::bad(path, "magic", reason))
}

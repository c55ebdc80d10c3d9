//! One named tensor: its format, its shape and where its bytes are; and a table of them.

use std::path::Path;
use std::sync::Arc;

use super::error::{Error, Quoted, Result};
use crate::host::mapping::Bytes;
use crate::math::Format;

/// How a tensor's elements are written in its file. Weights have a [`Format`]; a few helpers
/// (block scales, packed nibbles) are raw bytes that only an import understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DType {
    Weights(Format),
    /// Raw bytes (safetensors `U8` and `F8_E8M0`: packed MXFP4 nibbles and their exponents).
    U8,
    /// A type that is listed but never computed with (an `I64` buffer some checkpoints carry).
    /// Only asking for such a tensor is refused.
    Other(&'static str),
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DType::Weights(format) => format.fmt(f),
            DType::U8 => f.write_str("U8"),
            DType::Other(name) => f.write_str(name),
        }
    }
}

/// A tensor as a file holds it. `shape` is outermost first (`[rows, cols]`, `[experts, rows,
/// cols]`) whatever the file's own habit; the last dimension is contiguous. The parser has
/// checked that `data` is exactly as long as `dtype` and `shape` say.
#[derive(Clone, Debug)]
pub struct Tensor {
    pub name: String,
    pub dtype: DType,
    pub shape: Vec<usize>,
    pub data: Bytes,
    /// The file it is in, for messages.
    pub file: Arc<Path>,
}

impl Tensor {
    /// The weights' format, or a refusal for a tensor that holds no weights.
    pub fn format(&self) -> Result<Format> {
        match self.dtype {
            DType::Weights(format) => Ok(format),
            other => Err(self.bad(format!(
                "holds {other}, which are not weights; weights are read as {}",
                readable_formats()
            ))),
        }
    }

    /// Number of elements. The parser has checked that this does not overflow.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Refuses a shape that is not the expected one.
    pub fn expect_shape(&self, expected: &[usize]) -> Result<()> {
        if self.shape == expected {
            return Ok(());
        }
        Err(self.bad(format!("expected shape {expected:?}, found {:?}", self.shape)))
    }

    /// An error about this tensor.
    pub fn bad(&self, reason: impl Into<String>) -> Error {
        bad_tensor(&self.file, &self.name, reason)
    }
}

pub(super) fn bad_tensor(file: &Path, name: &str, reason: impl Into<String>) -> Error {
    Error::bad(file, format!("tensor {}", Quoted(name)), reason)
}

/// `F32, F16, …`: the formats this program computes with.
pub(super) fn readable_formats() -> String {
    Format::ALL.map(Format::name).join(", ")
}

/// Tensors in file order, found by name.
#[derive(Debug, Default)]
pub struct Tensors {
    list: Vec<Tensor>,
    /// Positions in `list`, ordered by name.
    by_name: Vec<u32>,
}

impl Tensors {
    /// Refuses a name that occurs twice.
    pub(super) fn new(list: Vec<Tensor>) -> Result<Tensors> {
        let mut by_name: Vec<u32> = (0..list.len() as u32).collect();
        by_name.sort_unstable_by(|&a, &b| list[a as usize].name.cmp(&list[b as usize].name));
        for pair in by_name.windows(2) {
            let (first, again) = (&list[pair[0] as usize], &list[pair[1] as usize]);
            if first.name == again.name {
                let reason = match first.file == again.file {
                    true => "occurs twice".into(),
                    false => format!("is also in {}", first.file.display()),
                };
                return Err(again.bad(reason));
            }
        }
        Ok(Tensors { list, by_name })
    }

    pub fn get(&self, name: &str) -> Option<&Tensor> {
        let found =
            self.by_name.binary_search_by(|&i| self.list[i as usize].name.as_str().cmp(name));
        found.ok().map(|at| &self.list[self.by_name[at] as usize])
    }

    pub fn iter(&self) -> std::slice::Iter<'_, Tensor> {
        self.list.iter()
    }

    pub(super) fn into_list(self) -> Vec<Tensor> {
        self.list
    }
}

/// Where a tensor's bytes are inside a file's data, for the checks that need all of them.
pub(super) struct Extent {
    pub start: u64,
    pub end: u64,
    /// Position in the list of tensors.
    pub tensor: usize,
}

/// Sorts extents by place and returns the first two that share a byte.
pub(super) fn overlap(extents: &mut [Extent]) -> Option<(usize, usize)> {
    extents.sort_unstable_by_key(|e| (e.start, e.end));
    let shared = extents.windows(2).find(|pair| pair[1].start < pair[0].end)?;
    Some((shared[0].tensor, shared[1].tensor))
}

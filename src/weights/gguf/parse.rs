//! One GGUF file: header, metadata, tensor table.
//!
//! Nothing is reserved for a count before the elements are seen: a count only says how often to
//! try, and each try needs bytes that are there.

use std::path::Path;
use std::sync::Arc;

use super::cursor::{Cursor, Short};
use super::kinds::{TensorType, read_here, tensor_type};
use super::metadata::{Metadata, bad_key};
use super::value::{Array, Kind, Text, Value};
use super::{Part, check_magic};
use crate::host::mapping::Bytes;
use crate::math::Format;
use crate::weights::error::{Error, Quoted, Result};
use crate::weights::tensor::{DType, Extent, Tensor, bad_tensor, overlap};

/// The longest key the format's definition allows.
const LONGEST_KEY: u64 = 65_535;
/// The definition says 64; a little slack for writers that do not count.
const LONGEST_NAME: u64 = 256;
const MOST_DIMENSIONS: u32 = 4;
/// Far beyond any model (the largest have some 100 000 when every expert is a tensor).
const MOST_TENSORS: u64 = 1 << 20;
const MOST_KEYS: u64 = 1 << 20;
/// Far beyond any vocabulary; bounds the walk that finds an array's end.
const MOST_STRINGS: u64 = 1 << 24;
const DEFAULT_ALIGNMENT: u64 = 32;

/// The smallest pair: key length, a byte of key, type, a byte of value.
const SMALLEST_PAIR: u64 = 8 + 1 + 4 + 1;
/// The smallest tensor: name length, a byte of name, one dimension with its count, type, offset.
const SMALLEST_TENSOR: u64 = 8 + 1 + 4 + 8 + 4 + 8;

pub(super) fn parse(path: Arc<Path>, bytes: &Bytes) -> Result<Part> {
    check_magic(&path, bytes)?;
    Parser { path: &path, bytes, cursor: Cursor::new(bytes) }.part()
}

struct Parser<'a> {
    path: &'a Arc<Path>,
    bytes: &'a Bytes,
    cursor: Cursor<'a>,
}

/// A tensor as the table has it; its data is found when the table's end is known.
struct Listed {
    name: String,
    shape: Vec<usize>,
    format: Format,
    bytes: u64,
    offset: u64,
}

impl Parser<'_> {
    fn part(mut self) -> Result<Part> {
        self.cursor.skip(4).map_err(|short| self.bad("magic", short))?;
        let version = self.version()?;
        let tensors = self.count("tensor count", SMALLEST_TENSOR, MOST_TENSORS)?;
        let pairs = self.count("metadata count", SMALLEST_PAIR, MOST_KEYS)?;
        let metadata = self.metadata(pairs)?;
        let alignment = alignment(&metadata)?;
        let listed = self.table(tensors)?;
        let tensors = self.place(listed, alignment)?;
        Ok(Part {
            path: self.path.clone(),
            version,
            metadata,
            tensors,
            bytes: self.bytes.len() as u64,
        })
    }

    fn version(&mut self) -> Result<u32> {
        let version = self.cursor.u32().map_err(|short| self.bad("version", short))?;
        match version {
            2 | 3 => Ok(version),
            1 => Err(self.bad(
                "version",
                "this is GGUF version 1, which was in use for a few weeks only; convert the \
                 original model again with a current converter (2 and 3 are read)",
            )),
            _ if (1..=9).contains(&version.swap_bytes()) => Err(self.bad(
                "version",
                "this is a big-endian GGUF file; convert it to little-endian (the gguf package's \
                 gguf-convert-endian does so)",
            )),
            _ => Err(self.bad(
                "version",
                format!(
                    "{version} is not known; 2 and 3 are read, so the file is damaged or newer \
                         than this program"
                ),
            )),
        }
    }

    /// A count of things of at least `smallest` bytes each.
    fn count(&mut self, field: &str, smallest: u64, most: u64) -> Result<u64> {
        let count = self.cursor.u64().map_err(|short| self.bad(field, short))?;
        let room = self.cursor.left() as u64 / smallest;
        if count > room {
            return Err(self.bad(field, format!("{count} is more than the file can hold")));
        }
        if count > most {
            return Err(self.bad(field, format!("{count} is more than the {most} allowed")));
        }
        Ok(count)
    }

    fn metadata(&mut self, count: u64) -> Result<Metadata> {
        let mut entries = Vec::new();
        for i in 0..count {
            let key = self.name(LONGEST_KEY, || format!("metadata key {} of {count}", i + 1))?;
            let value = self.value(&key)?;
            entries.push((key, value));
        }
        Metadata::new(self.path.clone(), entries)
    }

    /// A key or a tensor's name: UTF-8, not empty, not too long.
    fn name(&mut self, longest: u64, field: impl Fn() -> String) -> Result<String> {
        let bad = |reason: String| Error::bad(self.path, field(), reason);
        let len = self.cursor.u64().map_err(|short| bad(short.to_string()))?;
        if len == 0 {
            return Err(bad("its name is empty".into()));
        }
        if len > longest {
            return Err(bad(format!("its name is {len} bytes long; {longest} are allowed")));
        }
        let name = self.cursor.take(len).map_err(|short| bad(short.to_string()))?;
        match std::str::from_utf8(name) {
            Ok(name) => Ok(name.into()),
            Err(_) => {
                let shown = &name[..name.len().min(80)];
                Err(bad(format!("its name is not valid UTF-8: \"{}\"", shown.escape_ascii())))
            }
        }
    }

    fn value(&mut self, key: &str) -> Result<Value> {
        let path = self.path;
        let short = |short: Short| bad_key(path, key, short.to_string());
        let kind = self.kind(key, "type")?;
        if let Some(size) = kind.size() {
            let bytes = self.cursor.take(size as u64).map_err(short)?;
            return Value::scalar(kind, bytes)
                .ok_or_else(|| bad_key(path, key, "is a bool that is neither 0 nor 1"));
        }
        if kind == Kind::String {
            let range = self.cursor.string().map_err(short)?;
            return Ok(Value::String(Text(self.slice(range, key)?)));
        }
        self.array(key).map(Value::Array)
    }

    fn kind(&mut self, key: &str, what: &str) -> Result<Kind> {
        let id = self.cursor.u32().map_err(|short| bad_key(self.path, key, short.to_string()))?;
        Kind::from_id(id).ok_or_else(|| {
            bad_key(self.path, key, format!("its {what} {id} is not known (0 to 12)"))
        })
    }

    fn array(&mut self, key: &str) -> Result<Array> {
        let path = self.path;
        let short = |short: Short| bad_key(path, key, short.to_string());
        let kind = self.kind(key, "element type")?;
        let len = self.cursor.u64().map_err(short)?;
        let start = self.cursor.at();
        // A string takes at least its length field.
        let smallest = kind.size().unwrap_or(8) as u64;
        if len > self.cursor.left() as u64 / smallest {
            let reason = format!("an array of {len} values is more than the file can hold");
            return Err(bad_key(path, key, reason));
        }
        match kind {
            Kind::Array => {
                return Err(bad_key(path, key, "is an array of arrays, which no model needs"));
            }
            Kind::String => {
                if len > MOST_STRINGS {
                    let reason = format!("an array of {len} strings; {MOST_STRINGS} are allowed");
                    return Err(bad_key(path, key, reason));
                }
                for _ in 0..len {
                    self.cursor.string().map_err(short)?;
                }
            }
            Kind::Bool => {
                let values = self.cursor.take(len).map_err(short)?;
                if values.iter().any(|&v| v > 1) {
                    return Err(bad_key(path, key, "holds a bool that is neither 0 nor 1"));
                }
            }
            _ => {
                // No overflow: `len * smallest` is at most what is left.
                self.cursor.skip(len * smallest).map_err(short)?;
            }
        }
        let data = self.slice(start..self.cursor.at(), key)?;
        // `len` is at most the number of bytes left, so it fits.
        Ok(Array { kind, len: len as usize, data })
    }

    fn slice(&self, range: std::ops::Range<usize>, key: &str) -> Result<Bytes> {
        self.bytes.slice(range).ok_or_else(|| bad_key(self.path, key, "lies outside the file"))
    }

    fn table(&mut self, count: u64) -> Result<Vec<Listed>> {
        let mut listed = Vec::new();
        for i in 0..count {
            let name = self.name(LONGEST_NAME, || format!("tensor {} of {count}", i + 1))?;
            listed.push(self.listed(name)?);
        }
        Ok(listed)
    }

    fn listed(&mut self, name: String) -> Result<Listed> {
        let path = self.path;
        let bad = |reason: String| bad_tensor(path, &name, reason);
        let short = |short: Short| bad_tensor(path, &name, short.to_string());
        let dimensions = self.cursor.u32().map_err(short)?;
        if dimensions == 0 || dimensions > MOST_DIMENSIONS {
            return Err(bad(format!(
                "has {dimensions} dimensions; 1 to {MOST_DIMENSIONS} are read"
            )));
        }
        let mut shape = Vec::with_capacity(dimensions as usize);
        for _ in 0..dimensions {
            let size = self.cursor.u64().map_err(short)?;
            match usize::try_from(size) {
                Ok(0) => return Err(bad("has a dimension of size 0".into())),
                Ok(size) => shape.push(size),
                Err(_) => return Err(bad(format!("has a dimension of size {size}"))),
            }
        }
        let id = self.cursor.u32().map_err(short)?;
        let offset = self.cursor.u64().map_err(short)?;
        let format = match tensor_type(id) {
            TensorType::Read(format) => format,
            TensorType::Known(kind) => {
                return Err(bad(format!(
                    "is of type {kind}, which is not read; use a file quantised to one of {}",
                    read_here()
                )));
            }
            TensorType::Unknown => {
                return Err(bad(format!(
                    "is of type {id}, which is not known; read are {}",
                    read_here()
                )));
            }
        };
        // The file has the contiguous dimension first.
        let row = shape[0];
        let Some(row_bytes) = format.row_bytes(row) else {
            return Err(bad(format!(
                "has rows of {row} {format} weights, which is no whole number of blocks of {}",
                format.block()
            )));
        };
        let bytes = shape[1..].iter().try_fold(row_bytes, |bytes, &n| bytes.checked_mul(n));
        let Some(bytes) = bytes else {
            return Err(bad(format!("its dimensions {shape:?} multiply beyond any memory")));
        };
        shape.reverse();
        Ok(Listed { name, shape, format, bytes: bytes as u64, offset })
    }

    /// Finds each tensor's bytes behind the table.
    fn place(&self, listed: Vec<Listed>, alignment: u64) -> Result<Vec<Tensor>> {
        if listed.is_empty() {
            return Ok(Vec::new());
        }
        let header = self.cursor.at() as u64;
        let len = self.bytes.len() as u64;
        let Some(base) = header.checked_next_multiple_of(alignment).filter(|&base| base <= len)
        else {
            return Err(self.bad(
                "tensor data",
                format!("the file is cut short: it ends at byte {len}, before any tensor data"),
            ));
        };
        let mut extents = Vec::with_capacity(listed.len());
        for (i, tensor) in listed.iter().enumerate() {
            let Listed { name, bytes, offset, .. } = tensor;
            if !offset.is_multiple_of(alignment) {
                let reason =
                    format!("its offset {offset} is no multiple of the alignment {alignment}");
                return Err(bad_tensor(self.path, name, reason));
            }
            let end = offset.checked_add(*bytes).filter(|&end| end <= len - base);
            let Some(end) = end else {
                return Err(bad_tensor(
                    self.path,
                    name,
                    format!(
                        "its {bytes} bytes at offset {offset} of the data reach beyond the file's \
                         end ({} bytes of data); the file is cut short or damaged",
                        len - base
                    ),
                ));
            };
            extents.push(Extent { start: *offset, end, tensor: i });
        }
        if let Some((a, b)) = overlap(&mut extents) {
            let reason = format!("its data overlaps that of {}", Quoted(&listed[a].name));
            return Err(bad_tensor(self.path, &listed[b].name, reason));
        }
        if let Some(data) = self.bytes.slice(base as usize..self.bytes.len()) {
            data.without_read_ahead();
        }
        listed
            .into_iter()
            .map(|Listed { name, shape, format, bytes, offset }| {
                // Both fit: they were checked against the length of a mapped file.
                let start = (base + offset) as usize;
                match self.bytes.slice(start..start + bytes as usize) {
                    Some(data) => Ok(Tensor {
                        name,
                        dtype: DType::Weights(format),
                        shape,
                        data,
                        file: self.path.clone(),
                    }),
                    None => Err(bad_tensor(self.path, &name, "its data lies outside the file")),
                }
            })
            .collect()
    }

    fn bad(&self, field: &str, reason: impl ToString) -> Error {
        Error::bad(self.path, field, reason.to_string())
    }
}

fn alignment(metadata: &Metadata) -> Result<u64> {
    const KEY: &str = "general.alignment";
    match metadata.u32_opt(KEY)? {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(n) if n.is_power_of_two() => Ok(n.into()),
        Some(n) => Err(metadata.bad(KEY, format!("is {n}, which is no power of two"))),
    }
}

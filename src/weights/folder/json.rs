//! JSON files of bounded size.

use std::path::Path;

use serde_json::Value;

use crate::host::mapping::Bytes;
use crate::weights::error::{Error, Result, clipped};
use crate::weights::sniff;

/// The largest JSON file read as a whole. An index of 100 000 tensors has some 10 MB.
const LARGEST_FILE: usize = 64 << 20;
/// A parsed value takes up to a hundred times the two bytes it may have in the file, so values
/// are counted as well. The largest `tokenizer_config.json` seen has some 50 000.
const MOST_VALUES: usize = 250_000;

/// The bytes of a JSON file.
pub(super) fn bytes(path: &Path) -> Result<Bytes> {
    let bytes = Bytes::map(path).map_err(|source| Error::open(path, source))?;
    if bytes.len() > LARGEST_FILE {
        let reason = format!("has {} bytes; {LARGEST_FILE} are allowed", bytes.len());
        return Err(Error::bad(path, "file", reason));
    }
    Ok(bytes)
}

pub(super) fn read(path: &Path) -> Result<Value> {
    parse(path, &bytes(path)?)
}

/// `None` if there is no such file.
pub(super) fn read_optional(path: &Path) -> Result<Option<Value>> {
    match path.exists() {
        true => read(path).map(Some),
        false => Ok(None),
    }
}

/// Parses a file's bytes into an object. `path` is for messages.
pub fn parse(path: &Path, bytes: &[u8]) -> Result<Value> {
    // Every value but the first follows one of these, so this never counts too few.
    let values = bytes.iter().filter(|b| matches!(b, b',' | b'[' | b'{' | b':')).count();
    if values > MOST_VALUES {
        let reason = format!("some {values} JSON values; {MOST_VALUES} are allowed");
        return Err(Error::bad(path, "file", reason));
    }
    let value: Value = serde_json::from_slice(bytes).map_err(|e| match sniff::stranger(bytes) {
        Some(reason) => Error::bad(path, "file", reason),
        None => Error::bad(path, "JSON", clipped(&e.to_string())),
    })?;
    match value {
        Value::Object(_) => Ok(value),
        _ => Err(Error::bad(path, "JSON", "the file does not hold an object")),
    }
}

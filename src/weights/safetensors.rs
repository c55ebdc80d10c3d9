//! One safetensors file: eight bytes of header length, a JSON header, data.
//!
//! The header is parsed here rather than by the `safetensors` crate, whose errors name neither
//! the tensor nor what is wrong with it.

mod header;

use std::path::Path;
use std::sync::Arc;

use self::header::{Info, Listed};
use super::error::{Error, Quoted, Result, clipped};
use super::sniff;
use super::tensor::{DType, Extent, Tensor, Tensors, bad_tensor, overlap};
use crate::host::mapping::Bytes;
use crate::math::Format;

/// The bound that the format's own library has.
const LONGEST_HEADER: u64 = 100_000_000;

/// The tensors of one file.
#[derive(Debug)]
pub struct SafeTensors {
    path: Arc<Path>,
    tensors: Tensors,
    bytes: u64,
}

impl SafeTensors {
    pub fn open(path: &Path) -> Result<SafeTensors> {
        let bytes = Bytes::map(path).map_err(|source| Error::open(path, source))?;
        SafeTensors::parse(path.into(), &bytes)
    }

    /// Reads a file that is in memory. `name` stands for the path in messages.
    pub fn from_bytes(name: &str, bytes: Bytes) -> Result<SafeTensors> {
        SafeTensors::parse(Path::new(name).into(), &bytes)
    }

    fn parse(path: Arc<Path>, bytes: &Bytes) -> Result<SafeTensors> {
        let (listed, base) = match header(&path, bytes) {
            Ok(header) => header,
            // Only now: a good file may begin with any bytes.
            Err(error) => {
                return Err(match sniff::stranger(bytes) {
                    Some(reason) => Error::bad(&path, "file", reason),
                    None => error,
                });
            }
        };
        let tensors = place(&path, bytes, listed, base)?;
        Ok(SafeTensors { path, tensors: Tensors::new(tensors)?, bytes: bytes.len() as u64 })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// All tensors in the header's order.
    pub fn tensors(&self) -> std::slice::Iter<'_, Tensor> {
        self.tensors.iter()
    }

    pub fn file_bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn into_tensors(self) -> impl Iterator<Item = Tensor> {
        self.tensors.into_list().into_iter()
    }
}

/// The header's tensors, and where the data begins.
fn header(path: &Path, bytes: &Bytes) -> Result<(Vec<Listed>, usize)> {
    let bad = |reason: String| Error::bad(path, "header", reason);
    let Some((len, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(bad(format!(
            "the file is cut short: it has {} bytes, the header's length alone takes 8",
            bytes.len()
        )));
    };
    let len = u64::from_le_bytes(*len);
    if len > LONGEST_HEADER {
        return Err(bad(format!(
            "its length is given as {len} bytes, {LONGEST_HEADER} are allowed; this is not a \
             safetensors file, or a damaged one"
        )));
    }
    // Fits: at most 100 million.
    let Some(json) = rest.get(..len as usize) else {
        return Err(bad(format!(
            "the file is cut short: the header has {len} bytes, the file {} after the length",
            rest.len()
        )));
    };
    let listed = header::parse(json).map_err(|e| bad(clipped(&e.to_string())))?;
    Ok((listed, 8 + len as usize))
}

/// How an element type of the format is held, and how many bits it takes.
fn element(dtype: &str) -> Option<(DType, u64)> {
    use DType::{Other, U8, Weights};
    Some(match dtype {
        "F32" => (Weights(Format::F32), 32),
        "F16" => (Weights(Format::F16), 16),
        "BF16" => (Weights(Format::BF16), 16),
        "F8_E4M3" => (Weights(Format::F8E4M3), 8),
        "U8" | "F8_E8M0" => (U8, 8),
        "BOOL" => (Other("BOOL"), 8),
        "I8" => (Other("I8"), 8),
        "F8_E5M2" => (Other("F8_E5M2"), 8),
        "I16" => (Other("I16"), 16),
        "U16" => (Other("U16"), 16),
        "I32" => (Other("I32"), 32),
        "U32" => (Other("U32"), 32),
        "I64" => (Other("I64"), 64),
        "U64" => (Other("U64"), 64),
        "F64" => (Other("F64"), 64),
        "C64" => (Other("C64"), 64),
        "F4" => (Other("F4"), 4),
        "F6_E2M3" => (Other("F6_E2M3"), 6),
        "F6_E3M2" => (Other("F6_E3M2"), 6),
        _ => return None,
    })
}

/// Checks every tensor against the data and takes its part of it.
fn place(path: &Arc<Path>, bytes: &Bytes, listed: Vec<Listed>, base: usize) -> Result<Vec<Tensor>> {
    let data = (bytes.len() - base) as u64;
    let mut extents = Vec::with_capacity(listed.len());
    let mut tensors = Vec::with_capacity(listed.len());
    for Listed { name, info: Info { dtype, shape, data_offsets: [start, end] } } in listed {
        let bad = |reason: String| bad_tensor(path, &name, reason);
        let Some((held, bits)) = element(&dtype) else {
            return Err(bad(format!("its dtype {} is not known", Quoted(&dtype))));
        };
        if start > end || end > data {
            return Err(bad(format!(
                "its data_offsets [{start}, {end}] do not lie in the {data} bytes of data; the \
                 file is cut short or damaged"
            )));
        }
        let Some(needed) = shape.iter().try_fold(bits, |bits, &n| bits.checked_mul(n)) else {
            return Err(bad(format!("its shape {shape:?} multiplies beyond any memory")));
        };
        if !needed.is_multiple_of(8) {
            return Err(bad(format!("{dtype} of shape {shape:?} ends inside a byte")));
        }
        let expected = needed / 8;
        if expected != end - start {
            return Err(bad(format!(
                "{dtype} of shape {shape:?} takes {expected} bytes, its data_offsets [{start}, \
                 {end}] give {}",
                end - start
            )));
        }
        let shape =
            shape.iter().map(|&n| usize::try_from(n)).collect::<std::result::Result<_, _>>();
        // Fits: both are at most the file's length.
        let part = bytes.slice(base + start as usize..base + end as usize);
        let (Ok(shape), Some(part)) = (shape, part) else {
            return Err(bad("its data lies outside the file".into()));
        };
        extents.push(Extent { start, end, tensor: tensors.len() });
        tensors.push(Tensor { name, dtype: held, shape, data: part, file: path.clone() });
    }
    if let Some((a, b)) = overlap(&mut extents) {
        let reason = format!("its data overlaps that of {}", Quoted(&tensors[a].name));
        return Err(tensors[b].bad(reason));
    }
    holes(path, &extents, data)?;
    if let Some(data) = bytes.slice(base..bytes.len()) {
        data.without_read_ahead();
    }
    Ok(tensors)
}

/// The format has no gaps: a byte that no tensor owns is a sign of damage, or a hiding place.
fn holes(path: &Path, sorted: &[Extent], data: u64) -> Result<()> {
    let mut at = 0;
    for extent in sorted {
        if extent.start != at {
            break;
        }
        at = extent.end;
    }
    if at == data {
        return Ok(());
    }
    let reason = format!("byte {at} of the {data} bytes of data belongs to no tensor");
    Err(Error::bad(path, "data_offsets", reason))
}

//! Writes GGUF files for tests: right ones, and wrong ones on request.
//!
//! Use it from a test with `#[path = "support/gguf_writer.rs"] mod gguf_writer;`.

// Every test binary uses a part of it.
#![allow(dead_code)]

use std::fs;
use std::path::{Path, PathBuf};

use penstock::math::Format;

/// ggml's number for a format.
pub fn type_id(format: Format) -> u32 {
    match format {
        Format::F32 => 0,
        Format::F16 => 1,
        Format::Q4_0 => 2,
        Format::Q4_1 => 3,
        Format::Q5_0 => 6,
        Format::Q5_1 => 7,
        Format::Q8_0 => 8,
        Format::Q2K => 10,
        Format::Q3K => 11,
        Format::Q4K => 12,
        Format::Q5K => 13,
        Format::Q6K => 14,
        Format::IQ4NL => 20,
        Format::IQ4XS => 23,
        Format::BF16 => 30,
        Format::MXFP4 => 39,
        Format::F8E4M3 => panic!("GGUF has no F8_E4M3"),
    }
}

#[derive(Clone)]
pub struct GgufWriter {
    pub version: u32,
    alignment: u64,
    /// Key, type, value as written.
    pairs: Vec<(Vec<u8>, u32, Vec<u8>)>,
    pub tensors: Vec<RawTensor>,
    /// Written in place of the true counts.
    pub tensor_count: Option<u64>,
    pub pair_count: Option<u64>,
}

#[derive(Clone)]
pub struct RawTensor {
    pub name: Vec<u8>,
    /// Innermost first, as in the file.
    pub dimensions: Vec<u64>,
    pub kind: u32,
    pub data: Vec<u8>,
    /// Written in place of the true offset.
    pub offset: Option<u64>,
}

impl Default for GgufWriter {
    fn default() -> GgufWriter {
        GgufWriter::new()
    }
}

impl GgufWriter {
    pub fn new() -> GgufWriter {
        GgufWriter {
            version: 3,
            alignment: 32,
            pairs: Vec::new(),
            tensors: Vec::new(),
            tensor_count: None,
            pair_count: None,
        }
    }

    pub fn version(mut self, version: u32) -> GgufWriter {
        self.version = version;
        self
    }

    /// Aligns data, and says so in the metadata.
    pub fn alignment(mut self, alignment: u32) -> GgufWriter {
        self.alignment = alignment.into();
        self.u32("general.alignment", alignment)
    }

    /// A pair with its value as it shall be written.
    pub fn raw(mut self, key: &[u8], kind: u32, value: &[u8]) -> GgufWriter {
        self.pairs.push((key.into(), kind, value.into()));
        self
    }

    pub fn u8(self, key: &str, v: u8) -> GgufWriter {
        self.raw(key.as_bytes(), 0, &[v])
    }

    pub fn u16(self, key: &str, v: u16) -> GgufWriter {
        self.raw(key.as_bytes(), 2, &v.to_le_bytes())
    }

    pub fn u32(self, key: &str, v: u32) -> GgufWriter {
        self.raw(key.as_bytes(), 4, &v.to_le_bytes())
    }

    pub fn i32(self, key: &str, v: i32) -> GgufWriter {
        self.raw(key.as_bytes(), 5, &v.to_le_bytes())
    }

    pub fn f32(self, key: &str, v: f32) -> GgufWriter {
        self.raw(key.as_bytes(), 6, &v.to_le_bytes())
    }

    pub fn bool(self, key: &str, v: bool) -> GgufWriter {
        self.raw(key.as_bytes(), 7, &[v.into()])
    }

    pub fn string(self, key: &str, v: impl AsRef<[u8]>) -> GgufWriter {
        self.raw(key.as_bytes(), 8, &string(v.as_ref()))
    }

    pub fn u64(self, key: &str, v: u64) -> GgufWriter {
        self.raw(key.as_bytes(), 10, &v.to_le_bytes())
    }

    pub fn i64(self, key: &str, v: i64) -> GgufWriter {
        self.raw(key.as_bytes(), 11, &v.to_le_bytes())
    }

    pub fn f64(self, key: &str, v: f64) -> GgufWriter {
        self.raw(key.as_bytes(), 12, &v.to_le_bytes())
    }

    pub fn strings<S: AsRef<[u8]>>(self, key: &str, v: &[S]) -> GgufWriter {
        self.array(key, 8, v, |s| string(s.as_ref()))
    }

    pub fn u32s(self, key: &str, v: &[u32]) -> GgufWriter {
        self.array(key, 4, v, |n| n.to_le_bytes().into())
    }

    pub fn i32s(self, key: &str, v: &[i32]) -> GgufWriter {
        self.array(key, 5, v, |n| n.to_le_bytes().into())
    }

    pub fn f32s(self, key: &str, v: &[f32]) -> GgufWriter {
        self.array(key, 6, v, |n| n.to_le_bytes().into())
    }

    pub fn bools(self, key: &str, v: &[bool]) -> GgufWriter {
        self.array(key, 7, v, |&b| vec![b.into()])
    }

    fn array<T>(self, key: &str, kind: u32, v: &[T], write: impl Fn(&T) -> Vec<u8>) -> GgufWriter {
        let elements: Vec<u8> = v.iter().flat_map(write).collect();
        self.raw_array(key, kind, v.len() as u64, &elements)
    }

    /// An array that may lie about its length.
    pub fn raw_array(self, key: &str, kind: u32, len: u64, elements: &[u8]) -> GgufWriter {
        let mut value = kind.to_le_bytes().to_vec();
        value.extend(len.to_le_bytes());
        value.extend(elements);
        self.raw(key.as_bytes(), 9, &value)
    }

    /// A tensor. `shape` is outermost first; `data` must be as long as format and shape say.
    pub fn tensor(
        self,
        name: &str,
        format: Format,
        shape: &[usize],
        data: impl Into<Vec<u8>>,
    ) -> GgufWriter {
        let data = data.into();
        let cols = *shape.last().expect("a tensor has a dimension");
        let rows: usize = shape[..shape.len() - 1].iter().product();
        let row_bytes = format.row_bytes(cols).expect("whole blocks");
        assert_eq!(data.len(), rows * row_bytes, "{name}: bytes of {format} {shape:?}");
        let dimensions = shape.iter().rev().map(|&n| n as u64).collect::<Vec<_>>();
        self.raw_tensor(name.as_bytes(), &dimensions, type_id(format), data)
    }

    pub fn f32_tensor(self, name: &str, shape: &[usize], values: &[f32]) -> GgufWriter {
        let data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.tensor(name, Format::F32, shape, data)
    }

    /// A tensor that may be wrong. `dimensions` are innermost first.
    pub fn raw_tensor(
        mut self,
        name: &[u8],
        dimensions: &[u64],
        kind: u32,
        data: Vec<u8>,
    ) -> GgufWriter {
        self.tensors.push(RawTensor {
            name: name.into(),
            dimensions: dimensions.into(),
            kind,
            data,
            offset: None,
        });
        self
    }

    /// Gives the last tensor an offset that need not be its own.
    pub fn at(mut self, offset: u64) -> GgufWriter {
        self.tensors.last_mut().expect("a tensor").offset = Some(offset);
        self
    }

    /// The file.
    pub fn bytes(&self) -> Vec<u8> {
        self.with_boundaries().0
    }

    /// The file, and where each field of its header ends.
    pub fn with_boundaries(&self) -> (Vec<u8>, Vec<usize>) {
        let mut out = b"GGUF".to_vec();
        let mut ends = vec![0, out.len()];
        let mut put = |out: &mut Vec<u8>, field: &[u8]| {
            out.extend(field);
            ends.push(out.len());
        };
        put(&mut out, &self.version.to_le_bytes());
        let tensors = self.tensor_count.unwrap_or(self.tensors.len() as u64);
        put(&mut out, &tensors.to_le_bytes());
        let pairs = self.pair_count.unwrap_or(self.pairs.len() as u64);
        put(&mut out, &pairs.to_le_bytes());
        for (key, kind, value) in &self.pairs {
            put(&mut out, &(key.len() as u64).to_le_bytes());
            put(&mut out, key);
            put(&mut out, &kind.to_le_bytes());
            put(&mut out, value);
        }
        let mut offset = 0;
        for tensor in &self.tensors {
            put(&mut out, &(tensor.name.len() as u64).to_le_bytes());
            put(&mut out, &tensor.name);
            put(&mut out, &(tensor.dimensions.len() as u32).to_le_bytes());
            for n in &tensor.dimensions {
                put(&mut out, &n.to_le_bytes());
            }
            put(&mut out, &tensor.kind.to_le_bytes());
            put(&mut out, &tensor.offset.unwrap_or(offset).to_le_bytes());
            offset += self.padded(tensor.data.len() as u64);
        }
        for tensor in &self.tensors {
            out.resize(self.padded(out.len() as u64) as usize, 0);
            put(&mut out, &tensor.data);
        }
        (out, ends)
    }

    fn padded(&self, len: u64) -> u64 {
        len.next_multiple_of(self.alignment)
    }

    pub fn write(&self, path: &Path) {
        fs::write(path, self.bytes()).expect("a test can write its file");
    }

    /// The model in `count` parts, as writers of the first: metadata in the first part alone,
    /// tensors in order.
    pub fn split(&self, count: usize) -> Vec<GgufWriter> {
        let each = self.tensors.len().div_ceil(count);
        let part = |number: usize| {
            let mut part = GgufWriter { tensors: Vec::new(), ..self.clone() };
            if number > 0 {
                part.pairs.retain(|(key, ..)| key == b"general.alignment");
            }
            part.tensors.extend(self.tensors.iter().skip(number * each).take(each).cloned());
            part.u16("split.no", number as u16)
                .u16("split.count", count as u16)
                .i32("split.tensors.count", self.tensors.len() as i32)
        };
        (0..count).map(part).collect()
    }

    /// Writes these parts as `STEM-00001-of-0000N.gguf` and so on and returns their paths.
    pub fn write_parts(parts: &[GgufWriter], folder: &Path, stem: &str) -> Vec<PathBuf> {
        let path = |i: usize| folder.join(format!("{stem}-{i:05}-of-{:05}.gguf", parts.len()));
        let paths: Vec<PathBuf> = (1..=parts.len()).map(path).collect();
        for (part, path) in parts.iter().zip(&paths) {
            part.write(path);
        }
        paths
    }
}

/// A string as GGUF has it.
pub fn string(bytes: &[u8]) -> Vec<u8> {
    let mut out = (bytes.len() as u64).to_le_bytes().to_vec();
    out.extend(bytes);
    out
}

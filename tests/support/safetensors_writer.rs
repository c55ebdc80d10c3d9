//! Writes safetensors files for tests: right ones, and wrong ones on request.
//!
//! Use it from a test with `#[path = "support/safetensors_writer.rs"] mod safetensors_writer;`.

// Every test binary uses a part of it.
#![allow(dead_code)]

use std::fs;
use std::path::Path;

#[derive(Clone, Default)]
pub struct SafetensorsWriter {
    tensors: Vec<(String, String, Vec<usize>, Vec<u8>)>,
}

impl SafetensorsWriter {
    pub fn new() -> SafetensorsWriter {
        SafetensorsWriter::default()
    }

    /// A tensor; `dtype` as the format names it.
    pub fn tensor(
        mut self,
        name: &str,
        dtype: &str,
        shape: &[usize],
        data: impl Into<Vec<u8>>,
    ) -> SafetensorsWriter {
        self.tensors.push((name.into(), dtype.into(), shape.into(), data.into()));
        self
    }

    pub fn f32_tensor(self, name: &str, shape: &[usize], values: &[f32]) -> SafetensorsWriter {
        let data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.tensor(name, "F32", shape, data)
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut header = String::from(r#"{"__metadata__":{"format":"pt"}"#);
        let mut data = Vec::new();
        for (name, dtype, shape, bytes) in &self.tensors {
            let (start, end) = (data.len(), data.len() + bytes.len());
            header.push_str(&format!(
                r#","{name}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{start},{end}]}}"#
            ));
            data.extend(bytes);
        }
        header.push('}');
        raw(&header, &data)
    }

    pub fn write(&self, path: &Path) {
        fs::write(path, self.bytes()).expect("a test can write its file");
    }
}

/// A file with this header, whatever it is.
pub fn raw(header: impl AsRef<[u8]>, data: &[u8]) -> Vec<u8> {
    let header = header.as_ref();
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend(header);
    out.extend(data);
    out
}

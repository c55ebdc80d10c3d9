//! Writes GGUF version 3: the header at once, the tensors' bytes as a stream.

use std::io::{self, Write};

use super::kinds::type_id;
use super::value::Kind;
use crate::math::Format;

/// Every tensor's data begins at a multiple of this, the format's default.
const ALIGNMENT: u64 = 32;

/// A metadata value to be written.
#[derive(Clone, Debug, PartialEq)]
pub enum Field {
    U32(u32),
    U64(u64),
    F32(f32),
    Bool(bool),
    String(String),
    Strings(Vec<String>),
    I32s(Vec<i32>),
}

impl From<&str> for Field {
    fn from(text: &str) -> Field {
        Field::String(text.into())
    }
}

/// A tensor to be written: what the header says of it.
#[derive(Clone, Debug)]
pub struct Described {
    pub name: String,
    /// Outermost dimension first, as in [`crate::weights::Tensor`].
    pub shape: Vec<usize>,
    pub format: Format,
}

impl Described {
    /// Bytes of its data; `None` if blocks do not divide its rows or there is no such number.
    pub fn bytes(&self) -> Option<u64> {
        let (cols, outer) = self.shape.split_last()?;
        let row = self.format.row_bytes(*cols)? as u64;
        outer.iter().try_fold(row, |bytes, n| bytes.checked_mul(*n as u64))
    }
}

/// A file under way. Data comes tensor by tensor, in the order of the header, in pieces of any
/// size; the gaps between tensors are filled in here.
pub struct Writer<W> {
    out: W,
    /// Bytes of the tensors, last first; the last one is being written.
    lengths: Vec<u64>,
    left: u64,
}

impl<W: Write> Writer<W> {
    /// Writes the header.
    ///
    /// # Panics
    /// If GGUF cannot hold a tensor of such a shape and format.
    pub fn new(
        mut out: W,
        fields: &[(String, Field)],
        tensors: &[Described],
    ) -> io::Result<Writer<W>> {
        let mut lengths: Vec<u64> = tensors
            .iter()
            .map(|t| t.bytes().unwrap_or_else(|| panic!("{} cannot be written: {t:?}", t.name)))
            .collect();
        out.write_all(&header(fields, tensors, &lengths))?;
        lengths.reverse();
        let mut writer = Writer { out, lengths, left: 0 };
        writer.begin();
        Ok(writer)
    }

    fn begin(&mut self) {
        self.left = self.lengths.last().copied().unwrap_or(0);
    }

    /// The next bytes of the tensor under way.
    ///
    /// # Panics
    /// If they are more than the tensor has left.
    pub fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        let len = bytes.len() as u64;
        assert!(len <= self.left, "{len} bytes for a tensor that has {} left", self.left);
        self.out.write_all(bytes)?;
        self.left -= len;
        if self.left == 0
            && let Some(whole) = self.lengths.pop()
        {
            let gap = whole.next_multiple_of(ALIGNMENT) - whole;
            self.out.write_all(&[0; ALIGNMENT as usize][..gap as usize])?;
            self.begin();
        }
        Ok(())
    }

    /// Gives back what was written to.
    ///
    /// # Panics
    /// If a tensor is not complete.
    pub fn finish(self) -> W {
        assert!(self.lengths.is_empty(), "{} tensors are not written", self.lengths.len());
        self.out
    }
}

/// Bytes of a whole file.
pub fn file_bytes(fields: &[(String, Field)], tensors: &[Described]) -> Option<u64> {
    let lengths: Vec<u64> = tensors.iter().map(Described::bytes).collect::<Option<_>>()?;
    let header = header(fields, tensors, &lengths).len() as u64;
    Some(header + lengths.iter().map(|n| n.next_multiple_of(ALIGNMENT)).sum::<u64>())
}

fn header(fields: &[(String, Field)], tensors: &[Described], lengths: &[u64]) -> Vec<u8> {
    let mut out = super::MAGIC.to_vec();
    out.extend(3u32.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((fields.len() as u64).to_le_bytes());
    for (key, value) in fields {
        string(&mut out, key);
        field(&mut out, value);
    }
    let mut offset = 0u64;
    for (tensor, len) in tensors.iter().zip(lengths) {
        string(&mut out, &tensor.name);
        out.extend((tensor.shape.len() as u32).to_le_bytes());
        for dimension in tensor.shape.iter().rev() {
            out.extend((*dimension as u64).to_le_bytes());
        }
        let id = type_id(tensor.format);
        let id = id.unwrap_or_else(|| panic!("GGUF has no {}", tensor.format));
        out.extend(id.to_le_bytes());
        out.extend(offset.to_le_bytes());
        offset += len.next_multiple_of(ALIGNMENT);
    }
    out.resize((out.len() as u64).next_multiple_of(ALIGNMENT) as usize, 0);
    out
}

fn string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn field(out: &mut Vec<u8>, value: &Field) {
    let kind = |out: &mut Vec<u8>, kind: Kind| out.extend((kind as u32).to_le_bytes());
    let array = |out: &mut Vec<u8>, of: Kind, len: usize| {
        kind(out, Kind::Array);
        kind(out, of);
        out.extend((len as u64).to_le_bytes());
    };
    match value {
        Field::U32(v) => {
            kind(out, Kind::U32);
            out.extend(v.to_le_bytes());
        }
        Field::U64(v) => {
            kind(out, Kind::U64);
            out.extend(v.to_le_bytes());
        }
        Field::F32(v) => {
            kind(out, Kind::F32);
            out.extend(v.to_le_bytes());
        }
        Field::Bool(v) => {
            kind(out, Kind::Bool);
            out.push(u8::from(*v));
        }
        Field::String(text) => {
            kind(out, Kind::String);
            string(out, text);
        }
        Field::Strings(list) => {
            array(out, Kind::String, list.len());
            list.iter().for_each(|text| string(out, text));
        }
        Field::I32s(list) => {
            array(out, Kind::I32, list.len());
            list.iter().for_each(|v| out.extend(v.to_le_bytes()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::{DType, Gguf};

    fn sample() -> (Vec<(String, Field)>, Vec<Described>) {
        let fields = vec![
            ("a".into(), Field::U32(7)),
            ("b".into(), Field::U64(1 << 40)),
            ("c".into(), Field::F32(0.5)),
            ("d".into(), Field::Bool(true)),
            ("e".into(), "text".into()),
            ("f".into(), Field::Strings(vec!["x".into(), "".into()])),
            ("g".into(), Field::I32s(vec![-1, 2])),
        ];
        let tensor = |name: &str, shape: &[usize], format| Described {
            name: name.into(),
            shape: shape.into(),
            format,
        };
        let tensors = vec![
            tensor("one", &[3], Format::F32),
            tensor("two", &[2, 3, 32], Format::Q5_0),
            tensor("three", &[5, 1], Format::F16),
        ];
        (fields, tensors)
    }

    #[test]
    fn what_is_written_is_read_back() {
        let (fields, tensors) = sample();
        let mut writer = Writer::new(Vec::new(), &fields, &tensors).unwrap();
        let mut data = Vec::new();
        for (tensor, fill) in tensors.iter().zip(1u8..) {
            data.push(vec![fill; tensor.bytes().unwrap() as usize]);
            // In pieces that respect no block.
            data.last().unwrap().chunks(7).for_each(|piece| writer.data(piece).unwrap());
        }
        let bytes = writer.finish();
        assert_eq!(bytes.len() as u64, file_bytes(&fields, &tensors).unwrap());

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f.gguf");
        std::fs::write(&path, bytes).unwrap();
        let file = Gguf::open(&path).unwrap();
        assert_eq!(file.version(), 3);
        let meta = file.metadata();
        assert_eq!((meta.u32("a").unwrap(), meta.u64("b").unwrap()), (7, 1 << 40));
        assert_eq!((meta.f32("c").unwrap(), meta.bool("d").unwrap()), (0.5, true));
        assert_eq!(meta.string("e").unwrap(), "text");
        assert_eq!(meta.strings("f").unwrap().collect::<Vec<_>>(), [b"x".as_slice(), b""]);
        assert_eq!(meta.i32s_opt("g").unwrap().unwrap(), [-1, 2]);
        for ((tensor, data), read) in tensors.iter().zip(&data).zip(file.tensors()) {
            assert_eq!(*tensor.name, *read.name);
            assert_eq!(*tensor.shape, *read.shape);
            assert_eq!(DType::Weights(tensor.format), read.dtype);
            assert_eq!(&**data, &*read.data);
        }
    }

    #[test]
    #[should_panic(expected = "not written")]
    fn an_unfinished_file_is_noticed() {
        let (fields, tensors) = sample();
        Writer::new(Vec::new(), &fields, &tensors).unwrap().finish();
    }
}

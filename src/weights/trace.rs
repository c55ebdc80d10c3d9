//! Recorded routing: which experts every token went to, layer by layer, step by step.
//!
//! Enough to replay a run as single tokens, as the batches it was made of, or merged into others.
//! Little endian throughout:
//!
//! ```text
//! file     "PENTRACE" | version u32 | layers u32 | experts u32 | used u32 | slab bytes u64
//!          | length of the model's name u32 | name | records
//! record   tag u32 | length of the rest u32 | the rest; who does not know a tag skips it
//! STEP     tokens u32 | of these, prompt's u32
//!          | for each layer: rows u32 | for each row: `used` experts, u16 each
//! ```
//!
//! Only layers with experts count. A layer has a row for each token that was computed there. Every
//! step is written at once, so that a run that is killed leaves whole steps and at most a part
//! of one.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use super::error::{Error, Quoted, Result};
use super::sniff;
use crate::host::mapping::Bytes;

pub const MAGIC: &[u8; 8] = b"PENTRACE";
const VERSION: u32 = 1;
/// Tag of a step.
const STEP: u32 = 1;

/// Sizes beyond these are rubbish.
const MOST_LAYERS: u32 = 4096;
const MOST_EXPERTS: u32 = u16::MAX as u32 + 1;
const LONGEST_NAME: u32 = 4096;

/// What is traced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub model: String,
    /// Layers that have experts.
    pub layers: u32,
    /// Experts in each of them.
    pub experts: u32,
    /// Experts that a token uses.
    pub used: u32,
    /// Bytes of the largest slab.
    pub slab_bytes: u64,
}

/// Writes a trace while a run goes.
pub struct Recorder<W: Write = File> {
    out: W,
    header: Header,
    record: Vec<u8>,
    layers: u32,
}

impl Recorder {
    /// A file of that name is replaced.
    pub fn create(path: &Path, header: Header) -> io::Result<Recorder> {
        Recorder::new(File::create(path)?, header)
    }
}

impl<W: Write> Recorder<W> {
    pub fn new(mut out: W, header: Header) -> io::Result<Recorder<W>> {
        let name = &header.model[..header.model.floor_char_boundary(LONGEST_NAME as usize)];
        let mut bytes = MAGIC.to_vec();
        for number in [VERSION, header.layers, header.experts, header.used] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(header.slab_bytes.to_le_bytes());
        bytes.extend((name.len() as u32).to_le_bytes());
        bytes.extend(name.as_bytes());
        out.write_all(&bytes)?;
        Ok(Recorder { out, header, record: Vec::new(), layers: 0 })
    }

    /// A step of so many tokens begins, `prompt` of them a prompt's. One that was begun and not
    /// ended is forgotten.
    pub fn begin(&mut self, tokens: u32, prompt: u32) {
        self.record.clear();
        self.layers = 0;
        // The length is known at the end.
        for number in [STEP, 0, tokens, prompt] {
            self.record.extend(number.to_le_bytes());
        }
    }

    /// The next layer: `used` experts for each row, row after row.
    pub fn layer(&mut self, experts: impl ExactSizeIterator<Item = u32>) {
        debug_assert!(experts.len().is_multiple_of(self.header.used as usize));
        let rows = experts.len() as u32 / self.header.used;
        self.record.extend(rows.to_le_bytes());
        for expert in experts {
            debug_assert!(expert < self.header.experts);
            self.record.extend((expert as u16).to_le_bytes());
        }
        self.layers += 1;
    }

    /// The step is over: written, if it came to all layers. One that was abandoned is not.
    pub fn end(&mut self) -> io::Result<()> {
        if self.record.is_empty() || self.layers != self.header.layers {
            self.record.clear();
            return Ok(());
        }
        let length = u32::try_from(self.record.len() - 8)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a step of over 4 GiB"))?;
        self.record[4..8].copy_from_slice(&length.to_le_bytes());
        let written = self.out.write_all(&self.record);
        self.record.clear();
        written
    }

    /// What was written to, with all its whole steps.
    pub fn finish(self) -> W {
        self.out
    }
}

/// A trace that was read.
#[derive(Debug)]
pub struct Trace {
    pub header: Header,
    steps: Vec<Step>,
    /// Where each layer of each step ends in `experts`.
    ends: Vec<usize>,
    experts: Vec<u16>,
    /// The file ends within a record: the run was killed, or goes on.
    pub cut: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    pub tokens: u32,
    /// How many of them are a prompt's.
    pub prompt: u32,
}

impl Trace {
    pub fn open(path: &Path) -> Result<Trace> {
        let bytes = Bytes::map(path).map_err(|source| Error::open(path, source))?;
        Trace::read(path, &bytes)
    }

    pub fn read(path: &Path, bytes: &[u8]) -> Result<Trace> {
        let mut reader = Reader { path, bytes, at: 0 };
        let header = reader.header()?;
        let mut trace =
            Trace { header, steps: Vec::new(), ends: Vec::new(), experts: Vec::new(), cut: false };
        while reader.at < bytes.len() {
            let start = reader.at;
            let whole = || -> Option<(u32, &[u8])> {
                let head = bytes.get(start..start + 8)?;
                let length = u32_at(head, 4) as usize;
                Some((u32_at(head, 0), bytes.get(start + 8..(start + 8).checked_add(length)?)?))
            };
            let Some((tag, record)) = whole() else {
                trace.cut = true;
                break;
            };
            if tag == STEP {
                reader.at = start + 8;
                reader.step(&mut trace, record.len())?;
            }
            reader.at = start + 8 + record.len();
        }
        if trace.steps.is_empty() {
            let reason = "the trace has no whole step; record one with `run --record-trace FILE`";
            return Err(Error::bad(path, "steps", reason));
        }
        Ok(trace)
    }

    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Experts of a layer in a step, `used` for each row.
    pub fn routed(&self, step: usize, layer: usize) -> &[u16] {
        let at = step * self.header.layers as usize + layer;
        let start = if at == 0 { 0 } else { self.ends[at - 1] };
        &self.experts[start..self.ends[at]]
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

struct Reader<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn bad(&self, field: impl Into<String>, reason: impl Into<String>) -> Error {
        Error::bad(self.path, field, reason)
    }

    fn take(&mut self, length: usize, field: &str) -> Result<&'a [u8]> {
        let part = self.at.checked_add(length).and_then(|end| self.bytes.get(self.at..end));
        let part = part.ok_or_else(|| self.bad(field, "the file ends here; record it again"))?;
        self.at += length;
        Ok(part)
    }

    fn number(&mut self, field: &str) -> Result<u32> {
        Ok(u32_at(self.take(4, field)?, 0))
    }

    /// A number from 1 to `most`.
    fn size(&mut self, field: &str, most: u32) -> Result<u32> {
        match self.number(field)? {
            n if (1..=most).contains(&n) => Ok(n),
            n => Err(self.bad(field, format!("is {n}, and can be 1 to {most}"))),
        }
    }

    fn header(&mut self) -> Result<Header> {
        if !self.bytes.starts_with(MAGIC) {
            let reason = match sniff::stranger(self.bytes) {
                Some(reason) => reason.into(),
                None if self.bytes.starts_with(b"GGUF") => {
                    "this is a model, not a trace; record one with `run --record-trace FILE`".into()
                }
                None => format!(
                    "this is not a trace: it starts with \"{}\", where one has \"PENTRACE\"",
                    sniff::first_bytes(self.bytes)
                ),
            };
            return Err(self.bad("file", reason));
        }
        self.at = MAGIC.len();
        let version = self.number("version")?;
        if version != VERSION {
            let reason = format!("is {version}, and this program reads {VERSION}; record it again");
            return Err(self.bad("version", reason));
        }
        let layers = self.size("layers", MOST_LAYERS)?;
        let experts = self.size("experts", MOST_EXPERTS)?;
        let used = self.size("experts used", experts)?;
        let slab_bytes = self.take(8, "slab bytes")?;
        let slab_bytes = slab_bytes.iter().rev().fold(0, |sum, &byte| sum << 8 | u64::from(byte));
        let length = self.number("model")?;
        if length > LONGEST_NAME {
            return Err(self.bad("model", format!("a name of {length} bytes")));
        }
        let name = String::from_utf8_lossy(self.take(length as usize, "model")?);
        Ok(Header { model: name.into(), layers, experts, used, slab_bytes })
    }

    /// A step whose record is whole, which does not make its content right.
    fn step(&mut self, trace: &mut Trace, length: usize) -> Result<()> {
        let field = format!("step {}", trace.steps.len());
        let end = self.at + length;
        let (tokens, prompt) = (self.number(&field)?, self.number(&field)?);
        if prompt > tokens {
            let reason = format!("{prompt} tokens of prompts among {tokens}");
            return Err(self.bad(field, reason));
        }
        let Header { layers, experts, used, .. } = trace.header;
        for layer in 0..layers {
            let rows = self.number(&field)?;
            if rows > tokens {
                let reason = format!("layer {layer} has {rows} rows for {tokens} tokens");
                return Err(self.bad(field, reason));
            }
            let size = rows as usize * used as usize * 2;
            let row = self.take(size, &field)?;
            for &pair in row.as_chunks::<2>().0 {
                let expert = u16::from_le_bytes(pair);
                if u32::from(expert) >= experts {
                    let reason = format!("layer {layer} uses expert {expert} of {experts}");
                    return Err(self.bad(field, reason));
                }
                trace.experts.push(expert);
            }
            trace.ends.push(trace.experts.len());
        }
        if self.at != end {
            return Err(self.bad(field, "its length is not that of what it holds"));
        }
        trace.steps.push(Step { tokens, prompt });
        Ok(())
    }
}

/// The model's name as it may be printed.
impl Header {
    pub fn name(&self) -> Quoted<'_> {
        Quoted(&self.model)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header { model: "m".into(), layers: 2, experts: 4, used: 2, slab_bytes: 4096 }
    }

    fn sample() -> Vec<u8> {
        let mut recorder = Recorder::new(Vec::new(), header()).unwrap();
        recorder.begin(2, 2);
        recorder.layer([0, 1, 2, 3].into_iter());
        recorder.layer([3, 1].into_iter());
        recorder.end().unwrap();
        recorder.begin(1, 0);
        recorder.layer([1, 2].into_iter());
        // Abandoned: no second layer.
        recorder.end().unwrap();
        recorder.begin(1, 0);
        recorder.layer([1, 2].into_iter());
        recorder.layer([0, 2].into_iter());
        recorder.end().unwrap();
        recorder.finish()
    }

    fn read(bytes: &[u8]) -> Result<Trace> {
        Trace::read(Path::new("t"), bytes)
    }

    #[test]
    fn what_was_recorded_is_read() {
        let trace = read(&sample()).unwrap();
        assert_eq!(trace.header, header());
        assert_eq!(trace.steps(), [Step { tokens: 2, prompt: 2 }, Step { tokens: 1, prompt: 0 }]);
        assert_eq!(trace.routed(0, 0), [0, 1, 2, 3]);
        assert_eq!(trace.routed(0, 1), [3, 1]);
        assert_eq!(trace.routed(1, 1), [0, 2]);
        assert!(!trace.cut);
    }

    #[test]
    fn a_record_of_another_kind_is_skipped() {
        let mut bytes = sample();
        bytes.extend([9, 0, 0, 0, 3, 0, 0, 0, 1, 2, 3]);
        let trace = read(&bytes).unwrap();
        assert_eq!((trace.steps().len(), trace.cut), (2, false));
    }

    #[test]
    fn a_file_that_is_cut_keeps_its_whole_steps() {
        let bytes = sample();
        let first_step = MAGIC.len() + 16 + 8 + 4 + 1;
        for end in 0..bytes.len() {
            match read(&bytes[..end]) {
                Ok(trace) => assert_eq!(
                    (trace.steps().len(), trace.cut),
                    (1, end != first_step + 36),
                    "{end}"
                ),
                Err(error) => {
                    let words = error.to_string();
                    assert!(words.starts_with("t: "), "{words}");
                    assert!(end < first_step + 36, "{end}: {words}");
                }
            }
        }
    }

    #[test]
    fn rubbish_becomes_a_sentence() {
        let sample = sample();
        let with = |at: usize, byte: u8| {
            let mut bytes = sample.clone();
            bytes[at] = byte;
            read(&bytes).unwrap_err().to_string()
        };
        assert!(with(0, b'X').contains("not a trace"));
        assert!(with(8, 7).contains("version: is 7"));
        assert!(with(12, 0).contains("layers: is 0"));
        assert!(with(18, 9).contains("experts: is"));
        assert!(with(20, 9).contains("experts used: is 9, and can be 1 to 4"));
        assert!(with(35, 200).contains("model: a name"));
        // The first step: tokens, prompt, rows, an expert.
        assert!(with(49, 3).contains("3 tokens of prompts among 2"));
        assert!(with(53, 9).contains("layer 0 has 9 rows"));
        assert!(with(57, 9).contains("layer 0 uses expert 9 of 4"));
        assert!(read(b"GGUF\x03\0\0\0").unwrap_err().to_string().contains("a model"));
        assert!(read(b"").unwrap_err().to_string().contains("empty"));
        // Any byte, any value: a sentence or a trace.
        for at in 0..sample.len() {
            for byte in [0, 1, 0x7f, 0xff] {
                let mut bytes = sample.clone();
                bytes[at] = byte;
                let _ = read(&bytes);
            }
        }
    }
}

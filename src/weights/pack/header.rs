//! The preamble, the header and the table of sums: written last, read first.
//!
//! A header is JSON so that a person can look at it: `head -c 2000 FILE`. Offsets in it count from
//! the first block of their file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::Error;
use super::fingerprint::{Difference, Fingerprint, hex};
use super::layout::Layout;
use super::{Contents, LARGEST_BLOCK, Pack, PartShape, Shape};
use crate::base::sum::sum;
use crate::base::units::Bytes;
use crate::host::direct::SECTOR;

/// The format that is written, and the only one that is read.
pub const VERSION: u32 = 1;

const MAGIC: &[u8; 8] = b"PENSTOCK";

/// Bytes of the preamble; the header follows.
const PREAMBLE: usize = 64;

/// No header is longer, whatever a file says.
const LONGEST: u64 = 1 << 30;

/// Files that one pack may have.
pub(super) const MOST_FILES: usize = 64;

/// The first bytes of every file of a pack.
#[derive(Clone, Copy)]
struct Preamble {
    /// Which file of how many.
    file: u32,
    files: u32,
    header_len: u64,
    header_sum: u64,
    /// The sum of the first file's header: what belongs together has the same.
    pack: u64,
}

impl Preamble {
    fn bytes(&self) -> [u8; PREAMBLE] {
        let mut out = [0; PREAMBLE];
        out[..8].copy_from_slice(MAGIC);
        out[8..12].copy_from_slice(&VERSION.to_le_bytes());
        out[12..16].copy_from_slice(&self.file.to_le_bytes());
        out[16..20].copy_from_slice(&self.files.to_le_bytes());
        out[24..32].copy_from_slice(&self.header_len.to_le_bytes());
        out[32..40].copy_from_slice(&self.header_sum.to_le_bytes());
        out[40..48].copy_from_slice(&self.pack.to_le_bytes());
        let own = sum(&out[..PREAMBLE - 8]);
        out[PREAMBLE - 8..].copy_from_slice(&own.to_le_bytes());
        out
    }

    fn parse(path: &Path, bytes: &[u8]) -> Result<Preamble, Error> {
        let path = || path.to_path_buf();
        let magic = &bytes[..bytes.len().min(MAGIC.len())];
        if !MAGIC.starts_with(magic) {
            return Err(Error::Magic { path: path(), start: magic.escape_ascii().to_string() });
        }
        let Some(bytes) = bytes.first_chunk::<PREAMBLE>() else {
            let (found, expected) = (bytes.len() as u64, PREAMBLE as u64);
            return Err(Error::Short { path: path(), found, expected });
        };
        let u32_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let u64_at = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        // Before the sum, which another format may have elsewhere.
        match u32_at(8) {
            VERSION => {}
            found if found > VERSION => {
                return Err(Error::Newer { path: path(), found, reads: VERSION });
            }
            found => return Err(Error::Older { path: path(), found }),
        }
        let made = Preamble {
            file: u32_at(12),
            files: u32_at(16),
            header_len: u64_at(24),
            header_sum: u64_at(32),
            pack: u64_at(40),
        };
        let sound = u64_at(PREAMBLE - 8) == sum(&bytes[..PREAMBLE - 8])
            && made.file < made.files
            && made.files as usize <= MOST_FILES
            && made.header_len <= LONGEST;
        match sound {
            true => Ok(made),
            false => Err(Error::Damaged { path: path(), part: "preamble" }),
        }
    }
}

/// The first file's header.
#[derive(Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Header {
    what: String,
    /// The files; the second and those after it as they are found from the first one's folder.
    files: Vec<PathBuf>,
    block: usize,
    /// Bytes of blocks in each file.
    bytes: Vec<u64>,
    sums: Sums,
    source: Fingerprint,
    trunk: Vec<TrunkEntry>,
    layers: Vec<LayerEntry>,
}

/// The table of sums, and its own.
#[derive(Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Sums {
    blocks: u64,
    sum: String,
}

#[derive(Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct TrunkEntry {
    name: String,
    format: String,
    rows: usize,
    cols: usize,
    bytes: usize,
    /// Its first block, and where in that block's file it lies.
    first_block: u64,
    offset: u64,
}

#[derive(Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct LayerEntry {
    layer: usize,
    experts: usize,
    slab_bytes: usize,
    gate: PartEntry,
    up: PartEntry,
    down: PartEntry,
    /// Of the first expert's slab.
    first_block: u64,
    offset: u64,
}

#[derive(Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct PartEntry {
    format: String,
    rows: usize,
    cols: usize,
    /// From the slab's beginning on.
    offset: usize,
    bytes: usize,
}

impl From<&PartShape> for PartEntry {
    fn from(part: &PartShape) -> PartEntry {
        PartEntry {
            format: part.format.to_string(),
            rows: part.rows,
            cols: part.cols,
            offset: part.range.start,
            bytes: part.range.len(),
        }
    }
}

/// The header of a file that is not the first.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PartHeader {
    what: String,
    /// The first file, as it is found from this one's folder.
    first: PathBuf,
}

fn entries(shape: &Shape, layout: &Layout) -> (Vec<TrunkEntry>, Vec<LayerEntry>) {
    let trunk = shape.trunk.iter().enumerate().map(|(i, matrix)| {
        let place = layout.place(i, 0);
        TrunkEntry {
            name: matrix.name.clone(),
            format: matrix.format.to_string(),
            rows: matrix.rows,
            cols: matrix.cols,
            bytes: matrix.bytes,
            first_block: place.block,
            offset: place.offset,
        }
    });
    let layers = shape.layers.iter().enumerate().map(|(i, layer)| {
        let place = layout.place(shape.slab(i), 0);
        let [gate, up, down] = layer.parts.each_ref().map(PartEntry::from);
        LayerEntry {
            layer: layer.index,
            experts: layer.experts,
            slab_bytes: layer.slab_bytes,
            gate,
            up,
            down,
            first_block: place.block,
            offset: place.offset,
        }
    });
    (trunk.collect(), layers.collect())
}

fn whole_sectors(bytes: u64) -> u64 {
    bytes.next_multiple_of(SECTOR as u64)
}

/// What each file of a pack begins with, and so where its blocks begin.
pub(super) struct Heads {
    header: Header,
    parts: Vec<PartHeader>,
    /// Where in each file the blocks begin.
    pub data: Vec<u64>,
}

impl Heads {
    pub fn new(
        paths: &[PathBuf],
        shape: &Shape,
        layout: &Layout,
        source: &Fingerprint,
    ) -> Result<Heads, Error> {
        let (trunk, layers) = entries(shape, layout);
        let first = &paths[0];
        let what = "A pack of model weights for Penstock: made from the source below, and of no \
                    use without it. It can be deleted and made again."
            .into();
        let header = Header {
            what,
            files: paths.iter().map(|path| seen_from(first, path)).collect(),
            block: layout.block() as usize,
            bytes: layout.ends().to_vec(),
            sums: Sums { blocks: layout.all_blocks(), sum: hex(0) },
            source: source.clone(),
            trunk,
            layers,
        };
        let parts = paths.iter().enumerate().skip(1).map(|(i, path)| PartHeader {
            what: format!("File {} of {} of a Penstock pack.", i + 1, paths.len()),
            first: seen_from(path, first),
        });
        let mut heads = Heads { header, parts: parts.collect(), data: Vec::new() };
        let table = whole_sectors(8 * layout.all_blocks());
        for file in 0..paths.len() {
            let header = whole_sectors((PREAMBLE + heads.json(file)?.len()) as u64);
            heads.data.push(header + if file == 0 { table } else { 0 });
        }
        Ok(heads)
    }

    /// Its length does not depend on the sums.
    fn json(&self, file: usize) -> Result<Vec<u8>, Error> {
        let json = match file {
            0 => serde_json::to_vec(&self.header),
            _ => serde_json::to_vec(&self.parts[file - 1]),
        };
        // A path that is not UTF-8 is all that can be refused.
        json.map_err(|error| Error::Write {
            path: self.header.files[file].clone(),
            source: io::Error::new(io::ErrorKind::InvalidFilename, error),
        })
    }

    /// What belongs before the blocks of each file.
    pub fn bytes(mut self, sums: &[u64]) -> Result<Vec<Vec<u8>>, Error> {
        let table: Vec<u8> = sums.iter().flat_map(|sum| sum.to_le_bytes()).collect();
        self.header.sums.sum = hex(sum(&table));
        let pack = sum(&self.json(0)?);
        let files = self.data.len();
        let head = |file: usize| -> Result<Vec<u8>, Error> {
            let json = self.json(file)?;
            let preamble = Preamble {
                file: file as u32,
                files: files as u32,
                header_len: json.len() as u64,
                header_sum: sum(&json),
                pack,
            };
            let mut head = preamble.bytes().to_vec();
            head.extend(json);
            if file == 0 {
                head.resize(head.len().next_multiple_of(SECTOR), 0);
                head.extend(&table);
            }
            head.resize(head.len().next_multiple_of(SECTOR), 0);
            assert_eq!(head.len() as u64, self.data[file], "as it was planned");
            Ok(head)
        };
        (0..files).map(head).collect()
    }
}

/// A file's path as it is written into another: its name alone where they are neighbours.
fn seen_from(file: &Path, other: &Path) -> PathBuf {
    match (file.parent() == other.parent(), other.file_name()) {
        (true, Some(name)) => name.into(),
        _ => other.into(),
    }
}

/// One file of a pack as far as its header.
struct Opened {
    path: PathBuf,
    file: File,
    len: u64,
    preamble: Preamble,
    header: Vec<u8>,
}

impl Opened {
    fn open(path: &Path) -> Result<Opened, Error> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => Error::Missing { path: path.into() },
            _ => Error::Open { path: path.into(), source },
        };
        // Asked first: opening a pipe would wait for ever.
        if !std::fs::metadata(path).map_err(failed)?.is_file() {
            let source = io::Error::new(io::ErrorKind::InvalidInput, "it is not a file");
            return Err(failed(source));
        }
        let file = File::open(path).map_err(failed)?;
        let len = file.metadata().map_err(failed)?.len();
        let mut bytes = vec![0; len.min(PREAMBLE as u64) as usize];
        file.read_exact_at(&mut bytes, 0).map_err(failed)?;
        let preamble = Preamble::parse(path, &bytes)?;
        let expected = PREAMBLE as u64 + preamble.header_len;
        if len < expected {
            return Err(Error::Short { path: path.into(), found: len, expected });
        }
        let mut header = vec![0; preamble.header_len as usize];
        file.read_exact_at(&mut header, PREAMBLE as u64).map_err(failed)?;
        if sum(&header) != preamble.header_sum {
            return Err(Error::Damaged { path: path.into(), part: "header" });
        }
        Ok(Opened { path: path.into(), file, len, preamble, header })
    }

    fn parse<'a, T: Deserialize<'a>>(&'a self) -> Result<T, Error> {
        let path = || self.path.clone();
        serde_json::from_slice(&self.header)
            .map_err(|_| Error::Damaged { path: path(), part: "header (its sum is right)" })
    }

    /// Whether the file is as long as it should be.
    fn measure(&self, expected: u64) -> Result<(), Error> {
        let (path, found) = (self.path.clone(), self.len);
        match found.cmp(&expected) {
            std::cmp::Ordering::Less => Err(Error::Short { path, found, expected }),
            std::cmp::Ordering::Equal => Ok(()),
            std::cmp::Ordering::Greater => Err(Error::Long { path, found, expected }),
        }
    }
}

pub(super) fn open(path: &Path, contents: &Contents, source: &Fingerprint) -> Result<Pack, Error> {
    let first = Opened::open(path)?;
    if first.preamble.file > 0 {
        let part: PartHeader = first.parse()?;
        let (number, first) = (first.preamble.file + 1, part.first.display().to_string());
        return Err(Error::NotFirst { path: path.into(), number, first });
    }
    let header: Header = first.parse()?;
    same_source(path, &header.source, source)?;
    let (shape, layout) = same_contents(path, &header, contents)?;
    if header.files.len() != first.preamble.files as usize {
        return Err(Error::Damaged { path: path.into(), part: "list of files" });
    }

    let table_at = whole_sectors((PREAMBLE + first.header.len()) as u64);
    let table_len = 8 * layout.all_blocks();
    let mut data = vec![table_at + whole_sectors(table_len)];
    first.measure(data[0] + layout.ends()[0])?;
    let mut files = vec![path.to_path_buf()];
    // The files lie beside the first, not beside a link to it.
    let real = std::fs::canonicalize(path).unwrap_or_else(|_| path.into());
    let folder = real.parent().unwrap_or(Path::new(""));
    for (i, name) in header.files.iter().enumerate().skip(1) {
        let (path, number) = (path.to_path_buf(), i + 1);
        let part = match Opened::open(&folder.join(name)) {
            Err(Error::Missing { path: part }) => {
                return Err(Error::MissingPart { path, number, part });
            }
            opened => opened?,
        };
        let (ours, theirs) = (&first.preamble, &part.preamble);
        if (theirs.pack, theirs.file as usize, theirs.files) != (ours.pack, i, ours.files) {
            return Err(Error::OtherPart { path, part: part.path });
        }
        data.push(whole_sectors((PREAMBLE + part.header.len()) as u64));
        part.measure(data[i] + layout.ends()[i])?;
        files.push(part.path);
    }

    let mut table = vec![0; table_len as usize];
    first
        .file
        .read_exact_at(&mut table, table_at)
        .map_err(|source| Error::Open { path: path.into(), source })?;
    if hex(sum(&table)) != header.sums.sum {
        return Err(Error::Damaged { path: path.into(), part: "table of sums" });
    }
    let (sums, _) = table.as_chunks::<8>();
    let sums = sums.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect();
    Ok(Pack { files, data, sums, shape, layout })
}

fn same_source(path: &Path, packed: &Fingerprint, now: &Fingerprint) -> Result<(), Error> {
    let path = path.to_path_buf();
    let what = match now.differs(packed) {
        None => return Ok(()),
        Some(Difference::Other) => {
            let (packed, model) = (packed.name().to_string(), now.name().to_string());
            return Err(Error::OtherModel { path, packed, model });
        }
        Some(Difference::Size { file, was, is })
            if Bytes(was).to_string() == Bytes(is).to_string() =>
        {
            format!("{file} had {was} bytes and has {is}")
        }
        Some(Difference::Size { file, was, is }) => {
            format!("{file} had {} and has {}", Bytes(was), Bytes(is))
        }
        Some(Difference::Time { file }) => format!("{file} was written to"),
        Some(Difference::Head) => "its header says something else".into(),
    };
    Err(Error::Changed { path, what })
}

/// Lays the model out as the header's block size and files demand, and refuses a header that says
/// otherwise.
fn same_contents(
    path: &Path,
    header: &Header,
    contents: &Contents,
) -> Result<(Shape, Layout), Error> {
    let wrong = |what: String| Err(Error::Contents { path: path.into(), what });
    check_block(header.block)?;
    if header.files.is_empty() || header.files.len() > MOST_FILES {
        return Err(Error::Damaged { path: path.into(), part: "list of files" });
    }
    let shape = Shape::new(contents)?;
    let layout = Layout::new(shape.extents(), header.block as u64, header.files.len());
    let layout = layout.ok_or(Error::TooLarge)?;
    let (trunk, layers) = entries(&shape, &layout);
    let counts = |trunk: usize, layers: usize| format!("{trunk} matrices and {layers} layers");
    let found = counts(header.trunk.len(), header.layers.len());
    let expected = counts(trunk.len(), layers.len());
    if found != expected {
        return wrong(format!("{found} of experts where {expected} are expected"));
    }
    if let Some((found, _)) = header.trunk.iter().zip(&trunk).find(|(a, b)| a != b) {
        return wrong(format!("the matrix {}", found.name));
    }
    if let Some((found, _)) = header.layers.iter().zip(&layers).find(|(a, b)| a != b) {
        return wrong(format!("the experts of layer {}", found.layer));
    }
    if header.sums.blocks != layout.all_blocks() || header.bytes != layout.ends() {
        return wrong("the number of its blocks".into());
    }
    Ok((shape, layout))
}

pub(super) fn check_block(bytes: usize) -> Result<(), Error> {
    match (1..=LARGEST_BLOCK).contains(&bytes) && bytes.is_multiple_of(SECTOR) {
        true => Ok(()),
        false => Err(Error::Block { bytes }),
    }
}

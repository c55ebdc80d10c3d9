//! NumPy's `.npy`: float32 matrices, written row by row and read back mapped.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::host::mapping::Bytes;
use crate::host::output::Output;

const MAGIC: &[u8] = b"\x93NUMPY\x01\x00";

/// A `[rows, cols]` file under way.
pub struct Writer {
    out: Output,
    path: PathBuf,
    rows_left: usize,
    bytes: Vec<u8>,
}

impl Writer {
    pub fn create(path: &Path, rows: usize, cols: usize) -> Result<Writer, Error> {
        let fail = |source| Error::Write { path: path.into(), source };
        let mut out = Output::create(path).map_err(fail)?;
        out.write_all(&header(rows, cols)).map_err(fail)?;
        Ok(Writer { out, path: path.into(), rows_left: rows, bytes: Vec::new() })
    }

    pub fn row(&mut self, row: &[f32]) -> Result<(), Error> {
        self.rows_left -= 1;
        self.bytes.clear();
        self.bytes.extend(row.iter().flat_map(|value| value.to_le_bytes()));
        let done = self.out.write_all(&self.bytes);
        done.map_err(|source| Error::Write { path: self.path.clone(), source })
    }

    pub fn finish(self) -> Result<(), Error> {
        debug_assert_eq!(self.rows_left, 0);
        self.out.finish().map_err(|source| Error::Write { path: self.path, source })
    }
}

/// The header, padded so that the numbers begin at a multiple of 64 bytes.
fn header(rows: usize, cols: usize) -> Vec<u8> {
    let mut dict =
        format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {cols}), }}");
    let bare = MAGIC.len() + 2 + dict.len() + 1;
    dict.push_str(&" ".repeat(bare.next_multiple_of(64) - bare));
    dict.push('\n');
    let mut bytes = MAGIC.to_vec();
    bytes.extend((dict.len() as u16).to_le_bytes());
    bytes.extend(dict.as_bytes());
    bytes
}

/// A float32 matrix on disk.
pub struct Matrix {
    pub rows: usize,
    pub cols: usize,
    data: Bytes,
}

impl Matrix {
    pub fn open(path: &Path) -> Result<Matrix, Error> {
        let bytes = Bytes::map(path).map_err(|source| Error::Read { path: path.into(), source })?;
        let bad = |reason: &str| Error::Bad { path: path.into(), reason: reason.into() };
        let (len_bytes, wide) = match bytes.get(..8) {
            Some(start) if start == MAGIC => (2, false),
            Some(start) if start.starts_with(b"\x93NUMPY") => (4, true),
            _ => return Err(bad("this is not a NumPy .npy file")),
        };
        let Some(len) = bytes.get(8..8 + len_bytes) else { return Err(bad("the header is cut")) };
        let len = match wide {
            false => usize::from(u16::from_le_bytes([len[0], len[1]])),
            true => u32::from_le_bytes([len[0], len[1], len[2], len[3]]) as usize,
        };
        let start = 8 + len_bytes + len;
        let dict = bytes
            .get(8 + len_bytes..start)
            .and_then(|d| std::str::from_utf8(d).ok())
            .ok_or_else(|| bad("the header is cut"))?;
        let dict: String = dict.chars().filter(|c| !c.is_whitespace()).collect();
        if !dict.contains("'descr':'<f4'") || !dict.contains("'fortran_order':False") {
            return Err(bad("expected little-endian float32 in C order"));
        }
        let shape = dict.split_once("'shape':(").and_then(|(_, rest)| rest.split_once(')'));
        let sizes: Vec<usize> = shape
            .map(|(inside, _)| inside.split(',').filter_map(|n| n.parse().ok()).collect())
            .unwrap_or_default();
        let &[rows, cols] = sizes.as_slice() else {
            return Err(bad("expected a matrix [tokens, vocabulary]"));
        };
        let size = rows.checked_mul(cols).and_then(|n| n.checked_mul(4));
        let data = size
            .and_then(|size| bytes.slice(start..start.checked_add(size)?))
            .ok_or_else(|| bad("the file is shorter than its header says"))?;
        Ok(Matrix { rows, cols, data })
    }

    /// Copies one row out.
    pub fn row(&self, row: usize, out: &mut Vec<f32>) {
        let bytes = &self.data[row * self.cols * 4..(row + 1) * self.cols * 4];
        out.clear();
        out.extend(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)));
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot write {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{}: {reason}", path.display())]
    Bad { path: PathBuf, reason: String },
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.npy");
        let mut writer = Writer::create(&path, 2, 3).unwrap();
        writer.row(&[1.0, -0.0, f32::MIN_POSITIVE]).unwrap();
        assert!(!path.exists(), "an unfinished file has no name yet");
        writer.row(&[4.0, 5.0, 6.0]).unwrap();
        writer.finish().unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len() % 64, 24);

        let matrix = Matrix::open(&path).unwrap();
        assert_eq!((matrix.rows, matrix.cols), (2, 3));
        let mut row = Vec::new();
        matrix.row(1, &mut row);
        assert_eq!(row, [4.0, 5.0, 6.0]);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no partial file is left");
    }

    #[test]
    fn a_dropped_writer_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        drop(Writer::create(&folder.path().join("m.npy"), 2, 3).unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_link_stays_a_link_and_a_pipe_a_pipe() {
        let folder = tempfile::tempdir().unwrap();
        let [file, link] = ["m.npy", "link.npy"].map(|name| folder.path().join(name));
        fs::write(&file, "old").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let mut writer = Writer::create(&link, 1, 1).unwrap();
        writer.row(&[1.0]).unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"old", "until the new file is whole");
        writer.finish().unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(Matrix::open(&file).unwrap().rows, 1);

        let mut writer = Writer::create(Path::new("/dev/null"), 1, 1).unwrap();
        writer.row(&[1.0]).unwrap();
        writer.finish().unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
        let mut writer = Writer::create(Path::new("/dev/full"), 1, 1).unwrap();
        writer.row(&[1.0]).unwrap();
        assert!(writer.finish().is_err());
    }

    #[test]
    fn bad_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.npy");
        let mut cut = header(usize::MAX, 8);
        cut.extend([0; 64]);
        for bytes in [b"".to_vec(), b"PK\x03\x04".to_vec(), MAGIC.to_vec(), header(2, 2), cut] {
            fs::write(&path, bytes).unwrap();
            assert!(Matrix::open(&path).is_err());
        }
    }
}

//! A file that gets its name only when it is complete.
//!
//! Its bytes go past the page cache where the file system allows it. A model may be as large as
//! memory: through the cache, writing it takes several times the processor time and throws out
//! everything else that was there.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::direct::{O_DIRECT, SECTOR};

/// Bytes that are written at once.
const ROOM: usize = 2 << 20;

/// Written under a name beside its own; [`Output::finish`] gives it the right one, replacing what
/// was there. Dropped before that, it leaves nothing; killed before that, it leaves a `.part`.
pub struct Output {
    file: File,
    /// The name until then; `None` for a device or a pipe, which is written as it goes.
    partial: Option<PathBuf>,
    path: PathBuf,
    /// Holds `ROOM` bytes from `begin` on, which is aligned.
    buffer: Vec<u8>,
    begin: usize,
    filled: usize,
    /// Bytes that have left the buffer.
    written: u64,
}

impl Output {
    pub fn create(path: &Path) -> io::Result<Output> {
        let (file, partial, path) = match fs::metadata(path) {
            Ok(found) if found.is_dir() => {
                return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a folder"));
            }
            // A rename would put a file in the place of /dev/null.
            Ok(found) if !found.is_file() => {
                (OpenOptions::new().write(true).open(path)?, None, path.into())
            }
            found => {
                // A link stays a link, to another content.
                let path = if found.is_ok() { fs::canonicalize(path)? } else { path.into() };
                let mut partial = path.as_os_str().to_owned();
                partial.push(format!(".{}.part", std::process::id()));
                let partial = PathBuf::from(partial);
                (open_past_the_cache(&partial)?, Some(partial), path)
            }
        };
        let buffer = vec![0; ROOM + SECTOR];
        let begin = buffer.as_ptr().align_offset(SECTOR);
        Ok(Output { file, partial, path, buffer, begin, filled: 0, written: 0 })
    }

    /// Waits for the disk: what carries the name shall not be lost with the power, and an error
    /// of the disk shall be heard.
    pub fn finish(mut self) -> io::Result<()> {
        let Some(partial) = self.partial.clone() else { return self.empty() };
        let size = self.written + self.filled as u64;
        // Sectors are written whole; what is too much is cut off again.
        let whole = self.filled.next_multiple_of(SECTOR);
        self.buffer[self.begin..][self.filled..whole].fill(0);
        self.filled = whole;
        self.empty()?;
        self.file.set_len(size)?;
        self.file.sync_data()?;
        fs::rename(&partial, &self.path)
    }

    fn empty(&mut self) -> io::Result<()> {
        let bytes = &self.buffer[self.begin..][..self.filled];
        if let Err(error) = self.file.write_all(bytes) {
            // A file system may let such files be opened and not be written to.
            match &self.partial {
                Some(partial) if refuses(&error) => {
                    self.file = OpenOptions::new().write(true).open(partial)?;
                    self.file.seek(SeekFrom::Start(self.written))?;
                    self.file.write_all(bytes)?;
                }
                _ => return Err(error),
            }
        }
        self.written += self.filled as u64;
        self.filled = 0;
        Ok(())
    }
}

fn open_past_the_cache(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    match options.clone().custom_flags(O_DIRECT).open(path) {
        Err(error) if refuses(&error) => options.open(path),
        opened => opened,
    }
}

/// Whether this is how a file system says that it cannot write past the cache.
fn refuses(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported)
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.filled == ROOM {
            self.empty()?;
        }
        let len = bytes.len().min(ROOM - self.filled);
        self.buffer[self.begin..][self.filled..self.filled + len].copy_from_slice(&bytes[..len]);
        self.filled += len;
        Ok(len)
    }

    /// Nothing can be read before [`Output::finish`], so there is nothing to do.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Some(partial) = &self.partial {
            // After a rename there is nothing under this name.
            let _ = fs::remove_file(partial);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_no_name_until_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        fs::write(&path, "old").unwrap();
        let mut output = Output::create(&path).unwrap();
        output.write_all(b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        output.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");

        Output::create(&path).unwrap().write_all(b"half").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no partial file is left");
        assert!(Output::create(folder.path()).is_err());
    }

    #[test]
    fn every_length_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        for len in [0, 1, SECTOR, SECTOR + 1, ROOM - 1, ROOM, ROOM + 1, 2 * ROOM + SECTOR / 2] {
            let bytes: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
            let mut output = Output::create(&path).unwrap();
            bytes.chunks(700_001).for_each(|piece| output.write_all(piece).unwrap());
            output.finish().unwrap();
            assert!(fs::read(&path).unwrap() == bytes, "{len}");
        }
    }
}

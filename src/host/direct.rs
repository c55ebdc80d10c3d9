//! Files that are read and written past the page cache, in pieces, by several threads.
//!
//! What goes through here is as large as memory, or larger: through the cache it would take more
//! of the processors and throw out all that was there.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Linux's flag for it on x86-64. Elsewhere it has other values, and files go through the cache.
pub(super) const O_DIRECT: i32 = if cfg!(target_arch = "x86_64") { 0o40000 } else { 0 };

/// What offsets and lengths are multiples of. No common disk has larger sectors.
pub const SECTOR: usize = 4096;

/// Memory that begins at a multiple of [`SECTOR`].
pub struct Aligned {
    bytes: Vec<u8>,
    begin: usize,
    len: usize,
}

impl Aligned {
    pub fn zeroed(len: usize) -> Aligned {
        let bytes = vec![0; len + SECTOR];
        let begin = bytes.as_ptr().align_offset(SECTOR);
        Aligned { bytes, begin, len }
    }
}

impl Deref for Aligned {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.begin..][..self.len]
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.begin..][..self.len]
    }
}

/// An open file. Offsets, lengths and addresses are multiples of [`SECTOR`].
pub struct Direct {
    file: File,
    /// The file system would not have it, and the cache is cleared instead.
    cached: bool,
}

impl Direct {
    /// For writing into a file that is there.
    pub fn to_write(path: &Path) -> io::Result<Direct> {
        Direct::open(OpenOptions::new().read(true).write(true), path)
    }

    pub fn to_read(path: &Path) -> io::Result<Direct> {
        Direct::open(OpenOptions::new().read(true), path)
    }

    fn open(options: &mut OpenOptions, path: &Path) -> io::Result<Direct> {
        match options.clone().custom_flags(O_DIRECT).open(path) {
            Err(error) if refuses(&error) => {}
            Err(error) => return Err(error),
            Ok(file) => {
                // A file system may let such files be opened and not be used.
                let mut probe = Aligned::zeroed(SECTOR);
                match file.read_at(&mut probe, 0) {
                    Err(error) if refuses(&error) => {}
                    Err(error) => return Err(error),
                    Ok(_) => return Ok(Direct { file, cached: false }),
                }
            }
        }
        Ok(Direct { file: options.open(path)?, cached: true })
    }

    pub fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    pub fn read(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(bytes, offset)?;
        if self.cached {
            forget(&self.file, offset, bytes.len() as u64);
        }
        Ok(())
    }

    /// For rings, which read and write without waiting.
    pub(super) fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Waits until what was written is on the disk, where an error of it is heard.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_all()?;
        if self.cached {
            forget(&self.file, 0, 0);
        }
        Ok(())
    }

    /// Gives the file this length, and the blocks of the disk for it where the file system can
    /// say beforehand whether it has them.
    pub fn reserve(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)?;
        let Ok(signed) = libc::off_t::try_from(len) else {
            return Err(io::ErrorKind::FileTooLarge.into());
        };
        if signed == 0 {
            return Ok(());
        }
        // SAFETY: the descriptor is open; no memory is involved.
        match unsafe { libc::fallocate(self.file.as_raw_fd(), 0, 0, signed) } {
            0 => Ok(()),
            _ => match io::Error::last_os_error() {
                error if refuses(&error) => Ok(()),
                error => Err(error),
            },
        }
    }
}

/// Whether this is how a file system says that it has no such thing.
fn refuses(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported)
}

/// Tells the host that a part of a file will not be wanted again; `len` 0 is all that follows.
pub(super) fn forget(file: &File, offset: u64, len: u64) {
    let (Ok(offset), Ok(len)) = (libc::off_t::try_from(offset), libc::off_t::try_from(len)) else {
        return;
    };
    // SAFETY: the descriptor is open; no memory is involved. Pages that were written to and are
    // not on the disk yet stay.
    let _ =
        unsafe { libc::posix_fadvise(file.as_raw_fd(), offset, len, libc::POSIX_FADV_DONTNEED) };
}

/// Bytes that may still be written to the file system of an existing file or folder; `None` if it
/// does not say.
pub fn free_bytes(path: &Path) -> Option<u64> {
    let path = std::ffi::CString::new(path.as_os_str().as_bytes()).ok()?;
    let mut found = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the path ends in a zero byte, and there is room for the answer.
    let found = match unsafe { libc::statvfs(path.as_ptr(), found.as_mut_ptr()) } {
        // SAFETY: it was filled in.
        0 => unsafe { found.assume_init() },
        _ => return None,
    };
    found.f_bavail.checked_mul(found.f_frsize)
}

/// A file that one process at a time may have: created if it is not there, and locked for as long
/// as it is open. `None` if another has it.
pub fn claim(path: &Path) -> io::Result<Option<File>> {
    loop {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Ok(None),
            Err(fs::TryLockError::Error(error)) => return Err(error),
        }
        // Whoever had it may have renamed or removed it between the two steps.
        let ours = file.metadata()?;
        match fs::metadata(path) {
            Ok(named) if (named.dev(), named.ino()) == (ours.dev(), ours.ino()) => {
                return Ok(Some(file));
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
}

/// Makes a name that was given in this folder survive a loss of power.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    match File::open(folder)?.sync_all() {
        // Some file systems have nothing to do.
        Err(error) if refuses(&error) => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        assert!(Direct::to_write(&path).is_err(), "there is no such file");
        File::create(&path).unwrap();
        let file = Direct::to_write(&path).unwrap();
        file.reserve(3 * SECTOR as u64).unwrap();
        let mut bytes = Aligned::zeroed(SECTOR);
        bytes.fill(7);
        file.write(&bytes, SECTOR as u64).unwrap();
        file.sync().unwrap();
        let mut whole = Aligned::zeroed(3 * SECTOR);
        Direct::to_read(&path).unwrap().read(&mut whole, 0).unwrap();
        assert!(whole.iter().enumerate().all(|(i, &b)| b == if i / SECTOR == 1 { 7 } else { 0 }));
        assert!(file.read(&mut whole, SECTOR as u64).is_err(), "beyond the end");
        assert!(free_bytes(&path).unwrap() > 0);
        assert_eq!(free_bytes(&folder.path().join("none")), None);
        sync_folder(folder.path()).unwrap();
    }

    #[test]
    fn one_at_a_time_has_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        let first = claim(&path).unwrap().unwrap();
        assert!(claim(&path).unwrap().is_none());
        drop(first);
        let second = claim(&path).unwrap().unwrap();
        // Who held a file that has gone does not stand in the way of the next.
        fs::remove_file(&path).unwrap();
        assert!(claim(&path).unwrap().is_some());
        drop(second);
    }
}

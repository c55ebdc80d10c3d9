//! A file for what memory has no room for just now, written and read past the page cache without
//! anybody waiting.
//!
//! Its name is gone as soon as it is open, so that nothing is left of it however the program ends.
//! Reads and writes are handed to an `io_uring` of its own, which rings a bell when one is over. A
//! buffer belongs to the file while the kernel has it: nobody can look at it too early, or free it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use io_uring::types::Fd;
use io_uring::{IoUring, opcode};

use super::bell::Bell;
use super::direct::{Aligned, Direct, free_bytes};
use crate::base::units::Bytes;

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum ScratchError {
    #[error("{}: has room for {} and not for {}", folder.display(), Bytes(*free), Bytes(*needed))]
    Room { folder: PathBuf, needed: u64, free: u64 },

    #[error("{}: no file can be made here: {error}", folder.display())]
    Open { folder: PathBuf, error: io::Error },

    #[error("no ring for reads and writes can be opened: {0}")]
    Ring(io::Error),
}

/// A file of this process alone. `T` says what a read or write was for.
pub struct Scratch<T> {
    uring: IoUring,
    file: Direct,
    flights: Vec<Option<Flight<T>>>,
    under_way: usize,
}

/// A read or write that the kernel has.
struct Flight<T> {
    what: T,
    writes: bool,
    bytes: Aligned,
    at: u64,
    /// Bytes of it that are done.
    done: usize,
    tries: u8,
}

/// One that is over.
pub struct Landed<T> {
    pub what: T,
    pub bytes: Aligned,
    pub result: io::Result<()>,
}

/// How often one that the kernel could not do just now is sent again.
const TRIES: u8 = 100;

impl<T> Scratch<T> {
    /// A file of `len` bytes in this folder, with room for all of them where the file system can
    /// promise that, and with so many reads and writes under way at most. The bell is rung whenever
    /// one is over.
    pub fn create(
        folder: &Path,
        len: u64,
        depth: usize,
        bell: &Bell,
    ) -> Result<Scratch<T>, ScratchError> {
        let failed = |error| ScratchError::Open { folder: folder.into(), error };
        let no_room = |free| ScratchError::Room { folder: folder.into(), needed: len, free };
        fs::create_dir_all(folder).map_err(failed)?;
        match free_bytes(folder) {
            Some(free) if free < len => return Err(no_room(free)),
            _ => {}
        }
        let path = folder.join(format!("penstock-{}.spill", std::process::id()));
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let made: io::Result<File> = match made {
            // Left by a process of this number that was stopped between two lines of this function.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                fs::remove_file(&path).map_err(failed)?;
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)
            }
            made => made,
        };
        made.map_err(failed)?;
        let file = Direct::to_write(&path);
        fs::remove_file(&path).map_err(failed)?;
        let file = file.map_err(failed)?;
        file.reserve(len).map_err(|error| match error.kind() {
            io::ErrorKind::StorageFull => no_room(free_bytes(folder).unwrap_or(0)),
            _ => failed(error),
        })?;
        let depth = depth.clamp(1, 256);
        let uring = IoUring::new(depth as u32).map_err(ScratchError::Ring)?;
        uring.submitter().register_eventfd(bell.as_fd().as_raw_fd()).map_err(ScratchError::Ring)?;
        let flights = (0..depth).map(|_| None).collect();
        Ok(Scratch { uring, file, flights, under_way: 0 })
    }

    /// Whether another read or write may be begun.
    pub fn is_free(&self) -> bool {
        self.under_way < self.flights.len()
    }

    /// Begins to write all these bytes. Length and place are multiples of a sector.
    ///
    /// # Panics
    /// If it is not [free](Scratch::is_free).
    pub fn write(&mut self, what: T, bytes: Aligned, at: u64) {
        self.begin(Flight { what, writes: true, bytes, at, done: 0, tries: 0 });
    }

    /// Begins to fill these bytes from the file. Length and place are multiples of a sector.
    ///
    /// # Panics
    /// If it is not [free](Scratch::is_free).
    pub fn read(&mut self, what: T, bytes: Aligned, at: u64) {
        self.begin(Flight { what, writes: false, bytes, at, done: 0, tries: 0 });
    }

    fn begin(&mut self, flight: Flight<T>) {
        let free = self.flights.iter().position(Option::is_none);
        let index = free.expect("as many are under way as there may be");
        self.flights[index] = Some(flight);
        self.under_way += 1;
        self.send(index);
    }

    /// Hands a flight, or what is left of it, to the kernel.
    fn send(&mut self, index: usize) {
        let Some(flight) = &mut self.flights[index] else { return };
        let (fd, done) = (Fd(self.file.as_raw_fd()), flight.done);
        let (at, writes) = (flight.at + done as u64, flight.writes);
        let left = &mut flight.bytes[done..];
        // The kernel takes no more at once.
        let (start, len) = (left.as_mut_ptr(), left.len().min(1 << 30) as u32);
        let entry = match writes {
            true => opcode::Write::new(fd, start, len).offset(at).build(),
            false => opcode::Read::new(fd, start, len).offset(at).build(),
        };
        let entry = entry.user_data(index as u64);
        // SAFETY: the bytes are owned by the flight, which stays where it is until the kernel says
        // that it is over, and is leaked if that is not waited for; the file is open as long.
        let pushed = unsafe { self.uring.submission().push(&entry) };
        // A flight has one entry at a time, and there is room for each.
        assert!(pushed.is_ok(), "the submission queue is full");
        self.submit();
    }

    fn submit(&mut self) {
        // What the kernel does not take now stays in the queue, and goes with the next.
        let _ = self.uring.submit();
    }

    /// One that is over, in whatever order.
    pub fn landed(&mut self) -> Option<Landed<T>> {
        if self.under_way > 0 && !self.uring.submission().is_empty() {
            self.submit();
        }
        loop {
            let entry = self.uring.completion().next()?;
            let index = entry.user_data() as usize;
            let Some(Some(flight)) = self.flights.get_mut(index) else { continue };
            let Some(result) = flight.came(entry.result()) else {
                self.send(index);
                continue;
            };
            let Some(Flight { what, bytes, .. }) = self.flights[index].take() else { continue };
            self.under_way -= 1;
            return Some(Landed { what, bytes, result });
        }
    }
}

impl<T> Flight<T> {
    /// Takes in what the kernel says. `None`: the rest is to be sent.
    fn came(&mut self, result: i32) -> Option<io::Result<()>> {
        let Ok(moved) = usize::try_from(result) else {
            let error = io::Error::from_raw_os_error(-result);
            self.tries += 1;
            return match error.kind() {
                io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock if self.tries < TRIES => {
                    None
                }
                _ => Some(Err(error)),
            };
        };
        self.done += moved;
        if self.done >= self.bytes.len() {
            return Some(Ok(()));
        }
        match (moved, self.writes) {
            (0, true) => Some(Err(io::ErrorKind::WriteZero.into())),
            (0, false) => Some(Err(io::ErrorKind::UnexpectedEof.into())),
            _ => None,
        }
    }
}

impl<T> Drop for Scratch<T> {
    fn drop(&mut self) {
        // The kernel may write to these still, and a disk that is silent is not waited for.
        self.flights.drain(..).flatten().for_each(|flight| std::mem::forget(flight.bytes));
    }
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;
    use crate::host::direct::SECTOR;

    fn wait(scratch: &mut Scratch<usize>) -> Landed<usize> {
        loop {
            if let Some(landed) = scratch.landed() {
                return landed;
            }
            std::thread::yield_now();
        }
    }

    fn filled(len: usize, with: u8) -> Aligned {
        let mut bytes = Aligned::zeroed(len);
        bytes.fill(with);
        bytes
    }

    #[test]
    fn what_is_written_is_read_and_the_file_has_no_name() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("new");
        let bell = Bell::new().unwrap();
        let len = 8 * SECTOR as u64;
        let mut scratch = Scratch::create(&place, len, 4, &bell).unwrap();
        assert_eq!(fs::read_dir(&place).unwrap().count(), 0);
        for round in 0..3 {
            for i in 0..4 {
                assert!(scratch.is_free());
                let bytes = filled(2 * SECTOR, 10 * round + i as u8);
                scratch.write(i, bytes, (i * 2 * SECTOR) as u64);
            }
            assert!(!scratch.is_free());
            (0..4).for_each(|_| wait(&mut scratch).result.unwrap());
            for i in 0..4 {
                scratch.read(i, Aligned::zeroed(2 * SECTOR), (i * 2 * SECTOR) as u64);
            }
            for _ in 0..4 {
                let Landed { what, bytes, result } = wait(&mut scratch);
                result.unwrap();
                assert!(bytes.iter().all(|&byte| byte == 10 * round + what as u8));
            }
        }
        // Beyond the end there is nothing.
        scratch.read(9, Aligned::zeroed(2 * SECTOR), len - SECTOR as u64);
        let error = wait(&mut scratch).result.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert!(scratch.landed().is_none());
        scratch.read(0, Aligned::zeroed(2 * SECTOR), 0);
    }

    #[test]
    fn what_there_is_no_room_for_is_refused_with_numbers() {
        let folder = tempfile::tempdir().unwrap();
        let bell = Bell::new().unwrap();
        let refused = Scratch::<()>::create(folder.path(), 1 << 60, 1, &bell);
        let words = refused.err().unwrap().to_string();
        assert!(words.contains("has room for") && words.contains("1024.0 PiB"), "{words}");
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(matches!(
            Scratch::<()>::create(&file, 4096, 1, &bell),
            Err(ScratchError::Open { .. })
        ));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}

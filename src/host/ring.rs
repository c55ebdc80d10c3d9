//! An `io_uring` of our own: reads from files straight into regions of an arena.
//!
//! glommio's rings cannot read into memory that they did not make. This one owns the regions while
//! the kernel writes to them, so there is no way to look at one too early, to free it too early, or
//! to read twice into the same; a ring that is dropped waits for the kernel first.
//!
//! It knows what a read of a file is, and neither who is served first nor why (`mover` does).

use std::fs::{File, OpenOptions};
use std::io;
use std::marker::PhantomData;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use io_uring::types::{CancelBuilder, Fd, Fixed, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode, squeue};
use serde::Serialize;

use super::arena::{Arena, Region};
use super::bell::Bell;
use super::direct::{O_DIRECT, SECTOR};
use super::drive::Fault;
use crate::base::units::Bytes;

/// Memory is registered in buffers of this size, each when it is first read into: the kernel takes
/// a buffer's memory at once, and all of a large arena would take seconds. The kernel takes none
/// that is larger than 1 GiB. Tests want edges.
const BUFFER: usize = if cfg!(test) { 1 << 20 } else { 64 << 20 };
/// The kernel takes no more buffers.
const BUFFERS: usize = 1 << 14;
const MOST: u64 = (BUFFERS * BUFFER) as u64;

/// More than the kernel reads at once is asked for in parts.
const LONGEST: usize = 1 << 30;

/// How often a read that the kernel could not do just now is sent again.
const TRIES: u8 = 100;

/// Marks what is no read. Reads are numbered from 0.
const CANCEL: u64 = u64::MAX;

/// A file to be read from. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Source {
    file: Arc<File>,
    direct: bool,
    len: u64,
}

impl Source {
    /// Opens a file past the page cache if its file system knows how to, else through it.
    pub fn open(path: &Path) -> io::Result<Source> {
        // Asked before opening, which would wait for ever on a pipe nobody writes to.
        if !std::fs::metadata(path)?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        let direct = OpenOptions::new().read(true).custom_flags(O_DIRECT).open(path);
        match direct {
            // Some accept the flag and refuse each read.
            Ok(file) if reads(&file)? => Source::new(file, true),
            Ok(_) => Source::buffered(path),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Source::buffered(path),
            Err(error) => Err(error),
        }
    }

    /// Opens a file to be read through the page cache.
    pub fn buffered(path: &Path) -> io::Result<Source> {
        Source::new(File::open(path)?, false)
    }

    fn new(file: File, direct: bool) -> io::Result<Source> {
        let len = file.metadata()?.len();
        Ok(Source { file: Arc::new(file), direct, len })
    }

    /// Whether it is read past the page cache.
    pub fn direct(&self) -> bool {
        self.direct
    }

    /// Bytes that it had when it was opened.
    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Whether a file that was opened for direct reads can be read so.
fn reads(file: &File) -> io::Result<bool> {
    let mut buffer = vec![0; 2 * SECTOR];
    let begin = buffer.as_ptr().align_offset(SECTOR);
    match file.read_at(&mut buffer[begin..][..SECTOR], 0) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Why there is no ring.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    #[error(
        "this process may not use io_uring ({0}): set the sysctl kernel.io_uring_disabled to 0, \
         and in a container allow io_uring in its seccomp profile"
    )]
    Forbidden(io::Error),
    #[error("this kernel has no io_uring ({0}): Linux 5.11 or newer is needed")]
    Missing(io::Error),
    #[error(
        "an io_uring was refused ({0}): raise the limit on locked memory (ulimit -l, or \
         LimitMEMLOCK=infinity in a systemd unit)"
    )]
    Memory(io::Error),
    #[error("an io_uring was refused: {0}")]
    Refused(io::Error),
}

impl From<io::Error> for RingError {
    fn from(error: io::Error) -> RingError {
        match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => RingError::Forbidden(error),
            Some(libc::ENOSYS) => RingError::Missing(error),
            Some(libc::ENOMEM) => RingError::Memory(error),
            _ => RingError::Refused(error),
        }
    }
}

/// What the kernel granted. Reads come without any of it, at a higher cost.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Grants {
    /// Finished reads wait until they are asked for, and do not interrupt what is computed.
    pub deferred: bool,
    /// Files are known beforehand.
    pub files: bool,
    /// Memory is known beforehand; if not, why.
    pub memory: bool,
    pub memory_refused: Option<String>,
}

/// A read that is over, with what it was sent with.
#[derive(Debug)]
pub struct Landed<T> {
    pub load: T,
    pub into: Region,
    pub outcome: Result<(), Fault>,
}

#[derive(Debug)]
struct Flight<T> {
    load: T,
    into: Region,
    file: u32,
    offset: u64,
    /// Where the part begins that is being read, and how far any part came.
    from: usize,
    seen: usize,
    tries: u8,
    since: Instant,
}

/// Used on the thread that made it: the kernel takes reads from no other.
pub struct Ring<T> {
    uring: IoUring,
    files: Vec<Source>,
    grants: Grants,
    /// Addresses of buffers, ascending, and which of them are registered.
    buffers: Vec<Range<usize>>,
    registered: Vec<bool>,
    /// Registered memory stays mapped.
    _arenas: Vec<Arena>,
    /// By the number that the kernel knows a read by.
    flights: Vec<Option<Flight<T>>>,
    free: Vec<u32>,
    /// Reads that are to be sent again.
    again: Vec<u32>,
    /// Requests of ours in the kernel's or the submission queue's hands.
    known: usize,
    own_thread: PhantomData<*const ()>,
}

impl<T> Ring<T> {
    /// A ring for `depth` reads at once. The arenas' memory is registered as it comes into use.
    pub fn open(files: &[Source], arenas: &[Arena], depth: usize) -> Result<Ring<T>, RingError> {
        let depth = depth.clamp(1, 1 << 12);
        // One more for the end, see `drop`.
        let entries = (depth as u32 + 1).next_power_of_two();
        let mut grants = Grants::default();
        let uring = match deferred(entries) {
            Ok(uring) => {
                grants.deferred = true;
                uring
            }
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => IoUring::new(entries)?,
            Err(error) => return Err(error.into()),
        };
        let descriptors: Vec<RawFd> = files.iter().map(|source| source.file.as_raw_fd()).collect();
        grants.files = !files.is_empty() && uring.submitter().register_files(&descriptors).is_ok();
        let mut buffers: Vec<Range<usize>> = arenas.iter().flat_map(parts).collect();
        buffers.sort_by_key(|buffer| buffer.start);
        buffers.dedup();
        let mut registered = vec![false; buffers.len()];
        // The first says whether the others may be.
        match announce(&uring, &buffers) {
            Ok(()) => {
                grants.memory = !buffers.is_empty();
                registered.iter_mut().take(1).for_each(|first| *first = true);
            }
            Err(error) => {
                buffers.clear();
                grants.memory_refused = Some(refusal(&error));
            }
        }
        Ok(Ring {
            registered,
            uring,
            files: files.to_vec(),
            grants,
            buffers,
            _arenas: arenas.to_vec(),
            flights: (0..depth).map(|_| None).collect(),
            free: (0..depth as u32).rev().collect(),
            again: Vec::new(),
            known: 0,
            own_thread: PhantomData,
        })
    }

    pub fn grants(&self) -> &Grants {
        &self.grants
    }

    pub fn files(&self) -> &[Source] {
        &self.files
    }

    /// Reads that were sent and are not over.
    pub fn under_way(&self) -> usize {
        self.flights.len() - self.free.len()
    }

    /// What was sent first of what is under way, and how long ago.
    pub fn oldest(&self) -> Option<(&T, Duration)> {
        let flights = self.flights.iter().flatten();
        let oldest = flights.min_by_key(|flight| flight.since)?;
        Some((&oldest.load, oldest.since.elapsed()))
    }

    /// Has the bell rung whenever a read is over.
    pub fn ring_bell(&self, bell: &Bell) -> io::Result<()> {
        self.uring.submitter().register_eventfd(bell.as_fd().as_raw_fd())
    }

    /// Puts a read before the kernel; it is sent with all others by the next [`Ring::turn`]. Comes
    /// back at once if the ring is full or there is no such file.
    pub fn send(&mut self, file: u32, offset: u64, into: Region, load: T) -> Option<Landed<T>> {
        if self.files.get(file as usize).is_none() {
            return Some(Landed { load, into, outcome: Err(Fault::Io(libc::EBADF)) });
        }
        let Some(number) = self.free.pop() else {
            return Some(Landed { load, into, outcome: Err(Fault::Io(libc::EBUSY)) });
        };
        let (since, tries) = (Instant::now(), 0);
        let flight = Flight { load, into, file, offset, from: 0, seen: 0, tries, since };
        self.flights[number as usize] = Some(flight);
        self.push(number);
        None
    }

    /// Tells the kernel of what was put before it, and takes in what is over. Does not wait.
    pub fn turn(&mut self, mut landed: impl FnMut(Landed<T>)) {
        if self.known == 0 {
            return;
        }
        let visit = {
            let queue = self.uring.submission();
            // Finished reads that were deferred or found no room are given by a visit alone.
            !queue.is_empty() || queue.taskrun() || queue.cq_overflow()
        };
        if visit {
            self.enter(None);
        }
        self.reap(&mut landed);
    }

    /// Tells the kernel of what was put before it, and no more.
    pub fn flush(&mut self) {
        if !self.uring.submission().is_empty() {
            self.enter(None);
        }
    }

    /// As [`Ring::turn`], but waits for at most this long if nothing is over yet.
    pub fn wait(&mut self, timeout: Duration, mut landed: impl FnMut(Landed<T>)) {
        if self.known == 0 {
            return;
        }
        if self.uring.completion().is_empty() {
            self.enter(Some(timeout));
        }
        self.reap(&mut landed);
    }

    /// Waits for everything that was sent.
    pub fn finish(&mut self, mut landed: impl FnMut(Landed<T>)) {
        while self.known > 0 {
            self.wait(Duration::from_secs(1), &mut landed);
        }
    }

    /// Whether the kernel was visited as wanted. Whatever it says of itself, that it could not
    /// come round to it or was interrupted, the next turn asks again.
    fn enter(&mut self, wait: Option<Duration>) {
        if let Err(error) = self.visit(wait) {
            match error.raw_os_error() {
                // Nothing came in time; a signal came; the kernel lacks memory for requests; or
                // finished reads must be taken in first.
                Some(libc::ETIME | libc::EINTR | libc::EAGAIN | libc::ENOMEM | libc::EBUSY) => {}
                _ => {
                    panic!("io_uring_enter failed with {} requests under way: {error}", self.known)
                }
            }
        }
    }

    fn visit(&self, wait: Option<Duration>) -> io::Result<usize> {
        let (submitter, Some(wait)) = (self.uring.submitter(), wait) else {
            return self.uring.submit();
        };
        if self.uring.params().is_feature_ext_arg() {
            let time = Timespec::from(wait);
            return submitter.submit_with_args(1, &SubmitArgs::new().timespec(&time));
        }
        // Such a kernel knows no time limit.
        std::thread::sleep(wait.min(Duration::from_micros(100)));
        submitter.submit()
    }

    fn reap(&mut self, landed: &mut impl FnMut(Landed<T>)) {
        // The kernel's view of each is copied, so that the queue is not held meanwhile.
        while let Some(entry) = self.uring.completion().next() {
            self.known -= 1;
            if entry.user_data() == CANCEL {
                continue;
            }
            let number = entry.user_data() as u32;
            let Some(flight) = self.flights.get_mut(number as usize).and_then(Option::as_mut)
            else {
                unreachable!("the kernel finished read {number}, which it was not given");
            };
            let direct = self.files[flight.file as usize].direct;
            let Some(outcome) = flight.came(entry.result(), direct) else {
                self.again.push(number);
                continue;
            };
            if let Some(Flight { load, into, .. }) = self.flights[number as usize].take() {
                self.free.push(number);
                landed(Landed { load, into, outcome });
            }
        }
        while let Some(number) = self.again.pop() {
            self.push(number);
        }
    }

    /// Puts what is left of a read into the submission queue.
    fn push(&mut self, number: u32) {
        let Some(flight) = &mut self.flights[number as usize] else { return };
        let rest = &mut flight.into[flight.from..];
        let (start, len) = (rest.as_mut_ptr(), rest.len().min(LONGEST));
        let (begin, end) = (start.addr(), start.addr() + len);
        let at = self.buffers.partition_point(|buffer| buffer.end <= begin);
        // A read that reaches over the edge of a buffer is sent as if there were none.
        let buffer = self.buffers.get(at).filter(|of| of.start <= begin && end <= of.end);
        let known = match (buffer, self.registered.get(at)) {
            (Some(_), Some(true)) => true,
            (Some(buffer), Some(false)) => match register(&self.uring, at, buffer) {
                Ok(()) => {
                    self.registered[at] = true;
                    true
                }
                Err(error) => {
                    // What is registered stays so.
                    self.grants.memory_refused = Some(refusal(&error));
                    false
                }
            },
            _ => false,
        };
        let offset = flight.offset + flight.from as u64;
        macro_rules! read_from {
            ($file:expr) => {
                match known {
                    true => opcode::ReadFixed::new($file, start, len as u32, at as u16)
                        .offset(offset)
                        .build(),
                    false => opcode::Read::new($file, start, len as u32).offset(offset).build(),
                }
            };
        }
        let entry = match self.grants.files {
            true => read_from!(Fixed(flight.file)),
            false => read_from!(Fd(self.files[flight.file as usize].file.as_raw_fd())),
        };
        self.submit(&entry.user_data(u64::from(number)));
    }

    fn submit(&mut self, entry: &squeue::Entry) {
        // SAFETY: a read's memory is the region of a flight, which stays in `flights` until the
        // kernel has said that the read is over (`reap`), and `drop` waits for that. Nobody has
        // access to it there, nor to its bytes, since a region is the only way to them. Files are
        // open as long as the ring. A cancellation touches no memory.
        let pushed = unsafe { self.uring.submission().push(entry) };
        // There is an entry for each flight and one more.
        assert!(pushed.is_ok(), "the submission queue is full with {} requests", self.known);
        self.known += 1;
    }
}

impl<T> Flight<T> {
    /// Takes in what the kernel says. `None`: there is more to come.
    fn came(&mut self, result: i32, direct: bool) -> Option<Result<(), Fault>> {
        let Ok(got) = usize::try_from(result) else {
            return match -result {
                // A signal interrupted it, or the device had no room for it just now.
                libc::EINTR | libc::EAGAIN if self.tries < TRIES => {
                    self.tries += 1;
                    None
                }
                error => Some(Err(Fault::Io(error))),
            };
        };
        let came = self.from + got;
        if came >= self.into.len() {
            return Some(Ok(()));
        }
        // The file's end. That of a direct read may be anywhere, and the next can begin at a
        // sector only: it must come further than this one.
        if came <= self.seen {
            return Some(Err(Fault::Short { got: came }));
        }
        self.seen = came;
        self.from = if direct { came / SECTOR * SECTOR } else { came };
        None
    }
}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        if self.known == 0 {
            return;
        }
        // What did not reach the disk yet need not. A kernel that does not know this says so.
        let cancel = opcode::AsyncCancel2::new(CancelBuilder::any()).build().user_data(CANCEL);
        self.submit(&cancel);
        while self.known > 0 {
            let ended = self.visit(Some(Duration::from_secs(1)));
            self.reap(&mut |_| {});
            match ended.err().and_then(|error| error.raw_os_error()) {
                None | Some(libc::ETIME | libc::EINTR | libc::EAGAIN | libc::EBUSY) => {}
                // The kernel may still write. Nobody will ever have that memory again.
                Some(_) => {
                    self.flights.drain(..).for_each(std::mem::forget);
                    return;
                }
            }
        }
    }
}

/// A ring that interrupts nobody: finished reads wait in the kernel until it is visited.
fn deferred(entries: u32) -> io::Result<IoUring> {
    IoUring::builder()
        .dontfork()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .build(entries)
}

/// An arena in buffers that the kernel takes.
fn parts(arena: &Arena) -> impl Iterator<Item = Range<usize>> + use<> {
    let span = arena.span();
    let end = span.end;
    span.step_by(BUFFER).map(move |start| start..end.min(start + BUFFER))
}

/// Makes room for so many buffers, and registers the first.
fn announce(uring: &IoUring, buffers: &[Range<usize>]) -> io::Result<()> {
    let Some(first) = buffers.first() else { return Ok(()) };
    if buffers.len() > BUFFERS {
        return Err(io::Error::other(format!("it is more than {}", Bytes(MOST))));
    }
    uring.submitter().register_buffers_sparse(buffers.len() as u32)?;
    register(uring, 0, first)
}

fn register(uring: &IoUring, at: usize, buffer: &Range<usize>) -> io::Result<()> {
    let vector = libc::iovec {
        // Only the kernel uses the address.
        iov_base: std::ptr::without_provenance_mut(buffer.start),
        iov_len: buffer.len(),
    };
    // SAFETY: the memory is mapped, since the ring keeps the arenas, and a registration by itself
    // reads and writes none of it; pages that nobody had are taken, which are zeroes as before.
    unsafe { uring.submitter().register_buffers_update(at as u32, &[vector], None) }
}

fn refusal(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOMEM) => "the limit on locked memory is too low for it (ulimit -l; \
            LimitMEMLOCK=infinity in a systemd unit)"
            .into(),
        _ => error.to_string(),
    }
}

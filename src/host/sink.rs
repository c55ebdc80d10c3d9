//! Where words go that must not hold anybody up: standard error, or a file, written by the kernel.
//!
//! A write is handed to the reactor's ring and awaited. A pipe that nobody reads, a terminal that
//! was stopped or a disk that is slow keeps the task waiting that writes, and nothing else: the
//! kernel polls the pipe, or waits on a worker of its own.
//!
//! Every write goes to the file's own position, which others may share: `penstock 2>&1 >file`, a
//! shell's `2>file`, an earlier line of this program. Pipes, terminals and files that were opened to
//! append have their own idea of it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use glommio::GlommioError;
use glommio::io::BufferedFile;
use glommio::timer::sleep;

/// What the kernel takes for "where the file is now".
const HERE: u64 = u64::MAX;

/// How long a descriptor is left alone that was opened never to wait, and is full.
const FULL: Duration = Duration::from_millis(20);

/// On the reactor it was made on.
pub struct Sink(BufferedFile);

impl Sink {
    pub fn stderr() -> io::Result<Sink> {
        Ok(Sink::of(io::stderr().as_fd().try_clone_to_owned()?))
    }

    /// A file of this name, empty; one that was there is emptied.
    pub fn create(path: &Path) -> io::Result<Sink> {
        let file: File = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
        Ok(Sink::of(file.into()))
    }

    pub fn of(fd: OwnedFd) -> Sink {
        // SAFETY: ownership of an open descriptor goes over.
        Sink(unsafe { BufferedFile::from_raw_fd(fd.into_raw_fd()) })
    }

    /// Writes all of it, however long that takes.
    pub async fn write(&self, mut bytes: Vec<u8>) -> io::Result<()> {
        while !bytes.is_empty() {
            let before = self.position();
            // The kernel has the bytes while it writes; what it leaves over is sent again.
            match self.0.write_at(bytes.clone(), HERE).await.map_err(plain) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    if written < bytes.len() {
                        self.follow(before, written);
                    }
                    bytes.drain(..written);
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::WouldBlock => sleep(FULL).await,
                    _ => return Err(error),
                },
            }
        }
        Ok(())
    }

    /// Where the file is; `None` for what is nowhere, as a pipe.
    fn position(&self) -> Option<i64> {
        // SAFETY: no pointers; the descriptor is open.
        let at = unsafe { libc::lseek(self.0.as_raw_fd(), 0, libc::SEEK_CUR) };
        (at >= 0).then_some(at)
    }

    /// Goes behind what was written. Where a disk is full in the middle of a write, or a file may
    /// not grow on, the kernel says how much it has written and leaves the file where it was: what
    /// is left over would go on top of that.
    fn follow(&self, before: Option<i64>, written: usize) {
        if let Some(at) = before
            && self.position() == before
        {
            // SAFETY: no pointers; the descriptor is open. One that can say where it is can go on.
            unsafe { libc::lseek(self.0.as_raw_fd(), at + written as i64, libc::SEEK_SET) };
        }
    }
}

/// What the kernel said.
fn plain(error: GlommioError<()>) -> io::Error {
    match error {
        GlommioError::EnhancedIoError { source, .. } => source,
        other => other.into(),
    }
}

#[cfg(all(test, not(miri)))]
mod tests {
    use std::cell::Cell;
    use std::io::{Read, Seek, SeekFrom, Write};
    use std::rc::Rc;

    use glommio::{LocalExecutorBuilder, Placement, spawn_local};

    use super::*;

    fn on_a_reactor<T: 'static>(body: impl AsyncFnOnce() -> T + 'static) -> T {
        let builder = LocalExecutorBuilder::new(Placement::Unbound).io_memory(64 << 10);
        builder.make().unwrap().run(body())
    }

    /// A pipe, full, and as much as it holds.
    fn full_pipe() -> (io::PipeReader, OwnedFd, usize) {
        let (reader, writer) = io::pipe().unwrap();
        let fd: OwnedFd = writer.into();
        // SAFETY: no pointers; a pipe's size in bytes.
        let room = unsafe { libc::fcntl(std::os::fd::AsRawFd::as_raw_fd(&fd), libc::F_GETPIPE_SZ) };
        let room = usize::try_from(room).unwrap();
        File::from(fd.try_clone().unwrap()).write_all(&vec![b'.'; room]).unwrap();
        (reader, fd, room)
    }

    #[test]
    fn a_full_pipe_holds_up_the_writer_alone() {
        on_a_reactor(async || {
            let (mut reader, fd, room) = full_pipe();
            let sink = Sink::of(fd);
            let done = Rc::new(Cell::new(false));
            let said = Rc::clone(&done);
            let writer = spawn_local(async move {
                let written = sink.write(vec![b'x'; 100_000]).await;
                said.set(true);
                written
            });
            for _ in 0..20 {
                sleep(Duration::from_millis(1)).await;
                assert!(!done.get());
            }
            let mut all = vec![0; room];
            reader.read_exact(&mut all).unwrap();
            let mut rest = vec![0; 100_000];
            let mut read = 0;
            while read < rest.len() {
                sleep(Duration::from_millis(1)).await;
                let most = rest.len().min(read + 4096);
                let part = &mut rest[read..most];
                reader.read_exact(part).unwrap();
                read = most;
            }
            writer.await.unwrap();
            assert!(rest.iter().all(|&b| b == b'x') && all.iter().all(|&b| b == b'.'));
        });
    }

    /// As one that was stopped by Ctrl-S. The program can end all the same.
    #[test]
    fn a_terminal_that_nobody_reads_holds_up_the_writer_alone() {
        let (mut master, mut slave) = (-1, -1);
        // SAFETY: room for two descriptors; no name, attributes or size are asked for.
        let opened = unsafe {
            let none = std::ptr::null_mut();
            libc::openpty(&mut master, &mut slave, none, none.cast(), none.cast())
        };
        assert_eq!(opened, 0);
        // SAFETY: descriptors that were just made and that nobody else owns.
        let (master, slave) =
            unsafe { (OwnedFd::from_raw_fd(master), OwnedFd::from_raw_fd(slave)) };
        on_a_reactor(async move || {
            let sink = Sink::of(slave);
            let done = Rc::new(Cell::new(false));
            let said = Rc::clone(&done);
            let writer = spawn_local(async move {
                let _ = sink.write(vec![b'x'; 1 << 20]).await;
                said.set(true);
            });
            for _ in 0..20 {
                sleep(Duration::from_millis(1)).await;
            }
            assert!(!done.get());
            drop(writer);
        });
        drop(master);
    }

    /// The program can end while a write waits.
    #[test]
    fn a_reactor_ends_though_a_write_waits() {
        let (reader, fd, _) = full_pipe();
        on_a_reactor(async move || {
            let sink = Sink::of(fd);
            let writer = spawn_local(async move { sink.write(vec![b'x'; 10]).await });
            sleep(Duration::from_millis(5)).await;
            drop(writer);
        });
        drop(reader);
    }

    #[test]
    fn a_descriptor_that_never_waits_is_asked_again() {
        on_a_reactor(async || {
            let (mut reader, fd, room) = full_pipe();
            // SAFETY: no pointers; the descriptor is open.
            let set = unsafe {
                libc::fcntl(std::os::fd::AsRawFd::as_raw_fd(&fd), libc::F_SETFL, libc::O_NONBLOCK)
            };
            assert_eq!(set, 0);
            let sink = Sink::of(fd);
            let writer = spawn_local(async move { sink.write(vec![b'x'; 10]).await });
            sleep(Duration::from_millis(5)).await;
            let mut all = vec![0; room];
            reader.read_exact(&mut all).unwrap();
            writer.await.unwrap();
            let mut rest = [0; 10];
            reader.read_exact(&mut rest).unwrap();
            assert_eq!(rest, [b'x'; 10]);
        });
    }

    #[test]
    fn a_pipe_that_nobody_will_read_is_an_error() {
        on_a_reactor(async || {
            let (reader, writer) = io::pipe().unwrap();
            drop(reader);
            let error = Sink::of(writer.into()).write(vec![b'x']).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        });
    }

    /// Others write to the same file: what they wrote stays, as with `2>&1`.
    #[test]
    fn writes_go_where_the_file_is() {
        on_a_reactor(async || {
            for append in [false, true] {
                let mut file = tempfile::tempfile().unwrap();
                if append {
                    // SAFETY: no pointers; the descriptor is open.
                    let set = unsafe {
                        let fd = std::os::fd::AsRawFd::as_raw_fd(&file);
                        libc::fcntl(fd, libc::F_SETFL, libc::O_APPEND)
                    };
                    assert_eq!(set, 0);
                }
                file.write_all(b"one ").unwrap();
                let sink = Sink::of(file.try_clone().unwrap().into());
                sink.write(b"two ".to_vec()).await.unwrap();
                file.write_all(b"three ").unwrap();
                sink.write(b"four".to_vec()).await.unwrap();
                let mut text = String::new();
                file.seek(SeekFrom::Start(0)).unwrap();
                file.read_to_string(&mut text).unwrap();
                assert_eq!(text, "one two three four");
            }
        });
    }
}

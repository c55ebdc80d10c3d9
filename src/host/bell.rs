//! A bell: how one thread wakes another that waits in its reactor, and how a thread sends itself
//! once through its own.
//!
//! It is an eventfd. glommio's wakers are no substitute: a task that yields, or waits for a timer
//! of no length, goes on without the reactor having looked at a socket.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::sync::Arc;

use glommio::io::BufferedFile;
use signal_hook::{SigId, low_level};

/// The end that rings. Cheap to clone, for any thread.
#[derive(Clone, Debug)]
pub struct Bell(Arc<OwnedFd>);

/// The end that hears, on the reactor it was made on.
pub struct Ear(BufferedFile);

impl Bell {
    pub fn new() -> io::Result<Bell> {
        // SAFETY: no pointers; the result is checked.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a descriptor that was just made and that nobody else owns.
        Ok(Bell(Arc::new(unsafe { OwnedFd::from_raw_fd(fd) })))
    }

    /// Whoever listens, or will listen next, goes on. Ringing twice is ringing once.
    pub fn ring(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: eight bytes that live through the call. It could fail only if the count were
        // about to overflow, and then the bell rings already.
        unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    /// Has a signal ring it, until the note is unregistered.
    pub fn ring_on(&self, signal: i32) -> io::Result<SigId> {
        let bell = self.clone();
        // SAFETY: all that is done inside the handler is a write(2) to a descriptor that the
        // closure keeps open; it takes no lock and no memory. It cannot fail, so that it leaves
        // errno as it was.
        unsafe { low_level::register(signal, move || bell.ring()) }
    }

    /// An ear on this thread's reactor. To be called inside it.
    pub fn ear(&self) -> io::Result<Ear> {
        let own = self.0.try_clone()?;
        // SAFETY: ownership of a descriptor that was just made goes over.
        Ok(Ear(unsafe { BufferedFile::from_raw_fd(own.into_raw_fd()) }))
    }
}

/// For who rings it from inside the kernel.
impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Ear {
    /// Waits until the bell has been rung since this was last called.
    pub async fn listen(&self) {
        // What an eventfd answers is how often it was rung; a read that was interrupted or failed
        // only makes the caller look once more for what it waits for.
        let _ = self.0.read_at(0, 8).await;
    }
}

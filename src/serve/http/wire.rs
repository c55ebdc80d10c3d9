//! hyper's view of a stream.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use futures_lite::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;
use hyper::body::{Buf, Bytes};
use hyper::rt::{Read, ReadBufCursor, Write};

use super::watch::Watch;

/// A stream and what is noted of it. The connection and, in an exchange, hyper hold it.
pub struct Link {
    pub watch: Watch,
    stream: RefCell<TcpStream>,
}

/// Bytes that one read takes at most.
const PIECE: usize = 16 << 10;

impl Link {
    pub fn new(stream: TcpStream) -> Link {
        Link { watch: Watch::new(), stream: RefCell::new(stream) }
    }

    /// 0 is the end.
    pub fn poll_read(&self, context: &mut Context, to: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.stream.borrow_mut()).poll_read(context, to)
    }

    fn poll_write(&self, context: &mut Context, from: &[IoSlice]) -> Poll<io::Result<usize>> {
        let mut stream = self.stream.borrow_mut();
        let written = Pin::new(&mut *stream).poll_write_vectored(context, from);
        self.watch.written(written.is_ready());
        written
    }

    /// Writes what fits at once.
    pub fn last_words(&self, words: &[u8], context: &mut Context) {
        let _ = self.poll_write(context, &[IoSlice::new(words)]);
        self.watch.written(true);
    }

    /// Ends this side of the stream. It does not wait.
    pub fn poll_close(&self, context: &mut Context) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream.borrow_mut()).poll_close(context)
    }
}

/// What hyper holds: the link, and bytes that came before hyper did.
pub struct Wire {
    link: Rc<Link>,
    ahead: Bytes,
}

impl Wire {
    pub fn new(link: Rc<Link>, ahead: Bytes) -> Wire {
        Wire { link, ahead }
    }
}

impl Read for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context,
        mut to: ReadBufCursor,
    ) -> Poll<io::Result<()>> {
        if self.ahead.has_remaining() {
            let count = self.ahead.len().min(to.remaining());
            to.put_slice(&self.ahead.split_to(count));
            return Poll::Ready(Ok(()));
        }
        // By way of the stack, which costs a copy within the cache and needs no promise about
        // bytes that nobody wrote.
        let mut piece = [0; PIECE];
        let most = PIECE.min(to.remaining());
        match self.link.poll_read(context, &mut piece[..most]) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(count)) => {
                if count > 0 {
                    self.link.watch.received(count);
                }
                to.put_slice(&piece[..count]);
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl Write for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.link.poll_write(context, &[IoSlice::new(from)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context,
        from: &[IoSlice],
    ) -> Poll<io::Result<usize>> {
        self.link.poll_write(context, from)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context) -> Poll<io::Result<()>> {
        self.link.poll_close(context)
    }
}

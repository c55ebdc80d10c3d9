//! What a handler gets and what it gives.

use std::task::{Context, Poll};

use hyper::body::Bytes;
use hyper::{HeaderMap, Method, StatusCode};

/// A request whose body has come in whole.
pub struct Call {
    pub method: Method,
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// An answer, whole or to come in events.
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Body,
}

pub enum Body {
    Whole(Bytes),
    /// Polled by the connection whenever its client can take more. Dropped when the client has
    /// gone.
    Events(Box<dyn Events>),
}

/// Server-sent events, framed already.
pub trait Events {
    fn poll_next(&mut self, context: &mut Context) -> Poll<Option<Bytes>>;
}

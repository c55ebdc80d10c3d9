//! A call read and its reply written.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};

use futures_lite::future::poll_fn;
use hyper::body::{Body as _, Bytes, Frame, Incoming, SizeHint};
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{HeaderMap, Request, Response, StatusCode};

use super::watch::Phase;
use super::wire::Link;
use super::{Handler, Server};
use crate::serve::reply::{Body, Call, Reply};

/// Why a connection ends in the middle of something. Its client cannot be told any more.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    #[error("the client left in the middle of a call")]
    Gone,
    #[error("an answer could not be made")]
    Panicked,
}

/// An error as the connection itself tells it, in the form that OpenAI's clients read.
#[derive(Clone, Copy)]
pub struct Refused {
    pub status: StatusCode,
    pub kind: &'static str,
    pub message: &'static str,
}

pub const FULL: Refused = Refused {
    status: StatusCode::SERVICE_UNAVAILABLE,
    kind: "overloaded",
    message: "the server has as many connections as it may have",
};

pub const STRANGER: Refused = Refused {
    status: StatusCode::FORBIDDEN,
    kind: "permission_denied",
    message: "this user may not use this server (--allow-uid, --allow-gid)",
};

pub const LATE: Refused = Refused {
    status: StatusCode::REQUEST_TIMEOUT,
    kind: "timeout",
    message: "the request did not arrive in time",
};

const CROWDED: Refused = Refused {
    status: StatusCode::SERVICE_UNAVAILABLE,
    kind: "overloaded",
    message: "too many large requests at once",
};

const GARBLED: Refused = Refused {
    status: StatusCode::BAD_REQUEST,
    kind: "invalid_request_error",
    message: "the body of the request is not framed as HTTP wants it",
};

const PANICKED: Refused = Refused {
    status: StatusCode::INTERNAL_SERVER_ERROR,
    kind: "internal_error",
    message: "the server failed at this request; its log says where",
};

/// A comment among events, which clients pass over.
const WAITING: &[u8] = b": waiting\n\n";

fn said(kind: &str, message: &str) -> Bytes {
    let error = serde_json::json!({ "error": { "message": message, "type": kind } });
    Bytes::from(error.to_string())
}

impl Refused {
    /// As bytes, where hyper does not write.
    pub fn words(&self) -> Vec<u8> {
        let body = said(self.kind, self.message);
        let retry = match self.status {
            StatusCode::SERVICE_UNAVAILABLE => "retry-after: 1\r\n",
            _ => "",
        };
        let head = format!(
            "HTTP/1.1 {}\r\ncontent-type: application/json\r\nconnection: close\r\n{retry}\
             content-length: {}\r\n\r\n",
            self.status,
            body.len()
        );
        [head.as_bytes(), &body].concat()
    }

    fn reply(&self) -> Reply {
        refusal(self.status, self.kind, self.message)
    }
}

/// A reply after which the connection ends, for its call was not read or not answered.
fn refusal(status: StatusCode, kind: &str, message: &str) -> Reply {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    Reply { status, headers, body: Body::Whole(said(kind, message)) }
}

/// Reads a call and answers it. Dropped when the client leaves.
pub async fn answer<H: Handler>(
    server: Rc<Server<H>>,
    link: Rc<Link>,
    request: Request<Incoming>,
) -> Result<Response<Outgoing>, Broken> {
    link.watch.enter(Phase::Body);
    let (head, body) = request.into_parts();
    let mut held = Held { server: &server, bytes: 0 };
    let read = read(body, &mut held).await;
    link.watch.enter(Phase::Answer);
    let reply = match read? {
        Ok(body) => {
            let path = head.uri.path().to_owned();
            let call = Call { method: head.method, path, headers: head.headers, body };
            match caught(server.handler.answer(call)).await {
                Ok(reply) => reply,
                Err(reason) => {
                    server.panicked(&reason);
                    PANICKED.reply()
                }
            }
        }
        Err(refused) => refused,
    };
    drop(held);
    if let Body::Events(_) = &reply.body {
        link.watch.spoke();
    }
    let mut response =
        Response::new(Outgoing { body: Some(reply.body), link, told: server.told() });
    *response.status_mut() = reply.status;
    *response.headers_mut() = reply.headers;
    Ok(response)
}

/// Bytes of a body that count until its call is answered.
struct Held<'a, H> {
    server: &'a Server<H>,
    bytes: usize,
}

impl<H> Held<'_, H> {
    /// Whether there is room for so many bytes more.
    fn take(&mut self, bytes: usize) -> bool {
        let all = self.server.bodies.get() + bytes;
        let fits = all <= self.server.limits.bodies;
        if fits {
            self.server.bodies.set(all);
            self.bytes += bytes;
        }
        fits
    }
}

impl<H> Drop for Held<'_, H> {
    fn drop(&mut self) {
        self.server.bodies.set(self.server.bodies.get() - self.bytes);
    }
}

/// A body as a whole, or what is answered instead.
async fn read<H>(
    mut body: Incoming,
    held: &mut Held<'_, H>,
) -> Result<Result<Bytes, Reply>, Broken> {
    let limit = held.server.limits.body;
    let too_large = || {
        let message = format!("the body of the request is larger than the limit of {limit} bytes");
        Ok(Err(refusal(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", &message)))
    };
    // Of a length that was announced nothing need be read to know.
    if body.size_hint().lower() > limit as u64 {
        return too_large();
    }
    let mut first = Bytes::new();
    let mut whole: Vec<u8> = Vec::new();
    loop {
        let frame = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await;
        let data = match frame {
            None => break,
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => data,
                // Trailers, which nobody here reads.
                Err(_) => continue,
            },
            Some(Err(error)) if error.is_incomplete_message() || error.is_closed() => {
                return Err(Broken::Gone);
            }
            Some(Err(_)) => return Ok(Err(GARBLED.reply())),
        };
        if first.len() + whole.len() + data.len() > limit {
            return too_large();
        }
        if !held.take(data.len()) {
            return Ok(Err(CROWDED.reply()));
        }
        match (first.is_empty(), whole.is_empty()) {
            // Most bodies come in one piece, which is not copied.
            (true, true) => first = data,
            (_, true) => {
                whole.extend_from_slice(&first);
                whole.extend_from_slice(&data);
                first = Bytes::new();
            }
            _ => whole.extend_from_slice(&data),
        }
    }
    Ok(Ok(if whole.is_empty() { first } else { Bytes::from(whole) }))
}

/// A future, or what it panicked with.
async fn caught<T>(future: impl Future<Output = T>) -> Result<T, String> {
    let mut future = pin!(future);
    poll_fn(|context| {
        // What a panic leaves behind is seen by nobody but the handler, whose own state is in
        // cells: a borrow ends with the stack that held it.
        match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
            Ok(polled) => polled.map(Ok),
            Err(panic) => Poll::Ready(Err(message(&*panic))),
        }
    })
    .await
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| text.to_string());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or("a panic".into())
}

/// Whom a panic is told.
type Told = Rc<dyn Fn(&str)>;

impl<H> Server<H> {
    fn panicked(&self, reason: &str) {
        self.tally.panics.set(self.tally.panics.get() + 1);
        (self.notice)(&format!("a handler panicked, and its request failed: {reason}"));
    }
}

impl<H: 'static> Server<H> {
    fn told(self: &Rc<Self>) -> Told {
        let server = Rc::clone(self);
        Rc::new(move |reason| server.panicked(reason))
    }
}

/// An answer on its way out.
pub struct Outgoing {
    body: Option<Body>,
    link: Rc<Link>,
    told: Told,
}

impl hyper::body::Body for Outgoing {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let polled = match &mut self.body {
            None => return Poll::Ready(None),
            Some(Body::Whole(bytes)) => Ok(Poll::Ready(Some(std::mem::take(bytes)))),
            Some(Body::Events(events)) => {
                catch_unwind(AssertUnwindSafe(|| events.poll_next(context)))
            }
        };
        match polled {
            Ok(Poll::Pending) if self.link.watch.is_mute() => {
                self.link.watch.spoke();
                Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(WAITING)))))
            }
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(Some(bytes))) => {
                match self.body {
                    Some(Body::Events(_)) => self.link.watch.spoke(),
                    _ => self.body = None,
                }
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Ok(Poll::Ready(None)) => {
                self.body = None;
                Poll::Ready(None)
            }
            // The client sees an answer that was cut off, which is what it is.
            Err(panic) => {
                self.body = None;
                (self.told)(&message(&*panic));
                Poll::Ready(Some(Err(Broken::Panicked)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.body {
            None => true,
            Some(Body::Whole(bytes)) => bytes.is_empty(),
            Some(Body::Events(_)) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            None => SizeHint::with_exact(0),
            Some(Body::Whole(bytes)) => SizeHint::with_exact(bytes.len() as u64),
            Some(Body::Events(_)) => SizeHint::default(),
        }
    }
}

/// hyper has it no more: all of it is written or in hyper's buffer, or the connection is over.
impl Drop for Outgoing {
    fn drop(&mut self) {
        self.link.watch.enter(Phase::Idle);
    }
}

//! Server-sent events, framed.

use hyper::body::Bytes;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{HeaderMap, StatusCode};
use serde::Serialize;

use super::reply::{Body, Events, Reply};

/// Bytes of events that are gathered, while more wait, before they are sent.
const FULL: usize = 16 << 10;

/// Events on their way into one chunk. What is written is one line each: JSON has no line breaks.
#[derive(Default)]
pub struct Frames {
    buffer: Vec<u8>,
}

impl Frames {
    /// An event without a name.
    pub fn data(&mut self, value: &impl Serialize) {
        let start = self.buffer.len();
        self.line(start, value);
    }

    pub fn event(&mut self, name: &str, value: &impl Serialize) {
        let start = self.buffer.len();
        self.buffer.extend_from_slice(b"event: ");
        self.buffer.extend_from_slice(name.as_bytes());
        self.buffer.push(b'\n');
        self.line(start, value);
    }

    /// The line of an event that began at `start`.
    fn line(&mut self, start: usize, value: &impl Serialize) {
        self.buffer.extend_from_slice(b"data: ");
        match serde_json::to_writer(&mut self.buffer, value) {
            Ok(()) => self.buffer.extend_from_slice(b"\n\n"),
            // No value written here can fail; half an event would be worse than none.
            Err(_) => self.buffer.truncate(start),
        }
    }

    /// How OpenAI's streams end.
    pub fn done(&mut self) {
        self.buffer.extend_from_slice(b"data: [DONE]\n\n");
    }

    pub fn is_full(&self) -> bool {
        self.buffer.len() >= FULL
    }

    /// What was written since the last time, if anything.
    pub fn take(&mut self) -> Option<Bytes> {
        let chunk = (!self.buffer.is_empty()).then(|| Bytes::copy_from_slice(&self.buffer));
        self.buffer.clear();
        chunk
    }
}

/// A reply of events. A proxy is asked not to hold them back.
pub fn reply(events: Box<dyn Events>) -> Reply {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    let buffering = HeaderName::from_static("x-accel-buffering");
    headers.insert(buffering, HeaderValue::from_static("no"));
    Reply { status: StatusCode::OK, headers, body: Body::Events(events) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_is_one_line_of_json() {
        let mut frames = Frames::default();
        assert_eq!(frames.take(), None);
        frames.data(&"a\n\n\"b\" \u{2028}\r");
        frames.event("token", &[1, 2]);
        frames.done();
        let text = "data: \"a\\n\\n\\\"b\\\" \u{2028}\\r\"\n\nevent: token\ndata: [1,2]\n\n\
                    data: [DONE]\n\n";
        assert_eq!(frames.take().unwrap(), text);
        assert_eq!(frames.take(), None);
    }
}

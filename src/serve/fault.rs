//! Why a request is not answered, as clients are told.
//!
//! One shape for all protocols: OpenAI's error object, whose `param` is the path of the field that
//! is wrong and whose `message` says what would do.

use std::time::Duration;

use hyper::body::Bytes;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{HeaderMap, StatusCode};
use serde::Serialize;

use super::reply::{Body, Reply};
use crate::engine;
use crate::engine::desk::Refusal;

#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    pub status: StatusCode,
    pub message: String,
    kind: &'static str,
    param: Option<String>,
    code: Option<&'static str>,
    retry_after: Option<Duration>,
    allow: Option<&'static str>,
}

/// The object under `error`.
#[derive(Serialize)]
struct Object<'a> {
    message: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    param: Option<&'a str>,
    code: Option<&'static str>,
}

#[derive(Serialize)]
pub struct Envelope<'a> {
    error: Object<'a>,
}

/// How long a server that stops is given before one that replaces it is asked.
const RESTART: Duration = Duration::from_secs(2);

/// What nginx writes into its log when the client ended a request, and clients do not repeat.
const CLIENT_ENDED: u16 = 499;

impl Fault {
    fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Fault {
        let (message, param, code, retry_after) = (message.into(), None, None, None);
        Fault { status, message, kind, param, code, retry_after, allow: None }
    }

    /// The request is wrong as a whole.
    pub fn request(message: impl Into<String>) -> Fault {
        Fault::new(StatusCode::BAD_REQUEST, "invalid_request_error", message)
    }

    /// One field or header is wrong: which, and what would do.
    pub fn field(path: impl Into<String>, what: impl std::fmt::Display) -> Fault {
        let path = path.into();
        let fault = Fault::request(format!("{path}: {what}"));
        Fault { param: Some(path), ..fault }
    }

    pub fn not_found(message: impl Into<String>) -> Fault {
        let fault = Fault::new(StatusCode::NOT_FOUND, "invalid_request_error", message);
        Fault { code: Some("not_found"), ..fault }
    }

    pub fn no_model(name: &str, ours: &str) -> Fault {
        let message = format!("the model {name:?} is not here; this server has {ours:?}");
        let fault = Fault::new(StatusCode::NOT_FOUND, "invalid_request_error", message);
        Fault { param: Some("model".into()), code: Some("model_not_found"), ..fault }
    }

    pub fn wrong_method(allow: &'static str) -> Fault {
        let status = StatusCode::METHOD_NOT_ALLOWED;
        let message = format!("this path takes {allow}");
        let fault = Fault::new(status, "invalid_request_error", message);
        Fault { allow: Some(allow), ..fault }
    }

    pub fn long_prompt(param: &str, tokens: usize, context: usize) -> Fault {
        let most = context.saturating_sub(1);
        let fault = Fault::field(
            param,
            format!(
                "the prompt has {tokens} tokens; this server has room for {context}, of which the \
                 answer needs one at least: shorten the prompt to {most}"
            ),
        );
        Fault { code: Some("context_length_exceeded"), ..fault }
    }

    pub fn loading() -> Fault {
        Fault::away("model_loading", "the model is being loaded; ask again soon")
    }

    pub fn draining() -> Fault {
        Fault::away("draining", Refusal::Draining.to_string())
    }

    fn away(code: &'static str, message: impl Into<String>) -> Fault {
        let fault = Fault::new(StatusCode::SERVICE_UNAVAILABLE, "service_unavailable", message);
        Fault { code: Some(code), retry_after: Some(RESTART), ..fault }
    }

    fn busy(code: &'static str, message: String, retry_after: Duration) -> Fault {
        let fault = Fault::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", message);
        Fault { code: Some(code), retry_after: Some(retry_after), ..fault }
    }

    /// The request waited as long as its client allows. 429 and not 504: the server is well, and
    /// the same request may be sent again.
    pub fn waited(limit: Duration, retry_after: Duration) -> Fault {
        let message = format!(
            "the request waited in the queue for the {} ms that X-Max-Wait-Time allows",
            limit.as_millis()
        );
        Fault::busy("max_wait_exceeded", message, retry_after)
    }

    /// Somebody ended the answer by `/cancel`.
    pub fn cancelled() -> Fault {
        let status = StatusCode::from_u16(CLIENT_ENDED).unwrap_or(StatusCode::BAD_REQUEST);
        let fault = Fault::new(status, "cancelled", "the answer was cancelled before its end");
        Fault { code: Some("cancelled"), ..fault }
    }

    pub fn is_cancelled(&self) -> bool {
        self.code == Some("cancelled")
    }

    /// The server failed, in words that help its owner.
    pub fn server(message: impl Into<String>) -> Fault {
        Fault::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", message)
    }

    pub fn refused(refusal: Refusal) -> Fault {
        let message = refusal.to_string();
        match refusal {
            Refusal::Full { retry_after, .. } | Refusal::Late { retry_after, .. } => {
                Fault::busy("rate_limit_exceeded", message, retry_after)
            }
            Refusal::Draining => Fault::draining(),
            Refusal::Invalid(error) => match error {
                engine::Error::LongPrompt { tokens, context, .. } => {
                    // The engine counts the first token of the answer.
                    Fault::long_prompt("prompt", tokens.saturating_sub(1), context)
                }
                engine::Error::EmptyPrompt | engine::Error::Token { .. } => {
                    Fault::field("prompt", message)
                }
                engine::Error::Param(error) => Fault::field(error.name, message),
                engine::Error::NoPages { .. } => {
                    Fault::busy("rate_limit_exceeded", message, Duration::from_secs(1))
                }
                _ => Fault::server(message),
            },
        }
    }

    pub fn envelope(&self) -> Envelope<'_> {
        let Fault { message, kind, param, code, .. } = self;
        Envelope { error: Object { message, kind, param: param.as_deref(), code: *code } }
    }

    pub fn reply(&self) -> Reply {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(after) = self.retry_after {
            // Whole seconds, and not too early.
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        if let Some(allow) = self.allow {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        let body = serde_json::to_vec(&self.envelope()).unwrap_or_default();
        Reply { status: self.status, headers, body: Body::Whole(Bytes::from(body)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_told_when_to_come_back_in_whole_seconds() {
        for (millis, seconds) in [(0, "1"), (400, "1"), (1000, "1"), (1001, "2"), (90_500, "91")] {
            let retry_after = Duration::from_millis(millis);
            let reply = Fault::refused(Refusal::Full { waiting: 3, retry_after }).reply();
            assert_eq!(reply.status, StatusCode::TOO_MANY_REQUESTS);
            assert_eq!(reply.headers[RETRY_AFTER], seconds, "{millis}");
        }
        assert_eq!(Fault::draining().reply().status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(Fault::draining().reply().headers.contains_key(RETRY_AFTER));
        assert!(!Fault::cancelled().reply().headers.contains_key(RETRY_AFTER));
    }

    #[test]
    fn what_the_engine_refuses_names_a_field() {
        let of = |error| Fault::refused(Refusal::Invalid(error));
        let long = of(engine::Error::LongPrompt { tokens: 41, context: 40, trained: 80 });
        assert_eq!((long.status.as_u16(), long.code), (400, Some("context_length_exceeded")));
        assert!(long.message.contains("40 tokens"), "{}", long.message);
        let token = of(engine::Error::Token { token: 9, vocab: 5 });
        assert_eq!((token.status.as_u16(), token.param.as_deref()), (400, Some("prompt")));
        assert_eq!(of(engine::Error::NoPages { tokens: 5 }).status.as_u16(), 429);
        assert_eq!(of(engine::Error::Lost("a disk".into())).status.as_u16(), 500);
    }
}

//! From a request to its handler.

use std::rc::Rc;

use hyper::body::Bytes;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::{HeaderMap, Method, StatusCode};
use serde::Serialize;

use super::fault::Fault;
use super::fields::Result;
use super::headers;
use super::house::House;
use super::openai::{chat, completions, models};
use super::reply::{Body, Call, Reply};
use super::{execute, tokens};

/// What is at a path.
enum Place<'a> {
    Chat,
    Completions,
    Models,
    Model(&'a str),
    Execute,
    Cancel,
    Tokenize,
    Detokenize,
    Ready,
    Live,
    Metrics,
}

impl Place<'_> {
    fn at(path: &str) -> Option<Place<'_>> {
        let path = path.split('?').next().unwrap_or("");
        let path = path.strip_suffix('/').unwrap_or(path);
        Some(match path {
            "/v1/chat/completions" => Place::Chat,
            "/v1/completions" => Place::Completions,
            "/v1/models" => Place::Models,
            "/execute" => Place::Execute,
            "/cancel" => Place::Cancel,
            "/tokenize" => Place::Tokenize,
            "/detokenize" => Place::Detokenize,
            "/health" | "/health/ready" => Place::Ready,
            "/health/live" => Place::Live,
            "/metrics" => Place::Metrics,
            other => Place::Model(other.strip_prefix("/v1/models/")?),
        })
    }

    fn is_read(&self) -> bool {
        match self {
            Place::Models | Place::Model(_) | Place::Ready | Place::Live | Place::Metrics => true,
            Place::Chat | Place::Completions | Place::Execute => false,
            Place::Cancel | Place::Tokenize | Place::Detokenize => false,
        }
    }

    fn allow(&self) -> &'static str {
        match self.is_read() {
            true => "GET, HEAD, OPTIONS",
            false => "POST, OPTIONS",
        }
    }
}

/// Answers a request. Everything that is wrong with it, or with the engine, is an answer too.
/// When this is dropped before its end, what it asked of the engine is cancelled.
pub async fn answer(house: &Rc<House>, call: Call) -> Reply {
    let id = headers::request_id(house, &call.headers);
    let found = route(house, &call, id.to_str().unwrap_or_default()).await;
    let mut reply = found.unwrap_or_else(|fault| fault.reply());
    headers::put_request_id(&mut reply.headers, id);
    reply
}

async fn route(house: &Rc<House>, call: &Call, id: &str) -> Result<Reply> {
    let Some(place) = Place::at(&call.path) else {
        return Err(Fault::not_found("there is nothing at this path"));
    };
    match (&call.method, place.is_read()) {
        // Of an answer to HEAD, the transport sends the head alone.
        (&Method::GET | &Method::HEAD, true) | (&Method::POST, false) => {}
        (&Method::OPTIONS, _) => {
            let headers = HeaderMap::from_iter([(ALLOW, HeaderValue::from_static(place.allow()))]);
            let (status, body) = (StatusCode::NO_CONTENT, Body::Whole(Bytes::new()));
            return Ok(Reply { status, headers, body });
        }
        _ => return Err(Fault::wrong_method(place.allow())),
    }
    if matches!(place, Place::Chat | Place::Completions | Place::Execute) && !house.ready.get() {
        return Err(Fault::loading());
    }
    match place {
        Place::Chat => chat::answer(house, call, id).await,
        Place::Completions => completions::answer(house, call, id).await,
        Place::Models => Ok(models::list(house)),
        Place::Model(name) => models::one(house, &decoded(name)),
        Place::Execute => execute::answer(house, call, id).await,
        Place::Cancel => execute::cancel(house, call),
        Place::Tokenize => tokens::tokenize(house, call),
        Place::Detokenize => tokens::detokenize(house, call),
        Place::Ready => Ok(health(house)),
        Place::Live => Ok(json(&Live { live: true })),
        Place::Metrics => {
            let mut reply = json(&());
            reply.body = Body::Whole(Bytes::from((house.metrics)()));
            let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
            reply.headers.insert(CONTENT_TYPE, kind);
            Ok(reply)
        }
    }
}

/// A whole answer that is well.
pub(super) fn json(value: &impl Serialize) -> Reply {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    match serde_json::to_vec(value) {
        Ok(body) => Reply { status: StatusCode::OK, headers, body: Body::Whole(Bytes::from(body)) },
        Err(error) => Fault::server(error.to_string()).reply(),
    }
}

#[derive(Serialize)]
struct Live {
    live: bool,
}

#[derive(Serialize)]
struct Health<'a> {
    status: &'static str,
    live: bool,
    ready: bool,
    model: &'a str,
    load: Load,
}

#[derive(Serialize)]
struct Load {
    running: usize,
    waiting: usize,
    pages: usize,
    free_pages: usize,
    first_token_ms: f64,
}

/// Whether requests are taken, for balancers that look at the status alone and for those that read.
fn health(house: &House) -> Reply {
    let load = house.counter.load();
    let ready = house.ready.get() && !load.draining;
    let status = match (ready, load.draining) {
        (true, _) => "ready",
        (false, true) => "draining",
        (false, false) => "loading",
    };
    let first_token_ms = super::account::milliseconds(load.first_token);
    let crate::engine::desk::Load { running, waiting, pages, free_pages, .. } = load;
    let load = Load { running, waiting, pages, free_pages, first_token_ms };
    let mut reply = json(&Health { status, live: true, ready, model: &house.model.id, load });
    if !ready {
        reply.status = StatusCode::SERVICE_UNAVAILABLE;
    }
    reply
}

/// A path's part without its percent signs.
fn decoded(part: &str) -> String {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = |digit: u8| char::from(digit).to_digit(16);
        rest = match (*first, tail) {
            (b'%', [high, low, tail @ ..])
                if let (Some(high), Some(low)) = (hex(*high), hex(*low)) =>
            {
                bytes.push((high * 16 + low) as u8);
                tail
            }
            _ => {
                bytes.push(*first);
                tail
            }
        };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

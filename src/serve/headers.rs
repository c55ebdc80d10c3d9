//! What requests and answers say in their headers beyond HTTP.

use std::time::Duration;

use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};

use super::fault::Fault;
use super::fields::Result;
use super::house::House;
use super::wanted::short;
use crate::engine::desk::Account;
use crate::engine::scheduler::{Batching, Priority};

const PRIORITY: &str = "X-Request-Priority";
const BATCHING: &str = "X-Batch-Preference";
const MAX_WAIT: &str = "X-Max-Wait-Time";
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const BATCH_SIZE: HeaderName = HeaderName::from_static("x-batch-size");
const PROCESSING_TIME: HeaderName = HeaderName::from_static("x-processing-time");
const QUEUE_TIME: HeaderName = HeaderName::from_static("x-queue-time");

/// No client waits for longer than this.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 60 * 60);
/// Bytes of a request's id that are sent back.
const LONGEST_ID: usize = 128;

/// How a client wants its request to be treated.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Wishes {
    /// `None`: as the body says, or medium.
    pub priority: Option<Priority>,
    pub batching: Batching,
    pub max_wait: Option<Duration>,
}

impl Wishes {
    pub fn read(headers: &HeaderMap) -> Result<Wishes> {
        let mut wishes = Wishes::default();
        if let Some(text) = word(headers, PRIORITY, "high, medium or low")? {
            let read = priority(&text);
            let bad = || unknown(PRIORITY, &text, "high, medium or low");
            wishes.priority = Some(read.ok_or_else(bad)?);
        }
        if let Some(text) = word(headers, BATCHING, "enable, disable or auto")? {
            wishes.batching = match text.as_str() {
                "enable" => Batching::Enable,
                "disable" => Batching::Disable,
                "auto" => Batching::Auto,
                _ => return Err(unknown(BATCHING, &text, "enable, disable or auto")),
            };
        }
        const TIME: &str = "a time such as 50ms, 2s or 1m";
        if let Some(text) = word(headers, MAX_WAIT, TIME)? {
            let bad = || unknown(MAX_WAIT, &text, TIME);
            wishes.max_wait = Some(duration(&text).ok_or_else(bad)?);
        }
        Ok(wishes)
    }
}

fn word(headers: &HeaderMap, name: &'static str, wanted: &str) -> Result<Option<String>> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    match value.to_str() {
        Ok(text) => Ok(Some(text.trim().to_ascii_lowercase())),
        Err(_) => Err(Fault::field(name, format!("is not readable; give {wanted}"))),
    }
}

fn unknown(name: &str, text: &str, wanted: &str) -> Fault {
    Fault::field(name, format!("is {:?}, but must be {wanted}", short(text)))
}

pub fn priority(text: &str) -> Option<Priority> {
    match text {
        "high" => Some(Priority::High),
        "medium" => Some(Priority::Medium),
        "low" => Some(Priority::Low),
        _ => None,
    }
}

/// A number with `ms`, `s` or `m`; alone it is milliseconds.
fn duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let scale = match unit.trim() {
        "" | "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        _ => return None,
    };
    let seconds = number.parse::<f64>().ok()? * scale;
    Duration::try_from_secs_f64(seconds).ok().filter(|time| *time <= LONGEST_WAIT)
}

/// The id by which a client knows its request, or a new one.
pub fn request_id(house: &House, headers: &HeaderMap) -> HeaderValue {
    let fits = |id: &&HeaderValue| {
        !id.is_empty() && id.len() <= LONGEST_ID && id.as_bytes().iter().all(u8::is_ascii_graphic)
    };
    let new = || HeaderValue::try_from(house.new_name("req")).ok();
    let id = headers.get(REQUEST_ID).filter(fits).cloned().or_else(new);
    id.unwrap_or(HeaderValue::from_static("req"))
}

pub fn put_request_id(headers: &mut HeaderMap, id: HeaderValue) {
    headers.insert(REQUEST_ID, id);
}

/// For an answer whose end is known.
pub fn put_account(headers: &mut HeaderMap, account: &Account) {
    put_queue_time(headers, account.queued);
    put(headers, PROCESSING_TIME, milliseconds(account.prefill + account.decode));
    put(headers, BATCH_SIZE, format!("{:.0}", account.batch.max(1.0)));
}

/// For an answer that has left the queue.
pub fn put_queue_time(headers: &mut HeaderMap, waited: Duration) {
    put(headers, QUEUE_TIME, milliseconds(waited));
}

fn milliseconds(time: Duration) -> String {
    format!("{:.2}ms", time.as_secs_f64() * 1e3)
}

fn put(headers: &mut HeaderMap, name: HeaderName, value: String) {
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &'static str, value: &str) -> Result<Wishes> {
        let mut headers = HeaderMap::new();
        let name = HeaderName::try_from(name).unwrap();
        headers.insert(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        Wishes::read(&headers)
    }

    #[test]
    fn times_have_units() {
        for (text, millis) in [
            ("50ms", 50),
            ("50", 50),
            ("2s", 2000),
            ("1.5 s", 1500),
            ("1M", 60_000),
            ("0ms", 0),
            (" 7MS ", 7),
        ] {
            let wait = read(MAX_WAIT, text).unwrap().max_wait;
            assert_eq!(wait, Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "soon", "-1s", "1h", "1.2.3s", "ms", "1e3", "99999999m", "5 0ms", "é"] {
            let message = read(MAX_WAIT, text).unwrap_err().message;
            assert!(message.starts_with(MAX_WAIT), "{text}: {message}");
        }
    }

    #[test]
    fn wishes_are_words() {
        let high = read(PRIORITY, "High").unwrap();
        assert_eq!(high, Wishes { priority: Some(Priority::High), ..Wishes::default() });
        assert_eq!(read(BATCHING, "disable").unwrap().batching, Batching::Disable);
        assert!(read(PRIORITY, "urgent").unwrap_err().message.contains("high, medium or low"));
        assert!(read(BATCHING, "yes").unwrap_err().message.contains("enable, disable or auto"));
        assert_eq!(Wishes::read(&HeaderMap::new()), Ok(Wishes::default()));
    }
}

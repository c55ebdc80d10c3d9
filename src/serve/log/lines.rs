//! Records as lines.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::{Access, Level, Record, Style, What};
use crate::base::date::Moment;
use crate::engine::telemetry::PRIORITIES;

#[derive(Serialize)]
struct WordsLine<'a> {
    time: String,
    level: &'static str,
    message: &'a str,
}

#[derive(Serialize)]
struct AccessLine {
    time: String,
    level: &'static str,
    message: &'static str,
    id: u64,
    priority: &'static str,
    prompt_tokens: usize,
    answer_tokens: usize,
    queue_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_token_ms: Option<f64>,
    total_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens_per_second: Option<f64>,
    end: &'static str,
}

impl Style {
    /// Adds the record's line.
    pub(super) fn line(self, record: &Record, text: &mut String) {
        let time = time(record.time);
        // Writing to a string cannot fail.
        let _ = match (self, &record.what) {
            (Style::Json, What::Words(level, words)) => {
                let line = WordsLine { time, level: level.name(), message: words };
                writeln!(text, "{}", json(&line))
            }
            (Style::Json, What::Access(access)) => {
                writeln!(text, "{}", json(&access_line(time, access)))
            }
            (Style::Text, What::Words(level, words)) => {
                writeln!(text, "{time} {level:<5} {}", one_line(words))
            }
            (Style::Text, What::Access(access)) => text_access(text, &time, access),
        };
    }
}

fn json(line: &impl Serialize) -> String {
    serde_json::to_string(line).unwrap_or_else(|error| unreachable!("plain fields: {error}"))
}

fn access_line(time: String, access: &Access) -> AccessLine {
    AccessLine {
        time,
        level: Level::Info.name(),
        message: "request",
        id: access.id,
        priority: PRIORITIES[access.priority as usize].1,
        prompt_tokens: access.prompt_tokens,
        answer_tokens: access.answer_tokens,
        queue_ms: millis(access.queued),
        first_token_ms: access.first_token.map(millis),
        total_ms: millis(access.taken),
        tokens_per_second: access.speed.map(|speed| (f64::from(speed) * 10.0).round() / 10.0),
        end: access.end,
    }
}

fn text_access(text: &mut String, time: &str, access: &Access) -> std::fmt::Result {
    let Access { id, prompt_tokens, answer_tokens, end, .. } = access;
    let level = Level::Info;
    let priority = PRIORITIES[access.priority as usize].1;
    write!(text, "{time} {level:<5} request {id} {priority} {end}")?;
    write!(text, ", {prompt_tokens} + {answer_tokens} tokens")?;
    write!(text, ", {:.1} ms queued", millis(access.queued))?;
    if let Some(first) = access.first_token {
        write!(text, ", first token {:.1} ms", millis(first))?;
    }
    if let Some(speed) = access.speed {
        write!(text, ", {speed:.1} tok/s")?;
    }
    writeln!(text, ", {:.1} ms in all", millis(access.taken))
}

/// To a thousandth.
fn millis(time: Duration) -> f64 {
    time.as_micros() as f64 / 1e3
}

/// As in `2025-03-01T12:00:00.123Z`.
fn time(time: SystemTime) -> String {
    // A clock before 1970 is not worth a sentence.
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let moment = Moment::new(since.as_secs() as i64);
    format!("{}.{:03}Z", moment.format("%Y-%m-%dT%H:%M:%S"), since.subsec_millis())
}

/// Words that came from a client or a file may hold anything; a record is one line all the same,
/// and no terminal obeys it.
fn one_line(words: &str) -> String {
    let plain = |c: char| match c.is_control() {
        true => c.escape_default().to_string(),
        false => c.to_string(),
    };
    words.chars().map(plain).collect()
}

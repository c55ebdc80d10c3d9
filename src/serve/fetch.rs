//! What another server answers, for a command that asks it.
//!
//! One `GET` on a connection of its own, by a thread that has nothing else to do.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// A server between two breaths answers within milliseconds.
const PATIENCE: Duration = Duration::from_secs(3);
/// More text than this is not ours.
const MOST: u64 = 16 << 20;

#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("nobody answers ({0})")]
    Away(#[from] io::Error),

    #[error("what answers is no penstock server: {0}")]
    Strange(String),
}

/// The text at a path of the server at this socket.
pub fn fetch(socket: &Path, path: &str) -> Result<String, FetchError> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let call = format!("GET {path} HTTP/1.1\r\nHost: penstock\r\nConnection: close\r\n\r\n");
    stream.write_all(call.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(MOST).read_to_end(&mut answer)?;
    body(&answer)
}

/// The body of an HTTP answer.
fn body(answer: &[u8]) -> Result<String, FetchError> {
    let strange = |what: &str| FetchError::Strange(what.into());
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| strange("it speaks no HTTP"))?;
    let mut lines = head.lines();
    let status = lines.next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("200") {
        return Err(FetchError::Strange(format!("it answers {status:?}")));
    }
    let chunked = lines.any(|line| {
        let line = line.to_ascii_lowercase();
        line.starts_with("transfer-encoding:") && line.contains("chunked")
    });
    match chunked {
        false => Ok(body.into()),
        true => unchunked(body).ok_or_else(|| strange("its answer is cut off")),
    }
}

fn unchunked(mut rest: &str) -> Option<String> {
    let mut whole = String::new();
    loop {
        let (size, after) = rest.split_once("\r\n")?;
        let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
        if size == 0 {
            return Some(whole);
        }
        whole.push_str(after.get(..size)?);
        rest = after.get(size..)?.strip_prefix("\r\n")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_whole_or_in_chunks() {
        const TEXT: &str = "# HELP penstock_build_info What.\npenstock_steps_total 3\n";
        let whole = format!("HTTP/1.1 200 OK\r\ncontent-length: 55\r\n\r\n{TEXT}");
        assert_eq!(body(whole.as_bytes()).unwrap(), TEXT);
        let (one, two) = TEXT.split_at(40);
        let (a, b) = (one.len(), two.len());
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let chunked = format!("{head}{a:x}\r\n{one}\r\n{b:X};x=y\r\n{two}\r\n0\r\n\r\n");
        assert_eq!(body(chunked.as_bytes()).unwrap(), TEXT);
        assert!(body(&chunked.as_bytes()[..90]).is_err());
    }

    #[test]
    fn strangers_are_known() {
        for answer in ["", "SSH-2.0-x\r\n\r\n", "HTTP/1.1 404 Not Found\r\n\r\nno"] {
            assert!(matches!(body(answer.as_bytes()), Err(FetchError::Strange(_))), "{answer}");
        }
    }
}

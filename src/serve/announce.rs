//! Tells an orchestrator that a worker is ready, and that it is about to leave.
//!
//! A POST of a small JSON object, repeated until it is taken. Whether anybody takes it changes
//! nothing for clients. A host's name is resolved once, at start, for resolving waits and the
//! reactor must not.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{io, str};

use futures_lite::future::or;
use futures_lite::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use glommio::net::{TcpStream, UnixStream};
use glommio::timer;

use super::Notice;

/// Where an orchestrator listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Callback {
    to: To,
    /// For the `Host` header.
    host: String,
    path: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum To {
    /// All addresses of a host, of which one answers.
    Tcp(Vec<SocketAddr>),
    Unix(PathBuf),
}

/// What is announced.
#[derive(Clone, Debug)]
pub struct Announcement {
    pub callback: Callback,
    pub worker: Option<String>,
    pub model: String,
}

/// A try, connecting included.
const LIMIT: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// An answer whose first line is longer is none.
const STATUS: usize = 256;

impl Callback {
    /// `http://HOST[:PORT][/PATH]`, or `unix:///PATH/OF/SOCKET[:/PATH]`.
    pub fn parse(text: &str) -> Result<Callback, String> {
        let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        if !plain(text) {
            return Err("expected a URL, without spaces and with other signs %-encoded".into());
        }
        if let Some(rest) = text.strip_prefix("unix://") {
            let (socket, path) = match rest.split_once(":/") {
                Some((socket, path)) => (socket, format!("/{path}")),
                None => (rest, "/".into()),
            };
            if !Path::new(socket).is_absolute() {
                return Err("expected the whole path of a socket, as unix:///run/x.sock".into());
            }
            return Ok(Callback { to: To::Unix(socket.into()), host: "localhost".into(), path });
        }
        let Some(rest) = text.strip_prefix("http://") else {
            return Err("expected http://HOST:PORT/PATH or unix:///PATH/OF/SOCKET".into());
        };
        let (host, path) = match rest.split_once('/') {
            Some((host, path)) => (host, format!("/{path}")),
            None => (rest, "/".into()),
        };
        if host.is_empty() || host.contains('@') {
            return Err("expected a host, as http://127.0.0.1:8000/workers".into());
        }
        let named = match host.rsplit_once(':') {
            // An IPv6 address has colons of its own, within brackets.
            Some((_, port)) if !port.ends_with(']') => host.to_string(),
            _ => format!("{host}:80"),
        };
        let found = named.to_socket_addrs().map_err(|error| format!("{host}: {error}"))?;
        let found: Vec<SocketAddr> = found.collect();
        if found.is_empty() {
            return Err(format!("{host}: nobody knows its address"));
        }
        Ok(Callback { to: To::Tcp(found), host: host.into(), path })
    }

    /// One try.
    async fn post(&self, body: &str) -> io::Result<()> {
        let late = async {
            timer::sleep(LIMIT).await;
            let sentence = format!("no answer in {} s", LIMIT.as_secs());
            Err(io::Error::new(io::ErrorKind::TimedOut, sentence))
        };
        let posted = async {
            match &self.to {
                To::Tcp(addresses) => {
                    let mut refused = io::Error::other("it has no address");
                    for address in addresses {
                        match TcpStream::connect(address).await {
                            Ok(stream) => return self.speak(stream, body).await,
                            Err(error) => refused = error.into(),
                        }
                    }
                    Err(refused)
                }
                To::Unix(path) => self.speak(UnixStream::connect(path).await?, body).await,
            }
        };
        or(posted, late).await
    }

    async fn speak(
        &self,
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
        body: &str,
    ) -> io::Result<()> {
        let Callback { path, host, .. } = self;
        let call = format!(
            "POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n\
             connection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(call.as_bytes()).await?;
        let mut answer = Vec::new();
        while !answer.contains(&b'\n') && answer.len() < STATUS {
            let mut piece = [0; STATUS];
            match stream.read(&mut piece).await? {
                0 => break,
                count => answer.extend_from_slice(&piece[..count]),
            }
        }
        match status(&answer) {
            Some(200..300) => Ok(()),
            Some(other) => Err(io::Error::other(format!("it answered {other}"))),
            None => Err(io::Error::other("its answer is not HTTP")),
        }
    }
}

fn status(answer: &[u8]) -> Option<u16> {
    let line = answer.split(|&byte| byte == b'\n').next()?;
    let mut words = str::from_utf8(line).ok()?.split(' ');
    words.next()?.strip_prefix("HTTP/1.")?;
    words.next()?.trim_end().parse().ok()
}

impl Announcement {
    fn body(&self, socket: &str, ready: bool) -> String {
        serde_json::json!({
            "worker_id": self.worker,
            "socket": socket,
            "model": self.model,
            "pid": std::process::id(),
            "ready": ready,
        })
        .to_string()
    }

    /// Says that the worker is ready, until somebody has heard it.
    pub async fn ready(&self, socket: &str, notice: &Notice) {
        let body = self.body(socket, true);
        let mut pause = FIRST_PAUSE;
        while let Err(error) = self.callback.post(&body).await {
            // Once is enough to say.
            if pause == FIRST_PAUSE {
                notice(&format!(
                    "the orchestrator at {} was not reached and is tried again: {error}",
                    self.callback.host
                ));
            }
            timer::sleep(pause).await;
            pause = (2 * pause).min(LONGEST_PAUSE);
        }
    }

    /// Says that it is about to leave. Whoever waits for it sets the time.
    pub async fn leaving(&self, socket: &str) {
        let body = self.body(socket, false);
        while self.callback.post(&body).await.is_err() {
            timer::sleep(FIRST_PAUSE).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callbacks_are_ports_and_sockets() {
        let tcp_at = |address: &str| To::Tcp(vec![address.parse().unwrap()]);
        let tcp = Callback::parse("http://127.0.0.1:8000/workers/ready?x=1").unwrap();
        assert_eq!(tcp.to, tcp_at("127.0.0.1:8000"));
        assert_eq!(tcp.path, "/workers/ready?x=1");
        assert_eq!(tcp.host, "127.0.0.1:8000");
        let plain = Callback::parse("http://127.0.0.1").unwrap();
        assert_eq!(plain.to, tcp_at("127.0.0.1:80"));
        let six = Callback::parse("http://[::1]/x").unwrap();
        assert_eq!(six.to, tcp_at("[::1]:80"));
        let unix = Callback::parse("unix:///run/x.sock").unwrap();
        assert_eq!((unix.to, &*unix.path), (To::Unix("/run/x.sock".into()), "/"));
        let unix = Callback::parse("unix:///run/x.sock:/ready").unwrap();
        assert_eq!((unix.to, &*unix.path), (To::Unix("/run/x.sock".into()), "/ready"));
        for wrong in
            ["", "https://x", "http://", "unix://relative", "http://a b/", "http://x:99999/"]
        {
            assert!(Callback::parse(wrong).is_err(), "{wrong}");
        }
        assert!(Callback::parse("http://127.0.0.1/\r\nx: y").is_err(), "a header slipped in");
    }

    #[test]
    fn only_an_answer_counts() {
        assert_eq!(status(b"HTTP/1.1 204 No Content\r\n"), Some(204));
        assert_eq!(status(b"HTTP/1.0 500\r\n"), Some(500));
        for none in [&b""[..], b"SSH-2.0\r\n", b"HTTP/1.1", b"HTTP/1.1 abc\r\n"] {
            assert_eq!(status(none), None);
        }
    }
}

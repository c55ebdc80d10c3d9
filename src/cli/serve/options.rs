//! What the command line says of a server, read and passed on to those it is for.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use super::super::out::note;
use super::super::size::{Size, size};
use super::super::{Compute, Outcome, positive};
use crate::engine::scheduler;
use crate::plan::Plan;
use crate::serve;
use crate::serve::announce::{Announcement, Callback};
use crate::serve::http::Limits;
use crate::serve::log::{Level, Log, Style};
use crate::serve::peer::Allowed;
use crate::serve::socket::{self, Owner, Place, SocketFile};

/// Serve a model to many clients over a Unix socket, and over TCP where asked.
///
/// The first SIGTERM or Ctrl-C lets no more requests in and finishes those there are; the second
/// stops at once. Under systemd it takes sockets over, says when it is ready, and answers the
/// watchdog.
#[derive(clap::Args, Clone)]
#[command(after_help = "\
Examples:
  penstock serve demo
  curl --unix-socket $XDG_RUNTIME_DIR/penstock.sock http://localhost/v1/models
  penstock serve MODEL --memory 24GiB --listen 127.0.0.1:8080
  penstock serve MODEL --draft SMALL
  penstock serve MODEL --cores 1 --sequential --worker-id 3 --callback-url http://127.0.0.1:9000/up")]
pub struct Args {
    /// A GGUF file, a Hugging Face folder, or `demo`
    pub model: String,

    /// A smaller model with the same vocabulary, which guesses the next tokens; those that MODEL
    /// chooses too come sooner. The answers stay the same
    #[arg(long, value_name = "SMALL")]
    pub draft: Option<String>,

    #[command(flatten)]
    pub places: Places,

    #[command(flatten)]
    pub scheduling: Scheduling,

    #[command(flatten)]
    pub spilling: Spilling,

    #[command(flatten)]
    pub telling: Telling,

    #[command(flatten)]
    pub compute: Compute,
}

/// What it tells its owner.
#[derive(clap::Args, Clone)]
#[command(next_help_heading = "What it tells its owner")]
pub struct Telling {
    /// Lines of the log, on standard error: text or json
    #[arg(long, value_name = "STYLE", default_value = "text")]
    pub log: Style,

    /// What is worth a line: error, warn, info (with one for every request) or debug
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log_level: Level,

    /// Write a timeline of shards, stages, reads and requests, for Perfetto or chrome://tracing
    #[arg(long, value_name = "FILE")]
    pub trace_out: Option<PathBuf>,
}

/// Where clients come in.
#[derive(clap::Args, Clone)]
#[command(next_help_heading = "Where clients come in")]
pub struct Places {
    /// Unix socket to listen at [default: $XDG_RUNTIME_DIR/penstock.sock, else
    /// /run/penstock/penstock.sock; none where systemd hands sockets over]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,

    /// Listen at a TCP address too, as 127.0.0.1:8080; may be given several times
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = address)]
    pub listen: Vec<SocketAddr>,

    /// Who may connect, as the mode of the socket file
    #[arg(long, value_name = "MODE", default_value = "0660", value_parser = mode)]
    pub socket_mode: u32,

    /// Whose the socket file is
    #[arg(long, value_name = "USER[:GROUP]", value_parser = owner)]
    pub socket_owner: Option<Owner>,

    /// Let only this user connect, by number or name; may be given several times
    #[arg(long, value_name = "USER", value_parser = user, conflicts_with = "listen")]
    pub allow_uid: Vec<u32>,

    /// Let only members of this group connect; with --allow-uid, those too
    #[arg(long, value_name = "GROUP", value_parser = group, conflicts_with = "listen")]
    pub allow_gid: Vec<u32>,

    /// Connections at once; more are told to come again
    #[arg(long, value_name = "N", default_value_t = 8192, value_parser = positive)]
    pub max_connections: usize,

    /// Largest body of a request
    #[arg(long, value_name = "SIZE", default_value = "32MiB", value_parser = body)]
    pub max_body: usize,

    /// How long running requests may take to finish after the first signal
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = time)]
    pub drain_timeout: Duration,

    /// POST to this address when ready and before leaving: http://HOST:PORT/PATH (a name is
    /// looked up once, at start) or unix:///PATH/OF/SOCKET
    #[arg(long, value_name = "URL", value_parser = Callback::parse)]
    pub callback_url: Option<Callback>,

    /// What this worker is called in what is posted
    #[arg(long, value_name = "ID")]
    pub worker_id: Option<String>,
}

/// Who computes when. None of it changes a bit of any answer.
#[derive(clap::Args, Clone)]
#[command(next_help_heading = "Who computes when (the answers stay the same)")]
pub struct Scheduling {
    /// Requests that compute together at most
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = positive)]
    pub parallel: usize,

    /// Requests that wait at most; more are refused with a time to come again
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = positive)]
    pub queue: usize,

    /// Longest that an answer under way may be held up by others' prompts
    #[arg(long, value_name = "TIME", default_value = "200ms", value_parser = time)]
    pub stall: Duration,

    /// One request at a time, in the order they come
    #[arg(long, conflicts_with = "parallel")]
    pub sequential: bool,

    /// Positions to make room for, of all requests together [default: what the plan finds room
    /// for]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub context: Option<usize>,
}

/// Where keys and values go when memory has no room for them.
#[derive(clap::Args, Clone)]
#[command(
    next_help_heading = "Where pages go that memory has no room for (the answers stay the same)"
)]
pub struct Spilling {
    /// Bytes of disk for keys and values of conversations that are idle and of requests that gave
    /// way, so that they come back without being computed again; none unless it is given
    #[arg(long, value_name = "SIZE", value_parser = disk)]
    pub spill: Option<u64>,

    /// Folder for them; the file has no name, so that nothing is left of it [default: --cache-dir,
    /// else where the model's pack is or would be]
    #[arg(long, value_name = "DIR", requires = "spill")]
    pub spill_dir: Option<PathBuf>,
}

/// Waiting so long weighs as much as one priority.
const AGE: Duration = Duration::from_secs(10);
/// How long a request that asks to be batched waits for company.
const FORM: Duration = Duration::from_millis(50);

impl Scheduling {
    pub fn limits(&self, plan: &Plan, trained: usize) -> scheduler::Limits {
        scheduler::Limits {
            running: self.sessions(),
            waiting: self.queue,
            chunk: plan.prefill_chunk,
            // Beyond what it was trained for a model rambles, unless that was asked for.
            context: self.context.unwrap_or(trained),
            stall: self.stall,
            form: FORM,
            age: AGE,
            sequential: self.sequential,
        }
    }

    /// Requests in one step.
    pub fn sessions(&self) -> usize {
        if self.sequential { 1 } else { self.parallel }
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    let named = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    named
        .as_deref()
        .unwrap_or(text)
        .parse()
        .map_err(|_| "expected an address and a port, as 127.0.0.1:8080 or [::1]:8080".to_string())
}

fn mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err("expected octal digits, as 0660".into()),
    }
}

fn owner(text: &str) -> Result<Owner, String> {
    Owner::parse(text).map_err(|error| error.to_string())
}

fn user(text: &str) -> Result<u32, String> {
    socket::number(text, "/etc/passwd", "user").map_err(|error| error.to_string())
}

fn group(text: &str) -> Result<u32, String> {
    socket::number(text, "/etc/group", "group").map_err(|error| error.to_string())
}

fn body(text: &str) -> Result<usize, String> {
    match size(text)? {
        Size::Bytes(bytes) if bytes <= 4 << 30 => Ok(bytes as usize),
        Size::Bytes(_) | Size::Part(_) => Err("expected at most 4GiB, as 32MiB".into()),
    }
}

fn disk(text: &str) -> Result<u64, String> {
    match size(text) {
        Ok(Size::Bytes(bytes)) => Ok(bytes),
        Ok(Size::Part(_)) | Err(_) => Err("expected bytes of disk, as 64GiB".into()),
    }
}

/// `200ms`, `30s`, `2m`.
fn time(text: &str) -> Result<Duration, String> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let scale = match &text[end..] {
        "ms" => Some(1e-3),
        "s" => Some(1.0),
        "m" | "min" => Some(60.0),
        _ => None,
    };
    let seconds = text[..end].parse::<f64>().ok().zip(scale).map(|(n, scale)| n * scale);
    match seconds {
        Some(seconds) if (1e-3..=86_400.0).contains(&seconds) => {
            Ok(Duration::from_secs_f64(seconds))
        }
        _ => Err("expected a time from 1ms to a day, as 200ms, 30s or 2m".into()),
    }
}

impl Places {
    pub fn options(&self, model: &str, log: &Log) -> Outcome<serve::Options> {
        let Places { socket, listen, .. } = self;
        let file = |path| {
            let file = SocketFile { path, mode: self.socket_mode, owner: self.socket_owner };
            // Better known now than when the model is in memory.
            file.check().map(|()| Place::File(file))
        };
        let handed_over = std::env::var_os("LISTEN_FDS").is_some();
        let (mut places, mut fallback) = (Vec::new(), None);
        match socket {
            Some(path) => places.push(file(path.clone())?),
            None if handed_over => {}
            None => fallback = Some(file(socket::usual_place()?)?),
        }
        places.extend(listen.iter().map(|&address| Place::Port(address)));
        let allowed = Allowed {
            users: BTreeSet::from_iter(self.allow_uid.iter().copied()),
            groups: BTreeSet::from_iter(self.allow_gid.iter().copied()),
        };
        for address in listen.iter().filter(|address| !address.ip().is_loopback()) {
            note!("penstock: whoever reaches {address} may use it; nothing there asks who it is");
        }
        let limits = Limits {
            connections: self.max_connections,
            body: self.max_body,
            bodies: Limits::default().bodies.max(self.max_body),
            ..Limits::default()
        };
        let announcement = self.callback_url.clone().map(|callback| {
            let (worker, model) = (self.worker_id.clone(), model.to_string());
            Announcement { callback, worker, model }
        });
        let log = log.clone();
        let notice: serve::Notice = Rc::new(move |words| log.say(Level::Info, words.to_owned()));
        Ok(serve::Options { places, fallback, allowed, limits, announcement, notice })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        for (text, millis) in [("200ms", 200), ("30s", 30_000), ("2m", 120_000), ("1.5s", 1500)] {
            assert_eq!(time(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for wrong in ["", "30", "0s", "s", "-1s", "1e3s", "1h", "2 days", "1..5s", "99999m"] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn modes_are_octal_and_addresses_have_ports() {
        assert_eq!(mode("0660"), Ok(0o660));
        assert_eq!(mode("600"), Ok(0o600));
        assert!(mode("0888").is_err() && mode("01777").is_err() && mode("rw").is_err());
        assert_eq!(address("localhost:80"), Ok("127.0.0.1:80".parse().unwrap()));
        assert!(address("127.0.0.1").is_err() && address("example.com:80").is_err());
    }
}

//! `penstock top`: a server at work, live.
//!
//! Asks the server's socket for `/metrics` like any other client, once a second; what is shown is
//! what was gained since the look before, and quantiles of the last ten seconds.

mod scrape;
mod view;

use std::collections::VecDeque;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::signals::Stop;
use super::{Outcome, Usage};
use crate::host::terminal::{Key, Screen};
use crate::serve::fetch::FetchError;
use crate::serve::socket::usual_path;

use scrape::{Metrics, scrape};
use view::View;

/// Show what a server is doing: speed, latency, where the time of its steps goes.
///
/// q or Ctrl-C ends it. The server need not be there: it is waited for.
#[derive(clap::Args)]
pub struct Args {
    /// The server's socket [default: where `penstock serve` puts it]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,

    /// Print one report and end, for scripts
    #[arg(long)]
    once: bool,

    /// Print one JSON object and end
    #[arg(long)]
    json: bool,

    /// Seconds between two looks
    #[arg(long, value_name = "S", default_value_t = 1.0, value_parser = interval)]
    interval: f64,
}

fn interval(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.05..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("expected seconds, from 0.05 to 3600".into()),
    }
}

/// Quantiles are of this many seconds.
const WINDOW: Duration = Duration::from_secs(10);
/// Columns of a report that is printed.
const WIDTH: usize = 80;

#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(
        "nobody answers at {} ({error}); start `penstock serve`, or give the --socket of one that \
         runs",
        socket.display()
    )]
    Away { socket: PathBuf, error: io::Error },

    #[error("{}: {error}", socket.display())]
    Strange { socket: PathBuf, error: FetchError },
}

impl Failed {
    fn new(socket: &Path, error: FetchError) -> Failed {
        let socket = socket.to_owned();
        match error {
            FetchError::Away(error) => Failed::Away { socket, error },
            error => Failed::Strange { socket, error },
        }
    }
}

pub fn run(args: Args) -> Outcome {
    let socket = args.socket.unwrap_or_else(usual_path);
    let interval = Duration::from_secs_f64(args.interval);
    if args.once || args.json {
        return report(socket, interval, args.json);
    }
    let stop = Stop::on_any()?;
    let Some(screen) = Screen::open()? else {
        return Err(Usage("top needs a terminal; --once prints one report without").into());
    };
    // It interrupts the wait for a key, and the size is asked for each time.
    signal_hook::flag::register(signal_hook::consts::SIGWINCH, Default::default())?;
    let ended = watch(&screen, &socket, interval, &stop);
    drop(screen);
    ended?;
    stop.check().map_err(Into::into)
}

/// Two looks, and what they say.
fn report(socket: PathBuf, interval: Duration, json: bool) -> Outcome {
    let look = || scrape(&socket).map_err(|error| Failed::new(&socket, error));
    let (before, began) = (look()?, Instant::now());
    sleep(interval);
    let (now, seconds) = (look()?, began.elapsed().as_secs_f64());
    let view = View::between(&before, &now, seconds);
    let mut out = io::stdout().lock();
    match json {
        true => writeln!(out, "{}", serde_json::to_string_pretty(&view)?)?,
        false => view.lines(WIDTH).iter().try_for_each(|line| writeln!(out, "{line}"))?,
    }
    Ok(())
}

/// Looks until a key ends it.
fn watch(screen: &Screen, socket: &Path, interval: Duration, stop: &Stop) -> io::Result<()> {
    let mut looks = Looks::default();
    let mut lines = vec![format!("waiting for {}", socket.display())];
    let mut next = Instant::now();
    loop {
        if Instant::now() >= next {
            lines = match scrape(socket) {
                Ok(metrics) => looks.add(metrics, Instant::now()),
                Err(error) => {
                    looks = Looks::default();
                    vec![format!("{}: {error}", socket.display()), "waiting for it".into()]
                }
            };
            next = Instant::now() + interval;
        }
        let (columns, rows) = screen.size();
        let mut shown: Vec<String> =
            lines.iter().map(|line| line.chars().take(columns).collect()).collect();
        shown.truncate(rows);
        screen.show(&shown)?;
        match screen.key(next.saturating_duration_since(Instant::now()))? {
            // Ctrl-C, Ctrl-D.
            Key::Typed(b'q' | b'Q' | 3 | 4) | Key::Closed => return Ok(()),
            Key::Typed(_) | Key::None => {}
        }
        if stop.is_asked() {
            return Ok(());
        }
    }
}

/// The looks of the last seconds.
#[derive(Default)]
struct Looks(VecDeque<(Instant, Metrics)>);

impl Looks {
    /// Takes in one more. What comes back is what is to be shown.
    fn add(&mut self, metrics: Metrics, time: Instant) -> Vec<String> {
        // Another server with the same socket begins to count anew.
        let restarted = self.0.back().is_some_and(|(_, last)| {
            ["requests_received_total", "steps_total"]
                .iter()
                .any(|name| metrics.sum(name) < last.sum(name))
        });
        if restarted {
            self.0.clear();
        }
        while self.0.len() > 1 && time.duration_since(self.0[1].0) >= WINDOW {
            self.0.pop_front();
        }
        let seconds = |since: Instant| time.duration_since(since).as_secs_f64();
        let lines = match (self.0.back(), self.0.front()) {
            (Some((last, before)), Some((first, oldest))) => {
                let mut view = View::between(before, &metrics, seconds(*last));
                let slow = View::between(oldest, &metrics, seconds(*first));
                (view.first_token, view.token_gap) = (slow.first_token, slow.token_gap);
                (view.queue, view.hit_rate) = (slow.queue, slow.hit_rate);
                view.lines(usize::MAX)
            }
            _ => vec!["penstock".into()],
        };
        self.0.push_back((time, metrics));
        lines
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::os::unix::net::UnixListener;

    use super::*;

    const GOLDEN: &str = include_str!("../serve/metrics/golden.txt");

    /// A server that answers each of so many clients with the same text.
    fn serve(listener: UnixListener, times: usize) -> std::thread::JoinHandle<Vec<String>> {
        std::thread::spawn(move || {
            let answer = |_| {
                let (mut stream, _) = listener.accept().unwrap();
                let mut asked = String::new();
                BufReader::new(&stream).read_line(&mut asked).unwrap();
                let head = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n";
                stream.write_all(format!("{head}{GOLDEN}").as_bytes()).unwrap();
                asked
            };
            (0..times).map(answer).collect()
        })
    }

    #[test]
    fn a_report_is_two_looks_at_the_socket() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("s");
        let listener = UnixListener::bind(&socket).unwrap();
        let server = serve(listener, 2);
        report(socket.clone(), Duration::from_millis(1), true).unwrap();
        assert_eq!(server.join().unwrap(), ["GET /metrics HTTP/1.1\r\n"; 2]);
        let error = report(socket.clone(), Duration::ZERO, true).unwrap_err();
        let (error, path) = (error.to_string(), socket.to_str().unwrap());
        let said = ["nobody answers at", path, "`penstock serve`", "--socket"];
        assert!(said.iter().all(|words| error.contains(words)), "{error}");
    }

    #[test]
    fn looks_of_another_server_are_not_compared() {
        let mut looks = Looks::default();
        let metrics = scrape::parse(GOLDEN).unwrap();
        let begin = Instant::now();
        assert_eq!(looks.add(metrics.clone(), begin).len(), 1);
        for second in 1..30 {
            assert!(looks.add(metrics.clone(), begin + Duration::from_secs(second)).len() > 10);
        }
        assert_eq!(looks.0.len(), 11);
        let young = scrape::parse("penstock_build_info 1\npenstock_steps_total 1\n").unwrap();
        assert_eq!(looks.add(young, begin + Duration::from_secs(30)).len(), 1);
        assert_eq!(looks.0.len(), 1);
    }
}

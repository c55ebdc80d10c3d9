//! How far long work on many bytes is.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use super::out::note;
use crate::base::units::Bytes;

/// On a terminal a line on standard error that is written over; elsewhere, a line from time to
/// time if the work takes long enough.
pub struct Progress {
    what: &'static str,
    whole: u64,
    start: Instant,
    shown: Option<Instant>,
    terminal: bool,
}

impl Progress {
    /// `what` stands before the numbers.
    pub fn new(what: &'static str, whole: u64) -> Progress {
        let terminal = io::stderr().is_terminal();
        Progress { what, whole, start: Instant::now(), shown: None, terminal }
    }

    pub fn show(&mut self, done: u64) {
        let every = Duration::from_millis(if self.terminal { 300 } else { 10_000 });
        if self.shown.unwrap_or(self.start).elapsed() < every {
            return;
        }
        let line = line(self.what, done, self.whole, self.start.elapsed());
        match self.terminal {
            true => drop(write!(io::stderr(), "\r{line} \x1b[K")),
            false => note!("{line}"),
        }
        self.shown = Some(Instant::now());
    }

    /// Takes the line away.
    pub fn clear(&mut self) {
        if self.shown.take().is_some() && self.terminal {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

/// `packing: 3.0 GiB of 16.0 GiB, 1.2 GiB/s, 11 s left`
fn line(what: &str, done: u64, whole: u64, taken: Duration) -> String {
    let rate = done as f64 / taken.as_secs_f64().max(1e-3);
    let mut line = match what {
        "" => String::new(),
        what => format!("{what}: "),
    };
    line += &format!("{} of {}, {}/s", Bytes(done), Bytes(whole), Bytes(rate as u64));
    if done > 0 && done < whole {
        let left = (whole - done) as f64 / rate;
        line += &match left as u64 {
            0..120 => format!(", {left:.0} s left"),
            120..7200 => format!(", {:.0} min left", left / 60.0),
            _ => format!(", {:.1} h left", left / 3600.0),
        };
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_how_fast_and_how_long() {
        let at = |done: u64, secs| line("packing", done << 30, 16 << 30, Duration::from_secs(secs));
        assert_eq!(at(4, 4), "packing: 4.0 GiB of 16.0 GiB, 1.0 GiB/s, 12 s left");
        assert_eq!(at(1, 60), "packing: 1.0 GiB of 16.0 GiB, 17.1 MiB/s, 15 min left");
        assert_eq!(at(0, 1), "packing: 0 B of 16.0 GiB, 0 B/s");
        assert_eq!(at(16, 16), "packing: 16.0 GiB of 16.0 GiB, 1.0 GiB/s");
        assert!(!line("", 1, 2, Duration::ZERO).contains(':'));
    }
}

//! What systemd is told, where it asks to be.
//!
//! Every word goes to `$NOTIFY_SOCKET` and is lost without harm where there is none.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;

/// Clients are answered from now on.
pub fn ready(status: &str) {
    let _ = sd_notify::notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// No more clients are let in.
pub fn stopping(status: &str) {
    let _ = sd_notify::notify(&[NotifyState::Stopping, NotifyState::Status(status)]);
}

/// Says that the server lives, as often as systemd wants to hear it. Whoever holds it calls from
/// the lead's reactor, so that a reactor that hangs falls silent.
pub struct Watchdog {
    every: Option<Duration>,
    last: Option<Instant>,
}

impl Watchdog {
    pub fn new() -> Watchdog {
        // Twice in the time allowed, as its manual asks.
        Watchdog { every: sd_notify::watchdog_enabled().map(|limit| limit / 2), last: None }
    }

    /// How often it wants to be called, where anybody asks.
    pub fn every(&self) -> Option<Duration> {
        self.every
    }

    pub fn alive(&mut self, now: Instant) {
        let Some(every) = self.every else { return };
        if self.last.is_none_or(|last| now - last >= every) {
            let _ = sd_notify::notify(&[NotifyState::Watchdog]);
            self.last = Some(now);
        }
    }
}

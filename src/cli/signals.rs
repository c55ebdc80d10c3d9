//! Ctrl-C and the other polite requests to stop.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::{flag, low_level};

/// Notes a signal, so that a command can end in order: what was written is shown, and no part of
/// a file stays behind.
pub struct Stop {
    asked: Arc<AtomicBool>,
    signal: Arc<AtomicUsize>,
}

impl Stop {
    /// For work that ends with the command: the first signal is noted, and the second, before
    /// anybody looked, ends the program at once.
    pub fn on_any() -> io::Result<Stop> {
        Stop::on(&[SIGINT, SIGTERM, SIGHUP])
    }

    /// For a conversation, in which Ctrl-C ends an answer.
    pub fn on_interrupt() -> io::Result<Stop> {
        Stop::on(&[SIGINT])
    }

    fn on(signals: &[i32]) -> io::Result<Stop> {
        let stop = Stop { asked: Arc::default(), signal: Arc::default() };
        for &signal in signals {
            flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&stop.asked))?;
            flag::register_usize(signal, Arc::clone(&stop.signal), signal as usize)?;
            flag::register(signal, Arc::clone(&stop.asked))?;
        }
        Ok(stop)
    }

    /// Whether a signal came since this was last asked.
    pub fn take(&self) -> bool {
        self.asked.swap(false, Ordering::Relaxed)
    }

    /// Fails if a signal came.
    pub fn check(&self) -> Result<(), Interrupted> {
        match self.take() {
            true => Err(Interrupted(self.signal.load(Ordering::Relaxed) as i32)),
            false => Ok(()),
        }
    }

    /// What the command fails with once it has stopped in order.
    pub fn interrupted(&self) -> Interrupted {
        Interrupted(self.signal.load(Ordering::Relaxed) as i32)
    }
}

/// A signal asked for the end.
#[derive(Debug, thiserror::Error)]
#[error("stopped by a signal")]
pub struct Interrupted(i32);

impl Interrupted {
    /// Ends as the signal would have ended the program, so that a shell or a script around it
    /// sees that it was stopped and stops as well.
    pub fn die(&self) -> i32 {
        // It does not come back but for a signal that cannot end a program.
        let _ = low_level::emulate_default_handler(self.0);
        128 + self.0
    }
}

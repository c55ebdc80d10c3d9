//! Ctrl-C and the other polite requests to stop.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::{SigId, flag, low_level};

use crate::host::bell::Bell;

/// Notes a signal, so that a command can end in order: what was written is shown, and no part of
/// a file stays behind.
pub struct Stop {
    asked: Arc<AtomicBool>,
    signal: Arc<AtomicUsize>,
    signals: &'static [i32],
    notes: Vec<SigId>,
}

/// A signal that was noted at some time. Once nobody notes it any more it does again what it does
/// to any program.
struct Noted {
    signal: i32,
    stops: usize,
    unheard: Arc<AtomicBool>,
}

static NOTED: Mutex<Vec<Noted>> = Mutex::new(Vec::new());

/// Counts one more who notes a signal, or one less.
fn count(signal: i32, more: bool) -> io::Result<()> {
    let mut all = NOTED.lock().unwrap_or_else(PoisonError::into_inner);
    let at = match all.iter().position(|noted| noted.signal == signal) {
        Some(at) => at,
        None => {
            let unheard = Arc::new(AtomicBool::new(false));
            flag::register_conditional_default(signal, Arc::clone(&unheard))?;
            all.push(Noted { signal, stops: 0, unheard });
            all.len() - 1
        }
    };
    let noted = &mut all[at];
    noted.stops = if more { noted.stops + 1 } else { noted.stops.saturating_sub(1) };
    noted.unheard.store(noted.stops == 0, Ordering::SeqCst);
    Ok(())
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

    /// For a server, which sleeps when it has nothing to do: the first signal also rings a bell,
    /// and the second ends the program at once, as long as nobody takes the first.
    pub fn ringing(bell: &Bell) -> io::Result<Stop> {
        let mut stop = Stop::on_any()?;
        for &signal in stop.signals {
            stop.notes.push(bell.ring_on(signal)?);
        }
        Ok(stop)
    }

    fn on(signals: &'static [i32]) -> io::Result<Stop> {
        let (asked, signal, notes) = (Arc::default(), Arc::default(), Vec::new());
        let mut stop = Stop { asked, signal, signals: &[], notes };
        for (i, &signal) in signals.iter().enumerate() {
            let (asked, which) = (|| Arc::clone(&stop.asked), Arc::clone(&stop.signal));
            let notes = [
                flag::register_conditional_shutdown(signal, 128 + signal, asked())?,
                flag::register_usize(signal, which, signal as usize)?,
                flag::register(signal, asked())?,
            ];
            stop.notes.extend(notes);
            count(signal, true)?;
            stop.signals = &signals[..=i];
        }
        Ok(stop)
    }

    /// Whether a signal came since this was last asked.
    pub fn take(&self) -> bool {
        self.asked.swap(false, Ordering::Relaxed)
    }

    /// Whether a signal came that nobody took.
    pub fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
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

impl Drop for Stop {
    fn drop(&mut self) {
        for note in self.notes.drain(..) {
            low_level::unregister(note);
        }
        for &signal in self.signals {
            // It was counted, so there is nothing to register that could be refused.
            let _ = count(signal, false);
        }
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

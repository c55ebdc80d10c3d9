//! The terminal as a screen: keys one by one, and its size.

use std::io::{self, IsTerminal, Write};
use std::mem::MaybeUninit;
use std::time::Duration;

use libc::{STDIN_FILENO, STDOUT_FILENO};

/// The other screen, without a cursor; and back.
const ENTER: &[u8] = b"\x1b[?1049h\x1b[?25l";
const LEAVE: &[u8] = b"\x1b[?25h\x1b[?1049l";

/// The terminal, while it shows a screen of ours. Dropped, it is as it was.
pub struct Screen {
    before: libc::termios,
}

/// What ended a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// A byte was typed; Ctrl-C is 3.
    Typed(u8),
    /// Nobody will type any more.
    Closed,
    /// Time is over, or a signal came: another size, perhaps.
    None,
}

impl Screen {
    /// Takes over the terminal. `None`: input or output is none.
    pub fn open() -> io::Result<Option<Screen>> {
        if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
            return Ok(None);
        }
        let mut found = MaybeUninit::<libc::termios>::uninit();
        // SAFETY: room for what is filled in; the result is checked.
        if unsafe { libc::tcgetattr(STDIN_FILENO, found.as_mut_ptr()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call filled it in.
        let before = unsafe { found.assume_init() };
        let mut raw = before;
        // Keys at once and unseen, and those that would stop or end the program as keys too:
        // otherwise it would leave its screen behind.
        raw.c_lflag &= !(libc::ICANON | libc::ECHO | libc::ISIG);
        set(&raw)?;
        let screen = Screen { before };
        let mut out = io::stdout();
        out.write_all(ENTER)?;
        out.flush()?;
        Ok(Some(screen))
    }

    /// Columns and rows.
    pub fn size(&self) -> (usize, usize) {
        let mut size = MaybeUninit::<libc::winsize>::zeroed();
        // SAFETY: room for what is filled in, and zeros if it is not.
        let size = unsafe {
            libc::ioctl(STDOUT_FILENO, libc::TIOCGWINSZ, size.as_mut_ptr());
            size.assume_init()
        };
        match (size.ws_col, size.ws_row) {
            // Some terminals do not say.
            (0, _) | (_, 0) => (80, 24),
            (columns, rows) => (columns.into(), rows.into()),
        }
    }

    /// Shows these lines, and nothing else.
    pub fn show(&self, lines: &[String]) -> io::Result<()> {
        let mut text = String::from("\x1b[H");
        for (i, line) in lines.iter().enumerate() {
            text.push_str(if i == 0 { "" } else { "\r\n" });
            text.push_str(line);
            // What was there before, to the end of the line.
            text.push_str("\x1b[K");
        }
        text.push_str("\x1b[J");
        let mut out = io::stdout();
        out.write_all(text.as_bytes())?;
        out.flush()
    }

    /// Waits for a key.
    pub fn key(&self, timeout: Duration) -> io::Result<Key> {
        let mut input = libc::pollfd { fd: STDIN_FILENO, events: libc::POLLIN, revents: 0 };
        let millis = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: one entry, which lives through the call.
        match unsafe { libc::poll(&mut input, 1, millis) } {
            0 => return Ok(Key::None),
            1.. => {}
            _ => return interrupted(),
        }
        let mut byte = 0u8;
        // SAFETY: room for the one byte that is asked for.
        match unsafe { libc::read(STDIN_FILENO, (&raw mut byte).cast(), 1) } {
            1 => Ok(Key::Typed(byte)),
            0 => Ok(Key::Closed),
            _ => interrupted(),
        }
    }
}

/// Of a call that failed: a signal is no failure.
fn interrupted() -> io::Result<Key> {
    let error = io::Error::last_os_error();
    match error.kind() {
        io::ErrorKind::Interrupted => Ok(Key::None),
        _ => Err(error),
    }
}

fn set(attributes: &libc::termios) -> io::Result<()> {
    // SAFETY: attributes that the terminal itself gave, but for flags.
    match unsafe { libc::tcsetattr(STDIN_FILENO, libc::TCSADRAIN, attributes) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let mut out = io::stdout();
        // A terminal that is gone cannot be put right.
        let _ = out.write_all(LEAVE).and_then(|()| out.flush());
        let _ = set(&self.before);
    }
}

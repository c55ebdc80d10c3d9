//! Where words go. Standard output may be a closed pipe; standard error may be anything.

use std::error::Error;
use std::io;

/// Whether an error is only that nobody reads any more.
pub fn is_broken_pipe(error: &(dyn Error + 'static)) -> bool {
    let broken = |e: &io::Error| e.kind() == io::ErrorKind::BrokenPipe;
    error.downcast_ref().is_some_and(broken) || error.source().is_some_and(is_broken_pipe)
}

/// A line on standard error. `eprintln!` would panic where it cannot be written (a full disk
/// under a log), and a remark is not worth an answer.
macro_rules! note {
    ($($words:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($words)*);
    }};
}
pub(crate) use note;

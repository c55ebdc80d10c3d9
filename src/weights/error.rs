//! What can be wrong with a model file.

use std::fmt::{self, Write};
use std::io;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot open {}: {source}", path.display())]
    Open { path: PathBuf, source: io::Error },

    /// The file is damaged, hostile, or of a kind this program does not read.
    #[error("{}: {field}: {reason}", path.display())]
    Bad { path: PathBuf, field: String, reason: String },
}

impl Error {
    pub fn open(path: &Path, source: io::Error) -> Error {
        Error::Open { path: path.into(), source }
    }

    pub fn bad(path: &Path, field: impl Into<String>, reason: impl Into<String>) -> Error {
        Error::Bad { path: path.into(), field: field.into(), reason: reason.into() }
    }
}

pub type Result<T> = std::result::Result<T, Error>;

/// A name from a file as it may be printed: in quotes, control characters escaped, and cut where
/// it would fill the screen.
pub struct Quoted<'a>(pub &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LONGEST: usize = 80;
        f.write_char('\'')?;
        for (i, c) in self.0.chars().enumerate() {
            if i == LONGEST {
                f.write_char('…')?;
                break;
            }
            match c {
                '\'' => f.write_char(c)?,
                _ => write!(f, "{}", c.escape_debug())?,
            }
        }
        f.write_char('\'')
    }
}

/// Text made elsewhere (a JSON parser's complaint) cut to what a person would read.
pub(super) fn clipped(text: &str) -> String {
    const LONGEST: usize = 300;
    match text.char_indices().nth(LONGEST) {
        None => text.into(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_name_prints_tamely() {
        assert_eq!(Quoted("a.b").to_string(), "'a.b'");
        assert_eq!(Quoted("a\n\u{1b}[2J").to_string(), "'a\\n\\u{1b}[2J'");
        assert_eq!(Quoted(&"x".repeat(9999)).to_string().chars().count(), 83);
    }
}

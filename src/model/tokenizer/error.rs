//! What can be wrong with a tokenizer's files, or with asking it for something.

/// One sentence: the file, the field in it, and the reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {field}: {reason}")]
pub struct Error {
    pub file: String,
    pub field: String,
    pub reason: String,
}

pub type Result<T> = std::result::Result<T, Error>;

/// Names the file once, so that every check below it can say what is wrong in one line.
#[derive(Clone, Copy)]
pub(super) struct Blame<'a>(pub &'a str);

impl Blame<'_> {
    pub fn bad(self, field: impl Into<String>, reason: impl Into<String>) -> Error {
        Error { file: self.0.to_owned(), field: field.into(), reason: reason.into() }
    }
}

/// A token as it may be shown in a message: bounded and without control characters.
pub(super) fn shown(text: &str) -> String {
    let mut out: String = text.chars().take(40).flat_map(char::escape_debug).collect();
    if text.chars().nth(40).is_some() {
        out.push('…');
    }
    out
}

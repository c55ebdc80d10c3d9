//! Text that comes from outside: bounded, and made UTF-8.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::Outcome;

/// Longer than any context; /dev/zero is longer still.
const LONGEST: u64 = 256 << 20;

/// All of standard input; bytes that are not UTF-8 become U+FFFD.
pub fn stdin() -> Outcome<String> {
    all("standard input", Ok(io::stdin().lock()))
}

/// All of a file; bytes that are not UTF-8 become U+FFFD.
pub fn file(path: &Path) -> Outcome<String> {
    all(&path.display().to_string(), File::open(path))
}

fn all(name: &str, from: io::Result<impl Read>) -> Outcome<String> {
    let mut bytes = Vec::new();
    from.and_then(|from| from.take(LONGEST + 1).read_to_end(&mut bytes))
        .map_err(|e| format!("cannot read {name}: {e}"))?;
    if bytes.len() as u64 > LONGEST {
        return Err(format!("{name} is longer than the 256 MiB taken at once").into());
    }
    // Without a second copy where it is UTF-8, which is nearly always.
    Ok(String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into()))
}

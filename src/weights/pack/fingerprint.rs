//! What a pack remembers of its source, to notice that it changed.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use super::error::Error;
use crate::base::sum::sum;
use crate::weights::folder::CONFIG;
use crate::weights::source::Source;

/// Bytes of each file that are looked into: its header, or most of it.
const LOOKED_AT: u64 = 1 << 20;

/// Sizes and times of a model's files, and a sum of what they begin with. A copy of a model that
/// keeps its times is the same model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fingerprint {
    files: Vec<Mark>,
    /// Of the beginnings of all files.
    head: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mark {
    name: String,
    bytes: u64,
    /// Nanoseconds since 1970.
    modified: u64,
}

impl Fingerprint {
    /// Of a model in files.
    pub fn of(source: &Source) -> Result<Fingerprint, Error> {
        let mut paths: Vec<_> = source.parts().into_iter().map(Path::to_path_buf).collect();
        if let Source::Folder(folder) = source {
            paths.insert(0, folder.path().join(CONFIG));
        }
        let (mut files, mut heads) = (Vec::new(), Vec::new());
        for path in &paths {
            let (mark, head) =
                Mark::of(path).map_err(|source| Error::Source { path: path.clone(), source })?;
            files.push(mark);
            heads.extend(head.to_le_bytes());
        }
        Ok(Fingerprint { files, head: hex(sum(&heads)) })
    }

    /// The largest file's name, for a person.
    pub(super) fn name(&self) -> &str {
        self.files.iter().max_by_key(|mark| mark.bytes).map_or("nothing", |mark| &mark.name)
    }

    /// Whether what a pack was made from is this source: if it is not, in what they differ.
    pub(super) fn differs(&self, packed: &Fingerprint) -> Option<Difference> {
        let same = |a: &Mark, b: &Mark| (a.bytes, a.modified) == (b.bytes, b.modified);
        let pairs = || self.files.iter().zip(&packed.files);
        if self.files.len() == packed.files.len() {
            // Names may have changed: then it is the same model, moved.
            if pairs().all(|(now, then)| same(now, then)) && self.head == packed.head {
                return None;
            }
            if pairs().all(|(now, then)| now.name == then.name) {
                let changed = pairs().find(|(now, then)| !same(now, then));
                return Some(match changed {
                    Some((now, then)) if now.bytes != then.bytes => {
                        Difference::Size { file: now.name.clone(), was: then.bytes, is: now.bytes }
                    }
                    Some((now, _)) => Difference::Time { file: now.name.clone() },
                    None => Difference::Head,
                });
            }
        }
        Some(Difference::Other)
    }
}

/// In what two fingerprints differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Difference {
    Other,
    Size { file: String, was: u64, is: u64 },
    Time { file: String },
    Head,
}

impl Mark {
    fn of(path: &Path) -> io::Result<(Mark, u64)> {
        let mut file = File::open(path)?;
        let found = file.metadata()?;
        let mut head = Vec::new();
        Read::by_ref(&mut file).take(LOOKED_AT).read_to_end(&mut head)?;
        let name = path.file_name().unwrap_or_default();
        // Before 1970 and after 2554 there were no models.
        let since = found.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        let mark = Mark {
            name: name.to_string_lossy().into_owned(),
            bytes: found.len(),
            modified: since.as_nanos() as u64,
        };
        Ok((mark, sum(&head)))
    }
}

/// A sum as it stands in a header.
pub(super) fn hex(sum: u64) -> String {
    format!("{sum:016x}")
}

//! Models split into files `NAME-00001-of-00003.gguf` and so on.

use std::path::{Path, PathBuf};

use super::Part;
use super::metadata::Metadata;
use crate::weights::error::{Error, Result};

/// A metadata key of split files.
pub(super) struct Key(&'static str);

impl Key {
    pub fn field(&self) -> String {
        format!("metadata key '{}'", self.0)
    }

    fn read(&self, metadata: &Metadata) -> Result<Option<u32>> {
        metadata.u32_opt(self.0)
    }

    fn need(&self, metadata: &Metadata) -> Result<u32> {
        metadata.u32(self.0)
    }
}

pub(super) const COUNT: Key = Key("split.count");
const NUMBER: Key = Key("split.no");
const TENSORS: Key = Key("split.tensors.count");

/// What one part says about the whole.
pub(super) struct Split {
    count: u32,
    /// From 0, while names count from 1.
    number: u32,
    tensors: Option<u32>,
}

impl Split {
    /// `None` for a file that is whole.
    pub fn read(part: &Part) -> Result<Option<Split>> {
        let count = match COUNT.read(&part.metadata)? {
            None | Some(0 | 1) => return Ok(None),
            Some(count) => count,
        };
        let number = NUMBER.need(&part.metadata)?;
        let tensors = TENSORS.read(&part.metadata)?;
        if number >= count {
            let reason = format!("part {number} (counted from 0) of {count} cannot be");
            return Err(Error::bad(&part.path, NUMBER.field(), reason));
        }
        Ok(Some(Split { count, number, tensors }))
    }

    /// Opens the other parts beside `opened` and checks that all belong together.
    pub fn open_all(&self, opened: Part) -> Result<Vec<Part>> {
        let stem = self.stem(&opened.path)?;
        let folder = opened.path.parent().map(Path::to_path_buf).unwrap_or_default();
        // Missing parts first: the list of them is what a person needs, and it costs little.
        let path = |number: u32| -> PathBuf {
            folder.join(format!("{stem}{}", suffix(number, self.count)))
        };
        if let Some(missing) = (0..self.count).find(|&n| n != self.number && !path(n).exists()) {
            return Err(Error::bad(
                &opened.path,
                COUNT.field(),
                format!(
                    "the model has {} parts, and part {} is missing: put {} beside this file",
                    self.count,
                    missing + 1,
                    path(missing).display()
                ),
            ));
        }
        let mut parts = Vec::new();
        let mut opened = Some(opened);
        for number in 0..self.count {
            let part = match opened.take_if(|_| number == self.number) {
                Some(part) => part,
                None => {
                    let part = Part::open(path(number))?;
                    self.check(&part, number)?;
                    part
                }
            };
            parts.push(part);
        }
        let found: usize = parts.iter().map(|part| part.tensors.len()).sum();
        if let Some(expected) = self.tensors.filter(|&n| n as usize != found) {
            let reason = format!("{expected} tensors are announced, the parts hold {found}");
            return Err(Error::bad(&parts[0].path, TENSORS.field(), reason));
        }
        Ok(parts)
    }

    /// The file's name without its `-00001-of-00003.gguf`.
    fn stem(&self, path: &Path) -> Result<String> {
        let suffix = suffix(self.number, self.count);
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        match name.strip_suffix(&suffix) {
            Some(stem) => Ok(stem.into()),
            None => Err(Error::bad(
                path,
                NUMBER.field(),
                format!(
                    "this is part {} of {}, so its name must end in {suffix} for the other parts \
                     to be found; rename it back",
                    self.number + 1,
                    self.count
                ),
            )),
        }
    }

    /// Refuses a part that belongs to another model or another place.
    fn check(&self, part: &Part, number: u32) -> Result<()> {
        let bad = |key: &Key, reason: String| Err(Error::bad(&part.path, key.field(), reason));
        let Some(theirs) = Split::read(part)? else {
            return bad(
                &COUNT,
                format!("a part of {} is expected, this file is whole", self.count),
            );
        };
        if theirs.count != self.count {
            return bad(&COUNT, format!("is {}, but {} in another part", theirs.count, self.count));
        }
        if theirs.number != number {
            return bad(
                &NUMBER,
                format!("is {}, but the file's name says {number} (counted from 0)", theirs.number),
            );
        }
        match (theirs.tensors, self.tensors) {
            (Some(theirs), Some(ours)) if theirs != ours => {
                bad(&TENSORS, format!("is {theirs}, but {ours} in another part"))
            }
            _ => Ok(()),
        }
    }
}

fn suffix(number: u32, count: u32) -> String {
    format!("-{:05}-of-{count:05}.gguf", u64::from(number) + 1)
}

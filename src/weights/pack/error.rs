//! What can be wrong with a pack, or with making one.

use std::io;
use std::path::PathBuf;

use crate::base::units::Bytes;

/// What to do about a damaged pack.
const AGAIN: &str = "delete it, or pack the model again";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("there is no pack at {}", path.display())]
    Missing { path: PathBuf },

    #[error("cannot open the pack {}: {source}", path.display())]
    Open { path: PathBuf, source: io::Error },

    #[error("cannot read the model's file {}: {source}", path.display())]
    Source { path: PathBuf, source: io::Error },

    #[error("{}: this is not a pack of a model: it begins with \"{start}\"", path.display())]
    Magic { path: PathBuf, start: String },

    #[error(
        "{}: this pack is of format {found} and this program reads {reads}: use a newer Penstock, \
         or pack the model again with this one", path.display()
    )]
    Newer { path: PathBuf, found: u32, reads: u32 },

    #[error(
        "{}: this pack is of format {found}, which is no longer read: pack the model again",
        path.display()
    )]
    Older { path: PathBuf, found: u32 },

    #[error("{}: the pack's {part} is damaged: {AGAIN}", path.display())]
    Damaged { path: PathBuf, part: &'static str },

    #[error(
        "{}: the pack is cut short: it has {found} bytes of {expected}: {AGAIN}", path.display()
    )]
    Short { path: PathBuf, found: u64, expected: u64 },

    #[error(
        "{}: the pack has {found} bytes, {} more than belong to it: {AGAIN}",
        path.display(), found - expected
    )]
    Long { path: PathBuf, found: u64, expected: u64 },

    #[error(
        "{}: this is the pack of another model: it was made from {packed}, not from {model}",
        path.display()
    )]
    OtherModel { path: PathBuf, packed: String, model: String },

    #[error("{}: the model has changed since it was packed ({what}): pack it again", path.display())]
    Changed { path: PathBuf, what: String },

    #[error(
        "{}: the pack does not hold what this program expects of the model ({what}): pack the \
         model again", path.display()
    )]
    Contents { path: PathBuf, what: String },

    #[error(
        "{}: this is file {number} of a pack in several: name the first one ({first})",
        path.display()
    )]
    NotFirst { path: PathBuf, number: u32, first: String },

    #[error(
        "{}: file {number} of the pack, {}, is missing: put it back, or pack the model again",
        path.display(), part.display()
    )]
    MissingPart { path: PathBuf, number: usize, part: PathBuf },

    #[error(
        "{}: this file belongs to another pack than {}: pack the model again",
        part.display(), path.display()
    )]
    OtherPart { path: PathBuf, part: PathBuf },

    #[error(
        "layer {layer}: expert {expert} has a matrix {found} where expert 0 has {first}; a layer \
         whose experts differ cannot be packed"
    )]
    Uneven { layer: usize, expert: usize, found: String, first: String },

    #[error("layer {layer} has no experts to pack")]
    NoExperts { layer: usize },

    #[error("the model is larger than any file can be")]
    TooLarge,

    #[error("a block of {bytes} bytes cannot be: give a multiple of 4 KiB, up to 16 MiB")]
    Block { bytes: usize },

    #[error("the same file is named twice: {}", path.display())]
    Twice { path: PathBuf },

    #[error("a pack needs a file to be written to")]
    NoFile,

    #[error("{}: a folder is no place to write a pack over: name a file in it", path.display())]
    Folder { path: PathBuf },

    #[error(
        "{}: another process is packing there: wait for it to end, or stop it", path.display()
    )]
    Busy { path: PathBuf },

    #[error(
        "{}: the pack needs {}{} and the disk has {} free: free some, or write it elsewhere",
        path.display(), Bytes(*needed), if *left { " more" } else { "" }, Bytes(*free)
    )]
    Full { path: PathBuf, needed: u64, free: u64, left: bool },

    #[error("cannot write the pack {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },

    #[error("packing was stopped")]
    Stopped,
}

//! What a path holds, decided by content; and a model whatever its form.

use std::io;
use std::path::Path;

use super::error::{Error, Quoted, Result};
use super::folder::{self, HfFolder};
use super::gguf::{self, Gguf};
use super::sniff;
use super::tensor::Tensor;
use crate::host::mapping::Bytes;

/// An opened model.
#[derive(Debug)]
pub enum Source {
    Gguf(Gguf),
    Folder(Box<HfFolder>),
}

impl Source {
    /// Opens a GGUF file, a Hugging Face folder, or a folder by a file in it.
    pub fn open(path: &Path) -> Result<Source> {
        let kind = std::fs::metadata(path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => Error::bad(
                path,
                "path",
                "there is no such file or folder; a model is given by the path of a GGUF file or \
                 of a Hugging Face folder (nothing is downloaded)",
            ),
            _ => Error::open(path, source),
        })?;
        if kind.is_dir() {
            return open_folder(path);
        }
        let bytes = Bytes::map(path).map_err(|source| Error::open(path, source))?;
        if bytes.starts_with(gguf::MAGIC) {
            return Gguf::open(path).map(Source::Gguf);
        }
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let in_folder = name.ends_with(".safetensors")
            || name.ends_with(".safetensors.index.json")
            || name == folder::CONFIG;
        // Anything may begin a good safetensors file, so its own parser decides there.
        if let Some(reason) = sniff::stranger(&bytes).filter(|_| !in_folder || bytes.is_empty()) {
            return Err(Error::bad(path, "file", reason));
        }
        if in_folder {
            let folder = match path.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent,
                _ => Path::new("."),
            };
            return open_folder(folder);
        }
        let reason = format!(
            "this is not a model: it starts with \"{}\", where a GGUF file has \"GGUF\"; a \
             safetensors model is given by its folder",
            sniff::first_bytes(&bytes)
        );
        Err(Error::bad(path, "file", reason))
    }

    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        match self {
            Source::Gguf(gguf) => gguf.tensor(name),
            Source::Folder(folder) => folder.tensor(name),
        }
    }

    /// The tensor, or the sentence that it is missing.
    pub fn require(&self, name: &str) -> Result<&Tensor> {
        match self {
            Source::Gguf(gguf) => gguf.require(name),
            Source::Folder(folder) => folder.require(name),
        }
    }

    /// All tensors in file order.
    pub fn tensors(&self) -> std::slice::Iter<'_, Tensor> {
        match self {
            Source::Gguf(gguf) => gguf.tensors(),
            Source::Folder(folder) => folder.tensors(),
        }
    }

    /// The path it was opened by (a folder, where a file in it was named).
    pub fn path(&self) -> &Path {
        match self {
            Source::Gguf(gguf) => gguf.path(),
            Source::Folder(folder) => folder.path(),
        }
    }

    /// The files with the weights.
    pub fn parts(&self) -> Vec<&Path> {
        match self {
            Source::Gguf(gguf) => gguf.parts().collect(),
            Source::Folder(folder) => folder.parts().collect(),
        }
    }

    /// Bytes of these files together.
    pub fn file_bytes(&self) -> u64 {
        match self {
            Source::Gguf(gguf) => gguf.file_bytes(),
            Source::Folder(folder) => folder.file_bytes(),
        }
    }
}

fn open_folder(path: &Path) -> Result<Source> {
    if path.join(folder::CONFIG).exists() {
        return HfFolder::open(path).map(|folder| Source::Folder(Box::new(folder)));
    }
    let reason = match folder::names_ending(path, &[".gguf"])?.first() {
        Some(file) => format!("is missing, but there is {}: give that file's path", Quoted(file)),
        None => {
            "is missing: this is no Hugging Face folder, or its download is not complete".into()
        }
    };
    Err(Error::bad(path, folder::CONFIG, reason))
}

//! From the MODEL a user names to an opened one.

use std::path::Path;
use std::rc::Rc;

use super::Outcome;
use super::out::note;
use crate::base::units::Bytes;
use crate::host;
use crate::model::{Model, Text, demo};
use crate::weights::Source;

/// Opens the headers of a model: `demo`, a GGUF file or a Hugging Face folder.
pub fn source(name: &str) -> Outcome<Source> {
    // A file of that name can still be had, as ./demo.
    if name == "demo" {
        return Ok(demo::source()?);
    }
    if name.is_empty() {
        return Err("MODEL is empty: give a GGUF file, a Hugging Face folder, or demo".into());
    }
    Ok(Source::open(Path::new(name))?)
}

pub fn text(source: &Source) -> Outcome<Text> {
    Ok(Text::open(source)?)
}

/// Finds every weight. The bytes stay in the file until a step touches them.
pub fn model(source: &Source) -> Outcome<Rc<Model>> {
    let (needed, free) = (source.file_bytes(), host::memory::available());
    if needed > free {
        note!(
            "penstock: the model has {} and {} of memory is free: weights will be read again \
             and again, slowly",
            Bytes(needed),
            Bytes(free)
        );
    }
    Ok(Rc::new(Model::open(source)?))
}

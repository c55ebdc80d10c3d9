//! What was used of a model's experts, kept beside its pack for the next start.

use std::fs;
use std::path::PathBuf;

use crate::engine::Engine;
use crate::weights::pack::Pack;
use crate::weights::residency::History;

/// `MODEL.penstock.history`
fn place(pack: &Pack) -> Option<PathBuf> {
    let mut name = pack.files().first()?.clone().into_os_string();
    name.push(".history");
    Some(name.into())
}

/// What was kept, if it can be made sense of: it only says what to read first.
pub fn read(pack: &Pack) -> Option<History> {
    serde_json::from_slice(&fs::read(place(pack)?).ok()?).ok()
}

/// Keeps what this engine has seen; a folder that cannot be written is no reason to fail.
pub fn keep(engine: &Engine) {
    let keep = || -> Option<()> {
        let history = serde_json::to_vec(&engine.history()?).ok()?;
        let place = place(engine.staging()?.pack())?;
        let partial = place.with_extension("history.part");
        fs::write(&partial, history).ok()?;
        fs::rename(partial, place).ok()
    };
    let _ = keep();
}

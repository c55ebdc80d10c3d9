//! What is kept beside a model's pack: what was used of its experts, and how fast its drive is.
//!
//! Both only make the next start better. A folder that cannot be written, or a file that makes no
//! sense, is no reason to fail.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::out::note;
use crate::engine::Engine;
use crate::host::profile::{Profile, Sample};
use crate::weights::pack::Pack;
use crate::weights::residency::History;

const HISTORY: &str = "history";
const DRIVE: &str = "drive";

/// What was used in earlier runs.
pub fn history(pack: &Pack) -> Option<History> {
    read(&place(pack, HISTORY)?)
}

/// Keeps what this engine has seen.
pub fn keep_history(engine: &Engine) {
    if let Some((history, staging)) = engine.history().zip(engine.staging()) {
        keep(staging.pack(), HISTORY, &history);
    }
}

/// How fast the pack's drive is: measured when it was not known yet. `None`: it cannot be.
pub fn drive(pack: &Pack) -> Option<Profile> {
    if let Some(known) = place(pack, DRIVE).and_then(|place| read(&place)) {
        return Some(known);
    }
    note!("penstock: measuring the drive once");
    let measured = measure(pack).ok()?;
    keep(pack, DRIVE, &measured);
    Some(measured)
}

/// Measures the pack's drive now.
pub fn measure(pack: &Pack) -> super::Outcome<Profile> {
    let file = pack.files().first().ok_or("a pack without files")?;
    Ok(Profile::measure(&Sample::of(file)?)?)
}

/// `MODEL.penstock.WHAT`
fn place(pack: &Pack, what: &str) -> Option<PathBuf> {
    let mut name = pack.files().first()?.clone().into_os_string();
    name.push(".");
    name.push(what);
    Some(name.into())
}

fn read<T: DeserializeOwned>(place: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(place).ok()?).ok()
}

fn keep(pack: &Pack, what: &str, value: &impl Serialize) {
    let write = || -> Option<()> {
        let (partial, place) = (place(pack, &format!("{what}.part"))?, place(pack, what)?);
        fs::write(&partial, serde_json::to_vec(value).ok()?).ok()?;
        fs::rename(partial, place).ok()
    };
    let _ = write();
}

//! Finding the pack of a model, and making it where it is missing.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};

use super::Outcome;
use super::out::note;
use super::progress::Progress;
use super::signals::Stop;
use crate::base::sum::sum;
use crate::base::units::Bytes;
use crate::shard::Lead;
use crate::weights::Source;
use crate::weights::pack::{self, BLOCK, Built, Contents, Error, Fingerprint, Hands, Job, Pack};

/// How a pack's file name ends.
pub const ENDING: &str = "penstock";

/// Whether a model is packed by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Packing {
    /// Where the experts do not fit in memory
    #[default]
    Auto,
    /// Whether they fit or not
    Always,
    /// Not at all; a pack that is there is not used either
    Never,
}

/// Options of commands that may read a pack.
#[derive(clap::Args, Clone, Debug, Default)]
#[command(next_help_heading = "The model's pack (the answer stays the same)")]
pub struct PackArgs {
    /// When to make a pack of the model, from which experts are read at full disk speed
    #[arg(long, value_enum, value_name = "WHEN", default_value = "auto")]
    pack: Packing,

    /// Folder for packs, where they shall not lie beside their models
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
}

/// The pack of a model if there is one that belongs to it, made anew if the model has changed;
/// where there is none, a new one if there is `need` of it or it was asked for. `None` for a model
/// that is not in files.
pub fn find_or_make(
    source: &Source,
    contents: &Contents,
    args: &PackArgs,
    need: bool,
    lead: &mut Lead,
) -> Outcome<Option<Pack>> {
    if args.pack == Packing::Never || !in_files(source) {
        return Ok(None);
    }
    let fingerprint = Fingerprint::of(source)?;
    let places = places(source, args.cache_dir.as_deref());
    let mut make = need || args.pack == Packing::Always;
    // Where one lies that is of no use, a new one replaces it.
    let mut instead = None;
    for place in &places {
        match Pack::open(place, contents, &fingerprint) {
            Ok(pack) => return Ok(Some(pack)),
            Err(Error::Missing { .. }) => {}
            // Not this program's to replace unasked: what a newer one made, what lies on several
            // drives, what cannot be read.
            Err(
                error @ (Error::Newer { .. }
                | Error::Open { .. }
                | Error::MissingPart { .. }
                | Error::OtherPart { .. }
                | Error::NotFirst { .. }),
            ) => match make {
                true => return Err(error.into()),
                false => note!("penstock: {error}"),
            },
            Err(error) => {
                note!("penstock: {error}");
                instead.get_or_insert_with(|| place.clone());
                make = true;
            }
        }
    }
    if !make {
        return Ok(None);
    }
    let candidates = instead.into_iter().chain(places);
    let Some(place) = first_writable(candidates) else {
        let beside = place_beside(source).display().to_string();
        return Err(format!(
            "the model must be packed, and neither {beside} nor a cache folder can be written: \
             name a folder with --cache-dir"
        )
        .into());
    };
    note!("penstock: packing the model once, to {}", place.display());
    build(contents, &fingerprint, std::slice::from_ref(&place), BLOCK, lead)?;
    Ok(Some(Pack::open(&place, contents, &fingerprint)?))
}

/// A folder for files of this program's own beside a model's pack: where one is or could be made.
pub fn folder_beside(source: &Source, args: &PackArgs) -> Outcome<PathBuf> {
    let places = match in_files(source) {
        true => places(source, args.cache_dir.as_deref()),
        // As if there were a pack.
        false => {
            args.cache_dir.clone().or_else(user_cache).map(|f| f.join("pack")).into_iter().collect()
        }
    };
    match first_writable(places).as_deref().and_then(Path::parent) {
        Some(folder) if folder.as_os_str().is_empty() => Ok(".".into()),
        Some(folder) => Ok(folder.into()),
        None => Err("no cache folder can be written: name a folder with --cache-dir".into()),
    }
}

/// Whether a model lies in files: the one inside the program does not.
pub fn in_files(source: &Source) -> bool {
    source.parts().iter().all(|part| part.is_file())
}

/// Makes a pack with all the lead's shards, showing how far it is; a signal stops it in order.
pub fn build(
    contents: &Contents,
    source: &Fingerprint,
    files: &[PathBuf],
    block: usize,
    lead: &mut Lead,
) -> Outcome<Built> {
    let job = Job { contents, source, files, block };
    with_hands(lead, "packing", |hands, progress| job.run(hands, progress))
}

/// Reads all of a pack again.
pub fn verify(pack: &Pack, lead: &mut Lead) -> Outcome<Vec<pack::Damage>> {
    with_hands(lead, "verifying", |hands, progress| pack.verify(hands, progress))
}

fn with_hands<T>(
    lead: &mut Lead,
    what: &'static str,
    work: impl FnOnce(&mut Hands, &mut dyn FnMut(pack::Far) -> bool) -> Result<T, Error>,
) -> Outcome<T> {
    let stop = Stop::on_any()?;
    let mut shown: Option<Progress> = None;
    let mut progress = |far: pack::Far| {
        shown.get_or_insert_with(|| Progress::new(what, far.whole)).show(far.done);
        !stop.take()
    };
    lead.begin();
    let count = lead.shards();
    let mut each = |pieces: usize, work: &(dyn Fn(usize) + Sync)| {
        lead.crew().each(pieces, |_, i| work(i));
    };
    let made = work(&mut Hands { count, each: &mut each }, &mut progress);
    lead.rest();
    shown.iter_mut().for_each(Progress::clear);
    match made {
        Err(Error::Stopped) => Err(stop.interrupted().into()),
        made => Ok(made?),
    }
}

/// Where the pack of a model is looked for, the best place first.
fn places(source: &Source, cache_dir: Option<&Path>) -> Vec<PathBuf> {
    let in_folder = |folder: &Path| folder.join(name_in_cache(source));
    match cache_dir {
        Some(folder) => vec![in_folder(folder)],
        None => {
            let cache = user_cache().map(|folder| in_folder(&folder));
            [Some(place_beside(source)), cache].into_iter().flatten().collect()
        }
    }
}

/// `MODEL.penstock` beside a GGUF file, `model.penstock` in a folder.
pub fn place_beside(source: &Source) -> PathBuf {
    match source {
        Source::Folder(folder) => folder.path().join("model").with_extension(ENDING),
        Source::Gguf(file) => file.path().with_file_name(format!("{}.{ENDING}", stem(source))),
    }
}

/// A model's name without what every file of its kind has.
fn stem(source: &Source) -> String {
    let path = source.path();
    let path = match source {
        // A folder may have been given as `.`.
        Source::Folder(_) => path.canonicalize().unwrap_or_else(|_| path.into()),
        Source::Gguf(_) => path.into(),
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    match source {
        Source::Folder(_) => name.into_owned(),
        Source::Gguf(file) => {
            let name = name.strip_suffix(".gguf").unwrap_or(&name);
            let whole = match file.parts().count() {
                1 => name,
                // NAME-00001-of-00003: whichever part was named.
                _ => name.len().checked_sub(15).map_or(name, |end| name.get(..end).unwrap_or(name)),
            };
            whole.into()
        }
    }
}

/// Models of one name in several folders share a cache folder.
fn name_in_cache(source: &Source) -> String {
    let beside = place_beside(source);
    let folder = match beside.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.into());
    let place = sum(folder.as_os_str().as_encoded_bytes()) as u32;
    format!("{}-{place:08x}.{ENDING}", stem(source))
}

/// `$XDG_CACHE_HOME/penstock` or `~/.cache/penstock`.
fn user_cache() -> Option<PathBuf> {
    let folder = |name: &str| {
        let path = PathBuf::from(std::env::var_os(name)?);
        path.is_absolute().then_some(path)
    };
    let cache = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")));
    Some(cache?.join("penstock"))
}

/// The first place where a file can be made, its folder with it.
fn first_writable(places: impl IntoIterator<Item = PathBuf>) -> Option<PathBuf> {
    places.into_iter().find(|place| {
        let Some(folder) = place.parent() else { return false };
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let _ = std::fs::create_dir_all(folder);
        // Rights alone do not say it: the file system may be read-only.
        let probe = folder.join(format!(".penstock.{}", std::process::id()));
        let made = OpenOptions::new().write(true).create(true).truncate(true).open(&probe).is_ok();
        let _ = std::fs::remove_file(&probe);
        made
    })
}

/// "17.0 GiB in 12.3 s, 1.4 GiB/s"
pub fn summary(bytes: u64, seconds: f64) -> String {
    let rate = Bytes((bytes as f64 / seconds.max(1e-3)) as u64);
    format!("{} in {seconds:.1} s, {rate}/s", Bytes(bytes))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::math::Format;
    use crate::model::synth::Recipe;
    use crate::model::{Model, demo};

    fn write(path: &Path, seed: u64) {
        let recipe = Recipe::new("tiny", Format::Q8_0, Some(1), 0.0, seed).unwrap();
        fs::write(path, recipe.write(Vec::new(), |_| Ok(())).unwrap()).unwrap();
    }

    fn found(path: &Path, pack: Packing, need: bool, cache: Option<&Path>) -> Option<PathBuf> {
        let source = Source::open(path).unwrap();
        let contents = Model::open(&source).unwrap().parts.contents();
        let args = PackArgs { pack, cache_dir: cache.map(Path::to_path_buf) };
        let pack = find_or_make(&source, &contents, &args, need, &mut Lead::alone()).unwrap();
        pack.map(|pack| pack.files()[0].clone())
    }

    #[test]
    fn a_pack_is_made_when_it_is_needed_and_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let (model, pack) = (folder.path().join("m.gguf"), folder.path().join("m.penstock"));
        write(&model, 0);
        assert_eq!(found(&model, Packing::Auto, false, None), None);
        assert_eq!(found(&model, Packing::Never, true, None), None);
        assert_eq!(found(&model, Packing::Auto, true, None), Some(pack.clone()));
        let made = fs::metadata(&pack).unwrap().modified().unwrap();
        assert_eq!(found(&model, Packing::Auto, false, None), Some(pack.clone()));
        assert_eq!(found(&model, Packing::Always, true, None), Some(pack.clone()));
        assert_eq!(fs::metadata(&pack).unwrap().modified().unwrap(), made, "made once");
        // Another model of the same name.
        write(&model, 1);
        assert_eq!(found(&model, Packing::Auto, false, None), Some(pack.clone()));
        assert!(fs::metadata(&pack).unwrap().modified().unwrap() > made, "made anew");
        // Damaged at its beginning, it is made anew as well.
        fs::write(&pack, "PENS").unwrap();
        assert_eq!(found(&model, Packing::Auto, true, None), Some(pack.clone()));
        // In a folder of the user's choice.
        let cache = folder.path().join("new/cache");
        let there = found(&model, Packing::Always, false, Some(&cache)).unwrap();
        assert_eq!(there.parent(), Some(&*cache));
        assert!(there.file_name().unwrap().to_str().unwrap().starts_with("m-"));
        assert_eq!(found(&model, Packing::Auto, false, Some(&cache)), Some(there));
    }

    #[test]
    fn a_pack_of_a_newer_program_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let (model, pack) = (folder.path().join("m.gguf"), folder.path().join("m.penstock"));
        write(&model, 0);
        found(&model, Packing::Always, false, None).unwrap();
        let mut bytes = fs::read(&pack).unwrap();
        bytes[8] = 200;
        fs::write(&pack, &bytes).unwrap();
        assert_eq!(found(&model, Packing::Auto, false, None), None);
        let source = Source::open(&model).unwrap();
        let contents = Model::open(&source).unwrap().parts.contents();
        let needed =
            find_or_make(&source, &contents, &PackArgs::default(), true, &mut Lead::alone());
        assert!(needed.unwrap_err().to_string().contains("newer Penstock"));
        assert!(fs::read(&pack).unwrap() == bytes);
    }

    #[test]
    fn the_demo_needs_no_pack() {
        let source = demo::source().unwrap();
        assert!(!in_files(&source));
        let contents = Model::open(&source).unwrap().parts.contents();
        let args = PackArgs { pack: Packing::Always, cache_dir: None };
        assert!(
            find_or_make(&source, &contents, &args, true, &mut Lead::alone()).unwrap().is_none()
        );
    }

    #[test]
    fn places_are_tried_in_turn() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        // No right makes a folder of a file.
        let (blocked, free) = (file.join("p"), folder.path().join("cache/p"));
        assert_eq!(first_writable([blocked.clone(), free.clone()]), Some(free.clone()));
        assert_eq!(first_writable([blocked]), None);
        assert_eq!(fs::read_dir(free.parent().unwrap()).unwrap().count(), 0);
    }

    #[test]
    fn names_of_packs() {
        let reference = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference");
        let place = |name: &str| {
            let source = Source::open(&reference.join(name)).unwrap();
            place_beside(&source).strip_prefix(&reference).unwrap().display().to_string()
        };
        assert_eq!(place("gguf/dsv3_groups.gguf"), "gguf/dsv3_groups.penstock");
        assert_eq!(place("gguf/llama_llama3-00002-of-00003.gguf"), "gguf/llama_llama3.penstock");
        assert_eq!(place("families/dsv3_fp8"), "families/dsv3_fp8/model.penstock");
    }
}

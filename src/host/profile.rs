//! What a drive can do, measured: how fast it reads in blocks of which size, so many at once.
//!
//! It is measured through the mover that reads weights, so what is found is what is had.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::arena::{Arena, ArenaError, Region};
use super::direct::SECTOR;
use super::drive::{Drive, Read, Urgency};
use super::mover::{Depth, Kit, Mover, Setup};
use super::ring::{RingError, Source};
use crate::base::units::Bytes;

pub const BLOCKS: [usize; 4] = [64 << 10, 256 << 10, 1 << 20, 4 << 20];
pub const DEPTHS: [usize; 6] = [1, 2, 4, 8, 16, 32];

/// All is measured in rounds, of which the best counts: a shared drive's speed drifts. A thread that
/// spins hears of a read first, unless others want its processor; then one that sleeps does.
const ROUNDS: [Pause; 3] = [Pause::Spin, Pause::Sleep, Pause::Spin];
const CELL: Duration = Duration::from_millis(40);
/// The chosen way once more, with spinning and without.
const LONG: Duration = Duration::from_millis(500);
/// What is read into: more than a processor's caches hold.
const MEMORY: usize = 256 << 20;

/// How much slower than the best the cheapest may be.
const GOOD: f64 = 0.95;

/// A file that is smaller says little: a disk's own memory may hold it.
const LEAST_FILE: u64 = 1 << 30;
/// What is written to be read where there is no such file.
const WRITTEN: u64 = 2 << 30;
/// That much stays free where it is written.
const SPARED: u64 = 4 << 30;

/// How one file's drive reads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// What the cheapest way reaches: the smallest block and depth within 5% of the best.
    pub bytes_per_second: f64,
    pub block: usize,
    pub depth: usize,
    /// The part of a core that takes, if the thread sleeps while there is nothing to do.
    pub core: f64,
    /// By block, then depth.
    pub table: Vec<Cell>,
    /// By block.
    pub alone: Vec<Alone>,
    /// Past the page cache; if not, it is perhaps memory that was measured.
    pub direct: bool,
    /// Into memory that the kernel knew; if not, why.
    pub registered: bool,
    pub not_registered: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    pub block: usize,
    pub depth: usize,
    pub bytes_per_second: f64,
}

/// How long one read takes with nothing else under way.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alone {
    pub block: usize,
    pub median_us: f64,
    pub p99_us: f64,
}

#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    #[error("{}: {error}", path.display())]
    File { path: PathBuf, error: io::Error },
    #[error(
        "{} has {} free, too little to write a file to measure with: name a file of 1 GiB or more \
         on the same drive", path.display(), Bytes(*free)
    )]
    Full { path: PathBuf, free: u64 },
    #[error(transparent)]
    Memory(#[from] ArenaError),
    #[error(transparent)]
    Ring(#[from] RingError),
    #[error("{}: a block could not be read: {fault}", path.display())]
    Read { path: PathBuf, fault: super::drive::Fault },
}

/// A file on the drive to be measured.
#[derive(Debug)]
pub struct Sample {
    source: Source,
    path: PathBuf,
    /// Whether it was written for this. It has no name and is gone with the program, however
    /// that ends.
    pub written: bool,
}

impl Sample {
    /// The file that is named, or a large one in the folder that is; else one is written there.
    pub fn find(path: &Path) -> Result<Sample, ProfileError> {
        let failed = |error| ProfileError::File { path: path.into(), error };
        let found = fs::metadata(path).map_err(failed)?;
        if found.is_dir() {
            return match largest(path) {
                Some(file) => Sample::of(&file),
                None => Sample::write(path),
            };
        }
        if found.is_file() && found.len() < LEAST_FILE {
            // Its folder is on the same drive.
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            return Sample::find(folder.unwrap_or(Path::new(".")));
        }
        Sample::of(path)
    }

    /// This very file.
    pub fn of(path: &Path) -> Result<Sample, ProfileError> {
        let failed = |error| ProfileError::File { path: path.into(), error };
        let source = Source::open(path).map_err(failed)?;
        Ok(Sample { source, path: path.into(), written: false })
    }

    fn write(folder: &Path) -> Result<Sample, ProfileError> {
        let failed = |error| ProfileError::File { path: folder.into(), error };
        let free = free(folder).map_err(failed)?;
        let len = WRITTEN.min(free.saturating_sub(SPARED));
        if len < LEAST_FILE / 2 {
            return Err(ProfileError::Full { path: folder.into(), free });
        }
        let file = nameless(folder).map_err(failed)?;
        fill(&file, len).map_err(failed)?;
        // The same file, opened another way.
        let again = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let source = Source::open(&again).map_err(failed)?;
        Ok(Sample { source, path: folder.into(), written: true })
    }

    /// The file, or the folder in which one was written.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The largest file in a folder that is large enough and not full of holes, which are read at the
/// speed of memory.
fn largest(folder: &Path) -> Option<PathBuf> {
    let files = fs::read_dir(folder).ok()?.flatten().filter_map(|entry| {
        let found = fs::metadata(entry.path()).ok()?;
        let whole = found.is_file() && found.blocks() * 512 >= found.len() / 10 * 9;
        (whole && found.len() >= LEAST_FILE).then(|| (found.len(), entry.path()))
    });
    files.max().map(|(_, path)| path)
}

fn free(folder: &Path) -> io::Result<u64> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(folder.as_os_str().as_bytes())?;
    // SAFETY: all zeroes are a value of it; the path is a string that ends, and the kernel fills
    // what it is given.
    let (refused, found) = unsafe {
        let mut found: libc::statvfs = std::mem::zeroed();
        (libc::statvfs(path.as_ptr(), &mut found), found)
    };
    match refused {
        0 => Ok(found.f_bavail.saturating_mul(found.f_frsize)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A file that has no name, or loses it at once.
fn nameless(folder: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    match options.clone().custom_flags(libc::O_TMPFILE).open(folder) {
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::EOPNOTSUPP | libc::EISDIR | libc::ENOENT | libc::EINVAL)
            ) =>
        {
            let path = folder.join(format!(".penstock-{}.part", std::process::id()));
            let file = options.create_new(true).open(&path)?;
            fs::remove_file(&path)?;
            Ok(file)
        }
        opened => opened,
    }
}

/// Bytes that no drive can make fewer, on the disk.
fn fill(mut file: &File, len: u64) -> io::Result<()> {
    let mut piece = vec![0u8; 8 << 20];
    let mut state = Random::new();
    for at in (0..len).step_by(piece.len()) {
        piece
            .chunks_exact_mut(8)
            .for_each(|word| word.copy_from_slice(&state.next().to_ne_bytes()));
        let part = piece.len().min((len - at) as usize);
        file.write_all(&piece[..part])?;
    }
    file.sync_data()
}

/// Numbers without a pattern that a drive could know.
struct Random(u64);

impl Random {
    fn new() -> Random {
        Random(0x9e37_79b9_7f4a_7c15)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

impl Profile {
    /// Measures for some three seconds; a slow drive takes longer to come to its end. Whatever
    /// else uses it makes the numbers smaller.
    pub fn measure(sample: &Sample) -> Result<Profile, ProfileError> {
        let arena = Arena::reserve(MEMORY)?;
        let mut bench = Bench::open(sample, arena)?;
        let mut table = Vec::new();
        for block in BLOCKS {
            table.extend(DEPTHS.map(|depth| Cell { block, depth, bytes_per_second: 0.0 }));
        }
        let mut times: Vec<Vec<f64>> = BLOCKS.iter().map(|_| Vec::new()).collect();
        for pause in ROUNDS {
            for Cell { block, depth, bytes_per_second } in &mut table {
                let at = BLOCKS.iter().position(|other| other == block);
                let times = at.filter(|_| *depth == 1).map(|at| &mut times[at]);
                let found = bench.run(*block, *depth, CELL, pause, times)?;
                *bytes_per_second = bytes_per_second.max(found);
            }
        }
        let best = cheapest(&table);
        // Short bursts say what is best, not what lasts.
        let lasts = bench.run(best.block, best.depth, LONG, Pause::Spin, None)?;
        let began = cpu_time();
        let start = Instant::now();
        let asleep = bench.run(best.block, best.depth, LONG, Pause::Sleep, None)?;
        let core = (cpu_time() - began).as_secs_f64() / start.elapsed().as_secs_f64();
        let alone = BLOCKS.iter().zip(times).map(|(block, times)| Alone::of(*block, times));
        let grants = bench.mover.grants();
        Ok(Profile {
            bytes_per_second: lasts.max(asleep),
            block: best.block,
            depth: best.depth,
            core,
            table,
            alone: alone.collect(),
            direct: sample.source.direct(),
            registered: grants.memory,
            not_registered: grants.memory_refused.clone(),
        })
    }

    /// The smallest depth at which blocks of about this size come within 5% of as fast as they
    /// come at all, and how fast that is.
    pub fn depth(&self, block: usize) -> Option<Cell> {
        let far = |cell: &&Cell| cell.block.max(block) / cell.block.min(block).max(1);
        let near = self.table.iter().min_by_key(far)?.block;
        let cells: Vec<Cell> =
            self.table.iter().filter(|cell| cell.block == near).copied().collect();
        Some(cheapest(&cells))
    }
}

/// What takes the fewest bytes under way of those that are nearly the best; of equals, the one
/// with the fewest reads.
fn cheapest(table: &[Cell]) -> Cell {
    let best = table.iter().map(|cell| cell.bytes_per_second).fold(0.0, f64::max);
    let good = table.iter().filter(|cell| cell.bytes_per_second >= GOOD * best);
    let nothing = Cell { block: BLOCKS[0], depth: 1, bytes_per_second: 0.0 };
    good.min_by_key(|cell| (cell.block * cell.depth, cell.depth)).copied().unwrap_or(nothing)
}

impl Alone {
    fn of(block: usize, mut times: Vec<f64>) -> Alone {
        times.sort_by(f64::total_cmp);
        let at = |part: f64| {
            let last = times.len().saturating_sub(1) as f64;
            times.get((last * part).round() as usize).map_or(0.0, |time| time * 1e6)
        };
        Alone { block, median_us: at(0.5), p99_us: at(0.99) }
    }
}

/// What the thread does while nothing comes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pause {
    Spin,
    Sleep,
}

struct Bench<'a> {
    sample: &'a Sample,
    mover: Mover,
    arena: Option<Region>,
    random: Random,
}

impl Bench<'_> {
    fn open(sample: &Sample, arena: Arena) -> Result<Bench<'_>, ProfileError> {
        let region = arena.take(arena.len(), SECTOR);
        let depth = DEPTHS[DEPTHS.len() - 1];
        let depth = Depth { demand: depth, other: depth };
        let setup = Setup { files: vec![sample.source.clone()], arenas: vec![arena], depth };
        let mover = Mover::open(Kit::new(setup))?;
        Ok(Bench { sample, mover, arena: region, random: Random::new() })
    }

    fn read(&mut self, mut into: Region, ticket: u64) {
        // A block that is longer than the file is read in part.
        let places = (self.sample.source.len() / into.len() as u64).max(1);
        let offset = self.random.next() % places * into.len() as u64;
        into[0] = 0;
        self.mover.read(Read {
            ticket,
            file: 0,
            offset,
            into,
            sum: None,
            urgency: Urgency::Demand,
        });
    }

    /// Bytes per second with so many blocks under way, all the time.
    fn run(
        &mut self,
        block: usize,
        depth: usize,
        time: Duration,
        pause: Pause,
        mut times: Option<&mut Vec<f64>>,
    ) -> Result<f64, ProfileError> {
        let Some(mut rest) = self.arena.take() else { return Ok(0.0) };
        // Each read goes to memory that was not read into for long: what is written to again and
        // again stays in a cache, and comes faster than weights ever do.
        let mut free: VecDeque<Region> =
            (0..rest.len() / block).map(|_| rest.split_to(block)).collect();
        let pieces = free.len();
        for ticket in 0..depth.min(pieces) {
            let Some(into) = free.pop_front() else { break };
            self.read(into, ticket as u64);
        }
        let (start, mut last, mut bytes) = (Instant::now(), Instant::now(), 0);
        let mut fault = None;
        while free.len() < pieces {
            match pause {
                Pause::Spin => self.mover.turn(),
                Pause::Sleep => self.mover.wait(Duration::from_millis(100)),
            }
            while let Some(done) = self.mover.done() {
                let (now, ticket) = (Instant::now(), done.ticket);
                // The file may be smaller than a block.
                fault = fault.or(done.outcome.err().filter(|fault| !is_short(fault)));
                // All count, those too that were under way at the end: of many large ones none may
                // come before.
                bytes += block;
                times.iter_mut().for_each(|times| times.push((now - last).as_secs_f64()));
                last = now;
                free.push_back(done.into);
                if now - start < time
                    && fault.is_none()
                    && let Some(into) = free.pop_front()
                {
                    self.read(into, ticket);
                }
            }
        }
        let mut pieces: Vec<Region> = free.into_iter().collect();
        pieces.sort_by_key(|piece| piece.as_ptr().addr());
        let pieces = pieces.into_iter().chain([rest]);
        self.arena = pieces.map(Some).reduce(|one, next| one?.join(next?).ok()).flatten();
        if let Some(fault) = fault {
            return Err(ProfileError::Read { path: self.sample.path.clone(), fault });
        }
        Ok(bytes as f64 / (last - start).as_secs_f64().max(1e-9))
    }
}

fn is_short(fault: &super::drive::Fault) -> bool {
    matches!(fault, super::drive::Fault::Short { .. })
}

/// What this thread has used of a processor.
fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel fills what it is given.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    fn cell(block: usize, depth: usize, rate: f64) -> Cell {
        Cell { block, depth, bytes_per_second: rate }
    }

    #[test]
    fn the_cheapest_of_the_good_is_chosen() {
        let table = [
            cell(64 << 10, 1, 1.0),
            cell(64 << 10, 16, 2.9),
            cell(256 << 10, 1, 2.5),
            cell(256 << 10, 2, 2.86),
            cell(256 << 10, 4, 3.0),
            cell(1 << 20, 1, 2.9),
        ];
        assert_eq!(cheapest(&table), table[3]);
        assert_eq!(cheapest(&table[4..]), table[5]);
        assert_eq!(cheapest(&[]).depth, 1);
    }

    #[test]
    fn this_drive_has_a_profile() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
        let folder = tempfile::tempdir_in(folder).unwrap();
        let path = folder.path().join("file");
        fs::write(&path, vec![1; 8 << 20]).unwrap();
        let profile = Profile::measure(&Sample::of(&path).unwrap()).unwrap();
        assert_eq!(profile.table.len(), BLOCKS.len() * DEPTHS.len());
        assert!(profile.table.iter().all(|cell| cell.bytes_per_second > 0.0), "{profile:?}");
        assert!(profile.alone.iter().all(|alone| alone.median_us <= alone.p99_us));
        let cell = profile.depth(300 << 10).unwrap();
        assert_eq!(cell.block, 256 << 10);
        let text = serde_json::to_string(&profile).unwrap();
        let again: Profile = serde_json::from_str(&text).unwrap();
        assert_eq!((again.block, again.depth), (profile.block, profile.depth));
    }

    #[test]
    fn a_file_that_was_written_to_measure_with_has_no_name() {
        let folder = tempfile::tempdir().unwrap();
        let file = nameless(folder.path()).unwrap();
        fill(&file, 100_000).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 100_000);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        let again = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        assert_eq!(Source::open(&again).unwrap().len(), 100_000);
        let mut last = [0; 8];
        file.read_exact_at(&mut last, 99_992).unwrap();
        assert_ne!(last, [0; 8]);
    }

    #[test]
    fn a_drive_without_a_file_says_which() {
        let error = Sample::find(Path::new("/no/such")).unwrap_err().to_string();
        assert!(error.starts_with("/no/such: "), "{error}");
    }
}

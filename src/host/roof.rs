//! The host's limits, measured: how fast memory can be read, and how fast cores hear each other.
//! What an engine reaches is a fraction of these.

use std::fmt;
use std::hint::black_box;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Barrier, OnceLock};
use std::thread::{Builder, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use core_affinity::CoreId;
use serde::Serialize;

use super::arena::{Arena, ArenaError, Pages, Region};
use super::memory;
use super::topology::Cpu;

/// Memory that each thread reads in turn, where the host has it: caches shall not help.
const BUFFER: usize = 256 << 20;
/// With less than this, it would be caches that are measured.
const LEAST_BUFFER: usize = 32 << 20;
/// Passes that it takes to read it all: short ones, so that some are not interrupted.
const PARTS: usize = 4;

/// After this time no new round of passes is begun.
const READ_TIME: Duration = Duration::from_millis(400);
const ROUNDS: usize = 8;

/// Cache lines of each stream that are read in turn.
const RUN: usize = 4;

/// Messages that are timed together: so few that some time nobody interrupts them.
const TRIPS: u32 = 200;
const LINK_TIME: Duration = Duration::from_millis(60);

/// What was measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Roof {
    /// By the number of threads, ascending.
    pub reads: Vec<Read>,
    /// The first core with its neighbour and with the farthest one.
    pub links: Vec<Link>,
}

/// How fast memory is read by so many threads at once.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Read {
    pub threads: usize,
    pub bytes_per_second: f64,
    /// What was read at once by each thread, and what it is read in.
    pub way: Way,
    pub pages: Pages,
}

/// A way to read memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Way {
    pub lanes: Lanes,
    /// Places that are read in turn.
    pub streams: usize,
    /// Bytes ahead of each that are asked for, 0 for none.
    pub prefetch: usize,
}

/// The registers that memory is read into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Lanes {
    Avx512,
    Avx2,
    Plain,
}

/// How fast two processors hear each other.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Link {
    pub from: usize,
    pub to: usize,
    /// A cache line goes there and comes back.
    pub round_trip_ns: f64,
    /// Both say that they are there, and wait for the other to say it.
    pub barrier_ns: f64,
}

#[derive(Debug, thiserror::Error)]
pub enum RoofError {
    #[error(transparent)]
    Memory(#[from] ArenaError),
    #[error("too little memory is free to measure how fast it is: stop what else uses it")]
    Full,
    #[error("a thread to measure with was refused ({0}): raise the limit on processes")]
    Thread(io::Error),
    #[error("a thread could not be pinned to processor {0}: see which the process may use")]
    Pin(usize),
}

impl Roof {
    /// Measures with one thread per processor given, at first with one alone: under a second for
    /// each number of threads. Whatever else runs on them makes the numbers smaller.
    pub fn measure(cpus: &[Cpu]) -> Result<Roof, RoofError> {
        let ids: Vec<usize> = cpus.iter().map(|cpu| cpu.id).collect();
        let cache = cpus.iter().filter_map(|cpu| Some(cpu.l3.as_ref()?.bytes)).max().unwrap_or(0);
        let mut counts: Vec<usize> = std::iter::successors(Some(1), |n| Some(n * 2))
            .take_while(|n| *n < ids.len())
            .collect();
        counts.extend((!ids.is_empty()).then_some(ids.len()));
        let reads = counts.into_iter().map(|count| Read::measure(&ids[..count], cache));
        let reads = reads.collect::<Result<_, _>>()?;
        let mut links = Vec::new();
        if let [first, second, ..] = ids[..] {
            links.push(Link::measure(first, second)?);
            let last = ids[ids.len() - 1];
            if last != second {
                links.push(Link::measure(first, last)?);
            }
        }
        Ok(Roof { reads, links })
    }

    /// Bytes per second that so many threads can read, `None` if that was not measured.
    pub fn read(&self, threads: usize) -> Option<f64> {
        self.reads.iter().find(|read| read.threads == threads).map(|read| read.bytes_per_second)
    }
}

impl fmt::Display for Roof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Read { threads, bytes_per_second, way, pages } in &self.reads {
            let s = if *threads == 1 { "" } else { "s" };
            let what = format!("memory read, {threads} thread{s}");
            writeln!(f, "{what:<30}{:>8.1} GB/s  ({way}, {pages})", bytes_per_second / 1e9)?;
        }
        for Link { from, to, round_trip_ns, barrier_ns } in &self.links {
            let what = format!("cores {from} and {to}, round trip");
            writeln!(f, "{what:<30}{round_trip_ns:>8.0} ns")?;
            let what = format!("cores {from} and {to}, barrier");
            writeln!(f, "{what:<30}{barrier_ns:>8.0} ns")?;
        }
        Ok(())
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lanes = match self.lanes {
            Lanes::Avx512 => "avx512",
            Lanes::Avx2 => "avx2",
            Lanes::Plain => "plain",
        };
        let s = if self.streams == 1 { "" } else { "s" };
        write!(f, "{lanes}, {} stream{s}", self.streams)?;
        match self.prefetch {
            0 => Ok(()),
            ahead => write!(f, ", prefetch {ahead} B ahead"),
        }
    }
}

impl Lanes {
    fn best() -> Lanes {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx512f") {
            return Lanes::Avx512;
        } else if is_x86_feature_detected!("avx2") {
            return Lanes::Avx2;
        }
        Lanes::Plain
    }
}

/// A thread that runs on one processor, and whether it does.
fn spawn_on<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    cpu: usize,
    run: impl FnOnce() -> T + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, (T, bool)>, RoofError> {
    let pinned = move || {
        // The crate's set has room for so many.
        let pinned = cpu < 1024 && core_affinity::set_for_current(CoreId { id: cpu });
        (run(), pinned)
    };
    Builder::new()
        .name(format!("roof-{cpu}"))
        .spawn_scoped(scope, pinned)
        .map_err(RoofError::Thread)
}

fn join<T>(thread: ScopedJoinHandle<'_, (T, bool)>, cpu: usize) -> Result<T, RoofError> {
    match thread.join() {
        Ok((value, true)) => Ok(value),
        Ok((_, false)) => Err(RoofError::Pin(cpu)),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

impl Read {
    fn measure(ids: &[usize], cache: u64) -> Result<Read, RoofError> {
        let threads = ids.len();
        let free = usize::try_from(memory::available() / 2).unwrap_or(usize::MAX) / threads;
        let uncached = usize::try_from(cache).unwrap_or(0).saturating_mul(4) / threads;
        let len = BUFFER.max(uncached).min(free) & !((8 << 20) - 1);
        if len < LEAST_BUFFER {
            return Err(RoofError::Full);
        }
        let arena = Arena::reserve(len * threads)?;
        let regions: Vec<Region> = ids.iter().filter_map(|_| arena.take(len, 64)).collect();
        let ways = ways();
        let (meet, go_on) = (Barrier::new(threads), AtomicBool::new(true));
        let all_there = OnceLock::<bool>::new();

        let passes = |mut region: Region, leads: bool| -> Vec<(Instant, Instant)> {
            // Touched here first, so that it is near; and a page of zeroes might not be a page.
            region.fill(1);
            let mut passes = Vec::new();
            if !*all_there.wait() {
                return passes;
            }
            meet.wait();
            let begin = Instant::now();
            let mut parts = region.chunks_exact(len / PARTS).cycle();
            for _ in 0..ROUNDS {
                for (way, part) in ways.iter().zip(&mut parts) {
                    meet.wait();
                    let start = Instant::now();
                    black_box(way.read(black_box(part)));
                    passes.push((start, Instant::now()));
                }
                if leads {
                    go_on.store(begin.elapsed() < READ_TIME, Ordering::Relaxed);
                }
                // The barrier orders the flag.
                meet.wait();
                if !go_on.load(Ordering::Relaxed) {
                    break;
                }
            }
            passes
        };

        let passes: Vec<Vec<(Instant, Instant)>> = std::thread::scope(|scope| {
            let passes = &passes;
            let spawned = ids.iter().zip(regions).enumerate().map(|(index, (id, region))| {
                spawn_on(scope, *id, move || passes(region, index == 0))
            });
            let spawned: Result<Vec<_>, _> = spawned.collect();
            // Nobody waits at a barrier for who will not come.
            let _ = all_there.set(spawned.is_ok());
            let joined = spawned?.into_iter().zip(ids).map(|(thread, id)| join(thread, *id));
            joined.collect::<Result<_, RoofError>>()
        })?;

        let mut best = Read { threads, bytes_per_second: 0.0, way: ways[0], pages: arena.pages() };
        let rounds = passes.iter().map(Vec::len).min().unwrap_or(0);
        for (pass, way) in (0..rounds).zip(ways.iter().cycle()) {
            let start = passes.iter().map(|thread| thread[pass].0).min();
            let end = passes.iter().map(|thread| thread[pass].1).max();
            let Some((start, end)) = start.zip(end) else { continue };
            let seconds = end.duration_since(start).as_secs_f64().max(1e-9);
            let bytes_per_second = (threads * way.bytes(len / PARTS)) as f64 / seconds;
            if bytes_per_second > best.bytes_per_second {
                best = Read { bytes_per_second, way: *way, ..best };
            }
        }
        Ok(best)
    }
}

/// The ways that are tried.
fn ways() -> Vec<Way> {
    let lanes = Lanes::best();
    let way = |(streams, prefetch)| Way { lanes, streams, prefetch };
    [(1, 0), (2, 0), (4, 0), (8, 0), (16, 0), (1, 2048), (4, 1024), (8, 1024)].map(way).into()
}

/// One cache line.
#[repr(align(64))]
struct Line([u64; 8]);

impl Way {
    /// How much of a buffer is read, from its beginning.
    fn bytes(self, len: usize) -> usize {
        runs(len / size_of::<Line>(), self.streams) * self.streams * RUN * size_of::<Line>()
    }

    /// The sum of that part of a buffer, which is aligned to a line.
    fn read(self, bytes: &[u8]) -> u64 {
        // SAFETY: any bytes are integers.
        let (_, lines, _) = unsafe { bytes.align_to::<Line>() };
        let ahead = self.prefetch / size_of::<Line>();
        let read = match self.lanes {
            #[cfg(target_arch = "x86_64")]
            Lanes::Avx512 => x86::avx512,
            #[cfg(target_arch = "x86_64")]
            Lanes::Avx2 => x86::avx2,
            _ => plain,
        };
        // SAFETY: a way that is read is made only of registers that `Lanes::best` has seen.
        unsafe { read(lines, self.streams, ahead) }
    }
}

/// Runs of lines in each stream of a buffer of `lines`. Streams at a distance of a power of two
/// would meet in the same sets of the caches and the same banks of memory: a little is left out.
#[inline(always)]
fn runs(lines: usize, streams: usize) -> usize {
    (lines / streams / RUN).saturating_sub(if streams == 1 { 0 } else { 21 })
}

/// Registers that lines are added up in. (The compiler does not make such a loop of plain code.)
trait Sums: Copy {
    const ZERO: Self;

    /// # Safety
    /// The host has the registers.
    unsafe fn add(self, line: &Line) -> Self;

    fn numbers(self) -> [u64; 8];
}

impl Sums for [u64; 8] {
    const ZERO: Self = [0; 8];

    #[inline(always)]
    unsafe fn add(self, line: &Line) -> Self {
        std::array::from_fn(|i| self[i].wrapping_add(line.0[i]))
    }

    fn numbers(self) -> [u64; 8] {
        self
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Line, Sums, sum};

    #[derive(Clone, Copy)]
    pub struct Zmm(__m512i);

    impl Sums for Zmm {
        // SAFETY: any bits are integers, here and below.
        const ZERO: Self = Zmm(unsafe { std::mem::zeroed() });

        #[inline(always)]
        unsafe fn add(self, line: &Line) -> Self {
            // SAFETY: the registers are there, and a line is as long as one, and aligned.
            unsafe {
                let line = _mm512_load_si512(std::ptr::from_ref(line).cast());
                Zmm(_mm512_add_epi64(self.0, line))
            }
        }

        fn numbers(self) -> [u64; 8] {
            // SAFETY: see above.
            unsafe { std::mem::transmute(self.0) }
        }
    }

    #[derive(Clone, Copy)]
    pub struct Ymm([__m256i; 2]);

    impl Sums for Ymm {
        // SAFETY: see above.
        const ZERO: Self = Ymm(unsafe { std::mem::zeroed() });

        #[inline(always)]
        unsafe fn add(self, line: &Line) -> Self {
            let [low, high] = self.0;
            let line: *const __m256i = std::ptr::from_ref(line).cast();
            // SAFETY: the registers are there, and a line is as long as two, and aligned.
            unsafe {
                let low = _mm256_add_epi64(low, _mm256_load_si256(line));
                Ymm([low, _mm256_add_epi64(high, _mm256_load_si256(line.add(1)))])
            }
        }

        fn numbers(self) -> [u64; 8] {
            // SAFETY: see above.
            unsafe { std::mem::transmute(self.0) }
        }
    }

    #[target_feature(enable = "avx512f")]
    pub fn avx512(lines: &[Line], streams: usize, ahead: usize) -> u64 {
        // SAFETY: who calls has seen the registers.
        unsafe { sum::<Zmm>(lines, streams, ahead) }
    }

    #[target_feature(enable = "avx2")]
    pub fn avx2(lines: &[Line], streams: usize, ahead: usize) -> u64 {
        // SAFETY: as above.
        unsafe { sum::<Ymm>(lines, streams, ahead) }
    }
}

fn plain(lines: &[Line], streams: usize, ahead: usize) -> u64 {
    // SAFETY: it needs no registers of its own.
    unsafe { sum::<[u64; 8]>(lines, streams, ahead) }
}

/// # Safety
/// The host has the registers.
#[inline(always)]
unsafe fn sum<S: Sums>(lines: &[Line], streams: usize, ahead: usize) -> u64 {
    // SAFETY: as the caller says.
    unsafe {
        match (streams, ahead) {
            (2, 0) => sum_of::<S, 2, false>(lines, 0),
            (4, 0) => sum_of::<S, 4, false>(lines, 0),
            (8, 0) => sum_of::<S, 8, false>(lines, 0),
            (16, 0) => sum_of::<S, 16, false>(lines, 0),
            (4, _) => sum_of::<S, 4, true>(lines, ahead),
            (8, _) => sum_of::<S, 8, true>(lines, ahead),
            (_, 0) => sum_of::<S, 1, false>(lines, 0),
            (_, _) => sum_of::<S, 1, true>(lines, ahead),
        }
    }
}

/// # Safety
/// The host has the registers.
#[inline(always)]
unsafe fn sum_of<S: Sums, const STREAMS: usize, const PREFETCH: bool>(
    lines: &[Line],
    ahead: usize,
) -> u64 {
    let runs = runs(lines.len(), STREAMS);
    let (all, _) = lines.as_chunks::<RUN>();
    let streams: [&[[Line; RUN]]; STREAMS] = std::array::from_fn(|s| &all[s * runs..][..runs]);
    let mut sums = [S::ZERO; RUN];
    for at in 0..runs {
        for stream in streams {
            for (sum, line) in sums.iter_mut().zip(&stream[at]) {
                if PREFETCH {
                    prefetch(std::ptr::from_ref(line).wrapping_add(ahead));
                }
                // SAFETY: as the caller says.
                *sum = unsafe { sum.add(line) };
            }
        }
    }
    sums.iter().flat_map(|sum| sum.numbers()).fold(0, u64::wrapping_add)
}

#[inline(always)]
fn prefetch(line: *const Line) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: it is a hint, for any address.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(line.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}

/// A cache line that one side writes, with the next one, which processors like to fetch with it.
#[repr(align(128))]
#[derive(Default)]
struct Cell(AtomicU32);

impl Cell {
    fn say(&self, word: u32) {
        self.0.store(word, Ordering::Release);
    }

    fn heard(&self) -> u32 {
        self.0.load(Ordering::Acquire)
    }
}

/// The last word.
const STOP: u32 = u32::MAX;

impl Link {
    fn measure(from: usize, to: usize) -> Result<Link, RoofError> {
        let line = Cell::default();
        let there_and_back = |trip: u32| {
            line.say(2 * trip + 1);
            while line.heard() != 2 * trip + 2 {}
        };
        let answer = || {
            let mut next = 1;
            loop {
                match line.heard() {
                    STOP => return,
                    word if word == next => {
                        line.say(next + 1);
                        next += 2;
                    }
                    _ => {}
                }
            }
        };
        let round_trip_ns = timed(from, to, there_and_back, answer, &line)?;

        let (mine, theirs) = (Cell::default(), Cell::default());
        let meet = |trip: u32| {
            mine.say(trip + 1);
            while theirs.heard() < trip + 1 {}
        };
        let meet_too = || {
            for next in 1.. {
                theirs.say(next);
                while mine.heard() < next {}
                if mine.heard() == STOP {
                    return;
                }
            }
        };
        let barrier_ns = timed(from, to, meet, meet_too, &mine)?;
        Ok(Link { from, to, round_trip_ns, barrier_ns })
    }
}

/// Nanoseconds of one `trip` (which is given its number) on processor `from`, while `answer` runs
/// on `to` until it hears the last word.
fn timed(
    from: usize,
    to: usize,
    trip: impl Fn(u32) + Send,
    answer: impl Fn() + Send,
    last_word: &Cell,
) -> Result<f64, RoofError> {
    let lead = move || {
        let (begin, mut best, mut trips) = (Instant::now(), Duration::MAX, 0);
        while begin.elapsed() < LINK_TIME {
            let start = Instant::now();
            (trips..trips + TRIPS).for_each(&trip);
            best = best.min(start.elapsed());
            trips += TRIPS;
        }
        last_word.say(STOP);
        best.as_nanos() as f64 / f64::from(TRIPS)
    };
    std::thread::scope(|scope| {
        let answers = spawn_on(scope, to, answer)?;
        let leads = spawn_on(scope, from, lead).inspect_err(|_| last_word.say(STOP))?;
        let time = join(leads, from);
        join(answers, to)?;
        time
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::topology::Topology;

    #[test]
    fn every_way_reads_each_line_once() {
        let arena = Arena::reserve(256 << 10).unwrap();
        let mut region = arena.take(256 << 10, 64).unwrap();
        for (i, number) in region.chunks_exact_mut(8).enumerate() {
            number.copy_from_slice(&(i as u64 + 1).to_ne_bytes());
        }
        // With the wider registers, a host has the narrower.
        let has = |lanes: &Lanes| Lanes::best() == Lanes::Avx512 || *lanes != Lanes::Avx2;
        for best in ways() {
            let narrower = [Lanes::Avx2, Lanes::Plain].into_iter().filter(has);
            for lanes in narrower.chain([best.lanes]) {
                let way = Way { lanes, ..best };
                let numbers = way.bytes(region.len()) as u64 / 8;
                assert!(numbers > (128 << 10) / 8, "{way}");
                assert_eq!(way.read(&region), numbers * (numbers + 1) / 2, "{way}");
            }
        }
    }

    #[test]
    fn this_host_has_a_roof() {
        let seats: Vec<Cpu> = Topology::read().cpus().iter().take(2).cloned().collect();
        let roof = Roof::measure(&seats).unwrap();
        println!("{roof}{}", serde_json::to_string(&roof).unwrap());
        assert_eq!(roof.reads.len(), seats.len());
        assert_eq!(roof.links.len(), seats.len() - 1);
        assert!(roof.reads.iter().all(|read| read.bytes_per_second > 1e8));
        assert!(roof.links.iter().all(|link| link.round_trip_ns > 0.0 && link.barrier_ns > 0.0));
        assert_eq!(roof.read(1), Some(roof.reads[0].bytes_per_second));
    }

    #[test]
    fn a_processor_that_is_not_there_is_named() {
        let here = Topology::read().cpus()[0].id;
        let text = Link::measure(here, 1 << 20).unwrap_err().to_string();
        assert!(text.contains("1048576"), "{text}");
    }
}

//! Movers on real files.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;

use tempfile::TempDir;

use super::super::arena::Region;
use super::super::direct::SECTOR;
use super::*;

use Urgency::{Demand, Forecast, Warm};

const FILE: usize = 3 << 20;

struct Bench {
    _folder: TempDir,
    path: PathBuf,
    arena: Arena,
}

fn byte(at: u64) -> u8 {
    (at ^ (at >> 8).wrapping_mul(31) ^ (at >> 16).wrapping_mul(7)) as u8
}

fn expected(offset: u64, len: usize) -> Vec<u8> {
    (offset..offset + len as u64).map(byte).collect()
}

/// A file in the folder that the sources are in: temporary ones may be in memory.
fn bench() -> Bench {
    on(&Path::new(env!("CARGO_MANIFEST_DIR")).join("target"), FILE)
}

fn on(folder: &Path, len: usize) -> Bench {
    fs::create_dir_all(folder).unwrap();
    let folder = tempfile::tempdir_in(folder).unwrap();
    let path = folder.path().join("file");
    fs::write(&path, expected(0, len)).unwrap();
    Bench { _folder: folder, path, arena: Arena::reserve(16 << 20).unwrap() }
}

impl Bench {
    fn setup(&self, depth: Depth) -> Setup {
        let files = vec![Source::open(&self.path).unwrap()];
        Setup { files, arenas: vec![self.arena.clone()], depth }
    }

    fn mover(&self, depth: usize) -> Mover {
        Mover::open(Kit::new(self.setup(Depth::of(depth)))).unwrap()
    }

    fn region(&self, len: usize) -> Region {
        self.arena.take(len, SECTOR).unwrap()
    }

    fn read(&self, ticket: u64, offset: u64, len: usize, urgency: Urgency) -> Read {
        Read { ticket, file: 0, offset, into: self.region(len), sum: None, urgency }
    }
}

fn until_done(drive: &mut impl Drive) -> Vec<Done> {
    let (mut all, began) = (Vec::new(), Instant::now());
    while drive.under_way() > 0 {
        drive.turn();
        while let Some(done) = drive.done() {
            all.push(done);
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{} are under way", drive.under_way());
        thread::yield_now();
    }
    all
}

fn tickets(all: &[Done]) -> Vec<u64> {
    all.iter().map(|done| done.ticket).collect()
}

#[test]
fn bytes_come_from_where_they_lie() {
    let bench = bench();
    for sources in
        [vec![Source::open(&bench.path).unwrap()], vec![Source::buffered(&bench.path).unwrap()]]
    {
        for arenas in [vec![bench.arena.clone()], vec![]] {
            let setup = Setup { files: sources.clone(), arenas, depth: Depth::of(4) };
            let mut mover = Mover::open(Kit::new(setup)).unwrap();
            let parts = [
                (0, 4096),
                (4096, 4096),
                (0, 1 << 20),
                (12_288, 77 * 4096),
                (FILE as u64 - 4096, 4096),
                (1 << 20, 2 << 20),
            ];
            let mark = bench.arena.left();
            for (ticket, &(offset, len)) in parts.iter().enumerate() {
                if bench.arena.left() < len {
                    panic!("{mark} was not enough");
                }
                let mut read = bench.read(ticket as u64, offset, len, Demand);
                read.sum = Some(sum(&expected(offset, len)));
                mover.read(read);
            }
            assert_eq!(mover.under_way(), parts.len());
            let all = until_done(&mut mover);
            assert_eq!(all.len(), parts.len());
            for done in all {
                assert_eq!(done.outcome, Ok(()));
                let (offset, len) = parts[done.ticket as usize];
                assert!(done.into[..] == expected(offset, len), "{offset} {len}");
            }
        }
    }
}

#[test]
fn a_region_may_lie_over_the_edge_of_registered_memory_or_outside() {
    let bench = bench();
    // Two arenas, of which one is registered, in buffers of 1 MiB.
    let other = Arena::reserve(1 << 20).unwrap();
    let mut mover = bench.mover(2);
    assert!(mover.grants().memory || mover.grants().memory_refused.is_some());
    bench.region((1 << 20) - 4096);
    mover.read(bench.read(0, 4096, 8192, Demand));
    let into = other.take(8192, SECTOR).unwrap();
    mover.read(Read { ticket: 1, file: 0, offset: 8192, into, sum: None, urgency: Demand });
    for done in until_done(&mut mover) {
        assert_eq!(done.outcome, Ok(()));
        assert!(done.into[..] == expected(4096 * (done.ticket + 1), 8192));
    }
}

#[test]
fn what_is_not_aligned_is_read_or_refused_by_name() {
    let bench = bench();
    for (offset, begin, len) in [(1, 0, 4096), (0, 64, 4096), (0, 0, 4032)] {
        let mut region = bench.region(8192);
        region.split_to(begin);
        let into = region.split_to(len);
        let mut mover = bench.mover(1);
        mover.read(Read { ticket: 0, file: 0, offset, into, sum: None, urgency: Demand });
        let [done] = &until_done(&mut mover)[..] else { panic!("one read") };
        match done.outcome {
            Ok(()) => assert!(done.into[..] == expected(offset, len)),
            outcome => assert_eq!(outcome, Err(Fault::Io(libc::EINVAL))),
        }
    }
}

#[test]
fn urgent_reads_overtake_what_was_not_sent() {
    let bench = bench();
    // One at a time, so that they come back in the order they were sent.
    let mut mover = bench.mover(1);
    for (ticket, urgency) in [(0, Warm), (1, Forecast), (2, Demand), (3, Warm), (4, Demand)] {
        mover.read(bench.read(ticket, 4096 * ticket, 4096, urgency));
    }
    assert_eq!(tickets(&until_done(&mut mover)), [2, 4, 1, 0, 3]);
    // Hurried, and given up.
    for (ticket, urgency) in [(0, Warm), (1, Forecast), (2, Demand), (3, Warm), (4, Demand)] {
        mover.read(bench.read(ticket, 4096 * ticket, 4096, urgency));
    }
    mover.hurry(3, Demand);
    mover.hurry(2, Warm);
    mover.give_up(4);
    let all = until_done(&mut mover);
    assert_eq!(tickets(&all), [4, 3, 1, 0, 2]);
    assert_eq!(all[0].outcome, Err(Fault::Dropped));
    assert!(all[1..].iter().all(|done| done.outcome == Ok(())));
}

#[test]
fn room_is_left_for_a_demand() {
    let bench = bench();
    let setup = bench.setup(Depth { demand: 4, other: 2 });
    let mut mover = Mover::open(Kit::new(setup)).unwrap();
    for ticket in 0..8 {
        mover.read(bench.read(ticket, 0, 256 << 10, Warm));
    }
    mover.feed();
    assert_eq!(mover.ring.under_way(), 2);
    for ticket in 8..16 {
        mover.read(bench.read(ticket, 0, 256 << 10, Demand));
    }
    mover.feed();
    assert_eq!(mover.ring.under_way(), 4);
    // What was sent is not given up.
    mover.give_up(0);
    let all = until_done(&mut mover);
    assert_eq!(all.len(), 16);
    assert!(all.iter().all(|done| done.outcome == Ok(())));
}

#[test]
fn other_bytes_than_were_written_are_noticed() {
    let bench = bench();
    let mut mover = bench.mover(2);
    for ticket in 0..3 {
        let mut read = bench.read(ticket, 4096 * ticket, 4096, Demand);
        read.sum = Some(sum(&expected(4096, 4096)));
        mover.read(read);
    }
    for done in until_done(&mut mover) {
        let right = done.ticket == 1;
        assert_eq!(done.outcome, if right { Ok(()) } else { Err(Fault::Sum) });
    }
}

#[test]
fn a_file_that_ends_early_says_where() {
    for direct in [true, false] {
        let bench = on(&Path::new(env!("CARGO_MANIFEST_DIR")).join("target"), 21_000);
        let open = if direct { Source::open } else { Source::buffered };
        let source = open(&bench.path).unwrap();
        let setup = Setup { files: vec![source], arenas: vec![], depth: Depth::of(2) };
        let mut mover = Mover::open(Kit::new(setup)).unwrap();
        let file = OpenOptions::new().write(true).open(&bench.path).unwrap();
        for (size, offset, len, got) in [
            (21_000, 0, 32_768, 21_000),
            (21_000, 16_384, 8192, 4616),
            (21_000, 20_480, 4096, 520),
            (21_000, 24_576, 4096, 0),
            (21_000, 1 << 40, 4096, 0),
            // Cut short under a running engine.
            (8192, 4096, 8192, 4096),
            (8192, 8192, 8192, 0),
            (0, 0, 4096, 0),
        ] {
            file.set_len(size).unwrap();
            mover.read(bench.read(0, offset, len, Demand));
            let [done] = &until_done(&mut mover)[..] else { panic!("one read") };
            assert_eq!(done.outcome, Err(Fault::Short { got }), "{size} {offset} {len} {direct}");
        }
    }
}

#[test]
fn a_file_that_is_not_there_is_a_fault() {
    let bench = bench();
    let mut mover = bench.mover(2);
    let into = bench.region(4096);
    mover.read(Read { ticket: 0, file: 1, offset: 0, into, sum: None, urgency: Warm });
    mover.read(bench.read(1, u64::MAX - 4095, 4096, Warm));
    let all = until_done(&mut mover);
    assert_eq!(all[0].outcome, Err(Fault::Io(libc::EBADF)));
    assert_eq!(all[1].outcome, Err(Fault::Io(libc::EINVAL)));
    assert!(Source::open(Path::new("/dev/zero")).is_err());
    assert!(Source::open(Path::new("/")).is_err());
}

#[test]
fn files_in_memory_are_read_too() {
    let shared = Path::new("/dev/shm");
    if !shared.is_dir() {
        return;
    }
    let bench = on(shared, FILE);
    let mut mover = bench.mover(4);
    for ticket in 0..64 {
        mover.read(bench.read(ticket, 4096 * ticket, 8192, Demand));
    }
    for done in until_done(&mut mover) {
        assert_eq!(done.outcome, Ok(()));
        assert!(done.into[..] == expected(4096 * done.ticket, 8192));
    }
}

#[test]
fn a_mover_that_is_dropped_waits_for_the_kernel() {
    let bench = bench();
    for turns in 0..20 {
        let arena = Arena::reserve(8 << 20).unwrap();
        let files = vec![Source::open(&bench.path).unwrap()];
        let setup = Setup { files, arenas: vec![arena.clone()], depth: Depth::of(8) };
        let mut mover = Mover::open(Kit::new(setup)).unwrap();
        for ticket in 0..32 {
            let into = arena.take(256 << 10, SECTOR).unwrap();
            let offset = 4096 * ticket;
            mover.read(Read { ticket, file: 0, offset, into, sum: None, urgency: Demand });
        }
        (0..turns).for_each(|_| mover.turn());
        if turns == 0 {
            mover.feed();
        }
        drop(arena);
        // With it goes the last that keeps the memory mapped.
        drop(mover);
    }
}

#[test]
fn a_read_that_takes_long_is_told_of() {
    let bench = bench();
    let mut mover = bench.mover(2);
    assert_eq!(mover.overdue(Duration::ZERO), None);
    mover.read(bench.read(7, 0, 4096, Demand));
    assert_eq!(mover.overdue(Duration::ZERO), None, "it was not sent yet");
    mover.feed();
    thread::sleep(Duration::from_millis(2));
    let (ticket, time) = mover.overdue(Duration::from_millis(1)).unwrap();
    assert!(ticket == 7 && time >= Duration::from_millis(1));
    assert_eq!(mover.overdue(Duration::from_secs(1000)), None);
    while mover.done().is_none() {
        mover.wait(Duration::from_millis(100));
    }
    assert_eq!(mover.overdue(Duration::ZERO), None);
}

#[test]
fn waiting_ends_when_something_comes_or_after_a_time() {
    let bench = bench();
    let mut mover = bench.mover(2);
    let began = Instant::now();
    mover.wait(Duration::from_secs(10));
    for ticket in 0..9 {
        mover.read(bench.read(ticket, 0, 1 << 20, Demand));
    }
    let mut came = 0;
    while mover.under_way() > 0 {
        mover.wait(Duration::from_secs(10));
        came += std::iter::from_fn(|| mover.done()).count();
    }
    assert_eq!(came, 9);
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_bell_rings_when_a_read_is_over() {
    let bench = bench();
    let mut mover = bench.mover(2);
    let bell = Bell::new().unwrap();
    mover.ring_bell(&bell).unwrap();
    mover.read(bench.read(0, 0, 4096, Demand));
    mover.turn();
    let ear = bell.clone();
    let heard = thread::spawn(move || {
        use std::io::Read as _;
        use std::os::fd::AsFd;
        let mut file = fs::File::from(ear.as_fd().try_clone_to_owned().unwrap());
        file.read_exact(&mut [0; 8]).unwrap();
    });
    heard.join().unwrap();
    mover.turn();
    assert!(mover.done().unwrap().outcome.is_ok());
}

/// A mate's thread: turns its mover until it is told to leave.
fn mate(kit: Kit) -> (std::sync::mpsc::Sender<()>, thread::JoinHandle<usize>) {
    let (leave, told) = channel();
    let thread = thread::spawn(move || {
        let mut mover = Mover::open(kit).unwrap();
        let mut turns = 0;
        while told.try_recv().is_err() {
            mover.turn();
            turns += 1;
            thread::yield_now();
        }
        turns
    });
    (leave, thread)
}

fn wait_for_movers(fleet: &mut Fleet, count: usize) {
    while fleet.movers() < count {
        fleet.turn();
        thread::yield_now();
    }
}

#[test]
fn a_fleet_reads_on_all_its_shards() {
    let bench = bench();
    let depth = Depth { demand: 2, other: 1 };
    let (line, kit) = line(bench.setup(depth), None);
    let mut fleet = Fleet::new(Mover::open(Kit::new(bench.setup(depth))).unwrap(), vec![line]);
    let (leave, thread) = mate(kit);
    wait_for_movers(&mut fleet, 2);
    let mut used = Vec::new();
    for round in 0..20 {
        for ticket in 0..60 {
            let offset = 4096 * ((round * 7 + ticket) % 100);
            let urgency = [Demand, Forecast, Warm][ticket as usize % 3];
            let mut read = bench.read(ticket, offset, 16_384, urgency);
            read.sum = Some(sum(&expected(offset, 16_384)));
            if ticket == 30 {
                read.sum = Some(1);
            }
            fleet.read(read);
        }
        fleet.turn();
        // Whether a mover was quicker than this look at it is chance.
        used.resize(fleet.spread().count(), false);
        fleet.spread().zip(&mut used).for_each(|(under_way, used)| *used |= under_way > 0);
        fleet.hurry(59, Demand);
        fleet.hurry(57, Warm);
        fleet.give_up(58);
        let all = until_done(&mut fleet);
        let mut seen = tickets(&all);
        seen.sort_unstable();
        assert_eq!(seen, (0..60).collect::<Vec<_>>());
        for done in all {
            let fault = match done.ticket {
                30 => Some(Fault::Sum),
                58 if done.outcome.is_err() => Some(Fault::Dropped),
                _ => None,
            };
            assert_eq!(done.outcome.err(), fault);
        }
        if bench.arena.left() < 60 * 16_384 {
            break;
        }
    }
    assert!(used.iter().all(|used| *used), "somebody has nothing to do");
    assert_eq!((fleet.lost(), fleet.troubles().count()), (0, 0));
    leave.send(()).unwrap();
    thread.join().unwrap();
    // What is left does the work alone, and says why.
    fleet.read(bench.read(1, 0, 4096, Demand));
    assert_eq!(until_done(&mut fleet)[0].outcome, Ok(()));
    assert_eq!(fleet.troubles().collect::<Vec<_>>(), ["its thread has ended"]);
    assert_eq!(fleet.movers(), 1);
}

#[test]
fn a_shard_that_rests_is_left_alone_or_woken() {
    use std::io::Read as _;
    use std::os::fd::AsFd;
    use std::sync::atomic::{AtomicBool, Ordering};

    let bench = bench();
    let depth = Depth { demand: 2, other: 1 };
    let bell = Bell::new().unwrap();
    let (line, kit) = line(bench.setup(depth), Some(bell.clone()));
    let mut fleet = Fleet::new(Mover::open(Kit::new(bench.setup(depth))).unwrap(), vec![line]);
    let leave = Arc::new(AtomicBool::new(false));
    let (told, ear) = (Arc::clone(&leave), bell.clone());
    let thread = thread::spawn(move || {
        let mut ear = fs::File::from(ear.as_fd().try_clone_to_owned().unwrap());
        let (mut mover, mut rests) = (Mover::open(kit).unwrap(), 0);
        while !told.load(Ordering::Relaxed) {
            if mover.may_rest() {
                ear.read_exact(&mut [0; 8]).unwrap();
                rests += 1;
            }
        }
        rests
    });
    wait_for_movers(&mut fleet, 2);
    // Whatever moment it lies down at, no read is left with it.
    for ticket in 0..500 {
        fleet.read(bench.read(ticket, 4096 * (ticket % 700), 4096, Demand));
        fleet.read(bench.read(ticket, 4096 * (ticket % 700), 4096, Demand));
        assert_eq!(until_done(&mut fleet).len(), 2);
        if ticket % 10 == 0 {
            bell.ring();
        }
    }
    leave.store(true, Ordering::Relaxed);
    bell.ring();
    thread.join().unwrap();
}

#[test]
fn a_fleet_gets_back_what_a_mover_had_that_leaves() {
    let bench = bench();
    let depth = Depth { demand: 4, other: 4 };
    let (line, kit) = line(bench.setup(depth), None);
    let mut fleet = Fleet::new(Mover::open(Kit::new(bench.setup(depth))).unwrap(), vec![line]);
    // It has reads before the kernel and others that it has not looked at.
    let (leave, told) = channel::<()>();
    let thread = thread::spawn(move || {
        let mut mover = Mover::open(kit).unwrap();
        told.recv().unwrap();
        mover.listen();
        mover.feed();
    });
    wait_for_movers(&mut fleet, 2);
    for ticket in 0..20 {
        fleet.read(bench.read(ticket, 4096 * ticket, 64 << 10, Demand));
    }
    fleet.turn();
    leave.send(()).unwrap();
    thread.join().unwrap();
    let all = until_done(&mut fleet);
    assert_eq!(all.len(), 20);
    for done in &all {
        match done.outcome {
            Ok(()) => assert!(done.into[..] == expected(4096 * done.ticket, 64 << 10)),
            Err(fault) => assert_eq!(fault, Fault::Dropped),
        }
    }
    assert_eq!(fleet.lost(), 0);
}

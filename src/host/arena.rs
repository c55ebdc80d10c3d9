//! Memory for weights and pages of KV: reserved once, given out in pieces, never given back singly.
//!
//! Reserved memory takes nothing until it is touched. A page then comes from the memory nearest
//! to the processor that touches it first, so who will read a region should be who writes it.

use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::Serialize;

use super::mapping::page_size;
use super::memory;
use crate::base::units::Bytes;

const HUGE: usize = 2 << 20;

/// What every region is aligned to: two shards never write to one cache line.
const LINE: usize = 64;

/// What an arena is made of. Weights of gigabytes in small pages cost a look-up in the page
/// tables for nearly every read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Pages {
    /// Huge pages that were set aside for this by the host's owner.
    Explicit,
    /// Huge pages where the kernel finds them.
    Transparent,
    Small,
}

/// A run of memory that regions are taken from.
#[derive(Clone, Debug)]
pub struct Arena {
    memory: Arc<Memory>,
}

/// A piece of an arena that nobody else has; zeroes at first. It keeps the whole arena alive.
#[derive(Debug)]
pub struct Region {
    piece: Piece,
}

/// A piece of an arena that nobody writes to any more: cheap to clone, and to share.
#[derive(Clone, Debug)]
pub struct Frozen {
    piece: Piece,
}

#[derive(Debug, thiserror::Error)]
#[error(
    "{} of memory were refused ({error}); {} are free: give the engine less memory, or this \
     process more",
    Bytes(*needed as u64), Bytes(*free)
)]
pub struct ArenaError {
    needed: usize,
    free: u64,
    error: io::Error,
}

#[derive(Debug)]
struct Memory {
    start: NonNull<u8>,
    /// Bytes that regions may be taken from, and bytes that are mapped for them.
    len: usize,
    mapped: usize,
    /// Where the next region may begin.
    used: AtomicUsize,
    pages: Pages,
    locked: bool,
}

/// Lies inside `memory`, and no other piece made by [`Arena::take`] has any of its bytes.
#[derive(Clone, Debug)]
struct Piece {
    memory: Arc<Memory>,
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the address of a mapping may be used by any thread, and what changes is atomic.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}
// SAFETY: a piece is owned as a `Box<[u8]>` is (`Region`) or shared as an `Arc<[u8]>` is (`Frozen`).
unsafe impl Send for Piece {}
// SAFETY: as above; through a shared reference it is only read.
unsafe impl Sync for Piece {}

impl Arena {
    /// Reserves memory: of explicit huge pages if the host has enough of them for all of it, else
    /// with transparent ones if it has those. It is kept from being swapped out if the user's
    /// limits allow that.
    pub fn reserve(bytes: usize) -> Result<Arena, ArenaError> {
        let memory = Memory::reserve(bytes).map_err(|error| {
            let free = memory::available();
            ArenaError { needed: bytes, free, error }
        })?;
        Ok(Arena { memory: Arc::new(memory) })
    }

    /// The next `len` bytes whose address is a multiple of `align` (a power of two; at least 64
    /// is taken). `None` if they are not there. Any thread may ask.
    pub fn take(&self, len: usize, align: usize) -> Option<Region> {
        if !align.is_power_of_two() {
            return None;
        }
        let base = self.memory.start.addr().get();
        let begin_after = |used: usize| {
            let begin = base.checked_add(used)?.checked_next_multiple_of(align.max(LINE))? - base;
            (begin.checked_add(len)? <= self.memory.len).then_some(begin)
        };
        // Which bytes are whose is all that this orders; what is in them is handed over otherwise.
        let used = &self.memory.used;
        let before = used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            begin_after(used).map(|begin| begin + len)
        });
        let begin = begin_after(before.ok()?)?;
        // SAFETY: `begin + len` is at most the length of the mapping.
        let start = unsafe { self.memory.start.add(begin) };
        Some(Region { piece: Piece { memory: Arc::clone(&self.memory), start, len } })
    }

    pub fn len(&self) -> usize {
        self.memory.len
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that were not taken yet.
    pub fn left(&self) -> usize {
        self.memory.len - self.memory.used.load(Ordering::Relaxed)
    }

    pub fn pages(&self) -> Pages {
        self.memory.pages
    }

    /// The addresses of all its bytes, for who must tell the kernel of them beforehand. What lies
    /// there belongs to the regions.
    pub fn span(&self) -> Range<usize> {
        let start = self.memory.start.addr().get();
        start..start + self.memory.len
    }

    /// Whether its pages stay in memory once they are there.
    pub fn locked(&self) -> bool {
        self.memory.locked
    }
}

/// For a start-up line: `17.0 GiB in transparent huge pages, locked`.
impl fmt::Display for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let locked = if self.locked() { ", locked" } else { "" };
        write!(f, "{} in {}{locked}", Bytes(self.len() as u64), self.pages())
    }
}

impl fmt::Display for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Pages::Explicit => "explicit huge pages",
            Pages::Transparent => "transparent huge pages",
            Pages::Small => "small pages",
        })
    }
}

impl Memory {
    fn reserve(len: usize) -> io::Result<Memory> {
        let used = AtomicUsize::new(0);
        if len == 0 {
            let (start, pages) = (NonNull::dangling(), Pages::Small);
            return Ok(Memory { start, len, mapped: 0, used, pages, locked: false });
        }
        let too_large = || io::Error::from(io::ErrorKind::OutOfMemory);
        let huge = len.checked_next_multiple_of(HUGE).ok_or_else(too_large)?;
        // Less than a huge page does not fill one, and Miri knows only small ones.
        if len >= HUGE && !cfg!(miri) {
            if huge as u64 <= memory::huge_pages_left()
                && let Ok(start) = map(huge, libc::MAP_HUGETLB | libc::MAP_HUGE_2MB)
            {
                // These are never swapped out, and `mlock2` would touch them all at once.
                let (mapped, pages) = (huge, Pages::Explicit);
                return Ok(Memory { start, len, mapped, used, pages, locked: true });
            }
            // A huge page begins at a multiple of its size. What is mapped too much is unmapped.
            let mapped = huge.checked_add(HUGE).ok_or_else(too_large)?;
            let first = map(mapped, 0)?;
            let skip = first.align_offset(HUGE);
            // SAFETY: `skip` is less than `HUGE`, so the three parts lie inside the mapping, which
            // nobody else knows, and are whole pages.
            let start = unsafe {
                let start = first.add(skip);
                unmap(first, skip);
                unmap(start.add(huge), HUGE - skip);
                start
            };
            let mut memory =
                Memory { start, len, mapped: huge, used, pages: Pages::Small, locked: false };
            // SAFETY: the mapping is ours; advice changes nothing that can be seen.
            let refused =
                unsafe { libc::madvise(start.as_ptr().cast(), huge, libc::MADV_HUGEPAGE) };
            if refused == 0 && transparent_huge_pages() {
                memory.pages = Pages::Transparent;
            }
            return Ok(memory.lock());
        }
        let mapped = len.checked_next_multiple_of(page_size()).ok_or_else(too_large)?;
        let start = map(mapped, 0)?;
        Ok(Memory { start, len, mapped, used, pages: Pages::Small, locked: false }.lock())
    }

    /// Keeps pages in memory from when they are first touched, if the user's limits allow it.
    fn lock(mut self) -> Memory {
        if !cfg!(miri) {
            // By its number: C libraries are younger than the call. SAFETY: the mapping is ours.
            let refused = unsafe {
                let (start, on_fault) = (self.start.as_ptr(), libc::MLOCK_ONFAULT);
                libc::syscall(libc::SYS_mlock2, start, self.mapped, on_fault)
            };
            self.locked = refused == 0;
        }
        self
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: every piece holds the memory it lies in, so none is left.
        unsafe { unmap(self.start, self.mapped) };
    }
}

/// Maps `len` bytes of zeroes, which take no memory until they are touched.
fn map(len: usize, more_flags: i32) -> io::Result<NonNull<u8>> {
    let (access, kind) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping, where the kernel wants it, touches nothing that is there.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), len, access, kind | more_flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mapped at address 0"))
}

/// # Safety
/// The pages are part of a mapping, and nobody will use them.
unsafe fn unmap(start: NonNull<u8>, len: usize) {
    if len > 0 {
        // SAFETY: as the caller says. It can only be refused for want of memory for the kernel's
        // own lists; then the addresses are lost, and nothing else.
        unsafe { libc::munmap(start.as_ptr().cast(), len) };
    }
}

/// Whether the kernel gives huge pages to who asks for them.
fn transparent_huge_pages() -> bool {
    let folder = "/sys/kernel/mm/transparent_hugepage";
    let read = |file: &str| std::fs::read_to_string(format!("{folder}/{file}")).unwrap_or_default();
    may_be_huge(&read("enabled"), &read("hugepages-2048kB/enabled"))
}

/// The switch for all sizes, and the newer one for this size, which rules unless it inherits.
fn may_be_huge(all: &str, size: &str) -> bool {
    let chosen = if size.is_empty() || size.contains("[inherit]") { all } else { size };
    ["[always]", "[madvise]"].iter().any(|on| chosen.contains(on))
}

impl Piece {
    fn bytes(&self) -> &[u8] {
        // SAFETY: the bytes lie in a mapping that lives as long as `memory`, and were zeroes when
        // it was made. Whoever may write to them holds the only region, by `&mut`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl Region {
    /// The same memory as floats: as many as fit in it whole.
    pub fn floats_mut(&mut self) -> &mut [f32] {
        let floats = self.piece.len / size_of::<f32>();
        // SAFETY: the piece is this region's alone and aligned to a cache line, the kernel zeroed
        // it, and any bits are a float.
        unsafe { std::slice::from_raw_parts_mut(self.piece.start.as_ptr().cast(), floats) }
    }

    /// Cuts the first `at` bytes off, which become a region of their own.
    ///
    /// # Panics
    /// If there are not so many, or `at` is no multiple of 64: every region begins at a cache line.
    pub fn split_to(&mut self, at: usize) -> Region {
        assert!(at <= self.piece.len, "{at} bytes of a region of {}", self.piece.len);
        assert!(at.is_multiple_of(LINE), "a region begins at a multiple of {LINE}, not at {at}");
        let first =
            Piece { memory: Arc::clone(&self.piece.memory), start: self.piece.start, len: at };
        // SAFETY: `at` is at most the length, so the rest lies inside the piece too.
        self.piece.start = unsafe { self.piece.start.add(at) };
        self.piece.len -= at;
        Region { piece: first }
    }

    /// One region of two that touch, this one first. Both come back if they do not.
    pub fn join(self, next: Region) -> Result<Region, (Region, Region)> {
        let (first, second) = (&self.piece, &next.piece);
        let end = first.start.addr().get() + first.len;
        if !Arc::ptr_eq(&first.memory, &second.memory) || end != second.start.addr().get() {
            return Err((self, next));
        }
        // Both lie in one mapping and are nobody else's, so their bytes together are too.
        let (mut piece, len) = (self.piece, second.len);
        piece.len += len;
        Ok(Region { piece })
    }

    /// Gives up writing, for sharing.
    pub fn freeze(self) -> Frozen {
        Frozen { piece: self.piece }
    }
}

impl Deref for Region {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.piece.bytes()
    }
}

impl DerefMut for Region {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `Piece::bytes`; the bytes are in no other piece, since a region is not
        // cloned, and this borrow keeps it from being read meanwhile.
        unsafe { std::slice::from_raw_parts_mut(self.piece.start.as_ptr(), self.piece.len) }
    }
}

impl Frozen {
    /// A part of these bytes, `None` if it is not inside them.
    pub fn slice(&self, part: Range<usize>) -> Option<Frozen> {
        let len = self.get(part.clone())?.len();
        // SAFETY: the part lies inside the piece.
        let start = unsafe { self.piece.start.add(part.start) };
        Some(Frozen { piece: Piece { memory: Arc::clone(&self.piece.memory), start, len } })
    }
}

impl Deref for Frozen {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.piece.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_are_aligned_zeroed_and_apart_until_the_arena_is_spent() {
        let arena = Arena::reserve(20_000).unwrap();
        assert_eq!((arena.len(), arena.left(), arena.pages()), (20_000, 20_000, Pages::Small));
        let mut first = arena.take(3, 1).unwrap();
        let mut second = arena.take(5, 4096).unwrap();
        let third = arena.take(64, 64).unwrap();
        assert_eq!(first.as_ptr() as usize % 64, 0);
        assert_eq!(second.as_ptr() as usize % 4096, 0);
        assert_eq!(third.as_ptr() as usize, second.as_ptr() as usize + 64);
        assert_eq!((&first[..], &second[..]), (&[0; 3][..], &[0; 5][..]));
        first.fill(1);
        second.fill(2);
        assert_eq!((&first[..], &second[..]), (&[1; 3][..], &[2; 5][..]));
        assert!(third.iter().all(|byte| *byte == 0));

        let left = arena.left();
        assert!(arena.take(left + 1, 64).is_none());
        assert!(arena.take(usize::MAX, 64).is_none());
        assert!(arena.take(1, 1 << (usize::BITS - 1)).is_none());
        assert!(arena.take(1, 3).is_none() && arena.take(1, 0).is_none());
        assert_eq!(arena.left(), left, "what is refused takes nothing");
        let mut rest = arena.take(left, 64).unwrap();
        rest.fill(3);
        assert_eq!(arena.left(), 0);
        assert!(arena.take(1, 1).is_none());
    }

    #[test]
    fn a_region_is_split_and_joined_again() {
        let arena = Arena::reserve(1 << 16).unwrap();
        let span = arena.span();
        let mut rest = arena.take(1000, 64).unwrap();
        let address = rest.as_ptr().addr();
        assert!(span.contains(&address) && span.len() == 1 << 16);
        rest.iter_mut().enumerate().for_each(|(i, byte)| *byte = i as u8);
        let mut first = rest.split_to(128);
        let nothing = rest.split_to(0);
        let mut second = rest.split_to(512);
        assert_eq!((first.len(), second.len(), rest.len()), (128, 512, 360));
        assert_eq!((first[127], second[0], rest[0]), (127, 128, 640_u32 as u8));

        // Each is written on a thread of its own, as a drive does, while the others are looked at.
        let second = std::thread::spawn(move || {
            second.fill(7);
            second.floats_mut()[0] = 0.0;
            second
        });
        first.fill(5);
        rest.floats_mut()[0] = 1.0;
        let second = second.join().unwrap();

        let (first, rest) = first.join(rest).expect_err("there is a hole");
        let (second, first) = second.join(first).expect_err("the wrong way round");
        let whole = first.join(nothing).unwrap().join(second).unwrap().join(rest).unwrap();
        assert_eq!((whole.len(), whole.as_ptr().addr()), (1000, address));
        assert_eq!((whole[127], whole[128], whole[132], whole[639]), (5, 0, 7, 7));
        assert_eq!(whole[640..644], 1f32.to_ne_bytes());
        assert_eq!(whole[644], 644_u32 as u8);

        let other = Arena::reserve(64).unwrap().take(64, 64).unwrap();
        let (whole, other) = whole.join(other).expect_err("another arena");
        assert_eq!((whole.len(), other.len()), (1000, 64));
        drop(arena);
        assert_eq!(whole[639], 7);
    }

    #[test]
    #[should_panic = "begins at a multiple of 64"]
    fn a_region_begins_at_a_cache_line() {
        Arena::reserve(1 << 12).unwrap().take(1000, 64).unwrap().split_to(100);
    }

    #[test]
    #[should_panic = "1024 bytes of a region of 1000"]
    fn a_region_is_split_inside() {
        Arena::reserve(1 << 12).unwrap().take(1000, 64).unwrap().split_to(1024);
    }

    #[test]
    fn frozen_regions_outlive_the_arena_and_are_shared() {
        let arena = Arena::reserve(1 << 16).unwrap();
        let mut region = arena.take(1000, 64).unwrap();
        region.iter_mut().enumerate().for_each(|(i, byte)| *byte = i as u8);
        let frozen = region.freeze();
        drop(arena);
        let part = frozen.slice(10..20).unwrap();
        assert_eq!(part[..], [10, 11, 12, 13, 14, 15, 16, 17, 18, 19]);
        assert_eq!(part.slice(9..10).unwrap()[..], [19]);
        assert!(part.slice(5..11).is_none() && part.slice(10..10).unwrap().is_empty());
        let (from, to) = (2, 1);
        assert!(part.slice(from..to).is_none());
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let frozen = frozen.clone();
                std::thread::spawn(move || frozen.iter().map(|byte| u64::from(*byte)).sum::<u64>())
            })
            .collect();
        drop(frozen);
        let sums: Vec<u64> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert_eq!(sums[0], sums[1]);
        assert_eq!(part[0], 10);
    }

    #[test]
    fn threads_take_regions_of_their_own() {
        let (threads, each) = if cfg!(miri) { (2, 4) } else { (4, 100) };
        let arena = Arena::reserve(threads * each * 128).unwrap();
        let take = |mark: usize| {
            let arena = arena.clone();
            std::thread::spawn(move || {
                let mut regions = Vec::new();
                for _ in 0..each {
                    let mut region = arena.take(100, 64).unwrap();
                    region.fill(mark as u8);
                    regions.push(region);
                }
                regions
            })
        };
        let takers: Vec<_> = (0..threads).map(take).collect();
        for (mark, taker) in takers.into_iter().enumerate() {
            let regions = taker.join().unwrap();
            assert!(regions.iter().all(|region| region.iter().all(|byte| *byte == mark as u8)));
        }
        assert!(arena.take(100, 64).is_none());
    }

    #[test]
    fn nothing_is_an_arena_too() {
        let arena = Arena::reserve(0).unwrap();
        assert!(arena.is_empty() && arena.take(1, 64).is_none());
    }

    #[test]
    #[cfg(not(miri))]
    fn a_large_arena_takes_no_memory_until_it_is_touched() {
        let (page, arena) = (page_size(), Arena::reserve(64 << 20).unwrap());
        let mut region = arena.take(64 << 20, HUGE).unwrap();
        let resident = |region: &Region| {
            let mut there = vec![0u8; (64 << 20) / page];
            // SAFETY: one byte is written for each page of the region.
            let refused = unsafe {
                libc::mincore(region.as_ptr().cast_mut().cast(), 64 << 20, there.as_mut_ptr())
            };
            assert_eq!(refused, 0);
            there.iter().filter(|page| **page & 1 == 1).count() * page
        };
        assert_eq!(resident(&region), 0);
        region[1 << 20] = 1;
        assert!((1..=HUGE).contains(&resident(&region)));
        let text = arena.to_string();
        assert!(text.starts_with("64.0 MiB in ") && text.contains("pages"), "{text}");
    }

    #[test]
    #[cfg(not(miri))]
    fn a_refusal_says_how_much_and_how_much_is_free() {
        for bytes in [1 << 46, usize::MAX - 5, usize::MAX / 2] {
            let text = Arena::reserve(bytes).unwrap_err().to_string();
            assert!(text.contains("of memory were refused") && text.contains("are free"), "{text}");
        }
    }

    #[test]
    fn the_switch_for_a_size_rules_unless_it_inherits() {
        assert!(may_be_huge("always [madvise] never", ""));
        assert!(!may_be_huge("always madvise [never]", "always [inherit] madvise never"));
        assert!(may_be_huge("always madvise [never]", "always inherit [madvise] never"));
        assert!(!may_be_huge("[always] madvise never", "always inherit madvise [never]"));
        assert!(!may_be_huge("", ""));
    }
}

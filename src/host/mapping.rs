//! Files mapped for reading.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use memmap2::{Advice, Mmap, UncheckedAdvice};

use super::direct;

/// Bytes asked for at once. The kernel cuts a request at the device's read-ahead size and drops
/// the rest, which is then read page by page; 128 KiB is the smallest size in use.
const PREFETCH: usize = 128 << 10;

/// An immutable run of bytes that is cheap to clone: a range of a mapped file, of a buffer this
/// process made, or of the program itself.
#[derive(Clone)]
pub struct Bytes {
    owner: Owner,
    range: Range<usize>,
}

#[derive(Clone)]
enum Owner {
    Mapped(Arc<Mapped>),
    Made(Arc<Vec<u8>>),
    Static(&'static [u8]),
}

/// A whole file.
struct Mapped {
    map: Mmap,
    file: File,
}

impl Bytes {
    /// Maps a whole file. Nothing is read until it is looked at.
    pub fn map(path: &Path) -> io::Result<Bytes> {
        // Asked before opening, which would wait for ever on a pipe nobody writes to.
        if !std::fs::metadata(path)?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        let file = File::open(path)?;
        if file.metadata()?.len() == 0 {
            return Ok(Bytes::fixed(&[]));
        }
        // SAFETY: the map is read-only, and shared with whoever else has the file. It is sound
        // while nobody writes to the file or cuts it short, which nothing can enforce: the user
        // must see to it, as with every program that maps its models. (A cut raises SIGBUS; what
        // is written shows up as other weights, after their headers were checked.) Experts that
        // are packed are read with io_uring instead.
        let map = unsafe { Mmap::map(&file)? };
        let range = 0..map.len();
        Ok(Bytes { owner: Owner::Mapped(Arc::new(Mapped { map, file })), range })
    }

    /// Bytes that are part of the program.
    pub fn fixed(bytes: &'static [u8]) -> Bytes {
        Bytes { owner: Owner::Static(bytes), range: 0..bytes.len() }
    }

    /// Bytes this process made.
    pub fn made(bytes: Vec<u8>) -> Bytes {
        let range = 0..bytes.len();
        Bytes { owner: Owner::Made(Arc::new(bytes)), range }
    }

    /// A part of these bytes, `None` if it is not inside them.
    pub fn slice(&self, part: Range<usize>) -> Option<Bytes> {
        if part.start > part.end || part.end > self.len() {
            return None;
        }
        let range = self.range.start + part.start..self.range.start + part.end;
        Some(Bytes { owner: self.owner.clone(), range })
    }

    /// Tells the host to read of these bytes what is looked at and nothing around it. Its own
    /// guess (some megabytes per fault) reads experts that nobody asked for.
    pub fn without_read_ahead(&self) {
        self.advise(Advice::Random);
    }

    /// Tells the host to begin reading all of these bytes. Does not wait for them.
    pub fn prefetch(&self) {
        for start in (0..self.len()).step_by(PREFETCH) {
            let part = self.slice(start..self.len().min(start + PREFETCH));
            part.iter().for_each(|part| part.advise(Advice::WillNeed));
        }
    }

    /// Takes the whole pages among these bytes of a mapped file out of this process's memory. They
    /// are read again when they are looked at; the host's cache of files may still have them.
    pub fn release(&self) {
        let (Owner::Mapped(whole), page) = (&self.owner, page_size()) else { return };
        // A map begins at a page.
        let start = self.range.start.next_multiple_of(page);
        let end = self.range.end / page * page;
        if start < end {
            // SAFETY: nothing can be written through the map, so all that is forgotten is which
            // pages of the file were looked at.
            let _ = unsafe {
                whole.map.unchecked_advise_range(UncheckedAdvice::DontNeed, start, end - start)
            };
        }
    }

    /// Releases them, and tells the host that its cache need not keep them either: what is read
    /// once, and is larger than memory, shall not drive out what is used.
    pub fn forget(&self) {
        self.release();
        if let (Owner::Mapped(whole), false) = (&self.owner, self.is_empty()) {
            direct::forget(&whole.file, self.range.start as u64, self.range.len() as u64);
        }
    }

    /// Makes all of these bytes readable at once: waits until they are in memory, and spares each
    /// page the fault it would otherwise take.
    pub fn populate(&self) {
        self.advise(Advice::PopulateRead);
    }

    /// Advice may be ignored: it changes when bytes are read, never which.
    fn advise(&self, advice: Advice) {
        if let (Owner::Mapped(whole), false) = (&self.owner, self.is_empty()) {
            let _ = whole.map.advise_range(advice, self.range.start, self.range.len());
        }
    }

    pub fn len(&self) -> usize {
        self.range.len()
    }

    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }
}

/// At least 4 KiB.
pub(super) fn page_size() -> usize {
    // SAFETY: it asks for a number.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).unwrap_or(0).max(4096)
}

impl std::ops::Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let whole: &[u8] = match &self.owner {
            Owner::Mapped(whole) => &whole.map,
            Owner::Made(bytes) => bytes,
            Owner::Static(bytes) => bytes,
        };
        &whole[self.range.clone()]
    }
}

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bytes({} long)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_stay_inside() {
        let bytes = Bytes::made(vec![1, 2, 3, 4]);
        let part = bytes.slice(1..3).unwrap();
        assert_eq!(part[..], [2, 3]);
        assert_eq!(part.slice(1..2).unwrap()[..], [3]);
        assert!(part.slice(0..3).is_none());
        assert!(part.slice(usize::MAX - 1..usize::MAX).is_none());
        let (from, to) = (2, 1);
        assert!(part.slice(from..to).is_none());
        assert!(part.slice(2..2).unwrap().is_empty());
    }

    /// Bytes of the mapping that begins here which are in this process's memory.
    fn resident(bytes: &Bytes) -> u64 {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let begin = format!("{:x}-", bytes.as_ptr() as usize);
        let ours = maps.lines().skip_while(|line| !line.starts_with(&begin));
        let line = ours.into_iter().find_map(|line| line.strip_prefix("Rss:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
    }

    #[test]
    fn released_pages_leave_and_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let (page, pages) = (page_size(), 64);
        let content: Vec<u8> = (0..pages * page + 5).map(|i| (i / page) as u8 + 1).collect();
        std::fs::write(&path, &content).unwrap();
        let bytes = Bytes::map(&path).unwrap();
        assert!(bytes[..] == content[..]);
        let before = resident(&bytes);
        assert!(before >= (pages * page) as u64);
        // Pages that are not whole stay.
        bytes.slice(page - 1..3 * page + 1).unwrap().release();
        assert_eq!(before - resident(&bytes), 2 * page as u64);
        bytes.slice(5..page).unwrap().release();
        assert_eq!(before - resident(&bytes), 2 * page as u64);
        bytes.release();
        assert!(resident(&bytes) <= page as u64);
        assert!(bytes[..] == content[..]);
        bytes.forget();
        assert!(resident(&bytes) <= page as u64);
        assert!(bytes[..] == content[..]);
        // Other bytes have nothing to release.
        Bytes::made(content).release();
        Bytes::fixed(b"abc").release();
    }

    #[test]
    fn only_regular_files_are_mapped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, b"abc").unwrap();
        assert_eq!(Bytes::map(&path).unwrap()[..], *b"abc");
        std::fs::write(&path, b"").unwrap();
        assert!(Bytes::map(&path).unwrap().is_empty());
        assert_eq!(Bytes::map(folder.path()).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(Bytes::map(&path.join("x")).unwrap_err().kind(), io::ErrorKind::NotADirectory);
    }
}

//! Making a pack: from the model's mapped files to panels, sums and files, in pieces of some MiB
//! per thread. Nothing of it has its name before all of it is on the disk.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use super::error::Error;
use super::fingerprint::Fingerprint;
use super::header::{Heads, MOST_FILES, check_block};
use super::layout::Layout;
use super::{Contents, Extent, Shape};
use crate::base::sum::sum;
use crate::host::direct::{self, Aligned, Direct, SECTOR};
use crate::weights::Matrix;

/// What is to be made.
pub struct Job<'a> {
    pub contents: &'a Contents,
    pub source: &'a Fingerprint,
    /// Where: one file, or several on several drives.
    pub files: &'a [PathBuf],
    /// Bytes of a block.
    pub block: usize,
}

/// What was made.
#[derive(Clone, Copy, Debug)]
pub struct Built {
    /// Bytes of all files.
    pub bytes: u64,
    pub blocks: u64,
}

/// Does so many pieces of work, each by its number.
pub type Each<'a> = dyn FnMut(usize, &(dyn Fn(usize) + Sync)) + 'a;

/// Threads that do numbered pieces of work together.
pub struct Hands<'a> {
    pub count: usize,
    pub each: &'a mut Each<'a>,
}

impl Hands<'_> {
    /// So many pieces at a time keep all of them busy until nearly the end.
    pub(super) fn at_once(&self) -> usize {
        16 * self.count.max(1)
    }
}

/// How far the work is.
#[derive(Clone, Copy, Debug)]
pub struct Far {
    pub done: u64,
    pub whole: u64,
}

/// Bytes that one thread packs and writes at a time. More makes the disk no faster.
const PIECE: u64 = 2 << 20;

/// Some blocks of one extent.
#[derive(Clone)]
pub(super) struct Piece {
    pub extent: usize,
    pub blocks: std::ops::Range<u64>,
}

/// All blocks, in pieces, in order.
pub(super) fn pieces(layout: &Layout) -> impl Iterator<Item = Piece> {
    let run = (PIECE / layout.block()).max(1);
    (0..layout.extents()).flat_map(move |extent| {
        let count = layout.blocks(extent);
        (0..count).step_by(run as usize).map(move |start| {
            let blocks = start..count.min(start + run);
            Piece { extent, blocks }
        })
    })
}

/// Memory that threads take and give back.
#[derive(Default)]
pub(super) struct Rooms(Mutex<Vec<Aligned>>);

impl Rooms {
    /// Lends `work` at least `len` bytes, with anything in them.
    pub fn lend<T>(&self, len: usize, work: impl FnOnce(&mut [u8]) -> T) -> T {
        let rooms = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut room = match rooms().pop() {
            Some(room) if room.len() >= len => room,
            _ => Aligned::zeroed(len),
        };
        let made = work(&mut room);
        rooms().push(room);
        made
    }
}

impl Job<'_> {
    /// Makes the pack, and tells `progress` from time to time how far it is; `false` from there
    /// stops it. Whatever stops it, nothing is left of what was not finished, and what stood
    /// there before stays.
    pub fn run(
        &self,
        hands: &mut Hands,
        progress: &mut dyn FnMut(Far) -> bool,
    ) -> Result<Built, Error> {
        check_block(self.block)?;
        let paths = self.places()?;
        let shape = Shape::new(self.contents)?;
        let layout = Layout::new(shape.extents(), self.block as u64, paths.len());
        let layout = layout.ok_or(Error::TooLarge)?;
        let heads = Heads::new(&paths, &shape, &layout, self.source)?;
        let lens: Vec<u64> =
            heads.data.iter().zip(layout.ends()).map(|(data, end)| data + end).collect();
        let mut outputs = Vec::new();
        for (path, &len) in paths.into_iter().zip(&lens) {
            outputs.push(Output::create(path, len)?);
        }
        let packing = Packing {
            contents: self.contents,
            shape: &shape,
            layout: &layout,
            data: &heads.data,
            outputs: &outputs,
            sums: (0..layout.all_blocks()).map(|_| AtomicU64::new(0)).collect(),
            rooms: Rooms::default(),
            failed: OnceLock::new(),
        };
        packing.all(hands, progress)?;
        let sums: Vec<u64> = packing.sums.into_iter().map(AtomicU64::into_inner).collect();
        for (output, head) in outputs.iter().zip(heads.bytes(&sums)?) {
            let mut bytes = Aligned::zeroed(head.len());
            bytes.copy_from_slice(&head);
            output.direct.write(&bytes, 0).map_err(|source| output.failed(source))?;
            output.direct.sync().map_err(|source| output.failed(source))?;
        }
        // The first names the others, so it is the last to be there.
        for output in outputs.into_iter().rev() {
            output.finish()?;
        }
        Ok(Built { bytes: lens.iter().sum(), blocks: layout.all_blocks() })
    }

    /// The files' full paths, folders' links followed: the first file says where the others are.
    fn places(&self) -> Result<Vec<PathBuf>, Error> {
        if self.files.is_empty() || self.files.len() > MOST_FILES {
            return Err(Error::NoFile);
        }
        let mut places: Vec<PathBuf> = Vec::new();
        for path in self.files {
            let write = |source| Error::Write { path: path.clone(), source };
            let place = match (fs::canonicalize(path), path.file_name()) {
                (Ok(place), _) if place.is_dir() => {
                    return Err(Error::Folder { path: path.clone() });
                }
                // A link stays a link, to another content.
                (Ok(place), _) => place,
                (Err(_), Some(name)) => {
                    let folder = match path.parent() {
                        Some(folder) if !folder.as_os_str().is_empty() => folder,
                        _ => Path::new("."),
                    };
                    fs::canonicalize(folder).map_err(write)?.join(name)
                }
                (Err(error), None) => return Err(write(error)),
            };
            if place.exists() && !place.is_file() {
                let source = io::Error::new(io::ErrorKind::InvalidInput, "it is not a file");
                return Err(write(source));
            }
            if places.contains(&place) {
                return Err(Error::Twice { path: path.clone() });
            }
            places.push(place);
        }
        Ok(places)
    }
}

/// The work, as all threads see it.
struct Packing<'a> {
    contents: &'a Contents,
    shape: &'a Shape,
    layout: &'a Layout,
    /// Where in each file the blocks begin.
    data: &'a [u64],
    outputs: &'a [Output],
    /// By block.
    sums: Vec<AtomicU64>,
    rooms: Rooms,
    /// The first failure: the file, and what it was.
    failed: OnceLock<(usize, io::Error)>,
}

impl Packing<'_> {
    fn all(&self, hands: &mut Hands, progress: &mut dyn FnMut(Far) -> bool) -> Result<(), Error> {
        let (mut done, whole) = (0, self.layout.bytes());
        let mut pieces = pieces(self.layout);
        let mut next = |count: usize| -> Vec<Piece> { pieces.by_ref().take(count).collect() };
        let mut now = next(hands.at_once());
        let fetch = |pieces: &[Piece]| pieces.iter().for_each(|piece| self.fetch(piece));
        fetch(&now);
        while !now.is_empty() {
            if !progress(Far { done, whole }) {
                return Err(Error::Stopped);
            }
            // Read while these are packed and written.
            let later = next(hands.at_once());
            fetch(&later);
            (hands.each)(now.len(), &|i| {
                if self.failed.get().is_none()
                    && let Err(failure) = self.piece(&now[i])
                {
                    let _ = self.failed.set(failure);
                }
            });
            if let Some((file, error)) = self.failed.get() {
                // An io::Error cannot be cloned.
                let error = match error.raw_os_error() {
                    Some(code) => io::Error::from_raw_os_error(code),
                    None => io::Error::new(error.kind(), error.to_string()),
                };
                return Err(self.outputs[*file].failed(error));
            }
            done += now
                .iter()
                .map(|piece| self.bytes(piece).end - self.bytes(piece).start)
                .sum::<u64>();
            now = later;
        }
        progress(Far { done, whole });
        Ok(())
    }

    /// The bytes of its extent that a piece is.
    fn bytes(&self, piece: &Piece) -> std::ops::Range<u64> {
        let (block, len) = (self.layout.block(), self.layout.extent_bytes(piece.extent));
        piece.blocks.start * block..len.min(piece.blocks.end * block)
    }

    /// The matrices a piece touches: each with its place in the extent and the panels of it.
    fn touched<'b>(
        &self,
        extent: &'b Extent<'b>,
        bytes: std::ops::Range<u64>,
    ) -> impl Iterator<Item = (&'b Matrix, u64, std::ops::Range<usize>)> {
        extent.parts.iter().filter_map(move |&(matrix, at)| {
            let end = at + matrix.panel_bytes() as u64;
            let size = (matrix.panel_bytes() / matrix.panel_count()) as u64;
            let (from, to) = (bytes.start.max(at), bytes.end.min(end));
            let panels = || (from - at) / size..(to - at).div_ceil(size);
            (from < to).then(|| (matrix, at, panels().start as usize..panels().end as usize))
        })
    }

    fn fetch(&self, piece: &Piece) {
        let extent = self.contents.extent(self.shape, piece.extent);
        for (matrix, _, panels) in self.touched(&extent, self.bytes(piece)) {
            matrix.fetch(panels);
        }
    }

    /// Packs, sums and writes a piece.
    fn piece(&self, piece: &Piece) -> Result<(), (usize, io::Error)> {
        let extent = self.contents.extent(self.shape, piece.extent);
        let bytes = self.bytes(piece);
        let len = (bytes.end - bytes.start) as usize;
        // Panels are packed whole, so the first and the last may stick out of the piece.
        let panel = |matrix: &Matrix| matrix.panel_bytes() / matrix.panel_count();
        let margin = extent.parts.iter().map(|(matrix, _)| panel(matrix)).max().unwrap_or(0);
        let lead = margin.next_multiple_of(SECTOR);
        self.rooms.lend(lead + len + margin, |room| {
            // Where the extent's byte `at` lies in the room; never before its beginning.
            let in_room = |at: u64| (lead as u64 + at - bytes.start) as usize;
            let mut filled = lead;
            for (matrix, at, panels) in self.touched(&extent, bytes.clone()) {
                let size = panel(matrix);
                let start = in_room(at + (panels.start * size) as u64);
                let end = start + panels.len() * size;
                if start > filled {
                    room[filled..start].fill(0);
                }
                matrix.pack(panels.clone(), &mut room[start..end]);
                matrix.forget(panels);
                filled = end;
            }
            let room = &mut room[lead..];
            if filled < lead + len {
                room[filled - lead..len].fill(0);
            }
            self.write(piece, &room[..len])
        })
    }

    fn write(&self, piece: &Piece, mut bytes: &[u8]) -> Result<(), (usize, io::Error)> {
        let whole = bytes;
        for number in piece.blocks.clone() {
            let place = self.layout.place(piece.extent, number);
            let (block, after) = bytes.split_at(place.len as usize);
            bytes = after;
            self.sums[place.block as usize].store(sum(block), Ordering::Relaxed);
            if self.outputs.len() > 1 {
                let (file, offset) = (place.file, self.data[place.file] + place.offset);
                self.outputs[file].direct.write(block, offset).map_err(|error| (file, error))?;
            }
        }
        if self.outputs.len() == 1 {
            let place = self.layout.place(piece.extent, piece.blocks.start);
            let offset = self.data[0] + place.offset;
            self.outputs[0].direct.write(whole, offset).map_err(|error| (0, error))?;
        }
        Ok(())
    }
}

/// One file in the making. Dropped before [`Output::finish`], it leaves nothing; killed before
/// that, it leaves a `.part`, which the next attempt replaces.
struct Output {
    path: PathBuf,
    partial: PathBuf,
    /// Has its name.
    finished: bool,
    direct: Direct,
    len: u64,
    /// Keeps others from packing to the same place.
    _claim: File,
}

impl Output {
    fn create(path: PathBuf, len: u64) -> Result<Output, Error> {
        let mut partial = path.clone().into_os_string();
        partial.push(".part");
        let partial = PathBuf::from(partial);
        let write = |source| Error::Write { path: path.clone(), source };
        let claim = match direct::claim(&partial).map_err(write)? {
            Some(claim) => claim,
            None => return Err(Error::Busy { path }),
        };
        // From here on it is ours to remove.
        let opened = claim.set_len(0).and_then(|()| Direct::to_write(&partial));
        let direct = match opened {
            Ok(direct) => direct,
            Err(source) => {
                let _ = fs::remove_file(&partial);
                return Err(Error::Write { path, source });
            }
        };
        let output = Output { path, partial, finished: false, direct, len, _claim: claim };
        // Asked before the disk is filled to the brim for nothing.
        if let Some(free) = direct::free_bytes(&output.partial).filter(|&free| free < len) {
            return Err(Error::Full { path: output.path.clone(), needed: len, free, left: false });
        }
        output.direct.reserve(len).map_err(|source| output.failed(source))?;
        Ok(output)
    }

    fn failed(&self, source: io::Error) -> Error {
        let path = self.path.clone();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::Full {
                path,
                needed: self.len,
                free: direct::free_bytes(&self.partial).unwrap_or(0),
                left: false,
            },
            _ => Error::Write { path, source },
        }
    }

    fn finish(mut self) -> Result<(), Error> {
        let path = self.path.clone();
        let failed = |source| Error::Write { path: path.clone(), source };
        fs::rename(&self.partial, &self.path).map_err(failed)?;
        self.finished = true;
        self.path.parent().map_or(Ok(()), direct::sync_folder).map_err(failed)
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        // Once it has its name, what is called so is another's.
        if !self.finished {
            let _ = fs::remove_file(&self.partial);
        }
    }
}

//! Reading all of a pack again, to find what the disk has done to it.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use super::build::{Far, Hands, Piece, Rooms, pieces};
use super::{Error, Pack};
use crate::base::sum::sum;
use crate::host::direct::Direct;

/// A damaged block.
#[derive(Debug)]
pub struct Damage {
    pub place: Place,
    pub file: PathBuf,
    pub offset: u64,
    pub len: usize,
    /// The disk's error; `None` where it gave bytes, but not those that were written.
    pub error: Option<io::Error>,
}

/// What a block belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    Trunk { name: String },
    Slab { layer: usize, expert: usize },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Trunk { name } => write!(f, "{name}"),
            Place::Slab { layer, expert } => write!(f, "layer {layer}, expert {expert}"),
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Damage { place, file, offset, len, error } = self;
        write!(f, "{place}: {len} bytes at {offset} of {} ", file.display())?;
        match error {
            Some(error) => write!(f, "cannot be read: {error}"),
            None => write!(f, "are not those that were written"),
        }
    }
}

impl Pack {
    /// Reads every block and returns the damaged ones in order. `progress` is told from time to
    /// time how far it is; `false` from there stops it.
    pub fn verify(
        &self,
        hands: &mut Hands,
        progress: &mut dyn FnMut(Far) -> bool,
    ) -> Result<Vec<Damage>, Error> {
        let open = |path: &PathBuf| {
            Direct::to_read(path).map_err(|source| Error::Open { path: path.clone(), source })
        };
        let files = self.files.iter().map(open).collect::<Result<Vec<_>, _>>()?;
        let (rooms, damages) = (Rooms::default(), Mutex::new(Vec::new()));
        let (mut done, whole) = (0, self.bytes());
        let mut pieces = pieces(&self.layout);
        loop {
            let now: Vec<Piece> = pieces.by_ref().take(hands.at_once()).collect();
            if !progress(Far { done, whole }) {
                return Err(Error::Stopped);
            }
            if now.is_empty() {
                break;
            }
            (hands.each)(now.len(), &|i| {
                let found = rooms.lend(self.len(&now[i]), |room| self.check(&files, &now[i], room));
                let mut damages = damages.lock().unwrap_or_else(PoisonError::into_inner);
                damages.extend(found);
            });
            done += now.iter().map(|piece| self.len(piece) as u64).sum::<u64>();
        }
        let mut damages = damages.into_inner().unwrap_or_else(PoisonError::into_inner);
        damages.sort_unstable_by_key(|(block, _)| *block);
        Ok(damages.into_iter().map(|(_, damage)| damage).collect())
    }

    fn len(&self, piece: &Piece) -> usize {
        let places = piece.blocks.clone().map(|n| self.layout.place(piece.extent, n).len);
        places.sum::<u64>() as usize
    }

    /// Reads a piece at once, and again block by block if that fails: the disk's error then has a
    /// place.
    fn check(&self, files: &[Direct], piece: &Piece, room: &mut [u8]) -> Vec<(u64, Damage)> {
        let at_once = files.len() == 1 && {
            let first = self.layout.place(piece.extent, piece.blocks.start);
            files[0].read(&mut room[..self.len(piece)], self.data[0] + first.offset).is_ok()
        };
        let (mut rest, mut found) = (room, Vec::new());
        for number in piece.blocks.clone() {
            let place = self.layout.place(piece.extent, number);
            let (block, after) = rest.split_at_mut(place.len as usize);
            rest = after;
            let offset = self.data[place.file] + place.offset;
            let read = match at_once {
                true => Ok(()),
                false => files[place.file].read(block, offset),
            };
            if read.is_ok() && sum(block) == self.sums[place.block as usize] {
                continue;
            }
            let damage = Damage {
                place: self.place(piece.extent),
                file: self.files[place.file].clone(),
                offset,
                len: block.len(),
                error: read.err(),
            };
            found.push((place.block, damage));
        }
        found
    }

    /// What an extent is.
    fn place(&self, extent: usize) -> Place {
        if let Some(matrix) = self.shape.trunk.get(extent) {
            return Place::Trunk { name: matrix.name.clone() };
        }
        let mut expert = extent - self.shape.trunk.len();
        for layer in &self.shape.layers {
            if expert < layer.experts {
                return Place::Slab { layer: layer.index, expert };
            }
            expert -= layer.experts;
        }
        unreachable!("extents are counted by the same shape")
    }
}

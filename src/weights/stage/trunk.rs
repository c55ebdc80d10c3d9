//! The trunk on its way into memory.

use super::fill::{Fill, Trouble};
use super::{OF_TRUNK, PLACE_BITS, Staging};
use crate::host::arena::Arena;
use crate::host::direct::SECTOR;
use crate::host::drive::{Done, Drive, Urgency};
use crate::weights::matrix::Matrix;
use crate::weights::pack::Pack;

/// By matrix, in the pack's order.
#[derive(Default)]
pub struct Trunk {
    fills: Vec<Fill>,
    matrices: Vec<Matrix>,
    left: usize,
    lost: Option<(usize, Trouble)>,
}

/// A matrix that every token needs and that cannot be read.
#[derive(Debug)]
pub struct LostTrunk {
    pub name: String,
    pub trouble: Trouble,
}

/// Bytes a matrix of the trunk takes while it is read, and after.
pub fn room_of(matrix: &Matrix) -> usize {
    matrix.panel_bytes().next_multiple_of(SECTOR)
}

impl Staging {
    /// Sends for all matrices that are not in memory: `matrices` are those that the pack was
    /// opened with. Their memory is taken from `arena`.
    ///
    /// # Panics
    /// If it is not there.
    pub fn fetch_trunk(&mut self, drive: &mut dyn Drive, matrices: &[Matrix], arena: &Arena) {
        let Staging { trunk, pack, .. } = self;
        trunk.matrices = matrices.to_vec();
        trunk.fills.resize_with(matrices.len(), Fill::default);
        for (i, matrix) in matrices.iter().enumerate().filter(|(_, m)| !m.is_settled()) {
            let memory = arena.take(room_of(matrix), SECTOR).expect("an arena for the trunk");
            let ticket = OF_TRUNK | i as u64;
            let blocks = pack.trunk_blocks(i);
            trunk.fills[i].begin(drive, ticket, memory, blocks, Urgency::Demand);
            trunk.left += 1;
        }
    }

    /// Matrices of the trunk that are not in memory yet, or the one that cannot be read.
    pub fn trunk_left(&mut self, drive: &mut dyn Drive) -> Result<usize, LostTrunk> {
        drive.turn();
        self.take_in(drive);
        match self.trunk.lost.take() {
            None => Ok(self.trunk.left),
            Some((i, trouble)) => {
                Err(LostTrunk { name: self.trunk.matrices[i].name().into(), trouble })
            }
        }
    }
}

impl Trunk {
    pub(super) fn take(&mut self, drive: &mut dyn Drive, pack: &Pack, done: Done) {
        let i = (done.ticket & ((1 << PLACE_BITS) - 1)) as usize;
        let block = |n| pack.trunk_blocks(i).nth(n);
        let Some((memory, outcome)) = self.fills[i].take(drive, done, block) else { return };
        self.left -= 1;
        match outcome {
            Ok(()) => {
                let matrix = &self.matrices[i];
                let panels = memory.freeze().slice(0..matrix.panel_bytes());
                matrix.settle(panels.expect("as long as the matrix and more"));
            }
            Err(trouble) => self.lost = Some((i, trouble)),
        }
    }
}

//! Scales that lie beside a matrix, one for each block of rows and columns.

use std::sync::Arc;

use crate::math::{BlockScales, Format};
use crate::weights::error::Result;
use crate::weights::tensor::{DType, Tensor};

/// Cheap to clone. Rows are those of the matrix it belongs to.
#[derive(Clone, Debug)]
pub struct Scales {
    values: Arc<[f32]>,
    /// Blocks side by side.
    across: usize,
    block: [usize; 2],
}

impl Scales {
    pub(super) fn new(
        tensor: &Tensor,
        rows: usize,
        cols: usize,
        block: [usize; 2],
    ) -> Result<Scales> {
        if block.contains(&0) {
            return Err(tensor.bad(format!("a block of {block:?} weights has no size")));
        }
        if tensor.dtype != DType::Weights(Format::F32) {
            return Err(tensor.bad(format!("expected scales in F32, found {}", tensor.dtype)));
        }
        let across = cols.div_ceil(block[1]);
        tensor.expect_shape(&[rows.div_ceil(block[0]), across])?;
        let (values, _) = tensor.data.as_chunks::<4>();
        let values = values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        Ok(Scales { values, across, block })
    }

    /// Rows that were picked or reordered no longer share blocks, so each gets its own.
    pub(super) fn gather(&self, rows: impl Iterator<Item = usize>) -> Scales {
        let values = rows.flat_map(|row| self.row(row)).copied().collect();
        Scales { values, block: [1, self.block[1]], ..*self }
    }

    pub(super) fn view(&self) -> BlockScales<'_> {
        let [block_rows, block_cols] = self.block;
        BlockScales { values: &self.values, block_rows, block_cols }
    }

    /// The scales of a row's blocks.
    pub fn row(&self, row: usize) -> &[f32] {
        let start = row / self.block[0] * self.across;
        &self.values[start..start + self.across]
    }

    pub fn at(&self, row: usize, col: usize) -> f32 {
        self.row(row)[col / self.block[1]]
    }
}

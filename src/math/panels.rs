//! A weight matrix as it is computed with: panels of 16 rows, interleaved.
//!
//! ```text
//! panel      segment 0 (512 columns), segment 1, ..., the last one maybe shorter
//! segment    the fields of the format's blocks, each  [block][unit][16 rows]
//! ```
//!
//! A panel holds the bytes of its rows' blocks, none changed and none added, only moved: what
//! sixteen rows have at the same place lies together. So a segment with `n` blocks to a row has
//! field `f` at `n * 16 * f.offset`, block `b` of it `b * 16 * f.len` further on, and there units
//! of `f.unit` bytes of the rows in turn. A full segment is a multiple of 64 bytes. Rows that the
//! last panel lacks are zero bytes.

mod pack;

use std::ops::Range;

use super::dequantise::dequantise;
use super::format::Format;
use super::matrix::{BlockScales, MatrixError};
use crate::base::limits::{PANEL_ROWS, SEGMENT};

pub use pack::pack;

/// The most bytes that a block has.
pub(super) const LARGEST_BLOCK: usize = {
    let (mut largest, mut i) = (0, 0);
    while i < Format::ALL.len() {
        let bytes = Format::ALL[i].block_bytes();
        largest = if bytes > largest { bytes } else { largest };
        i += 1;
    }
    largest
};

/// `rows × cols` weights in panels. The constructors prove that the bytes are there.
#[derive(Clone, Copy, Debug)]
pub struct Panels<'a> {
    format: Format,
    rows: usize,
    cols: usize,
    /// Bytes of one panel.
    size: usize,
    bytes: &'a [u8],
    scales: Option<Scales<'a>>,
}

/// Block scales, and the row of theirs that is the first here.
#[derive(Clone, Copy, Debug)]
struct Scales<'a> {
    blocks: BlockScales<'a>,
    first_row: usize,
}

impl<'a> Panels<'a> {
    /// The bytes that a matrix takes in panels; `None` where blocks do not divide the columns, or
    /// beyond the address space.
    pub fn bytes(format: Format, rows: usize, cols: usize) -> Option<usize> {
        let panel = format.row_bytes(cols)?.checked_mul(PANEL_ROWS)?;
        rows.div_ceil(PANEL_ROWS).checked_mul(panel)
    }

    /// The panels that begin at the first of `bytes`.
    pub fn new(
        format: Format,
        rows: usize,
        cols: usize,
        bytes: &'a [u8],
    ) -> Result<Self, MatrixError> {
        let row_bytes = format.row_bytes(cols).ok_or(MatrixError::Columns { format, cols })?;
        match Panels::bytes(format, rows, cols).and_then(|len| bytes.get(..len)) {
            None => Err(MatrixError::Short { format, rows, cols, bytes: bytes.len() }),
            Some(bytes) => {
                let size = PANEL_ROWS * row_bytes;
                Ok(Panels { format, rows, cols, size, bytes, scales: None })
            }
        }
    }

    /// The same panels with the block scales of a matrix of `all_rows` rows, of which these are
    /// the ones from `first_row` on.
    pub fn with_scales(
        mut self,
        blocks: BlockScales<'a>,
        all_rows: usize,
        first_row: usize,
    ) -> Result<Self, MatrixError> {
        if self.format != Format::F8E4M3 {
            return Err(MatrixError::ScalesOfFormat { format: self.format });
        }
        let inside = first_row.checked_add(self.rows).is_some_and(|end| end <= all_rows);
        if !inside || !blocks.cover(all_rows, self.cols) {
            let (rows, values) = (all_rows, blocks.values.len());
            return Err(MatrixError::Scales { rows, cols: self.cols, values });
        }
        self.scales = Some(Scales { blocks, first_row });
        Ok(self)
    }

    pub fn format(&self) -> Format {
        self.format
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes of one panel.
    pub(super) fn panel_bytes(&self) -> usize {
        self.size
    }

    /// The number of panels.
    pub fn count(&self) -> usize {
        self.rows.div_ceil(PANEL_ROWS)
    }

    /// Some of the panels, seen as a matrix of their rows.
    pub fn part(&self, panels: Range<usize>) -> Panels<'a> {
        assert!(panels.start <= panels.end && panels.end <= self.count(), "panels of the matrix");
        let first = panels.start * PANEL_ROWS;
        Panels {
            rows: self.rows.min(panels.end * PANEL_ROWS).saturating_sub(first),
            bytes: &self.bytes[panels.start * self.size..panels.end * self.size],
            scales: self.scales.map(|s| Scales { first_row: s.first_row + first, ..s }),
            ..*self
        }
    }

    pub(super) fn has_scales(&self) -> bool {
        self.scales.is_some()
    }

    /// The block scale of the weight in row `r`, column `k`.
    #[inline(always)]
    pub(super) fn scale(&self, r: usize, k: usize) -> f32 {
        self.scales.map_or(1.0, |s| s.blocks.at(self.cols, s.first_row + r, k))
    }

    /// The column after `k` where the next block scales begin.
    #[inline(always)]
    pub(super) fn scales_end(&self, k: usize) -> usize {
        let width = self.scales.map_or(usize::MAX, |s| s.blocks.block_cols);
        k.saturating_add(width - k % width)
    }

    /// The columns from `k0` to the end of its segment in panel `p`.
    #[inline(always)]
    pub(super) fn segment(&self, p: usize, k0: usize) -> Segment<'a> {
        let blocks = SEGMENT.min(self.cols - k0) / self.format.block();
        let start =
            p * self.size + PANEL_ROWS * (k0 / self.format.block()) * self.format.block_bytes();
        let len = PANEL_ROWS * blocks * self.format.block_bytes();
        Segment { bytes: &self.bytes[start..start + len], blocks }
    }

    /// Writes one row as f32, block scales multiplied out.
    ///
    /// # Panics
    /// If there is no such row, or `out` is not as long.
    pub fn read_row(&self, r: usize, out: &mut [f32]) {
        assert!(r < self.rows && out.len() == self.cols, "row {r} of {}", self.rows);
        let (weights, size) = (self.format.block(), self.format.block_bytes());
        for (b, out) in out.chunks_exact_mut(weights).enumerate() {
            let whole = dequantise(self.format, &self.block(r, b)[..size], out);
            debug_assert!(whole, "one block");
        }
        if self.scales.is_some() {
            out.iter_mut().enumerate().for_each(|(k, value)| *value *= self.scale(r, k));
        }
    }

    /// The bytes of block `b` of row `r`, as they were before they were interleaved.
    pub(super) fn block(&self, r: usize, b: usize) -> [u8; LARGEST_BLOCK] {
        let segment_blocks = SEGMENT / self.format.block();
        let segment = self.segment(r / PANEL_ROWS, b / segment_blocks * SEGMENT);
        let (b, r) = (b % segment_blocks, r % PANEL_ROWS);
        let mut block = [0; LARGEST_BLOCK];
        for field in self.format.fields() {
            for i in 0..field.len {
                let (unit, byte) = (i / field.unit, i % field.unit);
                let in_field = (unit * PANEL_ROWS + r) * field.unit + byte;
                let at = PANEL_ROWS * (segment.blocks * field.offset + b * field.len) + in_field;
                block[field.offset + i] = segment.bytes[at];
            }
        }
        block
    }
}

/// One segment of one panel.
#[derive(Clone, Copy)]
pub(super) struct Segment<'a> {
    pub bytes: &'a [u8],
    /// Blocks to a row.
    pub blocks: usize,
}

impl<'a> Segment<'a> {
    /// Block `b` of the field of `len` bytes at `offset` of the format's blocks.
    #[inline(always)]
    pub fn field(self, offset: usize, len: usize, b: usize) -> &'a [u8] {
        &self.bytes[PANEL_ROWS * (self.blocks * offset + b * len)..][..PANEL_ROWS * len]
    }
}

#[cfg(test)]
mod tests {
    use super::super::matrix::Matrix;
    use super::super::tests::Rng;
    use super::*;

    #[test]
    fn every_block_comes_back() {
        let mut rng = Rng(21);
        for format in Format::ALL {
            for (rows, cols) in [(1, 1), (15, 17), (16, 16), (33, 37)] {
                let cols = if format.block() == 256 { cols % 8 + 1 } else { cols };
                let cols = if format.block() == 1 { cols * 31 } else { cols * format.block() };
                let len = format.row_bytes(cols).unwrap();
                let stride = len + 3;
                let bytes: Vec<u8> = (0..rows * stride).map(|_| rng.next() as u8).collect();
                let matrix = Matrix::with_stride(format, rows, cols, stride, &bytes).unwrap();
                let mut packed = vec![0xee; Panels::bytes(format, rows, cols).unwrap()];
                pack(&matrix, 0..rows.div_ceil(16), &mut packed);
                let panels = Panels::new(format, rows, cols, &packed).unwrap();
                let size = format.block_bytes();
                for r in 0..panels.count() * 16 {
                    for b in 0..cols / format.block() {
                        let block = panels.block(r, b);
                        let want = match r < rows {
                            true => &matrix.row(r)[b * size..][..size],
                            false => &[0; LARGEST_BLOCK][..size],
                        };
                        assert_eq!(&block[..size], want, "{format}: row {r}, block {b}");
                    }
                }
                // Panel by panel is the same.
                let mut pieces = vec![0xee; packed.len()];
                let size = packed.len() / panels.count();
                for p in 0..panels.count() {
                    pack(&matrix, p..p + 1, &mut pieces[p * size..][..size]);
                }
                assert!(pieces == packed);
            }
        }
    }

    #[test]
    fn bytes_that_do_not_cover_the_panels_are_refused() {
        let bytes = [0; 34 * 32];
        assert_eq!(Panels::bytes(Format::Q8_0, 17, 32), Some(34 * 32));
        assert_eq!(Panels::new(Format::Q8_0, 17, 32, &bytes).unwrap().count(), 2);
        assert_eq!(Panels::new(Format::Q8_0, 0, 32, &bytes).unwrap().count(), 0);
        assert!(matches!(
            Panels::new(Format::Q8_0, 33, 32, &bytes),
            Err(MatrixError::Short { .. })
        ));
        assert!(matches!(
            Panels::new(Format::Q8_0, 1, 31, &bytes),
            Err(MatrixError::Columns { .. })
        ));
        for (rows, cols) in [(usize::MAX, 32), (usize::MAX, usize::MAX - 31), (2, 1 << 60)] {
            assert!(Panels::new(Format::Q8_0, rows, cols, &bytes).is_err());
        }
    }

    #[test]
    fn block_scales_must_cover_the_whole_matrix() {
        let panels = Panels::new(Format::F8E4M3, 16, 5, &[0; 80]).unwrap();
        let scales =
            |n, block_rows| BlockScales { values: &[1.0; 99][..n], block_rows, block_cols: 2 };
        assert!(panels.with_scales(scales(12, 10), 40, 16).is_ok());
        assert!(panels.with_scales(scales(11, 10), 40, 16).is_err());
        assert!(panels.with_scales(scales(12, 10), 40, 25).is_err());
        assert!(panels.with_scales(scales(12, 0), 40, 16).is_err());
        let other = Panels::new(Format::F16, 1, 1, &[0; 32]).unwrap();
        assert!(matches!(
            other.with_scales(scales(12, 10), 40, 16),
            Err(MatrixError::ScalesOfFormat { .. })
        ));
    }
}

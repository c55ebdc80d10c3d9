//! A weight matrix as it lies in its file: rows of blocks, and for F8 the scales beside it.

use super::format::Format;

/// Scales of an F8 matrix, one for each rectangle of `block_rows × block_cols` weights, in rows
/// of `ceil(cols / block_cols)`.
#[derive(Clone, Copy, Debug)]
pub struct BlockScales<'a> {
    pub values: &'a [f32],
    pub block_rows: usize,
    pub block_cols: usize,
}

/// `rows × cols` weights, row-major. The constructors prove that the bytes are there.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    format: Format,
    rows: usize,
    cols: usize,
    row_stride: usize,
    row_bytes: usize,
    bytes: &'a [u8],
    scales: Option<BlockScales<'a>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MatrixError {
    #[error("a row of {cols} weights is not a whole number of {format} blocks")]
    Columns { format: Format, cols: usize },
    #[error("rows lie {stride} bytes apart but a row of {cols} {format} weights takes more")]
    Stride { format: Format, cols: usize, stride: usize },
    #[error("{rows} rows of {cols} {format} weights do not fit {bytes} bytes")]
    Short { format: Format, rows: usize, cols: usize, bytes: usize },
    #[error("{rows} rows of {cols} weights need other block scales than the {values} given")]
    Scales { rows: usize, cols: usize, values: usize },
    #[error("{format} has its scales inside; only F8_E4M3 takes block scales")]
    ScalesOfFormat { format: Format },
}

impl<'a> Matrix<'a> {
    /// A matrix whose rows follow each other without a gap.
    pub fn new(
        format: Format,
        rows: usize,
        cols: usize,
        bytes: &'a [u8],
    ) -> Result<Self, MatrixError> {
        let stride = format.row_bytes(cols).ok_or(MatrixError::Columns { format, cols })?;
        Self::with_stride(format, rows, cols, stride, bytes)
    }

    /// A matrix whose rows begin `row_stride` bytes apart.
    pub fn with_stride(
        format: Format,
        rows: usize,
        cols: usize,
        row_stride: usize,
        bytes: &'a [u8],
    ) -> Result<Self, MatrixError> {
        let row_bytes = format.row_bytes(cols).ok_or(MatrixError::Columns { format, cols })?;
        if row_stride < row_bytes {
            return Err(MatrixError::Stride { format, cols, stride: row_stride });
        }
        let needed = match rows.checked_sub(1) {
            None => Some(0),
            Some(last) => last.checked_mul(row_stride).and_then(|at| at.checked_add(row_bytes)),
        };
        if needed.is_none_or(|needed| needed > bytes.len()) {
            return Err(MatrixError::Short { format, rows, cols, bytes: bytes.len() });
        }
        Ok(Matrix { format, rows, cols, row_stride, row_bytes, bytes, scales: None })
    }

    /// The same matrix with the block scales that lie in a tensor of their own.
    pub fn with_scales(mut self, scales: BlockScales<'a>) -> Result<Self, MatrixError> {
        if self.format != Format::F8E4M3 {
            return Err(MatrixError::ScalesOfFormat { format: self.format });
        }
        if !scales.cover(self.rows, self.cols) {
            let (rows, cols, values) = (self.rows, self.cols, scales.values.len());
            return Err(MatrixError::Scales { rows, cols, values });
        }
        self.scales = Some(scales);
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

    pub fn scales(&self) -> Option<BlockScales<'a>> {
        self.scales
    }

    /// The bytes of row `r`.
    #[inline(always)]
    pub fn row(&self, r: usize) -> &'a [u8] {
        assert!(r < self.rows);
        &self.bytes[r * self.row_stride..][..self.row_bytes]
    }
}

impl BlockScales<'_> {
    /// Whether there are just as many as a matrix of this shape needs.
    pub(super) fn cover(&self, rows: usize, cols: usize) -> bool {
        if self.block_rows == 0 || self.block_cols == 0 {
            return false;
        }
        let (down, across) = (rows.div_ceil(self.block_rows), cols.div_ceil(self.block_cols));
        down.checked_mul(across) == Some(self.values.len())
    }

    /// The scale of the weight in row `r`, column `k` of a matrix `cols` wide.
    #[inline(always)]
    pub(super) fn at(&self, cols: usize, r: usize, k: usize) -> f32 {
        self.values[r / self.block_rows * cols.div_ceil(self.block_cols) + k / self.block_cols]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_do_not_cover_the_matrix_are_refused() {
        let bytes = [0; 34 * 6];
        assert!(Matrix::new(Format::Q8_0, 3, 64, &bytes).is_ok());
        assert!(Matrix::new(Format::Q8_0, 0, 64, &[]).is_ok());
        assert_eq!(
            Matrix::new(Format::Q8_0, 4, 64, &bytes).unwrap_err().to_string(),
            "4 rows of 64 Q8_0 weights do not fit 204 bytes"
        );
        assert!(matches!(
            Matrix::new(Format::Q8_0, 1, 33, &bytes),
            Err(MatrixError::Columns { .. })
        ));
        assert!(matches!(
            Matrix::with_stride(Format::Q8_0, 1, 64, 67, &bytes),
            Err(MatrixError::Stride { .. })
        ));
        // The last row needs no gap after it, and absurd sizes do not overflow.
        assert!(Matrix::with_stride(Format::Q8_0, 2, 64, 136, &bytes).is_ok());
        for (rows, cols) in [(usize::MAX, 32), (usize::MAX, usize::MAX - 31), (2, 1 << 60)] {
            assert!(Matrix::new(Format::Q8_0, rows, cols, &bytes).is_err());
        }
    }

    #[test]
    fn block_scales_must_cover_the_matrix() {
        let matrix = Matrix::new(Format::F8E4M3, 3, 5, &[0; 15]).unwrap();
        let scales = |values, block_rows, block_cols| {
            matrix.with_scales(BlockScales { values, block_rows, block_cols })
        };
        assert!(scales(&[1.0; 6], 2, 2).is_ok());
        assert!(scales(&[1.0; 5], 2, 2).is_err());
        assert!(scales(&[1.0; 6], 0, 2).is_err());
        let other = Matrix::new(Format::F16, 1, 1, &[0; 2]).unwrap();
        let scales = BlockScales { values: &[1.0], block_rows: 128, block_cols: 128 };
        assert!(matches!(other.with_scales(scales), Err(MatrixError::ScalesOfFormat { .. })));
    }
}

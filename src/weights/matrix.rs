//! The matrices that a model keeps, and the recipes that make them from tensors.
//!
//! A recipe never loses a bit of a weight. Whole tensors, one expert of a stack, ranges of rows
//! and every second row are views of the file; transposing and gathering rows make bytes. What had to be multiplied out to be moved (a transposed quantised matrix) becomes F32.

mod mxfp4;
mod scales;

use std::borrow::Cow;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, OnceLock};

pub use scales::Scales;

use super::error::{Error, Result};
use super::tensor::{Tensor, bad_tensor};
use crate::base::limits::PANEL_ROWS;
use crate::host::arena::Frozen;
use crate::host::mapping::Bytes;
use crate::math::{self, Format, Panels};

/// A matrix of weights, cheap to clone: `rows` rows of `cols` weights each, row `i` at
/// `i * row_stride` of `data`. Neither is ever 0.
#[derive(Clone, Debug)]
pub struct Matrix {
    file: Arc<Path>,
    name: Arc<str>,
    format: Format,
    rows: usize,
    cols: usize,
    row_stride: usize,
    /// Bytes of a row's weights.
    row_bytes: usize,
    data: Bytes,
    /// Where blocks lie without their exponents: those.
    apart: Option<Box<Apart>>,
    scales: Option<Scales>,
    /// The same weights in panels, once they are in memory. Shared by clones.
    panels: Arc<OnceLock<Frozen>>,
}

/// Exponents of MXFP4 blocks that lie in a tensor of their own, row `i` at `i * row_stride`.
#[derive(Clone, Debug)]
struct Apart {
    exponents: Bytes,
    row_stride: usize,
}

impl Matrix {
    /// A 2-D tensor, or a 1-D one as a single row.
    pub fn whole(tensor: &Tensor) -> Result<Matrix> {
        match tensor.shape[..] {
            [rows, cols] => Matrix::new(tensor, rows, cols, tensor.data.clone()),
            [cols] => Matrix::new(tensor, 1, cols, tensor.data.clone()),
            _ => Err(tensor.bad(format!("expected a matrix, found shape {:?}", tensor.shape))),
        }
    }

    /// Expert `e` of a tensor `[experts, rows, cols]`. A 2-D tensor is a stack of one: writers of
    /// GGUF drop outer dimensions of size 1.
    pub fn expert(tensor: &Tensor, e: usize) -> Result<Matrix> {
        let (experts, rows, cols) = match tensor.shape[..] {
            [experts, rows, cols] => (experts, rows, cols),
            [rows, cols] => (1, rows, cols),
            _ => {
                let reason =
                    format!("expected [experts, rows, cols], found shape {:?}", tensor.shape);
                return Err(tensor.bad(reason));
            }
        };
        if e >= experts {
            return Err(tensor.bad(format!("holds {experts} experts, number {e} is asked for")));
        }
        let size = tensor.data.len() / experts;
        match tensor.data.slice(e * size..(e + 1) * size) {
            Some(data) => Matrix::new(tensor, rows, cols, data),
            None => Err(tensor.bad("its data is shorter than its shape says")),
        }
    }

    /// Expert `e` of gpt-oss MXFP4 experts as safetensors has them: `blocks` `[experts, rows,
    /// cols/32, 16]` and `scales` `[experts, rows, cols/32]`, both U8. Its rows are GGUF's blocks,
    /// made when they are looked at.
    pub fn mxfp4_expert(blocks: &Tensor, scales: &Tensor, e: usize) -> Result<Matrix> {
        let mxfp4::Expert { rows, cols, packed, exponents } =
            mxfp4::Expert::find(blocks, scales, e)?;
        let Some(row_bytes) = Format::MXFP4.row_bytes(cols).filter(|_| rows > 0 && cols > 0) else {
            return Err(blocks.bad(format!("{rows} rows of {cols} weights are no matrix")));
        };
        let (packed_row, exponents_row) = mxfp4::row_bytes(cols);
        Ok(Matrix {
            file: blocks.file.clone(),
            name: blocks.name.as_str().into(),
            format: Format::MXFP4,
            rows,
            cols,
            row_stride: packed_row,
            row_bytes,
            data: packed,
            apart: Some(Box::new(Apart { exponents, row_stride: exponents_row })),
            scales: None,
            panels: Arc::default(),
        })
    }

    /// FP8 weights with a scale per block of `block[0]` rows and `block[1]` columns: `weight`
    /// F8_E4M3 `[rows, cols]`, `scales` F32 `[⌈rows/block⌉, ⌈cols/block⌉]` (DeepSeek's
    /// `weight_scale_inv`; a weight is multiplied by its block's scale).
    pub fn block_scaled(weight: &Tensor, scales: &Tensor, block: [usize; 2]) -> Result<Matrix> {
        let mut matrix = Matrix::whole(weight)?;
        if matrix.format != Format::F8E4M3 {
            return Err(weight.bad(format!("expected F8_E4M3, found {}", matrix.format)));
        }
        matrix.scales = Some(Scales::new(scales, matrix.rows, matrix.cols, block)?);
        Ok(matrix)
    }

    fn new(tensor: &Tensor, rows: usize, cols: usize, data: Bytes) -> Result<Matrix> {
        let format = tensor.format()?;
        Matrix::build(tensor.file.clone(), tensor.name.as_str().into(), format, rows, cols, data)
    }

    fn made(
        file: Arc<Path>,
        name: Arc<str>,
        format: Format,
        rows: usize,
        cols: usize,
        data: Vec<u8>,
    ) -> Result<Matrix> {
        Matrix::build(file, name, format, rows, cols, Bytes::made(data))
    }

    fn build(
        file: Arc<Path>,
        name: Arc<str>,
        format: Format,
        rows: usize,
        cols: usize,
        data: Bytes,
    ) -> Result<Matrix> {
        let row_bytes = format.row_bytes(cols);
        let fits = row_bytes.and_then(|row| row.checked_mul(rows)) == Some(data.len());
        let (Some(row_bytes), true, true) = (row_bytes, fits, rows > 0 && cols > 0) else {
            let reason = format!(
                "{} bytes of data are no matrix of {rows} rows of {cols} {format} weights",
                data.len()
            );
            return Err(bad_tensor(&file, &name, reason));
        };
        Ok(Matrix {
            file,
            name,
            format,
            rows,
            cols,
            row_stride: row_bytes,
            row_bytes,
            data,
            apart: None,
            scales: None,
            panels: Arc::default(),
        })
    }

    /// The same matrix if its shape is the expected one.
    pub fn expect(self, rows: usize, cols: usize) -> Result<Matrix> {
        if (self.rows, self.cols) == (rows, cols) {
            return Ok(self);
        }
        Err(self.bad(format!(
            "expected a matrix of shape [{rows}, {cols}], found [{}, {}]",
            self.rows, self.cols
        )))
    }

    /// A range of rows, as a view.
    pub fn rows_in(&self, range: Range<usize>) -> Result<Matrix> {
        self.picked(range.start, 1, range.len(), || format!("rows {range:?}"))
    }

    /// Rows `first`, `first + 2`, and so on (`first` is 0 or 1), as a view: gate and up of
    /// gpt-oss lie interleaved.
    pub fn every_second(&self, first: usize) -> Result<Matrix> {
        let rows = self.rows.saturating_sub(first).div_ceil(2);
        self.picked(first, 2, rows, || format!("every second row from {first}"))
    }

    fn picked(
        &self,
        first: usize,
        step: usize,
        rows: usize,
        what: impl Fn() -> String,
    ) -> Result<Matrix> {
        let last = rows.checked_sub(1).and_then(|n| n.checked_mul(step)?.checked_add(first));
        let Some(last) = last.filter(|&last| last < self.rows) else {
            return Err(self.bad(format!("{} of its {} rows: there are none", what(), self.rows)));
        };
        let view = |bytes: &Bytes, stride: usize, row: usize| {
            let view = bytes.slice(first * stride..last * stride + row);
            view.expect("the rows are there, as was checked when the matrix was made")
        };
        let (held, exponents) = self.held();
        let apart = self.apart.as_ref().map(|apart| {
            Box::new(Apart {
                exponents: view(&apart.exponents, apart.row_stride, exponents),
                row_stride: apart.row_stride.saturating_mul(step),
            })
        });
        Ok(Matrix {
            rows,
            row_stride: self.row_stride.saturating_mul(step),
            data: view(&self.data, self.row_stride, held),
            apart,
            panels: Arc::default(),
            scales: self.scales.as_ref().map(|s| s.gather((0..rows).map(|r| first + r * step))),
            ..self.clone()
        })
    }

    /// Row `i` becomes row `order[i]` of this one. A row may be taken more than once.
    pub fn gather_rows(&self, order: &[usize]) -> Result<Matrix> {
        if let Some(&row) = order.iter().find(|&&row| row >= self.rows) {
            return Err(self.bad(format!("row {row} is asked for, it has {}", self.rows)));
        }
        let mut data = Vec::with_capacity(order.len().saturating_mul(self.row_bytes));
        for &row in order {
            data.extend_from_slice(&self.row(row));
        }
        let mut made = Matrix::made(
            self.file.clone(),
            self.name.clone(),
            self.format,
            order.len(),
            self.cols,
            data,
        )?;
        made.scales = self.scales.as_ref().map(|scales| scales.gather(order.iter().copied()));
        Ok(made)
    }

    /// Rows become columns. Plain floats keep their format; anything with blocks or scales
    /// becomes F32.
    pub fn transposed(&self) -> Result<Matrix> {
        let (format, data) = match (self.format.block(), &self.scales) {
            (1, None) => (self.format, self.transposed_elements()),
            _ => (Format::F32, self.transposed_values()),
        };
        Matrix::made(self.file.clone(), self.name.clone(), format, self.cols, self.rows, data)
    }

    fn transposed_elements(&self) -> Vec<u8> {
        let size = self.format.block_bytes();
        let mut data = vec![0; self.rows * self.row_bytes];
        for r in 0..self.rows {
            for (c, element) in self.row(r).chunks_exact(size).enumerate() {
                let at = (c * self.rows + r) * size;
                data[at..at + size].copy_from_slice(element);
            }
        }
        data
    }

    fn transposed_values(&self) -> Vec<u8> {
        let mut data = vec![0; self.rows * self.cols * 4];
        for r in 0..self.rows {
            for (c, value) in self.row_values(r).iter().enumerate() {
                let at = (c * self.rows + r) * 4;
                data[at..at + 4].copy_from_slice(&value.to_le_bytes());
            }
        }
        data
    }

    /// One row as f32, block scales multiplied out.
    pub fn row_values(&self, row: usize) -> Vec<f32> {
        let mut values = vec![0.0; self.cols];
        self.read_row(row, &mut values);
        values
    }

    /// Writes one row as f32 into `out`, which must be as long.
    pub fn read_row(&self, row: usize, out: &mut [f32]) {
        if let Some(panels) = self.panels() {
            return panels.read_row(row, out);
        }
        let whole = math::dequantise(self.format, &self.row(row), out);
        assert!(whole, "a row of {} is {} weights", self.name, self.cols);
        if let Some(scales) = &self.scales {
            for (c, value) in out.iter_mut().enumerate() {
                *value *= scales.at(row, c);
            }
        }
    }

    /// Bytes it takes as panels, and panels it has.
    pub fn panel_bytes(&self) -> usize {
        // Not beyond the address space: the rows are there, and fifteen more of them would be.
        Panels::bytes(self.format, self.rows, self.cols).unwrap_or(usize::MAX)
    }

    pub fn panel_count(&self) -> usize {
        self.rows.div_ceil(PANEL_ROWS)
    }

    /// Bytes of a row that lie in `data`, and in exponents apart.
    fn held(&self) -> (usize, usize) {
        match self.apart {
            None => (self.row_bytes, 0),
            Some(_) => mxfp4::row_bytes(self.cols),
        }
    }

    /// Asks the host for all its bytes, so that they come in large reads while other work goes on.
    pub fn prefetch(&self) {
        self.fetch(0..self.panel_count());
    }

    /// Where the rows of some panels lie in the file.
    fn rows_of(&self, panels: &Range<usize>) -> impl Iterator<Item = Bytes> {
        let slice = |bytes: &Bytes, stride: usize| {
            let start = panels.start.saturating_mul(PANEL_ROWS).saturating_mul(stride);
            let end = panels.end.saturating_mul(PANEL_ROWS).saturating_mul(stride);
            bytes.slice(start..end.min(bytes.len()))
        };
        let apart = self.apart.as_ref().and_then(|a| slice(&a.exponents, a.row_stride));
        slice(&self.data, self.row_stride).into_iter().chain(apart)
    }

    /// Asks the host for what some panels are packed from.
    pub fn fetch(&self, panels: Range<usize>) {
        self.rows_of(&panels).for_each(|rows| rows.prefetch());
    }

    /// Writes some panels to `out`, which has their length.
    pub fn pack(&self, panels: Range<usize>, out: &mut [u8]) {
        self.rows_of(&panels).for_each(|rows| rows.populate());
        match self.apart {
            None => math::pack(&self.view(), panels, out),
            Some(_) => self.pack_joined(panels, out),
        }
    }

    /// The same where rows must be made first.
    fn pack_joined(&self, panels: Range<usize>, out: &mut [u8]) {
        let size = PANEL_ROWS * self.row_bytes;
        assert_eq!(out.len(), panels.len() * size, "room for the panels");
        let mut rows = vec![0; size];
        for (panel, out) in panels.zip(out.chunks_exact_mut(size)) {
            let first = panel * PANEL_ROWS;
            let count = PANEL_ROWS.min(self.rows - first);
            let made = &mut rows[..count * self.row_bytes];
            for (row, made) in made.chunks_exact_mut(self.row_bytes).enumerate() {
                self.join(first + row, made);
            }
            let made = math::Matrix::new(self.format, count, self.cols, made);
            let made = made.expect("whole rows of the matrix");
            math::pack(&made, 0..1, out);
        }
    }

    /// Tells the host that what some panels were packed from will not be wanted again.
    pub fn forget(&self, panels: Range<usize>) {
        self.rows_of(&panels).for_each(|rows| rows.forget());
    }

    /// Whether both are one matrix: they settle together.
    pub fn is(&self, other: &Matrix) -> bool {
        Arc::ptr_eq(&self.panels, &other.panels)
    }

    /// Takes the weights as panels, from now on what is computed with. The file's pages go.
    pub fn settle(&self, panels: Frozen) {
        assert_eq!(panels.len(), self.panel_bytes(), "all panels of {}", self.name);
        let _ = self.panels.set(panels);
        self.rows_of(&(0..self.panel_count())).for_each(|rows| rows.release());
    }

    pub fn is_settled(&self) -> bool {
        self.panels.get().is_some()
    }

    /// The panels, once they are in memory.
    pub fn panels(&self) -> Option<Panels<'_>> {
        self.panels.get().map(|frozen| self.as_panels(frozen, 0..self.panel_count()))
    }

    /// What [`Matrix::pack`] wrote, seen as the panels it is.
    pub fn as_panels<'a>(&'a self, bytes: &'a [u8], panels: Range<usize>) -> Panels<'a> {
        let rows = self.rows.min(panels.end * PANEL_ROWS) - panels.start * PANEL_ROWS;
        let made = Panels::new(self.format, rows, self.cols, bytes);
        let scaled = match &self.scales {
            Some(scales) => made.and_then(|made| {
                made.with_scales(scales.view(), self.rows, panels.start * PANEL_ROWS)
            }),
            None => made,
        };
        scaled.expect("shape, data and scales were checked when the matrix was made")
    }

    /// The rows as they lie in the file, whole.
    fn view(&self) -> math::Matrix<'_> {
        let Matrix { format, rows, cols, row_stride, .. } = *self;
        math::Matrix::with_stride(format, rows, cols, row_stride, &self.data)
            .expect("shape and data were checked when the matrix was made")
    }

    /// A row's bytes.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, row: usize) -> Cow<'_, [u8]> {
        assert!(row < self.rows, "row {row} of {} in {}", self.rows, self.name);
        match self.apart {
            None => Cow::Borrowed(&self.data[row * self.row_stride..][..self.row_bytes]),
            Some(_) => {
                let mut made = vec![0; self.row_bytes];
                self.join(row, &mut made);
                Cow::Owned(made)
            }
        }
    }

    /// Writes a row whose exponents lie apart.
    fn join(&self, row: usize, out: &mut [u8]) {
        let Some(apart) = &self.apart else { return };
        let (held, exponents) = self.held();
        let packed = &self.data[row * self.row_stride..][..held];
        let exponents = &apart.exponents[row * apart.row_stride..][..exponents];
        mxfp4::join(packed, exponents, out);
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

    /// Bytes from one row's start to the next one's.
    pub fn row_stride(&self) -> usize {
        self.row_stride
    }

    /// Bytes of one row's weights.
    pub fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// From the first row's first byte to the last row's last, without exponents that lie apart.
    pub fn data(&self) -> &Bytes {
        &self.data
    }

    pub fn scales(&self) -> Option<&Scales> {
        self.scales.as_ref()
    }

    /// The tensor it was made from, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes of its weights, without the gaps of a view.
    pub fn bytes(&self) -> u64 {
        (self.rows * self.row_bytes) as u64
    }

    /// An error about the tensor it was made from.
    pub fn bad(&self, reason: impl Into<String>) -> Error {
        bad_tensor(&self.file, &self.name, reason)
    }
}

/// A small tensor (a norm's weights, a bias) as f32. It must have `len` elements in one
/// dimension.
pub fn vector(tensor: &Tensor, len: usize) -> Result<Vec<f32>> {
    tensor.expect_shape(&[len])?;
    Ok(Matrix::whole(tensor)?.row_values(0))
}

#[cfg(test)]
mod tests;

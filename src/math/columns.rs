//! Parts of a buffer that are written at the same time.
//!
//! [`Columns`] is a rectangle of a row-major buffer, [`Shares`] the whole of one cut into
//! rectangles for the chunks of a stage. A rectangle of a row-major buffer is no slice, so neither
//! can be had from std; each part is handed out once, which is what makes it sound.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// Parts that one buffer can be cut in.
pub const MAX_PARTS: usize = 1024;

/// Some columns of some rows of a buffer.
pub struct Columns<'a, T = f32> {
    /// The first row's first column.
    at: *mut T,
    rows: usize,
    cols: usize,
    stride: usize,
    buffer: PhantomData<&'a mut [T]>,
}

// SAFETY: it is a `&mut` to the elements of its rectangle.
unsafe impl<T: Send> Send for Columns<'_, T> {}

impl<'a, T> Columns<'a, T> {
    /// All of a buffer of rows of `cols` floats.
    pub fn whole(buffer: &'a mut [T], cols: usize) -> Columns<'a, T> {
        assert!(cols > 0 && buffer.len().is_multiple_of(cols), "whole rows");
        let rows = buffer.len() / cols;
        Columns { at: buffer.as_mut_ptr(), rows, cols, stride: cols, buffer: PhantomData }
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Some of the rows.
    pub fn some(&mut self, rows: Range<usize>) -> Columns<'_, T> {
        assert!(rows.start <= rows.end && rows.end <= self.rows, "rows of the rectangle");
        Columns {
            at: self.at.wrapping_add(rows.start * self.stride),
            rows: rows.len(),
            cols: self.cols,
            stride: self.stride,
            buffer: PhantomData,
        }
    }

    /// The part of a row that is in the rectangle.
    pub fn row(&mut self, row: usize) -> &mut [T] {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        // SAFETY: the rectangle lies in the buffer and is this one's alone; the row is inside.
        unsafe { std::slice::from_raw_parts_mut(self.at.add(row * self.stride), self.cols) }
    }
}

/// Where the rows are cut.
#[derive(Clone, Copy)]
enum Rows<'a> {
    Every(usize),
    At(&'a [u32]),
}

/// A buffer cut into rectangles, each of which one thread may take. Parts are numbered by rows,
/// then by columns.
pub struct Shares<'a, T = f32> {
    at: *mut T,
    rows: usize,
    cols: usize,
    stride: usize,
    cut: Rows<'a>,
    width: usize,
    taken: [AtomicU64; MAX_PARTS / 64],
    buffer: PhantomData<&'a mut [T]>,
}

// SAFETY: threads share no element: every part is handed out once, and parts do not overlap.
unsafe impl<T: Send> Sync for Shares<'_, T> {}

impl<'a, T> Shares<'a, T> {
    /// Runs of `width` columns.
    pub fn by_columns(buffer: &'a mut [T], cols: usize, width: usize) -> Shares<'a, T> {
        Shares::grid(buffer, cols, usize::MAX, width)
    }

    /// Runs of `rows` rows.
    pub fn by_rows(buffer: &'a mut [T], cols: usize, rows: usize) -> Shares<'a, T> {
        Shares::grid(buffer, cols, rows, cols)
    }

    /// Runs of `rows` rows cut into runs of `width` columns.
    pub fn grid(buffer: &'a mut [T], cols: usize, rows: usize, width: usize) -> Shares<'a, T> {
        assert!(rows > 0, "a part has rows");
        Shares::cut(buffer, cols, 0..cols, Rows::Every(rows), width)
    }

    /// Rows `starts[i]..starts[i + 1]` cut into runs of `width` columns.
    pub fn runs(
        buffer: &'a mut [T],
        cols: usize,
        starts: &'a [u32],
        width: usize,
    ) -> Shares<'a, T> {
        assert!(starts.is_sorted(), "runs follow each other");
        let rows = buffer.len().checked_div(cols).unwrap_or(0);
        assert!(starts.last().is_none_or(|&end| end as usize <= rows), "runs end in the buffer");
        Shares::cut(buffer, cols, 0..cols, Rows::At(starts), width)
    }

    /// Columns `within` alone, in runs of `width`.
    pub fn within(
        buffer: &'a mut [T],
        cols: usize,
        within: Range<usize>,
        width: usize,
    ) -> Shares<'a, T> {
        Shares::cut(buffer, cols, within, Rows::Every(usize::MAX), width)
    }

    fn cut(
        buffer: &'a mut [T],
        stride: usize,
        within: Range<usize>,
        cut: Rows<'a>,
        width: usize,
    ) -> Shares<'a, T> {
        assert!(width > 0 && stride > 0, "a part has columns");
        assert!(within.start <= within.end && within.end <= stride, "columns of the buffer");
        assert!(buffer.len().is_multiple_of(stride), "whole rows");
        let rows = buffer.len() / stride;
        let shares = Shares {
            // SAFETY: inside the buffer, or it is empty and nothing is ever handed out.
            at: buffer.as_mut_ptr().wrapping_add(within.start),
            rows,
            cols: within.len(),
            stride,
            cut,
            width,
            taken: [const { AtomicU64::new(0) }; MAX_PARTS / 64],
            buffer: PhantomData,
        };
        assert!(shares.parts() <= MAX_PARTS, "{} parts are too many", shares.parts());
        shares
    }

    pub fn parts(&self) -> usize {
        let down = match self.cut {
            Rows::Every(rows) => self.rows.div_ceil(rows),
            Rows::At(starts) => starts.len().saturating_sub(1),
        };
        down * self.across()
    }

    fn across(&self) -> usize {
        self.cols.div_ceil(self.width)
    }

    /// Part `i`.
    ///
    /// # Panics
    /// If there is none, or it was taken before.
    pub fn take(&self, i: usize) -> Columns<'_, T> {
        assert!(i < self.parts(), "part {i} of {}", self.parts());
        let bit = 1 << (i % 64);
        let before = self.taken[i / 64].fetch_or(bit, Ordering::Relaxed);
        assert!(before & bit == 0, "part {i} was taken before");
        let (down, across) = (i / self.across(), i % self.across());
        let rows = match self.cut {
            Rows::Every(rows) => {
                let first = down * rows.min(self.rows);
                first..(first + rows.min(self.rows - first))
            }
            Rows::At(starts) => starts[down] as usize..starts[down + 1] as usize,
        };
        let first = across * self.width;
        Columns {
            at: self.at.wrapping_add(rows.start * self.stride + first),
            rows: rows.len(),
            cols: self.width.min(self.cols - first),
            stride: self.stride,
            buffer: PhantomData,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every part is filled with its number; what that leaves in the buffer.
    fn filled(buffer: &mut [f32], cut: impl for<'a> Fn(&'a mut [f32]) -> Shares<'a>) -> Vec<f32> {
        let shares = cut(buffer);
        std::thread::scope(|scope| {
            for odd in [0, 1] {
                let shares = &shares;
                scope.spawn(move || {
                    for i in (odd..shares.parts()).step_by(2) {
                        let mut part = shares.take(i);
                        (0..part.rows()).for_each(|r| part.row(r).fill(i as f32));
                    }
                });
            }
        });
        buffer.to_vec()
    }

    #[test]
    fn parts_cover_the_buffer_and_do_not_overlap() {
        let mut b = [9.0; 15];
        let got = filled(&mut b, |b| Shares::by_columns(b, 5, 2));
        assert_eq!(got, [0., 0., 1., 1., 2., 0., 0., 1., 1., 2., 0., 0., 1., 1., 2.]);
        let got = filled(&mut b, |b| Shares::by_rows(b, 5, 2));
        assert_eq!(got, [0., 0., 0., 0., 0., 0., 0., 0., 0., 0., 1., 1., 1., 1., 1.]);
        let got = filled(&mut b, |b| Shares::grid(b, 5, 2, 3));
        assert_eq!(got, [0., 0., 0., 1., 1., 0., 0., 0., 1., 1., 2., 2., 2., 3., 3.]);
        let mut b = [9.0; 15];
        let got = filled(&mut b, |b| Shares::runs(b, 5, &[0, 0, 2, 3], 5));
        assert_eq!(got, [1., 1., 1., 1., 1., 1., 1., 1., 1., 1., 2., 2., 2., 2., 2.]);
        let mut b = [9.0; 10];
        let got = filled(&mut b, |b| Shares::within(b, 5, 1..4, 2));
        assert_eq!(got, [9., 0., 0., 1., 9., 9., 0., 0., 1., 9.]);
    }

    #[test]
    fn some_rows_of_a_part_are_those_of_the_buffer() {
        let mut b = [0.0; 15];
        let shares = Shares::grid(&mut b, 3, 4, 2);
        let mut part = shares.take(0);
        let mut some = part.some(1..3);
        assert_eq!((some.rows(), some.cols()), (2, 2));
        some.row(0).fill(1.0);
        some.row(1).fill(2.0);
        assert_eq!(part.some(4..4).rows(), 0);
        assert_eq!(b, [0., 0., 0., 1., 1., 0., 2., 2., 0., 0., 0., 0., 0., 0., 0.]);
    }

    #[test]
    #[should_panic(expected = "part 1 was taken before")]
    fn no_part_is_handed_out_twice() {
        let mut b = [0.0; 4];
        let shares = Shares::by_rows(&mut b, 2, 1);
        let _first = shares.take(1);
        let _again = shares.take(1);
    }
}

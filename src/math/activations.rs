//! What weights are multiplied with: f32 rows, and the same rows in 8 bits for the quantised
//! formats.

use std::ops::BitOr;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::columns::{Columns, Shares};
use super::format::Format;
use super::kernels::Kernels;
use crate::base::limits::{SMALL_BLOCK, SUPER_BLOCK};

/// The 8-bit forms that activations are needed in, besides f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forms {
    /// A scale for every 32.
    small: bool,
    /// A scale for every 256.
    large: bool,
}

impl Forms {
    pub const NONE: Forms = Forms { small: false, large: false };

    /// What a format is multiplied with.
    pub const fn of(format: Format) -> Forms {
        match format.activation_block() {
            None => Forms::NONE,
            Some(SMALL_BLOCK) => Forms { small: true, large: false },
            Some(_) => Forms { small: false, large: true },
        }
    }

    /// Whether all of `other` are among these.
    const fn include(self, other: Forms) -> bool {
        (self.small || !other.small) && (self.large || !other.large)
    }
}

impl BitOr for Forms {
    type Output = Forms;

    fn bitor(self, other: Forms) -> Forms {
        Forms { small: self.small || other.small, large: self.large || other.large }
    }
}

/// `[tokens][cols]` activations. The buffers are kept from use to use, so that a step allocates
/// nothing once it has seen its largest batch.
///
/// There are two ways to the 8-bit forms: by `split`, for several threads, each of which fills and
/// finishes some rows in the forms declared by `reset`; and by `prepare`, for one. What is there
/// stays until the values change.
#[derive(Debug, Default)]
pub struct Activations {
    tokens: usize,
    cols: usize,
    values: Vec<f32>,
    /// What the parts of a split are finished in, and the rows of theirs that are not.
    forms: Forms,
    unfinished: AtomicUsize,
    /// What was prepared.
    prepared: Forms,
    small: Quantised,
    large: Quantised,
}

/// Activations in 8 bits.
#[derive(Debug, Default)]
pub(super) struct Quantised {
    /// `[tokens][cols]` codes in -127..=127.
    pub codes: Vec<i8>,
    /// `[tokens][cols / 32]` pairs of i16, low half first, each the sum of 16 codes.
    pub sums: Vec<i32>,
    /// `[tokens][cols / block]` scales.
    pub scales: Vec<f32>,
}

impl Quantised {
    fn resize(&mut self, values: usize, block: usize) {
        self.codes.resize(values, 0);
        self.sums.resize(values / SMALL_BLOCK, 0);
        self.scales.resize(values / block, 0.0);
    }

    fn split(&mut self, cols: usize, block: usize, rows: usize) -> QuantisedShares<'_> {
        QuantisedShares {
            codes: Shares::by_rows(&mut self.codes, cols, rows),
            sums: Shares::by_rows(&mut self.sums, cols / SMALL_BLOCK, rows),
            scales: Shares::by_rows(&mut self.scales, cols / block, rows),
        }
    }
}

impl Activations {
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives the buffer a shape, says which forms the parts of a split will be finished in, and
    /// hands the values out to be filled, unless that is left to those parts. Old values may still
    /// be in it.
    pub fn reset(&mut self, tokens: usize, cols: usize, forms: Forms) -> &mut [f32] {
        let len = tokens.checked_mul(cols).expect("activations fit the address space");
        (self.tokens, self.cols, self.forms) = (tokens, cols, forms);
        for (block, wanted) in [(SMALL_BLOCK, forms.small), (SUPER_BLOCK, forms.large)] {
            assert!(!wanted || cols.is_multiple_of(block), "blocks divide the columns");
        }
        self.values.resize(len, 0.0);
        if forms.small {
            self.small.resize(len, SMALL_BLOCK);
        }
        if forms.large {
            self.large.resize(len, SUPER_BLOCK);
        }
        self.values_mut()
    }

    /// Takes the shape and the values of `[tokens][cols]` floats.
    pub fn copy_from(&mut self, cols: usize, values: &[f32]) {
        assert!(cols > 0 && values.len().is_multiple_of(cols), "whole rows");
        self.reset(values.len() / cols, cols, Forms::NONE).copy_from_slice(values);
    }

    pub fn tokens(&self) -> usize {
        self.tokens
    }

    pub fn cols(&self) -> usize {
        self.cols
    }

    /// What `reset` declared.
    pub fn forms(&self) -> Forms {
        self.forms
    }

    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The values, to be changed: whatever was made of them is void.
    pub fn values_mut(&mut self) -> &mut [f32] {
        self.prepared = Forms::NONE;
        *self.unfinished.get_mut() = usize::MAX;
        &mut self.values
    }

    /// The row of one token.
    #[inline(always)]
    pub fn token(&self, token: usize) -> &[f32] {
        &self.values[token * self.cols..][..self.cols]
    }

    /// Cuts the rows in parts of `tokens_per_part`, each of which one thread may take. The forms
    /// are ready when all parts are finished.
    pub fn split(&mut self, tokens_per_part: usize) -> ActivationShares<'_> {
        self.values_mut();
        let (cols, forms) = (self.cols, self.forms);
        *self.unfinished.get_mut() = self.tokens;
        let small = match forms.small {
            true => Some(self.small.split(cols, SMALL_BLOCK, tokens_per_part)),
            false => None,
        };
        let large = match forms.large {
            true => Some(self.large.split(cols, SUPER_BLOCK, tokens_per_part)),
            false => None,
        };
        ActivationShares {
            values: Shares::by_rows(&mut self.values, cols, tokens_per_part),
            small,
            large,
            unfinished: &self.unfinished,
        }
    }

    /// Quantises all rows for `format`, unless that is done or the format multiplies floats.
    pub fn prepare(&mut self, kernels: &Kernels, format: Format) {
        let form = Forms::of(format);
        if self.ready(form) {
            return;
        }
        let Some(block) = format.activation_block() else { return };
        assert!(self.cols.is_multiple_of(block), "{format} blocks divide the columns");
        let len = self.values.len();
        let quantised = if block == SMALL_BLOCK { &mut self.small } else { &mut self.large };
        quantised.resize(len, block);
        let Quantised { codes, sums, scales } = quantised;
        kernels.quantise(&self.values, block, codes, sums, scales);
        self.prepared = self.prepared | form;
    }

    fn ready(&self, form: Forms) -> bool {
        let finished = match self.unfinished.load(Ordering::Acquire) {
            0 => self.forms,
            _ => Forms::NONE,
        };
        (finished | self.prepared).include(form)
    }

    /// The 8-bit rows for a quantised format.
    pub(super) fn quantised(&self, format: Format) -> &Quantised {
        assert!(
            self.ready(Forms::of(format)),
            "activations are quantised for {format} before the product"
        );
        match format.activation_block() {
            Some(SUPER_BLOCK) => &self.large,
            _ => &self.small,
        }
    }
}

/// Activations cut for several threads.
pub struct ActivationShares<'a> {
    values: Shares<'a>,
    small: Option<QuantisedShares<'a>>,
    large: Option<QuantisedShares<'a>>,
    unfinished: &'a AtomicUsize,
}

struct QuantisedShares<'a> {
    codes: Shares<'a, i8>,
    sums: Shares<'a, i32>,
    scales: Shares<'a>,
}

impl ActivationShares<'_> {
    pub fn parts(&self) -> usize {
        self.values.parts()
    }

    /// Part `i`.
    ///
    /// # Panics
    /// If there is none, or it was taken before.
    pub fn take(&self, i: usize) -> RowsMut<'_> {
        RowsMut {
            values: self.values.take(i),
            small: self.small.as_ref().map(|form| form.take(i)),
            large: self.large.as_ref().map(|form| form.take(i)),
            unfinished: self.unfinished,
        }
    }
}

impl QuantisedShares<'_> {
    fn take(&self, i: usize) -> QuantisedRows<'_> {
        QuantisedRows {
            codes: self.codes.take(i),
            sums: self.sums.take(i),
            scales: self.scales.take(i),
        }
    }
}

/// Some rows of activations, to be filled and then finished.
pub struct RowsMut<'a> {
    values: Columns<'a>,
    small: Option<QuantisedRows<'a>>,
    large: Option<QuantisedRows<'a>>,
    unfinished: &'a AtomicUsize,
}

struct QuantisedRows<'a> {
    codes: Columns<'a, i8>,
    sums: Columns<'a, i32>,
    scales: Columns<'a>,
}

impl RowsMut<'_> {
    pub fn tokens(&self) -> usize {
        self.values.rows()
    }

    /// The row of the part's token `j`.
    pub fn row_mut(&mut self, j: usize) -> &mut [f32] {
        self.values.row(j)
    }

    /// Quantises the rows in the forms that were declared.
    pub fn finish(mut self, kernels: &Kernels) {
        for (form, block) in [(&mut self.small, SMALL_BLOCK), (&mut self.large, SUPER_BLOCK)] {
            let Some(QuantisedRows { codes, sums, scales }) = form else { continue };
            for j in 0..self.values.rows() {
                let x = self.values.row(j);
                kernels.quantise(x, block, codes.row(j), sums.row(j), scales.row(j));
            }
        }
        self.unfinished.fetch_sub(self.values.rows(), Ordering::Release);
    }
}

/// Which rows of the activations a product takes, in the order of its output.
#[derive(Clone, Copy)]
pub(super) enum Tokens<'a> {
    All(usize),
    List(&'a [u32]),
}

impl Tokens<'_> {
    #[inline(always)]
    pub fn len(self) -> usize {
        match self {
            Tokens::All(n) => n,
            Tokens::List(list) => list.len(),
        }
    }

    /// The activation row behind output row `i`.
    #[inline(always)]
    pub fn at(self, i: usize) -> usize {
        match self {
            Tokens::All(_) => i,
            Tokens::List(list) => list[i] as usize,
        }
    }
}

//! What weights are multiplied with: f32 rows, and the same rows in 8 bits for the quantised
//! formats.

use super::format::Format;
use super::kernels::Kernels;
use crate::base::limits::{SMALL_BLOCK, SUPER_BLOCK};

/// `[tokens][cols]` activations. The buffers are kept from use to use, so that a step allocates
/// nothing once it has seen its largest batch.
///
/// `prepare` quantises for a format's activation block; what is prepared stays until the values
/// change.
#[derive(Debug, Default)]
pub struct Activations {
    tokens: usize,
    cols: usize,
    values: Vec<f32>,
    small: Quantised,
    large: Quantised,
}

/// Activations in 8 bits. Codes lie in -127..=127 and are kept twice: as i16, two to a word, low
/// half first, the form in which the products of many tokens take them; and as bytes, for those
/// of few.
#[derive(Debug, Default)]
pub(super) struct Quantised {
    pub ready: bool,
    /// `[tokens][cols / 2]` pairs of codes.
    pub codes: Vec<i32>,
    /// `[tokens][cols]` codes.
    pub bytes: Vec<i8>,
    /// `[tokens][cols / 32]` pairs of sums, each of 16 codes.
    pub sums: Vec<i32>,
    /// `[tokens][cols / block]` scales.
    pub scales: Vec<f32>,
}

impl Activations {
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives the buffer a shape and hands it out to be filled. Old values may still be in it.
    pub fn reset(&mut self, tokens: usize, cols: usize) -> &mut [f32] {
        let len = tokens.checked_mul(cols).expect("activations fit the address space");
        (self.tokens, self.cols) = (tokens, cols);
        self.values.resize(len, 0.0);
        self.values_mut()
    }

    /// Takes the shape and the values of `[tokens][cols]` floats.
    pub fn copy_from(&mut self, cols: usize, values: &[f32]) {
        assert!(cols > 0 && values.len().is_multiple_of(cols), "whole rows");
        self.reset(values.len() / cols, cols).copy_from_slice(values);
    }

    pub fn tokens(&self) -> usize {
        self.tokens
    }

    pub fn cols(&self) -> usize {
        self.cols
    }

    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The values, to be changed: whatever was prepared from them no longer is.
    pub fn values_mut(&mut self) -> &mut [f32] {
        self.small.ready = false;
        self.large.ready = false;
        &mut self.values
    }

    /// The row of one token.
    pub fn token(&self, token: usize) -> &[f32] {
        &self.values[token * self.cols..][..self.cols]
    }

    /// Quantises for `format`, unless that is done or the format multiplies floats.
    pub fn prepare(&mut self, kernels: &Kernels, format: Format) {
        let Some(block) = format.activation_block() else { return };
        assert!(self.cols.is_multiple_of(block), "{format} blocks divide the columns");
        let quantised = if block == SMALL_BLOCK { &mut self.small } else { &mut self.large };
        if quantised.ready {
            return;
        }
        let len = self.values.len();
        quantised.codes.resize(len / 2, 0);
        quantised.sums.resize(len / SMALL_BLOCK, 0);
        quantised.scales.resize(len / block, 0.0);
        kernels.quantise(
            &self.values,
            block,
            &mut quantised.codes,
            &mut quantised.sums,
            &mut quantised.scales,
        );
        quantised.bytes.resize(len, 0);
        let (bytes, _) = quantised.bytes.as_chunks_mut::<2>();
        for (bytes, pair) in bytes.iter_mut().zip(&quantised.codes) {
            *bytes = [*pair as i8, (pair >> 16) as i8];
        }
        quantised.ready = true;
    }

    /// The 8-bit rows for a quantised format.
    pub(super) fn quantised(&self, format: Format) -> &Quantised {
        let quantised = match format.activation_block() {
            Some(SUPER_BLOCK) => &self.large,
            _ => &self.small,
        };
        assert!(quantised.ready, "activations are prepared for {format} before the product");
        quantised
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

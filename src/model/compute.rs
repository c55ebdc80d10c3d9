//! Products of weights and activations, and the count of bytes they read.

use super::parts::Linear;
use crate::math::{Activations, Kernels};
use crate::weights::Matrix;

/// The kernels in use and what they have moved.
pub struct Compute {
    pub kernels: Kernels,
    /// Bytes of weights read so far.
    pub moved: u64,
    normed: Vec<f32>,
}

impl Compute {
    pub fn new(kernels: Kernels) -> Compute {
        Compute { kernels, moved: 0, normed: Vec::new() }
    }

    /// `out[t] = W x[t]`; `out` becomes `[tokens][rows]`.
    pub fn matrix(&mut self, weight: &Matrix, x: &mut Activations, out: &mut Vec<f32>) {
        weight.stage();
        x.prepare(&self.kernels, weight.format());
        out.resize(x.tokens() * weight.rows(), 0.0);
        self.kernels.linear(&weight.view(), x, out);
        self.moved += weight.bytes();
    }

    /// `out[t] = W x[t] + b`
    pub fn linear(&mut self, linear: &Linear, x: &mut Activations, out: &mut Vec<f32>) {
        self.matrix(&linear.weight, x, out);
        self.add_bias(linear, out);
    }

    /// `out[i] = W x[tokens[i]] + b`: one expert's part of a batch.
    pub fn linear_rows(
        &mut self,
        linear: &Linear,
        x: &mut Activations,
        tokens: &[u32],
        out: &mut Vec<f32>,
    ) {
        let weight = &linear.weight;
        weight.stage();
        x.prepare(&self.kernels, weight.format());
        out.resize(tokens.len() * weight.rows(), 0.0);
        self.kernels.linear_rows(&weight.view(), x, tokens, out);
        self.moved += weight.bytes();
        self.add_bias(linear, out);
    }

    /// RMS norm of each run of `weight.len()` values, in place.
    pub fn norm(&mut self, values: &mut [f32], weight: &[f32], eps: f32) {
        self.normed.resize(weight.len(), 0.0);
        for vector in values.chunks_exact_mut(weight.len()) {
            self.kernels.rms_norm(vector, weight, eps, &mut self.normed);
            vector.copy_from_slice(&self.normed);
        }
    }

    fn add_bias(&self, linear: &Linear, out: &mut [f32]) {
        if let Some(bias) = &linear.bias {
            for row in out.chunks_exact_mut(bias.len()) {
                self.kernels.add(row, bias);
            }
        }
    }
}

//! How often each expert was used: saved beside the pack, a prior for the next start.

use serde::{Deserialize, Serialize};

use super::Shape;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct History {
    pub layers: usize,
    pub experts: usize,
    /// Steps it was learnt from.
    pub steps: u64,
    /// The part of steps that used an expert, layer by layer.
    pub frequency: Vec<f32>,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    #[error(
        "the history is of {layers} layers with {experts} experts, and the model has another shape"
    )]
    Shape { layers: usize, experts: usize },
    #[error("the history holds {0} frequencies, which is not one for every expert")]
    Count(usize),
    #[error("the history holds a frequency that is not between 0 and 1")]
    Range,
}

impl History {
    pub fn check(&self, shape: Shape) -> Result<(), HistoryError> {
        if (self.layers, self.experts) != (shape.layers, shape.experts) {
            return Err(HistoryError::Shape { layers: self.layers, experts: self.experts });
        }
        if self.frequency.len() != shape.slabs() {
            return Err(HistoryError::Count(self.frequency.len()));
        }
        match self.frequency.iter().all(|p| (0.0..=1.0).contains(p)) {
            true => Ok(()),
            false => Err(HistoryError::Range),
        }
    }

    /// Layer and expert of every slab that was used, the most frequent first.
    pub fn ranked(&self) -> Vec<(usize, u32)> {
        let mut used: Vec<usize> =
            (0..self.frequency.len()).filter(|&slab| self.frequency[slab] > 0.0).collect();
        // Stable: of equals the first layer is needed first.
        used.sort_by(|&a, &b| self.frequency[b].total_cmp(&self.frequency[a]));
        used.into_iter().map(|s| (s / self.experts, (s % self.experts) as u32)).collect()
    }
}

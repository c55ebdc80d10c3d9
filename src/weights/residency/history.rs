//! How often each expert was used: saved beside the pack, a prior for the next start.

use serde::{Deserialize, Serialize};

use super::Shape;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct History {
    pub layers: usize,
    pub experts: usize,
    /// Steps it was learnt from.
    pub steps: u64,
    /// How often each expert was used, layer by layer; 1 for an average one of its layer.
    pub often: Vec<f32>,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    #[error("the history is of {layers} layers of {experts} experts; this model has another shape")]
    Shape { layers: usize, experts: usize },
    #[error("the history holds {0} frequencies, which is not one for every expert")]
    Count(usize),
    #[error("the history holds a frequency that no expert can have")]
    Range,
}

impl History {
    pub fn check(&self, shape: Shape) -> Result<(), HistoryError> {
        if (self.layers, self.experts) != (shape.layers, shape.experts) {
            return Err(HistoryError::Shape { layers: self.layers, experts: self.experts });
        }
        if self.often.len() != shape.slabs() {
            return Err(HistoryError::Count(self.often.len()));
        }
        match self.often.iter().all(|p| (0.0..=self.experts as f32 * 1.01).contains(p)) {
            true => Ok(()),
            false => Err(HistoryError::Range),
        }
    }

    /// Layer and expert of every slab, the most frequent first.
    pub fn ranked(&self) -> Vec<(usize, u32)> {
        let mut slabs: Vec<usize> = (0..self.often.len()).collect();
        // Stable: of equals the first layer is needed first.
        slabs.sort_by(|&a, &b| self.often[b].total_cmp(&self.often[a]));
        slabs.into_iter().map(|s| (s / self.experts, (s % self.experts) as u32)).collect()
    }
}

//! How well a model predicts a text, and how far it is from another model.

/// Sums over the positions of a text. Every logit that comes in must be finite, or minus
/// infinity for a token that cannot be.
#[derive(Default)]
pub struct Score {
    /// Negative log-probability of each scored token, in nats.
    losses: Vec<f64>,
    divergences: Vec<f64>,
    same_top: usize,
}

/// The distances of the scored positions from the base model.
pub struct Kl {
    pub mean: f64,
    pub median: f64,
    pub p99: f64,
    pub max: f64,
    /// Part of the positions at which the same token is likeliest.
    pub same_top: f64,
}

/// Logits that no distribution follows from.
#[derive(Debug, PartialEq, thiserror::Error)]
#[error("its logits are not numbers: the weights or their reading are damaged")]
pub struct NotNumbers;

impl Score {
    /// Scores a position by the token that follows it.
    pub fn token(&mut self, logits: &[f32], next: u32) -> Result<(), NotNumbers> {
        let sum = log_sum(logits)?;
        self.losses.push(sum - f64::from(logits[next as usize]));
        Ok(())
    }

    /// Adds KL(base ‖ this) at a position.
    pub fn distance(&mut self, base: &[f32], this: &[f32]) -> Result<(), NotNumbers> {
        let (base_sum, this_sum) = (log_sum(base)?, log_sum(this)?);
        let mut divergence = 0.0;
        for (&b, &t) in base.iter().zip(this) {
            let (b, t) = (f64::from(b) - base_sum, f64::from(t) - this_sum);
            // A token that the base rules out weighs nothing, however likely it is here.
            if b > f64::NEG_INFINITY {
                divergence += b.exp() * (b - t);
            }
        }
        // Rounding may leave a hair below zero.
        self.divergences.push(if divergence < 0.0 { 0.0 } else { divergence });
        self.same_top += usize::from(top(base) == top(this));
        Ok(())
    }

    /// Scored tokens.
    pub fn len(&self) -> usize {
        self.losses.len()
    }

    pub fn is_empty(&self) -> bool {
        self.losses.is_empty()
    }

    fn mean(&self) -> f64 {
        self.losses.iter().sum::<f64>() / self.losses.len().max(1) as f64
    }

    pub fn perplexity(&self) -> f64 {
        self.mean().exp()
    }

    /// Of the perplexity, from the spread of the losses.
    pub fn standard_error(&self) -> f64 {
        let (n, mean) = (self.losses.len() as f64, self.mean());
        if n < 2.0 {
            return 0.0;
        }
        let variance = self.losses.iter().map(|l| (l - mean).powi(2)).sum::<f64>() / (n - 1.0);
        (variance / n).sqrt() * self.perplexity()
    }

    pub fn kl(&self) -> Option<Kl> {
        let mut sorted = self.divergences.clone();
        sorted.sort_by(f64::total_cmp);
        let n = sorted.len();
        Some(Kl {
            max: *sorted.last()?,
            mean: sorted.iter().sum::<f64>() / n as f64,
            median: sorted[n / 2],
            p99: sorted[(n * 99 / 100).min(n - 1)],
            same_top: self.same_top as f64 / n as f64,
        })
    }
}

/// Logarithm of the sum of exponentials.
fn log_sum(logits: &[f32]) -> Result<f64, NotNumbers> {
    if logits.iter().any(|l| l.is_nan() || *l == f32::INFINITY) {
        return Err(NotNumbers);
    }
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&l| f64::from(l - max).exp()).sum();
    let sum = f64::from(max) + sum.ln();
    if sum.is_finite() { Ok(sum) } else { Err(NotNumbers) }
}

/// The likeliest token, the lowest id among equals.
fn top(logits: &[f32]) -> usize {
    (0..logits.len()).fold(0, |best, i| if logits[i] > logits[best] { i } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uniform_guess_has_the_vocabulary_as_perplexity() {
        let mut score = Score::default();
        score.token(&[3.0; 50], 7).unwrap();
        score.token(&[-2.0; 50], 0).unwrap();
        assert!((score.perplexity() - 50.0).abs() < 1e-9);
        assert_eq!(score.len(), 2);
    }

    #[test]
    fn distance_is_kullback_and_leiblers() {
        let mut score = Score::default();
        score.distance(&[1.0, 2.0], &[1.0, 2.0]).unwrap();
        score.distance(&[0.0, f32::ln(3.0)], &[0.0, 0.0]).unwrap();
        let expected = 0.25 * (0.5f64).ln() + 0.75 * (1.5f64).ln();
        let kl = score.kl().unwrap();
        assert!((kl.max - expected).abs() < 1e-6 && (kl.mean - expected / 2.0).abs() < 1e-6);
        assert_eq!(kl.same_top, 0.5);
    }

    #[test]
    fn what_is_no_number_is_no_perfect_score() {
        const NAN: f32 = f32::NAN;
        const NEVER: f32 = f32::NEG_INFINITY;
        let mut score = Score::default();
        for bad in [[NAN, 0.0], [f32::INFINITY, 0.0], [NEVER, NEVER]] {
            assert_eq!(score.token(&bad, 0), Err(NotNumbers));
            assert_eq!(score.distance(&bad, &[0.0, 0.0]), Err(NotNumbers));
            assert_eq!(score.distance(&[0.0, 0.0], &bad), Err(NotNumbers));
        }
        assert!(score.is_empty() && score.kl().is_none());
        // A token ruled out by both adds nothing.
        score.distance(&[NEVER, 0.0, 0.0], &[NEVER, 0.0, 0.0]).unwrap();
        assert_eq!(score.kl().unwrap().max, 0.0);
    }
}

//! The choice of experts.

use std::cmp::Ordering;

/// The `k` best of `scores` with their ids, best first: descending score, ties to the lower id,
/// NaN after every number.
pub fn top_k(scores: &[f32], k: usize, out: &mut Vec<(u32, f32)>) {
    out.clear();
    for (id, score) in scores.iter().enumerate() {
        // Ids ascend, so a newcomer passes only those that are strictly worse.
        let at = out.partition_point(|(_, kept)| order(*kept, *score) != Ordering::Greater);
        if at < k {
            out.truncate(k - 1);
            out.insert(at, (id as u32, *score));
        }
    }
}

/// Better first.
fn order(a: f32, b: f32) -> Ordering {
    b.partial_cmp(&a).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(scores: &[f32], k: usize) -> Vec<u32> {
        let mut out = vec![(9, 9.0)];
        top_k(scores, k, &mut out);
        assert!(out.iter().all(|(id, s)| s.to_bits() == scores[*id as usize].to_bits()));
        out.into_iter().map(|(id, _)| id).collect()
    }

    #[test]
    fn the_best_come_first_and_ties_go_to_the_lower_id() {
        assert_eq!(ids(&[1.0, 3.0, 2.0, 3.0], 3), [1, 3, 2]);
        assert_eq!(ids(&[0.0, -0.0, 0.0], 2), [0, 1]);
        assert_eq!(ids(&[-0.0, 0.0, 0.0], 2), [0, 1]);
        assert_eq!(ids(&[2.0, 1.0], 5), [0, 1]);
        assert_eq!(ids(&[2.0, 1.0], 0), [0; 0]);
        assert_eq!(ids(&[], 2), [0; 0]);
    }

    #[test]
    fn nan_is_never_chosen_before_a_number() {
        let nan = f32::NAN;
        let low = f32::NEG_INFINITY;
        assert_eq!(ids(&[nan, low, nan, 1.0, -nan], 2), [3, 1]);
        assert_eq!(ids(&[nan, low, nan, 1.0, -nan], 4), [3, 1, 0, 2]);
    }
}

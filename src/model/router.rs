//! The choice of experts for one token, from the router's logits. Ties go to the lower id.

use super::config::{GroupScore, Groups, Router, Score};
use crate::math::{Kernels, top_k};

/// An expert a token goes to and the weight of its answer.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Route {
    pub expert: u32,
    pub weight: f32,
}

/// Buffers for [`choose`].
#[derive(Default)]
pub struct Scratch {
    /// What the choice is made by, where that is not the weight itself.
    choice: Vec<f32>,
    best: Vec<(u32, f32)>,
    groups: Vec<(u32, f32)>,
    of_groups: Vec<f32>,
    weights: Vec<f32>,
}

/// Chooses as many experts as `routes` has places. `logits` are used up; `routes` becomes the
/// choice by ascending id.
pub fn choose(
    kernels: &Kernels,
    router: &Router,
    correction: Option<&[f32]>,
    logits: &mut [f32],
    scratch: &mut Scratch,
    routes: &mut [Route],
) {
    let scores = logits;
    match router.score {
        Score::Softmax => kernels.softmax(scores),
        Score::Sigmoid => kernels.sigmoid(scores),
        Score::SoftmaxOfChosen => {}
    }
    let choice = &mut scratch.choice;
    choice.clear();
    choice.extend_from_slice(scores);
    if let Some(correction) = correction {
        kernels.add(choice, correction);
    }
    if let Some(groups) = router.groups {
        let Scratch { best, groups: kept, of_groups, .. } = scratch;
        keep_best_groups(groups, choice, best, kept, of_groups);
    }
    top_k(choice, routes.len(), &mut scratch.best);
    scratch.best.sort_unstable_by_key(|(expert, _)| *expert);

    let weights = &mut scratch.weights;
    weights.clear();
    weights.extend(scratch.best.iter().map(|(expert, _)| scores[*expert as usize]));
    if router.score == Score::SoftmaxOfChosen {
        kernels.softmax(weights);
    }
    if router.normalise {
        // By ascending id; the small addend is the reference's and matters only when all
        // weights are as small.
        let sum = weights.iter().fold(0.0, |sum, w| sum + w) + 1e-20;
        weights.iter_mut().for_each(|w| *w /= sum);
    }
    for ((route, (expert, _)), weight) in routes.iter_mut().zip(&scratch.best).zip(weights) {
        *route = Route { expert: *expert, weight: *weight * router.scale };
    }
}

/// Makes the experts outside the best groups unelectable.
fn keep_best_groups(
    groups: Groups,
    choice: &mut [f32],
    best: &mut Vec<(u32, f32)>,
    kept: &mut Vec<(u32, f32)>,
    of_groups: &mut Vec<f32>,
) {
    let size = choice.len() / groups.count;
    let by = match groups.by {
        GroupScore::Best => 1,
        GroupScore::TwoBest => 2.min(size),
    };
    of_groups.clear();
    for members in choice.chunks_exact(size) {
        top_k(members, by, best);
        of_groups.push(best.iter().fold(0.0, |sum, (_, score)| sum + score));
    }
    top_k(of_groups, groups.kept, kept);
    for (group, members) in choice.chunks_exact_mut(size).enumerate() {
        if !kept.iter().any(|(id, _)| *id as usize == group) {
            members.fill(f32::NEG_INFINITY);
        }
    }
}

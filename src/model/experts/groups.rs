//! A batch's routes by expert: who computes what for whom.

use std::ops::Range;

use super::super::router::Route;

#[derive(Default)]
pub struct Groups {
    /// `[rows][used]` as chosen, by ascending expert.
    pub routes: Vec<Route>,
    /// The experts that are used, ascending, and where their runs of the lists below begin; one
    /// more start than experts.
    pub experts: Vec<u32>,
    pub starts: Vec<u32>,
    /// By expert, then by row: the row, and the weight of the answer in its sum.
    pub rows: Vec<u32>,
    pub weights: Vec<f32>,
    /// Routes of each expert, then where its next one goes.
    next: Vec<u32>,
}

impl Groups {
    /// Sorts the routes of `used` experts per row by expert; stable, so that an expert's rows stay
    /// in batch order.
    pub fn sort(&mut self, count: usize, used: usize) {
        let Groups { routes, experts, starts, rows, weights, next } = self;
        next.clear();
        next.resize(count, 0);
        routes.iter().for_each(|route| next[route.expert as usize] += 1);
        experts.clear();
        starts.clear();
        let mut start = 0;
        for (expert, next) in next.iter_mut().enumerate() {
            if *next > 0 {
                experts.push(expert as u32);
                starts.push(start);
            }
            (*next, start) = (start, start + *next);
        }
        starts.push(start);
        rows.resize(routes.len(), 0);
        weights.resize(routes.len(), 0.0);
        for (i, route) in routes.iter().enumerate() {
            let at = &mut next[route.expert as usize];
            rows[*at as usize] = (i / used) as u32;
            weights[*at as usize] = route.weight;
            *at += 1;
        }
    }

    /// Whether most of the layer's experts are used: the next layer's will be too.
    pub fn sweeps(&self) -> bool {
        2 * self.experts.len() >= self.next.len()
    }

    /// Where the run of the `i`th used expert lies.
    pub fn run(&self, i: usize) -> Range<usize> {
        self.starts[i] as usize..self.starts[i + 1] as usize
    }

    /// Where the runs of some used experts lie together.
    pub fn runs(&self, of: &Range<usize>) -> Range<usize> {
        self.starts[of.start] as usize..self.starts[of.end] as usize
    }
}

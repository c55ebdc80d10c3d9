//! What a trace asks of a cache, and what it is like.

use std::collections::BTreeSet;

use crate::weights::trace::Trace;

/// The distinct experts that each step needs of each layer, ascending.
pub struct Routing {
    layers: usize,
    ends: Vec<usize>,
    experts: Vec<u32>,
    /// Of each step, whether it has a prompt.
    prompts: Vec<bool>,
    /// In all steps.
    tokens: u64,
}

impl Routing {
    /// The steps as they were.
    pub fn of(trace: &Trace) -> Routing {
        let mut routing = Routing::empty(trace);
        for (step, known) in trace.steps().iter().enumerate() {
            routing.push(trace, &[step], known.prompt > 0);
        }
        routing
    }

    /// Steps that decode, cut into as many runs as there are sessions, which go on side by side:
    /// so each session keeps its own sequence, and they are at different places of the text.
    /// `None` if there are too few.
    pub fn batched(trace: &Trace, sessions: usize) -> Option<Routing> {
        let steps = trace.steps().iter().enumerate();
        let decoding: Vec<usize> =
            steps.filter(|(_, step)| step.prompt == 0).map(|(step, _)| step).collect();
        let each = decoding.len() / sessions;
        if each == 0 {
            return None;
        }
        let mut routing = Routing::empty(trace);
        let mut together = Vec::new();
        for at in 0..each {
            together.clear();
            together.extend((0..sessions).map(|session| decoding[session * each + at]));
            routing.push(trace, &together, false);
        }
        Some(routing)
    }

    fn empty(trace: &Trace) -> Routing {
        let layers = trace.header.layers as usize;
        Routing { layers, ends: Vec::new(), experts: Vec::new(), prompts: Vec::new(), tokens: 0 }
    }

    /// Adds these steps of a trace as one.
    fn push(&mut self, trace: &Trace, steps: &[usize], prompt: bool) {
        let mut wanted = vec![false; trace.header.experts as usize];
        for layer in 0..self.layers {
            for &step in steps {
                trace.routed(step, layer).iter().for_each(|&e| wanted[usize::from(e)] = true);
            }
            let needed = |(expert, wanted): (usize, &mut bool)| {
                std::mem::take(wanted).then_some(expert as u32)
            };
            self.experts.extend(wanted.iter_mut().enumerate().filter_map(needed));
            self.ends.push(self.experts.len());
        }
        self.prompts.push(prompt);
        self.tokens += steps.iter().map(|&step| u64::from(trace.steps()[step].tokens)).sum::<u64>();
    }

    pub fn steps(&self) -> usize {
        self.prompts.len()
    }

    /// Layer and experts, in the order in which the run comes to them.
    pub fn uses(&self) -> Vec<(usize, &[u32])> {
        let mut start = 0;
        let each = |(at, &end): (usize, &usize)| {
            let experts = &self.experts[start..end];
            start = end;
            (at % self.layers, experts)
        };
        self.ends.iter().enumerate().map(each).collect()
    }
}

/// What a trace is like.
pub struct Facts {
    pub tokens: u64,
    /// Steps with a prompt.
    pub prompts: usize,
    /// Experts of a layer in a step without a prompt (if there is one), on average.
    pub distinct: f64,
    pub distinct_with_prompt: Option<f64>,
    /// The part of a token's experts that were the last token's too. None where no token follows
    /// another of the same session for certain.
    pub overlap: Option<f64>,
    /// The part of all uses by tokens that goes to a layer's busiest quarter of experts.
    pub top: f64,
    /// The part of demands that are a slab's first.
    pub first: f64,
}

impl Facts {
    pub fn of(trace: &Trace, routing: &Routing) -> Facts {
        let uses = routing.uses();
        let mean = |prompt: bool| {
            let steps = uses.chunks(routing.layers).zip(&routing.prompts);
            let sums = steps.filter(|(_, has)| **has == prompt).map(|(layers, _)| {
                layers.iter().map(|(_, experts)| experts.len()).sum::<usize>() as f64
            });
            let sums: Vec<f64> = sums.collect();
            let count = sums.len() * routing.layers;
            (count > 0).then(|| sums.iter().sum::<f64>() / count as f64)
        };
        let prompts = routing.prompts.iter().filter(|has| **has).count();
        let with_prompt = mean(true);
        let (distinct, distinct_with_prompt) = match mean(false) {
            Some(distinct) => (distinct, with_prompt),
            None => (with_prompt.unwrap_or(0.0), None),
        };
        let demands = routing.experts.len().max(1) as f64;
        let slabs: BTreeSet<(usize, u32)> =
            uses.iter().flat_map(|(layer, experts)| experts.iter().map(|e| (*layer, *e))).collect();
        Facts {
            tokens: routing.tokens,
            prompts,
            distinct,
            distinct_with_prompt,
            overlap: overlap(trace),
            top: top_quarter(trace),
            first: slabs.len() as f64 / demands,
        }
    }
}

/// Over pairs of steps of one token each, the second one decoding.
fn overlap(trace: &Trace) -> Option<f64> {
    let (mut same, mut all) = (0usize, 0usize);
    for (second, pair) in trace.steps().windows(2).enumerate().map(|(at, pair)| (at + 1, pair)) {
        if pair[0].tokens != 1 || pair[1].tokens != 1 || pair[1].prompt > 0 {
            continue;
        }
        for layer in 0..trace.header.layers as usize {
            let (before, now) = (trace.routed(second - 1, layer), trace.routed(second, layer));
            if !before.is_empty() {
                same += now.iter().filter(|expert| before.contains(expert)).count();
                all += now.len();
            }
        }
    }
    (all > 0).then(|| same as f64 / all as f64)
}

fn top_quarter(trace: &Trace) -> f64 {
    let experts = trace.header.experts as usize;
    let (mut top, mut all) = (0u64, 0u64);
    for layer in 0..trace.header.layers as usize {
        let mut counts = vec![0u64; experts];
        for step in 0..trace.steps().len() {
            trace.routed(step, layer).iter().for_each(|&e| counts[usize::from(e)] += 1);
        }
        counts.sort_unstable_by(|a, b| b.cmp(a));
        top += counts[..experts.div_ceil(4)].iter().sum::<u64>();
        all += counts.iter().sum::<u64>();
    }
    top as f64 / all.max(1) as f64
}

//! Attention over pages.

use super::*;
use crate::math::{AttentionScratch, KvView, store_k, store_v};

/// Keys and values, and the arena of pages that they were stored into.
struct Cache {
    d: usize,
    dv: usize,
    keys: Vec<Vec<f32>>,
    values: Vec<Vec<f32>>,
    arena: Vec<f32>,
    pages: Vec<u32>,
}

impl Cache {
    /// Pages lie in random order in an arena that is otherwise NaN.
    fn new(rng: &mut Rng, d: usize, dv: usize, len: usize) -> Self {
        let keys: Vec<_> = (0..len).map(|_| rng.floats(d)).collect();
        let values: Vec<_> = (0..len).map(|_| rng.floats(dv)).collect();
        let count = len.div_ceil(16);
        let mut pages: Vec<u32> = (0..count as u32 + 2).collect();
        for i in (1..pages.len()).rev() {
            pages.swap(i, rng.below(i + 1));
        }
        pages.truncate(count);
        let mut cache = Cache { d, dv, keys, values, arena: vec![], pages };
        let page = cache.page_floats();
        cache.arena = vec![f32::NAN; (count + 2) * page];
        for i in 0..len {
            let at = cache.pages[i / 16] as usize * page;
            let arena = &mut cache.arena[at..at + page];
            store_k(&mut arena[5..5 + 16 * d], i % 16, &cache.keys[i]);
            store_v(&mut arena[5 + 16 * d..][..16 * dv], i % 16, &cache.values[i]);
        }
        cache
    }

    fn page_floats(&self) -> usize {
        5 + 16 * (self.d + self.dv)
    }

    fn view(&self) -> KvView<'_> {
        KvView {
            arena: &self.arena,
            pages: &self.pages,
            page_floats: self.page_floats(),
            k_at: 5,
            v_at: 5 + 16 * self.d,
            d: self.d,
            dv: self.dv,
        }
    }

    fn attend(
        &self,
        k: &Kernels,
        q: &[f32],
        first: usize,
        len: usize,
        sink: Option<f32>,
    ) -> Vec<f32> {
        let mut out = vec![7.0; self.dv];
        // Leftovers of another call must not matter.
        let mut scratch = AttentionScratch::new();
        scratch.o = vec![f32::NAN; 3];
        k.attend(q, 0.3, &self.view(), first, len, sink, &mut out, &mut scratch);
        out
    }

    fn in_f64(&self, q: &[f32], first: usize, len: usize, sink: Option<f32>) -> Vec<f64> {
        let score = |key: &Vec<f32>| {
            key.iter().zip(q).map(|(k, q)| *k as f64 * *q as f64).sum::<f64>() * 0.3f32 as f64
        };
        let scores: Vec<f64> = self.keys[first..len].iter().map(score).collect();
        let sink = sink.map_or(f64::NEG_INFINITY, |s| s as f64);
        let largest = scores.iter().fold(sink, |a, b| a.max(*b));
        let p: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
        let total: f64 = p.iter().sum::<f64>() + (sink - largest).exp();
        (0..self.dv)
            .map(|j| {
                let values = &self.values[first..len];
                p.iter().zip(values).map(|(p, v)| p * v[j] as f64).sum::<f64>() / total
            })
            .collect()
    }
}

#[test]
fn every_instruction_set_equals_the_oracle_and_comes_close_to_f64() {
    let mut rng = Rng(21);
    let shapes = [(64, 64, 70), (128, 128, 1100), (24, 20, 333), (7, 5, 33), (96, 65, 2500)];
    for (d, dv, len) in shapes {
        let cache = Cache::new(&mut rng, d, dv, len);
        let q: Vec<f32> = rng.floats(d).iter().map(|q| q * 5.0).collect();
        for (first, end) in [
            (0, 1),
            (0, 15),
            (0, len),
            (len / 2, len),
            (len - 1, len),
            (3, len - 5),
            (17, 33),
            (len.saturating_sub(1030), len),
        ] {
            for sink in [None, Some(1.5), Some(-80.0), Some(90.0)] {
                let want = cache.attend(&oracle(), &q, first, end, sink);
                for kernels in vectors() {
                    let got = cache.attend(&kernels, &q, first, end, sink);
                    same_bits(&got, &want, &format!("{} {d} {dv} {first}..{end}", kernels.isa()));
                }
                // Scores are off by about d roundings of at most |q||k|; so is the exponent.
                let bound = 1e-6 * (5.0 * 0.3 * d as f64 + 8.0);
                for (got, want) in want.iter().zip(cache.in_f64(&q, first, end, sink)) {
                    let error = (*got as f64 - want).abs();
                    assert!(error < bound, "{d} {dv} {first}..{end} {sink:?}: {error:e}");
                }
            }
        }
    }
}

#[test]
fn a_position_sees_the_same_whatever_comes_after_it_and_wherever_its_pages_lie() {
    let mut rng = Rng(22);
    let long = Cache::new(&mut rng, 32, 48, 1500);
    let q = rng.floats(32);
    for len in [1, 16, 17, 64, 65, 100, 1024, 1025, 1499] {
        // The cache as it was when position len - 1 was the newest: no later page exists, the
        // rest of the last page is NaN, and pages lie elsewhere.
        let mut short = Cache::new(&mut rng, 32, 48, len);
        let page = short.page_floats();
        for i in 0..len {
            let at = short.pages[i / 16] as usize * page;
            let arena = &mut short.arena[at..at + page];
            store_k(&mut arena[5..5 + 16 * 32], i % 16, &long.keys[i]);
            store_v(&mut arena[5 + 16 * 32..][..16 * 48], i % 16, &long.values[i]);
        }
        for kernels in vectors().into_iter().chain([oracle()]) {
            for first in [0, len / 3, len - 1] {
                let a = long.attend(&kernels, &q, first, len, Some(0.5));
                let b = short.attend(&kernels, &q, first, len, Some(0.5));
                same_bits(&a, &b, kernels.isa().name());
            }
        }
    }
}

#[test]
fn pages_before_the_window_are_never_looked_up() {
    let mut rng = Rng(23);
    let mut cache = Cache::new(&mut rng, 16, 16, 200);
    let q = rng.floats(16);
    let want = cache.attend(&oracle(), &q, 130, 200, None);
    // 130 lies in page 8: pages 0 to 7 have been given away.
    cache.pages[..8].fill(u32::MAX);
    for kernels in vectors().into_iter().chain([oracle()]) {
        same_bits(&cache.attend(&kernels, &q, 130, 200, None), &want, kernels.isa().name());
    }
}

#[test]
fn seeing_nothing_gives_zeros() {
    let cache = Cache::new(&mut Rng(24), 16, 16, 20);
    for kernels in vectors().into_iter().chain([oracle()]) {
        for (first, len) in [(0, 0), (20, 20), (9, 3)] {
            let out = cache.attend(&kernels, &[1.0; 16], first, len, Some(1.0));
            assert_eq!(out, [0.0; 16]);
        }
    }
}

#[test]
fn segments_of_like_weight_are_merged_in_order() {
    let mut rng = Rng(25);
    let cache = Cache::new(&mut rng, 8, 17, 5000);
    for i in 0..60 {
        let q = rng.floats(8);
        let (first, len) = (rng.below(1500), 5000 - i * 17);
        let sink = Some(rng.unit());
        let want = cache.attend(&oracle(), &q, first, len, sink);
        for kernels in vectors() {
            let got = cache.attend(&kernels, &q, first, len, sink);
            same_bits(&got, &want, kernels.isa().name());
        }
        for (got, want) in want.iter().zip(cache.in_f64(&q, first, len, sink)) {
            assert!((*got as f64 - want).abs() < 2e-6, "{first}..{len}: {got} for {want}");
        }
    }
}

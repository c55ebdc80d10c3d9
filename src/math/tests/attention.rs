//! Attention over pages.

use super::*;
use crate::math::{AttentionScratch, Columns, KvFormat, KvView, Queries, Shares, Store};

/// Keys and values, and the arena of pages that they were stored into.
#[derive(Clone)]
struct Cache {
    format: KvFormat,
    d: usize,
    dv: usize,
    keys: Vec<Vec<f32>>,
    values: Vec<Vec<f32>>,
    arena: Vec<f32>,
    pages: Vec<u32>,
}

/// Where a page's keys begin: rooms need not begin where pages do.
const K_AT: usize = 5;

impl Cache {
    /// Pages lie in random order in an arena that is otherwise NaN.
    fn new(rng: &mut Rng, format: KvFormat, d: usize, dv: usize, len: usize) -> Self {
        let keys: Vec<_> = (0..len).map(|_| rng.floats(d)).collect();
        let values: Vec<_> = (0..len).map(|_| rng.floats(dv)).collect();
        Cache::of(rng, format, keys, values)
    }

    fn of(rng: &mut Rng, format: KvFormat, keys: Vec<Vec<f32>>, values: Vec<Vec<f32>>) -> Self {
        let count = keys.len().div_ceil(16);
        let mut pages: Vec<u32> = (0..count as u32 + 2).collect();
        for i in (1..pages.len()).rev() {
            pages.swap(i, rng.below(i + 1));
        }
        pages.truncate(count);
        let (d, dv) = (keys[0].len(), values[0].len());
        let mut cache = Cache { format, d, dv, keys, values, arena: vec![], pages };
        cache.arena = vec![f32::NAN; (count + 2) * cache.page_floats()];
        cache.store(&oracle());
        cache
    }

    fn store(&mut self, kernels: &Kernels) {
        let (page, v_at, format) = (self.page_floats(), self.v_at(), self.format);
        let mut store = Store { kernels, format, codes: &mut vec![1; 3] };
        for (i, (key, value)) in self.keys.iter().zip(&self.values).enumerate() {
            let arena = &mut self.arena[self.pages[i / 16] as usize * page..][..page];
            let (keys, values) = arena.split_at_mut(v_at);
            store.key(&mut keys[K_AT..], i % 16, key);
            store.value(values, i % 16, value);
        }
    }

    fn v_at(&self) -> usize {
        K_AT + self.format.room(self.d)
    }

    fn page_floats(&self) -> usize {
        self.v_at() + self.format.room(self.dv)
    }

    fn view(&self) -> KvView<'_> {
        KvView {
            format: self.format,
            arena: &self.arena,
            pages: &self.pages,
            page_floats: self.page_floats(),
            k_at: K_AT,
            v_at: self.v_at(),
            d: self.d,
            dv: self.dv,
        }
    }

    /// What a page says of a vector that was stored.
    fn kept(&self, vector: &[f32]) -> Vec<f64> {
        let amax = vector.iter().fold(0.0f32, |amax, x| amax.max(x.abs()));
        let kept = |x: &f32| match self.format {
            KvFormat::F32 => *x as f64,
            KvFormat::Int8 => (x * (127.0 / amax)).round_ties_even() as f64 * (amax / 127.0) as f64,
        };
        vector.iter().map(kept).collect()
    }

    fn attend(
        &self,
        k: &Kernels,
        q: &[f32],
        first: usize,
        len: usize,
        sink: Option<f32>,
    ) -> Vec<f32> {
        let queries = Queries {
            q,
            stride: self.d,
            heads: 1,
            scale: 0.3,
            end: len,
            window: Some(len.saturating_sub(first)),
            sinks: sink.as_ref().map(std::slice::from_ref),
        };
        let mut out = vec![7.0; self.dv];
        let columns = &mut Columns::whole(&mut out, self.dv);
        k.attend(&queries, &self.view(), columns, &mut leftovers());
        out
    }

    fn in_f64(&self, q: &[f32], first: usize, len: usize, sink: Option<f32>) -> Vec<f64> {
        let score = |key: &Vec<f32>| {
            let kept = self.kept(key);
            kept.iter().zip(q).map(|(k, q)| k * *q as f64).sum::<f64>() * 0.3f32 as f64
        };
        let scores: Vec<f64> = self.keys[first..len].iter().map(score).collect();
        let sink = sink.map_or(f64::NEG_INFINITY, |s| s as f64);
        let largest = scores.iter().fold(sink, |a, b| a.max(*b));
        let p: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
        let total: f64 = p.iter().sum::<f64>() + (sink - largest).exp();
        let mut out = vec![0.0; self.dv];
        for (p, value) in p.iter().zip(&self.values[first..len]) {
            for (out, v) in out.iter_mut().zip(self.kept(value)) {
                *out += p * v / total;
            }
        }
        out
    }
}

/// Each of some cases in pages of every format.
fn formats<T: Copy>(cases: impl IntoIterator<Item = T>) -> impl Iterator<Item = (KvFormat, T)> {
    cases.into_iter().flat_map(|case| KvFormat::ALL.into_iter().map(move |format| (format, case)))
}

/// What another call left behind must not matter.
fn leftovers() -> AttentionScratch {
    let mut scratch = AttentionScratch::new();
    scratch.o = vec![f32::NAN; 300];
    scratch.q = vec![f32::NAN; 5000];
    scratch
}

#[test]
fn every_instruction_set_equals_the_oracle_and_comes_close_to_f64() {
    let mut rng = Rng(21);
    let shapes = [(64, 64, 70), (128, 128, 1100), (24, 20, 333), (7, 5, 33), (96, 65, 2500)];
    for (format, (d, dv, len)) in formats(shapes) {
        let cache = Cache::new(&mut rng, format, d, dv, len);
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
                    let what = format!("{} {format} {d} {dv} {first}..{end}", kernels.isa());
                    same_bits(&got, &want, &what);
                }
                // Scores are off by about d roundings of at most |q||k|; so is the exponent.
                let bound = 1e-6 * (5.0 * 0.3 * d as f64 + 8.0);
                for (got, want) in want.iter().zip(cache.in_f64(&q, first, end, sink)) {
                    let error = (*got as f64 - want).abs();
                    assert!(error < bound, "{format} {d} {dv} {first}..{end} {sink:?}: {error:e}");
                }
            }
        }
    }
}

#[test]
fn a_position_sees_the_same_whatever_comes_after_it_and_wherever_its_pages_lie() {
    let mut rng = Rng(22);
    let q = rng.floats(32);
    for (format, (d, dv)) in formats([(32, 48), (31, 47)]) {
        let (long, q) = (Cache::new(&mut rng, format, d, dv, 1500), &q[..d]);
        for len in [1, 16, 17, 64, 65, 100, 1024, 1025, 1499] {
            // The cache as it was when position len - 1 was the newest: no later page exists, the
            // rest of the last page is NaN, and pages lie elsewhere.
            let (keys, values) = (long.keys[..len].to_vec(), long.values[..len].to_vec());
            let short = Cache::of(&mut rng, format, keys, values);
            for kernels in vectors().into_iter().chain([oracle()]) {
                for first in [0, len / 3, len - 1] {
                    let a = long.attend(&kernels, q, first, len, Some(0.5));
                    let b = short.attend(&kernels, q, first, len, Some(0.5));
                    same_bits(&a, &b, kernels.isa().name());
                }
            }
        }
    }
}

#[test]
fn pages_before_the_window_are_never_looked_up() {
    let mut rng = Rng(23);
    let q = rng.floats(16);
    for format in KvFormat::ALL {
        let mut cache = Cache::new(&mut rng, format, 16, 16, 200);
        let want = cache.attend(&oracle(), &q, 130, 200, None);
        // 130 lies in page 8: pages 0 to 7 have been given away.
        cache.pages[..8].fill(u32::MAX);
        for kernels in vectors().into_iter().chain([oracle()]) {
            same_bits(&cache.attend(&kernels, &q, 130, 200, None), &want, kernels.isa().name());
        }
    }
}

#[test]
fn seeing_nothing_gives_zeros() {
    for (format, kernels) in formats(vectors().into_iter().chain([oracle()])) {
        let cache = Cache::new(&mut Rng(24), format, 16, 16, 20);
        for (first, len) in [(0, 0), (20, 20), (9, 3)] {
            let out = cache.attend(&kernels, &[1.0; 16], first, len, Some(1.0));
            assert_eq!(out, [0.0; 16]);
        }
    }
}

#[test]
fn segments_of_like_weight_are_merged_in_order() {
    let mut rng = Rng(25);
    let caches = KvFormat::ALL.map(|format| Cache::new(&mut rng, format, 8, 17, 5000));
    for (cache, i) in caches.iter().flat_map(|cache| (0..30).map(move |i| (cache, i))) {
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

/// Queries at consecutive positions, in rows wider than they are, into columns of a wider buffer.
/// Each must see exactly what it sees alone.
fn compare(rng: &mut Rng, cache: &Cache, heads: usize, end: usize, window: Option<usize>) {
    let (d, dv, rows) = (cache.d, cache.dv, cache.keys.len() + 1 - end);
    let (stride, left) = (heads * d + 3, 2 * heads * dv);
    let q: Vec<f32> = rng.floats(rows * stride).iter().map(|q| q * 5.0).collect();
    let sinks = rng.floats(heads);
    let sinks = (heads % 2 == 1).then_some(&sinks[..]);
    let queries = Queries { q: &q, stride, heads, scale: 0.3, end, window, sinks };
    let what = format!("{} {d} {dv}: {rows} x {heads} from {end}, window {window:?}", cache.format);

    let mut want = Vec::new();
    for row in 0..rows {
        for head in 0..heads {
            let q = &q[row * stride + head * d..][..d];
            let len = end + row;
            let first = window.map_or(0, |window| len.saturating_sub(window));
            want.extend(cache.attend(&oracle(), q, first, len, sinks.map(|sinks| sinks[head])));
        }
    }
    for kernels in vectors().into_iter().chain([oracle()]) {
        let mut wide = vec![7.0; rows * (left + heads * dv)];
        let shares =
            Shares::within(&mut wide, left + heads * dv, left..left + heads * dv, heads * dv);
        let mut out = shares.take(0);
        kernels.attend(&queries, &cache.view(), &mut out, &mut leftovers());
        let got: Vec<f32> = (0..rows).flat_map(|row| out.row(row).to_vec()).collect();
        same_bits(&got, &want, &format!("{} {what}", kernels.isa()));
        assert!(wide.chunks_exact(left + heads * dv).all(|row| row[..left] == vec![7.0; left]));
    }
}

#[test]
fn queries_that_walk_together_see_what_each_sees_alone() {
    let mut rng = Rng(26);
    // Tiles that end within a position, sides of all widths, values with and without whole rows.
    for (format, (d, dv)) in formats([(16, 16), (24, 37), (32, 128), (5, 3)]) {
        for heads in [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 70] {
            for (rows, end) in [(1, 50), (2, 64), (5, 61), (13, 1020)] {
                let cache = Cache::new(&mut rng, format, d, dv, end + rows - 1);
                compare(&mut rng, &cache, heads, end, None);
            }
        }
    }
}

#[test]
fn windows_move_on_within_a_tile() {
    let mut rng = Rng(27);
    for (format, heads) in formats([1, 2, 5, 8]) {
        for window in [0, 1, 2, 15, 16, 17, 63, 64, 65, 130, 1000] {
            for (rows, end) in [(70, 1), (70, 100), (150, 1000), (3, 1024)] {
                let mut cache = Cache::new(&mut rng, format, 8, 20, end + rows - 1);
                // Pages that nobody sees any more have been given away.
                let given = end.saturating_sub(window.max(1)) / 16;
                cache.pages[..given].fill(u32::MAX);
                compare(&mut rng, &cache, heads, end, Some(window));
            }
        }
    }
}

#[test]
fn a_tile_may_reach_over_several_segments() {
    let mut rng = Rng(28);
    let cases =
        [(1, 100, 2000, None), (3, 30, 3060, None), (2, 90, 2040, Some(1024)), (8, 4, 1022, None)];
    for (format, (heads, rows, end, window)) in formats(cases) {
        let cache = Cache::new(&mut rng, format, 8, 16, end + rows - 1);
        compare(&mut rng, &cache, heads, end, window);
    }
    // The shape of latent attention: values are part of the keys, and all heads look at them.
    for format in KvFormat::ALL {
        let cache = Cache::new(&mut rng, format, 72, 64, 200);
        compare(&mut rng, &cache, 16, 190, None);
    }
}

#[test]
fn every_instruction_set_stores_the_same_bytes() {
    let mut rng = Rng(29);
    for (format, (d, dv)) in formats([(64, 64), (1, 1), (7, 130), (33, 31), (576, 512)]) {
        let mut vectors_of = |length| (0..40).map(|_| rng.wild(length)).collect::<Vec<_>>();
        let (mut keys, mut values) = (vectors_of(d), vectors_of(dv));
        keys[3].fill(0.0);
        values[4].fill(-0.0);
        for (i, odd) in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e-44].into_iter().enumerate()
        {
            keys[5 + i][d / 2] = odd;
            values[9 + i][dv / 3] = odd;
        }
        let cache = Cache::of(&mut rng, format, keys, values);
        for kernels in vectors() {
            let mut other = cache.clone();
            other.arena.fill(f32::NAN);
            other.store(&kernels);
            same_bits(&other.arena, &cache.arena, &format!("{} {format} {d}", kernels.isa()));
        }
    }
}

#[test]
fn what_is_not_finite_is_not_lost_in_8_bits() {
    let mut rng = Rng(30);
    for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let sound = Cache::new(&mut rng, KvFormat::Int8, 16, 20, 100);
        for spoilt in [true, false] {
            let (mut keys, mut values) = (sound.keys.clone(), sound.values.clone());
            let vector = if spoilt { &mut keys[70] } else { &mut values[70] };
            vector[9] = odd;
            let cache = Cache::of(&mut rng, KvFormat::Int8, keys, values);
            for kernels in vectors().into_iter().chain([oracle()]) {
                let out = cache.attend(&kernels, &[0.5; 16], 60, 100, None);
                assert!(out.iter().all(|x| x.is_nan()), "{odd}: {} {out:?}", kernels.isa());
                let out = cache.attend(&kernels, &[0.5; 16], 0, 70, None);
                assert!(out.iter().all(|x| x.is_finite()), "who does not see it");
            }
        }
    }
}

#[test]
fn eight_bits_take_a_quarter_and_come_close() {
    assert_eq!(KvFormat::F32.room(128), 128 * 16);
    assert_eq!(KvFormat::Int8.room(128), 128 * 16 / 4 + 16);
    // Codes of an odd length end with the cache line.
    assert_eq!(KvFormat::Int8.room(7), 32 + 16);

    let mut rng = Rng(31);
    for (d, dv, len) in [(64, 64, 300), (128, 128, 1500), (72, 64, 100), (33, 65, 700)] {
        let exact = Cache::new(&mut rng, KvFormat::F32, d, dv, len);
        let (keys, values) = (exact.keys.clone(), exact.values.clone());
        let close = Cache::of(&mut rng, KvFormat::Int8, keys, values);
        let q = rng.floats(d);
        let [exact, close] = [exact, close].map(|c| c.attend(&oracle(), &q, 0, len, None));
        let length = |x: &[f32]| x.iter().map(|x| (*x as f64).powi(2)).sum::<f64>().sqrt();
        let apart: Vec<f32> = exact.iter().zip(&close).map(|(a, b)| a - b).collect();
        let error = length(&apart) / length(&exact);
        assert!(error > 0.0 && error < 0.01, "{d} {dv} {len}: {error}");
    }
}

//! What the policies hit, on routing of several kinds.

use penstock::weights::residency::{Belady, Counters, History, Policy, Residency, Shape};

use super::routing::{KINDS, Kind, Model, Token, together, union};

const MODEL: Model = Model { layers: 8, experts: 64, used: 4 };

fn shape(percent: usize) -> Shape {
    let slots = MODEL.layers * MODEL.experts * percent / 100;
    Shape { layers: MODEL.layers, experts: MODEL.experts, slots }
}

fn run(residency: &mut Residency, steps: &[Token]) -> Counters {
    let (mut vain, mut out) = (Vec::new(), Vec::new());
    let before = residency.counters();
    for step in steps {
        residency.begin_step();
        for (layer, experts) in step.iter().enumerate() {
            residency.enter(layer, experts, &mut vain);
            let mut rest = &experts[..];
            while !rest.is_empty() {
                let fits = residency.fitting(layer, rest).min(16);
                let (window, later) = rest.split_at(fits);
                out.clear();
                residency.demand(layer, window, &mut out);
                residency.release(layer, window);
                rest = later;
            }
        }
    }
    let now = residency.counters();
    let (hits, misses) = (now.hits - before.hits, now.misses - before.misses);
    Counters { hits, misses, ..Counters::default() }
}

/// In percent.
fn rate(hits: u64, misses: u64) -> f64 {
    hits as f64 * 100.0 / (hits + misses) as f64
}

/// The rate of the second half, when the cache is full.
fn settled(percent: usize, policy: Policy, steps: &[Token]) -> f64 {
    let mut residency = Residency::new(shape(percent), policy);
    let (first, second) = steps.split_at(steps.len() / 2);
    run(&mut residency, first);
    let counters = run(&mut residency, second);
    rate(counters.hits, counters.misses)
}

fn uses(steps: &[Token]) -> Vec<(usize, &[u32])> {
    steps.iter().flat_map(|step| step.iter().enumerate().map(|(l, e)| (l, &e[..]))).collect()
}

#[test]
fn nobody_beats_the_optimum() {
    for kind in KINDS {
        for sessions in [1, 8] {
            let steps = together(&MODEL.tokens(kind, 320, 5), sessions);
            for percent in [2, 10, 30, 60, 100] {
                let bound = Belady::run(shape(percent), &uses(&steps));
                for policy in Policy::ALL {
                    let counters = run(&mut Residency::new(shape(percent), policy), &steps);
                    assert_eq!(counters.hits + counters.misses, bound.hits + bound.misses);
                    assert!(
                        counters.hits <= bound.hits,
                        "{kind:?}, {sessions} sessions, {percent}%, {policy}: {} of {}",
                        counters.hits,
                        bound.hits
                    );
                }
            }
        }
    }
}

/// A small case that can be checked by hand, and one by trying everything.
#[test]
fn the_optimum_is_the_optimum() {
    let tiny = Shape { layers: 1, experts: 3, slots: 1 };
    let uses: Vec<(usize, &[u32])> =
        vec![(0, &[0]), (0, &[1]), (0, &[0]), (0, &[2]), (0, &[0]), (0, &[1])];
    // Keep 0 through all, let the others pass.
    assert_eq!(Belady::run(tiny, &uses), Belady { hits: 2, misses: 4 });

    fn best(uses: &[Vec<u32>], held: u32, slots: u32) -> u64 {
        let Some((now, rest)) = uses.split_first() else { return 0 };
        let set = now.iter().fold(0u32, |set, expert| set | 1 << expert);
        let hits = u64::from((set & held).count_ones());
        let may = held | set;
        // Every part of what may be kept.
        let kept = (0..=may).filter(|kept| kept & !may == 0 && kept.count_ones() <= slots);
        hits + kept.map(|kept| best(rest, kept, slots)).max().unwrap_or(0)
    }
    let mut random = super::routing::Random::new(3);
    for _ in 0..40 {
        let uses: Vec<Vec<u32>> = (0..6).map(|_| random.some(2, 4)).collect();
        let views: Vec<(usize, &[u32])> = uses.iter().map(|set| (0, &set[..])).collect();
        for slots in 1..=3 {
            let found = Belady::run(Shape { layers: 1, experts: 4, slots: slots as usize }, &views);
            assert_eq!(found.hits, best(&uses, 0, slots), "{uses:?}, {slots}");
        }
    }
}

#[test]
fn routing_without_favourites_hits_what_is_cached() {
    let tokens = MODEL.tokens(Kind::Uniform, 1600, 7);
    for percent in [10, 25, 50, 75] {
        let hit = settled(percent, Policy::default(), &tokens);
        assert!((hit - percent as f64).abs() < 2.0, "{hit:.1}% at {percent}%");
    }
}

/// A step of 32 sessions wants nearly all of a layer, and more than there are slots.
#[test]
fn a_wide_batch_hits_what_is_cached_where_lru_hits_nothing() {
    let steps = together(&MODEL.tokens(Kind::Uniform, 6400, 9), 32);
    for percent in [25, 50, 75] {
        let hit = settled(percent, Policy::default(), &steps);
        assert!((hit - percent as f64).abs() < 3.0, "{hit:.1}% at {percent}%");
        let lru = settled(percent, Policy::Lru, &steps);
        assert!(lru < 1.0, "{lru:.1}%");
    }
}

/// On tokens of topics, at the sizes where a budget is tight: what was measured, with a margin.
#[test]
fn favourites_are_kept_within_a_known_distance_of_the_optimum() {
    for (kind, percent, most) in [
        (Kind::Skewed, 20, 16.0),
        (Kind::Skewed, 50, 7.0),
        (Kind::Markov, 20, 18.0),
        (Kind::Markov, 50, 10.0),
        (Kind::Topics, 20, 18.0),
        (Kind::Topics, 50, 7.0),
    ] {
        let tokens = MODEL.tokens(kind, 1600, 11);
        let counters = run(&mut Residency::new(shape(percent), Policy::default()), &tokens);
        let bound = Belady::run(shape(percent), &uses(&tokens));
        let (hit, bound) = (rate(counters.hits, counters.misses), rate(bound.hits, bound.misses));
        println!("{kind:?} at {percent}%: {hit:.1}%, at best {bound:.1}%");
        assert!(bound - hit < most, "{kind:?} at {percent}%: {hit:.1}%, at best {bound:.1}%");
        for other in Policy::ALL {
            let counters = run(&mut Residency::new(shape(percent), other), &tokens);
            let other_hit = rate(counters.hits, counters.misses);
            assert!(hit > other_hit - 1.0, "{kind:?} at {percent}%: {other} {other_hit:.1}%");
        }
    }
}

/// A long prompt goes through all experts of all layers. The cache is as good after it.
#[test]
fn a_sweep_does_not_flush() {
    let tokens = MODEL.tokens(Kind::Skewed, 1400, 13);
    let (before, after) = tokens.split_at(1300);
    let rate_after = |sweeps: usize| {
        let mut residency = Residency::new(shape(30), Policy::default());
        run(&mut residency, before);
        let sweep = union(MODEL.tokens(Kind::Uniform, 200, 1).iter());
        run(&mut residency, &vec![sweep; sweeps]);
        let counters = run(&mut residency, after);
        rate(counters.hits, counters.misses)
    };
    let (quiet, swept) = (rate_after(0), rate_after(4));
    assert!(swept > quiet - 3.0, "{quiet:.1}% without, {swept:.1}% after four sweeps");
}

#[test]
fn a_history_warms_a_start() {
    let tokens = MODEL.tokens(Kind::Skewed, 700, 17);
    let (past, present) = tokens.split_at(600);
    let mut residency = Residency::new(shape(30), Policy::default());
    run(&mut residency, past);
    let saved = serde_json::to_string(&residency.history()).unwrap();
    let history: History = serde_json::from_str(&saved).unwrap();
    assert_eq!(history, residency.history());

    let mut cold = Residency::new(shape(30), Policy::default());
    let cold = run(&mut cold, present);
    let mut warm = Residency::new(shape(30), Policy::default());
    warm.recall(&history).unwrap();
    let mut out = Vec::new();
    warm.warm(&history.ranked(), &mut out);
    assert_eq!(out.len(), shape(30).slots);
    let warm = run(&mut warm, present);
    // What warming brought is no miss. Most of it was of use: a slab is missed once at least.
    let spared = cold.misses - warm.misses;
    assert!(spared * 3 > shape(30).slots as u64 * 2, "{} and {}", warm.misses, cold.misses);

    let mut other = Residency::new(Shape { layers: 3, ..shape(30) }, Policy::default());
    assert!(other.recall(&history).unwrap_err().to_string().contains("8 layers of 64 experts"));
    let short = History { often: vec![1.0], ..history.clone() };
    assert!(residency.recall(&short).is_err());
    let mut wrong = history;
    wrong.often[3] = f32::NAN;
    assert!(residency.recall(&wrong).is_err());
}

//! What holds whatever happens: hundreds of seeded schedules with windows that overlap, forecasts
//! right and wrong, lost reads and abandoned steps, beside a plain model of the slots.

use std::collections::{BTreeMap, BTreeSet};

use penstock::weights::residency::{Counters, Grant, Policy, Residency, Shape, What};

use super::routing::Random;

type Slab = (usize, u32);

/// A residency with what must be true of it.
struct Checked {
    residency: Residency,
    slots: BTreeMap<u32, Slab>,
    pinned: BTreeSet<Slab>,
    needed: BTreeSet<Slab>,
    demanded: u64,
    grants: u64,
    /// Every decision.
    log: Vec<(usize, Grant)>,
}

impl Checked {
    fn new(shape: Shape, policy: Policy) -> Checked {
        Checked {
            residency: Residency::new(shape, policy),
            slots: BTreeMap::new(),
            pinned: BTreeSet::new(),
            needed: BTreeSet::new(),
            demanded: 0,
            grants: 0,
            log: Vec::new(),
        }
    }

    fn begin_step(&mut self) {
        self.residency.begin_step();
        self.pinned.clear();
        self.needed.clear();
    }

    fn enter(&mut self, layer: usize, experts: &[u32]) {
        self.needed.extend(experts.iter().map(|&expert| (layer, expert)));
        let mut vain = Vec::new();
        self.residency.enter(layer, experts, &mut vain);
        for grant in vain {
            assert_eq!(self.slots.get(&grant.slot), Some(&(layer, grant.expert)));
            assert!(!experts.contains(&grant.expert), "a forecast that was right is called vain");
        }
    }

    fn demand(&mut self, layer: usize, experts: &[u32]) {
        let before = self.residency.counters();
        let mut out = Vec::new();
        self.residency.demand(layer, experts, &mut out);
        let granted: Vec<u32> = out.iter().map(|grant| grant.expert).collect();
        assert_eq!(granted, experts, "each is granted once, in order");
        for grant in &out {
            let slab = (layer, grant.expert);
            match grant.what {
                What::Read => self.put(slab, grant.slot, true),
                _ => assert_eq!(self.slots.get(&grant.slot), Some(&slab)),
            }
            self.pinned.insert(slab);
            self.log.push((layer, *grant));
        }
        self.demanded += experts.len() as u64;
        let now = self.residency.counters();
        let count = |what| out.iter().filter(|grant| grant.what == what).count() as u64;
        assert_eq!(now.hits - before.hits, count(What::Held));
        assert_eq!(now.coming - before.coming, count(What::Coming));
        assert_eq!(now.misses - before.misses, count(What::Read));
    }

    fn release(&mut self, layer: usize, experts: &[u32]) {
        self.residency.release(layer, experts);
        for &expert in experts {
            self.pinned.remove(&(layer, expert));
            self.needed.remove(&(layer, expert));
        }
    }

    fn forecast(&mut self, layer: usize, ranked: &[u32], most: usize) {
        let mut out = Vec::new();
        self.residency.forecast(layer, ranked, most, &mut out);
        assert!(out.len() <= most);
        for grant in out {
            assert!(ranked.contains(&grant.expert) && grant.what == What::Read);
            self.put((layer, grant.expert), grant.slot, false);
            self.log.push((layer, grant));
        }
    }

    fn warm(&mut self, ranked: &[Slab]) {
        let mut out = Vec::new();
        self.residency.warm(ranked, &mut out);
        for (layer, grant) in out {
            assert!(!self.slots.contains_key(&grant.slot), "warm-up takes what is empty");
            self.put((layer, grant.expert), grant.slot, false);
        }
    }

    fn lose(&mut self, slab: Slab) {
        self.residency.lost(slab.0, slab.1);
        self.slots.retain(|_, held| *held != slab);
        self.pinned.remove(&slab);
    }

    /// A slab goes to a slot whose own may go.
    fn put(&mut self, slab: Slab, slot: u32, demanded: bool) {
        self.grants += 1;
        assert!((slot as usize) < self.residency.shape().slots);
        assert!(!self.slots.values().any(|held| *held == slab), "{slab:?} has two slots");
        if let Some(old) = self.slots.insert(slot, slab) {
            assert!(!self.pinned.contains(&old), "{old:?} was pinned");
            assert!(demanded || !self.needed.contains(&old), "a forecast took what is needed");
        }
    }

    fn check(&self) {
        let Shape { layers, experts, slots } = self.residency.shape();
        for slot in 0..slots as u32 {
            assert_eq!(self.residency.slab_in(slot), self.slots.get(&slot).copied());
        }
        let held = (0..layers).flat_map(|layer| (0..experts as u32).map(move |e| (layer, e)));
        let held = held.filter(|&(layer, expert)| self.residency.slot(layer, expert).is_some());
        assert_eq!(held.count(), self.slots.len());
        let Counters { hits, coming, misses, .. } = self.residency.counters();
        assert_eq!(hits + coming + misses, self.demanded);
        assert!(self.residency.room() <= slots - self.pinned.len());
        assert!(self.residency.room() > 0 || !self.pinned.is_empty());
    }
}

/// One schedule, a function of its seed. `nosy` asks at odd times what is where, as a stage does
/// whose bytes arrive then.
fn schedule(seed: u64, policy: Policy, nosy: bool) -> Checked {
    let mut random = Random::new(seed);
    let mut odd = Random::new(seed ^ 0xdead);
    let (layers, experts) = (1 + random.below(5), 2 + random.below(14));
    let slots = 1 + random.below(layers * experts + 2);
    let shape = Shape { layers, experts, slots };
    let mut checked = Checked::new(shape, policy);
    if random.below(3) == 0 {
        let ranked: Vec<Slab> = (0..random.below(20))
            .map(|_| (random.below(layers), random.below(experts) as u32))
            .collect();
        checked.warm(&ranked);
        checked.check();
    }
    for _ in 0..12 {
        checked.begin_step();
        let wide = random.below(4) == 0;
        'step: for layer in 0..layers {
            let count = if wide { experts } else { 1 + random.below(experts.min(4)) };
            let needed = random.some(count, experts);
            checked.enter(layer, &needed);
            checked.check();
            let mut rest = &needed[..];
            let mut open: Vec<&[u32]> = Vec::new();
            while !rest.is_empty() {
                if nosy {
                    let _ = checked.residency.slot(layer, odd.below(experts) as u32);
                    let _ = (checked.residency.room(), checked.residency.counters());
                }
                let fits = checked.residency.fitting(layer, rest);
                assert!(fits > 0 || !open.is_empty(), "no window is open and none can be");
                // At most three windows at a time.
                if fits == 0 || open.len() == 3 {
                    checked.release(layer, open.remove(0));
                    continue;
                }
                let (window, later) = rest.split_at(1 + random.below(fits));
                checked.demand(layer, window);
                checked.check();
                open.push(window);
                rest = later;
                if random.below(40) == 0 {
                    let slab = (layer, window[random.below(window.len())]);
                    checked.lose(slab);
                    checked.check();
                }
                if random.below(60) == 0 {
                    break 'step;
                }
                if random.below(2) == 0 {
                    let count = random.below(experts.min(6));
                    let ranked = random.some(count, experts);
                    let most = random.below(4);
                    checked.forecast((layer + 1) % layers, &ranked, most);
                    checked.check();
                }
            }
            for window in open {
                checked.release(layer, window);
            }
            checked.check();
        }
    }
    checked
}

#[test]
fn no_schedule_breaks_it() {
    for seed in 0..300 {
        for policy in Policy::ALL {
            let seed = seed * 31 + policy.name().len() as u64;
            let run = std::panic::catch_unwind(|| schedule(seed, policy, false));
            let Ok(checked) = run else { panic!("seed {seed}, policy {policy}") };
            let Counters { misses, forecasts, .. } = checked.residency.counters();
            assert!(checked.grants >= misses + forecasts);
            let Counters { forecasts_used, forecasts_in_vain, .. } = checked.residency.counters();
            assert!(forecasts_used + forecasts_in_vain <= forecasts, "seed {seed}");
        }
    }
}

/// Arrivals cannot matter: nothing tells a residency of them. Two that see the same routing and
/// are asked different things at different times decide alike.
#[test]
fn the_same_routing_gives_the_same_decisions() {
    for seed in 0..100 {
        for policy in Policy::ALL {
            let (quiet, nosy) = (schedule(seed, policy, false), schedule(seed, policy, true));
            assert_eq!(quiet.log, nosy.log, "seed {seed}, policy {policy}");
            assert_eq!(quiet.residency.counters(), nosy.residency.counters());
            assert_eq!(quiet.residency.history(), nosy.residency.history());
        }
    }
}

#[test]
fn a_forecast_is_used_once_or_first_to_go() {
    let shape = Shape { layers: 2, experts: 8, slots: 6 };
    let mut residency = Residency::new(shape, Policy::default());
    let (mut vain, mut out) = (Vec::new(), Vec::new());
    residency.begin_step();
    residency.enter(0, &[0, 1], &mut vain);
    residency.demand(0, &[0, 1], &mut out);
    out.clear();
    residency.forecast(1, &[3, 5], 8, &mut out);
    assert_eq!(out.len(), 2);
    let wrong = out[1].slot;
    residency.release(0, &[0, 1]);
    residency.enter(1, &[2, 3, 6], &mut vain);
    assert_eq!(vain.iter().map(|grant| grant.expert).collect::<Vec<_>>(), [5]);
    out.clear();
    residency.demand(1, &[2, 3, 6], &mut out);
    let what: Vec<What> = out.iter().map(|grant| grant.what).collect();
    assert_eq!(what, [What::Read, What::Coming, What::Read]);
    residency.release(1, &[2, 3, 6]);
    // All six slots are taken, and one of them is known to be in vain.
    residency.begin_step();
    residency.enter(0, &[0, 4], &mut vain);
    out.clear();
    residency.demand(0, &[0, 4], &mut out);
    assert_eq!(out[0].what, What::Held);
    assert_eq!((out[1].what, out[1].slot), (What::Read, wrong));
    let counters = residency.counters();
    assert_eq!((counters.forecasts_used, counters.forecasts_in_vain), (1, 1));
}

#[test]
fn a_read_that_was_lost_is_granted_again() {
    let shape = Shape { layers: 1, experts: 4, slots: 2 };
    let mut residency = Residency::new(shape, Policy::default());
    let (mut vain, mut out) = (Vec::new(), Vec::new());
    residency.begin_step();
    residency.enter(0, &[1, 2], &mut vain);
    residency.demand(0, &[1, 2], &mut out);
    residency.lost(0, 1);
    assert_eq!(residency.slot(0, 1), None);
    out.clear();
    residency.demand(0, &[1], &mut out);
    assert_eq!(out[0].what, What::Read);
    residency.release(0, &[1, 2]);
    assert_eq!(residency.room(), 2);
}

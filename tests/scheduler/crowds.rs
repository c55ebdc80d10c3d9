//! Crowds of requests of every kind: 1,255,000 in all, in 35 worlds.

use std::time::Duration;

use penstock::base::limits::PAGE;
use penstock::engine::scheduler::{Arrival, Batching, Priority};

use crate::kinds::{Ask, Fate, Report, Rng, World, ms, secs};
use crate::world::run;

pub fn ask(id: u64, at: Duration, priority: Priority, prompt: usize, answer: usize) -> Ask {
    let arrival = Arrival {
        id,
        priority,
        batching: Batching::Auto,
        prompt,
        shared: 0,
        most: None,
        max_wait: None,
    };
    Ask { at, arrival, answer, cancel: None, group: 0, common: 0 }
}

/// A mix of everything, at so many times what the world can do.
pub fn crowd(world: &World, count: usize, load: f64, longest: (usize, usize)) -> Vec<Ask> {
    let mut rng = Rng(world.seed);
    let mut asks: Vec<Ask> = vec![];
    let slots = if world.limits.sequential { 1 } else { world.limits.running };
    let row = world.took(slots, 0) / slots as f64;
    let token = world.took(0, world.limits.chunk) / world.limits.chunk as f64;
    let mut at = 0.0;
    for id in 1..=count as u64 {
        let size = |rng: &mut Rng, most: usize| match rng.below(100) {
            0 => 1 + rng.below(most),
            1..20 => 1 + rng.below(most.min(400)),
            _ => 1 + rng.below(most.min(20)),
        };
        let (mut prompt, answer) = (size(&mut rng, longest.0), size(&mut rng, longest.1));
        if rng.chance(0.5) {
            prompt = (prompt + rng.below(120)).min(longest.0);
        }
        // Bursts: some come together.
        if !rng.chance(0.3) {
            at += rng.wait() * (answer as f64 * row + prompt as f64 * token) / load / 0.7;
        }
        let priority = [Priority::Low, Priority::Medium, Priority::High][rng.below(3)];
        let mut ask = ask(id, secs(at), priority, prompt, answer);
        ask.arrival.batching = match rng.below(10) {
            0..6 => Batching::Auto,
            6..9 => Batching::Enable,
            _ => Batching::Disable,
        };
        ask.group = rng.below(8);
        ask.common = if rng.chance(0.3) { rng.below(prompt.div_ceil(PAGE)).min(20) } else { 0 };
        ask.arrival.shared = if rng.chance(0.5) { ask.common * PAGE } else { rng.below(prompt) };
        if rng.chance(0.5) {
            ask.arrival.most = Some(answer + if rng.chance(0.5) { 0 } else { rng.below(500) });
        }
        if rng.chance(0.2) {
            ask.arrival.max_wait = Some(secs(5.0 * rng.wait()));
        }
        if rng.chance(0.1) {
            ask.cancel = Some(ask.at + secs(4.0 * rng.wait()));
        }
        asks.push(ask);
    }
    asks
}

pub fn percentile(mut values: Vec<f64>, part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values
        .get(((values.len() as f64 * part) as usize).min(values.len().max(1) - 1))
        .copied()
        .unwrap_or(0.0)
}

/// What is printed of a crowd (`--nocapture`).
pub fn tell(name: &str, seed: u64, report: &Report) {
    let waited = |p| {
        let of: Vec<f64> = report.begun_after.iter().filter(|b| b.0 == p).map(|b| b.1).collect();
        format!("{:.1}/{:.1}", percentile(of.clone(), 0.99), percentile(of, 1.0))
    };
    let good = |f: &&(Priority, f64, f64, bool)| f.1 <= 2.0 * f.2 && f.2 <= 2.0 * f.1;
    println!(
        "{name} {seed}: {} steps, {:?}, waited p99/max s: high {} medium {} low {}; preempted {}, \
         asks {}, estimates within 2x {:.0}%, computed twice {:.1}%",
        report.steps,
        report.fates,
        waited(Priority::High),
        waited(Priority::Medium),
        waited(Priority::Low),
        report.most_preempted,
        report.most_asks,
        100.0 * report.firsts.iter().filter(good).count() as f64
            / report.firsts.len().max(1) as f64,
        100.0 * report.lost as f64 / report.computed as f64
    );
}

/// Runs crowds of one kind of world.
fn crowds(
    name: &str,
    seeds: u64,
    count: usize,
    load: f64,
    longest: (usize, usize),
    shape: fn(&mut World, &mut Rng),
) {
    for seed in 0..seeds {
        let seed = seed * 1_000_003 + name.len() as u64;
        let mut world = World::new(seed);
        shape(&mut world, &mut Rng(seed ^ 77));
        let asks = crowd(&world, count, load, longest);
        let report = run(world, asks);
        tell(name, seed, &report);
        assert_eq!(report.count(Fate::Stuck), 0);
        // Preemption must not eat what it is there for, though here the cache loses half.
        assert!(report.lost < report.computed / 4, "{} of {}", report.lost, report.computed);
        assert!(report.count(Fate::Finished) > count / 10);
    }
}

#[test]
fn a_crowd_within_capacity() {
    crowds("calm", 5, 40_000, 0.6, (8_000, 2_000), |_, _| ());
}

#[test]
fn a_crowd_beyond_capacity() {
    crowds("full", 5, 50_000, 2.0, (8_000, 2_000), |world, rng| {
        world.limits.age = secs(1.0 + 20.0 * rng.unit());
        world.limits.waiting = 1 + rng.below(500);
    });
}

#[test]
fn a_crowd_with_few_pages() {
    crowds("tight", 5, 40_000, 1.2, (500, 400), |world, rng| {
        world.limits.context = 1_024;
        world.pages = 64 + rng.below(64);
        world.limits.running = 2 + rng.below(30);
    });
}

#[test]
fn a_crowd_in_bad_weather() {
    crowds("storm", 5, 40_000, 0.8, (4_000, 1_000), |world, rng| {
        world.storms = true;
        world.noise = 0.5;
        world.guess = [0.1, 1.0, 10.0][rng.below(3)];
    });
}

#[test]
fn a_crowd_on_a_curved_machine() {
    crowds("curved", 4, 40_000, 0.9, (8_000, 1_000), |world, rng| {
        world.cost = (0.005, 0.02, 0.03, 0.5);
        world.limits.running = 1 + rng.below(64);
        world.limits.stall = ms(20 + rng.below(300) as u64);
        world.limits.chunk = 1 + rng.below(1_000);
    });
}

/// Held ones come back to their places, and nobody is lost or starved by it.
#[test]
fn a_crowd_that_is_held_up() {
    let shape = |world: &mut World, rng: &mut Rng| {
        world.holds = true;
        world.pages = 1_000;
        world.limits.running = 1 + rng.below(16);
        world.limits.sequential = world.seed.is_multiple_of(4);
    };
    crowds("held", 6, 20_000, 0.9, (2_000, 500), shape);
    let mut world = World::new(5);
    shape(&mut world, &mut Rng(5));
    let asks = crowd(&world, 5_000, 0.9, (2_000, 500));
    assert!(run(world, asks).held > 500);
}

#[test]
fn a_crowd_in_single_file() {
    crowds("sequential", 4, 30_000, 0.9, (2_000, 500), |world, _| world.limits.sequential = true);
}

/// The same calls, the same answers.
#[test]
fn a_crowd_repeats_itself() {
    let mut world = World::new(31);
    world.storms = true;
    let asks = crowd(&world, 10_000, 1.0, (2_000, 500));
    let (a, b) = (run(world.clone(), asks.clone()), run(world, asks));
    assert_eq!(a.ended_at, b.ended_at);
    assert_eq!(a.batches, b.batches);
}

//! The scheduler in virtual time: more than a million requests of every kind against a model of
//! the engine, and single promises one by one. A failure names its seed.

#[path = "scheduler/crowds.rs"]
mod crowds;
#[path = "scheduler/desk.rs"]
mod desk;
#[path = "scheduler/kinds.rs"]
mod kinds;
#[path = "scheduler/world.rs"]
mod world;

use std::time::Duration;

use penstock::engine::scheduler::{Batching, Limits, Priority, Scheduler, Speed, Turned};

use crowds::{ask, percentile, tell};
use desk::Desk;
use kinds::{Ask, Fate, Report, Rng, World, ms, secs};
use world::run;

fn waits(report: &Report, of: Priority) -> Vec<f64> {
    report.firsts.iter().filter(|first| first.0 == of).map(|first| first.2).collect()
}

/// High ones hardly notice that low ones come three times as fast as they can be served, and all
/// low ones that were taken finish.
#[test]
fn high_ones_pass_through_a_flood_of_low_ones() {
    let world = World::new(21);
    let mut rng = Rng(21);
    let step = world.limits.stall;
    let (mut highs, mut lows) = (vec![], vec![]);
    let mut at = 0.0;
    for id in 1..=6_000 {
        at += 0.045 * rng.wait();
        let prompt = 30 + rng.below(300);
        if id % 20 == 0 {
            highs.push(ask(id, secs(at), Priority::High, prompt, 20 + rng.below(100)));
        } else {
            lows.push(ask(id, secs(at), Priority::Low, prompt, 20 + rng.below(300)));
        }
    }
    let idle = percentile(waits(&run(world.clone(), highs.clone()), Priority::High), 0.95);
    let mut all: Vec<Ask> = lows.into_iter().chain(highs.clone()).collect();
    all.sort_by_key(|ask| ask.at);
    let report = run(world, all);
    tell("flood", 21, &report);
    let loaded = percentile(waits(&report, Priority::High), 0.95);
    println!("high's first token, p95: idle {idle:.3} s, in the flood {loaded:.3} s");
    assert!(loaded <= 1.5 * idle + step.as_secs_f64(), "idle {idle}, loaded {loaded}");
    assert_eq!(waits(&report, Priority::High).len(), highs.len());
    assert!(report.count(Fate::Full) > 1_000, "it was no flood");
    assert_eq!(report.count(Fate::Full) + report.count(Fate::Finished), 6_000);
}

/// High ones come faster than they can be served for half an hour; low ones all the same begin
/// once they have risen, each after at most three high ones.
#[test]
fn low_ones_are_served_beneath_an_endless_stream_of_high_ones() {
    for running in [1, 2, 8] {
        let mut world = World::new(22);
        world.limits.running = running;
        let mut rng = Rng(22);
        let mut asks: Vec<Ask> =
            (1..=10).map(|id| ask(id, ms(id * 100), Priority::Low, 100, 50)).collect();
        let mut at = 0.0;
        for id in 11.. {
            at += 0.5 * rng.wait() / running as f64;
            if at > 1_800.0 {
                break;
            }
            asks.push(ask(id, secs(at), Priority::High, 100 + rng.below(200), 40 + rng.below(200)));
        }
        asks.sort_by_key(|ask| ask.at);
        let report = run(world.clone(), asks);
        tell("stream", running as u64, &report);
        assert!(report.count(Fate::Full) > 100, "high ones do not queue");
        let lows = waits(&report, Priority::Low);
        assert_eq!(lows.len(), 10);
        // Two ages until the first has risen. Then each waits at most until those that run have
        // ended, three high ones too, and the ones before it.
        let longest = 300.0 * world.took(running, 0) + 1.0;
        let bound = 2.0 * world.limits.age.as_secs_f64() + 10.0 * 5.0 * longest;
        let last = percentile(lows, 1.0);
        println!("{running} slots: the last low one waited {last:.1} s of {bound:.1}");
        assert!(last < bound);
    }
}

/// The batch comes down to one while steps take ten times as long, and is as before afterwards.
#[test]
fn the_batch_shrinks_in_a_storm_and_recovers() {
    let world = World::new(23);
    let mut scheduler = Scheduler::new(world.limits, Speed::new(ms(10), ms(2), ms(1)));
    let mut desk = Desk::new(10_000);
    for id in 1..=16 {
        desk.arrive(&mut scheduler, ask(id, ms(0), Priority::Medium, 1, 1 << 20));
    }
    let mut seen = vec![];
    for step in 0..400 {
        let sessions = desk.step(&mut scheduler, if (200..240).contains(&step) { 10 } else { 1 });
        seen.push(sessions);
    }
    assert!(seen[10..200].iter().all(|n| *n == 16));
    println!("sessions in the storm: {:?}", &seen[195..300]);
    assert_eq!(seen[239], 1);
    assert_eq!(seen[399], 16);
    let mut after: Vec<usize> = seen[240..].to_vec();
    after.dedup();
    assert_eq!(after, (1..=16).collect::<Vec<_>>(), "it grows by one");
    assert_eq!(scheduler.load(desk.now).running, 16, "nobody lost a slot for it");
}

/// Most estimates of the first token are right within a factor of two.
#[test]
fn the_first_token_is_foretold() {
    for (seed, load) in [(1, 0.5), (2, 0.9), (3, 1.5)] {
        let mut world = World::new(seed);
        world.guess = 5.0;
        let mut rng = Rng(seed);
        let mut at = 0.0;
        let one = 60.0 * world.took(16, 0) / 16.0 + 200.0 * world.took(0, 512) / 512.0;
        let asks = (1..=20_000)
            .map(|id| {
                at += one * rng.wait() / load;
                ask(id, secs(at), Priority::Medium, 1 + rng.below(400), 1 + rng.below(120))
            })
            .collect();
        let report = run(world, asks);
        let good = report.firsts.iter().filter(|f| f.1 <= 2.0 * f.2 && f.2 <= 2.0 * f.1).count();
        let part = good as f64 / report.firsts.len() as f64;
        println!("load {load}: {:.0}% of the estimates are within 2x", 100.0 * part);
        assert!(part > 0.7, "load {load}: {part}");
    }
}

/// A prompt of 4,000 tokens beside eight that write: no step takes longer than it may, once the
/// machine is known.
#[test]
fn a_long_prompt_stalls_nobody() {
    let mut world = World::new(25);
    world.limits.stall = ms(100);
    let mut scheduler =
        Scheduler::new(world.limits, Speed::new(ms(3), ms(1), Duration::from_micros(200)));
    let mut desk = Desk::new(10_000);
    for id in 1..=8 {
        desk.arrive(&mut scheduler, ask(id, ms(0), Priority::Medium, 1, 1 << 20));
    }
    desk.step(&mut scheduler, 1);
    let mut worst = [Duration::ZERO; 2];
    for id in [9, 10] {
        desk.arrive(&mut scheduler, ask(id, desk.now, Priority::Medium, 4_000, 1));
        let begun = desk.now;
        while desk.lives.iter().any(|live| live.0 == id) {
            let before = desk.now;
            desk.step(&mut scheduler, 1);
            worst[id as usize - 9] = worst[id as usize - 9].max(desk.now - before);
        }
        println!(
            "longest step {:?} of 100 ms, prefilled in {:?}",
            worst[id as usize - 9],
            desk.now - begun
        );
    }
    // The first guess was five times too low; four steps suffice to know better.
    assert!(worst[0] <= ms(200) && worst[1] <= ms(100), "{worst:?}");
    assert!(worst[1] >= ms(60), "the time there is was used: {worst:?}");
}

fn scheduler(shape: impl FnOnce(&mut Limits)) -> Scheduler {
    let mut limits = World::new(0).limits;
    shape(&mut limits);
    Scheduler::new(limits, Speed::new(ms(10), ms(2), ms(1)))
}

/// Two answers that do not fit beside each other: both are finished, and few times is one of
/// them thrown out.
#[test]
fn two_that_do_not_fit_do_not_throw_each_other_out_for_ever() {
    let mut scheduler = scheduler(|_| ());
    let mut desk = Desk::new(40);
    for id in 1..=2 {
        desk.arrive(&mut scheduler, ask(id, ms(0), Priority::Medium, 200, 400));
    }
    while !desk.lives.is_empty() {
        desk.step(&mut scheduler, 1);
    }
    assert!((1..=2).contains(&desk.preempted), "{}", desk.preempted);
}

/// Eight answers that need three times the pages there are: those that gave way return when there
/// is air for them, not at the first free page.
#[test]
fn many_that_do_not_fit_wait_for_air() {
    let mut scheduler = scheduler(|_| ());
    let mut desk = Desk::new(60);
    for id in 1..=8 {
        desk.arrive(&mut scheduler, ask(id, ms(0), Priority::Medium, 32, 300));
    }
    while !desk.lives.is_empty() {
        desk.step(&mut scheduler, 1);
    }
    println!("eight were preempted {} times in all", desk.preempted);
    assert!(desk.preempted < 8, "{}", desk.preempted);
}

#[test]
fn an_idle_engine_waits_for_company_only_if_asked_and_not_long() {
    let with = |id, at, batching| {
        let mut ask = ask(id, at, Priority::Medium, 10, 5);
        ask.arrival.batching = batching;
        ask
    };
    // Asked: it waits, and no longer than the bound.
    let mut a = scheduler(|_| ());
    let mut desk = Desk::new(100);
    desk.arrive(&mut a, with(1, ms(0), Batching::Enable));
    assert!(desk.ask(&mut a).is_empty());
    assert_eq!(desk.plan.idle_until, Some(ms(50)));
    desk.now = ms(30);
    desk.arrive(&mut a, with(2, ms(30), Batching::Enable));
    assert!(desk.ask(&mut a).is_empty());
    assert_eq!(desk.plan.idle_until, Some(ms(50)), "the first one's");
    desk.now = ms(50);
    assert_eq!(desk.ask(&mut a), [1, 2]);

    // Who did not ask is not kept waiting, and takes along who did.
    let mut a = scheduler(|_| ());
    let mut desk = Desk::new(100);
    desk.arrive(&mut a, with(1, ms(0), Batching::Enable));
    assert!(desk.ask(&mut a).is_empty());
    desk.arrive(&mut a, with(2, ms(0), Batching::Auto));
    assert_eq!(desk.ask(&mut a), [1, 2]);
    // A busy engine is joined at once.
    desk.step(&mut a, 1);
    desk.arrive(&mut a, with(3, desk.now, Batching::Enable));
    assert!(desk.ask(&mut a).contains(&3));

    // A full batch waits for nobody.
    let mut a = scheduler(|limits| limits.running = 2);
    let mut desk = Desk::new(100);
    desk.arrive(&mut a, with(1, ms(0), Batching::Enable));
    desk.arrive(&mut a, with(2, ms(0), Batching::Enable));
    assert_eq!(desk.ask(&mut a), [1, 2]);
}

/// Those that compute alone have half of the steps at most, however many they are.
#[test]
fn who_computes_alone_leaves_every_second_step() {
    let mut scheduler = scheduler(|_| ());
    let mut desk = Desk::new(1_000);
    for id in 1..=6 {
        let mut ask = ask(id, ms(0), Priority::Medium, 1, 1_000);
        if id > 2 {
            ask.arrival.batching = Batching::Disable;
        }
        desk.arrive(&mut scheduler, ask);
    }
    let mut turns = [0; 7];
    for _ in 0..80 {
        for id in desk.ask(&mut scheduler) {
            turns[id as usize] += 1;
        }
        desk.step(&mut scheduler, 1);
    }
    assert_eq!(turns, [0, 40, 40, 10, 10, 10, 10]);
}

/// Of two equal prompts one has not all chunks while the other has none, and a short prompt
/// passes a long one, which moves on all the same.
#[test]
fn prompts_take_turns_and_short_ones_go_first() {
    let mut scheduler = scheduler(|limits| limits.chunk = 64);
    let mut desk = Desk::new(1_000);
    for id in 1..=2 {
        desk.arrive(&mut scheduler, ask(id, ms(0), Priority::Medium, 4_000, 1));
    }
    for _ in 0..20 {
        desk.step(&mut scheduler, 1);
    }
    assert_eq!(desk.lives[0].3, desk.lives[1].3);
    let before = desk.lives[0].3;
    for id in 3..=42 {
        desk.arrive(&mut scheduler, ask(id, desk.now, Priority::Medium, 64, 1));
        desk.step(&mut scheduler, 1);
    }
    let moved = desk.lives[0].3 + desk.lives[1].3 - 2 * before;
    assert!((8 * 64..=20 * 64).contains(&moved), "{moved} tokens of the long ones in 40 steps");
    assert!(desk.lives.len() <= 2 + 16, "{} short ones are left", desk.lives.len());
}

#[test]
fn who_waits_too_long_expires_or_is_not_taken() {
    let mut a = scheduler(|limits| limits.running = 1);
    let mut desk = Desk::new(1_000);
    desk.arrive(&mut a, ask(1, ms(0), Priority::Medium, 10, 1_000));
    desk.step(&mut a, 1);
    let mut late = ask(2, desk.now, Priority::Medium, 10, 10);
    late.arrival.max_wait = Some(ms(5));
    let turned = a.arrive(desk.now, late.arrival, desk.free());
    assert!(matches!(turned, Err(Turned::Late { limit, .. }) if limit == ms(5)), "{turned:?}");
    late.arrival.max_wait = Some(Duration::from_secs(9));
    let until = desk.now + Duration::from_secs(9);
    desk.arrive(&mut a, late);
    while desk.now < until {
        assert!(desk.expired.is_empty());
        desk.step(&mut a, 1);
    }
    desk.step(&mut a, 1);
    assert_eq!(desk.expired, [2]);
}

/// Low ones leave room in the queue for medium ones, and these for high ones.
#[test]
fn a_full_queue_has_room_for_those_above() {
    let mut a = scheduler(|limits| (limits.running, limits.waiting) = (1, 16));
    let mut desk = Desk::new(1_000);
    desk.arrive(&mut a, ask(100, ms(0), Priority::High, 10, 1_000));
    desk.step(&mut a, 1);
    let mut id = 0;
    let mut taken = |a: &mut Scheduler, priority| {
        let mut taken = 0;
        loop {
            id += 1;
            match a.arrive(desk.now, ask(id, desk.now, priority, 10, 10).arrival, desk.free()) {
                Ok(_) => taken += 1,
                Err(Turned::Full { retry_after, .. }) => {
                    assert!(retry_after > Duration::ZERO);
                    return taken;
                }
                Err(other) => panic!("{other:?}"),
            }
        }
    };
    let levels = [Priority::Low, Priority::Medium, Priority::High];
    assert_eq!(levels.map(|priority| taken(&mut a, priority)), [12, 2, 2]);
    let long = ask(99, desk.now, Priority::High, 10_240, 1).arrival;
    assert_eq!(a.arrive(desk.now, long, desk.free()), Err(Turned::TooLong));
}

/// Drafts are for few: eight rows in all, none beside a prompt, none that could not be used.
#[test]
fn drafts_are_for_few_rows() {
    for (sessions, most, drafts) in [(1, 100, 7), (2, 100, 3), (4, 100, 1), (5, 100, 0), (1, 4, 2)]
    {
        let mut a = scheduler(|_| ());
        let mut desk = Desk::new(1_000);
        for id in 1..=sessions {
            let mut ask = ask(id, ms(0), Priority::Medium, 20, 100);
            ask.arrival.most = Some(most);
            desk.arrive(&mut a, ask);
        }
        desk.step(&mut a, 1);
        desk.ask(&mut a);
        assert_eq!(desk.plan.turns.len(), sessions as usize);
        assert!(desk.plan.turns.iter().all(|turn| turn.drafts == drafts), "{:?}", desk.plan);
    }
}

//! A model of the engine and its clients, in virtual time, that checks every rule of the scheduler
//! at every step.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::kinds::{Ask, Fate, Report, Rng, World, secs};
use std::time::Duration;

use penstock::base::limits::PAGE;
use penstock::engine::scheduler::{
    Batching, DRAFT_ROWS, Done, LEAST_CHUNK, PASSES, Pages, Priority, Scheduler, Speed, StepPlan,
    Turn, Turned,
};

/// A request inside.
struct Live {
    ask: Ask,
    computed: usize,
    written: usize,
    running: bool,
    begun: Option<Duration>,
    expected: Duration,
    first: Option<Duration>,
    preempted: u32,
    /// What the cache may have of it.
    left_behind: usize,
}

struct Sim {
    world: World,
    rng: Rng,
    scheduler: Scheduler,
    now: Duration,
    asks: VecDeque<Ask>,
    cancels: BTreeSet<(Duration, u64)>,
    live: BTreeMap<u64, Live>,
    running: Vec<u64>,
    /// Those that wait: high ones and others, by the order they may not be overtaken in.
    queues: [BTreeSet<(i64, u64)>; 2],
    /// Those on hold instead, and until when.
    held: BTreeMap<u64, Duration>,
    passed: u32,
    storm_until: Duration,
    storm_next: Duration,
    last_begun: u64,
    report: Report,
    plan: StepPlan,
}

impl Sim {
    fn new(world: World, asks: Vec<Ask>) -> Sim {
        let (base, row, token, _) = world.cost;
        let g = world.guess;
        let speed = Speed::new(secs(base * g), secs(row * g), secs(token * g));
        Sim {
            scheduler: Scheduler::new(world.limits, speed),
            rng: Rng(world.seed ^ 0xabcd),
            now: Duration::ZERO,
            asks: asks.into(),
            cancels: BTreeSet::new(),
            live: BTreeMap::new(),
            running: vec![],
            queues: Default::default(),
            held: BTreeMap::new(),
            passed: 0,
            storm_until: Duration::ZERO,
            storm_next: secs(20.0),
            last_begun: 0,
            report: Report::default(),
            plan: StepPlan::default(),
            world,
        }
    }

    /// Pages in use: those of a common beginning count once.
    fn used(&self) -> usize {
        let mut common: [usize; 8] = [0; 8];
        let mut own = 0;
        for id in &self.running {
            let live = &self.live[id];
            let held = live.computed.div_ceil(PAGE);
            let of_group = held.min(live.ask.common);
            common[live.ask.group] = common[live.ask.group].max(of_group);
            own += held - of_group;
        }
        own + common.iter().sum::<usize>()
    }

    fn pages(&self) -> Pages {
        let used = self.used();
        assert!(used <= self.world.pages, "{used} pages are in use");
        Pages { total: self.world.pages, free: self.world.pages - used }
    }

    /// What a request weighs against others of its class, without its head start.
    fn key(&self, live: &Live) -> (usize, (i64, u64)) {
        let arrival = &live.ask.arrival;
        let age = self.world.limits.age.as_nanos() as i64;
        let below = usize::from(arrival.priority != Priority::High);
        let at = live.ask.at.as_nanos() as i64 - arrival.priority as i64 * age;
        (below, (at, arrival.id))
    }

    fn queue(&mut self, id: u64) {
        let (class, key) = self.key(&self.live[&id]);
        assert!(self.queues[class].insert(key));
    }

    /// Those that wait leave: for a seat, for good, or because they are put on hold.
    fn unqueue(&mut self, id: u64) {
        if self.held.remove(&id).is_some() {
            return;
        }
        let (class, key) = self.key(&self.live[&id]);
        assert!(self.queues[class].remove(&key), "{id} does not wait");
    }

    fn end(&mut self, id: u64, fate: Fate) {
        let live = self.live.remove(&id).expect("it ends once");
        if let Some(at) = live.ask.cancel {
            self.cancels.remove(&(at, id));
        }
        self.running.retain(|other| *other != id);
        *self.report.fates.entry(fate).or_default() += 1;
        self.report.most_preempted = self.report.most_preempted.max(live.preempted);
        assert!(self.report.ended_at.insert(id, self.now).is_none());
        if let Some(first) = live.first {
            let real = (first - live.ask.at).as_secs_f64();
            let priority = live.ask.arrival.priority;
            let estimate = live.expected.as_secs_f64();
            self.report.firsts.push((priority, estimate, real, live.preempted > 0));
        }
    }

    /// Some of those that may begin are put on hold.
    fn hold(&mut self) {
        if !self.world.holds {
            return;
        }
        let soon: Vec<u64> = self.scheduler.soon().collect();
        let seats = self.world.limits.running + 1 - self.running.len();
        assert!(soon.len() <= seats);
        assert!(soon.iter().all(|id| !self.running.contains(id) && !self.held.contains_key(id)));
        for id in soon {
            if self.rng.chance(0.2) {
                self.scheduler.hold(id);
                self.unqueue(id);
                self.held.insert(id, self.now + secs(0.2 * self.rng.wait()));
                self.report.held += 1;
            }
        }
    }

    /// Arrivals and cancellations until `until`.
    fn happen(&mut self, until: Duration) {
        loop {
            let over = self.held.iter().map(|(id, over)| (*over, *id)).min();
            if let Some((over, id)) = over
                && over <= self.asks.front().map_or(Duration::MAX, |ask| ask.at).min(until)
                && over <= self.cancels.first().map_or(Duration::MAX, |(at, _)| *at)
            {
                self.now = self.now.max(over);
                self.scheduler.release(id);
                self.held.remove(&id);
                self.queue(id);
                continue;
            }
            let arrives = self.asks.front().map_or(Duration::MAX, |ask| ask.at);
            let leaves = self.cancels.first().map_or(Duration::MAX, |(at, _)| *at);
            if arrives.min(leaves) > until {
                break;
            }
            self.now = self.now.max(arrives.min(leaves));
            if arrives <= leaves {
                let ask = self.asks.pop_front().unwrap();
                self.arrive(ask);
            } else {
                let (_, id) = self.cancels.pop_first().unwrap();
                self.scheduler.leave(self.now, id);
                if !self.live[&id].running {
                    self.unqueue(id);
                }
                self.end(id, Fate::Cancelled);
            }
        }
        self.now = self.now.max(until);
    }

    fn arrive(&mut self, ask: Ask) {
        let id = ask.arrival.id;
        let waiting = self.queues.iter().map(BTreeSet::len).sum::<usize>() + self.held.len();
        let pages = self.pages();
        let expected = match self.scheduler.arrive(ask.at, ask.arrival, pages) {
            Ok(expected) => expected,
            Err(turned) => {
                let fate = match turned {
                    Turned::Full { waiting: told, retry_after } => {
                        assert!(told <= waiting && told > 0 && retry_after > Duration::ZERO);
                        assert!(told <= self.world.limits.waiting);
                        Fate::Full
                    }
                    Turned::Late { expected, limit, retry_after } => {
                        assert!(expected > limit && retry_after > Duration::ZERO);
                        assert_eq!(Some(limit), ask.arrival.max_wait);
                        Fate::Late
                    }
                    Turned::TooLong => {
                        let prompt = ask.arrival.prompt + 1;
                        let room = self.world.limits.context.min(self.world.pages * PAGE);
                        assert!(prompt > room);
                        Fate::TooLong
                    }
                };
                *self.report.fates.entry(fate).or_default() += 1;
                assert!(self.report.ended_at.insert(id, self.now).is_none());
                return;
            }
        };
        if let Some(at) = ask.cancel {
            self.cancels.insert((at, id));
        }
        let live = Live {
            ask,
            computed: 0,
            written: 0,
            running: false,
            begun: None,
            expected,
            first: None,
            preempted: 0,
            left_behind: 0,
        };
        assert!(self.live.insert(id, live).is_none());
        self.queue(id);
    }

    /// One leaves the queue: nobody who may not be overtaken is.
    fn begin(&mut self, id: u64) {
        assert!(!self.held.contains_key(&id), "{id} is on hold");
        self.unqueue(id);
        let (class, (at, _)) = self.key(&self.live[&id]);
        let limits = &self.world.limits;
        let age = limits.age.as_nanos() as i64;
        if limits.sequential {
            let first = self.queues.iter().flatten().map(|(_, other)| *other).min();
            assert!(self.running.is_empty() && first.is_none_or(|first| first > id));
            assert!(self.last_begun < id);
            self.last_begun = id;
        } else {
            let oldest = self.queues[class].first().map_or(i64::MAX, |(at, _)| *at);
            assert!(
                at - age / 2 <= oldest,
                "{id} overtakes by {} s",
                (at - oldest) / 1_000_000_000
            );
            let risen = self.queues[1]
                .first()
                .is_some_and(|(at, _)| *at <= self.now.as_nanos() as i64 - 2 * age);
            if class == 1 {
                self.passed = 0;
            } else if risen {
                self.passed += 1;
                let kept = self.scheduler.load(self.now).kept;
                let full = kept >= (limits.running / 4).max(1);
                assert!(self.passed <= PASSES || full, "passed {} times", self.passed);
                if full {
                    self.passed = self.passed.min(PASSES);
                }
            }
        }
        let now = self.now;
        self.running.push(id);
        let free = self.pages().free;
        let live = self.live.get_mut(&id).unwrap();
        live.running = true;
        if live.begun.is_none() {
            live.begun = Some(now);
            let waited = (now - live.ask.at).as_secs_f64();
            self.report.begun_after.push((live.ask.arrival.priority, waited));
        }
        // The cache has some of what it left behind, and perhaps the common beginning.
        let target = live.ask.arrival.prompt + live.written;
        let has = (live.left_behind as f64 * self.rng.unit()) as usize;
        let has = has.max(if self.rng.chance(0.8) { live.ask.common * PAGE } else { 0 });
        live.computed = (has / PAGE).min((target - 1) / PAGE).min(free) * PAGE;
        self.report.lost += live.left_behind.saturating_sub(live.computed);
        self.scheduler.resumed(id, live.computed);
    }

    fn preempt(&mut self, id: u64) {
        let at = self.running.iter().position(|other| *other == id).expect("it runs");
        self.running.remove(at);
        let live = self.live.get_mut(&id).unwrap();
        live.left_behind = live.computed;
        live.computed = 0;
        live.running = false;
        live.preempted += 1;
        assert!(!self.world.limits.sequential);
        self.queue(id);
    }

    /// Plans until there are turns or nothing to do.
    fn ask(&mut self) {
        let mut asks = 0;
        self.hold();
        loop {
            asks += 1;
            assert!(asks <= 4 * self.world.limits.running + 8, "plans for ever");
            let pages = self.pages();
            let mut plan = std::mem::take(&mut self.plan);
            self.scheduler.plan(self.now, pages, &mut plan);
            for &id in &plan.expired {
                let live = &self.live[&id];
                assert!(live.begun.is_none());
                assert!(self.now - live.ask.at >= live.ask.arrival.max_wait.unwrap());
                self.unqueue(id);
                self.end(id, Fate::Expired);
            }
            for &id in &plan.stuck {
                assert_eq!(self.running, [id]);
                self.end(id, Fate::Stuck);
            }
            for &id in &plan.preempt {
                self.preempt(id);
            }
            for &id in &plan.begin {
                self.begin(id);
            }
            let again = plan.again;
            assert!(!again || plan.turns.is_empty());
            self.plan = plan;
            if !again {
                break;
            }
        }
        self.report.most_asks = self.report.most_asks.max(asks);
        self.check_plan();
    }

    fn check_plan(&self) {
        let (plan, limits) = (&self.plan, &self.world.limits);
        assert!(self.running.len() <= limits.running);
        if plan.turns.is_empty() {
            // Idle: nobody runs, and who waits does so for company, and not for long.
            assert!(self.running.is_empty(), "{} run and none has a turn", self.running.len());
            let waiting = self.live.len() - self.held.len();
            if limits.sequential && !self.held.is_empty() {
                return;
            }
            for live in self.live.values().filter(|l| !self.held.contains_key(&l.ask.arrival.id)) {
                assert_eq!(live.ask.arrival.batching, Batching::Enable, "idle with {waiting}");
                assert!(self.now < live.ask.at + limits.form && !limits.sequential);
            }
            assert!(waiting == 0 || plan.idle_until.is_some_and(|until| until > self.now));
            assert!(waiting < limits.running || waiting == 0);
            return;
        }
        let (mut rows, mut tokens, mut pages) = (0, 0, 0);
        let mut ids = BTreeSet::new();
        for &Turn { id, tokens: n, drafts } in &plan.turns {
            assert!(ids.insert(id));
            let live = &self.live[&id];
            let left = live.ask.arrival.prompt + live.written - live.computed;
            assert!(live.running && n >= 1 && n <= left, "{n} of {left}");
            assert!(drafts == 0 || left == 1);
            let end = live.computed + n + drafts;
            assert!(end <= limits.context);
            pages += end.div_ceil(PAGE) - live.computed.div_ceil(PAGE);
            if left == 1 {
                rows += 1 + drafts
            } else {
                tokens += n
            }
            let alone = live.ask.arrival.batching == Batching::Disable && !limits.sequential;
            assert!(!alone || plan.turns.len() == 1, "{id} asked to be alone");
            assert!(plan.turns.len() * (1 + drafts) <= DRAFT_ROWS || drafts == 0);
        }
        assert!(pages <= self.world.pages - self.used(), "more pages than are free");
        assert!(tokens <= limits.chunk);
        assert!(plan.turns.len() <= limits.running);
        let writes = |id: &u64| {
            let live = &self.live[id];
            live.computed + 1 == live.ask.arrival.prompt + live.written
        };
        if tokens > 0 && self.running.iter().any(writes) {
            let least = self.scheduler.speed().predict(rows, LEAST_CHUNK.min(limits.chunk));
            assert!(plan.expected <= limits.stall.max(least), "{:?} is a stall", plan.expected);
        }
    }

    fn slow(&mut self) -> f64 {
        if !self.world.storms {
            return 1.0;
        }
        if self.now >= self.storm_next {
            self.storm_until = self.now + secs(0.3 + 8.0 * self.rng.wait());
            self.storm_next = self.storm_until + secs(40.0 * self.rng.wait());
        }
        if self.now < self.storm_until { 3.0 + 10.0 * self.rng.unit() } else { 1.0 }
    }

    fn step(&mut self) {
        let turns = std::mem::take(&mut self.plan.turns);
        let (mut rows, mut tokens) = (0, 0);
        for turn in &turns {
            if turn.tokens == 1 { rows += 1 + turn.drafts } else { tokens += turn.tokens }
        }
        let noise = 1.0 + self.world.noise * (2.0 * self.rng.unit() - 1.0);
        let took = secs(self.world.took(rows, tokens) * noise * self.slow());
        // Pages are taken before the step is over.
        let before = self.now;
        self.happen(before + took);
        let mut done = vec![];
        let mut ended = vec![];
        for turn in &turns {
            // It may have left in the meantime.
            let Some(live) = self.live.get_mut(&turn.id) else {
                continue;
            };
            live.computed += turn.tokens;
            self.report.computed += turn.tokens;
            let target = live.ask.arrival.prompt + live.written;
            let mut written = 0;
            if live.computed == target {
                let accepted = self.rng.below(turn.drafts + 1);
                let left = live.ask.answer - live.written;
                written = (1 + accepted).min(left);
                live.computed += written - 1;
                live.written += written;
                if live.first.is_none() {
                    live.first = Some(self.now);
                }
            }
            let full = live.ask.arrival.prompt + live.written > self.world.limits.context;
            let over = live.written == live.ask.answer || full;
            let (id, computed, drafted) = (turn.id, live.computed, turn.drafts);
            done.push(Done { id, computed, written, drafted, ended: over });
            if over {
                ended.push(id);
            }
        }
        self.scheduler.stepped(self.now, took, &done);
        self.pages();
        for id in ended {
            self.end(id, Fate::Finished);
        }
        self.plan.turns = turns;
        self.report.steps += 1;
        self.report.batches.push(self.scheduler.load(self.now).batch);
    }

    fn run(mut self) -> Report {
        let asked = self.asks.len();
        loop {
            self.happen(self.now);
            self.ask();
            if !self.plan.turns.is_empty() {
                self.step();
                continue;
            }
            let next = self.asks.front().map(|ask| ask.at);
            let cancel = self.cancels.first().map(|(at, _)| *at);
            let over = self.held.values().min().copied();
            let times = [self.plan.idle_until, next, cancel, over];
            let Some(until) = times.into_iter().flatten().min() else {
                break;
            };
            self.happen(until);
        }
        assert!(self.live.is_empty() && self.running.is_empty());
        assert_eq!(self.report.fates.values().sum::<usize>(), asked);
        assert_eq!(self.report.ended_at.len(), asked);
        let load = self.scheduler.load(self.now);
        assert_eq!((load.running, load.waiting, load.kept), (0, 0, 0));
        self.report
    }
}

/// Runs it, and names the seed if it fails.
pub fn run(world: World, asks: Vec<Ask>) -> Report {
    let seed = world.seed;
    let sim = std::panic::AssertUnwindSafe(|| Sim::new(world, asks).run());
    match std::panic::catch_unwind(sim) {
        Ok(report) => report,
        Err(panic) => {
            eprintln!("seed {seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

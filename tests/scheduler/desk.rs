//! The least that a service does with a scheduler, with nothing random about it.

use std::time::Duration;

use penstock::base::limits::PAGE;
use penstock::engine::scheduler::{Done, Pages, Scheduler, StepPlan};

use crate::kinds::{Ask, ms};

/// What a service does with the scheduler, with nothing random about it.
pub struct Desk {
    pub now: Duration,
    pub pages: usize,
    /// Id, prompt, answer, computed, written.
    pub lives: Vec<(u64, usize, usize, usize, usize)>,
    pub running: Vec<u64>,
    pub preempted: usize,
    pub expired: Vec<u64>,
    pub plan: StepPlan,
}

impl Desk {
    pub fn new(pages: usize) -> Desk {
        let plan = StepPlan::default();
        let (lives, running, expired) = (vec![], vec![], vec![]);
        Desk { now: Duration::ZERO, pages, lives, running, preempted: 0, expired, plan }
    }

    pub fn free(&self) -> Pages {
        let runs = self.lives.iter().filter(|live| self.running.contains(&live.0));
        let held: usize = runs.map(|live| live.3.div_ceil(PAGE)).sum();
        Pages { total: self.pages, free: self.pages - held }
    }

    pub fn arrive(&mut self, scheduler: &mut Scheduler, ask: Ask) {
        scheduler.arrive(self.now, ask.arrival, self.free()).unwrap();
        self.lives.push((ask.arrival.id, ask.arrival.prompt, ask.answer, 0, 0));
    }

    fn live(&mut self, id: u64) -> &mut (u64, usize, usize, usize, usize) {
        self.lives.iter_mut().find(|live| live.0 == id).unwrap()
    }

    /// Asks until there are turns; tells whose.
    pub fn ask(&mut self, scheduler: &mut Scheduler) -> Vec<u64> {
        loop {
            let mut plan = std::mem::take(&mut self.plan);
            scheduler.plan(self.now, self.free(), &mut plan);
            assert!(plan.stuck.is_empty());
            self.expired.extend(&plan.expired);
            self.lives.retain(|live| !plan.expired.contains(&live.0));
            self.preempted += plan.preempt.len();
            self.running.retain(|id| !plan.preempt.contains(id));
            for &id in &plan.preempt {
                self.live(id).3 = 0;
            }
            for &id in &plan.begin {
                self.running.push(id);
                scheduler.resumed(id, 0);
            }
            self.plan = plan;
            if !self.plan.again {
                return self.plan.turns.iter().map(|turn| turn.id).collect();
            }
        }
    }

    /// A step of 10 ms, 2 for each row and 1 for each token of prompt; how many took part.
    pub fn step(&mut self, scheduler: &mut Scheduler, slower: u32) -> usize {
        self.ask(scheduler);
        let turns = self.plan.turns.clone();
        let mut took = ms(10);
        let mut done = vec![];
        for turn in &turns {
            took += if turn.tokens == 1 { ms(2) } else { ms(turn.tokens as u64) };
            let live = self.live(turn.id);
            live.3 += turn.tokens;
            let written = usize::from(live.3 == live.1 + live.4);
            live.4 += written;
            let ended = live.4 == live.2;
            done.push(Done { id: live.0, computed: live.3, written, drafted: 0, ended });
        }
        took *= slower;
        self.now += took;
        scheduler.stepped(self.now, took, &done);
        let ended: Vec<u64> = done.iter().filter(|done| done.ended).map(|done| done.id).collect();
        self.lives.retain(|live| !ended.contains(&live.0));
        self.running.retain(|id| !ended.contains(id));
        turns.len()
    }
}

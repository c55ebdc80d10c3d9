//! The loop that serves: looks at the desk, asks the scheduler, drives a step, sends word.
//!
//! Decides nothing: who computes what is the [scheduler's](super::scheduler) affair, what a step is
//! the engine's. It runs in the lead's compute queue; between two steps, and in each of them every
//! millisecond, it lets the reactor serve the sockets.

use std::collections::BTreeMap;
use std::mem::take;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use futures_lite::future::or;

use super::desk::{Account, Desk, Inner, Request, Rules, Update};
use super::scheduler::{self, Limits, Priority, Scheduler, Speed, StepPlan};
use super::spill::{Spill, SpillError};
use super::telemetry::Phase;
use super::{Census, Done, Drafter, End, Engine, Event, Meter, Price, Session, Turn, What, worth};
use crate::shard::{self, Queues};

/// An engine that serves a desk.
pub struct Service {
    engine: Engine,
    drafter: Option<Drafter>,
    desk: Rc<Inner>,
    live: BTreeMap<u64, Live>,
    plan: StepPlan,
    done: Vec<scheduler::Done>,
    over: Vec<(u64, End, String)>,
    spill: Option<Spill>,
}

/// A request that has begun.
struct Live {
    session: Session,
    priority: Priority,
    /// When it came, when it left the queue, when its first and last tokens were chosen.
    arrived: Duration,
    started: Duration,
    first: Option<Duration>,
    last: Duration,
    /// Since when it has been preempted, if it is.
    parked: Option<Duration>,
    account: Account,
    /// Requests in its steps, all added up.
    company: usize,
}

/// First guesses of what a step, a row and a token of a prompt take; soon it is known.
const GUESS: (Duration, Duration, Duration) =
    (Duration::from_millis(50), Duration::from_millis(5), Duration::from_millis(5));

impl Service {
    pub fn new(engine: Engine, limits: Limits) -> (Service, Desk) {
        let config = &engine.model().config;
        let rules = Rules {
            vocab: config.vocab,
            context: engine.context().min(limits.context),
            trained: config.context,
        };
        let (step, row, token) = GUESS;
        let limits = Limits { context: rules.context, ..limits };
        let scheduler = Scheduler::new(limits, Speed::new(step, row, token));
        let desk = Inner::new(scheduler, engine.pool.clone(), rules);
        let service = Service {
            engine,
            drafter: None,
            desk: Rc::clone(&desk),
            live: BTreeMap::new(),
            plan: StepPlan::default(),
            done: Vec::new(),
            over: Vec::new(),
            spill: None,
        };
        (service, Desk::new(desk))
    }

    pub fn engine(&mut self) -> &mut Engine {
        &mut self.engine
    }

    /// Has pages go to a file in this folder whose room is needed, and come back. `listener` hears,
    /// once, that something is wrong with it; requests do not notice.
    pub fn spill(
        &mut self,
        folder: &Path,
        room: u64,
        queues: &Queues,
        listener: impl FnMut(String) + 'static,
    ) -> Result<(), SpillError> {
        let Census { total, .. } = self.engine.pages();
        let page_bytes = self.engine.arena.len() / total.max(1);
        self.spill = Some(Spill::new(folder, room, page_bytes, &self.desk, queues, listener)?);
        Ok(())
    }

    /// Has a smaller model guess from now on. It knows the same tokens.
    pub fn draft_with(&mut self, drafter: Drafter) {
        self.drafter = Some(drafter);
    }

    pub fn drafter(&self) -> Option<&Drafter> {
        self.drafter.as_ref()
    }

    /// Serves for ever: until it is dropped, which it may be at any time.
    pub async fn run(&mut self) {
        self.engine.fill_up();
        loop {
            self.hang_up();
            self.move_pages();
            loop {
                let (now, pages) = (self.desk.now(), self.desk.pages());
                self.desk.scheduler.borrow_mut().plan(now, pages, &mut self.plan);
                self.give_up();
                self.preempt();
                self.begin();
                if !self.plan.again {
                    break;
                }
            }
            match self.plan.turns.is_empty() {
                true => self.wait().await,
                false => self.step().await,
            }
        }
    }

    /// Moves pages to disk and back, and holds requests back whose pages are to come.
    fn move_pages(&mut self) {
        let Some(spill) = &mut self.spill else { return };
        let (now, mut scheduler) = (self.desk.now(), self.desk.scheduler.borrow_mut());
        for id in spill.take_in(now, &mut self.engine.arena) {
            scheduler.release(id);
        }
        let soon: Vec<u64> = scheduler.soon().collect();
        for id in soon {
            let waiting = self.desk.waiting.borrow();
            let tokens = match (waiting.get(&id), self.live.get(&id)) {
                (Some((request, _)), _) => &request.prompt[..],
                (None, Some(live)) => live.session.tokens(),
                (None, None) => continue,
            };
            let computing = |tokens: usize| scheduler.speed().prompt(tokens);
            if spill.recall(now, id, tokens, computing) {
                drop(waiting);
                scheduler.hold(id);
            }
        }
        spill.send_out(&self.engine.arena);
        self.desk.telemetry.borrow_mut().sums.spilled = spill.counts();
    }

    /// When there is something to do although nobody says so.
    fn idle_until(&self) -> Option<Duration> {
        let spill = self.spill.as_ref().and_then(Spill::deadline);
        [self.plan.idle_until, spill].into_iter().flatten().min()
    }

    /// Until there is something to do.
    async fn wait(&mut self) {
        while !self.desk.has_news() {
            if self.engine.tend().await {
                continue;
            }
            match self.idle_until() {
                None => self.desk.news().await,
                Some(then) => {
                    let left = then.saturating_sub(self.desk.now());
                    return or(self.desk.news(), shard::sleep(left)).await;
                }
            }
            return;
        }
        self.desk.news().await;
    }

    /// Ends those whose clients have left.
    fn hang_up(&mut self) {
        for id in self.desk.left() {
            let now = self.desk.now();
            if let Some(live) = self.live.get_mut(&id) {
                let Some(event) = live.session.cancel() else { continue };
                self.desk.scheduler.borrow_mut().leave(now, id);
                if let What::Ended { end, text } = event.what {
                    self.end(id, end, text);
                }
            } else if self.desk.waiting.borrow_mut().remove(&id).is_some() {
                self.desk.scheduler.borrow_mut().leave(now, id);
                self.end(id, End::Cancelled, String::new());
            }
        }
    }

    /// What is brought back for it is not wanted any more.
    fn let_pages_be(&mut self, id: u64) {
        if let Some(spill) = &mut self.spill {
            spill.forget(id);
        }
    }

    /// Ends those that have waited too long, or for what is not to be had.
    fn give_up(&mut self) {
        for id in take(&mut self.plan.expired) {
            self.desk.waiting.borrow_mut().remove(&id);
            self.end(id, End::Expired, String::new());
        }
        for id in take(&mut self.plan.stuck) {
            self.end(id, End::NoPages, String::new());
        }
    }

    fn preempt(&mut self) {
        for id in take(&mut self.plan.preempt) {
            if let Some(live) = self.live.get_mut(&id) {
                self.engine.park(&mut live.session);
                if let Some(drafter) = &mut self.drafter {
                    drafter.park(&live.session);
                }
                live.parked = Some(self.desk.now());
                live.account.preempted += 1;
            }
        }
    }

    /// Begins those whose turn has come, and goes on with those that were preempted.
    fn begin(&mut self) {
        for id in take(&mut self.plan.begin) {
            let now = self.desk.now();
            self.let_pages_be(id);
            let waiting = self.desk.waiting.borrow_mut().remove(&id);
            if let Some((request, arrived)) = waiting {
                self.open(id, request, arrived, now);
            }
            let Some(live) = self.live.get_mut(&id) else { continue };
            if let Some(since) = live.parked.take() {
                live.account.queued += now - since;
            }
            let computed = self.engine.resume(&mut live.session);
            self.desk.scheduler.borrow_mut().resumed(id, computed);
        }
    }

    fn open(&mut self, id: u64, request: Request, arrived: Duration, now: Duration) {
        let prompt_tokens = request.prompt.len();
        let mut session = match self.engine.open(request.prompt, request.settings) {
            Ok(session) => session,
            // The desk takes nothing that is refused here.
            Err(error) => {
                self.desk.scheduler.borrow_mut().leave(now, id);
                return self.end(id, End::Lost(error.to_string()), String::new());
            }
        };
        if let Some(drafter) = &mut self.drafter {
            drafter.welcome(&mut session);
        }
        let waited = now - arrived;
        let live = Live {
            session,
            priority: request.priority,
            arrived,
            started: now,
            first: None,
            last: now,
            parked: None,
            account: Account { queued: waited, prompt_tokens, ..Account::default() },
            company: 0,
        };
        self.live.insert(id, live);
        let mut telemetry = self.desk.telemetry.borrow_mut();
        telemetry.started(request.priority, waited);
        telemetry.lived(id, Phase::Queued, self.desk.moment(arrived), self.desk.moment(now));
        drop(telemetry);
        self.desk.tell(id, Update::Started { waited });
    }

    /// Drives one step and sends word of it.
    async fn step(&mut self) {
        let price = {
            let scheduler = self.desk.scheduler.borrow();
            let rows = self.plan.turns.len();
            let step = |rows| scheduler.speed().predict(rows, 0);
            let per_row = step(rows + 1).saturating_sub(step(rows));
            Price { base: step(rows) / rows as u32, per_row }
        };
        let mut planned = take(&mut self.plan.turns);
        planned.sort_unstable_by_key(|turn| turn.id);
        let mut rest = planned.iter().peekable();
        let (mut ids, mut turns) = (Vec::new(), Vec::new());
        for (&id, live) in &mut self.live {
            if let Some(turn) = rest.next_if(|turn| turn.id == id) {
                ids.push(id);
                turns.push(Turn::new(&mut live.session, turn.tokens, turn.drafts));
            }
        }
        match &mut self.drafter {
            Some(drafter) => drafter.guess(&mut self.engine, &mut turns, price).await,
            None => turns.iter_mut().for_each(|turn| {
                let Price { base, per_row } = price;
                turn.drafts = worth(turn.session.drafted(), base, per_row, turn.drafts);
            }),
        }
        // The small model's time is counted in the price of its guesses.
        let (before, began) = (self.engine.meter(), self.desk.now());
        let prompts = planned.iter().filter(|turn| turn.tokens > 1).map(|turn| turn.tokens).sum();
        let mut events = self.engine.advance(&mut turns).await;
        // The scheduler plans no step without pages for it. If it did, somebody must give way, or
        // this would go on for ever.
        if turns.iter().all(|turn| turn.done.starved)
            && let Some(youngest) = turns.last_mut()
        {
            events.push(youngest.session.end(End::NoPages));
        }
        let done: Vec<_> = turns.into_iter().map(|turn| turn.done).collect();
        let (now, spent) = (self.desk.now(), self.engine.meter().since(&before));
        self.desk.telemetry.borrow_mut().stepped(&spent, ids.len(), prompts);
        self.sort_out(now, &spent, ids.into_iter().zip(done).collect(), events);
        self.desk.scheduler.borrow_mut().stepped(now, now - began, &self.done);
        for (id, end, text) in take(&mut self.over) {
            self.end(id, end, text);
        }
        self.engine.breathe().await;
    }

    /// What a step came to: word for each client, and what the scheduler is to know.
    fn sort_out(
        &mut self,
        now: Duration,
        spent: &Meter,
        turns: Vec<(u64, Done)>,
        events: Vec<Event>,
    ) {
        let mut telemetry = self.desk.telemetry.borrow_mut();
        let mut events = events.into_iter().peekable();
        self.done.clear();
        let company = turns.len();
        for (id, done) in turns {
            let Some(live) = self.live.get_mut(&id) else { continue };
            live.share(spent, done.rows, company);
            let session = live.session.id();
            let mut ended = false;
            while let Some(event) = events.next_if(|event| event.session == session) {
                match event.what {
                    What::Prefilled { .. } => {}
                    What::Token { choice, text, voice } => {
                        match live.first {
                            Some(_) => telemetry.token_gap(now - live.last),
                            None => {
                                live.first = Some(now);
                                telemetry.first_token(live.priority, now - live.arrived);
                                let (since, until) = (live.started, now);
                                let moment = |then| self.desk.moment(then);
                                telemetry.lived(id, Phase::Prefill, moment(since), moment(until));
                            }
                        }
                        live.last = now;
                        live.account.answer_tokens += 1;
                        self.desk.tell(id, Update::Token { choice, text, voice });
                    }
                    What::Ended { end, text } => {
                        ended = true;
                        self.over.push((id, end, text));
                    }
                }
            }
            self.done.push(scheduler::Done {
                id,
                computed: live.session.computed(),
                written: done.chosen,
                drafted: done.drafted,
                ended,
            });
        }
        telemetry.standing.slabs = self.engine.slabs();
        telemetry.standing.shards.clear();
        telemetry.standing.shards.extend(self.engine.shard_counters());
    }

    /// A request is over.
    fn end(&mut self, id: u64, end: End, text: String) {
        self.let_pages_be(id);
        let mut telemetry = self.desk.telemetry.borrow_mut();
        let account = match self.live.remove(&id) {
            Some(live) => {
                if let Some(drafter) = &mut self.drafter {
                    drafter.forget(&live.session);
                }
                if let Some(first) = live.first {
                    let (since, until) = (self.desk.moment(first), self.desk.moment(live.last));
                    telemetry.lived(id, Phase::Decode, since, until);
                }
                live.account()
            }
            None => Account::default(),
        };
        telemetry.ended(&end, &account);
        drop(telemetry);
        self.desk.tell(id, Update::Ended { end, text, account });
    }
}

impl Live {
    /// What a step was to this one of the requests in it.
    fn share(&mut self, spent: &Meter, rows: usize, company: usize) {
        let part = |bytes: u64| (bytes as f64 * rows as f64 / spent.rows.max(1) as f64) as u64;
        let (account, reading) = (&mut self.account, &spent.reading);
        account.steps += 1;
        account.disk += reading.waited;
        account.moved += part(spent.tally.moved);
        account.held += part(reading.needed() - reading.demanded);
        account.read += part(reading.demanded);
        self.company += company;
    }

    fn account(&self) -> Account {
        let first = self.first.unwrap_or(self.last);
        let (own, by_model) = (self.session.drafted(), self.session.drafted_by_model());
        Account {
            prefill: first.saturating_sub(self.started),
            decode: self.last.saturating_sub(first),
            shared_tokens: self.session.shared(),
            batch: self.company as f32 / self.account.steps.max(1) as f32,
            drafted: own.drafted + by_model.drafted,
            accepted: own.accepted + by_model.accepted,
            ..self.account
        }
    }
}

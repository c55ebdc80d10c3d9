//! Guesses by a smaller model with the same vocabulary.
//!
//! It reads along: each session that writes has a *follower* in the small engine, which holds the
//! same tokens and writes the next few. The big model puts them to the test as rows of its own step
//! and takes those that it chooses too, so answers stay what they are. A follower draws with its
//! owner's parameters, seed and positions: from the same random numbers similar models mostly draw
//! the same tokens, at any temperature.
//!
//! Both engines compute on the same shards. The small one has none of its own; while it guesses, it
//! is lent those of the big one.
//!
//! A guess costs a row of the big step and a part of a small one. Both are measured, and a session
//! is guessed for only as far as that gives it more tokens for its time.

use std::collections::BTreeMap;
use std::mem::swap;
use std::time::{Duration, Instant};

use super::draft::{Tally, weigh};
use super::scheduler::{LEAST_CHUNK, Lesson, Speed};
use super::session::{Session, Settings};
use super::turn::Turn;
use super::{Engine, Error};
use crate::base::limits::PAGE;
use crate::model::sampling::SamplingParams;

/// A smaller model that guesses for the sessions of a big one.
pub struct Drafter {
    engine: Engine,
    speed: Speed,
    /// By their owners' numbers.
    followers: BTreeMap<u64, Session>,
    /// How guesses did for sessions that have ended, and how many have begun.
    record: Tally,
    begun: u64,
}

/// What a step of the big model takes.
#[derive(Clone, Copy, Debug)]
pub struct Price {
    /// Each session's part of it.
    pub base: Duration,
    /// A row more.
    pub per_row: Duration,
}

/// First guesses of what a step of the small model, a row and a token of a prompt take. They are
/// measured before anybody depends on them.
const GUESS: (Duration, Duration, Duration) =
    (Duration::from_millis(5), Duration::from_micros(500), Duration::from_micros(500));

/// Steps by which the small model is measured at the start.
const WARM_UP: usize = 8;

/// The part of a big step's time that followers may take to read what was written before they came.
const READING: f64 = 0.5;

/// Where guesses are known to be bad, one session of so many begins as if they were not.
const FRESH: u64 = 16;

/// Rows of a follower that is up to date: its last token, and the guess before it if all were right.
const UP_TO_DATE: usize = 2;

/// The big engine's shards in the hands of the small one, until this is dropped.
struct Loan<'a> {
    owner: &'a mut Engine,
    borrower: &'a mut Engine,
}

impl<'a> Loan<'a> {
    fn new(owner: &'a mut Engine, borrower: &'a mut Engine) -> Loan<'a> {
        swap(&mut owner.lead, &mut borrower.lead);
        Loan { owner, borrower }
    }
}

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        swap(&mut self.owner.lead, &mut self.borrower.lead);
    }
}

/// What a session is to be guessed for.
struct Wanted {
    /// Its place among the turns.
    turn: usize,
    owner: u64,
    guesses: usize,
}

impl Drafter {
    /// `engine` is the small model's, and resident. It needs no shards of its own.
    pub fn new(engine: Engine) -> Drafter {
        let (step, row, token) = GUESS;
        Drafter {
            engine,
            speed: Speed::new(step, row, token),
            followers: BTreeMap::new(),
            record: Tally::of_model(),
            begun: 0,
        }
    }

    /// Brings the small model into memory and sees how fast it is.
    pub async fn warm_up(&mut self, big: &mut Engine) -> Result<(), Error> {
        let loan = Loan::new(big, &mut self.engine);
        loan.borrower.settle().await;
        let mut session = loan.borrower.open(vec![0], Settings::default())?;
        session.guessing = true;
        for _ in 0..WARM_UP {
            step(loan.borrower, &mut self.speed, &mut [Turn::new(&mut session, 1, 0)]).await;
        }
        Ok(())
    }

    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// A session of the big model begins: what is to be expected of guesses for it.
    pub fn welcome(&mut self, session: &mut Session) {
        self.begun += 1;
        session.model_tally = match self.begun % FRESH {
            0 => Tally::of_model(),
            _ => self.record.heir(),
        };
    }

    /// A session has lost its pages, and its follower goes without as well.
    pub fn park(&mut self, session: &Session) {
        self.followers.remove(&session.id());
    }

    /// A session is over.
    pub fn forget(&mut self, session: &Session) {
        self.park(session);
        if session.model_tally.drafted > 0 {
            self.record.add(&session.model_tally);
        }
    }

    /// Guesses for those that write what may come next, or lets them guess themselves where that is
    /// better: for each as many tokens as pay, at most its [`Turn::drafts`].
    pub async fn guess(&mut self, big: &mut Engine, turns: &mut [Turn<'_>], price: Price) {
        let context = big.context().min(self.engine.context());
        let mut wanted = self.wanted(turns, price, context);
        wanted.retain(|wanted| self.follow(wanted.owner, turns[wanted.turn].session));
        if wanted.is_empty() {
            return;
        }
        let time = price.base.as_secs_f64() * turns.len() as f64 * READING;
        let mut unread = self.speed.tokens_within(wanted.len(), time, usize::MAX).max(LEAST_CHUNK);
        let loan = Loan::new(big, &mut self.engine);
        let most = wanted.iter().map(|wanted| wanted.guesses).max().unwrap_or(0);
        for guess in 0..most {
            let asked = |id: &u64| {
                let wanted = wanted.iter().find(|wanted| wanted.owner == *id);
                wanted.is_some_and(|wanted| wanted.guesses > guess)
            };
            let (mut owners, mut rows) = (Vec::new(), Vec::new());
            for (owner, follower) in self.followers.iter_mut().filter(|(id, _)| asked(id)) {
                // Who has not read all yet makes no guess in this round.
                if follower.answer().len() != guess {
                    continue;
                }
                let left = follower.tokens().len() - follower.computed();
                let chunk = if left <= UP_TO_DATE { left } else { left.min(unread) };
                if chunk > UP_TO_DATE {
                    unread -= chunk;
                }
                if chunk > 0 {
                    owners.push(*owner);
                    rows.push(Turn::new(follower, chunk, 0));
                }
            }
            if rows.is_empty() {
                break;
            }
            step(loan.borrower, &mut self.speed, &mut rows).await;
            // Pages have run out, or there is nothing to be drawn from: it stays behind.
            let failed = |turn: &Turn| turn.done.rows == 0 || turn.session.end_reason().is_some();
            let failed: Vec<bool> = rows.iter().map(failed).collect();
            for (owner, _) in owners.iter().zip(failed).filter(|(_, failed)| *failed) {
                self.followers.remove(owner);
            }
        }
        drop(loan);
        for Wanted { turn, owner, .. } in wanted {
            if let Some(follower) = self.followers.get(&owner) {
                turns[turn].guesses.extend(follower.answer());
            }
        }
    }

    /// Who is guessed for, and how far. Sets how many guesses a session's own are worth.
    fn wanted(&self, turns: &mut [Turn<'_>], price: Price, context: usize) -> Vec<Wanted> {
        let Price { base, per_row } = price;
        let mut may = Vec::new();
        for (i, turn) in turns.iter_mut().enumerate() {
            let (session, most) = (&*turn.session, turn.drafts);
            let own = weigh(session.drafted(), base, per_row, most);
            turn.drafts = own.guesses;
            let most = most.min(session.room_for_drafts(context));
            if session.writes() && most > 0 {
                let own = (own.guesses > 0 && session.repeats()).then_some(own.token);
                may.push((i, own, most));
            }
        }
        // A small step is shared by those who take part in it, which depends on what it costs them.
        // Who has left does not come back, so this ends.
        loop {
            let sharing = may.len();
            let guess = self.speed.predict(sharing, 0) / sharing.max(1) as u32;
            let mut wanted = Vec::new();
            may.retain(|&(turn, own, most)| {
                let session = &*turns[turn].session;
                let worth = weigh(session.drafted_by_model(), base, per_row + guess, most);
                let wants = worth.guesses > 0 && own.is_none_or(|own| worth.token < own);
                if wants {
                    wanted.push(Wanted { turn, owner: session.id(), guesses: worth.guesses });
                }
                wants
            });
            if may.len() == sharing {
                return wanted;
            }
        }
    }

    /// Has a follower take over what its owner has written. `false`: there are no pages for one.
    fn follow(&mut self, owner: u64, session: &Session) -> bool {
        let tokens = session.tokens();
        if let Some(follower) = self.followers.get_mut(&owner) {
            follower.follow(tokens);
            return true;
        }
        // With some air for all, so that none comes only to drive another out.
        let needed = tokens.len().div_ceil(PAGE) + AIR * (1 + self.followers.len());
        if tokens.len() + 1 >= self.engine.context() || self.engine.free_pages() < needed {
            return false;
        }
        let sampling = session.settings().sampling.clone();
        let sampling = SamplingParams { logprobs: None, ..sampling };
        let settings = Settings { sampling, ..Settings::default() };
        match self.engine.open(tokens.to_vec(), settings) {
            Ok(mut follower) => {
                follower.guessing = true;
                self.followers.insert(owner, follower);
                true
            }
            Err(_) => false,
        }
    }
}

/// Pages that are to be left for each follower.
const AIR: usize = 4;

/// A step of the small model, and what it taught.
async fn step(engine: &mut Engine, speed: &mut Speed, turns: &mut [Turn<'_>]) {
    let began = Instant::now();
    engine.advance(turns).await;
    let (mut rows, mut tokens) = (0, 0);
    for turn in turns.iter() {
        match turn.done.rows {
            few @ 0..=UP_TO_DATE => rows += few,
            many => tokens += many,
        }
    }
    let lesson = if speed.knows(rows, tokens) { Lesson::Usual } else { Lesson::First };
    if rows + tokens > 0 {
        speed.learn(rows, tokens, began.elapsed(), lesson);
    }
}

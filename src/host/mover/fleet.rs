//! Movers on several shards as one drive.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::time::{Duration, Instant};

use rtrb::{Consumer, Producer, RingBuffer};

use super::super::bell::Bell;
use super::super::drive::{Done, Drive, Moved, Read, Urgency};
use super::super::ring::Grants;
use super::queue::{Item, Queue};
use super::{Kit, Mover, Setup, dropped};
use crate::base::trace::Tracer;

/// Besides reads, of which there are only as many as a line may have.
const COMMANDS: usize = 64;
/// Besides reads that are over.
const REPORTS: usize = 8;

/// What a mover at the other end of a line is asked for.
pub enum Command {
    Read { read: Read, tag: u32 },
    Hurry { ticket: u64, urgency: Urgency },
    GiveUp { ticket: u64 },
}

/// What it answers.
pub enum Report {
    Open(Grants),
    Failed(String),
    Done { done: Done, tag: u32 },
}

/// The mover's end of a line.
pub struct Ends {
    commands: Consumer<Command>,
    reports: Producer<Report>,
    /// Reports for which there was no room.
    waiting: VecDeque<Report>,
    rests: Arc<AtomicBool>,
}

impl Ends {
    pub fn next(&mut self) -> Option<Command> {
        // Who asks is awake. Only this end writes it.
        if self.rests.load(Ordering::Relaxed) {
            self.rests.store(false, Ordering::Relaxed);
        }
        if !self.waiting.is_empty() {
            self.deliver();
        }
        self.commands.pop().ok()
    }

    pub fn report(&mut self, report: Report) {
        self.waiting.push_back(report);
        self.deliver();
    }

    pub fn failed(&mut self, reason: String) {
        self.report(Report::Failed(reason));
        while let Ok(command) = self.commands.pop() {
            if let Command::Read { read, tag } = command {
                self.report(Report::Done { done: dropped(read), tag });
            }
        }
    }

    fn deliver(&mut self) {
        while let Some(report) = self.waiting.pop_front() {
            if let Err(rtrb::PushError::Full(report)) = self.reports.push(report) {
                self.waiting.push_front(report);
                return;
            }
        }
    }

    /// Says that this end rests, unless there is something to do.
    pub fn rest(&mut self) -> bool {
        self.rests.store(true, Ordering::Relaxed);
        // Either this sees the command, or who sent it sees that this end rests, and rings.
        fence(Ordering::SeqCst);
        let idle = self.commands.is_empty() && self.waiting.is_empty();
        if !idle {
            self.rests.store(false, Ordering::Relaxed);
        }
        idle
    }
}

/// What a fleet knows of a read that it handed to a line.
struct Handed {
    ticket: u64,
    since: Instant,
}

/// The fleet's end of a line to a mover on another thread.
pub struct Line {
    commands: Producer<Command>,
    reports: Consumer<Report>,
    /// Commands for which there was no room.
    waiting: VecDeque<Command>,
    rests: Arc<AtomicBool>,
    bell: Option<Bell>,
    state: State,
    /// By tag.
    handed: Vec<Option<Handed>>,
    free: Vec<u32>,
    lookahead: usize,
    other: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// Nothing was heard of it yet, so nothing is asked of it.
    Opening,
    Open(Grants),
    /// It will do nothing more.
    Over(String),
}

/// A line, and what is to be opened as a mover on another thread. The bell wakes that thread when
/// it is asked for something while it rests ([`Mover::may_rest`]).
pub fn line(setup: Setup, bell: Option<Bell>) -> (Line, Kit) {
    let depth = setup.depth.demand.max(1);
    // Its next reads lie ready there, so that its disk need not wait until they are handed over.
    let lookahead = depth + depth.div_ceil(2);
    let other = setup.depth.other.clamp(1, depth);
    let (commands, from_fleet) = RingBuffer::new(lookahead + COMMANDS);
    let (to_fleet, reports) = RingBuffer::new(lookahead + REPORTS);
    let rests = Arc::new(AtomicBool::new(false));
    let line = Line {
        commands,
        reports,
        waiting: VecDeque::new(),
        rests: Arc::clone(&rests),
        bell,
        state: State::Opening,
        handed: (0..lookahead).map(|_| None).collect(),
        free: (0..lookahead as u32).rev().collect(),
        lookahead,
        other,
    };
    let (commands, reports, waiting) = (from_fleet, to_fleet, VecDeque::new());
    (line, Kit { setup, ends: Some(Ends { commands, reports, waiting, rests }) })
}

impl Line {
    fn under_way(&self) -> usize {
        self.handed.len() - self.free.len()
    }

    /// Whether it is to be handed another read. One that rests is not woken for what others can do.
    fn takes(&self, urgency: Urgency) -> bool {
        let bound = match urgency {
            Urgency::Demand => self.lookahead,
            Urgency::Forecast | Urgency::Warm => self.other,
        };
        matches!(self.state, State::Open(_))
            && self.under_way() < bound
            && !self.rests.load(Ordering::Relaxed)
    }

    fn hand(&mut self, read: Read) -> Option<Read> {
        let Some(tag) = self.free.pop() else { return Some(read) };
        self.handed[tag as usize] = Some(Handed { ticket: read.ticket, since: Instant::now() });
        self.tell(Command::Read { read, tag });
        None
    }

    fn tell(&mut self, command: Command) {
        self.waiting.push_back(command);
        self.deliver();
        fence(Ordering::SeqCst);
        if self.rests.load(Ordering::Relaxed) {
            self.bell.iter().for_each(Bell::ring);
        }
    }

    fn deliver(&mut self) {
        while let Some(command) = self.waiting.pop_front() {
            if let Err(rtrb::PushError::Full(command)) = self.commands.push(command) {
                self.waiting.push_front(command);
                return;
            }
        }
    }

    fn listen(&mut self, done: &mut VecDeque<Done>) {
        if !self.waiting.is_empty() {
            self.deliver();
        }
        // Asked first: what it had to say was said before it left.
        let left = self.reports.is_abandoned();
        fence(Ordering::Acquire);
        while let Ok(report) = self.reports.pop() {
            match report {
                Report::Open(grants) => self.state = State::Open(grants),
                Report::Failed(reason) => self.state = State::Over(reason),
                Report::Done { done: read, tag } => {
                    if self.handed[tag as usize].take().is_some() {
                        self.free.push(tag);
                        done.push_back(read);
                    }
                }
            }
        }
        if left {
            self.close(done);
        }
    }

    /// The thread at the other end is gone.
    fn close(&mut self, done: &mut VecDeque<Done>) {
        for command in self.waiting.drain(..) {
            if let Command::Read { read, tag } = command {
                self.handed[tag as usize] = None;
                self.free.push(tag);
                done.push_back(dropped(read));
            }
        }
        if !matches!(self.state, State::Over(_)) {
            self.state = State::Over("its thread has ended".into());
        }
    }

    fn is_over(&self) -> bool {
        matches!(self.state, State::Over(_))
    }
}

/// A mover of this thread's own, and lines to those on others.
pub struct Fleet {
    queue: Queue,
    own: Mover,
    lines: Vec<Line>,
    done: VecDeque<Done>,
    /// The mover that is asked first among equals; the own one is the last.
    next: usize,
}

impl Fleet {
    pub fn new(own: Mover, lines: Vec<Line>) -> Fleet {
        Fleet { queue: Queue::default(), own, lines, done: VecDeque::new(), next: 0 }
    }

    pub fn own(&self) -> &Mover {
        &self.own
    }

    /// Movers that are open, the own one among them.
    pub fn movers(&self) -> usize {
        1 + self.lines.iter().filter(|line| matches!(line.state, State::Open(_))).count()
    }

    /// Reads under way with each mover, the own one first.
    pub fn spread(&self) -> impl Iterator<Item = usize> {
        std::iter::once(self.own.under_way()).chain(self.lines.iter().map(Line::under_way))
    }

    /// What the kernel granted each mover that is open, the own one first.
    pub fn grants(&self) -> impl Iterator<Item = &Grants> {
        let others = self.lines.iter().filter_map(|line| match &line.state {
            State::Open(grants) => Some(grants),
            _ => None,
        });
        std::iter::once(self.own.grants()).chain(others)
    }

    /// Why movers at the other ends of lines do not work; the others do their work.
    #[cfg(test)]
    pub fn troubles(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().filter_map(|line| match &line.state {
            State::Over(reason) => Some(reason.as_str()),
            _ => None,
        })
    }

    /// Reads whose thread panicked while it had them: their regions are lost.
    pub fn lost(&self) -> usize {
        self.lines.iter().filter(|line| line.is_over()).map(Line::under_way).sum()
    }

    /// As [`Mover::overdue`], whoever has the read.
    pub fn overdue(&self, bound: Duration) -> Option<(u64, Duration)> {
        let handed = self.lines.iter().flat_map(|line| line.handed.iter().flatten());
        let handed = handed.map(|handed| (handed.ticket, handed.since.elapsed()));
        let late = handed.filter(|(_, time)| *time > bound);
        late.chain(self.own.overdue(bound)).max_by_key(|(_, time)| *time)
    }

    /// As [`Mover::wait`]. What others have read is looked for all the while.
    pub fn wait(&mut self, timeout: Duration) {
        const GLANCE: Duration = Duration::from_micros(50);
        let end = Instant::now() + timeout;
        loop {
            self.turn();
            let left = end.saturating_duration_since(Instant::now());
            if !self.done.is_empty() || self.under_way() == 0 || left.is_zero() {
                return;
            }
            let others = self.lines.iter().any(|line| line.under_way() > 0 && !line.is_over());
            match (others, self.own.under_way() > 0) {
                (false, true) => self.own.wait(left),
                (_, true) => self.own.wait(left.min(GLANCE)),
                (_, false) => std::thread::sleep(left.min(GLANCE)),
            }
            self.gather();
        }
    }

    /// Takes in what is over.
    fn gather(&mut self) {
        self.lines.iter_mut().for_each(|line| line.listen(&mut self.done));
        while let Some(done) = self.own.done() {
            self.done.push_back(done);
        }
    }

    /// Hands reads to who has the least under way.
    fn hand_out(&mut self) {
        let seats = self.lines.len() + 1;
        while let Some(urgency) = self.queue.urgency() {
            let mut best: Option<(usize, usize)> = None;
            for seat in (0..seats).map(|i| (self.next + i) % seats) {
                let (takes, under_way) = match self.lines.get(seat) {
                    Some(line) => (line.takes(urgency), line.under_way()),
                    None => {
                        let under_way = self.own.under_way();
                        (under_way < self.own.depth().of_urgency(urgency), under_way)
                    }
                };
                if takes && best.is_none_or(|(_, least)| under_way < least) {
                    best = Some((seat, under_way));
                }
            }
            let Some((seat, _)) = best else { return };
            let Some(Item { read, .. }) = self.queue.pop() else { return };
            self.next = (seat + 1) % seats;
            match self.lines.get_mut(seat) {
                // There is a tag for each read that it takes.
                Some(line) => self.done.extend(line.hand(read).map(dropped)),
                None => self.own.read(read),
            }
        }
    }
}

impl Drive for Fleet {
    fn read(&mut self, read: Read) {
        self.queue.push(Item { read, tag: 0 });
    }

    fn turn(&mut self) {
        self.gather();
        self.hand_out();
        self.own.turn();
        while let Some(done) = self.own.done() {
            self.done.push_back(done);
        }
    }

    fn done(&mut self) -> Option<Done> {
        self.done.pop_front()
    }

    fn hurry(&mut self, ticket: u64, urgency: Urgency) {
        self.queue.hurry(ticket, urgency);
        self.own.hurry(ticket, urgency);
        for line in &mut self.lines {
            if line.handed.iter().flatten().any(|handed| handed.ticket == ticket) {
                line.tell(Command::Hurry { ticket, urgency });
            }
        }
    }

    fn give_up(&mut self, ticket: u64) {
        for Item { read, .. } in self.queue.take(ticket) {
            self.done.push_back(dropped(read));
        }
        self.own.give_up(ticket);
        for line in &mut self.lines {
            if line.handed.iter().flatten().any(|handed| handed.ticket == ticket) {
                line.tell(Command::GiveUp { ticket });
            }
        }
    }

    fn under_way(&self) -> usize {
        let lines = self.lines.iter().filter(|line| !line.is_over());
        let handed: usize = lines.map(Line::under_way).sum();
        self.queue.len() + self.own.under_way() + handed + self.done.len()
    }

    fn now(&self) -> Duration {
        self.own.now()
    }

    fn moved(&self) -> Moved {
        self.own.moved()
    }

    fn trace(&mut self, tracer: Tracer) {
        self.own.trace(tracer);
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::arena::Arena;
    use super::super::Depth;
    use super::*;

    fn read(arena: &Arena, ticket: u64) -> Read {
        let (into, urgency) = (arena.take(64, 64).unwrap(), Urgency::Demand);
        Read { ticket, file: 0, offset: 0, into, sum: None, urgency }
    }

    fn ends() -> (Line, Ends) {
        let setup = Setup { files: vec![], arenas: vec![], depth: Depth::of(4) };
        let (line, kit) = line(setup, None);
        (line, kit.ends.unwrap())
    }

    #[test]
    fn a_line_takes_so_many_reads_once_the_other_end_is_open() {
        let arena = Arena::reserve(1 << 12).unwrap();
        let ((mut line, mut ends), mut done) = (ends(), VecDeque::new());
        assert!(!line.takes(Urgency::Demand));
        ends.report(Report::Open(Grants::default()));
        line.listen(&mut done);
        let mut handed = 0;
        while line.takes(Urgency::Demand) {
            assert_eq!(line.takes(Urgency::Warm), handed < 2);
            assert!(line.hand(read(&arena, handed)).is_none());
            handed += 1;
        }
        assert_eq!((handed, line.under_way()), (6, 6));
        // Regions come back from another thread.
        let thread = std::thread::spawn(move || {
            while let Some(Command::Read { mut read, tag }) = ends.next() {
                read.into.fill(read.ticket as u8);
                let done = Done { ticket: read.ticket, into: read.into, outcome: Ok(()) };
                ends.report(Report::Done { done, tag });
            }
            ends
        });
        let _ends = thread.join().unwrap();
        line.listen(&mut done);
        assert_eq!((done.len(), line.under_way()), (6, 0));
        assert!(done.iter().all(|done| done.into.iter().all(|b| *b == done.ticket as u8)));
        assert!(line.takes(Urgency::Demand));
    }

    #[test]
    fn more_commands_than_there_is_room_for_wait() {
        let ((mut line, mut ends), mut done) = (ends(), VecDeque::new());
        for ticket in 0..1000 {
            line.tell(Command::Hurry { ticket, urgency: Urgency::Warm });
        }
        let mut heard = 0;
        while heard < 1000 {
            line.listen(&mut done);
            while let Some(Command::Hurry { ticket, .. }) = ends.next() {
                assert_eq!(ticket, heard);
                heard += 1;
            }
        }
    }

    #[test]
    fn a_mover_that_cannot_be_opened_says_why_and_gives_everything_back() {
        let arena = Arena::reserve(1 << 12).unwrap();
        let ((mut line, mut ends), mut done) = (ends(), VecDeque::new());
        assert!(line.hand(read(&arena, 3)).is_none());
        ends.failed("no".into());
        drop(ends);
        line.listen(&mut done);
        assert_eq!(line.state, State::Over("no".into()));
        assert_eq!((done.len(), line.under_way()), (1, 0));
        assert_eq!(done[0].outcome, Err(super::super::Fault::Dropped));
        assert!(!line.takes(Urgency::Demand));
    }

    #[test]
    fn who_rests_is_not_asked_unless_it_was_asked_already() {
        let arena = Arena::reserve(1 << 12).unwrap();
        let ((mut line, mut ends), mut done) = (ends(), VecDeque::new());
        ends.report(Report::Open(Grants::default()));
        line.listen(&mut done);
        assert!(ends.rest() && !line.takes(Urgency::Demand));
        line.tell(Command::GiveUp { ticket: 0 });
        assert!(ends.next().is_some() && line.takes(Urgency::Demand));
        // Awake again for another reason.
        assert!(ends.rest() && !line.takes(Urgency::Demand));
        assert!(ends.next().is_none() && line.takes(Urgency::Demand));
        assert!(line.hand(read(&arena, 0)).is_none());
        assert!(!ends.rest() && line.takes(Urgency::Demand));
    }
}

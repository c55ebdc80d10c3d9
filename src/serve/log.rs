//! What the server says of itself: records on their way to one writer.
//!
//! A record is a small value put into a bounded queue on the lead's thread; nobody who makes one
//! waits. One task turns records into lines and writes them through the kernel ([`Sink`]). Where
//! nobody reads (a full pipe, a stopped terminal, a slow disk) that task waits, the queue fills up,
//! and what finds no room is dropped and counted; the count is said as soon as there is room again.

mod lines;

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::str::FromStr;
use std::task::{Poll, Waker};
use std::time::{Duration, SystemTime};

use crate::engine::scheduler::Priority;
use crate::host::sink::Sink;

/// Records that may wait to be written.
const ROOM: usize = 4096;
/// Text that is written at once.
const PIECE: usize = 64 << 10;

/// How much a record matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Something is wrong that somebody should look at.
    Error,
    /// Something did not go as it should, and was dealt with.
    Warn,
    /// What happens: requests, the beginning and the end.
    Info,
    /// What happens inside.
    Debug,
}

impl Level {
    pub const ALL: [Level; 4] = [Level::Error, Level::Warn, Level::Info, Level::Debug];

    pub const fn name(self) -> &'static str {
        match self {
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Info => "info",
            Level::Debug => "debug",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Level {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<Level, &'static str> {
        let level = Level::ALL.into_iter().find(|level| level.name() == name);
        level.ok_or("expected error, warn, info or debug")
    }
}

/// What a record looks like when it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// A line for people.
    Text,
    /// An object of JSON a line.
    Json,
}

impl fmt::Display for Style {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Style::Text => "text",
            Style::Json => "json",
        })
    }
}

impl FromStr for Style {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<Style, &'static str> {
        match name {
            "text" => Ok(Style::Text),
            "json" => Ok(Style::Json),
            _ => Err("expected text or json"),
        }
    }
}

/// A request that is over, and what became of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Access {
    /// As the engine numbers it.
    pub id: u64,
    pub priority: Priority,
    pub prompt_tokens: usize,
    pub answer_tokens: usize,
    pub queued: Duration,
    /// From arrival; none if there was none.
    pub first_token: Option<Duration>,
    /// From arrival to the last byte.
    pub taken: Duration,
    /// Tokens in a second, from the first to the last.
    pub speed: Option<f32>,
    /// Why it ended: `telemetry::end_name`.
    pub end: &'static str,
}

enum What {
    Words(Level, Cow<'static, str>),
    Access(Access),
}

struct Record {
    time: SystemTime,
    what: What,
}

/// Lines on their way.
struct Piece {
    text: String,
    records: u64,
    /// Records dropped that they tell of.
    said: u64,
}

struct State {
    level: Level,
    style: Style,
    records: RefCell<VecDeque<Record>>,
    room: usize,
    /// Since it was last said, and since the start.
    dropped: Cell<u64>,
    dropped_ever: Cell<u64>,
    writer: RefCell<Option<Waker>>,
    /// The last write was refused.
    failing: Cell<bool>,
    closed: Cell<bool>,
}

/// Where records are put. Cheap to clone, on the lead's thread.
#[derive(Clone)]
pub struct Log(Rc<State>);

impl Log {
    /// For records of this level and those that matter more.
    pub fn new(level: Level, style: Style) -> Log {
        Log::with_room(level, style, ROOM)
    }

    fn with_room(level: Level, style: Style, room: usize) -> Log {
        Log(Rc::new(State {
            level,
            style,
            records: RefCell::new(VecDeque::with_capacity(room)),
            room,
            dropped: Cell::new(0),
            dropped_ever: Cell::new(0),
            writer: RefCell::new(None),
            failing: Cell::new(false),
            closed: Cell::new(false),
        }))
    }

    /// Whether records of this level are written: to be asked before words are made.
    pub fn hears(&self, level: Level) -> bool {
        level <= self.0.level
    }

    pub fn say(&self, level: Level, words: impl Into<Cow<'static, str>>) {
        if self.hears(level) {
            self.put(What::Words(level, words.into()));
        }
    }

    pub fn access(&self, access: Access) {
        if self.hears(Level::Info) {
            self.put(What::Access(access));
        }
    }

    /// Records that found no room, since the start.
    pub fn dropped(&self) -> u64 {
        self.0.dropped_ever.get()
    }

    /// No more will come: the writer ends when it has written what there is.
    pub fn close(&self) {
        self.0.closed.set(true);
        self.wake();
    }

    fn put(&self, what: What) {
        let mut records = self.0.records.borrow_mut();
        if records.len() >= self.0.room {
            return self.lose(1);
        }
        records.push_back(Record { time: SystemTime::now(), what });
        drop(records);
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = self.0.writer.borrow_mut().take() {
            waker.wake();
        }
    }

    /// The writer: to be spawned once, in the housekeeping queue. It goes on when a write fails,
    /// for a full disk may be emptied; what could not be written counts as dropped.
    pub async fn write(self, sink: Sink) {
        while let Some(Piece { text, records, said }) = self.next().await {
            let written = sink.write(text.into_bytes()).await.is_ok();
            self.0.failing.set(!written);
            if !written {
                // There is nobody to tell but who reads the counts, and those who read on later.
                self.lose(records);
                self.0.dropped.set(self.0.dropped.get() + said);
            }
        }
    }

    fn lose(&self, count: u64) {
        self.0.dropped.set(self.0.dropped.get() + count);
        self.0.dropped_ever.set(self.0.dropped_ever.get() + count);
    }

    /// The next lines. `None`: no more will come.
    async fn next(&self) -> Option<Piece> {
        poll_fn(|context| {
            // That records were dropped is said at once, but where nothing can be written with the
            // next record alone.
            let dropped = self.0.dropped.get() > 0 && !self.0.failing.get();
            if dropped || !self.0.records.borrow().is_empty() {
                return Poll::Ready(Some(self.take()));
            }
            if self.0.closed.get() {
                return Poll::Ready(None);
            }
            *self.0.writer.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
        .await
    }

    fn take(&self) -> Piece {
        let (mut text, mut count) = (String::new(), 0);
        let mut records = self.0.records.borrow_mut();
        while text.len() < PIECE
            && let Some(record) = records.pop_front()
        {
            self.0.style.line(&record, &mut text);
            count += 1;
        }
        let said = self.0.dropped.replace(0);
        if said > 0 {
            let (n, s) = (said, if said == 1 { "" } else { "s" });
            let words = format!("{n} record{s} dropped: nobody took them as fast as they came");
            let what = What::Words(Level::Warn, words.into());
            self.0.style.line(&Record { time: SystemTime::now(), what }, &mut text);
        }
        Piece { text, records: count, said }
    }
}

#[cfg(all(test, not(miri)))]
mod tests;

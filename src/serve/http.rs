//! HTTP/1.1 on glommio's streams, by hyper.
//!
//! Owns connections: how many, how long each may take for what, and what they may send. Knows no
//! path and no JSON: a [`Handler`] answers calls, and gets each with its body whole.
//!
//! ```text
//! watch       what a connection is doing, since when, and whether that takes too long
//! wire        hyper's view of a stream
//! exchange    a call read and its reply written
//! connection  the life of one connection: rest, exchange, rest, …
//! ```
//!
//! A connection is one task of the `serving` queue. At rest it is a descriptor and a few hundred
//! bytes: what hyper needs it has from the first byte of a call until a moment after its answer.
//! Nobody sets a timer: each connection notes what it does and since when, and housekeeping looks
//! through all notes now and then.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_lite::future::poll_fn;
use glommio::net::{TcpListener, TcpStream};
use glommio::{TaskQueueHandle, spawn_local_into};
use hyper::server::conn::http1;

use super::Notice;
use super::peer::Allowed;
use super::reply::{Call, Reply};
use watch::Watch;
use wire::Link;

mod connection;
mod exchange;
mod watch;
mod wire;

/// Answers calls.
pub trait Handler: 'static {
    fn answer(&self, call: Call) -> impl Future<Output = Reply>;
}

/// What a client may take of time and space. Times are kept to within a `tick`.
#[derive(Clone, Debug)]
pub struct Limits {
    pub connections: usize,
    /// Of one body, and of all that are being read or answered.
    pub body: usize,
    pub bodies: usize,
    /// Of the request line and the headers.
    pub head: usize,
    /// Between two calls, and before the first.
    pub idle: Duration,
    /// For a head, from its first byte.
    pub head_time: Duration,
    /// For a body, and bytes per second by which a longer one is allowed longer.
    pub body_time: Duration,
    pub body_rate: usize,
    /// How long events may not come before the client is told that they will: proxies cut
    /// connections on which nothing moves.
    pub silence: Duration,
    /// For a client that takes nothing of an answer.
    pub stalled: Duration,
    /// For a client to hear an answer that ends the connection before its call was read whole.
    pub linger: Duration,
    /// After an answer, until a connection gives its buffers back.
    pub rest: Duration,
    /// How often times are looked at.
    pub tick: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 8192,
            body: 32 << 20,
            bodies: 256 << 20,
            head: 32 << 10,
            idle: Duration::from_secs(75),
            head_time: Duration::from_secs(10),
            body_time: Duration::from_secs(30),
            body_rate: 16 << 10,
            silence: Duration::from_secs(15),
            stalled: Duration::from_secs(30),
            linger: Duration::from_secs(5),
            rest: Duration::from_secs(1),
            tick: Duration::from_millis(250),
        }
    }
}

/// What hyper reads and writes at once.
const BUFFER: usize = 64 << 10;
/// Connections beyond the limit that are told so at the same time; more are closed unheard.
const TURNED_AWAY: usize = 64;
/// How long nobody is accepted when the host has no more descriptors or memory.
const PAUSE: Duration = Duration::from_millis(100);

/// Counts since the start, but for `open`, which is now.
#[derive(Debug, Default)]
pub struct Tally {
    pub open: Cell<usize>,
    pub accepted: Cell<u64>,
    /// Turned away, for there were too many or they were not allowed.
    pub refused: Cell<u64>,
    /// Closed in the middle of a call or an answer, because it took too long.
    pub late: Cell<u64>,
    /// Handlers that panicked.
    pub panics: Cell<u64>,
}

/// All connections, and the handler they lead to.
pub struct Server<H> {
    handler: H,
    limits: Limits,
    allowed: Allowed,
    notice: Notice,
    queue: TaskQueueHandle,
    http: http1::Builder,
    tally: Rc<Tally>,
    /// Bytes of bodies that are being read or answered.
    bodies: Cell<usize>,
    watches: RefCell<BTreeMap<u64, Rc<Link>>>,
    next: Cell<u64>,
    /// Those that were turned away and are still being told.
    turned_away: Cell<usize>,
    closing: Cell<bool>,
}

/// A place among the connections, given back when it is dropped.
struct Seat<H> {
    server: Rc<Server<H>>,
    id: u64,
    turned_away: bool,
}

impl<H> Drop for Seat<H> {
    fn drop(&mut self) {
        let server = &self.server;
        server.watches.borrow_mut().remove(&self.id);
        match self.turned_away {
            true => server.turned_away.set(server.turned_away.get() - 1),
            false => server.tally.open.set(server.tally.open.get() - 1),
        }
    }
}

impl<H: Handler> Server<H> {
    pub fn new(
        handler: H,
        limits: Limits,
        allowed: Allowed,
        queue: TaskQueueHandle,
        tally: Rc<Tally>,
        notice: Notice,
    ) -> Rc<Server<H>> {
        let mut http = http1::Builder::new();
        http.max_buf_size(BUFFER.max(limits.head)).max_header_size(limits.head);
        Rc::new(Server {
            handler,
            limits,
            allowed,
            notice,
            queue,
            http,
            tally,
            bodies: Cell::new(0),
            watches: RefCell::default(),
            next: Cell::new(0),
            turned_away: Cell::new(0),
            closing: Cell::new(false),
        })
    }

    /// Lets clients in until it is dropped.
    pub async fn accept(self: Rc<Self>, listener: TcpListener, local: bool) {
        let mut paused = false;
        loop {
            match listener.shared_accept().await {
                Ok(accepted) => {
                    paused = false;
                    self.admit(accepted.bind_to_executor(), local);
                }
                Err(error) => {
                    let error = std::io::Error::from(error);
                    // The client has left again; all else is the host's, and passes.
                    let left = [libc::ECONNABORTED, libc::EINTR, libc::EPROTO];
                    if !error.raw_os_error().is_some_and(|code| left.contains(&code)) {
                        if !std::mem::replace(&mut paused, true) {
                            (self.notice)(&format!("no connection can be accepted: {error}"));
                        }
                        glommio::timer::sleep(PAUSE).await;
                    }
                }
            }
            glommio::yield_if_needed().await;
        }
    }

    fn admit(self: &Rc<Self>, stream: TcpStream, local: bool) {
        let Tally { open, accepted, refused, .. } = &*self.tally;
        accepted.set(accepted.get() + 1);
        if !local {
            // Events are small, and each is to arrive when it is written.
            let _ = stream.set_nodelay(true);
        }
        let full = open.get() >= self.limits.connections;
        let stranger = local && !self.allowed.lets_in(&stream);
        let turned_away = full || stranger;
        if turned_away {
            refused.set(refused.get() + 1);
            if self.turned_away.get() >= TURNED_AWAY {
                return;
            }
            self.turned_away.set(self.turned_away.get() + 1);
        } else {
            open.set(open.get() + 1);
        }
        let id = self.next.replace(self.next.get() + 1);
        let link = Rc::new(Link::new(stream));
        self.watches.borrow_mut().insert(id, Rc::clone(&link));
        let seat = Seat { server: Rc::clone(self), id, turned_away };
        let life = async move {
            match (stranger, full) {
                (true, _) => connection::turn_away(&seat.server, &link, exchange::STRANGER).await,
                (_, true) => connection::turn_away(&seat.server, &link, exchange::FULL).await,
                _ => connection::live(&seat.server, &link).await,
            }
        };
        match spawn_local_into(life, self.queue) {
            Ok(task) => drop(task.detach()),
            Err(_) => unreachable!("the queue was made on this reactor"),
        }
    }

    /// Looks who takes too long.
    pub fn sweep(&self, now: Instant) {
        for link in self.watches.borrow().values() {
            link.watch.look(now, &self.limits);
        }
    }

    /// Has connections end: at once where no call is being answered, else after its answer.
    pub fn close(&self) {
        self.closing.set(true);
        self.watches.borrow().values().for_each(|link| link.watch.wake());
    }

    /// Ends all connections at once, whatever they do.
    pub fn cut(&self) {
        self.closing.set(true);
        self.watches.borrow().values().for_each(|link| link.watch.cut());
    }

    /// Until no connection is left. It looks when the tick does.
    pub async fn empty(&self) {
        while self.tally.open.get() + self.turned_away.get() > 0 {
            glommio::timer::sleep(self.limits.tick).await;
        }
    }

    pub fn answering(&self) -> usize {
        self.watches.borrow().values().filter(|link| link.watch.is_busy()).count()
    }
}

/// Polls until there is something, and sees to it that the connection is woken when its time is
/// over.
async fn watched<T>(watch: &Watch, mut poll: impl FnMut(&mut std::task::Context) -> Poll<T>) -> T {
    poll_fn(|context| {
        watch.listen(context);
        poll(context)
    })
    .await
}

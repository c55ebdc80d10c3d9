//! From open sockets to the last answer.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_lite::future::{or, zip};
use glommio::{Task, TaskQueueHandle, spawn_local_into, timer};

use super::Notice;
use super::announce::Announcement;
use super::http::{Handler, Limits, Server, Tally};
use super::peer::Allowed;
use super::socket::{Bound, Fate, Place, Socket, SocketError};
use super::systemd::{self, Watchdog};
use crate::host::limits::raise_descriptors;
use crate::host::socket::Listener;
use crate::shard::Queues;

/// How a server is to be reached, by whom, and within which limits.
pub struct Options {
    /// Beside what systemd hands over.
    pub places: Vec<Place>,
    /// Opened where systemd hands nothing over.
    pub fallback: Option<Place>,
    pub allowed: Allowed,
    pub limits: Limits,
    pub announcement: Option<Announcement>,
    /// Where remarks go.
    pub notice: Notice,
}

/// How a server comes to its end.
pub struct Shutdown<A, B, I> {
    /// Done when it is asked to.
    pub asked: A,
    /// Called then: no more requests are to be taken.
    pub begin: B,
    /// Done when no request is left.
    pub idle: I,
    /// How long requests may take to end by themselves.
    pub within: Duration,
}

/// How a server came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// Every request was answered.
    Clean,
    /// So many calls were cut off.
    Cut(usize),
}

/// Sockets that are open. Clients that come before [`Entrance::serve`] wait.
pub struct Entrance {
    sockets: Vec<Socket>,
    allowed: Allowed,
    limits: Limits,
    announcement: Option<Announcement>,
    notice: Notice,
    tally: Rc<Tally>,
}

/// How often socket files are looked after.
const LOOK: Duration = Duration::from_secs(1);
/// Descriptors that are not for connections: rings, packs, logs, the standard ones.
const OTHERS: usize = 256;
/// How long an orchestrator may take to hear that a worker leaves.
const FAREWELL: Duration = Duration::from_secs(2);

impl Entrance {
    pub fn open(options: Options) -> Result<Entrance, SocketError> {
        let Options { places, fallback, allowed, mut limits, announcement, notice } = options;
        let mut sockets = Socket::inherited()?;
        let fallback = fallback.filter(|_| sockets.is_empty());
        for place in places.iter().chain(&fallback) {
            sockets.push(Socket::open(place)?);
        }
        if !allowed.is_everybody() {
            // A port does not say who comes; to let everybody in there is not what was asked for.
            if let Some(port) = sockets.iter().find(|socket| !socket.local) {
                return Err(SocketError::Anonymous { place: port.name.clone() });
            }
        }
        match raise_descriptors() {
            Ok(most) => {
                let most = usize::try_from(most).unwrap_or(usize::MAX).saturating_sub(OTHERS);
                if most < limits.connections {
                    notice(&format!(
                        "at most {most} connections, for this process may have no more \
                         descriptors (LimitNOFILE=, ulimit -n)"
                    ));
                    limits.connections = most;
                }
            }
            Err(error) => notice(&format!("the limit of descriptors is as it was: {error}")),
        }
        Ok(Entrance { sockets, allowed, limits, announcement, notice, tally: Rc::default() })
    }

    /// What clients connect to.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.sockets.iter().map(|socket| &*socket.name)
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    pub fn tally(&self) -> Rc<Tally> {
        Rc::clone(&self.tally)
    }

    /// Serves until it is asked to end, and ends in order.
    pub async fn serve<H, A, B, I>(
        self,
        handler: H,
        queues: Queues,
        shutdown: Shutdown<A, B, I>,
    ) -> Drained
    where
        H: Handler,
        A: Future<Output = ()>,
        B: FnOnce(),
        I: Future<Output = ()>,
    {
        let Entrance { sockets, allowed, limits, announcement, notice, tally } = self;
        let tick = limits.tick;
        let queue = queues.serving;
        let notices = Rc::clone(&notice);
        let server = Server::new(handler, limits, allowed, queue, tally, notices);
        let name = sockets.first().map_or(String::new(), |socket| socket.name.clone());
        let doors: Vec<Door> =
            sockets.into_iter().map(|socket| Door::open(socket, &server, queue)).collect();
        let doors = Rc::new(RefCell::new(doors));
        let kept = keep(Rc::clone(&server), Rc::clone(&doors), queue, Rc::clone(&notice), tick);
        let keeping = spawned(kept, queues.housekeeping);
        systemd::ready("serving");
        let announcing = announcement.clone().map(|announcement| {
            let (name, notice) = (name.clone(), Rc::clone(&notice));
            let task = async move { announcement.ready(&name, &notice).await };
            spawned(task, queues.housekeeping)
        });

        shutdown.asked.await;
        (shutdown.begin)();
        // Before anybody is answered again, so that each answer says that it is the last.
        server.close();
        systemd::stopping("finishing what runs");
        // A server that starts now may have the path, and clients that come now hear so at once.
        let closed = doors.take();
        for door in closed {
            door.close().await;
        }
        if let Some(announcing) = announcing {
            announcing.cancel().await;
        }
        let cut = Cell::new(None);
        let finished = async {
            shutdown.idle.await;
            server.empty().await;
        };
        let limit = async {
            timer::sleep(shutdown.within).await;
            cut.set(Some(server.answering()));
            server.cut();
            server.empty().await;
        };
        let farewell = async {
            if let Some(announcement) = &announcement {
                let said = announcement.leaving(&name);
                or(said, timer::sleep(FAREWELL)).await;
            }
        };
        zip(or(finished, limit), farewell).await;
        keeping.cancel().await;
        cut.get().map_or(Drained::Clean, Drained::Cut)
    }
}

/// A socket with the task that lets clients in.
struct Door {
    name: String,
    bound: Option<Bound>,
    task: Task<()>,
    /// What was last said of its file.
    said: Option<Fate>,
}

impl Door {
    fn open<H: Handler>(socket: Socket, server: &Rc<Server<H>>, queue: TaskQueueHandle) -> Door {
        let Socket { listener, name, local, bound } = socket;
        let task = accepting(listener, server, local, queue);
        Door { name, bound, task, said: None }
    }

    /// The file goes before the listener does: as long as that lives, no other file can be taken
    /// for this one.
    async fn close(self) {
        drop(self.bound);
        self.task.cancel().await;
    }
}

fn accepting<H: Handler>(
    listener: Listener,
    server: &Rc<Server<H>>,
    local: bool,
    queue: TaskQueueHandle,
) -> Task<()> {
    let server = Rc::clone(server);
    spawned(async move { server.accept(listener.on_reactor(), local).await }, queue)
}

fn spawned(task: impl Future<Output = ()> + 'static, queue: TaskQueueHandle) -> Task<()> {
    match spawn_local_into(task, queue) {
        Ok(task) => task,
        Err(_) => unreachable!("the queue was made on this reactor"),
    }
}

/// Looks after times, socket files and the watchdog, for as long as the server runs.
async fn keep<H: Handler>(
    server: Rc<Server<H>>,
    doors: Rc<RefCell<Vec<Door>>>,
    queue: TaskQueueHandle,
    notice: Notice,
    tick: Duration,
) {
    let mut watchdog = Watchdog::new();
    let tick = watchdog.every().map_or(tick, |every| tick.min(every / 2)).max(MILLISECOND);
    let look = LOOK.min(4 * tick);
    let mut looked = Instant::now();
    loop {
        let now = Instant::now();
        watchdog.alive(now);
        server.sweep(now);
        if now - looked >= look {
            looked = now;
            let mut left = Vec::new();
            for door in &mut *doors.borrow_mut() {
                left.extend(mend(door, &server, queue, &notice));
            }
            for task in left {
                task.cancel().await;
            }
        }
        timer::sleep(tick).await;
    }
}

const MILLISECOND: Duration = Duration::from_millis(1);

/// Binds a socket file again that somebody has removed; what let clients in until now is to end.
fn mend<H: Handler>(
    door: &mut Door,
    server: &Rc<Server<H>>,
    queue: TaskQueueHandle,
    notice: &Notice,
) -> Option<Task<()>> {
    let bound = door.bound.as_ref()?;
    let fate = bound.fate();
    let news = door.said.replace(fate).unwrap_or(Fate::Ours) != fate;
    match fate {
        Fate::Ours => None,
        Fate::Taken => {
            if news {
                notice(&format!("{} was replaced by somebody; no client comes here", door.name));
            }
            None
        }
        Fate::Gone => match bound.again() {
            Ok((listener, bound)) => {
                notice(&format!("{} was removed by somebody, and is there again", door.name));
                door.said = None;
                door.bound = Some(bound);
                Some(std::mem::replace(&mut door.task, accepting(listener, server, true, queue)))
            }
            Err(error) => {
                if news {
                    notice(&format!("{} was removed by somebody: {error}", door.name));
                }
                None
            }
        },
    }
}

//! The transport with a handler that only plays: connections that behave, and connections that
//! do not. Nothing here waits for a time to pass; it waits for what is to happen.

#[path = "serve_transport/binary.rs"]
mod binary;
#[path = "serve_transport/clients.rs"]
mod clients;
#[path = "serve_transport/drain.rs"]
mod drain;
#[path = "serve_transport/files.rs"]
mod files;
#[path = "serve_transport/rough.rs"]
mod rough;

use std::cell::RefCell;
use std::future::pending;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use hyper::body::Bytes;
use hyper::{HeaderMap, StatusCode};
use penstock::host::bell::Bell;
use penstock::serve::http::{Handler, Limits};
use penstock::serve::peer::Allowed;
use penstock::serve::reply::{Body, Call, Events, Reply};
use penstock::serve::socket::{Place, SocketFile};
use penstock::serve::{Drained, Entrance, Options, Shutdown};
use penstock::shard::{Seats, run};

/// However slow a host is, what does not happen within this does not happen.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the handler has seen.
#[derive(Default)]
struct Seen {
    calls: AtomicUsize,
    /// Answers that are being made or sent.
    alive: AtomicUsize,
    /// Bytes of all bodies.
    bytes: AtomicUsize,
}

/// Counts as long as it lives.
struct Alive(Arc<Seen>);

impl Alive {
    fn new(seen: &Arc<Seen>) -> Alive {
        seen.alive.fetch_add(1, Ordering::SeqCst);
        Alive(Arc::clone(seen))
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.alive.fetch_sub(1, Ordering::SeqCst);
    }
}

struct Play {
    seen: Arc<Seen>,
    /// What `/gate` waits for.
    gate: Rc<RefCell<bool>>,
}

/// Events without an end.
struct Flood {
    _alive: Alive,
}

impl Events for Flood {
    fn poll_next(&mut self, _: &mut Context) -> Poll<Option<Bytes>> {
        Poll::Ready(Some(Bytes::from_static(&[b'x'; 4096])))
    }
}

/// One event, and then silence.
struct Silence {
    _alive: Alive,
    said: bool,
}

impl Events for Silence {
    fn poll_next(&mut self, _: &mut Context) -> Poll<Option<Bytes>> {
        match std::mem::replace(&mut self.said, true) {
            false => Poll::Ready(Some(Bytes::from_static(b"data: 1\n\n"))),
            true => Poll::Pending,
        }
    }
}

/// So many events.
struct Count {
    _alive: Alive,
    left: usize,
}

impl Events for Count {
    fn poll_next(&mut self, _: &mut Context) -> Poll<Option<Bytes>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.left -= 1;
        Poll::Ready(Some(Bytes::from(format!("data: {}\n\n", self.left))))
    }
}

struct Panics;

impl Events for Panics {
    fn poll_next(&mut self, _: &mut Context) -> Poll<Option<Bytes>> {
        panic!("an event that cannot be made")
    }
}

impl Handler for Play {
    async fn answer(&self, call: Call) -> Reply {
        let alive = Alive::new(&self.seen);
        self.seen.calls.fetch_add(1, Ordering::SeqCst);
        self.seen.bytes.fetch_add(call.body.len(), Ordering::SeqCst);
        let body = match &*call.path {
            "/echo" => Body::Whole(call.body),
            "/flood" => Body::Events(Box::new(Flood { _alive: alive })),
            "/silence" => Body::Events(Box::new(Silence { _alive: alive, said: false })),
            "/count" => Body::Events(Box::new(Count { _alive: alive, left: 5 })),
            "/never" => pending().await,
            "/gate" => {
                while !*self.gate.borrow() {
                    glommio::timer::sleep(Duration::from_millis(1)).await;
                }
                Body::Whole(Bytes::from_static(b"open"))
            }
            "/panic" => panic!("a handler that fails"),
            "/panics" => Body::Events(Box::new(Panics)),
            _ => Body::Whole(Bytes::from_static(b"ok")),
        };
        Reply { status: StatusCode::OK, headers: HeaderMap::new(), body }
    }
}

/// A server on a thread of its own.
struct House {
    path: PathBuf,
    seen: Arc<Seen>,
    notices: Arc<Mutex<Vec<String>>>,
    /// What its sockets are called.
    names: Vec<String>,
    stop: Bell,
    thread: Option<JoinHandle<Drained>>,
    _folder: tempfile::TempDir,
}

/// Times in which nothing is late.
fn limits() -> Limits {
    Limits { tick: Duration::from_millis(5), rest: Duration::from_millis(20), ..Limits::default() }
}

fn house() -> House {
    house_with(limits(), |_| {})
}

fn house_with(limits: Limits, change: impl FnOnce(&mut Options) + Send + 'static) -> House {
    house_within(PATIENCE, limits, change)
}

/// One that has so much time to end in.
fn house_within(
    within: Duration,
    limits: Limits,
    change: impl FnOnce(&mut Options) + Send + 'static,
) -> House {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.sock");
    let seen = Arc::new(Seen::default());
    let notices = Arc::new(Mutex::new(Vec::new()));
    let stop = Bell::new().unwrap();
    let (ready, opened) = channel();
    let (path_of, seen_of, told) = (path.clone(), Arc::clone(&seen), Arc::clone(&notices));
    let bell = stop.clone();
    let thread = thread::spawn(move || {
        let body = move |_, queues| async move {
            let file = SocketFile { path: path_of, mode: 0o600, owner: None };
            let mut options = Options {
                places: vec![Place::File(file)],
                fallback: None,
                allowed: Allowed::default(),
                limits,
                announcement: None,
                notice: Rc::new(move |words| told.lock().unwrap().push(words.to_string())),
            };
            change(&mut options);
            let entrance = Entrance::open(options).unwrap();
            ready.send(entrance.names().map(str::to_owned).collect()).unwrap();
            let gate = Rc::new(RefCell::new(false));
            let play = Play { seen: seen_of, gate: Rc::clone(&gate) };
            let ear = bell.ear().unwrap();
            let shutdown = Shutdown {
                asked: async move { ear.listen().await },
                begin: move || *gate.borrow_mut() = true,
                idle: async {},
                within,
            };
            entrance.serve(play, queues, shutdown).await
        };
        run(&Seats::anywhere(1), body).unwrap()
    });
    let names = opened.recv().unwrap();
    House { path, seen, notices, names, stop, thread: Some(thread), _folder: folder }
}

impl House {
    fn connect(&self) -> Client {
        Client::connect(&self.path)
    }

    fn alive(&self) -> usize {
        self.seen.alive.load(Ordering::SeqCst)
    }

    fn calls(&self) -> usize {
        self.seen.calls.load(Ordering::SeqCst)
    }

    /// Asks the server to end, and waits until it has.
    fn end(&mut self) -> Drained {
        self.stop.ring();
        self.thread.take().unwrap().join().unwrap()
    }

    /// It still answers, and nothing is left of anybody.
    fn leave_well(mut self) {
        until("it answers", || self.connect().gets("/") == Some((200, b"ok".to_vec())));
        until("all answers end", || self.alive() == 0);
        assert_eq!(self.end(), Drained::Clean);
    }
}

/// Waits for what is to happen.
#[track_caller]
fn until(what: &str, mut happened: impl FnMut() -> bool) {
    let start = Instant::now();
    while !happened() {
        assert!(start.elapsed() < PATIENCE, "{what}: it did not happen");
        thread::sleep(Duration::from_millis(2));
    }
}

/// A client that says exactly what it is told to.
struct Client {
    stream: UnixStream,
    /// Read and not yet used.
    ahead: Vec<u8>,
}

impl Client {
    fn connect(path: &Path) -> Client {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Client { stream, ahead: Vec::new() }
    }

    fn say(&mut self, words: impl AsRef<[u8]>) {
        self.stream.write_all(words.as_ref()).unwrap();
    }

    fn call(&mut self, path: &str) {
        self.say(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n"));
    }

    fn get(&mut self, path: &str) -> (u16, Vec<u8>) {
        self.call(path);
        self.answer()
    }

    /// `None` where nobody answers: a host may be so slow that a connection is idle for too long
    /// before its first call, and a server that was killed may still be on its way out.
    fn gets(&mut self, path: &str) -> Option<(u16, Vec<u8>)> {
        let call = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
        self.stream.write_all(call.as_bytes()).ok()?;
        (!self.ahead.is_empty() || self.more()).then(|| self.answer())
    }

    /// More bytes, or false at the end.
    fn more(&mut self) -> bool {
        let mut piece = [0; 4096];
        match self.stream.read(&mut piece) {
            Ok(count) => {
                self.ahead.extend_from_slice(&piece[..count]);
                count > 0
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => false,
            Err(error) => panic!("{error}, after {:?}", String::from_utf8_lossy(&self.ahead)),
        }
    }

    fn head(&mut self) -> String {
        loop {
            if let Some(end) = self.ahead.windows(4).position(|four| four == b"\r\n\r\n") {
                let head: Vec<u8> = self.ahead.drain(..end + 4).collect();
                return String::from_utf8(head).unwrap().to_ascii_lowercase();
            }
            assert!(self.more(), "no answer: {:?}", String::from_utf8_lossy(&self.ahead));
        }
    }

    /// The status and the body of an answer with a length.
    fn answer(&mut self) -> (u16, Vec<u8>) {
        let head = self.head();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.expect(&head).trim().parse().unwrap();
        while self.ahead.len() < length {
            assert!(self.more(), "half an answer");
        }
        (status(&head), self.ahead.drain(..length).collect())
    }

    /// All that comes until the server closes.
    fn rest(&mut self) -> String {
        while self.more() {}
        String::from_utf8(std::mem::take(&mut self.ahead)).unwrap()
    }
}

fn status(head: &str) -> u16 {
    head.split(' ').nth(1).unwrap().parse().unwrap()
}

//! What a stranger says on a socket. Whatever it is, the server is there for the next one.
#![no_main]

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::LazyLock;
use std::sync::mpsc::channel;
use std::time::Duration;

use hyper::{HeaderMap, StatusCode};
use libfuzzer_sys::fuzz_target;
use penstock::serve::http::{Handler, Limits};
use penstock::serve::peer::Allowed;
use penstock::serve::reply::{Body, Call, Reply};
use penstock::serve::socket::{Place, SocketFile};
use penstock::serve::{Entrance, Options, Shutdown as End};
use penstock::shard::{Seats, run};

struct Echo;

impl Handler for Echo {
    async fn answer(&self, call: Call) -> Reply {
        Reply { status: StatusCode::OK, headers: HeaderMap::new(), body: Body::Whole(call.body) }
    }
}

/// One server for all inputs.
static SERVER: LazyLock<PathBuf> = LazyLock::new(|| {
    let path = std::env::temp_dir().join(format!("penstock-fuzz-{}.sock", std::process::id()));
    let (ready, opened) = channel();
    let place = path.clone();
    std::thread::spawn(move || {
        let body = move |_, queues| async move {
            let file = SocketFile { path: place, mode: 0o600, owner: None };
            let options = Options {
                places: vec![Place::File(file)],
                fallback: None,
                allowed: Allowed::default(),
                limits: Limits { body: 1 << 16, ..Limits::default() },
                announcement: None,
                notice: Rc::new(|_| {}),
            };
            let entrance = Entrance::open(options).unwrap();
            ready.send(()).unwrap();
            let end = End {
                asked: std::future::pending(),
                begin: || {},
                idle: async {},
                within: Duration::ZERO,
            };
            entrance.serve(Echo, queues, end).await
        };
        run(&Seats::anywhere(1), body).unwrap()
    });
    opened.recv().unwrap();
    path
});

fuzz_target!(|data: &[u8]| {
    let mut stream = UnixStream::connect(&*SERVER).expect("the server is gone");
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    // The server may have had enough before all of it is said.
    let _ = stream.write_all(data);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        Err(error) => panic!("it neither answers nor closes: {error}"),
    }
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1."), "an answer that is none");
});

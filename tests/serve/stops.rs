//! Ends and beginnings: signals, crashes, a socket that somebody deletes.

use std::fs;

use super::crowd::long;
use super::server::Server;

#[test]
fn a_polite_end_finishes_what_runs() {
    let mut server = Server::start("demo", &["--context", "400000", "--parallel", "2"]);
    let mut clients: Vec<_> = (0..4)
        .map(|_| {
            let mut client = server.client();
            client.send("POST", "/v1/completions", &[], long(400).to_string().as_bytes());
            client
        })
        .collect();
    server.wait_for("taken", |server| {
        server.metric("penstock_requests_running", "")
            + server.metric("penstock_requests_waiting", "")
            + server.metric("penstock_requests_total", "")
            >= 4.0
    });
    server.signal("-TERM");
    for client in &mut clients {
        let answer = client.answer();
        assert_eq!(answer.head.status, 200);
        assert!(String::from_utf8_lossy(&answer.body).ends_with("data: [DONE]\n\n"));
    }
    drop(clients);
    assert_eq!(server.ended().code(), Some(0), "{}", server.log());
    assert!(!server.socket().exists(), "its socket is left");
}

#[test]
fn a_second_signal_does_not_wait() {
    let mut server = Server::start("demo", &["--context", "400000"]);
    let mut client = server.client();
    client.send("POST", "/v1/completions", &[], long(1_000_000).to_string().as_bytes());
    assert_eq!(client.head().status, 200);
    server.signal("-TERM");
    server.wait_for("draining", |server| server.log().contains("finish"));
    server.signal("-TERM");
    server.ended();
}

#[test]
fn a_deadline_ends_a_long_drain() {
    let mut server = Server::start("demo", &["--context", "400000", "--drain-timeout", "100ms"]);
    let mut client = server.client();
    client.send("POST", "/v1/completions", &[], long(1_000_000).to_string().as_bytes());
    assert_eq!(client.head().status, 200);
    client.chunk().unwrap();
    server.signal("-TERM");
    server.ended();
}

#[test]
fn a_crash_leaves_a_socket_that_the_next_one_takes() {
    let mut server = Server::start("demo", &["--context", "400000"]);
    server.signal("-KILL");
    server.ended();
    assert!(server.socket().exists());
    server.again();
    assert_eq!(server.post("/v1/completions", &[], &long(3)).head.status, 200);
}

#[test]
fn a_deleted_socket_comes_back() {
    let mut server = Server::start("demo", &["--context", "400000"]);
    fs::remove_file(server.socket()).unwrap();
    server.wait_for("back", |server| {
        server.socket().exists() && std::os::unix::net::UnixStream::connect(server.socket()).is_ok()
    });
    assert_eq!(server.get("/health/live").head.status, 200);
}

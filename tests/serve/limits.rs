//! Files that may not grow (`ulimit -f`) are an error where they are written, and no server's end.

use super::crowd::long;
use super::server::{Server, penstock};

#[test]
fn a_log_that_may_not_grow_is_dropped_and_counted() {
    let mut server = Server::limited("demo", &["--context", "20000"], 8);
    server.wait_for("full", |server| {
        assert_eq!(server.post("/v1/completions", &[], &long(2)).head.status, 200);
        server.metric("penstock_log_dropped_total", "") > 0.0
    });
    let log = server.log();
    assert_eq!(log.len(), 8 * 512);
    let written = log.lines().filter_map(|line| line.split_once("request ")?.1.split_once(' '));
    let numbers: Vec<_> = written.map(|(number, _)| number.parse::<usize>().unwrap()).collect();
    assert_eq!(numbers, (1..=numbers.len()).collect::<Vec<_>>(), "one over another: {log}");
    assert_eq!(server.post("/v1/completions", &[], &long(2)).head.status, 200);
    server.signal("-TERM");
    assert_eq!(server.ended().code(), Some(0));
}

#[test]
fn a_timeline_that_may_not_grow_ends_in_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("timeline");
    let options = ["--context", "20000", "--trace-out", path.to_str().unwrap()];
    let mut server = Server::limited("demo", &options, 32);
    server.wait_for("full", |server| {
        assert_eq!(server.post("/v1/completions", &[], &long(20)).head.status, 200);
        std::fs::metadata(&path).unwrap().len() == 32 * 512
    });
    assert_eq!(server.post("/v1/completions", &[], &long(20)).head.status, 200);
    server.signal("-TERM");
    assert_eq!(server.ended().code(), Some(1));
    let events = std::fs::read_to_string(&path).unwrap();
    assert!(events.lines().skip(1).all(|line| line.starts_with('{')), "one over another: {events}");
    let said = server.log();
    let last = said.lines().last().unwrap();
    assert!(last.contains("timeline: ") && last.contains("File too large"), "{said}");
}

#[test]
fn a_spill_that_may_not_be_made_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (socket, folder) = (folder.path().join("socket"), folder.path().to_str().unwrap());
    let output = penstock(Some(1024))
        .args(["serve", "demo", "--cores", "1", "--socket", socket.to_str().unwrap()])
        .args(["--spill", "64MiB", "--spill-dir", folder])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("--spill: ") && said.contains("File too large"), "{said}");
}

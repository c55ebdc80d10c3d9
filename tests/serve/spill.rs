//! A server with little memory for keys and values, and a disk for them.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use super::server::Server;

/// Prompts that nobody else begins like, of which memory holds a few.
fn bodies() -> Vec<Value> {
    let story = "and then the fox went down to the river and looked at the other side of it; ";
    (0..8)
        .map(|i| {
            json!({
                "prompt": format!("{i}. {}", story.repeat(12)), "max_tokens": 8, "seed": i,
                "temperature": 0.8, "logprobs": 0, "ignore_eos": true,
            })
        })
        .collect()
}

fn answers(server: &Server) -> Vec<Value> {
    let answer = |body| server.post("/v1/completions", &[], &body).good()["choices"][0].clone();
    bodies().into_iter().map(answer).collect()
}

/// What this server's bits depend on, as its answers say.
fn fingerprint(server: &Server) -> String {
    let body = json!({"prompt": "Once", "max_tokens": 1});
    let answer = server.post("/v1/completions", &[], &body).good();
    answer["system_fingerprint"].as_str().unwrap().into()
}

#[test]
fn conversations_that_memory_has_no_room_for_come_back() {
    let [wide, narrow] = ["f32", "int8"].map(come_back);
    assert_ne!(wide.0, narrow.0, "8 bits are another choice");
    assert_ne!(wide.1, narrow.1, "and who compares answers is told");
}

/// With keys and values in this; the answers, and the fingerprint.
fn come_back(kv: &str) -> (Vec<Value>, String) {
    let alone = Server::start("demo", &["--context", "100000", "--kv", kv]);
    let expected = answers(&alone);
    assert!(alone.log().contains(&format!(" in {kv}, scratch")), "{}", alone.log());
    drop(alone);
    let disk = tempfile::tempdir().unwrap();
    let folder = disk.path().to_str().unwrap();
    let options = ["--context", "1024", "--spill", "64MiB", "--spill-dir", folder, "--kv", kv];
    let mut server = Server::start("demo", &options);
    assert_eq!(fs::read_dir(folder).unwrap().count(), 0, "the file has no name");
    assert!(server.log().contains("64.0 MiB for pages"), "{}", server.log());
    for round in 0..3 {
        assert_eq!(answers(&server), expected, "{kv}, round {round}");
    }
    assert!(server.metric("penstock_spilled_pages_total", "") > 0.0);
    assert!(server.metric("penstock_unspilled_pages_total", "") > 0.0);
    assert_eq!(server.metric("penstock_spill_lost_pages_total", ""), 0.0);
    let fingerprint = fingerprint(&server);
    server.is_empty();
    server.signal("-KILL");
    server.ended();
    assert_eq!(fs::read_dir(folder).unwrap().count(), 0, "nothing is left of it");
    (expected, fingerprint)
}

/// A disk that takes no more is a line in the log, and nothing that a client could notice.
#[test]
fn a_full_disk_costs_nobody_an_answer() {
    let disk = tempfile::tempdir().unwrap();
    let folder = disk.path().to_str().unwrap();
    let options = ["--context", "1024", "--spill", "64MiB", "--spill-dir", folder];
    let mut server = Server::start("demo", &options);
    let limit = libc::rlimit { rlim_cur: 4096, rlim_max: 4096 };
    // SAFETY: a limit to set, and none asked for.
    let set = unsafe {
        libc::prlimit(server.pid() as i32, libc::RLIMIT_FSIZE, &limit, std::ptr::null_mut())
    };
    assert_eq!(set, 0);
    let first = answers(&server);
    assert_eq!(answers(&server), first);
    assert_eq!(server.metric("penstock_unspilled_pages_total", ""), 0.0);
    server.is_empty();
}

#[test]
fn what_cannot_be_spilled_is_refused_with_a_sentence() {
    let disk = tempfile::tempdir().unwrap();
    let socket = disk.path().join("socket");
    let refused = |size: &str, folder: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_penstock"))
            .args(["serve", "demo", "--cores", "1", "--socket", socket.to_str().unwrap()])
            .args(["--spill", size, "--spill-dir", folder])
            .output()
            .unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let folder = disk.path().to_str().unwrap();
    let words = refused("9000TiB", folder);
    assert!(words.contains("has room for") && words.contains("not for 8.8 PiB"), "{words}");
    assert_eq!(words.lines().count(), 1, "nothing is shown before: {words}");
    let words = refused("1GiB", "/proc/nowhere");
    assert!(words.contains("/proc/nowhere") && words.contains("--spill-dir"), "{words}");
    assert!(refused("80%", folder).contains("as 64GiB"));
}

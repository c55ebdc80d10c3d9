//! Clients as they are: they vanish, dawdle, flood, never read and write rubbish.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;

use serde_json::json;

use super::client::Client;
use super::crowd::long;
use super::server::{Server, least_memory};

#[test]
fn who_vanishes_leaves_nothing_behind() {
    let mut server = Server::start("demo", &["--context", "400000", "--parallel", "4"]);
    let begun = |server: &Server| {
        let mut client = server.client();
        client.send("POST", "/v1/completions", &[], long(100_000).to_string().as_bytes());
        client
    };
    for round in 1..4 {
        // Some after a token. They begin before the others come, or they might wait for one of
        // those to end.
        let mut clients: Vec<Client> = (0..round).map(|_| begun(&server)).collect();
        for client in &mut clients {
            assert_eq!(client.head().status, 200);
            client.chunk().unwrap();
        }
        // Some in the queue.
        clients.extend((round..12).map(|_| begun(&server)));
        server.wait_for("taken", |server| {
            server.metric("penstock_requests_running", "") == 4.0
                && server.metric("penstock_requests_waiting", "") == 8.0
        });
        drop(clients);
        server.is_empty();
    }
    assert!(server.metric("penstock_requests_total", "end=\"cancelled\"") >= 36.0);
}

#[test]
fn cancel_ends_an_answer_that_goes_on_elsewhere() {
    let mut server = Server::start("demo", &["--context", "400000"]);
    let mut client = server.client();
    let ask = json!({"prompt": "Once", "max_tokens": 100_000, "ignore_eos": true});
    client.send("POST", "/execute", &[], ask.to_string().as_bytes());
    assert_eq!(client.head().status, 200);
    let started = String::from_utf8(client.chunk().unwrap()).unwrap();
    let data = started.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
    let id = serde_json::from_str::<serde_json::Value>(data).unwrap()["id"].clone();
    let answer = server.post("/cancel", &[], &json!({"id": id})).good();
    assert_eq!(answer["cancelled"], true);
    let mut rest = String::new();
    while let Some(chunk) = client.chunk() {
        rest += &String::from_utf8_lossy(&chunk);
    }
    assert!(rest.contains("event: end") && rest.contains("cancelled"), "{rest}");
    assert_eq!(server.post("/cancel", &[], &json!({"id": id})).head.status, 404);
    server.is_empty();
}

#[test]
fn rubbish_is_answered_and_forgotten() {
    let mut server = Server::start("demo", &["--context", "400000"]);
    let rubbish: [&[u8]; 7] = [
        b"\0\0\0\0\r\n\r\n",
        b"GET\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\ncontent-length: banana\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n{\"a\":",
        b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        &[0xff; 70_000],
    ];
    for bytes in rubbish {
        let mut stream = UnixStream::connect(server.socket()).unwrap();
        // It may hang up before it has heard all of it.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said);
        assert!(said.is_empty() || said.starts_with(b"HTTP/1.1 4"), "{said:?}");
    }
    for (path, body) in [("/v1/completions", "{"), ("/v1/chat/completions", "[]"), ("/execute", "")]
    {
        let mut client = server.client();
        client.send("POST", path, &[], body.as_bytes());
        let answer = client.answer();
        assert_eq!(answer.head.status, 400);
        assert!(answer.json()["error"]["message"].as_str().is_some_and(|text| text.len() > 10));
    }
    server.is_empty();
}

#[test]
fn a_hundred_megabytes_are_not_taken() {
    let mut server = Server::start("demo", &["--context", "400000"]);
    let mut client = server.client();
    let head = "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 104857600\r\n\r\n";
    client.stream().write_all(head.as_bytes()).unwrap();
    assert_eq!(client.answer().head.status, 413);
    // One that does not say how much it has is told as well; what it sends on is not kept.
    let mut client = server.client();
    let head = "POST /v1/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
    client.stream().write_all(head.as_bytes()).unwrap();
    let chunk = [&b"10000\r\n"[..], &[b' '; 0x10000], b"\r\n"].concat();
    let mut taken = 0;
    while taken < 100 << 20 && client.stream().write_all(&chunk).is_ok() {
        taken += 0x10000;
    }
    assert_eq!(client.head().status, 413);
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kilobytes: usize = resident.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(kilobytes < 400 << 10, "{kilobytes} kB");
    server.is_empty();
}

/// A client that never reads holds nobody up but itself.
#[test]
fn who_never_reads_waits_alone() {
    let mut server = Server::start("demo", &["--context", "400000"]);
    let mut deaf: Vec<Client> = (0..4)
        .map(|_| {
            let mut client = server.client();
            client.send("POST", "/v1/completions", &[], long(20_000).to_string().as_bytes());
            client
        })
        .collect();
    for _ in 0..5 {
        let answer = server.post("/v1/completions", &[], &long(20));
        assert_eq!(answer.head.status, 200);
        assert!(!answer.events().is_empty());
    }
    deaf.clear();
    server.is_empty();
}

#[test]
fn thousands_of_connections_are_cheap() {
    let mut server = Server::start("demo", &["--context", "400000"]);
    let open = server.descriptors();
    // As many as this process may hold, at most 5,000.
    let limits = fs::read_to_string("/proc/self/limits").unwrap();
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let may: usize = files.split_whitespace().nth(3).unwrap().parse().unwrap_or(1024);
    let count = 5_000.min(may.saturating_sub(200));
    let idle: Vec<UnixStream> =
        (0..count).map(|_| UnixStream::connect(server.socket()).unwrap()).collect();
    server.wait_for("connected", |server| server.descriptors() + 8 >= open + count);
    for _ in 0..3 {
        assert_eq!(server.post("/v1/completions", &[], &long(5)).head.status, 200);
    }
    drop(idle);
    server.is_empty();
}

/// A pack that is damaged while it serves: who needs what is lost hears its name, all others go
/// on, and nothing of them stays.
#[test]
fn a_bad_disk_takes_no_one_else_along() {
    use penstock::math::Format;
    use penstock::model::synth::Recipe;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    let recipe = Recipe::new("tiny-qwen3-30b-a3b", Format::Q4K, None, 0.5, 1).unwrap();
    fs::write(&path, recipe.write(Vec::new(), |_| Ok(())).unwrap()).unwrap();
    let path = path.to_str().unwrap();
    let memory = least_memory(path, &["--context", "512"]);
    let mut server = Server::start(path, &["--memory", &memory, "--context", "512"]);
    let good = server.post("/v1/completions", &[], &long(8));
    assert_eq!(good.head.status, 200);
    let pack = folder.path().join("tiny.penstock");
    let mut bytes = fs::read(&pack).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..].fill(0xa5);
    fs::write(&pack, bytes).unwrap();
    let mut lost = 0;
    for i in 0..12 {
        let answer = server.post(
            "/v1/completions",
            &[],
            &json!({"prompt": format!("{i} {i}"), "max_tokens": 16, "ignore_eos": true}),
        );
        match answer.head.status {
            200 => {}
            500 => {
                lost += 1;
                let message = answer.json()["error"]["message"].to_string();
                assert!(message.contains("expert") && message.contains("layer"), "{message}");
            }
            status => panic!("{status}: {}", String::from_utf8_lossy(&answer.body)),
        }
    }
    assert!(lost > 0, "nothing was lost");
    assert_eq!(server.get("/health/live").head.status, 200);
    server.is_empty();
}

#[test]
fn a_byte_at_a_time_is_a_request_too() {
    let mut server = Server::start("demo", &["--context", "400000"]);
    let mut client = server.client();
    let body = r#"{"prompt":"Hi","max_tokens":2}"#;
    let head = format!(
        "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    for byte in head.bytes() {
        client.stream().write_all(&[byte]).unwrap();
        thread::sleep(std::time::Duration::from_millis(1));
    }
    client.answer().good();
    drop(client);
    server.is_empty();
}

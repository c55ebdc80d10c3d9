//! Connections that do not behave.

use super::*;

#[test]
fn a_body_over_the_limit_is_refused_unread() {
    let house = house_with(Limits { body: 1000, ..limits() }, |_| {});
    // By what it says …
    let mut client = house.connect();
    client.say("POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 100000000\r\n\r\n");
    let (status, body) = client.answer();
    assert_eq!(status, 413);
    assert!(String::from_utf8(body).unwrap().contains("1000 bytes"));
    // … and by what it sends.
    let mut client = house.connect();
    client.say("POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n");
    for _ in 0..3 {
        client.say(format!("190\r\n{}\r\n", "x".repeat(400)));
    }
    assert_eq!(client.answer().0, 413);
    assert_eq!(house.calls(), 0);
    house.leave_well();
}

#[test]
fn a_client_that_sends_on_hears_that_it_is_too_much() {
    let house = house_with(Limits { body: 1 << 20, ..limits() }, |_| {});
    let mut client = house.connect();
    let size = 100 << 20;
    client.say(format!("POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: {size}\r\n\r\n"));
    // All of it is taken off the wire, and none of it is kept.
    let piece = vec![b'x'; 1 << 20];
    for _ in 0..100 {
        client.say(&piece);
    }
    assert_eq!(client.answer().0, 413);
    assert_eq!(house.seen.bytes.load(Ordering::SeqCst), 0);
    house.leave_well();
}

#[test]
fn large_bodies_share_one_bound() {
    let house = house_with(Limits { body: 1 << 20, bodies: 1_500_000, ..limits() }, |_| {});
    let head = "POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n";
    let body = vec![b'x'; 999_999];
    let mut first = house.connect();
    first.say(head);
    first.say(&body);
    let mut second = house.connect();
    second.say(head);
    // It is told before it has sent all, whether or not it may still send.
    let _ = second.stream.write_all(&body);
    assert_eq!(second.answer().0, 503);
    first.say("x");
    assert_eq!(first.answer().0, 200);
    // The first one's are given back.
    let mut third = house.connect();
    third.say(head);
    third.say(&body);
    third.say("x");
    assert_eq!(third.answer().0, 200);
    house.leave_well();
}

#[test]
fn a_head_that_is_too_long_is_refused() {
    let house = house();
    let mut client = house.connect();
    client.say("GET / HTTP/1.1\r\nhost: x\r\n");
    client.say(format!("long: {}\r\n\r\n", "x".repeat(40 << 10)));
    assert_eq!(status(&client.head()), 431);
    let mut client = house.connect();
    client.say("GET / HTTP/1.1\r\n");
    (0..200).for_each(|i| client.say(format!("h{i}: 1\r\n")));
    client.say("\r\n");
    assert_eq!(status(&client.head()), 431);
    house.leave_well();
}

#[test]
fn garbage_is_answered_and_forgotten() {
    let house = house();
    let nonsense: [&[u8]; 5] = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS hello\r\n\r\n",
        b"hello\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nabcdef",
    ];
    for words in nonsense {
        let mut client = house.connect();
        client.say(words);
        let told = client.rest();
        assert!(told.starts_with("HTTP/1.1 400 "), "{words:?}: {told}");
    }
    let mut client = house.connect();
    client.say("POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n");
    assert_eq!(client.answer().0, 400);
    // Who greets in HTTP/2 would not understand an answer.
    let mut client = house.connect();
    client.say("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    assert_eq!(client.rest(), "");
    // Noise from a seed.
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for _ in 0..200 {
        let mut bytes = Vec::new();
        for _ in 0..64 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.extend_from_slice(&state.to_le_bytes());
        }
        let mut client = house.connect();
        // The server may have had enough before all of it is sent.
        let _ = client.stream.write_all(&bytes);
        let _ = client.stream.shutdown(std::net::Shutdown::Both);
    }
    assert_eq!(house.calls(), 0);
    house.leave_well();
}

#[test]
fn a_head_in_drops_is_late() {
    let short = Duration::from_millis(50);
    let house = house_with(Limits { head_time: short, linger: short, ..limits() }, |_| {});
    let mut client = house.connect();
    client.say("GET / HT");
    let told = client.rest();
    assert!(told.starts_with("HTTP/1.1 408 "), "{told}");
    // And one that keeps dripping.
    let mut client = house.connect();
    let mut dripped = 0;
    while client.stream.write_all(b"x").is_ok() {
        thread::sleep(Duration::from_millis(5));
        dripped += 1;
        assert!(dripped < 10_000, "it drips for ever");
    }
    // And one behind a call that was answered.
    let mut client = house.connect();
    client.say("GET / HTTP/1.1\r\nhost: x\r\n\r\nGET /");
    assert_eq!(client.answer().0, 200);
    let told = client.rest();
    assert!(told.starts_with("HTTP/1.1 408 "), "{told}");
    house.leave_well();
}

#[test]
fn a_body_in_drops_is_late() {
    let limits = Limits { body_time: Duration::from_millis(50), ..limits() };
    let house = house_with(limits, |_| {});
    let mut client = house.connect();
    client.say("POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\nx");
    let told = client.rest();
    assert!(told.starts_with("HTTP/1.1 408 "), "{told}");
    assert_eq!(house.calls(), 0);
    house.leave_well();
}

#[test]
fn the_idle_are_closed() {
    let house = house_with(Limits { idle: Duration::from_millis(50), ..limits() }, |_| {});
    let mut new = house.connect();
    assert_eq!(new.rest(), "");
    let mut used = house.connect();
    until("a call comes in time", || {
        used = house.connect();
        used.gets("/").is_some_and(|(status, _)| status == 200)
    });
    assert_eq!(used.rest(), "");
    house.leave_well();
}

#[test]
fn a_client_that_never_reads_is_let_go() {
    let house = house_with(Limits { stalled: Duration::from_millis(50), ..limits() }, |_| {});
    let mut client = house.connect();
    client.call("/flood");
    until("the flood begins", || house.calls() == 1);
    until("the flood ends", || house.alive() == 0);
    house.leave_well();
}

#[test]
fn a_client_that_leaves_takes_its_answer_with_it() {
    let house = house();
    // In the middle of much, of silence, and before there was a word.
    for path in ["/flood", "/silence", "/never"] {
        let mut clients: Vec<Client> = (0..8).map(|_| house.connect()).collect();
        for client in &mut clients {
            client.call(path);
        }
        until("all are being answered", || house.alive() == 8);
        if path != "/never" {
            clients.iter_mut().for_each(|client| drop(client.head()));
        }
        drop(clients);
        until("their answers are dropped", || house.alive() == 0);
    }
    house.leave_well();
}

#[test]
fn a_handler_that_panics_fails_one_request() {
    let house = house();
    let mut client = house.connect();
    let (status, body) = client.get("/panic");
    assert_eq!(status, 500);
    assert!(String::from_utf8(body).unwrap().contains("internal_error"));
    // An answer that breaks in the middle is seen to: its end does not come.
    let mut client = house.connect();
    client.call("/panics");
    assert!(!client.rest().ends_with("0\r\n\r\n"));
    let notices = house.notices.lock().unwrap().clone();
    assert!(notices.iter().any(|words| words.contains("a handler that fails")), "{notices:?}");
    assert!(notices.iter().any(|words| words.contains("an event that cannot be made")));
    house.leave_well();
}

//! Connections that behave.

use super::*;

#[test]
fn a_connection_is_kept_and_rests_between_calls() {
    let house = house();
    let mut client = house.connect();
    for round in 0..3 {
        let body = format!("round {round}");
        client.say(format!("POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 7\r\n\r\n{body}"));
        assert_eq!(client.answer(), (200, body.into_bytes()));
        // Longer than `rest`, so that hyper was put away at least once.
        thread::sleep(Duration::from_millis(60));
    }
    assert_eq!(house.calls(), 3);
    house.leave_well();
}

#[test]
fn calls_may_be_piled_up() {
    let house = house();
    let mut client = house.connect();
    let mut words = String::new();
    for i in 0..50 {
        words += &format!("POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{i:02}");
    }
    client.say(words);
    for i in 0..50 {
        assert_eq!(client.answer(), (200, format!("{i:02}").into_bytes()));
    }
    house.leave_well();
}

#[test]
fn calls_that_come_in_crumbs_are_calls() {
    let house = house();
    let mut client = house.connect();
    let words = "POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n\
                 3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n";
    for byte in words.bytes() {
        client.say([byte]);
        thread::sleep(Duration::from_micros(200));
    }
    assert_eq!(client.answer(), (200, b"abcdefg".to_vec()));
    house.leave_well();
}

#[test]
fn events_come_in_order_and_the_connection_goes_on() {
    let house = house();
    let mut client = house.connect();
    for _ in 0..2 {
        client.call("/count");
        assert!(client.head().contains("transfer-encoding: chunked"));
        while !client.ahead.ends_with(b"0\r\n\r\n") {
            assert!(client.more());
        }
        let text = String::from_utf8(std::mem::take(&mut client.ahead)).unwrap();
        let data: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
        assert_eq!(data, ["4", "3", "2", "1", "0"]);
    }
    house.leave_well();
}

/// Where an event takes long, a client hears that it is still to come, as often as it takes.
#[test]
fn events_that_are_late_are_announced() {
    let silence = Duration::from_millis(20);
    let house = house_with(Limits { silence, ..limits() }, |_| {});
    let mut client = house.connect();
    client.call("/silence");
    client.head();
    while String::from_utf8_lossy(&client.ahead).matches(": waiting\n\n").count() < 3 {
        assert!(client.more());
    }
    let said = String::from_utf8_lossy(&client.ahead);
    let events: Vec<_> = said.lines().filter(|line| line.starts_with("data")).collect();
    assert_eq!(events, ["data: 1"], "{said}");
    drop(client);
    house.leave_well();
}

#[test]
fn a_large_body_arrives_whole() {
    let house = house();
    let body: Vec<u8> = (0..3_000_000u32).map(|i| (i % 251) as u8).collect();
    let mut client = house.connect();
    let mut sender = client.stream.try_clone().unwrap();
    let sent = body.clone();
    let sending = thread::spawn(move || {
        let head =
            format!("POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", sent.len());
        sender.write_all(head.as_bytes()).unwrap();
        sender.write_all(&sent).unwrap();
    });
    let (status, echoed) = client.answer();
    sending.join().unwrap();
    assert_eq!(status, 200);
    assert!(echoed == body);
    house.leave_well();
}

#[test]
fn hundreds_of_connections_are_served_and_the_next_is_told() {
    let house = house_with(Limits { connections: 300, ..limits() }, |_| {});
    let mut clients: Vec<Client> = (0..300).map(|_| house.connect()).collect();
    for client in &mut clients {
        client.call("/");
    }
    for client in &mut clients {
        assert_eq!(client.answer(), (200, b"ok".to_vec()));
    }
    let mut late = house.connect();
    let told = late.rest();
    assert!(told.starts_with("HTTP/1.1 503 "), "{told}");
    assert!(told.contains("retry-after: 1"), "{told}");
    drop(clients);
    // Once they have left there is room again.
    until("a seat is free", || house.connect().gets("/").is_some_and(|(status, _)| status == 200));
    house.leave_well();
}

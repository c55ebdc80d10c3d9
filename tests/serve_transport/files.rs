//! Socket files, and who may use them.

use std::fs;
use std::os::unix::net::UnixListener;

use super::*;
use penstock::serve::socket::SocketError;

fn socket(path: &Path) -> SocketFile {
    SocketFile { path: path.into(), mode: 0o600, owner: None }
}

#[test]
fn a_second_server_is_refused_by_name() {
    let house = house();
    let refused = socket(&house.path).bind().unwrap_err();
    assert!(matches!(refused, SocketError::Live { .. }));
    assert!(refused.to_string().contains(house.path.to_str().unwrap()));
    house.leave_well();
}

#[test]
fn a_file_that_is_deleted_comes_back() {
    let house = house();
    let mut before = house.connect();
    assert_eq!(before.get("/").0, 200);
    for _ in 0..3 {
        fs::remove_file(&house.path).unwrap();
        until("the file is there again", || house.path.exists());
        until("somebody listens", || UnixStream::connect(&house.path).is_ok());
        assert_eq!(house.connect().get("/").0, 200);
    }
    // Who was there stays.
    assert_eq!(before.get("/").0, 200);
    house.leave_well();
}

#[test]
fn a_file_that_somebody_took_is_left_to_them() {
    let mut house = house();
    fs::remove_file(&house.path).unwrap();
    // Whoever is first: the server, or a stranger.
    let path = house.path.clone();
    let stranger = loop {
        match UnixListener::bind(&path) {
            Ok(stranger) => break stranger,
            Err(_) => drop(fs::remove_file(&path)),
        }
    };
    until("it is noticed", || {
        house.notices.lock().unwrap().iter().any(|words| words.contains("replaced"))
    });
    assert_eq!(house.end(), Drained::Clean);
    assert!(path.exists(), "a stranger's file was removed");
    drop(stranger);
}

#[test]
fn the_file_goes_with_the_server() {
    let mut house = house();
    let path = house.path.clone();
    assert_eq!(house.connect().get("/").0, 200);
    assert_eq!(house.end(), Drained::Clean);
    assert!(!path.exists());
}

#[test]
fn strangers_are_turned_away() {
    // Nobody in the tests is this user or in this group.
    let only = |users: &[u32], groups: &[u32]| Allowed {
        users: users.iter().copied().collect(),
        groups: groups.iter().copied().collect(),
    };
    let (a, b) = (only(&[4_000_000_001], &[4_000_000_002]), only(&[own_uid()], &[]));
    let mut house = house_with(limits(), |options| options.allowed = a);
    let told = house.connect().rest();
    assert!(told.starts_with("HTTP/1.1 403 "), "{told}");
    assert_eq!(house.end(), Drained::Clean);
    let house = house_with(limits(), |options| options.allowed = b);
    house.leave_well();
}

fn own_uid() -> u32 {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").unwrap().uid()
}

#[test]
fn a_port_serves_as_a_file_does() {
    let house = house_with(limits(), |options| {
        // Whichever the kernel finds free.
        options.places.push(Place::Port("127.0.0.1:0".parse().unwrap()));
    });
    let address = house.names[1].strip_prefix("http://").unwrap();
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    house.leave_well();
}

#[test]
fn a_port_cannot_say_who_comes() {
    let allowed = Allowed { users: [own_uid()].into(), ..Allowed::default() };
    let options = Options {
        places: vec![Place::Port("127.0.0.1:0".parse().unwrap())],
        fallback: None,
        allowed,
        limits: limits(),
        announcement: None,
        notice: Rc::new(|_| {}),
    };
    assert!(matches!(Entrance::open(options), Err(SocketError::Anonymous { .. })));
}

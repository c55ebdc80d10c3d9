//! The end of a server.

use super::*;

#[test]
fn what_runs_is_finished_and_the_idle_are_closed() {
    let mut house = house();
    let mut idle = house.connect();
    assert_eq!(idle.get("/").0, 200);
    let mut new = house.connect();
    let mut half = house.connect();
    half.say("GET / HT");
    let mut busy = house.connect();
    // Its answer waits for the end to begin.
    busy.call("/gate");
    until("it waits", || house.alive() == 1);
    let (path, ending) = (house.path.clone(), thread::spawn(move || (house.end(), house)));
    let head = busy.head();
    assert!(head.starts_with("http/1.1 200") && head.contains("connection: close"), "{head}");
    assert_eq!(busy.rest(), "open");
    assert_eq!((idle.rest(), new.rest(), half.rest()), Default::default());
    let (drained, _house) = ending.join().unwrap();
    assert_eq!(drained, Drained::Clean);
    assert!(UnixStream::connect(path).is_err());
}

#[test]
fn what_does_not_end_is_cut_off_and_counted() {
    let mut house = house_within(Duration::from_secs(1), limits(), |_| {});
    let mut clients: Vec<Client> = (0..3).map(|_| house.connect()).collect();
    clients[0].call("/never");
    clients[1].call("/silence");
    clients[2].call("/flood");
    until("they run", || house.alive() == 3);
    let seen = Arc::clone(&house.seen);
    assert_eq!(house.end(), Drained::Cut(3));
    assert_eq!(seen.alive.load(Ordering::SeqCst), 0);
}

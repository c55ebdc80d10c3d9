//! The queue, the lines, and a writer that nobody reads.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::time::UNIX_EPOCH;

use glommio::timer::sleep;
use glommio::{LocalExecutorBuilder, Placement, spawn_local};

use super::*;

fn access() -> Access {
    Access {
        id: 12,
        priority: Priority::High,
        prompt_tokens: 34,
        answer_tokens: 128,
        queued: Duration::from_micros(1200),
        first_token: Some(Duration::from_micros(88_042)),
        taken: Duration::from_millis(5_600),
        speed: Some(23.14),
        end: "stop",
    }
}

fn line(style: Style, what: What) -> String {
    let time = UNIX_EPOCH + Duration::from_millis(1_735_689_599_007);
    let mut text = String::new();
    style.line(&Record { time, what }, &mut text);
    text
}

#[test]
fn lines_for_people() {
    let said = line(Style::Text, What::Words(Level::Warn, "a\nb \u{1b}[31mred".into()));
    assert_eq!(said, "2024-12-31T23:59:59.007Z warn  a\\nb \\u{1b}[31mred\n");
    assert_eq!(
        line(Style::Text, What::Access(access())),
        "2024-12-31T23:59:59.007Z info  request 12 high stop, 34 + 128 tokens, 1.2 ms queued, \
         first token 88.0 ms, 23.1 tok/s, 5600.0 ms in all\n"
    );
}

#[test]
fn lines_for_programs() {
    let said = line(Style::Json, What::Words(Level::Error, "a \"b\"\n".into()));
    let value: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(
        (value["level"].as_str(), value["message"].as_str()),
        (Some("error"), Some("a \"b\"\n"))
    );
    assert_eq!(
        line(Style::Json, What::Access(access())),
        "{\"time\":\"2024-12-31T23:59:59.007Z\",\"level\":\"info\",\"message\":\"request\",\
         \"id\":12,\"priority\":\"high\",\
         \"prompt_tokens\":34,\"answer_tokens\":128,\"queue_ms\":1.2,\"first_token_ms\":88.042,\
         \"total_ms\":5600.0,\"tokens_per_second\":23.1,\"end\":\"stop\"}\n"
    );
}

#[test]
fn what_finds_no_room_is_counted_and_said() {
    let log = Log::with_room(Level::Info, Style::Text, 3);
    log.say(Level::Debug, "not heard");
    (0..5).for_each(|i| log.say(Level::Info, format!("record {i}")));
    assert_eq!(log.dropped(), 2);
    let Piece { text, records, said } = log.take();
    assert_eq!((text.lines().count(), records, said), (4, 3, 2));
    assert!(text.ends_with("warn  2 records dropped: nobody took them as fast as they came\n"));
    log.access(access());
    assert_eq!((log.take().text.lines().count(), log.dropped()), (1, 2));
}

#[test]
fn names_are_read_as_they_are_written() {
    assert!(Level::ALL.iter().all(|level| level.to_string().parse() == Ok(*level)));
    assert!(
        ["text", "json"].iter().all(|style| style.parse::<Style>().unwrap().to_string() == *style)
    );
    assert!("loud".parse::<Level>().is_err() && "xml".parse::<Style>().is_err());
}

/// A disk that is full is an error of every write, and the writer goes on to the next.
#[test]
fn what_cannot_be_written_is_counted() {
    let builder = LocalExecutorBuilder::new(Placement::Unbound).io_memory(64 << 10);
    builder.make().unwrap().run(async {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let log = Log::new(Level::Info, Style::Json);
        (0..3).for_each(|_| log.access(access()));
        log.close();
        // Which ends: what was dropped is not said to the same full disk for ever.
        log.clone().write(Sink::of(full.into())).await;
        log.access(access());
        let Piece { text, records, said } = log.take();
        assert_eq!((log.dropped(), records, said), (3, 1, 3));
        assert!(text.contains("3 records dropped"));
    });
}

/// With a pipe that is full the reactor goes on, records are dropped, and once somebody reads, the
/// rest comes with the count.
#[test]
fn a_pipe_that_nobody_reads_stops_nothing() {
    let builder = LocalExecutorBuilder::new(Placement::Unbound).io_memory(64 << 10);
    builder.make().unwrap().run(async {
        let (mut reader, mut writer) = io::pipe().unwrap();
        // Until it takes no more, by a writer that never waits.
        let fd: OwnedFd = writer.try_clone().unwrap().into();
        let log = Log::with_room(Level::Info, Style::Text, 100);
        writer.write_all(b"begin\n").unwrap();
        drop(writer);
        let task = spawn_local(log.clone().write(Sink::of(fd))).detach();
        let mut ticks = 0;
        // A pipe holds less than this.
        while log.dropped() < 10 {
            (0..50).for_each(|i| log.say(Level::Info, format!("{i:01000}")));
            sleep(Duration::from_micros(100)).await;
            ticks += 1;
            assert!(ticks < 100_000, "a pipe without end");
        }
        for _ in 0..10 {
            sleep(Duration::from_millis(1)).await;
        }
        let dropped = log.dropped();
        log.close();
        let thread = std::thread::spawn(move || {
            let mut all = String::new();
            reader.read_to_string(&mut all).unwrap();
            all
        });
        task.await;
        // The descriptor is closed by the reactor.
        while !thread.is_finished() {
            sleep(Duration::from_millis(1)).await;
        }
        let all = thread.join().unwrap();
        assert!(all.starts_with("begin\n"));
        let said = all.lines().filter_map(|line| {
            line.split_once("warn  ")?.1.split_once(" record")?.0.parse::<u64>().ok()
        });
        assert_eq!(said.clone().sum::<u64>(), dropped);
        assert_eq!((all.lines().count() - said.count()) as u64, 1 + ticks * 50 - dropped);
    });
}

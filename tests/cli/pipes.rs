//! Pipes that close, disks that are full, and signals.

use std::fs::{self, OpenOptions};
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::{judged, never_ending, penstock, signal};

/// Commands that print, each with more than a pipe's reader may want.
const PRINT: &[&[&str]] = &[
    &["--help"],
    &["run", "demo", "hello", "-n", "9"],
    &["run", "demo", "hello", "-n", "9", "--json"],
    &["inspect", "demo"],
    &["inspect", "demo", "--json"],
    &["tokenize", "demo", "hello"],
    &["tokenize", "demo", "hello", "--ids"],
    &["perplexity", "demo", concat!(env!("CARGO_MANIFEST_DIR"), "/README.md"), "--windows", "1"],
];

#[test]
fn a_reader_that_has_left_is_no_failure() {
    for args in PRINT {
        let mut child = penstock().args(*args).spawn().unwrap();
        drop(child.stdout.take());
        let ran = judged(child.wait_with_output().unwrap());
        assert_eq!(ran.code, Some(0), "{args:?}: {}", ran.err);
        assert!(!ran.err.contains("penstock:"), "{args:?}: {}", ran.err);
    }
}

/// An answer that nobody reads any more is not written on.
#[test]
fn an_endless_answer_ends_with_its_reader() {
    let mut child = penstock().args(["run", "demo", "hello"]).args(never_ending()).spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    out.read_exact(&mut [0; 1]).unwrap();
    drop(out);
    assert_eq!(judged(child.wait_with_output().unwrap()).code, Some(0));
}

#[test]
fn a_full_disk_is_a_failure_on_output_and_not_on_remarks() {
    let full = || Stdio::from(OpenOptions::new().write(true).open("/dev/full").unwrap());
    for args in PRINT {
        let output = penstock().args(*args).stdout(full()).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        let output = penstock().args(*args).stderr(full()).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert!(!output.stdout.is_empty());
    }
    for (args, code) in [(&["nonsense"][..], 2), (&["inspect", "nosuch"], 1)] {
        let output = penstock().args(args).stderr(full()).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}");
    }
}

/// A signal ends an answer where it is: what was written is whole, and the shell sees the signal.
#[test]
fn a_signal_ends_an_answer_in_order() {
    for (name, number) in [("-INT", 2), ("-TERM", 15), ("-HUP", 1)] {
        for json in [false, true] {
            let mut command = penstock();
            command.args(["run", "demo", "hello"]).args(never_ending());
            if json {
                command.arg("--json");
            }
            let mut child = command.spawn().unwrap();
            let mut start = [0; 1];
            match json {
                true => std::thread::sleep(Duration::from_millis(300)),
                false => child.stdout.as_mut().unwrap().read_exact(&mut start).unwrap(),
            }
            signal(&child, name);
            let output = child.wait_with_output().unwrap();
            assert_eq!(output.status.signal(), Some(number));
            let ran = judged(output);
            assert!(ran.out.ends_with('\n'));
            assert!(ran.err.lines().last().unwrap().contains("tok/s"), "{}", ran.err);
            if json {
                let object: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
                assert_eq!(object["end"], "cancelled");
            }
        }
    }
}

#[test]
fn a_signal_leaves_no_part_of_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (ids, text, out) = (path("ids"), path("text"), path("out.npy"));
    fs::write(&ids, "5 ".repeat(100_000)).unwrap();
    fs::write(&text, "no end ".repeat(100_000)).unwrap();
    let ids = format!("@{ids}");
    for args in [
        &["logits", "demo", "--tokens", &ids, "--out", &out][..],
        &["perplexity", "demo", &text, "--save-logits", &out],
    ] {
        let child = penstock().args(args).spawn().unwrap();
        let begun = Instant::now();
        while fs::read_dir(folder.path()).unwrap().count() < 3 {
            assert!(begun.elapsed() < Duration::from_secs(30), "{args:?} writes nothing");
            std::thread::sleep(Duration::from_millis(5));
        }
        signal(&child, "-TERM");
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.signal(), Some(15), "{args:?}");
        assert_eq!(output.stderr, b"");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "{args:?}");
    }
}

/// While standard input is read, a signal does what it does to `cat`.
#[test]
fn a_signal_ends_the_wait_for_a_prompt() {
    let mut child = penstock().args(["run", "demo"]).stdin(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    signal(&child, "-INT");
    assert_eq!(child.wait().unwrap().signal(), Some(2));
}

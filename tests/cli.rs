//! The program as a user meets it: exit codes, sentences, files, pipes, signals, a terminal.
//!
//! Nothing here depends on the words the demo model knows.

#[path = "cli/answers.rs"]
mod answers;
#[path = "cli/chat.rs"]
mod chat;
#[path = "cli/files.rs"]
mod files;
#[path = "support/gguf_writer.rs"]
mod gguf_writer;
#[path = "support/npy.rs"]
mod npy;
#[path = "cli/pipes.rs"]
mod pipes;
#[path = "cli/sentences.rs"]
mod sentences;
#[path = "cli/sparse.rs"]
mod sparse;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

fn penstock() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_penstock"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn reference(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference").join(name)
}

/// What a command did.
struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Ran {
    #[track_caller]
    fn json(&self) -> Value {
        assert_eq!(self.code, Some(0), "{}", self.err);
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {}", self.out))
    }
}

/// Holds for every command, whatever it was asked: no panic, and a failure is one sentence.
#[track_caller]
fn judged(output: Output) -> Ran {
    let ran = Ran {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    };
    for word in ["panicked", "RUST_BACKTRACE", "Os {", "Some(", "Err("] {
        assert!(!ran.err.contains(word), "{}", ran.err);
    }
    match ran.code {
        Some(1) => {
            let last = ran.err.lines().last().unwrap_or_default();
            assert!(last.starts_with("penstock: ") && last.len() > 20, "{}", ran.err);
        }
        Some(2) => assert!(ran.err.contains("Usage") || ran.err.contains("--help"), "{}", ran.err),
        _ => {}
    }
    ran
}

#[track_caller]
fn run(args: &[&str]) -> Ran {
    judged(penstock().args(args).output().unwrap())
}

#[track_caller]
fn run_with_input(args: &[&str], input: &[u8]) -> Ran {
    let mut child = penstock().args(args).stdin(Stdio::piped()).spawn().unwrap();
    // The command may have refused and gone before it read.
    let _ = child.stdin.take().unwrap().write_all(input);
    judged(child.wait_with_output().unwrap())
}

/// Options that keep the demo model writing, whatever it was taught about endings.
fn never_ending() -> Vec<String> {
    let ends = run(&["inspect", "demo", "--json"]).json()["tokenizer"]["ends"].clone();
    let ends = ends.as_array().unwrap();
    assert!(!ends.is_empty());
    let options = ends.iter().map(|id| format!("--logit-bias={id}=-inf"));
    options.chain(["--context=200000".into()]).collect()
}

fn signal(child: &Child, name: &str) {
    let pid = child.id().to_string();
    assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
}

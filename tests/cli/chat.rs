//! A conversation on a terminal, which script(1) makes.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::never_ending;

const CTRL_C: &str = "\x03";
const CTRL_D: &str = "\x04";
const UP: &str = "\x1b[A";

struct Terminal {
    child: Child,
    keys: ChildStdin,
    screen: Receiver<Vec<u8>>,
    /// What was shown and not yet expected.
    shown: String,
}

impl Terminal {
    fn open(command: &str) -> Terminal {
        let mut child = Command::new("script")
            .args(["-qefc", command, "/dev/null"])
            .env("TERM", "xterm")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("script(1), of util-linux, makes the terminal");
        let mut out = child.stdout.take().unwrap();
        let (sender, screen) = channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = out.read(&mut buffer) {
                if sender.send(buffer[..n].to_vec()).is_err() {
                    return;
                }
            }
        });
        let keys = child.stdin.take().unwrap();
        Terminal { child, keys, screen, shown: String::new() }
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
        self.keys.flush().unwrap();
    }

    /// Waits until `words` are shown and returns what came before them.
    #[track_caller]
    fn expect(&mut self, words: &str) -> String {
        let begun = Instant::now();
        loop {
            if let Some(at) = self.shown.find(words) {
                let before = self.shown[..at].to_string();
                self.shown.drain(..at + words.len());
                return before;
            }
            let left = Duration::from_secs(20).saturating_sub(begun.elapsed());
            match self.screen.recv_timeout(left) {
                Ok(bytes) => self.shown += &String::from_utf8_lossy(&bytes),
                Err(_) => panic!("{words:?} is not shown, but {:?}", self.shown),
            }
        }
    }

    #[track_caller]
    fn ends_with(mut self, code: i32) {
        assert_eq!(self.child.wait().unwrap().code(), Some(code), "{:?}", self.shown);
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // A test that failed must not leave an endless answer behind; a hang-up ends it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn chat(options: &[String]) -> Terminal {
    let program = env!("CARGO_BIN_EXE_penstock");
    // In place of the shell, which would take Ctrl-C for itself and leave with 130 at the end.
    let mut terminal = Terminal::open(&format!("exec '{program}' run demo {}", options.join(" ")));
    terminal.expect("/help lists commands");
    terminal.expect("> ");
    terminal
}

#[test]
fn a_conversation() {
    let mut terminal = chat(&["-n 6".into()]);
    terminal.press("/help\r");
    terminal.expect("  /retry");
    terminal.expect("> ");
    terminal.press("/retry\r");
    terminal.expect("nothing to answer yet");
    terminal.expect("> ");
    terminal.press("Grüße, 世界\r");
    terminal.expect("answer ");
    terminal.expect("> ");
    terminal.press("/retry\r");
    terminal.expect("answer ");
    terminal.expect("> ");
    // The first turn is kept, so that little of the second prompt is computed.
    terminal.press("and more\r");
    terminal.expect(" kept)");
    terminal.expect("> ");
    terminal.press(UP);
    terminal.expect("and more");
    terminal.press("\r");
    terminal.expect("answer ");
    terminal.expect("> ");
    terminal.press("/nonsense\r");
    terminal.expect("/nonsense is not a command");
    terminal.expect("> ");
    terminal.press("/system Be brief.\r");
    terminal.expect("begins anew");
    terminal.expect("> ");
    terminal.press(CTRL_C);
    terminal.expect("Ctrl-D or /exit leaves");
    terminal.expect("> ");
    terminal.press("/exit\r");
    terminal.ends_with(0);
}

#[test]
fn ctrl_c_stops_the_answer_and_not_the_program() {
    let mut terminal = chat(&never_ending());
    for _ in 0..2 {
        terminal.press("go on\r");
        terminal.expect("go on");
        // Well into the answer, whatever its words are.
        thread::sleep(Duration::from_millis(400));
        terminal.press(CTRL_C);
        terminal.expect("answer ");
        terminal.expect("> ");
    }
    terminal.press(CTRL_D);
    terminal.ends_with(0);
}

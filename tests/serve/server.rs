//! A server in a folder of its own, stopped when the test is over.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::client::{Answer, Client};

pub struct Server {
    child: Child,
    pub folder: tempfile::TempDir,
    pub model: String,
    args: Vec<String>,
    /// Blocks of 512 bytes that a file it writes may have.
    blocks: Option<usize>,
    /// Descriptors it held when it was ready.
    open: usize,
}

/// The program, whose files may have so many blocks of 512 bytes.
pub fn penstock(blocks: Option<usize>) -> Command {
    let program = env!("CARGO_BIN_EXE_penstock");
    let Some(blocks) = blocks else { return Command::new(program) };
    let mut command = Command::new("bash");
    // A block of its `ulimit -f` has 512 bytes in this mode alone.
    let script = "set -o posix; ulimit -f \"$0\"; exec \"$@\"";
    command.args(["-c", script, &blocks.to_string(), program]);
    command
}

/// What a server says that does not start with these options.
#[track_caller]
pub fn refused(model: &str, args: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let output = penstock(None)
        .args(["serve", model, "--cores", "1", "--socket"])
        .arg(folder.path().join("socket"))
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    said
}

/// The budget that the refusal of too little names: with it, it works.
#[track_caller]
pub fn least_memory(model: &str, args: &[&str]) -> String {
    let said = refused(model, &[args, &["--memory", "1MiB"]].concat());
    let after = said.split("with --memory ").nth(1).unwrap_or_else(|| panic!("{said}"));
    after.split([' ', ',', ';', '\n']).next().unwrap().to_owned()
}

impl Server {
    /// `penstock serve MODEL` with these options.
    #[track_caller]
    pub fn start(model: &str, args: &[&str]) -> Server {
        Server::start_with(model, args, None)
    }

    /// One whose files may not grow beyond so many blocks of 512 bytes.
    #[track_caller]
    pub fn limited(model: &str, args: &[&str], blocks: usize) -> Server {
        Server::start_with(model, args, Some(blocks))
    }

    #[track_caller]
    fn start_with(model: &str, args: &[&str], blocks: Option<usize>) -> Server {
        let folder = tempfile::tempdir().unwrap();
        let mut args: Vec<String> = args.iter().map(|arg| arg.to_string()).collect();
        // Shards that wait for each other spin, and tests run side by side.
        if !args.iter().any(|arg| arg == "--cores") {
            args.extend(["--cores".into(), "1".into()]);
        }
        let child = Command::new("true").spawn().unwrap();
        let mut server = Server { child, folder, model: model.into(), args, blocks, open: 0 };
        server.again();
        server
    }

    /// Starts the program anew on the same socket.
    #[track_caller]
    pub fn again(&mut self) {
        let _ = self.child.wait();
        let log = fs::File::create(self.folder.path().join("log")).unwrap();
        self.child = penstock(self.blocks)
            .args(["serve", &self.model, "--socket"])
            .arg(self.socket())
            .args(&self.args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.wait_for("ready", |server| {
            assert!(server.child.try_wait().unwrap().is_none(), "it ended: {}", server.log());
            server.is_ready().unwrap_or(false)
        });
        self.open = self.descriptors();
    }

    /// Fails where nobody listens yet, or one who was killed is still being taken away.
    fn is_ready(&self) -> io::Result<bool> {
        let mut stream = UnixStream::connect(self.socket())?;
        stream.write_all(b"GET /health/ready HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer.split(' ').nth(1) == Some("200"))
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn client(&self) -> Client {
        Client::connect(&self.socket())
    }

    pub fn get(&self, path: &str) -> Answer {
        let mut client = self.client();
        client.send("GET", path, &[], b"");
        client.answer()
    }

    pub fn post(&self, path: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
        let mut client = self.client();
        let headers = [headers, &[("content-type", "application/json")]].concat();
        client.send("POST", path, &headers, body.to_string().as_bytes());
        client.answer()
    }

    /// The sum of a metric over all its labels that hold this text.
    #[track_caller]
    pub fn metric(&self, name: &str, labels: &str) -> f64 {
        let answer = self.get("/metrics");
        let text = String::from_utf8(answer.body).unwrap();
        let mut found = text
            .lines()
            .filter(|line| line.starts_with(name) && line.contains(labels))
            .filter(|line| line[name.len()..].starts_with(['{', ' ']))
            .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
            .peekable();
        assert!(found.peek().is_some(), "no {name} {labels} in\n{text}");
        found.sum()
    }

    /// Looks until it is so. What never comes fails the test.
    #[track_caller]
    pub fn wait_for(&mut self, what: &str, mut so: impl FnMut(&mut Server) -> bool) {
        let began = Instant::now();
        while !so(self) {
            assert!(began.elapsed() < Duration::from_secs(120), "never {what}: {}", self.log());
            sleep(Duration::from_millis(10));
        }
    }

    /// Descriptors the program holds.
    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }

    pub fn signal(&self, name: &str) {
        let pid = self.pid().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    /// Waits for its end.
    pub fn ended(&mut self) -> ExitStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(began.elapsed() < Duration::from_secs(120), "it does not end: {}", self.log());
            sleep(Duration::from_millis(10));
        }
    }

    /// Holds whenever nobody is being answered: nothing leaks.
    #[track_caller]
    pub fn is_empty(&mut self) {
        self.wait_for("empty", |server| {
            server.metric("penstock_requests_running", "") == 0.0
                && server.metric("penstock_requests_waiting", "") == 0.0
                && server.metric("penstock_pages_held", "") == 0.0
                // The connection of the count itself comes and goes.
                && server.descriptors() <= server.open + 1
        });
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the server said:\n{}", self.log());
        }
    }
}

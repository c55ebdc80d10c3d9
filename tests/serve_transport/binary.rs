//! The program itself: under a hand, under systemd, and with an orchestrator.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::process::{Child, Command, Stdio};

use super::*;

/// A server that is a process.
struct Server {
    child: Child,
    path: PathBuf,
    folder: tempfile::TempDir,
}

fn arguments(path: &Path) -> [String; 7] {
    let path = path.to_str().unwrap();
    ["serve", "demo", "--cores", "1", "--memory", "512MiB", &format!("--socket={path}")]
        .map(String::from)
}

/// Changes what is run in the folder that the socket is in.
fn server(change: impl FnOnce(&mut Command, &Path)) -> Server {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.sock");
    let mut command = Command::new(env!("CARGO_BIN_EXE_penstock"));
    command.args(arguments(&path)).stdin(Stdio::null()).stderr(Stdio::piped());
    change(&mut command, folder.path());
    let server = Server { child: command.spawn().unwrap(), path, folder };
    until("it listens", || UnixStream::connect(&server.path).is_ok());
    server
}

impl Server {
    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    /// Its exit code, and what it said.
    fn wait(&mut self) -> (Option<i32>, String) {
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (self.child.wait().unwrap().code(), said)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn health(path: &Path) -> u16 {
    Client::connect(path).get("/health").0
}

#[test]
fn it_says_what_it_serves_and_leaves_in_order() {
    let mut server = server(|_, _| {});
    assert_eq!(health(&server.path), 200);
    server.signal("TERM");
    let (code, said) = server.wait();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("serves demo"), "{said}");
    assert!(said.contains(server.path.to_str().unwrap()), "{said}");
    assert!(said.lines().count() <= 24 && said.lines().all(|line| line.len() < 160), "{said}");
    assert!(!server.path.exists());
}

#[test]
fn a_killed_server_leaves_a_file_that_the_next_takes() {
    let mut first = server(|_, _| {});
    first.child.kill().unwrap();
    first.child.wait().unwrap();
    assert!(first.path.exists());
    let mut command = Command::new(env!("CARGO_BIN_EXE_penstock"));
    command.args(arguments(&first.path)).stdin(Stdio::null()).stderr(Stdio::piped());
    first.child = command.spawn().unwrap();
    // The first one's socket still takes connections until the kernel has closed it.
    until("the second answers", || {
        UnixStream::connect(&first.path).is_ok()
            && Client::connect(&first.path).gets("/health").is_some_and(|(status, _)| status == 200)
    });
    // A third is told who is there.
    let mut command = Command::new(env!("CARGO_BIN_EXE_penstock"));
    let third = command.args(arguments(&first.path)).output().unwrap();
    let said = String::from_utf8(third.stderr).unwrap();
    assert_eq!(third.status.code(), Some(1));
    assert!(said.contains("another server listens"), "{said}");
    assert_eq!(health(&first.path), 200);
}

#[test]
fn descriptors_return_to_where_they_began() {
    let server = server(|_, _| {});
    assert_eq!(health(&server.path), 200);
    let quiet = server.descriptors();
    // It may have been counted with the connection that asked.
    let settled = || server.descriptors() <= quiet;
    let mut clients: Vec<Client> = (0..400).map(|_| Client::connect(&server.path)).collect();
    until("all are let in", || server.descriptors() >= quiet + 390);
    for (i, client) in clients.iter_mut().enumerate() {
        match i % 4 {
            0 => client.call("/health"),
            1 => client.say("GET /heal"),
            2 => client.say("\x01\x02\x03 garbage\r\n\r\n"),
            _ => {}
        }
    }
    drop(clients);
    until("all are gone", settled);
    assert_eq!(health(&server.path), 200);
    until("the last is gone", settled);
}

#[test]
fn sockets_are_taken_over_from_a_parent() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("handed.sock");
    let listener = UnixListener::bind(&path).unwrap();
    // A client that comes before the server does is served.
    let mut early = Client::connect(&path);
    early.call("/health");
    let mut command = Command::new("sh");
    let script = "exec 3<&0 0</dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" \"$@\"";
    command.args(["-c", script, env!("CARGO_BIN_EXE_penstock")]);
    command.args(["serve", "demo", "--cores", "1", "--memory", "512MiB"]);
    command.stdin(Stdio::from(OwnedFd::from(listener))).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let mut server = Server { child, path, folder };
    assert_eq!(early.answer().0, 200);
    assert_eq!(health(&server.path), 200);
    server.signal("TERM");
    let (code, said) = server.wait();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("handed.sock"), "{said}");
    assert!(server.path.exists(), "the file is the parent's");
    assert!(server.folder.path().exists());
}

#[test]
fn systemd_hears_of_it() {
    let hearing = tempfile::tempdir().unwrap();
    let heard = hearing.path().join("notify");
    let ear = UnixDatagram::bind(&heard).unwrap();
    ear.set_read_timeout(Some(PATIENCE)).unwrap();
    let next = |wanted: &str| {
        let mut words = [0; 512];
        loop {
            let count = ear.recv(&mut words).unwrap();
            if String::from_utf8_lossy(&words[..count]).lines().any(|line| line == wanted) {
                return;
            }
        }
    };
    let mut server = server(|command, _| {
        command.env("NOTIFY_SOCKET", &heard).env("WATCHDOG_USEC", "100000");
    });
    next("READY=1");
    next("WATCHDOG=1");
    next("WATCHDOG=1");
    server.signal("INT");
    next("STOPPING=1");
    assert_eq!(server.wait().0, Some(0));
}

#[test]
fn an_orchestrator_is_told_until_it_hears() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("orchestrator");
    let orchestrator = UnixListener::bind(&path).unwrap();
    let hears = |status: &str| {
        let (stream, _) = orchestrator.accept().unwrap();
        let mut client = Client { stream, ahead: Vec::new() };
        let head = client.head();
        assert!(head.starts_with("post /workers http/1.1"), "{head}");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.unwrap().parse().unwrap();
        while client.ahead.len() < length {
            assert!(client.more());
        }
        // Who says good-bye does not wait for long.
        let thanks = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
        let _ = client.stream.write_all(thanks.as_bytes());
        serde_json::from_slice::<serde_json::Value>(&client.ahead).unwrap()
    };
    let url = format!("unix://{}:/workers", path.display());
    let mut server = server(|command, _| {
        command.args(["--worker-id", "w7", "--callback-url", &url]);
    });
    let first = hears("500 Not Yet");
    assert_eq!(first["ready"], true);
    assert_eq!(first["worker_id"], "w7");
    assert_eq!(first["model"], "demo");
    assert_eq!(first["socket"], server.path.to_str().unwrap());
    assert_eq!(first["pid"], server.child.id());
    // Whatever it says, clients are served.
    assert_eq!(health(&server.path), 200);
    assert_eq!(hears("200 OK"), first);
    server.signal("TERM");
    assert_eq!(hears("200 OK")["ready"], false);
    assert_eq!(server.wait().0, Some(0));
}

#[test]
fn a_second_signal_stops_at_once() {
    let mut server = server(|_, _| {});
    // A call whose body never comes would be waited for.
    let mut client = Client::connect(&server.path);
    client.say("POST /x HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n");
    // It is being read once it is asked for.
    assert_eq!(status(&client.head()), 100);
    server.signal("TERM");
    until("it begins to end", || !server.path.exists());
    assert!(server.child.try_wait().unwrap().is_none(), "it did not wait");
    server.signal("TERM");
    assert_eq!(server.wait().0, Some(128 + 15));
}

//! Clients that nobody here wrote: OpenAI's own, and Prometheus' parser.
//!
//! They are Python packages. Where there is no Python or no package registry, this says so and
//! checks nothing.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::server::Server;

/// A Python that has them: made once, beside other things that are built.
fn python() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("clients");
    let python = folder.join("bin/python");
    let quiet = |command: &mut Command| {
        let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    };
    let has = || quiet(Command::new(&python).args(["-c", "import openai, prometheus_client"]));
    if has() {
        return Some(python);
    }
    let made = quiet(Command::new("python3").args(["-m", "venv"]).arg(&folder))
        && quiet(Command::new(&python).args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--timeout=10",
            "--retries=1",
            "openai",
            "prometheus-client",
        ]));
    (made && has()).then_some(python)
}

#[test]
fn openai_and_prometheus_are_served() {
    let Some(python) = python() else {
        return eprintln!("not checked: openai and prometheus-client cannot be installed here");
    };
    let server = Server::start("demo", &["--context", "20000"]);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/openai_client.py");
    let ran =
        Command::new(&python).arg(script).arg(server.socket()).arg("--forms").output().unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{said}{}", String::from_utf8_lossy(&ran.stderr));

    let metrics = server.folder.path().join("metrics");
    std::fs::write(&metrics, server.get("/metrics").body).unwrap();
    let script = "import sys\n\
        from prometheus_client.parser import text_string_to_metric_families as families\n\
        names = {family.name for family in families(open(sys.argv[1]).read())}\n\
        assert 'penstock_first_token_seconds' in names, names";
    let ran = Command::new(&python).args(["-c", script]).arg(metrics).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
}

//! Random models: whole files of every family and format, opened and run by this engine.

use std::fs;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output};
use std::rc::Rc;

use penstock::engine::{Engine, Error, Options};
use penstock::math::Format;
use penstock::model::synth::{self, Recipe};
use penstock::model::{Model, Text};
use penstock::shard::now;
use penstock::weights::{DType, Source};

fn write(recipe: &Recipe, path: &Path) {
    let file = recipe.write(Vec::new(), |_| Ok(())).unwrap();
    fs::write(path, file).unwrap();
}

fn penstock(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_penstock")).arg("synth").args(args).output().unwrap()
}

fn formats() -> impl Iterator<Item = Format> {
    Format::ALL.into_iter().filter(|format| *format != Format::F8E4M3)
}

/// Logits are finite, neither constant nor overwhelmed by one token, and differ by context.
fn speaks(source: &Source, what: &str) {
    let model = Rc::new(Model::open(source).unwrap_or_else(|e| panic!("{what}: {e}")));
    let text = Text::open(source).unwrap_or_else(|e| panic!("{what}: {e}"));
    let tokens = text.continue_tokens("Hello, w\u{f6}rld! hello").unwrap();
    assert!(tokens.len() > 3, "{what}: {tokens:?}");
    let mut rows: Vec<Vec<f32>> = Vec::new();
    let options = Options { context: Some(tokens.len()), ..Options::default() };
    let mut engine = Engine::new(model, options).unwrap();
    now(engine.logits::<Error>(&tokens, |_, row| {
        rows.push(row.to_vec());
        Ok(())
    }))
    .unwrap();
    for row in &rows {
        let mean = row.iter().sum::<f32>() / row.len() as f32;
        let spread =
            (row.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / row.len() as f32).sqrt();
        assert!(spread > 0.3 && spread < 3.0, "{what}: logits spread by {spread}");
        assert!(mean.abs() < 0.5, "{what}: logits around {mean}");
    }
    assert_ne!(rows[0], rows[1], "{what}");
}

#[test]
fn every_family_is_written_opened_and_run() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    for shape in synth::ALL {
        for quant in [Format::Q4K, Format::Q8_0, Format::MXFP4, Format::BF16] {
            let name = format!("tiny-{}", shape.name);
            let what = format!("{name} {quant}");
            let recipe = Recipe::new(&name, quant, None, 0.5, 1).unwrap();
            write(&recipe, &path);
            let source = Source::open(&path).unwrap_or_else(|e| panic!("{what}: {e}"));
            speaks(&source, &what);
            let sizes = penstock::model::sizes::Sizes::new(
                &source,
                &penstock::model::config::read(&source).unwrap(),
            );
            assert_eq!(sizes.parameters, recipe.parameters(), "{what}");
            let parts = (sizes.active_parameters as f64) / recipe.active_parameters() as f64;
            assert!((parts - 1.0).abs() < 1e-6, "{what}: {parts}");
        }
    }
}

#[test]
fn every_format_is_written_opened_and_run() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    for quant in formats() {
        write(&Recipe::new("tiny", quant, None, 0.0, 1).unwrap(), &path);
        let source = Source::open(&path).unwrap();
        speaks(&source, quant.name());
        let experts = source.tensor("blk.0.ffn_gate_exps.weight").unwrap();
        assert_eq!(experts.dtype, DType::Weights(quant));
    }
}

#[test]
fn rows_that_blocks_do_not_divide_take_the_substitute() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    for (quant, substitute) in [
        (Format::Q2K, Format::Q4_0),
        (Format::Q3K, Format::Q4_0),
        (Format::Q4K, Format::Q5_0),
        (Format::Q5K, Format::Q5_1),
        (Format::Q6K, Format::Q8_0),
        (Format::IQ4XS, Format::IQ4NL),
        (Format::Q4_0, Format::Q4_0),
    ] {
        write(&Recipe::new("tiny-gpt-oss-20b", quant, None, 0.0, 1).unwrap(), &path);
        let source = Source::open(&path).unwrap();
        let dtype = |name: &str| source.tensor(name).unwrap().dtype;
        assert_eq!(dtype("blk.0.attn_q.weight"), DType::Weights(substitute));
        assert_eq!(dtype("blk.0.attn_output.weight"), DType::Weights(quant));
        assert_eq!(dtype("blk.0.ffn_up_exps.weight"), DType::Weights(Format::MXFP4));
        assert_eq!(dtype("blk.0.ffn_gate_inp.weight"), DType::Weights(Format::F32));
    }
}

#[test]
fn options_decide_every_byte() {
    let make = |layers, skew, seed| {
        let recipe = Recipe::new("tiny", Format::Q4K, layers, skew, seed).unwrap();
        recipe.write(Vec::new(), |_| Ok(())).unwrap()
    };
    let base = make(None, 0.0, 0);
    assert!(base == make(Some(2), 0.0, 0), "two layers are what it has");
    for other in [make(Some(1), 0.0, 0), make(None, 0.5, 0), make(None, 0.0, 1)] {
        assert!(base != other);
    }
}

/// The shapes as `penstock inspect` would show them: the numbers of the published models.
#[test]
fn shapes_are_those_of_the_models() {
    let known = [
        ("olmoe-1b-7b", 6.92, 1.18),
        ("qwen3-30b-a3b", 30.53, 3.04),
        ("gpt-oss-20b", 20.91, 3.03 + 0.58),
        ("mixtral-8x7b", 46.70, 12.75),
        ("deepseek-v2-lite", 15.71, 2.45),
        ("llama-1b", 1.236, 1.236),
        ("qwen3-0.6b", 0.596, 0.596),
    ];
    for (name, all, active) in known {
        let recipe = Recipe::new(name, Format::Q4K, None, 0.0, 0).unwrap();
        for (what, found, expected) in
            [("all", recipe.parameters(), all), ("active", recipe.active_parameters(), active)]
        {
            let found = found as f64 / 1e9;
            assert!((found / expected - 1.0f64).abs() < 0.05, "{name}, {what}: {found}");
        }
    }
}

#[test]
fn the_command_writes_a_file_or_says_why_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let out = path.to_str().unwrap();
    fs::write(&path, "what was there before").unwrap();
    let written = penstock(&["--shape", "tiny", "--quant", "Q6_K", "--layers", "1", out]);
    assert!(written.status.success(), "{written:?}");
    assert!(String::from_utf8_lossy(&written.stderr).contains("1 layer,"), "{written:?}");
    speaks(&Source::open(&path).unwrap(), "from the command");

    let list = penstock(&["--shape", "list"]);
    assert!(String::from_utf8_lossy(&list.stdout).contains("qwen3-30b-a3b"), "{list:?}");

    for (args, code, word) in [
        (&["--shape", "tiny"][..], 2, "where to write"),
        (&["--shape", "gpt-5", out], 2, "olmoe-1b-7b"),
        (&["--shape", "tiny", "--quant", "q9", out], 2, "mxfp4"),
        (&["--shape", "tiny", "--quant", "f8_e4m3", out], 2, "mxfp4"),
        (&["--shape", "tiny", "--skew", "nan", out], 2, "0 to 4"),
        (&["--shape", "tiny", "--layers", "0", out], 2, "1 to 1000"),
        (&["--shape", "tiny", "/nowhere/m.gguf"], 1, "cannot write /nowhere/m.gguf"),
        (&["--shape", "tiny", folder.path().to_str().unwrap()], 1, "folder"),
    ] {
        let refused = penstock(args);
        let said = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(code), "{args:?}: {said}");
        assert!(said.contains(word), "{args:?}: {said}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "a partial file was left");
}

/// A writer that is full after some bytes.
struct Small(usize);

impl io::Write for Small {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(self.0);
        self.0 -= taken;
        match taken {
            0 => Err(io::ErrorKind::StorageFull.into()),
            taken => Ok(taken),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_and_a_stop_end_the_writing() {
    let recipe = Recipe::new("tiny", Format::Q4K, None, 0.0, 0).unwrap();
    let full = recipe.write(Small(1 << 20), |_| Ok(())).err().unwrap();
    assert_eq!(full.kind(), io::ErrorKind::StorageFull);
    let mut heard = 0;
    let stopped = recipe.write(Vec::new(), |bytes| {
        heard = bytes;
        Err(io::Error::other("stopped"))
    });
    assert!(stopped.is_err() && heard > 0);
}

/// A stopped command takes its unfinished file away; a killed one leaves it without its name.
#[test]
fn a_stopped_command_leaves_nothing_that_looks_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    for (signal, number, left) in [("-TERM", 15, 0), ("-HUP", 1, 0), ("-KILL", 9, 1)] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_penstock"))
            .args(["synth", "--shape", "qwen3-30b-a3b", "--quant", "f32"])
            .arg(&path)
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let begun = || fs::read_dir(folder.path()).unwrap().count() > 0;
        while !begun() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let id = child.id().to_string();
        let sent = Command::new("kill").args([signal, &id]).status();
        if !sent.is_ok_and(|status| status.success()) {
            // It would go on to fill the disk.
            child.kill().unwrap();
            panic!("{signal} was not sent");
        }
        // A shell or a script around it sees that it was stopped.
        assert_eq!(child.wait().unwrap().signal(), Some(number));
        assert!(!path.exists(), "{signal}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), left, "{signal}");
    }
}

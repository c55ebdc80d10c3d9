//! `penstock replay` as a user meets it.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use penstock::weights::trace::{Header, Recorder};
use serde_json::Value;

use super::routing::{Kind, Model, Token, union};

const MODEL: Model = Model { layers: 4, experts: 16, used: 2 };

/// A prompt of 20 tokens, then 64 that are decoded.
fn record(path: &Path) {
    let header = Header {
        model: "a <model>".into(),
        layers: MODEL.layers as u32,
        experts: MODEL.experts as u32,
        used: MODEL.used as u32,
        slab_bytes: 1 << 20,
    };
    let tokens = MODEL.tokens(Kind::Topics, 84, 3);
    let mut recorder = Recorder::create(path, header).unwrap();
    let mut step = |tokens: &[Token], prompt: usize| {
        recorder.begin(tokens.len() as u32, prompt as u32);
        for layer in 0..MODEL.layers {
            let rows: Vec<u32> = tokens.iter().flat_map(|token| token[layer].clone()).collect();
            recorder.layer(rows.into_iter());
        }
        recorder.end().unwrap();
    };
    step(&tokens[..20], 20);
    for token in &tokens[20..] {
        step(std::slice::from_ref(token), 0);
    }
    assert!(union(tokens[..20].iter()).len() == MODEL.layers);
}

fn replay(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_penstock")).arg("replay").args(args).output().unwrap()
}

fn words(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (text(&output.stdout), text(&output.stderr))
}

#[test]
fn a_table_a_picture_and_an_object() {
    let folder = tempfile::tempdir().unwrap();
    let (trace, svg) = (folder.path().join("trace"), folder.path().join("plot.svg"));
    record(&trace);
    let (trace, svg) = (trace.to_str().unwrap(), svg.to_str().unwrap());

    let (out, error) = words(&replay(&[trace, "--svg", svg]));
    assert_eq!(error, "");
    for word in [
        "'a <model>'",
        "4 layers of 16 experts, 2 for each token; 64 slabs of 1.0 MiB",
        "65 steps, 1 of them with a prompt; 84 tokens",
        "2.0 experts of a layer in a step; ",
        "(chance: 12.5%)",
        "EXPECTED  LEAST-STALE          LFU    LAYER-LRU          LRU   BELADY",
        "\n  50.0%      32    32.0 MiB",
    ] {
        assert!(out.contains(word), "{word}\n{out}");
    }
    // With all of them cached, each is missed once by everybody.
    let last = out.lines().last().unwrap().split_whitespace().skip(4).collect::<Vec<_>>();
    assert!(last.len() == 6 && last.iter().all(|rate| *rate == last[0]), "{out}");
    let picture = fs::read_to_string(svg).unwrap();
    assert!(picture.starts_with("<svg") && picture.ends_with("</svg>\n"));
    assert!(picture.contains("'a &lt;model&gt;'") && picture.contains("prefers-color-scheme"));

    let list = ["--slots", "10,40", "--policy", "lru,expected", "--batch", "4", "--json"];
    let (out, _) = words(&replay(&[&[trace], &list[..]].concat()));
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&report["steps"], &report["batch"]), (&16.into(), &4.into()));
    assert_eq!(report["sizes"][1]["slots"], 40);
    assert_eq!(report["sizes"][0]["policies"].as_object().unwrap().len(), 2);
    let rate = |at: &Value| at["hit_rate"].as_f64().unwrap();
    let size = &report["sizes"][0];
    assert!(rate(&size["belady"]) >= rate(&size["policies"]["expected"]));
}

#[test]
fn what_is_wrong_is_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let (trace, rubbish) = (folder.path().join("trace"), folder.path().join("rubbish"));
    record(&trace);
    fs::write(&rubbish, b"rubbish").unwrap();
    let cut = folder.path().join("cut");
    let bytes = fs::read(&trace).unwrap();
    fs::write(&cut, &bytes[..bytes.len() - 1]).unwrap();
    let (trace, rubbish) = (trace.to_str().unwrap(), rubbish.to_str().unwrap());
    for (args, code, word) in [
        (&["nothing"][..], 1, "cannot open nothing"),
        (&[rubbish], 1, "this is not a trace"),
        (&[trace, "--batch", "100"], 2, "more sessions than"),
        (&[trace, "--sizes", "0"], 2, "above 0, at most 100"),
        (&[trace, "--policy", "best"], 2, "one of expected, least-stale"),
        (&[trace, "--svg", "/nowhere/plot.svg"], 1, "cannot write /nowhere/plot.svg"),
    ] {
        let output = replay(args);
        let (_, error) = words(&output);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {error}");
        assert!(error.contains(word), "{args:?}: {error}");
    }
    let (out, _) = words(&replay(&[cut.to_str().unwrap()]));
    assert!(out.contains("64 steps") && out.contains("cut off"), "{out}");
}

//! What is written to files: right, whole, or not at all.

use std::fs;
use std::path::Path;
use std::process::Command;

use penstock::math::IsaChoice;

use crate::{judged, npy, penstock, run};

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
}

/// The bits of a file do not depend on how they were computed.
#[test]
fn logits_are_the_same_bits_for_every_way_to_compute() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("x.npy");
    let tokens = (0..70).map(|i| (i * 37 % 500).to_string()).collect::<Vec<_>>().join(",");
    let listed = folder.path().join("ids");
    fs::write(&listed, format!("[{}]\n", tokens.replace(',', ", "))).unwrap();
    let written = |options: &[&str], tokens: &str| {
        let args = ["logits", "demo", "--tokens", tokens, "--out", out.to_str().unwrap()];
        let ran = run(&[&args, options].concat());
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        assert!(ran.err.contains("float32 [70, "), "{}", ran.err);
        fs::read(&out).unwrap()
    };
    let first = written(&["--isa", "scalar", "--prefill-chunk", "70"], &tokens);
    assert_eq!(written(&[], &format!("@{}", listed.display())), first);
    assert!(written(&["--cores", "1"], &tokens) == first, "one core");
    for isa in [IsaChoice::Avx2, IsaChoice::Avx512, IsaChoice::Amx] {
        let name = isa.name();
        if isa.resolve().is_ok() {
            for chunk in ["1", "64"] {
                let bytes = written(&["--isa", name, "--prefill-chunk", chunk], &tokens);
                assert!(bytes == first, "{name}, chunk {chunk}");
            }
        }
    }
    // The option that gives other bits gives the same other bits.
    let narrow = written(&["--kv", "int8", "--cores", "1"], &tokens);
    assert!(narrow != first, "int8 is another choice");
    for options in [&["--isa", "scalar"][..], &["--prefill-chunk", "7"], &["--memory", "96MiB"]] {
        let bytes = written(&[&["--kv", "int8"], options].concat(), &tokens);
        assert!(bytes == narrow, "{options:?}");
    }
    let rows = npy::read(&out);
    assert_eq!((rows.len(), rows[0].len() > 500), (70, true));
    assert!(rows.iter().flatten().all(|x| x.is_finite()));
    assert_eq!(names(folder.path()).len(), 2, "{:?}", names(folder.path()));
}

/// A failure leaves no file, and an older one as it was.
#[test]
fn a_failure_leaves_what_was_there() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("x.npy");
    let text = folder.path().join("t.txt");
    fs::write(&text, "some words, ".repeat(900)).unwrap();
    let (out, text) = (out.to_str().unwrap(), text.to_str().unwrap());
    for old in [None, Some("older")] {
        if let Some(old) = old {
            fs::write(out, old).unwrap();
        }
        for args in [
            &["logits", "demo", "--tokens", "1,4000000000", "--out", out][..],
            &["logits", "demo", "--text", "hello", "--context", "1", "--out", out],
            &["perplexity", "demo", text, "--context", "1000000000", "--save-logits", out],
        ] {
            assert_eq!(run(args).code, Some(1), "{args:?}");
        }
        // A disk that is full in the middle: the shell's limit on the size of a file.
        let program = env!("CARGO_BIN_EXE_penstock");
        let limited = format!("trap '' XFSZ; ulimit -f 8; exec '{program}' \"$@\"");
        for args in [
            &["logits", "demo", "--text", "the same words again and again", "--out", out][..],
            &["perplexity", "demo", text, "--save-logits", out],
        ] {
            let mut shell = Command::new("bash");
            let ran = judged(shell.args(["-c", &limited, "bash"]).args(args).output().unwrap());
            assert_eq!(ran.code, Some(1), "{args:?}: {}", ran.err);
            assert!(ran.err.contains(out) && ran.err.contains("File too large"), "{}", ran.err);
        }
        assert_eq!(fs::read_to_string(out).ok().as_deref(), old);
        assert_eq!(names(folder.path()).len(), 1 + usize::from(old.is_some()));
    }
    assert_eq!(run(&["logits", "demo", "--text", "hello", "--out", out]).code, Some(0));
    assert_eq!(npy::read(Path::new(out)).len(), run_tokens("hello"));
}

fn run_tokens(text: &str) -> usize {
    run(&["tokenize", "demo", text, "--json"]).json().as_array().unwrap().len()
}

/// What is not a file is written as it is, never replaced.
#[test]
fn devices_and_pipes_stay_what_they_are() {
    assert_eq!(run(&["logits", "demo", "--tokens", "1", "--out", "/dev/null"]).code, Some(0));
    assert!(!fs::metadata("/dev/null").unwrap().is_file());
    let args = ["logits", "demo", "--tokens", "1,2", "--out", "/dev/stdout"];
    let output = penstock().args(args).output().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("x.npy");
    fs::write(&copy, &output.stdout).unwrap();
    assert_eq!(npy::read(&copy).len(), 2);
}

/// A model is at no distance from itself, and the saved logits are those of `logits`.
#[test]
fn perplexity_against_itself() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (text, base) = (path("t.txt"), path("base.npy"));
    fs::write(&text, "Once upon a time there was a fox. ".repeat(30)).unwrap();
    let options = ["perplexity", "demo", &text, "--context", "64", "--windows", "3", "--json"];
    let saved = run(&[&options[..], &["--save-logits", &base]].concat());
    assert_eq!(saved.err, "", "nothing but results where nobody watches");
    let judged = run(&[&options[..], &["--base", &base, "--prefill-chunk", "5"]].concat()).json();
    let saved = saved.json();
    assert_eq!((&saved["windows"], &saved["tokens_scored"]), (&3.into(), &96.into()));
    assert!(saved["perplexity"].as_f64().unwrap() > 1.0);
    assert_eq!(saved["perplexity"], judged["perplexity"]);
    assert!(saved["kl"].is_null());
    for number in ["mean", "median", "p99", "max"] {
        assert_eq!(judged["kl"][number], 0.0, "{number}");
    }
    assert_eq!(judged["kl"]["same_top"], 1.0);
    assert_eq!(npy::read(Path::new(&base)).len(), 3 * 64);

    // A base that is sure of something else at one scored position is far from it there.
    let (rows, cols) = (3 * 64, npy::read(Path::new(&base))[0].len());
    let mut bytes = fs::read(&base).unwrap();
    let row = bytes.len() - (rows - 40) * cols * 4;
    let mut put = |at: usize, value: f32| {
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        let other = path("other.npy");
        fs::write(&other, &bytes).unwrap();
        run(&[&options[..], &["--base", &other]].concat())
    };
    let sure = put(row, 1e3).json();
    let (max, mean) = (sure["kl"]["max"].as_f64().unwrap(), sure["kl"]["mean"].as_f64().unwrap());
    assert!(max > 1.0 && (mean - max / 96.0).abs() < 1e-9, "{max} {mean}");
    assert!(sure["kl"]["same_top"].as_f64().unwrap() < 1.0);
    // One that is not a number is no distance at all.
    let damaged = put(row, f32::NAN);
    assert_eq!(damaged.code, Some(1));
    assert!(damaged.err.contains("other.npy, position 40: its logits are not numbers"));

    // One of another shape is refused.
    let longer = ["perplexity", "demo", &text, "--context", "32", "--base", &base];
    let refused = run(&longer);
    assert_eq!(refused.code, Some(1));
    assert!(refused.err.contains("another text, tokenizer or --context"), "{}", refused.err);
}

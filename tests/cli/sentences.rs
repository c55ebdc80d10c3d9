//! What is refused, with which code and in which words.

use penstock::math::IsaChoice;

use crate::{reference, run, run_with_input};

/// Command lines that make no sense: 2, and the option is named.
#[test]
fn nonsense_on_the_command_line() {
    for (args, words) in [
        (&[][..], "Usage"),
        (&["nonsense"], "nonsense"),
        (&["run", "demo", "hi", "extra"], "extra"),
        (&["run", "demo", "hi", "-t", "nan"], "--temperature"),
        (&["run", "demo", "hi", "-t", "-1"], "between 0 and 100"),
        (&["run", "demo", "hi", "-t", "warm"], "expected a number"),
        (&["run", "demo", "hi", "--top-p", "2"], "at most 1"),
        (&["run", "demo", "hi", "--top-p", "0"], "--top-p"),
        (&["run", "demo", "hi", "--min-p", "-0.1"], "--min-p"),
        (&["run", "demo", "hi", "--top-k", "-1"], "whole number"),
        (&["run", "demo", "hi", "--seed", "-1"], "whole number"),
        (&["run", "demo", "hi", "--repetition-penalty", "0"], "above 0"),
        (&["run", "demo", "hi", "--presence-penalty", "1e38"], "between -100 and 100"),
        (&["run", "demo", "hi", "--frequency-penalty", "inf"], "--frequency-penalty"),
        (&["run", "demo", "hi", "--logit-bias", "x"], "42=-1.5"),
        (&["run", "demo", "hi", "--logit-bias", "1=nan"], "--logit-bias"),
        (&["run", "demo", "hi", "--logprobs", "5"], "--json"),
        (&["run", "demo", "hi", "--json", "--logprobs", "21"], "at most 20"),
        (&["run", "demo", "hi", "-n", "0"], "from 1"),
        (&["run", "demo", "hi", "-n", "-1"], "from 1"),
        (&["run", "demo", "hi", "--stop", ""], "--stop"),
        (&["run", "demo", "hi", "--context", "10000000000"], "2^30"),
        (&["run", "demo", "hi", "--cores", "0"], "from 1"),
        (&["run", "demo", "hi", "--cores", "x"], "--cores"),
        (&["bench", "demo", "--batch", "0"], "--batch"),
        (&["run", "demo", "hi", "--memory", "8"], "give a unit, as 8GiB"),
        (&["logits", "demo", "--tokens", "1", "--out", "x.npy", "--memory", "0%"], "more than 0%"),
        (&["run", "demo", "hi", "--isa", "mmx"], "avx512"),
        (&["run", "demo", "hi", "--kv", "int4"], "keys and values are kept in f32 or int8"),
        (&["serve", "demo", "--kv", "int4"], "in f32 or int8"),
        (&["plan", "demo", "--kv", "q8_0"], "in f32 or int8"),
        (&["bench", "demo", "--kv", ""], "--kv"),
        (&["logits", "demo", "--tokens", "1", "--out", "x.npy", "--kv", "f16"], "in f32 or int8"),
        (&["perplexity", "demo", "x.txt", "--kv", "INT8"], "in f32 or int8"),
        (&["run", "demo", "hi", "--prefill-chunk", "0"], "--prefill-chunk"),
        (&["run", "demo", "hi", "--raw", "--system", "x"], "--raw"),
        (&["run", "demo", "- a dash"], "-- "),
        (&["logits", "demo", "--out", "x.npy"], "--tokens"),
        (&["logits", "demo", "--tokens", "1"], "--out"),
        (&["logits", "demo", "--tokens", "", "--out", "x.npy"], "no token ids"),
        (&["logits", "demo", "--tokens", "1,,2", "--out", "x.npy"], "comma"),
        (&["logits", "demo", "--tokens", "-1", "--out", "x.npy"], "\"-1\" is not a token id"),
        (&["logits", "demo", "--tokens", "1", "--text", "a", "--out", "x.npy"], "--text"),
        (&["tokenize", "demo", "x", "--ids", "--json"], "--json"),
        (&["perplexity", "demo", "x.txt", "--context", "1"], "2 or more"),
    ] {
        let ran = run(args);
        assert_eq!(ran.code, Some(2), "{args:?}: {}", ran.err);
        assert!(ran.err.contains(words), "{args:?} lacks {words:?}: {}", ran.err);
        assert_eq!(ran.out, "", "{args:?}");
    }
}

/// No host of today lacks nothing; what this one lacks is named.
#[test]
fn an_instruction_set_that_is_not_there() {
    for isa in [IsaChoice::Avx2, IsaChoice::Avx512, IsaChoice::Amx] {
        let ran = run(&["run", "demo", "hi", "-n", "1", "--isa", isa.name()]);
        match isa.resolve() {
            Ok(_) => assert_eq!(ran.code, Some(0), "{isa}: {}", ran.err),
            Err(_) => {
                assert_eq!(ran.code, Some(1), "{isa}: {}", ran.err);
                assert!(ran.err.contains(isa.name()) && ran.err.contains(" has "), "{}", ran.err);
            }
        }
    }
}

/// What cannot be done: 1, and one sentence that names the thing.
#[test]
fn what_cannot_be_done() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let here = folder.path().to_str().unwrap();
    let (empty, page, short, binary) = (at("empty"), at("page.gguf"), at("short"), at("b.npy"));
    std::fs::write(&empty, "").unwrap();
    std::fs::write(&page, "<!DOCTYPE html><html>").unwrap();
    std::fs::write(&short, "").unwrap();
    std::fs::write(&binary, [0x93; 99]).unwrap();
    let mute = reference("families/qwen3moe_top8").display().to_string();
    let (out, lost) = (at("x.npy"), at("no/x.npy"));
    let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    for (args, words) in [
        (&["inspect", ""][..], &["MODEL is empty"][..]),
        (&["inspect", "nosuch.gguf"], &["nosuch.gguf", "nothing is downloaded"]),
        (&["inspect", "/dev/zero"], &["/dev/zero", "not a regular file"]),
        (&["inspect", here], &[here, "config.json"]),
        (&["inspect", &empty], &[&empty, "empty"]),
        (&["inspect", &page], &[&page, "web page"]),
        (&["inspect", readme], &["README.md", "not a model"]),
        (&["run", "Hello"], &["Hello", "penstock run demo \"Hello\""]),
        (&["run", &mute, "hi"], &["qwen3moe_top8", "no tokenizer"]),
        (&["tokenize", &mute, "hi"], &["no tokenizer"]),
        (&["perplexity", &mute, readme], &["no tokenizer"]),
        (&["run", "demo", ""], &["prompt is empty"]),
        (&["run", "demo"], &["prompt is empty"]),
        (&["run", "demo", "hi", "--logit-bias", "4000000000=1"], &["4000000000", "vocabulary"]),
        (&["run", "demo", "hi", "--context", "1"], &["--context", "trained for"]),
        (&["run", "demo", "hi", "--context", "1000000000"], &["too little", "--context 512 saves"]),
        (&["run", "demo", "hi", "--cores", "100000"], &["--cores 100000", "at most"]),
        (&["logits", "demo", "--tokens", "4000000000", "--out", &out], &["4000000000"]),
        (&["logits", "demo", "--tokens", "@nofile", "--out", &out], &["nofile"]),
        (&["logits", "demo", "--tokens", "@/dev/zero", "--out", &out], &["/dev/zero"]),
        (&["logits", "demo", "--tokens", "1", "--out", here], &[here, "folder"]),
        (&["logits", "demo", "--tokens", "1", "--out", &lost], &[&lost, "No such file"]),
        (&["logits", "demo", "--tokens", "1", "--out", "/dev/full"], &["No space left"]),
        (&["perplexity", "demo", "nofile"], &["nofile", "No such file"]),
        (&["perplexity", "demo", here], &[here]),
        (&["perplexity", "demo", &short], &[&short, "there is no token to predict"]),
        (&["perplexity", "demo", readme, "--base", &binary], &[&binary, "NumPy"]),
    ] {
        let ran = run(args);
        assert_eq!(ran.code, Some(1), "{args:?}: {}", ran.err);
        assert_eq!(ran.err.lines().count(), 1, "{args:?}: {}", ran.err);
        for word in words {
            assert!(ran.err.contains(word), "{args:?} lacks {word:?}: {}", ran.err);
        }
        assert_eq!(ran.out, "", "{args:?}");
    }
    let left: Vec<_> = std::fs::read_dir(here).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 4, "nothing was left behind: {left:?}");
}

#[test]
fn help_is_there_for_every_command() {
    for command in ["run", "inspect", "tokenize", "logits", "perplexity", "synth"] {
        for option in ["-h", "--help"] {
            let ran = run(&[command, option]);
            assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
            assert!(ran.out.contains(&format!("Usage: penstock {command}")), "{}", ran.out);
            let longest = ran.out.lines().map(|line| line.chars().count()).max().unwrap();
            assert!(longest <= 100, "{command} {option} has a line of {longest}");
        }
        let named = run(&["--help"]).out;
        assert!(named.contains(command), "{named}");
    }
    assert_eq!(run(&["--version"]).out, concat!("penstock ", env!("CARGO_PKG_VERSION"), "\n"));
}

/// One positional of several words is a prompt for the demo model.
#[test]
fn prose_goes_to_the_demo_model() {
    let named = run(&["run", "demo", "what is 1/2 of 10?", "-n", "4"]);
    assert_eq!(named.code, Some(0), "{}", named.err);
    assert_eq!(run(&["run", "what is 1/2 of 10?", "-n", "4"]).out, named.out);
    assert_eq!(run_with_input(&["run", "-n", "4"], b"what is 1/2 of 10?").out, named.out);
    assert_eq!(run(&["run", "./no such/model"]).code, Some(1));
}

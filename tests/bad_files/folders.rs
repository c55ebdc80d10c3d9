//! Folders and paths that hold no good model.

use std::fs;
use std::path::Path;

use penstock::weights::folder::{Index, parse_json};
use penstock::weights::{HfFolder, Source};
use tempfile::TempDir;

use crate::allocation::peak;
use crate::refused;
use crate::safetensors_writer::SafetensorsWriter;

const INDEX: &str = "model.safetensors.index.json";
const SHARDS: [&str; 2] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];

fn index(pairs: &[(&str, &str)]) -> String {
    let pairs: Vec<String> = pairs.iter().map(|(t, s)| format!("\"{t}\":\"{s}\"")).collect();
    format!(r#"{{"metadata":{{"total_size":9}},"weight_map":{{{}}}}}"#, pairs.join(","))
}

/// A good folder of two shards.
fn good() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    put(&folder, "config.json", r#"{"model_type":"llama"}"#);
    put(&folder, INDEX, &index(&[("a", SHARDS[0]), ("b", SHARDS[1])]));
    SafetensorsWriter::new()
        .f32_tensor("a", &[2], &[1.0, 2.0])
        .write(&folder.path().join(SHARDS[0]));
    SafetensorsWriter::new().f32_tensor("b", &[1], &[3.0]).write(&folder.path().join(SHARDS[1]));
    folder
}

fn put(folder: &TempDir, name: &str, content: &str) {
    fs::write(folder.path().join(name), content).unwrap();
}

#[test]
fn the_good_folder_is_good() {
    let folder = good();
    put(&folder, "generation_config.json", r#"{"temperature":0.5}"#);
    put(&folder, "tokenizer.json", "{}");
    put(&folder, "tokenizer_config.json", r#"{"chat_template":"old","bos_token":"<s>"}"#);
    let model = HfFolder::open(folder.path()).unwrap();
    assert_eq!(model.config()["model_type"], "llama");
    assert_eq!(model.generation_config().unwrap()["temperature"], 0.5);
    assert_eq!(model.tokenizer_config().unwrap()["bos_token"], "<s>");
    assert_eq!(model.file("tokenizer.json").unwrap().unwrap()[..], *b"{}");
    assert_eq!(model.chat_template(), Some("old"));
    assert_eq!(model.require("b").unwrap().data[..], 3.0_f32.to_le_bytes());
    assert_eq!(model.tensors().len(), 2);
    // A file of its own outranks the old place.
    put(&folder, "chat_template.json", r#"{"chat_template":"newer"}"#);
    assert_eq!(HfFolder::open(folder.path()).unwrap().chat_template(), Some("newer"));
    put(&folder, "chat_template.jinja", "newest");
    assert_eq!(HfFolder::open(folder.path()).unwrap().chat_template(), Some("newest"));
    // A file inside stands for the folder.
    for name in ["config.json", INDEX, SHARDS[1]] {
        let source = Source::open(&folder.path().join(name)).unwrap();
        assert_eq!((source.path(), source.parts().len()), (folder.path(), 2));
    }
}

#[test]
fn one_thing_wrong() {
    type Change = fn(&TempDir);
    let cases: Vec<(Change, &str, &str, &str)> = vec![
        (|f| put(f, "config.json", "{"), "config.json", "JSON", "EOF while parsing"),
        (|f| put(f, "config.json", "[]"), "config.json", "JSON", "does not hold an object"),
        (|f| put(f, "config.json", ""), "config.json", "file", "is empty"),
        (|f| put(f, "config.json", "<html>"), "config.json", "file", "web page"),
        (|f| put(f, "config.json", &"{\"a\":".repeat(500)), "config.json", "JSON", "recursion"),
        (
            |f| put(f, "generation_config.json", "nulx"),
            "generation_config.json",
            "JSON",
            "expected",
        ),
        (|f| put(f, "tokenizer_config.json", "{]"), "tokenizer_config.json", "JSON", "line 1"),
        (
            |f| put(f, "tokenizer_config.json", r#"{"chat_template":[1,{"name":"default"}]}"#),
            "tokenizer_config.json",
            "chat_template",
            "neither a string",
        ),
        (
            |f| fs::write(f.path().join("chat_template.jinja"), b"\xff").unwrap(),
            "chat_template.jinja",
            "file",
            "UTF-8",
        ),
        (
            |f| put(f, "chat_template.jinja", &"x".repeat((1 << 20) + 1)),
            "chat_template.jinja",
            "file",
            "1048576 are allowed",
        ),
        (|f| put(f, INDEX, "{}"), INDEX, "index", "missing field `weight_map`"),
        (|f| put(f, INDEX, &index(&[])), INDEX, "weight_map", "lists no tensor"),
        (
            |f| put(f, INDEX, &index(&[("a", "../x")])),
            INDEX,
            "weight_map",
            "'../x' is not the name",
        ),
        (
            |f| put(f, INDEX, &index(&[("a", "/etc/passwd")])),
            INDEX,
            "weight_map",
            "is not the name",
        ),
        (|f| put(f, INDEX, &index(&[("a", "..")])), INDEX, "weight_map", "is not the name"),
        (|f| put(f, INDEX, &index(&[("a", "")])), INDEX, "weight_map", "'' is not the name"),
        (|f| put(f, INDEX, &index(&[("a", "x\\u0000y")])), INDEX, "weight_map", "is not the name"),
        (|f| put(f, INDEX, r#"{"weight_map":{"a":1}}"#), INDEX, "index", "invalid type"),
        (|f| put(f, INDEX, r#"{"weight_map":[]}"#), INDEX, "index", "maps tensors to files"),
        (
            |f| put(f, INDEX, &index(&[("a", "gone.safetensors")])),
            INDEX,
            "weight_map",
            "gone.safetensors is missing",
        ),
        (
            |f| put(f, INDEX, &index(&[("a", SHARDS[0]), ("b", SHARDS[1]), ("c", SHARDS[0])])),
            INDEX,
            "tensor 'c'",
            "the index says it is in 'model-00001-of-00002.safetensors', where it is not",
        ),
        (
            |f| put(f, INDEX, &index(&[("a", SHARDS[1]), ("b", SHARDS[1])])),
            INDEX,
            "tensor 'a'",
            "where it is not",
        ),
        (
            |f| {
                fs::copy(f.path().join(SHARDS[0]), f.path().join(SHARDS[1])).unwrap();
            },
            SHARDS[1],
            "tensor 'a'",
            "is also in",
        ),
        (|f| put(f, SHARDS[1], "version https://git-lfs x"), SHARDS[1], "file", "git lfs pull"),
        (|f| put(f, SHARDS[1], "12345"), SHARDS[1], "header", "cut short"),
        (
            |f| fs::remove_file(f.path().join(INDEX)).unwrap(),
            "",
            "weights",
            "several .safetensors files but no model.safetensors.index.json",
        ),
        (
            |f| {
                for name in [INDEX, SHARDS[0], SHARDS[1]] {
                    fs::remove_file(f.path().join(name)).unwrap();
                }
            },
            "",
            "weights",
            "neither model.safetensors nor",
        ),
        (
            |f| {
                for name in [INDEX, SHARDS[0], SHARDS[1]] {
                    fs::remove_file(f.path().join(name)).unwrap();
                }
                put(f, "pytorch_model.bin", "PK");
            },
            "",
            "weights",
            "convert them to safetensors",
        ),
        (
            |f| fs::remove_file(f.path().join("config.json")).unwrap(),
            "",
            "config.json",
            "no Hugging Face folder",
        ),
        (
            |f| {
                fs::remove_file(f.path().join("config.json")).unwrap();
                put(f, "m.gguf", "GGUF");
            },
            "",
            "config.json",
            "there is 'm.gguf': give that file's path",
        ),
    ];
    for (change, file, field, reason) in cases {
        let folder = good();
        change(&folder);
        refused(Source::open(folder.path()), file, field, reason);
    }
}

#[test]
fn a_folder_where_a_file_belongs() {
    let folder = good();
    fs::remove_file(folder.path().join(SHARDS[0])).unwrap();
    fs::create_dir(folder.path().join(SHARDS[0])).unwrap();
    let error = Source::open(folder.path()).unwrap_err().to_string();
    assert!(error.starts_with("cannot open ") && error.ends_with("not a regular file"), "{error}");
}

#[test]
fn paths_that_hold_something_else() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("nothing.gguf");
    refused(Source::open(&missing), "nothing.gguf", "path", "there is no such file or folder");
    for (content, reason) in [
        (&b""[..], "the file is empty"),
        (b"<!DOCTYPE html>", "web page"),
        (b"<?xml version='1.0'?><Error>", "XML"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"lmgg\0\0\0\0", "before GGUF"),
        (b"PK\x03\x04....", "PyTorch"),
        (b"\x80\x02cfoo", "PyTorch"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"#!/bin/sh\n", "starts with \"#!/bin/s\""),
    ] {
        let path = folder.path().join("model.gguf");
        fs::write(&path, content).unwrap();
        refused(Source::open(&path), "model.gguf", "file", reason);
    }
    let path = folder.path().join("model.gguf");
    fs::write(&path, b"GGUF").unwrap();
    refused(Source::open(&path), "model.gguf", "version", "cut short");
}

#[test]
fn json_of_the_smallest_things_costs_little() {
    let path = Path::new("x.json");
    let dense = format!("{{\"a\":[{}0]}}", "0,".repeat(100_000));
    let (_, held) = peak(|| parse_json(path, dense.as_bytes()).unwrap());
    assert!(held <= 32 << 20, "{held}");
    let denser = format!("{{\"a\":[{}0]}}", "0,".repeat(1_000_000));
    let (result, held) = peak(|| parse_json(path, denser.as_bytes()));
    refused(result, "x.json", "file", "250000 are allowed");
    assert!(held < 10_000, "{held}");
    let pairs: Vec<String> = (0..50_000).map(|i| format!("\"{i:x}\":\"{i:x}\"")).collect();
    let index = format!("{{\"weight_map\":{{{}}}}}", pairs.join(","));
    let (_, held) = peak(|| Index::parse(path, index.as_bytes()).unwrap());
    assert!(held <= 24 * index.len(), "{held} bytes held for {}", index.len());
}

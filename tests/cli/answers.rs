//! What `run` writes, and what programs read.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::{never_ending, reference, run, run_with_input};

const PROMPT: &str = "Tell me something";

/// `run demo PROMPT --json` with these options and no natural end.
#[track_caller]
fn answer(options: &[&str]) -> Value {
    let endless = never_ending();
    let mut args = vec!["run", "demo", PROMPT, "--json"];
    args.extend(options);
    args.extend(endless.iter().map(String::as_str));
    run(&args).json()
}

#[test]
fn seeds_decide_and_zero_is_greedy() {
    let tokens = |options: &[&str]| answer(options)["tokens"].to_string();
    let hot = ["-t", "2", "--top-p", "1", "-n", "24", "--seed"];
    let with = |seed| tokens(&[&hot[..], &[seed]].concat());
    assert_eq!(with("7"), with("7"));
    let kinds: BTreeSet<String> = ["1", "2", "3"].map(with).into();
    assert_eq!(kinds.len(), 3, "another seed writes another answer");
    let greedy = ["-t", "0", "-n", "24", "--seed"];
    let cold = |seed| tokens(&[&greedy[..], &[seed]].concat());
    assert_eq!(cold("1"), cold("2"));
    assert_eq!(tokens(&["--top-k", "1", "-n", "24"]), cold("1"), "one to choose from is greedy");
}

/// The likeliest token is the one a greedy answer takes, and log-probabilities are in order.
#[test]
fn an_object_holds_what_was_asked_for() {
    let object = answer(&["-t", "0", "-n", "6", "--logprobs", "3"]);
    assert_eq!((&object["end"], &object["answer_tokens"]), (&"length".into(), &6.into()));
    let tokens = object["tokens"].as_array().unwrap();
    assert_eq!(tokens.len(), 6);
    for token in tokens {
        let top = token["top"].as_array().unwrap();
        assert_eq!(top.len(), 3);
        let logprobs: Vec<f64> = top.iter().map(|t| t["logprob"].as_f64().unwrap()).collect();
        assert!(logprobs.is_sorted_by(|a, b| a >= b) && logprobs[0] < 0.0, "{logprobs:?}");
        assert!(token["logprob"].as_f64().unwrap() <= logprobs[0]);
        assert!(token["bytes"].as_array().is_some_and(|b| !b.is_empty()));
    }
    let text: Vec<u8> = tokens
        .iter()
        .flat_map(|t| t["bytes"].as_array().unwrap())
        .map(|b| b.as_u64().unwrap() as u8)
        .collect();
    assert_eq!(String::from_utf8_lossy(&text), object["text"].as_str().unwrap());
    for number in ["prompt_tokens", "prefill_seconds", "decode_seconds", "weight_bytes_read"] {
        assert!(object[number].as_f64().unwrap() > 0.0, "{number}");
    }

    let bare = answer(&["-t", "0", "-n", "6"]);
    let ids: Vec<&Value> = tokens.iter().map(|t| &t["id"]).collect();
    assert_eq!(bare["tokens"].as_array().unwrap().iter().collect::<Vec<_>>(), ids);
}

/// A stop string ends the answer before it, wherever tokens cut it.
#[test]
fn stop_strings_cross_tokens() {
    let greedy = ["-t", "0", "-n", "40", "--repetition-penalty", "1.5"];
    let whole = answer(&greedy);
    let text: Vec<char> = whole["text"].as_str().unwrap().chars().collect();
    assert!(text.len() > 12, "{whole}");
    for (from, len) in [(0, 1), (3, 5), (5, 7), (text.len() - 1, 1)] {
        let stop: String = text[from..from + len].iter().collect();
        let text: String = text.iter().collect();
        let before = &text[..text.find(&stop).unwrap()];
        let cut = answer(&[&greedy[..], &["--stop", "never written", "--stop", &stop]].concat());
        assert_eq!(cut["text"], before, "{stop:?}");
        assert_eq!(cut["end"], "stop");
    }
}

/// The answer alone goes to standard output, and the same as without a terminal's help.
#[test]
fn an_answer_is_all_there_is_on_standard_output() {
    let endless = never_ending();
    let mut args = vec!["run", "demo", PROMPT, "-n", "12"];
    args.extend(endless.iter().map(String::as_str));
    let ran = run(&args);
    assert_eq!(ran.out, format!("{}\n", answer(&["-n", "12"])["text"].as_str().unwrap()));
    let said: Vec<&str> = ran.err.lines().collect();
    assert!(said.len() == 2 && said[0].contains("was trained for 512 positions"), "{said:?}");
    assert!(said[1].starts_with("prompt ") && said[1].contains("answer 12 tokens"), "{said:?}");

    // The context ends it as well, and says so.
    args.push("--context=30");
    args.retain(|arg| !arg.contains("200000"));
    args.retain(|arg| !["-n", "12"].contains(arg));
    let full = run(&args);
    assert!(full.err.contains("the context of 30 tokens is full"), "{}", full.err);
    assert_eq!(full.code, Some(0));
}

#[test]
fn prompts_come_from_standard_input_too() {
    let given = run(&["run", "demo", PROMPT, "-n", "8"]);
    let piped = run_with_input(&["run", "demo", "-n", "8"], PROMPT.as_bytes());
    assert_eq!((piped.code, &piped.out), (Some(0), &given.out));
    // Bytes that are no text are still a prompt.
    let binary = run_with_input(&["run", "demo", "-n", "2"], &[0, 0xff, 0xc3, b'x', 0x80, b'\n']);
    assert_eq!(binary.code, Some(0), "{}", binary.err);
    assert_eq!(run_with_input(&["run", "demo"], b"").code, Some(1));
    assert_eq!(run_with_input(&["run", "demo", "-n", "2", "--", "-5 + 3 ="], b"").code, Some(0));
}

/// What a user writes never becomes a token that steers the model.
#[test]
fn names_of_control_tokens_in_a_prompt_are_text() {
    let inspected = run(&["inspect", "demo", "--json"]).json();
    let ends = inspected["tokenizer"]["ends"].as_array().unwrap().clone();
    let listing = |text: &str, option: &[&str]| -> Vec<u64> {
        let list = run(&[&["tokenize", "demo", text, "--json"], option].concat()).json();
        list.as_array().unwrap().iter().map(|t| t["id"].as_u64().unwrap()).collect()
    };
    let prompt_tokens = |prompt: &str| {
        run(&["run", "demo", prompt, "-n", "1", "--json"]).json()["prompt_tokens"].as_u64()
    };
    for end in ends {
        let end = end.as_u64().unwrap();
        let name = inspected_name(end);
        assert_eq!(listing(&name, &["--special"]), [end]);
        let plain = listing(&name, &[]);
        assert!(plain.len() > 1 && !plain.contains(&end), "{name}: {plain:?}");
        // A control token would take one place, as a letter does.
        assert!(prompt_tokens(&name) > prompt_tokens("x"), "{name}");
    }
}

/// The name of a token that ends an answer, from the line that `inspect` prints.
fn inspected_name(id: u64) -> String {
    let shown = run(&["inspect", "demo"]).out;
    let line = shown.lines().find(|l| l.starts_with("tokenizer")).unwrap().to_string();
    let names = line.split_once("ends with ").unwrap().1.to_string();
    let with_id = |name: &&str| {
        let list = run(&["tokenize", "demo", name, "--special", "--json"]).json();
        list[0]["id"].as_u64() == Some(id) && list.as_array().unwrap().len() == 1
    };
    names.split(' ').find(with_id).unwrap().to_string()
}

#[test]
fn what_inspect_says_of_every_kind_of_model() {
    for name in
        ["gguf/dsv3_groups.gguf", "gguf/llama_llama3-00002-of-00003.gguf", "families/gptoss_mxfp4"]
    {
        let path = reference(name).display().to_string();
        let object = run(&["inspect", &path, "--json"]).json();
        for number in ["layers", "hidden", "vocabulary", "parameters", "file_bytes"] {
            assert!(object[number].as_u64().unwrap() > 0, "{name}: {number}");
        }
        assert!(object["trunk_bytes"].as_u64() > object["bytes_per_expert"].as_u64());
        let shown = run(&["inspect", &path]).out;
        assert!(shown.contains(object["family"].as_str().unwrap()), "{shown}");
    }
    let split = reference("gguf/llama_llama3-00003-of-00003.gguf").display().to_string();
    assert_eq!(run(&["inspect", &split, "--json"]).json()["files"], 3);
}

#[test]
fn token_ids_go_from_one_command_to_the_next() {
    let ids = run(&["tokenize", "demo", "Hello, world", "--ids"]).out;
    let list = run_with_input(&["tokenize", "demo", "--json"], b"Hello, world").json();
    let listed: Vec<String> =
        list.as_array().unwrap().iter().map(|t| t["id"].to_string()).collect();
    assert_eq!(ids.trim(), listed.join(","));
    let text: String =
        list.as_array().unwrap().iter().map(|t| t["text"].as_str().unwrap()).collect();
    assert_eq!(text, "Hello, world");
    assert_eq!(
        run(&["logits", "demo", "--tokens", ids.trim(), "--out", "/dev/null"]).code,
        Some(0)
    );
    assert_eq!(run(&["tokenize", "demo", ""]).out, "0 tokens, 0 characters\n");
}

//! A server with a smaller model that guesses: the answers of one without.

use penstock::math::Format;
use penstock::model::synth::Recipe;

use super::answers::{asks, compare};
use super::server::{Server, least_memory, refused};

#[test]
fn a_server_that_drafts_answers_as_one_that_does_not() {
    let asks: Vec<_> = asks().into_iter().take(12).collect();
    let alone: Vec<_> = asks.iter().map(|ask| (ask.clone(), ask.alone("demo", &[]))).collect();
    let mut server = Server::start("demo", &["--draft", "demo", "--context", "40000"]);
    assert!(server.log().contains("drafts     by demo: "), "{}", server.log());
    compare(&server, &alone, 2);
    // Alone, one after the other, when there is most room for guesses.
    for (ask, expected) in &alone {
        assert_eq!(&ask.served(&server, true, "medium"), expected);
    }
    server.is_empty();
}

#[test]
fn what_cannot_draft_is_refused_in_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let other = folder.path().join("other.gguf");
    let recipe = Recipe::new("tiny-qwen3-30b-a3b", Format::Q4K, None, 0.5, 1).unwrap();
    std::fs::write(&other, recipe.write(Vec::new(), |_| Ok(())).unwrap()).unwrap();
    let said = refused("demo", &["--draft", other.to_str().unwrap()]);
    assert!(said.contains("--draft other.gguf: it has ") && said.contains("vocabulary"), "{said}");
    assert!(refused("demo", &["--draft", "nosuch.gguf"]).contains("nosuch.gguf"));
}

/// Both are within the one budget. What is named when it is too small suffices.
#[test]
fn memory_is_for_both() {
    let enough = |args: &[&str]| {
        let size = least_memory("demo", args);
        size.strip_suffix("MiB").unwrap_or_else(|| panic!("{size}")).parse::<u64>().unwrap()
    };
    let small = ["--context", "1024", "--parallel", "2"];
    let (one, both) = (enough(&small), enough(&[&small[..], &["--draft", "demo"]].concat()));
    assert!(both > one + one / 4, "{one} MiB for one and {both} MiB for both");
    let memory = format!("{both}MiB");
    let args = ["--memory", &memory, "--context", "1024", "--parallel", "2", "--draft", "demo"];
    let server = Server::start("demo", &args);
    assert!(server.metric("penstock_memory_limit_bytes", "") <= (both << 20) as f64);
}

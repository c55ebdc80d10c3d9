//! Every answer of a busy server is, bit for bit, the answer to the same request alone.

use std::process::Command;
use std::thread;

use penstock::math::Format;
use penstock::model::synth::Recipe;
use serde_json::{Map, Value, json};

use super::server::{Server, least_memory};

/// One request, as both the command line and the server can be asked it.
#[derive(Clone)]
pub struct Ask {
    prompt: String,
    seed: u64,
    temperature: f64,
    tokens: usize,
    penalty: f64,
    /// The only token that it may write.
    only: Option<u32>,
}

/// Tokens' log-probabilities and the text: what an answer consists of.
pub type Written = (Vec<f32>, String);

impl Ask {
    /// By a process that does nothing else.
    pub fn alone(&self, model: &str, options: &[&str]) -> Written {
        let number = |x: f64| x.to_string();
        let bias = self.only.map(|id| format!("{id}=100"));
        let output = Command::new(env!("CARGO_BIN_EXE_penstock"))
            .args(["run", model, "--raw", "--json", "--logprobs", "0", "--top-p", "0.9"])
            .args(["--seed", &self.seed.to_string(), "-n", &self.tokens.to_string()])
            .args(["-t", &number(self.temperature), "--presence-penalty", &number(self.penalty)])
            .args(bias.iter().flat_map(|bias| ["--logit-bias", bias]))
            .args(["--stop", "<never>"])
            .args(options)
            .args(["--", &self.prompt])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let said: Value = serde_json::from_slice(&output.stdout).unwrap();
        let tokens = said["tokens"].as_array().unwrap();
        let logprobs =
            tokens.iter().map(|token| token["logprob"].as_f64().unwrap() as f32).collect();
        (logprobs, said["text"].as_str().unwrap().to_owned())
    }

    fn body(&self, stream: bool) -> Value {
        let bias: Map<_, _> = self.only.iter().map(|id| (id.to_string(), json!(100))).collect();
        json!({
            "prompt": self.prompt, "seed": self.seed, "temperature": self.temperature,
            "top_p": 0.9, "max_tokens": self.tokens, "presence_penalty": self.penalty,
            "logprobs": 0, "stop": ["<never>"], "stream": stream, "logit_bias": bias,
        })
    }

    pub fn served(&self, server: &Server, stream: bool, priority: &str) -> Written {
        let headers = [("x-request-priority", priority)];
        let answer = server.post("/v1/completions", &headers, &self.body(stream));
        let objects = match stream {
            true => answer.events(),
            false => vec![answer.good()],
        };
        let (mut logprobs, mut text) = (Vec::new(), String::new());
        for choice in objects.iter().filter_map(|object| object["choices"].get(0)) {
            text += choice["text"].as_str().unwrap();
            let tokens = choice["logprobs"]["token_logprobs"].as_array();
            logprobs.extend(tokens.into_iter().flatten().map(|l| l.as_f64().unwrap() as f32));
        }
        (logprobs, text)
    }
}

/// Prompts of all lengths, many of which begin alike, some of which repeat themselves.
pub fn asks() -> Vec<Ask> {
    let story = "Once upon a time there was a fox who lived in a small house by the river. ";
    let list = "one two three four one two three four one two three four one two three";
    (0..24)
        .map(|i| Ask {
            prompt: match i % 4 {
                0 => format!("{}And then {i}", story.repeat(1 + i / 6)),
                1 => story.repeat(1 + i / 5),
                2 => format!("{i}"),
                _ => list.repeat(1 + i / 8),
            },
            seed: i as u64,
            temperature: [0.0, 0.7, 1.3][i % 3],
            tokens: 8 + 7 * (i % 5),
            penalty: [0.0, 0.5][i % 2],
            only: None,
        })
        .collect()
}

/// All requests at once, several times, in whatever mixture they fall.
pub fn compare(server: &Server, alone: &[(Ask, Written)], rounds: usize) {
    thread::scope(|scope| {
        for (i, (ask, expected)) in alone.iter().enumerate() {
            scope.spawn(move || {
                for round in 0..rounds {
                    let priority = ["low", "medium", "high"][(i + round) % 3];
                    let written = ask.served(server, (i + round) % 2 == 0, priority);
                    assert_eq!(&written, expected, "request {i}, round {round}");
                }
            });
        }
    });
}

#[test]
fn a_busy_server_answers_as_an_idle_one() {
    // One whose guesses are right as often as it guesses, which it does now and then even where
    // that does not pay.
    let again = Ask {
        prompt: "Again".into(),
        seed: 1,
        temperature: 0.0,
        tokens: 200,
        penalty: 0.0,
        only: Some(300),
    };
    let asks: Vec<_> = asks().into_iter().chain([again]).collect();
    let alone: Vec<_> =
        asks.iter().map(|ask| (ask.clone(), ask.alone("demo", &["--cores", "1"]))).collect();
    assert!(alone.iter().all(|(_, written)| !written.0.is_empty()));
    let mut server =
        Server::start("demo", &["--context", "400000", "--cores", "2", "--prefill-chunk", "32"]);
    compare(&server, &alone, 3);
    assert!(server.metric("penstock_shared_tokens_total", "") > 0.0, "no prefix was shared");
    assert!(server.metric("penstock_accepted_tokens_total", "") > 0.0, "no guess was right");
    server.is_empty();
}

/// Experts that stream, pages for a third of the crowd: requests are preempted, prefixes evicted.
#[test]
fn little_memory_changes_no_answer() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("tiny.gguf");
    let recipe = Recipe::new("tiny-qwen3-30b-a3b", Format::Q4K, None, 0.5, 1).unwrap();
    std::fs::write(&model, recipe.write(Vec::new(), |_| Ok(())).unwrap()).unwrap();
    let model = model.to_str().unwrap();
    let alone: Vec<_> =
        asks().iter().take(12).map(|ask| (ask.clone(), ask.alone(model, &[]))).collect();
    let small = ["--context", "256", "--parallel", "6"];
    let memory = least_memory(model, &small);
    let mut server = Server::start(model, &[&small[..], &["--memory", &memory]].concat());
    let reads = server.metric("penstock_disk_reads_total", "");
    compare(&server, &alone, 3);
    assert!(server.metric("penstock_disk_reads_total", "") > reads, "no expert came from disk");
    assert!(server.metric("penstock_preemptions_total", "") > 0.0, "nobody gave way");
    server.is_empty();
}

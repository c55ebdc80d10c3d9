//! Outside truth: small models made with Hugging Face transformers and by llama.cpp, computed by
//! this engine, compared with the logits their makers computed. `tests/reference/make_families.py`
//! and its neighbours made the files.

#[path = "support/npy.rs"]
mod npy;

use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use penstock::engine::{Engine, Options};
use penstock::model::Model;
use penstock::shard::now;
use penstock::weights::Source;
use serde::Deserialize;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference")
}

#[derive(Deserialize)]
struct Case {
    case: String,
    /// Hugging Face folder, with the configs it can be read with.
    path: Option<String>,
    configs: Vec<String>,
    gguf: Option<String>,
    tolerance: String,
    /// What llama.cpp's quantised arithmetic costs on this file, where ours quantises too.
    llamacpp_kl: Option<f64>,
    /// Folder of `tokens.json` and `logits.npy`.
    truth: String,
}

fn cases() -> Vec<Case> {
    serde_json::from_slice(&fs::read(folder().join("manifest.json")).unwrap()).unwrap()
}

struct Truth {
    tokens: Vec<u32>,
    /// `[tokens][vocab]`
    logits: Vec<Vec<f32>>,
}

fn truth(case: &Case) -> Truth {
    let at = folder().join(&case.truth);
    let tokens = serde_json::from_slice(&fs::read(at.join("tokens.json")).unwrap()).unwrap();
    Truth { tokens, logits: npy::read(&at.join("logits.npy")) }
}

fn logits(path: &Path, tokens: &[u32], options: Options) -> Vec<Vec<f32>> {
    let source = Source::open(path).unwrap_or_else(|e| panic!("{e}"));
    let model = Rc::new(Model::open(&source).unwrap_or_else(|e| panic!("{e}")));
    let mut engine = Engine::new(model, options).unwrap();
    let mut rows = Vec::new();
    let keep = |_, row: &[f32]| -> Result<(), penstock::engine::Error> {
        rows.push(row.to_vec());
        Ok(())
    };
    now(engine.logits(tokens, keep)).unwrap();
    rows
}

/// `None`, or what is wrong.
fn compare(case: &Case, truth: &Truth, ours: &[Vec<f32>]) -> Option<String> {
    assert_eq!(truth.logits.len(), ours.len());
    if case.tolerance == "kl" {
        let (kl, theirs) = (mean_kl(&truth.logits, ours), case.llamacpp_kl.unwrap());
        let fine = kl <= NO_WORSE * theirs;
        return (!fine).then(|| format!("KL divergence {kl:.2e}, llama.cpp's is {theirs:.2e}"));
    }
    let most = truth.logits.iter().flatten().fold(0f32, |m, x| m.max(x.abs()));
    for (position, (t, o)) in truth.logits.iter().zip(ours).enumerate() {
        assert_eq!(t.len(), o.len());
        let off = t.iter().zip(o).map(|(t, o)| (t - o).abs()).fold(0f32, f32::max);
        // A NaN is not close.
        let close = off <= 1e-3 * most;
        if !close {
            return Some(format!(
                "position {position}: off by {off:.3e}, largest logit {most:.3e}"
            ));
        }
        if argmax(t) != argmax(o) {
            return Some(format!("position {position}: another token is likeliest"));
        }
    }
    None
}

/// Quantised arithmetic may lie this much further from the float model than llama.cpp's does.
const NO_WORSE: f64 = 1.05;

fn argmax(row: &[f32]) -> usize {
    (0..row.len()).reduce(|best, i| if row[i] > row[best] { i } else { best }).unwrap()
}

fn mean_kl(base: &[Vec<f32>], other: &[Vec<f32>]) -> f64 {
    let logs = |row: &[f32]| -> Vec<f64> {
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = row.iter().map(|x| f64::from(x - max).exp()).sum();
        row.iter().map(|x| f64::from(x - max) - sum.ln()).collect()
    };
    let one = |(a, b): (&Vec<f32>, &Vec<f32>)| -> f64 {
        logs(a).iter().zip(logs(b)).map(|(a, b)| a.exp() * (a - b)).sum()
    };
    base.iter().zip(other).map(one).sum::<f64>() / base.len() as f64
}

#[test]
fn every_family_agrees_with_its_reference() {
    let mut wrong = Vec::new();
    let mut compared = 0;
    for case in cases() {
        let truth = truth(&case);
        let mut check = |name: String, path: &Path| {
            let ours = logits(path, &truth.tokens, Options::default());
            compared += 1;
            if let Some(what) = compare(&case, &truth, &ours) {
                wrong.push(format!("{name}: {what}"));
            }
        };
        if let Some(path) = &case.path {
            for config in &case.configs {
                let place = with_config(&folder().join(path), config);
                check(format!("{} ({config})", case.case), place.path());
            }
        }
        if let Some(gguf) = &case.gguf {
            check(gguf.clone(), &folder().join(gguf));
        }
    }
    assert!(wrong.is_empty(), "{} of {compared}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(compared > 60, "only {compared} comparisons were made");
}

/// The folder as it would be with `config` as its `config.json`.
fn with_config(folder: &Path, config: &str) -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if !name.starts_with("config") {
            std::os::unix::fs::symlink(entry.path(), place.path().join(name)).unwrap();
        }
    }
    std::os::unix::fs::symlink(folder.join(config), place.path().join("config.json")).unwrap();
    place
}

/// The same file through llama.cpp, per quantised type: mean KL divergence from the float model.
#[test]
fn quantised_models_are_no_worse_than_in_llama_cpp() {
    #[derive(Deserialize)]
    struct Theirs {
        gguf: String,
        llamacpp_kl: f64,
    }
    let at = folder().join("quant");
    let list: Vec<Theirs> = serde_json::from_slice(&fs::read(at.join("kl.json")).unwrap()).unwrap();
    let tokens: Vec<u32> =
        serde_json::from_slice(&fs::read(at.join("tokens.json")).unwrap()).unwrap();
    let base = npy::read(&at.join("logits.npy"));
    let mut wrong = Vec::new();
    for theirs in &list {
        let ours = mean_kl(&base, &logits(&at.join(&theirs.gguf), &tokens, Options::default()));
        println!("{:<18} ours {ours:.6} llama.cpp {:.6}", theirs.gguf, theirs.llamacpp_kl);
        let fine = ours <= NO_WORSE * theirs.llamacpp_kl;
        if !fine {
            wrong.push(format!("{}: {ours:.6} against {:.6}", theirs.gguf, theirs.llamacpp_kl));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(list.len() >= 12);
}

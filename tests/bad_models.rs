//! Damaged models, opened and run to the end of the road: whatever the parsers let through must
//! still end in an answer or a sentence, never in a panic.

use std::fs;
use std::path::Path;
use std::rc::Rc;

use penstock::engine::{Engine, Options, Settings};
use penstock::host::mapping::Bytes;
use penstock::model::{Message, Model, Text};
use penstock::shard::now;
use penstock::weights::{Gguf, Source};

fn reference(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference").join(name)
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % n
    }
}

/// Everything `run` does with a model, short of a terminal. The error is the user's sentence.
fn use_model(source: &Source) -> Result<(), String> {
    let sentence = |e: &dyn std::fmt::Display| e.to_string();
    let model = Model::open(source).map_err(|e| sentence(&e))?;
    // A damaged head count may ask for much; the test gives little.
    let options = Options { context: Some(64), ..Options::default() };
    let mut engine = Engine::new(Rc::new(model), options).map_err(|e| sentence(&e))?;
    let text = Text::open(source);
    let tokenizer = text.as_ref().ok().map(|text| Rc::clone(&text.tokenizer));
    let prompt = match &text {
        Ok(text) => text.chat_tokens(&[Message::new("user", "Hello")]).map_err(|e| sentence(&e))?,
        Err(_) => vec![1, 2, 0],
    };
    let settings = Settings { max_tokens: Some(3), tokenizer, ..Settings::default() };
    let mut session = engine.open(prompt, settings).map_err(|e| sentence(&e))?;
    while session.end_reason().is_none() {
        now(engine.step(&mut [&mut session]));
    }
    Ok(())
}

/// Opens and uses a mutant; panics tell which one.
fn survive(label: &str, source: impl FnOnce() -> Result<Source, String>) -> bool {
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        source().and_then(|source| use_model(&source))
    }));
    match outcome {
        Ok(Ok(())) => true,
        Ok(Err(sentence)) => {
            assert!(sentence.len() > 20 && !sentence.contains('\n'), "{label}: {sentence:?}");
            false
        }
        Err(_) => panic!("{label}: panicked (above)"),
    }
}

/// Numbers that break arithmetic.
const NASTY: [u64; 12] =
    [0, 1, 2, 3, 7, 31, 255, 1 << 16, 1 << 31, u32::MAX as u64, 1 << 63, u64::MAX];

fn mutate(bytes: &mut [u8], header: usize, random: &mut Random) {
    for _ in 0..1 + random.below(3) {
        // Mostly the header: damaged weights are numbers like any other.
        let end = if random.below(8) == 0 { bytes.len() } else { header.min(bytes.len()) };
        let at = random.below(end.max(1)).min(bytes.len().saturating_sub(8));
        match random.below(4) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.below(256) as u8,
            2 => {
                let value = NASTY[random.below(NASTY.len())].to_le_bytes();
                let width = [1, 2, 4, 8][random.below(4)];
                bytes[at..at + width].copy_from_slice(&value[..width]);
            }
            _ => {
                let value = [f32::NAN, f32::INFINITY, -1.0, 0.0, 1e38][random.below(5)];
                bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
            }
        }
    }
}

#[test]
fn damaged_gguf_models_end_in_an_answer_or_a_sentence() {
    let mut random = Random(20);
    let mut used = 0;
    for name in ["qwen2moe_shared", "dsv3_groups", "gptoss_mxfp4", "llama_yarn", "glm4moe_air"] {
        let whole = fs::read(reference(&format!("gguf/{name}.gguf"))).unwrap();
        // The data section is the tail; metadata and tensor table of these files fit here.
        let header = 12_000;
        for mutant in 0..400 {
            let mut bytes = whole.clone();
            mutate(&mut bytes, header, &mut random);
            let open = || {
                let gguf = Gguf::from_bytes("mutant", Bytes::made(bytes));
                gguf.map(Source::Gguf).map_err(|e| e.to_string())
            };
            used += usize::from(survive(&format!("{name}, mutant {mutant}"), open));
        }
    }
    // Neither all refused nor all let through.
    assert!((200..1900).contains(&used), "{used} of 2000 were usable");
}

/// One value of a config at a time becomes something else.
#[test]
fn damaged_configs_end_in_an_answer_or_a_sentence() {
    use serde_json::{Value, json};
    let mut tried = 0;
    for name in ["qwen2moe_shared", "dsv3_groups", "gptoss_bf16", "llama_llama3", "glm4moe_air"] {
        let from = reference("families").join(name);
        let config: Value =
            serde_json::from_slice(&fs::read(from.join("config.json")).unwrap()).unwrap();
        let place = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(&from).unwrap() {
            let entry = entry.unwrap();
            if !entry.file_name().to_str().unwrap().starts_with("config") {
                let link = place.path().join(entry.file_name());
                std::os::unix::fs::symlink(entry.path(), link).unwrap();
            }
        }
        let mut pointers = Vec::new();
        for (key, value) in config.as_object().unwrap() {
            pointers.push(format!("/{key}"));
            if let Some(inner) = value.as_object() {
                pointers.extend(inner.keys().map(|inner| format!("/{key}/{inner}")));
            }
        }
        let values = [
            Value::Null,
            json!(0),
            json!(-1),
            json!(1),
            json!(3),
            json!(1u64 << 40),
            json!(u64::MAX),
            json!(0.5),
            json!(1e300),
            json!("x"),
            json!([]),
            json!([1, "sliding_attention"]),
            json!({}),
            json!(true),
        ];
        for pointer in &pointers {
            for value in &values {
                let mut config = config.clone();
                *config.pointer_mut(pointer).unwrap() = value.clone();
                fs::write(place.path().join("config.json"), config.to_string()).unwrap();
                let open = || Source::open(place.path()).map_err(|e| e.to_string());
                survive(&format!("{name}: {pointer} = {value}"), open);
                tried += 1;
            }
        }
    }
    assert!(tried > 2000, "only {tried} were tried");
}

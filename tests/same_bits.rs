//! The promise of the numbers contract: whatever path the work takes, the bits are the same.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use penstock::engine::{Engine, Error, Event, Options, Session, Settings, What};
use penstock::math::{IsaChoice, KvFormat};
use penstock::model::sampling::SamplingParams;
use penstock::model::{Model, Text, demo};
use penstock::shard::{self, Lead, Seats, now};
use penstock::weights::Source;

fn reference(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference").join(name)
}

/// One model for each kind of arithmetic: attention plain, windowed with sinks, latent; weights
/// in every activation block and in floats; experts routed in every way.
fn models() -> Vec<(&'static str, Rc<Model>)> {
    let files = [
        "gguf/gptoss_mxfp4.gguf",
        "gguf/dsv3_groups.gguf",
        "gguf/glm4moe_air.gguf",
        "gguf/qwen2moe_shared.gguf",
        "quant/tiny-q4_0.gguf",
        "quant/tiny-q5_1.gguf",
        "quant/tiny-q2_k.gguf",
        "quant/tiny-q6_k.gguf",
        "quant/tiny-iq4_xs.gguf",
        "families/dsv3_fp8",
        "families/llama_yarn",
    ];
    let open = |source: &Source| Rc::new(Model::open(source).unwrap_or_else(|e| panic!("{e}")));
    let file = |name: &'static str| (name, open(&Source::open(&reference(name)).unwrap()));
    let mut models: Vec<_> = files.into_iter().map(file).collect();
    models.push(("demo", open(&demo::source().unwrap())));
    models
}

/// Every model with its pages in f32, and those of every kind of attention in 8 bits too.
fn models_by_pages() -> Vec<(&'static str, Rc<Model>, KvFormat)> {
    let formats = |name| match name {
        "gguf/gptoss_mxfp4.gguf" | "gguf/dsv3_groups.gguf" | "families/llama_yarn" | "demo" => 2,
        _ => 1,
    };
    let each = |(name, model): (&'static str, Rc<Model>)| {
        let formats = KvFormat::ALL.into_iter().take(formats(name));
        formats.map(move |kv| (name, Rc::clone(&model), kv))
    };
    models().into_iter().flat_map(each).collect()
}

/// A fixed stream of numbers to make prompts from.
fn prompt(vocab: usize, len: usize, mut seed: u64) -> Vec<u32> {
    let mut next = || {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((seed >> 33) as usize % vocab) as u32
    };
    (0..len).map(|_| next()).collect()
}

/// Instruction sets of this host beside the oracle.
fn isas() -> Vec<IsaChoice> {
    let built = [IsaChoice::Avx2, IsaChoice::Avx512, IsaChoice::Amx];
    built.into_iter().filter(|isa| isa.resolve().is_ok()).collect()
}

/// How the work is done, none of which may change a bit but what pages are kept in.
#[derive(Clone, Copy, Debug)]
struct Way {
    kv: KvFormat,
    isa: IsaChoice,
    prefill_chunk: usize,
    /// Shards, which share the cores of a host that has fewer.
    shards: usize,
    /// Bytes of weights that find room in memory; the others are packed for every use.
    room: Option<usize>,
}

impl Way {
    fn options(self, context: usize) -> Options {
        let Way { kv, isa, prefill_chunk, room, .. } = self;
        Options { kv, isa, prefill_chunk, context: Some(context), room, ..Options::default() }
    }
}

/// Runs `work` with an engine on shards of its own.
fn with_engine<T: 'static>(
    model: &Rc<Model>,
    way: Way,
    context: usize,
    work: impl AsyncFnOnce(&mut Engine) -> T + 'static,
) -> T {
    let model = Rc::clone(model);
    shard::run(&Seats::anywhere(way.shards), move |lead: Lead, _| async move {
        work(&mut Engine::seated(model, way.options(context), lead).unwrap()).await
    })
    .unwrap()
}

fn logit_bits(model: &Rc<Model>, tokens: &[u32], way: Way) -> Vec<u32> {
    let tokens = tokens.to_vec();
    with_engine(model, way, tokens.len(), async move |engine| {
        let mut bits = Vec::new();
        let keep = |_, row: &[f32]| -> Result<(), Error> {
            bits.extend(row.iter().map(|x| x.to_bits()));
            Ok(())
        };
        engine.logits(&tokens, keep).await.unwrap();
        bits
    })
}

/// Cores × chunks × instruction sets, against the oracle on one core.
#[test]
fn cores_chunks_and_instruction_sets_change_no_bit() {
    let isas = isas();
    for (name, model, kv) in models_by_pages() {
        let tokens = prompt(model.config.vocab, 83, 7);
        let scalar = Way { kv, isa: IsaChoice::Scalar, prefill_chunk: 1000, shards: 1, room: None };
        let oracle = logit_bits(&model, &tokens, scalar);
        assert!(oracle.iter().all(|&bits| f32::from_bits(bits).is_finite()), "{name}");
        for isa in isas.iter().copied() {
            for prefill_chunk in [1, 7, 64, 1000] {
                for shards in [1, 2, 4] {
                    let way = Way { kv, isa, prefill_chunk, shards, room: None };
                    assert!(logit_bits(&model, &tokens, way) == oracle, "{name}: {way:?}");
                }
            }
        }
    }
}

/// Weights that find no room, or only some of which do, give the bits of those that settled.
#[test]
fn room_for_the_weights_changes_no_bit() {
    // A matrix settles for as long as its model lives, so every turn opens the models anew.
    let bits = |room, shards| -> Vec<Vec<u32>> {
        let kv = KvFormat::F32;
        let way = Way { kv, isa: IsaChoice::Auto, prefill_chunk: 16, shards, room };
        let of = |(_, model): (_, Rc<Model>)| {
            logit_bits(&model, &prompt(model.config.vocab, 40, 5), way)
        };
        models().into_iter().map(of).collect()
    };
    let settled = bits(None, 1);
    for (room, shards) in [(0, 1), (0, 2), (40_000, 2)] {
        assert!(bits(Some(room), shards) == settled, "{room} bytes, {shards} shards");
    }
}

/// A context long enough for several segments of attention, split at odd places.
#[test]
fn long_contexts_change_no_bit() {
    let model = Rc::new(Model::open(&demo::source().unwrap()).unwrap());
    let tokens = prompt(model.config.vocab, 1100, 11);
    for kv in KvFormat::ALL {
        let isa = IsaChoice::Auto;
        let way = |prefill_chunk, shards| Way { kv, isa, prefill_chunk, shards, room: None };
        let whole = logit_bits(&model, &tokens, way(2000, 1));
        assert!(logit_bits(&model, &tokens, way(129, 2)) == whole, "{kv}");
    }
}

/// What the demo model knows.
const STORY: &str = "Once upon a time, there was a small fox named Bleeby. Bleeby had a friend, a \
    girl. One day, Bleeby found a small seed under a bench. \"What is it?\" she asked. \"It is a \
    tulip seed,\" said the girl. \"Plant it and wait.\" Bleeby dug a hole near the old mill, put \
    the seed in and gave it some water.";

/// The option does something, and not much: logits point the same way. Where a router stands
/// between two experts a little decides, so of models that have some it is asked of most positions.
#[test]
fn pages_in_8_bits_give_close_logits_and_other_bits() {
    for (name, model, kv) in models_by_pages() {
        if kv == KvFormat::F32 {
            continue;
        }
        let vocab = model.config.vocab;
        let tokens = match name {
            "demo" => {
                let text = Text::open(&demo::source().unwrap()).unwrap();
                text.continue_tokens(STORY).unwrap()
            }
            _ => prompt(vocab, 200, 3),
        };
        let logits = |kv| -> Vec<f64> {
            let isa = IsaChoice::Auto;
            let way = Way { kv, isa, prefill_chunk: 64, shards: 1, room: None };
            let bits = logit_bits(&model, &tokens, way);
            bits.into_iter().map(|bits| f64::from(f32::from_bits(bits))).collect()
        };
        let (exact, close) = (logits(KvFormat::F32), logits(kv));
        assert!(exact != close, "{name}");
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let rows = exact.chunks_exact(vocab).zip(close.chunks_exact(vocab));
        let cosine = |(a, b)| dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
        let mut cosines: Vec<f64> = rows.map(cosine).collect();
        cosines.sort_by(f64::total_cmp);
        let (least, middle) = (cosines[0], cosines[cosines.len() / 2]);
        println!("{name}: {least} {middle}");
        let worst = if model.config.experts.is_none() { least } else { middle };
        assert!(worst > 0.999, "{name}: {least} {middle}");
    }
}

/// What a session wrote, log-probabilities to the bit.
type Written = Vec<(u32, u32, Vec<(u32, u32)>)>;

fn settings(temperature: f32, seed: u64, max_tokens: usize) -> Settings {
    Settings {
        sampling: SamplingParams { temperature, seed, logprobs: Some(4), ..Default::default() },
        max_tokens: Some(max_tokens),
        ..Settings::default()
    }
}

fn note(written: &mut Written, event: &Event) {
    if let What::Token { choice, .. } = &event.what {
        let (chosen, top) = choice.logprobs.as_ref().unwrap();
        let top = top.iter().map(|p| (p.id, p.logprob.to_bits())).collect();
        written.push((choice.id, chosen.logprob.to_bits(), top));
    }
}

fn run_alone(engine: &mut Engine, mut session: Session) -> Written {
    let mut written = Written::new();
    while session.end_reason().is_none() {
        now(engine.step(&mut [&mut session])).iter().for_each(|e| note(&mut written, e));
    }
    written
}

#[test]
fn company_changes_no_bit() {
    for (name, model, kv) in models_by_pages() {
        let vocab = model.config.vocab;
        let context = Some(400);
        let options = |prefill_chunk| Options { kv, prefill_chunk, context, ..Options::default() };
        let requests: Vec<(Vec<u32>, Settings)> = (0..6)
            .map(|i| (prompt(vocab, 1 + 9 * i, i as u64), settings(0.4 * i as f32, i as u64, 12)))
            .collect();

        let mut engine = Engine::new(Rc::clone(&model), options(64)).unwrap();
        let pages = engine.free_pages();
        let alone: Vec<Written> = requests
            .iter()
            .map(|(prompt, settings)| {
                let session = engine.open(prompt.clone(), settings.clone()).unwrap();
                run_alone(&mut engine, session)
            })
            .collect();
        assert!(alone.iter().all(|written| written.len() == 12));
        assert_eq!(engine.free_pages(), pages, "{name}: pages came back");

        for (prefill_chunk, shards) in [(5, 1), (40, 2), (11, 4)] {
            let way = Way { kv, isa: IsaChoice::Auto, prefill_chunk, shards, room: None };
            let requests = requests.clone();
            let (together, pages) = with_engine(&model, way, 400, async move |engine| {
                let pages = engine.free_pages();
                let together = in_company(engine, &requests).await;
                (together, engine.free_pages() == pages)
            });
            assert!(together == alone, "{name}: {way:?}");
            assert!(pages, "{name}: pages came back");
        }
    }
}

/// All together, joining one after the other; one pauses now and then, two that nobody waits for
/// are cancelled and dropped in mid-answer.
async fn in_company(engine: &mut Engine, requests: &[(Vec<u32>, Settings)]) -> Vec<Written> {
    let open = |engine: &mut Engine, i: usize| {
        let (prompt, settings) = &requests[i];
        engine.open(prompt.clone(), settings.clone()).unwrap()
    };
    let mut sessions: Vec<Session> = Vec::new();
    let mut strangers: Vec<Session> = (1..3).map(|i| open(engine, i)).collect();
    let mut together = vec![Written::new(); requests.len()];
    let mut step = 0;
    loop {
        if sessions.len() < requests.len() && step % 2 == 0 {
            let session = open(engine, sessions.len());
            sessions.push(session);
        }
        match step % 5 {
            1 => sessions[0].pause(),
            3 => sessions[0].resume(),
            _ => {}
        }
        if step == 6 {
            assert!(strangers[0].cancel().is_some());
            strangers.pop();
        }
        let ids: Vec<u64> = sessions.iter().map(Session::id).collect();
        let mut all: Vec<&mut Session> = sessions.iter_mut().chain(&mut strangers).collect();
        for event in engine.step(&mut all).await {
            if let Some(i) = ids.iter().position(|id| *id == event.session) {
                note(&mut together[i], &event);
            }
        }
        step += 1;
        let done = sessions.iter().all(|s| s.end_reason().is_some());
        if done && sessions.len() == requests.len() {
            break;
        }
    }
    together
}

/// A second turn that keeps the computed beginning equals one computed from nothing.
#[test]
fn a_kept_beginning_changes_no_bit() {
    for (name, model, kv) in models_by_pages() {
        // Of its own pages, to the position: nothing comes from another's.
        let context = Some(400);
        let options = Options { kv, context, share_prefixes: false, ..Options::default() };
        let mut engine = Engine::new(Rc::clone(&model), options).unwrap();
        let first = prompt(model.config.vocab, 37, 1);
        let mut second = first.clone();
        second[30] = (second[30] + 1) % model.config.vocab as u32;
        second.extend(prompt(model.config.vocab, 9, 2));

        let fresh = engine.open(second.clone(), settings(0.8, 3, 8)).unwrap();
        let expected = run_alone(&mut engine, fresh);
        let mut kept = engine.open(first, settings(0.8, 3, 8)).unwrap();
        while kept.end_reason().is_none() {
            now(engine.step(&mut [&mut kept]));
        }
        let before = engine.meter().rows;
        engine.reopen(&mut kept, second.clone(), settings(0.8, 3, 8)).unwrap();
        assert!(run_alone(&mut engine, kept) == expected, "{name}");
        let computed = (engine.meter().rows - before) as usize;
        assert_eq!(computed, second.len() - 30 + 7, "{name}: the common beginning is kept");
    }
}

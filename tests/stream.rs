//! Experts that stream from a pack: the same bits in however little memory, and a sentence where a
//! disk does what disks do.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use penstock::engine::{End, Engine, Error, Options, Session, Settings, Stream, What};
use penstock::host::memory;
use penstock::host::sim::{Faults, SimDrive};
use penstock::math::Format;
use penstock::model::Model;
use penstock::model::sampling::SamplingParams;
use penstock::model::synth::Recipe;
use penstock::shard::{self, Lead, Seats, now};
use penstock::weights::Source;
use penstock::weights::pack::{Fingerprint, Hands, Job, Pack};
use penstock::weights::residency::Policy;
use penstock::weights::stage::Room;

/// Experts routed in every way; weights with biases, with block scales, in three kinds of blocks.
const MODELS: [&str; 5] = [
    "gguf/gptoss_mxfp4.gguf",
    "gguf/dsv3_groups.gguf",
    "gguf/qwen2moe_shared.gguf",
    "families/dsv3_fp8",
    "synth",
];

/// A file in the repository, or one that is made: with formats that those lack.
fn file(name: &str, folder: &Path) -> PathBuf {
    if name != "synth" {
        return Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference").join(name);
    }
    let path = folder.join("synth.gguf");
    if !path.exists() {
        let recipe = Recipe::new("tiny-qwen3-30b-a3b", Format::Q4K, None, 0.5, 1).unwrap();
        std::fs::write(&path, recipe.write(Vec::new(), |_| Ok(())).unwrap()).unwrap();
    }
    path
}

/// A model and its pack, in a folder that lasts as long as this.
struct Packed {
    model: Rc<Model>,
    source: Fingerprint,
    folder: tempfile::TempDir,
}

impl Packed {
    fn new(name: &str) -> Packed {
        let folder = tempfile::tempdir().unwrap();
        let source = Source::open(&file(name, folder.path())).unwrap();
        let model = Rc::new(Model::open(&source).unwrap());
        let packed = Packed { model, source: Fingerprint::of(&source).unwrap(), folder };
        let job = Job {
            contents: &packed.model.parts.contents(),
            source: &packed.source,
            files: &[packed.path()],
            block: 4096,
        };
        let mut each = |count: usize, work: &(dyn Fn(usize) + Sync)| (0..count).for_each(work);
        job.run(&mut Hands { count: 1, each: &mut each }, &mut |_| true).unwrap();
        packed
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("model.penstock")
    }

    fn open(&self) -> Pack {
        Pack::open(&self.path(), &self.model.parts.contents(), &self.source).unwrap()
    }

    /// The same weights as another model, which has settled nothing.
    fn fresh(&self, name: &str) -> Rc<Model> {
        let path = file(name, self.folder.path());
        Rc::new(Model::open(&Source::open(&path).unwrap()).unwrap())
    }

    fn used(&self) -> usize {
        self.model.config.experts.as_ref().unwrap().used
    }

    fn slabs(&self) -> usize {
        self.open().layers().iter().map(|layer| layer.experts).sum()
    }
}

#[derive(Clone, Copy, Debug)]
struct Way {
    slots: usize,
    window: usize,
    policy: Policy,
    ahead: f32,
    shards: usize,
    chunk: usize,
}

fn stream(pack: Pack, way: Way) -> Stream {
    Stream {
        pack,
        room: Room { slots: way.slots, window: way.window },
        policy: way.policy,
        ahead: way.ahead,
        depth: 4,
        patience: Duration::from_secs(20),
        history: None,
    }
}

fn options(way: Way) -> Options {
    Options { prefill_chunk: way.chunk, context: Some(512), ..Options::default() }
}

fn prompt(vocab: usize, len: usize, mut seed: u64) -> Vec<u32> {
    let mut next = || {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((seed >> 33) as usize % vocab) as u32
    };
    (0..len).map(|_| next()).collect()
}

async fn logits(engine: &mut Engine, tokens: &[u32]) -> Result<Vec<u32>, Error> {
    let mut all = Vec::new();
    let each = |_, row: &[f32]| -> Result<(), Error> {
        all.extend(row.iter().map(|x| x.to_bits()));
        Ok(())
    };
    engine.logits(tokens, each).await?;
    Ok(all)
}

#[test]
fn room_for_experts_changes_no_bit() {
    for name in MODELS {
        let packed = Packed::new(name);
        let tokens = prompt(packed.model.config.vocab, 40, 5);
        let resident = packed.fresh(name);
        let plain = Options { context: Some(512), ..Options::default() };
        let expected = now(async {
            let mut engine = Engine::new(resident, plain).unwrap();
            logits(&mut engine, &tokens).await.unwrap()
        });
        let (used, slabs) = (packed.used(), packed.slabs());
        let way = |slots: usize, window: usize, shards: usize, chunk: usize| Way {
            slots,
            window,
            policy: Policy::default(),
            ahead: 1.0,
            shards,
            chunk,
        };
        let mut ways = vec![
            way(1, 1, 1, 512),
            way(2, 1, 2, 7),
            way(used, used, 1, 1),
            way(2 * used, used, 2, 1),
            way(2 * used + 1, 3, 1, 7),
            way(slabs, 512, 2, 512),
            Way { ahead: 0.0, ..way(used + 1, 2, 2, 16) },
        ];
        ways.extend(Policy::ALL.map(|policy| Way { policy, ..way(2 * used, used, 1, 3) }));
        for way in ways {
            let (pack, model, tokens) = (packed.open(), packed.fresh(name), tokens.clone());
            let got = shard::run(&Seats::anywhere(way.shards), move |lead: Lead, _| async move {
                let mut engine =
                    Engine::streamed(model, options(way), lead, stream(pack, way)).unwrap();
                let first = logits(&mut engine, &tokens).await.unwrap();
                let again = logits(&mut engine, &tokens).await.unwrap();
                assert_eq!(first, again, "{way:?}: what is left of the first run");
                first
            });
            assert!(got.unwrap() == expected, "{name}: {way:?}");
        }
    }
}

/// One engine for a long time, on a disk that is sometimes well and sometimes not: answers are right
/// to the last, and memory does not grow. `PENSTOCK_SOAK` says for how many seconds.
#[test]
#[ignore = "as long as PENSTOCK_SOAK says"]
fn a_long_life_changes_no_bit_and_takes_no_more_memory() {
    let seconds = std::env::var("PENSTOCK_SOAK").ok().and_then(|s| s.parse().ok()).unwrap_or(60);
    let packed = Packed::new("synth");
    let vocab = packed.model.config.vocab;
    let way = Way {
        slots: 2 * packed.used() + 1,
        window: packed.used(),
        policy: Policy::default(),
        ahead: 1.0,
        shards: 1,
        chunk: 16,
    };
    let faults = Faults { flip: 60, error: 60, short: 20, stall: 2 };
    let mut engine = simulated(&packed, packed.fresh("synth"), way, 1, faults);
    let plain = Options { context: Some(512), ..Options::default() };
    let mut resident = Engine::new(packed.fresh("synth"), plain).unwrap();
    let memory = || memory::resident().map_or(0, |resident| resident.total);
    let (began, mut seed, mut early) = (Instant::now(), 0, 0);
    let (mut whole, mut lost) = (0, 0);
    while began.elapsed() < Duration::from_secs(seconds) {
        seed += 1;
        let count = 1 + seed as usize % 4;
        let prompts: Vec<_> = (0..count)
            .map(|i| prompt(vocab, 1 + (seed as usize * 7 + 13 * i) % 60, seed))
            .collect();
        let right = answers(&mut resident, &prompts, 8);
        let got = answers(&mut engine, &prompts, 8);
        for ((tokens, end), (right, _)) in got.iter().zip(&right) {
            assert!(right.starts_with(tokens), "batch {seed}");
            match end {
                Some(End::Lost(_)) => lost += 1,
                _ => whole += 1,
            }
        }
        if began.elapsed() < Duration::from_secs(seconds / 10) {
            early = memory();
        }
    }
    let late = memory();
    eprintln!("{seed} batches, {whole} answers, {lost} lost; {early} bytes early, {late} late");
    assert!(whole > 10 * lost, "{whole} whole, {lost} lost");
    assert!(late < early + early / 10 + (64 << 20), "{early} bytes early, {late} late");
}

/// An engine on a simulated disk with the pack's bytes.
fn simulated(packed: &Packed, model: Rc<Model>, way: Way, seed: u64, faults: Faults) -> Engine {
    let pack = packed.open();
    let files = pack.files().iter().map(|path| std::fs::read(path).unwrap()).collect();
    let mut lead = Lead::alone();
    let drive = SimDrive::new(files, 4, seed, faults);
    lead.crew().own().drive = Some(Box::new(drive));
    Engine::streamed(model, options(way), lead, stream(pack, way)).unwrap()
}

/// Tokens of several sessions in one batch, by whatever disk. A session that ended early says why.
fn answers(
    engine: &mut Engine,
    prompts: &[Vec<u32>],
    steps: usize,
) -> Vec<(Vec<u32>, Option<End>)> {
    let settings = Settings {
        sampling: SamplingParams { temperature: 0.0, ..SamplingParams::default() },
        max_tokens: Some(steps),
        ..Settings::default()
    };
    let mut sessions: Vec<Session> =
        prompts.iter().map(|p| engine.open(p.clone(), settings.clone()).unwrap()).collect();
    for _ in 0..1000 {
        let mut all: Vec<&mut Session> = sessions.iter_mut().collect();
        for event in now(engine.step(&mut all)) {
            if let What::Ended { end: End::Lost(reason), .. } = &event.what {
                assert!(reason.contains("layer") || reason.contains("every token"), "{reason}");
                assert!(reason.contains("penstock pack --verify"), "{reason}");
            }
        }
        if sessions.iter().all(|session| session.end_reason().is_some()) {
            break;
        }
    }
    sessions.iter().map(|s| (s.answer().to_vec(), s.end_reason().cloned())).collect()
}

/// Hundreds of schedules of a disk that overtakes, errs, lies, stalls and comes to its senses: who
/// gets an answer gets the right one, who does not is told which expert is to blame, and nobody
/// else notices.
#[test]
fn a_bad_disk_changes_no_bit() {
    for name in ["gguf/qwen2moe_shared.gguf", "synth"] {
        let packed = Packed::new(name);
        let vocab = packed.model.config.vocab;
        let prompts: Vec<_> = (0..3).map(|i| prompt(vocab, 5 + 9 * i, i as u64)).collect();
        let plain = Options { context: Some(512), ..Options::default() };
        let mut resident = Engine::new(packed.fresh(name), plain).unwrap();
        let expected = answers(&mut resident, &prompts, 6);
        let (mut lost, mut whole) = (0, 0);
        let notices = Rc::new(RefCell::new(Vec::new()));
        for seed in 0..150 {
            let faults = match seed % 5 {
                0 => Faults::default(),
                1 => Faults { flip: 2000, ..Faults::default() },
                2 => Faults { error: 2000, short: 500, ..Faults::default() },
                3 => Faults { stall: 20, ..Faults::default() },
                _ => Faults { flip: 6000, error: 6000, short: 2000, stall: 50 },
            };
            let way = Way {
                slots: packed.used() * (1 + seed as usize % 3) + seed as usize % 2,
                window: 1 + seed as usize % packed.used(),
                policy: Policy::ALL[seed as usize % Policy::ALL.len()],
                ahead: (seed % 3) as f32 * 0.5,
                shards: 1,
                chunk: [1, 4, 512][seed as usize % 3],
            };
            let model = packed.fresh(name);
            let mut engine = simulated(&packed, model, way, seed, faults);
            let heard = Rc::clone(&notices);
            engine.on_notice(move |notice| heard.borrow_mut().push(notice.to_string()));
            let got = answers(&mut engine, &prompts, 6);
            for (i, ((tokens, end), (right, _))) in got.iter().zip(&expected).enumerate() {
                assert!(right.starts_with(tokens), "seed {seed}, session {i}: {way:?} {faults:?}");
                match end {
                    Some(End::Length) => whole += 1,
                    Some(End::Lost(_)) => lost += 1,
                    other => panic!("seed {seed}, session {i}: {other:?}"),
                }
            }
            if seed % 5 == 0 {
                assert!(got.iter().all(|(_, end)| *end == Some(End::Length)), "seed {seed}");
            }
        }
        assert!(whole > 100 && lost > 20, "{name}: {whole} whole, {lost} lost");
        let notices = notices.borrow();
        for words in ["the disk has not answered for", "the disk answers again, after"] {
            assert!(notices.iter().any(|notice| notice.starts_with(words)), "{words}: {notices:?}");
        }
    }
}

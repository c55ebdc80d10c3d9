//! Pages that go to disk and come back change no bit of any answer, whatever becomes of the disk.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use futures_lite::future::or;
use penstock::engine::desk::{Desk, Request, Update};
use penstock::engine::scheduler::{Batching, Limits, Priority};
use penstock::engine::service::Service;
use penstock::engine::spill::Spilled;
use penstock::engine::{End, Engine, Options, Settings, What};
use penstock::math::KvFormat;
use penstock::model::sampling::SamplingParams;
use penstock::model::{Model, demo};
use penstock::shard::{self, Seats, now, sleep};
use penstock::weights::Source;

/// Attention of every kind.
const MODELS: [&str; 3] = ["demo", "gguf/gptoss_mxfp4.gguf", "gguf/dsv3_groups.gguf"];

fn open(name: &str) -> Rc<Model> {
    let source = match name {
        "demo" => demo::source().unwrap(),
        name => {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference");
            Source::open(&folder.join(name)).unwrap()
        }
    };
    Rc::new(Model::open(&source).unwrap())
}

/// A fixed stream of numbers.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % below
    }
}

fn settings(seed: u64, tokens: usize) -> Settings {
    let sampling = SamplingParams {
        temperature: [0.0, 1.0][seed as usize % 2],
        seed,
        logprobs: Some(1),
        ..SamplingParams::default()
    };
    Settings { sampling, max_tokens: Some(tokens), ..Settings::default() }
}

/// Tokens and their log-probabilities, to the bit.
type Written = Vec<(u32, u32)>;

/// The same in an engine that does nothing else.
fn alone(model: &Rc<Model>, kv: KvFormat, prompt: &[u32], settings: &Settings) -> Written {
    let context = Some(400);
    let options = Options { kv, context, share_prefixes: false, ..Options::default() };
    let mut engine = Engine::new(Rc::clone(model), options).unwrap();
    let mut session = engine.open(prompt.to_vec(), settings.clone()).unwrap();
    let mut written = Vec::new();
    while session.end_reason().is_none() {
        for event in now(engine.step(&mut [&mut session])) {
            if let What::Token { choice, .. } = event.what {
                written.push((choice.id, choice.logprobs.unwrap().0.logprob.to_bits()));
            }
        }
    }
    written
}

type Known = BTreeMap<(Vec<u32>, u64), Written>;

/// Answers by prompt and seed, computed once.
#[derive(Clone)]
struct Right {
    model: Rc<Model>,
    kv: KvFormat,
    known: Rc<RefCell<Known>>,
}

impl Right {
    fn of(&self, prompt: &[u32], seed: u64, tokens: usize) -> Written {
        let key = (prompt.to_vec(), seed);
        if let Some(known) = self.known.borrow().get(&key) {
            return known.clone();
        }
        let written = alone(&self.model, self.kv, prompt, &settings(seed, tokens));
        self.known.borrow_mut().insert(key, written.clone());
        written
    }
}

/// What became of a server.
struct Outcome<T> {
    spilled: Spilled,
    preempted: u64,
    words: Vec<String>,
    of_clients: T,
}

/// A server with pages for `context` positions and perhaps a disk for more; nothing is held in the
/// end.
fn serve<T: 'static, F: Future<Output = T>>(
    (name, kv): (&'static str, KvFormat),
    context: usize,
    shards: usize,
    folder: Option<PathBuf>,
    clients: impl FnOnce(Desk, Right) -> F + 'static,
) -> Outcome<T> {
    let served = shard::run(&Seats::anywhere(shards), move |lead, queues| async move {
        let model = open(name);
        let options =
            Options { kv, context: Some(context), prefill_chunk: 48, ..Options::default() };
        let engine = Engine::seated(Rc::clone(&model), options, lead).unwrap();
        let limits = Limits {
            running: 4,
            waiting: 64,
            chunk: 48,
            context,
            stall: Duration::from_secs(5),
            form: Duration::from_millis(1),
            age: Duration::from_secs(10),
            sequential: false,
        };
        let (mut service, desk) = Service::new(engine, limits);
        let words = Rc::new(RefCell::new(Vec::new()));
        if let Some(folder) = folder {
            let heard = Rc::clone(&words);
            let listener = move |said| heard.borrow_mut().push(said);
            service.spill(&folder, 8 << 20, &queues, listener).unwrap();
        }
        let right = Right { model, kv, known: Rc::default() };
        let served = async {
            service.run().await;
            unreachable!("it serves until it is dropped")
        };
        let of_clients = or(clients(desk.clone(), right), served).await;
        let idle = async {
            desk.idle().await;
            // What was begun may be over now.
            sleep(Duration::from_millis(50)).await;
        };
        or(idle, async {
            service.run().await;
        })
        .await;
        let load = desk.load();
        assert_eq!((load.running, load.waiting, load.free_pages), (0, 0, load.pages));
        let (spilled, preempted) =
            desk.telemetry(|telemetry| (telemetry.sums.spilled, telemetry.sums.preempted));
        let words = words.borrow().clone();
        Outcome { spilled, preempted, words, of_clients }
    });
    served.unwrap()
}

/// Asks and hears the whole answer.
async fn ask(desk: &Desk, prompt: &[u32], seed: u64, tokens: usize, how: Priority) -> Written {
    let request = Request {
        prompt: prompt.to_vec(),
        settings: settings(seed, tokens),
        priority: how,
        batching: Batching::Auto,
        max_wait: None,
    };
    let mut ticket = desk.submit(request).unwrap();
    let mut written = Vec::new();
    while let Some(update) = ticket.next().await {
        match update {
            Update::Started { .. } => {}
            Update::Token { choice, .. } => {
                written.push((choice.id, choice.logprobs.unwrap().0.logprob.to_bits()));
            }
            Update::Ended { end, .. } => assert_eq!(end, End::Length),
        }
    }
    written
}

fn prompt(vocab: usize, len: usize, seed: u64) -> Vec<u32> {
    let mut dice = Dice(seed);
    (0..len).map(|_| dice.roll(vocab) as u32).collect()
}

/// Some conversations in turn, each of which grows; `between` is called before each turn.
async fn conversations(desk: Desk, right: Right, rounds: u64, mut between: impl FnMut(u64)) {
    let vocab = right.model.config.vocab;
    let mut said: Vec<Vec<u32>> = (0..4).map(|i| prompt(vocab, 50 + 9 * i, i as u64)).collect();
    for round in 0..rounds {
        for (i, said) in said.iter_mut().enumerate() {
            between(round);
            said.extend(prompt(vocab, 8, round));
            let seed = i as u64;
            let written = ask(&desk, said, seed, 12, Priority::Medium).await;
            let expected = right.of(said, seed, 12);
            assert_eq!(written, expected, "conversation {i}, round {round}");
            said.extend(written.iter().map(|(id, _)| id));
        }
    }
}

/// Pages for two conversations, and four there are.
#[test]
fn conversations_come_back_from_disk_bit_by_bit() {
    let wide =
        MODELS.into_iter().zip([1, 2, 1]).map(|(name, shards)| (name, KvFormat::F32, shards));
    let narrow =
        MODELS.into_iter().zip([2, 1, 1]).map(|(name, shards)| (name, KvFormat::Int8, shards));
    for (name, kv, shards) in wide.chain(narrow) {
        let folder = tempfile::tempdir().unwrap();
        let clients = |desk, right| conversations(desk, right, 4, |_| ());
        let path = folder.path().to_path_buf();
        let Outcome { spilled, words, .. } = serve((name, kv), 256, shards, Some(path), clients);
        assert!(spilled.out > 0 && spilled.back > 0, "{name} {kv}: {spilled:?}");
        assert_eq!((spilled.lost, words.len()), (0, 0), "{name}: {words:?}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}

/// What disks do to files.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Harm {
    Garbage,
    Short,
}

/// The file that has no name, by the table of this process's descriptors.
fn file_in(folder: &Path) -> File {
    let own = std::fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap().path());
    let of_folder = |path: &PathBuf| {
        let link = std::fs::read_link(path).unwrap_or_default();
        link.starts_with(folder) && link.to_string_lossy().ends_with(".spill (deleted)")
    };
    let path = own.into_iter().find(of_folder).expect("the spill file is open");
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

#[test]
fn what_a_disk_makes_of_pages_changes_no_answer() {
    for harm in [Harm::Garbage, Harm::Short] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_path_buf();
        let place = path.clone();
        let clients = move |desk, right| {
            conversations(desk, right, 3, move |round| {
                // It has to be seen that there is something to be harmed.
                if round > 0 {
                    let file = file_in(&place);
                    match harm {
                        Harm::Garbage => {
                            let len = file.metadata().unwrap().len();
                            let bytes: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
                            file.write_all_at(&bytes, 0).unwrap();
                        }
                        Harm::Short => file.set_len(0).unwrap(),
                    }
                    file.sync_all().unwrap();
                }
            })
        };
        let Outcome { spilled, words, .. } =
            serve(("demo", KvFormat::F32), 256, 1, Some(path), clients);
        assert!(spilled.out > 0 && spilled.lost > 0, "{harm:?}: {spilled:?}");
        assert_eq!(words.len(), 1, "said once: {words:?}");
        assert!(words[0].contains("computed anew"), "{words:?}");
    }
}

/// Many at once, of all priorities, in pages for a few: some are preempted, some leave while their
/// pages are on their way, some come again.
#[test]
fn a_crowd_with_a_disk_is_answered_as_each_alone() {
    for (name, kv) in [("demo", KvFormat::F32), ("gguf/dsv3_groups.gguf", KvFormat::Int8)] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_path_buf();
        let outcome = serve((name, kv), 320, 1, Some(path), |desk, right| async move {
            let vocab = right.model.config.vocab;
            let all: Vec<Vec<u32>> = (0..8)
                .map(|i| {
                    // Some begin alike.
                    let mut all = prompt(vocab, 40, i % 3);
                    all.extend(prompt(vocab, 30 + 11 * i as usize, i));
                    all
                })
                .collect();
            let mut dice = Dice(5);
            for _ in 0..4 {
                let mut asked = Vec::new();
                for (i, all) in all.iter().enumerate() {
                    let (desk, right, all) = (desk.clone(), right.clone(), all.clone());
                    let priority = [Priority::Low, Priority::Medium, Priority::High][dice.roll(3)];
                    let (later, leaves) = (dice.roll(30) as u64, dice.roll(4) == 0);
                    let patience = dice.roll(20) as u64;
                    asked.push(async move {
                        sleep(Duration::from_millis(later)).await;
                        let seed = i as u64;
                        let answer = async {
                            let written = ask(&desk, &all, seed, 20, priority).await;
                            assert_eq!(written, right.of(&all, seed, 20), "request {i}");
                        };
                        match leaves {
                            true => or(answer, sleep(Duration::from_millis(patience))).await,
                            false => answer.await,
                        }
                    });
                }
                join(asked).await;
            }
        });
        let Spilled { out, back, lost } = outcome.spilled;
        assert!(out > 0 && back > 0 && lost == 0, "{name}: {:?}", outcome.spilled);
        assert!(outcome.preempted > 0 && outcome.words.is_empty(), "{:?}", outcome.words);
    }
}

/// All of them, side by side.
async fn join(futures: Vec<impl Future<Output = ()>>) {
    let mut left: Vec<_> = futures.into_iter().map(Box::pin).collect();
    std::future::poll_fn(|context| {
        left.retain_mut(|future| future.as_mut().poll(context).is_pending());
        match left.is_empty() {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        }
    })
    .await
}

/// The same without a disk, so that it is known what the others prove.
#[test]
fn without_a_disk_nothing_is_spilled() {
    let clients = |desk, right| conversations(desk, right, 2, |_| ());
    let outcome = serve(("demo", KvFormat::F32), 256, 1, None, clients);
    assert_eq!(outcome.spilled, Spilled::default());
    let () = outcome.of_clients;
}

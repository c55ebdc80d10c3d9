//! A smaller model's guesses change no bit: answers are those of the same request alone, whoever
//! guesses and however badly, and nothing is left of the one that guessed.

#[path = "support/asked.rs"]
mod asked;

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use asked::{Asked, Dice, Heard, heard, nothing_held, prompt};
use futures_lite::future::or;
use penstock::engine::desk::{Account, Request, Ticket, Update};
use penstock::engine::scheduler::{Batching, Limits, Priority};
use penstock::engine::service::Service;
use penstock::engine::{
    Census, Drafter, End, Engine, Options, Price, Session, Settings, Stream, Turn,
};
use penstock::math::{Format, KvFormat};
use penstock::model::sampling::SamplingParams;
use penstock::model::synth::Recipe;
use penstock::model::{Model, Text, demo};
use penstock::shard::{self, Lead, Seats, now};
use penstock::weights::Source;
use penstock::weights::pack::{Fingerprint, Hands, Job, Pack};
use penstock::weights::residency::Policy;
use penstock::weights::stage::Room;
use tempfile::TempDir;

/// Guesses cost nothing to speak of.
const CHEAP: Price = Price { base: Duration::from_secs(3600), per_row: Duration::ZERO };
/// Four guesses cost as much as a token.
const DEAR: Price = Price { base: Duration::from_secs(3600), per_row: Duration::from_secs(900) };

/// A model made small, with random weights of this seed. All have one vocabulary.
struct Made {
    folder: TempDir,
    source: Source,
}

impl Made {
    fn new(seed: u64) -> Made {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("made.gguf");
        let recipe = Recipe::new("tiny-qwen3-30b-a3b", Format::Q4K, None, 0.5, seed).unwrap();
        std::fs::write(&path, recipe.write(Vec::new(), |_| Ok(())).unwrap()).unwrap();
        Made { source: Source::open(&path).unwrap(), folder }
    }

    fn model(&self) -> Rc<Model> {
        Rc::new(Model::open(&self.source).unwrap())
    }

    /// Packs the experts, to stream.
    fn pack(&self, model: &Model) -> Pack {
        let path = self.folder.path().join("made.penstock");
        let (contents, origin) = (model.parts.contents(), Fingerprint::of(&self.source).unwrap());
        let files = std::slice::from_ref(&path);
        let job = Job { contents: &contents, source: &origin, files, block: 4096 };
        let mut each = |count: usize, work: &(dyn Fn(usize) + Sync)| (0..count).for_each(work);
        job.run(&mut Hands { count: 1, each: &mut each }, &mut |_| true).unwrap();
        Pack::open(&path, &contents, &origin).unwrap()
    }
}

fn reference(name: &str) -> Rc<Model> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference").join(name);
    Rc::new(Model::open(&Source::open(&path).unwrap()).unwrap())
}

fn engine(model: &Rc<Model>, context: usize) -> Engine {
    engine_with(model, KvFormat::F32, context)
}

/// With its pages in this format.
fn engine_with(model: &Rc<Model>, kv: KvFormat, context: usize) -> Engine {
    let options = Options { kv, context: Some(context), ..Options::default() };
    Engine::new(Rc::clone(model), options).unwrap()
}

fn drafter(model: &Rc<Model>, context: usize) -> Drafter {
    Drafter::new(engine(model, context))
}

/// Of all lengths and temperatures; one repeats itself, one is penalised for that.
fn all_asked(vocab: usize) -> Vec<Asked> {
    let mut repeated = of_length(vocab, 12, 0.0, 40);
    repeated.prompt = repeated.prompt.repeat(6);
    let mut penalised = of_length(vocab, 49, 0.8, 30);
    penalised.settings.sampling.repetition_penalty = 1.3;
    vec![
        of_length(vocab, 1, 0.0, 40),
        of_length(vocab, 16, 1.0, 33),
        of_length(vocab, 90, 1.0, 20),
        of_length(vocab, 33, 0.0, 1),
        repeated,
        penalised,
    ]
}

/// A request of this length.
fn of_length(vocab: usize, len: usize, temperature: f32, max_tokens: usize) -> Asked {
    Asked::new(prompt(vocab, len, len as u64), temperature, max_tokens)
}

/// The same request in an engine of its own, where nobody guesses.
fn alone(model: &Rc<Model>, asked: &Asked, context: usize) -> Vec<Heard> {
    asked.alone(engine(model, context))
}

/// With guesses, at most so many a step.
fn guessed(
    engine: &mut Engine,
    drafter: &mut Drafter,
    session: &mut Session,
    most: usize,
    price: Price,
) -> Vec<Heard> {
    let mut all = Vec::new();
    drafter.welcome(session);
    while session.end_reason().is_none() {
        let mut turns = [Turn::new(session, 40, most)];
        now(drafter.guess(engine, &mut turns, price));
        all.extend(now(engine.advance(&mut turns)).into_iter().filter_map(heard));
        assert!(turns[0].done.drafted <= most);
    }
    drafter.forget(session);
    all
}

/// Who has the same weights, parameters and random numbers guesses what comes.
#[test]
fn the_same_model_guesses_everything() {
    let made = Made::new(1).model();
    let others = ["gguf/gptoss_mxfp4.gguf", "gguf/dsv3_groups.gguf"].map(reference);
    for model in [made].into_iter().chain(others) {
        for most in [1, 4, 7] {
            let (mut engine, mut drafter) = (engine(&model, 400), drafter(&model, 400));
            let (mut drafted, mut chosen, mut by_text) = (0, 0, 0);
            for asked in all_asked(model.config.vocab) {
                let expected = alone(&model, &asked, 400);
                let mut session = asked.open(&mut engine);
                let got = guessed(&mut engine, &mut drafter, &mut session, most, CHEAP);
                assert_eq!(got, expected, "{most} guesses");
                let tally = session.drafted_by_model();
                assert_eq!(tally.accepted, tally.drafted);
                drafted += tally.drafted;
                chosen += session.answer().len();
                by_text += session.drafted().accepted;
            }
            // All but what was written before the follower had read the prompt, and what its own
            // repetitions guessed.
            let steps = engine.meter().steps;
            assert!(drafted as usize > chosen / 5, "{drafted} of {chosen}");
            assert!(steps + drafted + by_text <= chosen as u64 + 12, "{steps} steps");
            nothing_held(drafter.engine().pages());
        }
    }
}

/// Guesses that are always wrong are soon given up, and those who come later begin without.
#[test]
fn another_model_guesses_nothing_and_is_switched_off() {
    let (model, other) = (Made::new(1).model(), Made::new(2).model());
    let (mut engine, mut drafter) = (engine(&model, 500), drafter(&other, 500));
    let asked = of_length(model.config.vocab, 20, 1.0, 240);
    let mut session = asked.open(&mut engine);
    let got = guessed(&mut engine, &mut drafter, &mut session, 7, DEAR);
    assert_eq!(got, alone(&model, &asked, 500));
    let tally = session.drafted_by_model();
    assert!((1..12).contains(&tally.drafted) && tally.accepted < 3, "{tally:?}");
    drop(session);

    let rows = drafter.engine().meter().rows;
    for len in 21..30 {
        let asked = of_length(model.config.vocab, len, 1.0, 30);
        let mut session = asked.open(&mut engine);
        let got = guessed(&mut engine, &mut drafter, &mut session, 7, DEAR);
        assert_eq!(got, alone(&model, &asked, 500));
        assert_eq!(session.drafted_by_model().drafted, 0);
    }
    assert_eq!(drafter.engine().meter().rows, rows, "it has not even read along");
    nothing_held(drafter.engine().pages());
}

/// Pages in 8 bits, of the model, of the one that guesses for it, or of both.
#[test]
fn what_pages_are_kept_in_is_nothing_to_a_guess() {
    for model in [Made::new(1).model(), reference("gguf/dsv3_groups.gguf")] {
        let (wide, narrow) = (KvFormat::F32, KvFormat::Int8);
        for (kv, small) in [(narrow, narrow), (narrow, wide), (wide, narrow)] {
            let mut drafter = Drafter::new(engine_with(&model, small, 400));
            let mut accepted = 0;
            for asked in all_asked(model.config.vocab) {
                let expected = asked.alone(engine_with(&model, kv, 400));
                let mut engine = engine_with(&model, kv, 400);
                let mut session = asked.open(&mut engine);
                let got = guessed(&mut engine, &mut drafter, &mut session, 4, CHEAP);
                assert_eq!(got, expected, "{kv} by {small}");
                let tally = session.drafted_by_model();
                assert!(kv != small || tally.accepted == tally.drafted);
                accepted += tally.accepted;
            }
            assert!(accepted > 50, "{kv} by {small}: {accepted}");
            nothing_held(drafter.engine().pages());
        }
    }
}

/// Ends of every kind among guesses that are all right.
#[test]
fn an_answer_ends_among_guesses_as_it_ends_without() {
    let text = Text::open(&demo::source().unwrap()).unwrap();
    let model = Rc::new(Model::open(&demo::source().unwrap()).unwrap());
    let prompt = text.continue_tokens("Once upon a time there was").unwrap();
    let asked = |temperature, stop: &[String], max_tokens| {
        let sampling =
            SamplingParams { temperature, logprobs: Some(2), seed: 3, ..SamplingParams::default() };
        let settings = Settings {
            sampling,
            max_tokens,
            stop: stop.to_vec(),
            tokenizer: Some(Rc::clone(&text.tokenizer)),
            ..Settings::default()
        };
        Asked { prompt: prompt.clone(), settings }
    };
    let check = |asked: &Asked, context: usize| {
        let expected = alone(&model, asked, context);
        let (mut engine, mut drafter) = (engine(&model, context), drafter(&model, context));
        let mut session = asked.open(&mut engine);
        let got = guessed(&mut engine, &mut drafter, &mut session, 5, CHEAP);
        assert_eq!(got, expected);
        nothing_held(drafter.engine().pages());
        (session.drafted_by_model().accepted, session.end_reason().cloned())
    };
    let mut accepted = 0;
    for temperature in [0.0, 1.0] {
        let whole = alone(&model, &asked(temperature, &[], Some(40)), 400);
        let whole: String = whole
            .iter()
            .map(|heard| match heard {
                Heard::Token { text, .. } | Heard::Ended { text, .. } => text.as_str(),
            })
            .collect();
        let letters: Vec<char> = whole.chars().collect();
        for four in letters.windows(4).step_by(9) {
            let stop = [four.iter().collect::<String>()];
            let (right, end) = check(&asked(temperature, &stop, Some(60)), 400);
            assert_eq!(end, Some(End::Stop), "{stop:?}");
            accepted += right;
        }
        for most in 1..9 {
            accepted += check(&asked(temperature, &[], Some(most)), 400).0;
        }
        for context in prompt.len() + 1..prompt.len() + 12 {
            let mut asked = asked(temperature, &[], None);
            asked.settings.ignore_end = true;
            let (right, end) = check(&asked, context);
            assert_eq!(end, Some(End::ContextFull));
            accepted += right;
        }
        // To its own end.
        accepted += check(&asked(temperature, &[], None), 400).0;
    }
    assert!(accepted > 100, "{accepted}");
}

/// Everything at once, at random: some come and some leave, some have turns and some have not,
/// sessions are parked, cancelled and end.
async fn in_turmoil(
    engine: &mut Engine,
    drafter: &mut Drafter,
    asked: &[Asked],
    seed: u64,
) -> Vec<Vec<Heard>> {
    let mut dice = Dice(seed);
    let mut all: Vec<Vec<Heard>> = vec![Vec::new(); asked.len()];
    let mut sessions: Vec<Option<Session>> = asked.iter().map(|_| None).collect();
    let mut ended = 0;
    while ended < asked.len() {
        for (i, session) in sessions.iter_mut().enumerate() {
            let new = session.is_none() && !matches!(all[i].last(), Some(Heard::Ended { .. }));
            match session {
                None if new && dice.roll(6) == 0 => {
                    let session = session.insert(asked[i].open(engine));
                    drafter.welcome(session);
                }
                Some(session) if dice.roll(20) == 0 => {
                    engine.park(session);
                    drafter.park(session);
                }
                Some(session) if dice.roll(60) == 0 => {
                    all[i].extend(session.cancel().and_then(heard));
                }
                _ => {}
            }
        }
        let mut owners = Vec::new();
        let mut turns = Vec::new();
        for (i, session) in sessions.iter_mut().enumerate() {
            let Some(session) = session else { continue };
            if dice.roll(4) > 0 {
                owners.push((session.id(), i));
                let (chunk, drafts) = (dice.roll(40), dice.roll(3) * dice.roll(6));
                turns.push(Turn::new(session, chunk, drafts));
            }
        }
        let price = [CHEAP, DEAR][dice.roll(2)];
        drafter.guess(engine, &mut turns, price).await;
        let events = engine.advance(&mut turns).await;
        let starved = turns.iter().any(|turn| turn.done.starved);
        drop(turns);
        for event in events {
            let (_, i) = *owners.iter().find(|(id, _)| *id == event.session).unwrap();
            all[i].extend(heard(event));
        }
        for session in &mut sessions {
            if let Some(over) = session.take_if(|session| session.end_reason().is_some()) {
                drafter.forget(&over);
                ended += 1;
            }
        }
        if starved {
            for session in sessions.iter_mut().flatten().skip(1) {
                engine.park(session);
                drafter.park(session);
            }
        }
        let Census { total, free, cached, held } = drafter.engine().pages();
        assert_eq!(total, free + cached + held);
    }
    all
}

/// Whole answers are what they are alone; those that were cancelled are the beginning of that.
fn same(got: &[Vec<Heard>], expected: &[Vec<Heard>]) -> bool {
    got.iter().zip(expected).all(|(got, expected)| match got.split_last() {
        Some((Heard::Ended { end: End::Cancelled, .. }, rest)) => expected.starts_with(rest),
        _ => got == expected,
    })
}

#[test]
fn turmoil_changes_no_bit() {
    let (model, other) = (Made::new(1).model(), Made::new(2).model());
    let asked = all_asked(model.config.vocab);
    let expected: Vec<_> = asked.iter().map(|asked| alone(&model, asked, 208)).collect();
    let mut read = 0;
    for seed in 0..30 {
        // Pages for one of the longest or for all; a drafter with as many, with few, and with
        // fewer than some prompts have.
        let (context, room) = ([208, 560][seed % 2], [560, 208, 64][seed % 3]);
        let small = [&model, &other][seed / 2 % 2];
        let (mut engine, mut drafter) = (engine(&model, context), drafter(small, room));
        let got = now(in_turmoil(&mut engine, &mut drafter, &asked, seed as u64));
        assert!(same(&got, &expected), "seed {seed}");
        nothing_held(engine.pages());
        nothing_held(drafter.engine().pages());
        read += drafter.engine().meter().rows;
    }
    assert!(read > 1000, "{read}");
}

/// The shards are lent while reads for the big model are under way.
#[test]
fn turmoil_changes_no_bit_while_experts_stream() {
    let (made, other) = (Made::new(1), Made::new(2));
    let asked = all_asked(made.model().config.vocab);
    let plain = made.model();
    let expected: Vec<_> = asked.iter().map(|asked| alone(&plain, asked, 208)).collect();
    for (shards, own, seed) in [(1, true, 100), (2, true, 101), (2, false, 102)] {
        let (model, asked) = (made.model(), asked.clone());
        let pack = made.pack(&model);
        let small = if own { made.model() } else { other.model() };
        let used = model.config.experts.as_ref().unwrap().used;
        let got = shard::run(&Seats::anywhere(shards), move |lead: Lead, _| async move {
            let options = Options { context: Some(208), ..Options::default() };
            let stream = Stream {
                pack,
                room: Room { slots: used + 1, window: used },
                policy: Policy::default(),
                ahead: 1.0,
                depth: 4,
                patience: Duration::from_secs(20),
                history: None,
            };
            let mut engine = Engine::streamed(model, options, lead, stream).unwrap();
            let mut drafter = drafter(&small, 208);
            drafter.warm_up(&mut engine).await.unwrap();
            let before = drafter.engine().meter().rows;
            let got = in_turmoil(&mut engine, &mut drafter, &asked, seed).await;
            assert!(drafter.engine().meter().rows > before);
            assert_eq!(engine.shards(), shards, "the shards are back");
            nothing_held(engine.pages());
            nothing_held(drafter.engine().pages());
            got
        });
        assert!(same(&got.unwrap(), &expected), "{shards} shards, seed {seed}");
    }
}

async fn listen(mut ticket: Ticket, most: usize) -> (Vec<u32>, Option<(End, Account)>) {
    let mut tokens = Vec::new();
    while let Some(update) = ticket.next().await {
        match update {
            Update::Started { .. } => {}
            Update::Token { choice, .. } => tokens.push(choice.id),
            Update::Ended { end, account, .. } => return (tokens, Some((end, account))),
        }
        if tokens.len() >= most {
            // The client has heard enough.
            break;
        }
    }
    (tokens, None)
}

/// By the loop that serves: those who stay hear the whole answer, and who leaves takes its follower
/// along.
#[test]
fn a_desk_answers_as_without() {
    let model = Made::new(1).model();
    let asked = all_asked(model.config.vocab);
    let expected: Vec<Vec<u32>> = asked
        .iter()
        .map(|asked| {
            let id = |heard| match heard {
                Heard::Token { id, .. } => Some(id),
                Heard::Ended { .. } => None,
            };
            alone(&model, asked, 208).into_iter().filter_map(id).collect()
        })
        .collect();
    let small = Rc::clone(&model);
    for pages in [208, 2000] {
        let (model, small) = (Rc::clone(&model), Rc::clone(&small));
        let (asked, expected) = (asked.clone(), expected.clone());
        let ran = shard::run(&Seats::anywhere(1), move |lead: Lead, _| async move {
            let options = Options { context: Some(pages), ..Options::default() };
            let mut engine = Engine::seated(model, options, lead).unwrap();
            let mut drafter = drafter(&small, 208);
            drafter.warm_up(&mut engine).await.unwrap();
            let second = Duration::from_secs(1);
            let limits = Limits {
                running: 3,
                waiting: 100,
                chunk: 32,
                context: 208,
                stall: second,
                form: Duration::ZERO,
                age: second * 10,
                sequential: false,
            };
            let (mut service, desk) = Service::new(engine, limits);
            service.draft_with(drafter);
            let request = |asked: &Asked| Request {
                prompt: asked.prompt.clone(),
                settings: asked.settings.clone(),
                priority: Priority::Medium,
                batching: Batching::Auto,
                max_wait: None,
            };
            let accounts = RefCell::new(Vec::new());
            let clients = async {
                for round in 0..4 {
                    let all: Vec<Ticket> =
                        asked.iter().map(|one| desk.submit(request(one)).unwrap()).collect();
                    for (i, ticket) in all.into_iter().enumerate() {
                        let most = if (i + round) % 3 == 0 { 4 } else { usize::MAX };
                        let (tokens, ended) = listen(ticket, most).await;
                        match ended {
                            Some((end, account)) => {
                                assert_eq!((tokens, end), (expected[i].clone(), End::Length));
                                assert_eq!(account.answer_tokens, expected[i].len());
                                accounts.borrow_mut().push(account);
                            }
                            None => assert!(expected[i].starts_with(&tokens)),
                        }
                    }
                }
                desk.idle().await;
            };
            let serving = async {
                service.run().await;
            };
            or(clients, serving).await;
            assert!(accounts.borrow().iter().all(|account| account.accepted <= account.drafted));
            nothing_held(service.drafter().unwrap().engine().pages());
            nothing_held(service.engine().pages());
        });
        ran.unwrap();
    }
}

//! What an engine does to save work changes no bit: pages that are shared, given up, found again or
//! computed anew, and tokens that are guessed. Every answer is compared with the same request's
//! alone in an engine that does none of it.

#[path = "support/asked.rs"]
mod asked;

use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use asked::{Asked, Dice, Heard, heard, nothing_held, prompt};
use penstock::engine::{Census, Done, End, Engine, Options, Session, Settings, Stream, Turn};
use penstock::math::KvFormat;
use penstock::model::{Model, Text, demo};
use penstock::shard::{self, Lead, Seats, now};
use penstock::weights::Source;
use penstock::weights::pack::{Fingerprint, Hands, Job, Pack};
use penstock::weights::residency::Policy;
use penstock::weights::stage::Room;

const PAGE: usize = 16;

fn source(name: &str) -> Source {
    if name == "demo" {
        return demo::source().unwrap();
    }
    Source::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference").join(name)).unwrap()
}

fn open(name: &str) -> Rc<Model> {
    Rc::new(Model::open(&source(name)).unwrap())
}

/// Attention windowed with sinks, latent, plain and rotated otherwise; experts and none.
fn models() -> impl Iterator<Item = (&'static str, Rc<Model>)> {
    let names = [
        "gguf/gptoss_mxfp4.gguf",
        "gguf/dsv3_groups.gguf",
        "gguf/qwen2moe_shared.gguf",
        "quant/tiny-q6_k.gguf",
        "families/llama_yarn",
        "demo",
    ];
    names.into_iter().map(|name| (name, open(name)))
}

fn engine(model: &Rc<Model>, context: usize) -> Engine {
    engine_with(model, KvFormat::F32, context)
}

/// With its pages in this format.
fn engine_with(model: &Rc<Model>, kv: KvFormat, context: usize) -> Engine {
    let options = Options { kv, context: Some(context), ..Options::default() };
    Engine::new(Rc::clone(model), options).unwrap()
}

/// Prompts of every length at the borders of pages; most begin alike. Some repeat themselves, and
/// one may write only three tokens, so that guesses come true however it draws.
fn all_asked(vocab: usize) -> Vec<Asked> {
    let common = prompt(vocab, 40, 1);
    let like = |len: usize, seed: u64| -> Vec<u32> {
        let own = prompt(vocab, len.saturating_sub(40), seed);
        common.iter().take(len).copied().chain(own).collect()
    };
    let repeated: Vec<u32> = like(60, 5).into_iter().cycle().take(150).collect();
    let mut penalised = Asked::new(like(49, 3), 0.8, 20);
    penalised.settings.sampling.repetition_penalty = 1.3;
    penalised.settings.sampling.frequency_penalty = 0.2;
    let mut narrow = Asked::new(repeated.clone(), 1.0, 40);
    narrow.settings.sampling.logit_bias = (7..10).map(|id| (id, 1e4)).collect();
    vec![
        Asked::new(like(1, 0), 0.0, 20),
        Asked::new(like(PAGE, 0), 1.0, 20),
        Asked::new(like(PAGE + 1, 0), 0.0, 40),
        Asked::new(like(48, 2), 1.0, 18),
        penalised,
        Asked::new(repeated, 0.0, 40),
        narrow,
    ]
}

/// The same request in an engine of its own that saves no work.
fn alone(model: &Rc<Model>, asked: &Asked, context: usize) -> Vec<Heard> {
    alone_with(model, KvFormat::F32, asked, context)
}

fn alone_with(model: &Rc<Model>, kv: KvFormat, asked: &Asked, context: usize) -> Vec<Heard> {
    let context = Some(context);
    let options = Options { kv, context, share_prefixes: false, ..Options::default() };
    asked.alone(Engine::new(Rc::clone(model), options).unwrap())
}

/// One turn of a session alone.
fn turn(engine: &mut Engine, session: &mut Session, chunk: usize, drafts: usize) -> Vec<Heard> {
    advance(engine, session, chunk, drafts).1
}

fn advance(
    engine: &mut Engine,
    session: &mut Session,
    chunk: usize,
    drafts: usize,
) -> (Done, Vec<Heard>) {
    let mut turns = [Turn::new(session, chunk, drafts)];
    let events = now(engine.advance(&mut turns));
    let done = turns[0].done;
    (done, events.into_iter().filter_map(heard).collect())
}

fn finish(engine: &mut Engine, session: &mut Session, chunk: usize, drafts: usize) -> Vec<Heard> {
    let mut all = Vec::new();
    while session.end_reason().is_none() {
        all.extend(turn(engine, session, chunk, drafts));
    }
    all
}

fn empty(engine: &Engine) {
    nothing_held(engine.pages());
}

#[test]
fn a_beginning_computed_by_another_changes_no_bit() {
    for (name, model) in models() {
        for asked in all_asked(model.config.vocab) {
            let expected = alone(&model, &asked, 400);
            let whole = (asked.prompt.len() - 1) / PAGE * PAGE;
            let mut engine = engine(&model, 400);

            // Of one that is there still, somewhere in its answer.
            let mut other = asked.open(&mut engine);
            while other.answer().len() < 3 {
                turn(&mut engine, &mut other, 7, 0);
            }
            let mut session = asked.open(&mut engine);
            assert_eq!((session.computed(), session.shared()), (whole, whole), "{name}");
            let before = engine.meter().rows;
            assert_eq!(finish(&mut engine, &mut session, 7, 0), expected, "{name}: live");
            let rows = (engine.meter().rows - before) as usize;
            let answer = session.answer().len();
            assert!(rows < asked.prompt.len() - whole + answer, "only the rest is computed");

            // Of one that is gone.
            let rest = finish(&mut engine, &mut other, 7, 0);
            assert_eq!(rest, expected[expected.len() - rest.len()..], "{name}: the other");
            drop((session, other));
            empty(&engine);
            let mut session = asked.open(&mut engine);
            assert_eq!(session.shared(), whole);
            assert_eq!(finish(&mut engine, &mut session, 512, 0), expected, "{name}: gone");
            drop(session);
            empty(&engine);
        }
    }
}

/// Those that come together compute a beginning once, as far as one is ahead of the others.
#[test]
fn a_beginning_computed_at_the_same_time_changes_no_bit() {
    for (name, model) in models() {
        let asked = &all_asked(model.config.vocab)[6];
        let expected = alone(&model, asked, 400);
        for chunk in [7, 40, 512] {
            let options =
                Options { context: Some(800), prefill_chunk: chunk, ..Options::default() };
            let mut engine = Engine::new(Rc::clone(&model), options).unwrap();
            let mut sessions: Vec<Session> = (0..3).map(|_| asked.open(&mut engine)).collect();
            let ids: Vec<u64> = sessions.iter().map(Session::id).collect();
            let mut all = vec![Vec::new(); 3];
            while sessions.iter().any(|session| session.end_reason().is_none()) {
                let mut running: Vec<&mut Session> = sessions.iter_mut().collect();
                for event in now(engine.step(&mut running)) {
                    let i = ids.iter().position(|id| *id == event.session).unwrap();
                    all[i].extend(heard(event));
                }
            }
            assert!(all.iter().all(|all| *all == expected), "{name}, chunks of {chunk}");
            // Prompt and answer are the same for all, so all end up with the same whole pages.
            let written = sessions[0].computed();
            assert_eq!(engine.pages().held, written / PAGE + 3 * (written % PAGE).min(1));
            let prompts = 3 * asked.prompt.len();
            let computed = engine.meter().rows as usize;
            if chunk < asked.prompt.len() {
                assert!(computed < prompts, "{name}: {computed} rows for {prompts}");
            }
            drop(sessions);
            empty(&engine);
        }
    }
}

#[test]
fn a_conversation_changes_no_bit() {
    for (name, model) in models() {
        let vocab = model.config.vocab;
        let mut engine = engine(&model, 600);
        let mut asked = Asked::new(prompt(vocab, 21, 4), 0.9, 15);
        let mut session = asked.open(&mut engine);
        finish(&mut engine, &mut session, 512, 0);
        for round in 0..4 {
            // All that was said, or what is left after some of the answer is taken back.
            let back = [0, 5, 0, 17][round];
            let said = &session.tokens()[..session.tokens().len() - back];
            let kept = said.len() - 1;
            let (new, prompt) = (prompt(vocab, 9, round as u64), said.to_vec());
            asked.prompt = prompt.into_iter().chain(new).collect();
            let expected = alone(&model, &asked, 600);
            let (next, settings) = (asked.prompt.clone(), asked.settings.clone());
            if round % 2 == 0 {
                engine.reopen(&mut session, next, settings).unwrap();
            } else {
                session = asked.open(&mut engine);
            }
            assert!(session.shared() >= kept / PAGE * PAGE, "{name}: {round}");
            assert_eq!(finish(&mut engine, &mut session, 7, 0), expected, "{name}: {round}");
        }
        drop(session);
        empty(&engine);
    }
}

/// Who says something else in the middle of a page that others hold leaves it as it is.
#[test]
fn parting_in_the_middle_of_a_page_changes_no_bit() {
    for (name, model) in models().take(3) {
        let asked = Asked::new(prompt(model.config.vocab, 50, 6), 1.0, 15);
        let expected = alone(&model, &asked, 400);
        for at in 14..50 {
            let mut engine = engine(&model, 400);
            let mut stays = asked.open(&mut engine);
            let mut heard = Vec::new();
            while stays.answer().len() < 3 {
                heard.extend(turn(&mut engine, &mut stays, 512, 0));
            }
            let mut parts = asked.open(&mut engine);
            finish(&mut engine, &mut parts, 512, 0);
            let mut other = asked.clone();
            other.prompt[at] ^= 1;
            let (prompt, settings) = (other.prompt.clone(), other.settings.clone());
            engine.reopen(&mut parts, prompt, settings).unwrap();
            assert_eq!(parts.shared(), (at / PAGE * PAGE).min(48));
            let written = finish(&mut engine, &mut parts, 512, 0);
            assert_eq!(written, alone(&model, &other, 400), "{name}: parted at {at}");
            heard.extend(finish(&mut engine, &mut stays, 512, 0));
            assert_eq!(heard, expected, "{name}: the others, parted from at {at}");
            drop((stays, parts));
            let mut again = asked.open(&mut engine);
            assert_eq!(finish(&mut engine, &mut again, 512, 0), expected, "{name}: after {at}");
        }
    }
}

/// What happens to the pages of a parked session.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Meanwhile {
    Nothing,
    /// Others take the room of some.
    Some,
    /// Of all.
    All,
}

#[test]
fn a_session_parked_anywhere_goes_on_as_if_nothing_had_been() {
    for (name, model) in models().take(3) {
        for asked in [&all_asked(model.config.vocab)[4], &all_asked(model.config.vocab)[2]] {
            let expected = alone(&model, asked, 160);
            for meanwhile in [Meanwhile::Nothing, Meanwhile::Some, Meanwhile::All] {
                for at in 0.. {
                    let mut engine = engine(&model, 160);
                    let mut session = asked.open(&mut engine);
                    let mut all = Vec::new();
                    for _ in 0..at {
                        all.extend(turn(&mut engine, &mut session, 5, 0));
                    }
                    let (computed, over) = (session.computed(), session.end_reason().is_some());
                    engine.park(&mut session);
                    assert_eq!((session.computed(), engine.pages().held), (0, 0));
                    if meanwhile != Meanwhile::Nothing {
                        // A prompt as long as the room, or the room less one page.
                        let len = if meanwhile == Meanwhile::All { 159 } else { 140 };
                        let other = Asked::new(vec![3; len], 0.0, 1);
                        let mut other = other.open(&mut engine);
                        finish(&mut engine, &mut other, 512, 0);
                    }
                    let found = engine.resume(&mut session);
                    assert_eq!(found, session.computed());
                    let cached = computed / PAGE * PAGE;
                    match meanwhile {
                        Meanwhile::Nothing => assert_eq!(found, cached),
                        Meanwhile::Some => assert_eq!(found, cached.min(PAGE)),
                        Meanwhile::All => assert_eq!(found, 0),
                    }
                    all.extend(finish(&mut engine, &mut session, 5, 0));
                    assert_eq!(all, expected, "{name}: {meanwhile:?}, after {at} turns");
                    assert_eq!(session.shared(), 0, "its own pages are not another's");
                    drop(session);
                    empty(&engine);
                    if over {
                        break;
                    }
                }
            }
        }
    }
}

#[test]
fn guesses_change_no_bit() {
    for (name, model) in models() {
        let (mut accepted, mut refused) = (0, 0);
        for asked in all_asked(model.config.vocab) {
            let expected = alone(&model, &asked, 400);
            for drafts in [1, 4, 30] {
                let mut engine = engine(&model, 400);
                let mut session = asked.open(&mut engine);
                let (mut all, mut chosen) = (Vec::new(), 0);
                while session.end_reason().is_none() {
                    let (done, heard) = advance(&mut engine, &mut session, 512, drafts);
                    assert!(done.chosen <= done.rows && done.chosen <= 1 + drafts);
                    assert_eq!(session.computed() + 1, session.tokens().len());
                    chosen += done.chosen;
                    all.extend(heard);
                }
                assert_eq!(all, expected, "{name}: {drafts} guesses");
                assert_eq!(chosen, session.answer().len());
                let tally = *session.drafted();
                let steps = engine.meter().steps;
                assert!(steps + tally.accepted <= chosen as u64 + 1);
                accepted += tally.accepted;
                refused += tally.drafted - tally.accepted;

                // What was refused has not become known as anything else: the next one reads it.
                drop(session);
                let again = Asked { prompt: asked.prompt.clone(), ..asked.clone() };
                let mut session = again.open(&mut engine);
                assert_eq!(finish(&mut engine, &mut session, 512, 0), expected, "{name}: after");
                drop(session);
                empty(&engine);
            }
        }
        assert!(accepted > 20 && refused > 20, "{name}: {accepted} accepted, {refused} refused");
    }
}

/// Guesses never reach beyond an end, whichever comes first.
#[test]
fn an_answer_ends_among_guesses_as_it_ends_without() {
    let text = Text::open(&source("demo")).unwrap();
    let model = open("demo");
    let said = "Once upon a time there was a cat. Once upon a time there was a cat. Once upon";
    let prompt = text.continue_tokens(said).unwrap();
    let mut asked = Asked::new(prompt.clone(), 0.0, 60);
    asked.settings.tokenizer = Some(Rc::clone(&text.tokenizer));
    let whole: String = alone(&model, &asked, 400)
        .iter()
        .map(|heard| match heard {
            Heard::Token { text, .. } | Heard::Ended { text, .. } => text.as_str(),
        })
        .collect();
    let letters: Vec<char> = whole.chars().collect();
    let stops = letters.windows(4).step_by(7).map(|four| vec![four.iter().collect::<String>()]);
    let stops: Vec<Vec<String>> = stops.chain([vec![]]).collect();
    assert!(stops.len() > 5, "{whole:?}");

    let mut accepted = 0;
    let mut check = |asked: &Asked, context: usize, end: Option<End>| {
        let expected = alone(&model, asked, context);
        if let (Some(end), Some(Heard::Ended { end: last, .. })) = (end, expected.last()) {
            assert_eq!(*last, end);
        }
        for drafts in [2, 9] {
            let mut engine = engine(&model, context);
            let mut session = asked.open(&mut engine);
            assert_eq!(finish(&mut engine, &mut session, 512, drafts), expected);
            accepted += session.drafted().accepted;
        }
    };
    for stop in stops {
        let end = (!stop.is_empty()).then_some(End::Stop);
        check(
            &Asked { settings: Settings { stop, ..asked.settings.clone() }, ..asked.clone() },
            400,
            end,
        );
    }
    for max in 1..12 {
        let settings = Settings { max_tokens: Some(max), ..asked.settings.clone() };
        check(&Asked { settings, ..asked.clone() }, 400, None);
    }
    for context in prompt.len() + 1..prompt.len() + 20 {
        let settings = Settings { max_tokens: None, ignore_end: true, ..asked.settings.clone() };
        check(&Asked { settings, ..asked.clone() }, context, Some(End::ContextFull));
    }
    // Tokens that end a text, drawn now and then and even guessed.
    let ends: Vec<u32> =
        (0..model.config.vocab as u32).filter(|&id| text.tokenizer.is_end(id)).collect();
    let narrow = [prompt[1], prompt[2], ends[0]];
    for seed in 0..20 {
        let mut asked = asked.clone();
        asked.prompt = narrow.iter().copied().cycle().take(30 + seed as usize).collect();
        let sampling = &mut asked.settings.sampling;
        (sampling.temperature, sampling.seed) = (1.0, seed);
        sampling.logit_bias = narrow.iter().map(|&id| (id, 1e4)).collect();
        check(&asked, 400, None);
    }
    assert!(accepted > 100, "{accepted}");
}

/// Everything at once, at random: some have turns and some have not, chunks and guesses of any
/// size, sessions parked for others' sake or for nothing, in room for a few of them.
async fn in_turmoil(engine: &mut Engine, asked: &[Asked], seed: u64) -> Vec<Vec<Heard>> {
    let mut dice = Dice(seed);
    let mut all = vec![Vec::new(); asked.len()];
    let mut sessions: Vec<Option<Session>> = asked.iter().map(|_| None).collect();
    let mut ended = 0;
    while ended < asked.len() {
        for (i, session) in sessions.iter_mut().enumerate() {
            let new = session.is_none() && !matches!(all[i].last(), Some(Heard::Ended { .. }));
            match session {
                None if new && dice.roll(6) == 0 => *session = Some(asked[i].open(engine)),
                Some(session) if dice.roll(12) == 0 => engine.park(session),
                Some(session) if dice.roll(12) == 0 => {
                    engine.resume(session);
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
        let events = engine.advance(&mut turns).await;
        let starved = turns.iter().any(|turn| turn.done.starved);
        let idle = turns.iter().all(|turn| turn.done.rows == 0);
        drop(turns);
        for event in events {
            let (_, i) = *owners.iter().find(|(id, _)| *id == event.session).unwrap();
            all[i].extend(heard(event));
        }
        for session in &mut sessions {
            if session.as_ref().is_some_and(|session| session.end_reason().is_some()) {
                *session = None;
                ended += 1;
            }
        }
        if starved && (idle || dice.roll(3) == 0) {
            sessions.iter_mut().flatten().skip(1).for_each(|session| engine.park(session));
        }
        let Census { total, free, cached, held } = engine.pages();
        assert_eq!(total, free + cached + held);
    }
    all
}

#[test]
fn turmoil_changes_no_bit() {
    for (name, model) in models() {
        let asked = all_asked(model.config.vocab);
        let expected: Vec<_> = asked.iter().map(|asked| alone(&model, asked, 208)).collect();
        // Room for one of the longest, and for all of them but a few pages.
        for (context, seeds) in [(208, 0..12), (560, 12..18)] {
            for seed in seeds {
                let mut engine = engine(&model, context);
                let got = now(in_turmoil(&mut engine, &asked, seed));
                assert!(got == expected, "{name}: seed {seed}");
                empty(&engine);
            }
        }
    }
}

/// The same over pages in 8 bits.
#[test]
fn turmoil_changes_no_bit_over_pages_in_8_bits() {
    let kv = KvFormat::Int8;
    for name in ["gguf/gptoss_mxfp4.gguf", "gguf/dsv3_groups.gguf", "demo"] {
        let model = open(name);
        let asked = all_asked(model.config.vocab);
        let expected: Vec<_> =
            asked.iter().map(|asked| alone_with(&model, kv, asked, 208)).collect();
        let exact: Vec<_> = asked.iter().map(|asked| alone(&model, asked, 208)).collect();
        assert!(expected != exact, "{name}: it is another choice");
        for (context, seeds) in [(208, 30..34), (560, 34..36)] {
            for seed in seeds {
                let mut engine = engine_with(&model, kv, context);
                let got = now(in_turmoil(&mut engine, &asked, seed));
                assert!(got == expected, "{name}: seed {seed}");
                empty(&engine);
            }
        }
    }
}

/// The same with experts that come from a disk, in room for very few.
#[test]
fn turmoil_changes_no_bit_while_experts_stream() {
    let name = "gguf/qwen2moe_shared.gguf";
    let asked = all_asked(open(name).config.vocab);
    let expected: Vec<_> = asked.iter().map(|asked| alone(&open(name), asked, 208)).collect();
    let (model, folder) = (open(name), tempfile::tempdir().unwrap());
    let path = folder.path().join("model.penstock");
    let (contents, origin) = (model.parts.contents(), Fingerprint::of(&source(name)).unwrap());
    let job = Job {
        contents: &contents,
        source: &origin,
        files: std::slice::from_ref(&path),
        block: 4096,
    };
    let mut each = |count: usize, work: &(dyn Fn(usize) + Sync)| (0..count).for_each(work);
    job.run(&mut Hands { count: 1, each: &mut each }, &mut |_| true).unwrap();
    for (shards, seed) in [(1, 100), (2, 101)] {
        let model = open(name);
        let pack = Pack::open(&path, &model.parts.contents(), &origin).unwrap();
        let used = model.config.experts.as_ref().unwrap().used;
        let asked = asked.clone();
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
            let got = in_turmoil(&mut engine, &asked, seed).await;
            empty(&engine);
            got
        });
        assert!(got.unwrap() == expected, "{shards} shards");
    }
}

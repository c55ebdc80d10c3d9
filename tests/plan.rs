//! The plan is arithmetic: its sum is at most the budget, whatever is asked, and what it refuses
//! it accepts with the number it names.

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::process::{Command, Output};
use std::rc::Rc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use penstock::engine::{Engine, Error, Options, Settings};
use penstock::math::{Format, KvFormat};
use penstock::model::config::{self, AttentionKind, Config};
use penstock::model::sampling::SamplingParams;
use penstock::model::synth::{self, Recipe};
use penstock::model::{Model, demo};
use penstock::plan::speed::{Hits, Knee, Step};
use penstock::plan::{Ask, Facts, Free, Plan, Rates, Refusal, Weights};
use penstock::shard::{self, Lead, Seats};
use penstock::weights::Source;

/// Counts the bytes that all threads hold, and the most they held.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

/// For tests of which each counts alone.
static ALONE: Mutex<()> = Mutex::new(());

fn hold(bytes: usize) {
    let held = HELD.fetch_add(bytes, Ordering::Relaxed) + bytes;
    MOST.fetch_max(held, Ordering::Relaxed);
}

// SAFETY: every call is handed to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        hold(layout.size());
        // SAFETY: the caller keeps `alloc`'s contract, which is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above; the block came from the system's allocator.
        unsafe { System.dealloc(block, layout) }
    }
}

/// Random numbers that are the same each time.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// As likely small as large.
    fn up_to(&mut self, n: u64) -> u64 {
        let bits = self.below(u64::from(u64::BITS - n.leading_zeros()) + 1);
        (self.next() & ((1 << bits) - 1)).min(n)
    }
}

fn demo_config() -> Config {
    config::read(&demo::source().unwrap()).unwrap()
}

fn random_facts(dice: &mut Dice, base: &Config) -> Facts {
    let mut config = base.clone();
    config.hidden = 64 * (1 + dice.below(100) as usize);
    config.vocab = 1000 + dice.below(200_000) as usize;
    config.context = 1 << (5 + dice.below(13));
    let layers = 1 + dice.below(64) as usize;
    config.layers = vec![base.layers[0]; layers];
    let mut weights = Weights {
        trunk: (1 << 20) + dice.up_to(8 << 30),
        embedding: dice.below(1 << 20),
        layers: Vec::new(),
    };
    if dice.below(8) > 0 {
        let mut experts = base.experts.clone().expect("the demo has experts");
        experts.count = 2 + dice.below(512) as usize;
        experts.used = 1 + dice.below(experts.count.min(16) as u64) as usize;
        experts.width = 32 * (1 + dice.below(400) as usize);
        for _ in 0..layers {
            let bytes = 64 * (1 + dice.up_to(1 << 21));
            weights.layers.push(penstock::plan::Slabs { experts: experts.count, bytes });
        }
        config.experts = Some(experts);
    } else {
        config.experts = None;
    }
    let mut rate = || (dice.below(2) > 0).then(|| 1e8 + dice.up_to(1 << 40) as f64);
    let rates = Rates { disk: rate(), memory: rate(), arithmetic: rate() };
    Facts { name: "a model".into(), config, weights, free: None, rates }
}

fn random_ask(dice: &mut Dice) -> Ask {
    Ask {
        memory: None,
        context: (dice.below(2) > 0).then(|| 1 + dice.up_to(1 << 17) as usize),
        prefill_chunk: (dice.below(2) > 0).then(|| 1 + dice.up_to(1 << 13) as usize),
        sessions: 1 + dice.up_to(64) as usize,
        cores: 1 + dice.up_to(64) as usize,
        every_logit: dice.below(4) == 0,
        kv: KvFormat::ALL[dice.below(2) as usize],
    }
}

#[track_caller]
fn check(plan: &Plan, ask: &Ask, facts: &Facts) {
    assert!(plan.total() <= plan.budget, "{plan:?}");
    assert_eq!(Some(plan.budget), ask.memory);
    let used = facts.config.experts.as_ref().map_or(0, |experts| experts.used);
    let least = (2 * used).min(facts.weights.slabs());
    assert!(plan.slots >= least && plan.slots <= plan.slabs, "{plan:?}");
    assert_eq!(plan.fits, plan.slots == plan.slabs);
    assert!(plan.fits || (plan.transit >= least && plan.transit <= plan.slots), "{plan:?}");
    assert!(
        plan.slot_bytes >= facts.weights.largest_slab() && plan.slot_bytes.is_multiple_of(4096)
    );
    assert!((0.0..=1.0).contains(&plan.share()));
    assert!(plan.context >= 1 && plan.pages * 16 >= plan.context);
    assert!(plan.pages_bytes >= plan.pages as u64 * facts.page_bytes(ask.kv));
    assert_eq!(plan.kv, ask.kv);
    assert!(ask.context.is_none_or(|context| context == plan.context));
    assert!(ask.prefill_chunk.is_none_or(|chunk| chunk == plan.prefill_chunk));
}

fn alone() -> std::sync::MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[test]
fn the_parts_are_never_more_than_the_budget() {
    let _alone = alone();
    let (mut dice, base) = (Dice(1), demo_config());
    let (mut accepted, mut whole) = (0, 0);
    for _ in 0..20_000 {
        let facts = random_facts(&mut dice, &base);
        let mut ask = random_ask(&mut dice);
        let least = Plan::least(&ask, &facts);
        let most = Plan::enough(&ask, &facts) * 5 / 4;
        ask.memory = Some(least / 2 + dice.below(most - least / 2));
        match Plan::new(&ask, &facts) {
            Ok(plan) => {
                check(&plan, &ask, &facts);
                accepted += 1;
                whole += u32::from(plan.fits);
            }
            Err(Refusal::Budget { enough, budget, saved_by_context, saved_by_chunk, .. }) => {
                assert!(budget < enough && enough == least);
                ask.memory = Some(enough);
                check(&Plan::new(&ask, &facts).unwrap(), &ask, &facts);
                // A byte less is too little: the number is the smallest that does.
                ask.memory = Some(enough - 1);
                assert!(Plan::new(&ask, &facts).is_err());
                assert!(saved_by_context < enough && saved_by_chunk < enough);
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert!(accepted > 10_000 && whole > 500, "{accepted} {whole}");
}

/// The most that an engine's steps hold, beside weights and pages: a long prompt, answers of
/// several sessions, and the logits of every token if those are wanted.
fn held_by_steps(model: Rc<Model>, ask: Ask) -> usize {
    let seats = Seats::anywhere(ask.cores);
    shard::run(&seats, move |lead: Lead, _| async move {
        let before = HELD.load(Ordering::Relaxed);
        MOST.store(before, Ordering::Relaxed);
        let (context, chunk) = (ask.context.unwrap(), ask.prefill_chunk.unwrap());
        let (kv, context_of) = (ask.kv, Some(context));
        let options =
            Options { kv, prefill_chunk: chunk, context: context_of, ..Options::default() };
        let vocab = model.config.vocab;
        let mut engine = Engine::seated(model, options, lead).unwrap();
        let tokens = |n: usize| (0..n).map(|i| (i * 7919 % vocab) as u32).collect::<Vec<_>>();
        if ask.every_logit {
            let seen = |_, _: &[f32]| Ok::<(), Error>(());
            engine.logits(&tokens(chunk), seen).await.unwrap();
        } else {
            let sampling = SamplingParams { temperature: 1.0, top_p: 0.9, ..Default::default() };
            let settings = || Settings {
                sampling: sampling.clone(),
                max_tokens: Some(5),
                ..Settings::default()
            };
            // Those who write already are in the step of a whole chunk.
            let mut sessions: Vec<_> =
                (1..ask.sessions).map(|_| engine.open(tokens(3), settings()).unwrap()).collect();
            engine.step(&mut sessions.iter_mut().collect::<Vec<_>>()).await;
            sessions.push(engine.open(tokens(context / ask.sessions - 20), settings()).unwrap());
            while sessions.iter().any(|session| session.end_reason().is_none()) {
                engine.step(&mut sessions.iter_mut().collect::<Vec<_>>()).await;
            }
        }
        MOST.load(Ordering::Relaxed) - before
    })
    .unwrap()
}

/// The formula for scratch is an upper bound of what steps really hold.
#[test]
fn steps_hold_no_more_than_their_scratch() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    for shape in synth::ALL {
        let quant = Format::Q4K;
        let recipe = Recipe::new(&format!("tiny-{}", shape.name), quant, None, 0.0, 1).unwrap();
        fs::write(&path, recipe.write(Vec::new(), |_| Ok(())).unwrap()).unwrap();
        let source = Source::open(&path).unwrap();
        let (wide, narrow) = (KvFormat::F32, KvFormat::Int8);
        for (chunk, sessions, cores, every_logit, kv) in [
            (16, 1, 1, false, narrow),
            (600, 1, 1, false, wide),
            (600, 1, 2, true, narrow),
            (256, 4, 2, false, wide),
        ] {
            let model = Rc::new(Model::open(&source).unwrap());
            let ask = Ask {
                memory: Some(1 << 44),
                context: Some(700 * sessions),
                prefill_chunk: Some(chunk),
                sessions,
                cores,
                every_logit,
                kv,
            };
            let facts = Facts { free: None, ..Facts::of("it", &model) };
            let plan = Plan::new(&ask, &facts).unwrap();
            let held = held_by_steps(model, ask) as u64;
            let what = format!("{}, {ask:?}: {held} held, {} planned", shape.name, plan.scratch);
            println!("{what}");
            assert!(held <= plan.scratch, "{what}");
        }
    }
}

fn facts_of_demo() -> Facts {
    let model = Model::open(&demo::source().unwrap()).unwrap();
    Facts { free: None, ..Facts::of("demo", &model) }
}

#[test]
fn a_refusal_names_the_number_that_does() {
    let _alone = alone();
    let mut facts = facts_of_demo();
    facts.weights.layers.iter_mut().for_each(|layer| layer.bytes = 100 << 20);
    let mut ask = Ask {
        memory: Some(64 << 20),
        context: Some(1 << 20),
        prefill_chunk: Some(4096),
        ..Ask::default()
    };
    let text = Plan::new(&ask, &facts).unwrap_err().to_string();
    for word in ["demo", "--memory", "--context ", "--prefill-chunk 16"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    assert!(!text.contains('\n'), "{text}");
    let named = text.split("--memory ").nth(1).unwrap().split("GiB").next().unwrap();
    let named: f64 = named.parse().unwrap();
    ask.memory = Some((named * (1u64 << 30) as f64) as u64);
    Plan::new(&ask, &facts).unwrap();
}

#[test]
fn more_than_there_is_is_refused() {
    let _alone = alone();
    let mut facts = facts_of_demo();
    let gib = |n: u64| n << 30;
    facts.free = Some(Free { limit: Some(gib(1)), available: gib(20), own: gib(1) / 16 });
    let asked = |context| Ask { memory: Some(gib(8)), context: Some(context), ..Ask::default() };
    // All of the demo fits in the limit, whatever the budget says.
    assert!(Plan::new(&asked(512), &facts).unwrap().fits);
    let wide = gib(4) as usize * 16 / facts.page_bytes(KvFormat::F32) as usize;
    let text = Plan::new(&asked(wide), &facts).unwrap_err().to_string();
    assert!(text.contains("control group") && text.contains("--memory 1GiB"), "{text}");
    // A group's limit may be planned for to the last byte, though a little of it is used already.
    let free = Free { limit: Some(gib(8)), available: gib(8) - (40 << 20), own: 8 << 20 };
    let facts_of_8 = Facts { free: Some(free), ..thirty_b() };
    let ask = Ask { memory: Some(gib(8)), ..Ask::default() };
    assert!(Plan::new(&ask, &facts_of_8).unwrap().total() > gib(8) - (16 << 20));
    // Nobody says how much: it stays below the limit.
    let plan = Plan::new(&Ask::default(), &facts).unwrap();
    assert!(plan.budget < gib(1) && plan.budget > gib(1) * 9 / 10);
}

/// What the same context takes in 8 bits, and what context the same memory holds.
#[test]
fn pages_in_8_bits_take_about_a_quarter() {
    let _alone = alone();
    let mut facts = thirty_b();
    // Heads as models of this size have them; latent attention as DeepSeek's.
    let AttentionKind::Grouped { kv_heads, key_dim, value_dim, .. } =
        &mut facts.config.attention.kind
    else {
        unreachable!("the demo has key-value heads")
    };
    (*kv_heads, *key_dim, *value_dim) = (4, 128, 128);
    let mut latent = facts.clone();
    latent.config.attention.kind = AttentionKind::Latent {
        q_rank: None,
        kv_rank: 512,
        nope_dim: 128,
        rope_dim: 64,
        value_dim: 128,
        latent_eps: 1e-6,
    };
    for (facts, numbers, vectors) in [(facts, 4 * 256, 4 * 2), (latent, 576 + 512, 2)] {
        let [wide, narrow] = KvFormat::ALL.map(|kv| facts.page_bytes(kv));
        // Of 16 positions in 48 layers: the codes, and a float for each key and value.
        assert_eq!(wide, 16 * 48 * numbers * 4);
        assert_eq!(narrow, 16 * 48 * (numbers + vectors * 4));
        let part = narrow as f64 / wide as f64;
        assert!((0.25..0.27).contains(&part), "{part}");

        let ask = Ask { memory: Some(8 << 30), context: Some(16_384), ..Ask::default() };
        let plan = |kv| Plan::new(&Ask { kv, ..ask }, &facts).unwrap();
        let [wide, narrow] = KvFormat::ALL.map(plan);
        let part = narrow.pages_bytes as f64 / wide.pages_bytes as f64;
        assert!((0.25..0.27).contains(&part), "{part}");
        // What they leave is for experts.
        assert!(narrow.slots > wide.slots, "{} {}", narrow.slots, wide.slots);
    }
}

/// The shape of a model of 30 B parameters, of which a token meets 3 B.
fn thirty_b() -> Facts {
    let mut facts = facts_of_demo();
    let config = &mut facts.config;
    config.hidden = 2048;
    config.vocab = 151_936;
    config.context = 40_960;
    config.layers = vec![config.layers[0]; 48];
    config.layers.iter_mut().for_each(|layer| layer.ffn = config::Ffn::Experts);
    let experts = config.experts.as_mut().unwrap();
    (experts.count, experts.used, experts.width, experts.shared) = (128, 8, 768, None);
    let slabs = penstock::plan::Slabs { experts: 128, bytes: 2_654_208 };
    facts.weights = Weights { trunk: 868 << 20, embedding: 175 << 20, layers: vec![slabs; 48] };
    facts.rates = Rates { disk: Some(3e9), memory: Some(30e9), arithmetic: Some(460e9) };
    facts
}

#[test]
fn more_memory_is_never_slower() {
    let _alone = alone();
    let facts = thirty_b();
    let mut last = 0.0;
    for gib in 2..=24u64 {
        let ask = Ask { memory: Some(gib << 30), cores: 2, ..Ask::default() };
        let plan = Plan::new(&ask, &facts).unwrap();
        let speed = Step::decode(&plan, &facts, &Hits::Uniform, 1).tokens_per_second().unwrap();
        assert!(speed >= last, "{gib} GiB: {speed} after {last}");
        last = speed;
    }
    assert!(last > 10.0);
}

#[test]
fn the_knee_is_where_the_disk_stops_mattering() {
    let _alone = alone();
    let facts = thirty_b();
    let ask = Ask { cores: 2, ..Ask::default() };
    let knee = Knee::find(&ask, &facts, &Hits::Uniform);
    let plan = |memory| Plan::new(&Ask { memory: Some(memory), ..ask }, &facts).unwrap();
    let hidden = |plan: &Plan| Step::decode(plan, &facts, &Hits::Uniform, 1).disk_is_hidden();
    assert_eq!(hidden(&plan(knee.budget)), Some(true));
    assert_eq!(hidden(&plan(knee.budget - (64 << 20))), Some(false));
    assert!(!knee.fits);
    // A disk as fast as memory does at once, one that nobody measured only when all fits.
    let fast = Facts { rates: Rates { disk: Some(1e12), ..facts.rates }, ..facts.clone() };
    assert!(Knee::find(&ask, &fast, &Hits::Uniform).budget <= Plan::least(&ask, &fast) + (1 << 20));
    let unknown = Facts { rates: Rates::default(), ..facts.clone() };
    let knee = Knee::find(&ask, &unknown, &Hits::Uniform);
    assert!(knee.fits && knee.budget >= Plan::enough(&ask, &unknown));
}

#[test]
fn a_replayed_trace_says_what_is_hit() {
    let _alone = alone();
    let facts = thirty_b();
    let ask = Ask { memory: Some(8 << 30), ..Ask::default() };
    let plan = Plan::new(&ask, &facts).unwrap();
    let kept = plan.slots - plan.transit;
    let hits = Hits::Replayed(vec![(kept - 100, 0.5), (kept + 100, 0.7)]);
    assert!((hits.at(&plan) - 0.6).abs() < 1e-9);
    let hits = Hits::Replayed(vec![(2 * kept, 0.8)]);
    assert!((hits.at(&plan) - 0.4).abs() < 1e-3);
    assert_eq!(Hits::Replayed(vec![(1, 0.25)]).at(&plan), 0.25);
    assert!((Hits::Uniform.at(&plan) - kept as f64 / 6144.0).abs() < 1e-9);
}

fn penstock(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_penstock")).arg("plan").args(args).output().unwrap()
}

#[test]
fn a_plan_is_one_screen() {
    let _alone = alone();
    for args in [
        &["demo", "--no-limits"][..],
        &["demo", "--memory", "96MiB", "--disk", "3.0GB/s", "--sessions", "32"],
        &["demo", "--kv", "int8", "--no-limits"],
        &["demo", "--memory", "50%", "--cores", "1", "--context", "128", "--prefill-chunk", "64"],
        // More than any host has is planned all the same, and said to be.
        &["demo", "--memory", "64T", "--context", "1000000000", "--no-limits"],
    ] {
        let output = penstock(args);
        let (out, err) = (String::from_utf8(output.stdout), String::from_utf8(output.stderr));
        let out = out.unwrap();
        assert!(output.status.success(), "{args:?}: {}", err.unwrap());
        assert!(out.lines().count() <= 24, "{args:?}:\n{out}");
        let wide = out
            .lines()
            .find(|line| line.chars().count() > 80 && !line.starts_with("Not on this host"));
        assert_eq!(wide, None, "{args:?}");
        assert!(out.contains("trunk") && out.contains("knee"), "{out}");
        let kept = if args.contains(&"int8") { "tokens, int8" } else { "tokens, f32" };
        assert!(out.contains(kept), "{out}");
        assert_eq!(args.contains(&"64T"), out.contains("Not on this host"), "{out}");
    }
}

#[test]
fn a_plan_is_json_that_adds_up() {
    let _alone = alone();
    let output = penstock(&["demo", "--json", "--no-limits", "--memory", "38MiB", "--kv", "int8"]);
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let plan = &said["plan"];
    let number = |name: &str| plan[name].as_u64().unwrap();
    let parts = ["trunk", "pages_bytes", "scratch", "program"].map(number).iter().sum::<u64>();
    let total = parts + number("slots") * number("slot_bytes");
    assert_eq!(said["total"].as_u64(), Some(total));
    assert!(total <= 38 << 20 && plan["fits"] == false);
    assert_eq!(plan["kv"], "int8");
    assert!(said["hit_rate"].as_f64().unwrap() < 1.0);
}

#[test]
fn what_cannot_be_planned_is_one_sentence() {
    let _alone = alone();
    for (args, word) in [
        (&["demo", "--memory", "20MiB", "--no-limits"][..], "--memory 37MiB"),
        (&["demo", "--memory", "8"], "8GiB"),
        (&["demo", "--memory", "lots"], "80%"),
        (&["demo", "--disk", "fast"], "3.0GB/s"),
    ] {
        let output = penstock(args);
        let err = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && err.contains(word), "{args:?}: {err}");
    }
}

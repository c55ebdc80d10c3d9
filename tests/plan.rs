//! The plan is arithmetic: its sum is at most the budget, whatever is asked, and what it refuses
//! it accepts with the number it names.

use penstock::model::config::{self, Config};
use penstock::model::demo;
use penstock::plan::{Ask, Facts, Plan, Rates, Refusal, Weights};

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
    assert!(plan.pages_bytes >= plan.pages as u64 * facts.page_bytes());
    assert!(ask.context.is_none_or(|context| context == plan.context));
    assert!(ask.prefill_chunk.is_none_or(|chunk| chunk == plan.prefill_chunk));
}

#[test]
fn the_parts_are_never_more_than_the_budget() {
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

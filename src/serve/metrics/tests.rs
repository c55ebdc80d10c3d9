//! The text, whole, against one that was looked at, and its histograms among themselves.

use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::engine::desk::{Account, Load, Refusal};
use crate::engine::scheduler::Priority;
use crate::engine::telemetry::{Slabs, Standing};
use crate::engine::{End, Meter};
use crate::shard::Counters;

/// A server that has seen a little of everything.
fn telemetry() -> Telemetry {
    let ms = Duration::from_millis;
    let mut telemetry = Telemetry::default();
    (0..5).for_each(|_| telemetry.arrived());
    telemetry.refused(&Refusal::Full { waiting: 9, retry_after: ms(1) });
    telemetry.started(Priority::High, ms(2));
    telemetry.started(Priority::Low, ms(700));
    telemetry.first_token(Priority::High, ms(90));
    telemetry.first_token(Priority::Low, Duration::from_secs(200));
    [20, 21, 20, 35].into_iter().for_each(|gap| telemetry.token_gap(ms(gap)));
    let mut meter = Meter { steps: 1, rows: 34, taken: ms(80), ..Meter::default() };
    for taken in &mut meter.tally.taken {
        *taken = ms(3);
    }
    meter.tally.moved = 1 << 30;
    meter.reading.held = 300 << 20;
    meter.reading.demanded = 100 << 20;
    meter.reading.read = 120 << 20;
    meter.reading.reads = 480;
    meter.reading.waited = ms(25);
    (0..3).for_each(|_| telemetry.stepped(&meter, 2, 30));
    let account = Account {
        queued: ms(2),
        prefill: ms(88),
        decode: ms(96),
        prompt_tokens: 34,
        shared_tokens: 16,
        answer_tokens: 5,
        drafted: 8,
        accepted: 6,
        preempted: 1,
        ..Account::default()
    };
    telemetry.ended(&End::Stop, &account);
    telemetry.ended(&End::Expired, &Account { queued: ms(50), ..Account::default() });
    let shard = |computing, stolen| Counters {
        computing: ms(computing),
        spinning: ms(30),
        parked: ms(500),
        chunks: 1000,
        stolen,
        reads: 240,
        bytes: 60 << 20,
    };
    telemetry.standing = Standing {
        load: Load {
            running: 2,
            waiting: 1,
            batch: 8,
            pages: 256,
            free_pages: 200,
            first_token: ms(150),
            draining: false,
        },
        cached_pages: 30,
        held_pages: 26,
        resident: 5 << 30,
        memory_limit: 8 << 30,
        slabs: Some(Slabs { hits: 300, coming: 20, misses: 80, ..Default::default() }),
        shards: vec![shard(200, 3), shard(190, 17)],
    };
    telemetry
}

fn text() -> String {
    let telemetry = telemetry();
    let serving = Serving { open: 3, accepted: 7, refused: 1, log_dropped: 0 };
    render(&Snapshot { model: "a \"quoted\\name\"\nof two lines", telemetry: &telemetry, serving })
}

#[test]
fn the_text_is_what_was_looked_at() {
    let golden = include_str!("golden.txt");
    if let Some(path) = std::env::var_os("PENSTOCK_WRITE_GOLDEN") {
        return std::fs::write(path, text()).unwrap();
    }
    for (number, (now, then)) in text().lines().zip(golden.lines()).enumerate() {
        assert_eq!(now, then, "line {}", number + 1);
    }
    assert_eq!(text().lines().count(), golden.lines().count());
}

#[test]
fn every_family_says_what_it_is_before_its_samples() {
    let text = text();
    let mut kinds = BTreeMap::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(kinds.insert(name, kind).is_none(), "{name} twice");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{name}");
            continue;
        }
        if line.starts_with('#') {
            continue;
        }
        let name = line.split(['{', ' ']).next().unwrap();
        let parts = ["_bucket", "_sum", "_count"];
        let known = kinds.contains_key(name)
            || parts.iter().any(|part| {
                name.strip_suffix(part).is_some_and(|base| kinds.get(base) == Some(&"histogram"))
            });
        assert!(known && name.starts_with("penstock_"), "{line}");
    }
    let documented = include_str!("../metrics.rs");
    for name in kinds.keys() {
        let short = name.strip_prefix("penstock_").unwrap();
        assert!(documented.contains(&format!("`{short}`")), "{name} is not in the table");
    }
}

#[test]
fn histograms_add_up() {
    let text = text();
    let mut last: Option<(String, f64)> = None;
    let mut whole = 0;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (sample, value) = line.rsplit_once(' ').unwrap();
        let value: f64 = value.parse().unwrap();
        let (series, bound) = match sample.split_once("le=\"") {
            Some((series, bound)) => (series.to_owned(), bound),
            None => {
                if let (Some((_, all)), true) = (&last, sample.contains("_count")) {
                    assert_eq!(*all, value, "{line}");
                    whole += 1;
                }
                continue;
            }
        };
        if let Some((before, count)) = &last
            && *before == series
        {
            assert!(value >= *count, "{line}");
        }
        let ends = bound.starts_with("+Inf");
        assert!(ends || bound.trim_end_matches(['"', '}']).parse::<f64>().unwrap() > 0.0);
        last = Some((series, value));
    }
    // One for each histogram: of priorities, parts, and alone.
    assert_eq!(whole, 2 * 3 + 8 + 5);
}

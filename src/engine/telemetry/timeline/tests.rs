//! Timelines of made-up spans, and of a real engine.

use std::rc::Rc;

use serde_json::Value;

use super::*;
use crate::engine::{Engine, Error, Options};
use crate::model::{Model, demo};
use crate::shard::{self, Lead, Queues, Seats};

/// The file of a program that was killed, made whole.
fn events(text: &str) -> Vec<Value> {
    let whole = match text.trim_end().strip_suffix(',') {
        Some(cut) => format!("{cut}]"),
        None => text.into(),
    };
    serde_json::from_str(&whole).unwrap()
}

fn slices(events: &[Value], tid: u64) -> Vec<(f64, f64, &str)> {
    let of_track = events.iter().filter(|e| e["ph"] == "X" && e["tid"] == tid);
    of_track
        .map(|e| {
            let (at, taken) = (e["ts"].as_f64().unwrap(), e["dur"].as_f64().unwrap());
            (at, at + taken, e["name"].as_str().unwrap())
        })
        .collect()
}

/// Slices of a track lie within each other or apart.
fn check_nesting(events: &[Value], tid: u64) {
    let mut slices = slices(events, tid);
    slices.sort_by(|a, b| a.0.total_cmp(&b.0).then(b.1.total_cmp(&a.1)));
    let mut open: Vec<(f64, f64, &str)> = Vec::new();
    for slice in slices {
        // Sums of printed microseconds are right to a thousandth.
        while open.last().is_some_and(|outer| outer.1 <= slice.0 + 1e-3) {
            open.pop();
        }
        if let Some(outer) = open.last() {
            assert!(slice.1 <= outer.1 + 1e-3, "track {tid}: {slice:?} leaves {outer:?}");
        }
        open.push(slice);
    }
}

#[test]
fn every_span_is_an_event_that_parses() {
    let mut script = Script::new(2);
    let origin = script.origin;
    let at = |us: u64| origin + Duration::from_nanos(us * 1000 + 7);
    let spans = [
        (What::Step { number: 3, rows: 2 }, at(0), at(90)),
        (What::Stage { name: "gate, up", layer: 4, waited: 1500 }, at(1), at(5)),
        (What::Stage { name: "logits", layer: NO_LAYER, waited: 0 }, at(60), at(80)),
        (What::Wait { layer: 4 }, at(10), at(50)),
        (What::Breath, at(20), at(30)),
        (What::Lost(12), at(81), at(81)),
        (What::Request { id: 9, part: "queued" }, at(2), at(40)),
    ];
    for (what, begin, end) in spans {
        script.span(0, &Span { what, begin, end });
    }
    let killed = events(&script.text);
    assert_eq!(slices(&killed, 0).len(), 5);
    check_nesting(&killed, 0);
    let stage = killed.iter().find(|e| e["name"] == "gate, up").unwrap();
    assert_eq!((stage["ts"].as_f64(), stage["dur"].as_f64()), (Some(1.007), Some(4.0)));
    assert_eq!(stage["args"], serde_json::json!({"layer": 4, "waited_us": 1.5}));
    let life: Vec<_> = killed.iter().filter(|e| e["cat"] == "request").collect();
    assert_eq!((life[0]["ph"].as_str(), life[1]["ph"].as_str()), (Some("b"), Some("e")));
    assert!(killed.iter().any(|e| e["name"] == "12 spans lost"));
    let ended = events(&(script.text.clone() + &script.end()));
    assert_eq!(ended.len(), killed.len() + 1);
}

#[test]
fn reads_that_overlap_lie_on_tracks_of_their_own() {
    let mut script = Script::new(2);
    let origin = script.origin;
    let at = |us: u64| origin + Duration::from_micros(us);
    // In the order of their ends.
    for (begin, end) in [(2, 5), (6, 8), (0, 10), (7, 11), (10, 12), (12, 13)] {
        let what = What::Read { ticket: 1, bytes: 4096, urgency: "demand" };
        script.span(1, &Span { what, begin: at(begin), end: at(end) });
    }
    let events = events(&script.text);
    let lanes: Vec<usize> = (2000..2004).map(|tid| slices(&events, tid).len()).collect();
    assert_eq!(lanes.iter().sum::<usize>(), 6);
    assert_eq!(lanes, [4, 1, 1, 0]);
    for tid in 2000..2003 {
        let slices = slices(&events, tid);
        assert!(slices.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{slices:?}");
    }
}

/// What the shards of an engine note is nested, and the stages of a step are within it.
#[test]
fn an_engine_draws_its_steps_and_all_shards_their_parts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trace.json");
    let file = path.clone();
    let spent = shard::run(&Seats::anywhere(2), async move |mut lead: Lead, queues: Queues| {
        let (timeline, mut requests) = Timeline::create(&file, lead.trace(1 << 14)).unwrap();
        let stop = Rc::new(Cell::new(false));
        let writer = timeline.run(Rc::clone(&stop));
        let writer = glommio::spawn_local_into(writer, queues.housekeeping).unwrap();
        let model = Rc::new(Model::open(&demo::source().unwrap()).unwrap());
        let options = Options { context: Some(512), ..Options::default() };
        let mut engine = Engine::seated(model, options, lead).unwrap();
        let began = Instant::now();
        for _ in 0..3 {
            let seen = |_, _: &[f32]| Ok::<(), Error>(());
            engine.logits(&[5; 300], seen).await.unwrap();
        }
        requests.note(What::Request { id: 1, part: "decode" }, began, Instant::now());
        stop.set(true);
        writer.await.unwrap();
        engine.meter()
    });
    let meter = spent.unwrap();
    let text = std::fs::read_to_string(path).unwrap();
    assert!(!text.contains("spans lost"));
    let events = events(&text);
    check_nesting(&events, 0);
    check_nesting(&events, 1);
    let lead = slices(&events, 0);
    let sum = |name: &dyn Fn(&str) -> bool| -> f64 {
        lead.iter().filter(|s| name(s.2)).map(|s| s.1 - s.0).sum()
    };
    assert_eq!(lead.iter().filter(|s| s.2 == "step").count() as u64, meter.steps);
    let steps = sum(&|name| name == "step");
    let stages = sum(&|name| name != "step" && name != "breath");
    let taken = meter.taken.as_secs_f64() * 1e6;
    let of_stages = meter.tally.taken.iter().sum::<Duration>().as_secs_f64() * 1e6;
    assert!((steps - taken).abs() < 1.0, "steps {steps} µs, by the meter {taken}");
    assert!((stages - of_stages).abs() < lead.len() as f64 * 0.002, "{stages} and {of_stages}");
    assert!(stages < steps);
    assert!(slices(&events, 1).iter().any(|s| s.2 == "gate, up"));
    let layers = events.iter().filter(|e| e["name"] == "gate, up");
    assert!(layers.map(|e| e["args"]["layer"].as_u64().unwrap()).max() > Some(0));
}

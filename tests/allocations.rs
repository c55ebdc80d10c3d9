//! A step allocates nothing once it has seen its like: nothing on any shard grows with the number
//! of steps.

use std::alloc::{GlobalAlloc, Layout, System};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use penstock::engine::{Engine, Error, Options};
use penstock::math::KvFormat;
use penstock::model::{Model, demo};
use penstock::shard::{self, Lead, Seats};
use penstock::weights::Source;

/// Counts what all threads ask for. This file has one test, so nobody else asks.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

static ASKED: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is handed to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ASKED.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps `alloc`'s contract, which is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        ASKED.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above; the block came from the system's allocator.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ASKED.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(block, layout, size) }
    }
}

fn model(name: Option<&str>) -> Rc<Model> {
    let source = match name {
        None => demo::source(),
        Some(name) => {
            let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
            Source::open(&folder.join("tests/reference").join(name))
        }
    };
    Rc::new(Model::open(&source.unwrap()).unwrap())
}

#[test]
fn steps_allocate_nothing_after_the_first() {
    for name in [None, Some("gguf/dsv3_groups.gguf"), Some("gguf/gptoss_mxfp4.gguf")] {
        let (wide, narrow) = (KvFormat::F32, KvFormat::Int8);
        for (shards, prefill_chunk, kv) in
            [(1, 1, wide), (1, 16, narrow), (2, 1, narrow), (2, 16, wide)]
        {
            let model = model(name);
            // glommio allocates for a breath; how often that is depends on the clock.
            let seats = Seats { breath: Duration::MAX, ..Seats::anywhere(shards) };
            let asked = shard::run(&seats, move |lead: Lead, _| async move {
                let context = Some(512);
                let options = Options { kv, prefill_chunk, context, ..Options::default() };
                let mut engine = Engine::seated(Rc::clone(&model), options, lead).unwrap();
                let vocab = model.config.vocab;
                let tokens: Vec<u32> = (0..512).map(|i| (i * 7919 % vocab) as u32).collect();
                let mut count = async |tokens: &[u32]| {
                    let before = ASKED.load(Ordering::Relaxed);
                    let seen = |_, _: &[f32]| Ok::<(), Error>(());
                    engine.logits(tokens, seen).await.unwrap();
                    ASKED.load(Ordering::Relaxed) - before
                };
                // Stealing decides who meets a chunk first, and on a busy host a shard may be late for
                // all of them. What each step asks for, it asks for every time.
                let (mut few, mut many) = (usize::MAX, usize::MAX);
                for _ in 0..6 {
                    few = few.min(count(&tokens[..64]).await);
                    many = many.min(count(&tokens).await);
                }
                (few, many)
            });
            let (few, many) = asked.unwrap();
            // The list of pages doubles a few times.
            assert!(many <= few + 10, "{name:?}, {shards} shards: {few} in 64, {many} in 512");
        }
    }
}

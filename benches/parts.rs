//! The parts of a step, one by one: `cargo bench --bench parts [FILTER]`.
//!
//! Each prints what it moves or computes and how much of this host's roof that is, the roof being
//! measured first in the same run. Weights are larger than the caches, as a model's are.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use penstock::base::limits::{PAGE, PANEL_ROWS};
use penstock::host::arena::Arena;
use penstock::host::crew::Crew;
use penstock::host::roof::Roof;
use penstock::host::topology::Topology;
use penstock::math::peak::{Arithmetic, peak_ops};
use penstock::math::{
    Activations, AttentionScratch, Columns, Format, IsaChoice, Kernels, KvFormat, KvView, Matrix,
    Panels, Queries, pack,
};

/// What one call does, and what the host does of it at most.
struct Work {
    bytes: u64,
    operations: u64,
    read: f64,
    peak: f64,
}

/// Times `call`, and says beside criterion's lines how near the roof the best of them came.
fn measure(c: &mut Criterion, group: &str, name: &str, work: &Work, mut call: impl FnMut()) {
    let best = Cell::new(f64::INFINITY);
    let mut group = c.benchmark_group(group);
    group.throughput(Throughput::Bytes(work.bytes)).sample_size(10);
    group.measurement_time(Duration::from_secs(1)).warm_up_time(Duration::from_millis(300));
    group.bench_function(name, |bencher| {
        bencher.iter_custom(|times| {
            let start = Instant::now();
            (0..times).for_each(|_| call());
            let taken = start.elapsed();
            best.set(best.get().min(taken.as_secs_f64() / times as f64));
            taken
        });
    });
    group.finish();
    // Not asked for.
    if best.get().is_infinite() {
        return;
    }
    let (bytes, operations) = (work.bytes as f64 / best.get(), work.operations as f64 / best.get());
    println!(
        "{name:<40} {:>7.1} GB/s ({:.0}% of reading), {:>6.0} Gop/s ({:.0}% of the peak)\n",
        bytes / 1e9,
        100.0 * bytes / work.read,
        operations / 1e9,
        100.0 * operations / work.peak
    );
}

fn random_bytes(len: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) as u32
    };
    // Bytes below 60 in f16 places make no infinities or NaN, which would be slow on some hosts.
    (0..len).map(|_| (next() % 60) as u8).collect()
}

fn products(c: &mut Criterion) {
    let kernels = Kernels::new(IsaChoice::Auto).expect("there is always one");
    let topology = Topology::read();
    let roof = Roof::measure(&topology.cpus()[..1]).expect("memory to measure with");
    let read = roof.read(1).expect("one thread was measured");
    let int8 = peak_ops(kernels.isa(), Arithmetic::Int8).unwrap_or(f64::NAN);
    let float = peak_ops(kernels.isa(), Arithmetic::Float32).unwrap_or(f64::NAN);
    println!(
        "roof: {:.1} GB/s, int8 {:.0} Gop/s, f32 {:.0} Gop/s",
        read / 1e9,
        int8 / 1e9,
        float / 1e9
    );
    let (rows, cols) = (16384, 4096);
    for format in [Format::Q4K, Format::Q6K, Format::Q8_0, Format::MXFP4, Format::BF16] {
        let row_bytes = format.row_bytes(cols).expect("whole blocks");
        let bytes = random_bytes(rows * row_bytes);
        let matrix = Matrix::new(format, rows, cols, &bytes).expect("it has its bytes");
        // Where a model's weights are: in huge pages, if the host has them.
        let arena = Arena::reserve(bytes.len()).expect("room for a matrix");
        let mut packed = arena.take(bytes.len(), 64).expect("all of it");
        pack(&matrix, 0..rows / PANEL_ROWS, &mut packed);
        let all = Panels::new(format, rows, cols, &packed).expect("it has its bytes");
        for tokens in [1, 2, 4, 8, 16, 64, 512] {
            // Many tokens are bound by arithmetic; a part of the matrix shows it as well.
            let part = if tokens < 16 { all } else { all.part(0..64) };
            let mut x = Activations::new();
            let values: Vec<f32> = (0..tokens * cols).map(|i| (i as f32).sin()).collect();
            x.copy_from(cols, &values);
            x.prepare(&kernels, format);
            let mut out = vec![0.0; tokens * part.rows()];
            let peak = if format.block() > 1 { int8 } else { float };
            let work = Work {
                bytes: (part.rows() * row_bytes) as u64,
                operations: 2 * (part.rows() * cols * tokens) as u64,
                read,
                peak,
            };
            measure(c, "linear", &format!("{format}, {tokens} tokens"), &work, || {
                kernels.linear(&part, &x, None, &mut Columns::whole(&mut out, part.rows()));
            });
        }
        measure(
            c,
            "pack",
            &format!("pack {format}"),
            &Work { bytes: 2 * bytes.len() as u64, operations: 0, read, peak: int8 },
            || pack(&matrix, 0..rows / PANEL_ROWS, &mut packed),
        );
    }
}

fn attention(c: &mut Criterion) {
    let kernels = Kernels::new(IsaChoice::Auto).expect("there is always one");
    let roof = Roof::measure(&Topology::read().cpus()[..1]).expect("memory to measure with");
    let float = peak_ops(kernels.isa(), Arithmetic::Float32).unwrap_or(f64::NAN);
    let d = 128;
    // Positions of a prompt or one of an answer, and the heads that share the keys.
    let cases = [
        (1, 1, 128),
        (1, 1, 4096),
        (1, 8, 128),
        (1, 8, 4096),
        (8, 8, 512),
        (8, 8, 2048),
        (64, 1, 2048),
    ];
    let formats = KvFormat::ALL.into_iter();
    for (format, (rows, heads, len)) in formats.flat_map(|kv| cases.map(|case| (kv, case))) {
        // A page holds those of all layers: pages of a layer do not follow each other.
        let layers = 24;
        let pages: Vec<u32> = (0..(len / PAGE) as u32).collect();
        let room = format.room(d);
        let page_floats = layers * 2 * room;
        let arena: Vec<f32> = (0..pages.len() * page_floats).map(|i| (i % 97) as f32).collect();
        let (arena, pages) = (&arena[..], &pages[..]);
        let kv = KvView { format, arena, pages, page_floats, k_at: 0, v_at: room, d, dv: d };
        let q: Vec<f32> = (0..rows * heads * d).map(|i| (i as f32).cos()).collect();
        let (mut out, mut scratch) = (vec![0.0; q.len()], AttentionScratch::new());
        let end = len + 1 - rows;
        let queries = Queries {
            q: &q,
            stride: heads * d,
            heads,
            scale: 1e-3,
            end,
            window: None,
            sinks: None,
        };
        let work = Work {
            bytes: (len / PAGE * 2 * room * 4) as u64,
            operations: (end..=len).map(|seen| (seen * heads * 4 * d) as u64).sum(),
            read: roof.read(1).expect("one thread was measured"),
            peak: float,
        };
        let name = format!("{rows} x {heads} queries, {len} positions in {format}");
        measure(c, "attend", &name, &work, || {
            kernels.attend(&queries, &kv, &mut Columns::whole(&mut out, heads * d), &mut scratch);
        });
    }
}

/// A message through a ring and back, and a stage of a crew with nothing to do in it.
fn threads(c: &mut Criterion) {
    let cores = Topology::read().seats(None).expect("there are cores");
    let [first, second, ..] = &cores[..] else { return println!("one core: nobody to talk to") };
    let pin = |id| core_affinity::set_for_current(core_affinity::CoreId { id });
    pin(first.id);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (mut to, mut from_lead) = rtrb::RingBuffer::<u64>::new(4);
        let (mut to_lead, mut from) = rtrb::RingBuffer::<u64>::new(4);
        let (mut crew, mut mates) = Crew::with_mates((), 1);
        let mut mate = mates.remove(0);
        let stop = &stop;
        scope.spawn(move || {
            pin(second.id);
            while !stop.load(Ordering::Relaxed) {
                mate.help(&mut ());
                if let Ok(message) = from_lead.pop() {
                    let _ = to_lead.push(message);
                }
            }
        });
        c.bench_function("ring, there and back", |bencher| {
            bencher.iter(|| {
                let _ = to.push(1);
                while from.pop().is_err() {
                    std::hint::spin_loop();
                }
            });
        });
        for chunks in [2, 32] {
            c.bench_function(&format!("stage of {chunks} empty chunks"), |bencher| {
                bencher.iter(|| crew.each(chunks, |(), _| {}));
            });
        }
        stop.store(true, Ordering::Relaxed);
    });
}

criterion_group!(parts, threads, attention, products);
criterion_main!(parts);

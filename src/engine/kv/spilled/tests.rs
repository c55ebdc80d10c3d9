//! Pages that go to a disk and come back, by sessions at random.

use super::*;
use crate::base::sum::sum;
use crate::engine::kv::PageTable;

fn tokens(len: usize, kind: usize) -> Vec<u32> {
    // Two of three begin alike.
    (0..len).map(|i| (i * 31 + if i < 2 * PAGE { kind / 2 } else { kind }) as u32).collect()
}

/// What a page of these tokens has in it: all up to its end.
fn written(tokens: &[u32], page: usize) -> Vec<u32> {
    tokens[..(page + 1) * PAGE].to_vec()
}

fn sum_of(bytes: &[u32]) -> u64 {
    sum(&bytes.iter().flat_map(|token| token.to_le_bytes()).collect::<Vec<u8>>())
}

/// Sessions come, compute what is found nowhere, and go, in a pool that holds three of them; a disk
/// holds what it may, and sometimes lies. Whatever a session is given is what it would have computed.
#[test]
fn what_comes_back_is_what_was_written() {
    let mut total = [0; 3];
    let weak: [fn(&[u8]) -> u64; 2] = [sum, |bytes| sum(bytes) % 31];
    for (seed, weak) in (0..30u64).flat_map(|seed| weak.map(|weak| (seed, weak))) {
        let mut state = seed * 2 + 1;
        let mut next = move |below: usize| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as usize % below
        };
        let pool = PagePool::with_sum(24, true, weak);
        let slots = [4, 40, 400][seed as usize % 3];
        pool.shelve(slots);
        let mut memory = vec![Vec::new(); 24];
        let mut disk = vec![Vec::new(); slots as usize];
        // Writes that are not over yet.
        let mut flying: Vec<(ToSpill, Vec<u32>)> = Vec::new();
        let (mut out, mut back, mut lies) = (0, 0, 0);
        for _ in 0..400 {
            let told = tokens(PAGE + next(7 * PAGE), next(12));
            let all = &told[..told.len() - 1];
            // What is on disk comes back, from time to time to others who are there already.
            if let Some(Continuation { known, kept }) = pool.continuation(&told) {
                assert_eq!(known, pool.knows(&told) / PAGE);
                let mut table = PageTable::new(&pool);
                assert_eq!(table.find(all, 0) / PAGE, known);
                for (page, kept) in (known..).zip(kept) {
                    let bytes = match next(12) {
                        0 => vec![7; 5],
                        _ => disk[kept.slot as usize].clone(),
                    };
                    if sum_of(&bytes) != kept.sum {
                        pool.lost(kept);
                        lies += 1;
                        break;
                    }
                    assert_eq!(bytes, written(&told, page), "seed {seed}");
                    if !table.bring(all, |to| memory[to as usize] = bytes) {
                        break;
                    }
                    back += 1;
                }
            }
            let mut table = PageTable::new(&pool);
            let found = table.find(all, 0) / PAGE;
            for (page, &at) in table.pages().iter().enumerate() {
                assert_eq!(memory[at as usize], written(&told, page), "seed {seed}");
            }
            let to = (found * PAGE + 1 + next(3 * PAGE)).min(told.len());
            if table.reserve(to) {
                for page in found..to.div_ceil(PAGE) {
                    let end = ((page + 1) * PAGE).min(to);
                    memory[table.pages()[page] as usize] = told[..end].to_vec();
                }
                table.register(&told[..to]);
            }
            drop(table);
            for _ in 0..next(8) {
                let Some(spill) = pool.next_to_spill() else { break };
                flying.push((spill, memory[spill.page as usize].clone()));
            }
            while !flying.is_empty() && next(3) > 0 {
                let (ToSpill { slot, .. }, bytes) = flying.swap_remove(next(flying.len()));
                let good = next(9) > 0;
                pool.spilled(slot, good.then_some(sum_of(&bytes)));
                disk[slot as usize] = bytes;
                out += usize::from(good);
            }
            let census = pool.census();
            assert_eq!((census.free + census.cached, census.held), (24, 0));
        }
        total = [total[0] + out, total[1] + back, total[2] + lies];
    }
    assert!(total.iter().all(|&count| count > 300), "out, back, lies: {total:?}");
}

/// The oldest of the cache go, and only as many as will be needed soon.
#[test]
fn what_will_be_thrown_out_soon_is_written_first() {
    let pool = PagePool::new(8, true);
    pool.shelve(100);
    let spill = || pool.next_to_spill().map(|spill| (spill.page, spill.slot));
    let mut tables: Vec<PageTable> = Vec::new();
    for kind in 0..3 {
        let mut table = PageTable::new(&pool);
        assert!(table.reserve(2 * PAGE));
        table.register(&tokens(2 * PAGE, 10 * kind));
        tables.push(table);
    }
    let first = tables[0].pages().to_vec();
    drop(tables.remove(0));
    // Two are free, and of four that are to be free or written two are in the cache.
    assert_eq!(spill(), Some((first[1], 0)));
    assert_eq!(spill(), Some((first[0], 1)));
    assert_eq!(spill(), None);
    drop(tables);
    assert_eq!(spill(), None, "two are about to be on disk");
    pool.spilled(0, None);
    assert_eq!(spill(), Some((first[1], 0)), "once more");
    assert_eq!(pool.continuation(&tokens(2 * PAGE + 1, 0)), None, "memory has it");

    let closed = PagePool::new(8, true);
    assert_eq!((closed.next_to_spill(), closed.continuation(&tokens(40, 0))), (None, None));
}

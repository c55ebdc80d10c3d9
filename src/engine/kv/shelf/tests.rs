//! A shelf against one that remembers whole prompts.

use std::collections::HashMap;

use super::*;

/// What a shelf is to be: slots under all tokens up to the end of their page.
#[derive(Default)]
struct Naive {
    /// The sum, and when it was wanted; `None` while it is written.
    kept: HashMap<Vec<u32>, Option<(u64, u64)>>,
    clock: u64,
}

impl Naive {
    fn want(&mut self, page: &[u32]) {
        if let Some(Some((_, wanted))) = self.kept.get_mut(page) {
            self.clock += 1;
            *wanted = self.clock;
        }
    }

    /// Room for one more: the one that was wanted longest ago goes.
    fn make_room(&mut self, slots: usize) -> bool {
        if self.kept.len() < slots {
            return true;
        }
        let written = self.kept.iter().filter_map(|(page, at)| Some(((*at)?.1, page.clone())));
        let Some((_, oldest)) = written.min() else { return false };
        self.kept.remove(&oldest).is_some()
    }
}

fn page(kind: usize) -> [u32; PAGE] {
    std::array::from_fn(|i| (i * 7 + kind) as u32)
}

/// Pages come into memory and leave it, are written, read and lost at random; prompts are few, so
/// that they meet. After each, what is found of every prompt is what the model says, and nothing
/// is needed by nobody.
#[test]
fn a_shelf_is_one_that_remembers_whole_prompts() {
    for seed in 0..60u64 {
        let mut state = seed * 2 + 1;
        let mut next = move |below: usize| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as usize % below
        };
        let slots = 1 + next(12);
        let (mut shelf, mut naive) = (Shelf::new(slots as u32), Naive::default());
        // What is in memory: all tokens up to a page's end, and its place. Parents stay longer.
        let mut memory: Vec<(Vec<u32>, u32)> = Vec::new();
        let mut writing: Vec<(u32, Vec<u32>)> = Vec::new();
        let mut sums = 0;
        for _ in 0..800 {
            match next(12) {
                0..=3 => {
                    let which = next(memory.len() + 1);
                    let before =
                        memory.get(which).cloned().filter(|(page, _)| page.len() < 6 * PAGE);
                    let tokens = page(next(3));
                    let all = [before.as_ref().map_or(&[][..], |b| &b.0), &tokens].concat();
                    if memory.iter().all(|(known, _)| *known != all) {
                        let place = shelf.enter(before.map(|before| before.1), tokens);
                        memory.push((all, place));
                    }
                }
                4..=5 if !memory.is_empty() => {
                    let at = next(memory.len());
                    let here = memory[at].0.clone();
                    if memory.iter().all(|(other, _)| *other == here || !other.starts_with(&here)) {
                        shelf.leave(memory.swap_remove(at).1);
                        naive.want(&here);
                    }
                }
                6..=8 if !memory.is_empty() => {
                    let (here, place) = memory[next(memory.len())].clone();
                    assert_eq!(shelf.has(place), naive.kept.contains_key(&here));
                    if !shelf.has(place) {
                        let room = naive.make_room(slots);
                        let slot = shelf.begin(place);
                        assert_eq!(slot.is_some(), room, "seed {seed}");
                        if let Some(slot) = slot {
                            assert!(slot < slots as u32);
                            assert!(writing.iter().all(|(other, _)| *other != slot));
                            naive.kept.insert(here.clone(), None);
                            writing.push((slot, here));
                        }
                    }
                }
                9 | 10 if !writing.is_empty() => {
                    let (slot, here) = writing.swap_remove(next(writing.len()));
                    sums += 1;
                    let good = next(5) > 0;
                    shelf.wrote(slot, good.then_some(sums));
                    match good {
                        true => naive.kept.insert(here.clone(), Some((sums, 0))),
                        false => naive.kept.remove(&here),
                    };
                    naive.want(&here);
                }
                _ => {
                    let mut all: Vec<_> = naive.kept.keys().cloned().collect();
                    all.sort();
                    let Some(here) = all.get(next(all.len().max(1))).cloned() else { continue };
                    let Some(kept) = find(&shelf, &here) else { continue };
                    if next(2) == 0 {
                        shelf.want(kept.slot);
                        naive.want(&here);
                    } else {
                        shelf.lose(Kept { sum: kept.sum + 1, ..kept });
                        assert_eq!(find(&shelf, &here), Some(kept), "that is another's");
                        shelf.lose(kept);
                        naive.kept.remove(&here);
                    }
                }
            }
            for (page, at) in &naive.kept {
                let sum = find(&shelf, page).map(|kept| kept.sum);
                assert_eq!(sum, at.map(|(sum, _)| sum), "seed {seed}");
            }
            let written = naive.kept.values().flatten().count();
            assert_eq!((shelf.order.len(), shelf.is_empty()), (written, written == 0));
            // Every place is in memory, on disk, or leads to one that is.
            let needed = |all: &[u32]| {
                memory.iter().map(|m| &m.0).chain(naive.kept.keys()).any(|m| m.starts_with(all))
            };
            assert_eq!(shelf.index.len() + shelf.vacant.len(), shelf.places.len());
            assert!(shelf.index.values().all(|&place| needed(&tokens(&shelf, place))));
        }
        memory.sort_by_key(|(page, _)| std::cmp::Reverse(page.len()));
        memory.drain(..).for_each(|(_, place)| shelf.leave(place));
        writing.drain(..).for_each(|(slot, _)| shelf.wrote(slot, None));
        while let Some(&slot) = shelf.order.values().next() {
            let Slot::Kept { sum, .. } = shelf.slots[slot as usize] else { panic!("it is kept") };
            shelf.lose(Kept { slot, sum });
        }
        assert!(shelf.index.is_empty() && shelf.unused.len() == shelf.slots.len());
    }
}

fn find(shelf: &Shelf, all: &[u32]) -> Option<Kept> {
    let mut place = None;
    for tokens in all.as_chunks::<PAGE>().0 {
        place = Some(shelf.follow(place, tokens)?);
    }
    shelf.kept(place?)
}

fn tokens(shelf: &Shelf, place: u32) -> Vec<u32> {
    let at = &shelf.places[place as usize];
    let before = at.before.map_or(Vec::new(), |before| tokens(shelf, before));
    [&before[..], &at.tokens].concat()
}

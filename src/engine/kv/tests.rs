//! Who holds what, by hand-worked examples and by sessions at random.

use super::*;

fn census(pool: &PagePool) -> (usize, usize, usize) {
    let Census { total, free, cached, held } = pool.census();
    assert_eq!(total, free + cached + held);
    (free, cached, held)
}

/// A table whose pages hold these tokens, computed and known.
fn computed(pool: &PagePool, tokens: &[u32]) -> PageTable {
    let mut table = PageTable::new(pool);
    assert!(table.reserve(tokens.len()));
    table.register(tokens);
    table
}

fn tokens(len: usize, kind: u32) -> Vec<u32> {
    (0..len as u32).map(|i| i * 31 + kind).collect()
}

#[test]
fn every_page_has_one_holder_and_comes_back() {
    let pool = PagePool::new(5, true);
    let (mut a, mut b) = (PageTable::new(&pool), PageTable::new(&pool));
    assert!(a.reserve(PAGE + 1) && b.reserve(3 * PAGE));
    assert_eq!(census(&pool), (0, 0, 5));
    let mut all = [a.pages(), b.pages()].concat();
    all.sort_unstable();
    assert_eq!(all, [0, 1, 2, 3, 4]);

    assert!(!a.reserve(2 * PAGE + 1), "the pool is empty");
    assert_eq!(a.pages().len(), 2, "a refusal takes nothing");
    b.truncate(PAGE);
    assert_eq!(census(&pool), (2, 0, 3));
    assert!(a.reserve(4 * PAGE));
    drop((a, b));
    assert_eq!(census(&pool), (5, 0, 0));
}

#[test]
fn what_was_computed_is_found_by_who_begins_alike() {
    let pool = PagePool::new(20, true);
    let said = tokens(3 * PAGE + 5, 1);
    let first = computed(&pool, &said);
    let mut second = PageTable::new(&pool);
    assert_eq!(second.find(&said, 0), 3 * PAGE, "from one that lives");
    assert_eq!(second.pages(), &first.pages()[..3]);
    assert_eq!(census(&pool), (16, 0, 4));
    drop((first, second));
    assert_eq!(census(&pool), (17, 3, 0), "the page begun is lost");

    let mut third = PageTable::new(&pool);
    assert_eq!(third.find(&said[..2 * PAGE], 0), 2 * PAGE, "from one that is gone");
    let mut other = said.clone();
    other[PAGE] += 1;
    let mut fourth = PageTable::new(&pool);
    assert_eq!(fourth.find(&other, 0), PAGE, "as far as they are the same");
    let shifted = &said[PAGE..];
    assert_eq!(PageTable::new(&pool).find(shifted, 0), 0, "at the same positions");
    drop((third, fourth));

    let closed = PagePool::new(20, false);
    drop(computed(&closed, &said));
    assert_eq!(PageTable::new(&closed).find(&said, 0), 0);
    assert_eq!(census(&closed), (20, 0, 0));
}

#[test]
fn a_known_page_is_not_written_again() {
    let pool = PagePool::new(20, true);
    let said = tokens(3 * PAGE + 5, 1);
    let mut table = computed(&pool, &said);
    assert_eq!(table.truncate(3 * PAGE + 2), 3 * PAGE + 2, "in the page of its own");
    assert_eq!(table.truncate(2 * PAGE + 3), 2 * PAGE, "in a known one");
    assert_eq!(table.truncate(2 * PAGE), 2 * PAGE);
    assert_eq!((table.pages().len(), census(&pool)), (2, (17, 1, 2)));
    // What it let go is still there, and a page that was begun instead gives way to it.
    assert!(table.reserve(2 * PAGE + 3));
    assert_eq!(table.find(&said, 2 * PAGE + 3), 3 * PAGE);
    assert_eq!(census(&pool), (17, 0, 3));
}

#[test]
fn two_that_compute_the_same_end_with_the_same_pages() {
    let pool = PagePool::new(20, true);
    let said = tokens(2 * PAGE, 1);
    let (mut a, mut b) = (PageTable::new(&pool), PageTable::new(&pool));
    assert!(a.reserve(2 * PAGE) && b.reserve(2 * PAGE));
    a.register(&said[..PAGE + 3]);
    b.register(&said);
    a.register(&said);
    assert_eq!(a.pages(), b.pages());
    assert_eq!(census(&pool), (18, 0, 2));
}

/// The cache gives what was let go first, and of one session the last page first; no more than is
/// asked for, however much there is.
#[test]
fn room_is_made_by_forgetting_what_is_oldest() {
    let pool = PagePool::new(8, true);
    let said: Vec<Vec<u32>> = (0..4).map(|i| tokens(2 * PAGE, i)).collect();
    let tables: Vec<PageTable> = said.iter().map(|tokens| computed(&pool, tokens)).collect();
    let mut tables = tables.into_iter();
    let held = tables.next();
    drop(tables);
    // Used again, so younger than the others.
    assert_eq!(PageTable::new(&pool).find(&said[1], 0), 2 * PAGE);
    let left = |i: usize| PageTable::new(&pool).find(&said[i], 0) / PAGE;
    let mut new = PageTable::new(&pool);
    assert!(new.reserve(PAGE));
    assert_eq!((census(&pool), left(2)), ((0, 5, 3), 1));
    // Looking at 2 made it the youngest.
    assert!(new.reserve(4 * PAGE));
    assert_eq!((left(0), left(1), left(2), left(3)), (2, 1, 1, 0));
    assert!(new.reserve(6 * PAGE) && !new.reserve(7 * PAGE));
    assert_eq!(census(&pool), (0, 0, 8));
    drop((held, new));
    assert_eq!(census(&pool), (6, 2, 0));

    let many = PagePool::new(100_000, true);
    for i in 0..1000 {
        drop(computed(&many, &tokens(100 * PAGE, i)));
    }
    assert_eq!(census(&many), (0, 100_000, 0));
    let batch: Vec<PageTable> = (0..100)
        .map(|_| {
            let mut table = PageTable::new(&many);
            assert!(table.reserve(3 * PAGE));
            table
        })
        .collect();
    assert_eq!(census(&many), (0, 99_700, 300));
    assert_eq!(many.state.borrow().known.len(), 99_700);
    drop(batch);
}

/// A session as it would be without sharing: it knows what it wrote into which of its positions.
struct Told {
    table: PageTable,
    tokens: Vec<u32>,
    computed: usize,
}

/// Random sessions on a small pool, with a sum so weak that it deceives all the time. Each page
/// remembers what was written into it; nobody may ever find anything else at a position than the
/// session's own tokens up to there.
#[test]
fn a_page_holds_what_its_session_says_whatever_happens() {
    let weak: [fn(&[u8]) -> u64; 2] = [sum, |bytes| sum(bytes) % 13];
    for (seed, weak) in (0..40).flat_map(|seed| weak.map(|weak| (seed, weak))) {
        let mut state: u64 = seed * 2 + 1;
        let mut next = move |below: usize| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as usize % below
        };
        let pool = PagePool::with_sum(24, true, weak);
        let mut sessions: Vec<Told> = Vec::new();
        // What every slot holds: the tokens up to it.
        let mut memory = vec![Vec::new(); 24 * PAGE];
        let mut shared = 0;
        for _ in 0..600 {
            let open = |next: &mut dyn FnMut(usize) -> usize| -> Vec<u32> {
                let kind = next(3) as u32;
                let mut tokens = tokens(1 + next(6 * PAGE), kind);
                let at = next(8 * PAGE);
                if let Some(token) = tokens.get_mut(at) {
                    *token = next(2) as u32;
                }
                tokens
            };
            let which = next(sessions.len().max(1));
            match (next(10), sessions.get_mut(which)) {
                (0..=2, _) | (_, None) => {
                    let (table, tokens) = (PageTable::new(&pool), open(&mut next));
                    sessions.push(Told { table, tokens, computed: 0 });
                }
                // It goes on for some positions, if there is room.
                (3..=6, Some(told)) => {
                    let before = told.computed;
                    let last = told.tokens.len() - 1;
                    told.computed = told.table.find(&told.tokens[..last], before);
                    assert!(told.computed == before || told.computed.is_multiple_of(PAGE));
                    shared += told.computed - before;
                    let to = (told.computed + 1 + next(2 * PAGE)).min(told.tokens.len());
                    if told.table.reserve(to) {
                        for position in told.computed..to {
                            let page = told.table.pages()[position / PAGE] as usize;
                            assert_eq!(pool.state.borrow().pages[page].holders, 1);
                            memory[page * PAGE + position % PAGE] =
                                told.tokens[..=position].to_vec();
                        }
                        told.computed = to;
                        told.table.register(&told.tokens[..to]);
                    }
                }
                // Another prompt.
                (7, Some(told)) => {
                    let tokens = open(&mut next);
                    let same = told.tokens.iter().zip(&tokens).take_while(|(a, b)| a == b).count();
                    let keep = told.computed.min(same).min(tokens.len() - 1);
                    told.computed = told.table.truncate(keep);
                    assert!(told.computed <= keep && told.computed >= keep / PAGE * PAGE);
                    told.tokens = tokens;
                }
                // Parked.
                (8, Some(told)) => told.computed = told.table.truncate(0),
                (_, Some(_)) => drop(sessions.swap_remove(which)),
            }
            for told in &sessions {
                for position in 0..told.computed {
                    let page = told.table.pages()[position / PAGE] as usize;
                    assert_eq!(
                        memory[page * PAGE + position % PAGE],
                        told.tokens[..=position],
                        "seed {seed}"
                    );
                }
            }
            audit(&pool, &sessions);
        }
        assert!(shared > 0);
        sessions.clear();
        let Census { total, free, cached, held } = pool.census();
        assert_eq!((free + cached, held), (total, 0));
    }
}

/// Counts everything anew.
fn audit(pool: &PagePool, sessions: &[Told]) {
    let census = pool.census();
    let state = pool.state.borrow();
    let mut holders = vec![0; state.pages.len()];
    for told in sessions {
        for (i, &page) in told.table.pages().iter().enumerate() {
            holders[page as usize] += 1;
            let known = state.pages[page as usize].known;
            assert_eq!(known.is_some(), i < told.table.known, "known ones come first");
            let before = i.checked_sub(1).map(|i| told.table.pages()[i]);
            assert!(known.is_none_or(|known| known.before == before));
        }
        assert!(told.table.known <= told.computed / PAGE);
    }
    let mut cached = Vec::new();
    let mut at = state.oldest;
    while let Some(page) = at {
        let here = &state.pages[page as usize];
        let before = here.known.expect("what is cached is known").before;
        assert!(before.is_none_or(|before| !cached.contains(&before)), "the last pages go first");
        assert_eq!(here.older, cached.last().copied());
        cached.push(page);
        at = here.newer;
    }
    assert_eq!(state.newest, cached.last().copied());
    for (page, at) in state.pages.iter().enumerate() {
        assert_eq!(at.holders, holders[page]);
        let places = usize::from(at.holders > 0)
            + usize::from(cached.contains(&(page as u32)))
            + usize::from(state.returned.contains(&(page as u32)));
        assert_eq!(places, 1, "a page is in one place");
        if let Some(known) = &at.known {
            assert_eq!(state.known.get(&known.sum), Some(&(page as u32)));
        }
    }
    let known = state.pages.iter().filter(|page| page.known.is_some()).count();
    assert_eq!(known, state.known.len());
    let held = holders.iter().filter(|&&holders| holders > 0).count();
    assert_eq!((census.held, census.cached), (held, cached.len()));
}

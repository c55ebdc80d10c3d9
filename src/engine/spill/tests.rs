//! A disk that falls silent, clients that leave, and what is worth a read; at times that are made up.

use super::*;
use crate::engine::desk::Rules;
use crate::engine::scheduler::{Limits, Scheduler, Speed};
use crate::shard::{self, Seats};

const PAGES: usize = 8;
const BYTES: usize = 1000;
const TOKENS: usize = 3 * PAGE + 1;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn tokens(kind: u32) -> Vec<u32> {
    (0..TOKENS as u32).map(|i| i * 7 + kind).collect()
}

/// Three pages of one prompt on disk, and another prompt's in their place.
struct Scene {
    spill: Spill,
    arena: Vec<u8>,
    _folder: tempfile::TempDir,
}

impl Scene {
    async fn new(queues: Queues) -> Scene {
        let limits = Limits {
            running: 1,
            waiting: 1,
            chunk: 16,
            context: PAGES * PAGE,
            stall: ms(100),
            form: ms(1),
            age: ms(1000),
            sequential: false,
        };
        let scheduler = Scheduler::new(limits, Speed::new(ms(1), ms(1), ms(1)));
        let pool = PagePool::new(PAGES as u32, true);
        let rules = Rules { vocab: 1 << 20, context: PAGES * PAGE, trained: PAGES * PAGE };
        let desk = Inner::new(scheduler, pool, rules);
        let folder = tempfile::tempdir().unwrap();
        let spill = Spill::new(folder.path(), 1 << 20, BYTES, &desk, &queues, |_| ()).unwrap();
        let mut scene = Scene { spill, arena: vec![0; PAGES * BYTES], _folder: folder };
        scene.compute(1);
        for kind in 2..4 {
            scene.compute(kind);
            scene.spill.send_out(&scene.arena);
            while scene.spill.writing > 0 {
                desk.news().await;
                assert!(scene.spill.take_in(ms(0), &mut scene.arena).is_empty());
            }
        }
        // The room of the first is needed.
        let mut table = PageTable::new(&scene.spill.pool);
        assert!(table.reserve(5 * PAGE));
        assert_eq!(scene.spill.pool.knows(&tokens(1)), 0);
        scene
    }

    /// A session fills three pages with its number, and goes.
    fn compute(&mut self, kind: u32) {
        let mut table = PageTable::new(&self.spill.pool);
        assert!(table.reserve(3 * PAGE));
        for (i, &page) in table.pages().iter().enumerate() {
            self.arena[page as usize * BYTES..][..BYTES].fill((10 * kind as usize + i) as u8);
        }
        table.register(&tokens(kind)[..3 * PAGE]);
    }

    fn recall(&mut self, now: Duration) -> bool {
        self.spill.recall(now, 1, &tokens(1), |tokens| ms(tokens as u64))
    }

    /// Takes what the disk says from under the spill, until it has nothing under way.
    fn intercept(&mut self) {
        let mut left = self.spill.buffers - self.spill.spare.len();
        while left > 0 {
            left -= usize::from(self.spill.disk.landed().is_some());
        }
        self.spill.buffers = self.spill.spare.len();
    }

    /// Waits for everything the disk has under way.
    fn settle(&mut self, now: Duration) -> Vec<u64> {
        let mut over = Vec::new();
        while self.spill.spare.len() < self.spill.buffers {
            over.extend(self.spill.take_in(now, &mut self.arena));
        }
        over
    }
}

fn with_scene(test: impl FnOnce(Scene) + 'static) {
    shard::run(&Seats::anywhere(1), |_, queues| async move { test(Scene::new(queues).await) })
        .unwrap();
}

#[test]
fn what_was_sent_out_comes_back() {
    with_scene(|mut scene| {
        assert!(scene.recall(ms(5)));
        assert_eq!(scene.spill.deadline(), Some(ms(5) + PATIENCE));
        assert_eq!(scene.settle(ms(8)), [1]);
        assert_eq!((scene.spill.counts.back, scene.spill.deadline()), (3, None));
        let mut table = PageTable::new(&scene.spill.pool);
        assert_eq!(table.find(&tokens(1), 0), 3 * PAGE);
        for (i, &page) in table.pages().iter().enumerate() {
            let bytes = &scene.arena[page as usize * BYTES..][..BYTES];
            assert!(bytes.iter().all(|&byte| usize::from(byte) == 10 + i));
        }
        // Once for each time that it waits.
        assert!(!scene.recall(ms(500)));
    });
}

#[test]
fn a_silent_disk_is_not_waited_for_long() {
    with_scene(|mut scene| {
        assert!(scene.recall(ms(5)));
        scene.intercept();
        assert!(scene.spill.take_in(ms(4) + PATIENCE, &mut scene.arena).is_empty());
        assert_eq!(scene.spill.take_in(ms(5) + PATIENCE, &mut scene.arena), [1]);
        assert_eq!((scene.spill.counts.back, scene.spill.deadline()), (0, None));
        // It is computed, and the disk has lost its name for a while.
        scene.spill.forget(1);
        assert!(!scene.recall(ms(3000)));
        let mut refusals = 1;
        while !scene.recall(ms(3000 + 200 * refusals)) {
            refusals += 1;
        }
        assert!((5..100).contains(&refusals), "{refusals} refusals");
    });
}

#[test]
fn who_leaves_meanwhile_leaves_nothing_behind() {
    with_scene(|mut scene| {
        for wait in [false, true] {
            assert!(scene.recall(ms(5)));
            if wait {
                // All has come, and lies about.
                while scene.spill.recalls[&1].came.len() < 2 {
                    if let Some(landed) = scene.spill.disk.landed() {
                        scene.spill.land(ms(6), landed);
                    }
                }
            }
            scene.spill.forget(1);
            assert!(scene.settle(ms(6)).is_empty());
            let Census { held, .. } = scene.spill.pool.census();
            assert_eq!((held, scene.spill.counts.back, scene.spill.counts.lost), (0, 0, 0));
        }
        // Who comes after it with its number has nothing of it.
        assert!(scene.recall(ms(7)));
        scene.spill.forget(1);
        assert!(scene.recall(ms(7)));
        assert_eq!(scene.settle(ms(8)), [1]);
        assert_eq!(scene.spill.counts.back, 3);
    });
}

/// No more is brought back than there are pages for.
#[test]
fn what_has_no_room_is_not_brought_back() {
    with_scene(|mut scene| {
        let mut others = PageTable::new(&scene.spill.pool);
        assert!(others.reserve((PAGES - 2) * PAGE));
        assert!(scene.recall(ms(5)));
        assert_eq!(scene.settle(ms(6)), [1]);
        assert_eq!(scene.spill.counts.back, 2);
        assert!(others.reserve(PAGES * PAGE));
        scene.spill.forget(1);
        assert!(!scene.recall(ms(300)));
    });
}

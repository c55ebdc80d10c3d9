//! The task queues of a shard's reactor.

use std::future::Future;

use glommio::{Latency, Shares, Task, TaskQueueHandle, executor, spawn_local_into};

/// Who shares a reactor, and in what proportion when all want it. None asks for a latency: a
/// queue that does and is preempted before it ran anything lets glommio sleep with work to do.
/// What is urgent is served because the shard breathes.
#[derive(Clone, Copy, Debug)]
pub struct Queues {
    /// Sockets: short turns, and somebody waits for each.
    pub serving: TaskQueueHandle,
    /// Reads of weights.
    pub staging: TaskQueueHandle,
    /// Steps.
    pub compute: TaskQueueHandle,
    /// Counters, logs, timers.
    pub housekeeping: TaskQueueHandle,
}

impl Queues {
    /// Begins something in one of them. What comes back is to be awaited; dropped, it ends it.
    pub fn spawn<T: 'static>(
        &self,
        queue: TaskQueueHandle,
        work: impl Future<Output = T> + 'static,
    ) -> Task<T> {
        match spawn_local_into(work, queue) {
            Ok(task) => task,
            Err(_) => unreachable!("the queue was made on this reactor"),
        }
    }

    /// Made once on each reactor, inside it.
    pub(super) fn open() -> Queues {
        let queue = |shares, name| {
            executor().create_task_queue(Shares::Static(shares), Latency::NotImportant, name)
        };
        Queues {
            serving: queue(400, "serving"),
            staging: queue(300, "staging"),
            compute: queue(1000, "compute"),
            housekeeping: queue(50, "housekeeping"),
        }
    }
}

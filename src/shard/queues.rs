//! The task queues of a shard's reactor.

use glommio::{Latency, Shares, TaskQueueHandle, executor};

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

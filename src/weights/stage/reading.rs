//! What reading has come to, in bytes and time.

use std::time::Duration;

/// Counted from the beginning. Of the bytes that steps needed, `held` were in memory,
/// `forecast_used` had been sent for before, and `demanded` had to be sent for; every byte is
/// counted once a step, however many sessions needed it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    pub held: u64,
    pub forecast_used: u64,
    pub demanded: u64,
    /// Bytes sent for that nobody needed then.
    pub forecast_vain: u64,
    /// Bytes that came from disk, whoever they were for.
    pub read: u64,
    pub reads: u64,
    /// Blocks that were read twice, since something was wrong with them, and slabs lost.
    pub again: u64,
    pub lost: u64,
    /// How long steps had nothing to compute.
    pub waited: Duration,
}

impl Reading {
    /// What was added since `before`.
    pub fn since(&self, before: &Reading) -> Reading {
        Reading {
            held: self.held - before.held,
            forecast_used: self.forecast_used - before.forecast_used,
            demanded: self.demanded - before.demanded,
            forecast_vain: self.forecast_vain - before.forecast_vain,
            read: self.read - before.read,
            reads: self.reads - before.reads,
            again: self.again - before.again,
            lost: self.lost - before.lost,
            waited: self.waited - before.waited,
        }
    }

    /// Bytes of experts that steps needed.
    pub fn needed(&self) -> u64 {
        self.held + self.forecast_used + self.demanded
    }

    /// The part of them that was in memory, or on its way, when it was needed.
    pub fn hit_rate(&self) -> Option<f64> {
        let needed = self.needed();
        (needed > 0).then(|| 1.0 - self.demanded as f64 / needed as f64)
    }
}

//! Who computes what in the next step.

/// How urgent a request is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    Low,
    #[default]
    Medium,
    High,
}

/// Whether a request may share its steps with others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Batching {
    /// As the scheduler likes.
    #[default]
    Auto,
    /// It may wait a moment for others of its kind.
    Enable,
    /// It computes alone.
    Disable,
}

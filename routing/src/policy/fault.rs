//! What goes wrong on purpose, to see what that does to whoever calls.

use std::time::Duration;

use super::Chance;

/// The faults of a route.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Fault {
    /// Some requests wait.
    pub delay: Option<Delay>,
    /// Some requests are refused.
    pub abort: Option<Abort>,
}

/// A wait.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Delay {
    /// For how long.
    pub duration: Duration,
    /// How many requests.
    pub chance: Chance,
}

/// A refusal.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Abort {
    /// The status of the answer, 400 to 599.
    pub status: u16,
    /// How many requests.
    pub chance: Chance,
}

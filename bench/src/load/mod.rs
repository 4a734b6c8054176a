//! Load generators: those from Debian, how they are run and what their reports say, and one of our own for large bodies.

pub(crate) mod h2load;
pub(crate) mod handshakes;
pub(crate) mod transfer;
pub(crate) mod wrk;

/// What a load generator saw.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Load {
    /// Answers that were read whole.
    pub(crate) requests: u64,
    pub(crate) per_second: f64,
    /// Microseconds.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    /// In words, where something went wrong.
    pub(crate) errors: Option<String>,
}

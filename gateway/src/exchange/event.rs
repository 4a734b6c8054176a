//! What a driver tells an exchange.

use bytes::Bytes;
use http::HeaderMap;
use routing::policy::Taken;
use routing::{Now, RequestHead};
use serde::{Deserialize, Serialize};

use super::AttemptId;

/// Randomness for one exchange, drawn by its driver: request id, trace ids, split and jitter come from it.
pub type Entropy = [u8; 32];

/// A request as it arrives: the event that starts an exchange.
#[derive(Clone, Copy)]
pub struct Arrival<'a> {
    /// The request's head.
    pub head: RequestHead<'a>,
    /// Whether a body follows (a `content-length` other than 0, a transfer coding, or an open HTTP/2 stream).
    pub has_body: bool,
    /// Both clocks.
    pub now: Now,
    /// Fresh randomness.
    pub entropy: Entropy,
}

/// What happened since the last step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Event {
    /// The request's body, after [`Step::Read`](super::Step::Read).
    Body(BodyRead),
    /// Whether the signature is right, after [`Step::Verify`](super::Step::Verify).
    Verified(bool),
    /// An issuer's keys, after [`Step::Fetch`](super::Step::Fetch).
    Keys(Keys),
    /// Whether the request was let in, after [`Step::Enter`](super::Step::Enter).
    Entered(bool),
    /// What came of each quota, after [`Step::Take`](super::Step::Take) and in its order; none where whoever keeps it did not say,
    /// or was not asked because another one refuses.
    Taken(Vec<Option<Taken>>),
    /// An upstream's head, where the attempt asked to be told.
    Head {
        /// The attempt that it answers.
        attempt: AttemptId,
        /// Its status code.
        status: u16,
        /// Its header fields.
        #[serde(with = "super::wire::fields")]
        fields: HeaderMap,
    },
    /// An upstream's body, where the attempt asked to read it; comes after its head.
    UpstreamBody {
        /// The attempt that it answers.
        attempt: AttemptId,
        /// The body.
        body: BodyRead,
    },
    /// An attempt failed before its head came.
    Failed {
        /// The attempt.
        attempt: AttemptId,
        /// How.
        failure: Failure,
        /// Whether the request can be sent again: it had no body, a buffered one, or none of it was taken yet.
        replayable: bool,
    },
    /// The moment of [`Step::Wait`](super::Step::Wait) has come.
    Time,
}

/// What there is of an issuer's keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Keys {
    /// What was known still holds.
    Unchanged,
    /// This JWK set (RFC 7517 §5), which may be older than it should be where the issuer cannot be reached.
    Set(Bytes),
    /// Nothing was ever fetched, and nothing can be at the moment.
    Unavailable,
}

/// How reading a body ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum BodyRead {
    /// All of it.
    Whole(Bytes),
    /// It is longer than the limit.
    TooLarge,
    /// Its sender broke off or broke the protocol.
    Broken,
}

/// How an attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Failure {
    /// No connection could be made; the upstream saw nothing.
    Connect,
    /// The connection broke before an answer came.
    Reset,
    /// The attempt's deadline passed.
    Timeout,
    /// The upstream has no endpoint that may be used.
    NoEndpoint,
    /// The upstream's circuit breaker is open.
    Overloaded,
    /// The upstream's TLS or identity was refused.
    Identity,
    /// The upstream broke the protocol.
    Protocol,
    /// The request's body is longer than [the attempt](super::Attempt::max_body) may send.
    BodyTooLarge,
}

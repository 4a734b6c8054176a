//! Deadlines across hops: how long the caller of a request still waits, which bounds every call that is made to answer it.
//!
//! A request brings the time that is left, in `x-heddle-timeout-ms` or `grpc-timeout`. The server gives a request up when its time is
//! over; a call that its handler makes meanwhile has what is left of that time, and tells the next server so.

use std::future::Future;
use std::time::{Duration, Instant};

use http::HeaderMap;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use routing::policy::{self, timeout_left};

/// What is left in whole milliseconds.
pub const TIMEOUT_MS: HeaderName = HeaderName::from_static(policy::TIMEOUT_MS);
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static(policy::GRPC_TIMEOUT);

tokio::task_local! {
    static CURRENT: Deadline;
}

/// Until when somebody waits for an answer.
///
/// A request that [`Mesh::serve`](crate::Mesh::serve) hands to a service has it among its extensions, where its caller set one. Calls that
/// the handler makes have it without being told, except from a task that it spawns: there, put it into the extensions of the
/// request that is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    /// After this time.
    #[must_use]
    pub fn after(left: Duration) -> Self {
        // What lies more than a year ahead is as good as never.
        const NEVER: Duration = Duration::from_secs(365 * 86_400);
        Self(Instant::now() + left.min(NEVER))
    }

    /// What a request with these header fields that has just come says of it.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        timeout_left(headers).map(Self::after)
    }

    /// The one of the request that is being answered, within the task that answers it.
    #[must_use]
    pub fn current() -> Option<Self> {
        CURRENT.try_with(|current| *current).ok()
    }

    /// How long is left.
    #[must_use]
    pub fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// The moment.
    #[must_use]
    pub const fn instant(self) -> Instant {
        self.0
    }

    /// Makes it the [current](Self::current) one within `work`.
    pub async fn scope<F: Future>(self, work: F) -> F::Output {
        CURRENT.scope(self, work).await
    }

    /// Tells the next server what is left: by our own field, and to gRPC by its own as well.
    pub(crate) fn tell(left: Duration, headers: &mut HeaderMap) {
        headers.insert(TIMEOUT_MS, HeaderValue::from(policy::timeout_ms(left)));
        let is_grpc = headers
            .get(CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
        if is_grpc || headers.contains_key(GRPC_TIMEOUT) {
            let value = HeaderValue::from_str(&policy::grpc_timeout(left)).expect("digits and a letter");
            headers.insert(GRPC_TIMEOUT, value);
        }
    }
}

impl From<Instant> for Deadline {
    fn from(at: Instant) -> Self {
        Self(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_deadline_is_known_to_whoever_works_within_it() {
        assert_eq!(Deadline::current(), None);
        let deadline = Deadline::after(Duration::from_secs(5));
        let known = deadline.scope(async { Deadline::current() }).await;
        assert_eq!(known, Some(deadline));
        let spawned = deadline.scope(async { tokio::spawn(async { Deadline::current() }).await.unwrap() });
        assert_eq!(spawned.await, None);
    }

    #[test]
    fn what_is_told_is_understood_and_grpc_gets_its_own_field() {
        let mut headers = HeaderMap::new();
        Deadline::tell(Duration::from_millis(1500), &mut headers);
        assert_eq!((&headers[TIMEOUT_MS], headers.len()), (&HeaderValue::from_static("1500"), 1));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc+proto"));
        Deadline::tell(Duration::from_millis(20), &mut headers);
        assert_eq!(
            (&headers[TIMEOUT_MS], &headers[GRPC_TIMEOUT]),
            (&HeaderValue::from_static("20"), &HeaderValue::from_static("20000000n"))
        );
        assert!(Deadline::of(&headers).is_some_and(|deadline| deadline.left() <= Duration::from_millis(20)));
        assert_eq!(Deadline::after(Duration::MAX).left().as_secs() / 86_400, 364);
    }
}

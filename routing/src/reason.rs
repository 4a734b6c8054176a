//! Why Heddle answered a request itself: one closed set, from which status, problem type, metric label and log field come.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why an answer was made by Heddle and not by an upstream.
///
/// Where retries are exhausted, the reason is the last attempt's. Variants are only ever added at the end: instances of different
/// age tell each other reasons by position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Reason {
    /// No route matches.
    RouteNotFound,
    /// A route matches all but the method. The Gateway API would answer 404; 405 with `allow` tells a client more.
    MethodNotAllowed,
    /// The path is not one (a broken escape, say).
    BadPath,
    /// The request breaks the protocol.
    MalformedRequest,
    /// The header section is too large.
    HeadTooLarge,
    /// The request's target is too long.
    UriTooLong,
    /// The body is larger than the route accepts.
    BodyTooLarge,
    /// The body's media type is not one that the route accepts.
    UnsupportedMediaType,
    /// There are no credentials.
    CredentialsMissing,
    /// The token is malformed, forged, or for somebody else.
    TokenInvalid,
    /// The token's time is over, or has not come.
    TokenExpired,
    /// A required scope was not granted.
    ScopeMissing,
    /// A claim is not as required.
    ClaimMismatch,
    /// The caller's identity may not do this.
    Forbidden,
    /// The body does not match its schema.
    BodyInvalid,
    /// The body is not in its format.
    BodyMalformed,
    /// A limit on the rate of requests is exhausted.
    RateLimited,
    /// The upstream has no endpoint that may be used.
    NoEndpoint,
    /// No connection to the upstream could be made.
    ConnectFailed,
    /// The upstream broke the connection before it answered.
    UpstreamReset,
    /// The upstream broke the protocol.
    UpstreamProtocol,
    /// The upstream is not who it has to be.
    UpstreamIdentity,
    /// The upstream did not answer an attempt in time.
    UpstreamTimeout,
    /// The request's deadline passed.
    DeadlineExceeded,
    /// The upstream's circuit breaker is open.
    Overloaded,
    /// A required branch of an aggregate failed.
    AggregateBranchFailed,
    /// The upstream's answer is larger than may be read.
    ResponseTooLarge,
    /// The protocol that the request wants to change to cannot be served here.
    UpgradeUnsupported,
    /// This process is stopping.
    Draining,
    /// A mistake of Heddle.
    Internal,
    /// The API key is not one of those known.
    ApiKeyInvalid,
    /// An issuer's keys could not be fetched, so that its tokens cannot be checked.
    KeysUnavailable,
    /// A parameter of the path, the query, a header field or a cookie is not as the API's description has it.
    ParametersInvalid,
    /// A fault that the route makes on purpose.
    FaultInjected,
    /// Every backend of the route has the weight 0.
    NoBackend,
    /// As many requests as the route may have at once are under way.
    ConcurrencyLimited,
    /// What keeps the quotas of a limit does not answer.
    QuotasUnavailable,
}

/// Everything that follows from a reason.
struct Row {
    status: u16,
    label: &'static str,
    title: &'static str,
}

impl Reason {
    /// All of them, in their order.
    pub const ALL: [Self; 37] = [
        Self::RouteNotFound,
        Self::MethodNotAllowed,
        Self::BadPath,
        Self::MalformedRequest,
        Self::HeadTooLarge,
        Self::UriTooLong,
        Self::BodyTooLarge,
        Self::UnsupportedMediaType,
        Self::CredentialsMissing,
        Self::TokenInvalid,
        Self::TokenExpired,
        Self::ScopeMissing,
        Self::ClaimMismatch,
        Self::Forbidden,
        Self::BodyInvalid,
        Self::BodyMalformed,
        Self::RateLimited,
        Self::NoEndpoint,
        Self::ConnectFailed,
        Self::UpstreamReset,
        Self::UpstreamProtocol,
        Self::UpstreamIdentity,
        Self::UpstreamTimeout,
        Self::DeadlineExceeded,
        Self::Overloaded,
        Self::AggregateBranchFailed,
        Self::ResponseTooLarge,
        Self::UpgradeUnsupported,
        Self::Draining,
        Self::Internal,
        Self::ApiKeyInvalid,
        Self::KeysUnavailable,
        Self::ParametersInvalid,
        Self::FaultInjected,
        Self::NoBackend,
        Self::ConcurrencyLimited,
        Self::QuotasUnavailable,
    ];

    /// The one table.
    const fn row(self) -> Row {
        let (status, label, title) = match self {
            Self::RouteNotFound => (404, "route-not-found", "No route matches the request"),
            Self::MethodNotAllowed => (405, "method-not-allowed", "The method is not allowed here"),
            Self::BadPath => (400, "bad-path", "The path is malformed"),
            Self::MalformedRequest => (400, "malformed-request", "The request is malformed"),
            Self::HeadTooLarge => (431, "head-too-large", "The header section is too large"),
            Self::UriTooLong => (414, "uri-too-long", "The request target is too long"),
            Self::BodyTooLarge => (413, "body-too-large", "The body is too large"),
            Self::UnsupportedMediaType => (415, "unsupported-media-type", "The media type is not supported"),
            Self::CredentialsMissing => (401, "credentials-missing", "Credentials are required"),
            Self::TokenInvalid => (401, "token-invalid", "The token is not valid"),
            Self::TokenExpired => (401, "token-expired", "The token is not valid at this time"),
            Self::ScopeMissing => (403, "scope-missing", "A required scope is missing"),
            Self::ClaimMismatch => (403, "claim-mismatch", "A required claim does not match"),
            Self::Forbidden => (403, "forbidden", "The caller may not do this"),
            Self::BodyInvalid => (422, "body-invalid", "The body does not match its schema"),
            Self::BodyMalformed => (400, "body-malformed", "The body is malformed"),
            Self::RateLimited => (429, "rate-limited", "Too many requests"),
            Self::NoEndpoint => (503, "no-endpoint", "The upstream has no endpoint available"),
            Self::ConnectFailed => (502, "connect-failed", "The upstream could not be reached"),
            Self::UpstreamReset => (502, "upstream-reset", "The upstream broke the connection"),
            Self::UpstreamProtocol => (502, "upstream-protocol", "The upstream broke the protocol"),
            Self::UpstreamIdentity => (502, "upstream-identity", "The upstream's identity was refused"),
            Self::UpstreamTimeout => (504, "upstream-timeout", "The upstream did not answer in time"),
            Self::DeadlineExceeded => (504, "deadline-exceeded", "The request's deadline passed"),
            Self::Overloaded => (503, "overloaded", "The upstream is overloaded"),
            Self::AggregateBranchFailed => (502, "aggregate-branch-failed", "A required part of the answer failed"),
            Self::ResponseTooLarge => (502, "response-too-large", "The upstream's answer is too large"),
            Self::UpgradeUnsupported => (501, "upgrade-unsupported", "The protocol upgrade is not supported"),
            Self::Draining => (503, "draining", "This server is stopping"),
            Self::Internal => (500, "internal", "Internal error"),
            Self::ApiKeyInvalid => (401, "api-key-invalid", "The API key is not valid"),
            Self::KeysUnavailable => (503, "keys-unavailable", "The keys that check tokens are not available"),
            Self::ParametersInvalid => (400, "parameters-invalid", "A parameter is not valid"),
            Self::FaultInjected => (503, "fault-injected", "A fault was injected"),
            Self::NoBackend => (500, "no-backend", "The route has no backend that takes requests"),
            Self::ConcurrencyLimited => (503, "concurrency-limited", "Too many requests are under way"),
            Self::QuotasUnavailable => (503, "quotas-unavailable", "The limit on requests cannot be checked"),
        };
        Row { status, label, title }
    }

    /// The status code of the answer.
    #[must_use]
    pub const fn status(self) -> u16 {
        self.row().status
    }

    /// The label in metrics, in the access log and in a problem's `reason`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        self.row().label
    }

    /// The `title` of the problem (RFC 9457 §3.1.3).
    #[must_use]
    pub const fn title(self) -> &'static str {
        self.row().title
    }

    /// The `type` of the problem (RFC 9457 §3.1.1). A URN, since it names and does not locate.
    #[must_use]
    pub fn problem_type(self) -> String {
        format!("urn:heddle:problem:{}", self.label())
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn labels_and_titles_are_unique_and_statuses_are_errors() {
        let labels: HashSet<_> = Reason::ALL.iter().map(|reason| reason.label()).collect();
        let titles: HashSet<_> = Reason::ALL.iter().map(|reason| reason.title()).collect();
        assert_eq!((labels.len(), titles.len()), (Reason::ALL.len(), Reason::ALL.len()));
        for reason in Reason::ALL {
            assert!((400..600).contains(&reason.status()), "{reason}");
            assert!(
                reason.label().bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'),
                "{reason}"
            );
        }
    }

    #[test]
    fn all_is_every_one_in_order() {
        for (position, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, position, "{reason}");
        }
        assert_eq!(
            Reason::QuotasUnavailable as usize + 1,
            Reason::ALL.len(),
            "the last variant is the last of the list"
        );
    }
}

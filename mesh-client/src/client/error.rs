//! Why there is no response: few kinds, each of which says what may be done about it.

use std::error::Error as StdError;
use std::fmt;

use hyper_util::client::legacy;

use super::outside::find;
use crate::BoxError;
use crate::discovery::Endpoint;
use crate::tls;

/// The kinds of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Failure {
    /// The URL is not one of a service of the mesh.
    Url,
    /// The service has no endpoint that is known.
    NoEndpoint,
    /// This member has left the mesh: its last [`Mesh`](crate::Mesh) handle was dropped.
    Left,
    /// No connection could be made.
    Connect,
    /// One end refused the identity of the other.
    Identity,
    /// The connection or the request's stream broke before an answer came.
    Reset,
    /// No answer came in time.
    Timeout,
    /// The endpoint has too much to do, and says so.
    Overloaded,
    /// As much is under way to the service as may be: its circuit breaker is open.
    Full,
    /// Every backend of the request's route has the weight 0.
    NoBackend,
    /// The endpoint broke the protocol, or the request is one that HTTP/2 cannot carry.
    Protocol,
    /// The request's own body failed while it was read.
    Body,
    /// The policy of the mesh does not let this member connect.
    Forbidden,
    /// The service is served by another protocol than it is called by.
    Mismatch,
}

impl Failure {
    /// One word for logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Url => "url",
            Self::NoEndpoint => "no-endpoint",
            Self::Left => "left",
            Self::Connect => "connect",
            Self::Identity => "identity",
            Self::Reset => "reset",
            Self::Timeout => "timeout",
            Self::Overloaded => "overloaded",
            Self::Full => "full",
            Self::NoBackend => "no-backend",
            Self::Protocol => "protocol",
            Self::Body => "body",
            Self::Forbidden => "forbidden",
            Self::Mismatch => "mismatch",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Url => "the URL is not one of the mesh, http://SERVICE.mesh/…",
            Self::NoEndpoint => "no endpoint is known",
            Self::Left => "this member has left the mesh",
            Self::Connect => "no connection could be made",
            Self::Identity => "the identity was refused",
            Self::Reset => "the connection broke",
            Self::Timeout => "no answer came in time",
            Self::Overloaded => "the endpoint is overloaded",
            Self::Full => "the circuit breaker is open",
            Self::NoBackend => "every backend of the route has the weight 0",
            Self::Protocol => "the protocol was broken",
            Self::Body => "the request's body failed",
            Self::Forbidden => "this member may not connect",
            Self::Mismatch => "the service speaks another protocol",
        })
    }
}

/// Why a request has no response.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {failure}{}", cause(source.as_deref()))]
pub struct Error {
    failure: Failure,
    /// The service, or the URL where it names none.
    place: String,
    endpoint: Option<Endpoint>,
    untouched: bool,
    source: Option<BoxError>,
}

fn cause(source: Option<&(dyn StdError + Send + Sync)>) -> String {
    source.map(|source| format!(": {source}")).unwrap_or_default()
}

impl Error {
    pub(crate) fn new(failure: Failure, place: impl Into<String>) -> Self {
        Self {
            failure,
            place: place.into(),
            endpoint: None,
            untouched: true,
            source: None,
        }
    }

    pub(crate) fn because(failure: Failure, place: impl Into<String>, source: impl Into<BoxError>) -> Self {
        Self {
            source: Some(source.into()),
            ..Self::new(failure, place)
        }
    }

    /// Time was up; an attempt may have been seen.
    pub(super) fn timed_out(place: impl Into<String>) -> Self {
        Self {
            untouched: false,
            ..Self::new(Failure::Timeout, place)
        }
    }

    pub(crate) fn at(place: impl Into<String>, endpoint: Endpoint, broken: Broken) -> Self {
        let Broken {
            failure,
            untouched,
            source,
        } = broken;
        Self {
            failure,
            place: place.into(),
            endpoint: Some(endpoint),
            untouched,
            source: Some(source),
        }
    }

    /// Its kind.
    #[must_use]
    pub const fn failure(&self) -> Failure {
        self.failure
    }

    /// Whether no endpoint has seen anything of the request, so that sending it again is safe whatever its method.
    #[must_use]
    pub const fn is_untouched(&self) -> bool {
        self.untouched
    }

    /// The endpoint that the last attempt was for.
    #[must_use]
    pub const fn endpoint(&self) -> Option<&Endpoint> {
        self.endpoint.as_ref()
    }
}

/// How one attempt at one endpoint failed.
#[derive(Debug)]
pub(crate) struct Broken {
    pub(crate) failure: Failure,
    pub(super) untouched: bool,
    pub(crate) source: BoxError,
}

impl Broken {
    /// Before anything was sent.
    pub(crate) fn before(failure: Failure, source: impl Into<BoxError>) -> Self {
        Self {
            failure,
            untouched: true,
            source: source.into(),
        }
    }

    /// What hyper says about a request to somebody outside the mesh that was on its way.
    pub(super) fn outside(error: legacy::Error) -> Self {
        let (failure, untouched) = find::<hyper::Error>(&error).map_or((Failure::Reset, false), classify);
        Self {
            failure,
            untouched,
            source: error.into(),
        }
    }

    /// What hyper and h2 say about a request that was on its way; `refused` is whether the peer refused our certificate, which in
    /// TLS 1.3 it says only after the handshake, by when the request may be on the wire but not beyond the peer's TLS.
    pub(super) fn sent(error: hyper::Error, refused: bool) -> Self {
        let (failure, untouched) = if refused {
            (Failure::Identity, true)
        } else {
            classify(&error)
        };
        Self {
            failure,
            untouched,
            source: error.into(),
        }
    }
}

fn classify(error: &hyper::Error) -> (Failure, bool) {
    if error.is_user() {
        return (Failure::Body, false);
    }
    if error.is_timeout() {
        return (Failure::Reset, false);
    }
    let mut next: Option<&(dyn StdError + 'static)> = error.source();
    while let Some(cause) = next {
        if let Some(error) = cause.downcast_ref::<h2::Error>() {
            return of_h2(error);
        }
        if let Some(error) = cause.downcast_ref::<std::io::Error>() {
            let identity = tls::of_io(error).is_some_and(tls::refuses_identity);
            return (if identity { Failure::Identity } else { Failure::Reset }, identity);
        }
        next = cause.source();
    }
    (Failure::Reset, false)
}

fn of_h2(error: &h2::Error) -> (Failure, bool) {
    let Some(reason) = error.reason() else {
        return (Failure::Reset, false);
    };
    match reason {
        // RFC 9113 §8.7: neither a refused stream nor one above the last of a GOAWAY was processed.
        h2::Reason::REFUSED_STREAM => (Failure::Reset, true),
        h2::Reason::NO_ERROR if error.is_go_away() && error.is_remote() => (Failure::Reset, true),
        h2::Reason::ENHANCE_YOUR_CALM => (Failure::Overloaded, false),
        h2::Reason::PROTOCOL_ERROR
        | h2::Reason::FLOW_CONTROL_ERROR
        | h2::Reason::FRAME_SIZE_ERROR
        | h2::Reason::COMPRESSION_ERROR
        | h2::Reason::STREAM_CLOSED
        | h2::Reason::HTTP_1_1_REQUIRED
        | h2::Reason::INADEQUATE_SECURITY => (Failure::Protocol, false),
        _ => (Failure::Reset, false),
    }
}

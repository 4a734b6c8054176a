//! What the wrapper answers itself, and why.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap};
use http::{HeaderValue, Response};
use http_body_util::Full;
use mesh_client::client::{Error, Failure};
use mesh_client::server;
use routing::Reason;

/// Why a request is not carried, and what is said of it.
pub(super) type Refused = (Reason, String);

/// Who gets an answer of ours, as far as that says in which form: callers of gRPC get a status, all others a problem.
pub(super) struct Caller(HeaderMap);

impl Caller {
    pub(super) fn of(fields: &HeaderMap) -> Self {
        let kind: Option<&HeaderValue> = fields.get(CONTENT_TYPE);
        Self(kind.map(|kind| (CONTENT_TYPE, kind.clone())).into_iter().collect())
    }

    pub(super) fn answer(&self, (reason, detail): &Refused) -> Response<Full<Bytes>> {
        server::answer(&self.0, *reason, detail)
    }
}

/// The refusal that says why a call into the mesh failed.
pub(super) fn refused_by_mesh(error: &Error) -> Refused {
    let reason = match error.failure() {
        Failure::Url | Failure::Forbidden => Reason::Forbidden,
        Failure::NoEndpoint => Reason::NoEndpoint,
        Failure::Connect => Reason::ConnectFailed,
        Failure::Identity => Reason::UpstreamIdentity,
        Failure::Reset => Reason::UpstreamReset,
        Failure::Timeout => Reason::UpstreamTimeout,
        Failure::Overloaded | Failure::Full => Reason::Overloaded,
        Failure::NoBackend => Reason::NoBackend,
        Failure::Protocol | Failure::Mismatch => Reason::UpstreamProtocol,
        Failure::Body => Reason::MalformedRequest,
        _ => Reason::Internal,
    };
    (reason, error.to_string())
}

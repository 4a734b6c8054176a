//! Why the wrapper answers itself where a call into the mesh failed.

use mesh_client::client::Failure;
use routing::Reason;

/// The reason for an answer where a call into the mesh failed.
pub(super) fn reason_of(failure: Failure) -> Reason {
    match failure {
        Failure::Url => Reason::Forbidden,
        Failure::NoEndpoint => Reason::NoEndpoint,
        Failure::Connect => Reason::ConnectFailed,
        Failure::Identity => Reason::UpstreamIdentity,
        Failure::Reset => Reason::UpstreamReset,
        Failure::Timeout => Reason::UpstreamTimeout,
        Failure::Overloaded => Reason::Overloaded,
        Failure::Protocol => Reason::UpstreamProtocol,
        Failure::Body => Reason::MalformedRequest,
        _ => Reason::Internal,
    }
}

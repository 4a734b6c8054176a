//! Who is asking, and what a refusal is called on the wire.

use std::sync::Arc;

use identity::ServiceName;
use mesh_client::tls::PeerIdentity;
use tonic::{Request, Status};

use crate::authority::{AuthorityError, SecretHash, hex};
use crate::now_unix;
use crate::registry::{Refusal, RegistrarError};

/// The peer of a connection: `None` where it showed no SVID.
#[derive(Clone)]
pub(super) struct Peer(pub(super) Option<Arc<PeerIdentity>>);

/// The service whose SVID the request came with.
pub(super) fn member<T>(request: &Request<T>) -> Result<ServiceName, Status> {
    let peer = peer(request)?;
    if !peer.is_valid_at(now_unix()) {
        return Err(Status::unauthenticated(
            "the SVID of this connection has expired, or has not begun; connect with a new one",
        ));
    }
    service(peer)
}

/// The service whose SVID the request came with, the serial number of that, and its last second. Its time may be over: asking for another
/// is all that it is good for then, and the connection was let in only where it is not over for long.
pub(super) fn renewing<T>(request: &Request<T>) -> Result<(ServiceName, String, u64), Status> {
    let peer = peer(request)?;
    Ok((service(peer)?, hex(peer.serial()), peer.not_after()))
}

/// The same of a member that does more than that.
pub(super) fn registering<T>(request: &Request<T>) -> Result<(ServiceName, String), Status> {
    let speaker = member(request)?;
    Ok((speaker, hex(peer(request)?.serial())))
}

fn peer<T>(request: &Request<T>) -> Result<&PeerIdentity, Status> {
    let peer = request.extensions().get::<Peer>().and_then(|peer| peer.0.as_deref());
    peer.ok_or_else(|| Status::unauthenticated("this call needs an SVID as the client certificate; join with a token first"))
}

fn service(peer: &PeerIdentity) -> Result<ServiceName, Status> {
    let not_a_service = || Status::permission_denied(format!("`{}` is not the identity of a service", peer.id()));
    peer.id().service().ok_or_else(not_a_service)
}

/// Whether the request carries the operator's credential: whole, or its secret alone.
pub(super) fn check_operator<T>(request: &Request<T>, operator: &SecretHash) -> Result<(), Status> {
    let header = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
    let credential = header
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, credential)| credential.trim());
    let Some(credential) = credential else {
        return Err(Status::unauthenticated(
            "this call needs the operator's credential as `authorization: Bearer`",
        ));
    };
    let secret = match credential.parse::<mesh_api::JoinToken>() {
        Ok(token) => token.secret(),
        Err(_) => credential.to_owned(),
    };
    if operator.matches(&SecretHash::of(&secret).to_vec()) {
        Ok(())
    } else {
        Err(Status::unauthenticated(
            "this is not the operator's credential of this control plane; it changes at every start",
        ))
    }
}

impl From<AuthorityError> for Status {
    fn from(error: AuthorityError) -> Self {
        match error {
            AuthorityError::Join(error) => Self::unauthenticated(error.to_string()),
            AuthorityError::Csr(error) => Self::invalid_argument(error.to_string()),
            AuthorityError::TokenTtl | AuthorityError::Selectors => Self::invalid_argument(error.to_string()),
            AuthorityError::Needed { .. } | AuthorityError::NoneRetiring => Self::failed_precondition(error.to_string()),
            AuthorityError::Changed => Self::aborted(error.to_string()),
            AuthorityError::Replaced(_) | AuthorityError::Removed(_) | AuthorityError::Forgotten(_) => {
                Self::unauthenticated(error.to_string())
            }
            AuthorityError::NoEntry(_) => Self::not_found(error.to_string()),
            AuthorityError::EntryExists(_) => Self::already_exists(error.to_string()),
            AuthorityError::Store(error) => {
                tracing::error!(%error, "the store failed");
                Self::unavailable("the control plane cannot reach its store")
            }
            error => {
                tracing::error!(%error, "the authority failed");
                Self::internal("the authority failed; the control plane's log says why")
            }
        }
    }
}

impl From<RegistrarError> for Status {
    fn from(error: RegistrarError) -> Self {
        let text = error.to_string();
        match error {
            RegistrarError::Refused(Refusal::NotYours { .. }) => Self::permission_denied(text),
            RegistrarError::Refused(Refusal::IdTaken(_)) => Self::already_exists(text),
            RegistrarError::Refused(Refusal::Unknown(_)) => Self::not_found(text),
            RegistrarError::Refused(Refusal::Full(_)) => Self::resource_exhausted(text),
            RegistrarError::NotStored | RegistrarError::Stopped => Self::unavailable(text),
        }
    }
}

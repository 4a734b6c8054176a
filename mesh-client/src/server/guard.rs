//! The policy at the door: who may ask this service for what.

use std::borrow::Cow;
use std::convert::Infallible;
use std::sync::Arc;

use arc_swap::ArcSwap;
use http::uri::{PathAndQuery, Uri};
use http::{Method, Request};
use identity::ServiceName;
use routing::Reason;
use routing::matching::normalise;
use tokio::sync::watch;

use crate::caller::{self, Caller, CallerError};
use crate::join::unix_now;
use crate::metrics::Metrics;
use crate::policy::{Access, Action, Ask, Known, Mode, Policies};
use crate::tls::PeerIdentity;

/// Judges every request to one service by the policy of the moment.
#[derive(Clone)]
pub(crate) struct Guard {
    access: Arc<ArcSwap<Access>>,
    service: ServiceName,
    port: u16,
    metrics: Arc<Metrics>,
    /// Says that there is another policy.
    changes: Arc<watch::Sender<()>>,
}

/// Why a request is not served.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) reason: Reason,
    pub(super) detail: &'static str,
}

impl Guard {
    pub(crate) fn new(service: ServiceName, port: u16, policies: &Policies, metrics: Arc<Metrics>) -> Self {
        Self {
            access: Arc::new(ArcSwap::from_pointee(policies.access(&service))),
            service,
            port,
            metrics,
            changes: Arc::default(),
        }
    }

    /// Puts each new policy in force as it comes.
    pub(crate) async fn follow(&self, mut known: Known) -> Infallible {
        while known.changed().await.is_ok() {
            if let Some(policies) = known.borrow_and_update().as_deref() {
                self.access.store(Arc::new(policies.access(&self.service)));
                self.changes.send_replace(());
            }
        }
        std::future::pending().await
    }

    /// Lets a request pass or not.
    ///
    /// The path that was judged is the path that is served: a service that resolves `/public/../admin` later than we do would
    /// serve what was never asked about.
    pub(super) fn admit<B>(&self, request: &mut Request<B>, peer: Option<&PeerIdentity>) -> Result<(), Refused> {
        let access = self.access.load();
        let caller = caller_of(&access, request, peer)?;
        let normal = normal_path(&access, request.uri().path())?;
        let path = normal.as_deref().unwrap_or_else(|| request.uri().path());
        let ask = Ask {
            principal: peer.map(PeerIdentity::id),
            method: method_of(request),
            path: if path.is_empty() { "/" } else { path },
            port: self.port,
            caller: caller.as_ref().map(Caller::claims),
        };
        let verdict = access.judge(&ask);
        if verdict.action == Action::Deny {
            self.report(&ask, verdict.rule, verdict.mode);
            if verdict.mode == Mode::Enforce {
                return Err(Refused {
                    reason: Reason::Forbidden,
                    detail: "the policy of the mesh does not let this caller do this",
                });
            }
        }
        if let Some(normal) = normal {
            replace_path(request, &normal);
        }
        if let Some(caller) = caller {
            request.extensions_mut().insert(caller);
        }
        Ok(())
    }

    /// Lets an opaque connection pass or not, by who asks and by the port alone: it has no method and no path.
    pub(crate) fn admits_opaque(&self, peer: &PeerIdentity) -> bool {
        let access = self.access.load();
        let ask = Ask {
            principal: Some(peer.id()),
            method: Method::CONNECT.as_str(),
            path: "/",
            port: self.port,
            caller: None,
        };
        let verdict = access.judge(&ask);
        if verdict.action == Action::Deny {
            self.report(&ask, verdict.rule, verdict.mode);
        }
        verdict.admits()
    }

    /// The changes of the policy from here on.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Ready once one of `changes` does not let this peer have its connection any more.
    pub(crate) async fn denies_opaque(&self, peer: &PeerIdentity, mut changes: watch::Receiver<()>) {
        while changes.changed().await.is_ok() {
            if !self.admits_opaque(peer) {
                return;
            }
        }
        std::future::pending().await
    }

    fn report(&self, ask: &Ask<'_>, rule: Option<&str>, mode: Mode) {
        self.metrics.denied(rule, mode);
        let from = ask.principal.map_or("nobody", |id| id.as_str());
        let (method, path, rule) = (ask.method, ask.path, rule.unwrap_or("the default"));
        match mode {
            Mode::Enforce => {
                tracing::info!(to = %self.service, from, method, path, rule, "a request was refused by the policy")
            }
            Mode::Audit => {
                tracing::warn!(to = %self.service, from, method, path, rule, "a request would have been refused by the policy");
            }
        }
    }
}

/// The method that is judged. A WebSocket is opened by a GET (RFC 6455 §4.1), whatever HTTP/2 makes of it (RFC 8441 §5), so that one
/// rule holds for both.
fn method_of<B>(request: &Request<B>) -> &str {
    match request.extensions().get::<hyper::ext::Protocol>() {
        Some(protocol) if protocol.as_str() == "websocket" => Method::GET.as_str(),
        _ => request.method().as_str(),
    }
}

/// The end user that a peer speaks for which is believed about that. Whatever anybody else says is dropped; what is believed and makes
/// no sense is refused, since to go on without it would be to serve somebody else.
fn caller_of<B>(access: &Access, request: &mut Request<B>, peer: Option<&PeerIdentity>) -> Result<Option<Caller>, Refused> {
    if !peer.is_some_and(|peer| access.believes(peer.id())) {
        caller::drop_from(request);
        return Ok(None);
    }
    request.extensions_mut().remove::<Caller>();
    caller::read(request.headers(), unix_now().as_secs()).map_err(|error| {
        tracing::warn!(%error, "what a peer says about an end user is refused");
        match error {
            CallerError::Expired => Refused {
                reason: Reason::TokenExpired,
                detail: "what is said about the end user is to be believed no longer",
            },
            _ => Refused {
                reason: Reason::TokenInvalid,
                detail: "what is said about the end user is malformed",
            },
        }
    })
}

/// The path in its normal form where it came otherwise, and a verdict depends on it. A policy that only watches changes nothing.
fn normal_path(access: &Access, path: &str) -> Result<Option<String>, Refused> {
    if !access.reads_paths() || access.mode() == Mode::Audit || path.is_empty() {
        return Ok(None);
    }
    match normalise(path) {
        Ok(Cow::Borrowed(_)) => Ok(None),
        Ok(Cow::Owned(normal)) => Ok(Some(normal).filter(|normal| normal != path)),
        Err(_) => Err(Refused {
            reason: Reason::BadPath,
            detail: "the path is malformed, and the policy of the mesh depends on it",
        }),
    }
}

fn replace_path<B>(request: &mut Request<B>, path: &str) {
    let mut parts = request.uri().clone().into_parts();
    let query = request.uri().query();
    let joined = query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
    if let Ok(joined) = joined.parse::<PathAndQuery>() {
        parts.path_and_query = Some(joined);
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
    }
}

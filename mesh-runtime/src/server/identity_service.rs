//! `heddle.mesh.v1.Identity`: joining, renewing, and the trust bundle.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, stream};
use identity::{ServiceName, TrustDomain};
use mesh_api::v1::identity_server::Identity;
use mesh_api::v1::{AttestRequest, Bundle, JoinRequest, RenewRequest, Svid, WatchBundleRequest};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::Shared;
use super::local::Process;
use super::peer::{member, renewing};
use crate::authority::{self, AuthorityError, JoinError, Trust, unhex};
use crate::metrics::Failure;
use crate::now_unix;

pub(super) struct IdentityService {
    shared: Arc<Shared>,
}

impl IdentityService {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Answers whoever asks to be let in.
    fn joined(&self, result: Result<authority::Svid, AuthorityError>) -> Result<Response<Svid>, Status> {
        match result {
            Ok(svid) => {
                self.shared.metrics.joins.inc();
                Ok(self.answer(svid))
            }
            Err(error) => {
                tracing::warn!(%error, "a join was refused");
                let reason = reason_of(&error);
                self.shared.metrics.join_failures.get_or_create(&Failure { reason }).inc();
                Err(error.into())
            }
        }
    }

    fn answer(&self, svid: authority::Svid) -> Response<Svid> {
        self.shared.metrics.svids.inc();
        let authority = &self.shared.authority;
        Response::new(Svid {
            spiffe_id: svid.spiffe_id.to_string(),
            chain: svid.chain.iter().map(|certificate| certificate.to_vec()).collect(),
            bundle: Some(bundle_of(authority.trust_domain(), &authority.trust().borrow())),
            not_before: svid.not_before,
            not_after: svid.not_after,
        })
    }
}

#[tonic::async_trait]
impl Identity for IdentityService {
    type WatchBundleStream = Pin<Box<dyn Stream<Item = Result<Bundle, Status>> + Send>>;

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<Svid>, Status> {
        let JoinRequest { secret, csr } = request.into_inner();
        self.joined(self.shared.authority.join(&secret, &csr, now_unix()).await)
    }

    async fn attest(&self, request: Request<AttestRequest>) -> Result<Response<Svid>, Status> {
        let Some(process) = request.extensions().get::<Process>().cloned() else {
            return Err(Status::failed_precondition(
                "who asks is known on the control plane's local socket alone; elsewhere join with a token",
            ));
        };
        let AttestRequest { service, csr } = request.into_inner();
        let wanted = match service.as_str() {
            "" => None,
            name => Some(ServiceName::new(name).map_err(|error| Status::invalid_argument(error.to_string()))?),
        };
        self.joined(
            self.shared
                .authority
                .attest(&process, wanted.as_ref(), &csr, now_unix())
                .await,
        )
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<Svid>, Status> {
        let (service, serial, not_after) = renewing(&request)?;
        let (csr, now, authority) = (request.into_inner().csr, now_unix(), &self.shared.authority);
        authority.recall(&service, &serial, not_after, now).await?;
        Ok(self.answer(authority.renew(&service, &serial, &csr, now).await?))
    }

    async fn watch_bundle(&self, request: Request<WatchBundleRequest>) -> Result<Response<Self::WatchBundleStream>, Status> {
        member(&request)?;
        let mut trust = self.shared.authority.trust();
        // The one in force is the first to be told.
        trust.mark_changed();
        let watch = Watch {
            trust_domain: self.shared.authority.trust_domain().clone(),
            trust,
            drain: self.shared.drain.clone(),
        };
        Ok(Response::new(Box::pin(stream::unfold(Some(watch), next))))
    }
}

struct Watch {
    trust_domain: TrustDomain,
    trust: watch::Receiver<Arc<Trust>>,
    drain: CancellationToken,
}

/// A reader that is slow is told whom to believe in the end, and not whom in between.
async fn next(watch: Option<Watch>) -> Option<(Result<Bundle, Status>, Option<Watch>)> {
    let mut watch = watch?;
    let changed = tokio::select! {
        changed = watch.trust.changed() => changed.is_ok(),
        () = watch.drain.cancelled() => false,
    };
    if !changed {
        return Some((Err(Status::unavailable("the control plane is stopping")), None));
    }
    let bundle = bundle_of(&watch.trust_domain, &watch.trust.borrow_and_update());
    Some((Ok(bundle), Some(watch)))
}

fn bundle_of(trust_domain: &TrustDomain, trust: &Trust) -> Bundle {
    Bundle {
        trust_domain: trust_domain.to_string(),
        roots: trust.roots.iter().map(|root| root.to_vec()).collect(),
        revoked: trust.revoked.iter().filter_map(|serial| unhex(serial)).collect(),
    }
}

fn reason_of(error: &AuthorityError) -> &'static str {
    match error {
        AuthorityError::Join(JoinError::Unknown) => "unknown",
        AuthorityError::Join(JoinError::Used { .. }) => "used",
        AuthorityError::Join(JoinError::Expired { .. }) => "expired",
        AuthorityError::Join(JoinError::NoEntry { .. } | JoinError::SeveralEntries { .. }) => "entry",
        AuthorityError::Csr(_) => "request",
        _ => "internal",
    }
}

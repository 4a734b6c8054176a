//! `heddle.mesh.v1.Identity`: joining, renewing, and the trust bundle.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt as _, stream};
use mesh_api::v1::identity_server::Identity;
use mesh_api::v1::{Bundle, JoinRequest, RenewRequest, Svid, WatchBundleRequest};
use tonic::{Request, Response, Status};

use super::Shared;
use super::peer::member;
use crate::authority::{self, AuthorityError, JoinError};
use crate::metrics::Failure;
use crate::now_unix;

pub(super) struct IdentityService {
    shared: Arc<Shared>,
}

impl IdentityService {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    fn bundle(&self) -> Bundle {
        let authority = &self.shared.authority;
        Bundle {
            trust_domain: authority.trust_domain().to_string(),
            roots: authority.roots().iter().map(|root| root.to_vec()).collect(),
        }
    }

    fn answer(&self, svid: authority::Svid) -> Response<Svid> {
        self.shared.metrics.svids.inc();
        Response::new(Svid {
            spiffe_id: svid.spiffe_id.to_string(),
            chain: svid.chain.iter().map(|certificate| certificate.to_vec()).collect(),
            bundle: Some(self.bundle()),
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
        match self.shared.authority.join(&secret, &csr, now_unix()).await {
            Ok(svid) => {
                self.shared.metrics.joins.inc();
                Ok(self.answer(svid))
            }
            Err(error) => {
                tracing::warn!(%error, "a join was refused");
                self.shared
                    .metrics
                    .join_failures
                    .get_or_create(&Failure {
                        reason: reason_of(&error),
                    })
                    .inc();
                Err(error.into())
            }
        }
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<Svid>, Status> {
        let service = member(&request)?;
        let csr = request.into_inner().csr;
        Ok(self.answer(self.shared.authority.renew(&service, &csr, now_unix()).await?))
    }

    async fn watch_bundle(&self, request: Request<WatchBundleRequest>) -> Result<Response<Self::WatchBundleStream>, Status> {
        member(&request)?;
        // The root lives as long as the store, so there is one bundle to tell; the stream stays open until the drain.
        let drain = self.shared.drain.clone();
        let end = stream::once(async move {
            drain.cancelled_owned().await;
            Err(Status::unavailable("the control plane is stopping"))
        });
        Ok(Response::new(Box::pin(stream::iter([Ok(self.bundle())]).chain(end))))
    }
}

fn reason_of(error: &AuthorityError) -> &'static str {
    match error {
        AuthorityError::Join(JoinError::Unknown) => "unknown",
        AuthorityError::Join(JoinError::Used { .. }) => "used",
        AuthorityError::Join(JoinError::Expired { .. }) => "expired",
        AuthorityError::Csr(_) => "request",
        _ => "internal",
    }
}

//! `heddle.mesh.v1.Operator`: what the commands of `mesh-runtime` ask. Whoever comes here has shown the operator's credential.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, stream};
use identity::{IdError, ServiceName, SpiffeId};
use mesh_api::v1;
use mesh_api::v1::operator_server::Operator;
use mesh_client::policy::{Action, Ask, Mode};
use routing::claims::Claims;
use routing::json;
use routing::matching::normalise;
use serde_json::Value;
use tonic::{Request, Response, Status};

use super::Shared;
use super::policy_service::document_of;
use crate::authority::{Entry, Mark, RootStatus, Selector};
use crate::backup::Backup;
use crate::now_unix;
use crate::policies::PolicyError;
use crate::store::IdentityRecord;

/// How much of a backup is in one message.
const PART: usize = 256 * 1024;

pub(super) struct OperatorService {
    shared: Arc<Shared>,
}

impl OperatorService {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    async fn authority_status(&self) -> Result<Response<v1::AuthorityStatus>, Status> {
        let status = self.shared.authority.status(now_unix()).await?;
        Ok(Response::new(v1::AuthorityStatus {
            trust_domain: self.shared.authority.trust_domain().to_string(),
            authorities: status.roots.into_iter().map(authority_of).collect(),
            intermediate_not_after: status.intermediate_not_after,
        }))
    }

    /// A service by its name, or any identity by its SPIFFE ID.
    fn principal(&self, text: &str) -> Result<SpiffeId, Status> {
        if text.contains(':') {
            return text
                .parse()
                .map_err(|error: IdError| Status::invalid_argument(error.to_string()));
        }
        let service = ServiceName::new(text).map_err(|error| Status::invalid_argument(error.to_string()))?;
        Ok(SpiffeId::of_service(self.shared.authority.trust_domain(), &service))
    }
}

#[tonic::async_trait]
impl Operator for OperatorService {
    type BackupStream = Pin<Box<dyn Stream<Item = Result<v1::BackupPart, Status>> + Send>>;

    async fn create_token(&self, request: Request<v1::CreateTokenRequest>) -> Result<Response<v1::Token>, Status> {
        let v1::CreateTokenRequest { service, ttl_seconds } = request.into_inner();
        let service = ServiceName::new(&service).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let ttl = Duration::from_secs(ttl_seconds);
        let (token, expires_at) = self.shared.authority.create_token(&service, ttl, now_unix()).await?;
        Ok(Response::new(v1::Token {
            token: token.to_string(),
            expires_at,
        }))
    }

    async fn apply(&self, request: Request<v1::ApplyRequest>) -> Result<Response<v1::ApplyResponse>, Status> {
        let v1::ApplyRequest { name, text, dry_run } = request.into_inner();
        let registrations = self.shared.registrar.list(None).await?;
        let served = registrations.iter().map(|one| ServiceName::new(&one.endpoint.service));
        let served = served.filter_map(Result::ok).collect();
        let answer = match self.shared.policies.apply(name, text, dry_run, served).await {
            Ok(revision) => v1::ApplyResponse {
                revision,
                mistakes: String::new(),
            },
            Err(PolicyError::Mistakes(mistakes)) => v1::ApplyResponse {
                revision: self.shared.policies.current().record.revision,
                mistakes: mistakes.to_string(),
            },
            Err(error) => return Err(error.into()),
        };
        Ok(Response::new(answer))
    }

    async fn show_policies(&self, _: Request<v1::ShowPoliciesRequest>) -> Result<Response<v1::PolicyDocument>, Status> {
        Ok(Response::new(document_of(&self.shared.policies.current())))
    }

    async fn check_policy(
        &self,
        request: Request<v1::CheckPolicyRequest>,
    ) -> Result<Response<v1::CheckPolicyResponse>, Status> {
        let v1::CheckPolicyRequest {
            from,
            to,
            method,
            path,
            port,
            claims,
        } = request.into_inner();
        let invalid = |error: String| Status::invalid_argument(error);
        let to = ServiceName::new(&to).map_err(|error| invalid(error.to_string()))?;
        let principal = self.principal(&from)?;
        let path = path.split_once('?').map_or(path.as_str(), |(path, _)| path);
        let path = normalise(path).map_err(|error| invalid(error.to_string()))?;
        let port = u16::try_from(port).map_err(|_| invalid(format!("{port} is no port")))?;
        let claims = match claims.as_str() {
            "" => None,
            text => match json::parse(text.as_bytes()) {
                Ok(Value::Object(claims)) => Some(Claims::new(claims)),
                _ => {
                    return Err(invalid(
                        "the claims are no JSON object in which no name comes twice".to_owned(),
                    ));
                }
            },
        };
        let document = self.shared.policies.current();
        let access = document.policies.access(&to);
        let verdict = access.judge(&Ask {
            principal: Some(&principal),
            method: &method,
            path: &path,
            port,
            caller: claims.as_ref(),
        });
        Ok(Response::new(v1::CheckPolicyResponse {
            allowed: verdict.action == Action::Allow,
            rule: verdict.rule.unwrap_or_default().to_owned(),
            audit: verdict.mode == Mode::Audit,
            path: path.to_string(),
        }))
    }

    async fn list_endpoints(
        &self,
        request: Request<v1::ListEndpointsRequest>,
    ) -> Result<Response<v1::ListEndpointsResponse>, Status> {
        let service = Some(request.into_inner().service).filter(|service| !service.is_empty());
        let registrations = self.shared.registrar.list(service).await?;
        let endpoints = registrations
            .into_iter()
            .map(|registration| v1::RegisteredEndpoint {
                endpoint: Some(v1::Endpoint::from(&*registration.endpoint)),
                registered_at: registration.registered_at,
                lease_ms: u64::try_from(registration.left.as_millis()).unwrap_or(u64::MAX),
            })
            .collect();
        Ok(Response::new(v1::ListEndpointsResponse { endpoints }))
    }

    async fn backup(&self, _: Request<v1::BackupRequest>) -> Result<Response<Self::BackupStream>, Status> {
        let records = self
            .shared
            .records
            .dump()
            .await
            .map_err(|error| Status::internal(error.to_string()))?;
        tracing::warn!(
            records = records.len(),
            "a backup was taken, which holds the keys of the authority"
        );
        let backup = Backup::new(self.shared.authority.trust_domain().as_str(), now_unix(), records);
        let whole = Bytes::from(backup.write());
        let starts = (0..whole.len()).step_by(PART);
        let parts: Vec<_> = starts
            .map(|start| whole.slice(start..whole.len().min(start + PART)))
            .collect();
        let parts = parts.into_iter().map(|data| Ok(v1::BackupPart { data: data.into() }));
        Ok(Response::new(Box::pin(stream::iter(parts))))
    }

    async fn list_identities(
        &self,
        _: Request<v1::ListIdentitiesRequest>,
    ) -> Result<Response<v1::ListIdentitiesResponse>, Status> {
        let identities = self.shared.authority.identities(now_unix()).await?;
        let identities = identities.into_iter().map(identity_of).collect();
        Ok(Response::new(v1::ListIdentitiesResponse { identities }))
    }

    async fn create_entry(&self, request: Request<v1::CreateEntryRequest>) -> Result<Response<v1::Entry>, Status> {
        let v1::CreateEntryRequest { service, selectors } = request.into_inner();
        let service = ServiceName::new(&service).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let selectors: Result<BTreeSet<Selector>, _> = selectors.iter().map(|text| text.parse()).collect();
        let selectors = selectors.map_err(|error| Status::invalid_argument(error.to_string()))?;
        let now = now_unix();
        let id = self.shared.authority.create_entry(&service, &selectors, now).await?;
        Ok(Response::new(v1::Entry {
            id,
            service: service.to_string(),
            selectors: selectors.iter().map(ToString::to_string).collect(),
            created_at: now,
            identities: 0,
        }))
    }

    async fn list_entries(&self, _: Request<v1::ListEntriesRequest>) -> Result<Response<v1::ListEntriesResponse>, Status> {
        let entries = self.shared.authority.entries(now_unix()).await?;
        let entries = entries.into_iter().map(entry_of).collect();
        Ok(Response::new(v1::ListEntriesResponse { entries }))
    }

    async fn remove_entry(
        &self,
        request: Request<v1::RemoveEntryRequest>,
    ) -> Result<Response<v1::RemoveEntryResponse>, Status> {
        let id = request.into_inner().id;
        let revoked = self.shared.authority.remove_entry(&id, now_unix()).await?;
        let marks = [Mark::of_entry(&id)].into();
        match self.shared.registrar.evict(marks).await {
            Ok(endpoints) => tracing::info!(entry = id, endpoints, "what its members served was taken out"),
            // The identities are taken away all the same, and nobody keeps the leases.
            Err(error) => tracing::error!(%error, entry = id, "what its members served is taken out when their leases end"),
        }
        Ok(Response::new(v1::RemoveEntryResponse { revoked: count(revoked) }))
    }

    async fn rotate_authority(
        &self,
        request: Request<v1::RotateAuthorityRequest>,
    ) -> Result<Response<v1::AuthorityStatus>, Status> {
        let authority = &self.shared.authority;
        if request.into_inner().intermediate_only {
            authority.rotate_intermediate(now_unix()).await?;
        } else {
            authority.rotate(now_unix()).await?;
        }
        self.authority_status().await
    }

    async fn retire_authority(&self, _: Request<v1::RetireAuthorityRequest>) -> Result<Response<v1::AuthorityStatus>, Status> {
        self.shared.authority.retire(now_unix()).await?;
        self.authority_status().await
    }

    async fn show_authority(&self, _: Request<v1::ShowAuthorityRequest>) -> Result<Response<v1::AuthorityStatus>, Status> {
        self.authority_status().await
    }
}

fn authority_of(root: RootStatus) -> v1::Authority {
    v1::Authority {
        pin: root.pin.to_string(),
        retiring: root.retiring,
        not_before: root.not_before,
        not_after: root.not_after,
        identities: root.identities.into_iter().map(identity_of).collect(),
        tokens: count(root.tokens),
    }
}

fn entry_of(entry: Entry) -> v1::Entry {
    v1::Entry {
        id: entry.id,
        service: entry.service,
        selectors: entry.selectors,
        created_at: entry.created_at,
        identities: count(entry.identities),
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn identity_of((serial, identity): (String, IdentityRecord)) -> v1::IssuedIdentity {
    v1::IssuedIdentity {
        spiffe_id: identity.spiffe_id,
        serial,
        not_before: identity.not_before,
        not_after: identity.not_after,
    }
}

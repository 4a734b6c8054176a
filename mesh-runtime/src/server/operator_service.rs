//! `heddle.mesh.v1.Operator`: what the commands of `mesh-runtime` ask. Whoever comes here has shown the operator's credential.

use std::sync::Arc;
use std::time::Duration;

use identity::{IdError, ServiceName, SpiffeId};
use mesh_api::v1;
use mesh_api::v1::operator_server::Operator;
use mesh_client::policy::{Action, Ask, Mode};
use routing::matching::normalise;
use tonic::{Request, Response, Status};

use super::Shared;
use super::policy_service::document_of;
use crate::now_unix;
use crate::policies::PolicyError;

pub(super) struct OperatorService {
    shared: Arc<Shared>,
}

impl OperatorService {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
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
        let answer = match self.shared.policies.apply(name, text, dry_run).await {
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
        } = request.into_inner();
        let invalid = |error: String| Status::invalid_argument(error);
        let to = ServiceName::new(&to).map_err(|error| invalid(error.to_string()))?;
        let principal = self.principal(&from)?;
        let path = path.split_once('?').map_or(path.as_str(), |(path, _)| path);
        let path = normalise(path).map_err(|error| invalid(error.to_string()))?;
        let port = u16::try_from(port).map_err(|_| invalid(format!("{port} is no port")))?;
        let document = self.shared.policies.current();
        let access = document.policies.access(&to);
        let verdict = access.judge(&Ask {
            principal: Some(&principal),
            method: &method,
            path: &path,
            port,
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

    async fn list_identities(
        &self,
        _: Request<v1::ListIdentitiesRequest>,
    ) -> Result<Response<v1::ListIdentitiesResponse>, Status> {
        let identities = self.shared.authority.identities(now_unix()).await?;
        let identities = identities
            .into_iter()
            .map(|(serial, identity)| v1::IssuedIdentity {
                spiffe_id: identity.spiffe_id,
                serial,
                not_before: identity.not_before,
                not_after: identity.not_after,
            })
            .collect();
        Ok(Response::new(v1::ListIdentitiesResponse { identities }))
    }
}

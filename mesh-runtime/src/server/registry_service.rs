//! `heddle.mesh.v1.Registry`: who serves what, where.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, stream};
use identity::ServiceName;
use mesh_api::v1;
use mesh_api::v1::registry_server::Registry;
use mesh_api::v1::update::Kind;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::Shared;
use super::peer::{member, registering};
use crate::authority::Mark;
use crate::registry::{Endpoint, Lease, News, Update, Watcher};

/// How many services one watch may name.
const MAX_SERVICES: usize = 1024;
/// How long a member that leaves may have its watchers waited for.
const MAX_WAIT: Duration = Duration::from_secs(10);

pub(super) struct RegistryService {
    shared: Arc<Shared>,
}

impl RegistryService {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

#[tonic::async_trait]
impl Registry for RegistryService {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<v1::WatchResponse, Status>> + Send>>;

    async fn register(&self, request: Request<v1::RegisterRequest>) -> Result<Response<v1::Lease>, Status> {
        let (speaker, serial) = registering(&request)?;
        let endpoint = request
            .into_inner()
            .endpoint
            .ok_or_else(|| Status::invalid_argument("there is no endpoint"))?;
        let endpoint = Endpoint::try_from(endpoint).map_err(|error| Status::invalid_argument(error.to_string()))?;
        if self.shared.policies.current().policies.is_external(&speaker) {
            let refusal = format!(
                "the document of the mesh places `{speaker}` outside of it: take [external.{speaker}] out (mesh-runtime apply), or serve by \
                 another name"
            );
            return Err(Status::failed_precondition(refusal));
        }
        let id = endpoint.id.clone();
        let (registrar, mark) = (&self.shared.registrar, Mark::of_serial(&serial));
        let lease = registrar.register(speaker.clone(), mark, endpoint).await?;
        // Asked afterwards: what was registered before the removal has gone with it, and what comes later is found here.
        if self.shared.authority.is_revoked(&serial) {
            registrar.deregister(speaker, id).await?;
            return Err(Status::unauthenticated(
                "the identity that this was asked with was taken away",
            ));
        }
        Ok(Response::new(lease_of(id, lease)))
    }

    async fn heartbeat(&self, request: Request<v1::HeartbeatRequest>) -> Result<Response<v1::Lease>, Status> {
        let speaker = member(&request)?;
        let id = request.into_inner().endpoint_id;
        let lease = self.shared.registrar.heartbeat(speaker, id.clone()).await?;
        Ok(Response::new(lease_of(id, lease)))
    }

    async fn deregister(&self, request: Request<v1::DeregisterRequest>) -> Result<Response<v1::DeregisterResponse>, Status> {
        let speaker = member(&request)?;
        let v1::DeregisterRequest { endpoint_id, wait_ms } = request.into_inner();
        let registrar = &self.shared.registrar;
        let revision = registrar.deregister(speaker.clone(), endpoint_id).await?;
        let mut answer = v1::DeregisterResponse::default();
        if wait_ms > 0 {
            let limit = Duration::from_millis(wait_ms).min(MAX_WAIT);
            tokio::select! {
                unheard = registrar.heard(&speaker, revision, limit) => {
                    answer.waited = true;
                    answer.unheard = u32::try_from(unheard).unwrap_or(u32::MAX);
                }
                () = self.shared.drain.cancelled() => {}
            }
        }
        Ok(Response::new(answer))
    }

    async fn confirm(&self, request: Request<v1::ConfirmRequest>) -> Result<Response<v1::ConfirmResponse>, Status> {
        let speaker = member(&request)?;
        let v1::ConfirmRequest { watch, revision } = request.into_inner();
        self.shared.registrar.confirm(&speaker, watch, revision);
        Ok(Response::new(v1::ConfirmResponse {}))
    }

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let speaker = member(&request)?;
        let v1::WatchRequest {
            services,
            resume,
            confirms,
        } = request.into_inner();
        if services.len() > MAX_SERVICES {
            return Err(Status::invalid_argument(format!(
                "a watch names at most {MAX_SERVICES} services, or none for all"
            )));
        }
        for service in &services {
            ServiceName::new(service).map_err(|error| Status::invalid_argument(error.to_string()))?;
        }
        let watcher = self.shared.registrar.watch(services, resume);
        let watch = Watch {
            watcher: if confirms { watcher.confirming(speaker) } else { watcher },
            drain: self.shared.drain.clone(),
        };
        Ok(Response::new(Box::pin(stream::unfold(Some(watch), next))))
    }
}

struct Watch {
    watcher: Watcher,
    drain: CancellationToken,
}

/// Asked only when the connection can take more, so that what a slow reader costs is its place in the log.
async fn next(watch: Option<Watch>) -> Option<(Result<v1::WatchResponse, Status>, Option<Watch>)> {
    let mut watch = watch?;
    tokio::select! {
        news = watch.watcher.next() => {
            let confirm = watch.watcher.to_confirm();
            let response = v1::WatchResponse { confirm, ..response_of(news) };
            Some((Ok(response), Some(watch)))
        }
        () = watch.drain.cancelled() => Some((Err(Status::unavailable("the control plane is stopping")), None)),
    }
}

fn lease_of(endpoint_id: String, lease: Lease) -> v1::Lease {
    v1::Lease {
        endpoint_id,
        ttl_ms: u64::try_from(lease.ttl.as_millis()).unwrap_or(u64::MAX),
    }
}

fn response_of(news: News) -> v1::WatchResponse {
    match news {
        News::Snapshot { revision, services } => v1::WatchResponse {
            revision,
            snapshot: true,
            updates: services
                .into_iter()
                .map(|(service, endpoints)| reset_of(service, &endpoints))
                .collect(),
            confirm: 0,
        },
        News::Changes { revision, updates } => v1::WatchResponse {
            revision,
            snapshot: false,
            updates: updates.into_iter().map(update_of).collect(),
            confirm: 0,
        },
    }
}

fn reset_of(service: String, endpoints: &[Arc<Endpoint>]) -> v1::Update {
    let endpoints = endpoints.iter().map(|endpoint| v1::Endpoint::from(&**endpoint)).collect();
    v1::Update {
        kind: Some(Kind::Reset(v1::Reset { service, endpoints })),
    }
}

fn update_of(update: Update) -> v1::Update {
    let kind = match update {
        Update::Add(endpoint) => Kind::Add(v1::Endpoint::from(&*endpoint)),
        Update::Remove { service, id, expired } => Kind::Remove(v1::Remove {
            service,
            endpoint_id: id,
            expired,
        }),
    };
    v1::Update { kind: Some(kind) }
}

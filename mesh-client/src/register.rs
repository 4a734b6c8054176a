//! Telling the control plane that a service is served here, for as long as it is.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use mesh_api::v1;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tonic::{Code, Response, Status};

use crate::backoff::Backoff;
use crate::control::{self, Control};
use crate::discovery::Health;

/// How long the goodbye may take: a control plane that is away notices by the lease.
const GOODBYE: Duration = Duration::from_secs(1);
/// How long a registration may take to be acknowledged.
const REGISTER: Duration = Duration::from_secs(5);
/// How long peers are given to hear that an endpoint is gone where the control plane does not know how to wait for them.
const SETTLE: Duration = Duration::from_millis(250);

/// The registration of one endpoint.
pub(crate) struct Registration {
    pub(crate) control: Arc<Control>,
    pub(crate) endpoint: v1::Endpoint,
    /// What is told of it, at once where it changes.
    pub(crate) health: watch::Receiver<Health>,
}

impl Registration {
    /// Registers and keeps the lease for as long as it is polled. Returns only where the control plane refuses.
    pub(crate) async fn keep(&self) -> Status {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        let mut health = self.health.clone();
        loop {
            let told = *health.borrow_and_update();
            let request = v1::RegisterRequest {
                endpoint: Some(v1::Endpoint {
                    health: v1::Health::from(told).into(),
                    ..self.endpoint.clone()
                }),
            };
            match self.answer(REGISTER, self.control.registry().register(request)).await {
                Ok(lease) => {
                    backoff.after_success();
                    tracing::info!(
                        id = self.endpoint.id,
                        address = self.endpoint.address,
                        health = told.name(),
                        "the endpoint is registered"
                    );
                    tokio::select! {
                        () = self.heartbeat(lease) => {
                            tracing::info!(id = self.endpoint.id, "the lease is gone; the endpoint registers again");
                        }
                        () = changed(&mut health) => {}
                    }
                }
                Err(status) if is_refusal(&status) => return status,
                Err(status) => {
                    tracing::debug!(error = control::describe(&status), "the endpoint could not be registered yet");
                    sleep(backoff.after_failure(rand::random())).await;
                }
            }
        }
    }

    /// Keeps the lease until the control plane does not know it any more.
    async fn heartbeat(&self, mut lease: v1::Lease) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        let mut wait = between(&lease);
        loop {
            sleep(wait).await;
            let request = v1::HeartbeatRequest {
                endpoint_id: self.endpoint.id.clone(),
            };
            // As long as to the next one: a control plane that swallows one is tried at another address within the lease.
            let kept = self.answer(between(&lease), self.control.registry().heartbeat(request)).await;
            wait = match kept {
                Ok(kept) => {
                    backoff.after_success();
                    lease = kept;
                    between(&lease)
                }
                Err(status) if status.code() == Code::NotFound => return,
                Err(status) => {
                    tracing::debug!(error = control::describe(&status), "a heartbeat failed");
                    backoff.after_failure(rand::random()).min(between(&lease))
                }
            };
        }
    }

    /// The answer to a call, if it comes in time.
    async fn answer<T>(&self, limit: Duration, call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Status> {
        match timeout(limit, call).await {
            Ok(answer) => answer.map(Response::into_inner),
            Err(_) => {
                self.control.doubt();
                Err(Status::deadline_exceeded("the control plane did not answer in time"))
            }
        }
    }

    /// Says goodbye, and waits until everybody who may call has heard it, for as long as `settle`.
    pub(crate) async fn end(&self, settle: Duration) {
        // Two questions, so that a control plane that is away is not waited for as if it waited for others.
        if let Err(error) = self.deregister(Duration::ZERO).await {
            tracing::warn!(error, "the endpoint could not be deregistered; its lease will end");
            return;
        }
        tracing::info!(id = self.endpoint.id, "the endpoint is deregistered");
        match self.deregister(settle).await {
            Ok(v1::DeregisterResponse { waited: false, .. }) => sleep(SETTLE.min(settle)).await,
            Ok(v1::DeregisterResponse { unheard: 0, .. }) => tracing::info!("everybody who watches has heard of it"),
            Ok(v1::DeregisterResponse { unheard, .. }) => {
                tracing::warn!(unheard, limit = ?settle, "not everybody who watches has heard of it, and they are waited for no longer");
            }
            Err(error) => tracing::warn!(error, "whether everybody has heard of it is not known"),
        }
    }

    /// The control plane's answer, once everybody has heard or `wait` is over.
    async fn deregister(&self, wait: Duration) -> Result<v1::DeregisterResponse, String> {
        let request = v1::DeregisterRequest {
            endpoint_id: self.endpoint.id.clone(),
            wait_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
        };
        match timeout(wait + GOODBYE, self.control.registry().deregister(request)).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(control::describe(&status)),
            Err(_) => Err("the control plane did not answer".to_owned()),
        }
    }
}

/// Ready when there is something else to tell.
async fn changed(health: &mut watch::Receiver<Health>) {
    if health.changed().await.is_err() {
        std::future::pending().await
    }
}

/// A third of the lease, so that two heartbeats may be lost.
fn between(lease: &v1::Lease) -> Duration {
    Duration::from_millis(lease.ttl_ms / 3).max(Duration::from_millis(50))
}

/// Answers that asking again does not change.
fn is_refusal(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::PermissionDenied | Code::Unauthenticated | Code::InvalidArgument | Code::FailedPrecondition
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heartbeats_come_three_to_a_lease() {
        let lease = |ttl_ms| v1::Lease {
            endpoint_id: String::new(),
            ttl_ms,
        };
        assert_eq!(between(&lease(15_000)), Duration::from_secs(5));
        assert_eq!(
            between(&lease(0)),
            Duration::from_millis(50),
            "a lease of nothing does not make a busy loop"
        );
    }
}

//! Upstreams in the mesh: this gateway is a member of it, in this process.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use gateway::MeshSettings;
use gateway::exchange::{Attempt, Failure};
use http::uri::{Authority, Scheme};
use http::{HeaderValue, Uri};
use mesh_client::client::{Affinity, Client, ClientOptions};
use mesh_client::{Config, Deadline, Mesh};
use routing::policy::{Breaker, Permit};
use routing::upstream::Upstream;

use super::{Answered, Head, UpstreamBody, request};
use crate::inbound::Inbound;

/// Joins the mesh under the gateway's own name. Where the config names no control plane, the environment does.
///
/// # Errors
///
/// Where the mesh lets this gateway not in; the message says how to mend it.
pub(crate) async fn join(settings: &MeshSettings, name: &str) -> anyhow::Result<Mesh> {
    let variable = |variable: &str| match variable {
        "MESH_SERVICE" => Some(name.to_owned()),
        "MESH_CONTROL" => settings.control.clone().or_else(|| std::env::var(variable).ok()),
        _ => std::env::var(variable).ok(),
    };
    let config = Config::from_variables(&variable)?;
    Mesh::join(config).await.context("cannot join the mesh")
}

/// A service of the mesh, as all cores know it.
#[derive(Debug, Clone)]
pub(super) struct Service {
    /// `SERVICE.mesh`.
    authority: Authority,
    options: ClientOptions,
    breaker: Arc<Breaker>,
}

impl Service {
    /// The service of an upstream. Retries are the exchange's to decide, so the mesh's own are off.
    pub(super) fn new(name: &str, upstream: &Upstream) -> Option<Self> {
        Some(Self {
            authority: format!("{name}.mesh").parse().ok()?,
            options: ClientOptions::default()
                .without_retries()
                .balance(upstream.connection.balancing.balance),
            breaker: Breaker::new(upstream.connection.breaker),
        })
    }

    /// The service with connections of this core's own.
    pub(super) fn connected(&self, mesh: &Mesh) -> Connected {
        let host = HeaderValue::from_str(self.authority.as_str()).unwrap_or(HeaderValue::from_static("mesh"));
        Connected {
            authority: self.authority.clone(),
            host,
            client: mesh.client_with(self.options.clone()),
            breaker: Arc::clone(&self.breaker),
        }
    }
}

/// A service of the mesh, as one core reaches it. Clones share its connections.
#[derive(Debug, Clone)]
pub(super) struct Connected {
    authority: Authority,
    host: HeaderValue,
    client: Client,
    breaker: Arc<Breaker>,
}

impl Connected {
    /// Whether it is a way to this very service: what the config says of a service makes its breaker, and nothing else does.
    pub(super) fn is_of(&self, service: &Service) -> bool {
        Arc::ptr_eq(&self.breaker, &service.breaker)
    }

    /// Sends an attempt's request and waits for the head of its answer.
    pub(super) async fn send(&self, attempt: &Attempt, inbound: &Inbound, deadline: Instant) -> Result<Answered, Failure> {
        let permit: Permit = self.breaker.admit().map_err(|_| Failure::Overloaded)?;
        let mut request = request::build(attempt, inbound, &self.host).ok_or(Failure::Protocol)?;
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        parts.scheme = Some(Scheme::HTTP);
        parts.authority = Some(self.authority.clone());
        *request.uri_mut() = Uri::from_parts(parts).map_err(|_| Failure::Protocol)?;
        request.extensions_mut().insert(Deadline::from(deadline));
        if let Some(affinity) = attempt.affinity {
            request.extensions_mut().insert(Affinity(affinity));
        }
        let response = self.client.request(request).await.map_err(|error| {
            tracing::debug!(service = %self.authority, %error, "attempt failed");
            failure(error.failure())
        })?;
        let (head, body) = response.into_parts();
        let endpoint = head.extensions.get::<mesh_client::discovery::Endpoint>();
        let endpoint: Arc<str> = endpoint.map_or_else(|| self.authority.as_str().into(), |endpoint| endpoint.address().into());
        Ok(Answered {
            head: Head::Parsed(Box::new(head)),
            body: UpstreamBody::mesh(body, permit),
            endpoint,
        })
    }
}

fn failure(failure: mesh_client::client::Failure) -> Failure {
    use mesh_client::client::Failure as Mesh;
    match failure {
        Mesh::NoEndpoint | Mesh::NoBackend | Mesh::Url => Failure::NoEndpoint,
        Mesh::Connect => Failure::Connect,
        Mesh::Identity => Failure::Identity,
        Mesh::Timeout => Failure::Timeout,
        Mesh::Overloaded | Mesh::Full => Failure::Overloaded,
        Mesh::Protocol => Failure::Protocol,
        _ => Failure::Reset,
    }
}

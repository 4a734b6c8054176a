//! A control plane in memory, which says what a test wants it to say, over real TLS.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use futures_util::{Stream, stream};
use mesh_api::v1::identity_server::{Identity, IdentityServer};
use mesh_api::v1::operator_server::{Operator, OperatorServer};
use mesh_api::v1::policies_server::{Policies, PoliciesServer};
use mesh_api::v1::registry_server::{Registry, RegistryServer};
use mesh_api::v1::{self, update::Kind};
use mesh_api::{JoinToken, Pin as RootPin};
use mesh_client::server::Server;
use mesh_client::tls::{Bundle, Credentials, Peers, ServerTls};
use mesh_client::{Config, Credential, Mesh, PeerIdentity, drain};
use rcgen::CertificateSigningRequestParams;
use time::{Duration, OffsetDateTime};
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use super::authority::{Authority, Leaf};

pub struct State {
    pub authority: Authority,
    trust: watch::Sender<Trust>,
    /// How long SVIDs live, in seconds.
    pub life: AtomicU64,
    pub lease_ms: AtomicU64,
    pub deaf: AtomicBool,
    tokens: Mutex<BTreeMap<String, String>>,
    endpoints: watch::Sender<BTreeMap<String, v1::Endpoint>>,
    /// None: the control plane does not say.
    policies: watch::Sender<Option<v1::PolicyDocument>>,
    pub registrations: AtomicU64,
    pub renewals: AtomicU64,
    pub heartbeats: AtomicU64,
    pub watches: AtomicU64,
}

/// Whom members are told to believe.
#[derive(Clone)]
struct Trust {
    roots: Vec<Vec<u8>>,
    revoked: Vec<Vec<u8>>,
}

/// A running control plane; stops when dropped.
pub struct ControlPlane {
    pub state: Arc<State>,
    pub address: SocketAddr,
    stop: drain::Signal,
}

impl ControlPlane {
    pub async fn start() -> Self {
        let authority = Authority::new("bank.example");
        let trust = Trust {
            roots: vec![authority.root.to_vec()],
            revoked: Vec::new(),
        };
        let state = State {
            authority,
            trust: watch::Sender::new(trust),
            life: 3600.into(),
            lease_ms: 3000.into(),
            deaf: false.into(),
            tokens: Mutex::default(),
            endpoints: watch::Sender::default(),
            policies: watch::Sender::new(Some(v1::PolicyDocument::default())),
            registrations: 0.into(),
            renewals: 0.into(),
            heartbeats: 0.into(),
            watches: 0.into(),
        };
        Self::run(Arc::new(state), "127.0.0.1:0".parse().unwrap()).await
    }

    async fn run(state: Arc<State>, address: SocketAddr) -> Self {
        let authority = &state.authority;
        let mut issued = authority.issue(&Leaf::of(&format!("spiffe://{}/control-plane", authority.domain)));
        issued.chain.push(authority.root.clone());
        let (rotation, credentials) = Credentials::new(issued.svid(), authority.bundle());
        let members = identity::Matcher::TrustDomain(authority.domain.clone());
        let server = Server::bind(address, ServerTls::new(credentials, Peers::Optional(members)))
            .await
            .unwrap();
        let address = server.local_addr().unwrap();
        let service = || Service(Arc::clone(&state));
        let routes = tonic::service::Routes::new(IdentityServer::new(service()))
            .add_service(RegistryServer::new(service()))
            .add_service(PoliciesServer::new(service()))
            .add_service(OperatorServer::new(service()));
        let (stop, stopping) = drain::channel();
        let limits = {
            let mut limits = mesh_client::server::Limits::default();
            limits.drain = std::time::Duration::from_millis(100);
            limits
        };
        tokio::spawn(async move {
            server.limits(limits).serve(routes, stopping).await;
            drop(rotation);
        });
        Self { state, address, stop }
    }

    /// Stops it and waits until its port is free.
    pub async fn stop(self) -> Stopped {
        self.stop.start();
        self.stop.finished().await;
        Stopped {
            state: self.state,
            address: self.address,
        }
    }

    pub fn token(&self, service: &str) -> JoinToken {
        self.state.token(service)
    }

    pub fn config(&self, service: &str) -> Config {
        Config::new([self.address.to_string().as_str()], Credential::Token(self.token(service))).unwrap()
    }

    pub async fn join(&self, service: &str) -> Mesh {
        Mesh::join(self.config(service)).await.unwrap()
    }

    pub fn served(&self, service: &str) -> usize {
        self.state
            .endpoints
            .borrow()
            .values()
            .filter(|endpoint| endpoint.service == service)
            .count()
    }

    /// Puts a policy document in force; none is that the control plane does not say which.
    pub fn apply(&self, text: Option<&str>) {
        let revision = self.state.policies.borrow().as_ref().map_or(0, |last| last.revision);
        let document = text.map(|text| v1::PolicyDocument {
            revision: revision + 1,
            name: "mesh.toml".to_owned(),
            text: text.to_owned(),
        });
        self.state.policies.send_replace(document);
    }

    /// Believes the SVID of `mesh` no more.
    pub fn revoke(&self, mesh: &Mesh) {
        let held = mesh.credentials().held();
        let (_, leaf) = x509_parser::parse_x509_certificate(&held.svid.chain()[0]).unwrap();
        let serial = leaf.serial.to_bytes_be();
        self.state.trust.send_modify(|trust| trust.revoked.push(serial));
    }

    /// Says that `service` is served at `address`, whoever that is.
    pub fn pretend(&self, service: &str, address: SocketAddr) {
        self.pretend_speaking(service, address, "h2");
    }

    /// The same of a service that speaks a protocol of its own.
    pub fn pretend_opaque(&self, service: &str, address: SocketAddr) {
        self.pretend_speaking(service, address, "tcp");
    }

    /// Says that the endpoint at this address does not serve.
    pub fn sicken(&self, address: SocketAddr) {
        self.state.endpoints.send_modify(|endpoints| {
            for endpoint in endpoints.values_mut().filter(|one| one.address == address.to_string()) {
                endpoint.set_health(v1::Health::NotServing);
            }
        });
    }

    fn pretend_speaking(&self, service: &str, address: SocketAddr, protocol: &str) {
        let id = format!("{service}-{address}-{protocol}");
        let endpoint = v1::Endpoint {
            id: id.clone(),
            service: service.into(),
            address: address.to_string(),
            protocol: protocol.into(),
            weight: 1,
            ..Default::default()
        };
        self.state
            .endpoints
            .send_modify(|endpoints| drop(endpoints.insert(id, endpoint)));
    }
}

pub struct Stopped {
    state: Arc<State>,
    address: SocketAddr,
}

impl Stopped {
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts it at the same address; `remembering` what was registered, or with an empty registry.
    pub async fn start(self, remembering: bool) -> ControlPlane {
        if !remembering {
            self.state.endpoints.send_modify(BTreeMap::clear);
        }
        ControlPlane::run(self.state, self.address).await
    }
}

impl State {
    pub fn pin(&self) -> RootPin {
        Bundle::pin(&self.authority.root).unwrap()
    }

    pub fn token(&self, service: &str) -> JoinToken {
        let secret: [u8; 32] = rand::random();
        let token = JoinToken::new(secret.into(), self.pin()).unwrap();
        self.tokens().insert(token.secret(), service.to_owned());
        token
    }

    fn tokens(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.tokens.lock().unwrap()
    }

    fn bundle(&self) -> v1::Bundle {
        v1::Bundle {
            trust_domain: self.authority.domain.to_string(),
            roots: self.trust.borrow().roots.clone(),
            revoked: self.trust.borrow().revoked.clone(),
        }
    }

    fn issue(&self, id: &str, csr: Vec<u8>) -> v1::Svid {
        let request = CertificateSigningRequestParams::from_der(&csr.into()).unwrap();
        let mut leaf = Leaf::of(id);
        // Begins alike in all that a service is given, as if each had one entry.
        let mut mark = DefaultHasher::new();
        id.hash(&mut mark);
        let mark = mark.finish() >> 2 | 1 << 62;
        leaf.serial = Some([&mark.to_be_bytes()[..], &rand::random::<[u8; 8]>()].concat());
        leaf.not_before = OffsetDateTime::now_utc();
        leaf.not_after = leaf.not_before + Duration::seconds(self.life.load(Ordering::Relaxed) as i64);
        let certificate = self.authority.sign(&leaf, &request.public_key);
        let (not_before, not_after) = (
            leaf.not_before.unix_timestamp() as u64,
            leaf.not_after.unix_timestamp() as u64,
        );
        v1::Svid {
            spiffe_id: id.to_owned(),
            chain: vec![certificate.to_vec()],
            bundle: Some(self.bundle()),
            not_before,
            not_after,
        }
    }
}

struct Service(Arc<State>);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn peer<T>(request: &Request<T>) -> Result<PeerIdentity, Status> {
    request
        .extensions()
        .get()
        .cloned()
        .ok_or_else(|| Status::unauthenticated("no certificate"))
}

#[tonic::async_trait]
impl Identity for Service {
    async fn join(&self, request: Request<v1::JoinRequest>) -> Result<Response<v1::Svid>, Status> {
        let request = request.into_inner();
        let service = self
            .0
            .tokens()
            .remove(&request.secret)
            .ok_or_else(|| Status::unauthenticated("the token was used or never given"))?;
        Ok(Response::new(
            self.0.issue(self.0.authority.id(&service).as_str(), request.csr),
        ))
    }

    async fn attest(&self, _: Request<v1::AttestRequest>) -> Result<Response<v1::Svid>, Status> {
        Err(Status::failed_precondition("there is no local socket"))
    }

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::Svid>, Status> {
        let id = peer(&request)?.id().clone();
        self.0.renewals.fetch_add(1, Ordering::Relaxed);
        Ok(Response::new(self.0.issue(id.as_str(), request.into_inner().csr)))
    }

    type WatchBundleStream = Answers<v1::Bundle>;

    async fn watch_bundle(
        &self,
        request: Request<v1::WatchBundleRequest>,
    ) -> Result<Response<Self::WatchBundleStream>, Status> {
        peer(&request)?;
        let mut trust = self.0.trust.subscribe();
        trust.mark_changed();
        let bundles = stream::unfold((trust, Arc::clone(&self.0)), |(mut trust, state)| async move {
            trust.changed().await.ok()?;
            trust.mark_unchanged();
            Some((Ok(state.bundle()), (trust, state)))
        });
        Ok(Response::new(Box::pin(bundles)))
    }
}

#[tonic::async_trait]
impl Registry for Service {
    async fn register(&self, request: Request<v1::RegisterRequest>) -> Result<Response<v1::Lease>, Status> {
        let id = peer(&request)?.id().clone();
        let endpoint = request
            .into_inner()
            .endpoint
            .ok_or_else(|| Status::invalid_argument("no endpoint"))?;
        if id.service().is_none_or(|service| service.as_str() != endpoint.service) {
            return Err(Status::permission_denied(format!("{id} is not service {}", endpoint.service)));
        }
        self.0.registrations.fetch_add(1, Ordering::Relaxed);
        let endpoint_id = endpoint.id.clone();
        self.0
            .endpoints
            .send_modify(|endpoints| drop(endpoints.insert(endpoint.id.clone(), endpoint)));
        Ok(Response::new(v1::Lease {
            endpoint_id,
            ttl_ms: self.0.lease_ms.load(Ordering::Relaxed),
        }))
    }

    async fn heartbeat(&self, request: Request<v1::HeartbeatRequest>) -> Result<Response<v1::Lease>, Status> {
        peer(&request)?;
        self.0.heartbeats.fetch_add(1, Ordering::Relaxed);
        let endpoint_id = request.into_inner().endpoint_id;
        if !self.0.endpoints.borrow().contains_key(&endpoint_id) {
            return Err(Status::not_found("no such lease"));
        }
        Ok(Response::new(v1::Lease {
            endpoint_id,
            ttl_ms: self.0.lease_ms.load(Ordering::Relaxed),
        }))
    }

    async fn deregister(&self, request: Request<v1::DeregisterRequest>) -> Result<Response<v1::DeregisterResponse>, Status> {
        peer(&request)?;
        self.0
            .endpoints
            .send_modify(|endpoints| drop(endpoints.remove(&request.get_ref().endpoint_id)));
        // As a control plane does that does not wait for watchers.
        Ok(Response::new(v1::DeregisterResponse::default()))
    }

    async fn confirm(&self, request: Request<v1::ConfirmRequest>) -> Result<Response<v1::ConfirmResponse>, Status> {
        peer(&request)?;
        Ok(Response::new(v1::ConfirmResponse {}))
    }

    type WatchStream = Answers<v1::WatchResponse>;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        peer(&request)?;
        self.0.watches.fetch_add(1, Ordering::Relaxed);
        if self.0.deaf.load(Ordering::Relaxed) {
            return Err(Status::unavailable("not listening"));
        }
        let services = request.into_inner().services;
        let mut endpoints = self.0.endpoints.subscribe();
        endpoints.mark_changed();
        let answers = stream::unfold((endpoints, 1), move |(mut endpoints, revision)| {
            let services = services.clone();
            async move {
                endpoints.changed().await.ok()?;
                let known: Vec<_> = endpoints.borrow_and_update().values().cloned().collect();
                let updates = services.into_iter().map(|service| {
                    let endpoints = known.iter().filter(|endpoint| endpoint.service == service).cloned().collect();
                    v1::Update {
                        kind: Some(Kind::Reset(v1::Reset { service, endpoints })),
                    }
                });
                let response = v1::WatchResponse {
                    revision,
                    updates: updates.collect(),
                    snapshot: true,
                    confirm: 0,
                };
                Some((Ok(response), (endpoints, revision + 1)))
            }
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

#[tonic::async_trait]
impl Policies for Service {
    type WatchStream = Answers<v1::PolicyDocument>;

    async fn watch(&self, request: Request<v1::WatchPoliciesRequest>) -> Result<Response<Self::WatchStream>, Status> {
        peer(&request)?;
        let mut policies = self.0.policies.subscribe();
        policies.mark_changed();
        let documents = stream::unfold(policies, |mut policies| async move {
            loop {
                policies.changed().await.ok()?;
                let document = policies.borrow_and_update().clone();
                if let Some(document) = document {
                    return Some((Ok(document), policies));
                }
            }
        });
        Ok(Response::new(Box::pin(documents)))
    }
}

#[tonic::async_trait]
impl Operator for Service {
    async fn apply(&self, _: Request<v1::ApplyRequest>) -> Result<Response<v1::ApplyResponse>, Status> {
        Err(Status::unimplemented("tests apply by hand"))
    }

    async fn show_policies(&self, _: Request<v1::ShowPoliciesRequest>) -> Result<Response<v1::PolicyDocument>, Status> {
        Err(Status::unimplemented("tests know what they applied"))
    }

    async fn create_entry(&self, _: Request<v1::CreateEntryRequest>) -> Result<Response<v1::Entry>, Status> {
        Err(Status::unimplemented("tests hand out tokens"))
    }

    async fn list_entries(&self, _: Request<v1::ListEntriesRequest>) -> Result<Response<v1::ListEntriesResponse>, Status> {
        Err(Status::unimplemented("tests hand out tokens"))
    }

    async fn remove_entry(&self, _: Request<v1::RemoveEntryRequest>) -> Result<Response<v1::RemoveEntryResponse>, Status> {
        Err(Status::unimplemented("tests revoke by hand"))
    }

    async fn rotate_authority(&self, _: Request<v1::RotateAuthorityRequest>) -> Result<Response<v1::AuthorityStatus>, Status> {
        Err(Status::unimplemented("tests have one authority"))
    }

    async fn retire_authority(&self, _: Request<v1::RetireAuthorityRequest>) -> Result<Response<v1::AuthorityStatus>, Status> {
        Err(Status::unimplemented("tests have one authority"))
    }

    async fn show_authority(&self, _: Request<v1::ShowAuthorityRequest>) -> Result<Response<v1::AuthorityStatus>, Status> {
        Err(Status::unimplemented("tests have one authority"))
    }

    async fn check_policy(&self, _: Request<v1::CheckPolicyRequest>) -> Result<Response<v1::CheckPolicyResponse>, Status> {
        Err(Status::unimplemented("tests ask the members"))
    }

    async fn create_token(&self, request: Request<v1::CreateTokenRequest>) -> Result<Response<v1::Token>, Status> {
        let bearer = request
            .metadata()
            .get("authorization")
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let secret = bearer.strip_prefix("Bearer ").unwrap_or_default();
        if self.0.tokens().get(secret).is_none_or(|role| role != "operator") {
            return Err(Status::unauthenticated("not the operator"));
        }
        let token = self.0.token(&request.get_ref().service).to_string();
        Ok(Response::new(v1::Token { token, expires_at: 0 }))
    }

    type BackupStream = Answers<v1::BackupPart>;

    async fn backup(&self, _: Request<v1::BackupRequest>) -> Result<Response<Self::BackupStream>, Status> {
        Err(Status::unimplemented("there is nothing to keep"))
    }

    async fn list_endpoints(
        &self,
        _: Request<v1::ListEndpointsRequest>,
    ) -> Result<Response<v1::ListEndpointsResponse>, Status> {
        Ok(Response::new(v1::ListEndpointsResponse::default()))
    }

    async fn list_identities(
        &self,
        _: Request<v1::ListIdentitiesRequest>,
    ) -> Result<Response<v1::ListIdentitiesResponse>, Status> {
        Ok(Response::new(v1::ListIdentitiesResponse::default()))
    }
}

//! A running control plane: the store, the authority and the registry behind one TLS port, and the admin endpoint.
//!
//! Started in the order in which things can be missing: addresses first (so that a second control plane fails before it
//! touches anything), then the data directory and its lock, then what it holds.

mod accept;
mod admin;
mod identity_service;
mod local;
mod operator_service;
mod peer;
mod policy_service;
mod registry_service;
mod renewal;

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use identity::{Matcher, ServiceName, TrustDomain};
use mesh_api::JoinToken;
use mesh_api::v1::identity_server::IdentityServer;
use mesh_api::v1::operator_server::OperatorServer;
use mesh_api::v1::policies_server::PoliciesServer;
use mesh_api::v1::registry_server::RegistryServer;
use mesh_client::tls::{Peers, ServerTls, TlsError};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::Request;
use tonic::service::interceptor::InterceptedService;

use crate::authority::{Authority, AuthorityError, CaError, LENIENCE, SecretHash, new_token};
use crate::config::{Config, ConfigError};
use crate::metrics::Metrics;
use crate::now_unix;
use crate::operator::{CredentialFiles, OperatorCredential, make_private_dir};
use crate::policies::{self, Applied, PolicyError};
use crate::registry::{Limits, Registrar};
use crate::store::{Embedded, Records, Store, StoreError};

use identity_service::IdentityService;
use local::Socket;
use operator_service::OperatorService;
use peer::check_operator;
use policy_service::PolicyService;
use registry_service::RegistryService;

/// How many updates a watcher that comes back can be told.
const HISTORY: usize = 8192;
/// How many endpoints there may be: what keeps a member that registers without end from filling the memory.
const ENDPOINTS: usize = 100_000;
/// The longest message that members send; a certificate signing request is the longest of them.
const MAX_MESSAGE: usize = 64 * 1024;
/// Requests at once on one connection.
const MAX_STREAMS: u32 = 256;
const MAX_HEADERS: u32 = 16 * 1024;
/// How often a silent connection is asked whether it still lives, and how long it may think about it.
const KEEPALIVE: Duration = Duration::from_secs(20);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long tasks that were told to end may take to let go of the store.
const CLOSE: Duration = Duration::from_secs(1);

/// What every service of the control plane shares.
struct Shared {
    records: Records,
    authority: Arc<Authority>,
    registrar: Registrar,
    policies: Applied,
    metrics: Arc<Metrics>,
    operator: SecretHash,
    /// Cancelled when no new work is taken.
    drain: CancellationToken,
}

/// A control plane that runs in this process until it is [shut down](Self::shutdown) or dropped.
pub struct Running {
    control: SocketAddr,
    admin: SocketAddr,
    authority: Arc<Authority>,
    operator: Arc<OperatorCredential>,
    drain: CancellationToken,
    drain_deadline: Duration,
    serving: JoinHandle<Result<(), tonic::transport::Error>>,
    background: Background,
    store: Weak<Embedded>,
    socket: PathBuf,
    /// It lives as long as the control plane.
    _lock: File,
}

/// Tasks that end with the control plane.
struct Background(Vec<tokio::task::AbortHandle>);

impl Background {
    fn abort(&self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

impl Running {
    /// Where members reach it.
    #[must_use]
    pub fn control(&self) -> SocketAddr {
        self.control
    }

    /// Where the admin endpoint is.
    #[must_use]
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// The socket at which processes of this machine join by what the kernel says about them.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Whose identities it issues.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        self.authority.trust_domain()
    }

    /// The operator's credential of this start, with the pin of the root that signs.
    #[must_use]
    pub fn operator(&self) -> JoinToken {
        self.operator.token()
    }

    /// A token that lets one member in as `service`, once, within `ttl` (1 second to 24 hours).
    ///
    /// # Errors
    /// [`AuthorityError`] where the time is out of its range or the store fails.
    pub async fn create_token(&self, service: &ServiceName, ttl: Duration) -> Result<JoinToken, AuthorityError> {
        let (token, _) = self.authority.create_token(service, ttl, now_unix()).await?;
        Ok(token)
    }

    /// Waits until it stops by itself, which it does only where something broke.
    ///
    /// # Errors
    /// [`ServeError::Serving`] with what broke.
    pub async fn failed(&mut self) -> Result<(), ServeError> {
        ended((&mut self.serving).await)
    }

    /// Takes no new work, finishes what it has within the drain deadline, and stops.
    ///
    /// # Errors
    /// [`ServeError::Serving`] where something broke on the way.
    pub async fn shutdown(mut self) -> Result<(), ServeError> {
        self.drain.cancel();
        match tokio::time::timeout(self.drain_deadline, &mut self.serving).await {
            Ok(result) => ended(result),
            Err(_) => {
                tracing::warn!(deadline = ?self.drain_deadline, "the drain deadline has passed; closing what is left");
                Ok(())
            }
        }?;
        self.closed().await;
        Ok(())
    }

    /// Waits until the last task has let go of the store, so that the data directory can be opened again.
    async fn closed(self) {
        let store = self.store.clone();
        drop(self);
        let gone = async {
            while store.strong_count() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if tokio::time::timeout(CLOSE, gone).await.is_err() {
            tracing::warn!("a connection still holds the store");
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.drain.cancel();
        self.serving.abort();
        self.background.abort();
    }
}

fn ended(result: Result<Result<(), tonic::transport::Error>, tokio::task::JoinError>) -> Result<(), ServeError> {
    match result {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(ServeError::Serving(error.into())),
        Err(error) => Err(ServeError::Serving(error.into())),
    }
}

/// Starts a control plane in this process. It serves when this returns.
///
/// # Errors
/// [`ServeError`] where a setting, an address or the data directory is not usable.
pub async fn serve(config: Config) -> Result<Running, ServeError> {
    config.check()?;
    let control_listener = bind(config.listen, "--listen").await?;
    let admin_listener = bind(config.admin, "--admin").await?;
    let local = |listener: &TcpListener| listener.local_addr().map_err(|source| ServeError::Listener { source });
    let (control, admin) = (local(&control_listener)?, local(&admin_listener)?);
    let lock = open_data_dir(&config.data_dir)?;
    let path = config.socket_path();
    let socket = match Socket::bind(&path) {
        Ok(socket) => Some(socket),
        // A place that nobody chose is no reason not to serve: a socket's path has at most 107 bytes.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput && config.socket.is_none() => {
            tracing::warn!(path = %path.display(), %error, "there is no local socket to join at; choose a place with --socket");
            None
        }
        Err(source) => return Err(ServeError::Socket { path, source }),
    };

    let metrics = Metrics::new();
    let store = Arc::new(Embedded::open(&config.data_dir.join(Embedded::FILE))?);
    let records = Records::new(Arc::clone(&store) as Arc<dyn Store>);
    let wish = config.trust_domain.clone();
    let authority = Arc::new(Authority::open(records.clone(), wish, config.svid_ttl, now_unix()).await?);
    let limits = Limits {
        lease: config.lease_ttl,
        grace: config.lease_grace,
        history: HISTORY,
        endpoints: ENDPOINTS,
    };
    let policies = Applied::open(records.clone(), authority.trust_domain().clone()).await?;
    let registrar = Registrar::start(records.clone(), limits, Arc::clone(&metrics)).await?;
    // An end between the removal of an entry and that of what its members served leaves the latter to the next start.
    let revoked = authority.trust().borrow().marks().collect();
    if let Err(error) = registrar.evict(revoked).await {
        tracing::error!(%error, "what members without an identity serve is taken out when their leases end");
    }
    let (operator, operator_hash) = new_token(authority.pin())?;
    let files = CredentialFiles::write(&operator.to_string(), &config.data_dir, config.state_home.as_deref(), control)
        .map_err(|source| ServeError::Credential { source })?;
    let operator = Arc::new(OperatorCredential::new(operator, files));

    let drain = CancellationToken::new();
    let (rotation, credentials) = renewal::first_credentials(&authority).await?;
    let upkeep = renewal::Upkeep {
        authority: Arc::clone(&authority),
        rotation,
        credentials: credentials.clone(),
        operator: Arc::clone(&operator),
        metrics: Arc::clone(&metrics),
    };
    let renewal = tokio::spawn(upkeep.run());
    let everyone = Matcher::TrustDomain(authority.trust_domain().clone());
    let tls = ServerTls::new(credentials, Peers::Optional(everyone)).lenient(LENIENCE);
    let shared = Arc::new(Shared {
        records,
        authority: Arc::clone(&authority),
        registrar,
        policies,
        metrics: Arc::clone(&metrics),
        operator: operator_hash,
        drain: drain.clone(),
    });
    let attesting = socket.map(|socket| tokio::spawn(serve_local(socket, Arc::clone(&shared))));
    let serving = tokio::spawn(serve_control(control_listener, tls, shared));
    let page = admin::Page::new(&config, Arc::clone(&authority), control, admin, metrics, drain.clone());
    let admin_task = tokio::spawn(admin::serve(admin_listener, page));
    if !admin.ip().is_loopback() {
        tracing::warn!(%admin, "the admin endpoint can be reached from other machines, and asks nobody who they are");
    }
    tracing::info!(%control, %admin, socket = %path.display(), trust_domain = %authority.trust_domain(), "the control plane serves");
    Ok(Running {
        control,
        admin,
        authority,
        operator,
        drain,
        drain_deadline: config.drain,
        serving,
        store: Arc::downgrade(&store),
        background: Background(
            [renewal, admin_task]
                .into_iter()
                .chain(attesting)
                .map(|task| task.abort_handle())
                .collect(),
        ),
        socket: path,
        _lock: lock,
    })
}

async fn serve_control(listener: TcpListener, tls: ServerTls, shared: Arc<Shared>) -> Result<(), tonic::transport::Error> {
    let drain = shared.drain.clone();
    let incoming = accept::connections(
        listener,
        tls,
        Arc::clone(&shared.authority),
        Arc::clone(&shared.metrics),
        drain.clone(),
    );
    let identity = IdentityServer::new(IdentityService::new(Arc::clone(&shared)));
    let registry = RegistryServer::new(RegistryService::new(Arc::clone(&shared)));
    let policy = PoliciesServer::new(PolicyService::new(Arc::clone(&shared)));
    let credential = Arc::clone(&shared);
    let operator = OperatorServer::new(OperatorService::new(shared)).max_decoding_message_size(policies::MAX_MESSAGE);
    // Before the message is read: documents are long, and strangers may not make us hold them.
    let operator = InterceptedService::new(operator, move |request: Request<()>| {
        check_operator(&request, &credential.operator)?;
        Ok(request)
    });
    tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .http2_max_header_list_size(MAX_HEADERS)
        .max_concurrent_streams(MAX_STREAMS)
        .add_service(identity.max_decoding_message_size(MAX_MESSAGE))
        .add_service(registry.max_decoding_message_size(MAX_MESSAGE))
        .add_service(policy.max_decoding_message_size(MAX_MESSAGE))
        .add_service(operator)
        .serve_with_incoming_shutdown(incoming, drain.cancelled_owned())
        .await
}

/// Whoever comes here has no SVID: joining is all that it can do.
async fn serve_local(socket: Socket, shared: Arc<Shared>) {
    let drain = shared.drain.clone();
    let incoming = socket.connections(drain.clone());
    let identity = IdentityServer::new(IdentityService::new(shared));
    let served = tonic::transport::Server::builder()
        .http2_max_header_list_size(MAX_HEADERS)
        .max_concurrent_streams(MAX_STREAMS)
        .add_service(identity.max_decoding_message_size(MAX_MESSAGE))
        .serve_with_incoming_shutdown(incoming, drain.cancelled_owned())
        .await;
    if let Err(error) = served {
        tracing::error!(%error, "the local socket is served no more");
    }
}

async fn bind(address: SocketAddr, flag: &'static str) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).await.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => ServeError::InUse { address, flag },
        _ => ServeError::Bind { address, flag, source },
    })
}

/// Makes the data directory where it does not exist, and locks it against a second control plane.
pub(crate) fn open_data_dir(path: &Path) -> Result<File, ServeError> {
    let error = |source| ServeError::DataDir {
        path: path.to_owned(),
        source,
    };
    make_private_dir(path).map_err(error)?;
    let lock = path.join("lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(lock)
        .map_err(error)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(ServeError::Locked { path: path.to_owned() }),
        Err(TryLockError::Error(source)) => Err(error(source)),
    }
}

/// Why a control plane does not start, or stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// A setting is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Another program has the address.
    #[error("cannot listen on {address}: port {} is in use; stop the program that has it, or choose another with {flag} (:0 takes a free one)", address.port())]
    InUse {
        /// The address.
        address: SocketAddr,
        /// The flag that sets it.
        flag: &'static str,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}; choose another with {flag}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The flag that sets it.
        flag: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// A listener has no address.
    #[error("the address that was bound cannot be read: {source}")]
    Listener {
        /// What the system says.
        source: io::Error,
    },
    /// The data directory cannot be used.
    #[error("cannot use the data directory {path}: {source}; choose another with --data-dir")]
    DataDir {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The local socket cannot be bound.
    #[error("cannot listen on the socket {path}: {source}; choose another place with --socket")]
    Socket {
        /// The socket.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Another control plane has the data directory.
    #[error("the data directory {path} is in use by another control plane; stop it, or choose another with --data-dir")]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// The operator's credential cannot be written.
    #[error("cannot write the operator's credential: {source}")]
    Credential {
        /// What the system says.
        source: io::Error,
    },
    /// The authority cannot start.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// A certificate cannot be made.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// The stored policies cannot be put in force.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The control plane's own certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Serving broke.
    #[error("the control plane stopped: {0}")]
    Serving(#[source] Box<dyn std::error::Error + Send + Sync>),
}

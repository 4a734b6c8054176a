//! Channels to the control plane: gRPC over TLS 1.3, over a list of addresses of which the first that answers serves.
//!
//! A channel connects when it is first used and again whenever its connection is gone, each time with the credentials of
//! that moment. It makes no decision about waiting: who calls waits by a backoff of its own.

use std::error::Error as _;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use identity::{Matcher, SpiffeId};
use mesh_api::v1::identity_client::IdentityClient;
use mesh_api::v1::operator_client::OperatorClient;
use mesh_api::v1::policies_client::PoliciesClient;
use mesh_api::v1::registry_client::RegistryClient;
use mesh_api::{CONTROL_PLANE_PATH, JoinToken, Pin};
use rustls::ClientConfig;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use crate::BoxError;
use crate::policy;
use crate::tls::{self, ClientTls, Credentials, TlsError};

/// How long one address may take to connect and to shake hands.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A control plane that is gone without a word is noticed after both of these.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));

/// A channel to the control plane at one of `addresses` (`HOST:PORT`) for somebody who has nothing but a pin: it is believed
/// where its chain ends in the root that `pin` names and its ID is that of a control plane.
///
/// # Errors
/// [`TlsError`] where there can be no TLS configuration.
pub fn pinned_channel(addresses: &[String], pin: Pin) -> Result<Channel, TlsError> {
    Ok(channel(addresses, Arc::default(), Trust::Pinned(tls::first_trust(pin)?)))
}

/// A channel to the control plane's socket on this machine. There is no TLS on it: the folder of the socket says who may listen
/// there, and the kernel tells the control plane who connects.
pub(crate) fn local_channel(socket: &Path) -> Channel {
    let socket = socket.to_owned();
    let connect = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move {
            let connected = timeout(CONNECT_TIMEOUT, UnixStream::connect(&socket)).await;
            connected
                .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
                .map(TokioIo::new)
                .map_err(|error| format_address(&socket.display().to_string(), TlsError::Connect(error)))
        }
    });
    Endpoint::from_static("http://control-plane.mesh").connect_with_connector_lazy(connect)
}

/// The control plane as a member calls it: mutual TLS with the SVID of the moment.
pub(crate) struct Control {
    addresses: Vec<String>,
    credentials: Credentials,
    tls: Arc<ClientTls>,
    /// The address that is tried first.
    first: Arc<AtomicUsize>,
    /// A connection proves the identity that it was made with, so each generation of the credentials gets its own.
    current: Mutex<Option<(u64, Channel)>>,
}

impl Control {
    pub(crate) fn new(addresses: Vec<String>, credentials: Credentials) -> Self {
        let id = SpiffeId::new(credentials.held().bundle.trust_domain(), CONTROL_PLANE_PATH).expect("a valid path, and short");
        let tls = Arc::new(ClientTls::new(credentials.clone(), Matcher::Id(id)));
        Self {
            addresses,
            credentials,
            tls,
            first: Arc::default(),
            current: Mutex::default(),
        }
    }

    pub(crate) fn addresses(&self) -> &[String] {
        &self.addresses
    }

    pub(crate) const fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    pub(crate) fn registry(&self) -> RegistryClient<Channel> {
        RegistryClient::new(self.channel())
    }

    /// A document is as long as it may be, and what frames it on the wire.
    pub(crate) fn policies(&self) -> PoliciesClient<Channel> {
        PoliciesClient::new(self.channel()).max_decoding_message_size(policy::MAX_DOCUMENT + 4096)
    }

    pub(crate) fn identity(&self) -> IdentityClient<Channel> {
        IdentityClient::new(self.channel())
    }

    /// A call that was not answered in time: what is called from here on goes out on another connection, and to the next address
    /// first. The connection itself says so only when its keep-alive fails, which may be later than a lease lasts.
    pub(crate) fn doubt(&self) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.first.fetch_add(1, Ordering::Relaxed);
    }

    fn channel(&self) -> Channel {
        let generation = self.credentials.held().generation;
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        match &*current {
            Some((of, channel)) if *of == generation => channel.clone(),
            _ => {
                let trust = Trust::Member(Arc::clone(&self.tls));
                let channel = channel(&self.addresses, Arc::clone(&self.first), trust);
                *current = Some((generation, channel.clone()));
                channel
            }
        }
    }
}

/// A client of the `Operator` service of the control plane at one of `addresses` (`HOST:PORT`), by the operator's credential.
///
/// # Errors
/// [`TlsError`] where there can be no TLS configuration.
pub fn operator(
    addresses: &[String],
    credential: &JoinToken,
) -> Result<OperatorClient<InterceptedService<Channel, Bearer>>, TlsError> {
    let channel = pinned_channel(addresses, credential.pin())?;
    Ok(OperatorClient::with_interceptor(channel, Bearer::new(credential)))
}

/// Adds `authorization: Bearer SECRET` to every call.
#[derive(Clone)]
pub struct Bearer(MetadataValue<Ascii>);

impl Bearer {
    /// The bearer of `credential`.
    #[must_use]
    pub fn new(credential: &JoinToken) -> Self {
        let mut value = MetadataValue::try_from(format!("Bearer {}", credential.secret())).expect("base64url is visible ASCII");
        value.set_sensitive(true);
        Self(value)
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

impl std::fmt::Debug for Bearer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bearer(hidden)")
    }
}

/// By what the control plane is believed.
#[derive(Clone)]
enum Trust {
    Pinned(Arc<ClientConfig>),
    Member(Arc<ClientTls>),
}

/// The address that served last is tried `first`, so that a dead one costs its timeout once.
fn channel(addresses: &[String], first: Arc<AtomicUsize>, trust: Trust) -> Channel {
    let addresses: Arc<[String]> = addresses.into();
    let connect = tower::service_fn(move |_| {
        let (addresses, first, trust) = (Arc::clone(&addresses), Arc::clone(&first), trust.clone());
        async move { dial(&addresses, &first, &trust).await.map(TokioIo::new) }
    });
    // The scheme tells tonic to leave TLS alone: the connector has done it.
    Endpoint::from_static("http://control-plane.mesh")
        .http2_keep_alive_interval(KEEP_ALIVE.0)
        .keep_alive_timeout(KEEP_ALIVE.1)
        .keep_alive_while_idle(true)
        .connect_with_connector_lazy(connect)
}

async fn dial(addresses: &[String], first: &AtomicUsize, trust: &Trust) -> Result<TlsStream<TcpStream>, BoxError> {
    let start = first.load(Ordering::Relaxed);
    let mut last: BoxError = "there is no address of a control plane".into();
    for nth in 0..addresses.len() {
        let at = (start + nth) % addresses.len();
        let Some(address) = addresses.get(at) else { continue };
        match timeout(CONNECT_TIMEOUT, dial_one(address, trust)).await {
            Ok(Ok(stream)) => {
                first.store(at, Ordering::Relaxed);
                return Ok(stream);
            }
            Ok(Err(error)) => last = format_address(address, error),
            Err(_) => last = format_address(address, TlsError::Timeout(CONNECT_TIMEOUT)),
        }
        tracing::debug!(address, error = %last, "the control plane did not answer");
    }
    Err(last)
}

async fn dial_one(address: &str, trust: &Trust) -> Result<TlsStream<TcpStream>, TlsError> {
    let stream = TcpStream::connect(address).await.map_err(TlsError::Connect)?;
    let _ = stream.set_nodelay(true);
    match trust {
        Trust::Member(tls) => Ok(tls.connect(stream).await?.0),
        Trust::Pinned(config) => {
            let connector = TlsConnector::from(Arc::clone(config));
            connector.connect(tls::any_name(), stream).await.map_err(tls::of_handshake)
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{address}: {source}")]
struct AtAddress {
    address: String,
    source: TlsError,
}

fn format_address(address: &str, source: TlsError) -> BoxError {
    AtAddress {
        address: address.to_owned(),
        source,
    }
    .into()
}

/// Whether a call failed because one end refused the identity of the other, which waiting does not mend.
pub(crate) fn is_identity(status: &Status) -> bool {
    let mut next = status.source();
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<TlsError>() {
            return error.is_identity();
        }
        if let Some(error) = error.downcast_ref::<io::Error>()
            && let Some(error) = tls::of_io(error)
        {
            return tls::refuses_identity(error);
        }
        next = error.source();
    }
    false
}

/// A call's failure with its causes: tonic's own words end at "transport error".
pub(crate) fn describe(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut next = status.source();
    while let Some(error) = next {
        let words = error.to_string();
        if !text.contains(&words) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&words);
        }
        next = error.source();
    }
    if text.is_empty() { status.code().to_string() } else { text }
}

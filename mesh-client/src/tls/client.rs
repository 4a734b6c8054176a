//! The end that connects: shows its SVID, and expects that of one target.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use identity::Matcher;
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls::sign::SingleCertAndKey;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::creds::Built;
use super::error::of_handshake;
use super::signature::tls13_signatures;
use super::verify::{LeafIdentity, in_time, leaf_identity};
use super::{Authorizer, Bundle, Credentials, Held, Protocol, SvidError, TlsError, Usage, VERSIONS, provider, verify_svid};

/// How long before the end of its own SVID a client resumes no session any more, a quarter of the SVID's life at most: a peer that is
/// shown the SVID refuses it with an alert that says why, where one that finds it ended behind a resumed session can but close. Time
/// enough for clocks that differ.
const SHOWS_FOR: Duration = Duration::from_secs(60);

/// Connects to one target: every configuration expects the same IDs, so that no session or verdict of one target can be
/// used for another.
pub struct ClientTls {
    credentials: Credentials,
    expected: Matcher,
    protocol: Protocol,
    built: Built<Configs>,
}

/// What is built from credentials.
struct Configs {
    resuming: Arc<ClientConfig>,
    /// Shows the SVID in every handshake.
    showing: Arc<ClientConfig>,
    /// From when on it does so, in seconds since 1970-01-01T00:00:00Z.
    shows_from: u64,
}

impl Configs {
    fn at(&self, now: u64) -> Arc<ClientConfig> {
        let config = if now < self.shows_from {
            &self.resuming
        } else {
            &self.showing
        };
        Arc::clone(config)
    }
}

impl ClientTls {
    /// Connects with `credentials` to peers whose ID is one of `expected`, to speak HTTP/2.
    #[must_use]
    pub const fn new(credentials: Credentials, expected: Matcher) -> Self {
        Self {
            credentials,
            expected,
            protocol: Protocol::Http2,
            built: Built::new(),
        }
    }

    /// Connects to speak `protocol`.
    #[must_use]
    pub fn speaking(self, protocol: Protocol) -> Self {
        Self { protocol, ..self }
    }

    /// Does the handshake on `io`; the result says which generation of the credentials it used.
    ///
    /// # Errors
    /// [`TlsError`]; it [is about identity](TlsError::is_identity) where the peer is not the one that is expected.
    pub async fn connect<IO>(&self, io: IO) -> Result<(TlsStream<IO>, u64), TlsError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let (generation, configs) = self.built.of(&self.credentials, |held| self.configs(held))?;
        let config = configs.at(UnixTime::now().as_secs());
        let stream = TlsConnector::from(config)
            .connect(any_name(), io)
            .await
            .map_err(of_handshake)?;
        let session = stream.get_ref().1;
        self.protocol.expect(session.alpn_protocol())?;
        in_time(session.handshake_kind(), || Ok(peer_leaf(&stream)?.not_after))?;
        Ok((stream, generation))
    }

    fn configs(&self, held: &Held) -> Result<Configs, TlsError> {
        let verifier = ServerVerifier {
            bundle: held.bundle.clone(),
            authorizer: Authorizer::new(self.expected.clone()),
        };
        let mut config = base(Arc::new(verifier))?
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(held.svid.certified()))));
        finish(&mut config, self.protocol);
        config.resumption = Resumption::disabled();
        let showing = Arc::new(config.clone());
        config.resumption = Resumption::in_memory_sessions(32);
        let svid = &held.svid;
        Ok(Configs {
            resuming: Arc::new(config),
            showing,
            shows_from: svid.not_after().saturating_sub(SHOWS_FOR.min(svid.lifetime() / 4).as_secs()),
        })
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls")
            .field("expected", &self.expected)
            .finish_non_exhaustive()
    }
}

/// Peers are known by SPIFFE ID; the name serves the library's session store alone, which is never shared, and is not sent.
pub(crate) fn any_name() -> ServerName<'static> {
    ServerName::try_from("peer.mesh").expect("a DNS name")
}

pub(super) fn base(
    verifier: Arc<dyn ServerCertVerifier>,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>, TlsError> {
    Ok(ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(VERSIONS)?
        .dangerous()
        .with_custom_certificate_verifier(verifier))
}

pub(super) fn finish(config: &mut ClientConfig, protocol: Protocol) {
    config.alpn_protocols = vec![protocol.alpn()];
    // Service names are nobody's business on the wire.
    config.enable_sni = false;
}

#[derive(Debug)]
struct ServerVerifier {
    bundle: Bundle,
    authorizer: Authorizer,
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let id = verify_svid(leaf, intermediates, &self.bundle, Usage::Server, now)?;
        self.authorizer.authorize(id)?;
        Ok(ServerCertVerified::assertion())
    }

    tls13_signatures!();
}

/// The serial number of the certificate that the peer showed.
pub(crate) fn peer_serial<IO>(stream: &TlsStream<IO>) -> Result<Vec<u8>, SvidError> {
    Ok(peer_leaf(stream)?.serial)
}

fn peer_leaf<IO>(stream: &TlsStream<IO>) -> Result<LeafIdentity, SvidError> {
    let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    leaf_identity(shown.ok_or(SvidError::Empty)?)
}

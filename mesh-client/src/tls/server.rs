//! The end that listens: shows its SVID, and wants to see that of its peer.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use identity::{Matcher, SpiffeId};
use rustls::server::ServerSessionMemoryCache;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::{DistinguishedName, ServerConfig, ServerConnection};
use rustls_pki_types::{CertificateDer, UnixTime};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::creds::Built;
use super::error::of_handshake;
use super::signature::tls13_signatures;
use super::verify::{in_time, leaf_identity};
use super::{Authorizer, Bundle, Credentials, Held, Protocol, SvidError, TlsError, Usage, VERSIONS, provider, verify_svid};
use crate::linger::Lingering;

/// Sessions kept for resumption, per generation of credentials.
const SESSIONS: usize = 1024;

/// Who may connect.
#[derive(Debug, Clone)]
pub enum Peers {
    /// Only who shows an SVID that the matcher expects. This is what members do.
    Required(Matcher),
    /// Also who shows no certificate at all; a certificate that is shown must still be one that the matcher expects. This is
    /// what the control plane does, whose joiners have none yet.
    Optional(Matcher),
}

/// Accepts connections.
pub struct ServerTls {
    credentials: Credentials,
    peers: Peers,
    protocol: Protocol,
    lenience: Duration,
    built: Built<ServerConfig>,
}

impl ServerTls {
    /// Accepts with `credentials` whom `peers` admits, to speak HTTP/2.
    #[must_use]
    pub const fn new(credentials: Credentials, peers: Peers) -> Self {
        Self {
            credentials,
            peers,
            protocol: Protocol::Http2,
            lenience: Duration::ZERO,
            built: Built::new(),
        }
    }

    /// Accepts to speak `protocol`.
    #[must_use]
    pub fn speaking(self, protocol: Protocol) -> Self {
        Self { protocol, ..self }
    }

    /// Lets in peers whose SVID has ended, or has not begun, by at most so long. For the control plane, which such a peer asks for
    /// another; whoever serves them looks at [`PeerIdentity::is_valid_at`].
    #[must_use]
    pub const fn lenient(mut self, by: Duration) -> Self {
        self.lenience = by;
        self
    }

    /// Accepts with `credentials` any member of its own trust domain.
    #[must_use]
    pub fn of_member(credentials: Credentials) -> Self {
        let members = Matcher::TrustDomain(credentials.held().bundle.trust_domain().clone());
        Self::new(credentials, Peers::Required(members))
    }

    /// The credentials that it accepts with.
    #[must_use]
    pub const fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// Does the handshake on `io`, within `limit`, and says who the peer is; `None` only where [`Peers::Optional`] admits the nameless.
    /// A peer whose identity is refused has two seconds more to hear why and to close its end.
    ///
    /// # Errors
    /// [`TlsError`] where the peer speaks no TLS 1.3, does not prove an identity that is admitted, or takes too long.
    pub async fn accept<IO>(&self, io: IO, limit: Duration) -> Result<(TlsStream<IO>, Option<PeerIdentity>), TlsError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let (_, config) = self.built.of(&self.credentials, |held| self.config(held))?;
        let shaking = TlsAcceptor::from(config).accept(io).into_fallible();
        let shaken = timeout(limit, shaking).await.map_err(|_| TlsError::Timeout(limit))?;
        let stream = match shaken {
            Ok(stream) => stream,
            Err((error, io)) => return Err(refused(io, of_handshake(error)).await),
        };
        match self.peer(stream.get_ref().1) {
            Ok(peer) => Ok((stream, peer)),
            Err(error) => Err(refused(stream, error).await),
        }
    }

    /// Who is at the other end of a connection whose handshake is done.
    fn peer(&self, session: &ServerConnection) -> Result<Option<PeerIdentity>, TlsError> {
        self.protocol.expect(session.alpn_protocol())?;
        let leaf = session.peer_certificates().and_then(<[_]>::first);
        let peer = leaf.map(PeerIdentity::of).transpose()?;
        match (&peer, &self.peers) {
            (None, Peers::Required(_)) => return Err(SvidError::Empty.into()),
            (None, Peers::Optional(_)) => {}
            (Some(peer), _) => {
                let last = peer.not_after.saturating_add(self.lenience.as_secs());
                in_time(session.handshake_kind(), || Ok(last))?;
            }
        }
        Ok(peer)
    }

    fn config(&self, held: &Held) -> Result<ServerConfig, TlsError> {
        let (mandatory, expected) = match &self.peers {
            Peers::Required(expected) => (true, expected),
            Peers::Optional(expected) => (false, expected),
        };
        let verifier = ClientVerifier {
            bundle: held.bundle.clone(),
            authorizer: Authorizer::new(expected.clone()),
            mandatory,
            lenience: self.lenience,
        };
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(VERSIONS)?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(held.svid.certified()))));
        config.alpn_protocols = vec![self.protocol.alpn()];
        config.session_storage = ServerSessionMemoryCache::new(SESSIONS);
        Ok(config)
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls")
            .field("peers", &self.peers)
            .finish_non_exhaustive()
    }
}

/// Who is at the other end of a connection, proven by its certificate. A request extension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    id: SpiffeId,
    not_before: u64,
    not_after: u64,
    serial: Vec<u8>,
    fingerprint: [u8; 32],
}

impl PeerIdentity {
    /// Reads a leaf that a handshake has verified.
    fn of(leaf: &CertificateDer<'_>) -> Result<Self, SvidError> {
        let identity = leaf_identity(leaf)?;
        Ok(Self {
            id: identity.id,
            not_before: identity.not_before,
            not_after: identity.not_after,
            serial: identity.serial,
            fingerprint: Sha256::digest(leaf).into(),
        })
    }

    /// The peer's SPIFFE ID.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The last second at which the peer's certificate is valid, since 1970-01-01T00:00:00Z.
    #[must_use]
    pub const fn not_after(&self) -> u64 {
        self.not_after
    }

    /// Whether the peer's certificate is valid at `now`, in seconds since 1970-01-01T00:00:00Z. It is but where the listener is
    /// [lenient](ServerTls::lenient), or the connection is older than the certificate.
    #[must_use]
    pub fn is_valid_at(&self, now: u64) -> bool {
        (self.not_before..=self.not_after).contains(&now)
    }

    /// The serial number of the peer's certificate, big-endian, without leading zeros.
    #[must_use]
    pub fn serial(&self) -> &[u8] {
        &self.serial
    }

    /// The SHA-256 of the peer's certificate (DER).
    #[must_use]
    pub const fn fingerprint(&self) -> &[u8; 32] {
        &self.fingerprint
    }
}

/// Says farewell to a peer that is refused.
async fn refused(io: impl AsyncRead + AsyncWrite + Unpin, error: TlsError) -> TlsError {
    if error.is_identity() {
        let _ = Lingering::new(io).shutdown().await;
    }
    error
}

#[derive(Debug)]
struct ClientVerifier {
    bundle: Bundle,
    authorizer: Authorizer,
    mandatory: bool,
    lenience: Duration,
}

impl ClientVerifier {
    /// What the peer proves, were it asked at the end (or the beginning) of its SVID where that is not far away.
    fn verify_leniently(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<SpiffeId, SvidError> {
        let said = leaf_identity(leaf)?;
        let nearest = now.as_secs().min(said.not_after).max(said.not_before);
        if now.as_secs().abs_diff(nearest) > self.lenience.as_secs() {
            return Err(SvidError::Expired);
        }
        let nearest = UnixTime::since_unix_epoch(Duration::from_secs(nearest));
        verify_svid(leaf, intermediates, &self.bundle, Usage::Client, nearest)
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let id = match verify_svid(leaf, intermediates, &self.bundle, Usage::Client, now) {
            Err(SvidError::Expired | SvidError::NotYetValid) if !self.lenience.is_zero() => {
                self.verify_leniently(leaf, intermediates, now)?
            }
            judged => judged?,
        };
        self.authorizer.authorize(id)?;
        Ok(ClientCertVerified::assertion())
    }

    tls13_signatures!();
}

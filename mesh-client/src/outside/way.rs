//! How something outside the mesh is spoken to: in plain text, or over TLS that is verified as on the web, by a name and the authorities
//! that are trusted for it. Never by an identity of the mesh, and nothing is shown of one.

use std::sync::{Arc, OnceLock};

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, InvalidDnsNameError, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, TlsStream};
use tokio_util::either::Either;

use crate::tls::{Protocol, TlsError, provider};

/// A connection: over TLS, or to somebody outside who does without.
pub(crate) type Io = Either<TlsStream<TcpStream>, TcpStream>;

/// How it is spoken to.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Way {
    pub(crate) speech: Speech,
    pub(crate) tls: Option<Tls>,
}

/// What is spoken, inside TLS where there is TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Speech {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, without TLS by prior knowledge.
    Http2,
    /// Something that is not looked into.
    Tcp,
}

/// TLS with somebody outside.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Tls {
    name: ServerName<'static>,
    /// In place of the system's.
    authorities: Option<Vec<CertificateDer<'static>>>,
}

impl Tls {
    /// With whoever shows a certificate for `name` from an authority that the system trusts.
    pub(crate) fn expecting(name: &str) -> Result<Self, InvalidDnsNameError> {
        Ok(Self {
            name: ServerName::try_from(name.to_owned())?,
            authorities: None,
        })
    }

    /// The same from one of these authorities; None where they are none.
    pub(crate) fn of_authorities(self, pem: &str) -> Option<Self> {
        let authorities: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
            .collect::<Result<_, _>>()
            .ok()?;
        let mut roots = RootCertStore::empty();
        let usable = authorities.iter().all(|authority| roots.add(authority.clone()).is_ok());
        (usable && !authorities.is_empty()).then_some(Self {
            authorities: Some(authorities),
            ..self
        })
    }

    async fn roots(&self) -> Result<Arc<RootCertStore>, TlsError> {
        let Some(authorities) = &self.authorities else {
            return roots_of_the_system().await;
        };
        let mut roots = RootCertStore::empty();
        for authority in authorities {
            roots.add(authority.clone())?;
        }
        Ok(roots.into())
    }
}

/// The authorities that the system trusts, read from its disk once.
async fn roots_of_the_system() -> Result<Arc<RootCertStore>, TlsError> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    if let Some(roots) = ROOTS.get() {
        return Ok(Arc::clone(roots));
    }
    let read = || {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        roots
    };
    match tokio::task::spawn_blocking(read).await {
        Ok(roots) if !roots.is_empty() => Ok(Arc::clone(ROOTS.get_or_init(|| roots.into()))),
        _ => Err(TlsError::NoAuthorities),
    }
}

impl Way {
    pub(crate) const fn new(speech: Speech, tls: Option<Tls>) -> Self {
        Self { speech, tls }
    }

    /// By what it is called: by requests, or by connections.
    pub(crate) const fn protocol(&self) -> Protocol {
        match self.speech {
            Speech::Http1 | Speech::Http2 => Protocol::Http2,
            Speech::Tcp => Protocol::Tcp,
        }
    }

    /// Connects to an endpoint.
    pub(crate) async fn connect(&self, address: &str) -> Result<Io, TlsError> {
        let stream = TcpStream::connect(address).await.map_err(TlsError::Connect)?;
        // A failure here costs latency, not correctness.
        let _ = stream.set_nodelay(true);
        let Some(tls) = &self.tls else {
            return Ok(Either::Right(stream));
        };
        let connector = TlsConnector::from(self.config(tls).await?);
        let stream = connector
            .connect(tls.name.clone(), stream)
            .await
            .map_err(TlsError::Handshake)?;
        let agreed = stream.get_ref().1.alpn_protocol();
        // Without ALPN the library lets a connection through on which nobody agreed to speak HTTP/2.
        if self.speech == Speech::Http2 && agreed != Some(b"h2") {
            return Err(TlsError::Alpn("h2"));
        }
        Ok(Either::Left(stream.into()))
    }

    async fn config(&self, tls: &Tls) -> Result<Arc<ClientConfig>, TlsError> {
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(tls.roots().await?)
            .with_no_client_auth();
        config.alpn_protocols = match self.speech {
            Speech::Http1 => vec![b"http/1.1".to_vec()],
            Speech::Http2 => vec![b"h2".to_vec()],
            Speech::Tcp => Vec::new(),
        };
        Ok(config.into())
    }
}

//! A client for the few requests that this host makes for itself: one connection each, TLS by the system's certificate authorities.

use std::sync::{Arc, OnceLock};

use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use gateway::keys::MAX_ANSWER;
use http::header::{ACCEPT, HOST, USER_AGENT};
use http::{Request, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

/// The client. What it trusts is read when it is first needed.
#[derive(Default)]
pub(crate) struct Client(OnceLock<TlsConnector>);

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Client")
    }
}

impl Client {
    /// Gets a URL: its status and its body, of which no more is read than an issuer may say.
    ///
    /// # Errors
    ///
    /// Where no answer comes, or a longer one.
    pub(crate) async fn get(&self, url: &str) -> anyhow::Result<(u16, Bytes)> {
        let uri: Uri = url.parse().with_context(|| format!("{url} is no URL"))?;
        let host = uri.host().with_context(|| format!("{url} has no host"))?;
        let name = host.trim_matches(['[', ']']);
        let secure = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let stream = TcpStream::connect((name, port))
            .await
            .with_context(|| format!("cannot connect to {host}:{port}"))?;
        let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
        let target = uri.path_and_query().map_or("/", |target| target.as_str());
        let request = Request::get(target)
            .header(HOST, authority)
            .header(ACCEPT, "application/json")
            .header(USER_AGENT, concat!("heddle/", env!("CARGO_PKG_VERSION")))
            .body(Empty::new())?;
        if secure {
            let server = ServerName::try_from(name.to_owned()).with_context(|| format!("{name} is no name of a server"))?;
            let stream = self.connector()?.connect(server, stream).await;
            ask(stream.with_context(|| format!("no TLS with {host}:{port}"))?, request).await
        } else {
            ask(stream, request).await
        }
    }

    fn connector(&self) -> anyhow::Result<&TlsConnector> {
        if self.0.get().is_none() {
            let mut roots = RootCertStore::empty();
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
            anyhow::ensure!(
                !roots.is_empty(),
                "this system trusts no certificate authority: install ca-certificates, or name a file of them in SSL_CERT_FILE"
            );
            let config = ClientConfig::builder_with_provider(Arc::new(crypto::aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()?
                .with_root_certificates(roots)
                .with_no_client_auth();
            // Another task may have been first.
            let _first = self.0.set(TlsConnector::from(Arc::new(config)));
        }
        self.0.get().ok_or_else(|| anyhow!("there is no TLS"))
    }
}

async fn ask(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Empty<Bytes>>,
) -> anyhow::Result<(u16, Bytes)> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // The answer's body comes by the connection, so both go on together, and end together.
    let answer = async move {
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        let body = body
            .map_err(|error| anyhow!("the answer cannot be read: {error}"))?
            .to_bytes();
        anyhow::Ok((status, body))
    };
    tokio::pin!(answer, connection);
    tokio::select! {
        answered = &mut answer => answered,
        ended = &mut connection => {
            ended?;
            answer.await
        }
    }
}

//! What the tests of a control plane share: a member that speaks the protocol by hand, and small HTTP.

#![allow(dead_code, reason = "each test program uses its part of it")]

pub(crate) mod world;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use hyper_util::rt::TokioIo;
use identity::{Matcher, SpiffeId, TrustDomain};
use mesh_api::v1::identity_client::IdentityClient;
use mesh_api::v1::registry_client::RegistryClient;
use mesh_api::{JoinToken, v1};
use mesh_client::tls::{Bundle, ClientTls, Credentials, Key, Rotation, Svid};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

/// A member that joined, with a channel that shows its SVID.
pub(crate) struct Member {
    pub(crate) id: String,
    pub(crate) bundle: Bundle,
    pub(crate) channel: Channel,
    svid: Svid,
}

impl Member {
    pub(crate) async fn join(control: SocketAddr, token: &JoinToken) -> Result<Self, Status> {
        let key = Key::generate().unwrap();
        let channel = mesh_client::control::pinned_channel(&[control.to_string()], token.pin()).unwrap();
        let request = v1::JoinRequest {
            secret: token.secret(),
            csr: key.signing_request().unwrap(),
        };
        let answer = IdentityClient::new(channel).join(request).await?.into_inner();
        let bundle = answer.bundle.unwrap();
        let roots = bundle.roots.into_iter().map(Into::into).collect();
        let bundle = Bundle::new(TrustDomain::new(&bundle.trust_domain).unwrap(), roots).unwrap();
        let svid = Svid::new(answer.chain.into_iter().map(Into::into).collect(), key.to_pkcs8()).unwrap();
        let channel = channel_of(control, svid.clone(), bundle.clone());
        Ok(Self {
            id: answer.spiffe_id,
            bundle,
            channel,
            svid,
        })
    }

    /// The same member at another control plane, which it knows by `bundle`.
    pub(crate) fn at(self, control: SocketAddr, bundle: Bundle) -> Self {
        let channel = channel_of(control, self.svid.clone(), bundle.clone());
        Self { channel, bundle, ..self }
    }

    pub(crate) fn registry(&self) -> RegistryClient<Channel> {
        RegistryClient::new(self.channel.clone())
    }

    pub(crate) fn identity(&self) -> IdentityClient<Channel> {
        IdentityClient::new(self.channel.clone())
    }
}

fn channel_of(control: SocketAddr, svid: Svid, bundle: Bundle) -> Channel {
    let expected = SpiffeId::new(bundle.trust_domain(), mesh_api::CONTROL_PLANE_PATH).unwrap();
    let (rotation, credentials): (Rotation, Credentials) = Credentials::new(svid, bundle);
    let tls = Arc::new((ClientTls::new(credentials, Matcher::OneOf(vec![expected])), rotation));
    Endpoint::from_static("http://control").connect_with_connector_lazy(tower::service_fn(move |_| {
        let tls = Arc::clone(&tls);
        async move {
            let stream = TcpStream::connect(control).await?;
            stream.set_nodelay(true)?;
            let (stream, _) = tls.0.connect(stream).await.map_err(std::io::Error::other)?;
            Ok::<_, std::io::Error>(TokioIo::new(stream))
        }
    }))
}

pub(crate) fn endpoint(service: &str, id: &str) -> v1::Endpoint {
    v1::Endpoint {
        id: id.into(),
        service: service.into(),
        address: "127.0.0.1:9".into(),
        protocol: "h2".into(),
        version: String::new(),
        zone: String::new(),
        weight: 1,
        health: v1::Health::Unknown.into(),
    }
}

pub(crate) fn decode(secret: &str) -> Vec<u8> {
    base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(secret).unwrap()
}

/// The status and the body of a GET.
pub(crate) async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let response = exchange(
        address,
        &format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n"),
    )
    .await;
    (response.0, response.2)
}

/// The status, the head and the body of the answer to `request`, which asks for the connection to be closed.
pub(crate) async fn exchange(address: SocketAddr, request: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("no answer: {answer:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_ascii_lowercase(), body.to_owned())
}

/// Asks again and again until it is so, for half a minute.
pub(crate) async fn eventually(mut so: impl AsyncFnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(30);
    while !so().await {
        assert!(Instant::now() < until, "it did not come to be so");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

//! Who does not prove the expected identity is refused in the handshake, at both ends, over real sockets.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{Empty, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use identity::Matcher;
use mesh_api::JoinToken;
use mesh_client::drain;
use mesh_client::server::Server;
use mesh_client::tls::{Bundle, ClientTls, Credentials, Peers, ServerTls, SvidError, TlsError, Usage, verify_svid};
use mesh_client::{Config, Credential, JoinError, Mesh, PeerIdentity};
use rcgen::{CustomExtension, ExtendedKeyUsagePurpose, KeyUsagePurpose};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::{ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use support::authority::{Authority, Issued, Leaf};
use time::{Duration, OffsetDateTime};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tower::service_fn;

const LIMIT: std::time::Duration = std::time::Duration::from_secs(5);

/// A server of `accounts` that counts the requests its handler sees.
struct Accounts {
    address: SocketAddr,
    seen: Arc<AtomicU64>,
    _running: drain::Signal,
}

impl Accounts {
    async fn serve(authority: &Authority) -> Self {
        let (rotation, credentials) = authority.credentials("accounts");
        let server = Server::bind("127.0.0.1:0".parse().unwrap(), ServerTls::of_member(credentials))
            .await
            .unwrap();
        let address = server.local_addr().unwrap();
        let seen = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&seen);
        let service = service_fn(move |_| {
            counter.fetch_add(1, Ordering::Relaxed);
            async { Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::from("an account")))) }
        });
        let (running, watch) = drain::channel();
        tokio::spawn(async move {
            server.serve(service, watch).await;
            drop(rotation);
        });
        Self {
            address,
            seen,
            _running: running,
        }
    }

    /// Connects as whoever `issued` says, believes any server, and sends a request; whether it was answered.
    async fn asked_by(&self, issued: Option<Issued>) -> bool {
        let answered = request(self.address, credulous(issued)).await.is_ok();
        assert_eq!(
            answered,
            self.seen.load(Ordering::Relaxed) > 0,
            "the handler sees exactly what is answered"
        );
        answered
    }
}

async fn request(address: SocketAddr, config: ClientConfig) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let stream = TcpStream::connect(address).await?;
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect(ServerName::try_from("peer.mesh")?, stream)
        .await?;
    let io = TokioIo::new(stream);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake::<_, _, Empty<Bytes>>(TokioExecutor::new(), io).await?;
    tokio::spawn(connection);
    sender
        .send_request(Request::get("http://accounts.mesh/").body(Empty::new())?)
        .await?;
    Ok(())
}

/// The client of whoever `issued` says, which believes any server.
fn credulous(issued: Option<Issued>) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(default_provider().into())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous));
    let mut config = match issued {
        Some(issued) => builder.with_client_auth_cert(issued.chain, issued.key).unwrap(),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

/// Believes any server, as an attacker's client would.
#[derive(Debug)]
struct Credulous;

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

/// Connects as a good member that expects `accounts` to a server that shows `issued`.
async fn connect_to(authority: &Authority, issued: Issued) -> Result<(), TlsError> {
    let mut config = ServerConfig::builder_with_provider(default_provider().into())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(issued.chain, issued.key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let _ = tokio_rustls::TlsAcceptor::from(Arc::new(config)).accept(stream).await;
    });
    let (_rotation, credentials) = authority.credentials("statements");
    let tls = ClientTls::new(credentials, Matcher::Id(authority.id("accounts")));
    tls.connect(TcpStream::connect(address).await.unwrap()).await.map(drop)
}

fn verdict(issued: &Issued, bundle: &Bundle) -> Result<(), SvidError> {
    let (leaf, rest) = issued.chain.split_first().unwrap();
    verify_svid(leaf, rest, bundle, Usage::Client, UnixTime::now()).map(drop)
}

/// Refused by the verifier for this reason, by a server and by a client.
async fn refused_everywhere(authority: &Authority, issue: impl Fn() -> Issued, reason: SvidError) {
    assert_eq!(verdict(&issue(), &authority.bundle()), Err(reason));
    assert!(
        !Accounts::serve(authority).await.asked_by(Some(issue())).await,
        "the server refuses the client"
    );
    let refused = connect_to(authority, issue())
        .await
        .expect_err("the client refuses the server");
    assert!(refused.is_identity(), "{refused}");
}

fn bank() -> Authority {
    Authority::new("bank.example")
}

fn accounts(authority: &Authority) -> Leaf {
    Leaf::of(authority.id("accounts").as_str())
}

#[tokio::test]
async fn a_good_svid_is_accepted_at_both_ends() {
    let bank = bank();
    assert!(Accounts::serve(&bank).await.asked_by(Some(bank.service("statements"))).await);
    connect_to(&bank, bank.service("accounts")).await.unwrap();
}

#[tokio::test]
async fn a_plaintext_request_is_refused() {
    let accounts = Accounts::serve(&bank()).await;
    for request in [
        &b"GET / HTTP/1.1\r\nhost: accounts.mesh\r\n\r\n"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(accounts.address).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(!answer.starts_with(b"HTTP/"), "{answer:?}");
    }
    assert_eq!(accounts.seen.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_peer_without_a_certificate_is_refused() {
    assert!(!Accounts::serve(&bank()).await.asked_by(None).await);
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused() {
    let other = Authority::new("thief.example");
    let leaf = Leaf::of("spiffe://bank.example/service/accounts");
    refused_everywhere(&bank(), || other.issue(&leaf), SvidError::Chain(webpki::Error::UnknownIssuer)).await;
}

#[tokio::test]
async fn a_certificate_of_an_authority_that_goes_by_the_same_name_is_refused() {
    let impostor = bank();
    let reason = SvidError::Chain(webpki::Error::InvalidSignatureForPublicKey);
    refused_everywhere(&bank(), || impostor.service("accounts"), reason).await;
}

#[tokio::test]
async fn the_right_authority_with_the_wrong_id_is_refused() {
    let bank = bank();
    let refused = connect_to(&bank, bank.service("rates")).await.unwrap_err();
    assert!(refused.is_identity(), "{refused}");
    assert!(
        refused.to_string().contains("rates") && refused.to_string().contains("accounts"),
        "{refused}"
    );
}

#[tokio::test]
async fn an_id_of_another_trust_domain_is_refused_though_the_authority_signed_it() {
    let bank = bank();
    let found = "spiffe://thief.example/service/accounts";
    let reason = SvidError::TrustDomain {
        found: found.parse().unwrap(),
        expected: bank.domain.clone(),
    };
    refused_everywhere(&bank, || bank.issue(&Leaf::of(found)), reason).await;
}

#[tokio::test]
async fn an_expired_svid_is_refused() {
    let bank = bank();
    let mut leaf = accounts(&bank);
    leaf.not_after = leaf.not_before + Duration::seconds(1);
    refused_everywhere(&bank, || bank.issue(&leaf), SvidError::Expired).await;
}

/// The client's handshake is over before the server looks at its certificate, so that its request crosses the refusal.
#[tokio::test]
async fn a_peer_that_goes_on_talking_hears_why_it_is_refused() {
    let bank = bank();
    let mut leaf = accounts(&bank);
    leaf.not_after = OffsetDateTime::now_utc() - Duration::minutes(1);
    let accounts = Accounts::serve(&bank).await;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(credulous(Some(bank.issue(&leaf)))));
    let stream = TcpStream::connect(accounts.address).await.unwrap();
    let name = ServerName::try_from("peer.mesh").unwrap();
    let mut stream = connector.connect(name, stream).await.unwrap();
    for _ in 0..20 {
        stream.write_all(b"a piece of a request").await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let refused = stream.read(&mut [0]).await.unwrap_err();
    let alert = refused.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    let expired = rustls::Error::AlertReceived(rustls::AlertDescription::CertificateExpired);
    assert_eq!(alert, Some(&expired));
}

#[tokio::test]
async fn an_svid_whose_time_has_not_come_is_refused() {
    let bank = bank();
    let mut leaf = accounts(&bank);
    leaf.not_before = leaf.not_after - Duration::seconds(1);
    refused_everywhere(&bank, || bank.issue(&leaf), SvidError::NotYetValid).await;
}

#[tokio::test]
async fn a_leaf_with_two_uris_is_refused() {
    let bank = bank();
    let mut leaf = accounts(&bank);
    leaf.uris.push(bank.id("rates").to_string());
    refused_everywhere(&bank, || bank.issue(&leaf), SvidError::SeveralUris).await;
}

#[tokio::test]
async fn a_leaf_without_a_uri_is_refused() {
    let bank = bank();
    let mut leaf = accounts(&bank);
    leaf.uris.clear();
    refused_everywhere(&bank, || bank.issue(&leaf), SvidError::NoUri).await;
}

#[tokio::test]
async fn a_uri_that_is_no_spiffe_id_is_refused() {
    let bank = bank();
    let leaf = Leaf::of("https://bank.example/service/accounts");
    refused_everywhere(&bank, || bank.issue(&leaf), SvidError::NotSpiffe(identity::IdError::Scheme)).await;
}

#[tokio::test]
async fn the_id_of_a_trust_domain_identifies_no_workload() {
    let bank = bank();
    let leaf = Leaf::of("spiffe://bank.example");
    refused_everywhere(
        &bank,
        || bank.issue(&leaf),
        SvidError::NoPath("spiffe://bank.example".parse().unwrap()),
    )
    .await;
}

#[tokio::test]
async fn a_leaf_with_the_ca_bit_is_refused() {
    let bank = bank();
    let mut leaf = accounts(&bank);
    leaf.ca = true;
    refused_everywhere(&bank, || bank.issue(&leaf), SvidError::Ca).await;
}

#[tokio::test]
async fn a_leaf_that_may_sign_certificates_is_refused() {
    let bank = bank();
    let mut leaf = accounts(&bank);
    leaf.usages.push(KeyUsagePurpose::KeyCertSign);
    refused_everywhere(&bank, || bank.issue(&leaf), SvidError::KeyUsage).await;
}

/// Key usage (RFC 5280 §4.2.1.3) as an extension by hand: digitalSignature alone.
fn key_usage(critical: bool) -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 15], vec![3, 2, 7, 128]);
    extension.set_criticality(critical);
    extension
}

#[tokio::test]
async fn a_leaf_whose_key_usage_may_be_overlooked_is_refused() {
    let bank = bank();
    let leaf = |critical| Leaf {
        usages: Vec::new(),
        extensions: vec![key_usage(critical)],
        ..accounts(&bank)
    };
    assert_eq!(verdict(&bank.issue(&leaf(true)), &bank.bundle()), Ok(()));
    refused_everywhere(&bank, || bank.issue(&leaf(false)), SvidError::KeyUsage).await;
}

#[tokio::test]
async fn a_leaf_without_key_usage_is_refused() {
    let bank = bank();
    let mut leaf = accounts(&bank);
    leaf.usages.clear();
    refused_everywhere(&bank, || bank.issue(&leaf), SvidError::KeyUsage).await;
}

#[tokio::test]
async fn a_leaf_that_may_sign_revocation_lists_is_refused() {
    let bank = bank();
    let mut leaf = accounts(&bank);
    leaf.usages.push(KeyUsagePurpose::CrlSign);
    refused_everywhere(&bank, || bank.issue(&leaf), SvidError::KeyUsage).await;
}

#[tokio::test]
async fn a_leaf_for_one_end_alone_is_refused_at_both() {
    let bank = bank();
    for only in [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth] {
        let mut leaf = accounts(&bank);
        leaf.extended = vec![only];
        refused_everywhere(&bank, || bank.issue(&leaf), SvidError::ExtendedKeyUsage).await;
    }
    let mut leaf = accounts(&bank);
    leaf.extended.clear();
    assert_eq!(
        verdict(&bank.issue(&leaf), &bank.bundle()),
        Ok(()),
        "where it is not there, it says nothing"
    );
}

fn intermediate(id: &str) -> Leaf {
    Leaf {
        ca: true,
        usages: vec![KeyUsagePurpose::KeyCertSign],
        extended: Vec::new(),
        ..Leaf::of(id)
    }
}

#[tokio::test]
async fn a_chain_over_a_good_intermediate_is_accepted() {
    let bank = bank();
    let under = bank.under(&intermediate("spiffe://bank.example"), "accounts");
    assert_eq!(verdict(&under, &bank.bundle()), Ok(()));
    let mut nameless = intermediate("spiffe://bank.example");
    nameless.uris.clear();
    assert_eq!(verdict(&bank.under(&nameless, "accounts"), &bank.bundle()), Ok(()));
}

#[tokio::test]
async fn an_intermediate_that_may_not_sign_certificates_is_refused() {
    let bank = bank();
    let mut signer = intermediate("spiffe://bank.example");
    signer.usages = vec![KeyUsagePurpose::DigitalSignature];
    refused_everywhere(&bank, || bank.under(&signer, "accounts"), SvidError::SignerUsage).await;
}

#[tokio::test]
async fn an_intermediate_that_names_a_workload_or_another_trust_domain_is_refused() {
    let bank = bank();
    for id in ["spiffe://bank.example/service/rates", "spiffe://thief.example"] {
        let reason = SvidError::SignerId(id.parse().unwrap());
        refused_everywhere(&bank, || bank.under(&intermediate(id), "accounts"), reason).await;
    }
}

#[tokio::test]
async fn a_revoked_svid_is_refused() {
    let bank = bank();
    let issued = bank.service("accounts");
    let (_, leaf) = x509_parser::parse_x509_certificate(&issued.chain[0]).unwrap();
    let serial = leaf.serial.to_bytes_be();
    let bundle = bank.bundle().revoking([serial.clone()]);
    assert_eq!(verdict(&issued, &bundle), Err(SvidError::Revoked(bank.id("accounts"))));
    let padded = bank.bundle().revoking([[&[0], &serial[..]].concat()]);
    assert!(verdict(&issued, &padded).is_err(), "leading zeros make no other number");
    assert_eq!(
        verdict(&bank.service("accounts"), &bundle),
        Ok(()),
        "another SVID of the same service is another"
    );
}

#[tokio::test]
async fn a_lenient_server_lets_in_who_is_late_and_nobody_who_is_too_late() {
    let bank = bank();
    let hour = Duration::hours(1);
    let late = |by: Duration| {
        let mut leaf = accounts(&bank);
        leaf.not_after = OffsetDateTime::now_utc() - by;
        leaf.not_before = leaf.not_after - hour;
        bank.issue(&leaf)
    };
    let early = |by: Duration| {
        let mut leaf = accounts(&bank);
        leaf.not_before = OffsetDateTime::now_utc() + by;
        leaf.not_after = leaf.not_before + hour;
        bank.issue(&leaf)
    };
    let (_rotation, credentials) = bank.credentials("accounts");
    let tls = ServerTls::of_member(credentials).lenient(std::time::Duration::from_secs(7200));
    for (issued, valid) in [(late(-hour / 2), true), (late(hour), false), (early(hour), false)] {
        let peer = shake(&tls, issued).await.unwrap();
        let now = OffsetDateTime::now_utc().unix_timestamp() as u64;
        assert_eq!(peer.is_valid_at(now), valid);
    }
    for issued in [late(3 * hour), early(3 * hour)] {
        shake(&tls, issued).await.unwrap_err();
    }
    let thief = Authority::new("bank.example");
    shake(&tls, thief.service("accounts")).await.unwrap_err();
}

/// Shakes hands as whoever `issued` says; whom the server saw.
async fn shake(tls: &ServerTls, issued: Issued) -> Result<PeerIdentity, TlsError> {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let connector = tokio_rustls::TlsConnector::from(Arc::new(credulous(Some(issued))));
    let connect = async {
        let name = ServerName::try_from("peer.mesh").unwrap();
        if let Ok(mut stream) = connector.connect(name, ours).await {
            let _ = stream.read(&mut [0]).await;
        }
    };
    let (_, accepted) = tokio::join!(connect, async {
        tls.accept(theirs, LIMIT).await.map(|(_, peer)| peer.unwrap())
    });
    accepted
}

#[tokio::test]
async fn a_leaf_signed_by_another_leaf_is_refused() {
    let bank = bank();
    let forge = || bank.forge_by_leaf("rates", &accounts(&bank));
    refused_everywhere(&bank, forge, SvidError::Chain(webpki::Error::EndEntityUsedAsCa)).await;
}

#[tokio::test]
async fn a_member_that_poses_as_the_control_plane_gets_no_token() {
    let bank = bank();
    let mut posing = bank.service("rates");
    posing.chain.push(bank.root.clone());
    let token = JoinToken::new(vec![7; 32], Bundle::pin(&bank.root).unwrap()).unwrap();
    let (_rotation, credentials) = Credentials::new(posing.svid(), bank.bundle());
    let everyone = Peers::Optional(Matcher::TrustDomain(bank.domain.clone()));
    let server = Server::bind("127.0.0.1:0".parse().unwrap(), ServerTls::new(credentials, everyone))
        .await
        .unwrap();
    let address = server.local_addr().unwrap().to_string();
    let (_running, watch) = drain::channel();
    let seen = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&seen);
    let greedy = service_fn(move |_| {
        counter.fetch_add(1, Ordering::Relaxed);
        async { Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::new()))) }
    });
    tokio::spawn(server.serve(greedy, watch));
    let config = Config::new([address.as_str()], Credential::Token(token)).unwrap();
    let refused = Mesh::join(config).await.unwrap_err();
    assert!(matches!(refused, JoinError::Identity { .. }), "{refused}");
    assert!(
        refused.to_string().contains("service/rates is not the control plane"),
        "{refused}"
    );
    assert_eq!(seen.load(Ordering::Relaxed), 0);
}

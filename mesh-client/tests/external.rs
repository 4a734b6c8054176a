//! What is outside the mesh and called by a name: where it is found, how it is spoken to, and what it is never taken for.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod support;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::extract::Request;
use axum::routing::any;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use mesh_client::client::{Body, Client, Failure};
use mesh_client::{ClientOptions, Deadline, Mesh};
use rcgen::{CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use support::control::ControlPlane;
use support::dns::Dns;
use support::eventually;
use support::served::{Served, hello, served};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A server that knows nothing of the mesh: it says its own name, and what it was told. Stops when dropped.
struct Outsider {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
    serving: tokio::task::JoinHandle<()>,
}

impl Drop for Outsider {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Outsider {
    async fn start(name: &'static str) -> Self {
        Self::start_with(name, None, false).await
    }

    async fn start_with(name: &'static str, tls: Option<TlsAcceptor>, http2: bool) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let tells = move |request: Request| {
            count.fetch_add(1, Ordering::Relaxed);
            async move {
                if request.uri().path().starts_with("/never") {
                    std::future::pending::<()>().await;
                }
                let host = request.headers().get("host").map(|host| host.to_str().unwrap().to_owned());
                let host = host
                    .or_else(|| Some(request.uri().authority()?.to_string()))
                    .unwrap_or_default();
                let of_the_mesh = ["x-heddle-caller", "x-heddle-timeout-ms", "x-forwarded-client-cert"];
                let leaked = of_the_mesh
                    .iter()
                    .filter(|name| request.headers().contains_key(**name))
                    .count();
                format!("{name} {host} {} {:?} {leaked}", request.uri().path(), request.version())
            }
        };
        let service = TowerToHyperService::new(Router::new().fallback(any(tells)));
        let serving = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (service, tls) = (service.clone(), tls.clone());
                connections.spawn(async move {
                    let Some(tls) = tls else {
                        return serve(stream, service, http2).await;
                    };
                    if let Ok(stream) = tls.accept(stream).await {
                        serve(stream, service, http2).await;
                    }
                });
            }
        });
        Self { address, asked, serving }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

async fn serve<S>(stream: S, service: TowerToHyperService<Router>, http2: bool)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let stream = TokioIo::new(stream);
    // A peer that goes away is no failure of the test.
    let _ = if http2 {
        let http2 = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        http2.serve_connection(stream, service).await
    } else {
        hyper::server::conn::http1::Builder::new()
            .serve_connection(stream, service)
            .await
    };
}

fn fixed(name: &str, at: &[&Outsider], keys: &str) -> String {
    let endpoints: Vec<_> = at.iter().map(|one| format!("\"{}\"", one.address)).collect();
    format!("[external.{name}]\nendpoints = [{}]\n{keys}\n", endpoints.join(", "))
}

async fn text(client: &Client, url: &str) -> String {
    client.get(url).await.unwrap().into_body().text().await.unwrap()
}

async fn failure(client: &Client, url: &str) -> Option<Failure> {
    client.get(url).await.err().map(|error| error.failure())
}

#[tokio::test]
async fn fixed_endpoints_are_called_by_name_and_told_nothing_of_the_mesh() {
    let control = ControlPlane::start().await;
    let (one, other) = (Outsider::start("one").await, Outsider::start("other").await);
    let document = fixed("partner", &[&one, &other], "");
    control.apply(Some(&format!("{document}[services.partner]\nbalance = \"round-robin\"\n")));
    let shop = control.join("shop").await;
    let client = shop.client();
    let request = || {
        let mut request = http::Request::get("http://partner.mesh/eur?x=1").body(Body::empty()).unwrap();
        let caller = serde_json::json!({"sub": "alice", "exp": 9_999_999_999_u64});
        let serde_json::Value::Object(claims) = caller else {
            unreachable!()
        };
        request.extensions_mut().insert(mesh_client::Caller::new(claims).unwrap());
        request
            .extensions_mut()
            .insert(Deadline::after(std::time::Duration::from_secs(60)));
        request
    };
    for _ in 0..6 {
        let answer = client.request(request()).await.unwrap();
        let endpoint = answer.extensions().get::<mesh_client::discovery::Endpoint>().unwrap().clone();
        assert!(endpoint.is_external());
        let name = if endpoint.address() == one.address.to_string() {
            "one"
        } else {
            "other"
        };
        let expected = format!("{name} {} /eur HTTP/1.1 0", endpoint.address());
        assert_eq!(answer.into_body().text().await.unwrap(), expected);
    }
    assert_eq!((one.asked(), other.asked()), (3, 3));

    // One that is gone costs nobody a request, by the same means as between services.
    drop(one);
    for _ in 0..20 {
        let answer = client.request(request()).await.unwrap().into_body().text().await.unwrap();
        assert!(answer.starts_with("other "), "{answer}");
    }
    for _ in 0..10 {
        // A client that knows nothing of it yet, and tries nothing again.
        let shop = control.join("shop").await;
        let client = shop.client_with(ClientOptions::default().without_retries());
        let post = http::Request::post("http://partner.mesh/").body(Body::full("once")).unwrap();
        assert!(client.request(post).await.is_ok());
    }
}

#[tokio::test]
async fn routes_breakers_and_ejection_are_the_same_as_between_services() {
    let control = ControlPlane::start().await;
    let partner = Outsider::start("partner").await;
    let routes = r#"
[services.partner]
breaker = { max_connections = 1 }
[[routes]]
name = "moved"
to = ["partner"]
match = { path = "/old/{id}" }
rewrite = { path = "/new/{id}", host = "api.partner.test" }
[[routes]]
name = "slow"
to = ["partner"]
match = { path = "/never" }
timeout = "100ms"
"#;
    control.apply(Some(&format!(
        "{}{routes}",
        fixed("partner", &[&partner], "host = \"partner.test\"")
    )));
    let shop = control.join("shop").await;
    let client = shop.client();
    let port = partner.address.port();
    assert_eq!(
        text(&client, "http://partner.mesh/").await,
        format!("partner partner.test:{port} / HTTP/1.1 0")
    );
    assert_eq!(
        text(&client, "http://partner.mesh/old/7").await,
        "partner api.partner.test /new/7 HTTP/1.1 0"
    );

    // Over HTTP/1.1 each request that is under way has a connection of its own.
    let asked = partner.asked();
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.get("http://partner.mesh/never-ending").await }
    });
    eventually("a request is under way", || async { partner.asked() > asked }).await;
    assert_eq!(failure(&client, "http://partner.mesh/").await, Some(Failure::Full));
    waiting.abort();
    eventually("its connection is gone", || async {
        failure(&client, "http://partner.mesh/never").await == Some(Failure::Timeout)
    })
    .await;
    control.apply(Some(&fixed("partner", &[&partner], "protocol = \"tcp\"")));
    eventually("it is no HTTP any more", || async {
        failure(&client, "http://partner.mesh/").await == Some(Failure::Mismatch)
    })
    .await;
}

#[tokio::test]
async fn neither_tunnels_nor_websockets_are_carried_there() {
    let control = ControlPlane::start().await;
    let partner = Outsider::start("partner").await;
    control.apply(Some(&fixed("partner", &[&partner], "")));
    let shop = control.join("shop").await;
    let request = http::Request::connect("http://partner.mesh/chat")
        .extension(hyper::ext::Protocol::from_static("websocket"))
        .body(Body::empty())
        .unwrap();
    let error = shop.client().request(request).await.unwrap_err();
    assert_eq!(error.failure(), Failure::Mismatch);
    assert!(error.to_string().contains("WebSockets"), "{error}");
    assert_eq!(partner.asked(), 0);
}

#[tokio::test]
async fn a_name_is_in_the_mesh_or_outside_and_nothing_falls_back_to_plain_text() {
    let control = ControlPlane::start().await;
    let partner = Outsider::start("partner").await;
    // Somebody registers what is not theirs to be called as: a server without an identity.
    control.pretend("partner", partner.address);
    let shop = control.join("shop").await;
    let client = shop.client();
    let error = client.get("http://partner.mesh/").await.unwrap_err();
    assert_eq!((error.failure(), partner.asked()), (Failure::Connect, 0), "{error}");
    let _accounts = Served::start(&control, "accounts", hello()).await;
    served(&control, "accounts", 1).await;
    assert_eq!(text(&client, "http://accounts.mesh/").await, "hello");

    // The document decides, and it alone.
    control.apply(Some(&fixed("partner", &[&partner], "")));
    eventually("it is outside", || async { client.get("http://partner.mesh/").await.is_ok() }).await;
    control.apply(Some(""));
    eventually("it is not outside any more", || async {
        failure(&client, "http://partner.mesh/").await == Some(Failure::Connect)
    })
    .await;
    let asked = partner.asked();
    for _ in 0..5 {
        assert_eq!(failure(&client, "http://partner.mesh/").await, Some(Failure::Connect));
    }
    assert_eq!(partner.asked(), asked);
}

async fn join_with(control: &ControlPlane, dns: &Dns) -> Mesh {
    Mesh::join(control.config("shop").dns([dns.address])).await.unwrap()
}

#[tokio::test]
async fn srv_records_say_where_and_in_which_order_and_are_followed() {
    let control = ControlPlane::start().await;
    let dns = Dns::start().await;
    let (first, heavy, backup) = (
        Outsider::start("first").await,
        Outsider::start("heavy").await,
        Outsider::start("backup").await,
    );
    let ports = [&first, &heavy, &backup].map(|one| one.address.port());
    for name in ["first.test", "heavy.test", "backup.test"] {
        dns.addresses(name, 60, &[LOOPBACK]);
    }
    let records = [
        (10, 1, ports[0], "first.test"),
        (10, 9, ports[1], "heavy.test"),
        (20, 100, ports[2], "backup.test"),
    ];
    dns.services("_http._tcp.partner.test", 1, &records);
    let document = "[external.partner]\nsrv = \"_http._tcp.partner.test\"\n[services.partner]\nbalance = \"round-robin\"\n";
    control.apply(Some(document));
    let shop = join_with(&control, &dns).await;
    let client = shop.client();
    let answer = text(&client, "http://partner.mesh/").await;
    assert!(answer.contains(".test:"), "it is told by which name it was found: {answer}");
    for _ in 0..39 {
        text(&client, "http://partner.mesh/").await;
    }
    assert_eq!((first.asked() + heavy.asked(), backup.asked()), (40, 0));
    assert!((1..=10).contains(&first.asked()), "a tenth of 40: {}", first.asked());

    // With those of the first priority gone, the next serves.
    drop((first, heavy));
    // A request that was on its way when they went may be lost.
    eventually("the next priority serves", || async {
        client.get("http://partner.mesh/").await.is_ok()
    })
    .await;
    for _ in 0..10 {
        let answer = text(&client, "http://partner.mesh/").await;
        assert!(answer.starts_with("backup backup.test:"), "{answer}");
    }

    // What the records say later is followed, once the time of the last answer is over.
    let moved = Outsider::start("moved").await;
    dns.services("_http._tcp.partner.test", 1, &[(1, 0, moved.address.port(), "backup.test")]);
    eventually("the service has moved", || async {
        text(&client, "http://partner.mesh/").await.starts_with("moved ")
    })
    .await;
    let asked = backup.asked();
    for _ in 0..10 {
        text(&client, "http://partner.mesh/").await;
    }
    assert_eq!(backup.asked(), asked);
}

/// How often DNS answered, or failed to.
fn lookups(mesh: &Mesh, outcome: &str) -> u64 {
    let mark = format!("heddle_mesh_dns_lookups_total{{service=\"partner\",outcome=\"{outcome}\"}} ");
    let metrics = mesh.metrics();
    let count = metrics.lines().find_map(|line| line.strip_prefix(&mark));
    count.map_or(0, |count| count.parse().unwrap())
}

#[tokio::test]
async fn while_dns_is_dead_the_last_answer_is_used_and_an_answer_that_nothing_is_there_is_heeded() {
    let control = ControlPlane::start().await;
    let dns = Dns::start().await;
    let partner = Outsider::start("partner").await;
    let port = partner.address.port();
    dns.addresses("api.partner.test", 1, &[LOOPBACK]);
    control.apply(Some(&format!(
        "[external.partner]\ndns = \"api.partner.test\"\nport = {port}\n"
    )));
    let shop = join_with(&control, &dns).await;
    let client = shop.client();
    let expected = format!("partner api.partner.test:{port} / HTTP/1.1 0");
    assert_eq!(text(&client, "http://partner.mesh/").await, expected);
    assert!(lookups(&shop, "answered") > 0);
    dns.die(true);
    eventually("DNS has failed", || async { lookups(&shop, "failed") > 0 }).await;
    for _ in 0..10 {
        assert_eq!(text(&client, "http://partner.mesh/").await, expected);
    }
    dns.die(false);
    dns.addresses("api.partner.test", 1, &[]);
    eventually("it is nowhere", || async {
        failure(&client, "http://partner.mesh/").await == Some(Failure::NoEndpoint)
    })
    .await;
    dns.addresses("api.partner.test", 1, &[LOOPBACK]);
    eventually("it is back", || async { client.get("http://partner.mesh/").await.is_ok() }).await;
}

#[tokio::test]
async fn where_dns_never_answered_a_call_says_so_in_time() {
    let control = ControlPlane::start().await;
    let dns = Dns::start().await;
    control.apply(Some("[external.partner]\ndns = \"nobody.test\"\nport = 80\n"));
    let shop = join_with(&control, &dns).await;
    assert_eq!(
        failure(&shop.client(), "http://partner.mesh/").await,
        Some(Failure::NoEndpoint)
    );
    assert_eq!(lookups(&shop, "failed"), 0, "that there is no such name is an answer");
}

/// An authority of the web, and a server's end of TLS with a certificate for `name` from it.
fn authority(name: &str) -> (String, TlsAcceptor, TlsAcceptor) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let root = params.self_signed(&key).unwrap();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec![name.to_owned()])
        .unwrap()
        .signed_by(&key, &issuer)
        .unwrap();
    let acceptor = |alpn: &[u8]| {
        let chain: Vec<CertificateDer<'static>> = vec![leaf.der().clone()];
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, PrivatePkcs8KeyDer::from(key.serialize_der()).into())
            .unwrap();
        config.alpn_protocols = vec![alpn.to_vec()];
        TlsAcceptor::from(Arc::new(config))
    };
    (root.pem(), acceptor(b"http/1.1"), acceptor(b"h2"))
}

#[tokio::test]
async fn tls_is_verified_by_name_and_authority_and_http2_is_agreed_on() {
    let control = ControlPlane::start().await;
    let (ca, http1, http2) = authority("api.partner.test");
    let (other_ca, ..) = authority("api.partner.test");
    let old = Outsider::start_with("old", Some(http1), false).await;
    let new = Outsider::start_with("new", Some(http2), true).await;
    let plain = Outsider::start_with("plain", None, true).await;
    let tls = |ca: &str, host: &str| format!("tls = true\nhost = \"{host}\"\nca = \"\"\"\n{ca}\"\"\"");
    let (right, misnamed) = (tls(&ca, "api.partner.test"), tls(&ca, "api.other.test"));
    let document = [
        fixed("old", &[&old], &right),
        fixed("new", &[&new], &format!("protocol = \"grpc\"\n{right}")),
        fixed("h2c", &[&plain], "protocol = \"http2\""),
        fixed("misnamed", &[&old], &misnamed),
        fixed("untrusted", &[&old], &tls(&other_ca, "api.partner.test")),
        fixed("unagreed", &[&old], &format!("protocol = \"http2\"\n{right}")),
        fixed("unencrypted", &[&plain], &right),
    ];
    control.apply(Some(&document.concat()));
    let shop = control.join("shop").await;
    let client = shop.client();
    let says = async |name: &str, at: &Outsider, version: &str| {
        let port = at.address.port();
        let expected = format!("{name} api.partner.test:{port} / HTTP/{version} 0");
        assert_eq!(text(&client, &format!("http://{name}.mesh/")).await, expected);
    };
    says("old", &old, "1.1").await;
    says("new", &new, "2.0").await;
    let answer = text(&client, "http://h2c.mesh/").await;
    assert_eq!(answer, format!("plain {} / HTTP/2.0 0", plain.address));
    for (name, why) in [
        ("misnamed", Failure::Identity),
        ("untrusted", Failure::Identity),
        ("unencrypted", Failure::Connect),
    ] {
        let asked = old.asked() + plain.asked();
        let error = client.get(&format!("http://{name}.mesh/")).await.unwrap_err();
        assert_eq!(error.failure(), why, "{name}: {error}");
        assert_eq!(old.asked() + plain.asked(), asked, "{name}");
    }
    assert_eq!(failure(&client, "http://unagreed.mesh/").await, Some(Failure::Connect));
}

#[tokio::test]
async fn opaque_connections_lead_there_too() {
    let control = ControlPlane::start().await;
    let (ca, tls, _) = authority("db.partner.test");
    let listeners = [
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap(),
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap(),
    ];
    let ports = [&listeners[0], &listeners[1]].map(|one| one.local_addr().unwrap().port());
    let [plain, encrypted] = listeners;
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = plain.accept().await.unwrap();
            stream.write_all(b"plain: ").await.unwrap();
            let (mut from, mut to) = stream.split();
            let _ = tokio::io::copy(&mut from, &mut to).await;
        }
    });
    tokio::spawn(async move {
        loop {
            let (stream, _) = encrypted.accept().await.unwrap();
            let Ok(mut stream) = tls.accept(stream).await else { continue };
            stream.write_all(b"encrypted: ").await.unwrap();
            let (mut from, mut to) = tokio::io::split(stream);
            let _ = tokio::io::copy(&mut from, &mut to).await;
            let _ = to.shutdown().await;
        }
    });
    let external = |name: &str, port: u16, keys: &str| {
        format!("[external.{name}]\nendpoints = [\"127.0.0.1:{port}\"]\nprotocol = \"tcp\"\n{keys}\n")
    };
    let right = format!("tls = true\nhost = \"db.partner.test\"\nca = \"\"\"\n{ca}\"\"\"");
    let wrong = right.replace("db.partner.test", "db.other.test");
    let document = [
        external("plain", ports[0], ""),
        external("encrypted", ports[1], &right),
        external("misnamed", ports[1], &wrong),
    ];
    control.apply(Some(&document.concat()));
    let shop = control.join("shop").await;
    for name in ["plain", "encrypted"] {
        let mut stream = shop.connect(name).await.unwrap();
        assert!(stream.endpoint().unwrap().is_external());
        stream.write_all(b"PING").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut heard = String::new();
        stream.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, format!("{name}: PING"));
    }
    let error = shop.connect("misnamed").await.unwrap_err();
    assert_eq!(error.failure(), Failure::Identity, "{error}");
    let called = shop.get("http://plain.mesh/").await.unwrap_err();
    assert_eq!(called.failure(), Failure::Mismatch, "{called}");
}

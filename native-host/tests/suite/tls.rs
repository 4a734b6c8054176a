//! TLS in front.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use native_host::{EngineKind, Options};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, HandshakeKind};

use crate::support::authority::{Authority, TlsStream, connect};
use crate::support::guest::built;
use crate::support::{Client, Gateway, Upstream, eventually, everything_to, gateway_in, ok};

const BOTH: &[&rustls::SupportedProtocolVersion] = &[&TLS13, &TLS12];

const ONE: &str = "[gateway]\ntls = { cert_file = \"a.pem\", key_file = \"a.key\" }\n";

/// A gateway that shows a certificate for `a.test`; its upstream answers with the scheme that it is told.
fn front(authority: &Authority, change: impl FnOnce(&mut Options)) -> Gateway {
    let folder = tempfile::tempdir().unwrap();
    authority.issue(folder.path(), "a", &["a.test"]);
    let upstream = Upstream::answering(|request| ok(request.header("x-forwarded-proto").unwrap()));
    gateway_in(
        folder,
        &(ONE.to_owned() + &everything_to(upstream.address)),
        EngineKind::Native,
        change,
    )
}

fn get(stream: &mut TlsStream) -> String {
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn shown(stream: &TlsStream) -> &[u8] {
    stream.conn.peer_certificates().unwrap()[0].as_ref()
}

fn holds(certificate: &[u8], name: &str) -> bool {
    certificate.windows(name.len()).any(|window| window == name.as_bytes())
}

#[test]
fn requests_over_tls_13_and_12_reach_the_upstream_as_https() {
    let authority = Authority::new();
    let gateway = front(&authority, |_| {});
    for version in BOTH {
        let client = authority.client(&[version], &["http/1.1"]);
        let mut stream = connect(&client, gateway.address(), "a.test").unwrap();
        assert_eq!(stream.conn.protocol_version(), Some(version.version));
        assert_eq!(stream.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
        let answer = get(&mut stream);
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("https"), "{answer}");
    }
}

#[test]
fn a_client_that_offers_both_gets_http_2() {
    let authority = Authority::new();
    let gateway = front(&authority, |_| {});
    let client = authority.client(BOTH, &["h2", "http/1.1"]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let socket = tokio::net::TcpStream::connect(gateway.address()).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(client);
        let stream = connector.connect("a.test".try_into().unwrap(), socket).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        let request = Request::get("https://a.test/").body(Empty::<Bytes>::new()).unwrap();
        let answer = sender.send_request(request).await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "https");
    });
}

#[test]
fn a_client_that_speaks_neither_protocol_is_refused() {
    let authority = Authority::new();
    let gateway = front(&authority, |_| {});
    let client = authority.client(BOTH, &["spdy/3"]);
    let refused = connect(&client, gateway.address(), "a.test").unwrap_err();
    assert!(refused.to_string().contains("NoApplicationProtocol"), "{refused}");
}

#[test]
fn curl_speaks_http_2_and_http_1_with_it() {
    let authority = Authority::new();
    let gateway = front(&authority, |_| {});
    let root = gateway.folder().join("root.pem");
    std::fs::write(&root, authority.root_pem()).unwrap();
    let port = gateway.address().port();
    for (option, version) in [("--http2", "2"), ("--http1.1", "1.1")] {
        let mut curl = Command::new("curl");
        curl.args([
            "--silent",
            "--show-error",
            option,
            "--write-out",
            " %{http_version}",
            "--cacert",
        ])
        .arg(&root)
        .args([
            "--resolve",
            &format!("a.test:{port}:127.0.0.1"),
            &format!("https://a.test:{port}/"),
        ]);
        let Ok(output) = curl.output() else {
            eprintln!("leaving out curl, which is not installed here");
            return;
        };
        assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("https {version}"));
    }
}

#[test]
fn sessions_resume_and_handshakes_are_counted() {
    let authority = Authority::new();
    let gateway = front(&authority, |_| {});
    for version in BOTH {
        let client = authority.client(&[version], &[]);
        let kinds: Vec<_> = (0..2)
            .map(|_| {
                let mut stream = connect(&client, gateway.address(), "a.test").unwrap();
                // TLS 1.3 sends its tickets after the handshake.
                get(&mut stream);
                stream.conn.handshake_kind().unwrap()
            })
            .collect();
        assert_eq!(kinds, [HandshakeKind::Full, HandshakeKind::Resumed], "{version:?}");
    }
    let metrics = gateway.admin("/metrics");
    for counted in ["{result=\"full\"} 2", "{result=\"resumed\"} 2"] {
        let counted = format!("heddle_tls_handshakes_total{counted}");
        assert!(metrics.text().contains(&counted), "{counted}: {}", metrics.text());
    }
}

/// Certificates for `a.test`, for `*.b.test`, and for nobody else.
fn two_names(authority: &Authority) -> Gateway {
    let folder = tempfile::tempdir().unwrap();
    authority.issue(folder.path(), "a", &["a.test", "127.0.0.1"]);
    authority.issue(folder.path(), "b", &["*.b.test"]);
    let tls = "[gateway]\ntls = [\n  { cert_file = \"a.pem\", key_file = \"a.key\" },\n  { cert_file = \"b.pem\", key_file = \"b.key\" },\n]\n";
    let routes = "[[routes]]\nmatch = { path_prefix = \"/\" }\nrespond = { status = 200 }\n";
    gateway_in(folder, &format!("{tls}{routes}"), EngineKind::Native, |_| {})
}

#[test]
fn the_certificate_is_the_one_for_the_name_that_the_client_asks_for() {
    let authority = Authority::new();
    let gateway = two_names(&authority);
    let client = authority.client(BOTH, &[]);
    for (host, expected) in [
        ("a.test", "a.test"),
        ("x.b.test", "*.b.test"),
        ("X.B.Test", "*.b.test"),
        ("127.0.0.1", "a.test"),
    ] {
        let stream = connect(&client, gateway.address(), host).unwrap();
        assert!(holds(shown(&stream), expected), "{host}");
    }
}

#[test]
fn a_name_that_no_certificate_has_is_refused() {
    let authority = Authority::new();
    let gateway = two_names(&authority);
    let client = authority.client(BOTH, &[]);
    for host in ["c.test", "b.test", "y.x.b.test", "xa.test"] {
        let refused = connect(&client, gateway.address(), host).unwrap_err();
        // The alert is the server's: the client has seen no certificate that it could refuse.
        assert!(
            refused.to_string().contains("AlertReceived") || refused.to_string().contains("alert"),
            "{host}: {refused}"
        );
    }
    eventually("the failures are counted", || {
        gateway
            .admin("/metrics")
            .text()
            .contains("heddle_tls_handshakes_total{result=\"failed\"} 4")
            .then_some(())
    });
}

#[test]
fn plaintext_to_the_tls_port_is_refused() {
    let authority = Authority::new();
    let upstream = Upstream::answering(|_| ok("leaked"));
    let folder = tempfile::tempdir().unwrap();
    authority.issue(folder.path(), "a", &["a.test"]);
    let config = ONE.to_owned() + &everything_to(upstream.address);
    let gateway = gateway_in(folder, &config, EngineKind::Native, |_| {});
    let mut socket = TcpStream::connect(gateway.address()).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    socket.write_all(b"GET / HTTP/1.1\r\nhost: a.test\r\n\r\n").unwrap();
    let mut said = Vec::new();
    // What is left unread resets the connection, which is as good an end as any.
    socket.read_to_end(&mut said).ok();
    assert!(!String::from_utf8_lossy(&said).contains("HTTP/"), "{said:?}");
    assert_eq!(upstream.made(), 0);
}

/// What comes back for a ClientHello (RFC 5246 §7.4.1.2) that is right in all but, perhaps, its version: one suite
/// (ECDHE-ECDSA with AES-128-GCM), no compression, P-256, uncompressed points, ECDSA with P-256.
fn answer_to_hello(gateway: &Gateway, version: [u8; 2]) -> Vec<u8> {
    let mut hello = version.to_vec();
    hello.extend([7; 32]);
    hello.extend([0, 0, 2, 0xc0, 0x2b, 1, 0]);
    hello.extend([0, 22]);
    hello.extend([0, 10, 0, 4, 0, 2, 0, 23]);
    hello.extend([0, 11, 0, 2, 1, 0]);
    hello.extend([0, 13, 0, 4, 0, 2, 4, 3]);
    let length = u8::try_from(hello.len()).unwrap();
    let mut record = vec![22, 3, 1, 0, length + 4, 1, 0, 0, length];
    record.extend(hello);
    let mut socket = TcpStream::connect(gateway.address()).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    socket.write_all(&record).unwrap();
    let mut said = vec![0; 7];
    socket.read_exact(&mut said).unwrap();
    said
}

#[test]
fn tls_11_is_refused() {
    let authority = Authority::new();
    let gateway = front(&authority, |_| {});
    let handshake = answer_to_hello(&gateway, [3, 3])[0];
    assert_eq!(handshake, 22, "TLS 1.2 would have been answered");
    // A fatal alert, protocol_version (RFC 8446 §6.2).
    let said = answer_to_hello(&gateway, [3, 2]);
    assert_eq!((said[0], &said[5..]), (21, &[2, 70][..]), "{said:?}");
}

#[test]
fn a_client_that_never_finishes_its_handshake_is_closed_and_counted() {
    let authority = Authority::new();
    let gateway = front(&authority, |options| {
        options.limits.handshake_timeout = Duration::from_millis(50)
    });
    let mut mute = Client::connect(gateway.address());
    assert!(mute.closes());
    eventually("the timeout is counted", || {
        gateway
            .admin("/metrics")
            .text()
            .contains("heddle_tls_handshakes_total{result=\"timeout\"} 1")
            .then_some(())
    });
}

#[test]
fn no_more_handshakes_than_the_limit_are_under_way() {
    let authority = Authority::new();
    let gateway = front(&authority, |options| {
        options.limits.handshakes = 1;
        options.limits.handshake_timeout = Duration::from_millis(400);
    });
    let _mute = Client::connect(gateway.address());
    eventually("the mute one is accepted", || {
        gateway
            .admin("/metrics")
            .text()
            .contains("http_server_open_connections 1\n")
            .then_some(())
    });
    let client = authority.client(BOTH, &[]);
    let began = std::time::Instant::now();
    let mut stream = connect(&client, gateway.address(), "a.test").unwrap();
    assert!(began.elapsed() > Duration::from_millis(200), "{:?}", began.elapsed());
    assert!(get(&mut stream).ends_with("https"));
}

#[test]
fn the_drain_does_not_wait_for_handshakes_but_for_requests() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    authority.issue(folder.path(), "a", &["a.test"]);
    let upstream = Upstream::answering(|_| {
        std::thread::sleep(Duration::from_millis(400));
        ok("finished")
    });
    let config = ONE.to_owned() + &everything_to(upstream.address);
    let mut gateway = gateway_in(folder, &config, EngineKind::Native, |_| {});
    let _mute = Client::connect(gateway.address());
    let client: Arc<ClientConfig> = authority.client(BOTH, &[]);
    let mut stream = connect(&client, gateway.address(), "a.test").unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a.test\r\n\r\n").unwrap();
    eventually("the request is under way", || (upstream.made() == 1).then_some(()));
    let began = std::time::Instant::now();
    assert_eq!(gateway.shutdown().join().unwrap(), 0);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("finished"), "{answer}");
}

#[test]
fn the_component_is_served_over_tls() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    authority.issue(folder.path(), "a", &["a.test"]);
    let upstream = Upstream::answering(|request| ok(request.header("x-forwarded-proto").unwrap()));
    let config = ONE.to_owned() + &everything_to(upstream.address);
    let gateway = gateway_in(folder, &config, EngineKind::Wasm, |options| options.component = Some(built()));
    let client = authority.client(BOTH, &[]);
    let mut stream = connect(&client, gateway.address(), "a.test").unwrap();
    assert!(get(&mut stream).ends_with("https"));
}

/// What `check` says of a `[gateway]` section, and its exit code.
fn check(authority: &Authority, tls: &str) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    authority.issue(at, "a", &["a.test"]);
    authority.issue(at, "b", &["b.test"]);
    let past = time::OffsetDateTime::now_utc() - time::Duration::days(1);
    authority.issue_until(at, "old", &["a.test"], past);
    authority.issue_until(at, "early", &["a.test"], past + time::Duration::days(200));
    authority.issue(at, "nameless", &[]);
    std::fs::write(at.join("junk.pem"), "junk").unwrap();
    std::fs::write(
        at.join("locked.key"),
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
    )
    .unwrap();
    let file = at.join("gateway.toml");
    std::fs::write(
        &file,
        format!("[gateway]\ntls = {tls}\n[[routes]]\nmatch = {{ path = \"/\" }}\nrespond = {{ status = 200 }}\n"),
    )
    .unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_native-host"))
        .args(["check", "--config"])
        .arg(&file)
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    (output.status.code(), said.replace(&format!("{}/", at.display()), ""))
}

#[test]
fn a_certificate_that_cannot_be_used_is_an_error_at_its_place() {
    let authority = Authority::new();
    for (tls, place, words) in [
        (
            "{ cert_file = \"x.pem\", key_file = \"a.key\" }",
            "2:21: error",
            "cannot read x.pem",
        ),
        (
            "{ cert_file = \"a.pem\", key_file = \"x.key\" }",
            "2:41: error",
            "cannot read x.key",
        ),
        (
            "{ cert_file = \"a.pem\", key_file = \"b.key\" }",
            "2:41: error",
            "not the key of the certificate",
        ),
        (
            "{ cert_file = \"a.key\", key_file = \"a.key\" }",
            "2:21: error",
            "it holds a private key",
        ),
        (
            "{ cert_file = \"junk.pem\", key_file = \"a.key\" }",
            "2:21: error",
            "there is no certificate",
        ),
        (
            "{ cert_file = \"a.pem\", key_file = \"a.pem\" }",
            "2:41: error",
            "there is no private key",
        ),
        (
            "{ cert_file = \"a.pem\", key_file = \"locked.key\" }",
            "2:41: error",
            "it is encrypted",
        ),
        ("{ cert_file = \"a.pem\" }", "2:7: error", "`key_file` is missing"),
        ("{ cert_file = \"a.pem\", key = \"a.key\" }", "2:30: error", "`key_file`"),
        ("[]", "2:7: error", "`tls` is an empty list"),
    ] {
        let (code, said) = check(&authority, tls);
        assert_eq!(code, Some(1), "{tls}: {said}");
        assert!(
            said.contains(&format!("gateway.toml:{place}")) && said.contains(words),
            "{tls}: {said}"
        );
    }
}

#[test]
fn a_certificate_that_clients_will_refuse_is_a_warning() {
    let authority = Authority::new();
    for (name, words) in [
        ("old", "expired at"),
        ("early", "is not valid before"),
        ("nameless", "is for no name"),
    ] {
        let (code, said) = check(
            &authority,
            &format!("{{ cert_file = \"{name}.pem\", key_file = \"{name}.key\" }}"),
        );
        assert_eq!(code, Some(0), "{name}: {said}");
        assert!(
            said.contains("gateway.toml:2:21: warning: ") && said.contains(words),
            "{name}: {said}"
        );
    }
    let (code, said) = check(&authority, "{ cert_file = \"a.pem\", key_file = \"a.key\" }");
    assert_eq!((code, said.as_str()), (Some(0), ""));
}

#[test]
fn all_that_is_wrong_is_told_at_once() {
    let authority = Authority::new();
    let (_, said) = check(
        &authority,
        "{ cert_file = \"x.pem\", key_file = \"x.key\" }\nlistne = \"127.0.0.1:1\"",
    );
    assert_eq!(said.matches(": error: ").count(), 3, "{said}");
}

//! Credentials that change: what is made new with them, and what lives on.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use identity::Matcher;
use mesh_client::tls::{ClientTls, Rotation, ServerTls, Svid, SvidError, TlsError};
use rustls::HandshakeKind;
use support::authority::{Authority, Leaf};
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const LIMIT: Duration = Duration::from_secs(5);

/// Two ends that connect again and again.
struct Pair {
    client: ClientTls,
    server: Arc<ServerTls>,
    listener: TcpListener,
    rotate_client: Rotation,
    rotate_server: Rotation,
}

impl Pair {
    async fn new(authority: &Authority) -> Self {
        let (rotate_client, client) = authority.credentials("rates");
        let (rotate_server, server) = authority.credentials("accounts");
        let client = ClientTls::new(client, Matcher::Id(authority.id("accounts")));
        let server = Arc::new(ServerTls::of_member(server));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self {
            client,
            server,
            listener,
            rotate_client,
            rotate_server,
        }
    }

    /// Connects, and reads one byte, by when the session tickets have come too; the kind of the handshake at both ends.
    async fn connect(&self) -> (HandshakeKind, HandshakeKind) {
        let accept = async {
            let (stream, _) = self.listener.accept().await.unwrap();
            let (mut stream, peer) = self.server.accept(stream, LIMIT).await.unwrap();
            assert_eq!(
                peer.unwrap().id().path(),
                "/service/rates",
                "a resumed session names its peer too"
            );
            stream.write_all(b"x").await.unwrap();
            let kind = stream.get_ref().1.handshake_kind().unwrap();
            // Until the client has closed: a reset would take the tickets with it.
            let _ = stream.read(&mut [0]).await;
            kind
        };
        let connect = async {
            let stream = TcpStream::connect(self.listener.local_addr().unwrap()).await.unwrap();
            let (mut stream, _) = self.client.connect(stream).await.unwrap();
            stream.read_exact(&mut [0]).await.unwrap();
            stream.get_ref().1.handshake_kind().unwrap()
        };
        tokio::join!(connect, accept)
    }
}

fn is_resumed((client, server): (HandshakeKind, HandshakeKind)) -> bool {
    assert_eq!(client == HandshakeKind::Resumed, server == HandshakeKind::Resumed);
    client == HandshakeKind::Resumed
}

#[tokio::test]
async fn sessions_resume_within_one_generation_of_credentials() {
    let pair = Pair::new(&Authority::new("bank.example")).await;
    assert!(!is_resumed(pair.connect().await));
    assert!(is_resumed(pair.connect().await));
}

#[tokio::test]
async fn no_session_outlives_the_identity_of_the_one_who_connects() {
    let bank = Authority::new("bank.example");
    let pair = Pair::new(&bank).await;
    pair.connect().await;
    pair.rotate_client.replace_svid(bank.service("rates").svid());
    assert!(!is_resumed(pair.connect().await));
    assert!(is_resumed(pair.connect().await));
}

#[tokio::test]
async fn no_session_outlives_the_identity_of_the_one_who_listens() {
    let bank = Authority::new("bank.example");
    let pair = Pair::new(&bank).await;
    pair.connect().await;
    pair.rotate_server.replace_svid(bank.service("accounts").svid());
    assert!(!is_resumed(pair.connect().await));
}

/// An SVID of `service` that ends in so many seconds.
fn ending(authority: &Authority, service: &str, seconds: i64) -> Svid {
    let mut leaf = Leaf::of(authority.id(service).as_str());
    leaf.not_after = OffsetDateTime::now_utc() + time::Duration::seconds(seconds);
    authority.issue(&leaf).svid()
}

#[tokio::test]
async fn who_is_about_to_end_shows_its_identity_anew_and_so_hears_of_its_end() {
    let bank = Authority::new("bank.example");
    let pair = Pair::new(&bank).await;
    pair.rotate_client.replace_svid(ending(&bank, "rates", 10));
    pair.connect().await;
    assert!(!is_resumed(pair.connect().await));
}

#[tokio::test]
async fn a_resumed_session_does_not_hide_that_the_one_who_listens_has_ended() {
    let bank = Authority::new("bank.example");
    let pair = Pair::new(&bank).await;
    pair.rotate_server.replace_svid(ending(&bank, "accounts", 2));
    pair.connect().await;
    assert!(is_resumed(pair.connect().await));
    tokio::time::sleep(Duration::from_millis(3100)).await;
    let connect = async {
        let stream = TcpStream::connect(pair.listener.local_addr().unwrap()).await.unwrap();
        pair.client.connect(stream).await.map(drop).unwrap_err()
    };
    let accept = async {
        let (stream, _) = pair.listener.accept().await.unwrap();
        let _ = pair.server.accept(stream, LIMIT).await;
    };
    let (refused, ()) = tokio::join!(connect, accept);
    assert!(matches!(refused, TlsError::Svid(SvidError::Expired)), "{refused}");
}

#[tokio::test]
async fn a_root_that_is_withdrawn_takes_its_sessions_with_it() {
    let bank = Authority::new("bank.example");
    let next = Authority::new("bank.example");
    let pair = Pair::new(&bank).await;
    pair.connect().await;
    pair.rotate_server.replace_bundle(next.bundle());
    let refused = async {
        let (stream, _) = pair.listener.accept().await.unwrap();
        pair.server.accept(stream, LIMIT).await.map(drop).unwrap_err()
    };
    let connect = async {
        let stream = TcpStream::connect(pair.listener.local_addr().unwrap()).await.unwrap();
        if let Ok((mut stream, _)) = pair.client.connect(stream).await {
            let _ = stream.read(&mut [0]).await;
        }
    };
    assert!(tokio::join!(refused, connect).0.is_identity());
}

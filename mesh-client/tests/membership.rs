//! Being a member: joining, draining, rotating, coming back, leaving.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::get;
use identity::{Matcher, ServiceName};
use mesh_client::client::{Body, Failure};
use mesh_client::discovery::{Endpoint, Health, Source};
use mesh_client::tls::ClientTls;
use mesh_client::{ClientOptions, Config, Credential, JoinError, Mesh, ServeError};
use support::control::ControlPlane;
use support::eventually;
use support::served::{Served, hello, known, served};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, oneshot};

#[tokio::test]
async fn a_member_whose_svid_has_ended_is_told_so_as_a_matter_of_identity() {
    let control = ControlPlane::start().await;
    let _accounts = Served::start(&control, "accounts", hello()).await;
    served(&control, "accounts", 1).await;
    control.state.life.store(1, Ordering::Relaxed);
    let rates = control.join("rates").await;
    known(&rates, "accounts", 1).await;
    control.stop().await;
    eventually("the certificate is refused", || async {
        let fresh = rates.client_with(ClientOptions::default().without_retries());
        match fresh.get("http://accounts.mesh/").await {
            Ok(_) => false,
            Err(error) => {
                assert_eq!((error.failure(), error.is_untouched()), (Failure::Identity, true), "{error}");
                true
            }
        }
    })
    .await;
}

#[tokio::test]
async fn an_identity_that_is_taken_away_is_talked_to_no_more() {
    let control = ControlPlane::start().await;
    let mesh = control.join("accounts").await;
    let _accounts = Served::start_as(mesh.clone(), "accounts", hello()).await;
    served(&control, "accounts", 1).await;
    let (rates, cards) = (control.join("rates").await, control.join("cards").await);
    rates.get("http://accounts.mesh/").await.unwrap();
    cards.get("http://accounts.mesh/").await.unwrap();
    control.revoke(&rates);
    eventually("it is not served any more", || async {
        rates.get("http://accounts.mesh/").await.is_err()
    })
    .await;
    cards.get("http://accounts.mesh/").await.unwrap();
    control.revoke(&mesh);
    eventually("it is not called any more", || async {
        cards.get("http://accounts.mesh/").await.is_err()
    })
    .await;
    let error = cards.get("http://accounts.mesh/").await.unwrap_err();
    assert_eq!(error.failure(), Failure::Identity, "{error}");
}

#[tokio::test]
async fn what_an_endpoint_says_of_itself_reaches_its_callers() {
    let control = ControlPlane::start().await;
    let config = control.config("accounts").attributes("2.1.0", "eu-1a");
    let accounts = Mesh::join(config.weight(7.try_into().unwrap())).await.unwrap();
    let _accounts = Served::start_as(accounts, "accounts", hello()).await;
    served(&control, "accounts", 1).await;
    let rates = control.join("rates").await;
    let answer = rates.get("http://accounts.mesh/").await.unwrap();
    let endpoint = answer.extensions().get::<Endpoint>().unwrap();
    let said = (endpoint.version(), endpoint.zone(), endpoint.weight(), endpoint.health());
    assert_eq!(said, ("2.1.0", "eu-1a", 7, Health::Unknown));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_fails_no_request() {
    let control = ControlPlane::start().await;
    let first = Served::start(&control, "accounts", hello()).await;
    let _second = Served::start(&control, "accounts", hello()).await;
    served(&control, "accounts", 2).await;
    let rates = control.join("rates").await;
    known(&rates, "accounts", 2).await;
    let client = rates.client();
    let draining = Arc::new(AtomicBool::new(true));
    let calls = (0..8).map(|_| {
        let (client, draining) = (client.clone(), Arc::clone(&draining));
        tokio::spawn(async move {
            let mut count = 0;
            while draining.load(Ordering::Relaxed) {
                // A POST, so that nothing but what nobody saw is tried again.
                let request = http::Request::post("http://accounts.mesh/").body(Body::full("x")).unwrap();
                client.request(request).await.unwrap().into_body().bytes().await.unwrap();
                count += 1;
            }
            count
        })
    });
    let calls: Vec<_> = calls.collect();
    first.stop().await;
    assert_eq!(control.served("accounts"), 1);
    draining.store(false, Ordering::Relaxed);
    for call in calls {
        assert!(call.await.unwrap() > 0);
    }
}

#[tokio::test]
async fn a_drain_lets_what_is_in_flight_finish() {
    let control = ControlPlane::start().await;
    let (entered, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (inside, released) = (Arc::clone(&entered), Arc::clone(&release));
    let slow = Router::new().route(
        "/",
        get(move || async move {
            inside.notify_one();
            released.notified().await;
            "finished"
        }),
    );
    let accounts = Served::start(&control, "accounts", slow).await;
    served(&control, "accounts", 1).await;
    let rates = control.join("rates").await;
    let call = tokio::spawn(async move {
        rates
            .get("http://accounts.mesh/")
            .await
            .unwrap()
            .into_body()
            .text()
            .await
            .unwrap()
    });
    entered.notified().await;
    let stopping = tokio::spawn(accounts.stop());
    served(&control, "accounts", 0).await;
    release.notify_one();
    assert_eq!(call.await.unwrap(), "finished");
    stopping.await.unwrap();
}

/// The last stream of each GOAWAY that an idle peer is sent, until the connection is closed (RFC 9113 §4.1, §6.8). Says when it is
/// connected.
async fn goodbyes(mesh: &Mesh, expected: Matcher, address: SocketAddr, connected: oneshot::Sender<()>) -> Vec<u32> {
    let tls = ClientTls::new(mesh.credentials(), expected);
    let (mut stream, _) = tls.connect(TcpStream::connect(address).await.unwrap()).await.unwrap();
    let settings = |flags| [0, 0, 0, 4, flags, 0, 0, 0, 0];
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    stream.write_all(&settings(0)).await.unwrap();
    let (mut goodbyes, mut head) = (Vec::new(), [0; 9]);
    let mut connected = Some(connected);
    while stream.read_exact(&mut head).await.is_ok() {
        let [a, b, c, kind, flags, ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        stream.read_exact(&mut payload).await.unwrap();
        if let Some(connected) = connected.take() {
            connected.send(()).unwrap();
        }
        match (kind, flags) {
            (4, 0) => stream.write_all(&settings(1)).await.unwrap(),
            (6, 0) => {
                head[4] = 1;
                stream.write_all(&[&head[..], &payload].concat()).await.unwrap();
            }
            (7, _) => goodbyes.push(u32::from_be_bytes(payload[..4].try_into().unwrap())),
            _ => {}
        }
    }
    goodbyes
}

#[tokio::test]
async fn a_drain_says_goaway_twice_so_that_no_request_crosses_the_last_word() {
    let control = ControlPlane::start().await;
    let accounts = Served::start(&control, "accounts", hello()).await;
    served(&control, "accounts", 1).await;
    let rates = control.join("rates").await;
    let address = accounts.address;
    let expected = Matcher::Id(control.state.authority.id("accounts"));
    let (connected, connects) = oneshot::channel();
    let heard = tokio::spawn(async move { goodbyes(&rates, expected, address, connected).await });
    connects.await.unwrap();
    accounts.stop().await;
    assert_eq!(heard.await.unwrap(), [u32::MAX >> 1, 0]);
}

#[tokio::test]
async fn a_drain_ends_at_its_deadline_whatever_hangs() {
    let control = ControlPlane::start().await;
    let entered = Arc::new(Notify::new());
    let inside = Arc::clone(&entered);
    let stuck = Router::new().route(
        "/",
        get(move || async move {
            inside.notify_one();
            std::future::pending::<()>().await;
        }),
    );
    let config = control.config("accounts").drain(Duration::from_millis(500));
    let accounts = Served::start_as(Mesh::join(config).await.unwrap(), "accounts", stuck).await;
    served(&control, "accounts", 1).await;
    let rates = control.join("rates").await;
    let caller = rates.client_with(ClientOptions::default().without_retries());
    let call = tokio::spawn(async move { caller.get("http://accounts.mesh/").await });
    entered.notified().await;
    // A peer that never shakes hands has five seconds to do so, but not of a server that leaves.
    let _silent = TcpStream::connect(accounts.address).await.unwrap();
    let begun = Instant::now();
    accounts.stop().await;
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    let broken = call.await.unwrap().unwrap_err();
    assert_eq!(broken.failure(), Failure::Reset, "{broken}");
}

/// A relay that stops to relay when it is told, without a word to either end.
async fn relay(to: SocketAddr, frozen: Arc<AtomicBool>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (near, _) = listener.accept().await.unwrap();
            let far = TcpStream::connect(to).await.unwrap();
            let (near, far) = (near.into_split(), far.into_split());
            for (mut from, mut to) in [(near.0, far.1), (far.0, near.1)] {
                let frozen = Arc::clone(&frozen);
                tokio::spawn(async move {
                    let mut buffer = vec![0; 16 * 1024];
                    while let Ok(length @ 1..) = from.read(&mut buffer).await {
                        if frozen.load(Ordering::Relaxed) {
                            std::future::pending::<()>().await;
                        }
                        if to.write_all(&buffer[..length]).await.is_err() {
                            return;
                        }
                    }
                });
            }
        }
    });
    address
}

#[tokio::test]
async fn a_control_plane_that_falls_silent_is_reached_at_its_other_address_within_the_lease() {
    let control = ControlPlane::start().await;
    control.state.lease_ms.store(1500, Ordering::Relaxed);
    let frozen = Arc::new(AtomicBool::new(false));
    let addresses = [relay(control.address, Arc::clone(&frozen)).await, control.address].map(|address| address.to_string());
    let credential = Credential::Token(control.token("accounts"));
    let config = Config::new(addresses.iter().map(String::as_str), credential).unwrap();
    let _accounts = Served::start_as(Mesh::join(config).await.unwrap(), "accounts", hello()).await;
    let heartbeats = || control.state.heartbeats.load(Ordering::Relaxed);
    eventually("the lease is kept", || async { heartbeats() > 0 }).await;
    frozen.store(true, Ordering::Relaxed);
    let (before, begun) = (heartbeats(), Instant::now());
    eventually("the lease is kept another way", || async { heartbeats() > before + 2 }).await;
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "the keep-alive of the connection takes longer"
    );
}

#[tokio::test]
async fn members_go_on_without_the_control_plane_and_come_back_by_themselves() {
    let control = ControlPlane::start().await;
    control.state.lease_ms.store(300, Ordering::Relaxed);
    let _accounts = Served::start(&control, "accounts", hello()).await;
    served(&control, "accounts", 1).await;
    let rates = control.join("rates").await;
    rates.get("http://accounts.mesh/").await.unwrap();
    let stopped = control.stop().await;
    for _ in 0..20 {
        // A client of its own has no connection yet.
        rates.client().get("http://accounts.mesh/").await.unwrap();
    }
    let control = stopped.start(false).await;
    eventually("the endpoint registers again", || async { control.served("accounts") == 1 }).await;
    assert!(control.state.registrations.load(Ordering::Relaxed) >= 2);
    let _second = Served::start(&control, "accounts", hello()).await;
    known(&rates, "accounts", 2).await;
}

#[tokio::test]
async fn what_was_last_known_is_used_where_the_watch_does_not_answer() {
    let control = ControlPlane::start().await;
    let directory = tempfile::tempdir().unwrap();
    let _accounts = Served::start(&control, "accounts", hello()).await;
    served(&control, "accounts", 1).await;
    let before = Mesh::join(control.config("rates").state_dir(directory.path())).await.unwrap();
    before.get("http://accounts.mesh/").await.unwrap();
    drop(before);
    control.state.deaf.store(true, Ordering::Relaxed);
    let after = Mesh::join(control.config("rates").state_dir(directory.path())).await.unwrap();
    after.get("http://accounts.mesh/").await.unwrap();
    let accounts = ServiceName::new("accounts").unwrap();
    assert_eq!(after.endpoints(&accounts).borrow().source, Source::Saved);
    control.state.deaf.store(false, Ordering::Relaxed);
    after
        .endpoints(&accounts)
        .wait_for(|snapshot| snapshot.source == Source::Control)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn identities_rotate_under_load_without_a_failed_request() {
    let control = ControlPlane::start().await;
    control.state.life.store(2, Ordering::Relaxed);
    let _accounts = Served::start(&control, "accounts", hello()).await;
    served(&control, "accounts", 1).await;
    let client = control.join("rates").await;
    // No retries: what rotation breaks must show.
    let caller = client.client_with(ClientOptions::default().without_retries());
    let running = Arc::new(AtomicBool::new(true));
    let calls: Vec<_> = (0..4)
        .map(|_| {
            let (caller, running) = (caller.clone(), Arc::clone(&running));
            tokio::spawn(async move {
                while running.load(Ordering::Relaxed) {
                    let answer = caller.get("http://accounts.mesh/").await.unwrap();
                    assert_eq!(answer.into_body().text().await.unwrap(), "hello");
                }
            })
        })
        .collect();
    eventually("both renewed thrice", || async {
        control.state.renewals.load(Ordering::Relaxed) >= 6
    })
    .await;
    running.store(false, Ordering::Relaxed);
    for call in calls {
        call.await.unwrap();
    }
}

#[tokio::test]
async fn dropping_the_last_handle_leaves_the_mesh() {
    let control = ControlPlane::start().await;
    let mesh = control.join("accounts").await;
    let listening = mesh.bind("accounts").await.unwrap();
    let serving = tokio::spawn(listening.serve(hello(), std::future::pending()));
    served(&control, "accounts", 1).await;
    mesh.leave();
    serving.await.unwrap().unwrap();
    assert_eq!(control.served("accounts"), 0);
    let rates = control.join("rates").await;
    known(&rates, "accounts", 0).await;
    let mut endpoints = rates.endpoints(&ServiceName::new("accounts").unwrap());
    drop(rates);
    // The watch ends with the member; nothing keeps it alive.
    let ended = async { while endpoints.changed().await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(20), ended).await.unwrap();
}

#[tokio::test]
async fn a_client_that_outlives_its_member_says_so() {
    let control = ControlPlane::start().await;
    let client = control.join("rates").await.client();
    assert_eq!(
        client.get("http://accounts.mesh/").await.unwrap_err().failure(),
        Failure::Left
    );
}

#[tokio::test]
async fn a_token_is_good_for_its_own_service_once_and_in_its_own_mesh() {
    let control = ControlPlane::start().await;
    let address = control.address.to_string();
    let join = |token, service: Option<&str>| {
        let config = Config::new([address.as_str()], Credential::Token(token)).unwrap();
        Mesh::join(match service {
            Some(service) => config.service(ServiceName::new(service).unwrap()),
            None => config,
        })
    };
    let token = control.token("accounts");
    let accounts = join(token.clone(), Some("accounts")).await.unwrap();
    assert!(matches!(join(token, None).await, Err(JoinError::Refused(_))));
    assert!(matches!(
        join(control.token("accounts"), Some("rates")).await,
        Err(JoinError::OtherService { .. })
    ));
    assert!(matches!(
        accounts.bind("rates").await.map(drop),
        Err(ServeError::OtherService { .. })
    ));
    let other = ControlPlane::start().await;
    let error = join(other.token("accounts"), None).await.unwrap_err();
    assert!(matches!(error, JoinError::Identity { .. }), "{error}");
    assert!(error.to_string().contains("the token of another mesh"), "{error}");
}

#[tokio::test]
async fn a_control_plane_that_is_not_there_is_named() {
    let control = ControlPlane::start().await;
    let config = control.config("accounts").join_timeout(Duration::from_millis(200));
    let address = control.stop().await.address();
    let error = Mesh::join(config).await.unwrap_err();
    assert!(matches!(error, JoinError::Unreachable { .. }), "{error}");
    assert!(
        error.to_string().contains(&address.to_string()) && error.to_string().contains("mesh-runtime serve"),
        "{error}"
    );
}

#[tokio::test]
async fn the_second_address_serves_where_the_first_is_dead() {
    let control = ControlPlane::start().await;
    let dead = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string();
    let addresses = [dead, control.address.to_string()];
    let config = Config::new(
        addresses.iter().map(String::as_str),
        Credential::Token(control.token("accounts")),
    )
    .unwrap();
    assert_eq!(Mesh::join(config).await.unwrap().id().path(), "/service/accounts");
}

#[tokio::test]
async fn an_operators_credential_makes_a_member_whatever_it_serves_as() {
    let control = ControlPlane::start().await;
    let _rates = Served::start(&control, "rates", hello()).await;
    served(&control, "rates", 1).await;
    let operator = || {
        Config::new(
            [control.address.to_string().as_str()],
            Credential::Operator(control.token("operator")),
        )
        .unwrap()
    };
    let mesh = Mesh::join(operator()).await.unwrap();
    mesh.get("http://rates.mesh/").await.unwrap();
    let _accounts = Served::start_as(mesh.clone(), "accounts", hello()).await;
    served(&control, "accounts", 1).await;
    assert_eq!(mesh.id(), control.state.authority.id("accounts"));
    mesh.get("http://rates.mesh/").await.unwrap();
    let named = Mesh::join(operator().service(ServiceName::new("statements").unwrap()))
        .await
        .unwrap();
    assert!(
        matches!(named.bind("accounts").await.map(drop), Err(ServeError::OtherService { .. })),
        "a name that was given is kept"
    );
}

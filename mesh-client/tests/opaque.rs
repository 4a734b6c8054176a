//! Opaque connections: who gets one, what becomes of its bytes, and how it ends.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod support;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use mesh_client::client::{Failure, ResponseBody};
use mesh_client::opaque::{Arrival, Refusal, Stream};
use mesh_client::server::Limits;
use mesh_client::tls::Protocol;
use mesh_client::{Mesh, ServeError};
use support::control::ControlPlane;
use support::eventually;
use support::served::{Served, hello, known, served};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};

/// An opaque service that runs until it is told to stop.
struct Database {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    done: tokio::task::JoinHandle<Result<(), ServeError>>,
}

impl Database {
    async fn start<F>(control: &ControlPlane, service: impl Fn(Arrival) -> F + Clone + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::limited(control.join("database").await, Limits::default(), service).await
    }

    async fn limited<F>(mesh: Mesh, limits: Limits, service: impl Fn(Arrival) -> F + Clone + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listening = mesh.bind("database").await.unwrap().limits(limits).port(5432);
        let address = listening.address();
        let (stop, stopped) = oneshot::channel::<()>();
        let done = tokio::spawn(async move {
            let _mesh = mesh;
            listening.serve_opaque(service, async { drop(stopped.await) }).await
        });
        Self {
            address,
            stop: Some(stop),
            done,
        }
    }

    fn begin_to_stop(&mut self) {
        drop(self.stop.take());
    }

    async fn stopped(self) {
        self.done.await.unwrap().unwrap();
    }
}

/// Sends back what comes, to its end.
async fn echo(arrival: Arrival) {
    if let Ok(stream) = arrival.accept().await {
        let (mut from, mut to) = tokio::io::split(stream);
        if tokio::io::copy(&mut from, &mut to).await.is_ok() {
            let _ = to.shutdown().await;
        }
    }
}

async fn echoes(stream: &mut Stream, text: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut back = vec![0; text.len()];
    stream.read_exact(&mut back).await.unwrap();
    assert_eq!(back, text.as_bytes());
}

async fn failure(mesh: &Mesh) -> Failure {
    mesh.connect("database").await.unwrap_err().failure()
}

#[tokio::test]
async fn bytes_go_both_ways_and_each_end_knows_the_other() {
    let control = ControlPlane::start().await;
    let (seen, mut who) = mpsc::unbounded_channel();
    let database = Database::start(&control, move |arrival| {
        seen.send(arrival.peer().id().to_string()).unwrap();
        echo(arrival)
    })
    .await;
    served(&control, "database", 1).await;
    let shop = control.join("shop").await;
    let mut stream = shop.connect("database").await.unwrap();
    assert_eq!(who.recv().await.unwrap(), "spiffe://bank.example/service/shop");
    let endpoint = stream.endpoint().unwrap();
    assert_eq!(
        (endpoint.address(), endpoint.protocol()),
        (database.address.to_string().as_str(), Protocol::Tcp)
    );
    echoes(&mut stream, "first").await;

    // More than every buffer on the way holds, while somebody reads.
    let sent: Vec<u8> = (0..8_000_000u32).map(|byte| (byte % 251) as u8).collect();
    let (mut from, mut to) = tokio::io::split(stream);
    let expected = sent.clone();
    let writing = tokio::spawn(async move {
        to.write_all(&sent).await.unwrap();
        to.shutdown().await.unwrap();
    });
    let mut back = Vec::new();
    from.read_to_end(&mut back).await.unwrap();
    writing.await.unwrap();
    assert!(back == expected, "{} bytes came back", back.len());
}

#[tokio::test]
async fn an_identity_that_is_taken_away_loses_its_connections_at_either_end() {
    let control = ControlPlane::start().await;
    let mesh = control.join("database").await;
    let _database = Database::limited(mesh.clone(), Limits::default(), echo).await;
    served(&control, "database", 1).await;
    let (shop, cards) = (control.join("shop").await, control.join("cards").await);
    let mut streams = Vec::new();
    for member in [&shop, &cards] {
        let mut stream = member.connect("database").await.unwrap();
        echoes(&mut stream, "here").await;
        streams.push(stream);
    }
    let [theirs, other] = &mut streams[..] else { unreachable!() };
    control.revoke(&shop);
    assert!(
        !matches!(theirs.read(&mut [0]).await, Ok(1..)),
        "the caller is taken away, and who it called closes"
    );
    echoes(other, "still here").await;
    control.revoke(&mesh);
    let error = other.read(&mut [0]).await.unwrap_err();
    assert!(error.to_string().contains("revoked"), "whom it called is taken away: {error}");
}

#[tokio::test]
async fn the_end_of_one_direction_is_not_the_end_of_the_other() {
    let control = ControlPlane::start().await;
    // It says all that it has to say, hears the other to the end, and only then is done.
    let (heard, mut all) = mpsc::unbounded_channel();
    let _database = Database::start(&control, move |arrival: Arrival| {
        let heard = heard.clone();
        async move {
            let mut stream = arrival.accept().await.unwrap();
            stream.write_all(b"that is all").await.unwrap();
            stream.shutdown().await.unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).await.unwrap();
            heard.send(text).unwrap();
        }
    })
    .await;
    served(&control, "database", 1).await;
    let shop = control.join("shop").await;
    let mut stream = shop.connect("database").await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "that is all");
    stream.write_all(b"not for me").await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(all.recv().await.unwrap(), "not for me");
}

#[tokio::test]
async fn what_breaks_off_is_told_from_what_ends() {
    let control = ControlPlane::start().await;
    let _database = Database::start(&control, |arrival: Arrival| async move {
        let mut stream = arrival.accept().await.unwrap();
        stream.write_all(b"half of").await.unwrap();
        stream.flush().await.unwrap();
    })
    .await;
    served(&control, "database", 1).await;
    let shop = control.join("shop").await;
    let mut stream = shop.connect("database").await.unwrap();
    let mut text = String::new();
    let error = stream.read_to_string(&mut text).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof, "{error}");
}

#[tokio::test]
async fn an_endpoint_that_does_not_answer_costs_nobody_a_connection() {
    let control = ControlPlane::start().await;
    let refusing = Database::start(&control, |arrival: Arrival| arrival.refuse(Refusal::Unavailable)).await;
    served(&control, "database", 1).await;
    let shop = control.join("shop").await;
    assert_eq!(failure(&shop).await, Failure::Connect);
    let _answering = Database::start(&control, echo).await;
    let dead = control.join("database").await.bind("database").await.unwrap();
    control.pretend_opaque("database", dead.address());
    drop(dead);
    known(&shop, "database", 3).await;
    for _ in 0..20 {
        echoes(&mut shop.connect("database").await.unwrap(), "here").await;
    }
    drop(refusing);
}

#[tokio::test]
async fn nobody_else_is_taken_for_the_service() {
    let control = ControlPlane::start().await;
    let database = Database::start(&control, echo).await;
    control.pretend_opaque("ledger", database.address);
    let shop = control.join("shop").await;
    let error = shop.connect("ledger").await.unwrap_err();
    assert_eq!(error.failure(), Failure::Identity, "{error}");

    // Nor does anybody get in who shows nothing.
    let mut nobody = TcpStream::connect(database.address).await.unwrap();
    nobody.write_all(b"PING\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = nobody.read_to_end(&mut answer).await;
    assert!(!answer.ends_with(b"PING\r\n"), "{answer:?}");
}

#[tokio::test]
async fn a_service_is_called_by_the_protocol_that_it_declares_and_by_no_other() {
    let control = ControlPlane::start().await;
    let database = Database::start(&control, echo).await;
    let _accounts = Served::start(&control, "accounts", hello()).await;
    served(&control, "database", 1).await;
    served(&control, "accounts", 1).await;
    let shop = control.join("shop").await;
    let status = |answer: Result<http::Response<ResponseBody>, mesh_client::client::Error>| answer.unwrap_err();
    let error = status(shop.get("http://database.mesh/").await);
    assert_eq!(error.failure(), Failure::Mismatch);
    assert!(error.to_string().contains("opaque TCP"), "{error}");
    let error = shop.connect("accounts").await.unwrap_err();
    assert_eq!(error.failure(), Failure::Mismatch);
    assert!(error.to_string().contains("HTTP"), "{error}");
    assert_eq!(shop.connect("nobody").await.unwrap_err().failure(), Failure::NoEndpoint);
    assert_eq!(shop.connect("No Name").await.unwrap_err().failure(), Failure::Url);

    // A registry that says otherwise changes nothing: the ends do not agree.
    control.pretend("database", database.address);
    known(&shop, "database", 2).await;
    assert_eq!(status(shop.get("http://database.mesh/").await).failure(), Failure::Connect);
}

#[tokio::test]
async fn the_policy_admits_by_identity_and_port() {
    let control = ControlPlane::start().await;
    let deny = "[policy]\ndefault = \"deny\"\n";
    let allow = |rule: &str| format!("{deny}[[rules]]\nname = \"a\"\naction = \"allow\"\nto = [\"database\"]\n{rule}");
    control.apply(Some(&allow("from = [\"shop\"]\nports = [5432]")));
    let _database = Database::start(&control, echo).await;
    served(&control, "database", 1).await;
    let (shop, rates) = (control.join("shop").await, control.join("rates").await);
    let mut open = shop.connect("database").await.unwrap();
    echoes(&mut open, "allowed").await;
    assert_eq!(failure(&rates).await, Failure::Forbidden);

    // A rule of methods or paths has nothing to say about what has neither.
    for rule in ["methods = [\"GET\"]", "path_prefixes = [\"/accounts\"]", "ports = [5433]"] {
        control.apply(Some(&allow(&format!("from = [\"rates\"]\n{rule}"))));
        eventually("the policy is in force", || async {
            failure_of(&shop).await == Some(Failure::Forbidden)
        })
        .await;
        assert_eq!(failure(&rates).await, Failure::Forbidden, "{rule}");
        control.apply(Some(&allow("from = [\"shop\"]")));
        eventually("the policy is in force", || async { failure_of(&shop).await.is_none() }).await;
    }

    // What only watches refuses nobody.
    control.apply(Some("[policy]\ndefault = \"deny\"\nmode = \"audit\""));
    eventually("the policy is in force", || async { failure_of(&rates).await.is_none() }).await;
}

async fn failure_of(mesh: &Mesh) -> Option<Failure> {
    mesh.connect("database").await.err().map(|error| error.failure())
}

#[tokio::test]
async fn a_policy_that_closes_the_door_closes_what_is_open() {
    let control = ControlPlane::start().await;
    let _database = Database::start(&control, echo).await;
    served(&control, "database", 1).await;
    let (shop, rates) = (control.join("shop").await, control.join("rates").await);
    let (mut closed, mut kept) = (
        shop.connect("database").await.unwrap(),
        rates.connect("database").await.unwrap(),
    );
    echoes(&mut closed, "before").await;
    control.apply(Some("[[rules]]\nname = \"a\"\naction = \"deny\"\nfrom = [\"shop\"]"));
    let mut rest = Vec::new();
    assert!(closed.read_to_end(&mut rest).await.is_err(), "it is broken off");
    assert_eq!(failure(&shop).await, Failure::Forbidden);
    echoes(&mut kept, "after").await;
}

#[tokio::test]
async fn as_many_are_open_as_may_be() {
    let control = ControlPlane::start().await;
    let mut limits = Limits::default();
    limits.connections = 1;
    let _database = Database::limited(control.join("database").await, limits, echo).await;
    served(&control, "database", 1).await;
    let shop = control.join("shop").await;
    let mut only = shop.connect("database").await.unwrap();
    assert_eq!(failure(&shop).await, Failure::Overloaded);
    echoes(&mut only, "still here").await;
    drop(only);
    eventually("a place is free", || async { failure_of(&shop).await.is_none() }).await;
}

#[tokio::test]
async fn a_peer_that_does_not_read_holds_up_nobody_else_and_is_not_buffered_for() {
    let control = ControlPlane::start().await;
    let written = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&written);
    let _database = Database::start(&control, move |arrival: Arrival| {
        let counted = Arc::clone(&counted);
        async move {
            let mut stream = arrival.accept().await.unwrap();
            if stream.read_u8().await.is_ok_and(|first| first == b'e') {
                let _ = stream.write_all(b"echo").await;
                let _ = stream.shutdown().await;
                return;
            }
            while stream.write_all(&[0; 65_536]).await.is_ok() {
                counted.fetch_add(65_536, Ordering::Relaxed);
            }
        }
    })
    .await;
    served(&control, "database", 1).await;
    let shop = control.join("shop").await;
    let mut slow = Vec::new();
    for _ in 0..8 {
        let mut stream = shop.connect("database").await.unwrap();
        stream.write_u8(b'f').await.unwrap();
        stream.flush().await.unwrap();
        slow.push(stream);
    }
    let mut before = usize::MAX;
    let mut quiet = 0;
    eventually("the writer waits for the readers", || {
        let written = written.load(Ordering::Relaxed);
        quiet = if written > 0 && written == before { quiet + 1 } else { 0 };
        before = written;
        std::future::ready(quiet > 20)
    })
    .await;
    assert!(before < 8 * (32 << 20), "{before} bytes were taken for peers that read none");
    let mut other = shop.connect("database").await.unwrap();
    other.write_u8(b'e').await.unwrap();
    let mut text = String::new();
    other.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "echo");
}

#[tokio::test]
async fn the_drain_lets_connections_finish_until_its_deadline() {
    let control = ControlPlane::start().await;
    let mut database = Database::start(&control, echo).await;
    served(&control, "database", 1).await;
    let shop = control.join("shop").await;
    let mut stream = shop.connect("database").await.unwrap();
    database.begin_to_stop();
    served(&control, "database", 0).await;
    eventually("no new connection is accepted", || async {
        TcpStream::connect(database.address).await.is_err()
    })
    .await;
    echoes(&mut stream, "last words").await;
    stream.shutdown().await.unwrap();
    database.stopped().await;
    let mut rest = Vec::new();
    assert_eq!(stream.read_to_end(&mut rest).await.unwrap(), 0, "it ended, and did not break");

    let mut limits = Limits::default();
    limits.drain = Duration::from_millis(100);
    let mut database = Database::limited(control.join("database").await, limits, echo).await;
    known(&shop, "database", 1).await;
    let mut stream = shop.connect("database").await.unwrap();
    database.begin_to_stop();
    database.stopped().await;
    assert!(stream.read_to_end(&mut rest).await.is_err(), "it did not end by itself");
}

#[tokio::test]
async fn a_connection_outlives_the_certificate_that_opened_it() {
    let control = ControlPlane::start().await;
    control.state.life.store(3, Ordering::Relaxed);
    let _database = Database::start(&control, echo).await;
    served(&control, "database", 1).await;
    let shop = control.join("shop").await;
    let mut stream = shop.connect("database").await.unwrap();
    let begun = SystemTime::now();
    eventually("both certificates are over", || async {
        begun.elapsed().is_ok_and(|passed| passed > Duration::from_secs(4))
    })
    .await;
    echoes(&mut stream, "still here").await;
    echoes(&mut shop.connect("database").await.unwrap(), "and by a new one").await;
    // Of what opened it nobody knows any more. What is taken away is what the member has by now, and everything that is of the same entry.
    control.revoke(&shop);
    assert!(!matches!(stream.read(&mut [0]).await, Ok(1..)), "it is closed all the same");
}

/// To which endpoints as many connections go, one after the other.
async fn led_to(mesh: &Mesh, count: usize) -> Vec<String> {
    let mut led = Vec::new();
    for _ in 0..count {
        let stream = mesh.connect("database").await.unwrap();
        led.push(stream.endpoint().unwrap().address().to_owned());
    }
    led
}

#[tokio::test]
async fn connections_are_balanced_as_the_mesh_says() {
    let control = ControlPlane::start().await;
    let balanced = |keys: &str| control.apply(Some(&format!("[services.database]\n{keys}\n")));
    balanced("balance = \"round-robin\"");
    let (_one, _other) = (Database::start(&control, echo).await, Database::start(&control, echo).await);
    served(&control, "database", 2).await;
    let shop = control.join("shop").await;
    known(&shop, "database", 2).await;
    let turns = led_to(&shop, 12).await;
    assert!(turns.windows(2).all(|two| two[0] != two[1]), "{turns:?}");

    balanced("balance = \"ring-hash\"\nhash = \"source\"");
    eventually("one endpoint is this member's", || async {
        let led = led_to(&shop, 12).await;
        led.iter().all(|one| *one == led[0])
    })
    .await;

    // Where nothing is said, the one with the fewest: of two, what is open keeps the next away.
    control.apply(Some(""));
    eventually("nothing is said any more", || async {
        let led = led_to(&shop, 12).await;
        led.iter().any(|one| *one != led[0])
    })
    .await;
    let mut open = Vec::new();
    for _ in 0..12 {
        open.push(shop.connect("database").await.unwrap());
    }
    let at_first = open.iter().filter(|one| one.endpoint() == open[0].endpoint()).count();
    assert!((4..=8).contains(&at_first), "{at_first} of 12 are at one of two");
}

#[tokio::test]
async fn as_many_are_opened_as_the_breaker_admits() {
    let control = ControlPlane::start().await;
    control.apply(Some("[services.database]\nbreaker = { max_connections = 1 }"));
    let _database = Database::start(&control, echo).await;
    served(&control, "database", 1).await;
    let shop = control.join("shop").await;
    let mut only = shop.connect("database").await.unwrap();
    assert_eq!(failure(&shop).await, Failure::Full);
    echoes(&mut only, "still here").await;
    drop(only);
    shop.connect("database").await.unwrap();
}

#[tokio::test]
async fn an_endpoint_that_does_not_serve_gets_no_connection_while_another_does() {
    let control = ControlPlane::start().await;
    let (well, ill) = (Database::start(&control, echo).await, Database::start(&control, echo).await);
    served(&control, "database", 2).await;
    let shop = control.join("shop").await;
    known(&shop, "database", 2).await;
    control.sicken(ill.address);
    let only = well.address.to_string();
    eventually("it is known that one does not serve", || async {
        led_to(&shop, 20).await.iter().all(|one| *one == only)
    })
    .await;
}

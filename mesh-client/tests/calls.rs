//! Calls between members of one mesh: who answers, what streams, what fails and how.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use axum::body::Body as AxumBody;
use axum::extract::Request;
use axum::routing::{any, get, post};
use axum::{Extension, Json, Router};
use bytes::Bytes;
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use mesh_client::client::{Body, Client, Failure};
use mesh_client::discovery::Endpoint;
use mesh_client::{ClientOptions, Mesh, PeerIdentity};
use support::control::ControlPlane;
use support::eventually;
use support::served::{Served, hello, known, served};
use tokio::net::TcpListener;
use tower::Service as _;

#[tokio::test]
async fn a_service_is_called_by_its_name_and_knows_who_calls() {
    let control = ControlPlane::start().await;
    let who = |Extension(peer): Extension<PeerIdentity>, request: Request| async move {
        let forwarded: Vec<_> = request
            .headers()
            .get_all("x-forwarded-client-cert")
            .iter()
            .map(|value| value.to_str().unwrap().to_owned())
            .collect();
        Json((peer.id().to_string(), forwarded))
    };
    let accounts = Served::start(&control, "accounts", Router::new().route("/who", get(who))).await;
    served(&control, "accounts", 1).await;
    let statements = control.join("statements").await;
    let mut request = http::Request::get("http://accounts.mesh/who").body(Body::empty()).unwrap();
    request.headers_mut().insert(
        "x-forwarded-client-cert",
        "URI=spiffe://bank.example/service/director".parse().unwrap(),
    );
    let response = statements.client().call(request).await.unwrap();
    let endpoint = response.extensions().get::<Endpoint>().unwrap();
    assert_eq!(endpoint.address(), accounts.address.to_string());
    let (peer, forwarded): (String, Vec<String>) = response.into_body().json().await.unwrap();
    assert_eq!(peer, "spiffe://bank.example/service/statements");
    let [forwarded] = forwarded.as_slice() else {
        panic!("{forwarded:?}")
    };
    assert!(
        forwarded.starts_with("By=spiffe://bank.example/service/accounts;Hash="),
        "{forwarded}"
    );
    assert!(
        forwarded.ends_with(";URI=spiffe://bank.example/service/statements"),
        "{forwarded}"
    );
    accounts.stop().await;
}

#[test]
fn one_thread_is_enough_for_a_member() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let control = ControlPlane::start().await;
        let accounts = Served::start(&control, "accounts", hello()).await;
        served(&control, "accounts", 1).await;
        let text = control
            .join("rates")
            .await
            .get("http://accounts.mesh/")
            .await
            .unwrap()
            .into_body()
            .text()
            .await
            .unwrap();
        assert_eq!(text, "hello");
        accounts.stop().await;
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_stream_both_ways() {
    let control = ControlPlane::start().await;
    let echo = |request: Request| async { AxumBody::new(request.into_body()) };
    let _accounts = Served::start(&control, "accounts", Router::new().route("/echo", post(echo))).await;
    served(&control, "accounts", 1).await;
    let rates = control.join("rates").await;
    let client = rates.client();
    let (sender, receiver) = tokio::sync::mpsc::channel::<Bytes>(1);
    let frames = futures_util::stream::unfold(receiver, |mut receiver| async {
        let next = receiver.recv().await?;
        Some((Ok::<_, Infallible>(Frame::data(next)), receiver))
    });
    let request = http::Request::post("http://accounts.mesh/echo")
        .body(StreamBody::new(frames))
        .unwrap();
    sender.send("a".into()).await.unwrap();
    let mut body = client.request(request).await.unwrap().into_body();
    for part in ["a", "b", "c"] {
        if part != "a" {
            sender.send(part.into()).await.unwrap();
        }
        let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(frame, part, "each part comes back before the next is sent");
    }
    drop(sender);
    assert!(
        body.bytes().await.unwrap().is_empty(),
        "the end arrives, and nothing after the last part"
    );
}

#[tokio::test]
async fn a_stream_outlives_the_certificates_that_it_began_under() {
    let control = ControlPlane::start().await;
    control.state.life.store(3, Ordering::Relaxed);
    let echo = |request: Request| async { AxumBody::new(request.into_body()) };
    let config = control.config("accounts").drain(Duration::from_millis(50));
    let mesh = Mesh::join(config).await.unwrap();
    let _accounts = Served::start_as(mesh, "accounts", Router::new().route("/echo", post(echo))).await;
    served(&control, "accounts", 1).await;
    let rates = control.join("rates").await;
    let (sender, receiver) = tokio::sync::mpsc::channel::<Bytes>(1);
    let frames = futures_util::stream::unfold(receiver, |mut receiver| async {
        let next = receiver.recv().await?;
        Some((Ok::<_, Infallible>(Frame::data(next)), receiver))
    });
    let request = http::Request::post("http://accounts.mesh/echo").body(StreamBody::new(frames));
    sender.send("in time".into()).await.unwrap();
    let mut body = rates.client().request(request.unwrap()).await.unwrap().into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "in time");
    let begun = SystemTime::now();
    eventually("the certificates are over, and the drain would be", || async {
        begun.elapsed().is_ok_and(|passed| passed > Duration::from_secs(4))
    })
    .await;
    sender.send("later".into()).await.unwrap();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "later");
    drop(sender);
    assert!(body.bytes().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_megabyte_is_the_same_on_both_sides() {
    let control = ControlPlane::start().await;
    let echo = |body: Bytes| async { body };
    let router = Router::new()
        .route("/echo", post(echo))
        .layer(axum::extract::DefaultBodyLimit::disable());
    let _accounts = Served::start(&control, "accounts", router).await;
    served(&control, "accounts", 1).await;
    let sent: Bytes = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let request = http::Request::post("http://accounts.mesh/echo")
        .body(Body::full(sent.clone()))
        .unwrap();
    let rates = control.join("rates").await;
    let body = rates.client().request(request).await.unwrap().into_body();
    assert!(body.bytes().await.unwrap() == sent);
}

#[tokio::test]
async fn a_service_that_nobody_serves_has_no_endpoint() {
    let control = ControlPlane::start().await;
    let mesh = control.join("rates").await;
    let error = mesh.get("http://accounts.mesh/").await.unwrap_err();
    assert_eq!((error.failure(), error.is_untouched()), (Failure::NoEndpoint, true));
    assert_eq!(mesh.get("http://example.com/").await.unwrap_err().failure(), Failure::Url);
    assert_eq!(
        mesh.get("http://accounts.mesh:80/").await.unwrap_err().failure(),
        Failure::Url
    );
}

#[tokio::test]
async fn an_endpoint_that_is_somebody_else_is_refused() {
    let control = ControlPlane::start().await;
    let seen = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&seen);
    let router = Router::new().route(
        "/",
        any(move || async move { count.fetch_add(1, Ordering::Relaxed).to_string() }),
    );
    let rates = Served::start(&control, "rates", router).await;
    control.pretend("accounts", rates.address);
    let error = control
        .join("statements")
        .await
        .get("http://accounts.mesh/")
        .await
        .unwrap_err();
    assert_eq!((error.failure(), error.is_untouched()), (Failure::Identity, true), "{error}");
    assert_eq!(seen.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_dead_endpoint_is_gone_round_even_for_a_post() {
    let control = ControlPlane::start().await;
    let _accounts = Served::start(&control, "accounts", Router::new().route("/", post(|| async { "done" }))).await;
    served(&control, "accounts", 1).await;
    // Bound and closed again: nobody listens there.
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    control.pretend("accounts", dead);
    let rates = control.join("rates").await;
    known(&rates, "accounts", 2).await;
    let client = rates.client();
    for _ in 0..50 {
        assert_eq!(post_once(&client).await, "done");
    }
}

async fn post_once(client: &Client) -> String {
    let request = http::Request::post("http://accounts.mesh/").body(Body::full("once")).unwrap();
    client.request(request).await.unwrap().into_body().text().await.unwrap()
}

#[tokio::test]
async fn dead_endpoints_are_gone_round_without_retries_too() {
    let control = ControlPlane::start().await;
    let _accounts = Served::start(&control, "accounts", Router::new().route("/", post(|| async { "done" }))).await;
    served(&control, "accounts", 1).await;
    for _ in 0..5 {
        let dead = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        control.pretend("accounts", dead);
    }
    for _ in 0..10 {
        // A client that knows nothing of them yet.
        let rates = control.join("rates").await;
        known(&rates, "accounts", 6).await;
        let client = rates.client_with(ClientOptions::default().without_retries());
        assert_eq!(post_once(&client).await, "done");
    }
}

#[tokio::test]
async fn without_retries_a_dead_endpoint_is_a_connect_failure_that_nobody_saw() {
    let control = ControlPlane::start().await;
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    control.pretend("accounts", dead);
    let rates = control.join("rates").await;
    let client = rates.client_with(ClientOptions::default().without_retries());
    let error = client.get("http://accounts.mesh/").await.unwrap_err();
    assert_eq!((error.failure(), error.is_untouched()), (Failure::Connect, true));
    assert_eq!(error.endpoint().map(Endpoint::address), Some(dead.to_string().as_str()));
}

#[tokio::test]
async fn an_endpoint_that_does_not_speak_is_given_up_in_time() {
    let control = ControlPlane::start().await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    control.pretend("accounts", silent.local_addr().unwrap());
    let options = ClientOptions::default()
        .without_retries()
        .connect_timeout(Duration::from_millis(50));
    let rates = control.join("rates").await;
    let error = rates.client_with(options).get("http://accounts.mesh/").await.unwrap_err();
    assert_eq!(error.failure(), Failure::Connect);
    assert!(error.to_string().contains("50ms"), "{error}");
}

#[tokio::test]
async fn an_answer_that_does_not_come_in_time_is_a_timeout() {
    let control = ControlPlane::start().await;
    let slow = Router::new().route("/", get(std::future::pending::<String>));
    let _accounts = Served::start(&control, "accounts", slow).await;
    served(&control, "accounts", 1).await;
    let rates = control.join("rates").await;
    let client = rates.client_with(ClientOptions::default().response_timeout(Duration::from_millis(100)));
    let error = client.get("http://accounts.mesh/").await.unwrap_err();
    assert_eq!((error.failure(), error.is_untouched()), (Failure::Timeout, false));
}

//! Where calls go: what the mesh's document says of it, as members follow it while they run.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::any;
use http_body_util::BodyExt as _;
use hyper_util::rt::{TokioExecutor, TokioIo};
use identity::{Matcher, SpiffeId};
use mesh_client::client::{Body, Client, Failure};
use mesh_client::discovery::Endpoint;
use mesh_client::tls::ClientTls;
use mesh_client::{ClientOptions, Deadline, Mesh};
use support::control::ControlPlane;
use support::eventually;
use support::served::{Served, known, served};
use tokio::net::TcpStream;

/// Starts an endpoint of a version in a zone.
async fn start(control: &ControlPlane, name: &str, version: &str, zone: &str, router: Router) -> Served {
    let mesh = Mesh::join(control.config(name).attributes(version, zone)).await.unwrap();
    Served::start_as(mesh, name, router).await
}

fn says(what: &'static str) -> Router {
    Router::new().fallback(any(move || async move { what }))
}

async fn ask(client: &Client, url: &str, fields: &[(&'static str, &str)]) -> (u16, String) {
    let mut request = http::Request::get(url);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let response = client.request(request.body(Body::empty()).unwrap()).await.unwrap();
    (response.status().as_u16(), response.into_body().text().await.unwrap())
}

/// Waits until a client of this member acts by the document that was applied last: one that names what it answers.
async fn in_force(client: &Client, service: &str, what: &str) {
    eventually("the document is in force", || async {
        client
            .get(&format!("http://{service}.mesh/"))
            .await
            .is_ok_and(|answer| answer.headers().get("x-doc").is_some_and(|doc| doc == what))
    })
    .await;
}

fn document(service: &str, doc: &str, rest: &str) -> String {
    format!(
        "[[routes]]\nname = \"all\"\nto = [\"{service}\"]\nheaders = {{ response = {{ set = {{ x-doc = \"{doc}\" }} }} }}\n{rest}\n"
    )
}

#[tokio::test]
async fn a_split_and_a_canary_are_pushed_live_and_what_does_not_compile_changes_nothing() {
    let control = ControlPlane::start().await;
    let _one = start(&control, "accounts", "1", "", says("one")).await;
    let _two = start(&control, "accounts", "2", "", says("two")).await;
    served(&control, "accounts", 2).await;
    let canary =
        "[[routes]]\nname = \"canary\"\nto = [\"accounts\"]\nversion = \"2\"\nmatch = { headers = { x-canary = \"1\" } }\n";
    control.apply(Some(&(document("accounts", "a", "version = \"1\"") + canary)));
    let shop = control.join("shop").await;
    let client = shop.client();
    known(&shop, "accounts", 2).await;
    // A member waits for the document before its first call: not even that one goes astray.
    for _ in 0..30 {
        assert_eq!(ask(&client, "http://accounts.mesh/", &[]).await.1, "one");
        assert_eq!(ask(&client, "http://accounts.mesh/", &[("x-canary", "1")]).await.1, "two");
    }
    control.apply(Some("[[routes]]\nname = 1"));
    let split = "split = [{ version = \"1\", weight = 0 }, { version = \"2\", weight = 5 }]";
    control.apply(Some(&document("accounts", "b", split)));
    in_force(&client, "accounts", "b").await;
    for _ in 0..30 {
        assert_eq!(ask(&client, "http://accounts.mesh/", &[]).await.1, "two");
    }
    control.apply(Some(&document("accounts", "c", "version = \"3\"")));
    eventually("nobody is of the version", || async {
        client
            .get("http://accounts.mesh/")
            .await
            .is_err_and(|error| error.failure() == Failure::NoEndpoint)
    })
    .await;
    let nobody = "[[routes]]\nname = \"all\"\nto = [\"accounts\"]\nsplit = [{ weight = 0 }]";
    control.apply(Some(nobody));
    eventually("nobody gets anything", || async {
        client
            .get("http://accounts.mesh/")
            .await
            .is_err_and(|error| error.failure() == Failure::NoBackend)
    })
    .await;
}

#[tokio::test]
async fn a_route_rewrites_leads_to_another_service_and_sends_copies() {
    let control = ControlPlane::start().await;
    let echo = |request: Request| async move {
        let host = request.uri().authority().map(ToString::to_string);
        let id = request.headers().get("x-id").map(|id| id.to_str().unwrap().to_owned());
        format!(
            "{} {} {}",
            request.uri().path_and_query().unwrap(),
            host.unwrap_or_default(),
            id.unwrap_or_default()
        )
    };
    let copies = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&copies);
    let counting = move |request: Request| async move {
        let body = request.into_body().collect().await.unwrap().to_bytes();
        count.fetch_add(body.len() as u64, Ordering::Relaxed);
        StatusCode::INTERNAL_SERVER_ERROR
    };
    let _archive = start(&control, "archive", "", "", Router::new().fallback(any(echo))).await;
    let _shadow = start(&control, "shadow", "", "", Router::new().fallback(any(counting))).await;
    served(&control, "archive", 1).await;
    served(&control, "shadow", 1).await;
    let route = "service = \"archive\"\nmatch = { path = \"/old/{id}\" }\nrewrite = { path = \"/new/{id}\", host = \"old.internal\" }\n\
                 mirror = { service = \"shadow\" }";
    let headers = "headers = { request = { set = { x-id = \"{id}\" } } }";
    control.apply(Some(&format!(
        "[[routes]]\nname = \"old\"\nto = [\"accounts\"]\n{route}\n{headers}"
    )));
    let shop = control.join("shop").await;
    let client = shop.client();
    let request = http::Request::post("http://accounts.mesh/old/7?x=1")
        .body(Body::full("four"))
        .unwrap();
    let answer = client.request(request).await.unwrap();
    assert_eq!(answer.into_body().text().await.unwrap(), "/new/7?x=1 old.internal 7");
    eventually("the copy came with its body", || async {
        copies.load(Ordering::Relaxed) == 4
    })
    .await;
    let other = client.get("http://accounts.mesh/other").await.unwrap_err();
    assert_eq!(
        other.failure(),
        Failure::NoEndpoint,
        "no route takes it, and nobody serves accounts"
    );
}

#[tokio::test]
async fn a_route_tries_again_gives_up_and_goes_wrong_on_purpose() {
    let control = ControlPlane::start().await;
    let seen = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&seen);
    let every_third = move || async move {
        match count.fetch_add(1, Ordering::Relaxed) % 3 {
            2 => "served".into_response(),
            _ => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        }
    };
    let router = Router::new()
        .route("/flaky", any(every_third))
        .route("/slow", any(std::future::pending::<String>));
    let _accounts = start(&control, "accounts", "", "", router).await;
    served(&control, "accounts", 1).await;
    let text = r#"
[[routes]]
name = "flaky"
to = ["accounts"]
match = { path = "/flaky" }
retry = { attempts = 3, on = ["503"], backoff = "1ms..2ms" }

[[routes]]
name = "slow"
to = ["accounts"]
match = { path = "/slow" }
timeout = "100ms"

[[routes]]
name = "broken"
to = ["accounts"]
match = { path_prefix = "/broken" }
fault = { delay = { duration = "1ms" }, abort = { status = 418 } }
"#;
    control.apply(Some(text));
    let shop = control.join("shop").await;
    let client = shop.client();
    assert_eq!(
        ask(&client, "http://accounts.mesh/flaky", &[]).await,
        (200, "served".to_owned())
    );
    let post = http::Request::post("http://accounts.mesh/flaky")
        .body(Body::full("once"))
        .unwrap();
    assert_eq!(
        client.request(post).await.unwrap().status(),
        503,
        "what is not idempotent is not sent twice"
    );
    let own = shop.client_with(ClientOptions::default().without_retries());
    assert_eq!(
        ask(&own, "http://accounts.mesh/flaky", &[]).await.0,
        503,
        "a client that tries again itself"
    );

    let late = client.get("http://accounts.mesh/slow").await.unwrap_err();
    assert_eq!((late.failure(), late.is_untouched()), (Failure::Timeout, false));

    let before = seen.load(Ordering::Relaxed);
    let (status, body) = ask(&client, "http://accounts.mesh/broken/flaky", &[]).await;
    assert_eq!(status, 418);
    assert!(body.contains("fault-injected"), "{body}");
    let grpc = http::Request::post("http://accounts.mesh/broken")
        .header("content-type", "application/grpc")
        .body(Body::empty())
        .unwrap();
    let answer = client.request(grpc).await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["grpc-status"]),
        (200, &"14".parse().unwrap())
    );
    assert_eq!(seen.load(Ordering::Relaxed), before);
}

#[tokio::test]
async fn a_deadline_goes_along_from_hop_to_hop() {
    let control = ControlPlane::start().await;
    let left = |request: Request| async move {
        let field = request.headers().get("x-heddle-timeout-ms");
        field.map_or("none".to_owned(), |left| left.to_str().unwrap().to_owned())
    };
    let _last = start(&control, "last", "", "", Router::new().fallback(any(left))).await;
    let middle = control.join("middle").await;
    let client = middle.client();
    let hop = move |request: Request| async move {
        let told = request.extensions().get::<Deadline>().is_some();
        let answer = client.get("http://last.mesh/").await.unwrap();
        format!("{told} {}", answer.into_body().text().await.unwrap())
    };
    let _middle = Served::start_as(middle, "middle", Router::new().fallback(any(hop))).await;
    served(&control, "last", 1).await;
    served(&control, "middle", 1).await;
    let shop = control.join("shop").await;
    assert_eq!(ask(&shop.client(), "http://middle.mesh/", &[]).await.1, "false none");
    let patient = shop.client_with(ClientOptions::default().response_timeout(Duration::from_secs(20)));
    let told = ask(&patient, "http://middle.mesh/", &[]).await.1;
    let left: u64 = told.strip_prefix("true ").unwrap().parse().unwrap();
    assert!(left > 0 && left < 20_000, "{left}");
    // What the request itself says holds as well, in either field.
    for field in [("x-heddle-timeout-ms", "15000"), ("grpc-timeout", "15S")] {
        let told = ask(&patient, "http://middle.mesh/", &[field]).await.1;
        let left: u64 = told.strip_prefix("true ").unwrap().parse().unwrap();
        assert!(left > 0 && left < 15_000, "{left}");
    }
    let over = http::Request::get("http://last.mesh/")
        .header("x-heddle-timeout-ms", "0")
        .body(Body::empty())
        .unwrap();
    let error = shop.client().request(over).await.unwrap_err();
    assert_eq!((error.failure(), error.is_untouched()), (Failure::Timeout, true));
}

#[tokio::test]
async fn work_that_nobody_waits_for_is_refused_and_given_up_at_the_server() {
    let control = ControlPlane::start().await;
    let begun = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&begun);
    let slow = move || async move {
        count.fetch_add(1, Ordering::Relaxed);
        std::future::pending::<String>().await
    };
    let accounts = start(&control, "accounts", "", "", Router::new().fallback(any(slow))).await;
    served(&control, "accounts", 1).await;
    let shop = control.join("shop").await;
    // By a client of HTTP/2 that heeds no deadline.
    let id: SpiffeId = "spiffe://bank.example/service/accounts".parse().unwrap();
    let tls = ClientTls::new(shop.credentials(), Matcher::Id(id));
    let (stream, _) = tls
        .connect(TcpStream::connect(accounts.address).await.unwrap())
        .await
        .unwrap();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let mut send = async |left: &str, kind: &str| {
        let request = http::Request::post("http://accounts.mesh/")
            .header("x-heddle-timeout-ms", left)
            .header("content-type", kind)
            .body(Body::empty())
            .unwrap();
        let (head, body) = sender.send_request(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (head, String::from_utf8(body.to_vec()).unwrap())
    };
    let (head, body) = send("0", "text/plain").await;
    assert_eq!(head.status, 504);
    assert!(body.contains("deadline-exceeded"), "{body}");
    assert_eq!(begun.load(Ordering::Relaxed), 0, "it was not begun");
    let (head, _) = send("50", "application/grpc").await;
    assert_eq!(
        (head.status.as_u16(), &head.headers["grpc-status"]),
        (200, &"4".parse().unwrap())
    );
    assert_eq!(begun.load(Ordering::Relaxed), 1, "it was begun and given up");
}

#[tokio::test]
async fn an_endpoint_that_asks_to_be_left_alone_is() {
    let control = ControlPlane::start().await;
    let busy = || async { (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "30")], "busy") };
    let _busy = start(&control, "accounts", "", "", Router::new().fallback(any(busy))).await;
    let _free = start(&control, "accounts", "", "", says("free")).await;
    served(&control, "accounts", 2).await;
    let shop = control.join("shop").await;
    known(&shop, "accounts", 2).await;
    let client = shop.client();
    eventually("the busy one was asked once", || async {
        ask(&client, "http://accounts.mesh/", &[]).await.1 == "busy"
    })
    .await;
    for _ in 0..50 {
        assert_eq!(ask(&client, "http://accounts.mesh/", &[]).await.1, "free");
    }
}

#[tokio::test]
async fn what_fails_is_ejected_for_every_client_of_the_member() {
    let control = ControlPlane::start().await;
    let failing = || async { (StatusCode::INTERNAL_SERVER_ERROR, "broken") };
    let _broken = start(&control, "accounts", "", "", Router::new().fallback(any(failing))).await;
    let _sound = start(&control, "accounts", "", "", says("sound")).await;
    served(&control, "accounts", 2).await;
    let outlier = "outlier = { consecutive_failures = 3, ejection = \"1h\" }\nbalance = \"round-robin\"";
    control.apply(Some(&format!("[services.accounts]\n{outlier}")));
    let shop = control.join("shop").await;
    known(&shop, "accounts", 2).await;
    let mut broken = 0;
    for _ in 0..20 {
        // A client each: what is known of an endpoint is the member's.
        broken += u32::from(ask(&shop.client(), "http://accounts.mesh/", &[]).await.1 == "broken");
    }
    assert_eq!(broken, 3);
}

#[tokio::test]
async fn a_breaker_that_is_open_refuses_at_once() {
    let control = ControlPlane::start().await;
    let begun = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&begun);
    let slow = move || async move {
        count.fetch_add(1, Ordering::Relaxed);
        std::future::pending::<String>().await
    };
    let router = Router::new().route("/slow", any(slow)).fallback(any(|| async { "here" }));
    let _one = start(&control, "accounts", "", "", router.clone()).await;
    served(&control, "accounts", 1).await;
    let breaker = |limits: &str| format!("[services.accounts]\nbreaker = {{ {limits} }}");
    control.apply(Some(&breaker("max_requests = 1")));
    let shop = control.join("shop").await;
    let client = shop.client();
    assert_eq!(ask(&client, "http://accounts.mesh/", &[]).await.0, 200);
    let slow = client.clone();
    let held = tokio::spawn(async move { slow.get("http://accounts.mesh/slow").await.map(drop) });
    eventually("one is under way", || async { begun.load(Ordering::Relaxed) == 1 }).await;
    let refused = client.get("http://accounts.mesh/").await.unwrap_err();
    assert_eq!((refused.failure(), refused.is_untouched()), (Failure::Full, true));
    held.abort();
    eventually("it was given up", || async {
        client.get("http://accounts.mesh/").await.is_ok()
    })
    .await;

    control.apply(Some(&breaker("max_pending = 0")));
    eventually("nobody may wait for a connection", || async {
        shop.client()
            .get("http://accounts.mesh/")
            .await
            .is_err_and(|error| error.failure() == Failure::Full)
    })
    .await;
    assert_eq!(
        ask(&client, "http://accounts.mesh/", &[]).await.0,
        200,
        "who has one need not wait"
    );

    control.apply(Some(&breaker("max_connections = 1")));
    let _two = start(&control, "accounts", "", "", router).await;
    known(&shop, "accounts", 2).await;
    let seen = std::sync::Mutex::new(BTreeSet::new());
    eventually("both serve: the first connection to an endpoint is always made", || async {
        if let Ok(answer) = client.get("http://accounts.mesh/").await {
            let endpoint = answer.extensions().get::<Endpoint>().unwrap();
            seen.lock().unwrap().insert(endpoint.address().to_owned());
        }
        seen.lock().unwrap().len() == 2
    })
    .await;
}

#[tokio::test]
async fn a_ring_keeps_requests_of_one_value_together() {
    let control = ControlPlane::start().await;
    let _one = start(&control, "accounts", "", "", says("one")).await;
    let _two = start(&control, "accounts", "", "", says("two")).await;
    served(&control, "accounts", 2).await;
    let ring = |hash: &str| format!("[services.accounts]\nbalance = \"ring-hash\"\nhash = \"{hash}\"");
    control.apply(Some(&ring("cookie.session")));
    let shop = control.join("shop").await;
    known(&shop, "accounts", 2).await;
    let owner = async |client: &Client, session: &str| {
        ask(
            client,
            "http://accounts.mesh/",
            &[("cookie", &format!("a=b; session={session}"))],
        )
        .await
        .1
    };
    let rates = control.join("rates").await;
    known(&rates, "accounts", 2).await;
    let (client, other) = (shop.client(), rates.client());
    let mut owners = BTreeSet::new();
    for session in 0..20 {
        let session = session.to_string();
        let first = owner(&client, &session).await;
        assert_eq!(owner(&client, &session).await, first);
        assert_eq!(owner(&other, &session).await, first, "members agree");
        owners.insert(first);
    }
    assert_eq!(owners.len(), 2);
    control.apply(Some(&ring("source")));
    eventually("all requests of this member go to one endpoint", || async {
        let mut owners = BTreeSet::new();
        for session in 0..20 {
            owners.insert(owner(&client, &session.to_string()).await);
        }
        owners.len() == 1
    })
    .await;
}

#[tokio::test]
async fn a_member_asks_its_own_zone_as_long_as_that_serves() {
    let control = ControlPlane::start().await;
    let near = start(&control, "accounts", "", "a", says("near")).await;
    let _far = start(&control, "accounts", "", "b", says("far")).await;
    served(&control, "accounts", 2).await;
    control.apply(Some("[services.accounts]\nzone = { prefer = true }"));
    let shop = Mesh::join(control.config("shop").attributes("", "a")).await.unwrap();
    known(&shop, "accounts", 2).await;
    let client = shop.client();
    for _ in 0..30 {
        assert_eq!(ask(&client, "http://accounts.mesh/", &[]).await.1, "near");
    }
    near.stop().await;
    for _ in 0..10 {
        assert_eq!(ask(&client, "http://accounts.mesh/", &[]).await.1, "far");
    }
}

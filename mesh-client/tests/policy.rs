//! Who may talk to whom, as the members of a mesh see it.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use axum::Router;
use axum::extract::Request;
use axum::routing::any;
use mesh_client::Mesh;
use mesh_client::caller::{self, Caller};
use mesh_client::client::Body;
use support::control::ControlPlane;
use support::eventually;
use support::served::{Served, hello, served};

const ONLY_STATEMENTS: &str = r#"
[policy]
default = "deny"

[[rules]]
name = "statements-read"
action = "allow"
from = ["statements"]
to = ["accounts"]
methods = ["GET"]
path_prefixes = ["/accounts"]
"#;

fn echo_path() -> Router {
    Router::new().fallback(any(|request: Request| async move { request.uri().to_string() }))
}

async fn ask(mesh: &Mesh, method: &str, url: &str) -> (u16, String) {
    let request = http::Request::builder().method(method).uri(url).body(Body::empty()).unwrap();
    let response = mesh.client().request(request).await.unwrap();
    (response.status().as_u16(), response.into_body().text().await.unwrap())
}

#[tokio::test]
async fn a_policy_is_pushed_to_members_that_serve_and_judges_every_request() {
    let control = ControlPlane::start().await;
    let mesh = control.join("accounts").await;
    let _accounts = Served::start_as(mesh.clone(), "accounts", echo_path()).await;
    served(&control, "accounts", 1).await;
    let (statements, rates) = (control.join("statements").await, control.join("rates").await);
    assert_eq!(
        ask(&rates, "POST", "http://accounts.mesh/admin").await.0,
        200,
        "nothing was applied yet"
    );

    control.apply(Some(ONLY_STATEMENTS));
    eventually("the policy is in force", || async {
        ask(&rates, "GET", "http://accounts.mesh/accounts/1").await.0 == 403
    })
    .await;
    assert_eq!(ask(&statements, "GET", "http://accounts.mesh/accounts/1").await.0, 200);
    let (status, body) = ask(&statements, "POST", "http://accounts.mesh/accounts/1").await;
    assert_eq!(status, 403);
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["reason"], "forbidden");
    assert_eq!(ask(&statements, "GET", "http://accounts.mesh/admin").await.0, 403);
    let metrics = mesh.metrics();
    assert!(
        metrics.contains("heddle_mesh_requests_denied_total{rule=\"\",mode=\"enforce\"} "),
        "{metrics}"
    );

    control.apply(Some("this is no TOML"));
    control.apply(Some("[policy]\ndefault = \"allow\""));
    eventually("the next policy is in force, whatever came between", || async {
        ask(&rates, "GET", "http://accounts.mesh/accounts/1").await.0 == 200
    })
    .await;
}

#[tokio::test]
async fn what_is_judged_is_what_is_served() {
    let control = ControlPlane::start().await;
    control.apply(Some(ONLY_STATEMENTS));
    let _accounts = Served::start(&control, "accounts", echo_path()).await;
    served(&control, "accounts", 1).await;
    let statements = control.join("statements").await;
    for (path, answer) in [
        ("/accounts/../admin", (403, None)),
        ("/accounts/%2e%2e/admin", (403, None)),
        ("//accounts/1?x=%2e", (200, Some("/accounts/1?x=%2e"))),
        ("/accounts/%41", (200, Some("/accounts/A"))),
        ("/accounts/%zz", (400, None)),
        ("/accounts/%00", (400, None)),
    ] {
        let (status, body) = ask(&statements, "GET", &format!("http://accounts.mesh{path}")).await;
        assert_eq!(status, answer.0, "{path}: {body}");
        if let Some(served) = answer.1 {
            assert!(body.ends_with(served), "{path}: {body}");
        }
    }
}

#[tokio::test]
async fn a_policy_that_watches_refuses_nothing_and_counts() {
    let control = ControlPlane::start().await;
    let watching = ONLY_STATEMENTS.replace("[policy]", "[policy]\nmode = \"audit\"");
    control.apply(Some(&watching));
    let mesh = control.join("accounts").await;
    let _accounts = Served::start_as(mesh.clone(), "accounts", echo_path()).await;
    served(&control, "accounts", 1).await;
    let rates = control.join("rates").await;
    let (status, body) = ask(&rates, "DELETE", "http://accounts.mesh/accounts/../x").await;
    assert_eq!(status, 200);
    assert!(
        body.ends_with("/accounts/../x"),
        "a policy that watches changes nothing: {body}"
    );
    let metrics = mesh.metrics();
    assert!(
        metrics.contains("heddle_mesh_requests_denied_total{rule=\"\",mode=\"audit\"} 1"),
        "{metrics}"
    );
}

#[tokio::test]
async fn nobody_is_let_in_before_the_policy_is_known() {
    let control = ControlPlane::start().await;
    control.apply(None);
    let accounts = Served::start(&control, "accounts", hello()).await;
    control.pretend("accounts", accounts.address);
    let rates = control.join("rates").await;
    let early = mesh_client::ClientOptions::default()
        .without_retries()
        .connect_timeout(std::time::Duration::from_millis(300));
    rates.client_with(early).get("http://accounts.mesh/").await.unwrap_err();
    assert_eq!(control.served("accounts"), 1, "only the one that the test pretends");
    control.apply(Some(""));
    served(&control, "accounts", 2).await;
    assert_eq!(ask(&rates, "GET", "http://accounts.mesh/").await.0, 200);
}

const FOR_GOLD: &str = r#"
[policy]
default = "deny"
handoffs = ["ingress"]

[[rules]]
name = "gold"
action = "allow"
to = ["accounts"]
claims = { tier = "gold" }

[[rules]]
name = "health"
action = "allow"
paths = ["/health"]
"#;

/// Says on whose behalf it was asked: by the extension, and by the field that programs read.
fn echo_caller() -> Router {
    Router::new().fallback(any(|request: Request| async move {
        let caller = request.extensions().get::<Caller>().map(|caller| caller.subject().to_owned());
        let fields = request.headers().get_all(caller::X_HEDDLE_CALLER).iter().count();
        format!("{} {fields}", caller.as_deref().unwrap_or("nobody"))
    }))
}

fn alice(tier: &str, exp: u64) -> Caller {
    let claims = serde_json::json!({"sub": "alice", "exp": exp, "tier": tier});
    Caller::new(claims.as_object().unwrap().clone()).unwrap()
}

/// Asks on behalf of `caller`, with `fields` besides.
async fn ask_for(mesh: &Mesh, path: &str, caller: Option<Caller>) -> (u16, String) {
    let mut request = http::Request::get(format!("http://accounts.mesh{path}"))
        .body(Body::empty())
        .unwrap();
    if let Some(caller) = caller {
        request.extensions_mut().insert(caller);
    }
    let response = mesh.client().request(request).await.unwrap();
    (response.status().as_u16(), response.into_body().text().await.unwrap())
}

#[tokio::test]
async fn an_end_user_is_who_the_named_member_says_and_nobody_else() {
    let control = ControlPlane::start().await;
    control.apply(Some(FOR_GOLD));
    let _accounts = Served::start(&control, "accounts", echo_caller()).await;
    served(&control, "accounts", 1).await;
    let (ingress, shop) = (control.join("ingress").await, control.join("shop").await);
    let later = u64::MAX / 2;
    assert_eq!(
        ask_for(&ingress, "/", Some(alice("gold", later))).await,
        (200, "alice 1".to_owned())
    );
    assert_eq!(ask_for(&ingress, "/", Some(alice("silver", later))).await.0, 403);
    assert_eq!(ask_for(&ingress, "/", None).await.0, 403);
    assert_eq!(ask_for(&ingress, "/health", None).await, (200, "nobody 0".to_owned()));
    // Another member may say what it wants.
    assert_eq!(ask_for(&shop, "/", Some(alice("gold", later))).await.0, 403);
    assert_eq!(
        ask_for(&shop, "/health", Some(alice("gold", later))).await,
        (200, "nobody 0".to_owned()),
        "nobody reads it"
    );
    // What is believed and is over, or makes no sense, is not passed over.
    let (status, body) = ask_for(&ingress, "/health", Some(alice("gold", 1))).await;
    assert!(status == 401 && body.contains("\"token-expired\""), "{status} {body}");
}

#[tokio::test]
async fn a_field_that_the_client_did_not_write_says_nothing() {
    let control = ControlPlane::start().await;
    control.apply(Some(FOR_GOLD));
    let _accounts = Served::start(&control, "accounts", echo_caller()).await;
    served(&control, "accounts", 1).await;
    let ingress = control.join("ingress").await;
    let request = http::Request::get("http://accounts.mesh/health")
        .header(caller::X_HEDDLE_CALLER, "from-outside")
        .body(Body::empty())
        .unwrap();
    let response = ingress.client().request(request).await.unwrap();
    assert_eq!(response.into_body().text().await.unwrap(), "nobody 0");
}

#[tokio::test]
async fn a_grpc_caller_is_refused_by_a_status() {
    let control = ControlPlane::start().await;
    control.apply(Some("[policy]\ndefault = \"deny\""));
    let _accounts = Served::start(&control, "accounts", hello()).await;
    served(&control, "accounts", 1).await;
    let rates = control.join("rates").await;
    let request = http::Request::post("http://accounts.mesh/bank.Accounts/Open")
        .header("content-type", "application/grpc")
        .body(Body::full("x"))
        .unwrap();
    let response = rates.client().request(request).await.unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["grpc-status"]),
        (200, &"7".parse().unwrap())
    );
}

//! Checks that a member makes of its own service, and what its callers do about them.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::get;
use identity::ServiceName;
use mesh_api::health::health_check_response::ServingStatus;
use mesh_api::health::health_server::{Health as Protocol, HealthServer};
use mesh_api::health::{HealthCheckRequest, HealthCheckResponse};
use mesh_client::Mesh;
use mesh_client::discovery::Health;
use support::control::ControlPlane;
use support::served::{Served, hello, served};
use tonic::{Request, Response, Status};

/// A service with a switch that says how its checks end: with this status, or never.
fn switched(status: &Arc<AtomicI32>) -> Router {
    let status = Arc::clone(status);
    let healthz = move |headers: HeaderMap| {
        let status = Arc::clone(&status);
        async move {
            assert!(!headers.contains_key("x-forwarded-client-cert"), "there is no peer");
            match status.load(Ordering::Relaxed) {
                0 => std::future::pending().await,
                status => StatusCode::from_u16(status.try_into().unwrap()).unwrap(),
            }
        }
    };
    Router::new()
        .route("/", get(|| async { "the switched one" }))
        .route("/healthz", get(healthz))
}

async fn told(mesh: &Mesh, service: &str, health: &[Health]) {
    let mut endpoints = mesh.endpoints(&ServiceName::new(service).unwrap());
    let all = |snapshot: &Arc<mesh_client::discovery::Snapshot>| {
        let mut found: Vec<_> = snapshot.endpoints.iter().map(|endpoint| endpoint.health().name()).collect();
        found.sort_unstable();
        found == health.iter().map(|health| health.name()).collect::<Vec<_>>()
    };
    let waiting = tokio::time::timeout(std::time::Duration::from_secs(60), endpoints.wait_for(all));
    waiting.await.expect("it is told").unwrap();
}

const CHECKED: &str = r#"
[services.accounts]
health = { http = "/healthz", interval = "100ms", timeout = "100ms", failures = 2 }
"#;

#[tokio::test]
async fn callers_go_round_an_endpoint_whose_checks_fail_and_come_back() {
    let control = ControlPlane::start().await;
    control.apply(Some(CHECKED));
    let status = Arc::new(AtomicI32::new(204));
    let _switched = Served::start(&control, "accounts", switched(&status)).await;
    let rates = control.join("rates").await;
    told(&rates, "accounts", &[Health::Serving]).await;
    // Of a service of which nobody serves, every endpoint is tried.
    for failing in [503, 404, 0] {
        status.store(failing, Ordering::Relaxed);
        told(&rates, "accounts", &[Health::NotServing]).await;
        rates.get("http://accounts.mesh/").await.unwrap();
        status.store(302, Ordering::Relaxed);
        told(&rates, "accounts", &[Health::Serving]).await;
    }
    let other = Router::new()
        .route("/", get(|| async { "the other one" }))
        .route("/healthz", get(|| async {}));
    let _other = Served::start(&control, "accounts", other).await;
    told(&rates, "accounts", &[Health::Serving, Health::Serving]).await;
    status.store(500, Ordering::Relaxed);
    told(&rates, "accounts", &[Health::NotServing, Health::Serving]).await;
    for _ in 0..20 {
        let answer = rates.get("http://accounts.mesh/").await.unwrap();
        assert_eq!(answer.into_body().text().await.unwrap(), "the other one");
    }
}

#[tokio::test]
async fn the_check_of_the_mesh_comes_before_the_members_own_and_goes_as_it_came() {
    let control = ControlPlane::start().await;
    let config = control.config("accounts").health("http:/nowhere".parse().unwrap());
    let accounts = Mesh::join(config).await.unwrap();
    let _accounts = Served::start_as(accounts, "accounts", switched(&Arc::new(200.into()))).await;
    let _unchecked = Served::start(&control, "statements", hello()).await;
    served(&control, "statements", 1).await;
    let rates = control.join("rates").await;
    told(&rates, "statements", &[Health::Unknown]).await;
    told(&rates, "accounts", &[Health::NotServing]).await;
    control.apply(Some(CHECKED));
    told(&rates, "accounts", &[Health::Serving]).await;
    control.apply(Some(&CHECKED.replace("accounts", "statements")));
    // Neither of them has the path.
    told(&rates, "statements", &[Health::NotServing]).await;
    told(&rates, "accounts", &[Health::NotServing]).await;
    control.apply(Some(""));
    told(&rates, "statements", &[Health::Unknown]).await;
}

struct Answers(Arc<AtomicBool>);

#[tonic::async_trait]
impl Protocol for Answers {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        if request.get_ref().service != "bank.Accounts" {
            return Err(Status::not_found("no such service"));
        }
        let serving = self.0.load(Ordering::Relaxed);
        let status = if serving {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        Ok(Response::new(HealthCheckResponse { status: status.into() }))
    }
}

#[tokio::test]
async fn a_grpc_service_is_asked_by_the_grpc_health_protocol() {
    let control = ControlPlane::start().await;
    let check = |service: &str| format!("[services.accounts]\nhealth = {{ grpc = \"{service}\", interval = \"100ms\" }}\n");
    control.apply(Some(&check("bank.Accounts")));
    let serving = Arc::new(AtomicBool::new(true));
    let answers = HealthServer::new(Answers(Arc::clone(&serving)));
    let router = tonic::service::Routes::new(answers).into_axum_router();
    let _accounts = Served::start(&control, "accounts", router).await;
    let rates = control.join("rates").await;
    told(&rates, "accounts", &[Health::Serving]).await;
    serving.store(false, Ordering::Relaxed);
    told(&rates, "accounts", &[Health::NotServing]).await;
    serving.store(true, Ordering::Relaxed);
    told(&rates, "accounts", &[Health::Serving]).await;
    control.apply(Some(&check("bank.Other")));
    told(&rates, "accounts", &[Health::NotServing]).await;
}

//! A service that a test starts and stops.

use std::net::SocketAddr;

use axum::Router;
use axum::routing::any;
use identity::ServiceName;
use mesh_client::{Mesh, ServeError};
use tokio::sync::oneshot;

use super::control::ControlPlane;
use super::eventually;

/// A service that runs until it is told to stop.
pub struct Served {
    pub address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    done: tokio::task::JoinHandle<Result<(), ServeError>>,
}

impl Served {
    pub async fn start(control: &ControlPlane, name: &str, router: Router) -> Self {
        Self::start_as(control.join(name).await, name, router).await
    }

    pub async fn start_as(mesh: Mesh, name: &str, router: Router) -> Self {
        let listening = mesh.bind(name).await.unwrap();
        let address = listening.address();
        let (stop, stopped) = oneshot::channel::<()>();
        let done = tokio::spawn(async move {
            let _mesh = mesh;
            listening.serve(router, async { drop(stopped.await) }).await
        });
        Self {
            address,
            stop: Some(stop),
            done,
        }
    }

    pub async fn stop(mut self) {
        drop(self.stop.take());
        self.done.await.unwrap().unwrap();
    }
}

pub fn hello() -> Router {
    Router::new().route("/", any(|| async { "hello" }))
}

pub async fn served(control: &ControlPlane, name: &str, count: usize) {
    eventually("the service is registered", || async { control.served(name) == count }).await;
}

pub async fn known(mesh: &Mesh, name: &str, count: usize) {
    let mut endpoints = mesh.endpoints(&ServiceName::new(name).unwrap());
    endpoints
        .wait_for(|snapshot| snapshot.endpoints.len() == count)
        .await
        .unwrap();
}

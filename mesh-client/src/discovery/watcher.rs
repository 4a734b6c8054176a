//! The task that watches one service.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use identity::ServiceName;
use mesh_api::v1;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tonic::Streaming;

use super::state::State;
use super::{Directory, Endpoint, Published, Snapshot, Source};
use crate::backoff::Backoff;
use crate::control;
use crate::outside::{self, External};
use crate::policy::Known;

/// How long a service that nobody calls is still watched.
const LINGER: Duration = Duration::from_secs(60);
/// How long the control plane may take to answer before what was saved is used.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long a confirmation may take: nobody waits for it for much longer.
const CONFIRM: Duration = Duration::from_secs(5);

/// Watches `service` until nobody asks for it any more or the mesh is left.
pub(super) async fn run(directory: Arc<Directory>, service: ServiceName, published: Arc<Published>) {
    let mut leave = directory.leave.clone();
    tokio::select! {
        () = leave.started() => {}
        () = until_idle(&directory, &service, &published) => {}
        never = watch(&directory, &service, &published) => match never {},
    }
}

async fn until_idle(directory: &Directory, service: &ServiceName, published: &Published) {
    loop {
        published.closed().await;
        sleep(LINGER).await;
        if published.receiver_count() == 0 && directory.forget(service) {
            return;
        }
    }
}

/// Publishes what is known of `service`, from whoever knows it: the document where that places it outside the mesh, else the
/// control plane. What one of them said is forgotten before the other is asked.
async fn watch(directory: &Directory, service: &ServiceName, published: &Published) -> Infallible {
    let mut policies = directory.policies.clone();
    let mut patience = Instant::now() + PATIENCE;
    // Without a document nothing is outside; where none comes, the mesh goes on with what it knew.
    let _ = timeout_at(patience, policies.wait_for(Option::is_some)).await;
    loop {
        let external = external(&mut policies, service);
        match &external {
            Some(entry) => tokio::select! {
                () = moved(&mut policies, service, external.as_ref()) => {}
                () = watch_outside(directory, service, entry, published) => {}
            },
            None => tokio::select! {
                () = moved(&mut policies, service, None) => {}
                () = watch_control(directory, service, published, patience) => {}
            },
        }
        published.send_replace(Arc::new(Snapshot::unknown()));
        patience = Instant::now() + PATIENCE;
    }
}

/// Where the document places `service`, if it is outside the mesh.
fn external(policies: &mut Known, service: &ServiceName) -> Option<External> {
    let policies = policies.borrow_and_update();
    policies.as_ref()?.external(service).cloned()
}

/// Ready when the document places `service` elsewhere.
async fn moved(policies: &mut Known, service: &ServiceName, from: Option<&External>) {
    loop {
        if policies.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        if external(policies, service).as_ref() != from {
            return;
        }
    }
}

async fn watch_outside(directory: &Directory, service: &ServiceName, entry: &External, published: &Published) {
    let publish = |endpoints| {
        published.send_replace(Arc::new(Snapshot {
            endpoints,
            source: Source::External,
        }));
    };
    let count = |answered| directory.metrics.looked_up(service, answered);
    outside::follow(service, entry, || directory.dns.ask(&entry.place), count, publish).await;
}

async fn watch_control(directory: &Directory, service: &ServiceName, published: &Published, patience: Instant) {
    let mut state = State::default();
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    loop {
        let ended = {
            let mut following = pin!(follow(directory, service, published, &mut state, &mut backoff));
            tokio::select! {
                ended = following.as_mut() => ended,
                () = sleep_until(patience) => {
                    fall_back(directory, service, published);
                    following.await
                }
            }
        };
        fall_back(directory, service, published);
        match ended {
            Ok(()) => tracing::debug!(%service, "the watch ended and is resumed"),
            Err(status) => tracing::debug!(%service, error = control::describe(&status), "the watch failed and is resumed"),
        }
        sleep(backoff.after_failure(rand::random())).await;
    }
}

async fn follow(
    directory: &Directory,
    service: &ServiceName,
    published: &Published,
    state: &mut State,
    backoff: &mut Backoff,
) -> Result<(), tonic::Status> {
    let request = v1::WatchRequest {
        services: vec![service.to_string()],
        resume: state.revision(),
        confirms: true,
    };
    let mut updates: Streaming<v1::WatchResponse> = directory.control.registry().watch(request).await?.into_inner();
    while let Some(response) = updates.message().await? {
        backoff.after_success();
        let watch = response.confirm;
        let changed = state.apply(service.as_str(), response);
        if changed || published.borrow().source != Source::Control {
            let endpoints = state.endpoints();
            tracing::debug!(%service, endpoints = endpoints.len(), revision = state.revision(), "the endpoints changed");
            save(directory, service, &endpoints).await;
            published.send_replace(Arc::new(Snapshot {
                endpoints,
                source: Source::Control,
            }));
        }
        if watch != 0 {
            confirm(directory, watch, state.revision());
        }
    }
    Ok(())
}

/// Says that what was told is in use here. Whoever waits for that does so for a while only, and this task does not wait at all.
fn confirm(directory: &Directory, watch: u64, revision: u64) {
    let mut registry = directory.control.registry();
    tokio::spawn(async move {
        let request = v1::ConfirmRequest { watch, revision };
        match timeout(CONFIRM, registry.confirm(request)).await {
            Ok(Ok(_)) => {}
            Ok(Err(status)) => tracing::debug!(error = control::describe(&status), "a confirmation was lost"),
            Err(_) => tracing::debug!("a confirmation was not answered"),
        }
    });
}

/// Uses what was saved where nothing is known.
fn fall_back(directory: &Directory, service: &ServiceName, published: &Published) {
    if published.borrow().source != Source::Unknown {
        return;
    }
    if let Some(endpoints) = directory.store.as_ref().and_then(|store| store.load(service)) {
        tracing::info!(%service, endpoints = endpoints.len(), "the control plane does not answer; its last known endpoints are used");
        published.send_replace(Arc::new(Snapshot {
            endpoints,
            source: Source::Saved,
        }));
    }
}

/// Writing is a thread's work: a slow disk may not hold up the runtime of the application.
async fn save(directory: &Directory, service: &ServiceName, endpoints: &[Endpoint]) {
    let Some(store) = directory.store.clone() else { return };
    let (service, endpoints) = (service.clone(), endpoints.to_vec());
    let _ = tokio::task::spawn_blocking(move || store.save(&service, &endpoints)).await;
}

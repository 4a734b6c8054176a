//! The task that watches one service.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use identity::ServiceName;
use mesh_api::v1;
use tokio::time::sleep;
use tonic::Streaming;

use super::state::State;
use super::{Directory, Endpoint, Published, Snapshot, Source};
use crate::backoff::Backoff;
use crate::control;

/// How long a service that nobody calls is still watched.
const LINGER: Duration = Duration::from_secs(60);
/// How long the control plane may take to answer before what was saved is used.
const PATIENCE: Duration = Duration::from_secs(1);

/// Watches `service` until nobody asks for it any more or the mesh is left.
pub(super) async fn run(directory: Arc<Directory>, service: ServiceName, published: Arc<Published>) {
    let mut leave = directory.leave.clone();
    tokio::select! {
        () = leave.started() => {}
        () = until_idle(&directory, &service, &published) => {}
        () = watch(&directory, &service, &published) => {}
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

async fn watch(directory: &Directory, service: &ServiceName, published: &Published) {
    let mut state = State::default();
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    loop {
        let ended = {
            let mut following = pin!(follow(directory, service, published, &mut state, &mut backoff));
            tokio::select! {
                ended = following.as_mut() => ended,
                () = sleep(PATIENCE) => {
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
    };
    let mut updates: Streaming<v1::WatchResponse> = directory.control.registry().watch(request).await?.into_inner();
    while let Some(response) = updates.message().await? {
        backoff.after_success();
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
    }
    Ok(())
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

//! `heddle.mesh.v1.Policies`: what members are told of what is decided centrally.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, stream};
use mesh_api::v1;
use mesh_api::v1::policies_server::Policies;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::Shared;
use super::peer::member;
use crate::policies::{Document, PolicyError};

pub(super) struct PolicyService {
    shared: Arc<Shared>,
}

impl PolicyService {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

#[tonic::async_trait]
impl Policies for PolicyService {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<v1::PolicyDocument, Status>> + Send>>;

    async fn watch(&self, request: Request<v1::WatchPoliciesRequest>) -> Result<Response<Self::WatchStream>, Status> {
        member(&request)?;
        let mut documents = self.shared.policies.watch();
        // The one in force is the first to be told.
        documents.mark_changed();
        let watch = Watch {
            documents,
            drain: self.shared.drain.clone(),
        };
        Ok(Response::new(Box::pin(stream::unfold(Some(watch), next))))
    }
}

struct Watch {
    documents: watch::Receiver<Arc<Document>>,
    drain: CancellationToken,
}

/// A reader that is slow is told the last document, and not those between.
async fn next(watch: Option<Watch>) -> Option<(Result<v1::PolicyDocument, Status>, Option<Watch>)> {
    let mut watch = watch?;
    let changed = tokio::select! {
        changed = watch.documents.changed() => changed.is_ok(),
        () = watch.drain.cancelled() => false,
    };
    if !changed {
        return Some((Err(Status::unavailable("the control plane is stopping")), None));
    }
    let document = document_of(&watch.documents.borrow_and_update());
    Some((Ok(document), Some(watch)))
}

pub(super) fn document_of(document: &Document) -> v1::PolicyDocument {
    let record = &document.record;
    v1::PolicyDocument {
        revision: record.revision,
        name: record.name.clone(),
        text: record.text.clone(),
    }
}

impl From<PolicyError> for Status {
    fn from(error: PolicyError) -> Self {
        match error {
            PolicyError::Mistakes(_) | PolicyError::Stored(_) => Self::invalid_argument(error.to_string()),
            PolicyError::Conflict => Self::aborted(error.to_string()),
            PolicyError::Store(error) => {
                tracing::error!(%error, "the store failed");
                Self::unavailable("the control plane cannot reach its store")
            }
        }
    }
}

//! The policies as the control plane has them, followed for as long as the member lives.

use std::sync::Arc;
use std::time::Duration;

use mesh_api::v1;
use tokio::sync::watch;
use tokio::time::sleep;
use tonic::Status;

use super::{Policies, Source};
use crate::backoff::Backoff;
use crate::control::{self, Control};
use crate::drain;

/// What is known: nothing until the control plane has answered, since a member that does not know who may call lets nobody in.
pub(crate) type Known = watch::Receiver<Option<Arc<Policies>>>;

/// Follows the policies until the mesh is left.
pub(crate) struct Follower {
    control: Arc<Control>,
    published: watch::Sender<Option<Arc<Policies>>>,
    revision: Option<u64>,
}

impl Follower {
    /// Begins to follow, on the runtime that this is called on.
    pub(crate) fn start(control: Arc<Control>, mut leave: drain::Watch) -> Known {
        let (published, known) = watch::channel(None);
        let follower = Self {
            control,
            published,
            revision: None,
        };
        tokio::spawn(async move {
            tokio::select! {
                () = leave.started() => {}
                () = follower.run() => {}
            }
        });
        known
    }

    async fn run(mut self) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        loop {
            if let Err(status) = self.follow(&mut backoff).await {
                tracing::debug!(
                    error = control::describe(&status),
                    "the watch on the policies failed and is resumed"
                );
            }
            sleep(backoff.after_failure(rand::random())).await;
        }
    }

    async fn follow(&mut self, backoff: &mut Backoff) -> Result<(), Status> {
        let request = v1::WatchPoliciesRequest {};
        let mut documents = self.control.policies().watch(request).await?.into_inner();
        while let Some(document) = documents.message().await? {
            backoff.after_success();
            if self.revision != Some(document.revision) {
                self.take(document);
            }
        }
        Ok(())
    }

    /// Puts a document in place of the last, unless it cannot be understood: what was understood before is held to then.
    fn take(&mut self, document: v1::PolicyDocument) {
        let v1::PolicyDocument { revision, name, text } = document;
        let trust_domain = self.control.credentials().held().bundle.trust_domain().clone();
        match Policies::compile(&Source::new(name, text), &trust_domain) {
            Ok(policies) => {
                tracing::info!(revision, "the policies of the mesh are in force");
                self.revision = Some(revision);
                self.published.send_replace(Some(Arc::new(policies)));
            }
            Err(mistakes) => tracing::error!(
                revision,
                %mistakes,
                "the policies of the control plane cannot be understood, and the last ones stay in force; is this member older?"
            ),
        }
    }
}

//! Keeping an identity fresh: new SVIDs before the old ones end, new bundles as they come.

use std::sync::Arc;
use std::time::Duration;

use mesh_api::v1;
use rustls_pki_types::UnixTime;
use tokio::time::sleep;
use tonic::Status;

use crate::backoff::Backoff;
use crate::config::Config;
use crate::control::{self, Control};
use crate::join::{AnswerError, Attempt, JoinError, bundle, join, judge, read, unix_now};
use crate::source::Source;
use crate::tls::{Bundle, Held, Key, Renewal, Rotation, Step, Svid};

/// Keeps the identity of a member fresh for as long as it is polled.
pub(crate) struct Upkeep {
    pub(crate) config: Config,
    pub(crate) source: Arc<dyn Source>,
    pub(crate) control: Arc<Control>,
    pub(crate) rotation: Arc<Rotation>,
}

impl Upkeep {
    pub(crate) async fn run(self) {
        tokio::join!(self.renew(), self.watch_bundle());
    }

    async fn renew(&self) {
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
        loop {
            let held = self.control.credentials().held();
            let anew = self.until_due(&held).await;
            // A member that took another name meanwhile has an SVID with another end.
            let Some(anew) = anew else { continue };
            match self.renew_once(&held, anew).await {
                // One that is not valid by our clock either would be replaced without end.
                Ok(renewal) if renewal.is_valid(unix_now()) => backoff.after_success(),
                Ok(_) => {
                    tracing::warn!("the SVID that was just issued is not valid by this machine's clock; do the clocks agree?");
                    sleep(backoff.after_failure(rand::random())).await;
                }
                Err(error) => {
                    let left = held.svid.not_after().saturating_sub(unix_now().as_secs());
                    tracing::warn!(%error, seconds_left = left, "the SVID could not be renewed; it is tried again");
                    sleep(backoff.after_failure(rand::random())).await;
                }
            }
        }
    }

    /// Waits until the SVID should be replaced, and says whether who we are has to be proved anew; nothing where other credentials
    /// came meanwhile.
    async fn until_due(&self, held: &Held) -> Option<bool> {
        let mut credentials = self.control.credentials().clone();
        let mut renewal = Renewal::new(held.svid.not_before(), held.svid.not_after(), rand::random());
        if renewal.is_valid(unix_now()) && !held.bundle.is_current(&held.svid, UnixTime::now()) {
            renewal = renewal.hastened(unix_now(), rand::random());
        }
        loop {
            let nap = match renewal.step(unix_now()) {
                Step::Wait(nap) => nap,
                Step::Renew => return Some(false),
                Step::Anew => return Some(true),
            };
            if credentials.held().generation != held.generation {
                return None;
            }
            tokio::select! {
                () = sleep(nap) => {}
                _ = credentials.changed() => {}
            }
        }
    }

    async fn renew_once(&self, held: &Held, anew: bool) -> Result<Renewal, JoinError> {
        let old = &held.svid;
        let (svid, bundle) = if anew && self.source.is_lasting() {
            join(&self.config, &*self.source, old.id().service().as_ref(), Some(&held.bundle)).await?
        } else {
            self.ask(old).await?
        };
        let renewal = Renewal::new(svid.not_before(), svid.not_after(), 0.5);
        // Somebody took another name while the answer was on its way; theirs is the newer.
        if self.control.credentials().held().svid.id() != old.id() {
            return Ok(renewal);
        }
        tracing::info!(id = %svid.id(), not_after = svid.not_after(), "the SVID was renewed");
        self.rotation.replace_both(svid, bundle);
        Ok(renewal)
    }

    async fn ask(&self, old: &Svid) -> Result<(Svid, Bundle), JoinError> {
        let key = Key::generate()?;
        let request = v1::RenewRequest {
            csr: key.signing_request()?,
        };
        let answer = self
            .control
            .identity()
            .renew(request)
            .await
            .map_err(|status| self.failed(&status))?;
        let (svid, bundle) = read(answer.into_inner(), &key, None)?;
        if svid.id() != old.id() {
            return Err(AnswerError::OtherId {
                expected: old.id().clone(),
                found: svid.id().clone(),
            }
            .into());
        }
        Ok((svid, bundle))
    }

    fn failed(&self, status: &Status) -> JoinError {
        match judge(self.control.addresses(), status) {
            Attempt::Never(error) => error,
            Attempt::Again(error) => {
                let control = self.control.addresses().join(",");
                JoinError::Unreachable {
                    control,
                    within: Duration::ZERO,
                    error,
                }
            }
        }
    }

    async fn watch_bundle(&self) {
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
        loop {
            if let Err(status) = self.follow_bundle(&mut backoff).await {
                tracing::debug!(
                    error = control::describe(&status),
                    "the watch on the bundle failed and is resumed"
                );
            }
            sleep(backoff.after_failure(rand::random())).await;
        }
    }

    /// Follows the bundle for as long as the SVID is the same that the watch was begun with. Beginning anew with another one is what
    /// tells the control plane that it is used, and that the one before is needed no more.
    async fn follow_bundle(&self, backoff: &mut Backoff) -> Result<(), Status> {
        let mut credentials = self.control.credentials().clone();
        let shown = credentials.held().svid.chain().first().cloned();
        let mut bundles = self
            .control
            .identity()
            .watch_bundle(v1::WatchBundleRequest {})
            .await?
            .into_inner();
        loop {
            let next = tokio::select! {
                next = bundles.message() => next?,
                held = credentials.changed() => match held.svid.chain().first() == shown.as_ref() {
                    true => continue,
                    false => None,
                },
            };
            let Some(next) = next else { return Ok(()) };
            backoff.after_success();
            let held = self.control.credentials().held();
            match bundle(next) {
                Ok(next) if next == held.bundle => {}
                Ok(next) if next.trust_domain() == held.bundle.trust_domain() => {
                    tracing::info!(roots = next.roots().len(), "the trust bundle changed");
                    self.rotation.replace_bundle(next);
                }
                Ok(next) => tracing::warn!(trust_domain = %next.trust_domain(), "a bundle of another trust domain is ignored"),
                Err(error) => tracing::warn!(%error, "a bundle that cannot be used is ignored"),
            }
        }
    }
}

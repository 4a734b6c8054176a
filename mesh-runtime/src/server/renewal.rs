//! The control plane's own SVID and bundle, kept fresh while it serves, and the authority's housekeeping.

use std::sync::Arc;
use std::time::Duration;

use mesh_client::tls::{Bundle, Credentials, Key, Renewal, Rotation, Step, Svid, TlsError};
use tokio::sync::watch;
use tokio::time::sleep;

use super::ServeError;
use crate::authority::{Authority, Trust, unhex};
use crate::metrics::Metrics;
use crate::now_unix;
use crate::operator::OperatorCredential;

/// How often what is over is forgotten.
const ROUND: Duration = Duration::from_secs(600);
/// How often it is looked whether a rotation can be ended.
const LOOK: Duration = Duration::from_secs(1);
/// How long to wait after a failure.
const RETRY: Duration = Duration::from_secs(5);

/// The first SVID of this start.
pub(super) async fn first_credentials(authority: &Authority) -> Result<(Rotation, Credentials), ServeError> {
    let bundle = bundle_of(authority, &authority.trust().borrow())?;
    let credentials = Credentials::new(new_svid(authority, &bundle).await?, bundle);
    authority.shows_own();
    Ok(credentials)
}

/// What keeps the control plane's own identity fresh.
pub(super) struct Upkeep {
    pub(super) authority: Arc<Authority>,
    pub(super) rotation: Rotation,
    pub(super) credentials: Credentials,
    pub(super) operator: Arc<OperatorCredential>,
    pub(super) metrics: Arc<Metrics>,
}

impl Upkeep {
    /// Keeps it for as long as it runs.
    pub(super) async fn run(self) {
        tokio::join!(self.renew(), self.keep_house(), self.end_rotations());
    }

    /// A new SVID at half of the life of the last one, at once where the clock was set or where whom to believe has changed.
    async fn renew(&self) {
        let mut trust = self.authority.trust();
        loop {
            self.until_due(&mut trust).await;
            // A clock that was set may have put the intermediate out of its time, too.
            let renewed = match self.authority.keep_house(now_unix()).await {
                Ok(()) => self.renew_once(&mut trust).await,
                Err(error) => Err(error.into()),
            };
            match renewed {
                Ok(()) => drop(self.metrics.own_renewals.inc()),
                Err(error) => {
                    tracing::error!(%error, "the control plane's own SVID could not be renewed; trying again");
                    trust.mark_changed();
                    sleep(RETRY).await;
                }
            }
        }
    }

    async fn until_due(&self, trust: &mut watch::Receiver<Arc<Trust>>) {
        let held = self.credentials.held();
        let renewal = Renewal::new(held.svid.not_before(), held.svid.not_after(), 0.5);
        while let Step::Wait(nap) = renewal.step(Duration::from_secs(now_unix())) {
            tokio::select! {
                () = sleep(nap) => {}
                _ = trust.changed() => return,
            }
        }
    }

    async fn renew_once(&self, trust: &mut watch::Receiver<Arc<Trust>>) -> Result<(), ServeError> {
        let bundle = bundle_of(&self.authority, &trust.borrow_and_update())?;
        let svid = new_svid(&self.authority, &bundle).await?;
        self.rotation.replace_both(svid, bundle);
        self.authority.shows_own();
        self.operator.pin_to(self.authority.pin());
        Ok(())
    }

    async fn keep_house(&self) {
        loop {
            sleep(ROUND).await;
            if let Err(error) = self.authority.keep_house(now_unix()).await {
                tracing::error!(%error, "the authority's housekeeping failed");
            }
        }
    }

    async fn end_rotations(&self) {
        let mut trust = self.authority.trust();
        loop {
            match self.authority.advance(now_unix()).await {
                Ok(true) => sleep(LOOK).await,
                Ok(false) => drop(trust.changed().await),
                Err(error) => {
                    tracing::error!(%error, "whether the root before is needed could not be looked up; trying again");
                    sleep(RETRY).await;
                }
            }
        }
    }
}

/// The chain has the roots at its end: a joiner knows no more of them than the pin in its token.
async fn new_svid(authority: &Authority, bundle: &Bundle) -> Result<Svid, ServeError> {
    let key = Key::generate()?;
    let issued = authority.own_svid(&key.signing_request()?, now_unix()).await?;
    let chain = issued.chain.into_iter().chain(bundle.roots().iter().cloned()).collect();
    Ok(Svid::new(chain, key.to_pkcs8())?)
}

fn bundle_of(authority: &Authority, trust: &Trust) -> Result<Bundle, ServeError> {
    let bundle = Bundle::new(authority.trust_domain().clone(), trust.roots.clone()).map_err(TlsError::from)?;
    Ok(bundle.revoking(trust.revoked.iter().filter_map(|serial| unhex(serial))))
}

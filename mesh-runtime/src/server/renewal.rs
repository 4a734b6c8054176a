//! The control plane's own SVID, renewed while it serves, and the authority's housekeeping.

use std::sync::Arc;
use std::time::Duration;

use mesh_client::tls::{Bundle, Credentials, Key, Rotation, Svid, TlsError};

use super::ServeError;
use crate::authority::Authority;
use crate::metrics::Metrics;
use crate::now_unix;

/// How often it is looked whether something is due.
const ROUND: Duration = Duration::from_secs(600);
/// How long to wait after a failure.
const RETRY: Duration = Duration::from_secs(5);

/// The first SVID of this start.
pub(super) async fn first_credentials(authority: &Authority) -> Result<(Rotation, Credentials), ServeError> {
    let bundle = Bundle::new(authority.trust_domain().clone(), authority.roots()).map_err(TlsError::from)?;
    Ok(Credentials::new(new_svid(authority).await?, bundle))
}

/// Renews for as long as it runs: at half of the SVID's life, so that a failure has the other half to be mended in.
pub(super) async fn keep_renewed(
    authority: Arc<Authority>,
    rotation: Rotation,
    credentials: Credentials,
    metrics: Arc<Metrics>,
) {
    loop {
        let held = credentials.held();
        let half = held.svid.not_before() + held.svid.lifetime().as_secs() / 2;
        // Looked at again and again by the wall clock, which is what certificates go by: it may jump, or the machine sleep.
        let pause = Duration::from_secs(half.saturating_sub(now_unix())).min(ROUND);
        tokio::time::sleep(pause).await;
        if let Err(error) = authority.keep_house(now_unix()).await {
            tracing::error!(%error, "the authority's housekeeping failed");
            tokio::time::sleep(RETRY).await;
        }
        if now_unix() < half {
            continue;
        }
        match new_svid(&authority).await {
            Ok(svid) => {
                rotation.replace_svid(svid);
                metrics.own_renewals.inc();
            }
            Err(error) => {
                tracing::error!(%error, "the control plane's own SVID could not be renewed; trying again");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// The chain has the root at its end: a joiner knows no more of it than the pin in its token.
async fn new_svid(authority: &Authority) -> Result<Svid, ServeError> {
    let key = Key::generate()?;
    let issued = authority.own_svid(&key.signing_request()?, now_unix()).await?;
    let chain = issued.chain.into_iter().chain(authority.roots()).collect();
    Ok(Svid::new(chain, key.to_pkcs8())?)
}

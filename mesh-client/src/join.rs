//! Getting an identity: whatever proves who we are buys the first SVID, and that buys the next ones.

use std::time::{Duration, SystemTime};

use identity::{ServiceName, SpiffeId, TrustDomain};
use mesh_api::{Pin, TokenError, v1};
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::time::{Instant, sleep};
use tonic::{Code, Status};

use crate::backoff::Backoff;
use crate::config::Config;
use crate::control;
use crate::source::Source;
use crate::tls::{Bundle, Key, Svid, SvidError, TlsError, Usage, verify_svid};

/// Why a member did not get into the mesh.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// The control plane was not reached in time.
    #[error(
        "the control plane at {control} was not reached within {within:?}: {error}; is `mesh-runtime serve` running there?"
    )]
    Unreachable {
        /// Its addresses.
        control: String,
        /// How long was tried.
        within: Duration,
        /// What the last attempt said.
        error: String,
    },
    /// It answered, and refuses.
    #[error("the control plane refuses: {0}")]
    Refused(String),
    /// Whoever answered is not the control plane that the token is for, or does not believe our certificate.
    #[error("the identity of the control plane at {control} is refused: {error}")]
    Identity {
        /// Its addresses.
        control: String,
        /// What is wrong with it.
        error: String,
    },
    /// The answer is not what it has to be.
    #[error("the control plane's answer cannot be used: {0}")]
    Answer(#[from] AnswerError),
    /// The token is for another service.
    #[error(
        "the identity that was given is {found}, not service {expected}; make a token for it: mesh-runtime token create {expected}"
    )]
    OtherService {
        /// Whose identity was given.
        found: SpiffeId,
        /// Which service was to be joined as.
        expected: ServiceName,
    },
    /// No key, or no TLS configuration.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// What is wrong with an answer of the control plane.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AnswerError {
    /// No bundle, or one of no valid trust domain.
    #[error("its bundle is missing or names no trust domain")]
    Bundle,
    /// The bundle does not hold the root that the token pins.
    #[error("its bundle does not hold the root that the token pins")]
    Root,
    /// Another identity than before.
    #[error("it renewed {expected} as {found}")]
    OtherId {
        /// Whom it was asked for.
        expected: SpiffeId,
        /// Whom it gave.
        found: SpiffeId,
    },
    /// No SVID, or not one of the bundle.
    #[error(transparent)]
    Svid(#[from] SvidError),
    /// A token that is none.
    #[error("its token is none: {0}")]
    Token(#[from] TokenError),
}

/// Whether a failed call is tried again.
pub(crate) enum Attempt {
    Again(String),
    Never(JoinError),
}

impl From<JoinError> for Attempt {
    fn from(error: JoinError) -> Self {
        Self::Never(error)
    }
}

impl From<AnswerError> for Attempt {
    fn from(error: AnswerError) -> Self {
        Self::Never(error.into())
    }
}

impl From<TlsError> for Attempt {
    fn from(error: TlsError) -> Self {
        Self::Never(error.into())
    }
}

/// Joins, trying for as long as the config says while the control plane cannot be reached.
pub(crate) async fn join(
    config: &Config,
    source: &dyn Source,
    service: Option<&ServiceName>,
    known: Option<&Bundle>,
) -> Result<(Svid, Bundle), JoinError> {
    let until = Instant::now() + config.join_timeout;
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
    loop {
        let error = match source.attest(service, known).await {
            Ok((svid, bundle)) => return expect(svid, service).map(|svid| (svid, bundle)),
            Err(Attempt::Never(error)) => return Err(error),
            Err(Attempt::Again(error)) => error,
        };
        let wait = backoff.after_failure(rand::random());
        if Instant::now() + wait >= until {
            let control = config.control.join(",");
            return Err(JoinError::Unreachable {
                control,
                within: config.join_timeout,
                error,
            });
        }
        tracing::debug!(error, "the control plane does not answer yet");
        sleep(wait).await;
    }
}

fn expect(svid: Svid, service: Option<&ServiceName>) -> Result<Svid, JoinError> {
    match service {
        Some(expected) if svid.id().service().as_ref() != Some(expected) => Err(JoinError::OtherService {
            found: svid.id().clone(),
            expected: expected.clone(),
        }),
        _ => Ok(svid),
    }
}

/// What is worth waiting for: whatever says that nobody was there to judge the request.
pub(crate) fn judge(control: &[String], status: &Status) -> Attempt {
    let words = control::describe(status);
    if control::is_identity(status) {
        return Attempt::Never(JoinError::Identity {
            control: control.join(","),
            error: words,
        });
    }
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded | Code::Unknown | Code::Cancelled | Code::Internal => Attempt::Again(words),
        _ => Attempt::Never(JoinError::Refused(words)),
    }
}

/// Reads and verifies an SVID as it came over the wire.
pub(crate) fn read(answer: v1::Svid, key: &Key, pin: Option<Pin>) -> Result<(Svid, Bundle), JoinError> {
    let bundle = bundle(answer.bundle.ok_or(AnswerError::Bundle)?)?;
    if pin.is_some_and(|pin| {
        !bundle
            .roots()
            .iter()
            .any(|root| Bundle::pin(root).is_ok_and(|found| found == pin))
    }) {
        return Err(AnswerError::Root.into());
    }
    let chain: Vec<_> = answer.chain.into_iter().map(CertificateDer::from).collect();
    let (leaf, intermediates) = chain.split_first().ok_or(AnswerError::Svid(SvidError::Empty))?;
    verify_svid(leaf, intermediates, &bundle, Usage::Client, UnixTime::now()).map_err(AnswerError::Svid)?;
    Ok((Svid::new(chain, key.to_pkcs8())?, bundle))
}

pub(crate) fn bundle(answer: v1::Bundle) -> Result<Bundle, AnswerError> {
    let trust_domain = TrustDomain::new(&answer.trust_domain).map_err(|_| AnswerError::Bundle)?;
    let roots = answer.roots.into_iter().map(CertificateDer::from).collect();
    Ok(Bundle::new(trust_domain, roots)?.revoking(answer.revoked))
}

pub(crate) fn unix_now() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

//! Getting an identity: a key is made here, a token buys its first SVID, the SVID buys the next ones.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use identity::{ServiceName, SpiffeId, TrustDomain};
use mesh_api::v1::identity_client::IdentityClient;
use mesh_api::{JoinToken, Pin, TokenError, v1};
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::time::{Instant, sleep};
use tonic::{Code, Status};

use crate::backoff::Backoff;
use crate::config::{Config, Credential};
use crate::control::{self, Control};
use crate::renewal;
use crate::tls::{Bundle, Key, Rotation, Svid, SvidError, TlsError, Usage, verify_svid};

/// How long a join token that a member makes for itself is good.
const TOKEN_SECONDS: u64 = 60;

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
    #[error("the token is for {found}, not for service {expected}; make one: mesh-runtime token create {expected}")]
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
enum Attempt {
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
pub(crate) async fn join(config: &Config, service: Option<&ServiceName>) -> Result<(Svid, Bundle), JoinError> {
    let until = Instant::now() + config.join_timeout;
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
    // The same key every time: an answer that was lost on the way can be asked for again by the same request.
    let key = Key::generate()?;
    loop {
        let error = match attempt(config, service, &key).await {
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

async fn attempt(config: &Config, service: Option<&ServiceName>, key: &Key) -> Result<(Svid, Bundle), Attempt> {
    let minted;
    let token = match &config.credential {
        Credential::Token(token) => token,
        Credential::Operator(operator) => {
            minted = mint(config, operator, &service.cloned().unwrap_or_else(program)).await?;
            &minted
        }
    };
    let channel = control::pinned_channel(&config.control, token.pin())?;
    let request = v1::JoinRequest {
        secret: token.secret(),
        csr: key.signing_request()?,
    };
    let answer = IdentityClient::new(channel)
        .join(request)
        .await
        .map_err(|status| judge(&config.control, &status))?;
    Ok(read(answer.into_inner(), key, Some(token.pin()))?)
}

/// Makes a join token by the operator's credential.
async fn mint(config: &Config, operator: &JoinToken, service: &ServiceName) -> Result<JoinToken, Attempt> {
    let request = v1::CreateTokenRequest {
        service: service.to_string(),
        ttl_seconds: TOKEN_SECONDS,
    };
    let mut client = control::operator(&config.control, operator)?;
    let answer = client
        .create_token(request)
        .await
        .map_err(|status| judge(&config.control, &status))?;
    Ok(answer.into_inner().token.parse().map_err(AnswerError::Token)?)
}

/// The program's name as a service name, for a development machine where nobody said another.
fn program() -> ServiceName {
    let name = std::env::current_exe()
        .ok()
        .and_then(|path| Some(path.file_stem()?.to_string_lossy().to_ascii_lowercase()));
    let label: String = name
        .unwrap_or_default()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .take(63)
        .collect();
    let member = || ServiceName::new("member").expect("a DNS label");
    ServiceName::new(label.trim_matches('-')).unwrap_or_else(|_| member())
}

/// What is worth waiting for: whatever says that nobody was there to judge the request.
fn judge(control: &[String], status: &Status) -> Attempt {
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
fn read(answer: v1::Svid, key: &Key, pin: Option<Pin>) -> Result<(Svid, Bundle), JoinError> {
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

fn bundle(answer: v1::Bundle) -> Result<Bundle, AnswerError> {
    let trust_domain = TrustDomain::new(&answer.trust_domain).map_err(|_| AnswerError::Bundle)?;
    Ok(Bundle::new(
        trust_domain,
        answer.roots.into_iter().map(CertificateDer::from).collect(),
    )?)
}

/// Keeps the identity fresh for as long as it is polled: new SVIDs before the old ones end, new bundles as they come.
pub(crate) struct Upkeep {
    pub(crate) config: Config,
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
            let due = renewal::due(held.svid.not_before(), held.svid.not_after(), rand::random());
            while let Some(nap) = renewal::nap(due, unix_now()) {
                // A member that took another name meanwhile has an SVID with another end.
                if self.control.credentials().held().generation != held.generation {
                    break;
                }
                sleep(nap).await;
            }
            if renewal::nap(due, unix_now()).is_some() {
                continue;
            }
            match self.renew_once(&held.svid).await {
                Ok(()) => backoff.after_success(),
                Err(error) => {
                    let left = held.svid.not_after().saturating_sub(unix_now().as_secs());
                    tracing::warn!(%error, seconds_left = left, "the SVID could not be renewed; it is tried again");
                    sleep(backoff.after_failure(rand::random())).await;
                }
            }
        }
    }

    async fn renew_once(&self, old: &Svid) -> Result<(), JoinError> {
        // An SVID that has ended opens no connection: only a credential that makes tokens can help then.
        let ended = unix_now().as_secs() >= old.not_after();
        let (svid, bundle) = match &self.config.credential {
            Credential::Operator(_) if ended => join(&self.config, old.id().service().as_ref()).await?,
            _ => self.ask(old).await?,
        };
        // Somebody took another name while the answer was on its way; theirs is the newer.
        if self.control.credentials().held().svid.id() != old.id() {
            return Ok(());
        }
        tracing::info!(id = %svid.id(), not_after = svid.not_after(), "the SVID was renewed");
        self.rotation.replace_both(svid, bundle);
        Ok(())
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

    async fn follow_bundle(&self, backoff: &mut Backoff) -> Result<(), Status> {
        let mut bundles = self
            .control
            .identity()
            .watch_bundle(v1::WatchBundleRequest {})
            .await?
            .into_inner();
        while let Some(next) = bundles.message().await? {
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
        Ok(())
    }
}

fn unix_now() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

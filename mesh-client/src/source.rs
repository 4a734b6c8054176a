//! Where a member's identity comes from: one trait, and an implementation for each way to prove who one is.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;

use identity::ServiceName;
use mesh_api::v1::identity_client::IdentityClient;
use mesh_api::{JoinToken, v1};

use crate::config::{Config, Credential};
use crate::control;
use crate::join::{AnswerError, Attempt, judge, read};
use crate::tls::{Bundle, Key, Svid, TlsError};

/// How long a join token that a member makes for itself is good.
const TOKEN_SECONDS: u64 = 60;

/// An SVID with the key that is its own, and the bundle to judge peers by.
pub(crate) type Answer<'a> = Pin<Box<dyn Future<Output = Result<(Svid, Bundle), Attempt>> + Send + 'a>>;

/// Where identities come from. What it gave renews itself by being shown; a source is asked for the first one, and again where
/// nothing is left to show.
pub(crate) trait Source: Send + Sync {
    /// Proves who we are from nothing, once. `service`: who we want to be, where that is a question. `known`: whom we believed last.
    fn attest<'a>(&'a self, service: Option<&'a ServiceName>, known: Option<&'a Bundle>) -> Answer<'a>;

    /// Whether it can be asked more than once.
    fn is_lasting(&self) -> bool;
}

/// The source that `config` names.
pub(crate) fn of(config: &Config) -> Result<Box<dyn Source>, TlsError> {
    let control = config.control.clone();
    Ok(match &config.credential {
        Credential::Token(token) => Box::new(Token {
            control,
            token: token.clone(),
            key: Key::generate()?,
        }),
        Credential::Operator(operator) => Box::new(Operator {
            control,
            operator: operator.clone(),
        }),
        Credential::Local(socket) => Box::new(Local { socket: socket.clone() }),
    })
}

/// A join token.
struct Token {
    control: Vec<String>,
    token: JoinToken,
    /// The same every time: an answer that was lost on the way can be asked for again with the same key.
    key: Key,
}

impl Source for Token {
    fn attest<'a>(&'a self, _: Option<&'a ServiceName>, _: Option<&'a Bundle>) -> Answer<'a> {
        Box::pin(redeem(&self.control, &self.token, &self.key))
    }

    fn is_lasting(&self) -> bool {
        false
    }
}

async fn redeem(control: &[String], token: &JoinToken, key: &Key) -> Result<(Svid, Bundle), Attempt> {
    let channel = control::pinned_channel(control, token.pin())?;
    let request = v1::JoinRequest {
        secret: token.secret(),
        csr: key.signing_request()?,
    };
    let answer = IdentityClient::new(channel)
        .join(request)
        .await
        .map_err(|status| judge(control, &status))?;
    Ok(read(answer.into_inner(), key, Some(token.pin()))?)
}

/// The operator's credential, which makes a join token for whatever service.
struct Operator {
    control: Vec<String>,
    operator: JoinToken,
}

impl Source for Operator {
    fn attest<'a>(&'a self, service: Option<&'a ServiceName>, known: Option<&'a Bundle>) -> Answer<'a> {
        Box::pin(async move {
            let operator = repinned(&self.operator, known);
            let token = mint(&self.control, &operator, &service.cloned().unwrap_or_else(program)).await?;
            redeem(&self.control, &token, &Key::generate()?).await
        })
    }

    fn is_lasting(&self) -> bool {
        true
    }
}

/// The credential, pinned to a root that is believed: the one that it names may have been replaced since.
fn repinned(operator: &JoinToken, known: Option<&Bundle>) -> JoinToken {
    let pins = known
        .into_iter()
        .flat_map(Bundle::roots)
        .filter_map(|root| Bundle::pin(root).ok());
    let pins: Vec<_> = pins.collect();
    match pins.first() {
        Some(first) if !pins.contains(&operator.pin()) => operator.pinned_to(*first),
        _ => operator.clone(),
    }
}

/// Makes a join token by the operator's credential.
async fn mint(control: &[String], operator: &JoinToken, service: &ServiceName) -> Result<JoinToken, Attempt> {
    let request = v1::CreateTokenRequest {
        service: service.to_string(),
        ttl_seconds: TOKEN_SECONDS,
    };
    let mut client = control::operator(control, operator)?;
    let answer = client.create_token(request).await.map_err(|status| judge(control, &status))?;
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

/// The control plane's socket on this machine, where the kernel says who we are.
struct Local {
    socket: PathBuf,
}

impl Source for Local {
    fn attest<'a>(&'a self, service: Option<&'a ServiceName>, _: Option<&'a Bundle>) -> Answer<'a> {
        Box::pin(async move {
            let key = Key::generate()?;
            let request = v1::AttestRequest {
                service: service.map(ToString::to_string).unwrap_or_default(),
                csr: key.signing_request()?,
            };
            let answer = IdentityClient::new(control::local_channel(&self.socket))
                .attest(request)
                .await
                .map_err(|status| judge(&[place(&self.socket)], &status))?;
            Ok(read(answer.into_inner(), &key, None)?)
        })
    }

    fn is_lasting(&self) -> bool {
        true
    }
}

fn place(socket: &Path) -> String {
    socket.display().to_string()
}

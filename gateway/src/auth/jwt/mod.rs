//! JSON Web Tokens (RFC 7519) as access tokens (RFC 6750, RFC 9068), with the care that RFC 8725 asks for.
//!
//! Cheap refusals come first: size, structure, algorithm, key. Then the driver checks the signature; only then are claims
//! read, so that nobody learns about claims from a token that nobody signed.

mod judge;
pub(crate) mod keys;
pub(crate) mod sets;
mod token;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use jsonwebtoken::Algorithm;

use super::Claims;
use crate::exchange::{KeyId, KeySetId, Verify, VerifyKey};
use crate::memory::Verdicts;
use keys::Key;
use sets::KeySet;

/// The longest token that is looked at, in bytes. Real ones with a dozen claims and an RSA signature have under 2 KiB.
pub(crate) const MAX_TOKEN: usize = 8 * 1024;

/// What one `[auth.NAME]` asks of a token.
#[derive(Debug)]
pub(crate) struct Jwt {
    /// Its place among the config's, which keeps verdicts of one apart from another's.
    pub(crate) id: u32,
    /// `iss` has to equal this.
    pub(crate) issuer: Option<String>,
    /// `aud` has to hold one of these. Where none is configured, a token that names an audience is refused: it is meant for
    /// somebody else (RFC 7519 §4.1.3).
    pub(crate) audiences: Vec<String>,
    /// The algorithms that are accepted (RFC 8725 §3.1).
    pub(crate) algorithms: Vec<Algorithm>,
    /// How far clocks may differ, in seconds.
    pub(crate) leeway: u64,
    /// The longest token that is looked at, in bytes.
    pub(crate) max_token: usize,
    /// Where its keys are.
    pub(crate) keys: KeySource,
}

/// Where keys are.
#[derive(Debug)]
pub(crate) enum KeySource {
    /// In the config.
    Config(Vec<KeyId>),
    /// At the issuer.
    Issuer(KeySetId),
}

/// The keys themselves.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Held<'a> {
    /// Those of the config, of all `[auth]` together.
    Config(&'a [Key]),
    /// Those of the issuer.
    Set(&'a KeySet),
}

/// Why a token is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("the token is longer than the limit")]
    TooLong,
    #[error("the token is not a signed JWT in compact form")]
    Malformed,
    #[error("the token's header or claims have a name twice or are no JSON object")]
    Json,
    #[error("the token's algorithm is not accepted")]
    Algorithm,
    #[error("the token is of another type")]
    Type,
    #[error("the token has critical extensions")]
    Critical,
    #[error("no key of this issuer fits the token")]
    Key,
    #[error("the token's signature is wrong")]
    Signature,
    #[error("the token's issuer is not accepted")]
    Issuer,
    #[error("the token is meant for another audience")]
    Audience,
    #[error("the token has expired")]
    Expired,
    #[error("the token is not valid yet")]
    NotYet,
    #[error("the token does not say when it expires")]
    NoExpiry,
    #[error("a registered claim of the token has the wrong type")]
    ClaimType,
}

/// A token whose signature is being checked.
#[derive(Debug)]
pub(crate) struct Unverified {
    /// By which its verdict is remembered.
    cache_key: [u8; 32],
    /// The claims, decoded from base64url but not looked at yet.
    payload: Vec<u8>,
}

/// How far the look at a token came.
#[derive(Debug)]
pub(crate) enum Looked {
    /// Its verdict is remembered.
    Known(Arc<Claims>),
    /// Its signature has to be checked.
    Verify(Verify, Unverified),
}

impl Jwt {
    /// Looks at a token as far as that goes without its signature.
    pub(crate) fn look(&self, token: &[u8], keys: Held<'_>, verdicts: &mut Verdicts, unix: u64) -> Result<Looked, Refusal> {
        if token.len() > self.max_token {
            return Err(Refusal::TooLong);
        }
        let version = match keys {
            Held::Config(_) => 0,
            Held::Set(set) => set.version,
        };
        let cache_key = Verdicts::key(self.id, version, token);
        if let Some(claims) = verdicts.find(&cache_key, unix) {
            return Ok(Looked::Known(claims));
        }
        let (parts, algorithm, key_id) = self.take_apart(token)?;
        let key = self.choose(key_id.as_deref(), algorithm, keys)?;
        let payload = token::base64(parts.payload)?;
        let verify = Verify {
            key,
            algorithm,
            message: parts.message.to_owned(),
            signature: parts.signature.to_owned(),
        };
        Ok(Looked::Verify(verify, Unverified { cache_key, payload }))
    }

    /// Whether a token may be worth fetching its issuer's keys for. Its `iss` is read before its signature is checked, to refuse and
    /// never to accept: where a route knows several issuers, one whose keys cannot be fetched must not hold up the tokens of another.
    pub(crate) fn may_be_ours(&self, token: &[u8]) -> Result<(), Refusal> {
        if token.len() > self.max_token {
            return Err(Refusal::TooLong);
        }
        let (parts, ..) = self.take_apart(token)?;
        judge::check_issuer_alone(self, &token::base64(parts.payload)?)
    }

    /// Judges a token whose signature was checked.
    pub(crate) fn judge(
        &self,
        token: Unverified,
        signature_is_right: bool,
        verdicts: &mut Verdicts,
        unix: u64,
    ) -> Result<Arc<Claims>, Refusal> {
        if !signature_is_right {
            return Err(Refusal::Signature);
        }
        let (claims, valid) = judge::judge(self, &token.payload, unix)?;
        let claims = Arc::new(Claims::new(claims));
        verdicts.insert(token.cache_key, Arc::clone(&claims), valid);
        Ok(claims)
    }

    /// The parts of a token, its algorithm, where that is accepted, and the name of its key.
    fn take_apart<'t>(&self, token: &'t [u8]) -> Result<(token::Parts<'t>, Algorithm, Option<String>), Refusal> {
        let parts = token::split(token)?;
        let header = token::Header::parse(parts.header)?;
        let algorithm = header
            .algorithm
            .filter(|algorithm| self.algorithms.contains(algorithm))
            .ok_or(Refusal::Algorithm)?;
        token::check_base64(parts.signature)?;
        Ok((parts, algorithm, header.key_id))
    }

    /// The key by which a token has to be signed. One that names a key gets that one or, where keys have no names, the only
    /// one that fits; one that names none gets the only one that fits. Keys are never tried in turn: which one signs is for
    /// the issuer to say, and trying costs what an attacker wants it to cost.
    fn choose(&self, id: Option<&str>, algorithm: Algorithm, keys: Held<'_>) -> Result<VerifyKey, Refusal> {
        match (&self.keys, keys) {
            (KeySource::Config(own), Held::Config(all)) => {
                let of = |id: KeyId| usize::try_from(id.0).ok().and_then(|at| all.get(at));
                let keys = own.iter().filter_map(|&id| of(id).map(|key| (id, key)));
                only(keys, id, algorithm).map(VerifyKey::Known)
            }
            (KeySource::Issuer(_), Held::Set(set)) => {
                let keys = set.keys.iter().map(|(key, text)| (text, key));
                only(keys, id, algorithm).map(|text| VerifyKey::Fetched {
                    auth: self.id,
                    jwk: text.to_string(),
                })
            }
            _ => Err(Refusal::Key),
        }
    }
}

fn only<'k, T>(keys: impl Iterator<Item = (T, &'k Key)> + Clone, id: Option<&str>, algorithm: Algorithm) -> Result<T, Refusal> {
    let mut fitting = keys.filter(|(_, key)| key.fits(algorithm));
    if let Some(id) = id {
        if let Some((key, _)) = fitting.clone().find(|(_, key)| key.id.as_deref() == Some(id)) {
            return Ok(key);
        }
        let mut nameless = fitting.filter(|(_, key)| key.id.is_none());
        return match (nameless.next(), nameless.next()) {
            (Some((key, _)), None) => Ok(key),
            _ => Err(Refusal::Key),
        };
    }
    match (fitting.next(), fitting.next()) {
        (Some((key, _)), None) => Ok(key),
        _ => Err(Refusal::Key),
    }
}

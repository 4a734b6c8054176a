//! `[auth.NAME]` with `kind = "jwt"`.

use std::time::Duration;

use jsonwebtoken::Algorithm;
use routing::config::{Diagnostics, Period, Spanned, nearest};

use super::{Files, Keys, raw};
use crate::auth::jwt::keys::{Key, is_symmetric, jwk_set};
use crate::auth::jwt::{Jwt, KeySource, MAX_TOKEN};
use crate::exchange::{KeyId, KeySetId};
use crate::keys::{Location, Published, check_url};

/// How far clocks may differ where a config does not say: as far as they do on machines without NTP for some weeks.
const LEEWAY: Duration = Duration::from_secs(30);

const ALGORITHMS: [&str; 12] = [
    "HS256", "HS384", "HS512", "ES256", "ES384", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "EdDSA",
];

pub(super) fn compile(
    id: u32,
    name: &Spanned<String>,
    raw: &raw::Jwt,
    whole: bool,
    keys: &mut Keys,
    files: &mut Files<'_>,
    diagnostics: &mut Diagnostics,
) -> Option<Jwt> {
    let leeway = raw.leeway.as_ref().map_or(Some(LEEWAY), |leeway| {
        diagnostics.duration("`leeway`", leeway, Duration::ZERO..=Duration::from_secs(600))
    });
    let max_token = raw.max_token.as_ref().map_or(Some(MAX_TOKEN as u64), |max| {
        diagnostics.size("`max_token`", max, 256..=64 << 10)
    });
    if let Some(empty) = raw.audiences.as_ref().filter(|audiences| audiences.get_ref().is_empty()) {
        let error = diagnostics.error(empty.span(), "`audiences` is empty");
        error.hint("name the audience that tokens for this gateway have, or leave `audiences` out");
    }
    let algorithms = algorithms(&raw.algorithms, diagnostics)?;
    let found = match published(name, raw, &algorithms, diagnostics) {
        Some(published) => {
            let id = u32::try_from(keys.published.len()).ok().map(KeySetId)?;
            keys.published.push(published?);
            KeySource::Issuer(id)
        }
        None => {
            refuse_idle(raw, diagnostics);
            let found = find_keys(name, raw, whole, &algorithms, files, diagnostics)?;
            let first = keys.known.len();
            keys.known.extend(found);
            let place = |at: usize| u32::try_from(at).ok().map(KeyId);
            KeySource::Config((first..keys.known.len()).map(place).collect::<Option<_>>()?)
        }
    };
    Some(Jwt {
        id,
        issuer: raw.issuer.as_ref().map(|issuer| issuer.get_ref().clone()),
        audiences: raw
            .audiences
            .as_ref()
            .map(|audiences| audiences.get_ref().clone())
            .unwrap_or_default(),
        algorithms,
        leeway: leeway?.as_secs(),
        max_token: usize::try_from(max_token?).unwrap_or(MAX_TOKEN),
        keys: found,
    })
}

fn algorithms(raw: &Spanned<Vec<Spanned<String>>>, diagnostics: &mut Diagnostics) -> Option<Vec<Algorithm>> {
    let mut algorithms = Some(Vec::new());
    for name in raw.get_ref() {
        let text = name.get_ref().as_str();
        let algorithm = text.parse::<Algorithm>().ok();
        if algorithm.is_none() {
            let error = diagnostics.error(
                name.span(),
                format!("`{text}` is not an algorithm that tokens may be signed with"),
            );
            error.hint(match nearest(text, ALGORITHMS) {
                Some(near) if !text.eq_ignore_ascii_case("none") => format!("did you mean `{near}`?"),
                _ => format!("known here: {}", ALGORITHMS.join(", ")),
            });
        }
        algorithms = algorithms.zip(algorithm).map(|(mut all, one)| {
            all.push(one);
            all
        });
    }
    let algorithms = algorithms?;
    let symmetric = algorithms.iter().filter(|&&algorithm| is_symmetric(algorithm)).count();
    if algorithms.is_empty() {
        diagnostics
            .error(raw.span(), "`algorithms` is empty")
            .hint("name the one that the issuer signs with, as in [\"ES256\"]");
        return None;
    }
    if symmetric != 0 && symmetric != algorithms.len() {
        let error = diagnostics.error(
            raw.span(),
            "`algorithms` has some with a secret (HS…) and some with a public key",
        );
        error.hint("a public key that is taken for a secret is a forged token (RFC 8725 §2.1): write two [auth] sections");
        return None;
    }
    Some(algorithms)
}

/// The set that an issuer publishes, where the config names its place or none at all; the inner None is a mistake.
fn published(
    name: &Spanned<String>,
    raw: &raw::Jwt,
    algorithms: &[Algorithm],
    diagnostics: &mut Diagnostics,
) -> Option<Option<Published>> {
    let is_elsewhere = raw.secret.is_some() || raw.jwks_file.is_some() || raw.key_file.is_some();
    let symmetric = algorithms.iter().any(|&algorithm| is_symmetric(algorithm));
    let (location, url) = match (&raw.jwks, &raw.issuer) {
        (Some(jwks), _) => (Location::Jwks(jwks.get_ref().clone()), jwks),
        (None, Some(issuer)) if !is_elsewhere && !symmetric => (Location::Issuer(issuer.get_ref().clone()), issuer),
        _ => return None,
    };
    if is_elsewhere {
        let error = diagnostics.error(
            url.span(),
            format!("[auth.{}] has its keys in more than one place", name.get_ref()),
        );
        error.hint("keep one of `jwks`, `jwks_file`, `key_file` and `secret`");
        return Some(None);
    }
    if symmetric {
        let error = diagnostics.error(url.span(), "`jwks` has public keys, which HS256, HS384 and HS512 do not have");
        error.hint("write secret = \"${NAME}\"");
        return Some(None);
    }
    if let Err(wrong) = check_url(url.get_ref()) {
        let error = match location {
            Location::Jwks(_) => diagnostics.error(url.span(), format!("`jwks`: {wrong}")),
            Location::Issuer(_) => diagnostics.error(
                url.span(),
                format!(
                    "[auth.{}] names no keys, and its `issuer` cannot say where they are: {wrong}",
                    name.get_ref()
                ),
            ),
        };
        error.hint("write jwks = \"https://…\"; plain http is for this machine alone, as in http://127.0.0.1:8000/jwks");
        return Some(None);
    }
    let mut published = Published::new(name.get_ref().clone(), location, algorithms.to_vec());
    let seconds = Duration::from_secs;
    let mut whole = true;
    let mut read = |key: &str, value: &Option<Spanned<Period>>, into: &mut Duration, least: Duration, most: Duration| {
        if let Some(value) = value {
            match diagnostics.duration(key, value, least..=most) {
                Some(duration) => *into = duration,
                None => whole = false,
            }
        }
    };
    read(
        "`jwks_refresh`",
        &raw.jwks_refresh,
        &mut published.refresh,
        seconds(1),
        seconds(86_400),
    );
    read(
        "`jwks_cooldown`",
        &raw.jwks_cooldown,
        &mut published.cooldown,
        seconds(1),
        seconds(3600),
    );
    read(
        "`jwks_timeout`",
        &raw.jwks_timeout,
        &mut published.timeout,
        Duration::from_millis(100),
        seconds(30),
    );
    Some(whole.then_some(published))
}

/// Keys that would have no effect.
fn refuse_idle(raw: &raw::Jwt, diagnostics: &mut Diagnostics) {
    for (key, value) in [
        ("jwks_refresh", &raw.jwks_refresh),
        ("jwks_cooldown", &raw.jwks_cooldown),
        ("jwks_timeout", &raw.jwks_timeout),
    ] {
        if let Some(value) = value {
            let error = diagnostics.error(value.span(), format!("`{key}` has no effect: no keys are fetched here"));
            error.hint("take it out");
        }
    }
}

/// The keys from the one place that is named.
fn find_keys(
    name: &Spanned<String>,
    raw: &raw::Jwt,
    whole: bool,
    algorithms: &[Algorithm],
    files: &mut Files<'_>,
    diagnostics: &mut Diagnostics,
) -> Option<Vec<Key>> {
    let symmetric = algorithms.iter().any(|&algorithm| is_symmetric(algorithm));
    let auth = name.get_ref();
    let (place, keys) = match (&raw.secret, &raw.jwks_file, &raw.key_file) {
        (Some(secret), None, None) if symmetric => (
            secret,
            Key::secret(auth, None, secret.get_ref().as_bytes(), algorithms).map(|key| vec![key]),
        ),
        (Some(secret), None, None) => {
            let error = diagnostics.error(
                secret.span(),
                "`secret` goes with HS256, HS384 and HS512, not with a public key's algorithms",
            );
            error.hint("write jwks = \"https://…\", jwks_file = … or key_file = …");
            return None;
        }
        (None, Some(path), None) => (path, files(path.get_ref()).and_then(|text| jwk_set(auth, &text, algorithms))),
        (None, None, Some(path)) if symmetric => {
            let error = diagnostics.error(
                path.span(),
                "`key_file` is a public key, which HS256, HS384 and HS512 do not have",
            );
            error.hint("write secret = \"${NAME}\"");
            return None;
        }
        (None, None, Some(path)) => (
            path,
            files(path.get_ref())
                .and_then(|pem| Key::pem(auth, &pem, algorithms))
                .map(|key| vec![key]),
        ),
        (None, None, None) => {
            if whole {
                let error = diagnostics.error(name.span(), format!("[auth.{auth}] has no key"));
                error.hint(if symmetric {
                    "add secret = \"${NAME}\""
                } else {
                    "add jwks = \"https://…\", jwks_file = … or key_file = …, or the `issuer` that says where its keys are"
                });
            }
            return None;
        }
        _ => {
            let error = diagnostics.error(name.span(), format!("[auth.{auth}] has its keys in more than one place"));
            error.hint("keep one of `jwks`, `jwks_file`, `key_file` and `secret`");
            return None;
        }
    };
    match keys {
        Ok(keys) => Some(keys),
        Err(message) if raw.secret.is_some() => {
            diagnostics
                .error(place.span(), message)
                .hint("make one: openssl rand -base64 48");
            None
        }
        Err(message) => {
            diagnostics.error(
                place.span(),
                format!("the keys of [auth.{auth}] in `{}`: {message}", place.get_ref()),
            );
            None
        }
    }
}

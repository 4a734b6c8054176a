//! The claims of a token whose signature is right (RFC 7519 §4.1).

use std::ops::Range;

use routing::json;
use serde_json::{Map, Value};

use super::{Jwt, Refusal};

/// Judges the claims, and tells in which seconds since 1970 the verdict stays right.
pub(super) fn judge(rules: &Jwt, payload: &[u8], unix: u64) -> Result<(Map<String, Value>, Range<u64>), Refusal> {
    let Ok(Value::Object(claims)) = json::parse(payload) else {
        return Err(Refusal::Json);
    };
    let until = time(&claims, "exp")?.ok_or(Refusal::NoExpiry)?.saturating_add(rules.leeway);
    if unix >= until {
        return Err(Refusal::Expired);
    }
    // A token from the future is one from a clock, or an issuer, that is wrong.
    let not_before = time(&claims, "nbf")?.unwrap_or(0);
    let issued_at = time(&claims, "iat")?.unwrap_or(0);
    let from = not_before.max(issued_at).saturating_sub(rules.leeway);
    if unix < from {
        return Err(Refusal::NotYet);
    }
    if !matches!(claims.get("sub"), None | Some(Value::String(_))) {
        return Err(Refusal::ClaimType);
    }
    check_issuer(rules, claims.get("iss"))?;
    check_audience(rules, claims.get("aud"))?;
    Ok((claims, from..until))
}

/// Judges `iss` and nothing else, of claims that nobody has checked.
pub(super) fn check_issuer_alone(rules: &Jwt, payload: &[u8]) -> Result<(), Refusal> {
    let Ok(Value::Object(claims)) = json::parse(payload) else {
        return Err(Refusal::Json);
    };
    check_issuer(rules, claims.get("iss"))
}

fn check_issuer(rules: &Jwt, issuer: Option<&Value>) -> Result<(), Refusal> {
    match (&rules.issuer, issuer) {
        (None, None | Some(Value::String(_))) => Ok(()),
        (Some(expected), Some(Value::String(issuer))) if expected == issuer => Ok(()),
        _ => Err(Refusal::Issuer),
    }
}

fn check_audience(rules: &Jwt, audience: Option<&Value>) -> Result<(), Refusal> {
    let is_meant = |audience: &Value| match audience {
        Value::String(audience) => Ok(rules.audiences.contains(audience)),
        _ => Err(Refusal::ClaimType),
    };
    let meant = match audience {
        None => rules.audiences.is_empty(),
        Some(Value::Array(list)) => list
            .iter()
            .try_fold(false, |meant, one| is_meant(one).map(|is| meant || is))?,
        Some(one) => is_meant(one)?,
    };
    if meant { Ok(()) } else { Err(Refusal::Audience) }
}

/// A NumericDate in whole seconds; fractions are cut off.
fn time(claims: &Map<String, Value>, name: &str) -> Result<Option<u64>, Refusal> {
    let Some(value) = claims.get(name) else {
        return Ok(None);
    };
    if let Some(seconds) = value.as_u64() {
        return Ok(Some(seconds));
    }
    match value.as_f64() {
        // A cast from a float saturates, so that a time beyond all clocks is only very late.
        Some(seconds) if seconds >= 0.0 => Ok(Some(seconds as u64)),
        _ => Err(Refusal::ClaimType),
    }
}

//! On whose behalf a request is made: the end user that somebody at the mesh's edge has verified.
//!
//! A [`Caller`] is a request extension. On the way out it is what whoever verified an end user (the ingress, for a handoff that was signed)
//! puts there, and the client writes it to the field [`X_HEDDLE_CALLER`]. On the way in it is there exactly where two things hold: the
//! handshake proved a peer that the policy of the mesh names under `handoffs`, and that peer said so. From anybody else the field is
//! dropped before anyone reads it, and so is an extension: a service may not make up end users.
//!
//! Rules judge by it (`claims`, `scopes`), handlers read it, and a program behind `mesh-runtime run` reads the field.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Request;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use routing::claims::Claims;
use routing::json;
use serde_json::{Map, Value};

/// The field that carries a [`Caller`] between members: base64url of a JSON object.
pub const X_HEDDLE_CALLER: HeaderName = HeaderName::from_static("x-heddle-caller");

/// The longest value of the field: a head of requests has room for more than that.
const MAX_FIELD: usize = 8 * 1024;
/// The longest subject.
const MAX_SUBJECT: usize = 1024;

/// An end user, as whoever verified it says.
#[derive(Debug, Clone, PartialEq)]
pub struct Caller {
    subject: String,
    expires_at: u64,
    claims: Claims,
    text: HeaderValue,
}

impl Caller {
    /// The end user that these claims are about: `sub` (who, a text) and `exp` (until when that is to be believed, in seconds since
    /// 1970-01-01T00:00:00Z) are among them; `scope` and whatever else may be.
    ///
    /// # Errors
    /// [`CallerError`], which says what is missing or too long.
    pub fn new(claims: Map<String, Value>) -> Result<Self, CallerError> {
        let text = URL_SAFE_NO_PAD.encode(Value::Object(claims.clone()).to_string());
        let text = HeaderValue::from_str(&text).expect("base64url is visible ASCII");
        Self::assemble(claims, text)
    }

    /// Reads the value of the field.
    ///
    /// # Errors
    /// [`CallerError`], which says what is wrong with it.
    pub fn parse(field: &HeaderValue) -> Result<Self, CallerError> {
        if field.len() > MAX_FIELD {
            return Err(CallerError::Length);
        }
        let bytes = URL_SAFE_NO_PAD.decode(field.as_bytes()).map_err(|_| CallerError::Form)?;
        match json::parse(&bytes) {
            Ok(Value::Object(claims)) => Self::assemble(claims, field.clone()),
            _ => Err(CallerError::Form),
        }
    }

    fn assemble(claims: Map<String, Value>, text: HeaderValue) -> Result<Self, CallerError> {
        if text.len() > MAX_FIELD {
            return Err(CallerError::Length);
        }
        let subject = claims.get("sub").and_then(Value::as_str).unwrap_or_default();
        if subject.is_empty() || subject.len() > MAX_SUBJECT || subject.chars().any(char::is_control) {
            return Err(CallerError::Subject);
        }
        Ok(Self {
            subject: subject.to_owned(),
            expires_at: claims.get("exp").and_then(Value::as_u64).ok_or(CallerError::Expiry)?,
            claims: Claims::new(claims),
            text,
        })
    }

    /// Who it is.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// Until when this is to be believed, in seconds since 1970-01-01T00:00:00Z.
    #[must_use]
    pub const fn expires_at(&self) -> u64 {
        self.expires_at
    }

    /// A claim by its name, or by its path (`address.country`).
    #[must_use]
    pub fn claim(&self, path: &str) -> Option<&Value> {
        self.claims.at(path)
    }

    /// Whether a scope was granted.
    #[must_use]
    pub fn has_scope(&self, scope: &str) -> bool {
        self.claims.has_scope(scope)
    }

    /// All that is said about it.
    #[must_use]
    pub const fn claims(&self) -> &Claims {
        &self.claims
    }
}

/// Says on whose behalf a request is made that leaves here: by its extension, and by nothing else.
pub(crate) fn write<B>(request: &mut Request<B>) {
    request.headers_mut().remove(X_HEDDLE_CALLER);
    if let Some(caller) = request.extensions_mut().remove::<Caller>() {
        request.headers_mut().insert(X_HEDDLE_CALLER, caller.text);
    }
}

/// Drops whatever is said about an end user by somebody who may not say so.
pub(crate) fn drop_from<B>(request: &mut Request<B>) {
    request.headers_mut().remove(X_HEDDLE_CALLER);
    request.extensions_mut().remove::<Caller>();
}

/// What a peer says about an end user that may say so, at `now`.
pub(crate) fn read(fields: &HeaderMap, now: u64) -> Result<Option<Caller>, CallerError> {
    let mut values = fields.get_all(X_HEDDLE_CALLER).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(CallerError::Several);
    }
    let caller = Caller::parse(value)?;
    if caller.expires_at <= now {
        return Err(CallerError::Expired);
    }
    Ok(Some(caller))
}

/// What is wrong with what is said about an end user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallerError {
    /// Too much of it.
    #[error("what is said about the end user is longer than {MAX_FIELD} bytes")]
    Length,
    /// Not base64url of a JSON object.
    #[error("what is said about the end user is not base64url of one JSON object in which no name comes twice")]
    Form,
    /// Nobody.
    #[error("the end user has no `sub` of 1 to {MAX_SUBJECT} bytes without control characters")]
    Subject,
    /// Without an end.
    #[error("what is said about the end user has no `exp` in seconds")]
    Expiry,
    /// Its time is over.
    #[error("what is said about the end user is to be believed no longer")]
    Expired,
    /// More than one.
    #[error("more than one end user is named")]
    Several,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const NOW: u64 = 1_790_000_000;

    fn field(claims: &Value) -> HeaderValue {
        HeaderValue::from_str(&URL_SAFE_NO_PAD.encode(claims.to_string())).unwrap()
    }

    fn alice() -> Value {
        json!({"sub": "alice", "exp": NOW + 60, "scope": "accounts:read", "address": {"country": "DE"}})
    }

    fn fields(values: &[HeaderValue]) -> HeaderMap {
        values.iter().map(|value| (X_HEDDLE_CALLER, value.clone())).collect()
    }

    #[test]
    fn what_is_written_reads_back() {
        let Value::Object(claims) = alice() else { unreachable!() };
        let caller = Caller::new(claims).unwrap();
        let mut request = Request::new(());
        request.extensions_mut().insert(caller.clone());
        request
            .headers_mut()
            .insert(X_HEDDLE_CALLER, field(&json!({"sub": "mallory"})));
        write(&mut request);
        assert_eq!(read(request.headers(), NOW), Ok(Some(caller.clone())));
        assert_eq!((caller.subject(), caller.expires_at()), ("alice", NOW + 60));
        assert_eq!(caller.claim("address.country"), Some(&json!("DE")));
        assert!(caller.has_scope("accounts:read") && !caller.has_scope("accounts"));
    }

    #[test]
    fn without_an_extension_nothing_is_said() {
        let mut request = Request::new(());
        request.headers_mut().insert(X_HEDDLE_CALLER, field(&alice()));
        write(&mut request);
        assert_eq!(read(request.headers(), NOW), Ok(None));
    }

    #[test]
    fn each_malformed_caller_is_refused_for_its_own_reason() {
        let with = |name: &str, value: Value| {
            let mut claims = alice();
            claims[name] = value;
            field(&claims)
        };
        let text = |text: &str| HeaderValue::from_str(&URL_SAFE_NO_PAD.encode(text)).unwrap();
        for (value, error) in [
            (HeaderValue::from_static(""), CallerError::Form),
            (HeaderValue::from_static("alice"), CallerError::Form),
            (HeaderValue::from_static("e30="), CallerError::Form),
            (text("[]"), CallerError::Form),
            (text(r#"{"sub":"a","exp":9999999999,"sub":"b"}"#), CallerError::Form),
            (with("sub", Value::Null), CallerError::Subject),
            (with("sub", json!("")), CallerError::Subject),
            (with("sub", json!("a\nb")), CallerError::Subject),
            (with("sub", json!("x".repeat(1025))), CallerError::Subject),
            (with("exp", json!("soon")), CallerError::Expiry),
            (with("exp", json!(-1)), CallerError::Expiry),
            (with("exp", json!(NOW)), CallerError::Expired),
            (with("more", json!("x".repeat(8192))), CallerError::Length),
        ] {
            assert_eq!(read(&fields(std::slice::from_ref(&value)), NOW), Err(error), "{value:?}");
        }
        assert_eq!(
            read(&fields(&[field(&alice()), field(&alice())]), NOW),
            Err(CallerError::Several)
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>) {
            let text = URL_SAFE_NO_PAD.encode(&bytes);
            let _ = Caller::parse(&HeaderValue::from_str(&text).unwrap());
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let _ = Caller::parse(&value);
            }
        }
    }
}

//! The structure of a token: three parts, and a header that is read before anything is trusted.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use routing::json;
use serde_json::Value;

use super::Refusal;

/// A token in compact form (RFC 7515 §7.1).
pub(super) struct Parts<'a> {
    pub(super) header: &'a str,
    pub(super) payload: &'a str,
    /// Header and payload with the dot between them: what is signed.
    pub(super) message: &'a str,
    pub(super) signature: &'a str,
}

/// Splits a token. Five parts are an encrypted token, which nobody here can read.
pub(super) fn split(token: &[u8]) -> Result<Parts<'_>, Refusal> {
    let token = std::str::from_utf8(token).map_err(|_| Refusal::Malformed)?;
    let (message, signature) = token.rsplit_once('.').ok_or(Refusal::Malformed)?;
    let (header, payload) = message.split_once('.').ok_or(Refusal::Malformed)?;
    if header.is_empty() || payload.is_empty() || payload.contains('.') {
        return Err(Refusal::Malformed);
    }
    Ok(Parts {
        header,
        payload,
        message,
        signature,
    })
}

/// Decodes base64url without padding, and without stray bits at its end: one value has one spelling.
pub(super) fn base64(text: &str) -> Result<Vec<u8>, Refusal> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| Refusal::Malformed)
}

/// Whether the signature part can be decoded and is there at all.
pub(super) fn check_base64(signature: &str) -> Result<(), Refusal> {
    // RSA with 8192 bits is the longest signature that exists here.
    let mut room = [0; 1024];
    match URL_SAFE_NO_PAD.decode_slice(signature, &mut room) {
        Ok(1..) => Ok(()),
        _ => Err(Refusal::Malformed),
    }
}

/// What a token's header says. Keys and addresses of keys in it are not looked at (RFC 8725 §3.10).
pub(super) struct Header {
    /// Its algorithm; none where it is unknown here, or `none`.
    pub(super) algorithm: Option<Algorithm>,
    /// The name of its key.
    pub(super) key_id: Option<String>,
}

impl Header {
    pub(super) fn parse(text: &str) -> Result<Self, Refusal> {
        let Ok(Value::Object(mut header)) = json::parse(&base64(text)?) else {
            return Err(Refusal::Json);
        };
        // No extension is understood here, and one that is critical must be (RFC 7515 §4.1.11).
        if header.contains_key("crit") {
            return Err(Refusal::Critical);
        }
        match header.get("typ") {
            None => {}
            Some(Value::String(kind)) if is_access_token(kind) => {}
            Some(_) => return Err(Refusal::Type),
        }
        let algorithm = match header.get("alg") {
            Some(Value::String(name)) => name.parse().ok(),
            _ => None,
        };
        let key_id = match header.remove("kid") {
            None => None,
            Some(Value::String(id)) => Some(id),
            Some(_) => return Err(Refusal::Malformed),
        };
        Ok(Self { algorithm, key_id })
    }
}

/// Whether a `typ` is that of an access token: `JWT` (RFC 7519 §5.1) or `at+jwt` (RFC 9068 §2.1), where `application/` may be
/// left out (RFC 7515 §4.1.9). Others, such as logout tokens, are signed by the same issuers for other uses (RFC 8725 §3.11).
fn is_access_token(kind: &str) -> bool {
    let kind = match kind.split_at_checked("application/".len()) {
        Some((prefix, rest)) if prefix.eq_ignore_ascii_case("application/") => rest,
        _ => kind,
    };
    kind.eq_ignore_ascii_case("jwt") || kind.eq_ignore_ascii_case("at+jwt")
}

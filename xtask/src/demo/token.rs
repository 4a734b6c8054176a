//! A token for the demo's customer: a JWT (RFC 7519) signed with HS256, by the bank's secret.

use std::fs::File;
use std::io::Read as _;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::json;
use sha2::Sha256;

/// As long as somebody tries the demo.
const LIFETIME: u64 = 3600;

/// A fresh secret for one run: 32 random bytes, base64url.
pub(crate) fn secret() -> Result<String> {
    let mut bytes = [0_u8; 32];
    File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut bytes))
        .context("this machine has no /dev/urandom")?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// A token that says what `examples/bank/gateway.toml` asks for.
pub(crate) fn for_customer(customer: &str, secret: &str) -> Result<String> {
    let now = unix()?;
    let claims = json!({
        "iss": "https://id.bank.example/",
        "aud": "bank-api",
        "sub": customer,
        "scope": "accounts:read transfers:write",
        "iat": now,
        "nbf": now,
        "exp": now + LIFETIME,
    });
    sign(&claims, secret)
}

/// The wall clock, in seconds since 1970.
pub(crate) fn unix() -> Result<u64> {
    Ok(SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .context("the clock is before 1970")?
        .as_secs())
}

fn sign(claims: &serde_json::Value, secret: &str) -> Result<String> {
    let header = json!({ "alg": "HS256", "typ": "JWT" });
    let signed = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header.to_string()),
        URL_SAFE_NO_PAD.encode(claims.to_string())
    );
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes())?;
    mac.update(signed.as_bytes());
    Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_hmac_sha256_over_header_and_claims() {
        let token = sign(&json!({ "sub": "7" }), "a secret of at least thirty-two bytes").unwrap();
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let mut mac = Hmac::<Sha256>::new_from_slice(b"a secret of at least thirty-two bytes").unwrap();
        mac.update(signed.as_bytes());
        mac.verify_slice(&URL_SAFE_NO_PAD.decode(signature).unwrap()).unwrap();
        let claims = signed.split_once('.').unwrap().1;
        assert_eq!(URL_SAFE_NO_PAD.decode(claims).unwrap(), br#"{"sub":"7"}"#);
    }

    #[test]
    fn every_run_has_its_own_secret() {
        let secret = secret().unwrap();
        assert!(secret.len() >= 32);
        assert_ne!(secret, super::secret().unwrap());
    }
}

//! Signed tokens, all live and all different, and a wrk script that asks with one after the other.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use serde_json::{Value, json};

use crate::lab::Lab;

pub(crate) const ISSUER: &str = "https://id.bank.example/";
pub(crate) const AUDIENCE: &str = "bank-api";

const KEY_ID: &str = "one";

/// How long a token lives: longer than any run.
const LIFE: Duration = Duration::from_secs(3600);

/// An issuer with a key of its own.
#[derive(Debug)]
pub(crate) struct Issuer {
    key: KeyPair,
}

impl Issuer {
    pub(crate) fn new() -> Result<Self> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        Ok(Self { key })
    }

    /// Its public key as a JSON Web Key Set.
    pub(crate) fn jwks(&self) -> Value {
        // An uncompressed point (SEC 1 §2.3.3): 4, then x and y of 32 bytes each.
        let point = self.key.public_key_raw();
        let coordinate = |range| URL_SAFE_NO_PAD.encode(&point[range]);
        json!({ "keys": [{
            "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": KEY_ID,
            "x": coordinate(1..33), "y": coordinate(33..65),
        }]})
    }

    /// ES256 tokens, each with a subject of its own.
    pub(crate) fn tokens(&self, count: u32) -> Result<Vec<String>> {
        let key = EncodingKey::from_ec_pem(self.key.serialize_pem().as_bytes())?;
        let header = Header {
            kid: Some(KEY_ID.to_owned()),
            ..Header::new(Algorithm::ES256)
        };
        let expiry = (SystemTime::now().duration_since(UNIX_EPOCH)? + LIFE).as_secs();
        (0..count)
            .map(|number| {
                let claims = json!({
                    "iss": ISSUER, "aud": AUDIENCE, "exp": expiry,
                    "sub": format!("customer-{number}"), "scope": "accounts:read",
                });
                jsonwebtoken::encode(&header, &claims, &key).context("signing")
            })
            .collect()
    }
}

/// A wrk script that asks for `path` with each of `tokens` in turn. The requests are made before the run begins.
pub(crate) fn script(lab: &Lab, path: &str, tokens: &[String]) -> Result<PathBuf> {
    let mut script = String::from("local tokens = {\n");
    for token in tokens {
        writeln!(script, "\"{token}\",")?;
    }
    write!(
        script,
        "}}
local requests = {{}}
local next = 0
init = function(args)
  for index, token in ipairs(tokens) do
    requests[index] = wrk.format(\"GET\", \"{path}\", {{ [\"authorization\"] = \"Bearer \" .. token }})
  end
end
request = function()
  next = next % #requests + 1
  return requests[next]
end
"
    )?;
    lab.write("tokens.lua", &script)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_differ_and_are_signed_by_the_published_key() {
        let issuer = Issuer::new().unwrap();
        let tokens = issuer.tokens(3).unwrap();
        assert_ne!(tokens[0], tokens[1]);
        let jwks: jsonwebtoken::jwk::JwkSet = serde_json::from_value(issuer.jwks()).unwrap();
        let key = jsonwebtoken::DecodingKey::from_jwk(&jwks.keys[0]).unwrap();
        let mut checks = jsonwebtoken::Validation::new(Algorithm::ES256);
        checks.set_audience(&[AUDIENCE]);
        let token = jsonwebtoken::decode::<Value>(&tokens[2], &key, &checks).unwrap();
        assert_eq!(token.claims["sub"], "customer-2");
    }
}

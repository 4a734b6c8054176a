//! Tokens as RFC 8725 wants them refused. Keys are made for each test, and signatures by other code than what checks them.

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair,
    KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512,
    RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::Algorithm;
use serde_json::{Value, json};

use super::keys::{Key, jwk_set};
use super::*;

mod claims;
mod keys;
mod signature;
mod structure;
mod verdicts;

const NOW: u64 = 1_700_000_000;
const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn claims() -> Value {
    json!({"sub": "7", "iss": "https://id.example/", "aud": ["bank-api", "other"], "exp": NOW + 60, "nbf": NOW - 5, "iat": NOW - 5})
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn without(name: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(name);
    claims
}

fn hs256(message: &str) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), message.as_bytes())
        .as_ref()
        .to_vec()
}

fn token(header: &str, payload: &str, sign: impl FnOnce(&str) -> Vec<u8>) -> String {
    let message = format!("{}.{}", encode(header), encode(payload));
    let signature = encode(sign(&message));
    format!("{message}.{signature}")
}

fn hs(claims: &Value) -> String {
    token(r#"{"alg":"HS256","typ":"JWT"}"#, &claims.to_string(), hs256)
}

fn rules(algorithms: &[Algorithm], keys: &[Key]) -> Jwt {
    Jwt {
        id: 0,
        issuer: Some("https://id.example/".to_owned()),
        audiences: vec!["bank-api".to_owned()],
        algorithms: algorithms.to_vec(),
        leeway: 30,
        max_token: MAX_TOKEN,
        keys: KeySource::Config((0..u32::try_from(keys.len()).unwrap()).map(KeyId).collect()),
    }
}

/// Does all that an exchange and its driver do with a token.
fn check_with(rules: &Jwt, keys: &[Key], verdicts: &mut Verdicts, token: &str, unix: u64) -> Result<Arc<Claims>, Refusal> {
    match rules.look(token.as_bytes(), Held::Config(keys), verdicts, unix)? {
        Looked::Known(claims) => Ok(claims),
        Looked::Verify(verify, unverified) => {
            let VerifyKey::Known(id) = verify.key else {
                panic!("a key of the config")
            };
            let key = &keys[id.0 as usize];
            let right = key.verify(verify.algorithm, &verify.message, &verify.signature);
            rules.judge(unverified, right, verdicts, unix)
        }
    }
}

fn check(algorithms: &[Algorithm], keys: &[Key], token: &str) -> Result<(), Refusal> {
    check_with(&rules(algorithms, keys), keys, &mut Verdicts::new(8), token, NOW).map(|_| ())
}

fn secret() -> Vec<Key> {
    vec![Key::secret("customer", None, SECRET, &[Algorithm::HS256]).unwrap()]
}

fn check_hs(token: &str) -> Result<(), Refusal> {
    check(&[Algorithm::HS256], &secret(), token)
}

fn ec(algorithm: &'static EcdsaSigningAlgorithm) -> EcdsaKeyPair {
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &SystemRandom::new()).unwrap();
    EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref()).unwrap()
}

fn ed() -> Ed25519KeyPair {
    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
    Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap()
}

fn pem(key: &impl AsDer<PublicKeyX509Der<'static>>) -> Vec<u8> {
    let der = key.as_der().unwrap();
    format!(
        "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
        STANDARD.encode(der.as_ref())
    )
    .into_bytes()
}

fn ec_jwk(key: &EcdsaKeyPair, curve: &str, more: &Value) -> Value {
    let point = &key.public_key().as_ref()[1..];
    let (x, y) = point.split_at(point.len() / 2);
    let mut jwk = json!({"kty": "EC", "crv": curve, "x": encode(x), "y": encode(y)});
    jwk.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    jwk
}

fn es_token(key: &EcdsaKeyPair, header: &Value) -> String {
    token(&header.to_string(), &claims().to_string(), |message| {
        key.sign(&SystemRandom::new(), message.as_bytes()).unwrap().as_ref().to_vec()
    })
}

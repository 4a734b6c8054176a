//! The keys: which are taken, and which one a token has to be signed with.

use super::*;

#[test]
fn the_key_is_chosen_by_its_name_and_never_guessed() {
    let (one, two) = (ec(&ECDSA_P256_SHA256_FIXED_SIGNING), ec(&ECDSA_P256_SHA256_FIXED_SIGNING));
    let set = json!({"keys": [
        ec_jwk(&one, "P-256", &json!({"kid": "1", "use": "sig", "alg": "ES256"})),
        ec_jwk(&two, "P-256", &json!({"kid": "2"})),
    ]});
    let keys = jwk_set("a", set.to_string().as_bytes(), &[Algorithm::ES256]).unwrap();
    let check = |header: Value, key: &EcdsaKeyPair| check(&[Algorithm::ES256], &keys, &es_token(key, &header));
    assert_eq!(check(json!({"alg": "ES256", "kid": "1"}), &one), Ok(()));
    assert_eq!(check(json!({"alg": "ES256", "kid": "2"}), &two), Ok(()));
    assert_eq!(check(json!({"alg": "ES256", "kid": "1"}), &two), Err(Refusal::Signature));
    assert_eq!(check(json!({"alg": "ES256", "kid": "3"}), &one), Err(Refusal::Key));
    assert_eq!(check(json!({"alg": "ES256"}), &one), Err(Refusal::Key));
    assert_eq!(check(json!({"alg": "ES256", "kid": 1}), &one), Err(Refusal::Malformed));
}

#[test]
fn a_key_in_the_tokens_own_header_is_not_used() {
    let (ours, theirs) = (ec(&ECDSA_P256_SHA256_FIXED_SIGNING), ec(&ECDSA_P256_SHA256_FIXED_SIGNING));
    let keys = [Key::pem("a", &pem(ours.public_key()), &[Algorithm::ES256]).unwrap()];
    let header = json!({"alg": "ES256", "jwk": ec_jwk(&theirs, "P-256", &json!({})), "jku": "https://evil.example/jwks.json"});
    assert_eq!(
        check(&[Algorithm::ES256], &keys, &es_token(&theirs, &header)),
        Err(Refusal::Signature)
    );
}

#[test]
fn keys_that_contradict_themselves_or_cannot_be_used_are_refused() {
    let key = ec(&ECDSA_P256_SHA256_FIXED_SIGNING);
    let refused = |jwks: Value, algorithms: &[Algorithm]| {
        jwk_set("a", json!({"keys": jwks}).to_string().as_bytes(), algorithms).unwrap_err()
    };
    let es = [Algorithm::ES256, Algorithm::ES384];
    assert!(refused(json!([ec_jwk(&key, "P-256", &json!({"alg": "ES384"}))]), &es).contains("`alg`"));
    assert!(refused(json!([ec_jwk(&key, "P-384", &json!({}))]), &es).contains("`crv`"));
    assert!(refused(json!([ec_jwk(&key, "P-256", &json!({"use": "enc"}))]), &es).contains("no key"));
    assert!(refused(json!([ec_jwk(&key, "P-256", &json!({"key_ops": ["sign"]}))]), &es).contains("no key"));
    assert!(refused(json!([ec_jwk(&key, "P-256", &json!({"alg": "ECDH-ES"}))]), &es).contains("no key"));
    assert!(refused(json!([ec_jwk(&key, "P-256", &json!({}))]), &[Algorithm::RS256]).contains("no key"));
    let named = ec_jwk(&key, "P-256", &json!({"kid": "k"}));
    assert!(refused(json!([named, named]), &es).contains("twice"));
    assert!(refused(json!([]), &es).contains("no key"));
    let short = json!({"kty": "RSA", "n": encode([0xff; 128]), "e": "AQAB"});
    assert!(refused(json!([short]), &[Algorithm::RS256]).contains("2048"));
    let oct = json!({"kty": "oct", "k": encode(b"short")});
    assert!(refused(json!([oct]), &[Algorithm::HS256]).contains("32"));
    assert!(jwk_set("a", b"{\"keys\":1}", &es).unwrap_err().contains("no JWK set"));
}

#[test]
fn key_files_that_are_no_public_key_say_what_they_are() {
    let refused = |pem: &[u8]| Key::pem("a", pem, &[Algorithm::ES256]).unwrap_err();
    assert!(refused(b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n").contains("private key"));
    assert!(refused(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").contains("certificate"));
    assert!(refused(b"hello").contains("no public key"));
    assert!(refused(&pem(ed().public_key())).contains("EdDSA"));
}

#[test]
fn a_secret_shorter_than_its_hash_is_refused() {
    assert!(
        Key::secret("a", None, &SECRET[..31], &[Algorithm::HS256])
            .unwrap_err()
            .contains("32")
    );
    assert!(
        Key::secret("a", None, &SECRET[..63], &[Algorithm::HS256, Algorithm::HS512])
            .unwrap_err()
            .contains("64")
    );
    assert!(Key::secret("a", None, &SECRET[..32], &[Algorithm::HS256]).is_ok());
}

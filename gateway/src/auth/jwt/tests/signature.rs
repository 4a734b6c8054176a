//! Signatures, and the algorithms that they are checked by.

use super::*;

#[test]
fn a_good_token_is_accepted() {
    assert_eq!(check_hs(&hs(&claims())), Ok(()));
}

#[test]
fn every_algorithm_is_checked_with_its_own_kind_of_key() {
    let random = SystemRandom::new();
    let payload = claims().to_string();
    let header = |name: &str| format!(r#"{{"alg":"{name}"}}"#);
    for (name, algorithm, kind) in [
        ("HS256", Algorithm::HS256, hmac::HMAC_SHA256),
        ("HS384", Algorithm::HS384, hmac::HMAC_SHA384),
        ("HS512", Algorithm::HS512, hmac::HMAC_SHA512),
    ] {
        let keys = [Key::secret("a", None, SECRET, &[algorithm]).unwrap()];
        let sign = |message: &str| {
            hmac::sign(&hmac::Key::new(kind, SECRET), message.as_bytes())
                .as_ref()
                .to_vec()
        };
        assert_eq!(
            check(&[algorithm], &keys, &token(&header(name), &payload, sign)),
            Ok(()),
            "{name}"
        );
    }
    for (name, algorithm, kind) in [
        ("ES256", Algorithm::ES256, &ECDSA_P256_SHA256_FIXED_SIGNING),
        ("ES384", Algorithm::ES384, &ECDSA_P384_SHA384_FIXED_SIGNING),
    ] {
        let key = ec(kind);
        let keys = [Key::pem("a", &pem(key.public_key()), &[algorithm]).unwrap()];
        assert_eq!(
            check(&[algorithm], &keys, &es_token(&key, &json!({"alg": name}))),
            Ok(()),
            "{name}"
        );
        let other = es_token(&ec(kind), &json!({"alg": name}));
        assert_eq!(check(&[algorithm], &keys, &other), Err(Refusal::Signature), "{name}");
    }
    let key = ed();
    let keys = [Key::pem("a", &pem(key.public_key()), &[Algorithm::EdDSA]).unwrap()];
    let signed = token(&header("EdDSA"), &payload, |message| {
        key.sign(message.as_bytes()).as_ref().to_vec()
    });
    assert_eq!(check(&[Algorithm::EdDSA], &keys, &signed), Ok(()));
    let key = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    for (name, algorithm, kind) in [
        (
            "RS256",
            Algorithm::RS256,
            &RSA_PKCS1_SHA256 as &dyn aws_lc_rs::signature::RsaEncoding,
        ),
        ("RS384", Algorithm::RS384, &RSA_PKCS1_SHA384),
        ("RS512", Algorithm::RS512, &RSA_PKCS1_SHA512),
        ("PS256", Algorithm::PS256, &RSA_PSS_SHA256),
        ("PS384", Algorithm::PS384, &RSA_PSS_SHA384),
        ("PS512", Algorithm::PS512, &RSA_PSS_SHA512),
    ] {
        let keys = [Key::pem("a", &pem(key.public_key()), &[algorithm]).unwrap()];
        let signed = token(&header(name), &payload, |message| {
            let mut signature = vec![0; key.public_modulus_len()];
            key.sign(kind, &random, message.as_bytes(), &mut signature).unwrap();
            signature
        });
        assert_eq!(check(&[algorithm], &keys, &signed), Ok(()), "{name}");
    }
}

#[test]
fn no_algorithm_at_all_is_refused() {
    for name in ["none", "None", "NONE", "nOnE", ""] {
        let header = format!(r#"{{"alg":"{name}"}}"#);
        assert_eq!(
            check_hs(&token(&header, &claims().to_string(), hs256)),
            Err(Refusal::Algorithm),
            "{name}"
        );
    }
    assert_eq!(check_hs(&token("{}", &claims().to_string(), hs256)), Err(Refusal::Algorithm));
    assert_eq!(
        check_hs(&token(r#"{"alg":["HS256"]}"#, &claims().to_string(), hs256)),
        Err(Refusal::Algorithm)
    );
    let unsigned = token(r#"{"alg":"none"}"#, &claims().to_string(), |_| Vec::new());
    assert!(check_hs(&unsigned).is_err());
}

#[test]
fn an_algorithm_that_is_not_pinned_is_refused() {
    let signed = token(r#"{"alg":"HS512"}"#, &claims().to_string(), |message| {
        hmac::sign(&hmac::Key::new(hmac::HMAC_SHA512, SECRET), message.as_bytes())
            .as_ref()
            .to_vec()
    });
    assert_eq!(check_hs(&signed), Err(Refusal::Algorithm));
}

#[test]
fn a_public_key_is_never_taken_for_a_secret() {
    // RFC 8725 §2.1: the attacker signs by HMAC with the public key that everybody knows.
    let key = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let public = pem(key.public_key());
    let keys = [Key::pem("a", &public, &[Algorithm::RS256]).unwrap()];
    let forged = token(r#"{"alg":"HS256"}"#, &claims().to_string(), |message| {
        hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &public), message.as_bytes())
            .as_ref()
            .to_vec()
    });
    assert_eq!(check(&[Algorithm::RS256], &keys, &forged), Err(Refusal::Algorithm));
    // Even where somebody pins both, which the config refuses.
    assert_eq!(
        check(&[Algorithm::RS256, Algorithm::HS256], &keys, &forged),
        Err(Refusal::Key)
    );
    assert!(!keys[0].verify(Algorithm::HS256, "a.b", "AAAA"));
}

#[test]
fn a_wrong_signature_is_refused() {
    let good = hs(&claims());
    let (message, signature) = good.rsplit_once('.').unwrap();
    let other = with("sub", json!("8"));
    let swapped = format!("{}.{signature}", hs(&other).rsplit_once('.').unwrap().0);
    assert_eq!(check_hs(&swapped), Err(Refusal::Signature));
    assert_eq!(check_hs(&format!("{message}.{}", encode([0; 32]))), Err(Refusal::Signature));
    assert_eq!(
        check_hs(&format!("{message}.{}", encode(&hs256(message)[..31]))),
        Err(Refusal::Signature)
    );
    assert_eq!(check_hs(&format!("{message}.")), Err(Refusal::Malformed));
}

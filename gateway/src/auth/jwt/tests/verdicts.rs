//! What is remembered of tokens.

use super::*;

#[test]
fn a_verdict_is_remembered_until_the_token_expires_and_no_longer() {
    let keys = secret();
    let rules = rules(&[Algorithm::HS256], &keys);
    let mut verdicts = Verdicts::new(8);
    let token = hs(&claims());
    check_with(&rules, &keys, &mut verdicts, &token, NOW).unwrap();
    assert!(matches!(
        rules.look(token.as_bytes(), Held::Config(&keys), &mut verdicts, NOW + 89),
        Ok(Looked::Known(_))
    ));
    assert_eq!(
        check_with(&rules, &keys, &mut verdicts, &token, NOW + 90),
        Err(Refusal::Expired)
    );
    // Another token is not known because this one is, nor is this one known to another auth.
    assert!(matches!(
        rules.look(
            hs(&with("sub", json!("8"))).as_bytes(),
            Held::Config(&keys),
            &mut verdicts,
            NOW
        ),
        Ok(Looked::Verify(..))
    ));
    let other = Jwt { id: 1, ..rules };
    assert!(matches!(
        other.look(token.as_bytes(), Held::Config(&keys), &mut verdicts, NOW),
        Ok(Looked::Verify(..))
    ));
}

#[test]
fn a_refusal_is_not_remembered_as_a_verdict() {
    let keys = secret();
    let rules = rules(&[Algorithm::HS256], &keys);
    let mut verdicts = Verdicts::new(8);
    let good = hs(&claims());
    let Looked::Verify(_, unverified) = rules.look(good.as_bytes(), Held::Config(&keys), &mut verdicts, NOW).unwrap() else {
        panic!("nothing is known yet");
    };
    assert_eq!(rules.judge(unverified, false, &mut verdicts, NOW), Err(Refusal::Signature));
    assert!(matches!(
        rules.look(good.as_bytes(), Held::Config(&keys), &mut verdicts, NOW),
        Ok(Looked::Verify(..))
    ));
}

#[test]
fn a_verdicts_key_is_the_hash_of_the_auth_its_key_set_and_the_token() {
    let expected = blake3::hash(b"\x01\0\0\0\x02\0\0\0\0\0\0\0token");
    assert_eq!(Verdicts::key(1, 2, b"token"), *expected.as_bytes());
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_refused_and_never_a_crash(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
        let keys = secret();
        let rules = rules(&[Algorithm::HS256], &keys);
        let looked = rules.look(&bytes, Held::Config(&keys), &mut Verdicts::new(8), NOW);
        assert!(looked.is_err());
    }

    #[test]
    fn any_header_and_claims_under_a_right_signature_are_no_crash(header in "\\PC{0,60}", payload in "\\PC{0,60}") {
        let _ = check_hs(&token(&header, &payload, hs256));
        let _ = check_hs(&token(r#"{"alg":"HS256"}"#, &payload, hs256));
    }
}

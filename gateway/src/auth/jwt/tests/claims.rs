//! The claims of a token whose signature is right.

use super::*;

#[test]
fn the_issuer_has_to_be_the_one_that_is_configured() {
    for odd in [
        with("iss", json!("https://id.example")),
        with("iss", json!("https://evil.example/")),
        with("iss", json!(["https://id.example/"])),
        without("iss"),
    ] {
        assert_eq!(check_hs(&hs(&odd)), Err(Refusal::Issuer), "{odd}");
    }
}

#[test]
fn the_audience_has_to_hold_one_that_is_configured() {
    assert_eq!(check_hs(&hs(&with("aud", json!("bank-api")))), Ok(()));
    for odd in [
        with("aud", json!("bank-api2")),
        with("aud", json!([])),
        with("aud", json!(["x"])),
        without("aud"),
    ] {
        assert_eq!(check_hs(&hs(&odd)), Err(Refusal::Audience), "{odd}");
    }
    for odd in [json!(1), json!(["bank-api", 1]), json!({"bank-api": true}), json!(null)] {
        assert_eq!(check_hs(&hs(&with("aud", odd))), Err(Refusal::ClaimType));
    }
}

#[test]
fn a_token_for_somebody_is_refused_where_nobody_said_who_we_are() {
    let keys = secret();
    let mut rules = rules(&[Algorithm::HS256], &keys);
    rules.audiences.clear();
    let check = |claims: &Value| check_with(&rules, &keys, &mut Verdicts::new(8), &hs(claims), NOW).map(|_| ());
    assert_eq!(check(&claims()), Err(Refusal::Audience));
    assert_eq!(check(&without("aud")), Ok(()));
}

#[test]
fn a_token_expires_with_the_leeway_and_has_to_say_when() {
    assert_eq!(check_hs(&hs(&with("exp", json!(NOW - 29)))), Ok(()));
    assert_eq!(check_hs(&hs(&with("exp", json!(NOW - 30)))), Err(Refusal::Expired));
    assert_eq!(check_hs(&hs(&with("exp", json!(0)))), Err(Refusal::Expired));
    assert_eq!(
        check_hs(&hs(&with("exp", json!(1.7e9 + 0.5)))),
        Ok(()),
        "a NumericDate may have a fraction"
    );
    assert_eq!(check_hs(&hs(&with("exp", json!(1e300)))), Ok(()));
    assert_eq!(check_hs(&hs(&without("exp"))), Err(Refusal::NoExpiry));
    for odd in [json!("1900000000"), json!(-1), json!(null), json!([NOW + 60])] {
        assert_eq!(check_hs(&hs(&with("exp", odd))), Err(Refusal::ClaimType));
    }
}

#[test]
fn a_token_is_refused_before_its_time() {
    for name in ["nbf", "iat"] {
        assert_eq!(check_hs(&hs(&with(name, json!(NOW + 30)))), Ok(()), "{name}");
        assert_eq!(check_hs(&hs(&with(name, json!(NOW + 31)))), Err(Refusal::NotYet), "{name}");
        assert_eq!(check_hs(&hs(&with(name, json!("soon")))), Err(Refusal::ClaimType), "{name}");
        assert_eq!(check_hs(&hs(&without(name))), Ok(()), "{name}");
    }
}

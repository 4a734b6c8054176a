//! What a token has to look like before anything in it is believed.

use super::*;

#[test]
fn a_token_that_is_no_compact_jws_is_refused() {
    let good = hs(&claims());
    let (message, signature) = good.rsplit_once('.').unwrap();
    let (header, payload) = message.split_once('.').unwrap();
    for odd in [
        "".to_owned(),
        ".".to_owned(),
        "..".to_owned(),
        "a.b.c.d.e".to_owned(),
        "\u{e4}.b.c".to_owned(),
        message.to_owned(),
        format!("{good}.x"),
        format!("{good}="),
        format!("{header}=.{payload}.{signature}"),
        format!("{header}.{payload}+.{signature}"),
        format!("{header}.{payload}.{signature}/"),
        format!("{header}. {payload}.{signature}"),
    ] {
        assert_eq!(check_hs(&odd), Err(Refusal::Malformed), "{odd}");
    }
}

#[test]
fn base64_with_stray_bits_is_refused() {
    let good = hs(&claims());
    // 32 bytes leave two bits in the last character that have to be zero.
    let last = good.chars().last().unwrap();
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let stray = alphabet.chars().nth(alphabet.find(last).unwrap() + 1).unwrap();
    let twin = format!("{}{stray}", &good[..good.len() - 1]);
    assert_eq!(check_hs(&twin), Err(Refusal::Malformed));
}

#[test]
fn a_token_over_the_limit_is_refused_before_it_is_read() {
    assert_eq!(check_hs(&"a".repeat(MAX_TOKEN + 1)), Err(Refusal::TooLong));
    assert_eq!(
        check_hs(&hs(&with("fill", json!("x".repeat(MAX_TOKEN))))),
        Err(Refusal::TooLong)
    );
}

#[test]
fn critical_extensions_are_refused() {
    for header in [
        r#"{"alg":"HS256","crit":["b64"],"b64":false}"#,
        r#"{"alg":"HS256","crit":[]}"#,
        r#"{"alg":"HS256","crit":null}"#,
    ] {
        assert_eq!(
            check_hs(&token(header, &claims().to_string(), hs256)),
            Err(Refusal::Critical),
            "{header}"
        );
    }
}

#[test]
fn tokens_of_other_types_are_refused() {
    let signed = |typ: &str| token(&format!(r#"{{"alg":"HS256","typ":{typ}}}"#), &claims().to_string(), hs256);
    for typ in [
        r#""JWT""#,
        r#""jwt""#,
        r#""at+jwt""#,
        r#""application/at+JWT""#,
        r#""APPLICATION/jwt""#,
    ] {
        assert_eq!(check_hs(&signed(typ)), Ok(()), "{typ}");
    }
    for typ in [
        r#""logout+jwt""#,
        r#""secevent+jwt""#,
        r#""dpop+jwt""#,
        r#""""#,
        "null",
        "1",
        r#""text/jwt""#,
    ] {
        assert_eq!(check_hs(&signed(typ)), Err(Refusal::Type), "{typ}");
    }
}

#[test]
fn a_name_that_comes_twice_is_refused() {
    let payload = claims().to_string();
    let twice = payload.replacen('{', r#"{"sub":"admin","#, 1);
    assert_eq!(check_hs(&token(r#"{"alg":"HS256"}"#, &twice, hs256)), Err(Refusal::Json));
    assert_eq!(
        check_hs(&token(r#"{"alg":"none","alg":"HS256"}"#, &payload, hs256)),
        Err(Refusal::Json)
    );
}

#[test]
fn parts_that_are_no_json_objects_are_refused() {
    for odd in ["[]", "null", "{", "\"x\"", "{} {}"] {
        assert_eq!(
            check_hs(&token(odd, &claims().to_string(), hs256)),
            Err(Refusal::Json),
            "{odd}"
        );
        assert_eq!(
            check_hs(&token(r#"{"alg":"HS256"}"#, odd, hs256)),
            Err(Refusal::Json),
            "{odd}"
        );
    }
}

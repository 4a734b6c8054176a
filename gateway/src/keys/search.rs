//! The way to an issuer's keys: one request, or two where the issuer has to say first where they are.

use serde::Deserialize;

use super::{Location, MAX_ANSWER, Published, check_url};

/// A search that is under way. Redirects are not followed: where keys are is for the config or the issuer's own document to say.
#[derive(Debug)]
pub struct Search<'a> {
    of: &'a Published,
    /// Whether the answer to come is the issuer's document and not yet the set.
    discovers: bool,
}

/// What an answer leads to.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// The next request: a GET of this URL.
    Get(String),
    /// The set.
    Set,
    /// Nothing, and why.
    Nothing(String),
}

/// The members of an issuer's document (OpenID Connect Discovery 1.0 §3) that are read.
#[derive(Deserialize)]
struct Document {
    issuer: String,
    jwks_uri: String,
}

impl<'a> Search<'a> {
    /// Begins with a GET of the URL.
    #[must_use]
    pub fn begin(of: &'a Published) -> (Self, String) {
        match &of.location {
            Location::Jwks(url) => (Self { of, discovers: false }, url.clone()),
            // §4.1: a slash at the issuer's end is left out before the path is added.
            Location::Issuer(issuer) => {
                let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
                (Self { of, discovers: true }, url)
            }
        }
    }

    /// Judges an answer. A driver need not read more than [`MAX_ANSWER`] bytes and one of it.
    pub fn on_answer(&mut self, status: u16, body: &[u8]) -> Found {
        if status != 200 {
            return Found::Nothing(format!("the answer is {status}"));
        }
        if body.len() > MAX_ANSWER {
            return Found::Nothing(format!("the answer is longer than {MAX_ANSWER} bytes"));
        }
        if self.discovers {
            return self.discovered(body);
        }
        match self.of.check(body) {
            Ok(()) => Found::Set,
            Err(error) => Found::Nothing(error),
        }
    }

    fn discovered(&mut self, body: &[u8]) -> Found {
        self.discovers = false;
        let Document { issuer, jwks_uri } = match serde_json::from_slice(body) {
            Ok(document) => document,
            Err(error) => return Found::Nothing(format!("the issuer's document cannot be read: {error}")),
        };
        // §4.3: it has to be the very issuer that was asked for, or anybody could speak for it.
        if !matches!(&self.of.location, Location::Issuer(expected) if *expected == issuer) {
            return Found::Nothing("the issuer's document is that of another issuer".to_owned());
        }
        match check_url(&jwks_uri) {
            Ok(()) => Found::Get(jwks_uri),
            Err(error) => Found::Nothing(format!("its `jwks_uri`: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::Algorithm;

    use super::*;

    fn published(location: Location) -> Published {
        Published::new("customer".to_owned(), location, vec![Algorithm::EdDSA])
    }

    /// RFC 8037 appendix A.2.
    const SET: &str = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

    #[test]
    fn a_set_is_where_the_config_says() {
        let of = published(Location::Jwks("https://id.example/jwks".to_owned()));
        let (mut search, url) = Search::begin(&of);
        assert_eq!(url, "https://id.example/jwks");
        assert_eq!(search.on_answer(200, SET.as_bytes()), Found::Set);
    }

    #[test]
    fn a_set_is_where_the_issuer_says() {
        let of = published(Location::Issuer("https://id.example/tenant/".to_owned()));
        let (mut search, url) = Search::begin(&of);
        assert_eq!(url, "https://id.example/tenant/.well-known/openid-configuration");
        let document = r#"{"issuer":"https://id.example/tenant/","jwks_uri":"https://keys.example/1","more":[]}"#;
        assert_eq!(
            search.on_answer(200, document.as_bytes()),
            Found::Get("https://keys.example/1".to_owned())
        );
        assert_eq!(search.on_answer(200, SET.as_bytes()), Found::Set);
    }

    #[test]
    fn what_another_issuer_says_and_where_anybody_could_speak_is_not_believed() {
        let of = published(Location::Issuer("https://id.example".to_owned()));
        for document in [
            r#"{"issuer":"https://id.example/","jwks_uri":"https://id.example/1"}"#,
            r#"{"issuer":"https://other.example","jwks_uri":"https://id.example/1"}"#,
            r#"{"issuer":"https://id.example","jwks_uri":"http://id.example/1"}"#,
            r#"{"issuer":"https://id.example","jwks_uri":"file:///etc/passwd"}"#,
            r#"{"issuer":"https://id.example"}"#,
            "[]",
        ] {
            let answer = Search::begin(&of).0.on_answer(200, document.as_bytes());
            assert!(matches!(answer, Found::Nothing(_)), "{document}");
        }
    }

    #[test]
    fn an_answer_that_is_no_set_is_nothing() {
        let of = published(Location::Jwks("https://id.example/jwks".to_owned()));
        let answer = |status, body: &str| Search::begin(&of).0.on_answer(status, body.as_bytes());
        let secret = r#"{"keys":[{"kty":"oct","k":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}]}"#;
        let many = format!(r#"{{"keys":[{}]}}"#, vec!["{}"; 65].join(","));
        for body in ["", "{}", r#"{"keys":[]}"#, r#"{"keys":[{"kty":"XYZ"}]}"#, secret, &many] {
            assert!(matches!(answer(200, body), Found::Nothing(_)), "{body}");
        }
        for status in [204, 301, 404, 500] {
            assert!(matches!(answer(status, SET), Found::Nothing(_)), "{status}");
        }
        assert!(matches!(
            answer(200, &format!("{SET}{}", " ".repeat(MAX_ANSWER))),
            Found::Nothing(_)
        ));
    }

    #[test]
    fn a_key_that_nobody_here_knows_does_not_spoil_the_others() {
        let of = published(Location::Jwks("https://id.example/jwks".to_owned()));
        let set = SET.replace(
            r#""keys":["#,
            r#""keys":[{"kty":"AKP","alg":"ML-DSA-44","pub":"x"},{"kty":"OKP","crv":"X448","x":"AA"},7,{"kty":"EC"},"#,
        );
        assert_eq!(Search::begin(&of).0.on_answer(200, set.as_bytes()), Found::Set);
    }
}

//! API keys: random texts that a caller sends with each request. A config holds their SHA-256 alone, so that whoever reads it can
//! recognise a key and cannot send it. A hash without salt and stretching is enough for that because keys are random (128 bits and
//! more): there is nothing to guess from. A password is none of these.

use std::borrow::Cow;
use std::sync::Arc;

use http::HeaderName;
use http::header::AUTHORIZATION;
use routing::Fields;
use routing::matching::{decode_query, query_pairs};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::Claims;

/// The most keys of one `[auth.NAME]`: each request is compared with every one of them, 1,000 of which take about 25 µs.
pub(crate) const MAX_KEYS: usize = 1000;

/// The longest key that is looked at, in bytes.
const MAX_LENGTH: usize = 1024;

/// What one `[auth.NAME]` of the kind `api-key` asks for.
#[derive(Debug)]
pub(crate) struct ApiKeys {
    pub(crate) place: Place,
    pub(crate) keys: Vec<ApiKey>,
}

/// Where a request has its key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In a header field. In `authorization`, behind `ApiKey` or `Bearer`.
    Header(HeaderName),
    /// In a parameter of the query.
    Query(Box<str>),
}

/// A key, as it is recognised.
#[derive(Debug)]
pub(crate) struct ApiKey {
    /// Who has it. Two keys of one name are one caller, so that a key can be replaced without a pause.
    pub(crate) name: Arc<str>,
    /// Its SHA-256.
    pub(crate) hash: [u8; 32],
    /// What is said of its caller: `sub` is the name.
    pub(crate) claims: Arc<Claims>,
}

/// What a request's API key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presented {
    /// There is none.
    Missing,
    /// There are two, or more: another reader of the request might take the other one.
    Twice,
    /// It is not known.
    Unknown,
    /// It is the one at this place in the list.
    Known(usize),
}

impl ApiKeys {
    /// Looks for the key of a request.
    pub(crate) fn judge(&self, fields: &dyn Fields, query: Option<&str>) -> Presented {
        match &self.place {
            Place::Header(name) => {
                let Some(value) = fields.nth(name.as_str(), 0) else {
                    return Presented::Missing;
                };
                if fields.nth(name.as_str(), 1).is_some() {
                    return Presented::Twice;
                }
                let key = if *name == AUTHORIZATION {
                    credentials(value)
                } else {
                    Some(value.trim_ascii())
                };
                key.map_or(Presented::Missing, |key| self.find(key))
            }
            Place::Query(name) => {
                let mut values = of_query(query, name);
                match (values.next(), values.next()) {
                    (None, _) => Presented::Missing,
                    (Some(value), None) => self.find(&value),
                    (Some(_), Some(_)) => Presented::Twice,
                }
            }
        }
    }

    /// Compares with every key, in a time that tells nothing of how much of which one was right.
    fn find(&self, key: &[u8]) -> Presented {
        if key.is_empty() {
            return Presented::Missing;
        }
        if key.len() > MAX_LENGTH {
            return Presented::Unknown;
        }
        let hash: [u8; 32] = Sha256::digest(key).into();
        let mut found = Presented::Unknown;
        for (at, known) in self.keys.iter().enumerate() {
            if bool::from(known.hash.ct_eq(&hash)) {
                found = Presented::Known(at);
            }
        }
        found
    }
}

/// The key of `Authorization: ApiKey …` or `Authorization: Bearer …`.
fn credentials(value: &[u8]) -> Option<&[u8]> {
    let (scheme, key) = value.split_at(value.iter().position(|&byte| byte == b' ')?);
    let is_ours = scheme.eq_ignore_ascii_case(b"apikey") || scheme.eq_ignore_ascii_case(b"bearer");
    is_ours.then(|| key.trim_ascii())
}

fn of_query<'q>(query: Option<&'q str>, name: &str) -> impl Iterator<Item = Cow<'q, [u8]>> {
    query_pairs(query)
        .filter(move |(key, _)| *decode_query(key) == *name.as_bytes())
        .map(|(_, value)| decode_query(value))
}

/// A target without the parameter of that name.
pub(crate) fn without_parameter(target: &str, name: &str) -> String {
    let (path, query) = target
        .split_once('?')
        .map_or((target, None), |(path, query)| (path, Some(query)));
    let mut left = path.to_owned();
    let pairs = query.unwrap_or_default().split('&').filter(|pair| {
        let key = pair.split_once('=').map_or(*pair, |(key, _)| key);
        *decode_query(key) != *name.as_bytes()
    });
    for (at, pair) in pairs.filter(|pair| !pair.is_empty()).enumerate() {
        left.push(if at == 0 { '?' } else { '&' });
        left.push_str(pair);
    }
    left
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use serde_json::Map;

    use super::*;

    fn keys(place: Place, keys: &[&str]) -> ApiKeys {
        let key = |key: &&str| ApiKey {
            name: (*key).into(),
            hash: Sha256::digest(key.as_bytes()).into(),
            claims: Arc::new(Claims::new(Map::new())),
        };
        ApiKeys {
            place,
            keys: keys.iter().map(key).collect(),
        }
    }

    fn header(list: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut fields = HeaderMap::new();
        for (name, value) in list {
            fields.append(*name, value.parse().unwrap());
        }
        fields
    }

    #[test]
    fn a_key_is_known_by_its_hash_and_by_nothing_less() {
        let auth = keys(Place::Header(HeaderName::from_static("x-api-key")), &["one", "two"]);
        for (value, expected) in [
            ("one", Presented::Known(0)),
            ("two", Presented::Known(1)),
            (" two ", Presented::Known(1)),
            ("tw", Presented::Unknown),
            ("twoo", Presented::Unknown),
            ("TWO", Presented::Unknown),
            ("", Presented::Missing),
        ] {
            assert_eq!(auth.judge(&header(&[("x-api-key", value)]), None), expected, "{value:?}");
        }
        assert_eq!(auth.judge(&HeaderMap::new(), Some("x-api-key=one")), Presented::Missing);
    }

    #[test]
    fn two_keys_are_one_too_many_even_where_both_are_right() {
        let auth = keys(Place::Header(HeaderName::from_static("x-api-key")), &["one"]);
        let two = header(&[("x-api-key", "one"), ("x-api-key", "one")]);
        assert_eq!(auth.judge(&two, None), Presented::Twice);
        let auth = keys(Place::Query("key".into()), &["one"]);
        assert_eq!(auth.judge(&HeaderMap::new(), Some("key=one&%6bey=one")), Presented::Twice);
    }

    #[test]
    fn a_key_in_the_query_is_decoded_first() {
        let auth = keys(Place::Query("key".into()), &["a+b/c"]);
        assert_eq!(auth.judge(&HeaderMap::new(), Some("x=1&key=a%2Bb%2fc")), Presented::Known(0));
        assert_eq!(auth.judge(&HeaderMap::new(), Some("x=1&KEY=a%2Bb%2fc")), Presented::Missing);
        assert_eq!(auth.judge(&HeaderMap::new(), None), Presented::Missing);
    }

    #[test]
    fn authorization_needs_a_scheme() {
        let auth = keys(Place::Header(AUTHORIZATION), &["one"]);
        for (value, expected) in [
            ("ApiKey one", Presented::Known(0)),
            ("bearer  one", Presented::Known(0)),
            ("one", Presented::Missing),
            ("Basic one", Presented::Missing),
        ] {
            assert_eq!(auth.judge(&header(&[("authorization", value)]), None), expected, "{value}");
        }
    }

    #[test]
    fn a_key_that_is_longer_than_any_is_not_hashed() {
        let long: &'static str = Box::leak("k".repeat(MAX_LENGTH + 1).into_boxed_str());
        let auth = keys(Place::Header(HeaderName::from_static("x-api-key")), &[long]);
        assert_eq!(auth.judge(&header(&[("x-api-key", long)]), None), Presented::Unknown);
    }

    #[test]
    fn the_parameter_of_a_key_goes_and_the_others_stay_as_they_are() {
        for (target, left) in [
            ("/a?key=1", "/a"),
            ("/a?x=%20&key=1&y", "/a?x=%20&y"),
            ("/a?%6bey=1&&z=2", "/a?z=2"),
            ("/a", "/a"),
            ("/a?keys=1", "/a?keys=1"),
        ] {
            assert_eq!(without_parameter(target, "key"), left, "{target}");
        }
    }
}

//! Query parameters.

use std::borrow::Cow;

use super::ValueMatch;

/// A query parameter that a request has to have.
///
/// Names and values are compared after decoding (`%XX`, and `+` as a space). Of a repeated parameter the first one counts:
///
/// > If a query param is repeated in an HTTP request, the behavior is purposely left undefined […] it is *recommended* that the
/// > implementation should match against the first value of the param. (Gateway API, `HTTPQueryParamMatch`)
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct QueryMatch {
    /// Its name, letter case included.
    pub name: Box<str>,
    /// Its value.
    pub value: ValueMatch,
}

impl QueryMatch {
    /// Whether the query, without its `?`, has the parameter with the value.
    #[must_use]
    pub fn matches(&self, query: Option<&str>) -> bool {
        self.value.matches(first(query, &self.name).as_deref())
    }
}

/// The decoded value of the first parameter of that name; empty where it has no `=`.
fn first<'q>(query: Option<&'q str>, name: &str) -> Option<Cow<'q, [u8]>> {
    query_pairs(query).find_map(|(key, value)| (*decode_query(key) == *name.as_bytes()).then(|| decode_query(value)))
}

/// The parameters of a query in their order, as they are written there; a value is empty where there is no `=`.
pub fn query_pairs(query: Option<&str>) -> impl Iterator<Item = (&str, &str)> {
    let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

/// Decodes `application/x-www-form-urlencoded`; an invalid escape stands for itself, as the URL standard has it.
#[must_use]
pub fn decode_query(text: &str) -> Cow<'_, [u8]> {
    let bytes = text.as_bytes();
    if !bytes.iter().any(|byte| matches!(byte, b'%' | b'+')) {
        return Cow::Borrowed(bytes);
    }
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match (byte, super::normalise::escaped(after)) {
            (b'%', Some(value)) => {
                decoded.push(value);
                rest = &after[2..];
            }
            (b'+', _) => decoded.push(b' '),
            _ => decoded.push(byte),
        }
    }
    Cow::Owned(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_a_repeated_parameter_counts() {
        let two = QueryMatch {
            name: "v".into(),
            value: ValueMatch::Text("2".into()),
        };
        for (query, matches) in [
            ("v=2", true),
            ("a=1&v=2", true),
            ("v=2&v=3", true),
            ("v=3&v=2", false),
            ("v=%32", true),
            ("%76=2", true),
            ("V=2", false),
            ("vv=2", false),
            ("v", false),
            ("", false),
        ] {
            assert_eq!(two.matches(Some(query)), matches, "{query}");
        }
        assert!(!two.matches(None));
    }

    #[test]
    fn a_parameter_without_a_value_is_present_and_empty() {
        let present = QueryMatch {
            name: "debug".into(),
            value: ValueMatch::Present(true),
        };
        assert!(present.matches(Some("debug")) && present.matches(Some("debug=")) && !present.matches(Some("debugger")));
        assert!(
            QueryMatch {
                name: "debug".into(),
                value: ValueMatch::Text("".into())
            }
            .matches(Some("debug"))
        );
    }

    #[test]
    fn escapes_are_decoded_and_broken_ones_stand_for_themselves() {
        assert_eq!(*decode_query("a+b%20c"), *b"a b c");
        assert_eq!(*decode_query("100%"), *b"100%");
        assert_eq!(*decode_query("%zz%4"), *b"%zz%4");
        assert_eq!(*decode_query("%ff"), [0xff]);
    }
}

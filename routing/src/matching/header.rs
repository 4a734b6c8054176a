//! Header fields.

use http::HeaderName;

use super::ValueMatch;
use crate::Fields;

/// A header field that a request has to have.
///
/// > Name is the name of the HTTP Header to be matched. Name matching MUST be case-insensitive. (Gateway API, `HTTPHeaderMatch`)
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HeaderMatch {
    /// Its name, in lower case.
    pub name: HeaderName,
    /// Its value.
    pub value: ValueMatch,
}

impl HeaderMatch {
    /// Whether any line of the field has the value: a field that came in several lines is a list (RFC 9110 §5.2).
    #[must_use]
    pub fn matches(&self, fields: &dyn Fields) -> bool {
        match &self.value {
            ValueMatch::Present(_) => self.value.matches(fields.first(self.name.as_str())),
            value => fields.all(self.name.as_str()).any(|line| value.matches(Some(line))),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    #[test]
    fn any_line_of_the_field_may_match() {
        let mut fields = HeaderMap::new();
        fields.append("x-beta", "0".parse().unwrap());
        fields.append("X-Beta", "1".parse().unwrap());
        let header = |value| HeaderMatch {
            name: HeaderName::from_static("x-beta"),
            value,
        };
        assert!(header(ValueMatch::Text("1".into())).matches(&fields));
        assert!(!header(ValueMatch::Text("2".into())).matches(&fields));
        assert!(header(ValueMatch::Present(true)).matches(&fields));
        assert!(!header(ValueMatch::Present(false)).matches(&fields));
        assert!(header(ValueMatch::Present(false)).matches(&HeaderMap::new()));
    }
}

//! The value of a header field or of a query parameter.

use std::hash::{Hash, Hasher};

use regex::bytes::{Regex, RegexBuilder};

/// What a value has to be.
#[derive(Debug, Clone)]
pub enum ValueMatch {
    /// This text, letter case included.
    Text(Box<str>),
    /// Whatever the expression matches as a whole.
    Regex(Box<Regex>),
    /// There (`true`), or not there (`false`).
    Present(bool),
}

/// A regular expression that cannot be compiled.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct RegexError(String);

impl ValueMatch {
    /// A compiled program may take this much; the `regex` crate matches in linear time, so size is all that has to be bounded.
    const REGEX_LIMIT: usize = 1 << 20;

    /// A regular expression that has to match the whole value, as Envoy's do. The Gateway API leaves that to the implementation.
    ///
    /// # Errors
    ///
    /// Where it does not compile, or compiles to more than 1 MiB.
    pub fn regex(expression: &str) -> Result<Self, RegexError> {
        let compile = |text: &str| RegexBuilder::new(text).size_limit(Self::REGEX_LIMIT).build();
        // Alone first: `a)(b` must not become whole by what is put around it.
        compile(expression)
            .and_then(|_| compile(&format!(r"\A(?:{expression})\z")))
            .map(|regex| Self::Regex(Box::new(regex)))
            .map_err(|error| RegexError(last_line(&error.to_string())))
    }

    /// Whether a value matches; None is an absent one.
    #[must_use]
    pub fn matches(&self, value: Option<&[u8]>) -> bool {
        match (self, value) {
            (Self::Text(text), Some(value)) => text.as_bytes() == value,
            (Self::Regex(regex), Some(value)) => regex.is_match(value),
            (Self::Present(present), value) => *present == value.is_some(),
            (_, None) => false,
        }
    }

    fn key(&self) -> (u8, &str) {
        match self {
            Self::Text(text) => (0, text),
            Self::Regex(regex) => (1, regex.as_str()),
            Self::Present(true) => (2, ""),
            Self::Present(false) => (3, ""),
        }
    }
}

/// The sentence of a multi-line message that draws the expression above it.
fn last_line(message: &str) -> String {
    let line = message.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or(message);
    line.trim_start_matches("error: ").to_owned()
}

impl PartialEq for ValueMatch {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for ValueMatch {}

impl PartialOrd for ValueMatch {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ValueMatch {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

impl Hash for ValueMatch {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_regex_matches_the_whole_value() {
        let regex = ValueMatch::regex("v[0-9]+|beta").unwrap();
        assert!(regex.matches(Some(b"v12")) && regex.matches(Some(b"beta")));
        assert!(
            !regex.matches(Some(b"v12x"))
                && !regex.matches(Some(b"xbeta"))
                && !regex.matches(Some(b"beta\n"))
                && !regex.matches(None)
        );
    }

    #[test]
    fn a_regex_that_is_broken_or_huge_is_refused_with_words() {
        assert_eq!(ValueMatch::regex("a(b").unwrap_err().to_string(), "unclosed group");
        assert!(ValueMatch::regex("a)(?:b").is_err());
        assert!(
            ValueMatch::regex(r"(\pL{1000}){1000}")
                .unwrap_err()
                .to_string()
                .contains("size limit")
        );
    }

    #[test]
    fn presence_asks_for_no_value() {
        assert!(ValueMatch::Present(true).matches(Some(b"")) && !ValueMatch::Present(true).matches(None));
        assert!(ValueMatch::Present(false).matches(None) && !ValueMatch::Present(false).matches(Some(b"")));
        assert!(!ValueMatch::Text("".into()).matches(None));
    }
}

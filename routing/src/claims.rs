//! What is verified about the one on whose behalf a request is made, and what a rule asks of it.

use serde_json::{Map, Value};

use crate::json;

/// The claims of a verified token.
#[derive(Debug, Clone, PartialEq)]
pub struct Claims(Value);

impl Claims {
    /// Claims that somebody has verified.
    #[must_use]
    pub fn new(claims: Map<String, Value>) -> Self {
        Self(Value::Object(claims))
    }

    /// A claim by its name, or by its path (`address.country`).
    #[must_use]
    pub fn at(&self, path: &str) -> Option<&Value> {
        json::at_path(&self.0, path)
    }

    /// A claim as text, where it is a string, a number or a boolean, or a list of them (joined by commas).
    #[must_use]
    pub fn text(&self, path: &str) -> Option<String> {
        match self.at(path)? {
            Value::Array(list) if !list.is_empty() => list
                .iter()
                .map(scalar)
                .collect::<Option<Vec<_>>>()
                .map(|texts| texts.join(",")),
            value => scalar(value),
        }
    }

    /// Whether a scope was granted: in `scope`, a list with spaces (RFC 8693 §4.2, RFC 9068 §2.2.3), or in `scp`, as some issuers
    /// name it; either may be a list of strings as well.
    #[must_use]
    pub fn has_scope(&self, scope: &str) -> bool {
        ["scope", "scp"]
            .into_iter()
            .filter_map(|name| self.at(name))
            .any(|granted| match granted {
                Value::String(list) => list.split(' ').any(|granted| granted == scope),
                Value::Array(list) => list.iter().any(|granted| granted.as_str() == Some(scope)),
                _ => false,
            })
    }
}

/// A string, number or boolean as text.
#[must_use]
pub fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        _ => None,
    }
}

/// What a rule asks of the claims.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Requirements {
    /// Every one of these scopes.
    pub scopes: Vec<String>,
    /// For each of these paths, one of these values.
    pub claims: Vec<(String, Vec<Value>)>,
}

/// What is missing.
#[derive(Debug, PartialEq, Eq)]
pub enum Missing<'a> {
    /// This scope.
    Scope(&'a str),
    /// One of the values of the claim at this path.
    Claim(&'a str),
}

impl Requirements {
    /// Whether nothing is asked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.scopes.is_empty() && self.claims.is_empty()
    }

    /// Whether the claims are enough. A claim that is a list has to hold one of the values.
    ///
    /// # Errors
    /// [`Missing`]: the first that is not as it has to be.
    pub fn judge<'a>(&'a self, claims: &Claims) -> Result<(), Missing<'a>> {
        if let Some(scope) = self.scopes.iter().find(|scope| !claims.has_scope(scope)) {
            return Err(Missing::Scope(scope));
        }
        let satisfied = |path: &str, allowed: &[Value]| match claims.at(path) {
            Some(Value::Array(list)) => list.iter().any(|item| allowed.contains(item)),
            Some(value) => allowed.contains(value),
            None => false,
        };
        match self.claims.iter().find(|(path, allowed)| !satisfied(path, allowed)) {
            Some((path, _)) => Err(Missing::Claim(path)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn claims(value: Value) -> Claims {
        Claims(value)
    }

    fn scopes(scopes: &[&str]) -> Requirements {
        Requirements {
            scopes: scopes.iter().map(|&scope| scope.to_owned()).collect(),
            ..Requirements::default()
        }
    }

    fn claim(path: &str, allowed: &[Value]) -> Requirements {
        Requirements {
            claims: vec![(path.to_owned(), allowed.to_vec())],
            ..Requirements::default()
        }
    }

    #[test]
    fn every_scope_is_needed_and_part_of_a_name_is_not_enough() {
        let token = claims(json!({"scope": "accounts:read accounts:write-all"}));
        assert_eq!(scopes(&["accounts:read"]).judge(&token), Ok(()));
        assert_eq!(
            scopes(&["accounts:read", "accounts:write"]).judge(&token),
            Err(Missing::Scope("accounts:write"))
        );
        assert_eq!(
            scopes(&["accounts:read"]).judge(&claims(json!({}))),
            Err(Missing::Scope("accounts:read"))
        );
        assert_eq!(
            scopes(&["a"]).judge(&claims(json!({"scope": {"a": true}}))),
            Err(Missing::Scope("a"))
        );
    }

    #[test]
    fn scopes_may_come_as_a_list_or_under_the_short_name() {
        assert_eq!(
            scopes(&["a", "b"]).judge(&claims(json!({"scope": ["a"], "scp": "b c"}))),
            Ok(())
        );
    }

    #[test]
    fn a_claim_has_to_equal_one_of_the_values() {
        let rule = claim("tier", &[json!("gold"), json!("silver")]);
        assert_eq!(rule.judge(&claims(json!({"tier": "silver"}))), Ok(()));
        assert_eq!(rule.judge(&claims(json!({"tier": ["bronze", "gold"]}))), Ok(()));
        for other in [
            json!({"tier": "gold "}),
            json!({"tier": null}),
            json!({}),
            json!({"tier": []}),
            json!({"tier": {"gold": 1}}),
        ] {
            assert_eq!(rule.judge(&claims(other)), Err(Missing::Claim("tier")));
        }
        assert_eq!(
            claim("n", &[json!(1)]).judge(&claims(json!({"n": "1"}))),
            Err(Missing::Claim("n")),
            "text is no number"
        );
    }

    #[test]
    fn a_claim_may_lie_deeper() {
        let rule = claim("realm.level", &[json!(3)]);
        assert_eq!(rule.judge(&claims(json!({"realm": {"level": 3}}))), Ok(()));
        assert_eq!(rule.judge(&claims(json!({"realm": 3}))), Err(Missing::Claim("realm.level")));
    }

    #[test]
    fn text_of_a_claim_is_a_scalar_or_a_list_of_them() {
        let token = claims(json!({"sub": "7", "n": 7, "roles": ["a", "b"], "o": {}, "e": [], "m": [{}]}));
        assert_eq!(token.text("sub").as_deref(), Some("7"));
        assert_eq!(token.text("n").as_deref(), Some("7"));
        assert_eq!(token.text("roles").as_deref(), Some("a,b"));
        for none in ["o", "e", "m", "x"] {
            assert_eq!(token.text(none), None, "{none}");
        }
    }
}

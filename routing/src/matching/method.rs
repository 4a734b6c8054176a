//! Methods.

use http::Method;

/// The methods that a rule is for; none means any.
///
/// Methods are case-sensitive (RFC 9110 §9.1), and `GET` does not imply `HEAD`: the Gateway API matches the method exactly.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MethodMatch(Vec<Method>);

impl MethodMatch {
    /// Only these methods, or any where there are none.
    #[must_use]
    pub fn any_of(methods: Vec<Method>) -> Self {
        let mut once: Vec<Method> = Vec::with_capacity(methods.len());
        for method in methods {
            if !once.contains(&method) {
                once.push(method);
            }
        }
        Self(once)
    }

    /// Whether the method is one of them.
    #[must_use]
    pub fn matches(&self, method: &str) -> bool {
        self.is_any() || self.0.iter().any(|allowed| allowed.as_str() == method)
    }

    /// Whether every method matches.
    #[must_use]
    pub fn is_any(&self) -> bool {
        self.0.is_empty()
    }

    /// The methods, each once; empty where any matches.
    #[must_use]
    pub fn list(&self) -> &[Method] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn get_is_not_head_and_not_get_in_small_letters() {
        let methods = MethodMatch::any_of(vec![Method::GET, Method::GET]);
        assert!(methods.matches("GET") && !methods.matches("HEAD") && !methods.matches("get"));
        assert_eq!(methods.list().len(), 1);
        assert!(MethodMatch::default().matches("PURGE"));
    }
}

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

    /// What may match, in two bytes.
    pub(crate) fn set(&self) -> MethodSet {
        if self.is_any() {
            return MethodSet(u16::MAX);
        }
        let bits = self.0.iter().map(|method| MethodSet::of(method.as_str()).0);
        MethodSet(bits.fold(0, |all, bit| all | bit))
    }
}

/// Methods as bits: one for each of RFC 9110 §9.3 and for `PATCH`, and one for all others together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MethodSet(u16);

impl MethodSet {
    const OTHERS: Self = Self(1 << 9);

    /// The set of one method.
    pub(crate) fn of(method: &str) -> Self {
        Self(match method {
            "GET" => 1,
            "HEAD" => 1 << 1,
            "POST" => 1 << 2,
            "PUT" => 1 << 3,
            "DELETE" => 1 << 4,
            "CONNECT" => 1 << 5,
            "OPTIONS" => 1 << 6,
            "TRACE" => 1 << 7,
            "PATCH" => 1 << 8,
            _ => return Self::OTHERS,
        })
    }

    /// Whether both have a bit in common.
    pub(crate) fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether a bit in common says that the method is the same.
    pub(crate) fn is_certain(self) -> bool {
        self != Self::OTHERS
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

    #[test]
    fn a_set_leaves_only_methods_without_a_bit_of_their_own_in_doubt() {
        let of = |methods: &[&str]| MethodMatch::any_of(methods.iter().map(|method| method.parse().unwrap()).collect()).set();
        let (get, purge) = (MethodSet::of("GET"), MethodSet::of("PURGE"));
        assert!(get.is_certain() && !purge.is_certain() && !MethodSet::of("get").is_certain());
        assert!(of(&["POST", "GET"]).has(get) && !of(&["HEAD", "PURGE"]).has(get));
        assert!(of(&["LINK"]).has(purge) && !of(&["GET"]).has(purge));
        assert!(of(&[]).has(get) && of(&[]).has(purge));
    }
}

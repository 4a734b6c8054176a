//! Which SPIFFE IDs are expected. A matcher looks only at names: it means something once a verifier has proved the ID.

use crate::{SpiffeId, TrustDomain};

/// Which SPIFFE IDs are expected.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Matcher {
    /// This one.
    Id(SpiffeId),
    /// One of these; an empty list matches nothing.
    OneOf(Vec<SpiffeId>),
    /// Any that this trust domain vouches for.
    TrustDomain(TrustDomain),
}

impl Matcher {
    /// Whether `id` is expected.
    #[must_use]
    pub fn matches(&self, id: &SpiffeId) -> bool {
        match self {
            Self::Id(expected) => expected == id,
            Self::OneOf(expected) => expected.contains(id),
            Self::TrustDomain(domain) => id.is_member_of(domain),
        }
    }
}

impl std::fmt::Display for Matcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Id(id) => write!(f, "{id}"),
            Self::OneOf(ids) => {
                f.write_str("one of ")?;
                for (nth, id) in ids.iter().enumerate() {
                    write!(f, "{}{id}", if nth == 0 { "" } else { ", " })?;
                }
                Ok(())
            }
            Self::TrustDomain(domain) => write!(f, "any of trust domain {domain}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> SpiffeId {
        text.parse().unwrap()
    }

    #[test]
    fn an_exact_id_matches_itself_alone() {
        let matcher = Matcher::Id(id("spiffe://bank/service/accounts"));
        assert!(matcher.matches(&id("spiffe://bank/service/accounts")));
        for other in [
            "spiffe://bank/service/account",
            "spiffe://bank/service/accounts2",
            "spiffe://bank2/service/accounts",
            "spiffe://bank",
        ] {
            assert!(!matcher.matches(&id(other)), "{other}");
        }
    }

    #[test]
    fn one_of_none_matches_nothing() {
        assert!(!Matcher::OneOf(Vec::new()).matches(&id("spiffe://bank")));
        assert!(Matcher::OneOf(vec![id("spiffe://bank/a"), id("spiffe://bank/b")]).matches(&id("spiffe://bank/b")));
    }

    #[test]
    fn a_trust_domain_matches_its_members_and_no_name_that_begins_like_it() {
        let matcher = Matcher::TrustDomain("bank".parse().unwrap());
        assert!(matcher.matches(&id("spiffe://bank/a")));
        assert!(!matcher.matches(&id("spiffe://bank.example/a")));
        assert!(!matcher.matches(&id("spiffe://ban/a")));
    }
}

//! Precedence.

use std::cmp::Reverse;

use super::RuleId;
use crate::matching::{HostPattern, HostRank, PathRank, Rule};

/// A summary of what a rule asks for, ordered as the Gateway API orders matches; the smaller wins.
///
/// > Proxy or Load Balancer routing configuration generated from HTTPRoutes MUST prioritize matches based on the following criteria,
/// > continuing on ties. […] "Exact" path match. "Prefix" path match with largest number of characters. Method match. Largest number
/// > of header matches. Largest number of query param matches. […] the first matching rule (in list order) […]
/// > (Gateway API, `HTTPRouteRule`; hosts come before these)
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rank {
    /// The host: exact before wildcard, the longer first.
    pub host: HostRank,
    /// The path: full before open, more literal characters first.
    pub path: PathRank,
    /// The rest.
    pub conditions: ConditionRank,
}

/// What decides between rules for the same path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConditionRank {
    /// Whether any method will do.
    pub any_method: bool,
    /// How many header fields it asks for.
    pub headers: Reverse<usize>,
    /// How many query parameters it asks for.
    pub query: Reverse<usize>,
    /// Its place in the file.
    pub order: RuleId,
}

impl Rank {
    /// The rank of a rule at its place, by the most specific of its hosts.
    #[must_use]
    pub fn of(rule: &Rule, id: RuleId) -> Self {
        let host = rule.hosts.iter().map(HostPattern::rank).min().unwrap_or(HostRank::Any);
        Self {
            host,
            path: rule.path.rank(),
            conditions: ConditionRank::of(rule, id),
        }
    }

    /// The rank of a rule at its place for a request to this host, by the most specific of the hosts that match.
    #[must_use]
    pub fn for_host(rule: &Rule, id: RuleId, host: &str) -> Self {
        let matching = rule.hosts.iter().filter(|pattern| pattern.matches(host));
        let host = matching.map(HostPattern::rank).min().unwrap_or(HostRank::Any);
        Self {
            host,
            path: rule.path.rank(),
            conditions: ConditionRank::of(rule, id),
        }
    }
}

impl ConditionRank {
    pub(super) fn of(rule: &Rule, order: RuleId) -> Self {
        Self {
            any_method: rule.methods.is_any(),
            headers: Reverse(rule.headers.len()),
            query: Reverse(rule.query.len()),
            order,
        }
    }
}

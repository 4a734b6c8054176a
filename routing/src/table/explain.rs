//! Why a request gets the route that it gets.

use super::{Find, Rank, RouteTable, RuleId};
use crate::matching::{Mismatch, View};

/// A rule, and why it takes a request or does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The rule.
    pub id: RuleId,
    /// What does not match; nothing where the rule matches.
    pub mismatches: Vec<Mismatch>,
    /// Whether it is the one that takes the request.
    pub chosen: bool,
}

impl<P> RouteTable<P> {
    /// Every rule with its verdict, those that match first, in the order in which they are tried. Of the rest, what fails late is
    /// nearer to matching and comes first. Slow: it looks at everything.
    #[must_use]
    pub fn explain(&self, view: &View<'_>) -> Vec<Candidate> {
        let chosen = match self.find(view) {
            Find::Found(found) => Some(found.id),
            _ => None,
        };
        let candidate = |id| Candidate {
            id,
            mismatches: self.rule(id).mismatches(view),
            chosen: chosen == Some(id),
        };
        let mut candidates: Vec<Candidate> = self.in_order().into_iter().map(candidate).collect();
        candidates.sort_by_cached_key(|candidate| {
            let rule = self.rule(candidate.id);
            (candidate.mismatches.len(), Rank::for_host(rule, candidate.id, &view.host))
        });
        candidates
    }
}

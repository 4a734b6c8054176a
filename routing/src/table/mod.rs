//! The route table: which route takes a request.
//!
//! Precedence is the `Ord` of [`Rank`] and nothing else. The table only has to find what matches; where several rules do, the one of
//! the least rank is the route.

mod bucket;
mod explain;
mod rank;

use std::collections::HashMap;

use foldhash::fast::FixedState;
use http::Method;

pub use explain::Candidate;
pub use rank::{ConditionRank, Rank};

use crate::matching::{HostPattern, MethodSet, Params, Rule, View};
use bucket::{Bucket, Ends};

/// Hosts are looked up by what a config wrote, so that nobody outside can fill a chain; a keyed hash would read randomness.
type HostMap = HashMap<Box<str>, Bucket, FixedState>;

/// A route: its rules, any of which may match, and the policy that it carries.
#[derive(Debug, Clone)]
pub struct Route<P> {
    /// Its name.
    pub name: Box<str>,
    /// What a request has to look like.
    pub rules: Vec<Rule>,
    /// What happens to it then.
    pub policy: P,
}

/// A rule's place: its route in the table's list, and its place among the route's rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleId {
    /// The route's place.
    pub route: u32,
    /// The rule's place in it.
    pub rule: u32,
}

/// A rule that no request can ever reach, since another of equal rank that comes first takes all of its requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unreachable {
    /// The rule.
    pub rule: RuleId,
    /// The one that comes first.
    pub by: RuleId,
}

/// Compiled routes. Immutable: another config is another table.
#[derive(Debug)]
pub struct RouteTable<P> {
    routes: Vec<Route<P>>,
    exact: HostMap,
    below: HostMap,
    any: Bucket,
}

/// What [`RouteTable::find`] found.
#[derive(Debug)]
pub enum Find<'t, 'v, P> {
    /// A route.
    Found(Found<'t, 'v, P>),
    /// A route matches but for the method; these would do, each named once and in alphabetical order.
    MethodNotAllowed {
        /// For `allow`.
        allow: Vec<&'t Method>,
    },
    /// No route matches.
    NotFound,
}

/// The route that takes a request.
#[derive(Debug)]
pub struct Found<'t, 'v, P> {
    /// The route.
    pub route: &'t Route<P>,
    /// Which rule of which route it is.
    pub id: RuleId,
    /// The parameters of the path.
    pub params: Params<'t, 'v>,
}

impl<P> RouteTable<P> {
    /// Compiles routes; their order is the order of the file.
    ///
    /// # Errors
    ///
    /// Every rule that can never be reached.
    pub fn build(routes: Vec<Route<P>>) -> Result<Self, Vec<Unreachable>> {
        match Self::compile(routes) {
            (table, unreachable) if unreachable.is_empty() => Ok(table),
            (_, unreachable) => Err(unreachable),
        }
    }

    /// The same where a rule that can never be reached need not be a mistake, since it may be reached in another table.
    #[must_use]
    pub fn compile(routes: Vec<Route<P>>) -> (Self, Vec<Unreachable>) {
        let mut table = Self {
            routes,
            exact: HostMap::default(),
            below: HostMap::default(),
            any: Bucket::default(),
        };
        for (route, found) in table.routes.iter().enumerate() {
            for (rule, found) in found.rules.iter().enumerate() {
                let id = RuleId {
                    route: index(route),
                    rule: index(rule),
                };
                if found.hosts.is_empty() {
                    table.any.insert(id, found);
                }
                for host in &found.hosts {
                    let bucket = match host {
                        HostPattern::Any => &mut table.any,
                        HostPattern::Exact(name) => table.exact.entry(name.clone()).or_default(),
                        HostPattern::Below(suffix) => table.below.entry(suffix.clone()).or_default(),
                    };
                    bucket.insert(id, found);
                }
            }
        }
        let routes = &table.routes;
        let rule_at = |id: RuleId| &routes[id.route as usize].rules[id.rule as usize];
        let mut shadows = Vec::new();
        for bucket in table
            .exact
            .values_mut()
            .chain(table.below.values_mut())
            .chain([&mut table.any])
        {
            bucket.finish(&rule_at, &mut shadows);
        }
        let unreachable = wholly_shadowed(shadows, &rule_at);
        (table, unreachable)
    }

    /// The route that takes a request.
    #[must_use]
    pub fn find<'t, 'v>(&'t self, view: &'v View<'_>) -> Find<'t, 'v, P> {
        let ends = Ends::of(&view.path);
        let asked = MethodSet::of(view.method);
        for bucket in self.buckets(&view.host) {
            if let Some(id) = bucket.best(view, asked, &ends, |id| self.rule(id)) {
                let params = self.rule(id).path.params(&view.path);
                return Find::Found(Found {
                    route: &self.routes[id.route as usize],
                    id,
                    params,
                });
            }
        }
        self.find_methods(view, &ends)
    }

    /// Which methods would have matched where the given one did not.
    fn find_methods<'t, 'v>(&'t self, view: &View<'_>, ends: &Ends) -> Find<'t, 'v, P> {
        let mut allow: Vec<&Method> = Vec::new();
        for bucket in self.buckets(&view.host) {
            for id in bucket.entries(&view.path, ends) {
                let rule = self.rule(id);
                if rule.fields_match(view) {
                    allow.extend(rule.methods.list());
                }
            }
        }
        allow.sort_unstable_by_key(|method| method.as_str());
        allow.dedup();
        if allow.is_empty() {
            Find::NotFound
        } else {
            Find::MethodNotAllowed { allow }
        }
    }

    /// The buckets for a host, the most specific first.
    fn buckets(&self, host: &str) -> impl Iterator<Item = &Bucket> {
        let exact = if self.exact.is_empty() { None } else { self.exact.get(host) };
        let read = if self.below.is_empty() { "" } else { host };
        let dots = read.bytes().enumerate().filter(|&(at, byte)| at > 0 && byte == b'.');
        let below = dots.filter_map(|(at, _)| self.below.get(&host[at..]));
        exact.into_iter().chain(below).chain([&self.any])
    }

    /// The routes, in the order of the file.
    #[must_use]
    pub fn routes(&self) -> &[Route<P>] {
        &self.routes
    }

    /// The rule at a place that this table gave.
    ///
    /// # Panics
    ///
    /// For a place of another table that this one does not have.
    #[must_use]
    pub fn rule(&self, id: RuleId) -> &Rule {
        &self.routes[id.route as usize].rules[id.rule as usize]
    }

    /// Every rule in the order in which they are tried.
    #[must_use]
    pub fn in_order(&self) -> Vec<RuleId> {
        let mut ids: Vec<RuleId> = Vec::new();
        for (route, found) in self.routes.iter().enumerate() {
            ids.extend((0..found.rules.len()).map(|rule| RuleId {
                route: index(route),
                rule: index(rule),
            }));
        }
        ids.sort_by_cached_key(|&id| Rank::of(self.rule(id), id));
        ids
    }
}

/// The rules whose every host is taken from them.
fn wholly_shadowed<'r>(mut shadows: Vec<Unreachable>, rule_at: &impl Fn(RuleId) -> &'r Rule) -> Vec<Unreachable> {
    shadows.sort_by_key(|shadow| (shadow.rule, shadow.by));
    let mut unreachable: Vec<Unreachable> = Vec::new();
    for shadow in shadows.chunk_by(|a, b| a.rule == b.rule) {
        let mut hosts = rule_at(shadow[0].rule).hosts.clone();
        hosts.sort_by_key(ToString::to_string);
        hosts.dedup();
        if shadow.len() >= hosts.len().max(1) {
            unreachable.push(shadow[0]);
        }
    }
    unreachable
}

fn index(place: usize) -> u32 {
    u32::try_from(place).expect("four billion routes do not fit into memory")
}

#[cfg(test)]
mod tests;

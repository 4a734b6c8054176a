//! The compiled table in words.

use std::fmt;

use routing::config::{show_duration, show_size};
use routing::filter::Cors;
use routing::matching::Rule;
use routing::policy::Fault;
use routing::upstream::Split;
use serde::Serialize;

use super::{Action, AuthRule, Gateway, Policy};
use crate::exchange::UpstreamId;

/// One rule of a route, in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Listed<'g> {
    /// The route's name.
    pub route: &'g str,
    /// The methods; empty where any will do.
    pub methods: Vec<&'g str>,
    /// The hosts; empty where any will do.
    pub hosts: Vec<String>,
    /// The path.
    pub path: String,
    /// Header fields and query parameters that have to match, by name.
    pub conditions: Vec<String>,
    /// The `[auth]` that its requests have to satisfy: any of `a | b`, all of `a & b`.
    pub auth: Option<String>,
    /// What happens to its requests.
    pub action: String,
    /// The policies that they have to get past, in words.
    pub policies: Vec<String>,
}

pub(super) fn listing(gateway: &Gateway) -> Vec<Listed<'_>> {
    let table = gateway.table();
    let listed = |id: routing::table::RuleId| {
        let route = &table.routes()[id.route as usize];
        let rule = table.rule(id);
        Listed {
            route: &route.name,
            methods: rule.methods.list().iter().map(http::Method::as_str).collect(),
            hosts: rule.hosts.iter().map(ToString::to_string).collect(),
            path: rule.path.to_string(),
            conditions: conditions(rule),
            auth: route.policy.auth.as_ref().map(|rule| describe_auth(gateway, rule)),
            action: describe(gateway, &route.policy),
            policies: policies(gateway, &route.policy),
        }
    };
    table.in_order().into_iter().map(listed).collect()
}

fn conditions(rule: &Rule) -> Vec<String> {
    let headers = rule.headers.iter().map(|header| format!("header {}", header.name));
    headers
        .chain(rule.query.iter().map(|query| format!("query {}", query.name)))
        .collect()
}

fn describe_auth(gateway: &Gateway, rule: &AuthRule) -> String {
    let names: Vec<&str> = rule
        .methods
        .iter()
        .filter_map(|&at| gateway.auth(at))
        .map(|auth| auth.name.as_str())
        .collect();
    names.join(if rule.all { " & " } else { " | " })
}

pub(crate) fn describe(gateway: &Gateway, policy: &Policy) -> String {
    let name = |id: UpstreamId| gateway.upstream(id).map_or("?", |upstream| &*upstream.name);
    match &policy.action {
        Action::Forward(backends) => {
            let targets = backends.split.iter().flat_map(Split::targets);
            let names: Vec<_> = targets
                .filter_map(|&at| backends.get(at))
                .map(|backend| name(backend.upstream))
                .collect();
            if names.is_empty() {
                "nobody (every weight is 0)".to_owned()
            } else {
                names.join(" | ")
            }
        }
        Action::Aggregate(aggregate) => {
            let branches: Vec<_> = aggregate
                .branches
                .iter()
                .map(|branch| format!("{}: {}", branch.name, name(branch.upstream)))
                .collect();
            format!("aggregate {{ {} }}", branches.join(", "))
        }
        Action::Redirect(redirect) => format!("redirect {}", redirect.status),
        Action::Respond(answer) => format!("respond {}", answer.status),
    }
}

/// The policies of a route that do not follow from what it does, one line each.
pub(crate) fn policies(gateway: &Gateway, policy: &Policy) -> Vec<String> {
    let limits = policy.limits.iter().flat_map(|limits| &limits.list);
    let limits = limits.map(|limit| format!("rate limit {}", limit.describe()));
    let mirrors = policy.mirrors.iter().map(|mirror| {
        let name = gateway.upstream(mirror.upstream).map_or("?", |upstream| &*upstream.name);
        format!("mirror {} to {name}", mirror.chance)
    });
    let faults = policy.fault.as_deref().into_iter().flat_map(describe_fault);
    let at_once = policy
        .concurrency
        .iter()
        .map(|concurrency| format!("at most {} at once", concurrency.limit));
    let answers = policy.answers.iter().map(|rules| {
        let by = match (&rules.schema, rules.described) {
            (Some(_), true) => "a schema and the description",
            (Some(_), false) => "a schema",
            (None, _) => "the description",
        };
        format!("answers are held against {by}, and what is wrong is logged")
    });
    policy
        .cors
        .as_deref()
        .into_iter()
        .map(describe_cors)
        .chain(answers)
        .chain(at_once)
        .chain(policy.max_body.map(|max| format!("bodies up to {}", show_size(max))))
        .chain(limits)
        .chain(faults)
        .chain(mirrors)
        .collect()
}

fn describe_fault(fault: &Fault) -> Vec<String> {
    let delay = fault
        .delay
        .map(|delay| format!("fault: {} wait {}", delay.chance, show_duration(delay.duration)));
    let abort = fault
        .abort
        .map(|abort| format!("fault: {} are answered {}", abort.chance, abort.status));
    delay.into_iter().chain(abort).collect()
}

fn describe_cors(cors: &Cors) -> String {
    let origins: Vec<_> = cors.origins.iter().map(ToString::to_string).collect();
    let credentials = if cors.credentials { ", with credentials" } else { "" };
    format!("cors for {}{credentials}", origins.join(", "))
}

impl fmt::Display for Listed<'_> {
    /// One line: methods, hosts and path, conditions, route and action.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let methods = if self.methods.is_empty() {
            "*".to_owned()
        } else {
            self.methods.join(",")
        };
        let hosts = if self.hosts.is_empty() {
            String::new()
        } else {
            self.hosts.join(",")
        };
        write!(f, "{methods:<10} {hosts}{}", self.path)?;
        if !self.conditions.is_empty() {
            write!(f, " [{}]", self.conditions.join(", "))?;
        }
        write!(f, "  {}", self.route)?;
        if let Some(auth) = &self.auth {
            write!(f, "  auth {auth}")?;
        }
        write!(f, "  → {}", self.action)
    }
}

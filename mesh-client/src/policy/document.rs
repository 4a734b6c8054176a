//! From TOML to [`Policies`], with every mistake told at its place: who may call whom, and how the endpoints of services are used.
//! Where calls go is [`traffic`]'s.

use std::collections::BTreeMap;

use identity::{ServiceName, SpiffeId, TrustDomain};
use routing::claims::Requirements;
use routing::config::{Diagnostics, Document, Period, Source, Spanned, nearest, raw};
use routing::matching::{MethodMatch, PathPattern, PathPatternError};
use routing::upstream::Kind;
use serde::Deserialize;
use serde_json::Value;

use super::access::{Action, Mode, Rule};
use super::external::RawExternal;
use super::health::RawHealth;
use super::{Default, MAX_DOCUMENT, Policies, Scoped, traffic};
use crate::outside::External;

#[derive(Debug, std::default::Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDefault {
    default: Option<Spanned<String>>,
    mode: Option<Spanned<String>>,
}

/// `[policy]`, which says beside the default who is believed about end users.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPolicy {
    default: Option<Spanned<String>>,
    mode: Option<Spanned<String>>,
    handoffs: Option<Texts>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawService {
    policy: Option<RawDefault>,
    health: Option<Spanned<RawHealth>>,
    balance: Option<Spanned<String>>,
    hash: Option<Spanned<String>>,
    outlier: Option<raw::Outlier>,
    breaker: Option<raw::Breaker>,
    slow_start: Option<Spanned<Period>>,
    zone: Option<Spanned<raw::Zone>>,
}

impl RawService {
    fn connection(&self) -> raw::Connection<'_> {
        raw::Connection {
            balance: self.balance.as_ref(),
            hash: self.hash.as_ref(),
            outlier: self.outlier.as_ref(),
            breaker: self.breaker.as_ref(),
            slow_start: self.slow_start.as_ref(),
            zone: self.zone.as_ref(),
        }
    }

    /// Whether all of it means something of a service that is outside the mesh.
    fn fits_outside(&self, name: &Spanned<String>, diagnostics: &mut Diagnostics) {
        let mut useless = |span, key, why| {
            let name = name.get_ref();
            diagnostics
                .error(span, format!("`{key}` has no effect: `{name}` is outside the mesh"))
                .hint(why);
        };
        if self.policy.is_some() {
            useless(
                name.span(),
                "policy",
                "a policy is held to by the service that is called, which has to be in the mesh",
            );
        }
        if let Some(health) = &self.health {
            useless(
                health.span(),
                "health",
                "services check themselves; `outlier` leaves out who fails those that call",
            );
        }
        if let Some(zone) = &self.zone {
            useless(zone.span(), "zone", "what is outside says of no zone; take it out");
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    name: Spanned<String>,
    action: Spanned<String>,
    from: Option<Texts>,
    to: Option<Texts>,
    methods: Option<Texts>,
    paths: Option<Texts>,
    path_prefixes: Option<Texts>,
    ports: Option<Spanned<Vec<Spanned<u16>>>>,
    scopes: Option<Texts>,
    claims: Option<Spanned<BTreeMap<Spanned<String>, Spanned<Value>>>>,
}

pub(super) type Texts = Spanned<Vec<Spanned<String>>>;

/// The longest name of a rule: it is a label of metrics and stands in every line of log about it.
pub(super) const MAX_NAME: usize = 128;

pub(super) fn compile(
    source: &Source,
    trust_domain: &TrustDomain,
    is_served: &dyn Fn(&ServiceName) -> bool,
) -> Result<Policies, Diagnostics> {
    let mut diagnostics = Diagnostics::new(source);
    let policies = read(source, trust_domain, is_served, &mut diagnostics);
    diagnostics.into_result(policies)
}

fn read(
    source: &Source,
    trust_domain: &TrustDomain,
    is_served: &dyn Fn(&ServiceName) -> bool,
    diagnostics: &mut Diagnostics,
) -> Option<Policies> {
    if source.text.len() > MAX_DOCUMENT {
        diagnostics.error(0..0, format!("the document is longer than {MAX_DOCUMENT} bytes"));
        return None;
    }
    let mut document = Document::parse(source, &|_| None, diagnostics)?;
    let mut handoffs = Some(Vec::new());
    let default = match document.section("policy", diagnostics) {
        Some(section) => section.read::<RawPolicy>(diagnostics).and_then(|raw| {
            handoffs = diagnostics.elements("handoffs", raw.value.handoffs.as_ref(), |text, diagnostics| {
                principal(text, trust_domain, diagnostics)
            });
            let default = RawDefault {
                default: raw.value.default,
                mode: raw.value.mode,
            };
            compile_default(&default, Default::default(), diagnostics)
        }),
        None => Some(Default::default()),
    };
    let usual = default.unwrap_or_default();
    let external = externals(&mut document, is_served, diagnostics);
    let (mut services, mut health) = (BTreeMap::new(), BTreeMap::new());
    let mut connections = BTreeMap::new();
    for (place, section) in document.named("services", diagnostics) {
        let name = service_name(&place, diagnostics);
        let Some(raw) = section.read::<RawService>(diagnostics) else {
            continue;
        };
        if name.as_ref().is_some_and(|name| external.contains_key(name)) {
            raw.value.fits_outside(&place, diagnostics);
        }
        if let (Some(name), Some(connection)) = (&name, raw.value.connection().compile(Kind::Service, diagnostics)) {
            connections.insert(name.clone(), connection);
        }
        let check = raw.value.health.as_ref().map(|raw| RawHealth::compile(raw, diagnostics));
        if let (Some(name), Some(Some(check))) = (&name, check) {
            health.insert(name.clone(), check);
        }
        let own = raw.value.policy.map(|raw| compile_default(&raw, usual, diagnostics));
        if let (Some(name), Some(Some(own))) = (name, own) {
            services.insert(name, own);
        }
    }
    let mut rules = Vec::new();
    let mut names: BTreeMap<String, usize> = BTreeMap::new();
    let mut spans = Vec::new();
    for section in document.list("rules", diagnostics) {
        let Some(raw) = section.read::<RawRule>(diagnostics) else {
            continue;
        };
        let name = raw.value.name.clone();
        if let Some(first) = names.insert(name.get_ref().clone(), name.span().start) {
            let line = diagnostics.line_of(first);
            diagnostics.error(
                name.span(),
                format!("the rule `{}` is there already, in line {line}", name.get_ref()),
            );
        }
        let asks = raw.value.scopes.as_ref().map(Spanned::span);
        let asks = asks.or_else(|| raw.value.claims.as_ref().map(Spanned::span));
        if let (Some(span), Some([])) = (asks, handoffs.as_deref()) {
            diagnostics
                .error(span, "the rule asks about an end user, and nobody is believed about those")
                .hint("name who verifies them in [policy], as in handoffs = [\"ingress\"]");
        }
        for to in raw.value.to.iter().flat_map(|to| to.get_ref()) {
            if ServiceName::new(to.get_ref()).is_ok_and(|name| external.contains_key(&name)) {
                diagnostics
                    .error(
                        to.span(),
                        format!("the rule protects nothing: `{}` is outside the mesh", to.get_ref()),
                    )
                    .hint("a rule is held to by the service that is called, which has to be in the mesh");
            }
        }
        if let Some(rule) = raw.value.compile(trust_domain, diagnostics) {
            spans.push(name.span());
            rules.push(rule);
        }
    }
    let routes = document.list("routes", diagnostics);
    document.finish(diagnostics);
    let routes = traffic::routes(routes, trust_domain, &external, diagnostics);
    let policies = Policies {
        default: default?,
        services,
        health,
        rules,
        connections,
        external,
        routes: routes?,
        handoffs: handoffs?.into(),
    };
    // Only where everything else is right: a default that was misspelt is one mistake, not one for each rule.
    if diagnostics.is_empty() {
        for (scoped, span) in policies.rules.iter().zip(spans) {
            if !policies.matters(scoped) {
                diagnostics
                    .error(
                        span,
                        format!("the rule `{}` allows what is allowed without it", scoped.rule.name),
                    )
                    .hint("set default = \"deny\" in [policy], or in [services.NAME] as policy = { default = \"deny\" }");
            }
        }
    }
    Some(policies)
}

/// What is outside the mesh.
fn externals(
    document: &mut Document<'_>,
    is_served: &dyn Fn(&ServiceName) -> bool,
    diagnostics: &mut Diagnostics,
) -> BTreeMap<ServiceName, External> {
    let mut external = BTreeMap::new();
    for (place, section) in document.named("external", diagnostics) {
        let name = service_name(&place, diagnostics);
        let raw = section.read::<RawExternal>(diagnostics);
        let entry = raw.and_then(|raw| raw.value.compile(&place, raw.whole, diagnostics));
        if let Some(name) = name.as_ref().filter(|name| is_served(name)) {
            diagnostics
                .error(
                    place.span(),
                    format!("`{name}` is a service of this mesh, and is called over mutual TLS"),
                )
                .hint("choose another name for what is outside, or let the service leave first");
        }
        external.extend(name.zip(entry));
    }
    external
}

impl Policies {
    /// Whether a rule changes anything: one that allows where everything is allowed reads like a restriction, and is none.
    fn matters(&self, scoped: &Scoped) -> bool {
        let denies = |service: &ServiceName| self.services.get(service).unwrap_or(&self.default).action == Action::Deny;
        scoped.rule.action == Action::Deny
            || (scoped.to.is_empty() && self.default.action == Action::Deny)
            || scoped.to.iter().any(denies)
            || (scoped.to.is_empty() && self.services.keys().any(denies))
    }
}

fn compile_default(raw: &RawDefault, usual: Default, diagnostics: &mut Diagnostics) -> Option<Default> {
    let action = raw.default.as_ref().map(|text| action(text, diagnostics));
    let mode = raw.mode.as_ref().map(|text| {
        let known = [("enforce", Mode::Enforce), ("audit", Mode::Audit)];
        one_of("mode", text, &known, diagnostics)
    });
    Some(Default {
        action: action.unwrap_or(Some(usual.action))?,
        mode: mode.unwrap_or(Some(usual.mode))?,
    })
}

impl RawRule {
    fn compile(&self, trust_domain: &TrustDomain, diagnostics: &mut Diagnostics) -> Option<Scoped> {
        let name = self.name.get_ref();
        let named = !name.is_empty() && name.len() <= MAX_NAME && !name.chars().any(char::is_control);
        if !named {
            diagnostics.error(
                self.name.span(),
                format!("a rule's name has 1 to {MAX_NAME} bytes and no control characters"),
            );
        }
        let action = action(&self.action, diagnostics);
        let from = diagnostics.elements("from", self.from.as_ref(), |text, diagnostics| {
            principal(text, trust_domain, diagnostics)
        });
        let to = diagnostics.elements("to", self.to.as_ref(), service_name);
        let methods = diagnostics.elements("methods", self.methods.as_ref(), |text, diagnostics| diagnostics.method(text));
        let full = diagnostics.elements("paths", self.paths.as_ref(), |text, diagnostics| {
            path(text, PathPattern::full(text.get_ref()), diagnostics)
        });
        let prefixes = diagnostics.elements("path_prefixes", self.path_prefixes.as_ref(), |text, diagnostics| {
            path(text, PathPattern::prefix(text.get_ref()), diagnostics)
        });
        let ports = diagnostics.elements("ports", self.ports.as_ref(), |port, diagnostics| {
            diagnostics.number("a port", port, 1..=u16::MAX)
        });
        let caller = self.caller(diagnostics);
        let paths: Vec<_> = full?.into_iter().chain(prefixes?).collect();
        Some(Scoped {
            to: to?,
            rule: Rule {
                name: named.then(|| name.as_str().into())?,
                action: action?,
                from: from?.into(),
                methods: MethodMatch::any_of(methods?),
                paths: paths.into(),
                ports: ports?.into(),
                caller: caller?.into(),
            },
        })
    }

    /// What it asks about the end user.
    fn caller(&self, diagnostics: &mut Diagnostics) -> Option<Requirements> {
        let scopes = diagnostics.elements("scopes", self.scopes.as_ref(), |text, _| Some(text.clone()));
        let none = BTreeMap::new();
        let claims = self.claims.as_ref().map_or(&none, |claims| claims.get_ref());
        if let Some(empty) = self.claims.as_ref().filter(|claims| claims.get_ref().is_empty()) {
            diagnostics
                .error(empty.span(), "`claims` is empty")
                .hint("leave `claims` out to match any");
            return None;
        }
        diagnostics.requirements(&scopes?, claims)
    }
}

fn action(text: &Spanned<String>, diagnostics: &mut Diagnostics) -> Option<Action> {
    one_of(
        "action",
        text,
        &[("allow", Action::Allow), ("deny", Action::Deny)],
        diagnostics,
    )
}

pub(super) fn one_of<T: Copy>(
    what: &str,
    text: &Spanned<String>,
    known: &[(&str, T)],
    diagnostics: &mut Diagnostics,
) -> Option<T> {
    if let Some((_, value)) = known.iter().find(|(name, _)| name == text.get_ref()) {
        return Some(*value);
    }
    let names: Vec<_> = known.iter().map(|(name, _)| *name).collect();
    let hint = match nearest(text.get_ref(), names.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("expected {}", names.join(" or ")),
    };
    diagnostics
        .error(text.span(), format!("`{}` is no {what}", text.get_ref()))
        .hint(hint);
    None
}

pub(super) fn service_name(text: &Spanned<String>, diagnostics: &mut Diagnostics) -> Option<ServiceName> {
    let refused = match ServiceName::new(text.get_ref()) {
        Ok(name) => return Some(name),
        Err(refused) => refused,
    };
    diagnostics.error(text.span(), format!("`{}` is no service name: {refused}", text.get_ref()));
    None
}

/// A service by its name, or any identity of the mesh by its SPIFFE ID.
pub(super) fn principal(text: &Spanned<String>, trust_domain: &TrustDomain, diagnostics: &mut Diagnostics) -> Option<SpiffeId> {
    if !text.get_ref().contains(':') {
        return Some(SpiffeId::of_service(trust_domain, &service_name(text, diagnostics)?));
    }
    match text.get_ref().parse::<SpiffeId>() {
        Ok(id) if id.is_member_of(trust_domain) && !id.path().is_empty() => Some(id),
        Ok(id) => {
            diagnostics
                .error(
                    text.span(),
                    format!("`{id}` is no workload of the trust domain `{trust_domain}`"),
                )
                .hint(format!("write a service's name, or spiffe://{trust_domain}/…"));
            None
        }
        Err(refused) => {
            diagnostics.error(text.span(), format!("`{}`: {refused}", text.get_ref()));
            None
        }
    }
}

fn path(
    text: &Spanned<String>,
    parsed: Result<PathPattern, PathPatternError>,
    diagnostics: &mut Diagnostics,
) -> Option<PathPattern> {
    match parsed {
        Ok(pattern) => Some(pattern),
        Err(refused) => {
            let error = diagnostics.error(text.span(), refused.to_string());
            if refused == PathPatternError::NotAbsolute {
                error.hint(format!("write \"/{}\"", text.get_ref()));
            }
            None
        }
    }
}

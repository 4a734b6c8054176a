//! `[[routes]]`: where calls go, compiled with every mistake told at its place.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use identity::{ServiceName, SpiffeId, TrustDomain};
use routing::config::{Diagnostics, OneOrMany, Period, Section, Spanned, raw};
use routing::filter::{Reference, Template};
use routing::matching::{PathPattern, Rule};
use routing::table::{Route, RouteTable, RuleId, Unreachable};
use routing::upstream::Split;
use serde::Deserialize;

use super::document::{MAX_NAME, Texts, principal, service_name};
use super::routes::{Backend, Destination, Mirror, RoutePolicy, ScopedRoute};
use crate::outside::External;

/// One of `[[routes]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRoute {
    name: Spanned<String>,
    to: Texts,
    from: Option<Texts>,
    #[serde(rename = "match")]
    matches: Option<OneOrMany<raw::Match>>,
    service: Option<Spanned<String>>,
    version: Option<Spanned<String>>,
    split: Option<Spanned<Vec<Spanned<RawShare>>>>,
    rewrite: Option<raw::Rewrite>,
    headers: Option<raw::Headers>,
    timeout: Option<Spanned<Period>>,
    retry: Option<raw::Retry>,
    mirror: Option<OneOrMany<RawMirror>>,
    fault: Option<Spanned<raw::Fault>>,
}

/// One share of a split.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawShare {
    service: Option<Spanned<String>>,
    version: Option<Spanned<String>>,
    weight: Spanned<u32>,
    #[serde(default)]
    headers: raw::Headers,
}

/// One mirror.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMirror {
    service: Option<Spanned<String>>,
    version: Option<Spanned<String>>,
    percent: Option<Spanned<f64>>,
}

/// The most mirrors of one route: each is another call.
const MAX_MIRRORS: usize = 4;

/// Compiles the routes. None where one has a mistake.
pub(super) fn routes(
    sections: Vec<Section<'_>>,
    trust_domain: &TrustDomain,
    external: &BTreeMap<ServiceName, External>,
    diagnostics: &mut Diagnostics,
) -> Option<Vec<ScopedRoute>> {
    let mut routes = Vec::new();
    let mut spans: Vec<Vec<Range<usize>>> = Vec::new();
    let mut names: Vec<Spanned<String>> = Vec::new();
    let mut whole = true;
    for section in sections {
        let place = section.span();
        let Some(read) = section.read::<RawRoute>(diagnostics) else {
            whole = false;
            continue;
        };
        let name = read.value.name.clone();
        if let Some(first) = names.iter().find(|first| first.get_ref() == name.get_ref()) {
            let line = diagnostics.line_of(first.span().start);
            diagnostics.error(
                name.span(),
                format!("the route `{}` is there already, in line {line}", name.get_ref()),
            );
            whole = false;
        }
        names.push(name);
        whole &= read.value.stays_encrypted(external, diagnostics);
        let of = read.value.matches.as_ref().map_or_else(|| vec![place], OneOrMany::spans);
        match read.value.compile(trust_domain, diagnostics) {
            Some(route) => {
                routes.push(route);
                spans.push(of);
            }
            None => whole = false,
        }
    }
    if !whole {
        return None;
    }
    let unreachable = unreachable(&routes);
    diagnostics.unreachable(
        &unreachable,
        |id| routes[id.route as usize].route.name.to_string(),
        |id| spans[id.route as usize][id.rule as usize].clone(),
    );
    unreachable.is_empty().then_some(routes)
}

/// The rules that no call of anybody to anything can reach.
fn unreachable(routes: &[ScopedRoute]) -> Vec<Unreachable> {
    let mut services: Vec<&ServiceName> = routes.iter().flat_map(|route| &route.to).collect();
    services.sort_unstable();
    services.dedup();
    let mut reached: Vec<RuleId> = Vec::new();
    let mut hidden: Vec<Unreachable> = Vec::new();
    for service in services {
        let about = |route: &&ScopedRoute| route.to.contains(service);
        let mut callers: Vec<Option<&SpiffeId>> = vec![None];
        for caller in routes.iter().filter(about).flat_map(|route| &route.from) {
            if !callers.contains(&Some(caller)) {
                callers.push(Some(caller));
            }
        }
        for caller in callers {
            let places = of(routes, caller, service);
            let (table, unreachable) = RouteTable::compile(places.iter().map(|&at| routes[at].route.clone()).collect());
            let whole = |id: RuleId| RuleId {
                route: u32::try_from(places[id.route as usize]).unwrap_or(u32::MAX),
                ..id
            };
            let is_hidden = |id: &RuleId| unreachable.iter().any(|hidden| hidden.rule == *id);
            reached.extend(table.in_order().into_iter().filter(|id| !is_hidden(id)).map(whole));
            hidden.extend(unreachable.iter().map(|hidden| Unreachable {
                rule: whole(hidden.rule),
                by: whole(hidden.by),
            }));
        }
    }
    hidden.retain(|hidden| !reached.contains(&hidden.rule));
    hidden.sort_by_key(|hidden| (hidden.rule, hidden.by));
    hidden.dedup_by_key(|hidden| hidden.rule);
    hidden
}

/// The places of the routes for calls of `caller` to `service`. Of two of equal rank the one that names its callers comes first.
pub(super) fn of(routes: &[ScopedRoute], caller: Option<&SpiffeId>, service: &ServiceName) -> Vec<usize> {
    let about = routes.iter().enumerate().filter(|(_, route)| route.is_about(caller, service));
    let (named, open): (Vec<_>, Vec<_>) = about.partition(|(_, route)| !route.from.is_empty());
    named.into_iter().chain(open).map(|(at, _)| at).collect()
}

impl RawRoute {
    fn compile(&self, trust_domain: &TrustDomain, diagnostics: &mut Diagnostics) -> Option<ScopedRoute> {
        let name = self.name.get_ref();
        let named = !name.is_empty() && name.len() <= MAX_NAME && !name.chars().any(char::is_control);
        if !named {
            let message = format!("a route's name has 1 to {MAX_NAME} bytes and no control characters");
            diagnostics.error(self.name.span(), message);
        }
        let to = if self.to.get_ref().is_empty() {
            let error = diagnostics.error(self.to.span(), "`to` is empty");
            error.hint("name the services that are called");
            None
        } else {
            diagnostics.elements("to", Some(&self.to), service_name)
        };
        let from = diagnostics.elements("from", self.from.as_ref(), |text, diagnostics| {
            principal(text, trust_domain, diagnostics)
        });
        let rules = self.rules(diagnostics);
        let retry = self.retry.as_ref().map(|retry| retry.compile(diagnostics));
        let fault = self
            .fault
            .as_ref()
            .map(|fault| fault.get_ref().compile(fault.span(), diagnostics));
        let timeout = self.timeout.as_ref().map(|timeout| diagnostics.timeout("`timeout`", timeout));
        let mirrors = self.mirrors(diagnostics);
        let rules = rules?;
        let backends = self.backends(&rules, diagnostics);
        let rewrite = self.rewrite.as_ref().map(|rewrite| rewrite.compile(&rules, diagnostics));
        let headers = self.headers.clone().unwrap_or_default();
        let (request, response) = edits(&headers, &rules, diagnostics)?;
        let (backends, split) = backends?;
        let policy = RoutePolicy {
            name: name.as_str().into(),
            fault: whole(fault)?,
            timeout: whole(timeout)?,
            retry: whole(retry)?,
            backends,
            split,
            mirrors: mirrors?,
            rewrite: whole(rewrite)?.unwrap_or_default(),
            request,
            response,
        };
        let route = Route {
            name: named.then(|| name.as_str().into())?,
            rules,
            policy: Arc::new(policy),
        };
        Some(ScopedRoute {
            to: to?,
            from: from?,
            route,
        })
    }

    /// Whether no call that its caller makes over TLS is led to where there is none.
    fn stays_encrypted(&self, external: &BTreeMap<ServiceName, External>, diagnostics: &mut Diagnostics) -> bool {
        let of = |text: &Spanned<String>| external.get(text.get_ref().as_str());
        let is_plain = |text: &&Spanned<String>| of(text).is_some_and(|external| external.way.tls.is_none());
        let Some(called) = self.to.get_ref().iter().find(|to| !is_plain(to)) else {
            return true;
        };
        let split = self.split.iter().flat_map(|split| split.get_ref());
        let mirrors = self.mirror.iter().flat_map(|mirrors| &mirrors.0);
        let led = self
            .service
            .iter()
            .chain(split.filter_map(|share| share.get_ref().service.as_ref()))
            .chain(mirrors.filter_map(|mirror| mirror.get_ref().service.as_ref()));
        let plain: Vec<_> = led.filter(is_plain).collect();
        for to in &plain {
            let (to, called, span) = (to.get_ref(), called.get_ref(), to.span());
            diagnostics
                .error(
                    span,
                    format!("calls to `{called}` are encrypted, and `{to}` is outside the mesh and without TLS"),
                )
                .hint(format!(
                    "add tls = true to [external.{to}], or let callers call `{to}` itself"
                ));
        }
        plain.is_empty()
    }

    /// What its calls have to look like; any call where nothing is said.
    fn rules(&self, diagnostics: &mut Diagnostics) -> Option<Vec<Rule>> {
        let Some(matches) = &self.matches else {
            let any = PathPattern::prefix("/").ok()?;
            return Some(vec![Rule::path(any)]);
        };
        if matches.0.is_empty() {
            diagnostics
                .error(self.name.span(), "`match` is empty")
                .hint("leave `match` out to match any call");
            return None;
        }
        let mut hosts = matches.0.iter().filter_map(|one| one.get_ref().hosts.as_ref());
        if let Some(hosts) = hosts.next() {
            diagnostics
                .error(hosts.span(), "a call between services has no host but that of the service")
                .hint("name the services that are called in `to`");
            return None;
        }
        matches.compile(diagnostics)
    }

    fn backends(&self, rules: &[Rule], diagnostics: &mut Diagnostics) -> Option<(Vec<Backend>, Option<Split<usize>>)> {
        let Some(split) = &self.split else {
            let to = destination(self.service.as_ref(), self.version.as_ref(), diagnostics)?;
            let backend = Backend {
                to,
                ..Backend::default()
            };
            return Some((vec![backend], Split::new([(0, 1)])));
        };
        if let Some(beside) = self.service.as_ref().or(self.version.as_ref()) {
            let error = diagnostics.error(beside.span(), "`split` says already where the calls go");
            error.hint("write `service` and `version` into its shares");
            return None;
        }
        if split.get_ref().is_empty() {
            let error = diagnostics.error(split.span(), "`split` is empty");
            error.hint("name versions or services with their weights, as in [{ version = \"2\", weight = 1 }]");
            return None;
        }
        let share = |share: &Spanned<RawShare>| {
            let RawShare {
                service,
                version,
                weight,
                headers,
            } = share.get_ref();
            let to = destination(service.as_ref(), version.as_ref(), diagnostics);
            let weight = diagnostics.number("`weight`", weight, 0..=1_000_000);
            let (request, response) = edits(headers, rules, diagnostics)?;
            let backend = Backend {
                to: to?,
                request,
                response,
            };
            Some((backend, weight?))
        };
        let shares: Vec<_> = split.get_ref().iter().map(share).collect();
        let (backends, weights): (Vec<_>, Vec<_>) = shares.into_iter().collect::<Option<Vec<_>>>()?.into_iter().unzip();
        let split = Split::new(weights.into_iter().enumerate());
        Some((backends, split))
    }

    fn mirrors(&self, diagnostics: &mut Diagnostics) -> Option<Vec<Mirror>> {
        let list = self.mirror.as_ref().map(|mirror| mirror.0.as_slice()).unwrap_or_default();
        if let Some(surplus) = list.get(MAX_MIRRORS) {
            diagnostics.error(surplus.span(), format!("a route has at most {MAX_MIRRORS} mirrors"));
            return None;
        }
        let one = |mirror: &Spanned<RawMirror>| {
            let place = mirror.span();
            let RawMirror {
                service,
                version,
                percent,
            } = mirror.get_ref();
            if service.is_none() && version.is_none() {
                let error = diagnostics.error(place, "the mirror is where the calls go anyway");
                error.hint("add service = \"…\" or version = \"…\"");
                return None;
            }
            let to = destination(service.as_ref(), version.as_ref(), diagnostics);
            let chance = diagnostics.chance(percent.as_ref());
            to.zip(chance).map(|(to, chance)| Mirror { to, chance })
        };
        let mirrors: Vec<_> = list.iter().map(one).collect();
        mirrors.into_iter().collect()
    }
}

fn destination(
    service: Option<&Spanned<String>>,
    version: Option<&Spanned<String>>,
    diagnostics: &mut Diagnostics,
) -> Option<Destination> {
    let service = service.map(|service| service_name(service, diagnostics));
    let version = version.map(|version| {
        let text = version.get_ref();
        let is_version = (1..=MAX_NAME).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_version {
            diagnostics.error(
                version.span(),
                format!("a version has 1 to {MAX_NAME} visible characters, without spaces"),
            );
        }
        is_version.then(|| text.as_str().into())
    });
    Some(Destination {
        service: whole(service)?,
        version: whole(version)?,
    })
}

type Edits = (routing::filter::HeaderEdits, routing::filter::HeaderEdits);

/// Edits of requests and answers, whose templates refer to what is known between services.
fn edits(headers: &raw::Headers, rules: &[Rule], diagnostics: &mut Diagnostics) -> Option<Edits> {
    let request = headers.request.compile(rules, diagnostics);
    let response = headers.response.compile(rules, diagnostics);
    let both = [&headers.request, &headers.response];
    let mut known = true;
    for text in both
        .into_iter()
        .flat_map(|edits| edits.set.values().chain(edits.add.values()))
    {
        let Ok(template) = Template::parse(text.get_ref()) else {
            continue;
        };
        let is_known = |of: &&Reference| matches!(of, Reference::Param(_) | Reference::Header(_) | Reference::Cookie(_));
        if let Some(unknown) = template.references().find(|of| !is_known(of)) {
            diagnostics
                .error(text.span(), format!("{unknown} is not known between services"))
                .hint("there are {NAME} of the path, {header.NAME} and {cookie.NAME}");
            known = false;
        }
    }
    request.zip(response).filter(|_| known)
}

/// None where there was something and it had a mistake.
fn whole<T>(value: Option<Option<T>>) -> Option<Option<T>> {
    match value {
        Some(None) => None,
        Some(some) => Some(some),
        None => Some(None),
    }
}

#[cfg(test)]
mod tests;

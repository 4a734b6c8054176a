//! `[[routes]]`.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use routing::config::raw::{Headers, Share};
use routing::config::{Diagnostics, Read, Spanned};
use routing::filter::{HeaderEdits, Reference};
use routing::matching::Rule;
use routing::upstream::Split;

use super::compile::Files;
use super::policy::{Backends, references};
use super::{Action, AuthRule, Backend, Policy, Route, Settings, aggregate, auth, limit, mirror, raw, validate};
use crate::aggregate::Branch;
use crate::auth::Requirements;
use crate::exchange::UpstreamId;
use crate::limit::Concurrency;
use crate::validate::Description;

/// The names that routes may refer to, in the order of the file.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) upstreams: Vec<String>,
    /// What of a request the upstreams go by, where they do.
    pub(super) hashes: Vec<Reference>,
    pub(super) auths: Vec<KnownAuth>,
    /// What holds for routes that do not say.
    pub(super) default_auth: Option<AuthRule>,
    /// The descriptions that were loaded, by path, base and whether their answers are judged; none where one has a mistake.
    pub(super) descriptions: RefCell<Descriptions>,
}

type Descriptions = BTreeMap<(String, Option<String>, bool), Option<Arc<Description>>>;

/// An `[auth]` that routes may refer to.
#[derive(Debug)]
pub(super) struct KnownAuth {
    pub(super) name: String,
    pub(super) is_api_key: bool,
}

impl Known {
    pub(super) fn upstream(&self, name: &Spanned<String>, diagnostics: &mut Diagnostics) -> Option<UpstreamId> {
        let at = diagnostics.upstream(name, self.upstreams.iter().map(String::as_str))?;
        u32::try_from(at).ok().map(UpstreamId)
    }
}

/// The name of the route at a place in the list: the one that it gives itself, which nobody else may have, or its number.
pub(super) fn name(at: usize, raw: &raw::Route, names: &mut HashSet<String>, diagnostics: &mut Diagnostics) -> String {
    let name = raw
        .name
        .as_ref()
        .map_or_else(|| format!("route-{}", at + 1), |name| name.get_ref().clone());
    if let Some(place) = raw.name.as_ref() {
        if names.contains(&name) {
            diagnostics
                .error(place.span(), format!("a second route is called `{name}`"))
                .hint("logs and metrics tell routes apart by name");
        }
        if name.is_empty() || name.chars().any(char::is_control) {
            diagnostics.error(place.span(), "a route's name is text, as in \"account\"");
        }
    }
    names.insert(name.clone());
    name
}

/// Compiles a route. None where it has a mistake.
pub(super) fn compile(
    name: String,
    place: Range<usize>,
    read: Read<raw::Route>,
    known: &Known,
    settings: &Settings,
    files: &mut Files<'_>,
    diagnostics: &mut Diagnostics,
) -> Option<Route> {
    let Read { value: raw, whole } = read;
    refuse_idle(&raw, diagnostics);
    // Without its rules nothing can be said of its templates, but of everything else.
    let rules = raw.matches.compile(diagnostics);
    if raw.matches.0.is_empty() {
        diagnostics
            .error(place.clone(), format!("route `{name}` matches nothing: `match` is empty"))
            .hint("add match = { path = \"/…\" }");
    }
    let auth = match &raw.auth {
        Some(methods) => auth::rule(methods, known, diagnostics),
        None => Some(known.default_auth.clone()),
    };
    let is_anonymous = matches!(auth, Some(None));
    let require = requirements(&raw, is_anonymous, diagnostics);
    let concurrency = raw.concurrency.as_ref().map(|limit| {
        let limit = diagnostics.number("`concurrency`", limit, 1..=1_000_000);
        limit.map(|limit| Concurrency::of(&settings.name, &name, limit))
    });
    let limits = raw.rate_limit.as_ref().map(|limits| {
        let says = |by: &Reference| is_said(by, auth.as_ref().map(Option::as_ref), known);
        let place = limit::Place {
            gateway: &settings.name,
            route: &name,
            store: settings.quotas.as_ref().map(|store| store.when_down),
            says: &says,
        };
        limit::compile(limits, &place, diagnostics)
    });
    let max_body = raw
        .max_body
        .as_ref()
        .map(|max| diagnostics.size("`max_body`", max, 1..=1 << 40));
    let read_at_most = max_body.flatten();
    let body = raw
        .validate
        .as_ref()
        .filter(|validate| validate.judges_requests())
        .map(|validate| validate::body_rules(&name, validate, read_at_most, known, settings, files, diagnostics));
    let answers = raw
        .validate
        .as_ref()
        .and_then(|validate| validate::answer_rules(&name, validate, settings, files, diagnostics));
    let retry = raw.retry.as_ref().map(|retry| retry.get_ref().compile(diagnostics));
    let aggregate_timeout = raw
        .aggregate
        .as_ref()
        .and_then(|aggregate| aggregate.get_ref().timeout.as_ref());
    let fault = raw
        .fault
        .as_ref()
        .map(|fault| fault.get_ref().compile(fault.span(), diagnostics));
    let mirrors = raw
        .mirror
        .as_ref()
        .map(|mirrors| mirror::compile(mirrors, known, diagnostics));
    let timeout = aggregate_timeout.or(raw.timeout.as_ref());
    let timeouts = diagnostics.timeouts(timeout, retry.as_ref().and_then(Option::as_ref));
    let action = action(&name, place, &raw, whole, rules.as_deref(), known, diagnostics);
    let rules = rules?;
    let rewrite = raw
        .rewrite
        .as_ref()
        .map(|rewrite| rewrite.get_ref().compile(&rules, diagnostics));
    let cors = raw.cors.as_ref().map(|cors| cors.compile(&rules, diagnostics));
    let headers = raw.headers.unwrap_or_default();
    let request_edits = headers.request.compile(&rules, diagnostics);
    let response_edits = headers.response.compile(&rules, diagnostics);
    let (request_edits, response_edits) = (request_edits?, response_edits?);
    let action = action?;
    let texts = template_texts(&headers, raw.split.as_ref(), raw.aggregate.as_deref());
    let limits = transpose(limits)?;
    // Whichever upstream it will be: there are few such references, and noting one costs little.
    let hashed = known
        .hashes
        .iter()
        .filter(|_| matches!(action, Action::Forward(_) | Action::Aggregate(_)));
    let counted = limits
        .iter()
        .flat_map(|limits| &limits.list)
        .filter_map(|limit| limit.by.as_ref());
    let references = check_references(
        &texts,
        [&request_edits, &response_edits],
        counted.chain(hashed),
        &action,
        auth.as_ref().map(Option::as_ref),
        known,
        diagnostics,
    )?;
    let policy = Policy {
        auth: auth?,
        require: require?,
        cors: transpose(cors)?.map(Box::new),
        concurrency: transpose(concurrency)?,
        limits,
        fault: transpose(fault)?.map(Box::new),
        mirrors: transpose(mirrors)?.unwrap_or_default(),
        body: transpose(body)?.map(Box::new),
        answers: transpose(answers)?.map(Box::new),
        max_body: transpose(max_body)?,
        action,
        rewrite: transpose(rewrite)?.unwrap_or_default(),
        request_edits,
        response_edits,
        timeouts: timeouts?,
        retry: transpose(retry)?,
        references,
    };
    (!rules.is_empty()).then(|| Route {
        name: name.into(),
        rules,
        policy,
    })
}

/// Keys that would have no effect beside what the route does.
fn refuse_idle(raw: &raw::Route, diagnostics: &mut Diagnostics) {
    let forwards = raw.upstream.is_some() || raw.split.is_some();
    let does_something_else = raw.aggregate.is_some() || raw.redirect.is_some() || raw.respond.is_some();
    if forwards || !does_something_else {
        return;
    }
    let of_answers = |of: fn(&raw::Validate) -> Option<Range<usize>>| raw.validate.as_deref().and_then(of);
    let spans = [
        ("rewrite", raw.rewrite.as_deref().map(Spanned::span)),
        ("retry", raw.retry.as_deref().map(Spanned::span)),
        ("max_body", raw.max_body.as_ref().map(Spanned::span)),
        (
            "response_body",
            of_answers(|validate| validate.response_body.as_ref().map(Spanned::span)),
        ),
        (
            "openapi_responses",
            of_answers(|validate| validate.openapi_responses.as_ref().map(Spanned::span)),
        ),
        (
            "mirror",
            raw.mirror.as_ref().and_then(|mirror| mirror.0.first()).map(Spanned::span),
        ),
    ];
    for (key, span) in spans.into_iter().filter_map(|(key, span)| Some((key, span?))) {
        diagnostics
            .error(
                span,
                format!("`{key}` has no effect on a route without `upstream` or `split`"),
            )
            .hint("take it out");
    }
    let both = raw
        .aggregate
        .as_ref()
        .is_some_and(|aggregate| aggregate.get_ref().timeout.is_some());
    if let Some(timeout) = raw.timeout.as_ref().filter(|_| both) {
        diagnostics
            .error(timeout.span(), "the aggregate has a `timeout` of its own")
            .hint("keep one of them");
    }
}

fn requirements(raw: &raw::Route, is_anonymous: bool, diagnostics: &mut Diagnostics) -> Option<Requirements> {
    let Some(require) = &raw.require else {
        return Some(Requirements::default());
    };
    let mut whole = true;
    if is_anonymous {
        diagnostics
            .error(require.span(), "`require` asks for claims, but the route has no `auth`")
            .hint("add auth = \"NAME\"");
        whole = false;
    }
    let require = require.get_ref();
    let requirements = diagnostics.requirements(&require.scopes, &require.claims);
    requirements.filter(|_| whole)
}

/// What the route does: one thing.
fn action(
    name: &str,
    place: Range<usize>,
    raw: &raw::Route,
    whole: bool,
    rules: Option<&[Rule]>,
    known: &Known,
    diagnostics: &mut Diagnostics,
) -> Option<Action> {
    let spans: Vec<Range<usize>> = [
        raw.upstream.as_ref().map(Spanned::span),
        raw.split.as_ref().map(Spanned::span),
        raw.aggregate.as_deref().map(Spanned::span),
        raw.redirect.as_deref().map(Spanned::span),
        raw.respond.as_deref().map(Spanned::span),
    ]
    .into_iter()
    .flatten()
    .collect();
    const ONE_OF: &str = "`upstream`, `split`, `aggregate`, `redirect` and `respond`";
    if spans.is_empty() && whole {
        let error = diagnostics.error(place, format!("route `{name}` does nothing"));
        error.hint(format!("add one of {ONE_OF}"));
    }
    if let [_, second, ..] = spans.as_slice() {
        let error = diagnostics.error(second.clone(), format!("route `{name}` does two things"));
        error.hint(format!("keep one of {ONE_OF}"));
        return None;
    }
    if let Some(upstream) = &raw.upstream {
        return known.upstream(upstream, diagnostics).map(Backends::only).map(Action::Forward);
    }
    if let Some(respond) = &raw.respond {
        return respond.get_ref().compile(diagnostics).map(Action::Respond);
    }
    // These have templates, which need the rules.
    let rules = rules?;
    if let Some(split) = &raw.split {
        return backends(split, rules, known, diagnostics).map(Action::Forward);
    }
    if let Some(redirect) = &raw.redirect {
        return redirect.get_ref().compile(rules, diagnostics).map(Action::Redirect);
    }
    let aggregate = raw.aggregate.as_ref()?;
    aggregate::compile(aggregate, rules, known, diagnostics).map(Action::Aggregate)
}

/// The shares of a split, with their edits.
fn backends(
    split: &Spanned<Vec<Spanned<Share>>>,
    rules: &[Rule],
    known: &Known,
    diagnostics: &mut Diagnostics,
) -> Option<Backends> {
    let shares = diagnostics.split(split, known.upstreams.iter().map(String::as_str));
    let edits = |share: &Spanned<Share>| {
        let headers = &share.get_ref().headers;
        let request = headers.request.compile(rules, diagnostics);
        request.zip(headers.response.compile(rules, diagnostics))
    };
    let edits: Vec<_> = split.get_ref().iter().map(edits).collect();
    let (shares, edits) = (shares?, edits.into_iter().collect::<Option<Vec<_>>>()?);
    let backend = |((upstream, _), (request_edits, response_edits)): (&(usize, u32), _)| {
        Some(Backend {
            upstream: u32::try_from(*upstream).ok().map(UpstreamId)?,
            request_edits,
            response_edits,
        })
    };
    Some(Backends {
        list: shares.iter().zip(edits).map(backend).collect::<Option<_>>()?,
        split: Split::new(shares.iter().map(|(_, weight)| *weight).enumerate()),
    })
}

/// Checks that claims are known where templates refer to them, and lists what has to be noted while the request's head is there.
fn check_references<'r>(
    texts: &[&Spanned<String>],
    edits: [&'r HeaderEdits; 2],
    counted: impl Iterator<Item = &'r Reference>,
    action: &'r Action,
    auth: Option<Option<&AuthRule>>,
    known: &Known,
    diagnostics: &mut Diagnostics,
) -> Option<Vec<Reference>> {
    let branches: &'r [Branch] = match action {
        Action::Aggregate(aggregate) => &aggregate.branches,
        _ => &[],
    };
    let backends: &'r [Backend] = match action {
        Action::Forward(backends) => &backends.list,
        _ => &[],
    };
    let of_backends = backends
        .iter()
        .flat_map(|backend| [&backend.request_edits, &backend.response_edits]);
    let of_branches = branches.iter().flat_map(|branch| branch.path.references());
    let mut noted: Vec<Reference> = Vec::new();
    let mut whole = true;
    for reference in edits
        .into_iter()
        .chain(of_backends)
        .flat_map(references)
        .chain(of_branches)
        .chain(counted)
    {
        match reference {
            Reference::Claim(_) | Reference::ApiKeyName if !is_said(reference, auth, known) => {
                let written = reference.to_string();
                let place = texts
                    .iter()
                    .find(|text| text.get_ref().contains(&written))
                    .map(|text| text.span());
                let (message, hint) = match reference {
                    Reference::Claim(_) => ("needs a verified caller, but the route has no `auth`", "add auth = \"NAME\""),
                    _ => (
                        "needs an API key, but the route's `auth` asks for none",
                        "add an [auth] with kind = \"api-key\" to the route's `auth`",
                    ),
                };
                diagnostics
                    .error(place.unwrap_or_default(), format!("{reference} {message}"))
                    .hint(hint);
                whole = false;
            }
            Reference::Param(_) | Reference::Header(_) | Reference::Cookie(_) | Reference::ClientIp
                if !noted.contains(reference) =>
            {
                noted.push(reference.clone());
            }
            _ => {}
        }
    }
    whole.then_some(noted)
}

/// Whether the route's callers may have what is referred to. Where its `auth` has a mistake, nothing more is said of it.
fn is_said(reference: &Reference, auth: Option<Option<&AuthRule>>, known: &Known) -> bool {
    match (auth, reference) {
        (None, _) => true,
        (Some(None), _) => false,
        (Some(Some(rule)), Reference::ApiKeyName) => {
            let is_key = |&at: &usize| known.auths.get(at).is_some_and(|auth| auth.is_api_key);
            rule.methods.iter().any(is_key)
        }
        (Some(Some(_)), _) => true,
    }
}

/// The texts of a route that are templates.
fn template_texts<'r>(
    headers: &'r Headers,
    split: Option<&'r Spanned<Vec<Spanned<Share>>>>,
    aggregate: Option<&'r Spanned<raw::Aggregate>>,
) -> Vec<&'r Spanned<String>> {
    let of_shares = split
        .into_iter()
        .flat_map(|split| split.get_ref())
        .map(|share| &share.get_ref().headers);
    let edits = [headers]
        .into_iter()
        .chain(of_shares)
        .flat_map(|headers| [&headers.request, &headers.response]);
    let fields = edits.flat_map(|edits| edits.set.values().chain(edits.add.values()));
    let branches = aggregate
        .into_iter()
        .flat_map(|aggregate| aggregate.get_ref().branches.get_ref());
    fields.chain(branches.map(|branch| &branch.get_ref().path)).collect()
}

/// None where there was something and it had a mistake.
pub(super) fn transpose<T>(value: Option<Option<T>>) -> Option<Option<T>> {
    match value {
        Some(None) => None,
        Some(some) => Some(some),
        None => Some(None),
    }
}

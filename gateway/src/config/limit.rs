//! `rate_limit`.

use std::time::Duration;

use routing::config::{Diagnostics, OneOrMany, Period, Spanned, nearest, show_duration};
use routing::filter::{Reference, Template};
use routing::policy::{Kept, Rate};
use serde::Deserialize;

use super::settings::WhenDown;
use crate::limit::{Limit, Limits};

/// One `rate_limit`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLimit {
    limit: Spanned<u32>,
    window: Spanned<Period>,
    key: Option<Spanned<String>>,
    burst: Option<Spanned<u32>>,
    name: Option<Spanned<String>>,
    shared: Option<Spanned<bool>>,
}

/// Nobody has asked for more yet; and twice as many still fit into the arithmetic.
const MAX: u32 = 1_000_000;

/// The most limits of one route: each is a look into a table, and an item in two fields of every answer.
const MAX_LIMITS: usize = 8;

const KEYS: [&str; 5] = ["client.ip", "claim.NAME", "header.NAME", "api-key", "route"];

/// The names that a limit's quotas are known by.
pub(super) struct Place<'a> {
    pub(super) gateway: &'a str,
    pub(super) route: &'a str,
    /// What becomes of them where their store does not answer; none where there is no store.
    pub(super) store: Option<WhenDown>,
    /// Whether a request that gets past the route's `auth` says this of its caller.
    pub(super) says: &'a dyn Fn(&Reference) -> bool,
}

/// Compiles the limits of a route. None where one of them has a mistake.
pub(super) fn compile(raw: &OneOrMany<RawLimit>, place: &Place<'_>, diagnostics: &mut Diagnostics) -> Option<Limits> {
    if let Some(surplus) = raw.0.get(MAX_LIMITS) {
        diagnostics.error(surplus.span(), format!("a route has at most {MAX_LIMITS} rate limits"));
        return None;
    }
    let mut list: Vec<Option<Limit>> = Vec::with_capacity(raw.0.len());
    for one in &raw.0 {
        let compiled = compile_one(one.get_ref(), place, diagnostics);
        if let Some(limit) = &compiled
            && list.iter().flatten().any(|other| other.name == limit.name)
        {
            let error = diagnostics.error(
                one.span(),
                format!("a second rate limit of the route is called `{}`", limit.name),
            );
            error.hint("give it another: name = \"…\"");
            return None;
        }
        list.push(compiled);
    }
    Limits::new(list.into_iter().collect::<Option<_>>()?)
}

fn compile_one(raw: &RawLimit, place: &Place<'_>, diagnostics: &mut Diagnostics) -> Option<Limit> {
    let limit = diagnostics.number("`limit`", &raw.limit, 1..=MAX);
    let day = Duration::from_secs(24 * 3600);
    let window = diagnostics.duration("`window`", &raw.window, Duration::from_millis(1)..=day);
    let burst = match &raw.burst {
        Some(burst) => diagnostics.number("`burst`", burst, 1..=MAX),
        None => limit,
    };
    let by = raw
        .key
        .as_ref()
        .map_or(Some(None), |key| compile_key(key, place, diagnostics));
    let kept = kept(raw.shared.as_ref(), place.store, diagnostics);
    let (limit, window, burst, by, kept) = (limit?, window?, burst?, by?, kept?);
    let name = match &raw.name {
        Some(name) => is_name(name, diagnostics).then(|| name.get_ref().clone())?,
        None => format!("{limit}-per-{}", show_duration(window)),
    };
    let rate = Rate::new(limit, window, burst);
    if rate.is_none() {
        diagnostics.error(
            raw.limit.span(),
            format!("{limit} in {} is more than can be counted", show_duration(window)),
        );
    }
    Some(Limit {
        id: Limit::id(
            place.gateway,
            place.route,
            [&name, &format!("{limit} {window:?} {burst} {by:?}")],
        ),
        name,
        limit,
        window,
        rate: rate?,
        by,
        kept,
    })
}

/// Where its quotas are kept: in the store, where there is one and the limit does not say otherwise.
fn kept(shared: Option<&Spanned<bool>>, store: Option<WhenDown>, diagnostics: &mut Diagnostics) -> Option<Kept> {
    match (shared.map(Spanned::get_ref), store) {
        (Some(false), _) | (None, None) => Some(Kept::Here),
        (_, Some(when_down)) => Some(Kept::Shared {
            or_here: when_down == WhenDown::Local,
        }),
        (Some(true), None) => {
            let place = shared.map(Spanned::span).unwrap_or_default();
            let error = diagnostics.error(place, "`shared` needs a store that the gateways share");
            error.hint("name one: [gateway] quotas = { redis = \"redis://HOST:6379\" }");
            None
        }
    }
}

/// What a limit counts by: a reference without its braces, or `route`, which is none.
fn compile_key(key: &Spanned<String>, place: &Place<'_>, diagnostics: &mut Diagnostics) -> Option<Option<Reference>> {
    let text = key.get_ref().as_str();
    if text == "route" {
        return Some(None);
    }
    if text == "api-key" {
        let is_asked = (place.says)(&Reference::ApiKeyName);
        if !is_asked {
            let error = diagnostics.error(key.span(), "`api-key` needs an API key, but the route's `auth` asks for none");
            error.hint("add an [auth] with kind = \"api-key\" to the route's `auth`");
        }
        return is_asked.then_some(Some(Reference::ApiKeyName));
    }
    let template = Template::parse(&format!("{{{text}}}")).ok();
    match template.as_ref().and_then(|template| template.references().next()) {
        Some(by @ Reference::Claim(_)) if !(place.says)(by) => {
            let message = format!("`{text}` needs a verified caller, but the route has no `auth`");
            let error = diagnostics.error(key.span(), message);
            error.hint("add auth = \"NAME\", or count by \"client.ip\"");
            None
        }
        Some(by @ (Reference::Claim(_) | Reference::Header(_) | Reference::ClientIp)) => Some(Some(by.clone())),
        _ => {
            let error = diagnostics.error(key.span(), format!("`{text}` is nothing that a limit can count by"));
            error.hint(match nearest(text, KEYS) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known here: {}", KEYS.join(", ")),
            });
            None
        }
    }
}

/// It stands between quotes in a header field (RFC 9651 §3.3.3).
fn is_name(name: &Spanned<String>, diagnostics: &mut Diagnostics) -> bool {
    let text = name.get_ref();
    let fits = (1..=64).contains(&text.len())
        && text
            .bytes()
            .all(|byte| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\'));
    if !fits {
        let error = diagnostics.error(name.span(), format!("`{text}` is not a name that a rate limit can have"));
        error.hint("1 to 64 printable characters of ASCII without quotes and backslashes, as in \"per-minute\"");
    }
    fits
}

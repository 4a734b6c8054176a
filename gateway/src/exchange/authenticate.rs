//! Who sends a request: the methods that its route names, in their order.
//!
//! Any of them, or all: the first of the list that the request satisfies says who the caller is. Where none is satisfied, the refusal is
//! that of the method that came farthest.

use std::borrow::Cow;
use std::sync::Arc;

use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use routing::matching::View;
use routing::{Fields, Moment, Now, Reason};

use super::problem::Problem;
use super::request::Request;
use super::{Arrival, Edit, Fetch, KeySetId, Keys, RouteId, Step};
use crate::auth::api_key::{ApiKeys, Place, Presented, without_parameter};
use crate::auth::jwt::{Held, Jwt, KeySource, Looked, Refusal, Unverified};
use crate::config::{Auth, Method};
use crate::{Gateway, Memory};

/// What came of looking at a request's credentials.
pub(super) enum Authenticated {
    /// It is clear who the caller is, or the route does not ask.
    Known,
    /// Something has to be done first.
    Waits(Box<Checking>, Step),
    /// Nobody who may be believed.
    Refused(Problem),
}

/// Credentials that are being checked: the tokens among them, since keys are known at once.
#[derive(Debug)]
pub(super) struct Checking {
    credentials: Credentials<'static>,
    progress: Progress,
    waits: Waits,
}

/// What has to be told before the checks can go on.
#[derive(Debug)]
enum Waits {
    /// Whether this token's signature is right.
    Signature(Unverified),
    /// The keys of the issuer.
    Keys(KeySetId),
}

/// The credentials of a request.
#[derive(Debug)]
struct Credentials<'a> {
    bearer: Bearer<'a>,
    /// The API key for each of the route's methods that wants one, in their order.
    api_keys: Vec<Presented>,
}

#[derive(Debug)]
enum Bearer<'a> {
    Missing,
    Twice,
    Token(Cow<'a, [u8]>),
}

/// How far the checks came.
#[derive(Debug, Default)]
struct Progress {
    /// The method that is being tried, as a place among the route's.
    at: usize,
    /// How many of the methods before it want an API key.
    api_keys: usize,
    /// What was done for the method's keys.
    fetched: Fetched,
    /// The best refusal so far.
    refused: Option<Refused>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Fetched {
    #[default]
    Nothing,
    /// The driver told what it has.
    Asked,
    /// It was asked for a newer set.
    Anew,
}

/// A method that was not satisfied.
#[derive(Debug)]
struct Refused {
    rank: Rank,
    problem: Problem,
}

/// How far a method came before it was not satisfied: the later, the more its refusal tells the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Missing,
    Invalid,
    Expired,
    Unavailable,
}

/// What came of one method.
enum Tried {
    Satisfied,
    Refused(Refused),
    Waits(Waits, Step),
}

/// Looks at the credentials of a request that has just arrived.
pub(super) fn authenticate(
    request: &mut Request,
    memory: &mut Memory,
    arrival: &Arrival<'_>,
    view: &View<'_>,
) -> Authenticated {
    let gateway = Arc::clone(&request.gateway);
    let Some(methods) = methods(&gateway, request.route) else {
        return Authenticated::Known;
    };
    let keys = methods.filter_map(|auth| match &auth.method {
        Method::ApiKey(keys) => Some(keys),
        Method::Jwt(_) => None,
    });
    let mut api_keys = Vec::new();
    for keys in keys {
        let presented = keys.judge(arrival.head.fields, view.query);
        if matches!(presented, Presented::Known(_)) {
            hide(keys, request, arrival);
        }
        api_keys.push(presented);
    }
    let credentials = Credentials {
        bearer: bearer(arrival.head.fields),
        api_keys,
    };
    go_on(credentials, Progress::default(), request, memory, arrival.now)
}

/// Goes on when a token's signature was checked.
pub(super) fn verified(checking: Checking, right: bool, request: &mut Request, memory: &mut Memory, now: Now) -> Authenticated {
    let gateway = Arc::clone(&request.gateway);
    let Checking {
        credentials,
        progress,
        waits: Waits::Signature(token),
    } = checking
    else {
        return Authenticated::Refused(lost());
    };
    let auth = methods(&gateway, request.route).and_then(|mut methods| methods.nth(progress.at));
    let Some(
        auth @ Auth {
            method: Method::Jwt(jwt),
            ..
        },
    ) = auth
    else {
        return Authenticated::Refused(lost());
    };
    let tried = match jwt.judge(token, right, &mut memory.verdicts, now.unix) {
        Ok(claims) => {
            request.claims.get_or_insert(claims);
            Tried::Satisfied
        }
        Err(refusal) => Tried::Refused(refused(auth, refusal)),
    };
    match after(tried, &gateway, progress, request) {
        After::Next(progress) => go_on(credentials, progress, request, memory, now),
        After::Over(authenticated) => authenticated,
        After::Waits(..) => Authenticated::Refused(lost()),
    }
}

/// Goes on when a driver told which keys an issuer has.
pub(super) fn keys(checking: Checking, keys: &Keys, request: &mut Request, memory: &mut Memory, now: Now) -> Authenticated {
    let gateway = Arc::clone(&request.gateway);
    let Checking {
        credentials,
        progress,
        waits: Waits::Keys(set),
    } = checking
    else {
        return Authenticated::Refused(lost());
    };
    let auth = methods(&gateway, request.route).and_then(|mut methods| methods.nth(progress.at));
    let Some(Auth {
        name,
        method: Method::Jwt(jwt),
    }) = auth
    else {
        return Authenticated::Refused(lost());
    };
    memory.key_sets.take(set, keys, name, &jwt.algorithms, now.moment);
    go_on(credentials, progress, request, memory, now)
}

/// Whether it is the signature of a token that is waited for.
pub(super) fn awaits_signature(checking: &Checking) -> bool {
    matches!(checking.waits, Waits::Signature(_))
}

fn methods(gateway: &Gateway, route: RouteId) -> Option<impl Iterator<Item = &Auth>> {
    let rule = gateway.route(route)?.policy.auth.as_ref()?;
    Some(rule.methods.iter().filter_map(|&at| gateway.auth(at)))
}

/// Tries one method after the other.
fn go_on(
    credentials: Credentials<'_>,
    mut progress: Progress,
    request: &mut Request,
    memory: &mut Memory,
    now: Now,
) -> Authenticated {
    let gateway = Arc::clone(&request.gateway);
    loop {
        let auth = methods(&gateway, request.route).and_then(|mut methods| methods.nth(progress.at));
        let Some(auth) = auth else {
            return Authenticated::Refused(lost());
        };
        let tried = match &auth.method {
            Method::ApiKey(keys) => {
                let presented = credentials.api_keys.get(progress.api_keys).copied();
                progress.api_keys += 1;
                try_key(auth, keys, presented.unwrap_or(Presented::Missing), request)
            }
            Method::Jwt(jwt) => match &credentials.bearer {
                Bearer::Token(token) => try_token(auth, jwt, token, &mut progress, request, memory, now),
                Bearer::Missing => Tried::Refused(missing(auth, "the request has no bearer token")),
                // Another reader of the request might take the other one.
                Bearer::Twice => Tried::Refused(Refused {
                    rank: Rank::Invalid,
                    problem: challenge(
                        auth,
                        Reason::TokenInvalid,
                        "invalid_request",
                        "more than one Authorization field",
                        None,
                    ),
                }),
            },
        };
        match after(tried, &gateway, progress, request) {
            After::Next(next) => progress = next,
            After::Over(authenticated) => return authenticated,
            After::Waits(progress, waits, step) => {
                let checking = Checking {
                    credentials: credentials.into_owned(),
                    progress,
                    waits,
                };
                return Authenticated::Waits(Box::new(checking), step);
            }
        }
    }
}

/// What follows from what came of a method.
enum After {
    /// The next one is tried.
    Next(Progress),
    Over(Authenticated),
    Waits(Progress, Waits, Step),
}

/// What follows from what came of a method: the next one, or the end.
fn after(tried: Tried, gateway: &Gateway, mut progress: Progress, request: &Request) -> After {
    let rule = gateway.route(request.route).and_then(|route| route.policy.auth.as_ref());
    let Some(rule) = rule else {
        return After::Over(Authenticated::Refused(lost()));
    };
    let is_last = progress.at + 1 >= rule.methods.len();
    match tried {
        Tried::Waits(waits, step) => return After::Waits(progress, waits, step),
        Tried::Satisfied if is_last || !rule.all => return After::Over(Authenticated::Known),
        Tried::Satisfied => {}
        Tried::Refused(refused) if rule.all => return After::Over(Authenticated::Refused(refused.problem)),
        Tried::Refused(refused) => {
            let best = match progress.refused.take() {
                Some(best) if best.rank > refused.rank => best,
                Some(best) if best.rank == refused.rank => best.with(refused),
                _ => refused,
            };
            if is_last {
                return After::Over(Authenticated::Refused(best.problem));
            }
            progress.refused = Some(best);
        }
    }
    progress.at += 1;
    progress.fetched = Fetched::Nothing;
    After::Next(progress)
}

fn try_key(auth: &Auth, keys: &ApiKeys, presented: Presented, request: &mut Request) -> Tried {
    let detail = match presented {
        Presented::Missing => return Tried::Refused(missing(auth, "the request has no API key")),
        Presented::Twice => "the request has more than one API key",
        Presented::Unknown => "the API key is not known",
        Presented::Known(at) => match keys.keys.get(at) {
            Some(key) => {
                request.api_key.get_or_insert_with(|| Arc::clone(&key.name));
                request.claims.get_or_insert_with(|| Arc::clone(&key.claims));
                return Tried::Satisfied;
            }
            None => "the API key is not known",
        },
    };
    let problem = Problem::new(Reason::ApiKeyInvalid, detail).with_field(WWW_AUTHENTICATE, &realm(auth));
    Tried::Refused(Refused {
        rank: Rank::Invalid,
        problem,
    })
}

fn try_token(
    auth: &Auth,
    jwt: &Jwt,
    token: &[u8],
    progress: &mut Progress,
    request: &mut Request,
    memory: &mut Memory,
    now: Now,
) -> Tried {
    let gateway = Arc::clone(&request.gateway);
    let held = match jwt.keys {
        KeySource::Config(_) => Held::Config(gateway.keys()),
        KeySource::Issuer(set) => {
            let here = match progress.fetched {
                Fetched::Nothing => memory.key_sets.fresh(set, now.moment),
                Fetched::Asked | Fetched::Anew => memory.key_sets.held(set),
            };
            match here {
                Some(here) => Held::Set(here),
                None if progress.fetched == Fetched::Nothing => {
                    if let Err(refusal) = jwt.may_be_ours(token) {
                        return Tried::Refused(refused(auth, refusal));
                    }
                    progress.fetched = Fetched::Asked;
                    return fetch(set, false, memory, request.deadline);
                }
                None => return Tried::Refused(unavailable()),
            }
        }
    };
    match jwt.look(token, held, &mut memory.verdicts, now.unix) {
        Ok(Looked::Known(claims)) => {
            request.claims.get_or_insert(claims);
            Tried::Satisfied
        }
        Ok(Looked::Verify(verify, token)) => Tried::Waits(Waits::Signature(token), Step::Verify(verify)),
        // The issuer may have a new key since.
        Err(Refusal::Key) if progress.fetched != Fetched::Anew && jwt.may_be_ours(token).is_ok() => match jwt.keys {
            KeySource::Issuer(set) => {
                progress.fetched = Fetched::Anew;
                fetch(set, true, memory, request.deadline)
            }
            KeySource::Config(_) => Tried::Refused(refused(auth, Refusal::Key)),
        },
        Err(refusal) => Tried::Refused(refused(auth, refusal)),
    }
}

fn fetch(set: KeySetId, anew: bool, memory: &Memory, deadline: Moment) -> Tried {
    let fetch = Fetch {
        set,
        known: memory.key_sets.held(set).map(|held| held.version),
        anew,
        deadline,
    };
    Tried::Waits(Waits::Keys(set), Step::Fetch(fetch))
}

/// The token of `Authorization: Bearer …` (RFC 6750 §2.1). Tokens in forms and queries are not looked for: they end up in logs.
fn bearer(fields: &dyn Fields) -> Bearer<'_> {
    let Some(value) = fields.nth(AUTHORIZATION.as_str(), 0) else {
        return Bearer::Missing;
    };
    if fields.nth(AUTHORIZATION.as_str(), 1).is_some() {
        return Bearer::Twice;
    }
    match value.split_at_checked("bearer ".len()) {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case(b"bearer ") && !token.trim_ascii().is_empty() => {
            Bearer::Token(Cow::Borrowed(token.trim_ascii()))
        }
        _ => Bearer::Missing,
    }
}

/// Takes a key that was right out of what goes upstream: it is between the caller and this gateway.
fn hide(keys: &ApiKeys, request: &mut Request, arrival: &Arrival<'_>) {
    match &keys.place {
        Place::Header(name) => request.edits.push(Edit::Remove(name.clone())),
        Place::Query(name) => {
            let target = request.target.as_deref().unwrap_or(arrival.head.target);
            request.target = Some(without_parameter(target, name));
        }
    }
}

fn missing(auth: &Auth, detail: &'static str) -> Refused {
    Refused {
        rank: Rank::Missing,
        problem: Problem::new(Reason::CredentialsMissing, detail).with_field(WWW_AUTHENTICATE, &realm(auth)),
    }
}

fn refused(auth: &Auth, refusal: Refusal) -> Refused {
    let (rank, reason) = match refusal {
        Refusal::Expired | Refusal::NotYet => (Rank::Expired, Reason::TokenExpired),
        _ => (Rank::Invalid, Reason::TokenInvalid),
    };
    Refused {
        rank,
        problem: challenge(auth, reason, "invalid_token", &refusal.to_string(), None),
    }
}

fn unavailable() -> Refused {
    let detail = "the keys of the token's issuer cannot be fetched at the moment";
    Refused {
        rank: Rank::Unavailable,
        problem: Problem::new(Reason::KeysUnavailable, detail),
    }
}

fn lost() -> Problem {
    Problem::new(Reason::Internal, "the route has lost its authentication")
}

/// A refusal with its challenge (RFC 6750 §3).
pub(super) fn challenge(auth: &Auth, reason: Reason, error: &str, detail: &str, scope: Option<&str>) -> Problem {
    let mut value = realm(auth);
    if matches!(auth.method, Method::Jwt(_)) {
        value.push_str(&format!(", error=\"{error}\", error_description=\"{}\"", quotable(detail)));
        if let Some(scope) = scope {
            value.push_str(&format!(", scope=\"{scope}\""));
        }
    }
    Problem::new(reason, detail.to_owned()).with_field(WWW_AUTHENTICATE, &value)
}

/// What the method wants, as a challenge (RFC 9110 §11.6.1).
fn realm(auth: &Auth) -> String {
    let scheme = match auth.method {
        Method::Jwt(_) => "Bearer",
        Method::ApiKey(_) => "ApiKey",
    };
    format!("{scheme} realm=\"{}\"", quotable(&auth.name))
}

/// A text that may stand between quotes: without the characters that RFC 6750 §3 leaves out of descriptions.
fn quotable(text: &str) -> String {
    text.chars()
        .filter(|&c| matches!(c, ' '..='~') && c != '"' && c != '\\')
        .collect()
}

impl Refused {
    /// The first of two refusals of one rank, with the challenges of both where credentials are missing: any of them would do.
    fn with(self, other: Self) -> Self {
        if self.rank != Rank::Missing {
            return self;
        }
        Self {
            problem: self
                .problem
                .with_more(&other.problem)
                .with_detail("the request has no credentials that this route accepts"),
            rank: self.rank,
        }
    }
}

impl Credentials<'_> {
    fn into_owned(self) -> Credentials<'static> {
        Credentials {
            bearer: match self.bearer {
                Bearer::Missing => Bearer::Missing,
                Bearer::Twice => Bearer::Twice,
                Bearer::Token(token) => Bearer::Token(Cow::Owned(token.into_owned())),
            },
            api_keys: self.api_keys,
        }
    }
}

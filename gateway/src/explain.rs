//! Why a request gets the answer it gets: a real exchange, told in words.

mod show;

use std::sync::Arc;

use bytes::Bytes;
use routing::matching::View;
use routing::policy::Limiter;
use serde::Serialize;

use crate::aggregate::Branch;
use crate::auth::api_key::Presented;
use crate::config::{Action, Auth, Method, Policy, describe, policies};
use crate::exchange::{
    Answer, Arrival, Attempt, BodyRead, Edit, Event, Exchange, Fetch, Inherit, Keys, Respond, Step, Verify, VerifyKey,
};
use crate::keys::Published;
use crate::{Gateway, Memory, Route};

/// What `explain` is asked.
pub struct Question<'a> {
    /// The request. Its `has_body` should say whether there is a `body`.
    pub arrival: Arrival<'a>,
    /// Its body.
    pub body: Option<Bytes>,
    /// The JWK set that an issuer publishes, where it can be had.
    pub key_set: &'a dyn Fn(&Published) -> Option<Bytes>,
}

/// How a request is decided, in the order of the decisions. `Display` is for people, `Serialize` for programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Explanation {
    /// The method.
    pub method: String,
    /// The host that routes were matched against; empty where there was none.
    pub host: String,
    /// The path that routes were matched against, in its one spelling; none where it is malformed.
    pub path: Option<String>,
    /// The rules that were looked at, the best first; those that match first among them.
    pub candidates: Vec<Candidate>,
    /// Whom the route believes, and what came of that; nothing where anybody may use it.
    pub auth: Vec<AuthResult>,
    /// The policies of the route that takes it, in words. Quotas are taken to be whole: what is left of them is known where they are kept.
    pub policies: Vec<String>,
    /// Whether the body was read.
    pub body_read: bool,
    /// What the gateway does.
    pub outcome: Outcome,
}

/// A rule, and why it takes the request or does not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Candidate {
    /// The route's name.
    pub route: String,
    /// Its path.
    pub path: String,
    /// What does not match; nothing where it matches.
    pub mismatches: Vec<String>,
    /// Whether it takes the request.
    pub chosen: bool,
}

/// What came of one method to know the caller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AuthResult {
    /// The `[auth]`.
    pub auth: String,
    /// The algorithm that the signature was checked with; none where it did not come to that.
    pub algorithm: Option<String>,
    /// The `kid` of the key, where it has one.
    pub key: Option<String>,
    /// Whether the signature is right; none where it was not checked.
    pub signature: Option<bool>,
    /// What the request's API key is, in words; none where the method wants a token.
    pub api_key: Option<String>,
    /// Where the issuer's keys were fetched from, and whether that succeeded; none where they were not needed.
    pub fetched: Option<(String, bool)>,
}

/// What the gateway does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It sends these attempts. More may follow from their answers.
    Send {
        /// The route.
        route: String,
        /// What the route does.
        action: String,
        /// The attempts.
        attempts: Vec<ExplainedAttempt>,
        /// The branches of an aggregate that wait for others, and for which.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        waiting: Vec<String>,
    },
    /// It answers itself.
    Respond {
        /// The route, if one matched.
        route: Option<String>,
        /// The status code.
        status: u16,
        /// The label of the reason; none where the answer is the route's purpose.
        reason: Option<String>,
        /// The header fields.
        fields: Vec<(String, String)>,
        /// The body.
        body: String,
    },
}

/// One attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExplainedAttempt {
    /// The upstream.
    pub upstream: String,
    /// The method.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// The host, where it is not the endpoint's own.
    pub host: Option<String>,
    /// Whether the request's own header fields are sent along.
    pub inherits: bool,
    /// Edits of the request's header fields, in order.
    pub request_edits: Vec<String>,
    /// Edits of the answer's header fields, in order.
    pub response_edits: Vec<String>,
    /// The status codes after which another attempt may follow.
    pub judged: Vec<u16>,
    /// Whether it is a mirror's copy, whose answer is dropped.
    pub is_copy: bool,
    /// How long it may take, in milliseconds.
    pub timeout_ms: u64,
}

/// Drives a real exchange for this request, as far as it goes without an upstream, and tells what it decided.
#[must_use]
pub fn explain(gateway: &Arc<Gateway>, question: &Question<'_>) -> Explanation {
    let head = &question.arrival.head;
    let view = View::of(head).ok();
    let candidates = view.as_ref().map(|view| candidates(gateway, view)).unwrap_or_default();
    let chosen = chosen(gateway, &candidates);
    let mut auth = asked_auth(gateway, chosen, question, view.as_ref());
    let mut body_read = false;
    let mut memory = Memory::new(gateway);
    let now = question.arrival.now;
    let (mut exchange, mut step) = Exchange::start(gateway, &mut memory, &question.arrival);
    let outcome = loop {
        let event = match step {
            Step::Verify(verify) => Event::Verified(check(gateway, &verify, &mut auth)),
            Step::Fetch(fetch) => Event::Keys(fetched(gateway, question, fetch, &mut auth)),
            // Nobody else is there.
            Step::Enter { .. } => Event::Entered(true),
            Step::Take(takes) => {
                let whole = Limiter::new(takes.len(), 0);
                Event::Taken(whole.take_all(&takes, now.moment).into_iter().map(Some).collect())
            }
            Step::Read { limit } => {
                body_read = true;
                Event::Body(body(question, limit))
            }
            Step::Send { route, attempts } => {
                break Outcome::Send {
                    route: gateway.route(route).map(|route| route.name.to_string()).unwrap_or_default(),
                    action: gateway
                        .route(route)
                        .map(|route| describe(gateway, &route.policy))
                        .unwrap_or_default(),
                    waiting: gateway.route(route).map(|route| waiting(&route.policy)).unwrap_or_default(),
                    attempts: attempts.iter().map(|attempt| explained(gateway, question, attempt)).collect(),
                };
            }
            Step::Respond(answer) => break responded(gateway, answer),
            // Only attempts lead to these.
            Step::Wait { .. } | Step::Pending | Step::Forward { .. } => Event::Time,
        };
        let Some(exchange) = exchange.as_mut() else {
            unreachable!("an exchange that asks for something is there to be told")
        };
        step = exchange.on(&mut memory, event, now);
    };
    Explanation {
        method: head.method.to_owned(),
        host: view.as_ref().map(|view| view.host.to_string()).unwrap_or_default(),
        path: view.map(|view| view.path.into_owned()),
        candidates,
        auth,
        policies: chosen.map(|route| policies(gateway, &route.policy)).unwrap_or_default(),
        body_read,
        outcome,
    }
}

fn candidates(gateway: &Gateway, view: &View<'_>) -> Vec<Candidate> {
    let table = gateway.table();
    let told = |candidate: routing::table::Candidate| Candidate {
        route: table.routes()[candidate.id.route as usize].name.to_string(),
        path: table.rule(candidate.id).path.to_string(),
        mismatches: candidate.mismatches.iter().map(ToString::to_string).collect(),
        chosen: candidate.chosen,
    };
    table.explain(view).into_iter().map(told).collect()
}

fn chosen<'g>(gateway: &'g Gateway, candidates: &[Candidate]) -> Option<&'g Route> {
    let chosen = candidates.iter().find(|candidate| candidate.chosen)?;
    gateway.routes().iter().find(|route| *route.name == *chosen.route)
}

fn asked_auth(gateway: &Gateway, route: Option<&Route>, question: &Question<'_>, view: Option<&View<'_>>) -> Vec<AuthResult> {
    let Some(rule) = route.and_then(|route| route.policy.auth.as_ref()) else {
        return Vec::new();
    };
    let result = |auth: &Auth| AuthResult {
        auth: auth.name.clone(),
        algorithm: None,
        key: None,
        signature: None,
        api_key: match &auth.method {
            Method::Jwt(_) => None,
            Method::ApiKey(keys) => {
                let presented = keys.judge(question.arrival.head.fields, view.and_then(|view| view.query));
                Some(match presented {
                    Presented::Missing => "there is no API key".to_owned(),
                    Presented::Twice => "there is more than one API key".to_owned(),
                    Presented::Unknown => "the API key is not known".to_owned(),
                    Presented::Known(at) => format!("the API key is `{}`'s", keys.keys[at].name),
                })
            }
        },
        fetched: None,
    };
    rule.methods.iter().filter_map(|&at| gateway.auth(at)).map(result).collect()
}

fn check(gateway: &Gateway, verify: &Verify, auths: &mut [AuthResult]) -> bool {
    let right = gateway.verify(verify);
    let (name, key) = match &verify.key {
        VerifyKey::Known(id) => {
            let key = usize::try_from(id.0).ok().and_then(|at| gateway.keys().get(at));
            (key.map(|key| key.auth.clone()), key.and_then(|key| key.id.clone()))
        }
        VerifyKey::Fetched { auth, jwk } => {
            let auth = usize::try_from(*auth).ok().and_then(|at| gateway.auth(at));
            let jwk: Option<serde_json::Value> = serde_json::from_str(jwk).ok();
            let id = jwk.as_ref().and_then(|jwk| jwk["kid"].as_str().map(str::to_owned));
            (auth.map(|auth| auth.name.clone()), id)
        }
    };
    if let Some(auth) = auths.iter_mut().find(|auth| name.as_ref() == Some(&auth.auth)) {
        auth.algorithm = Some(format!("{:?}", verify.algorithm));
        auth.key = key;
        auth.signature = Some(right);
    }
    right
}

fn fetched(gateway: &Gateway, question: &Question<'_>, fetch: Fetch, auths: &mut [AuthResult]) -> Keys {
    let published = usize::try_from(fetch.set.0).ok().and_then(|at| gateway.key_sets().get(at));
    let Some(published) = published else {
        return Keys::Unavailable;
    };
    let set = (question.key_set)(published).filter(|set| published.check(set).is_ok());
    if let Some(auth) = auths.iter_mut().find(|auth| auth.auth == published.auth) {
        auth.fetched = Some((published.location.to_string(), set.is_some()));
    }
    match set {
        Some(set) if fetch.known == Some(crate::keys::version(&set)) => Keys::Unchanged,
        Some(set) => Keys::Set(set),
        None => Keys::Unavailable,
    }
}

fn body(question: &Question<'_>, limit: u64) -> BodyRead {
    let body = question.body.clone().unwrap_or_default();
    if u64::try_from(body.len()).unwrap_or(u64::MAX) > limit {
        BodyRead::TooLarge
    } else {
        BodyRead::Whole(body)
    }
}

fn explained(gateway: &Gateway, question: &Question<'_>, attempt: &Attempt) -> ExplainedAttempt {
    let head = &question.arrival.head;
    let (response_edits, judged) = match &attempt.answer {
        Answer::Forward { edits, judge, .. } => (edits.as_slice(), judge.clone()),
        Answer::Read { .. } | Answer::Discard => (&[][..], Vec::new()),
    };
    let is_copy = attempt.answer == Answer::Discard;
    let timeout = attempt.deadline.since(question.arrival.now.moment);
    ExplainedAttempt {
        upstream: gateway
            .upstream(attempt.upstream)
            .map(|upstream| upstream.name.to_string())
            .unwrap_or_default(),
        method: attempt
            .method
            .as_ref()
            .map_or(head.method, |method| method.as_str())
            .to_owned(),
        target: attempt.target.clone().unwrap_or_else(|| head.target.to_owned()),
        host: attempt.host.as_ref().map(|host| lossy(host.as_bytes())),
        inherits: attempt.inherit == Inherit::Request,
        request_edits: attempt.edits.iter().map(told).collect(),
        response_edits: response_edits.iter().map(told).collect(),
        judged,
        is_copy,
        timeout_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
    }
}

fn waiting(policy: &Policy) -> Vec<String> {
    let Action::Aggregate(aggregate) = &policy.action else {
        return Vec::new();
    };
    let name = |&at: &usize| aggregate.branches.get(at).map(|branch| format!("`{}`", branch.name));
    let told = |branch: &Branch| {
        let needs: Vec<String> = branch.needs.iter().filter_map(name).collect();
        let each = if branch.for_each.is_some() {
            ", once for each item"
        } else {
            ""
        };
        (!needs.is_empty()).then(|| format!("`{}` waits for {}{each}", branch.name, needs.join(" and ")))
    };
    aggregate.branches.iter().filter_map(told).collect()
}

fn told(edit: &Edit) -> String {
    match edit {
        Edit::Set(name, value) => format!("set {name}: {}", lossy(value.as_bytes())),
        Edit::Add(name, value) => format!("add {name}: {}", lossy(value.as_bytes())),
        Edit::Remove(name) => format!("remove {name}"),
    }
}

fn responded(gateway: &Gateway, answer: Respond) -> Outcome {
    Outcome::Respond {
        route: answer
            .route
            .and_then(|route| gateway.route(route))
            .map(|route| route.name.to_string()),
        status: answer.status,
        reason: answer.reason.map(|reason| reason.label().to_owned()),
        fields: answer
            .fields
            .iter()
            .map(|(name, value)| (name.as_str().to_owned(), lossy(value.as_bytes())))
            .collect(),
        body: lossy(&answer.body),
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

//! The order in which a request is decided, told once. Each step has the reason for its place.

use std::sync::Arc;

use http::header::{ALLOW, LOCATION};
use http::{HeaderMap, HeaderValue, Method};
use routing::filter::{FixedAnswer, Reference};
use routing::matching::{View, ViewError};
use routing::table::{Find, Found};
use routing::{Now, Reason};

use super::authenticate::{Authenticated, authenticate, challenge};
use super::forward::{Forwarded, Forwarding};
use super::gather::{self, Gathering};
use super::made::Made;
use super::problem::Problem;
use super::request::{Request, Turn, known};
use super::{
    Arrival, BodyRead, Edit, Exchange, Respond, RouteId, Stage, Step, Told, cors, fault, forwarded, limit, names, trace,
};
use crate::auth::Missing;
use crate::config::{Action, Policy};
use crate::validate::{BodyRefusal, BodyRules, Head, HeadRefusal, is_coded, said_length};
use crate::{Gateway, Memory};

/// How far a request came.
pub(super) enum Progress {
    /// A step after which something will be told.
    Going(Stage, Step),
    /// The last step.
    Over(Step),
}

/// Decides as far as the head allows.
pub(super) fn arrive(gateway: &Arc<Gateway>, memory: &mut Memory, arrival: &Arrival<'_>) -> (Option<Exchange>, Step) {
    // The id comes first, so that every answer has one.
    let mut made = Made::default();
    let request_id = trace::request_id(arrival.head.fields, &arrival.entropy, &mut made);
    let refuse = |problem: Problem| (None, Step::Respond(problem.answer(None, &request_id)));

    // What is too long to be a request is not taken apart.
    let longest = gateway.settings().max_uri;
    if arrival.head.target.len() > longest {
        let detail = format!("path and query are longer than {longest} bytes");
        return refuse(Problem::new(Reason::UriTooLong, detail));
    }

    // The path is brought into its one spelling before anything looks at it: what policies judge is what the upstream gets.
    let view = match View::of(&arrival.head) {
        Ok(view) => view,
        Err(error @ ViewError::Path(_)) => return refuse(Problem::new(Reason::BadPath, error.to_string())),
        Err(error) => return refuse(Problem::new(Reason::MalformedRequest, error.to_string())),
    };
    let Ok(method) = Method::from_bytes(arrival.head.method.as_bytes()) else {
        return refuse(Problem::new(Reason::MalformedRequest, "the method is not a method"));
    };

    // A browser's question about a request is the business of the route of that request. It comes before anything else, since it
    // never carries credentials.
    if let Some(answer) = cors::preflight(gateway, &view, &request_id) {
        return (None, Step::Respond(answer));
    }

    // Then the route, since every further decision is the route's.
    let found = match gateway.find(&view) {
        Find::Found(found) => found,
        Find::MethodNotAllowed { allow } => {
            let allow: Vec<_> = allow.into_iter().map(Method::as_str).collect();
            let problem = Problem::new(
                Reason::MethodNotAllowed,
                format!("{method} is not among the methods of this path"),
            );
            return refuse(problem.with_field(ALLOW, &allow.join(", ")));
        }
        Find::NotFound => {
            return refuse(Problem::new(
                Reason::RouteNotFound,
                "no route matches host, path and conditions",
            ));
        }
    };
    let policy = &found.route.policy;
    let edits = first_edits(gateway, policy, arrival, &request_id, &mut memory.told, &mut made);
    // On the heap from here on: most exchanges have steps to come, and are handed on.
    let mut request = Box::new(note(gateway, arrival, &view, &found, method, request_id, edits));

    // Who sends it comes before anything that costs, and before anything that tells a stranger about the route. That holds for
    // redirects and fixed answers too: a route that asks for a token gives nothing without one.
    let checked = authenticate(&mut request, memory, arrival, &view);
    // Judged while the head is there, told when it is clear that the caller may hear it. Strangers are not worth the work.
    if !matches!(checked, Authenticated::Refused(_)) {
        judge_head(&mut request, arrival, &view);
    }
    let progress = checked_so_far(checked, &mut request, memory, arrival.now);
    match progress {
        Progress::Going(stage, step) => (Some(Exchange { request, stage }), step),
        Progress::Over(step) => (None, step),
    }
}

/// Goes on when something of the credentials was checked.
pub(super) fn checked_so_far(checked: Authenticated, request: &mut Request, memory: &mut Memory, now: Now) -> Progress {
    match checked {
        Authenticated::Known => authenticated(request, memory, now),
        Authenticated::Waits(checking, step) => Progress::Going(Stage::Credentials(checking), step),
        Authenticated::Refused(problem) => Progress::Over(request.refuse(problem)),
    }
}

/// Goes on when it is clear who sends the request.
fn authenticated(request: &mut Request, memory: &mut Memory, now: Now) -> Progress {
    // What the caller may do is asked before what the request says, so that no body is read for those who may not send it.
    if let Err(problem) = authorise(request) {
        return Progress::Over(request.refuse(problem));
    }
    // How much comes from them, before anything that costs.
    limit::enter(request, memory, now)
}

/// Goes on when the request is one of those that may come.
pub(super) fn admitted(request: &mut Request, memory: &mut Memory, now: Now) -> Progress {
    // What the head says, before the body is read.
    if let Some(problem) = request.head_refusal.take() {
        return Progress::Over(request.refuse(problem));
    }
    match &request.policy().body {
        Some(rules) if request.has_body && rules.reads(request.chosen) => {
            Progress::Going(Stage::Body, Step::Read { limit: rules.max_body })
        }
        _ => fault::delay(request, memory, now),
    }
}

/// Goes on when the body was read.
pub(super) fn read(request: &mut Request, memory: &mut Memory, body: &BodyRead, now: Now) -> Progress {
    let judged = match (body, &request.policy().body) {
        (BodyRead::Whole(body), Some(rules)) => match (&rules.description, request.chosen) {
            (Some(description), Some(chosen)) => description.judge_body(chosen, body).map_err(invalid),
            _ => rules.judge(body).map_err(invalid),
        },
        (BodyRead::Whole(_), None) => Ok(()),
        (BodyRead::TooLarge, _) => Err(Problem::new(Reason::BodyTooLarge, body_detail(Reason::BodyTooLarge))),
        (BodyRead::Broken, _) => Err(Problem::new(Reason::MalformedRequest, "the body broke off")),
    };
    match judged {
        Ok(()) => {
            request.is_buffered = true;
            fault::delay(request, memory, now)
        }
        Err(problem) => Progress::Over(request.refuse(problem)),
    }
}

/// Does what the route is for.
pub(super) fn act(request: &mut Request, memory: &mut Memory, now: Now) -> Progress {
    match &request.policy().action {
        Action::Forward(_) => match Forwarding::start(request, memory, now) {
            (forwarding, Forwarded::Going(step)) => Progress::Going(Stage::Forward(forwarding), step),
            (_, Forwarded::Over(step)) => Progress::Over(step),
        },
        Action::Aggregate(_) => match Gathering::start(request, now) {
            (_, step @ Step::Respond(_)) => Progress::Over(step),
            (gathering, step) => Progress::Going(Stage::Gather(Box::new(gathering)), step),
        },
        Action::Redirect(redirect) => {
            let location = request
                .location
                .as_deref()
                .and_then(|location| HeaderValue::from_str(location).ok());
            let Some(location) = location else {
                return Progress::Over(request.refuse(Problem::new(Reason::BadPath, "the path cannot be part of a location")));
            };
            let fields = vec![(LOCATION, location)];
            Progress::Over(fixed(
                request,
                &FixedAnswer {
                    status: redirect.status,
                    fields,
                    body: bytes::Bytes::new(),
                },
            ))
        }
        Action::Respond(answer) => Progress::Over(fixed(request, answer)),
    }
}

fn fixed(request: &Request, answer: &FixedAnswer) -> Step {
    let mut fields: HeaderMap = answer.fields.iter().cloned().collect();
    request.finish(&mut fields);
    Step::Respond(Respond {
        route: Some(request.route),
        status: answer.status,
        fields,
        body: answer.body.clone(),
        reason: None,
    })
}

/// The edits that every attempt begins with: what the client may not claim, and what ties the request to others and tells where it
/// came from.
fn first_edits(
    gateway: &Gateway,
    policy: &Policy,
    arrival: &Arrival<'_>,
    request_id: &HeaderValue,
    told: &mut Told,
    made: &mut Made,
) -> Vec<Edit> {
    let head = &arrival.head;
    let trace = trace::trace(head.fields, &arrival.entropy, made);
    let mut edits = Vec::with_capacity(8);
    let identity = gateway.identity_fields();
    let claimed = identity.iter().filter(|name| head.fields.first(name.as_str()).is_some());
    edits.extend(claimed.cloned().map(Edit::Remove));
    edits.push(Edit::Set(names::REQUEST_ID, request_id.clone()));
    if matches!(policy.action, Action::Aggregate(_)) {
        gather::inherit(head, &trace, &mut edits);
    }
    trace.edit(&mut edits);
    forwarded::edit(head, &gateway.settings().trusted_proxies, told, &mut edits, made);
    edits
}

/// Notes everything that later steps need of the head.
fn note(
    gateway: &Arc<Gateway>,
    arrival: &Arrival<'_>,
    view: &View<'_>,
    found: &Found<'_, '_, Policy>,
    method: Method,
    request_id: HeaderValue,
    edits: Vec<Edit>,
) -> Request {
    let head = &arrival.head;
    let policy = &found.route.policy;
    let trusted = gateway.settings().trusted_proxies.as_slice();
    let seed = arrival.entropy.last_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    let identity = gateway.identity_fields();
    let references = &policy.references;
    let noted = match references.is_empty() {
        true => Vec::new(),
        false => {
            let said = references
                .iter()
                .filter(|of| !matches!(of, Reference::Header(name) if identity.contains(name)));
            known(said, &found.params, head.fields, forwarded::client(head, trusted))
        }
    };
    let mut request = Request {
        gateway: Arc::clone(gateway),
        route: RouteId(found.id.route),
        method,
        request_id,
        has_body: arrival.has_body,
        max_body: policy
            .max_body
            .filter(|_| arrival.has_body && said_length(head.fields).is_none()),
        is_buffered: false,
        deadline: policy.timeouts.deadline(arrival.now.moment),
        seed,
        backend: None,
        target: policy
            .rewrite
            .target(&found.params, view.query)
            .or_else(|| normalised(view, head.target)),
        location: match &policy.action {
            Action::Redirect(redirect) => Some(redirect.location(view, head, &found.params)),
            _ => None,
        },
        head_refusal: None,
        chosen: None,
        selected: match &policy.action {
            Action::Aggregate(aggregate) => gather::select(head, aggregate),
            _ => Vec::new(),
        },
        edits,
        answer_edits: Vec::new(),
        known: noted,
        claims: None,
        api_key: None,
    };
    if let Some(cors) = &policy.cors {
        request
            .answer_edits
            .extend(cors.edits(head.fields).into_iter().map(Edit::from));
    }
    if let Action::Forward(backends) = &policy.action {
        let random = request.random(Turn::Share);
        request.backend = backends.split.as_ref().map(|split| *split.choose(random));
    }
    request
}

/// The target with its path in its one spelling, where it came in another.
fn normalised(view: &View<'_>, target: &str) -> Option<String> {
    if target
        .strip_prefix(&*view.path)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('?'))
    {
        return None;
    }
    let mut target = view.path.clone().into_owned();
    if let Some(query) = view.query {
        target.push('?');
        target.push_str(query);
    }
    Some(target)
}

/// What the caller has to be allowed.
fn authorise(request: &Request) -> Result<(), Problem> {
    let policy = request.policy();
    let Some(rule) = &policy.auth else {
        return Ok(());
    };
    let auth = rule.methods.first().and_then(|&auth| request.gateway.auth(auth));
    let auth = auth.ok_or_else(|| Problem::new(Reason::Internal, "the route has lost its authentication"))?;
    // Never here: a route with authentication has claims, or its request was refused. If that were ever wrong, it refuses.
    let Some(claims) = &request.claims else {
        return Err(Problem::new(Reason::Internal, "the request was not authenticated"));
    };
    policy.require.judge(claims).map_err(|missing| match missing {
        Missing::Scope(scope) => {
            let all = policy.require.scopes.join(" ");
            challenge(
                auth,
                Reason::ScopeMissing,
                "insufficient_scope",
                &format!("the scope {scope} was not granted"),
                Some(&all),
            )
        }
        Missing::Claim(claim) => Problem::new(Reason::ClaimMismatch, format!("the claim `{claim}` is not as it has to be")),
    })
}

/// Notes what is wrong with the request by what its head says, and which operation of an API's description it is for.
fn judge_head(request: &mut Request, arrival: &Arrival<'_>, view: &View<'_>) {
    let gateway = Arc::clone(&request.gateway);
    let Some(policy) = gateway.route(request.route).map(|route| &route.policy) else {
        return;
    };
    let said = said_length(arrival.head.fields).filter(|_| arrival.has_body);
    if said.zip(policy.max_body).is_some_and(|(said, max)| said > max) {
        let reason = Reason::BodyTooLarge;
        request.head_refusal = Some(Problem::new(reason, body_detail(reason)));
        return;
    }
    let Some(rules) = &policy.body else { return };
    if let Some(reason) = refuse_body(rules, arrival) {
        request.head_refusal = Some(Problem::new(reason, body_detail(reason)));
        return;
    }
    let Some(description) = &rules.description else { return };
    let judged = description.judge_head(&Head {
        method: &request.method,
        path: &view.path,
        query: view.query,
        fields: arrival.head.fields,
        has_body: arrival.has_body,
    });
    match judged {
        Ok(chosen) => request.chosen = Some(chosen),
        Err(refusal) => request.head_refusal = Some(undescribed(refusal)),
    }
}

/// What an API's description says against a head.
fn undescribed(refusal: HeadRefusal) -> Problem {
    match refusal {
        HeadRefusal::Path => Problem::new(Reason::RouteNotFound, "the API has no such path"),
        HeadRefusal::Method(methods) => {
            let methods: Vec<_> = methods.iter().map(Method::as_str).collect();
            let detail = "the method is not among those that the API has for this path";
            Problem::new(Reason::MethodNotAllowed, detail).with_field(ALLOW, &methods.join(", "))
        }
        HeadRefusal::Parameters(violations) => {
            let detail = "the parameters are not as the API has them; `errors` names them";
            Problem::new(Reason::ParametersInvalid, detail).with_errors(violations)
        }
        HeadRefusal::MediaType => {
            let reason = Reason::UnsupportedMediaType;
            Problem::new(reason, body_detail(reason))
        }
        HeadRefusal::NoBody => Problem::new(Reason::BodyMalformed, body_detail(Reason::BodyMalformed)),
    }
}

/// What the head says of the body that the route cannot accept.
fn refuse_body(rules: &BodyRules, arrival: &Arrival<'_>) -> Option<Reason> {
    let fields = arrival.head.fields;
    if !arrival.has_body {
        // There is nothing that could follow a schema.
        return rules.schema.is_some().then_some(Reason::BodyMalformed);
    }
    if said_length(fields).is_some_and(|said| said > rules.max_body) {
        return Some(Reason::BodyTooLarge);
    }
    let is_coded = rules.schema.is_some() && is_coded(fields);
    (is_coded || !rules.accepts_type(fields)).then_some(Reason::UnsupportedMediaType)
}

fn body_detail(reason: Reason) -> &'static str {
    match reason {
        Reason::BodyTooLarge => "the body is longer than this route accepts",
        Reason::UnsupportedMediaType => "the body's content-type or content-encoding is not one that this route accepts",
        _ => "this route needs a body",
    }
}

fn invalid(refusal: BodyRefusal) -> Problem {
    match refusal {
        BodyRefusal::NotJson(error) => Problem::new(Reason::BodyMalformed, format!("the body is not JSON: {error}")),
        BodyRefusal::Malformed(what) => Problem::new(Reason::BodyMalformed, format!("the body is malformed: {what}")),
        BodyRefusal::Schema(violations) => {
            let detail = "the body does not follow its schema; `errors` names the places";
            Problem::new(Reason::BodyInvalid, detail).with_errors(violations)
        }
    }
}

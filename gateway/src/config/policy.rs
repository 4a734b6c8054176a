//! What happens to the requests that a route takes.

use routing::filter::{Cors, FixedAnswer, HeaderEdits, HeaderTemplate, Redirect, Reference, Rewrite};
use routing::policy::{Chance, Fault, Retry, Timeouts};
use routing::upstream::Split;

use crate::aggregate::Aggregate;
use crate::auth::Requirements;
use crate::auth::api_key::ApiKeys;
use crate::auth::jwt::Jwt;
use crate::exchange::UpstreamId;
use crate::limit::{Concurrency, Limits};
use crate::validate::{AnswerRules, BodyRules};

/// What happens to the requests that a route takes.
#[derive(Debug)]
pub struct Policy {
    /// Who has to have sent it; none where anybody may.
    pub(crate) auth: Option<AuthRule>,
    pub(crate) require: Requirements,
    pub(crate) cors: Option<Box<Cors>>,
    pub(crate) concurrency: Option<Concurrency>,
    pub(crate) limits: Option<Limits>,
    pub(crate) fault: Option<Box<Fault>>,
    pub(crate) mirrors: Vec<Mirror>,
    pub(crate) body: Option<Box<BodyRules>>,
    /// What its answers should be.
    pub(crate) answers: Option<Box<AnswerRules>>,
    /// The longest body of a request, in bytes, whether a policy reads it or not.
    pub(crate) max_body: Option<u64>,
    pub(crate) action: Action,
    pub(crate) rewrite: Rewrite,
    pub(crate) request_edits: HeaderEdits,
    pub(crate) response_edits: HeaderEdits,
    pub(crate) timeouts: Timeouts,
    pub(crate) retry: Option<Retry>,
    /// What its templates refer to, but for claims: noted while the request's head is there.
    pub(crate) references: Vec<Reference>,
}

/// What a route does.
#[derive(Debug)]
pub(crate) enum Action {
    /// It asks one of these.
    Forward(Backends),
    /// It combines the answers of several.
    Aggregate(Aggregate),
    /// It sends the client elsewhere.
    Redirect(Redirect),
    /// It answers itself.
    Respond(FixedAnswer),
}

/// Where a route's requests go.
#[derive(Debug)]
pub(crate) struct Backends {
    pub(crate) list: Vec<Backend>,
    /// Places in the list by their weights; none where every weight is 0.
    pub(crate) split: Option<Split<usize>>,
}

/// One share of them.
#[derive(Debug)]
pub(crate) struct Backend {
    pub(crate) upstream: UpstreamId,
    pub(crate) request_edits: HeaderEdits,
    pub(crate) response_edits: HeaderEdits,
}

impl Backends {
    /// This one alone.
    pub(crate) fn only(upstream: UpstreamId) -> Self {
        let (request_edits, response_edits) = Default::default();
        let backend = Backend {
            upstream,
            request_edits,
            response_edits,
        };
        Self {
            list: vec![backend],
            split: Split::new([(0, 1)]),
        }
    }

    /// The backend at a place that was drawn.
    pub(crate) fn get(&self, at: usize) -> Option<&Backend> {
        self.list.get(at)
    }
}

/// Where copies of some requests go.
#[derive(Debug)]
pub(crate) struct Mirror {
    pub(crate) upstream: UpstreamId,
    pub(crate) chance: Chance,
}

/// Whom a route believes. Who the caller is, is said by the first method of the list that the request satisfies.
#[derive(Debug, Clone)]
pub(crate) struct AuthRule {
    /// At least one, as places among the gateway's auths.
    pub(crate) methods: Vec<usize>,
    /// Whether all of them have to be satisfied, and not any.
    pub(crate) all: bool,
}

/// One `[auth.NAME]`.
#[derive(Debug)]
pub(crate) struct Auth {
    pub(crate) name: String,
    pub(crate) method: Method,
}

/// How a caller is known.
#[derive(Debug)]
pub(crate) enum Method {
    Jwt(Jwt),
    ApiKey(ApiKeys),
}

/// The references of edits.
pub(crate) fn references(edits: &HeaderEdits) -> impl Iterator<Item = &Reference> {
    edits.set.iter().chain(&edits.add).flat_map(|(_, value)| references_of(value))
}

/// The references of one value.
pub(crate) fn references_of(value: &HeaderTemplate) -> impl Iterator<Item = &Reference> {
    let template = match value {
        HeaderTemplate::Static(_) => None,
        HeaderTemplate::Filled(template) => Some(template),
    };
    template.into_iter().flat_map(|template| template.references())
}

/// How many edits there are.
pub(crate) fn policy_edit_count(edits: &HeaderEdits) -> usize {
    edits.remove.len() + edits.set.len() + edits.add.len()
}

//! What an exchange keeps of its request: everything that later stages need, so that none of them needs the head.

use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use routing::Moment;
use routing::filter::{HeaderEdits, Reference, Resolve};
use sha2::{Digest as _, Sha256};

use super::problem::Problem;
use super::{Edit, Respond, RouteId, Step, UpstreamId, names};
use crate::Gateway;
use crate::auth::Claims;
use crate::config::{Action, Backend, Policy, policy_edit_count};
use crate::validate::Chosen;

/// The facts of a request.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) gateway: Arc<Gateway>,
    pub(super) route: RouteId,
    pub(super) method: Method,
    pub(super) request_id: HeaderValue,
    /// Whether a body has to be sent along.
    pub(super) has_body: bool,
    /// The longest body that may be sent along, where its length is not known.
    pub(super) max_body: Option<u64>,
    /// Whether the driver holds the whole body.
    pub(super) is_buffered: bool,
    /// When the whole request is over.
    pub(super) deadline: Moment,
    /// From which every random choice of the request is drawn.
    pub(super) seed: u64,
    /// Where it goes: a place among the backends of its route, unless that does something else.
    pub(super) backend: Option<usize>,
    /// The path and query to send, where they are not the client's.
    pub(super) target: Option<String>,
    /// Where a redirect sends the client.
    pub(super) location: Option<String>,
    /// What is wrong with the request by what its head says.
    pub(super) head_refusal: Option<Problem>,
    /// The operation that it is for, where an API's description is asked.
    pub(super) chosen: Option<Chosen>,
    /// The client's fields that branches of an aggregate ask for.
    pub(super) selected: Vec<(HeaderName, HeaderValue)>,
    /// The edits that every attempt begins with: request id, trace, origin.
    pub(super) edits: Vec<Edit>,
    /// The edits that every answer begins with, besides its request id: what policies tell the client.
    pub(super) answer_edits: Vec<Edit>,
    /// What the route's templates refer to, but for claims.
    pub(super) known: Vec<(Reference, String)>,
    /// Who sent it, once that is verified.
    pub(super) claims: Option<Arc<Claims>>,
    /// The name of the API key that it came with, where its route asks for one.
    pub(super) api_key: Option<Arc<str>>,
}

impl Request {
    pub(super) fn policy(&self) -> &Policy {
        &self
            .gateway
            .route(self.route)
            .expect("a request's route is one of its gateway's")
            .policy
    }

    /// The backend of the split that was drawn for it.
    pub(super) fn backend(&self) -> Option<&Backend> {
        match &self.policy().action {
            Action::Forward(backends) => backends.get(self.backend?),
            _ => None,
        }
    }

    /// Adds the edits of an attempt that are the config's: the route's own, then those of its backend.
    pub(super) fn request_edits(&self, edits: &mut Vec<Edit>) {
        self.resolve_edits(&self.policy().request_edits, edits);
        if let Some(backend) = self.backend() {
            self.resolve_edits(&backend.request_edits, edits);
        }
    }

    /// By which the endpoint of an upstream is chosen that goes by something of the request; none where this one has no such thing.
    pub(super) fn affinity(&self, upstream: UpstreamId) -> Option<u64> {
        let by = self.gateway.upstream(upstream)?.connection.hash.as_ref()?;
        let mut text = String::new();
        let is_known = self.resolve(by, &mut text) && !text.is_empty();
        is_known.then(|| Sha256::digest(&text).first_chunk().map(|bytes| u64::from_le_bytes(*bytes)))?
    }

    /// The edits of an answer.
    pub(super) fn response_edits(&self) -> Vec<Edit> {
        let own = self.answer_edits.len() + policy_edit_count(&self.policy().response_edits);
        let mut edits = Vec::with_capacity(1 + own);
        edits.push(Edit::Set(names::REQUEST_ID, self.request_id.clone()));
        edits.extend_from_slice(&self.answer_edits);
        self.resolve_edits(&self.policy().response_edits, &mut edits);
        if let Some(backend) = self.backend() {
            self.resolve_edits(&backend.response_edits, &mut edits);
        }
        edits
    }

    fn resolve_edits(&self, edits: &HeaderEdits, into: &mut Vec<Edit>) {
        // Most routes have none, and to go through three empty lists took 120 instructions.
        if !edits.is_empty() {
            into.extend(edits.edits(self).map(Edit::from));
        }
    }

    /// The fields of an answer that Heddle makes as the route wants it.
    pub(super) fn finish(&self, fields: &mut HeaderMap) {
        crate::apply(&self.response_edits(), fields);
    }

    /// The step that refuses the request. The route's edits of answers hold for refusals too: what it adds (a security policy, say)
    /// is most wanted there.
    pub(super) fn refuse(&self, problem: Problem) -> Step {
        Step::Respond(edited(
            problem.answer(Some(self.route), &self.request_id),
            &self.response_edits(),
        ))
    }

    /// A random number, another one for each `turn`.
    pub(super) fn random(&self, turn: Turn) -> u64 {
        // SplitMix64: neighbouring turns give numbers that have nothing to do with each other.
        let turn = match turn {
            Turn::Share => 0,
            Turn::Delay => 1,
            Turn::Abort => 2,
            Turn::Mirror(place) => 16 + u64::from(place),
            Turn::Backoff(attempt) => 1024 + u64::from(attempt),
        };
        let mut word = self.seed.wrapping_add(turn.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ word >> 31
    }
}

/// What a random number is for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Turn {
    /// Which share of a split the request belongs to.
    Share,
    /// Whether it is delayed on purpose.
    Delay,
    /// Whether it is refused on purpose.
    Abort,
    /// Whether the mirror at this place gets a copy.
    Mirror(u8),
    /// How long to wait after this many attempts.
    Backoff(u32),
}

/// A problem with edits applied, but a problem still.
pub(super) fn edited(mut answer: Respond, edits: &[Edit]) -> Respond {
    let kind = answer.fields.remove(http::header::CONTENT_TYPE);
    crate::apply(edits, &mut answer.fields);
    if let Some(kind) = kind {
        answer.fields.insert(http::header::CONTENT_TYPE, kind);
    }
    answer
}

impl Resolve for Request {
    fn resolve(&self, reference: &Reference, into: &mut String) -> bool {
        let value = match reference {
            Reference::Claim(path) => self.claims.as_ref().and_then(|claims| claims.text(path)),
            Reference::ApiKeyName => self.api_key.as_deref().map(str::to_owned),
            Reference::RequestId => self.request_id.to_str().ok().map(str::to_owned),
            _ => {
                let known = self.known.iter().find(|(known, _)| known == reference);
                return known.map(|(_, value)| into.push_str(value)).is_some();
            }
        };
        value.map(|value| into.push_str(&value)).is_some()
    }
}

/// Notes what the templates refer to, as long as the head is there.
pub(super) fn known<'r>(
    references: impl IntoIterator<Item = &'r Reference>,
    params: &dyn Resolve,
    fields: &dyn routing::Fields,
    client: Option<IpAddr>,
) -> Vec<(Reference, String)> {
    let value = |reference: &Reference| match reference {
        Reference::Param(_) => {
            let mut value = String::new();
            params.resolve(reference, &mut value).then_some(value)
        }
        Reference::Header(_) | Reference::Cookie(_) => fields.referred(reference).map(str::to_owned),
        Reference::ClientIp => client.map(|client| client.to_string()),
        _ => None,
    };
    references
        .into_iter()
        .filter_map(|reference| value(reference).map(|value| (reference.clone(), value)))
        .collect()
}

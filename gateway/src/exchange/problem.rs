//! The answers that Heddle makes itself when it refuses: problem details (RFC 9457), made in one place from a [`Reason`].

use std::borrow::Cow;

use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue};
use routing::Reason;
use serde::Serialize;

use super::made::Made;
use super::{Entropy, Failure, Respond, RouteId, names, trace};
use crate::validate::Violation;

/// The media type of a problem (RFC 9457 §3).
const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

/// A refusal on its way to become an answer. Boxed, since it is the rare end of every result that may hold one.
#[derive(Debug)]
pub(super) struct Problem(Box<Parts>);

#[derive(Debug)]
struct Parts {
    /// None where it is what an upstream said, in our words.
    reason: Option<Reason>,
    /// The reason's, unless it is an upstream's or a fault's.
    status: u16,
    detail: Cow<'static, str>,
    errors: Vec<Violation>,
    field: Option<(HeaderName, HeaderValue)>,
}

impl Problem {
    pub(super) fn new(reason: Reason, detail: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Parts {
            reason: Some(reason),
            status: reason.status(),
            detail: detail.into(),
            errors: Vec::new(),
            field: None,
        }))
    }

    /// What an upstream said of the whole request by what it said of a part of it: that it does not exist, say. It has no
    /// [`Reason`], since it is the upstream's answer.
    pub(super) fn of_upstream(status: u16, detail: String) -> Self {
        Self(Box::new(Parts {
            reason: None,
            status,
            detail: detail.into(),
            errors: Vec::new(),
            field: None,
        }))
    }

    /// Answers with another status than the reason's: for a fault, whose status is the config's to choose.
    pub(super) fn with_status(mut self, status: u16) -> Self {
        self.0.status = status;
        self
    }

    /// Lists what is wrong with the request's body.
    pub(super) fn with_errors(mut self, errors: Vec<Violation>) -> Self {
        self.0.errors = errors;
        self
    }

    /// Adds a header field; leaves it out where its value may not stand in one.
    pub(super) fn with_field(mut self, name: HeaderName, value: &str) -> Self {
        self.0.field = HeaderValue::from_str(value).ok().map(|value| (name, value));
        self
    }

    /// Says it in other words.
    pub(super) fn with_detail(mut self, detail: &'static str) -> Self {
        self.0.detail = detail.into();
        self
    }

    /// Adds the value of the other problem's header field, as another member of the same list.
    pub(super) fn with_more(self, other: &Self) -> Self {
        let both = match (&self.0.field, &other.0.field) {
            (Some((name, own)), Some((_, more))) => own
                .to_str()
                .ok()
                .zip(more.to_str().ok())
                .map(|(own, more)| (name.clone(), format!("{own}, {more}"))),
            _ => None,
        };
        match both {
            Some((name, value)) => self.with_field(name, &value),
            None => self,
        }
    }

    /// The answer.
    pub(super) fn answer(self, route: Option<RouteId>, request_id: &HeaderValue) -> Respond {
        let Parts {
            reason,
            status,
            detail,
            errors,
            field,
        } = *self.0;
        let status_title = || http::StatusCode::from_u16(status).ok()?.canonical_reason();
        let members = Members {
            kind: &reason.map_or_else(|| "about:blank".to_owned(), Reason::problem_type),
            title: reason.map(Reason::title).or_else(status_title).unwrap_or("Error"),
            status,
            detail: &detail,
            instance: request_id.to_str().unwrap_or_default(),
            reason: reason.map(Reason::label),
            errors: &errors,
        };
        let body = serde_json::to_vec(&members)
            .expect("a struct of texts and numbers is JSON")
            .into();
        let mut fields = HeaderMap::with_capacity(4);
        fields.extend(field);
        fields.insert(CONTENT_TYPE, PROBLEM_JSON);
        // Some of these status codes may be cached without being asked to (RFC 9110 §15.1), but the next request may fare better.
        fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        fields.insert(names::REQUEST_ID, request_id.clone());
        Respond {
            route,
            status,
            fields,
            body,
            reason,
        }
    }
}

/// The members of a problem.
#[derive(Serialize)]
struct Members<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    title: &'a str,
    status: u16,
    detail: &'a str,
    instance: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [Violation],
}

/// The answer to a request that its driver has to refuse before it can start an exchange (a header section that is too large, a
/// request that breaks the protocol, a server that is stopping), or whose exchange its driver lost.
#[must_use]
pub fn refuse(reason: Reason, detail: &str, entropy: &Entropy) -> Respond {
    Problem::new(reason, detail.to_owned()).answer(None, &trace::request_id(&HeaderMap::new(), entropy, &mut Made::default()))
}

/// Why an attempt's failure is the request's.
pub(super) fn reason_of(failure: Failure) -> Reason {
    match failure {
        Failure::Connect => Reason::ConnectFailed,
        Failure::Reset => Reason::UpstreamReset,
        Failure::Timeout => Reason::UpstreamTimeout,
        Failure::NoEndpoint => Reason::NoEndpoint,
        Failure::Overloaded => Reason::Overloaded,
        Failure::Identity => Reason::UpstreamIdentity,
        Failure::Protocol => Reason::UpstreamProtocol,
        Failure::BodyTooLarge => Reason::BodyTooLarge,
    }
}

/// The same in words that tell a client nothing of what lies behind.
pub(super) fn detail_of(failure: Failure) -> &'static str {
    match failure {
        Failure::Connect => "no connection to the upstream could be made",
        Failure::Reset => "the upstream broke the connection before it answered",
        Failure::Timeout => "the upstream did not answer in time",
        Failure::NoEndpoint => "the upstream has no endpoint that may be used",
        Failure::Overloaded => "too many requests to the upstream are under way",
        Failure::Identity => "the upstream could not prove who it is",
        Failure::Protocol => "the upstream broke the protocol",
        Failure::BodyTooLarge => "the body is longer than this route accepts",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn a_problem_has_the_members_of_rfc_9457_and_its_reason() {
        let id = HeaderValue::from_static("id-1");
        let answer = Problem::new(Reason::RouteNotFound, "no \"route\"").answer(None, &id);
        assert_eq!(answer.status, 404);
        assert_eq!(answer.reason, Some(Reason::RouteNotFound));
        assert_eq!(answer.fields["content-type"], "application/problem+json");
        assert_eq!(answer.fields["x-request-id"], "id-1");
        assert_eq!(answer.fields["cache-control"], "no-store");
        assert_eq!(
            serde_json::from_slice::<Value>(&answer.body).unwrap(),
            json!({
                "type": "urn:heddle:problem:route-not-found", "title": "No route matches the request", "status": 404,
                "detail": "no \"route\"", "instance": "id-1", "reason": "route-not-found"
            })
        );
    }

    #[test]
    fn violations_are_listed_by_pointer() {
        let violation = Violation {
            place: None,
            pointer: "/amount".to_owned(),
            detail: "value is less than 0".to_owned(),
        };
        let answer = Problem::new(Reason::BodyInvalid, "x")
            .with_errors(vec![violation])
            .answer(None, &HeaderValue::from_static("i"));
        let body: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(
            body["errors"],
            json!([{"pointer": "/amount", "detail": "value is less than 0"}])
        );
    }

    #[test]
    fn a_drivers_refusal_gets_a_request_id_of_its_own() {
        let answer = refuse(Reason::HeadTooLarge, "the header section is over 64 KiB", &[7; 32]);
        assert_eq!(answer.status, 431);
        assert_eq!(answer.fields["x-request-id"], "07070707-0707-4707-8707-070707070707");
    }
}

//! Answers on their way to the client.

use std::sync::Arc;

use gateway::exchange::{Edit, Observe, Respond, refuse};
use gateway::{apply, strip_hop_by_hop};
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING, UPGRADE};
use routing::Reason;
use routing::policy::Entered;
use spin_sdk::wasip3::http::types::{Fields, Response};

use super::attempt::Answered;
use super::body;
use super::config::Edge;
use crate::clock;

/// Fields that a host of `wasi:http` refuses from its guests, besides the hop-by-hop ones that are gone by then: an edit of
/// the config could still set them.
const REFUSED: [HeaderName; 8] = [
    CONNECTION,
    HOST,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("proxy-authenticate"),
    HeaderName::from_static("http2-settings"),
];

/// Forwards an upstream's answer, its body as the stream that it is, and holds the request's place until that has ended: a host
/// tells of the end where the answer says its length, and else only of the head. Where it is observed, the body comes
/// through this instance, and what is wrong with it is told.
pub(super) fn forward(
    edge: &Edge,
    answered: Answered,
    edits: &[Edit],
    observe: Option<Observe>,
    entered: Option<Entered>,
) -> Response {
    let Answered {
        status,
        mut fields,
        body,
        choice,
    } = answered;
    let upstreams_own = observe.map(|_| fields.clone()).unwrap_or_default();
    strip_hop_by_hop(&mut fields);
    apply(edits, &mut fields);
    let (stream, end, passing) = match observe {
        None => body.pass(),
        Some(observe) => {
            let (gateway, fields) = (Arc::clone(&edge.gateway), upstreams_own);
            body.pass_observed(observe.max_body, move |body| {
                let wrong = gateway.judge_answer(&observe, status, &fields, &body);
                if !wrong.is_empty() {
                    let route = gateway.route(observe.route).map_or("?", |route| &*route.name);
                    eprintln!(
                        "gateway: an answer to the route `{route}` is not as it should be: {}",
                        wrong.join("; ")
                    );
                }
            })
        }
    };
    let (response, sent) = Response::new(wasi_fields(&fields), Some(stream), end);
    match (choice.counted(), entered) {
        // Nobody asks how it went, so nobody waits for it.
        (None, None) => drop(passing),
        held => passing.until(sent, held),
    }
    with_status(response, status)
}

/// An answer of the gateway's own.
pub(super) fn respond(respond: Respond) -> Response {
    let Respond {
        status,
        mut fields,
        body,
        ..
    } = respond;
    // RFC 9110 §8.6: these have no content, and say no length.
    if status != 204 && status != 304 {
        fields.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    }
    let response = if body.is_empty() {
        Response::new(wasi_fields(&fields), None, body::none()).0
    } else {
        let (stream, end) = body::whole(body);
        Response::new(wasi_fields(&fields), Some(stream), end).0
    };
    with_status(response, status)
}

/// The answer while the config is wrong; what is wrong with it stands in the log, not in the answer.
pub(super) fn misconfigured() -> Response {
    respond(refuse(
        Reason::Internal,
        "the gateway's config is not valid; its log says what to mend",
        &clock::entropy(),
    ))
}

/// The answer to a request that nothing can be decided about.
pub(super) fn malformed(why: &str) -> Response {
    respond(refuse(Reason::MalformedRequest, why, &clock::entropy()))
}

/// The answer to what cannot happen: refused, and told in the log.
pub(super) fn impossible(what: &str) -> Response {
    eprintln!("gateway: {what}");
    respond(refuse(
        Reason::Internal,
        "the gateway lost track of the request",
        &clock::entropy(),
    ))
}

fn with_status(response: Response, status: u16) -> Response {
    // What a response has until it is told otherwise.
    if status != 200 && response.set_status_code(status).is_err() {
        eprintln!("gateway: the host refuses the status code {status}");
        let _ = response.set_status_code(502);
    }
    response
}

/// Fields as the host takes them: all at once, or, where it refuses one of them, all but that one.
pub(super) fn wasi_fields(fields: &HeaderMap) -> Fields {
    let list: Vec<(String, Vec<u8>)> = fields
        .iter()
        .filter(|(name, _)| !REFUSED.contains(name))
        .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()))
        .collect();
    Fields::from_list(&list).unwrap_or_else(|_| {
        let fields = Fields::new();
        for (name, value) in &list {
            if let Err(error) = fields.append(name, value) {
                eprintln!("gateway: the host refuses the field {name}: {error}");
            }
        }
        fields
    })
}

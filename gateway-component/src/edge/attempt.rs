//! One try at an upstream.

use gateway::exchange::{BodyRead, Failure};
use http::HeaderMap;
use routing::Moment;
use spin_sdk::wasip3::http::types::{ErrorCode, Method, Request, RequestOptions, Scheme};

use super::before;
use super::body::{self, Incoming, TooLong};
use super::message::wasi_fields;
use super::request::{Outbound, Sent};
use super::upstream::Choice;
use crate::clock;

/// How an attempt ended.
pub(super) enum Outcome {
    /// The upstream's head came.
    Answered(Answered),
    /// None came.
    Failed {
        /// Why.
        failure: Failure,
        /// Whether the request can be sent again.
        replayable: bool,
    },
}

/// An upstream's answer.
pub(super) struct Answered {
    pub(super) status: u16,
    pub(super) fields: HeaderMap,
    pub(super) body: Incoming,
    /// The endpoint that gave it, under way until the body is through.
    pub(super) choice: Choice,
}

impl Answered {
    /// Reads the body.
    pub(super) async fn read(self, limit: u64, deadline: Moment) -> BodyRead {
        before(deadline, self.body.read(limit)).await.unwrap_or(BodyRead::Broken)
    }

    /// Reads the body to its end and drops it.
    pub(super) async fn discard(self, deadline: Moment) {
        let _late = before(deadline, self.body.discard()).await;
    }
}

/// Sends an attempt to the endpoint that was chosen for it and waits for its answer's head, until its deadline.
pub(super) async fn send(deadline: Moment, choice: Choice, outbound: Outbound) -> Outcome {
    let replayable = outbound.replayable;
    let failed = |failure| Outcome::Failed { failure, replayable };
    let Some((request, too_long)) = request(&choice.authority(), outbound, deadline) else {
        return failed(Failure::Protocol);
    };
    let answer = before(deadline, exchange(request)).await.unwrap_or(Err(Failure::Timeout));
    if answer.is_err() && too_long.is_so() {
        // Which says nothing of the endpoint.
        return failed(Failure::BodyTooLarge);
    }
    choice.answered(
        answer.as_ref().map(|(status, ..)| *status).map_err(|failure| *failure),
        clock::now().moment,
    );
    match answer {
        Ok((status, fields, body)) => Outcome::Answered(Answered {
            status,
            fields,
            body,
            choice,
        }),
        Err(failure) => failed(failure),
    }
}

async fn exchange(request: Request) -> Result<(u16, HeaderMap, Incoming), Failure> {
    let response = spin_sdk::http::send(request).await.map_err(|error| {
        eprintln!("gateway: an upstream failed: {error}");
        failure(&error)
    })?;
    let (head, mut body) = response.into_parts();
    let response = body.take_unstarted().ok_or(Failure::Protocol)?;
    Ok((head.status.as_u16(), head.headers, Incoming::of_response(response)))
}

/// The request as the host takes it, and whether its body turns out to be too long; none where the host refuses a part of it.
fn request(authority: &str, outbound: Outbound, deadline: Moment) -> Option<(Request, TooLong)> {
    let Outbound {
        method,
        target,
        fields,
        body,
        ..
    } = outbound;
    let options = RequestOptions::new();
    let left = u64::try_from(deadline.since(clock::now().moment).as_nanos()).unwrap_or(u64::MAX);
    // The deadline is kept here in any case; a host that knows it too stops sooner.
    let _ = options.set_connect_timeout(Some(left));
    let _ = options.set_first_byte_timeout(Some(left));
    let fields = wasi_fields(fields);
    let mut too_long = TooLong::default();
    let (request, sent, passing) = match body {
        Sent::Nothing => {
            let (request, sent) = Request::new(fields, None, body::none(), Some(options));
            (request, sent, None)
        }
        Sent::Whole(bytes) => {
            let (stream, end) = body::whole(bytes);
            let (request, sent) = Request::new(fields, Some(stream), end, Some(options));
            (request, sent, None)
        }
        Sent::Stream(incoming, limit) => {
            let (stream, end, passing) = match limit {
                None => incoming.pass(),
                Some(limit) => {
                    let (stream, end, passing, told) = incoming.pass_up_to(limit);
                    too_long = told;
                    (stream, end, passing)
                }
            };
            let (request, sent) = Request::new(fields, Some(stream), end, Some(options));
            (request, sent, Some(passing))
        }
    };
    if let Some(passing) = passing {
        passing.until(sent, ());
    }
    request.set_method(&Method::from(method)).ok()?;
    request.set_scheme(Some(&Scheme::Http)).ok()?;
    request.set_authority(Some(authority)).ok()?;
    request.set_path_with_query(Some(&target)).ok()?;
    Some((request, too_long))
}

fn failure(error: &ErrorCode) -> Failure {
    match error {
        ErrorCode::DnsTimeout
        | ErrorCode::DnsError(_)
        | ErrorCode::DestinationNotFound
        | ErrorCode::DestinationUnavailable
        | ErrorCode::DestinationIpUnroutable
        | ErrorCode::ConnectionRefused
        | ErrorCode::ConnectionTimeout => Failure::Connect,
        ErrorCode::DestinationIpProhibited | ErrorCode::HttpRequestDenied => Failure::NoEndpoint,
        ErrorCode::ConnectionLimitReached => Failure::Overloaded,
        ErrorCode::TlsProtocolError | ErrorCode::TlsCertificateError | ErrorCode::TlsAlertReceived(_) => Failure::Identity,
        ErrorCode::ConnectionReadTimeout | ErrorCode::ConnectionWriteTimeout | ErrorCode::HttpResponseTimeout => {
            Failure::Timeout
        }
        // Hosts on hyper call it a broken protocol where a connection ends before the answer has come.
        ErrorCode::ConnectionTerminated
        | ErrorCode::HttpResponseIncomplete
        | ErrorCode::HttpProtocolError
        | ErrorCode::InternalError(_) => Failure::Reset,
        _ => Failure::Protocol,
    }
}

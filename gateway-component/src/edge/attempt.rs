//! One try at an upstream.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use gateway::exchange::{BodyRead, Failure};
use http::{HeaderMap, Method};
use routing::Moment;
use spin_sdk::wasip3::http::client;
use spin_sdk::wasip3::http::types::{ErrorCode, Request, Scheme};

use super::body::{self, Incoming, Open, TooLong};
use super::message::wasi_fields;
use super::request::{Outbound, Sent};
use super::upstream::Choice;
use super::{before, within};
use crate::clock;

/// How an attempt ended.
#[allow(clippy::large_enum_variant, reason = "it is half as large on wasm32, which is where it is")]
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
    /// The endpoint that gave it, under way until the body is through, as far as the host tells of that.
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

/// Sends an attempt to the endpoint that was chosen for it and waits so long for its answer's head.
pub(super) async fn send(left: Duration, choice: Choice, outbound: Outbound) -> Outcome {
    let replayable = outbound.replayable;
    let failed = |failure| Outcome::Failed { failure, replayable };
    let Some(made) = Made::new(&choice.authority(), outbound) else {
        return failed(Failure::Protocol);
    };
    let too_long = made.too_long.clone();
    let answer = within(left, made.answer()).await.unwrap_or(Err(Failure::Timeout));
    if answer.is_err() && too_long.is_so() {
        // Which says nothing of the endpoint.
        return failed(Failure::BodyTooLarge);
    }
    choice.answered(
        answer.as_ref().map(|(status, ..)| *status).map_err(|failure| *failure),
        clock::moment(),
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

/// A request as the host takes it.
struct Made {
    request: Request,
    /// The end of the body of a request without one.
    end: Option<Open>,
    /// Whether the body turns out to be too long.
    too_long: TooLong,
}

impl Made {
    /// None where the host refuses a part of it. It is told no time limits, which [`within`] keeps everywhere alike.
    fn new(authority: &str, outbound: Outbound) -> Option<Self> {
        let Outbound {
            method,
            target,
            fields,
            body,
            ..
        } = outbound;
        let fields = wasi_fields(&fields);
        let mut too_long = TooLong::default();
        let mut open = None;
        let (contents, end, passing) = match body {
            Sent::Nothing => {
                let (end, ended) = body::open();
                open = Some(end);
                (None, ended, None)
            }
            Sent::Whole(bytes) => {
                let (stream, end) = body::whole(bytes);
                (Some(stream), end, None)
            }
            Sent::Stream(incoming, None) => {
                let (stream, end, passing) = incoming.pass();
                (Some(stream), end, Some(passing))
            }
            Sent::Stream(incoming, Some(limit)) => {
                let (stream, end, passing, told) = incoming.pass_up_to(limit);
                too_long = told;
                (Some(stream), end, Some(passing))
            }
        };
        let (request, sent) = Request::new(fields, contents, end, None);
        if let Some(passing) = passing {
            passing.until(sent, ());
        }
        // A request is a GET until it is told otherwise, and each of these is a call to the host.
        if method != Method::GET {
            request.set_method(&method.into()).ok()?;
        }
        request.set_scheme(Some(&Scheme::Http)).ok()?;
        request.set_authority(Some(authority)).ok()?;
        request.set_path_with_query(Some(&target)).ok()?;
        Some(Self {
            request,
            end: open,
            too_long,
        })
    }

    async fn answer(self) -> Result<(u16, HeaderMap, Incoming), Failure> {
        let mut sending = pin!(client::send(self.request));
        let begun = poll_fn(|cx| Poll::Ready(sending.as_mut().poll(cx))).await;
        // Written while the host reads it already, the end is one call; written before, it is an event of its own.
        drop(self.end);
        let answer = match begun {
            Poll::Ready(answer) => answer,
            Poll::Pending => sending.await,
        };
        let response = answer.map_err(|error| {
            eprintln!("gateway: an upstream failed: {error}");
            failure(&error)
        })?;
        let fields = HeaderMap::try_from(response.get_headers()).map_err(|_| Failure::Protocol)?;
        Ok((response.get_status_code(), fields, Incoming::of_response(response)))
    }
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

//! One request, from its URL to the head of its answer: what the route says, then attempts as `routing`'s call machine wants them.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::{self, HeaderMap, RETRY_AFTER};
use http::uri::{PathAndQuery, Uri};
use http::{HeaderValue, Request, Response, StatusCode, request};
use hyper::body::Incoming;
use routing::balance::{Outcome, Picked};
use routing::call::{Call, CallPolicy, Ended, Step};
use routing::filter::Reference;
use routing::policy::{Cause, RetryBudget, retry_after};
use routing::{Moment, Reason, balance};
use tokio::time::{sleep_until, timeout_at};

use super::body::{Body, ResponseBody};
use super::error::{Broken, Error, Failure};
use super::load::InFlight;
use super::options::Affinity;
use super::send::{Lost, fit_for_http2, send, spare};
use super::service::{Target, View};
use super::upstream::{Connections, Upstream};
use super::{Shared, service_of};
use crate::Deadline;
use crate::caller;
use crate::policy::{Destination, Plan};
use crate::server;

/// How many endpoints that cannot be connected to are gone round in one attempt. Each is ejected for everybody meanwhile; one that
/// does not even refuse costs the request the client's time limit on connecting.
const ELSEWHERE: usize = 5;

/// Where the attempts of one call go.
struct Way {
    upstream: Arc<Upstream>,
    version: Option<Box<str>>,
    /// By which a ring-hash chooses.
    affinity: Option<u64>,
    /// Whether a request is kept to be sent again.
    retries: bool,
}

/// What an attempt came to.
struct Attempted {
    result: Result<Response<ResponseBody>, Error>,
    ended: Ended,
    /// The endpoint that it was for.
    target: Option<Target>,
    /// The request, where it can be sent again.
    again: Option<Request<Body>>,
    /// Whether the endpoint could not be connected to.
    is_unmet: bool,
}

/// What a call comes to.
enum Ran {
    Answered(Response<ResponseBody>),
    /// Refused on purpose, with this status.
    Aborted(u16),
}

impl Shared {
    pub(super) async fn call(self: &Arc<Self>, request: Request<Body>) -> Result<Response<ResponseBody>, Error> {
        let Some(service) = service_of(request.uri()) else {
            return Err(Error::new(Failure::Url, request.uri().to_string()));
        };
        self.services.policies_known(self.options.discovery_timeout).await;
        let upstream = self.upstream(&service);
        let view = upstream.service.view(&self.services);
        let (mut head, body) = request.into_parts();
        fit_for_http2(&mut head.headers);
        let plan = view.routes.plan(&head, rand::random());
        let Some(to) = plan.destination() else {
            return Err(Error::new(Failure::NoBackend, service.as_str()));
        };
        let affinity = self.affinity(&view, &head);
        let deadline = self.deadline(&head);
        let asked = head.headers.get(header::CONTENT_TYPE).cloned();
        plan.edit_request(&mut head.headers);
        rewrite(&mut head, &plan);
        let mut request = Request::from_parts(head, body);
        caller::write(&mut request);
        let policy = CallPolicy {
            fault: plan.policy.fault,
            timeout: plan.policy.timeout,
            retry: self
                .options
                .retry
                .as_ref()
                .map(|own| plan.policy.retry.as_ref().unwrap_or(own)),
        };
        let budget = view.budgets.get(&plan.policy.name);
        let budget = budget.map_or(&upstream.budget, |budget| &**budget);
        self.mirror(&upstream, &plan, affinity, &request, deadline);
        let way = self.way(&upstream, to, affinity, policy.retry.is_some());
        match self.run(&way, policy, budget, request, deadline).await? {
            Ran::Answered(mut response) => {
                plan.edit_response(response.headers_mut());
                Ok(response)
            }
            Ran::Aborted(status) => Ok(aborted(asked, status)),
        }
    }

    /// Does what the machine says until it has enough.
    async fn run(
        &self,
        way: &Way,
        policy: CallPolicy<'_>,
        budget: &RetryBudget,
        request: Request<Body>,
        deadline: Option<Moment>,
    ) -> Result<Ran, Error> {
        let services = &self.services;
        let method = request.method().clone();
        let mut call = Call::new(policy, method.as_str(), deadline, services.now());
        let mut step = call.begin(budget, services.now(), [rand::random(), rand::random()]);
        let mut next = Some(request);
        let mut tried = None;
        let mut result = Err(Error::new(Failure::Timeout, way.service()));
        loop {
            step = match step {
                Step::Wait(until) => {
                    sleep_until(services.instant(until)).await;
                    call.on_time(services.now(), rand::random())
                }
                Step::Send(until) => {
                    // The machine asks for another attempt only where there is something to send.
                    let Some(request) = next.take() else {
                        return result.map(Ran::Answered);
                    };
                    let attempted = self.attempt(way, tried.as_ref(), request, until).await;
                    let step = call.on_ended(&attempted.ended, budget, services.now(), rand::random());
                    (next, result) = (attempted.again, attempted.result);
                    if step != Step::Over {
                        tracing::debug!(service = way.service(), after = ?attempted.ended.cause, "a request is tried again");
                        // An answer that nobody will read is not held while the next is waited for.
                        result = Err(Error::timed_out(way.service()));
                    }
                    tried = attempted.target.or(tried);
                    step
                }
                Step::Abort(status) => return Ok(Ran::Aborted(status)),
                Step::Over | Step::Expired => return result.map(Ran::Answered),
            };
        }
    }

    /// Sends copies to the route's mirrors. Nobody waits for them, and what cannot be sent twice has none.
    fn mirror(
        self: &Arc<Self>,
        upstream: &Arc<Upstream>,
        plan: &Plan,
        affinity: Option<u64>,
        request: &Request<Body>,
        deadline: Option<Moment>,
    ) {
        for mirror in &plan.policy.mirrors {
            if !mirror.chance.hits(rand::random()) {
                continue;
            }
            let Some(copy) = spare(request) else { return };
            let way = self.way(upstream, &mirror.to, affinity, false);
            let shared = Arc::clone(self);
            tokio::spawn(async move {
                let until = deadline.unwrap_or(Moment(u64::MAX));
                if let Err(error) = shared.attempt(&way, None, copy, until).await.result {
                    tracing::debug!(%error, "a mirrored request was lost");
                }
            });
        }
    }

    fn way(&self, called: &Arc<Upstream>, to: &Destination, affinity: Option<u64>, retries: bool) -> Way {
        Way {
            upstream: match &to.service {
                Some(other) if *other != called.service.name => self.upstream(other),
                _ => Arc::clone(called),
            },
            version: to.version.clone(),
            affinity,
            retries,
        }
    }

    /// When the call is over: the soonest of what the client, the request, and the request that this one helps to answer say.
    fn deadline(&self, head: &request::Parts) -> Option<Moment> {
        let own = self.options.response_timeout.map(Deadline::after);
        let told = head.extensions.get::<Deadline>().copied();
        let all = [own, told, Deadline::of(&head.headers), Deadline::current()];
        let soonest = all.into_iter().flatten().min();
        soonest.map(|deadline| self.services.moment(deadline.instant()))
    }

    /// By which a ring-hash finds the request's endpoint; none where the request has no such thing, and any will do.
    fn affinity(&self, view: &View, head: &request::Parts) -> Option<u64> {
        if let Some(Affinity(affinity)) = head.extensions.get() {
            return Some(*affinity);
        }
        let fields: &dyn routing::Fields = &head.headers;
        match view.connection.hash.as_ref()? {
            Reference::ClientIp => Some(self.services.source()),
            by => fields.referred(by).map(balance::affinity),
        }
    }

    /// One attempt, until that moment: at the first endpoint of those chosen that can be connected to. A request that nobody saw was
    /// not tried, whatever it is and whoever decides about trying again.
    async fn attempt(&self, way: &Way, tried: Option<&Target>, mut request: Request<Body>, until: Moment) -> Attempted {
        let mut dead = Vec::new();
        let mut last = None;
        loop {
            match (self.attempt_at(way, tried, &dead, request, until).await, last.take()) {
                (Err(unsent), Some(last)) => {
                    return Attempted {
                        again: Some(unsent),
                        ..last
                    };
                }
                (Err(_), None) => return Attempted::nowhere(self.nowhere(way)),
                (Ok(mut attempted), _) => {
                    let goes_on = attempted.is_unmet && dead.len() < ELSEWHERE && self.services.now() < until;
                    match (goes_on, attempted.target.clone(), attempted.again.take()) {
                        (true, Some(target), Some(unsent)) => {
                            dead.push(target);
                            request = unsent;
                            last = Some(attempted);
                        }
                        (_, _, again) => return Attempted { again, ..attempted },
                    }
                }
            }
        }
    }

    /// One attempt at one endpoint; gives the request back where none is left but those of `dead`.
    async fn attempt_at(
        &self,
        way: &Way,
        tried: Option<&Target>,
        dead: &[Target],
        mut request: Request<Body>,
        until: Moment,
    ) -> Result<Attempted, Request<Body>> {
        let services = &self.services;
        let Ok(permit) = way.upstream.service.breaker.admit() else {
            return Ok(Attempted::nowhere(Error::new(Failure::Full, way.service())));
        };
        let Some((picked, connections)) = self.choose(way, dead.last().or(tried), until).await else {
            return Ok(Attempted::nowhere(self.nowhere(way)));
        };
        let target = picked.address().clone();
        if dead.contains(&target) {
            return Err(request);
        }
        if until != Moment(u64::MAX) {
            Deadline::tell(until.since(services.now()), request.headers_mut());
        }
        // Only a call that may be tried again pays for a copy of the head, and only where the body can be sent again.
        let kept = if way.retries { spare(&request) } else { None };
        let sending = send(&connections, request);
        let sent = match until {
            Moment(u64::MAX) => Some(sending.await),
            _ => timeout_at(services.instant(until), sending).await.ok(),
        };
        let sent = sent.filter(|sent| !matches!(sent, Ok((response, _)) if gave_up(response, until.since(services.now()))));
        let mut is_unmet = false;
        let (result, cause, retry_after, again) = match sent {
            Some(Ok((response, entered))) => {
                let (cause, retry_after) = self.judge(&picked, &response);
                let in_flight = InFlight::new(picked, entered, permit);
                let mut response = response.map(|body| ResponseBody::new(body, in_flight));
                response.extensions_mut().insert(target.0.clone());
                (Ok(response), cause, retry_after, kept)
            }
            Some(Err(lost)) => {
                let Lost { broken, unsent, is_gone } = *lost;
                // A breaker that is open is the service's, and open for all of its endpoints.
                is_unmet = is_gone && unsent.is_some() && broken.failure != Failure::Full;
                // The breaker is the service's, the body the caller's. Of the rest, a stream that is reset says something about one
                // request; a connection that is gone, about the endpoint.
                match broken.failure {
                    Failure::Full | Failure::Body | Failure::Mismatch => {}
                    _ if is_gone => picked.finish(Outcome::Unreachable, services.now()),
                    _ => picked.finish(Outcome::Failure, services.now()),
                }
                tracing::debug!(service = way.service(), endpoint = target.0.address(), error = %broken.source, "an attempt failed");
                let cause = cause(&broken);
                let error = Error::at(way.service(), target.0.clone(), broken);
                (Err(error), cause, None, unsent.or(kept))
            }
            None => {
                picked.finish(Outcome::Failure, services.now());
                (Err(Error::timed_out(way.service())), Some(Cause::Timeout), None, kept)
            }
        };
        Ok(Attempted {
            result,
            ended: Ended {
                cause,
                retry_after,
                replayable: again.is_some(),
            },
            target: Some(target),
            again,
            is_unmet,
        })
    }

    fn nowhere(&self, way: &Way) -> Error {
        let service = way.service();
        if self.services.has_left() {
            Error::new(Failure::Left, service)
        } else if way.upstream.service.is_opaque() {
            let why = "it is served as opaque TCP: connect to it, or map a local port to it";
            Error::because(Failure::Mismatch, service, why)
        } else {
            Error::new(Failure::NoEndpoint, service)
        }
    }

    /// Chooses an endpoint, once the service is known.
    async fn choose(&self, way: &Way, tried: Option<&Target>, until: Moment) -> Option<(Picked<Target>, Connections)> {
        let pick = || {
            let view = way.upstream.service.view(&self.services);
            let random = way.affinity.unwrap_or_else(rand::random);
            let now = self.services.now();
            way.upstream.pick(&view, way.version.as_deref(), tried, now, random)
        };
        if let Some(picked) = pick() {
            return Some(picked);
        }
        let left = until.since(self.services.now());
        let limit = self.options.discovery_timeout.min(left);
        way.upstream.service.discovered(limit).await;
        pick()
    }

    /// Notes what an answer says of its endpoint, and tells what it is to a retry policy.
    fn judge(&self, picked: &Picked<Target>, response: &Response<Incoming>) -> (Option<Cause>, Option<Duration>) {
        let now = self.services.now();
        let status = status_of(response);
        let outcome = if status >= 500 { Outcome::Failure } else { Outcome::Success };
        picked.answered(outcome, now);
        let retry_after = asks_for_rest(status, response.headers());
        if let Some(after) = retry_after {
            picked.rest(after, now);
        }
        ((status >= 400).then_some(Cause::Status(status)), retry_after)
    }
}

impl Way {
    fn service(&self) -> &str {
        self.upstream.service.name.as_str()
    }
}

impl Attempted {
    /// There was nobody to send it to, and there will not be soon.
    const fn nowhere(error: Error) -> Self {
        let ended = Ended {
            cause: None,
            retry_after: None,
            replayable: false,
        };
        Self {
            result: Err(error),
            ended,
            target: None,
            again: None,
            is_unmet: false,
        }
    }
}

/// Puts the path and the host in place that the route has for the request.
fn rewrite(head: &mut request::Parts, plan: &Plan) {
    let mut parts = head.uri.clone().into_parts();
    if let Some(target) = plan.target().and_then(|target| target.parse::<PathAndQuery>().ok()) {
        parts.path_and_query = Some(target);
    }
    if let Some(host) = plan.host().and_then(|host| host.to_str().ok()?.parse().ok()) {
        parts.authority = Some(host);
    }
    if let Ok(uri) = Uri::from_parts(parts) {
        head.uri = uri;
    }
}

/// The answer to a request that is refused on purpose.
fn aborted(asked: Option<HeaderValue>, status: u16) -> Response<ResponseBody> {
    let asked: HeaderMap = asked.into_iter().map(|kind| (header::CONTENT_TYPE, kind)).collect();
    let detail = "the route refuses some requests on purpose";
    let mut response = server::answer(&asked, Reason::FaultInjected, detail);
    // A status of gRPC comes with 200.
    if response.status() != StatusCode::OK {
        *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    }
    response.map(ResponseBody::ours)
}

/// The status of an answer. One of gRPC that is only a status has it among its fields ("Trailers-Only"); it counts as what it stands for.
fn status_of(response: &Response<Incoming>) -> u16 {
    let grpc = response.headers().get("grpc-status").and_then(|code| code.to_str().ok());
    match grpc.map(str::parse::<u16>) {
        Some(Ok(4)) => 504,
        Some(Ok(8)) => 429,
        Some(Ok(12)) => 501,
        Some(Ok(14)) => 503,
        Some(Ok(2 | 13 | 15)) => 500,
        _ => response.status().as_u16(),
    }
}

/// Whether the endpoint answers that the time it was given is over. It was told that time in whole milliseconds, so that it can notice
/// up to one before this end does; which of the two is first is chance, and the caller hears the same from both.
fn gave_up(response: &Response<Incoming>, left: Duration) -> bool {
    left <= Duration::from_millis(1) && status_of(response) == StatusCode::GATEWAY_TIMEOUT.as_u16()
}

/// For how long the endpoint asks to be left alone, where that is what the status is about (RFC 9110 §10.2.3, RFC 6585 §4).
fn asks_for_rest(status: u16, headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER).filter(|_| matches!(status, 429 | 503))?;
    let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    retry_after(value.to_str().ok()?, unix.as_secs())
}

/// What routing's retry policy calls it; None where trying again does not help.
const fn cause(broken: &Broken) -> Option<Cause> {
    match broken.failure {
        Failure::Full | Failure::Mismatch => None,
        _ if broken.untouched => Some(Cause::ConnectFailure),
        Failure::Reset => Some(Cause::Reset),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_saw_may_be_sent_again_whatever_it_is() {
        let broken = |failure, untouched| Broken {
            failure,
            untouched,
            source: "x".into(),
        };
        assert_eq!(cause(&broken(Failure::Reset, true)), Some(Cause::ConnectFailure));
        assert_eq!(cause(&broken(Failure::Identity, true)), Some(Cause::ConnectFailure));
        assert_eq!(cause(&broken(Failure::Reset, false)), Some(Cause::Reset));
        assert_eq!(cause(&broken(Failure::Protocol, false)), None);
        assert_eq!(cause(&broken(Failure::Body, false)), None);
        assert_eq!(
            cause(&broken(Failure::Full, true)),
            None,
            "more requests do not help who has too many"
        );
    }
}

//! One request, from its URL to the head of its answer.

use std::sync::Arc;
use std::time::Duration;

use http::header::{self, HeaderMap, HeaderName};
use http::{Request, Response, request};
use routing::Moment;
use routing::balance::{Outcome, Picked};
use routing::policy::{Cause, Try};
use tokio::time::{sleep, timeout};

use super::body::{Body, ResponseBody};
use super::error::{Broken, Error, Failure};
use super::load::InFlight;
use super::pool::Connection;
use super::upstream::{Target, Upstream};
use super::{Shared, service_of};

/// An attempt that failed: how, where, and the request, where it can be sent again.
struct Failed {
    broken: Broken,
    target: Target,
    request: Option<Request<Body>>,
}

impl Shared {
    pub(super) async fn call(&self, mut request: Request<Body>) -> Result<Response<ResponseBody>, Error> {
        let Some(service) = service_of(request.uri()) else {
            return Err(Error::new(Failure::Url, request.uri().to_string()));
        };
        fit_for_http2(request.headers_mut());
        let upstream = self.upstream(&service);
        let Some(limit) = self.options.response_timeout else {
            return self.attempts(&upstream, request, Moment(u64::MAX)).await;
        };
        let deadline = self.now() + limit;
        match timeout(limit, self.attempts(&upstream, request, deadline)).await {
            Ok(answer) => answer,
            Err(_) => Err(Error::timed_out(service.as_str())),
        }
    }

    /// Attempts until one is answered or routing's retry policy has enough.
    async fn attempts(
        &self,
        upstream: &Upstream,
        mut request: Request<Body>,
        deadline: Moment,
    ) -> Result<Response<ResponseBody>, Error> {
        let method = request.method().clone();
        upstream.budget.deposit(self.now());
        let mut tried: Option<Target> = None;
        for made in 1.. {
            let Some(picked) = upstream.choose(tried.as_ref(), self.now()).await else {
                return Err(self.nowhere(upstream));
            };
            let failed = match self.attempt(picked, request).await {
                Ok(response) => return Ok(response),
                Err(failed) => failed,
            };
            let Failed {
                broken,
                target,
                request: again,
            } = *failed;
            let again = again.and_then(|again| {
                let cause = cause(&broken)?;
                let retry = self.options.retry.as_ref()?;
                let failed = Try {
                    method: method.as_str(),
                    made,
                    cause,
                    retry_after: None,
                    replayable: true,
                    deadline,
                };
                let now = self.now();
                Some((again, retry.next(&failed, &upstream.budget, now, rand::random())?.since(now)))
            });
            let Some((again, wait)) = again else {
                return Err(Error::at(upstream.service.as_str(), target.endpoint, broken));
            };
            tracing::debug!(service = %upstream.service, endpoint = target.endpoint.address(), failure = broken.failure.as_str(), error = %broken.source, "a request is tried again");
            if wait > Duration::ZERO {
                sleep(wait).await;
            }
            (request, tried) = (again, Some(target));
        }
        unreachable!("a retry policy allows a finite number of attempts")
    }

    fn nowhere(&self, upstream: &Upstream) -> Error {
        let service = upstream.service.as_str();
        if self.directory.has_left() {
            Error::new(Failure::Left, service)
        } else if upstream.is_opaque() {
            let why = "it is served as opaque TCP: connect to it, or map a local port to it";
            Error::because(Failure::Mismatch, service, why)
        } else {
            Error::new(Failure::NoEndpoint, service)
        }
    }

    /// One attempt at one endpoint.
    async fn attempt(&self, picked: Picked<Target>, request: Request<Body>) -> Result<Response<ResponseBody>, Box<Failed>> {
        let target = picked.address().clone();
        let connection = match target.pool.connection().await {
            Ok(connection) => connection,
            Err(broken) => {
                picked.finish(Outcome::Failure, self.now());
                return Err(Box::new(Failed {
                    broken,
                    target,
                    request: Some(request),
                }));
            }
        };
        match self.send(&connection, picked, request).await {
            Ok(mut response) => {
                response.extensions_mut().insert(target.endpoint);
                Ok(response)
            }
            Err((broken, request)) => Err(Box::new(Failed { broken, target, request })),
        }
    }

    async fn send(
        &self,
        connection: &Arc<Connection>,
        picked: Picked<Target>,
        request: Request<Body>,
    ) -> Result<Response<ResponseBody>, (Broken, Option<Request<Body>>)> {
        // Only a client that retries pays for a copy of the head, and only where the body can be sent again.
        let spare = self.options.retry.as_ref().and_then(|_| spare(&request));
        let entered = connection.load.enter();
        let mut sender = connection.sender();
        match sender.try_send_request(request).await {
            Ok(response) => {
                picked.answered(Outcome::Success, self.now());
                Ok(response.map(|body| ResponseBody::new(body, InFlight::new(picked, entered))))
            }
            Err(mut error) => {
                let unsent = error.take_message();
                let mut broken = Broken::sent(error.into_error(), connection.is_refused());
                broken.untouched |= unsent.is_some();
                // A stream that is reset says something about one request; a connection that is gone, about the endpoint.
                if sender.is_closed() {
                    picked.finish(Outcome::Failure, self.now());
                }
                Err((broken, unsent.or(spare)))
            }
        }
    }
}

fn spare(request: &Request<Body>) -> Option<Request<Body>> {
    let body = request.body().again()?;
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.method = request.method().clone();
    parts.uri = request.uri().clone();
    parts.headers = request.headers().clone();
    // Without it an extended CONNECT (RFC 8441) would be another request.
    if let Some(protocol) = request.extensions().get::<hyper::ext::Protocol>() {
        parts.extensions.insert(protocol.clone());
    }
    let parts: request::Parts = parts;
    Some(Request::from_parts(parts, body))
}

/// What routing's retry policy calls it; None where trying again does not help.
const fn cause(broken: &Broken) -> Option<Cause> {
    match broken.failure {
        _ if broken.untouched => Some(Cause::ConnectFailure),
        Failure::Reset => Some(Cause::Reset),
        _ => None,
    }
}

/// Connection-specific fields have no place in HTTP/2 (RFC 9113 §8.2.2), nor has `host` beside `:authority`.
fn fit_for_http2(headers: &mut HeaderMap) {
    const HOP_BY_HOP: [HeaderName; 6] = [
        header::CONNECTION,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        header::HOST,
    ];
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
    // `trailers` is the only value that HTTP/2 knows.
    if headers.get(header::TE).is_some_and(|te| te != "trailers") {
        headers.remove(header::TE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_specific_fields_are_left_out() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "x-hop, close"),
            ("x-hop", "1"),
            ("keep-alive", "1"),
            ("te", "gzip"),
            ("host", "a"),
            ("x-end", "2"),
        ] {
            headers.insert(HeaderName::from_static(name), value.parse().unwrap());
        }
        fit_for_http2(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-end"]);
        headers.insert(header::TE, "trailers".parse().unwrap());
        fit_for_http2(&mut headers);
        assert!(headers.contains_key(header::TE));
    }

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
    }
}

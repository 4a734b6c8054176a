//! One line per request, written when its answer ends, and its place in the metrics.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use gateway::exchange::Entropy;
use http::{HeaderName, HeaderValue, Method};
use routing::policy::Entered;

use crate::metrics::{self, RequestKey};
use crate::refusal::Refusal;
use crate::reply::Reply;

/// What is known of a request so far; it is written down when this is dropped, whatever became of the request.
#[derive(Debug)]
pub(crate) struct Record {
    metrics: Arc<metrics::Core>,
    /// When its head was there.
    pub(crate) began: Instant,
    /// None where the bytes that came are no request.
    method: Option<Method>,
    path: String,
    /// The route that matched.
    pub(crate) route: Option<Arc<str>>,
    /// The upstream that was tried last.
    pub(crate) upstream: Option<Arc<str>>,
    /// The endpoint that was tried last.
    pub(crate) endpoint: Option<Arc<str>>,
    /// How many attempts there were.
    pub(crate) attempts: u32,
    /// Why we answered ourselves.
    pub(crate) reason: Option<&'static str>,
    /// The answer's status; none where the client was gone before it came.
    pub(crate) status: Option<u16>,
    /// Its place among the requests under way, kept as long as this is: until the answer's body has ended.
    pub(crate) entered: Option<Entered>,
    request_id: Option<HeaderValue>,
    trace: Option<HeaderValue>,
    bytes: u64,
    broken: bool,
}

impl Record {
    pub(crate) fn begin(metrics: Arc<metrics::Core>, began: Instant) -> Self {
        metrics.active.fetch_add(1, Relaxed);
        Self {
            metrics,
            began,
            method: None,
            path: String::new(),
            route: None,
            upstream: None,
            endpoint: None,
            attempts: 0,
            reason: None,
            status: None,
            entered: None,
            request_id: None,
            trace: None,
            bytes: 0,
            broken: false,
        }
    }

    /// What the request is for.
    pub(crate) fn asks(&mut self, method: Method, path: &str) {
        self.method = Some(method);
        path.clone_into(&mut self.path);
    }

    /// Takes what the exchange sets: the ids under which the request is found elsewhere.
    pub(crate) fn note(&mut self, name: &HeaderName, value: &HeaderValue) {
        match name.as_str() {
            "x-request-id" => self.request_id = Some(value.clone()),
            "traceparent" => self.trace = Some(value.clone()),
            _ => {}
        }
    }

    /// The request is refused, with this answer.
    pub(crate) fn refused(&mut self, refusal: &Refusal, entropy: &Entropy) -> Reply {
        self.reason = Some(refusal.reason().label());
        let respond = refusal.respond(entropy);
        for (name, value) in &respond.fields {
            self.note(name, value);
        }
        Reply::Own {
            respond,
            close: refusal.closes(),
        }
    }

    /// Bytes of the answer went out.
    pub(crate) fn sent(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    /// The answer broke off.
    pub(crate) fn broke(&mut self) {
        self.broken = true;
    }
}

fn text(value: &HeaderValue) -> &str {
    value.to_str().unwrap_or_default()
}

/// What nginx writes for a client that went away before its answer came; no such status is ever sent.
const CLIENT_GONE: u16 = 499;

impl Drop for Record {
    fn drop(&mut self) {
        let duration = self.began.elapsed();
        let status = self.status.unwrap_or(CLIENT_GONE);
        self.metrics.active.fetch_sub(1, Relaxed);
        self.metrics.bytes.fetch_add(self.bytes, Relaxed);
        tracing::info!(
            target: "access",
            method = self.method.as_ref().map(Method::as_str),
            path = %self.path,
            status,
            route = self.route.as_deref(),
            upstream = self.upstream.as_deref(),
            endpoint = self.endpoint.as_deref(),
            attempts = self.attempts,
            reason = if self.status.is_none() { Some("client-gone") } else { self.reason },
            duration_us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX),
            bytes = self.bytes,
            broken = self.broken.then_some(true),
            request_id = self.request_id.as_ref().map(text),
            // VERSION-TRACE-PARENT-FLAGS (W3C Trace Context §3.2.2).
            trace_id = self.trace.as_ref().and_then(|trace| text(trace).split('-').nth(1)),
            "request"
        );
        let key = RequestKey {
            route: self.route.clone(),
            method: self.method.as_ref().map_or("_OTHER", metrics::method),
            status,
            reason: self.reason,
        };
        self.metrics.answered(key, duration);
    }
}

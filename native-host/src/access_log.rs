//! One line per request, written when its answer ends, and its place in the metrics.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use gateway::exchange::{Edit, Entropy};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
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
    /// As a label; none where the bytes that came are no request.
    method: Option<&'static str>,
    /// The route that matched.
    pub(crate) route: Option<Arc<str>>,
    /// Why we answered ourselves.
    pub(crate) reason: Option<&'static str>,
    /// The answer's status; none where the client was gone before it came.
    pub(crate) status: Option<u16>,
    /// Its place among the requests under way, kept as long as this is: until the answer's body has ended.
    pub(crate) entered: Option<Entered>,
    bytes: u64,
    broken: bool,
    /// What the line alone says; none where the log is off.
    line: Option<Box<Line>>,
    /// When all of the answer was on its way; none until then.
    ended: Option<Instant>,
}

/// What stands in the log and is counted nowhere.
#[derive(Debug, Default)]
struct Line {
    method: Option<Method>,
    path: String,
    /// The upstream that was tried last.
    upstream: Option<Arc<str>>,
    /// The endpoint that was tried last.
    endpoint: Option<Arc<str>>,
    /// How many attempts there were.
    attempts: u32,
    request_id: Option<HeaderValue>,
    trace: Option<HeaderValue>,
}

impl Record {
    pub(crate) fn begin(metrics: Arc<metrics::Core>, began: Instant) -> Self {
        metrics.active.fetch_add(1, Relaxed);
        Self {
            metrics,
            began,
            method: None,
            route: None,
            reason: None,
            status: None,
            entered: None,
            bytes: 0,
            broken: false,
            line: tracing::enabled!(target: "access", tracing::Level::INFO).then(Box::default),
            ended: None,
        }
    }

    /// What the request is for.
    pub(crate) fn asks(&mut self, method: &str, path: &str) {
        self.method = Some(metrics::method(method));
        if let Some(line) = &mut self.line {
            line.method = Method::from_bytes(method.as_bytes()).ok();
            path.clone_into(&mut line.path);
        }
    }

    /// An attempt is made, with these edits.
    pub(crate) fn attempts(&mut self, upstream: Option<&Arc<str>>, edits: &[Edit]) {
        let Some(line) = &mut self.line else { return };
        line.attempts += 1;
        line.upstream = upstream.cloned();
        for edit in edits {
            if let Edit::Set(name, value) = edit {
                line.note(name, value);
            }
        }
    }

    /// The attempt went to this endpoint, or to none.
    pub(crate) fn tried(&mut self, endpoint: Option<&Arc<str>>) {
        if let Some(line) = &mut self.line {
            line.endpoint = endpoint.cloned();
        }
    }

    /// We answer with these fields.
    pub(crate) fn answers(&mut self, fields: &HeaderMap) {
        if let Some(line) = &mut self.line {
            fields.iter().for_each(|(name, value)| line.note(name, value));
        }
    }

    /// The request is refused, with this answer.
    pub(crate) fn refused(&mut self, refusal: &Refusal, entropy: &Entropy) -> Reply {
        self.reason = Some(refusal.reason().label());
        let respond = refusal.respond(entropy);
        self.answers(&respond.fields);
        Reply::Own {
            respond: Box::new(respond),
            close: refusal.closes(),
        }
    }

    /// Bytes of the answer went out.
    pub(crate) fn sent(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    /// All of the answer is on its way, at the time that is returned.
    pub(crate) fn end(mut self) -> Instant {
        *self.ended.insert(Instant::now())
    }

    /// The answer broke off.
    pub(crate) fn broke(&mut self) {
        self.broken = true;
    }
}

impl Line {
    /// Takes what the exchange sets: the ids under which the request is found elsewhere.
    fn note(&mut self, name: &HeaderName, value: &HeaderValue) {
        match name.as_str() {
            "x-request-id" => self.request_id = Some(value.clone()),
            "traceparent" => self.trace = Some(value.clone()),
            _ => {}
        }
    }
}

fn text(value: &HeaderValue) -> &str {
    value.to_str().unwrap_or_default()
}

/// What nginx writes for a client that went away before its answer came; no such status is ever sent.
const CLIENT_GONE: u16 = 499;

impl Drop for Record {
    fn drop(&mut self) {
        let ended = self.ended.unwrap_or_else(Instant::now);
        let duration = ended.saturating_duration_since(self.began);
        let status = self.status.unwrap_or(CLIENT_GONE);
        self.metrics.active.fetch_sub(1, Relaxed);
        self.metrics.bytes.fetch_add(self.bytes, Relaxed);
        if let Some(line) = &self.line {
            tracing::info!(
                target: "access",
                method = line.method.as_ref().map(Method::as_str),
                path = %line.path,
                status,
                route = self.route.as_deref(),
                upstream = line.upstream.as_deref(),
                endpoint = line.endpoint.as_deref(),
                attempts = line.attempts,
                reason = if self.status.is_none() { Some("client-gone") } else { self.reason },
                duration_us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX),
                bytes = self.bytes,
                broken = self.broken.then_some(true),
                request_id = line.request_id.as_ref().map(text),
                // VERSION-TRACE-PARENT-FLAGS (W3C Trace Context §3.2.2).
                trace_id = line.trace.as_ref().and_then(|trace| text(trace).split('-').nth(1)),
                "request"
            );
        }
        let key = RequestKey {
            route: self.route.take(),
            method: self.method.unwrap_or("_OTHER"),
            status,
            reason: self.reason,
        };
        self.metrics.answered(key, duration);
    }
}

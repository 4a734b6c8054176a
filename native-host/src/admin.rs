//! The admin's pages, on their own listener and off the cores that serve requests.

use std::convert::Infallible;
use std::net::TcpListener;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};

use crate::drain;
use crate::metrics::Metrics;
use crate::options::Limits;
use crate::snapshot::Snapshots;

/// What the admin shows.
#[derive(Debug)]
pub(crate) struct Admin {
    pub(crate) snapshots: Arc<Snapshots>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) drain: drain::Watch,
}

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
/// Prometheus' text format, as its scraper asks for it.
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

impl Admin {
    /// Serves until `over` resolves, which is after the drain: who watches the drain wants to see it.
    pub(crate) async fn serve(
        self,
        listener: TcpListener,
        limits: Limits,
        over: impl Future<Output = ()>,
    ) -> std::io::Result<()> {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let admin = Arc::new(self);
        let mut over = std::pin::pin!(over);
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = over.as_mut() => return Ok(()),
            };
            let Ok((stream, _)) = accepted else {
                tokio::time::sleep(crate::worker::ACCEPT_AGAIN).await;
                continue;
            };
            let admin = Arc::clone(&admin);
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(limits.head_timeout);
            tokio::spawn(async move {
                let service = service_fn(move |request| {
                    let answer = admin.answer(&request);
                    async move { Ok::<_, Infallible>(answer) }
                });
                if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
                    tracing::debug!(%error, "admin connection broke");
                }
            });
        }
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut answer = page(StatusCode::METHOD_NOT_ALLOWED, TEXT, "the admin's pages are only read\n");
            answer
                .headers_mut()
                .insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return answer;
        }
        match request.uri().path() {
            "/live" => page(StatusCode::OK, TEXT, "live\n"),
            "/ready" if self.drain.begun() => page(StatusCode::SERVICE_UNAVAILABLE, TEXT, "draining\n"),
            "/ready" => page(StatusCode::OK, TEXT, format!("ready\n{}", self.snapshots.remarks())),
            "/metrics" => {
                let metrics = self.metrics.render(|page| self.snapshots.render(page));
                page(StatusCode::OK, METRICS, metrics)
            }
            "/config" => page(StatusCode::OK, TEXT, self.config()),
            "/routes" => page(StatusCode::OK, JSON, self.snapshots.current().routes_json()),
            _ => page(
                StatusCode::NOT_FOUND,
                TEXT,
                "the admin has /live, /ready, /metrics, /config and /routes\n",
            ),
        }
    }
}

impl Admin {
    /// The config that serves, with what there is to say about the one on disk as comments.
    fn config(&self) -> String {
        let remarks = self.snapshots.remarks();
        let remarks: String = remarks.lines().map(|line| format!("# {line}\n")).collect();
        remarks + &self.snapshots.current().redacted_config()
    }
}

fn page(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
        .headers_mut()
        .insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

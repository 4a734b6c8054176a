//! The admin endpoint: whether the control plane lives and is ready, what it counts, and how it is set.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::authority::Authority;
use crate::config::Config;
use crate::metrics::Metrics;

const CONNECTIONS: usize = 256;
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(100);

/// What the admin endpoint shows.
pub(super) struct Page {
    metrics: Arc<Metrics>,
    drain: CancellationToken,
    authority: Arc<Authority>,
    config: serde_json::Value,
}

impl Page {
    pub(super) fn new(
        config: &Config,
        authority: Arc<Authority>,
        control: SocketAddr,
        admin: SocketAddr,
        metrics: Arc<Metrics>,
        drain: CancellationToken,
    ) -> Self {
        let config = serde_json::json!({
            "listen": control.to_string(),
            "admin": admin.to_string(),
            "data_dir": config.data_dir,
            "trust_domain": authority.trust_domain().as_str(),
            "store": "embedded",
            "svid_ttl": seconds(config.svid_ttl),
            "lease_ttl": seconds(config.lease_ttl),
            "lease_grace": seconds(config.lease_grace),
            "drain": seconds(config.drain),
        });
        Self {
            metrics,
            drain,
            authority,
            config,
        }
    }

    /// The settings, and the root of the moment.
    fn config(&self) -> String {
        let mut config = self.config.clone();
        config["root_pin"] = self.authority.pin().to_string().into();
        format!("{config:#}\n")
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "the admin endpoint is read with GET\n");
            response
                .headers_mut()
                .insert(header::ALLOW, header::HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match request.uri().path() {
            "/live" => plain(StatusCode::OK, "live\n"),
            "/ready" if self.drain.is_cancelled() => plain(StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
            "/ready" => plain(StatusCode::OK, "ready\n"),
            "/metrics" => text(
                StatusCode::OK,
                "application/openmetrics-text; version=1.0.0; charset=utf-8",
                self.metrics.text(),
            ),
            "/config" => text(StatusCode::OK, "application/json", self.config()),
            _ => plain(StatusCode::NOT_FOUND, "there are /live, /ready, /metrics and /config\n"),
        }
    }
}

/// Serves for as long as it runs.
pub(super) async fn serve(listener: TcpListener, page: Page) {
    let (page, slots) = (Arc::new(page), Arc::new(Semaphore::new(CONNECTIONS)));
    loop {
        let slot = Arc::clone(&slots)
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "an admin connection could not be accepted");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let page = Arc::clone(&page);
        tokio::spawn(async move {
            let service = service_fn(|request| std::future::ready(Ok::<_, Infallible>(page.answer(&request))));
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service);
            // A peer that breaks off is its own business.
            let _ = connection.await;
            drop(slot);
        });
    }
}

fn seconds(duration: Duration) -> String {
    format!("{}s", duration.as_secs_f64())
}

fn plain(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    text(status, "text/plain; charset=utf-8", body)
}

fn text(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}

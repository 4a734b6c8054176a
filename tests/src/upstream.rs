//! An upstream that answers as told and remembers what it was asked.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, Response};

/// A request as the upstream saw it.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The method.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// The header fields.
    pub fields: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// A plaintext HTTP server on a free port of loopback, stopped when dropped.
#[derive(Debug)]
pub struct Upstream {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    _runtime: tokio::runtime::Runtime,
}

impl Upstream {
    /// Starts one whose answers `answer` makes.
    ///
    /// # Panics
    /// Where no port of loopback is free.
    #[must_use]
    pub fn start(answer: impl Fn(&Seen) -> Response<Body> + Send + Sync + 'static) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime can be made");
        let listener = runtime
            .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
            .expect("loopback has free ports");
        let address = listener.local_addr().expect("a bound listener has an address");
        let seen = Arc::<Mutex<Vec<Seen>>>::default();
        let (remembered, answer) = (seen.clone(), Arc::new(answer));
        let router = axum::Router::new().fallback(move |request: Request| {
            let (remembered, answer) = (remembered.clone(), answer.clone());
            async move {
                let (head, body) = request.into_parts();
                let request = Seen {
                    method: head.method.to_string(),
                    target: head.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
                    fields: head.headers,
                    body: axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default(),
                };
                if let Ok(mut remembered) = remembered.lock() {
                    remembered.push(request.clone());
                }
                answer(&request)
            }
        });
        runtime.spawn(async move { axum::serve(listener, router).await });
        Self {
            address,
            seen,
            _runtime: runtime,
        }
    }

    /// `http://ADDRESS`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What it was asked so far; a request is remembered before it is answered.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().map(|seen| seen.clone()).unwrap_or_default()
    }
}

//! Calling: URL → service → route → snapshot → balancer → pooled connection → mutual TLS, or however the document of the mesh says that
//! somebody outside of it is spoken to.

mod body;
mod call;
mod error;
mod load;
mod options;
mod outside;
mod pool;
mod send;
mod service;
mod upstream;

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Buf;
use http::uri::Uri;
use http::{Request, Response};
use identity::ServiceName;
use tower::Service;

pub use body::{Body, BodyError, ResponseBody};
pub(crate) use error::Broken;
pub use error::{Error, Failure};
pub use options::{Affinity, ClientOptions};
pub(crate) use service::{Service as Called, Services, Target};

use crate::BoxError;
use upstream::Upstream;

/// Services that one client remembers before it forgets those that nobody serves.
const REMEMBERED: usize = 256;

/// Calls services of the mesh by URL: `http://SERVICE.mesh/…`. A `tower::Service` that is always ready.
///
/// Clones share their connections; every [`Mesh::client`](crate::Mesh::client) has its own. So a program with a runtime per core
/// takes one for each, and no connection ever changes cores: the tasks of a connection live on the runtime that called first.
#[derive(Clone)]
pub struct Client(Arc<Shared>);

struct Shared {
    services: Arc<Services>,
    options: ClientOptions,
    upstreams: Mutex<HashMap<ServiceName, Arc<Upstream>>>,
}

impl Client {
    pub(crate) fn new(services: Arc<Services>, options: ClientOptions) -> Self {
        let upstreams = Mutex::default();
        Self(Arc::new(Shared {
            services,
            options,
            upstreams,
        }))
    }

    /// Sends `request` and waits for the head of its answer, whose extensions say which
    /// [`Endpoint`](crate::discovery::Endpoint) gave it. Dropping the future gives the request up.
    ///
    /// # Errors
    /// [`Error`], which says what kind of failure it was and whether anybody saw the request.
    pub async fn request<B>(&self, request: Request<B>) -> Result<Response<ResponseBody>, Error>
    where
        B: http_body::Body + Send + 'static,
        B::Data: Buf + Send,
        B::Error: Into<BoxError>,
    {
        self.0.call(request.map(Body::new)).await
    }

    /// Gets `url`.
    ///
    /// # Errors
    /// As [`request`](Self::request).
    pub async fn get(&self, url: &str) -> Result<Response<ResponseBody>, Error> {
        let request = Request::get(url)
            .body(Body::empty())
            .map_err(|_| Error::new(Failure::Url, url))?;
        self.0.call(request).await
    }
}

impl<B> Service<Request<B>> for Client
where
    B: http_body::Body + Send + 'static,
    B::Data: Buf + Send,
    B::Error: Into<BoxError>,
{
    type Response = Response<ResponseBody>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let shared = Arc::clone(&self.0);
        let request = request.map(Body::new);
        Box::pin(async move { shared.call(request).await })
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("options", &self.0.options)
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn upstream(&self, service: &ServiceName) -> Arc<Upstream> {
        let mut upstreams = self.upstreams.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(upstream) = upstreams.get(service) {
            return Arc::clone(upstream);
        }
        // Names come from URLs, and URLs may come from anybody.
        if upstreams.len() >= REMEMBERED {
            upstreams.retain(|_, upstream| upstream.is_served());
        }
        let new = Upstream::new(self.services.service(service), &self.services, &self.options);
        Arc::clone(upstreams.entry(service.clone()).or_insert_with(|| Arc::new(new)))
    }
}

/// The service that a URL names: its host without `.mesh`. Host names know no case (RFC 3986 §3.2.2). A port would suggest that it
/// matters, and user information has no place here.
fn service_of(uri: &Uri) -> Option<ServiceName> {
    let scheme = uri.scheme_str()?;
    let authority = uri.authority()?.as_str();
    if !matches!(scheme, "http" | "https") {
        return None;
    }
    ServiceName::new(authority.to_ascii_lowercase().strip_suffix(".mesh")?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_its_service_before_mesh() {
        let service = |url: &str| service_of(&url.parse().unwrap()).map(|name| name.to_string());
        for url in [
            "http://accounts.mesh",
            "http://accounts.mesh/x?y",
            "https://accounts.mesh/",
            "http://Accounts.MESH/",
        ] {
            assert_eq!(service(url).as_deref(), Some("accounts"), "{url}");
        }
        for url in [
            "/x",
            "http://accounts/",
            "http://accounts.mesh:80/",
            "http://me@accounts.mesh/",
            "ftp://accounts.mesh/",
            "http://a.b.mesh/",
            "http://.mesh/",
        ] {
            assert_eq!(service(url), None, "{url}");
        }
    }
}

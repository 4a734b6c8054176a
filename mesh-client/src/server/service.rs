//! What can be served.

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use tower::Service;

use crate::BoxError;

/// Any tower service that answers requests, an axum `Router` for one. It is implemented for whatever fits, and by nobody else.
pub trait HttpService:
    Service<Request<Incoming>, Response = Response<<Self as HttpService>::Body>, Error: Into<BoxError>, Future: Send>
    + Clone
    + Send
    + 'static
{
    /// The body of its answers.
    type Body: Body<Data: Send, Error: Into<BoxError>> + Send + 'static;
}

impl<S, B> HttpService for S
where
    S: Service<Request<Incoming>, Response = Response<B>, Error: Into<BoxError>, Future: Send> + Clone + Send + 'static,
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    type Body = B;
}

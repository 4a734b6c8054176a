//! Sending one request over a connection that somebody chose.

use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderName};
use http::{Request, Response};
use hyper::body::Incoming;

use super::body::Body;
use super::error::Broken;
use super::load::Entered;
use super::pool::{Connection, Pool};
use super::upstream::Connections;

/// A request that was lost on its way.
pub(super) struct Lost {
    pub(super) broken: Broken,
    /// The request, where nothing of it was sent.
    pub(super) unsent: Option<Request<Body>>,
    /// Whether the connection is gone, or was never made.
    pub(super) is_gone: bool,
}

impl Lost {
    pub(super) fn unsent(broken: Broken, request: Request<Body>) -> Box<Self> {
        Box::new(Self {
            broken,
            unsent: Some(request),
            is_gone: false,
        })
    }
}

/// Sends a request to an endpoint. How much is under way on its connection is counted where requests share one.
pub(super) async fn send(
    connections: &Connections,
    request: Request<Body>,
) -> Result<(Response<Incoming>, Option<Entered>), Box<Lost>> {
    match connections {
        Connections::Mesh(pool) => {
            let (response, entered) = send_in_mesh(pool, request).await?;
            Ok((response, Some(entered)))
        }
        Connections::Outside(pool) => Ok((pool.send(request).await?, None)),
    }
}

/// Sends a request over one of the pool's connections.
async fn send_in_mesh(pool: &Arc<Pool>, request: Request<Body>) -> Result<(Response<Incoming>, Entered), Box<Lost>> {
    let connection: Arc<Connection> = match pool.connection().await {
        Ok(connection) => connection,
        Err(broken) => {
            return Err(Box::new(Lost {
                broken,
                unsent: Some(request),
                is_gone: true,
            }));
        }
    };
    let entered = connection.load.enter();
    let mut sender = connection.sender();
    match sender.try_send_request(request).await {
        Ok(response) => Ok((response, entered)),
        Err(mut error) => {
            let unsent = error.take_message();
            let mut broken = Broken::sent(error.into_error(), connection.is_refused());
            broken.untouched |= unsent.is_some();
            Err(Box::new(Lost {
                broken,
                unsent,
                is_gone: sender.is_closed(),
            }))
        }
    }
}

/// A copy of a request, where its body can be sent again.
pub(super) fn spare(request: &Request<Body>) -> Option<Request<Body>> {
    let body = request.body().again()?;
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.method = request.method().clone();
    parts.uri = request.uri().clone();
    parts.headers = request.headers().clone();
    // Without it an extended CONNECT (RFC 8441) would be another request.
    if let Some(protocol) = request.extensions().get::<hyper::ext::Protocol>() {
        parts.extensions.insert(protocol.clone());
    }
    Some(Request::from_parts(parts, body))
}

/// Connection-specific fields have no place in HTTP/2 (RFC 9113 §8.2.2), nor has `host` beside `:authority`.
pub(super) fn fit_for_http2(headers: &mut HeaderMap) {
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
}

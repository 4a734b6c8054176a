//! Requests over hyper's codec for HTTP/1, for comparison and as the way out should ours be at fault.

use std::rc::Rc;
use std::time::Instant;

use gateway::exchange::Failure;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;

use super::pool::Pool;
use crate::body::{AttemptBody, RequestBody};

pub(super) type Kept = Pool<SendRequest<AttemptBody>>;

/// A connection that goes back to its pool.
pub(super) struct Lease {
    pub(super) connection: SendRequest<AttemptBody>,
    pub(super) pool: Rc<Kept>,
    /// The request's body: where the answer came before its end, the connection cannot be used again.
    pub(super) request: Option<RequestBody>,
}

impl Lease {
    pub(super) fn give_back(self) {
        if self.request.is_none_or(|request| request.sent()) {
            self.pool.put(self.connection, Instant::now());
        }
    }
}

/// The connection that was used last and is still good.
pub(super) async fn kept(pool: &Kept, now: Instant) -> Option<SendRequest<AttemptBody>> {
    loop {
        let mut connection = pool.take(now)?;
        // Ready at once but where its own task has not yet noticed that the answer before is over.
        if connection.ready().await.is_ok() {
            return Some(connection);
        }
    }
}

/// Sends a request and waits for the head of its answer.
pub(super) async fn send(
    connection: &mut SendRequest<AttemptBody>,
    request: Request<AttemptBody>,
) -> Result<Response<Incoming>, super::by_codec::Lost> {
    use super::by_codec::Lost;
    match connection.try_send_request(request).await {
        // 101 would be the answer to an upgrade that nobody asked for; the others hyper keeps to itself.
        Ok(response) if response.status().is_informational() => Err(Lost {
            failure: Failure::Protocol,
            unheard: false,
            unsent: false,
        }),
        Ok(response) => Ok(response),
        Err(mut error) => {
            let unsent = error.take_message().is_some();
            let error = error.into_error();
            tracing::debug!(%error, "attempt failed");
            Err(Lost {
                failure: failure(&error),
                unheard: error.is_incomplete_message() || error.is_closed() || error.is_canceled() || is_reset(&error),
                unsent,
            })
        }
    }
}

fn is_reset(error: &hyper::Error) -> bool {
    std::error::Error::source(error)
        .and_then(|source| source.downcast_ref::<std::io::Error>())
        .is_some_and(|io| {
            matches!(
                io.kind(),
                std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe
            )
        })
}

fn failure(error: &hyper::Error) -> Failure {
    if error.is_timeout() {
        Failure::Timeout
    } else if error.is_parse() {
        Failure::Protocol
    } else {
        Failure::Reset
    }
}

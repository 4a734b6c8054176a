//! A component's own requests, over connections that this core keeps.

use std::cell::RefCell;
use std::collections::HashMap;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

use crate::upstream::pool::{self, Address, Pool};

thread_local! {
    /// This core's kept connections, by authority. What wasmtime is handed must be `Send`, so the pool cannot be passed in;
    /// its futures are polled on this core alone all the same.
    static KEPT: RefCell<HashMap<String, Rc<Pool<SendRequest<WasiBody>>>>> = RefCell::default();
}

/// Sends a component's requests over kept connections.
pub(super) struct Outbound;

type Outcome = Result<(), Error>;

impl WasiHttpHooks for Outbound {
    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        processed: Box<dyn Future<Output = Outcome> + Send>,
    ) -> Box<dyn Future<Output = Result<(Response<WasiBody>, Box<dyn Future<Output = Outcome> + Send>), Error>> + Send> {
        if request.uri().scheme() == Some(&http::uri::Scheme::HTTPS) {
            // TLS to strangers is the stock handler's: kept connections are for the services next door.
            return Box::new(async move {
                let (response, io) = wasmtime_wasi_http::default_send_request(request, options).await?;
                Ok((
                    response.map(http_body_util::BodyExt::boxed_unsync),
                    Box::new(io) as Box<dyn Future<Output = Outcome> + Send>,
                ))
            });
        }
        drop(processed);
        Box::new(async move {
            let response = send(request, options.unwrap_or_default()).await?;
            Ok((
                response,
                Box::new(std::future::ready(Ok(()))) as Box<dyn Future<Output = Outcome> + Send>,
            ))
        })
    }
}

async fn send(request: Request<WasiBody>, options: RequestOptions) -> Result<Response<WasiBody>, Error> {
    let (mut head, body) = request.into_parts();
    let authority = head.uri.authority().ok_or(Error::HttpRequestUriInvalid)?.clone();
    let key = authority.as_str().to_owned();
    head.uri = head
        .uri
        .path_and_query()
        .map_or_else(|| Uri::from_static("/"), |target| Uri::from(target.clone()));
    head.version = http::Version::HTTP_11;
    let mut connection = checkout(&key, &authority, options.connect_timeout).await?;
    let (body, sent) = Upload::new(body);
    let answer = connection.send_request(Request::from_parts(head, body.boxed_unsync()));
    let response = match options.first_byte_timeout {
        Some(limit) => tokio::time::timeout(limit, answer)
            .await
            .map_err(|_| Error::ConnectionReadTimeout)??,
        None => answer.await?,
    };
    let (mut head, body) = response.into_parts();
    // A guest never sees `Connection`, and so cannot know what else it names.
    gateway::strip_hop_by_hop(&mut head.headers);
    let mut kept = Kept {
        body,
        sent,
        back: Some((key, connection)),
    };
    kept.give_back();
    Ok(Response::from_parts(head, kept.boxed_unsync()))
}

async fn checkout(
    key: &str,
    authority: &http::uri::Authority,
    limit: Option<Duration>,
) -> Result<SendRequest<WasiBody>, Error> {
    loop {
        let kept = KEPT.with_borrow(|kept| kept.get(key).and_then(|pool| pool.take(Instant::now())));
        match kept {
            Some(mut connection) => {
                if connection.ready().await.is_ok() {
                    return Ok(connection);
                }
            }
            None => break,
        }
    }
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    let address = Address {
        host,
        port: authority.port_u16().unwrap_or(80),
    };
    let connect = pool::dial_hyper(&address, ());
    match limit {
        Some(limit) => tokio::time::timeout(limit, connect)
            .await
            .map_err(|_| Error::ConnectionTimeout)?,
        None => connect.await,
    }
    .map_err(Error::Connect)
}

/// A request's body that says when hyper is done with it: a body is dropped once it was sent to its end, and at once where hyper sends none
/// of it, as of a GET whose body has no known length.
struct Upload {
    body: WasiBody,
    sent: Arc<AtomicBool>,
}

impl Upload {
    fn new(body: WasiBody) -> (Self, Arc<AtomicBool>) {
        let sent = Arc::new(AtomicBool::new(false));
        let upload = Self {
            body,
            sent: Arc::clone(&sent),
        };
        (upload, sent)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.sent.store(true, Relaxed);
    }
}

impl http_body::Body for Upload {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<http_body::Frame<Bytes>, Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

/// An answer whose connection is kept once it was read to its end, and the request was sent to its own.
struct Kept {
    body: Incoming,
    sent: Arc<AtomicBool>,
    back: Option<(String, SendRequest<WasiBody>)>,
}

impl Kept {
    fn give_back(&mut self) {
        if self.body.is_end_stream()
            && let Some((key, connection)) = self.back.take()
            && self.sent.load(Relaxed)
        {
            KEPT.with_borrow_mut(|kept| Rc::clone(kept.entry(key).or_default()).put(connection, Instant::now()));
        }
    }
}

impl http_body::Body for Kept {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<http_body::Frame<Bytes>, Error>>> {
        let this = self.get_mut();
        let frame = std::task::ready!(Pin::new(&mut this.body).poll_frame(cx));
        this.give_back();
        Poll::Ready(frame.map(|frame| frame.map_err(Error::from)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::StreamBody;
    use http_body_util::combinators::UnsyncBoxBody;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// A body of which nobody knows when it ends.
    fn endless() -> UnsyncBoxBody<Bytes, Error> {
        StreamBody::new(futures_util::stream::pending::<Result<http_body::Frame<Bytes>, Error>>()).boxed_unsync()
    }

    /// Whether a request with a body that does not end counts as sent when its answer is there.
    async fn is_sent(method: http::Method) -> bool {
        let (ours, mut theirs) = tokio::io::duplex(1024);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(ours))
            .await
            .unwrap();
        tokio::spawn(connection);
        let (body, sent) = Upload::new(endless());
        let request = Request::builder().method(method).uri("/").body(body).unwrap();
        let (answer, ()) = tokio::join!(sender.send_request(request), async {
            assert!(theirs.read(&mut [0; 1024]).await.unwrap() > 0);
            theirs
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                .await
                .unwrap();
        });
        assert!(answer.unwrap().status().is_success());
        sent.load(Relaxed)
    }

    #[tokio::test]
    async fn a_get_is_sent_whatever_its_body_may_still_hold() {
        assert!(is_sent(http::Method::GET).await);
    }

    #[tokio::test]
    async fn a_post_whose_body_goes_on_is_not_sent() {
        assert!(!is_sent(http::Method::POST).await);
    }
}

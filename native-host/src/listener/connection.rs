//! One client connection: which HTTP it speaks, and who reads it.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use gateway::exchange::Entropy;
use routing::Scheme;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::sync::Notify;

use super::{by_codec, by_hyper};
use crate::access_log::Record;
use crate::drain;
use crate::inbound::Inbound;
use crate::metrics;
use crate::options::{Http1, Limits};
use crate::refusal::Refusal;
use crate::reload::Next;
use crate::reply::Reply;

/// Where a request came from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Client {
    /// The other end.
    pub(crate) address: SocketAddr,
    /// Whether it came over TLS.
    pub(crate) scheme: Scheme,
}

/// What answers the requests of a core's connections.
pub(crate) trait Front: 'static {
    /// Does what is due from time to time.
    fn sweep(&self) {}

    /// Serves the requests to come with what is next; those in flight end with what they began with.
    fn adopt(&self, next: Next);

    /// What this core counts.
    fn metrics(&self) -> Arc<metrics::Core>;

    /// Fresh randomness, for an answer that nothing else decides.
    fn entropy(&self) -> Entropy;

    /// Answers one request.
    fn answer(&self, inbound: &Inbound, record: &mut Record) -> impl Future<Output = Result<Reply, Refusal>>;
}

/// The connections that a core has open.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    open: Cell<usize>,
    closed: Notify,
}

impl Connections {
    /// How many are open.
    pub(crate) fn open(&self) -> usize {
        self.open.get()
    }

    /// Counts one more until the guard is dropped.
    pub(crate) fn enter(self: &Rc<Self>) -> Open {
        self.open.set(self.open.get() + 1);
        Open(Rc::clone(self))
    }

    /// Resolves when fewer than `limit` are open.
    pub(crate) async fn below(&self, limit: usize) {
        while self.open.get() >= limit {
            self.closed.notified().await;
        }
    }
}

/// An open connection.
#[derive(Debug)]
pub(crate) struct Open(Rc<Connections>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        self.0.closed.notify_one();
    }
}

/// How an HTTP/2 connection begins without TLS (RFC 9113 §3.4). No HTTP/1 method begins with these four bytes.
const PREFACE: &[u8] = b"PRI ";

/// How connections are served.
#[derive(Debug, Clone)]
pub(crate) struct Serving {
    /// What clients may demand.
    pub(crate) limits: Rc<Limits>,
    /// Whose codec reads HTTP/1.
    pub(crate) http1: Http1,
    /// When to stop.
    pub(crate) drain: drain::Watch,
}

/// Serves one connection until it ends, its client dawdles, or the drain is done with it.
pub(crate) async fn serve<S, F>(mut stream: S, client: Client, front: Rc<F>, serving: Serving)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Front,
{
    let Serving { limits, http1, drain } = serving;
    let Some(first) = greeting(&mut stream, &limits, drain.clone()).await else {
        return;
    };
    let http2 = first.starts_with(PREFACE);
    match http1 {
        Http1::Own if !http2 => by_codec::serve(Box::new(stream), first, client, front, limits, drain).await,
        // On the heap, so that the others are not as large: hyper's state is by far the larger one.
        _ => Box::pin(by_hyper::serve(stream, first.freeze(), http2, client, front, limits, drain)).await,
    }
}

/// How long a connection without a byte may still speak up after the drain has begun: long enough for a request that is on its
/// way, short enough not to hold the drain up for a browser's spare connection.
pub(super) const LAST_CALL: Duration = Duration::from_millis(250);

/// The first bytes of a connection, where they come in time.
async fn greeting(stream: &mut (impl AsyncRead + Unpin), limits: &Limits, drain: drain::Watch) -> Option<BytesMut> {
    let mut first = pin!(tokio::time::timeout(limits.head_timeout, first_bytes(stream)));
    let first = tokio::select! {
        biased;
        first = first.as_mut() => first.ok()?,
        () = drain.wait() => tokio::time::timeout(LAST_CALL, first).await.ok()?.ok()?,
    };
    first.ok().filter(|bytes| !bytes.is_empty())
}

/// Reads until it is plain which HTTP this is; nothing where the client closed without a word.
async fn first_bytes(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<BytesMut> {
    let mut bytes = BytesMut::with_capacity(4096);
    loop {
        let read = stream.read_buf(&mut bytes).await?;
        let seen = bytes.len().min(PREFACE.len());
        if read == 0 || seen == PREFACE.len() || bytes[..seen] != PREFACE[..seen] {
            return Ok(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;
    use crate::core::Current;
    use crate::engine::Native;

    fn size<A, F>(_: impl FnOnce(A) -> F) -> usize {
        size_of::<F>()
    }

    /// A connection holds it for as long as it is open.
    #[test]
    fn a_connection_waits_in_less_than_five_kilobytes() {
        type Given = (TcpStream, Client, Rc<Current<Native>>, Serving);
        let size = size(|(stream, client, front, serving): Given| serve(stream, client, front, serving));
        assert!(size < 5_000, "{size}");
    }
}

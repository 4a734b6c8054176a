//! The TLS front: a handshake that ends in time, and then a stream of bytes like any other.

use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::{HandshakeKind, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::connection::{Connections, LAST_CALL, Open};
use crate::drain;
use crate::metrics;

/// The configuration in force, for every core: a new handshake takes what is there, a connection keeps what it began with.
pub(crate) type Current = Arc<ArcSwap<ServerConfig>>;

/// Ends TLS for the connections of one core.
#[derive(Debug, Clone)]
pub(crate) struct Front {
    current: Current,
    /// Handshakes under way.
    under_way: Rc<Connections>,
    limit: usize,
    timeout: Duration,
    metrics: Arc<metrics::Core>,
}

/// How a handshake ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Handshake {
    /// With the certificate shown and checked.
    Full,
    /// On a ticket of a session before.
    Resumed,
    /// Not at all: the two did not agree, or it was no TLS.
    Failed,
    /// Not in time.
    TimedOut,
}

impl Handshake {
    /// For a metric's label.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Resumed => "resumed",
            Self::Failed => "failed",
            Self::TimedOut => "timeout",
        }
    }
}

impl Front {
    /// At most `limit` handshakes at once on this core, each of which may take `timeout`.
    pub(crate) fn new(current: Current, limit: usize, timeout: Duration, metrics: Arc<metrics::Core>) -> Self {
        Self {
            current,
            under_way: Rc::default(),
            limit,
            timeout,
            metrics,
        }
    }

    /// Resolves when there is room for one more handshake.
    pub(crate) async fn room(&self) {
        self.under_way.below(self.limit).await;
    }

    /// Takes a place among the handshakes under way.
    pub(crate) fn enter(&self) -> Open {
        self.under_way.enter()
    }

    /// Shakes hands; none where that came to nothing, which is counted, or where the drain has begun and the client is not
    /// quick about it.
    pub(crate) async fn accept<S>(&self, stream: S, place: Open, drain: drain::Watch) -> Option<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let _place = place;
        let accepting = TlsAcceptor::from(self.current.load_full()).accept(stream);
        let mut accepting = pin!(tokio::time::timeout(self.timeout, accepting));
        let ended = tokio::select! {
            biased;
            ended = accepting.as_mut() => ended,
            () = drain.wait() => tokio::time::timeout(LAST_CALL, accepting).await.ok()?,
        };
        let (handshake, stream) = outcome(ended.ok());
        self.metrics.shook_hands(handshake);
        stream
    }
}

fn outcome<S>(ended: Option<io::Result<TlsStream<S>>>) -> (Handshake, Option<TlsStream<S>>) {
    match ended {
        Some(Ok(stream)) => {
            let resumed = stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
            (if resumed { Handshake::Resumed } else { Handshake::Full }, Some(stream))
        }
        Some(Err(error)) => {
            tracing::debug!(%error, "a TLS handshake failed");
            (Handshake::Failed, None)
        }
        None => (Handshake::TimedOut, None),
    }
}

//! The end that is called: mutual TLS → the policy → a place among those that are open → the service's own yes or no.

use std::fmt;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

use super::{Refusal, Stream, Verdict, prepare};
use crate::drain;
use crate::server::Connection;
use crate::tls::PeerIdentity;

/// How long a peer that is refused may take to hear it.
const FAREWELL: Duration = Duration::from_secs(1);

/// Somebody who wants to talk: who it is has been proven, and the policy of the mesh has no objection.
pub struct Arrival {
    stream: TlsStream<TcpStream>,
    peer: PeerIdentity,
}

impl Arrival {
    /// Who it is.
    #[must_use]
    pub const fn peer(&self) -> &PeerIdentity {
        &self.peer
    }

    /// Lets it in: from here on the bytes are the programs'.
    ///
    /// # Errors
    /// Where the peer is gone.
    pub async fn accept(mut self) -> io::Result<Stream> {
        self.say(Verdict::Ready).await?;
        Ok(Stream {
            io: Either::Left(self.stream.into()),
            held: None,
            revoked: Box::pin(std::future::pending()),
        })
    }

    /// Sends it away, with the reason.
    pub async fn refuse(mut self, refusal: Refusal) {
        tracing::info!(peer = %self.peer.id(), %refusal, "a connection was refused");
        let told = async {
            self.say(Verdict::Refused(refusal)).await?;
            self.stream.shutdown().await
        };
        // Whoever does not wait for the answer does not need it.
        let _ = timeout(FAREWELL, told).await;
    }

    async fn say(&mut self, verdict: Verdict) -> io::Result<()> {
        self.stream.write_u8(verdict.byte()).await?;
        self.stream.flush().await
    }
}

impl fmt::Debug for Arrival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arrival").field("peer", &self.peer).finish_non_exhaustive()
    }
}

/// Where arrivals are received: as many at one time as there are places.
#[derive(Clone)]
pub(crate) struct Hall<H> {
    service: H,
    places: Arc<Semaphore>,
}

impl<H, F> Hall<H>
where
    H: Fn(Arrival) -> F,
    F: Future<Output = ()>,
{
    pub(crate) fn new(service: H, places: usize) -> Self {
        Self {
            service,
            places: Arc::new(Semaphore::new(places.min(Semaphore::MAX_PERMITS))),
        }
    }

    /// Serves one connection to its end.
    ///
    /// It outlives the certificate that opened it: a database's connections last for days, and cutting each every hour would help
    /// nobody. What ends it early is a policy that does not let its peer in any more, and an identity that is taken away.
    pub(crate) async fn receive(
        self,
        connection: Connection,
        stream: TcpStream,
        handshake: OwnedSemaphorePermit,
        mut stopping: drain::Watch,
    ) {
        prepare(&stream);
        let Some((stream, Some(peer))) = connection.shake_hands(stream, handshake).await else {
            return;
        };
        let arrival = Arrival { stream, peer };
        let Some(guard) = &connection.guard else {
            return arrival.refuse(Refusal::Forbidden).await;
        };
        let changes = guard.changes();
        if !guard.admits_opaque(&arrival.peer) {
            return arrival.refuse(Refusal::Forbidden).await;
        }
        let Ok(_place) = Arc::clone(&self.places).try_acquire_owned() else {
            return arrival.refuse(Refusal::Overloaded).await;
        };
        let peer = arrival.peer.clone();
        tokio::select! {
            () = (self.service)(arrival) => {}
            () = guard.denies_opaque(&peer, changes) => {
                tracing::info!(peer = %peer.id(), "a connection was closed by the policy");
            }
            () = connection.revoked(Some(&peer)) => {}
            () = async { stopping.started().await; sleep(connection.limits.drain).await } => {
                tracing::info!(peer = %peer.id(), "a connection was closed at the end of the drain");
            }
        }
    }
}

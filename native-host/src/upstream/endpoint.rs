//! One endpoint of an upstream, as this core sees it: its address and the connections that are kept to it.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use gateway::exchange::{self, Attempt, Failure};
use routing::upstream::EndpointAddress;

use super::answered::Head;
use super::body::{Leased, Source};
use super::by_codec::{Call, Link, Lost};
use super::by_hyper::{self, Kept, Lease};
use super::pool::{self, Address, Pool};
use super::request::{self, OwnHost};
use super::shared::Choice;
use crate::inbound::Inbound;
use crate::metrics;
use crate::options::Http1;

/// An endpoint. Clones share its connections.
#[derive(Debug, Clone)]
pub(super) struct Endpoint {
    /// `host:port`, for logs.
    pub(super) name: Arc<str>,
    host: OwnHost,
    address: Address,
    kept: Connections,
}

/// Connections, by the codec that they speak through.
#[derive(Debug, Clone)]
enum Connections {
    Codec(Rc<Pool<Box<Link>>>),
    Hyper(Rc<Kept>),
}

impl Endpoint {
    fn new(at: &EndpointAddress, http1: Http1) -> Self {
        let name: Arc<str> = at.to_string().into();
        // The default port is left out of `Host` (RFC 9110 §7.2).
        let authority = name.strip_suffix(":80").unwrap_or(&name);
        Self {
            host: OwnHost::new(authority),
            address: Address {
                host: at.host.to_string(),
                port: at.port,
            },
            name,
            kept: match http1 {
                Http1::Own => Connections::Codec(Rc::default()),
                Http1::Hyper => Connections::Hyper(Rc::default()),
            },
        }
    }

    /// The endpoint at this address: one of those that are known, with its connections, or a new one.
    pub(super) fn known_or_new(at: &EndpointAddress, http1: Http1, known: &[Self]) -> Self {
        let new = Self::new(at, http1);
        known.iter().find(|known| known.name == new.name).cloned().unwrap_or(new)
    }

    /// Closes the connections that were idle for too long.
    pub(super) fn sweep(&self, now: Instant) {
        match &self.kept {
            Connections::Codec(pool) => pool.sweep(now),
            Connections::Hyper(pool) => pool.sweep(now),
        }
    }

    /// Sends an attempt's request and gives the answer's head, and what its body comes by.
    ///
    /// A kept connection may have been closed by its server just when it was taken. Where nothing was sent, or where the
    /// method is idempotent and nothing was answered (RFC 9112 §9.3.1), the request goes once more, on a fresh connection:
    /// that is the pool's own doing and no attempt.
    pub(super) async fn send(
        &self,
        choice: &Choice,
        attempt: &Attempt,
        inbound: &Inbound,
        now: Instant,
        metrics: &metrics::Core,
    ) -> Result<(Head, Source), Failure> {
        let mut fresh = false;
        loop {
            let once = Once {
                endpoint: self,
                choice,
                attempt,
                inbound,
                now,
                metrics,
            };
            let (was_kept, sent) = match &self.kept {
                Connections::Codec(pool) => once.by_codec(pool, fresh).await?,
                Connections::Hyper(pool) => once.by_hyper(pool, fresh).await?,
            };
            match sent {
                Ok(answered) => return Ok(answered),
                Err(lost) => {
                    tracing::debug!(endpoint = %self.name, failure = ?lost.failure, "attempt failed");
                    let again = lost.unsent || is_idempotent(attempt, inbound) && replayable(attempt, inbound);
                    if !was_kept || !lost.unheard || !again {
                        return Err(lost.failure);
                    }
                }
            }
            fresh = true;
        }
    }
}

/// An attempt's request, sent once. Each way gives whether the connection was a kept one.
struct Once<'a> {
    endpoint: &'a Endpoint,
    choice: &'a Choice,
    attempt: &'a Attempt,
    inbound: &'a Inbound,
    now: Instant,
    metrics: &'a metrics::Core,
}

type Sent = (bool, Result<(Head, Source), Lost>);

impl Once<'_> {
    async fn by_codec(&self, pool: &Rc<Pool<Box<Link>>>, fresh: bool) -> Result<Sent, Failure> {
        let kept = if fresh { None } else { pool.take(self.now) };
        let was_kept = kept.is_some();
        let mut link = match kept {
            Some(link) => link,
            None => {
                let connected = self.choice.connect()?;
                Link::new(self.connect(pool::dial(&self.endpoint.address)).await?, connected)
            }
        };
        let out = link.outgoing.tail();
        let sending = request::write(self.attempt, self.inbound, &self.endpoint.host, out).ok_or(Failure::Protocol)?;
        let mut call = Call::new(link, Rc::clone(pool), sending);
        let head = poll_fn(|cx| call.poll_head(cx)).await;
        Ok((was_kept, head.map(|head| (Head::Raw(head), Source::Call(call)))))
    }

    async fn by_hyper(&self, pool: &Rc<Kept>, fresh: bool) -> Result<Sent, Failure> {
        let kept = if fresh { None } else { by_hyper::kept(pool, self.now).await };
        let was_kept = kept.is_some();
        let mut connection = match kept {
            Some(connection) => connection,
            None => {
                let connected = self.choice.connect()?;
                self.connect(pool::dial_hyper(&self.endpoint.address, connected)).await?
            }
        };
        let request = request::build(self.attempt, self.inbound, &self.endpoint.host.value).ok_or(Failure::Protocol)?;
        let sent = by_hyper::send(&mut connection, request).await;
        let streamed = self.attempt.body == exchange::AttemptBody::Request;
        let lease = Lease {
            connection,
            pool: Rc::clone(pool),
            request: streamed.then(|| self.inbound.body.clone()),
        };
        let answered = sent.map(|response| {
            let (head, body) = response.into_parts();
            let lease = Some(lease);
            (Head::Parsed(Box::new(head)), Source::Hyper(Box::new(Leased { body, lease })))
        });
        Ok((was_kept, answered))
    }

    async fn connect<C>(&self, connecting: impl Future<Output = io::Result<C>>) -> Result<C, Failure> {
        let _queued = self.choice.queue()?;
        self.metrics.connects.fetch_add(1, Relaxed);
        connecting.await.map_err(|error| {
            tracing::debug!(endpoint = %self.endpoint.name, %error, "cannot connect");
            Failure::Connect
        })
    }
}

/// Whether the request can be sent again from its beginning.
pub(super) fn replayable(attempt: &Attempt, inbound: &Inbound) -> bool {
    attempt.body == exchange::AttemptBody::Empty || inbound.body.replayable()
}

/// RFC 9110 §9.2.2.
fn is_idempotent(attempt: &Attempt, inbound: &Inbound) -> bool {
    let method = attempt
        .method
        .as_ref()
        .map_or(inbound.head.method(), |method| method.as_str());
    matches!(method, "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE")
}

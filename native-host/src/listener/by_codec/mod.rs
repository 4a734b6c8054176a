//! A client connection that our own codec reads: one task reads requests, has them answered, and writes the answers.

mod wire;

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use futures_util::future::LocalBoxFuture;
use http::HeaderMap;
use http_body::Body as _;
use http1::{Asked, Decoded, Error, RequestDecoder, RequestHead, Version};
use tokio::io::AsyncWrite as _;

use super::connection::{Client, Front};
use crate::access_log::Record;
use crate::alarm::Alarm;
use crate::body::RequestBody;
use crate::drain;
use crate::inbound::{Head, Inbound, path_of};
use crate::options::Limits;
use crate::outgoing::Outgoing;
use crate::refusal::Refusal;
use crate::reply::{self, Asking, Begun, Reply};
use wire::Stream;

pub(crate) use wire::{Wire, trailers};

/// Serves a connection whose first bytes were read.
pub(super) async fn serve<F: Front>(
    stream: Box<dyn Stream>,
    first: BytesMut,
    client: Client,
    front: Rc<F>,
    limits: Rc<Limits>,
    drain: drain::Watch,
) {
    let codec = http1::Limits {
        head: limits.head_bytes,
        target: limits.target_bytes,
        ..http1::Limits::default()
    };
    let watch = drain.clone();
    let mut connection = Connection {
        wire: Wire::new(stream, first, codec),
        client,
        front,
        decoder: RequestDecoder::new(codec),
        head: None,
        outgoing: Outgoing::default(),
        alarm: Alarm::new(limits.head_timeout),
        quiet: Instant::now(),
        limits,
        drained: Box::pin(async move { watch.wait().await }),
        hears_drain: false,
        drain,
    };
    loop {
        match connection.exchange().await {
            Ok(After::Next) => {}
            Ok(After::Linger) => return connection.close(true).await,
            Ok(After::Close) => return connection.close(false).await,
            Err(error) => {
                tracing::debug!(address = %client.address, %error, "connection broke");
                return;
            }
        }
    }
}

/// What becomes of a connection after an exchange.
enum After {
    /// It can carry another.
    Next,
    /// It is over.
    Close,
    /// It is over, and the client may still be sending what nobody is going to read.
    Linger,
}

struct Connection<F> {
    wire: Wire,
    client: Client,
    front: Rc<F>,
    decoder: RequestDecoder,
    /// The head of the last request, kept for its buffers. Boxed, for it is handed on and on.
    head: Option<Box<RequestHead>>,
    outgoing: Outgoing,
    /// One timer for the connection instead of one per request.
    alarm: Alarm,
    /// Since when nothing of a request has come: the connection began, or its last answer was on its way.
    quiet: Instant,
    limits: Rc<Limits>,
    /// Resolves when the drain begins.
    drained: LocalBoxFuture<'static, ()>,
    /// Whether that was polled, and so wakes the connection.
    hears_drain: bool,
    drain: drain::Watch,
}

/// What waiting for a request brought.
enum Arrival {
    /// The head of a request, which was whole at this time.
    Head(Box<RequestHead>, Instant),
    Refused(Error),
    /// The connection is over: closed, idle for too long, or drained.
    Over,
}

impl<F: Front> Connection<F> {
    /// One request and its answer.
    async fn exchange(&mut self) -> io::Result<After> {
        let (head, came) = match self.arrival().await? {
            Arrival::Head(head, came) => (head, came),
            Arrival::Refused(error) => return self.refuse(error).await,
            Arrival::Over => return Ok(After::Close),
        };
        let asking = Asking {
            asked: head.asked(),
            version: head.version(),
            keep_alive: head.keep_alive(),
        };
        let mut record = Record::begin(self.front.metrics(), came);
        record.asks(head.method(), path_of(head.path()));
        self.wire.lock().begin(head.framing(), head.expects_continue());
        let inbound = Inbound::admit_raw(head, self.client, &self.wire);
        let replied = match &inbound {
            Ok(inbound) => match self.replied(inbound, &mut record).await {
                Some(replied) => replied,
                None => return Ok(After::Close),
            },
            Err(refusal) => Err(refusal.clone()),
        };
        let reply = self.judged(replied, &mut record);
        let body = inbound.as_ref().map_or(&RequestBody::None, |inbound| &inbound.body);
        let after = self.send(reply, body, asking, record).await;
        if let Ok(Inbound {
            head: Head::Raw(head), ..
        }) = inbound
        {
            self.head = Some(head);
        }
        after
    }

    /// Waits for a head.
    async fn arrival(&mut self) -> io::Result<Arrival> {
        let mut begun = None;
        poll_fn(|cx| {
            let mut wire = self.wire.lock();
            loop {
                if !wire.input.is_empty() {
                    let head = self.head.get_or_insert_default();
                    match self.decoder.decode(&wire.input, head) {
                        Ok(Decoded::Head(length)) => {
                            bytes::Buf::advance(&mut wire.input, length);
                            let head = self.head.take().unwrap_or_default();
                            return Poll::Ready(Ok(Arrival::Head(head, Instant::now())));
                        }
                        Ok(Decoded::Incomplete) => _ = begun.get_or_insert_with(Instant::now),
                        // The preface was looked for when the connection began, so here it is out of place.
                        Ok(Decoded::Http2) => return Poll::Ready(Ok(Arrival::Refused(Error::UnsupportedVersion))),
                        Err(error) => return Poll::Ready(Ok(Arrival::Refused(error))),
                    }
                }
                match wire.poll_head(cx) {
                    Poll::Ready(Ok(0)) => return Poll::Ready(Ok(Arrival::Over)),
                    Poll::Ready(Ok(_)) => {}
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => break,
                }
            }
            drop(wire);
            // A head can begin at any moment, so an idle connection is looked at as often as a head may take.
            let due = match begun {
                Some(begun) => begun + self.limits.head_timeout,
                None => self.quiet + self.limits.idle_timeout,
            };
            if begun.is_none() && self.is_drained(cx) || self.alarm.poll_due(due, cx).is_ready() {
                return Poll::Ready(Ok(Arrival::Over));
            }
            Poll::Pending
        })
        .await
    }

    /// Whether the drain has begun; its beginning wakes the connection.
    fn is_drained(&mut self, cx: &mut Context<'_>) -> bool {
        // The connection is one task, which is woken whoever of it is polled; and polling takes a lock that all cores share.
        let is_heard = std::mem::replace(&mut self.hears_drain, true);
        (!is_heard || self.drain.stirred()) && self.drained.as_mut().poll(cx).is_ready()
    }

    /// Has a request answered; none where the client goes away before that.
    async fn replied(&mut self, inbound: &Inbound, record: &mut Record) -> Option<Result<Reply, Refusal>> {
        let mut answering = pin!(self.front.answer(inbound, record));
        poll_fn(|cx| {
            if let Poll::Ready(replied) = answering.as_mut().poll(cx) {
                return Poll::Ready(Some(replied));
            }
            self.wire.lock().poll_gone(cx).map(|()| None)
        })
        .await
    }

    /// What a request gets, whose body may have turned out malformed meanwhile: then that is what is wrong, whatever it was taken
    /// for by who waited for the body.
    fn judged(&self, replied: Result<Reply, Refusal>, record: &mut Record) -> Reply {
        let broken = self.wire.lock().broken();
        match (replied, broken) {
            (Ok(Reply::Own { .. }), Some(error)) => record.refused(&Refusal::of(error), &self.front.entropy()),
            (Ok(reply), _) => reply,
            (Err(refusal), _) => record.refused(&refusal, &self.front.entropy()),
        }
    }

    /// Answers bytes that are no request. The connection cannot be used any further (RFC 9112 §6.3).
    async fn refuse(&mut self, error: Error) -> io::Result<After> {
        let mut record = Record::begin(self.front.metrics(), Instant::now());
        let reply = record.refused(&Refusal::of(error), &self.front.entropy());
        let asking = Asking {
            asked: Asked::Plain,
            version: Version::Http11,
            keep_alive: false,
        };
        self.send(reply, &RequestBody::None, asking, record).await?;
        Ok(After::Linger)
    }

    /// Writes the answer to a request with this body to its end, with which the body has an end too.
    async fn send(&mut self, reply: Reply, body: &RequestBody, mut asking: Asking, mut record: Record) -> io::Result<After> {
        record.status = Some(reply.status());
        asking.keep_alive &= !self.drain.begun();
        if matches!(reply, Reply::Own { .. }) {
            body.retire();
            // Whoever goes on sending a body that nobody reads is told that the connection ends.
            asking.keep_alive &= self.wire.lock().discard_body();
        }
        let Begun {
            body: answer,
            encoder,
            keep_alive,
        } = reply.encode(asking, self.outgoing.tail()).map_err(io::Error::other)?;
        let mut sending = Sending {
            wire: &self.wire,
            outgoing: &mut self.outgoing,
            alarm: &mut self.alarm,
            limits: &self.limits,
            body: pin!(answer),
            encoder,
            trailers: HeaderMap::new(),
            is_whole: false,
            stalled: None,
            record: Some(record),
            ended: self.quiet,
        };
        poll_fn(|cx| sending.poll(cx)).await?;
        self.quiet = sending.ended;
        body.retire();
        let mut wire = self.wire.lock();
        Ok(match (wire.discard_body(), keep_alive) {
            (true, true) => After::Next,
            (true, false) if wire.input.is_empty() => After::Close,
            _ => After::Linger,
        })
    }

    /// Closes our half, as TLS wants it to be done in words.
    ///
    /// Closing a socket with unread bytes resets it, and the client may lose the answer that says why (RFC 9112 §9.6). So where
    /// more may come, it is read for a while and forgotten.
    async fn close(self, linger: bool) {
        let mut is_shut = false;
        let closing = poll_fn(|cx| {
            let mut wire = self.wire.lock();
            if !is_shut {
                ready!(Pin::new(&mut wire.stream).poll_shutdown(cx))?;
                is_shut = true;
            }
            loop {
                wire.input.clear();
                if !linger || ready!(wire.poll_head(cx))? == 0 {
                    return Poll::Ready(io::Result::Ok(()));
                }
            }
        });
        // Whoever sends for longer than that is cut off.
        let _cut_off = tokio::time::timeout(LINGER, closing).await;
    }
}

/// How long bytes that nobody wants are read before the connection closes over them.
const LINGER: Duration = Duration::from_secs(1);

/// An answer on its way to its client.
struct Sending<'a> {
    wire: &'a Wire,
    outgoing: &'a mut Outgoing,
    alarm: &'a mut Alarm,
    limits: &'a Limits,
    body: Pin<&'a mut crate::body::Body>,
    encoder: http1::BodyEncoder,
    trailers: HeaderMap,
    /// Whether all of it is in `outgoing`.
    is_whole: bool,
    /// Since when the client takes nothing.
    stalled: Option<Instant>,
    /// None once all of the answer is in `outgoing`: who has its last byte finds it counted.
    record: Option<Record>,
    /// When that was, or when the client took something again that had kept it waiting.
    ended: Instant,
}

impl Sending<'_> {
    /// Head and body go out together as far as the body is there; its rest as it comes and as the client takes it.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let gathered = self.gather(cx);
            let mut wire = self.wire.lock();
            if self.outgoing.is_empty() {
                gathered?;
                if self.is_whole {
                    return Poll::Ready(Ok(()));
                }
                ready!(wire.poll_gone(cx));
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            }
            match self.outgoing.poll_flush(&mut *wire.stream, cx) {
                Poll::Ready(flushed) => flushed?,
                Poll::Pending => {
                    drop(wire);
                    // A client that sends all before it reads anything is not to wait for itself.
                    self.body.go_on_sending(cx);
                    let since = *self.stalled.get_or_insert_with(Instant::now);
                    ready!(self.alarm.poll_due(since + self.limits.write_timeout, cx));
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
            }
            if self.stalled.take().is_some() {
                self.ended = Instant::now();
            }
            // What came before the body broke is sent; then the client sees that it is not all.
            gathered?;
        }
    }

    /// Takes what there is of the body.
    fn gather(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while !self.is_whole && self.outgoing.has_room() {
            if !self.body.is_end_stream() {
                match self.body.as_mut().poll_frame(cx) {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(None) => {}
                    Poll::Ready(Some(Err(error))) => {
                        self.record.iter_mut().for_each(Record::broke);
                        return Err(io::Error::other(error));
                    }
                    Poll::Ready(Some(Ok(frame))) => {
                        match frame.into_data() {
                            Ok(data) if self.encoder.wants_data() => {
                                self.record.iter_mut().for_each(|record| record.sent(data.len()));
                                self.outgoing.push(data, &mut self.encoder).map_err(io::Error::other)?;
                            }
                            Ok(_) => {}
                            Err(frame) => self.trailers = frame.into_trailers().unwrap_or_default(),
                        }
                        if !self.body.is_end_stream() {
                            continue;
                        }
                    }
                }
            }
            self.is_whole = true;
            self.encoder
                .finish(reply::lines(&self.trailers), self.outgoing.tail())
                .map_err(io::Error::other)?;
            self.ended = self.record.take().map_or(self.ended, Record::end);
        }
        Ok(())
    }
}

//! A client connection that hyper reads: HTTP/2, and HTTP/1 where it is asked to.

use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::DATE;
use http::{HeaderName, Method, Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioTimer;
use tokio::io::{AsyncRead, AsyncWrite};

use super::connection::{Client, Front};
use super::gathering::{Gathering, Turns};
use super::guard::{Activity, Guarded, Waiting};
use crate::access_log::Record;
use crate::body::{Body, Error};
use crate::drain;
use crate::inbound::Inbound;
use crate::options::Limits;

/// Streams at once on one HTTP/2 connection; browsers use up to 100.
const STREAMS: u32 = 256;

/// What changes with each answer, or each second. HPACK's table keeps every value, some 50 of them, and h2 compares the next with
/// all of a name. Fields that are called sensitive stay out of it: 2,500 instructions less for each answer. The id alone saves
/// nothing on a connection that lasts for a minute: then the dates fill the table.
const CHANGING: [HeaderName; 2] = [DATE, HeaderName::from_static("x-request-id")];

/// Serves a connection whose first bytes were read.
pub(super) async fn serve<S, F>(
    stream: S,
    first: Bytes,
    http2: bool,
    client: Client,
    front: Rc<F>,
    limits: Rc<Limits>,
    drain: drain::Watch,
) where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
    F: Front,
{
    let address = client.address;
    let activity = Activity::new();
    let stream = Guarded::new(stream, first, Rc::clone(&activity));
    let service = {
        let (activity, limits) = (Rc::clone(&activity), Rc::clone(&limits));
        // hyper and tokio move the future of a stream seven times, the last time at its end: as a pointer that is 5,000
        // instructions less for each request.
        service_fn(move |request| {
            Box::pin(answer(
                Rc::clone(&front),
                request,
                client,
                Rc::clone(&activity),
                Rc::clone(&limits),
            ))
        })
    };
    let ended = if http2 {
        let mut builder = http2::Builder::new(LocalExecutor);
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
            .keep_alive_interval(limits.idle_timeout)
            .keep_alive_timeout(limits.head_timeout);
        let stream = Gathering::new(stream);
        let turns = Turns {
            connection: builder.serve_connection(stream.clone(), service),
            stream,
        };
        let shutdown =
            |turns: Pin<&mut Turns<_, _>>| http2::Connection::graceful_shutdown(Pin::new(&mut turns.get_mut().connection));
        watched(turns, shutdown, &activity, http2, &limits, drain).await
    } else {
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            // Dawdling is watched per connection, which needs no timer per request.
            .header_read_timeout(None)
            .max_header_size(limits.head_bytes)
            // The read buffer is what a head must fit in, so this is the limit for a head that never ends.
            // `pipeline_flush` stays off: with it hyper takes an upstream's whole answer into memory for a reader that is slow.
            .max_buf_size(limits.head_bytes.max(8 * 1024));
        let connection = builder.serve_connection(stream, service);
        let shutdown = http1::Connection::graceful_shutdown;
        watched(connection, shutdown, &activity, http2, &limits, drain)
            .await
            .map_err(Error::from)
    };
    if let Err(error) = ended {
        tracing::debug!(%address, %error, "connection broke");
    }
}

/// Answers one request; failures are answers too.
async fn answer<F: Front>(
    front: Rc<F>,
    request: Request<Incoming>,
    client: Client,
    activity: Rc<Activity>,
    limits: Rc<Limits>,
) -> Result<Response<Body>, Infallible> {
    let in_flight = activity.begin();
    let framed_twice = activity.framed_twice();
    let mut record = Record::begin(front.metrics(), Instant::now());
    record.asks(request.method().as_str(), request.uri().path());
    let head_only = request.method() == Method::HEAD;
    let replied = match Inbound::admit(request, client, framed_twice, &limits) {
        Ok(inbound) => {
            let replied = front.answer(&inbound, &mut record).await;
            activity.left_unread(!inbound.body.sent());
            replied
        }
        Err(refusal) => {
            activity.left_unread(true);
            Err(refusal)
        }
    };
    let reply = replied.unwrap_or_else(|refusal| record.refused(&refusal, &front.entropy()));
    record.status = Some(reply.status());
    let mut response = reply.into_response(head_only);
    for name in &CHANGING {
        if let Some(value) = response.headers_mut().get_mut(name) {
            value.set_sensitive(true);
        }
    }
    Ok(response.map(|body| body.recorded(Box::new(record), in_flight)))
}

/// Drives a connection, asks it to finish when the drain begins or it has been idle for too long, and drops it where it
/// dawdles.
async fn watched<C, E>(
    connection: C,
    shutdown: impl Fn(Pin<&mut C>),
    activity: &Activity,
    http2: bool,
    limits: &Limits,
    drain: drain::Watch,
) -> Result<(), E>
where
    C: Future<Output = Result<(), E>>,
{
    let mut connection = pin!(connection);
    let mut timer = pin!(tokio::time::sleep(limits.head_timeout));
    let mut finishing = false;
    loop {
        tokio::select! {
            ended = connection.as_mut() => return ended,
            () = drain.wait(), if !finishing => {
                finishing = true;
                shutdown(connection.as_mut());
            }
            () = timer.as_mut() => match judge(activity.waiting(), http2, limits, Instant::now()) {
                Verdict::Wait(until) => timer.as_mut().reset(tokio::time::Instant::now() + until),
                Verdict::Finish if !finishing => {
                    finishing = true;
                    shutdown(connection.as_mut());
                    timer.as_mut().reset(tokio::time::Instant::now() + limits.head_timeout);
                }
                Verdict::Finish | Verdict::Drop => return Ok(()),
            },
        }
    }
}

/// What to do with a connection whose timer fired.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// Look again after this long.
    Wait(Duration),
    /// Ask it to end: it has been idle long enough.
    Finish,
    /// End it: its client dawdles.
    Drop,
}

/// One timer per connection instead of one per request: it fires at the earliest moment at which something could have lasted
/// too long, and is armed again for what is then the case.
fn judge(waiting: Waiting, http2: bool, limits: &Limits, now: Instant) -> Verdict {
    let (since, limit, late) = match waiting {
        Waiting::Idle(since) => (since, limits.idle_timeout, Verdict::Finish),
        // Bytes of an idle HTTP/2 connection are pings and window updates more often than a head, so it is idle.
        Waiting::Head(since) if http2 => (since, limits.idle_timeout, Verdict::Finish),
        Waiting::Head(since) => (since, limits.head_timeout, Verdict::Drop),
        Waiting::Write(since) => (since, limits.write_timeout, Verdict::Drop),
        Waiting::Answer => return Verdict::Wait(limits.head_timeout),
    };
    match limit.checked_sub(now.saturating_duration_since(since)) {
        // A head can begin at any moment, so an idle connection is looked at as often as a head may take.
        Some(left) if !left.is_zero() => Verdict::Wait(left.min(limits.head_timeout)),
        _ => late,
    }
}

/// Runs HTTP/2 streams on the core that accepted their connection.
#[derive(Debug, Clone, Copy)]
struct LocalExecutor;

impl<F: Future + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_head_is_dropped_and_an_idle_connection_asked_to_end() {
        let limits = Limits::default();
        let now = Instant::now();
        let ago = |duration| now.checked_sub(duration).unwrap();
        assert_eq!(
            judge(Waiting::Head(ago(limits.head_timeout)), false, &limits, now),
            Verdict::Drop
        );
        assert_eq!(
            judge(Waiting::Idle(ago(limits.idle_timeout)), false, &limits, now),
            Verdict::Finish
        );
        assert_eq!(
            judge(Waiting::Head(ago(limits.idle_timeout)), true, &limits, now),
            Verdict::Finish
        );
        assert_eq!(
            judge(Waiting::Write(ago(limits.write_timeout)), false, &limits, now),
            Verdict::Drop
        );
    }

    #[test]
    fn a_connection_that_is_in_time_is_looked_at_again() {
        let limits = Limits::default();
        let now = Instant::now();
        assert_eq!(
            judge(Waiting::Idle(now), false, &limits, now),
            Verdict::Wait(limits.head_timeout)
        );
        assert_eq!(
            judge(Waiting::Answer, false, &limits, now),
            Verdict::Wait(limits.head_timeout)
        );
    }
}

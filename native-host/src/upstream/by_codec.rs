//! Requests over the workspace's own codec: a kept connection is a socket and the codec's state, without a task of its own.
//!
//! Whoever waits for the answer reads it, in its own task: a task per connection, as hyper has it, was 5.8 % of the processor time
//! of a proxied request.

use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::{Buf as _, Bytes, BytesMut};
use gateway::exchange::Failure;
use http_body::{Body as _, Frame};
use http1::{Asked, BodyDecoder, BodyEncoder, DecodedResponse, Framing, ResponseDecoder, ResponseHead};
use routing::policy::Connected;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use super::pool::{ANSWER_HEAD, Pool, Pooled};
use crate::body::{AttemptBody, Error};
use crate::buffers;
use crate::listener::trailers;
use crate::outgoing::Outgoing;

/// The first read of an answer: most heads with a small body.
const READ: usize = 16 * 1024;

/// The most that is read of a body at once, which is also the window of a download.
const WINDOW: usize = 64 * 1024;

const LIMITS: http1::Limits = http1::Limits {
    head: ANSWER_HEAD,
    target: 0,
    fields: 100,
    extensions: 16 << 10,
    trailers: 8 << 10,
    interim: 16,
};

/// A connection to an upstream.
#[derive(Debug)]
pub(super) struct Link {
    stream: TcpStream,
    /// What was read and not used yet.
    input: BytesMut,
    decoder: ResponseDecoder,
    body: BodyDecoder,
    /// What is waiting to be sent.
    pub(super) outgoing: Outgoing,
    /// A head whose buffers can be used again.
    spare: Option<Box<ResponseHead>>,
    /// Counts among the connections of its upstream.
    _connected: Connected,
}

impl Link {
    pub(super) fn new(stream: TcpStream, connected: Connected) -> Box<Self> {
        Box::new(Self {
            stream,
            input: BytesMut::new(),
            decoder: ResponseDecoder::new(LIMITS),
            body: BodyDecoder::new(Framing::None, LIMITS),
            outgoing: Outgoing::default(),
            spare: None,
            _connected: connected,
        })
    }

    /// Ready with 0 where the upstream has closed.
    fn poll_fill(&mut self, room: usize, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.input.capacity() == 0 {
            self.input = buffers::take();
        }
        if self.input.capacity() - self.input.len() < room / 2 {
            self.input.reserve(room);
        }
        pin!(self.stream.read_buf(&mut self.input)).poll(cx)
    }
}

impl Pooled for Box<Link> {
    /// A server that closed, and one that speaks unasked, are seen as soon as the runtime has heard of it; as long as it has not,
    /// asking takes no system call.
    fn is_closed(&self) -> bool {
        !matches!(self.stream.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

/// What follows a request's head.
pub(super) struct Sending {
    /// How the body is framed.
    pub(super) encoder: BodyEncoder,
    /// The body.
    pub(super) body: AttemptBody,
    /// What the answer's framing depends on.
    pub(super) asked: Asked,
}

/// One request on a connection, and its answer.
pub(super) struct Call {
    /// None once the answer was read to its end.
    link: Option<Box<Link>>,
    pool: Rc<Pool<Box<Link>>>,
    upload: Upload,
    asked: Asked,
    /// Whether a byte of an answer came.
    heard: bool,
    /// What the answer says of its end.
    framing: Framing,
    keep_alive: bool,
}

/// A call that came to nothing.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lost {
    /// How.
    pub(super) failure: Failure,
    /// Whether the connection was closed without a byte of an answer: for a kept one, that is how its server's closing it looks.
    pub(super) unheard: bool,
    /// Whether nothing of the request went out.
    pub(super) unsent: bool,
}

impl Call {
    /// The call whose head is in the link's `outgoing`.
    pub(super) fn new(link: Box<Link>, pool: Rc<Pool<Box<Link>>>, sending: Sending) -> Box<Self> {
        let Sending { encoder, body, asked } = sending;
        Box::new(Self {
            link: Some(link),
            pool,
            upload: Upload {
                encoder,
                body: Some(body),
                state: Uploading::Untouched,
            },
            asked,
            heard: false,
            framing: Framing::None,
            keep_alive: false,
        })
    }

    /// Sends, and reads until the answer's head is there. The answer may come before the request is sent to its end; what is left
    /// is sent while the answer's body is read.
    pub(super) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Box<ResponseHead>, Lost>> {
        let Some(link) = &mut self.link else {
            return Poll::Ready(Err(self.lost(Failure::Reset)));
        };
        self.upload.poll(link, cx);
        if self.upload.state == Uploading::Abandoned {
            return Poll::Ready(Err(self.lost(Failure::Reset)));
        }
        let head = loop {
            if !link.input.is_empty() {
                let mut head = link.spare.take().unwrap_or_default();
                match link.decoder.decode(&link.input, self.asked, &mut head) {
                    // Answers in between are for whoever asked for them: this hop did not, and says 100 itself.
                    Ok(DecodedResponse::Interim(length)) => {
                        link.input.advance(length);
                        link.spare = Some(head);
                        continue;
                    }
                    Ok(DecodedResponse::Head(length)) => {
                        link.input.advance(length);
                        break head;
                    }
                    Ok(DecodedResponse::Incomplete) => link.spare = Some(head),
                    Err(error) => {
                        tracing::debug!(%error, "an upstream's answer is refused");
                        return Poll::Ready(Err(self.lost(Failure::Protocol)));
                    }
                }
            }
            let room = link.input.len().max(READ);
            match ready!(link.poll_fill(room, cx)) {
                Ok(0) | Err(_) => return Poll::Ready(Err(self.lost(Failure::Reset))),
                Ok(_) => self.heard = true,
            }
        };
        self.framing = head.framing();
        self.keep_alive = head.keep_alive();
        link.body.reset(self.framing);
        if link.body.is_done() {
            self.end();
        }
        Poll::Ready(Ok(head))
    }

    fn lost(&self, failure: Failure) -> Lost {
        Lost {
            failure,
            unheard: !self.heard && failure == Failure::Reset && self.upload.state != Uploading::Abandoned,
            unsent: matches!(self.upload.state, Uploading::Untouched | Uploading::Refused),
        }
    }

    /// The next piece of the answer's body.
    pub(super) fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let Some(link) = &mut self.link else {
            return Poll::Ready(None);
        };
        self.upload.poll(link, cx);
        if self.upload.state == Uploading::Abandoned {
            return Poll::Ready(Some(Err("the request broke off".into())));
        }
        loop {
            if !link.input.is_empty() {
                let piece = link.body.decode(&link.input)?;
                let data = link.input.split_to(piece.consumed).freeze().slice(piece.data);
                // Trailers come with an end of their own, which has no data.
                let frame = match (data.is_empty(), piece.end) {
                    (false, _) => Some(Frame::data(data)),
                    (true, true) => trailers(&link.body).map(Frame::trailers),
                    (true, false) => continue,
                };
                if piece.end {
                    self.end();
                }
                return Poll::Ready(frame.map(Ok));
            }
            let room = link.body.remaining().and_then(|left| usize::try_from(left).ok());
            if ready!(link.poll_fill(room.unwrap_or(WINDOW).clamp(READ, WINDOW), cx))? == 0 {
                link.body.close()?;
                self.end();
                return Poll::Ready(None);
            }
        }
    }

    /// Sends what is left of the request, as far as that is possible.
    pub(super) fn go_on_sending(&mut self, cx: &mut Context<'_>) {
        if let Some(link) = &mut self.link {
            self.upload.poll(link, cx);
        }
    }

    /// Takes a head back whose buffers can be used again: two allocations less per answer.
    pub(super) fn reuse(&mut self, head: Box<ResponseHead>) {
        if let Some(link) = &mut self.link {
            link.spare = Some(head);
        }
    }

    /// Whether the answer was read to its end.
    pub(super) fn is_over(&self) -> bool {
        self.link.is_none()
    }

    /// Bytes that are still to come, where that is known.
    pub(super) fn remaining(&self) -> Option<u64> {
        match (&self.link, self.framing) {
            (None, _) => Some(0),
            (Some(link), Framing::Length(_)) => link.body.remaining(),
            _ => None,
        }
    }

    /// Gives the connection back, where it can carry another request. It cannot where the answer came before the end of its
    /// request, or more than the answer came.
    fn end(&mut self) {
        let Some(mut link) = self.link.take() else { return };
        if self.keep_alive && self.upload.state == Uploading::Done && link.input.is_empty() {
            buffers::give(std::mem::take(&mut link.input));
            self.pool.put(link, Instant::now());
        }
    }
}

/// How far a request is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Uploading {
    /// Not a byte was written.
    Untouched,
    /// Some.
    Underway,
    /// All of it.
    Done,
    /// The connection did not take the first byte.
    Refused,
    /// The connection takes no more. An answer may come all the same.
    Broken,
    /// The client gives no more.
    Abandoned,
}

/// A request on its way.
struct Upload {
    encoder: BodyEncoder,
    /// None once all of it is in the link's `outgoing`.
    body: Option<AttemptBody>,
    state: Uploading,
}

impl Upload {
    /// Sends as much as can be sent.
    fn poll(&mut self, link: &mut Link, cx: &mut Context<'_>) {
        let Link { stream, outgoing, .. } = link;
        while matches!(self.state, Uploading::Untouched | Uploading::Underway) {
            if let Err(error) = self.gather(outgoing, cx) {
                tracing::debug!(%error, "a request is given up");
                self.state = Uploading::Abandoned;
                return;
            }
            if outgoing.is_empty() {
                if self.body.is_none() {
                    self.state = Uploading::Done;
                }
                return;
            }
            match outgoing.poll_flush(stream, cx) {
                Poll::Ready(Ok(())) => self.state = Uploading::Underway,
                Poll::Ready(Err(error)) => {
                    tracing::debug!(%error, "a connection takes no more of a request");
                    let nothing = self.state == Uploading::Untouched;
                    self.state = if nothing { Uploading::Refused } else { Uploading::Broken };
                }
                Poll::Pending => {
                    self.state = Uploading::Underway;
                    return;
                }
            }
        }
    }

    /// Takes what there is of the body, so that a small one goes out with its head.
    fn gather(&mut self, outgoing: &mut Outgoing, cx: &mut Context<'_>) -> Result<(), Error> {
        while let Some(body) = &mut self.body
            && outgoing.has_room()
        {
            match Pin::new(body).poll_frame(cx) {
                Poll::Pending => break,
                Poll::Ready(Some(frame)) => match frame?.into_data() {
                    Ok(data) => outgoing.push(data, &mut self.encoder)?,
                    Err(frame) => {
                        let trailers = frame.into_trailers().unwrap_or_default();
                        self.encoder.finish(crate::reply::lines(&trailers), outgoing.tail())?;
                        self.body = None;
                    }
                },
                Poll::Ready(None) => {
                    self.encoder.finish([], outgoing.tail())?;
                    self.body = None;
                }
            }
        }
        Ok(())
    }
}

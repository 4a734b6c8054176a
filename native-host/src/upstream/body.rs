//! An upstream's answer on its way through. At its end its connection goes back to the pool; broken off, the connection is
//! closed, because what is left of the answer would be in the way of the next.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use mesh_client::client::ResponseBody;
use routing::policy::Permit;

use super::by_codec::Call;
use super::by_hyper::Lease;
use super::shared::Choice;
use crate::body::Error;
use crate::observe::{Observer, saw};

/// An upstream's body.
pub(crate) struct UpstreamBody {
    source: Source,
    /// The counts of requests in flight, which this is one of until it ends.
    permit: Option<Held>,
    /// Who looks at it as it goes by.
    observer: Option<Box<Observer>>,
}

/// What an upstream counts as under way.
#[expect(dead_code, reason = "held for what dropping it does")]
enum Held {
    Endpoint(Choice),
    Mesh(Permit),
}

/// Where an upstream's bytes come from. In boxes, since an answer is handed on from driver to codec.
pub(super) enum Source {
    /// A connection of our own codec.
    Call(Box<Call>),
    /// A connection of hyper's.
    Hyper(Box<Leased>),
    /// The mesh.
    Mesh(Box<ResponseBody>),
}

/// What comes by a connection of hyper's.
pub(super) struct Leased {
    pub(super) body: Incoming,
    /// None once the connection was given back.
    pub(super) lease: Option<Lease>,
}

impl UpstreamBody {
    pub(super) fn pooled(source: Source, choice: Choice) -> Self {
        Self::new(source, Held::Endpoint(choice))
    }

    pub(super) fn mesh(body: ResponseBody, permit: Permit) -> Self {
        Self::new(Source::Mesh(Box::new(body)), Held::Mesh(permit))
    }

    fn new(source: Source, permit: Held) -> Self {
        let mut body = Self {
            source,
            permit: Some(permit),
            observer: None,
        };
        if body.is_end_stream() {
            body.end();
        }
        body
    }

    /// Shows what comes to an observer.
    pub(crate) fn observe(&mut self, observer: Observer) {
        if self.is_end_stream() {
            return observer.judge();
        }
        self.observer = Some(Box::new(observer));
    }

    /// Goes on sending what is left of the request.
    pub(crate) fn go_on_sending(&mut self, cx: &mut Context<'_>) {
        if let Source::Call(call) = &mut self.source {
            call.go_on_sending(cx);
        }
    }

    /// Takes a head back whose buffers can be used again.
    pub(crate) fn reuse(&mut self, head: Box<http1::ResponseHead>) {
        if let Source::Call(call) = &mut self.source {
            call.reuse(head);
        }
    }

    /// Gives back what the body held.
    fn end(&mut self) {
        self.permit = None;
        if let Some(observer) = self.observer.take() {
            observer.judge();
        }
        if let Source::Hyper(leased) = &mut self.source
            && let Some(lease) = leased.lease.take()
        {
            lease.give_back();
        }
    }
}

impl http_body::Body for UpstreamBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self.get_mut();
        let frame = match &mut this.source {
            Source::Call(call) => ready!(call.poll_body(cx)),
            Source::Hyper(leased) => ready!(Pin::new(&mut leased.body).poll_frame(cx)).map(|frame| frame.map_err(Error::from)),
            Source::Mesh(body) => ready!(Pin::new(&mut **body).poll_frame(cx)).map(|frame| frame.map_err(Error::from)),
        };
        saw(&mut this.observer, frame.as_ref());
        if frame.is_none() || this.is_end_stream() {
            this.end();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Call(call) => call.is_over(),
            Source::Hyper(leased) => leased.body.is_end_stream(),
            Source::Mesh(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Call(call) => call.remaining().map_or_else(SizeHint::default, SizeHint::with_exact),
            Source::Hyper(leased) => leased.body.size_hint(),
            Source::Mesh(body) => body.size_hint(),
        }
    }
}

impl fmt::Debug for UpstreamBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamBody")
            .field("size", &self.size_hint())
            .finish_non_exhaustive()
    }
}

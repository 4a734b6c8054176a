//! Bodies. A body that no policy reads is handed from one message to the other as the stream that it is, so its bytes stay in
//! the host.

use std::cell::Cell;
use std::rc::Rc;

use bytes::Bytes;
use gateway::exchange::BodyRead;
use spin_sdk::wasip3::http::types::{ErrorCode, Request, Response, Trailers};
use spin_sdk::wasip3::{spawn, wit_bindgen, wit_future, wit_stream};
use wit_bindgen::{FutureReader, FutureWriter, StreamReader, StreamResult};

/// How much is read at once.
const CHUNK: usize = 16 * 1024;

/// The end of a body: its trailers, or how it broke.
pub(super) type End = FutureReader<Result<Option<Trailers>, ErrorCode>>;

/// An end that did not come yet.
pub(super) type Open = FutureWriter<Result<Option<Trailers>, ErrorCode>>;

/// How a body's reader says that it is done with it.
type Consumed = FutureWriter<Result<(), ErrorCode>>;

/// A body that comes in.
pub(super) struct Incoming {
    /// What was read of it to see whether there is one.
    first: Vec<u8>,
    stream: StreamReader<u8>,
    end: End,
    consumed: Consumed,
}

impl Incoming {
    /// The body of a request.
    pub(super) fn of_request(request: Request) -> Self {
        let (consumed, result) = wit_future::new(|| Ok(()));
        Self::of(Request::consume_body(request, result), consumed)
    }

    /// The body of a response.
    pub(super) fn of_response(response: Response) -> Self {
        let (consumed, result) = wit_future::new(|| Ok(()));
        Self::of(Response::consume_body(response, result), consumed)
    }

    fn of((stream, end): (StreamReader<u8>, End), consumed: Consumed) -> Self {
        Self {
            first: Vec::new(),
            stream,
            end,
            consumed,
        }
    }

    /// Waits for its first bytes. None where it is empty.
    pub(super) async fn begun(mut self) -> Result<Option<Self>, ErrorCode> {
        loop {
            let (result, first) = self.stream.read(Vec::with_capacity(CHUNK)).await;
            match (first.is_empty(), result) {
                (true, StreamResult::Complete(_)) => {}
                (false, StreamResult::Complete(_)) => return Ok(Some(Self { first, ..self })),
                // A stream that has ended is not to be read again.
                (false, _) => {
                    let stream = wit_stream::new().1;
                    return Ok(Some(Self { first, stream, ..self }));
                }
                (true, _) => return self.end.await.map(|_| None),
            }
        }
    }

    /// Reads all of it, up to `limit` bytes.
    pub(super) async fn read(mut self, limit: u64) -> BodyRead {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let mut whole = self.first;
        if whole.len() > limit {
            return BodyRead::TooLarge;
        }
        loop {
            let (result, chunk) = self.stream.read(Vec::with_capacity(CHUNK)).await;
            if chunk.len() > limit.saturating_sub(whole.len()) {
                return BodyRead::TooLarge;
            }
            whole.extend_from_slice(&chunk);
            if !matches!(result, StreamResult::Complete(_)) {
                break;
            }
        }
        match self.end.await {
            Ok(_) => BodyRead::Whole(Bytes::from(whole)),
            Err(_) => BodyRead::Broken,
        }
    }

    /// Reads all of it and keeps nothing.
    pub(super) async fn discard(mut self) {
        while let (StreamResult::Complete(_), _) = self.stream.read(Vec::with_capacity(CHUNK)).await {}
        let _ = self.end.await;
    }

    /// The body as another message takes it, as long as it is no longer than `limit` bytes, and whether it was longer. Its bytes come
    /// through this instance: a body that says how long it is, [`pass`](Self::pass) hands on without that.
    pub(super) fn pass_up_to(self, limit: u64) -> (StreamReader<u8>, End, Passing, TooLong) {
        let too_long = TooLong::default();
        let told = too_long.clone();
        let mut left = usize::try_from(limit).unwrap_or(usize::MAX);
        let may_pass = move |piece: Piece<'_>| {
            let Piece::Data(data) = piece else { return true };
            let rest = left.checked_sub(data.len());
            left = rest.unwrap_or_default();
            told.0.set(rest.is_none());
            rest.is_some()
        };
        let (stream, end, passing) = self.pass_through(may_pass);
        (stream, end, passing, too_long)
    }

    /// The body as another message takes it. What came of it is told when it has ended, as far as it is no longer than `limit` bytes.
    pub(super) fn pass_observed(self, limit: u64, ended: impl FnOnce(BodyRead) + 'static) -> (StreamReader<u8>, End, Passing) {
        let most = usize::try_from(limit).unwrap_or(usize::MAX);
        let (mut copy, mut ended) = (Some(Vec::new()), Some(ended));
        self.pass_through(move |piece| {
            match (piece, &mut copy) {
                (Piece::Data(data), Some(kept)) if data.len() <= most.saturating_sub(kept.len()) => {
                    kept.extend_from_slice(data)
                }
                (Piece::Data(_), _) => copy = None,
                (Piece::End, _) => {
                    let body = copy
                        .take()
                        .map_or(BodyRead::TooLarge, |copy| BodyRead::Whole(Bytes::from(copy)));
                    if let Some(ended) = ended.take() {
                        ended(body);
                    }
                }
            }
            true
        })
    }

    /// The body as another message takes it, each piece of it shown to `may_pass` first, which can break it off.
    fn pass_through(self, mut may_pass: impl FnMut(Piece<'_>) -> bool + 'static) -> (StreamReader<u8>, End, Passing) {
        let Self {
            first,
            stream: mut incoming,
            end: incoming_end,
            consumed,
        } = self;
        let (mut writer, stream) = wit_stream::new();
        let (end, ended) = wit_future::new(|| Err(ErrorCode::HttpProtocolError));
        spawn(async move {
            let mut next = (!first.is_empty()).then_some((StreamResult::Complete(first.len()), first));
            loop {
                let (result, chunk) = match next.take() {
                    Some(first) => first,
                    None => incoming.read(Vec::with_capacity(CHUNK)).await,
                };
                if !may_pass(Piece::Data(&chunk)) {
                    let _ = end.write(Err(ErrorCode::HttpRequestBodySize(None))).await;
                    return;
                }
                // What is left over belongs to a reader that went away.
                if !writer.write_all(chunk).await.is_empty() {
                    return;
                }
                if !matches!(result, StreamResult::Complete(_)) {
                    break;
                }
            }
            drop(writer);
            let ended = incoming_end.await;
            if ended.is_ok() {
                may_pass(Piece::End);
            }
            let _ = end.write(ended).await;
        });
        (stream, ended, Passing(consumed))
    }

    /// The body as another message takes it, and the promise to keep when that message was sent.
    pub(super) fn pass(self) -> (StreamReader<u8>, End, Passing) {
        if self.first.is_empty() {
            (self.stream, self.end, Passing(self.consumed))
        } else {
            self.pass_through(|_| true)
        }
    }
}

/// What comes of a body.
enum Piece<'a> {
    /// Some of its bytes.
    Data(&'a [u8]),
    /// Its end.
    End,
}

/// Whether a body was longer than it may be.
#[derive(Debug, Clone, Default)]
pub(super) struct TooLong(Rc<Cell<bool>>);

impl TooLong {
    pub(super) fn is_so(&self) -> bool {
        self.0.get()
    }
}

/// A body on its way from one message to the other.
pub(super) struct Passing(Consumed);

impl Passing {
    /// Tells the side that the body comes from how sending it on went, and drops `held` then.
    pub(super) fn until(self, sent: FutureReader<Result<(), ErrorCode>>, held: impl Sized + 'static) {
        spawn(async move {
            let result = sent.await;
            drop(held);
            // Nobody listens where that side is gone already.
            let _ = self.0.write(result).await;
        });
    }
}

/// A body of these bytes.
pub(super) fn whole(bytes: Bytes) -> (StreamReader<u8>, End) {
    let (mut writer, stream) = wit_stream::new();
    let (end, ended) = wit_future::new(|| Ok(None));
    spawn(async move {
        // What is left over belongs to a reader that went away.
        let _ = writer.write_all(bytes.into()).await;
        drop(writer);
        let _ = end.write(Ok(None)).await;
    });
    (stream, ended)
}

/// The end of a message without a body.
pub(super) fn none() -> End {
    open().1
}

/// The end of a message without a body, which comes when the other half is dropped.
pub(super) fn open() -> (Open, End) {
    wit_future::new(|| Ok(None))
}

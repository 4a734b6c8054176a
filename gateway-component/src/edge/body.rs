//! Bodies. A body that no policy reads is handed from one message to the other as the stream that it is, so its bytes stay in
//! the host.

use bytes::Bytes;
use gateway::exchange::BodyRead;
use spin_sdk::wasip3::http::types::{ErrorCode, Request, Response, Trailers};
use spin_sdk::wasip3::{spawn, wit_bindgen, wit_future, wit_stream};
use wit_bindgen::{FutureReader, FutureWriter, StreamReader, StreamResult};

/// How much is read at once.
const CHUNK: usize = 16 * 1024;

/// The end of a body: its trailers, or how it broke.
pub(super) type End = FutureReader<Result<Option<Trailers>, ErrorCode>>;

/// How a body's reader says that it is done with it.
type Consumed = FutureWriter<Result<(), ErrorCode>>;

/// A body that comes in.
pub(super) struct Incoming {
    stream: StreamReader<u8>,
    end: End,
    consumed: Consumed,
}

impl Incoming {
    /// The body of a request.
    pub(super) fn of_request(request: Request) -> Self {
        let (consumed, result) = wit_future::new(|| Ok(()));
        let (stream, end) = Request::consume_body(request, result);
        Self { stream, end, consumed }
    }

    /// The body of a response.
    pub(super) fn of_response(response: Response) -> Self {
        let (consumed, result) = wit_future::new(|| Ok(()));
        let (stream, end) = Response::consume_body(response, result);
        Self { stream, end, consumed }
    }

    /// Reads all of it, up to `limit` bytes.
    pub(super) async fn read(mut self, limit: u64) -> BodyRead {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let mut whole = Vec::new();
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

    /// The body as another message takes it, and the promise to keep when that message was sent.
    pub(super) fn pass(self) -> (StreamReader<u8>, End, Passing) {
        (self.stream, self.end, Passing(self.consumed))
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
    let (end, ended) = wit_future::new(|| Ok(None));
    drop(end);
    ended
}

//! Values of header fields that are made for a request.

use bytes::{BufMut as _, BytesMut};
use http::HeaderValue;

/// Makes values that lie behind one another in memory that they share. A value of its own would be two allocations, one for its bytes
/// and one for its count as soon as it is cloned, and a forwarded request has five of them.
#[derive(Debug, Default)]
pub(super) struct Made(BytesMut);

/// Room for the values of most requests: two ids, an address, and the authority twice.
const ROOM: usize = 256;

impl Made {
    /// A value of these parts; none where they hold what may not stand in a field.
    pub(super) fn value(&mut self, parts: &[&[u8]]) -> Option<HeaderValue> {
        if self.0.capacity() == 0 {
            self.0.reserve(ROOM);
        }
        parts.iter().for_each(|part| self.0.put_slice(part));
        HeaderValue::from_maybe_shared(self.0.split().freeze()).ok()
    }
}

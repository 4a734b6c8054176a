//! A core's read buffers between two uses. An idle connection holds none, and the next one that has something to read takes the one
//! that was used last, which the processor's cache still holds.

use std::cell::RefCell;

use bytes::BytesMut;

/// How many are kept: as many as there are requests between two waits of a busy core.
const KEPT: usize = 32;

/// The largest that is kept.
const LARGEST: usize = 128 * 1024;

thread_local! {
    static SPARE: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer, with some room or without any.
pub(crate) fn take() -> BytesMut {
    SPARE.with_borrow_mut(Vec::pop).unwrap_or_default()
}

/// Takes a buffer back. What was split off from it may still be in use: whoever has it next gets memory of its own then.
pub(crate) fn give(mut buffer: BytesMut) {
    buffer.clear();
    SPARE.with_borrow_mut(|spare| {
        if spare.len() < KEPT && (1..=LARGEST).contains(&buffer.capacity()) {
            spare.push(buffer);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_split_off_keeps_its_bytes_when_its_buffer_is_used_again() {
        let mut first = take();
        first.reserve(64);
        first.extend_from_slice(b"first request");
        let kept = first.split_to(5).freeze();
        give(first);
        let mut second = take();
        second.reserve(64);
        second.extend_from_slice(b"another one");
        assert_eq!((&kept[..], &second[..]), (&b"first"[..], &b"another one"[..]));
    }

    #[test]
    fn neither_many_nor_large_ones_are_kept() {
        give(BytesMut::with_capacity(2 * LARGEST));
        assert_eq!(take().capacity(), 0);
        (0..2 * KEPT).for_each(|_| give(BytesMut::with_capacity(16)));
        assert_eq!((0..2 * KEPT).filter(|_| take().capacity() > 0).count(), KEPT);
    }
}

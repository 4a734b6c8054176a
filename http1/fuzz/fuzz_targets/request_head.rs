//! A head decodes alike in one piece and in two, and what is forwarded of it is read back with the same meaning.
#![no_main]

use http::{HeaderName, HeaderValue};
use http1::{Decoded, Edit, Forward, Limits, RequestDecoder, RequestHead};

libfuzzer_sys::fuzz_target!(|input: (&[u8], u16)| {
    let (bytes, cut) = input;
    let limits = Limits {
        head: 2048,
        target: 512,
        ..Limits::default()
    };
    let mut head = RequestHead::default();
    let whole = RequestDecoder::new(limits).decode(bytes, &mut head);

    let mut decoder = RequestDecoder::new(limits);
    let mut other = RequestHead::default();
    match decoder.decode(&bytes[..usize::from(cut).min(bytes.len())], &mut other) {
        Ok(Decoded::Incomplete) => {
            let again = decoder.decode(bytes, &mut other);
            // A head without an end is refused at its first piece or later; one with an end is judged alike.
            assert!(
                again == whole || again == Ok(Decoded::Incomplete) && whole.is_err(),
                "{again:?} {whole:?}"
            );
        }
        early => assert_eq!(early, whole),
    }
    if !matches!(whole, Ok(Decoded::Head(_))) {
        return;
    }
    let mut out = Vec::new();
    let (name, value) = (HeaderName::from_static("x-edit"), HeaderValue::from_static("1"));
    head.encode(&Forward::default(), [Edit::Set(&name, &value)], &mut out)
        .expect("what was decoded can be written");
    let mut again = RequestHead::default();
    let decoded = RequestDecoder::new(Limits::default()).decode(&out, &mut again);
    let host_missing = head.authority().is_empty();
    if host_missing {
        return;
    }
    assert_eq!(decoded, Ok(Decoded::Head(out.len())), "{}", out.escape_ascii());
    assert_eq!(
        (head.method(), head.path(), head.authority()),
        (again.method(), again.path(), again.authority())
    );
    assert_eq!(head.framing(), again.framing());
    assert_eq!(again.nth("x-edit", 1), None);
});

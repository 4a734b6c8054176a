//! What is written is read back as it was meant.

use http::{HeaderName, HeaderValue};
use http1::{
    Asked, BodyDecoder, Decoded, DecodedResponse, Edit, Forward, Framing, Limits, Reply, RequestDecoder, RequestHead,
    ResponseDecoder, ResponseHead, Version,
};
use proptest::prelude::*;

type Line = (String, String);

fn lines() -> impl Strategy<Value = Vec<Line>> {
    let name = "x-[a-zA-Z0-9!#$%&'*+.^_`|~-]{0,12}";
    let value = "([!-~\u{a1}-\u{ff}]([ -~\t]{0,30}[!-~])?)?";
    prop::collection::vec((name, value), 0..12)
}

fn lower(lines: &[Line]) -> Vec<(String, Vec<u8>)> {
    lines
        .iter()
        .map(|(name, value)| (name.to_ascii_lowercase(), value.clone().into_bytes()))
        .collect()
}

fn read_lines<'a>(fields: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Vec<(String, Vec<u8>)> {
    let text = |name: &[u8]| String::from_utf8(name.to_ascii_lowercase()).expect("a name is ASCII");
    fields
        .map(|(name, value)| (text(name), value.to_vec()))
        .filter(|(name, _)| name.starts_with("x-"))
        .collect()
}

fn join(decoder: &mut BodyDecoder, input: &[u8]) -> (Vec<u8>, usize) {
    let (mut data, mut at) = (Vec::new(), 0);
    while !decoder.is_done() {
        let piece = decoder.decode(&input[at..]).expect("it was written here");
        data.extend_from_slice(&input[at..][piece.data]);
        at += piece.consumed;
        assert!(piece.end || at < input.len(), "the body is whole");
    }
    (data, at)
}

proptest! {
    #[test]
    fn a_forwarded_request_is_read_back_with_its_edits(
        method in "[A-Z]{1,8}",
        path in "/[!$-;=?-Z_a-z~]{0,40}",
        host in "[a-z0-9.-]{1,20}(:[0-9]{1,4})?",
        fields in lines(),
        set in lines(),
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..5),
        chunked in any::<bool>(),
    ) {
        prop_assume!(method != "CONNECT");
        let length: usize = pieces.iter().map(Vec::len).sum();
        let framing = if chunked { "Transfer-Encoding: chunked".to_owned() } else { format!("Content-Length: {length}") };
        let text: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let input = format!("{method} {path} HTTP/1.1\r\n{framing}\r\nHost: {host}\r\n{text}\r\n");
        let (mut decoder, mut head) = (RequestDecoder::new(Limits::default()), RequestHead::default());
        prop_assert_eq!(decoder.decode(input.as_bytes(), &mut head), Ok(Decoded::Head(input.len())));

        let mut out = Vec::new();
        let set_lines: Vec<(HeaderName, HeaderValue)> =
            set.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        let edits = set_lines.iter().map(|(name, value)| Edit::Set(name, value));
        let mut body = head.encode(&Forward::default(), edits, &mut out).unwrap();
        for piece in &pieces {
            body.write(piece, &mut out).unwrap();
        }
        body.finish([], &mut out).unwrap();

        let mut again = RequestHead::default();
        let Ok(Decoded::Head(used)) = decoder.decode(&out, &mut again) else { panic!("{}", out.escape_ascii()) };
        prop_assert_eq!((again.method(), again.path(), again.authority()), (method.as_str(), path.as_str(), host.as_str()));
        prop_assert_eq!(again.framing(), if chunked { Framing::Chunked } else { Framing::Length(length as u64) });
        let mut expected = lower(&fields);
        for (name, value) in lower(&set) {
            expected.retain(|(other, _)| *other != name);
            expected.push((name, value));
        }
        prop_assert_eq!(read_lines(again.fields()), expected);
        let (data, consumed) = join(&mut BodyDecoder::new(again.framing(), Limits::default()), &out[used..]);
        prop_assert_eq!((data, used + consumed), (pieces.concat(), out.len()));
    }

    #[test]
    fn a_forwarded_answer_is_read_back(
        status in 200_u16..600,
        reason in "[ -~]{0,20}",
        fields in lines(),
        data in prop::collection::vec(any::<u8>(), 1..100),
        until_close in any::<bool>(),
        head_request in any::<bool>(),
    ) {
        let asked = if head_request { Asked::Head } else { Asked::Plain };
        let text: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let framing = if until_close { String::new() } else { format!("content-length: {}\r\n", data.len()) };
        let input = format!("HTTP/1.1 {status} {reason}\r\n{framing}{text}\r\n");
        let (mut decoder, mut head) = (ResponseDecoder::new(Limits::default()), ResponseHead::default());
        prop_assert_eq!(decoder.decode(input.as_bytes(), asked, &mut head), Ok(DecodedResponse::Head(input.len())));

        let mut out = Vec::new();
        let reply = Reply { to: Version::Http11, keep_alive: true, status: None, body: None };
        let (mut body, kept) = head.encode(&reply, [], &mut out).unwrap();
        prop_assert!(kept);
        let has_body = head.framing() != Framing::None;
        if has_body {
            body.write(&data, &mut out).unwrap();
        }
        body.finish([], &mut out).unwrap();

        let mut again = ResponseHead::default();
        let Ok(DecodedResponse::Head(used)) = decoder.decode(&out, asked, &mut again) else { panic!("{}", out.escape_ascii()) };
        prop_assert_eq!((again.status(), again.reason()), (status, reason.as_str()));
        prop_assert_eq!(read_lines(again.fields()), lower(&fields));
        let (read, consumed) = join(&mut BodyDecoder::new(again.framing(), Limits::default()), &out[used..]);
        prop_assert_eq!((read, used + consumed), (if has_body { data } else { vec![] }, out.len()));
    }

    #[test]
    fn no_input_makes_the_decoders_panic(input in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = RequestDecoder::new(Limits::default()).decode(&input, &mut RequestHead::default());
        let _ = ResponseDecoder::new(Limits::default()).decode(&input, Asked::Plain, &mut ResponseHead::default());
        let _ = BodyDecoder::new(Framing::Chunked, Limits::default()).decode(&input);
    }
}

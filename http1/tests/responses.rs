//! Heads of answers: what is refused, how each is framed, and what that means for the connection.

use http1::{Asked, DecodedResponse, Error, Framing, Limits, Peer, ResponseDecoder, ResponseHead};

fn decode(asked: Asked, input: &[u8]) -> Result<ResponseHead, Error> {
    let mut head = ResponseHead::default();
    match ResponseDecoder::new(Limits::default()).decode(input, asked, &mut head)? {
        DecodedResponse::Head(_) => Ok(head),
        other => panic!("{other:?} for {}", input.escape_ascii()),
    }
}

#[test]
fn every_ambiguous_or_malformed_answer_is_refused() {
    let cases: &[(&str, &[u8], Error)] = &[
        (
            "CL and TE",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            Error::LengthAndCoding,
        ),
        (
            "CL and TE to a 304",
            b"HTTP/1.1 304 X\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            Error::LengthAndCoding,
        ),
        (
            "CL repeated",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
            Error::RepeatedContentLength,
        ),
        (
            "CL list",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\n\r\n",
            Error::BadContentLength,
        ),
        (
            "TE not last",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\n",
            Error::BadCoding,
        ),
        (
            "TE gzip",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
            Error::BadCoding,
        ),
        (
            "TE gzip, chunked",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            Error::UnsupportedCoding,
        ),
        (
            "TE in HTTP/1.0",
            b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            Error::CodingInHttp10,
        ),
        ("obs-fold", b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n", Error::BadFieldName),
        (
            "space before a colon",
            b"HTTP/1.1 200 OK\r\nX : a\r\n\r\n",
            Error::BadFieldName,
        ),
        ("bare LF", b"HTTP/1.1 200 OK\r\nX: a\n\r\n", Error::BadLineEnd),
        (
            "bare LF behind the status line",
            b"HTTP/1.1 200 OK\nX: a\r\n\r\n",
            Error::BadLineEnd,
        ),
        ("bare LF without a reason", b"HTTP/1.1 200\n\r\n", Error::BadLineEnd),
        ("NUL", b"HTTP/1.1 200 OK\r\nX: \0\r\n\r\n", Error::BadFieldValue),
        ("control in the reason", b"HTTP/1.1 200 O\x01K\r\n\r\n", Error::BadStatusLine),
        ("stray CR LF", b"\r\nHTTP/1.1 200 OK\r\n\r\n", Error::BadStatusLine),
        ("status of two digits", b"HTTP/1.1 20 OK\r\n\r\n", Error::BadStatusLine),
        ("status of four digits", b"HTTP/1.1 2000 OK\r\n\r\n", Error::BadStatusLine),
        ("status below 100", b"HTTP/1.1 099 OK\r\n\r\n", Error::BadStatusLine),
        ("version", b"HTTP/2.0 200 OK\r\n\r\n", Error::BadStatusLine),
        ("ICY", b"ICY 200 OK\r\n\r\n", Error::BadStatusLine),
        (
            "unasked switch",
            b"HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
            Error::UnaskedSwitch,
        ),
    ];
    for (name, input, error) in cases {
        let verdict = decode(Asked::Plain, input);
        assert_eq!(verdict.err(), Some(*error), "{name}");
        assert_eq!(error.status(Peer::Upstream), 502);
    }
}

#[test]
fn each_answer_is_framed_by_the_first_rule_that_fits() {
    use Asked::{Connect, Head, Plain, Upgrade};
    let cases: &[(Asked, &str, Framing, bool)] = &[
        (Plain, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n", Framing::Length(3), true),
        (
            Plain,
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n",
            Framing::Length(3),
            false,
        ),
        (
            Plain,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n",
            Framing::Chunked,
            true,
        ),
        (Plain, "HTTP/1.1 200\r\n", Framing::UntilClose, false),
        (Plain, "HTTP/1.0 200 OK\r\nContent-Length: 3\r\n", Framing::Length(3), false),
        (
            Plain,
            "HTTP/1.0 200 OK\r\nContent-Length: 3\r\nConnection: keep-alive\r\n",
            Framing::Length(3),
            true,
        ),
        (
            Plain,
            "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n",
            Framing::UntilClose,
            false,
        ),
        (Plain, "HTTP/1.1 204 No Content\r\n", Framing::None, true),
        (Plain, "HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n", Framing::None, true),
        (
            Plain,
            "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n",
            Framing::None,
            false,
        ),
        (
            Plain,
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n",
            Framing::None,
            true,
        ),
        (Head, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n", Framing::None, true),
        (Head, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n", Framing::None, true),
        (Head, "HTTP/1.1 200 OK\r\n", Framing::None, true),
        (Connect, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n", Framing::None, false),
        (Connect, "HTTP/1.1 403 No\r\nContent-Length: 3\r\n", Framing::Length(3), true),
        (
            Upgrade,
            "HTTP/1.1 101 X\r\nUpgrade: x\r\nConnection: upgrade\r\n",
            Framing::None,
            false,
        ),
        (Upgrade, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n", Framing::Length(3), true),
        (Plain, "HTTP/1.1 999 Odd\r\nContent-Length: 3\r\n", Framing::Length(3), true),
    ];
    for (asked, head, framing, keep_alive) in cases {
        let head_read = decode(*asked, format!("{head}\r\n").as_bytes()).unwrap();
        assert_eq!(
            (head_read.framing(), head_read.keep_alive()),
            (*framing, *keep_alive),
            "{asked:?} {head:?}"
        );
    }
}

#[test]
fn interim_answers_are_told_apart_and_counted() {
    let (mut decoder, mut head) = (
        ResponseDecoder::new(Limits {
            interim: 2,
            ..Limits::default()
        }),
        ResponseHead::default(),
    );
    let interim = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n";
    let fin = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    for _ in 0..2 {
        for _ in 0..2 {
            assert_eq!(
                decoder.decode(interim, Asked::Plain, &mut head),
                Ok(DecodedResponse::Interim(interim.len()))
            );
            assert_eq!((head.status(), head.nth("link", 0)), (103, Some(b"x".as_slice())));
        }
        assert_eq!(
            decoder.decode(fin, Asked::Plain, &mut head),
            Ok(DecodedResponse::Head(fin.len()))
        );
    }
    for _ in 0..2 {
        decoder.decode(interim, Asked::Plain, &mut head).unwrap();
    }
    assert_eq!(decoder.decode(interim, Asked::Plain, &mut head), Err(Error::TooManyInterim));
}

#[test]
fn a_reason_beyond_ascii_is_dropped() {
    assert_eq!(
        decode(Asked::Plain, b"HTTP/1.1 200 Alles \xfcber\r\n\r\n").unwrap().reason(),
        ""
    );
    assert_eq!(
        decode(Asked::Plain, b"HTTP/1.1 200 Sure, why not\r\n\r\n").unwrap().reason(),
        "Sure, why not"
    );
}

#[test]
fn an_answer_decodes_alike_however_it_is_cut() {
    let input = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: y\r\n\r\nhi";
    for cut in 0..input.len() {
        let (mut decoder, mut head, mut start) = (ResponseDecoder::new(Limits::default()), ResponseHead::default(), 0);
        let mut done = false;
        for end in [cut, input.len()] {
            loop {
                match decoder.decode(&input[start..end], Asked::Plain, &mut head).unwrap() {
                    DecodedResponse::Incomplete => break,
                    DecodedResponse::Interim(used) => start += used,
                    DecodedResponse::Head(used) => {
                        start += used;
                        done = true;
                        break;
                    }
                }
            }
            if done {
                break;
            }
        }
        assert_eq!(
            (done, head.status(), head.framing(), &input[start..]),
            (true, 200, Framing::Length(2), b"hi".as_slice()),
            "{cut}"
        );
    }
}

//! Heads of requests: what is refused and with which status, and what is understood.

mod corpus;

use corpus::{REFUSED_REQUESTS, TAKEN_REQUESTS};
use http1::{Asked, Decoded, Error, Form, Framing, Limits, Peer, RequestDecoder, RequestHead, Version};

fn decode(input: &[u8]) -> Result<RequestHead, Error> {
    decode_within(Limits::default(), input)
}

fn decode_within(limits: Limits, input: &[u8]) -> Result<RequestHead, Error> {
    let mut head = RequestHead::default();
    match RequestDecoder::new(limits).decode(input, &mut head)? {
        Decoded::Head(_) => Ok(head),
        other => panic!("{other:?} for {}", input.escape_ascii()),
    }
}

#[test]
fn every_ambiguous_or_malformed_head_is_refused_for_its_reason() {
    for (name, input, error) in REFUSED_REQUESTS {
        let mut head = RequestHead::default();
        let verdict = RequestDecoder::new(Limits::default()).decode(input, &mut head);
        assert_eq!(verdict, Err(*error), "{name}");
    }
}

#[test]
fn every_proper_head_is_taken() {
    for (name, input) in TAKEN_REQUESTS {
        assert!(decode(input).is_ok(), "{name}: {:?}", decode(input));
    }
}

#[test]
fn each_error_calls_for_its_status() {
    let client = [
        (Error::BadRequestLine, 400),
        (Error::LengthAndCoding, 400),
        (Error::UriTooLong, 414),
        (Error::HeadTooLarge, 431),
        (Error::TooManyFields, 431),
        (Error::TrailersTooLarge, 431),
        (Error::UnsupportedCoding, 501),
        (Error::UnsupportedVersion, 505),
    ];
    for (error, status) in client {
        assert_eq!(error.status(Peer::Client), status, "{error}");
        assert_eq!(error.status(Peer::Upstream), 502, "{error}");
    }
}

#[test]
fn the_parts_of_a_head_are_found() {
    let head = decode(b"DELETE /a/b?c HTTP/1.1\r\nHost: a.example:81\r\nX: 1\r\nY:\r\nx:  2 \t\r\n\r\nrest").unwrap();
    assert_eq!(
        (head.method(), head.target(), head.version()),
        ("DELETE", "/a/b?c", Version::Http11)
    );
    assert_eq!(
        (head.authority(), head.path(), head.form()),
        ("a.example:81", "/a/b?c", Form::Origin)
    );
    assert_eq!(head.nth("x", 0), Some(b"1".as_slice()));
    assert_eq!(head.nth("X", 1), Some(b"2".as_slice()));
    assert_eq!(head.nth("x", 2), None);
    assert_eq!(head.nth("y", 0), Some(b"".as_slice()));
    assert_eq!(head.fields().count(), 4);
}

#[test]
fn authority_and_path_come_from_the_target_before_the_host() {
    let cases: &[(&str, Form, &str, &str)] = &[
        ("GET /a HTTP/1.1", Form::Origin, "h", "/a"),
        ("GET http://b:80/x?y HTTP/1.1", Form::Absolute, "b:80", "/x?y"),
        ("GET http://b HTTP/1.1", Form::Absolute, "b", "/"),
        ("GET http://b?x HTTP/1.1", Form::Absolute, "b", "/?x"),
        ("OPTIONS http://b HTTP/1.1", Form::Absolute, "b", "*"),
        ("OPTIONS http://b?x HTTP/1.1", Form::Absolute, "b", "/?x"),
        ("OPTIONS * HTTP/1.1", Form::Asterisk, "h", "*"),
        ("CONNECT b:443 HTTP/1.1", Form::Authority, "b:443", ""),
    ];
    for (line, form, authority, path) in cases {
        let head = decode(format!("{line}\r\nHost: h\r\n\r\n").as_bytes()).unwrap();
        assert_eq!(
            (head.form(), head.authority(), head.path()),
            (*form, *authority, *path),
            "{line}"
        );
    }
}

#[test]
fn a_connection_persists_as_version_and_options_say() {
    let cases = [
        ("1.1", "", true),
        ("1.1", "Connection: close\r\n", false),
        ("1.1", "Connection: keep-alive\r\n", true),
        ("1.1", "Connection: Keep-Alive, Close\r\n", false),
        ("1.1", "Connection: close\r\nConnection: keep-alive\r\n", false),
        ("1.1", "Connection: closed\r\n", true),
        ("1.1", "Connection: a/b\r\n", false),
        ("1.0", "Connection: keep-alive, caf\u{e9}\r\n", false),
        ("1.0", "", false),
        ("1.0", "Connection: keep-alive\r\n", true),
        ("1.0", "Connection: foo ,\tKEEP-ALIVE\r\n", true),
        ("1.0", "Connection: keep-alive, close\r\n", false),
    ];
    for (version, fields, expected) in cases {
        let head = decode(format!("GET / HTTP/{version}\r\nHost: a\r\n{fields}\r\n").as_bytes()).unwrap();
        assert_eq!(head.keep_alive(), expected, "{version} {fields:?}");
    }
}

#[test]
fn a_continue_is_waited_for_only_with_a_body_and_in_http_1_1() {
    let cases = [
        ("1.1", "Expect: 100-Continue\r\nContent-Length: 1\r\n", true),
        ("1.1", "Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n", true),
        ("1.1", "Expect: 100-continue\r\n", false),
        ("1.1", "Expect: 100-continue\r\nContent-Length: 0\r\n", false),
        ("1.1", "Expect: something\r\nContent-Length: 1\r\n", false),
        ("1.0", "Expect: 100-continue\r\nContent-Length: 1\r\n", false),
    ];
    for (version, fields, expected) in cases {
        let head = decode(format!("POST / HTTP/{version}\r\nHost: a\r\n{fields}\r\n").as_bytes()).unwrap();
        assert_eq!(head.expects_continue(), expected, "{version} {fields:?}");
    }
}

#[test]
fn an_upgrade_counts_only_where_connection_names_it() {
    let cases: [(&str, &str, Option<&[u8]>); 5] = [
        ("1.1", "Connection: Upgrade\r\nUpgrade: websocket\r\n", Some(b"websocket")),
        ("1.1", "Upgrade: websocket\r\n", None),
        ("1.1", "Connection: Upgrade\r\n", None),
        ("1.1", "Connection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n", None),
        ("1.0", "Connection: Upgrade\r\nUpgrade: websocket\r\n", None),
    ];
    for (version, fields, expected) in cases {
        let head = decode(format!("GET / HTTP/{version}\r\nHost: a\r\n{fields}\r\n").as_bytes()).unwrap();
        assert_eq!(head.upgrade(), expected, "{version} {fields:?}");
    }
}

#[test]
fn the_framing_is_that_of_the_fields() {
    let cases = [
        ("", Framing::None),
        ("Content-Length: 0\r\n", Framing::Length(0)),
        ("Content-Length: 9223372036854775807\r\n", Framing::Length(i64::MAX as u64)),
        ("Transfer-Encoding: chunked\r\n", Framing::Chunked),
    ];
    for (fields, framing) in cases {
        let head = decode(format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n").as_bytes()).unwrap();
        assert_eq!(head.framing(), framing, "{fields:?}");
    }
    assert_eq!(decode(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap().asked(), Asked::Head);
}

#[test]
fn the_limits_hold_to_the_byte() {
    let limits = Limits {
        head: 60,
        target: 10,
        fields: 2,
        ..Limits::default()
    };
    let sized = |length: usize| {
        let rest = "GET / HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n".len();
        format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(length - rest))
    };
    assert!(decode_within(limits, sized(60).as_bytes()).is_ok());
    assert_eq!(decode_within(limits, sized(61).as_bytes()).unwrap_err(), Error::HeadTooLarge);
    let targeted = |length: usize| format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(length - 1));
    assert!(decode_within(limits, targeted(10).as_bytes()).is_ok());
    assert_eq!(decode_within(limits, targeted(11).as_bytes()).unwrap_err(), Error::UriTooLong);
    assert_eq!(
        decode_within(limits, targeted(100).as_bytes()).unwrap_err(),
        Error::UriTooLong
    );
    let fielded = |count: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(count - 1));
    assert!(decode_within(limits, fielded(2).as_bytes()).is_ok());
    assert_eq!(
        decode_within(limits, fielded(3).as_bytes()).unwrap_err(),
        Error::TooManyFields
    );
}

#[test]
fn a_head_that_never_ends_is_refused_when_it_is_full() {
    let limits = Limits {
        head: 1000,
        target: 100,
        ..Limits::default()
    };
    for (start, error) in [
        ("GET /", Error::UriTooLong),
        ("GET / HTTP/1.1\r\nX: ", Error::HeadTooLarge),
        ("A", Error::HeadTooLarge),
    ] {
        let mut input = start.as_bytes().to_vec();
        let (mut decoder, mut head) = (RequestDecoder::new(limits), RequestHead::default());
        let verdict = loop {
            match decoder.decode(&input, &mut head) {
                Ok(Decoded::Incomplete) => input.push(b'x'),
                other => break other,
            }
        };
        assert_eq!((verdict, input.len()), (Err(error), 1000), "{start}");
    }
}

#[test]
fn a_connection_option_list_that_is_made_to_be_slow_is_refused() {
    let input = format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: {}\r\n\r\n", "a,".repeat(65));
    assert_eq!(decode(input.as_bytes()).unwrap_err(), Error::TooManyOptions);
}

#[test]
fn the_preface_of_http_2_is_recognised_at_the_beginning_only() {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let (mut decoder, mut head) = (RequestDecoder::new(Limits::default()), RequestHead::default());
    for length in 0..preface.len() {
        assert_eq!(
            decoder.decode(&preface[..length], &mut head),
            Ok(Decoded::Incomplete),
            "{length}"
        );
    }
    assert_eq!(decoder.decode(preface, &mut head), Ok(Decoded::Http2));
    let request = b"PROPFIND / HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_eq!(decoder.decode(request, &mut head), Ok(Decoded::Head(request.len())));
    assert_eq!(decoder.decode(preface, &mut head), Err(Error::UnsupportedVersion));
}

//! Heads and bodies on their way out.

use http::{HeaderName, HeaderValue};
use http1::{
    Answer, Asked, Authority, BodyDecoder, Decoded, DecodedResponse, Edit, EncodeError, Forward, Framing, Limits, Reply,
    RequestDecoder, RequestHead, ResponseDecoder, ResponseHead, Version, encode_answer, encode_request,
};

fn request(input: &str) -> RequestHead {
    let mut head = RequestHead::default();
    let decoded = RequestDecoder::new(Limits::default()).decode(input.as_bytes(), &mut head);
    assert!(matches!(decoded, Ok(Decoded::Head(_))), "{decoded:?}: {input:?}");
    head
}

fn response(asked: Asked, input: &str) -> ResponseHead {
    let mut head = ResponseHead::default();
    let decoded = ResponseDecoder::new(Limits::default()).decode(input.as_bytes(), asked, &mut head);
    assert!(matches!(decoded, Ok(DecodedResponse::Head(_))), "{decoded:?}: {input:?}");
    head
}

fn forwarded(input: &str, forward: &Forward<'_>, edits: &[Edit<'_>]) -> Result<String, EncodeError> {
    let mut out = b"before ".to_vec();
    let result = request(input).encode(forward, edits.iter().copied(), &mut out);
    if result.is_err() {
        assert_eq!(out, b"before ", "an error leaves nothing behind");
    }
    result.map(|_| String::from_utf8(out.split_off(7)).expect("it was ASCII"))
}

#[test]
fn fields_about_the_connection_end_here() {
    let input = "GET /a HTTP/1.1\r\nAccept: x\r\nConnection: keep-alive, X-Hop, te\r\nHost: a\r\nX-Hop: 1\r\nKeep-Alive: 5\r\n\
        TE: trailers;q=1\r\nx-hop: 2\r\nProxy-Connection: keep-alive\r\nProxy-Authorization: p\r\nUpgrade: h2c\r\nX-Stay:\tyes \r\n\r\n";
    let out = forwarded(input, &Forward::default(), &[]).unwrap();
    assert_eq!(out, "GET /a HTTP/1.1\r\nhost: a\r\nAccept: x\r\nX-Stay:\tyes \r\n\r\n");
}

#[test]
fn framing_is_written_anew_and_an_option_cannot_take_it_away() {
    let input = "POST /a HTTP/1.1\r\nHost: a\r\nConnection: content-length, host\r\nContent-Length: 007\r\n\r\n";
    let out = forwarded(input, &Forward::default(), &[]).unwrap();
    assert_eq!(out, "POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 7\r\n\r\n");
    let input = "POST /a HTTP/1.1\r\nHost: a\r\nConnection: transfer-encoding\r\nTransfer-Encoding: Chunked\r\n\r\n";
    let out = forwarded(input, &Forward::default(), &[]).unwrap();
    assert_eq!(out, "POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n");
    let buffered = Forward {
        body: Some(Framing::Length(12)),
        ..Forward::default()
    };
    let out = forwarded(input, &buffered, &[]).unwrap();
    assert_eq!(out, "POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 12\r\n\r\n");
}

#[test]
fn trailers_and_upgrades_are_asked_for_where_they_can_be_taken() {
    let input =
        "GET /a HTTP/1.1\r\nHost: a\r\nConnection: upgrade, te\r\nUpgrade: websocket, h2c\r\nTE: gzip, Trailers\r\n\r\n";
    let out = forwarded(input, &Forward::default(), &[]).unwrap();
    assert_eq!(out, "GET /a HTTP/1.1\r\nhost: a\r\nte: trailers\r\nconnection: te\r\n\r\n");
    let upgrade = Forward {
        upgrade: Some(b"websocket"),
        ..Forward::default()
    };
    let out = forwarded(input, &upgrade, &[]).unwrap();
    assert_eq!(
        out,
        "GET /a HTTP/1.1\r\nhost: a\r\nte: trailers\r\nconnection: te, upgrade\r\nupgrade: websocket\r\n\r\n"
    );
}

#[test]
fn target_and_host_go_on_in_origin_form() {
    let cases = [
        ("GET http://b:81/x?y HTTP/1.1", "GET /x?y HTTP/1.1\r\nhost: b:81\r\n\r\n"),
        ("GET http://b?y HTTP/1.1", "GET /?y HTTP/1.1\r\nhost: b\r\n\r\n"),
        ("OPTIONS http://b HTTP/1.1", "OPTIONS * HTTP/1.1\r\nhost: b\r\n\r\n"),
        ("OPTIONS * HTTP/1.1", "OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n"),
        ("CONNECT b:443 HTTP/1.1", "CONNECT b:443 HTTP/1.1\r\nhost: b:443\r\n\r\n"),
        ("GET /x HTTP/1.0", "GET /x HTTP/1.1\r\nhost: a\r\n\r\n"),
    ];
    for (line, expected) in cases {
        let out = forwarded(&format!("{line}\r\nHost: a\r\n\r\n"), &Forward::default(), &[]).unwrap();
        assert_eq!(out, expected, "{line}");
    }
    let host = Authority::new(b"up:9");
    let anew = Forward {
        target: Some(b"/new"),
        host: host.as_ref(),
        ..Forward::default()
    };
    let out = forwarded("GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", &anew, &[]).unwrap();
    assert_eq!(out, "GET /new HTTP/1.1\r\nhost: up:9\r\n\r\n");
}

/// An edit that its test need not keep the name and the value of.
#[derive(Debug, Clone, Copy)]
enum Change {
    Set(&'static str, &'static str),
    Add(&'static str, &'static str),
    Remove(&'static str),
}

fn edited(input: &str, changes: &[Change]) -> String {
    let named = |name: &str| name.parse::<HeaderName>().expect("a test's name is one");
    let parts: Vec<(Change, HeaderName, HeaderValue)> = changes
        .iter()
        .map(|&change| match change {
            Change::Set(name, value) | Change::Add(name, value) => (change, named(name), HeaderValue::from_static(value)),
            Change::Remove(name) => (change, named(name), HeaderValue::from_static("")),
        })
        .collect();
    let edits: Vec<Edit<'_>> = parts
        .iter()
        .map(|(change, name, value)| match change {
            Change::Set(..) => Edit::Set(name, value),
            Change::Add(..) => Edit::Add(name, value),
            Change::Remove(_) => Edit::Remove(name),
        })
        .collect();
    forwarded(input, &Forward::default(), &edits).expect("typed edits never fail")
}

#[test]
fn edits_apply_in_their_order() {
    use Change::{Add, Remove, Set};
    let input = "GET / HTTP/1.1\r\nHost: a\r\nA: 1\r\nB: 2\r\na: 3\r\nC: 4\r\n\r\n";
    let cases: &[(&[Change], &str)] = &[
        (&[], "A: 1\r\nB: 2\r\na: 3\r\nC: 4\r\n"),
        (&[Set("a", "9")], "B: 2\r\nC: 4\r\na: 9\r\n"),
        (&[Add("a", "9")], "A: 1\r\nB: 2\r\na: 3\r\nC: 4\r\na: 9\r\n"),
        (&[Remove("a"), Add("a", "9")], "B: 2\r\nC: 4\r\na: 9\r\n"),
        (&[Add("a", "9"), Remove("a")], "B: 2\r\nC: 4\r\n"),
        (
            &[Add("a", "8"), Set("a", "9"), Add("a", "10")],
            "B: 2\r\nC: 4\r\na: 9\r\na: 10\r\n",
        ),
        (&[Set("z", ""), Set("z", "1")], "A: 1\r\nB: 2\r\na: 3\r\nC: 4\r\nz: 1\r\n"),
    ];
    for (changes, lines) in cases {
        let out = edited(input, changes);
        assert_eq!(out, format!("GET / HTTP/1.1\r\nhost: a\r\n{lines}\r\n"), "{changes:?}");
    }
}

#[test]
fn edits_of_the_codecs_own_fields_change_nothing() {
    use Change::{Add, Remove, Set};
    let input = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n";
    let plain = edited(input, &[]);
    for name in [
        "host",
        "content-length",
        "transfer-encoding",
        "connection",
        "te",
        "upgrade",
        "keep-alive",
        "proxy-connection",
        "proxy-authenticate",
        "proxy-authorization",
    ] {
        assert_eq!(
            edited(input, &[Set(name, "1"), Add(name, "2"), Remove(name)]),
            plain,
            "{name}"
        );
        assert_eq!(edited(input, &[Add(name, "2")]), plain, "{name}");
    }
}

#[test]
fn nothing_that_would_split_a_head_is_written() {
    let input = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let of_field = |name: &[u8], value: &[u8]| {
        let mut out = b"before ".to_vec();
        let written = encode_request(b"GET", b"/", b"a", Framing::None, [(name, value)], &mut out).map(|_| ());
        assert!(written.is_ok() || out == b"before ", "an error leaves nothing behind");
        written
    };
    let values: [&[u8]; 5] = [b"a\r\nX: y", b"a\nb", b"a\rb", b"a\0b", b"a\x7fb"];
    for value in values {
        assert_eq!(of_field(b"x", value), Err(EncodeError::BadValue), "{}", value.escape_ascii());
        let upgrade = Forward {
            upgrade: Some(value),
            ..Forward::default()
        };
        assert_eq!(forwarded(input, &upgrade, &[]), Err(EncodeError::BadValue));
    }
    let names: [&[u8]; 6] = [b"", b"a b", b"a:", b"a\r\nb", b"a\0", b"\xe9"];
    for name in names {
        assert_eq!(of_field(name, b"v"), Err(EncodeError::BadName), "{}", name.escape_ascii());
    }
    let targets: [&[u8]; 5] = [b"", b"/a b", b"/a\r\nX: y", b"/\0", b"/a#b"];
    for target in targets {
        let forward = Forward {
            target: Some(target),
            ..Forward::default()
        };
        let verdict = forwarded(input, &forward, &[]);
        assert_eq!(verdict, Err(EncodeError::BadTarget), "{}", target.escape_ascii());
        let made = encode_request(b"GET", target, b"a", Framing::None, [], &mut Vec::new()).map(|_| ());
        assert_eq!(made, Err(EncodeError::BadTarget), "{}", target.escape_ascii());
    }
    let made = |method: &[u8], host: &[u8]| encode_request(method, b"/", host, Framing::None, [], &mut Vec::new()).map(|_| ());
    assert_eq!(made(b"GET", b"a\r\nX: y"), Err(EncodeError::BadHost));
    assert_eq!(made(b"GE T", b"a"), Err(EncodeError::BadName));
    assert_eq!(Authority::new(b"a\r\nX: y"), None);
    for name in [
        b"Host".as_slice(),
        b"content-length",
        b"Transfer-Encoding",
        b"connection",
        b"te",
        b"upgrade",
        b"keep-alive",
    ] {
        assert_eq!(of_field(name, b"1"), Err(EncodeError::Reserved), "{}", name.escape_ascii());
    }
    let forward = Forward {
        body: Some(Framing::UntilClose),
        ..Forward::default()
    };
    assert_eq!(forwarded(input, &forward, &[]), Err(EncodeError::UnframedRequest));
}

#[test]
fn an_answer_is_framed_for_the_version_of_its_client() {
    use Version::{Http10, Http11};
    let plain = Asked::Plain;
    let cases: &[(Asked, &str, Version, bool, &str, bool)] = &[
        (
            plain,
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX: y\r\n",
            Http11,
            true,
            "200 OK\r\nX: y\r\ncontent-length: 3\r\n",
            true,
        ),
        (
            plain,
            "HTTP/1.0 200 Fine\r\nContent-Length: 3\r\n",
            Http11,
            false,
            "200 Fine\r\ncontent-length: 3\r\nconnection: close\r\n",
            false,
        ),
        (
            plain,
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n",
            Http10,
            true,
            "200 OK\r\ncontent-length: 3\r\nconnection: keep-alive\r\n",
            true,
        ),
        (
            plain,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n",
            Http11,
            true,
            "200 OK\r\ntransfer-encoding: chunked\r\n",
            true,
        ),
        (
            plain,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n",
            Http10,
            true,
            "200 OK\r\n",
            false,
        ),
        (
            plain,
            "HTTP/1.1 200 OK\r\nConnection: close\r\n",
            Http11,
            true,
            "200 OK\r\ntransfer-encoding: chunked\r\n",
            true,
        ),
        (plain, "HTTP/1.1 200 OK\r\n", Http10, true, "200 OK\r\n", false),
        (
            plain,
            "HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n",
            Http11,
            true,
            "204 No Content\r\n",
            true,
        ),
        (
            plain,
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n",
            Http11,
            true,
            "304 Not Modified\r\ncontent-length: 3\r\n",
            true,
        ),
        (
            Asked::Head,
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n",
            Http11,
            true,
            "200 OK\r\ncontent-length: 3\r\n",
            true,
        ),
        (
            Asked::Head,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n",
            Http11,
            true,
            "200 OK\r\n",
            true,
        ),
        (
            Asked::Upgrade,
            "HTTP/1.1 101 S\r\nUpgrade: ws\r\nConnection: upgrade\r\nA: b\r\n",
            Http11,
            true,
            "101 S\r\nA: b\r\nconnection: upgrade\r\nupgrade: ws\r\n",
            false,
        ),
    ];
    for (asked, input, to, wanted, expected, keep_alive) in cases {
        let mut out = Vec::new();
        let reply = Reply {
            to: *to,
            keep_alive: *wanted,
            status: None,
            body: None,
        };
        let (_, kept) = response(*asked, &format!("{input}\r\n"))
            .encode(&reply, [], &mut out)
            .unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            format!("HTTP/1.1 {expected}\r\n"),
            "{input:?} to {to:?}"
        );
        assert_eq!(kept, *keep_alive, "{input:?} to {to:?}");
    }
}

#[test]
fn answers_of_our_own_are_framed_too() {
    let fields = [(b"content-type".as_slice(), b"text/plain".as_slice())];
    let answer = Answer {
        status: 404,
        asked: Asked::Plain,
        to: Version::Http11,
        keep_alive: false,
        body: Framing::Length(2),
    };
    let mut out = Vec::new();
    let (mut body, kept) = encode_answer(&answer, fields, &mut out).unwrap();
    body.write(b"no", &mut out).unwrap();
    body.finish([], &mut out).unwrap();
    let expected = b"HTTP/1.1 404 Not Found\r\ncontent-type: text/plain\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno";
    assert_eq!((out.as_slice(), kept), (expected.as_slice(), false));

    out.clear();
    let (mut body, _) = encode_answer(
        &Answer {
            asked: Asked::Head,
            ..answer
        },
        fields,
        &mut out,
    )
    .unwrap();
    assert!(out.ends_with(b"content-length: 2\r\nconnection: close\r\n\r\n"));
    assert!(!body.wants_data());
    assert_eq!(body.write(b"no", &mut out), Err(EncodeError::BodyTooLong));

    out.clear();
    let empty = Answer {
        status: 200,
        keep_alive: true,
        body: Framing::None,
        ..answer
    };
    encode_answer(&empty, [], &mut out).unwrap();
    assert_eq!(out, b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");

    out.clear();
    let split = [(b"x".as_slice(), b"a\r\nb: c".as_slice())];
    assert_eq!(encode_answer(&answer, split, &mut out), Err(EncodeError::BadValue));
    assert_eq!(
        encode_answer(&Answer { status: 99, ..answer }, [], &mut out),
        Err(EncodeError::BadStatus)
    );
    assert_eq!(
        encode_request(b"G T", b"/", b"a", Framing::None, [], &mut out),
        Err(EncodeError::BadName)
    );
    assert!(out.is_empty());
    encode_request(b"GET", b"/", b"a", Framing::None, fields, &mut out).unwrap();
    assert_eq!(out, b"GET / HTTP/1.1\r\nhost: a\r\ncontent-type: text/plain\r\n\r\n");
}

#[test]
fn a_body_keeps_to_what_its_head_announced() {
    let mut out = Vec::new();
    let mut body = encode_request(b"PUT", b"/", b"a", Framing::Length(3), [], &mut out).unwrap();
    body.write(b"ab", &mut out).unwrap();
    assert_eq!(body.finish([], &mut out), Err(EncodeError::BodyTooShort));
    assert_eq!(body.write(b"cd", &mut out), Err(EncodeError::BodyTooLong));
    body.write(b"c", &mut out).unwrap();
    body.finish([], &mut out).unwrap();
    assert!(out.ends_with(b"\r\n\r\nabc"));
}

#[test]
fn chunks_are_framed_and_an_empty_one_does_not_end_the_body() {
    let mut out = Vec::new();
    let mut body = encode_request(b"PUT", b"/", b"a", Framing::Chunked, [], &mut out).unwrap();
    let head = out.len();
    body.write(b"", &mut out).unwrap();
    body.write(&[b'x'; 0x1a], &mut out).unwrap();
    let frame = body.frame(0x1000).unwrap();
    assert_eq!((frame.head(), frame.tail()), (b"1000\r\n".as_slice(), b"\r\n".as_slice()));
    let trailer = [(b"grpc-status".as_slice(), b"0".as_slice())];
    let split = [(b"x".as_slice(), b"\r\n".as_slice())];
    assert_eq!(body.finish(split, &mut out), Err(EncodeError::BadValue));
    body.finish(trailer, &mut out).unwrap();
    assert_eq!(
        &out[head..],
        [b"1a\r\n".as_slice(), &[b'x'; 0x1a], b"\r\n0\r\ngrpc-status: 0\r\n\r\n"].concat()
    );
    let mut decoder = BodyDecoder::new(Framing::Chunked, Limits::default());
    assert_eq!(decoder.decode(&out[head..]).unwrap().data, 4..4 + 0x1a);
}

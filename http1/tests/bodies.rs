//! Bodies: chunk syntax, limits, trailers, ends.

use http1::{BodyDecoder, Error, Framing, Limits};

fn read(framing: Framing, input: &[u8]) -> Result<(Vec<u8>, usize, bool), Error> {
    let mut decoder = BodyDecoder::new(framing, Limits::default());
    drain(&mut decoder, input)
}

/// Data, bytes consumed, whether the body is over.
fn drain(decoder: &mut BodyDecoder, input: &[u8]) -> Result<(Vec<u8>, usize, bool), Error> {
    let (mut data, mut at) = (Vec::new(), 0);
    loop {
        let piece = decoder.decode(&input[at..])?;
        data.extend_from_slice(&input[at..][piece.data]);
        at += piece.consumed;
        if piece.end || at == input.len() {
            return Ok((data, at, piece.end));
        }
    }
}

#[test]
fn chunks_are_joined_and_what_follows_is_left() {
    let cases: &[(&str, &[u8], &[u8])] = &[
        ("one", b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
        ("two", b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", b"abcde"),
        ("none", b"0\r\n\r\n", b""),
        (
            "capitals and zeros in front",
            b"000A\r\n0123456789\r\n0\r\n\r\n",
            b"0123456789",
        ),
        ("many zeros at the end", b"1\r\nx\r\n0000000000000000\r\n\r\n", b"x"),
        ("extension", b"1;a\r\nx\r\n0;b=c;d=\"e\"\r\n\r\n", b"x"),
        ("whitespace before an extension", b"1 \t;a\r\nx\r\n0\r\n\r\n", b"x"),
        ("trailers", b"1\r\nx\r\n0\r\nA: b\r\nC:\r\n\r\n", b"x"),
        (
            "data that looks like framing",
            b"7\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n",
            b"\r\n0\r\n\r\n",
        ),
    ];
    for (name, input, data) in cases {
        let with_rest = [input, b"GET".as_slice()].concat();
        assert_eq!(
            read(Framing::Chunked, &with_rest),
            Ok((data.to_vec(), input.len(), true)),
            "{name}"
        );
    }
}

#[test]
fn malformed_chunks_are_refused() {
    let cases: &[(&str, &[u8], Error)] = &[
        ("no digits", b"\r\n", Error::BadChunkSize),
        ("only an extension", b";a\r\n", Error::BadChunkSize),
        ("plus", b"+1\r\nx\r\n", Error::BadChunkSize),
        ("minus", b"-1\r\nx\r\n", Error::BadChunkSize),
        ("0x", b"0x1\r\nx\r\n", Error::BadChunkSize),
        ("underscore", b"1_0\r\n", Error::BadChunkSize),
        ("not hexadecimal", b"g\r\n", Error::BadChunkSize),
        ("space before", b" 1\r\nx\r\n", Error::BadChunkSize),
        ("space behind", b"1 \r\nx\r\n", Error::BadChunkSize),
        ("digits behind a space", b"1 1\r\nx\r\n", Error::BadChunkSize),
        ("17 digits", b"00000000000000001\r\nx\r\n", Error::BadChunkSize),
        ("2^64", b"10000000000000000\r\nx\r\n", Error::BadChunkSize),
        ("bare LF behind a size", b"1\nx\r\n", Error::BadChunkSize),
        ("bare CR behind a size", b"1\rx\r\n", Error::BadChunkSize),
        ("NUL behind a size", b"1\0\r\nx\r\n", Error::BadChunkSize),
        ("bare LF in an extension", b"1;\nx\r\n0\r\n\r\n", Error::BadChunkExtension),
        ("bare CR in an extension", b"1;a\rb\r\n", Error::BadChunkSize),
        ("NUL in an extension", b"1;\0\r\n", Error::BadChunkExtension),
        ("data longer than its size", b"1\r\nxy\r\n", Error::BadChunkEnd),
        ("bare LF behind data", b"1\r\nx\n", Error::BadChunkEnd),
        ("bare CR behind data", b"1\r\nx\r0", Error::BadChunkEnd),
        ("bare LF for the end", b"0\r\n\n\r\n\r\n", Error::BadLineEnd),
        ("bare LF in trailers", b"0\r\nA: b\nC: d\r\n\r\n", Error::BadLineEnd),
        (
            "an empty line of bare LFs in trailers",
            b"0\r\nA: b\n\nGET / HTTP/1.1\r\n\r\n",
            Error::BadLineEnd,
        ),
        ("space before a colon in trailers", b"0\r\nA : b\r\n\r\n", Error::BadFieldName),
        ("fold in trailers", b"0\r\nA: b\r\n c\r\n\r\n", Error::BadFieldName),
        ("bare CR in trailers", b"0\r\nA: b\rc\r\n\r\n", Error::BadFieldValue),
        (
            "length in trailers, folded",
            b"0\r\n Content-Length: 1\r\n\r\n",
            Error::BadFieldName,
        ),
    ];
    for (name, input, error) in cases {
        assert_eq!(read(Framing::Chunked, input), Err(*error), "{name}");
        let mut decoder = BodyDecoder::new(Framing::Chunked, Limits::default());
        let bytewise = input.iter().find_map(|&byte| decoder.decode(&[byte]).err());
        assert_eq!(bytewise, Some(*error), "{name}, byte by byte");
    }
}

#[test]
fn the_largest_size_does_not_overflow() {
    let mut decoder = BodyDecoder::new(Framing::Chunked, Limits::default());
    let piece = decoder.decode(b"ffffffffffffffff\r\nab").unwrap();
    assert_eq!((piece.data, piece.end), (18..20, false));
    assert_eq!(decoder.remaining(), Some(u64::MAX - 2));
}

#[test]
fn extensions_are_limited_against_the_data() {
    let limits = Limits {
        extensions: 8,
        ..Limits::default()
    };
    let mut decoder = BodyDecoder::new(Framing::Chunked, limits);
    assert!(drain(&mut decoder, b"8;234567\r\n12345678\r\n8;234567\r\n12345678\r\n").is_ok());
    decoder.reset(Framing::Chunked);
    assert_eq!(
        drain(&mut decoder, b"1;2345\r\n1\r\n1;2345\r\n"),
        Err(Error::ExtensionsTooLarge)
    );
    decoder.reset(Framing::Chunked);
    assert_eq!(drain(&mut decoder, b"1         ;"), Err(Error::ExtensionsTooLarge));
}

#[test]
fn trailers_are_limited_in_bytes_and_in_number() {
    let limits = Limits {
        trailers: 10,
        fields: 1,
        ..Limits::default()
    };
    let mut decoder = BodyDecoder::new(Framing::Chunked, limits);
    assert!(drain(&mut decoder, b"0\r\nA: bcd\r\n\r\n").is_ok_and(|(_, _, end)| end));
    decoder.reset(Framing::Chunked);
    assert_eq!(drain(&mut decoder, b"0\r\nA: bcde\r\n\r\n"), Err(Error::TrailersTooLarge));
    decoder.reset(Framing::Chunked);
    assert_eq!(drain(&mut decoder, b"0\r\nA: bcdefghijklm"), Err(Error::TrailersTooLarge));
    let mut decoder = BodyDecoder::new(
        Framing::Chunked,
        Limits {
            fields: 1,
            ..Limits::default()
        },
    );
    assert_eq!(drain(&mut decoder, b"0\r\nA: b\r\nC: d\r\n\r\n"), Err(Error::TooManyFields));
}

#[test]
fn trailers_that_would_change_the_message_are_left_out() {
    let mut decoder = BodyDecoder::new(Framing::Chunked, Limits::default());
    let input = b"0\r\nHost: b\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\nAuthorization: x\r\n\
        X-Forwarded-For: 1\r\nConnection: close\r\nSet-Cookie: a\r\nGrpc-Status: 0\r\nDigest: y\r\n\r\n";
    drain(&mut decoder, input).unwrap();
    let names: Vec<_> = decoder.trailers().map(|(name, _)| name).collect();
    assert_eq!(names, [b"Grpc-Status".as_slice(), b"Digest"]);
}

#[test]
fn a_body_with_a_length_ends_with_it() {
    assert_eq!(read(Framing::Length(3), b"abcGET"), Ok((b"abc".to_vec(), 3, true)));
    assert_eq!(read(Framing::Length(3), b"ab"), Ok((b"ab".to_vec(), 2, false)));
    assert_eq!(read(Framing::Length(0), b"GET"), Ok((vec![], 0, true)));
    assert_eq!(read(Framing::None, b"GET"), Ok((vec![], 0, true)));
}

#[test]
fn only_a_body_that_ends_with_its_connection_is_whole_when_that_ends() {
    for (framing, input, verdict) in [
        (Framing::UntilClose, b"abc".as_slice(), Ok(())),
        (Framing::Length(3), b"ab", Err(Error::Truncated)),
        (Framing::Length(3), b"abc", Ok(())),
        (Framing::Chunked, b"1\r\nx\r\n", Err(Error::Truncated)),
        (Framing::Chunked, b"1\r\nx\r\n0\r\n", Err(Error::Truncated)),
        (Framing::Chunked, b"1\r\nx\r\n0\r\n\r\n", Ok(())),
        (Framing::None, b"", Ok(())),
    ] {
        let mut decoder = BodyDecoder::new(framing, Limits::default());
        drain(&mut decoder, input).unwrap();
        assert_eq!(decoder.close(), verdict, "{framing:?} {}", input.escape_ascii());
    }
}

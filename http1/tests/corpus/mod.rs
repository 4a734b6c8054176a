//! Messages with their verdicts, each named for what it tries. Used by several suites, none of which needs all of it.
#![allow(dead_code, reason = "each suite uses its own part")]

use http1::Error;

/// Name, head of a request, and why it is refused. Status codes are checked in `requests.rs`.
pub(crate) const REFUSED_REQUESTS: &[(&str, &[u8], Error)] = &[
    // Framing (RFC 9112 §6, §11.2)
    (
        "CL.TE",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n",
        Error::LengthAndCoding,
    ),
    (
        "TE.CL",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n",
        Error::LengthAndCoding,
    ),
    (
        "CL.TE with a length of 0",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n",
        Error::LengthAndCoding,
    ),
    (
        "CL.TE in odd case",
        b"POST / HTTP/1.1\r\nHost: a\r\ncOnTeNt-LeNgTh: 6\r\ntRaNsFeR-eNcOdInG: CHUNKED\r\n\r\n",
        Error::LengthAndCoding,
    ),
    (
        "TE.TE repeated",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        Error::BadCoding,
    ),
    (
        "TE.TE then identity",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n",
        Error::BadCoding,
    ),
    (
        "TE.TE unknown first",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: cow\r\nTransfer-Encoding: chunked\r\n\r\n",
        Error::BadCoding,
    ),
    (
        "TE xchunked",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n",
        Error::BadCoding,
    ),
    (
        "TE chunked, identity",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n",
        Error::BadCoding,
    ),
    (
        "TE identity",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n",
        Error::BadCoding,
    ),
    (
        "TE chunked twice in a list",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n",
        Error::BadCoding,
    ),
    (
        "TE empty",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n",
        Error::BadCoding,
    ),
    (
        "TE empty member",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: , chunked\r\n\r\n",
        Error::BadCoding,
    ),
    (
        "TE with a parameter",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked;q=1\r\n\r\n",
        Error::BadCoding,
    ),
    (
        "TE quoted",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n",
        Error::BadCoding,
    ),
    (
        "TE with a tab before",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\tchunked\r\n\r\n",
        Error::BadCoding,
    ),
    (
        "TE with a tab behind",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\t\r\n\r\n",
        Error::BadCoding,
    ),
    (
        "TE with a vertical tab",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n",
        Error::BadFieldValue,
    ),
    (
        "TE with a form feed",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\x0c\r\n\r\n",
        Error::BadFieldValue,
    ),
    (
        "TE with obs-text",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\xa0\r\n\r\n",
        Error::BadCoding,
    ),
    (
        "TE gzip, chunked",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        Error::UnsupportedCoding,
    ),
    (
        "TE in HTTP/1.0",
        b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        Error::CodingInHttp10,
    ),
    (
        "TE with a space before the colon",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n",
        Error::BadFieldName,
    ),
    (
        "TE folded",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\n\r\n",
        Error::BadFieldName,
    ),
    (
        "TE behind a folded line",
        b"POST / HTTP/1.1\r\nHost: a\r\nX: y\r\n Transfer-Encoding: chunked\r\n\r\n",
        Error::BadFieldName,
    ),
    (
        "TE behind a bare LF",
        b"POST / HTTP/1.1\r\nHost: a\r\nX: y\nTransfer-Encoding: chunked\r\n\r\n",
        Error::BadLineEnd,
    ),
    (
        "TE behind a bare CR",
        b"POST / HTTP/1.1\r\nHost: a\r\nX: y\rTransfer-Encoding: chunked\r\n\r\n",
        Error::BadFieldValue,
    ),
    (
        "TE with NUL in its name",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding\0: chunked\r\n\r\n",
        Error::BadFieldName,
    ),
    (
        "CL repeated and equal",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nContent-Length: 6\r\n\r\n",
        Error::RepeatedContentLength,
    ),
    (
        "CL repeated and different",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nContent-Length: 5\r\n\r\n",
        Error::RepeatedContentLength,
    ),
    (
        "CL list",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1,1\r\n\r\n",
        Error::BadContentLength,
    ),
    (
        "CL with a plus",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n",
        Error::BadContentLength,
    ),
    (
        "CL with a minus",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        Error::BadContentLength,
    ),
    (
        "CL in hexadecimal",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x1\r\n\r\n",
        Error::BadContentLength,
    ),
    (
        "CL empty",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n",
        Error::BadContentLength,
    ),
    (
        "CL of spaces",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length:   \r\n\r\n",
        Error::BadContentLength,
    ),
    (
        "CL with a space within",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1 1\r\n\r\n",
        Error::BadContentLength,
    ),
    (
        "CL with a tab",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\t1\r\n\r\n",
        Error::BadContentLength,
    ),
    (
        "CL with a fraction",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1.0\r\n\r\n",
        Error::BadContentLength,
    ),
    (
        "CL with an exponent",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1e1\r\n\r\n",
        Error::BadContentLength,
    ),
    (
        "CL with an underscore",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1_0\r\n\r\n",
        Error::BadContentLength,
    ),
    (
        "CL of 2^63",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9223372036854775808\r\n\r\n",
        Error::BadContentLength,
    ),
    (
        "CL of 2^64 and one",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551617\r\n\r\n",
        Error::BadContentLength,
    ),
    (
        "CL in other digits",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \u{661}\r\n\r\n".as_bytes(),
        Error::BadContentLength,
    ),
    (
        "CL with a space before the colon",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length : 6\r\n\r\n",
        Error::BadFieldName,
    ),
    (
        "CL in a CONNECT",
        b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nContent-Length: 6\r\n\r\n",
        Error::ConnectWithBody,
    ),
    (
        "TE in a CONNECT",
        b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nTransfer-Encoding: chunked\r\n\r\n",
        Error::ConnectWithBody,
    ),
    // Lines (RFC 9112 §2.2, §5)
    (
        "bare LF behind the request line",
        b"GET / HTTP/1.1\nHost: a\r\n\r\n",
        Error::BadLineEnd,
    ),
    (
        "bare LF for the empty line",
        b"GET / HTTP/1.1\r\nHost: a\r\n\n",
        Error::BadLineEnd,
    ),
    ("bare LF everywhere", b"GET / HTTP/1.1\nHost: a\n\n", Error::BadLineEnd),
    (
        "bare LF before the empty line",
        b"GET / HTTP/1.1\r\nHost: a\n\r\n",
        Error::BadLineEnd,
    ),
    ("bare LF and no fields", b"GET / HTTP/1.0\n\r\n", Error::BadLineEnd),
    (
        "bare LF behind an empty value",
        b"GET / HTTP/1.1\r\nX:\nHost: a\r\n\r\n",
        Error::BadLineEnd,
    ),
    (
        "bare CR for an empty line",
        b"GET / HTTP/1.1\r\nHost: a\r\n\rX\r\n\r\n",
        Error::BadLineEnd,
    ),
    (
        "bare CR behind the version",
        b"GET / HTTP/1.1\rHost: a\r\n\r\n",
        Error::BadLineEnd,
    ),
    (
        "two empty lines before",
        b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        Error::BadRequestLine,
    ),
    (
        "bare LF before",
        b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        Error::BadRequestLine,
    ),
    ("space before", b" GET / HTTP/1.1\r\nHost: a\r\n\r\n", Error::BadRequestLine),
    (
        "space before the first field",
        b"GET / HTTP/1.1\r\n Host: a\r\n\r\n",
        Error::BadFieldName,
    ),
    (
        "obs-fold",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n",
        Error::BadFieldName,
    ),
    (
        "obs-fold with a tab",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n\tz\r\n\r\n",
        Error::BadFieldName,
    ),
    (
        "tab before a colon",
        b"GET / HTTP/1.1\r\nHost\t: a\r\n\r\n",
        Error::BadFieldName,
    ),
    ("no colon", b"GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", Error::BadFieldName),
    ("empty name", b"GET / HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n", Error::BadFieldName),
    (
        "obs-text in a name",
        b"GET / HTTP/1.1\r\nHost: a\r\nX\xe9: y\r\n\r\n",
        Error::BadFieldName,
    ),
    (
        "NUL in a value",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
        Error::BadFieldValue,
    ),
    (
        "DEL in a value",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x7fb\r\n\r\n",
        Error::BadFieldValue,
    ),
    (
        "escape in a value",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: \x1b[1m\r\n\r\n",
        Error::BadFieldValue,
    ),
    // Request line (RFC 9112 §3, §2.3)
    ("HTTP/0.9", b"GET /\r\n\r\n", Error::BadRequestLine),
    ("no method", b" / HTTP/1.1\r\nHost: a\r\n\r\n", Error::BadRequestLine),
    (
        "a colon in the method",
        b"GET: / HTTP/1.1\r\nHost: a\r\n\r\n",
        Error::BadRequestLine,
    ),
    (
        "two spaces before the target",
        b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        Error::BadRequestLine,
    ),
    (
        "two spaces before the version",
        b"GET /  HTTP/1.1\r\nHost: a\r\n\r\n",
        Error::BadRequestLine,
    ),
    (
        "tab before the target",
        b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n",
        Error::BadRequestLine,
    ),
    (
        "space in the target",
        b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
        Error::BadRequestLine,
    ),
    (
        "space behind the version",
        b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
        Error::BadLineEnd,
    ),
    (
        "lower-case version",
        b"GET / http/1.1\r\nHost: a\r\n\r\n",
        Error::BadRequestLine,
    ),
    (
        "another protocol",
        b"GET / ICAP/1.0\r\nHost: a\r\n\r\n",
        Error::BadRequestLine,
    ),
    (
        "a version with two digits",
        b"GET / HTTP/1.10\r\nHost: a\r\n\r\n",
        Error::BadLineEnd,
    ),
    ("HTTP/1.2", b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", Error::UnsupportedVersion),
    ("HTTP/2.0", b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", Error::UnsupportedVersion),
    (
        "a broken preface",
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
        Error::UnsupportedVersion,
    ),
    (
        "a TLS hello",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        Error::BadRequestLine,
    ),
    ("fragment", b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", Error::BadTarget),
    (
        "authority-form of a GET",
        b"GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
        Error::BadTarget,
    ),
    (
        "asterisk-form of a GET",
        b"GET * HTTP/1.1\r\nHost: a\r\n\r\n",
        Error::BadTarget,
    ),
    (
        "origin-form of a CONNECT",
        b"CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n",
        Error::BadTarget,
    ),
    (
        "user information",
        b"GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        Error::BadTarget,
    ),
    (
        "empty host in the target",
        b"GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n",
        Error::BadTarget,
    ),
    // Host (RFC 9112 §3.2)
    ("no host", b"GET / HTTP/1.1\r\nX: y\r\n\r\n", Error::MissingHost),
    (
        "no host with an absolute target",
        b"GET http://a/ HTTP/1.1\r\n\r\n",
        Error::MissingHost,
    ),
    (
        "two hosts",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        Error::RepeatedHost,
    ),
    (
        "two equal hosts",
        b"GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n",
        Error::RepeatedHost,
    ),
    (
        "two hosts in HTTP/1.0",
        b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n",
        Error::RepeatedHost,
    ),
    ("empty host", b"GET / HTTP/1.1\r\nHost:\r\n\r\n", Error::BadHost),
    ("host with a path", b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", Error::BadHost),
    (
        "host with user information",
        b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n",
        Error::BadHost,
    ),
    ("host list", b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", Error::BadHost),
    (
        "host with a bad port",
        b"GET / HTTP/1.1\r\nHost: a:8x\r\n\r\n",
        Error::BadHost,
    ),
    (
        "bad host beside an absolute target",
        b"GET http://a/ HTTP/1.1\r\nHost: a b\r\n\r\n",
        Error::BadHost,
    ),
];

/// Name and head of requests that are taken.
pub(crate) const TAKEN_REQUESTS: &[(&str, &[u8])] = &[
    ("plain", b"GET /a?b=c HTTP/1.1\r\nHost: a.example\r\n\r\n"),
    ("HTTP/1.0 without a host", b"GET / HTTP/1.0\r\n\r\n"),
    ("an empty line before", b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("length", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"),
    ("length with zeros in front", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0005\r\n\r\nhello"),
    ("chunked", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:   Chunked  \r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
    ("chunked with extensions and trailers", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\nX: y\r\n\r\n"),
    ("absolute", b"GET http://b.example:80/x HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("absolute with a query only", b"GET http://b.example?x HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("absolute without a path", b"OPTIONS http://b.example HTTP/1.1\r\nHost: b.example\r\n\r\n"),
    ("asterisk", b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("connect", b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n"),
    ("upgrade", b"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n"),
    ("many options", b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close, x-a\r\nX-A: 1\r\nX-B: 2\r\nEmpty:\r\nPadded: \t p \t\r\n\r\n"),
    ("obs-text in a value", b"GET / HTTP/1.1\r\nHost: a\r\nX: caf\xe9\r\n\r\n"),
    ("pipelined", b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nPOST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhiGET /3 HTTP/1.1\r\nHost: a\r\n\r\n"),
];

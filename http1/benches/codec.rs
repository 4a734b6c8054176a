//! What the codec costs a request, and that it allocates nothing once its buffers have grown (the allocation columns).
#![allow(clippy::unwrap_used, reason = "a benchmark that fails has nothing to measure")]

use divan::{AllocProfiler, Bencher, black_box};
use http::{HeaderName, HeaderValue};
use http1::{
    Asked, Authority, BodyDecoder, DecodedResponse, Edit, Forward, Framing, Limits, Reply, RequestDecoder, RequestHead,
    ResponseDecoder, ResponseHead, Version,
};

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

const REQUEST: &[u8] = b"GET /accounts/42?view=full HTTP/1.1\r\nHost: api.bank.example\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\n\
    Accept: application/json, text/plain, */*\r\nAccept-Encoding: gzip, deflate, br\r\nAccept-Language: en-GB,en;q=0.7\r\n\
    Authorization: Bearer eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiI0MiJ9.c2lnbmF0dXJl\r\nCookie: session=6f1d2c3b4a59687706f1d2c3b4a59687\r\n\
    Connection: keep-alive\r\n\r\n";

const RESPONSE: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1024\r\nDate: Mon, 23 Nov 2026 09:00:00 GMT\r\n\
    Server: bank\r\nCache-Control: no-store\r\nETag: \"abc\"\r\nX-Request-Id: 0123456789abcdef\r\nVary: accept\r\n\r\n";

static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
static ID: HeaderValue = HeaderValue::from_static("0192f7a0-0000-7000-8000-000000000001");
static FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static CLIENT: HeaderValue = HeaderValue::from_static("192.0.2.7");
static FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
static PROTO: HeaderValue = HeaderValue::from_static("https");

static COOKIE: HeaderName = http::header::COOKIE;
static VIA: HeaderName = http::header::VIA;
static HEDDLE: HeaderValue = HeaderValue::from_static("1.1 heddle");

static EDITS: [Edit<'static>; 4] = [
    Edit::Set(&REQUEST_ID, &ID),
    Edit::Set(&FORWARDED_FOR, &CLIENT),
    Edit::Set(&FORWARDED_PROTO, &PROTO),
    Edit::Remove(&COOKIE),
];

fn main() {
    divan::main();
}

#[divan::bench]
fn decode_request_head_of_8_fields(bencher: Bencher<'_, '_>) {
    let (mut decoder, mut head) = (RequestDecoder::new(Limits::default()), RequestHead::default());
    bencher.bench_local(|| decoder.decode(black_box(REQUEST), &mut head).unwrap());
}

#[divan::bench]
fn httparse_alone(bencher: Bencher<'_, '_>) {
    bencher.bench_local(|| {
        let mut fields = [httparse::EMPTY_HEADER; 16];
        httparse::Request::new(&mut fields)
            .parse(black_box(REQUEST))
            .unwrap()
            .unwrap()
    });
}

#[divan::bench]
fn encode_request_head_with_4_edits(bencher: Bencher<'_, '_>) {
    let mut head = RequestHead::default();
    RequestDecoder::new(Limits::default()).decode(REQUEST, &mut head).unwrap();
    let host = Authority::new(b"accounts.internal");
    let mut out = Vec::with_capacity(4096);
    bencher.bench_local(|| {
        out.clear();
        head.encode(
            &Forward {
                host: host.as_ref(),
                ..Forward::default()
            },
            black_box(EDITS),
            &mut out,
        )
        .unwrap()
    });
}

#[divan::bench]
fn decode_response_head_of_8_fields(bencher: Bencher<'_, '_>) {
    let (mut decoder, mut head) = (ResponseDecoder::new(Limits::default()), ResponseHead::default());
    bencher.bench_local(|| {
        let decoded = decoder.decode(black_box(RESPONSE), Asked::Plain, &mut head);
        assert_eq!(decoded, Ok(DecodedResponse::Head(RESPONSE.len())));
    });
}

#[divan::bench]
fn encode_response_head_with_1_edit(bencher: Bencher<'_, '_>) {
    let mut head = ResponseHead::default();
    ResponseDecoder::new(Limits::default())
        .decode(RESPONSE, Asked::Plain, &mut head)
        .unwrap();
    let reply = Reply {
        to: Version::Http11,
        keep_alive: true,
        status: None,
        body: None,
    };
    let mut out = Vec::with_capacity(4096);
    bencher.bench_local(|| {
        out.clear();
        head.encode(&reply, black_box([Edit::Add(&VIA, &HEDDLE)]), &mut out).unwrap()
    });
}

#[divan::bench]
fn look_up_a_field(bencher: Bencher<'_, '_>) {
    let mut head = RequestHead::default();
    RequestDecoder::new(Limits::default()).decode(REQUEST, &mut head).unwrap();
    bencher.bench_local(|| head.nth(black_box("authorization"), 0).map(<[u8]>::len));
}

/// One chunk of 1 KiB and the last one: what a small answer without a length looks like.
#[divan::bench]
fn decode_a_chunked_body_of_1_kib(bencher: Bencher<'_, '_>) {
    let input = [b"400\r\n".as_slice(), &[b'x'; 1024], b"\r\n0\r\n\r\n"].concat();
    let mut decoder = BodyDecoder::new(Framing::None, Limits::default());
    bencher.bench_local(|| {
        decoder.reset(Framing::Chunked);
        let mut at = 0;
        while !decoder.is_done() {
            at += decoder.decode(black_box(&input[at..])).unwrap().consumed;
        }
        at
    });
}

/// 64 chunks of 1 KiB.
#[divan::bench]
fn decode_a_chunked_body_of_64_kib(bencher: Bencher<'_, '_>) {
    let chunk = [b"400\r\n".as_slice(), &[b'x'; 1024], b"\r\n"].concat();
    let input = [chunk.repeat(64), b"0\r\n\r\n".to_vec()].concat();
    let mut decoder = BodyDecoder::new(Framing::None, Limits::default());
    bencher.bench_local(|| {
        decoder.reset(Framing::Chunked);
        let mut at = 0;
        while !decoder.is_done() {
            at += decoder.decode(black_box(&input[at..])).unwrap().consumed;
        }
        at
    });
}

//! Any bytes as what an issuer answers: its document first, then its keys. What is taken for a set never lets a token through that
//! nobody signed.
#![no_main]

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use gateway::exchange::{Arrival, Event, Keys, Step};
use gateway::keys::{Found, Search};
use gateway::{Exchange, Gateway, Memory, Source};
use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;
use routing::{Moment, Now, RequestHead, Scheme};

const CONFIG: &str = r#"
[auth.customer]
kind = "jwt"
issuer = "https://id.example"
algorithms = ["RS256", "ES256", "EdDSA"]
[[routes]]
match = { path = "/" }
auth = "customer"
respond = { status = 200 }
"#;

/// `{"alg":"ES256","kid":"k"}`, `{"iss":"https://id.example","exp":1900000000}`, and 64 bytes that are no signature.
const TOKEN: &str = "Bearer eyJhbGciOiJFUzI1NiIsImtpZCI6ImsifQ.eyJpc3MiOiJodHRwczovL2lkLmV4YW1wbGUiLCJleHAiOjE5MDAwMDAwMDB9.\
                     AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

static GATEWAY: LazyLock<Arc<Gateway>> = LazyLock::new(|| {
    let source = Source::new("fuzz.toml", CONFIG);
    Arc::new(Gateway::compile(&source, &mut |_| Err(String::new()), &|_| None).expect("the config is right"))
});

fuzz_target!(|bytes: &[u8]| {
    let published = &GATEWAY.key_sets()[0];
    let (mut search, _) = Search::begin(published);
    if let Found::Get(url) = search.on_answer(200, bytes) {
        assert!(url.starts_with("http"));
    }
    let is_set = search.on_answer(200, bytes) == Found::Set;
    assert_eq!(is_set, published.check(bytes).is_ok());

    let mut fields = HeaderMap::new();
    fields.insert("authorization", HeaderValue::from_static(TOKEN));
    let now = Now { moment: Moment(0), unix: 1_700_000_000 };
    let head = RequestHead { method: "GET", scheme: Scheme::Http, authority: "a", target: "/", fields: &fields, peer: None };
    let mut memory = Memory::new(&GATEWAY);
    let arrival = Arrival { head, has_body: false, now, entropy: [1; 32] };
    let (mut exchange, mut step) = Exchange::start(&GATEWAY, &mut memory, &arrival);
    loop {
        let event = match step {
            Step::Fetch(_) => Event::Keys(Keys::Set(Bytes::copy_from_slice(bytes))),
            Step::Verify(verify) => Event::Verified(GATEWAY.verify(&verify)),
            Step::Respond(answer) => {
                assert_ne!(answer.status, 200);
                return;
            }
            step => panic!("a token that nobody signed leads to {step:?}"),
        };
        step = exchange.as_mut().expect("it waits").on(&mut memory, event, now);
    }
});

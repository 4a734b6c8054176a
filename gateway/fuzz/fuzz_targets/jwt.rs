//! Any bytes as a bearer token. Signatures are taken for right, so that claims are reached; a signature that is checked never is.
#![no_main]

use std::sync::{Arc, LazyLock};

use gateway::exchange::{Arrival, Event, Step};
use gateway::{Exchange, Gateway, Memory, Source};
use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;
use routing::{Moment, Now, RequestHead, Scheme};

const CONFIG: &str = r#"
[upstreams.a]
endpoints = [{ url = "http://127.0.0.1:1" }]
[auth.customer]
kind = "jwt"
issuer = "i"
audiences = ["a"]
algorithms = ["HS256"]
secret = "a-secret-of-at-least-thirty-two-bytes"
[[routes]]
match = { path = "/" }
auth = "customer"
require = { scopes = ["s"], claims = { "a.b" = [1, "x"] } }
upstream = "a"
headers = { request = { set = { x-a = "{claim.a}", x-b = "{claim.a.b}" } } }
"#;

static GATEWAY: LazyLock<Arc<Gateway>> = LazyLock::new(|| {
    let source = Source::new("fuzz.toml", CONFIG);
    Arc::new(Gateway::compile(&source, &mut |_| Err(String::new()), &|_| None).expect("the config is right"))
});

fuzz_target!(|bytes: &[u8]| {
    let mut value = b"Bearer ".to_vec();
    value.extend_from_slice(bytes);
    let Ok(value) = HeaderValue::from_bytes(&value) else { return };
    let mut fields = HeaderMap::new();
    fields.insert("authorization", value);
    let now = Now { moment: Moment(0), unix: 1_700_000_000 };
    let head = RequestHead { method: "GET", scheme: Scheme::Http, authority: "a", target: "/", fields: &fields, peer: None };
    let mut memory = Memory::new(&GATEWAY);
    let arrival = Arrival { head, has_body: false, now, entropy: [1; 32] };
    let (exchange, step) = Exchange::start(&GATEWAY, &mut memory, &arrival);
    match (exchange, step) {
        (Some(mut exchange), Step::Verify(verify)) => {
            assert!(!GATEWAY.verify(&verify), "nobody signed this");
            let _ = exchange.on(&mut memory, Event::Verified(true), now);
        }
        (_, Step::Respond(answer)) => assert_eq!(answer.status, 401),
        (_, step) => panic!("a token that nobody signed leads to {step:?}"),
    }
});

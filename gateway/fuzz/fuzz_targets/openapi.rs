//! Any query, header field, cookie and form against an API's description with parameters in every style. What goes on upstream was
//! judged; nothing else is an answer but a refusal.
#![no_main]

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use gateway::exchange::{Arrival, BodyRead, Event, Step};
use gateway::{Exchange, Gateway, Memory, Source};
use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;
use routing::{Moment, Now, RequestHead, Scheme};

const CONFIG: &str = r#"
[[routes]]
match = { path_prefix = "/" }
respond = { status = 200 }
validate = { openapi = "api.yaml" }
"#;

const API: &str = r#"
openapi: 3.1.0
paths:
  /{simple}/{label}/{matrix}:
    post:
      parameters:
        - { in: path, name: simple, schema: { type: array, items: { type: integer } } }
        - { in: path, name: label, style: label, explode: true, schema: { type: object, properties: { a: { type: number } } } }
        - { in: path, name: matrix, style: matrix, schema: { type: [integer, "null"] } }
        - { in: query, name: form, schema: { type: array, items: { type: boolean } } }
        - { in: query, name: deep, style: deepObject, schema: { type: object, additionalProperties: { type: integer } } }
        - { in: query, name: pipes, style: pipeDelimited, schema: { type: array } }
        - { in: query, name: json, content: { application/json: { schema: { type: object } } } }
        - { in: header, name: x-list, schema: { type: array, items: { type: string, maxLength: 3 } } }
        - { in: cookie, name: c, schema: { type: string, format: uuid } }
      requestBody:
        content:
          application/x-www-form-urlencoded: { schema: { type: object, properties: { n: { type: array, items: { type: integer } } } } }
"#;

static GATEWAY: LazyLock<Arc<Gateway>> = LazyLock::new(|| {
    let source = Source::new("fuzz.toml", CONFIG);
    let mut read = |_: &str| Ok(API.as_bytes().to_vec());
    Arc::new(Gateway::compile(&source, &mut read, &|_| None).expect("the config is right"))
});

fuzz_target!(|parts: (&str, Vec<u8>, Vec<u8>, Vec<u8>)| {
    let (target, list, cookie, form) = parts;
    let target = format!("/{target}");
    let mut fields = HeaderMap::new();
    for (name, value) in [("x-list", &list), ("cookie", &cookie)] {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            fields.insert(name, value);
        }
    }
    fields.insert("content-type", HeaderValue::from_static("application/x-www-form-urlencoded"));
    let now = Now { moment: Moment(0), unix: 1_700_000_000 };
    let head = RequestHead { method: "POST", scheme: Scheme::Http, authority: "a", target: &target, fields: &fields, peer: None };
    let mut memory = Memory::new(&GATEWAY);
    let arrival = Arrival { head, has_body: true, now, entropy: [1; 32] };
    let (exchange, step) = Exchange::start(&GATEWAY, &mut memory, &arrival);
    let step = match (exchange, step) {
        (Some(mut exchange), Step::Read { .. }) => {
            exchange.on(&mut memory, Event::Body(BodyRead::Whole(Bytes::from(form))), now)
        }
        (_, step) => step,
    };
    assert!(matches!(step, Step::Respond(answer) if matches!(answer.status, 200 | 400 | 404 | 415 | 422)));
});

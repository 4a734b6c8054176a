//! Any bytes from the other side of the boundary, and any request that comes over it.
#![no_main]

use std::sync::{Arc, LazyLock};

use gateway::exchange::wire;
use gateway::{Exchange, Gateway, Memory, Source};
use libfuzzer_sys::fuzz_target;

const CONFIG: &str = r#"
[gateway]
trusted_proxies = ["0.0.0.0/0", "::/0"]
[upstreams.a]
endpoints = [{ url = "http://127.0.0.1:1" }]
[upstreams.b]
endpoints = [{ url = "http://127.0.0.1:1" }]
balance = "ring-hash"
hash = "cookie.s"
[[routes]]
match = { path = "/r/{*rest}", headers = { x-a = { present = true } } }
redirect = { path = "/n/{rest}" }
rate_limit = [{ limit = 3, window = "1s", key = "client.ip" }, { limit = 5, window = "1m", key = "header.x-a" }]
cors = { origins = ["https://*.a.b"], headers = ["*"], methods = ["*"] }
[[routes]]
match = { path = "/g/{id}" }
[routes.aggregate]
branches = [{ as = "x", upstream = "a", path = "/{header.x-b}/{client.ip}/{id}" }]
[[routes]]
match = { path_prefix = "/" }
split = [{ upstream = "a", weight = 1, headers = { request = { set = { x-c = "{header.x-c}" } } } }, { upstream = "b", weight = 1 }]
mirror = { upstream = "a", percent = 50 }
fault = { delay = { duration = "1s", percent = 50 }, abort = { status = 500, percent = 50 } }
validate = { max_body = "1KiB" }
headers = { request = { set = { x-from = "{client.ip}{header.x-b}{request.id}" } } }
"#;

static GATEWAY: LazyLock<Arc<Gateway>> = LazyLock::new(|| {
    let source = Source::new("fuzz.toml", CONFIG);
    Arc::new(Gateway::compile(&source, &mut |_| Err(String::new()), &|_| None).expect("the config is right"))
});

fuzz_target!(|bytes: &[u8]| {
    if let Ok((event, now)) = wire::decode_event(bytes) {
        assert_eq!(wire::decode_event(&wire::encode_event(&event, now)).expect("it was encoded"), (event, now));
    }
    if let Ok(step) = wire::decode_step(bytes) {
        assert_eq!(wire::decode_step(&wire::encode_step(&step)).expect("it was encoded"), step);
    }
    if let Ok(decoded) = wire::decode_arrival(bytes) {
        let mut memory = Memory::new(&GATEWAY);
        let (_, step) = Exchange::start(&GATEWAY, &mut memory, &decoded.arrival());
        assert_eq!(wire::decode_step(&wire::encode_step(&step)).expect("it was encoded"), step);
    }
});

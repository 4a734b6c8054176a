//! Rate limits over real sockets: one quota, whichever core a request comes to and whichever engine decides.

use native_host::EngineKind;

use crate::support::guest::built;
use crate::support::{Gateway, gateway_with};

const CONFIG: &str = r#"
[[routes]]
match = { path = "/limited" }
respond = { status = 200, body = "ok" }
rate_limit = { limit = 100, window = "1h", key = "client.ip" }
"#;

/// Asks from several threads, on a connection for each request, so that every core gets some. Gives how many were admitted.
fn admitted(gateway: &Gateway) -> usize {
    std::thread::scope(|scope| {
        let client = || scope.spawn(|| (0..60).filter(|_| gateway.get("/limited").status == 200).count());
        let clients: Vec<_> = (0..4).map(|_| client()).collect();
        clients.into_iter().map(|client| client.join().unwrap()).sum()
    })
}

#[test]
fn a_limit_is_exact_over_all_cores() {
    let gateway = gateway_with(CONFIG, EngineKind::Native, |options| options.workers = Some(3));
    assert_eq!(admitted(&gateway), 100);
    let refused = gateway.get("/limited");
    assert_eq!((refused.status, refused.header("retry-after")), (429, Some("36")));
}

#[test]
fn a_limit_is_exact_over_all_guests() {
    let gateway = gateway_with(CONFIG, EngineKind::Wasm, |options| {
        options.workers = Some(3);
        options.component = Some(built());
    });
    assert_eq!(admitted(&gateway), 100);
}

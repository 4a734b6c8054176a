//! The real component, where it was built: `HEDDLE_COMPONENT` names it, as `cargo xtask test` does.

use native_host::EngineKind;

use crate::support::guest::built;
use crate::support::{Upstream, everything_to, gateway_with, ok};

#[test]
fn the_component_decides_and_the_host_carries() {
    let Some(component) = built() else { return };
    let upstream = Upstream::answering(|request| ok(request.line.as_str()));
    let gateway = gateway_with(&everything_to(upstream.address), EngineKind::Wasm, |options| {
        options.component = Some(component)
    });
    for _ in 0..10 {
        assert_eq!(gateway.get("/a?b=c").text(), "GET /a?b=c HTTP/1.1");
    }
    assert_eq!(upstream.made(), 1);
    let metrics = gateway.admin("/metrics");
    assert!(metrics.text().contains("http_route=\"all\"} 10"), "{}", metrics.text());
}

#[test]
fn at_the_edge_the_component_answers_whole_requests() {
    let Some(component) = built() else { return };
    let upstream = Upstream::answering(|request| {
        assert_eq!(request.body(), b"sent");
        assert_eq!(
            request.header("x-forwarded-for"),
            Some("127.0.0.1"),
            "whatever the client says: {request:?}"
        );
        ok(request.line.as_str())
    });
    let gateway = gateway_with(&everything_to(upstream.address), EngineKind::Edge, |options| {
        options.component = Some(component)
    });
    for _ in 0..200 {
        let answer =
            gateway.ask("POST /a?b=c HTTP/1.1\r\nhost: test\r\ncontent-length: 4\r\nspin-client-addr: 6.6.6.6:6\r\n\r\nsent");
        assert_eq!((answer.status, answer.text()), (200, "POST /a?b=c HTTP/1.1"));
    }
    assert_eq!(upstream.made(), 1, "the component's requests share a connection");
    let metrics = gateway.admin("/metrics");
    assert!(
        metrics.text().contains("http_server_request_duration_seconds_count"),
        "{}",
        metrics.text()
    );
}

//! The admin's pages.

use native_host::EngineKind;

use crate::support::{Client, Upstream, everything_to, gateway, gateway_with, guest, ok};

#[test]
fn the_pages_tell_what_runs() {
    let upstream = Upstream::answering(|_| ok("x"));
    let secret = "[auth.customer]\nkind = \"jwt\"\nissuer = \"https://id.example/\"\naudiences = [\"a\"]\nalgorithms = [\"HS256\"]\nsecret = \"0123456789abcdef0123456789abcdef\"\n";
    let gateway = gateway(&format!("{secret}{}", everything_to(upstream.address)));
    assert_eq!(gateway.get("/").status, 200);
    assert_eq!(gateway.admin("/live").status, 200);
    assert_eq!(gateway.admin("/ready").status, 200);
    let config = gateway.admin("/config");
    assert!(
        config.text().contains("path_prefix") && !config.text().contains("0123456789abcdef"),
        "{}",
        config.text()
    );
    let routes: serde_json::Value = serde_json::from_slice(&gateway.admin("/routes").body).unwrap();
    assert_eq!(routes[0]["route"], "all");
    let metrics = gateway.admin("/metrics");
    let requests = "http_server_request_duration_seconds_count{http_request_method=\"GET\",http_response_status_code=\"200\",http_route=\"all\"} 1";
    assert!(metrics.text().contains(requests), "{}", metrics.text());
    let attempts = "http_client_request_duration_seconds_count{heddle_upstream=\"u\",http_response_status_code=\"200\"} 1";
    assert!(metrics.text().contains(attempts), "{}", metrics.text());
    assert_eq!(gateway.admin("/").status, 404);
}

#[test]
fn the_pages_are_only_read() {
    let gateway = gateway(&everything_to("127.0.0.1:1".parse().unwrap()));
    let mut client = Client::connect(gateway.admin_address());
    client.send("POST /config HTTP/1.1\r\nhost: admin\r\ncontent-length: 0\r\n\r\n");
    assert_eq!(client.answer().status, 405);
}

#[test]
fn self_made_answers_are_counted_by_their_reason() {
    let gateway = gateway(&everything_to("127.0.0.1:1".parse().unwrap()));
    assert_eq!(gateway.get("/").status, 502);
    let metrics = gateway.admin("/metrics");
    assert!(
        metrics.text().contains("heddle_reason=\"connect-failed\""),
        "{}",
        metrics.text()
    );
}

#[test]
fn a_component_that_decides_is_counted_like_the_native_engine() {
    let folder = tempfile::tempdir().unwrap();
    let component = guest::misbehaving(folder.path());
    let config = everything_to("127.0.0.1:1".parse().unwrap());
    let gateway = gateway_with(&config, EngineKind::Wasm, |options| options.component = Some(component));
    assert_eq!(gateway.get("/").status, 200);
    assert!(
        gateway
            .admin("/metrics")
            .text()
            .contains("http_response_status_code=\"200\"} 1")
    );
}

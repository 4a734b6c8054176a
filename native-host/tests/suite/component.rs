//! The real component.

use std::path::{Path, PathBuf};
use std::time::Duration;

use native_host::EngineKind;

use crate::support::guest::built;
use crate::support::{Upstream, everything_to, gateway_with, ok};

/// The same component under a name of its policy export that no host looks for: one that only answers whole requests.
fn without_policy(component: &Path, folder: &Path) -> PathBuf {
    let mut bytes = std::fs::read(component).unwrap();
    let name = b"heddle:gateway/policy";
    let places: Vec<usize> = (0..bytes.len() - name.len())
        .filter(|at| &bytes[*at..*at + name.len()] == name)
        .collect();
    assert!(!places.is_empty());
    for at in places {
        bytes[at..at + name.len()].copy_from_slice(b"heddle:gateway/pelicy");
    }
    let file = folder.join("handler.wasm");
    std::fs::write(&file, bytes).unwrap();
    file
}

#[test]
fn the_component_decides_and_the_host_carries() {
    let component = built();
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
    let component = built();
    let upstream = Upstream::answering(|request| {
        let has_body = request.line.starts_with("POST");
        assert_eq!(request.body(), if has_body { &b"sent"[..] } else { b"" });
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
        assert_eq!(gateway.get("/a?b=c").text(), "GET /a?b=c HTTP/1.1");
    }
    assert_eq!(
        upstream.made(),
        1,
        "the component's requests share a connection, with a body or without"
    );
    let metrics = gateway.admin("/metrics");
    assert!(
        metrics.text().contains("http_server_request_duration_seconds_count"),
        "{}",
        metrics.text()
    );
}

#[test]
fn a_component_without_the_policy_export_answers_whole_requests() {
    let component = built();
    let folder = tempfile::tempdir().unwrap();
    let handler = without_policy(&component, folder.path());
    let upstream = Upstream::answering(|request| ok(request.line.as_str()));
    let gateway = gateway_with(&everything_to(upstream.address), EngineKind::Wasm, |options| {
        options.component = Some(handler)
    });
    assert_eq!(gateway.get("/a?b=c").text(), "GET /a?b=c HTTP/1.1");
}

/// The head of a request whose body says no length, on a connection that ends with it.
fn chunked(method: &str) -> String {
    format!("{method} / HTTP/1.1\r\nhost: test\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n")
}

#[test]
fn at_the_edge_a_body_that_could_not_be_sent_on_is_refused() {
    let upstream = Upstream::answering(|_| ok("asked"));
    let gateway = gateway_with(&everything_to(upstream.address), EngineKind::Edge, |options| {
        options.component = Some(built())
    });
    for method in ["GET", "HEAD"] {
        let ask = |body: &str| {
            let mut client = gateway.connect();
            client.send(chunked(method) + body);
            client.answer_to(method)
        };
        let refused = ask("4\r\nsent\r\n0\r\n\r\n");
        assert_eq!(refused.status, 400);
        if method == "GET" {
            assert!(refused.text().contains("needs a content-length"), "{refused:?}");
        }
        assert_eq!(ask("0\r\n\r\n").status, 200, "{method}: a body that is empty is none");
    }
    assert_eq!(upstream.made(), 1, "those with a body did not get there");
}

#[test]
fn a_component_that_is_not_the_gateway_is_handed_every_body() {
    let folder = tempfile::tempdir().unwrap();
    let handler = without_policy(&built(), folder.path());
    let upstream = Upstream::answering(|_| ok("asked"));
    let gateway = gateway_with(&everything_to(upstream.address), EngineKind::Wasm, |options| {
        options.component = Some(handler)
    });
    let answer = gateway.ask(&(chunked("GET") + "4\r\nsent\r\n0\r\n\r\n"));
    assert_eq!(answer.status, 200);
}

#[test]
fn at_the_edge_a_body_that_breaks_before_it_begins_is_the_clients_fault() {
    let upstream = Upstream::answering(|_| ok("asked"));
    let gateway = gateway_with(&everything_to(upstream.address), EngineKind::Edge, |options| {
        options.component = Some(built())
    });
    let answer = gateway.ask(&(chunked("DELETE") + "zz\r\n"));
    assert_eq!(answer.status, 400, "{}", answer.text());
    assert_eq!(upstream.made(), 0);
}

/// Takes as long as the limit, which is the component's own and no option.
#[test]
fn at_the_edge_a_body_that_is_waited_for_has_a_time_limit() {
    let upstream = Upstream::answering(|_| ok("asked"));
    let config = everything_to(upstream.address) + "validate = { content_types = [\"text/plain\"] }\n";
    let gateway = gateway_with(&config, EngineKind::Edge, |options| options.component = Some(built()));
    let begins_never = chunked("DELETE");
    let ends_never = "POST / HTTP/1.1\r\nhost: test\r\ncontent-type: text/plain\r\ncontent-length: 4\r\n\r\ns";
    let clients = [&*begins_never, ends_never].map(|request| {
        let mut client = gateway.connect();
        client.stream.set_read_timeout(Some(Duration::from_secs(50))).unwrap();
        client.send(request);
        client
    });
    for mut client in clients {
        let answer = client.answer();
        assert_eq!(answer.status, 400, "{}", answer.text());
    }
    assert_eq!(upstream.made(), 0);
}

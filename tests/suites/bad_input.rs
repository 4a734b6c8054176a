//! What arrives broken, too large or too late gets a clear answer from every engine, and takes nobody else with it.

#![allow(clippy::unwrap_used, reason = "a suite that cannot be set up has failed")]

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::Response;
use tests::bank::Gateway;
use tests::http::{get, raw, send};
use tests::process::{Process, binary};
use tests::upstream::Upstream;

struct Served {
    gateway: Gateway,
    upstream: Upstream,
    _folder: tempfile::TempDir,
}

/// A gateway before an upstream that answers "hello", one that nobody listens for, and one that never answers.
fn served(engine: &str) -> Served {
    let upstream = Upstream::start(|_| Response::new(Body::from("hello")));
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let hangs = silent.local_addr().unwrap();
    std::thread::spawn(move || {
        let kept: Vec<_> = silent.incoming().flatten().take(64).collect();
        drop(kept);
    });
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let breaks = TcpListener::bind("127.0.0.1:0").unwrap();
    let broken = breaks.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in breaks.incoming().flatten().take(64) {
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.1 banana\r\n\r\n");
        }
    });
    let config = format!(
        r#"
[upstreams.hello]
endpoints = [{{ url = "{}" }}]
[upstreams.nobody]
endpoints = [{{ url = "http://{nobody}" }}]
[upstreams.hangs]
endpoints = [{{ url = "http://{hangs}" }}]
[upstreams.broken]
endpoints = [{{ url = "http://{broken}" }}]

[[routes]]
name = "hello"
match = {{ path_prefix = "/hello" }}
upstream = "hello"
[[routes]]
name = "checked"
match = {{ path = "/checked", methods = ["POST"] }}
upstream = "hello"
validate = {{ body = "schema.json", content_types = ["application/json"], max_body = "1KiB" }}
[[routes]]
name = "nobody"
match = {{ path = "/nobody" }}
upstream = "nobody"
[[routes]]
name = "hangs"
match = {{ path = "/hangs" }}
upstream = "hangs"
timeout = "300ms"
[[routes]]
name = "broken"
match = {{ path = "/broken" }}
upstream = "broken"
"#,
        upstream.url()
    );
    let folder = tempfile::tempdir().unwrap();
    let schema =
        r#"{"type":"object","required":["amount"],"properties":{"amount":{"type":"integer"}},"additionalProperties":false}"#;
    std::fs::write(folder.path().join("schema.json"), schema).unwrap();
    std::fs::write(folder.path().join("gateway.toml"), config).unwrap();
    let gateway = Gateway::start(
        Command::new(binary("native-host")),
        &folder.path().join("gateway.toml"),
        engine,
    );
    Served {
        gateway,
        upstream,
        _folder: folder,
    }
}

fn everywhere(check: impl Fn(&Served)) {
    for engine in ["native", "wasm", "edge"] {
        let served = served(engine);
        check(&served);
        let after = get(&format!("{}/hello", served.gateway.url), &[]);
        assert_eq!(
            (after.status, after.body.as_slice()),
            (200, b"hello".as_slice()),
            "{engine}: the next request is served"
        );
    }
}

impl Served {
    fn raw(&self, bytes: &[u8]) -> String {
        raw(self.gateway.url.trim_start_matches("http://"), bytes)
    }

    fn problem(&self, method: &str, path: &str, fields: &[(&str, &str)], body: &[u8]) -> (u16, String) {
        let answer = send(method, &format!("{}{path}", self.gateway.url), fields, body).unwrap();
        assert_eq!(
            answer.field("content-type"),
            Some("application/problem+json"),
            "{path}: {}",
            String::from_utf8_lossy(&answer.body)
        );
        let problem = answer.json();
        assert_eq!(problem["status"], answer.status, "{problem}");
        assert!(
            problem["instance"].is_string() && problem["title"].is_string() && problem["type"].is_string(),
            "{problem}"
        );
        (answer.status, problem["reason"].as_str().unwrap_or_default().to_owned())
    }
}

#[test]
fn malformed_requests_are_refused_and_the_connection_closed() {
    let malformed: [(&str, &[u8]); 8] = [
        ("no HTTP at all", b"banana\r\n\r\n"),
        ("a space before the colon", b"GET /hello HTTP/1.1\r\nhost : a\r\n\r\n"),
        ("a NUL in a value", b"GET /hello HTTP/1.1\r\nhost: a\r\nx: a\0b\r\n\r\n"),
        (
            "both framings",
            b"POST /hello HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "two lengths",
            b"POST /hello HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
        ),
        (
            "a length with a sign",
            b"POST /hello HTTP/1.1\r\nhost: a\r\ncontent-length: +3\r\n\r\nabc",
        ),
        ("no host", b"GET /hello HTTP/1.1\r\n\r\n"),
        ("two hosts", b"GET /hello HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n"),
    ];
    everywhere(|served| {
        for (what, bytes) in malformed {
            let answer = served.raw(bytes);
            assert!(answer.starts_with("HTTP/1.1 400 "), "{what}: {answer}");
        }
        assert!(served.upstream.seen().is_empty(), "nothing of it reached the upstream");
    });
}

#[test]
fn a_header_section_over_64_kib_is_431() {
    everywhere(|served| {
        let request = format!("GET /hello HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(66 * 1024));
        let answer = served.raw(request.as_bytes());
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    });
}

#[test]
fn an_invalid_escape_in_the_path_is_400_with_a_reason() {
    everywhere(|served| {
        let answer = served.raw(b"GET /hello/%zz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        assert!(
            answer.starts_with("HTTP/1.1 400 ") && answer.contains("application/problem+json"),
            "{answer}"
        );
    });
}

#[test]
fn a_body_over_the_routes_limit_is_413() {
    everywhere(|served| {
        let body = format!("{{\"amount\":{}}}", "1".repeat(2000));
        let json = [("content-type", "application/json")];
        assert_eq!(served.problem("POST", "/checked", &json, body.as_bytes()).0, 413);
    });
}

#[test]
fn a_body_that_its_schema_refuses_is_422_with_json_pointers() {
    everywhere(|served| {
        let url = format!("{}/checked", served.gateway.url);
        let answer = send(
            "POST",
            &url,
            &[("content-type", "application/json")],
            br#"{"amount":"x","extra":1}"#,
        )
        .unwrap();
        let problem = answer.json();
        assert_eq!(answer.status, 422, "{problem}");
        assert_eq!(
            problem["errors"].as_array().map(Vec::len),
            Some(2),
            "every violation is told: {problem}"
        );
        assert_eq!(
            served.problem("POST", "/checked", &[("content-type", "text/plain")], b"{}").0,
            415
        );
        assert_eq!(
            served
                .problem("POST", "/checked", &[("content-type", "application/json")], b"{")
                .0,
            400
        );
        assert!(served.upstream.seen().is_empty(), "nothing of it reached the upstream");
        let answer = send("POST", &url, &[("content-type", "application/json")], br#"{"amount":1}"#).unwrap();
        assert_eq!(answer.status, 200);
        assert_eq!(
            served.upstream.seen()[0].body,
            br#"{"amount":1}"#.as_slice(),
            "the body that was read is sent"
        );
    });
}

#[test]
fn an_upstream_that_is_down_silent_or_broken_is_told_apart_at_once() {
    everywhere(|served| {
        let start = Instant::now();
        let (status, reason) = served.problem("GET", "/nobody", &[], b"");
        assert!([502, 503].contains(&status) && !reason.is_empty(), "{status} {reason}");
        assert_eq!(served.problem("GET", "/hangs", &[], b"").0, 504);
        assert_eq!(served.problem("GET", "/broken", &[], b"").0, 502);
        assert!(start.elapsed() < Duration::from_secs(5), "no hang: {:?}", start.elapsed());
    });
}

#[test]
fn an_unknown_path_is_404_with_a_reason() {
    everywhere(|served| {
        let (status, reason) = served.problem("GET", "/nowhere", &[], b"");
        assert_eq!((status, reason.as_str()), (404, "route-not-found"));
    });
}

#[test]
fn what_belongs_to_one_connection_does_not_reach_the_upstream() {
    everywhere(|served| {
        let fields = [
            ("connection", "x-mine"),
            ("x-mine", "1"),
            ("te", "gzip"),
            ("x-forwarded-for", "6.6.6.6"),
            ("keep-alive", "1"),
        ];
        assert_eq!(
            send("GET", &format!("{}/hello", served.gateway.url), &fields, b"")
                .unwrap()
                .status,
            200
        );
        let seen = &served.upstream.seen()[0].fields;
        for name in ["x-mine", "keep-alive"] {
            assert!(seen.get(name).is_none(), "{name} is for one connection: {seen:?}");
        }
        assert_eq!(
            seen["x-forwarded-for"], "127.0.0.1",
            "a stranger does not say where a request came from"
        );
        assert!(
            seen.contains_key("x-request-id") && seen.contains_key("traceparent"),
            "{seen:?}"
        );
    });
}

#[test]
fn serve_refuses_to_start_on_a_config_that_does_not_compile() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("gateway.toml");
    std::fs::write(&config, "[gateway]\nnmae = \"bank\"\n").unwrap();
    let mut command = Command::new(binary("native-host"));
    command
        .args([
            "serve",
            "--engine",
            "native",
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "127.0.0.1:0",
            "--config",
        ])
        .arg(&config);
    let mut host = Process::start("native-host", &mut command);
    assert_eq!(host.ended(Duration::from_secs(10)).code(), Some(1));
    eventually_prints(&host, "gateway.toml:2:1");
}

fn eventually_prints(process: &Process, what: &str) {
    tests::eventually::eventually(Duration::from_secs(2), || {
        let output = process.output();
        if output.contains(what) {
            Ok(())
        } else {
            Err(format!("`{what}` is not in:\n{output}"))
        }
    });
}

//! Upstreams that fail, and what the client hears of it.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use crate::support::{Upstream, everything_to, gateway, ok};

/// An address where nobody listens.
fn nobody() -> std::net::SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[test]
fn an_upstream_that_is_down_is_502_at_once_with_a_reason() {
    let gateway = gateway(&everything_to(nobody()));
    let began = Instant::now();
    let answer = gateway.get("/");
    assert_eq!((answer.status, answer.reason().as_str()), (502, "connect-failed"));
    assert!(began.elapsed() < Duration::from_secs(3), "long before the route's timeout");
}

#[test]
fn an_upstream_that_breaks_off_before_its_answer_is_502() {
    let upstream = Upstream::start(|mut client| {
        client.request();
        client.close();
    });
    let gateway = gateway(&everything_to(upstream.address));
    let answer = gateway.get("/");
    assert_eq!((answer.status, answer.reason().as_str()), (502, "upstream-reset"));
}

#[test]
fn an_upstream_that_does_not_speak_http_is_502() {
    let upstream = Upstream::start(|mut client| {
        client.request();
        client.send("SSH-2.0-OpenSSH_9.2\r\n\r\n");
        client.request();
    });
    let gateway = gateway(&everything_to(upstream.address));
    let answer = gateway.get("/");
    assert_eq!((answer.status, answer.reason().as_str()), (502, "upstream-protocol"));
}

#[test]
fn an_upstream_that_is_late_is_504_and_its_connection_is_not_used_again() {
    let upstream = Upstream::start(|mut client| {
        while let Some(request) = client.request() {
            if request.line.contains("/slow") {
                std::thread::sleep(Duration::from_millis(700));
            }
            client.send(ok(&request.line));
        }
    });
    let config = everything_to(upstream.address).replace("\"5s\"", "\"200ms\"");
    let gateway = gateway(&config);
    let answer = gateway.get("/slow");
    assert_eq!(answer.status, 504, "{answer:?}");
    assert_eq!(gateway.get("/quick").text(), "GET /quick HTTP/1.1");
    assert_eq!(upstream.made(), 2);
}

#[test]
fn an_attempt_that_failed_is_made_again_elsewhere() {
    let upstream = Upstream::answering(|_| ok("second"));
    let config = format!(
        "[upstreams.u]\nendpoints = [{{ url = \"http://{}\" }}, {{ url = \"http://{}\" }}]\n\n[[routes]]\nname = \"all\"\nmatch = {{ path_prefix = \"/\" }}\nupstream = \"u\"\ntimeout = \"5s\"\nretry = {{ attempts = 2, on = [\"connect-failure\"], backoff = \"1ms..2ms\", budget = 1.0 }}\n",
        nobody(),
        upstream.address
    );
    let gateway = gateway(&config);
    for _ in 0..10 {
        assert_eq!(gateway.get("/").text(), "second");
    }
}

#[test]
fn a_status_that_is_retried_is_not_what_the_client_gets() {
    let count = std::sync::atomic::AtomicUsize::new(0);
    let upstream = Upstream::answering(move |request| {
        assert_eq!(request.body(), b"once more");
        match count.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
            0 => "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy".to_owned(),
            _ => ok("well"),
        }
    });
    let config = everything_to(upstream.address)
        + "retry = { attempts = 2, on = [\"503\"], backoff = \"1ms..2ms\", budget = 1.0 }\nvalidate = { max_body = \"1KiB\" }\n";
    let gateway = gateway(&config);
    let answer = gateway.ask("PUT / HTTP/1.1\r\nhost: test\r\ncontent-length: 9\r\n\r\nonce more");
    assert_eq!((answer.status, answer.text()), (200, "well"));
}

#[test]
fn a_body_over_the_routes_limit_is_413() {
    let upstream = Upstream::answering(|_| ok("fine"));
    let config = everything_to(upstream.address) + "validate = { max_body = \"1KiB\" }\n";
    let gateway = gateway(&config);
    let long = "x".repeat(2048);
    let answer = gateway.ask(&format!(
        "POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 2048\r\n\r\n{long}"
    ));
    assert_eq!((answer.status, answer.reason().as_str()), (413, "body-too-large"));
    let answer = gateway.ask(&format!(
        "POST / HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n800\r\n{long}\r\n0\r\n\r\n"
    ));
    assert_eq!((answer.status, answer.reason().as_str()), (413, "body-too-large"));
    assert_eq!(upstream.made(), 0);
}

#[test]
fn an_unknown_path_is_404() {
    let config = everything_to(nobody()).replace("path_prefix = \"/\"", "path = \"/here\"");
    let gateway = gateway(&config);
    let answer = gateway.get("/there");
    assert_eq!((answer.status, answer.reason().as_str()), (404, "route-not-found"));
}

#[test]
fn a_failure_after_the_exchanges_last_step_is_answered_all_the_same() {
    // The body is read for the policy, so there is an exchange, and its only attempt is its last step.
    let gateway = gateway(&(everything_to(nobody()) + "validate = { max_body = \"1KiB\" }\n"));
    let answer = gateway.ask("POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 2\r\n\r\nhi");
    assert_eq!((answer.status, answer.reason().as_str()), (502, "connect-failed"));
}

#[test]
fn an_upstream_that_switches_protocols_unasked_is_502() {
    let upstream = Upstream::answering(|request| {
        assert_eq!(request.header("upgrade"), None);
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: own\r\n\r\n".to_owned()
    });
    let gateway = gateway(&everything_to(upstream.address));
    let answer = gateway.get("/");
    assert_eq!((answer.status, answer.reason().as_str()), (502, "upstream-protocol"));
}

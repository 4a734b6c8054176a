//! What a client may not demand.

use std::time::Duration;

use crate::support::{Upstream, everything_to, gateway, gateway_with, ok};
use native_host::EngineKind;

fn plain() -> (Upstream, crate::support::Gateway) {
    let upstream = Upstream::answering(|_| ok("fine"));
    let gateway = gateway(&everything_to(upstream.address));
    (upstream, gateway)
}

#[test]
fn a_head_that_is_too_long_is_431_and_the_end() {
    let (upstream, gateway) = plain();
    let mut client = gateway.connect();
    client.send(format!(
        "GET / HTTP/1.1\r\nhost: test\r\nx: {}\r\n\r\n",
        "a".repeat(65 * 1024)
    ));
    assert_eq!(client.answer().status, 431);
    assert!(client.closes());
    let many: String = (0..200).map(|n| format!("x-{n}: 1\r\n")).collect();
    assert_eq!(
        gateway.ask(&format!("GET / HTTP/1.1\r\nhost: test\r\n{many}\r\n")).status,
        431
    );
    assert_eq!(upstream.made(), 0);
    let long = "a".repeat(60 * 1024);
    assert_eq!(
        gateway
            .ask(&format!("GET / HTTP/1.1\r\nhost: test\r\nx: {long}\r\n\r\n"))
            .status,
        200
    );
}

#[test]
fn malformed_requests_are_400_and_the_end() {
    let (upstream, gateway) = plain();
    for request in [
        "GET\r\n\r\n",
        "GET / HTTP/1.1\r\nhost test\r\n\r\n",
        "GET / HTTP/1.1\r\nho st: test\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nx: a\0b\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: nine\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: +1\r\n\r\na",
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        let mut client = gateway.connect();
        client.send(request);
        let answer = client.try_answer().unwrap_or_else(|| panic!("no answer to {request:?}"));
        assert_eq!(answer.status, 400, "{request:?}");
        assert!(client.closes(), "{request:?}");
    }
    assert_eq!(upstream.made(), 0);
}

#[test]
fn a_target_that_is_too_long_is_414() {
    let (_upstream, gateway) = plain();
    let answer = gateway.get(&format!("/{}", "a".repeat(17 * 1024)));
    assert_eq!((answer.status, answer.reason().as_str()), (414, "uri-too-long"));
}

#[test]
fn connect_is_no_tunnel() {
    let (upstream, gateway) = plain();
    let answer = gateway.ask("CONNECT other.example:443 HTTP/1.1\r\nhost: other.example:443\r\n\r\n");
    assert_eq!(answer.status, 501);
    assert_eq!(upstream.made(), 0);
}

#[test]
fn a_client_that_dawdles_over_its_head_is_dropped() {
    let upstream = Upstream::answering(|_| ok("fine"));
    let gateway = gateway_with(&everything_to(upstream.address), EngineKind::Native, |options| {
        options.limits.head_timeout = Duration::from_millis(150);
    });
    let mut silent = gateway.connect();
    let mut slow = gateway.connect();
    slow.send("GET / HTTP/1.1\r\nhost: te");
    assert!(silent.closes() && slow.closes());
    let mut second = gateway.connect();
    second.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n");
    assert_eq!(second.answer().status, 200);
    second.send("GET / HT");
    assert!(second.closes());
}

#[test]
fn an_idle_connection_is_closed_and_one_at_work_is_not() {
    let upstream = Upstream::answering(|_| {
        std::thread::sleep(Duration::from_millis(600));
        ok("late")
    });
    let gateway = gateway_with(&everything_to(upstream.address), EngineKind::Native, |options| {
        options.limits.head_timeout = Duration::from_millis(50);
        options.limits.idle_timeout = Duration::from_millis(400);
    });
    let mut client = gateway.connect();
    // The second one comes long after the first began, and soon after it ended.
    for _ in 0..2 {
        client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n");
        assert_eq!(client.answer().text(), "late");
    }
    assert!(client.closes());
}

#[test]
fn connections_over_the_limit_wait_for_one_to_end() {
    let upstream = Upstream::answering(|_| ok("fine"));
    let gateway = gateway_with(&everything_to(upstream.address), EngineKind::Native, |options| {
        options.limits.connections = 2
    });
    let mut first = gateway.connect();
    let mut second = gateway.connect();
    for client in [&mut first, &mut second] {
        client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n");
        assert_eq!(client.answer().status, 200);
    }
    let mut third = gateway.connect();
    third.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n");
    third.stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let mut byte = [0];
    assert!(third.stream.peek(&mut byte).is_err(), "the third is not served yet");
    third.stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    drop(first);
    assert_eq!(third.answer().status, 200);
}

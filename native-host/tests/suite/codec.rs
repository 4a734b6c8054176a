//! What our own codec adds on the way of a request, and that hyper's can take its place.

use std::io::Write as _;
use std::net::Shutdown;
use std::sync::Mutex;
use std::sync::mpsc;
use std::time::Duration;

use native_host::{EngineKind, Http1};

use crate::support::{Client, Upstream, eventually, everything_to, gateway, gateway_with, ok};

#[test]
fn bytes_that_are_no_request_get_a_problem_a_metric_and_the_end() {
    let upstream = Upstream::answering(|_| ok("fine"));
    let gateway = gateway(&everything_to(upstream.address));
    for (bytes, status, reason) in [
        ("banana\r\n\r\n".to_owned(), 400, "malformed-request"),
        ("GET / HTTP/1.1\r\nhost : a\r\n\r\n".to_owned(), 400, "malformed-request"),
        ("GET / HTTP/1.1\nhost: a\n\n".to_owned(), 400, "malformed-request"),
        (
            "GET / HTTP/1.1\r\nhost: a\r\n x: folded\r\n\r\n".to_owned(),
            400,
            "malformed-request",
        ),
        (
            format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(70 * 1024)),
            431,
            "head-too-large",
        ),
    ] {
        let mut client = gateway.connect();
        client.send(&bytes);
        let answer = client.answer();
        assert_eq!((answer.status, answer.reason().as_str()), (status, reason), "{:.60}", bytes);
        assert_eq!(answer.header("connection"), Some("close"));
        assert!(answer.header("x-request-id").is_some());
        assert!(client.closes());
        eventually("it is counted", || {
            gateway
                .admin("/metrics")
                .text()
                .contains(&format!("heddle_reason=\"{reason}\""))
                .then_some(())
        });
    }
    assert_eq!(upstream.made(), 0);
}

#[test]
fn a_target_that_no_config_allows_ends_the_connection() {
    let gateway = gateway("[gateway]\nmax_header = \"1MiB\"\n");
    let mut client = gateway.connect();
    client.send(format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "y".repeat(65 * 1024)));
    let answer = client.answer();
    assert_eq!((answer.status, answer.reason().as_str()), (414, "uri-too-long"));
    assert_eq!(answer.header("connection"), Some("close"));
    assert!(client.closes());
}

#[test]
fn a_client_of_http_1_0_gets_no_chunks_and_keeps_its_connection_only_if_it_asks() {
    let upstream = Upstream::answering(|request| {
        assert!(request.line.ends_with("HTTP/1.1"));
        match request.line.contains("/chunked") {
            true => "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n".to_owned(),
            false => ok("abc"),
        }
    });
    let gateway = gateway(&everything_to(upstream.address));
    let mut client = gateway.connect();
    client.send("GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n");
    let answer = client.answer();
    assert_eq!((answer.text(), answer.header("connection")), ("abc", Some("keep-alive")));
    client.send("GET /chunked HTTP/1.0\r\nconnection: keep-alive\r\n\r\n");
    let answer = client.answer();
    assert_eq!((answer.text(), answer.header("transfer-encoding")), ("abc", None));
    assert!(client.closes());
    let mut client = gateway.connect();
    client.send("GET / HTTP/1.0\r\n\r\n");
    assert_eq!(client.answer().text(), "abc");
    assert!(client.closes());
}

#[test]
fn an_answer_that_ends_with_its_connection_is_chunked_and_the_clients_connection_goes_on() {
    let upstream = Upstream::start(|mut client| {
        client.request();
        client.send("HTTP/1.1 200 OK\r\nx: 1\r\n\r\nto the end");
        client.close();
    });
    let gateway = gateway(&everything_to(upstream.address));
    let mut client = gateway.connect();
    for _ in 0..2 {
        client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n");
        let answer = client.answer();
        assert_eq!(
            (answer.text(), answer.header("transfer-encoding")),
            ("to the end", Some("chunked"))
        );
    }
}

#[test]
fn trailers_come_through_in_both_directions() {
    let (sent, seen) = mpsc::channel();
    let sent = Mutex::new(sent);
    let upstream = Upstream::start(move |mut client| {
        client.request_head().unwrap();
        let bytes = read_until(&mut client, "0\r\nx-sum: 7\r\n\r\n");
        sent.lock().unwrap().send(bytes).unwrap();
        client.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-check: 9\r\n\r\n");
        client.request();
    });
    let gateway = gateway(&everything_to(upstream.address));
    let mut client = gateway.connect();
    client.send("POST / HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 7\r\n\r\n");
    assert!(seen.recv_timeout(Duration::from_secs(5)).unwrap().starts_with("3\r\nabc\r\n"));
    let answer = read_until(&mut client, "\r\n\r\n2\r\nok\r\n0\r\nx-check: 9\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
}

#[test]
fn an_answer_that_comes_before_the_request_is_over_reaches_the_client() {
    let upstream = Upstream::start(|mut client| {
        client.request_head();
        client.send("HTTP/1.1 413 Content Too Large\r\ncontent-length: 8\r\nconnection: close\r\n\r\ntoo much");
        client.stream.shutdown(Shutdown::Write).unwrap();
        client.closes();
    });
    let gateway = gateway(&everything_to(upstream.address));
    let mut client = gateway.connect();
    client.send("POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 100000000\r\n\r\nabc");
    let answer = client.answer();
    assert_eq!((answer.status, answer.text()), (413, "too much"));
    assert!(client.closes());
}

#[test]
fn an_upstream_may_answer_while_the_client_is_still_sending() {
    let upstream = Upstream::start(|mut client| {
        client.request_head();
        client.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
        for _ in 0..3 {
            let chunk = read_until(&mut client, "\r\nping\r\n");
            assert!(chunk.starts_with('4'), "{chunk}");
            client.send("4\r\npong\r\n");
        }
        read_until(&mut client, "0\r\n\r\n");
        client.send("0\r\n\r\n");
        client.request();
    });
    let gateway = gateway(&everything_to(upstream.address));
    let mut client = gateway.connect();
    client.send("POST / HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n");
    read_until(&mut client, "\r\n\r\n");
    for _ in 0..3 {
        client.send("4\r\nping\r\n");
        assert_eq!(read_until(&mut client, "pong\r\n"), "4\r\npong\r\n");
    }
    client.send("0\r\n\r\n");
    assert_eq!(read_until(&mut client, "0\r\n\r\n"), "0\r\n\r\n");
    client.send("GET / HTTP/1.1\r\nhost: t\r\n\r\n");
    read_until(&mut client, "\r\n\r\n");
}

#[test]
fn a_client_that_sends_all_before_it_reads_is_served_by_an_upstream_that_echoes() {
    const LENGTH: usize = 16 * 1024 * 1024;
    let upstream = Upstream::start(|mut client| {
        client.request_head();
        client.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {LENGTH}\r\n\r\n"));
        let mut writing = client.stream.try_clone().unwrap();
        // Reads on while nobody takes what it sends, as a server does that has room for it.
        let (give, take) = mpsc::channel::<Vec<u8>>();
        let writer = std::thread::spawn(move || take.iter().for_each(|bytes| writing.write_all(&bytes).unwrap()));
        let mut left = LENGTH;
        while left > 0 {
            let bytes = client.some();
            left -= bytes.len();
            give.send(bytes).unwrap();
        }
        drop(give);
        writer.join().unwrap();
        client.request();
    });
    let gateway = gateway(&everything_to(upstream.address));
    let mut client = gateway.connect();
    client.send(format!("PUT / HTTP/1.1\r\nhost: t\r\ncontent-length: {LENGTH}\r\n\r\n"));
    client.send(vec![b'e'; LENGTH]);
    let answer = client.answer();
    assert!(answer.body.len() == LENGTH && answer.body.iter().all(|byte| *byte == b'e'));
}

#[test]
fn a_chunk_that_is_none_is_400_and_breaks_the_attempt_off() {
    let (broke, noticed) = mpsc::channel();
    let broke = Mutex::new(broke);
    let upstream = Upstream::start(move |mut client| {
        client.request_head();
        client.closes();
        broke.lock().unwrap().send(()).unwrap();
    });
    let gateway = gateway(&everything_to(upstream.address));
    let mut client = gateway.connect();
    client.send("POST / HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\nxyz\r\n");
    let answer = client.answer();
    assert_eq!((answer.status, answer.reason().as_str()), (400, "malformed-request"));
    assert!(client.closes());
    noticed
        .recv_timeout(Duration::from_secs(3))
        .expect("the upstream sees the end");
}

#[test]
fn pipelined_requests_with_bodies_are_told_apart() {
    let upstream = Upstream::answering(|request| ok(std::str::from_utf8(request.body()).unwrap()));
    let gateway = gateway(&everything_to(upstream.address));
    let mut client = gateway.connect();
    client.send(
        "POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 3\r\n\r\nonePOST / HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n3\r\ntwo\r\n0\r\n\r\nPOST / HTTP/1.1\r\nhost: t\r\ncontent-length: 5\r\n\r\nthree",
    );
    for text in ["one", "two", "three"] {
        assert_eq!(client.answer().text(), text);
    }
}

#[test]
fn a_body_that_nobody_reads_does_not_become_the_next_request() {
    let upstream = Upstream::answering(|_| ok("fine"));
    let config = everything_to(upstream.address).replace("path_prefix = \"/\"", "path = \"/here\"");
    let gateway = gateway(&config);
    let mut client = gateway.connect();
    let smuggled = "GET /here HTTP/1.1\r\nhost: t\r\n\r\n";
    client.send(format!(
        "POST /there HTTP/1.1\r\nhost: t\r\ncontent-length: {}\r\n\r\n{smuggled}GET /here HTTP/1.1\r\nhost: t\r\n\r\n",
        smuggled.len()
    ));
    assert_eq!(client.answer().status, 404);
    assert_eq!(client.answer().text(), "fine");
    let mut client = gateway.connect();
    client.send("POST /there HTTP/1.1\r\nhost: t\r\nexpect: 100-continue\r\ncontent-length: 10\r\n\r\n");
    let answer = client.answer();
    assert_eq!((answer.status, answer.header("connection")), (404, Some("close")));
    assert!(
        client.closes(),
        "the body may come or not, so that no other request can be told from it"
    );
}

#[test]
fn interim_answers_are_not_taken_for_the_answer() {
    let upstream = Upstream::answering(|_| {
        format!(
            "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n{}",
            ok("final")
        )
    });
    let gateway = gateway(&everything_to(upstream.address));
    assert_eq!(gateway.get("/").text(), "final");
}

#[test]
fn a_kept_connection_that_breaks_costs_no_get_and_repeats_no_post() {
    let upstream = Upstream::start(|mut client| {
        client.request();
        client.send(ok("first"));
        // The second request is read and not answered.
        client.request_head();
        client.close();
    });
    let gateway = gateway(&everything_to(upstream.address));
    assert_eq!(gateway.get("/").text(), "first");
    assert_eq!(gateway.get("/").text(), "first", "sent again on a fresh connection");
    assert_eq!(upstream.made(), 2);
    let answer = gateway.ask("POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 2\r\n\r\nhi");
    assert_eq!((answer.status, answer.reason().as_str()), (502, "upstream-reset"));
    assert_eq!(upstream.made(), 2);
}

#[test]
fn a_connection_with_more_than_its_answer_is_not_used_again() {
    let upstream = Upstream::answering(|_| format!("{}HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil", ok("good")));
    let gateway = gateway(&everything_to(upstream.address));
    for _ in 0..3 {
        assert_eq!(gateway.get("/").text(), "good");
    }
    assert_eq!(upstream.made(), 3);
}

#[test]
fn a_client_that_takes_nothing_of_its_answer_is_cut_off() {
    let upstream = Upstream::start(|mut client| {
        client.request();
        client.send("HTTP/1.1 200 OK\r\ncontent-length: 104857600\r\n\r\n");
        while client.stream.write_all(&[b'x'; 65536]).is_ok() {}
    });
    let gateway = gateway_with(&everything_to(upstream.address), EngineKind::Native, |options| {
        options.limits.write_timeout = Duration::from_millis(200);
    });
    let mut client = gateway.connect();
    client.send("GET / HTTP/1.1\r\nhost: t\r\n\r\n");
    eventually("the connection is gone", || {
        gateway
            .admin("/metrics")
            .text()
            .contains("http_server_open_connections 0")
            .then_some(())
    });
}

#[test]
fn hypers_codec_serves_as_well() {
    let upstream = Upstream::answering(|request| ok(std::str::from_utf8(request.body()).unwrap()));
    let gateway = gateway_with(&everything_to(upstream.address), EngineKind::Native, |options| {
        options.http1 = Http1::Hyper;
    });
    let mut client = gateway.connect();
    for body in ["one", "two"] {
        client.send(format!(
            "POST / HTTP/1.1\r\nhost: t\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ));
        assert_eq!(client.answer().text(), body);
    }
    assert_eq!(upstream.made(), 1);
    client.send("GET / HTTP/1.1\r\nhost : t\r\n\r\n");
    assert_eq!(client.answer().status, 400);
}

/// Reads until what was read ends with `end`.
fn read_until(client: &mut Client, end: &str) -> String {
    let mut seen = String::new();
    while !seen.ends_with(end) {
        let bytes = client.some();
        assert!(!bytes.is_empty(), "the connection ended after {seen:?}");
        seen.push_str(std::str::from_utf8(&bytes).unwrap());
    }
    seen
}

//! Requests and answers on their way through, with real sockets.

use std::io::Write as _;
use std::time::{Duration, Instant};

use crate::support::{Client, Upstream, eventually, everything_to, gateway, ok};

#[test]
fn a_request_reaches_its_upstream_and_its_answer_comes_back() {
    let upstream = Upstream::answering(|request| {
        assert_eq!(request.line, "GET /a?b=c HTTP/1.1");
        assert!(request.header("connection").is_none(), "{request:?}");
        assert_eq!(request.header("x-mine"), Some("1"));
        ok("hello").replace("\r\n\r\n", "\r\nkeep-alive: timeout=5\r\nx-theirs: 2\r\n\r\n")
    });
    let gateway = gateway(&everything_to(upstream.address));
    let answer = gateway.ask("GET /a?b=c HTTP/1.1\r\nhost: test\r\nx-mine: 1\r\nconnection: x-hop\r\nx-hop: 1\r\n\r\n");
    assert_eq!((answer.status, answer.text()), (200, "hello"));
    assert_eq!(answer.header("x-theirs"), Some("2"));
    assert_eq!(answer.header("keep-alive"), None);
}

#[test]
fn a_long_body_streams_through_both_ways() {
    let upstream = Upstream::answering(|request| {
        let body = String::from_utf8(request.body().to_vec()).unwrap();
        ok(&body)
    });
    let gateway = gateway(&everything_to(upstream.address));
    let body: String = (0..10 * 1024 * 1024)
        .map(|place| char::from(b'a' + (place % 23) as u8))
        .collect();
    let mut client = gateway.connect();
    let mut sending = client.stream.try_clone().unwrap();
    let sent = body.clone();
    let writer = std::thread::spawn(move || {
        write!(
            sending,
            "POST / HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n\r\n",
            sent.len()
        )
        .unwrap();
        sending.write_all(sent.as_bytes()).unwrap();
    });
    let answer = client.answer();
    writer.join().unwrap();
    assert_eq!(answer.status, 200);
    assert!(answer.body == body.as_bytes());
}

#[test]
fn chunked_bodies_come_through_in_both_directions() {
    let upstream = Upstream::answering(|request| {
        assert_eq!(request.body(), b"one two");
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n".to_owned()
    });
    let gateway = gateway(&everything_to(upstream.address));
    let answer =
        gateway.ask("POST / HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n4\r\none \r\n3\r\ntwo\r\n0\r\n\r\n");
    assert_eq!((answer.status, answer.text()), (200, "abcdefg"));
}

#[test]
fn the_head_and_the_first_bytes_do_not_wait_for_the_rest() {
    let upstream = Upstream::start(|mut client| {
        client.request().unwrap();
        client.send("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\none");
        // The test has what it wants before this is over.
        std::thread::sleep(Duration::from_secs(3));
        client.send("two");
        client.request();
    });
    let gateway = gateway(&everything_to(upstream.address));
    let mut client = gateway.connect();
    client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n");
    let began = Instant::now();
    let mut buffer = [0; 4096];
    let mut seen = Vec::new();
    while !seen.ends_with(b"one") {
        let count = std::io::Read::read(&mut client.stream, &mut buffer).unwrap();
        seen.extend_from_slice(&buffer[..count]);
    }
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[test]
fn a_slow_reader_holds_back_the_upstream_instead_of_filling_memory() {
    let sent = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = std::sync::Arc::clone(&sent);
    let upstream = Upstream::start(move |mut client| {
        client.request().unwrap();
        client.send("HTTP/1.1 200 OK\r\ncontent-length: 104857600\r\n\r\n");
        for _ in 0..1600 {
            if client.stream.write_all(&[b'x'; 65536]).is_err() {
                return;
            }
            counter.fetch_add(65536, std::sync::atomic::Ordering::SeqCst);
        }
    });
    let gateway = gateway(&everything_to(upstream.address));
    let mut client = gateway.connect();
    client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n");
    // What is under way settles at the sizes of the sockets' buffers.
    let mut last = 0;
    let settled = eventually("the upstream is held back", || {
        std::thread::sleep(Duration::from_millis(100));
        let now = sent.load(std::sync::atomic::Ordering::SeqCst);
        (std::mem::replace(&mut last, now) == now && now > 0).then_some(now)
    });
    assert!(settled < 30 * 1024 * 1024, "{settled} bytes went out although nobody read");
}

#[test]
fn an_answer_to_head_has_the_length_and_no_body_and_its_connection_goes_on() {
    let upstream = Upstream::answering(|request| {
        if request.line.starts_with("HEAD") {
            return "HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n".to_owned();
        }
        ok("next")
    });
    let gateway = gateway(&everything_to(upstream.address));
    let mut client = gateway.connect();
    client.send("HEAD / HTTP/1.1\r\nhost: test\r\n\r\n");
    let answer = client.answer_to("HEAD");
    assert_eq!((answer.status, answer.header("content-length")), (200, Some("1234")));
    client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n");
    assert_eq!(client.answer().text(), "next");
}

#[test]
fn answers_without_a_body_have_none() {
    let upstream = Upstream::answering(|request| match request.line.split(' ').nth(1) {
        Some("/204") => "HTTP/1.1 204 No Content\r\n\r\n".to_owned(),
        _ => "HTTP/1.1 304 Not Modified\r\netag: \"x\"\r\n\r\n".to_owned(),
    });
    let gateway = gateway(&everything_to(upstream.address));
    let mut client = gateway.connect();
    for (path, status) in [("/204", 204), ("/304", 304), ("/204", 204)] {
        client.send(format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n"));
        assert_eq!(client.answer().status, status);
    }
    assert_eq!(upstream.made(), 1);
}

#[test]
fn connections_to_an_upstream_are_kept() {
    let upstream = Upstream::answering(|_| ok("kept"));
    let gateway = gateway(&everything_to(upstream.address));
    for _ in 0..20 {
        assert_eq!(gateway.get("/").text(), "kept");
    }
    assert_eq!(upstream.made(), 1);
}

#[test]
fn a_kept_connection_that_its_server_closed_costs_no_request() {
    // Each connection serves one request and is closed without a word, as servers do with idle ones.
    let upstream = Upstream::start(|mut client| {
        if client.request().is_some() {
            client.send(ok("fresh"));
            client.close();
        }
    });
    let gateway = gateway(&everything_to(upstream.address));
    for _ in 0..20 {
        assert_eq!(gateway.get("/").text(), "fresh");
    }
}

#[test]
fn an_answer_that_breaks_off_is_not_passed_off_as_whole() {
    let upstream = Upstream::start(|mut client| {
        client.request().unwrap();
        client.send("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf");
        client.close();
    });
    let gateway = gateway(&everything_to(upstream.address));
    let mut client = gateway.connect();
    client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n");
    let mut seen = Vec::new();
    let _reset = std::io::Read::read_to_end(&mut client.stream, &mut seen);
    let text = String::from_utf8(seen).unwrap();
    assert!(text.contains("content-length: 10") && text.ends_with("half"), "{text}");
}

#[test]
fn a_client_that_goes_away_takes_its_attempt_with_it() {
    let (gone, noticed) = std::sync::mpsc::channel();
    let gone = std::sync::Mutex::new(gone);
    let upstream = Upstream::start(move |mut client| {
        client.request().unwrap();
        client.closes();
        gone.lock().unwrap().send(()).unwrap();
    });
    let gateway = gateway(&everything_to(upstream.address));
    let mut client = gateway.connect();
    client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n");
    eventually("the request arrives", || (upstream.made() == 1).then_some(()));
    drop(client);
    noticed
        .recv_timeout(Duration::from_secs(3))
        .expect("the upstream's connection is closed long before the route's timeout");
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let upstream = Upstream::answering(|request| ok(request.line.split(' ').nth(1).unwrap()));
    let gateway = gateway(&everything_to(upstream.address));
    let mut client = Client::connect(gateway.address());
    client.send("GET /1 HTTP/1.1\r\nhost: t\r\n\r\nGET /2 HTTP/1.1\r\nhost: t\r\n\r\nGET /3 HTTP/1.1\r\nhost: t\r\n\r\n");
    for path in ["/1", "/2", "/3"] {
        assert_eq!(client.answer().text(), path);
    }
}

#[test]
fn a_post_without_a_body_says_so() {
    let upstream = Upstream::answering(|request| {
        assert_eq!(request.header("content-length"), Some("0"), "{request:?}");
        assert_eq!(request.header("transfer-encoding"), None);
        ok("empty")
    });
    let gateway = gateway(&everything_to(upstream.address));
    assert_eq!(
        gateway
            .ask("POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 0\r\n\r\n")
            .text(),
        "empty"
    );
}

#[test]
fn a_client_that_waits_for_100_continue_is_told_to_go_on() {
    let upstream = Upstream::answering(|request| {
        assert_eq!(request.header("expect"), None);
        ok(std::str::from_utf8(request.body()).unwrap())
    });
    let gateway = gateway(&everything_to(upstream.address));
    let mut client = gateway.connect();
    client.send("POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 4\r\nexpect: 100-continue\r\n\r\n");
    let mut line = [0; 25];
    std::io::Read::read_exact(&mut client.stream, &mut line).unwrap();
    assert_eq!(&line, b"HTTP/1.1 100 Continue\r\n\r\n");
    client.send("here");
    assert_eq!(client.answer().text(), "here");
}

#[test]
fn a_self_made_answer_to_head_has_no_body_and_its_connection_goes_on() {
    let upstream = Upstream::answering(|_| ok("next"));
    let gateway = gateway(&everything_to(upstream.address).replace("path_prefix = \"/\"", "path = \"/here\""));
    let mut client = gateway.connect();
    client.send("HEAD /there HTTP/1.1\r\nhost: test\r\n\r\n");
    let answer = client.answer_to("HEAD");
    assert_eq!(answer.status, 404);
    assert!(answer.header("content-length").unwrap().parse::<usize>().unwrap() > 100);
    client.send("GET /here HTTP/1.1\r\nhost: test\r\n\r\n");
    assert_eq!(client.answer().text(), "next");
}

#[test]
fn an_answer_that_is_not_as_it_should_be_is_counted_and_forwarded() {
    use native_host::EngineKind;
    let upstream = Upstream::answering(|request| {
        let body = if request.line.contains("good") {
            "{\"id\":1}"
        } else {
            "{\"id\":\"x\"}"
        };
        ok(body).replace("\r\n\r\n", "\r\ncontent-type: application/json\r\n\r\n")
    });
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("a.json"),
        "{\"properties\":{\"id\":{\"type\":\"integer\"}}}",
    )
    .unwrap();
    let config = everything_to(upstream.address) + "validate = { response_body = \"a.json\" }\n";
    let gateway = crate::support::gateway_in(folder, &config, EngineKind::Native, |_| {});
    let count = || {
        let metrics = gateway.admin("/metrics");
        let mut lines = metrics.text().lines();
        lines
            .find(|line| line.starts_with("heddle_invalid_answers_total{"))
            .map(str::to_owned)
    };
    assert_eq!(gateway.get("/good").text(), "{\"id\":1}");
    assert_eq!(gateway.get("/bad").text(), "{\"id\":\"x\"}");
    let counted = eventually("it is counted", count);
    assert!(counted.ends_with("} 1"), "{counted}");
}

#[test]
fn a_client_that_sends_too_much_or_breaks_off_ejects_no_endpoint() {
    let upstream = Upstream::answering(|_| ok("fine"));
    let config = everything_to(upstream.address).replace(
        "}]\n",
        "}]\noutlier = { consecutive_failures = 1, ejection = \"1h\", max_ejected = 1.0 }\n",
    ) + "max_body = \"8B\"\n";
    assert!(config.contains("outlier"), "{config}");
    let gateway = gateway(&config);
    let head = "POST / HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n";
    let answer = gateway.ask(&format!("{head}9\r\n123456789\r\n0\r\n\r\n"));
    assert_eq!((answer.status, answer.reason().as_str()), (413, "body-too-large"));
    // And one that does not know how chunks are written.
    let mut client = gateway.connect();
    client.send(format!("{head}2\r\nab\r\nnonsense\r\n"));
    assert!(client.closes() || client.try_answer().is_none_or(|answer| answer.status >= 400));
    assert_eq!(gateway.get("/").text(), "fine");
}

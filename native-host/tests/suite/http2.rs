//! HTTP/2 in front, with prior knowledge.

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::support::{Upstream, everything_to, gateway, ok};

type Sender = hyper::client::conn::http2::SendRequest<Full<Bytes>>;

fn with_http2<F: Future<Output = ()>>(address: std::net::SocketAddr, test: impl FnOnce(Sender) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        test(sender).await;
    });
}

#[test]
fn requests_share_a_connection_and_reach_an_http_1_upstream() {
    let upstream = Upstream::answering(|request| {
        assert_eq!(request.header("cookie"), Some("a=1; b=2"));
        ok(std::str::from_utf8(request.body()).unwrap())
    });
    let gateway = gateway(&everything_to(upstream.address));
    with_http2(gateway.address(), |sender| async move {
        let asked = (0..20).map(|number| {
            let mut sender = sender.clone();
            async move {
                let request = Request::post(format!("http://test/{number}"))
                    .header("cookie", "a=1")
                    .header("cookie", "b=2")
                    .body(Full::from(format!("body {number}")))
                    .unwrap();
                let answer = sender.send_request(request).await.unwrap();
                assert_eq!(answer.status(), StatusCode::OK);
                let body = answer.into_body().collect().await.unwrap().to_bytes();
                assert_eq!(body, format!("body {number}"));
            }
        });
        futures_util::future::join_all(asked).await;
    });
}

#[test]
fn a_head_that_is_too_long_is_refused() {
    let upstream = Upstream::answering(|_| ok("fine"));
    let gateway = gateway(&everything_to(upstream.address));
    with_http2(gateway.address(), |mut sender| async move {
        let request = Request::get("http://test/")
            .header("x", "a".repeat(70 * 1024))
            .body(Full::default())
            .unwrap();
        let refused = sender.send_request(request).await;
        assert!(refused.is_err() || refused.is_ok_and(|answer| answer.status() == 431));
    });
    assert_eq!(upstream.made(), 0);
}

#[test]
fn the_drain_says_goaway_and_lets_streams_finish() {
    let upstream = Upstream::answering(|_| {
        std::thread::sleep(std::time::Duration::from_millis(400));
        ok("finished")
    });
    let mut gateway = gateway(&everything_to(upstream.address));
    let address = gateway.address();
    let (began, begun) = std::sync::mpsc::channel();
    let client = std::thread::spawn(move || {
        with_http2(address, |mut sender| async move {
            let answer = sender.send_request(Request::get("http://test/").body(Full::default()).unwrap());
            began.send(()).unwrap();
            let answer = answer.await.unwrap();
            assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "finished");
            assert!(
                sender
                    .send_request(Request::get("http://test/").body(Full::default()).unwrap())
                    .await
                    .is_err()
            );
        });
    });
    begun.recv().unwrap();
    crate::support::eventually("the request is under way", || (upstream.made() == 1).then_some(()));
    assert_eq!(gateway.shutdown().join().unwrap(), 0);
    client.join().unwrap();
}

#[test]
fn a_request_goes_on_in_http_1_with_its_edits_and_without_what_ends_here() {
    let upstream = Upstream::answering(|request| {
        let all = |name: &str| -> Vec<_> {
            let named = request.head.headers.iter().filter(|(key, _)| key == name);
            named.map(|(_, value)| value.clone()).collect()
        };
        assert_eq!(request.line, "POST /a?b=c HTTP/1.1");
        assert_eq!(all("x-set"), ["ours"]);
        assert_eq!(all("x-added"), ["theirs", "ours"]);
        assert_eq!(all("x-mine"), ["1", "2"]);
        for gone in ["x-removed", "te", "expect", "connection", "transfer-encoding"] {
            assert!(all(gone).is_empty(), "{gone}");
        }
        assert_eq!((all("content-length").len(), all("host").len()), (1, 1));
        ok("fine")
    });
    let edits =
        "[routes.headers.request]\nset = { x-set = \"ours\" }\nadd = { x-added = \"ours\" }\nremove = [\"x-removed\"]\n";
    let gateway = gateway(&format!("{}\n{edits}", everything_to(upstream.address)));
    with_http2(gateway.address(), |mut sender| async move {
        let request = Request::post("http://test/a?b=c")
            .header("te", "trailers")
            .header("expect", "100-continue")
            .header("x-set", "theirs")
            .header("x-added", "theirs")
            .header("x-removed", "theirs")
            .header("x-mine", "1")
            .header("x-mine", "2")
            .body(Full::default())
            .unwrap();
        let answer = sender.send_request(request).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
    });
}

#[test]
fn a_body_longer_than_any_buffer_comes_through_both_ways_beside_small_ones() {
    let upstream = Upstream::answering(|request| ok(std::str::from_utf8(request.body()).unwrap()));
    let gateway = gateway(&everything_to(upstream.address));
    with_http2(gateway.address(), |sender| async move {
        let asked = [3_000_000, 1, 100_000, 16_384, 0, 2_000].map(|length| {
            let mut sender = sender.clone();
            async move {
                let body: String = (0..length).map(|place| char::from(b'a' + (place % 23) as u8)).collect();
                let request = Request::post("http://test/").body(Full::from(body.clone())).unwrap();
                let answer = sender.send_request(request).await.unwrap().into_body();
                assert!(answer.collect().await.unwrap().to_bytes() == body, "{length}");
            }
        });
        futures_util::future::join_all(asked).await;
    });
}

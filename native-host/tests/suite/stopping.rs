//! The drain: nothing that came is lost, and nothing new is taken.

use std::time::Duration;

use crate::support::{Client, Upstream, eventually, everything_to, gateway_with, ok};
use native_host::EngineKind;

#[test]
fn what_is_in_flight_finishes_and_then_the_connection_closes() {
    let upstream = Upstream::answering(|_| {
        std::thread::sleep(Duration::from_millis(400));
        ok("finished")
    });
    let mut gateway = gateway_with(&everything_to(upstream.address), EngineKind::Native, |_| {});
    let admin_ready = gateway.admin("/ready");
    assert_eq!(admin_ready.status, 200);
    let mut idle = gateway.connect();
    idle.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n");
    assert_eq!(idle.answer().status, 200);
    let mut working = gateway.connect();
    working.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n");
    eventually("the request is under way", || {
        gateway
            .admin("/metrics")
            .text()
            .contains("http_server_active_requests 1")
            .then_some(())
    });
    let address = gateway.address();
    let stopped = gateway.shutdown();
    assert!(idle.closes(), "an idle connection is closed at once");
    let answer = working.answer();
    assert_eq!((answer.status, answer.text()), (200, "finished"));
    assert_eq!(answer.header("connection"), Some("close"));
    assert_eq!(stopped.join().unwrap(), 0);
    assert!(std::net::TcpStream::connect(address).is_err());
}

#[test]
fn readiness_ends_before_the_admin_does() {
    let upstream = Upstream::answering(|_| {
        std::thread::sleep(Duration::from_millis(500));
        ok("finished")
    });
    let mut gateway = gateway_with(&everything_to(upstream.address), EngineKind::Native, |_| {});
    let admin = gateway.admin_address();
    let mut working = gateway.connect();
    working.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n");
    eventually("the request is under way", || {
        gateway
            .admin("/metrics")
            .text()
            .contains("http_server_active_requests 1")
            .then_some(())
    });
    let stopped = gateway.shutdown();
    eventually("not ready", || {
        let mut client = Client::connect(admin);
        client.send("GET /ready HTTP/1.1\r\nhost: admin\r\n\r\n");
        (client.answer().status == 503).then_some(())
    });
    assert_eq!(working.answer().status, 200);
    stopped.join().unwrap();
}

#[test]
fn what_does_not_finish_is_cut_off_at_the_deadline() {
    let upstream = Upstream::start(|mut client| {
        client.request();
        client.closes();
    });
    let mut gateway = gateway_with(&everything_to(upstream.address), EngineKind::Native, |options| {
        options.drain = Some(Duration::from_millis(200));
    });
    let mut client = gateway.connect();
    client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n");
    eventually("the request is under way", || (upstream.made() == 1).then_some(()));
    assert_eq!(gateway.shutdown().join().unwrap(), 1);
}

#[test]
fn a_drain_under_load_loses_no_request() {
    let upstream = Upstream::answering(|_| ok("served"));
    let mut gateway = gateway_with(&everything_to(upstream.address), EngineKind::Native, |options| {
        options.workers = Some(2)
    });
    let address = gateway.address();
    let clients: Vec<_> = (0..8)
        .map(|_| {
            std::thread::spawn(move || {
                let mut served = 0;
                // Until the gateway takes no connections any more. One that the kernel made while the listener was closing is
                // reset before a byte; an answer that began is whole.
                while let Ok(stream) = std::net::TcpStream::connect(address) {
                    let mut client = Client::over(stream);
                    if !client.try_send("GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n") {
                        break;
                    }
                    let Some(answer) = client.try_answer() else { break };
                    assert_eq!(answer.text(), "served");
                    served += 1;
                }
                served
            })
        })
        .collect();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(gateway.shutdown().join().unwrap(), 0);
    let served: usize = clients.into_iter().map(|client| client.join().unwrap()).sum();
    assert!(served > 0);
}

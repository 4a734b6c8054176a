//! Guests that trap, spin or outgrow their memory, beside requests that must not notice.

use std::time::{Duration, Instant};

use crate::support::{everything_to, gateway_with, guest};
use native_host::EngineKind;

fn misbehaving() -> (tempfile::TempDir, crate::support::Gateway) {
    let folder = tempfile::tempdir().unwrap();
    let component = guest::misbehaving(folder.path());
    let config = everything_to("127.0.0.1:1".parse().unwrap());
    let gateway = gateway_with(&config, EngineKind::Wasm, |options| options.component = Some(component));
    (folder, gateway)
}

/// A request that waits in the guest for its body.
fn waiting(gateway: &crate::support::Gateway, path: &str) -> crate::support::Client {
    let mut client = gateway.connect();
    client.send(format!("POST {path} HTTP/1.1\r\nhost: test\r\ncontent-length: 10\r\n\r\n"));
    crate::support::eventually("the request waits in the guest", || {
        gateway
            .admin("/metrics")
            .text()
            .contains("http_server_active_requests 1")
            .then_some(())
    });
    client
}

#[test]
fn a_guest_that_traps_costs_the_request_and_no_other() {
    let (_folder, gateway) = misbehaving();
    let mut neighbour = waiting(&gateway, "/wait");
    let answer = gateway.get("/trap");
    assert_eq!((answer.status, answer.reason().as_str()), (500, "internal"));
    neighbour.send("0123456789");
    let answer = neighbour.answer();
    assert_eq!(
        (answer.status, answer.text()),
        (200, "well"),
        "the neighbour goes on in a fresh guest"
    );
    assert_eq!(gateway.get("/").text(), "well");
    let metrics = gateway.admin("/metrics");
    assert!(
        metrics
            .text()
            .contains("heddle_guest_replacements_total{cause=\"trapped\"} 1"),
        "{}",
        metrics.text()
    );
}

#[test]
fn a_guest_that_spins_is_stopped_in_time() {
    let (_folder, gateway) = misbehaving();
    let mut neighbour = waiting(&gateway, "/wait");
    let began = Instant::now();
    assert_eq!(gateway.get("/spin").status, 500);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    neighbour.send("0123456789");
    assert_eq!(neighbour.answer().status, 200);
    assert!(gateway.admin("/metrics").text().contains("cause=\"overtime\"} 1"));
}

#[test]
fn a_guest_that_outgrows_its_memory_is_replaced() {
    let (_folder, gateway) = misbehaving();
    assert_eq!(gateway.get("/grow").status, 500);
    assert_eq!(gateway.get("/").text(), "well");
}

#[test]
fn a_guest_whose_steps_make_no_sense_costs_the_request() {
    let (_folder, gateway) = misbehaving();
    assert_eq!(gateway.get("/nonsense").status, 500);
    assert_eq!(gateway.get("/").text(), "well");
}

#[test]
fn an_event_that_traps_the_guest_costs_its_own_request_and_no_neighbour() {
    let (_folder, gateway) = misbehaving();
    let mut neighbour = waiting(&gateway, "/wait");
    let answer = gateway.ask("POST /wait HTTP/1.1\r\nhost: test\r\ncontent-length: 10\r\n\r\nTRAP-LATER");
    assert_eq!(answer.status, 500);
    neighbour.send("0123456789");
    assert_eq!(neighbour.answer().status, 200);
}

#[test]
fn an_exchange_that_comes_out_different_in_a_fresh_guest_is_given_up() {
    let (_folder, gateway) = misbehaving();
    assert_eq!(gateway.get("/").status, 200);
    let mut fickle = waiting(&gateway, "/fickle");
    assert_eq!(gateway.get("/trap").status, 500);
    fickle.send("0123456789");
    let answer = fickle.answer();
    assert_eq!((answer.status, answer.reason().as_str()), (500, "internal"));
    assert_eq!(gateway.get("/").text(), "well");
}

#[test]
fn verdicts_on_signatures_are_given_again_in_the_fresh_guest() {
    let (_folder, gateway) = misbehaving();
    let mut neighbour = waiting(&gateway, "/signed");
    assert_eq!(gateway.get("/trap").status, 500);
    neighbour.send("0123456789");
    assert_eq!((neighbour.answer().status, gateway.get("/").status), (200, 200));
}

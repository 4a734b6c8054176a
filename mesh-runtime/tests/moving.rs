//! Endpoints that come, go and die while they are called, as real programs: no call fails that had somewhere to go.

#![allow(
    clippy::unwrap_used,
    reason = "in a test a panic is the report, outside of the test functions, too"
)]

mod support;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rustix::process::Signal;
use support::world::{Running, World, json, local};
use support::{eventually, exchange, get};

/// Calls `rates` through the egress of a member, over and over, from several tasks.
struct Load {
    running: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    cut: Arc<AtomicUsize>,
    /// The processes that answered since the last look.
    seen: Arc<Mutex<BTreeSet<i64>>>,
    calls: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    fn start(egress: SocketAddr) -> Self {
        let (answered, seen) = (Arc::<AtomicUsize>::default(), Arc::<Mutex<BTreeSet<i64>>>::default());
        let cut = Arc::<AtomicUsize>::default();
        let running = Arc::new(AtomicBool::new(true));
        let call = || {
            let (running, answered, seen) = (Arc::clone(&running), Arc::clone(&answered), Arc::clone(&seen));
            let cut = Arc::clone(&cut);
            tokio::spawn(async move {
                while running.load(Ordering::Relaxed) {
                    let request = "GET http://rates.mesh/ HTTP/1.1\r\nhost: rates.mesh\r\nconnection: close\r\n\r\n";
                    let (status, _, body) = exchange(egress, request).await;
                    assert_eq!(status, 200, "{body}");
                    if body.is_empty() {
                        // Its endpoint died when the answer had begun, which nobody can take back.
                        cut.fetch_add(1, Ordering::Relaxed);
                        continue;
                    }
                    seen.lock().unwrap().insert(json(&body)["pid"].as_i64().unwrap());
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        let calls = (0..4).map(|_| call()).collect();
        Self {
            running,
            answered,
            cut,
            seen,
            calls,
        }
    }

    /// Waits for some more answers.
    async fn goes_on(&self) {
        let before = self.answered.load(Ordering::Relaxed);
        eventually(async || self.answered.load(Ordering::Relaxed) > before + 20).await;
    }

    /// Waits until these processes answer, and no other.
    async fn is_served_by(&self, pids: &[i64]) {
        eventually(async || {
            self.seen.lock().unwrap().clear();
            self.goes_on().await;
            self.seen.lock().unwrap().iter().eq(pids.iter().collect::<BTreeSet<_>>())
        })
        .await;
    }

    /// Ends it; every call has been answered well, but for at most so many whose endpoint died in the middle of its answer.
    async fn end(self, most: usize) {
        self.running.store(false, Ordering::Relaxed);
        for call in self.calls {
            call.await.unwrap();
        }
        let cut = self.cut.load(Ordering::Relaxed);
        assert!(cut <= most, "{cut} answers were cut off");
    }
}

async fn pid(port: u16) -> i64 {
    eventually(async || tokio::net::TcpStream::connect(local(port)).await.is_ok()).await;
    json(&get(local(port), "/").await.1)["pid"].as_i64().unwrap()
}

fn egress(of: &Running) -> SocketAddr {
    of.line("egress listening on ").parse().unwrap()
}

#[tokio::test]
async fn a_service_moves_to_another_address_under_load_without_a_failed_call() {
    let world = World::new();
    let (_serve, control, _) = world.serve("127.0.0.1:0");
    let (mut here, here_port) = world.wrap(&control, "rates");
    let (shop, _) = world.wrap(&control, "shop");
    world.registered(&control, &["rates", "shop"]).await;
    let load = Load::start(egress(&shop));
    load.is_served_by(&[pid(here_port).await]).await;
    for _ in 0..2 {
        let (there, there_port) = world.wrap(&control, "rates");
        world.endpoints(&control, "rates", 2).await;
        assert_eq!(here.stop().code(), Some(143));
        load.is_served_by(&[pid(there_port).await]).await;
        world.endpoints(&control, "rates", 1).await;
        here = there;
    }
    load.end(0).await;
}

#[tokio::test]
async fn a_member_that_dies_without_a_word_is_gone_round_at_once_and_out_within_its_lease() {
    let world = World::new();
    let (_serve, control, _) = world.serve_with("127.0.0.1:0", "lease_ttl = \"6s\"\n");
    let (mut dying, dying_port) = world.wrap(&control, "rates");
    let (_living, living_port) = world.wrap(&control, "rates");
    let (shop, _) = world.wrap(&control, "shop");
    world.registered(&control, &["shop"]).await;
    world.endpoints(&control, "rates", 2).await;
    let load = Load::start(egress(&shop));
    load.is_served_by(&[pid(dying_port).await, pid(living_port).await]).await;
    dying.signal(Signal::KILL);
    dying.ended();
    load.is_served_by(&[pid(living_port).await]).await;
    world.endpoints(&control, "rates", 1).await;
    load.end(4).await;
}

#[tokio::test]
async fn a_program_whose_check_fails_gets_no_calls_until_it_passes_again() {
    let world = World::new();
    let (_serve, control, _) = world.serve("127.0.0.1:0");
    let document = "[services.rates]\nhealth = { http = \"/health\", interval = \"100ms\", failures = 1 }\n";
    std::fs::write(world.path("mesh.toml"), document).unwrap();
    world.ask(&["apply", world.path("mesh.toml").to_str().unwrap(), "--control", &control]);
    let (_first, first_port) = world.wrap(&control, "rates");
    let (_second, second_port) = world.wrap(&control, "rates");
    let (shop, _) = world.wrap(&control, "shop");
    world.registered(&control, &["shop"]).await;
    world.endpoints(&control, "rates", 2).await;
    let load = Load::start(egress(&shop));
    let (first, second) = (pid(first_port).await, pid(second_port).await);
    load.is_served_by(&[first, second]).await;
    assert_eq!(get(local(first_port), "/sicken").await.0, 200);
    load.is_served_by(&[second]).await;
    let table = world.ask(&["endpoints", "rates", "--control", &control]);
    assert!(table.contains("  not-serving  ") && table.contains("  serving  "), "{table}");
    assert_eq!(get(local(first_port), "/heal").await.0, 200);
    load.is_served_by(&[first, second]).await;
    load.end(0).await;
}

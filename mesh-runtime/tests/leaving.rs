//! Leaving well: who leaves serves on until everybody who may call it acts by that, and not for ever.

#![allow(
    clippy::unwrap_used,
    reason = "in a test a panic is the report, outside of the test functions, too"
)]

mod support;

use std::time::{Duration, Instant};

use mesh_api::v1;
use rustix::process::Signal;
use support::world::{World, json, local};
use support::{Member, endpoint, eventually, get};
use tokio::net::TcpStream;
use tonic::Streaming;

/// A member that speaks the protocol by hand.
async fn member(world: &World, control: &str, service: &str) -> Member {
    let token = world.ask(&["token", "create", service, "--control", control]);
    let token = token.trim().parse().unwrap();
    Member::join(control.parse().unwrap(), &token).await.unwrap()
}

/// Watches `rates` and confirms what it is asked to, if it likes.
async fn watch(member: &Member) -> Streaming<v1::WatchResponse> {
    let request = v1::WatchRequest {
        services: vec!["rates".to_owned()],
        confirms: true,
        ..Default::default()
    };
    let mut watch = member.registry().watch(request).await.unwrap().into_inner();
    assert!(watch.message().await.unwrap().unwrap().snapshot);
    watch
}

#[tokio::test]
async fn a_program_that_leaves_serves_on_for_who_has_not_heard_of_it_and_not_for_ever() {
    let world = World::new();
    let (_serve, control, _) = world.serve("127.0.0.1:0");
    let (rates, _) = world.wrap(&control, "rates");
    world.endpoints(&control, "rates", 1).await;
    let listed = json(&world.ask(&["endpoints", "rates", "--json", "--control", &control]));
    let address = listed[0]["address"].as_str().unwrap().to_owned();
    let slow = member(&world, &control, "slow").await;
    let mut watch = watch(&slow).await;

    let began = Instant::now();
    rates.signal(Signal::TERM);
    let told = watch.message().await.unwrap().unwrap();
    assert!(
        matches!(told.updates[0].kind, Some(v1::update::Kind::Remove(_))) && told.confirm != 0,
        "{told:?}"
    );
    TcpStream::connect(&address).await.expect("it serves whoever has not heard");
    let line = rates.line("they are waited for no longer");
    assert!(line.contains("unheard=1"), "{line}");
    assert!(began.elapsed() >= Duration::from_secs(2), "{:?}", began.elapsed());
    rates.line("drained");
    TcpStream::connect(&address).await.unwrap_err();
}

#[tokio::test]
async fn the_control_plane_answers_who_leaves_when_those_who_call_it_act_by_it() {
    let world = World::new();
    let (_serve, control, _) = world.serve("127.0.0.1:0");
    // A program under the wrapper, which calls rates once and watches it from there on.
    let (_shop, shop_port) = world.wrap(&control, "shop");
    world.registered(&control, &["shop"]).await;
    let rates = member(&world, &control, "rates").await;
    let register = v1::RegisterRequest {
        endpoint: Some(endpoint("rates", "r")),
    };
    rates.registry().register(register).await.unwrap();
    eventually(async || get(local(shop_port), "/call/rates.mesh/").await.0 == 502).await;
    let caller = member(&world, &control, "caller").await;
    let mut watch = watch(&caller).await;

    let mut registry = rates.registry();
    let leaving = tokio::spawn(async move {
        let request = v1::DeregisterRequest {
            endpoint_id: "r".to_owned(),
            wait_ms: 60_000,
        };
        registry.deregister(request).await.unwrap().into_inner()
    });
    let told = watch.message().await.unwrap().unwrap();
    assert!(!leaving.is_finished());
    let confirm = v1::ConfirmRequest {
        watch: told.confirm,
        revision: told.revision,
    };
    caller.registry().confirm(confirm).await.unwrap();
    let answer = leaving.await.unwrap();
    assert_eq!((answer.waited, answer.unheard), (true, 0), "the shop said so by itself");
}

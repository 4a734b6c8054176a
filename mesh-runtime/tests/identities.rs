//! Identities by the commands that an operator types, and the programs that they are for.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod support;

use support::world::{Running, World, free_port, json, local, text};
use support::{eventually, get};

/// A program under the wrapper that joins at the control plane's socket and has no token.
fn attested(world: &World, control: &str, service: &str) -> (Running, u16) {
    let (port, script) = (free_port(), world.path("server.py"));
    let (port_text, script) = (port.to_string(), script.to_str().unwrap());
    let mut command = world.command(&[
        "run",
        "--service",
        service,
        "--port",
        &port_text,
        "--control",
        control,
        "--",
        "python3",
        script,
        service,
    ]);
    command.env("MESH_SOCKET", world.path("data/mesh.sock"));
    (Running::start(command), port)
}

#[tokio::test]
async fn a_program_joins_by_who_it_is_lives_through_a_new_root_and_is_taken_out() {
    let world = World::new();
    let (_serve, control, _) = world.serve("127.0.0.1:0");
    let (_shop, shop_port) = world.wrap(&control, "shop");
    let uid = format!("unix:uid:{}", rustix::process::geteuid().as_raw());
    let path = format!("unix:path:{}", env!("CARGO_BIN_EXE_mesh-runtime"));
    let create = [
        "entry",
        "create",
        "rates",
        "--selector",
        &uid,
        "--selector",
        &path,
        "--control",
        &control,
    ];
    let id = world.ask(&create).trim().to_owned();
    let (_rates, _) = attested(&world, &control, "rates");
    world.registered(&control, &["rates", "shop"]).await;
    let call = async || get(local(shop_port), "/call/rates.mesh/").await.0;
    assert_eq!(call().await, 200);

    let listed = world.ask(&["entry", "list", "--control", &control]);
    assert!(
        listed.contains(&id) && listed.contains(&uid) && listed.contains("join_token:"),
        "{listed}"
    );
    let entries = json(&world.ask(&["entry", "list", "--json", "--control", &control]));
    let rates = entries
        .as_array()
        .unwrap()
        .iter()
        .find(|entry| entry["id"] == id.as_str())
        .unwrap();
    assert_eq!((&rates["service"], &rates["identities"]), (&"rates".into(), &1.into()));

    let rotated = world.ask(&["authority", "rotate", "--control", &control]);
    assert!(rotated.contains("active") && rotated.contains("retiring"), "{rotated}");
    assert!(rotated.contains("spiffe://mesh.local/service/rates"), "{rotated}");
    let roots = || json(&world.ask(&["authority", "status", "--json", "--control", &control]))["authorities"].clone();
    let refused = world.output(&["authority", "retire", "--control", &control]);
    if roots().as_array().unwrap().len() == 2 {
        assert!(
            refused.status.code() == Some(1) && text(&refused.stderr).contains("is needed yet, by"),
            "{refused:?}"
        );
    }
    eventually(async || {
        assert_eq!(call().await, 200, "no call fails on the way");
        roots().as_array().unwrap().len() == 1
    })
    .await;
    assert_eq!((&roots()[0]["state"], call().await), (&"active".into(), 200));

    let removed = world.ask(&["entry", "remove", &id, "--control", &control]);
    assert_eq!(removed, "removed, and 1 identity with it\n");
    eventually(async || call().await >= 500).await;
    let again = world.output(&["entry", "remove", &id, "--control", &control]);
    assert!(text(&again.stderr).contains("there is no entry"), "{again:?}");
}

#[test]
fn a_malformed_selector_is_wrong_usage() {
    let world = World::new();
    let output = world.output(&["entry", "create", "rates", "--selector", "uid:1"]);
    assert!(
        output.status.code() == Some(2) && text(&output.stderr).contains("unix:uid:1000"),
        "{output:?}"
    );
    assert_eq!(world.output(&["entry", "create", "rates"]).status.code(), Some(2));
}

//! Taking a backup of a running control plane, losing everything, and going on from the backup.

#![allow(
    clippy::unwrap_used,
    reason = "in a test a panic is the report, outside of the test functions, too"
)]

mod support;

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use mesh_api::{JoinToken, v1};
use rustix::process::Signal;
use support::world::{World, json, local, text};
use support::{Member, endpoint, eventually, get};

fn backup(world: &World, control: &str) -> String {
    let file = world.path("mesh.backup").to_str().unwrap().to_owned();
    world.ask(&["backup", &file, "--control", control]);
    file
}

/// The data directory is gone, and made again from the backup.
fn lose_and_restore(world: &World, file: &str) {
    let data = world.path("data");
    std::fs::remove_dir_all(&data).unwrap();
    world.ask(&["restore", file, "--data-dir", data.to_str().unwrap()]);
}

#[tokio::test]
async fn a_mesh_goes_on_from_its_backup() {
    let world = World::new();
    let settings = "svid_ttl = \"10s\"\n";
    let (mut serve, control, _) = world.serve_with("127.0.0.1:0", settings);
    let (_rates, _) = world.wrap(&control, "rates");
    let (_shop, shop_port) = world.wrap(&control, "shop");
    world.registered(&control, &["rates", "shop"]).await;
    std::fs::write(world.path("mesh.toml"), "[policy]\ndefault = \"allow\"\n").unwrap();
    world.ask(&["apply", world.path("mesh.toml").to_str().unwrap(), "--control", &control]);
    let file = backup(&world, &control);
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "it holds the keys of the authority");
    let (_late, _) = world.wrap(&control, "late");
    world.registered(&control, &["late"]).await;
    let identities = |service: &str| {
        let listed = json(&world.ask(&["identities", "--json", "--control", &control]));
        let id = format!("spiffe://mesh.local/service/{service}");
        let ends = listed
            .as_array()
            .unwrap()
            .iter()
            .filter(|one| one["spiffe_id"] == id.as_str());
        ends.map(|one| one["not_after"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    let end = identities("late").into_iter().max().unwrap();

    serve.signal(Signal::KILL);
    serve.ended();
    lose_and_restore(&world, &file);
    let (_serve, ..) = world.serve_with(&control, settings);
    let known = world.ask(&["services", "--json", "--control", &control]);
    assert!(
        known.contains("rates") && known.contains("shop"),
        "they are there at once: {known}"
    );
    assert!(
        world
            .ask(&["policy", "show", "--control", &control])
            .contains("default = \"allow\"")
    );
    assert_eq!(get(local(shop_port), "/call/rates.mesh/").await.0, 200);
    // Its registration is newer than the backup; it comes back by itself, with the identity that it has.
    world.registered(&control, &["late"]).await;
    eventually(async || get(local(shop_port), "/call/late.mesh/").await.0 == 200).await;

    // Everybody renews, whether the backup knows what they show or not, and serves on when that is over.
    eventually(async || {
        ["late", "rates", "shop"]
            .iter()
            .all(|service| identities(service).iter().any(|until| *until > end + 5))
    })
    .await;
    for service in ["late", "rates"] {
        assert_eq!(
            get(local(shop_port), &format!("/call/{service}.mesh/")).await.0,
            200,
            "{service}"
        );
    }
    // What is renewed can be taken away.
    let entries = json(&world.ask(&["entry", "list", "--json", "--control", &control]));
    let late = entries
        .as_array()
        .unwrap()
        .iter()
        .find(|entry| entry["service"] == "late")
        .unwrap();
    world.ask(&["entry", "remove", late["id"].as_str().unwrap(), "--control", &control]);
    world.endpoints(&control, "late", 0).await;
    eventually(async || get(local(shop_port), "/call/late.mesh/").await.0 >= 500).await;
}

#[tokio::test]
async fn a_watcher_that_has_seen_more_than_the_backup_is_told_everything_anew() {
    let world = World::new();
    let (mut serve, control, _) = world.serve("127.0.0.1:0");
    let token = world.ask(&["token", "create", "accounts", "--control", &control]);
    let member = Member::join(control.parse().unwrap(), &token.trim().parse().unwrap())
        .await
        .unwrap();
    let register = async |id| {
        let endpoint = Some(endpoint("accounts", id));
        eventually(async || {
            let request = v1::RegisterRequest {
                endpoint: endpoint.clone(),
            };
            member.registry().register(request).await.is_ok()
        })
        .await;
    };
    let watch = async |resume| {
        let request = v1::WatchRequest {
            services: vec![],
            resume,
            ..Default::default()
        };
        let mut watch = member.registry().watch(request).await.unwrap().into_inner();
        watch.message().await.unwrap().unwrap()
    };
    register("kept").await;
    let unused = world.ask(&["token", "create", "rates", "--control", &control]);
    let file = backup(&world, &control);
    register("lost").await;
    let seen = watch(0).await.revision;

    serve.signal(Signal::KILL);
    serve.ended();
    lose_and_restore(&world, &file);
    let (_serve, ..) = world.serve(&control);
    // More revisions than the watcher has seen: without the jump, its number would name another moment of this history.
    for id in ["b", "c", "d"] {
        register(id).await;
    }
    let told = watch(seen).await;
    assert!(told.snapshot && told.revision > seen, "{told:?}");
    let Some(v1::update::Kind::Reset(reset)) = &told.updates[0].kind else {
        panic!("{told:?}")
    };
    let ids: Vec<_> = reset.endpoints.iter().map(|endpoint| endpoint.id.as_str()).collect();
    assert_eq!(ids, ["b", "c", "d", "kept"]);
    let unused: JoinToken = unused.trim().parse().unwrap();
    let refused = Member::join(control.parse().unwrap(), &unused).await.err().unwrap();
    assert_eq!(refused.code(), tonic::Code::Unauthenticated, "it may have been used since");
}

#[test]
fn nothing_is_overwritten_and_nothing_damaged_is_put_back() {
    let world = World::new();
    let (serve, control, _) = world.serve("127.0.0.1:0");
    let file = backup(&world, &control);
    let restore = |file: &Path, data: &str| {
        let data = world.path(data);
        let output = world.output(&["restore", file.to_str().unwrap(), "--data-dir", data.to_str().unwrap()]);
        (output.status.code(), text(&output.stderr))
    };
    let (code, error) = restore(Path::new(&file), "data");
    assert!(
        code == Some(1) && error.contains("in use by another control plane"),
        "{error}"
    );
    assert_eq!(serve.stop().code(), Some(0));
    let (code, error) = restore(Path::new(&file), "data");
    assert!(code == Some(1) && error.contains("there is a store already"), "{error}");

    let half = world.path("half.backup");
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&half, &whole[..whole.len() / 2]).unwrap();
    let (code, error) = restore(&half, "other");
    assert!(
        code == Some(1) && error.contains("half.backup") && error.contains("cut off"),
        "{error}"
    );
    assert!(!world.path("other").exists(), "nothing was begun");

    // Through pipes: what goes to stdout is encrypted elsewhere, and comes back from there.
    let (_serve, control, _) = world.serve("127.0.0.1:0");
    let piped = world.output(&["backup", "-", "--control", &control]);
    let mut restoring = world.command(&["restore", "-", "--data-dir", world.path("piped").to_str().unwrap()]);
    std::fs::write(&half, &piped.stdout).unwrap();
    let output = restoring.stdin(std::fs::File::open(&half).unwrap()).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(
        text(&output.stdout).contains("records of mesh.local"),
        "{}",
        text(&output.stdout)
    );
    let nobody = world.output(&["backup", &file, "--control", "127.0.0.1:1"]);
    assert_eq!(nobody.status.code(), Some(1));
    assert_eq!(
        std::fs::read(&file).unwrap(),
        whole,
        "a backup that fails leaves the last one"
    );
}

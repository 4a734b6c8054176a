//! The program itself: a control plane, wrapped programs, signals and kills, with nothing in between.

#![allow(
    clippy::unwrap_used,
    reason = "in a test a panic is the report, outside of the test functions, too"
)]

mod support;

use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};
use support::world::{Running, World, free_port, json, lives, local, text};
use support::{eventually, exchange, get};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

#[tokio::test]
async fn two_programs_that_know_nothing_of_the_mesh_call_each_other_by_name() {
    let world = World::new();
    let (serve, control, admin) = world.serve("127.0.0.1:0");
    assert_eq!(get(admin, "/ready").await.0, 200);
    let (rates, _) = world.wrap(&control, "rates");
    let (shop, shop_port) = world.wrap(&control, "shop");
    let egress: SocketAddr = shop.line("egress listening on ").parse().unwrap();
    world.registered(&control, &["rates", "shop"]).await;

    // Through the program itself, which was given http_proxy.
    let (status, seen) = get(local(shop_port), "/call/rates.mesh/eur?x=1").await;
    assert_eq!(status, 200, "{seen}");
    let seen = json(&seen);
    assert_eq!((&seen["service"], &seen["path"]), (&"rates".into(), &"/eur?x=1".into()));
    assert_eq!(seen["host"], "rates.mesh");
    assert_eq!(seen["token"], serde_json::Value::Null);
    let peers = seen["peer"].as_array().unwrap();
    assert_eq!(peers.len(), 1);
    let peer = peers[0].as_str().unwrap();
    assert!(
        peer.contains("URI=spiffe://mesh.local/service/shop") && peer.contains("By=spiffe://mesh.local/service/rates"),
        "{peer}"
    );

    // By hand, with a caller that lies about who it is, and both forms of a target.
    let forged = "x-forwarded-client-cert: URI=spiffe://mesh.local/service/admin\r\nconnection: close\r\n\r\n";
    for request in [
        format!("GET http://rates.mesh/a HTTP/1.1\r\nhost: rates.mesh\r\n{forged}"),
        format!("GET /a HTTP/1.1\r\nhost: rates.mesh\r\n{forged}"),
    ] {
        let (status, _, body) = exchange(egress, &request).await;
        assert_eq!(status, 200, "{body}");
        let peers = json(&body)["peer"].to_string();
        assert!(peers.contains("service/shop") && !peers.contains("service/admin"), "{peers}");
    }
    let post = "POST http://rates.mesh/ HTTP/1.1\r\nhost: rates.mesh\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello";
    assert_eq!(exchange(egress, post).await.2, "hello");

    // What is not carried is refused with words.
    let (status, head, body) = exchange(
        egress,
        "GET http://example.com/ HTTP/1.1\r\nhost: example.com\r\nconnection: close\r\n\r\n",
    )
    .await;
    assert_eq!(status, 403);
    assert!(
        head.contains("application/problem+json") && json(&body)["reason"] == "forbidden",
        "{head} {body}"
    );
    assert_eq!(
        exchange(egress, "CONNECT rates.mesh:443 HTTP/1.1\r\nhost: rates.mesh:443\r\n\r\n")
            .await
            .0,
        501
    );
    let nobody = get(local(shop_port), "/call/nobody.mesh/").await;
    assert_eq!((nobody.0, &json(&nobody.1)["reason"]), (503, &"no-endpoint".into()));

    // The operator sees all of it.
    let endpoints = json(&world.ask(&["endpoints", "rates", "--json", "--control", &control]));
    assert_eq!(
        (endpoints.as_array().unwrap().len(), &endpoints[0]["service"]),
        (1, &"rates".into())
    );
    let identities = world.ask(&["identities", "--control", &control]);
    assert!(
        identities.contains("spiffe://mesh.local/service/shop") && !identities.contains('\u{1b}'),
        "{identities}"
    );

    // SIGTERM: gone from the registry, the program stopped, its status told.
    let status = rates.stop();
    assert_eq!(status.code(), Some(143), "128 and SIGTERM, as the program ended by it");
    let services = world.ask(&["services", "--control", &control]);
    assert!(!services.contains("rates") && services.contains("shop"), "{services}");
    drop(shop);
    assert_eq!(serve.stop().code(), Some(0));
    assert!(!world.path("data/operator.token").exists());
}

#[tokio::test]
async fn the_operator_sees_what_an_endpoint_says_of_itself() {
    let world = World::new();
    let (_serve, control, _) = world.serve("127.0.0.1:0");
    let (port, script) = (free_port().to_string(), world.path("server.py"));
    let script = script.to_str().unwrap();
    let run = ["run", "--service", "rates", "--port", &port, "--control", &control];
    let mut rates = world.command(&[&run[..], &["--", "python3", script, "rates"]].concat());
    rates
        .env("MESH_VERSION", "2.1.0")
        .env("MESH_ZONE", "eu-1a")
        .env("MESH_WEIGHT", "7");
    let _rates = Running::start(rates);
    world.registered(&control, &["rates"]).await;
    let endpoints = json(&world.ask(&["endpoints", "--json", "--control", &control]));
    let said = ["version", "zone", "weight", "health"].map(|name| endpoints[0][name].to_string());
    assert_eq!(said, ["\"2.1.0\"", "\"eu-1a\"", "7", "\"unknown\""]);
    let table = world.ask(&["endpoints", "--control", &control]);
    assert!(table.contains("  2.1.0    eu-1a  7       unknown  "), "{table}");
}

#[tokio::test]
async fn bodies_are_streamed_both_ways_and_of_any_size() {
    let world = World::new();
    let (_serve, control, _) = world.serve("127.0.0.1:0");
    let (rates, _) = world.wrap(&control, "rates");
    let egress: SocketAddr = rates.line("egress listening on ").parse().unwrap();
    world.registered(&control, &["rates"]).await;

    let mut stream = tokio::net::TcpStream::connect(egress).await.unwrap();
    let request = b"GET http://rates.mesh/stream HTTP/1.1\r\nhost: rates.mesh\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut seen = Vec::new();
    while !seen.windows(5).any(|window| window == b"first") {
        assert_ne!(stream.read_buf(&mut seen).await.unwrap(), 0, "{}", text(&seen));
    }
    assert!(!text(&seen).contains("second"), "the answer is under way");
    let (status, _, _) = exchange(
        egress,
        "GET http://rates.mesh/go HTTP/1.1\r\nhost: rates.mesh\r\nconnection: close\r\n\r\n",
    )
    .await;
    assert_eq!(status, 200);
    stream.read_to_end(&mut seen).await.unwrap();
    assert!(text(&seen).contains("second"));

    // More than all windows and buffers on the way together.
    let body = "heddle ".repeat(4 << 20);
    let length = body.len();
    let head = format!(
        "POST http://rates.mesh/ HTTP/1.1\r\nhost: rates.mesh\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
    );
    let (status, _, echoed) = exchange(egress, &(head + &body)).await;
    assert_eq!((status, echoed.len()), (200, length));
    assert!(echoed == body, "the echo is another body");
}

#[tokio::test]
async fn a_program_that_speaks_http_1_0_is_served_too() {
    let world = World::new();
    let (_serve, control, _) = world.serve("127.0.0.1:0");
    let (port, folder) = (free_port().to_string(), world.path("server.py"));
    let folder = folder.parent().unwrap().to_str().unwrap();
    let files = world.start(&[
        "run",
        "--service",
        "files",
        "--port",
        &port,
        "--control",
        &control,
        "--",
        "python3",
        "-m",
        "http.server",
        &port,
        "--bind",
        "127.0.0.1",
        "--directory",
        folder,
    ]);
    let egress: SocketAddr = files.line("egress listening on ").parse().unwrap();
    world.registered(&control, &["files"]).await;
    for _ in 0..3 {
        let request = "GET http://files.mesh/server.py HTTP/1.1\r\nhost: files.mesh\r\nconnection: close\r\n\r\n";
        let (status, _, body) = exchange(egress, request).await;
        assert_eq!(status, 200);
        assert!(body.contains("ThreadingHTTPServer"));
    }
}

#[tokio::test]
async fn a_token_lets_one_program_in_and_as_its_own_service_alone() {
    let world = World::new();
    let (_serve, control, _) = world.serve("127.0.0.1:0");
    let token = world.ask(&["token", "create", "rates", "--control", &control]);
    let port = free_port().to_string();
    let with = |service: &str| {
        let arguments = [
            "run",
            "--service",
            service,
            "--port",
            &port,
            "--control",
            &control,
            "--token",
            token.trim(),
            "--",
            "true",
        ];
        let output = world.output(&arguments);
        (output.status.code(), text(&output.stderr))
    };
    let (code, error) = with("accounts");
    assert_eq!(code, Some(1));
    assert!(error.contains("rates"), "the token is for another service: {error}");
    let (code, error) = with("rates");
    assert_eq!(code, Some(1));
    assert!(error.contains("was used"), "{error}");
    // Without credentials there is no way in, and the way is told.
    let mut stranger = world.command(&[
        "run",
        "--service",
        "rates",
        "--port",
        &port,
        "--control",
        &control,
        "--",
        "true",
    ]);
    let output = stranger.env("XDG_STATE_HOME", world.path("elsewhere")).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("mesh-runtime token create"),
        "{}",
        text(&output.stderr)
    );
}

#[tokio::test]
async fn kill_9_of_the_control_plane_loses_nothing_and_stops_nobody() {
    let world = World::new();
    let (mut serve, control, _) = world.serve("127.0.0.1:0");
    let (_rates, _) = world.wrap(&control, "rates");
    let (_shop, shop_port) = world.wrap(&control, "shop");
    world.registered(&control, &["rates", "shop"]).await;
    assert_eq!(get(local(shop_port), "/call/rates.mesh/").await.0, 200);
    let identities = json(&world.ask(&["identities", "--json", "--control", &control]));
    let endpoints = json(&world.ask(&["endpoints", "--json", "--control", &control]));
    let token = world.ask(&["token", "create", "late", "--control", &control]);

    serve.signal(Signal::KILL);
    serve.ended();
    for _ in 0..5 {
        assert_eq!(
            get(local(shop_port), "/call/rates.mesh/").await.0,
            200,
            "members go on without it"
        );
    }
    let refused = world.output(&["services", "--control", &control]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains(&control), "{}", text(&refused.stderr));

    let (_serve, _, _) = world.serve(&control);
    let after = json(&world.ask(&["endpoints", "--json", "--control", &control]));
    let keys = |list: &serde_json::Value| {
        let list = list.as_array().unwrap().iter();
        list.map(|one| (one["service"].clone(), one["id"].clone(), one["registered_at"].clone()))
            .collect::<Vec<_>>()
    };
    assert_eq!(keys(&after), keys(&endpoints), "the registrations are there at once");
    let known = json(&world.ask(&["identities", "--json", "--control", &control]));
    // But its own, whose key died with it.
    let members = identities.as_array().unwrap().iter();
    for identity in members.filter(|identity| identity["spiffe_id"] != "spiffe://mesh.local/control-plane") {
        assert!(known.as_array().unwrap().contains(identity), "{identity} is lost");
    }
    // Members find back: heartbeats renew the leases beyond what they were given for the grace, and new members are seen.
    let port = free_port();
    let script = world.path("server.py");
    let _late = world.start(&[
        "run",
        "--service",
        "late",
        "--port",
        &port.to_string(),
        "--control",
        &control,
        "--token",
        token.trim(),
        "--",
        "python3",
        script.to_str().unwrap(),
        "late",
    ]);
    world.registered(&control, &["late"]).await;
    eventually(async || get(local(shop_port), "/call/late.mesh/").await.0 == 200).await;
    eventually(async || {
        let leases = json(&world.ask(&["endpoints", "--json", "--control", &control]));
        leases
            .as_array()
            .unwrap()
            .iter()
            .all(|endpoint| endpoint["lease_ms"].as_u64().unwrap() <= 15_000)
    })
    .await;
}

#[tokio::test]
async fn the_wrapper_ends_with_its_command_and_the_command_with_its_wrapper() {
    let world = World::new();
    let (_serve, control, _) = world.serve("127.0.0.1:0");
    let port = free_port().to_string();
    let ends_with = |script: &str| {
        let arguments = [
            "run",
            "--service",
            "rates",
            "--port",
            &port,
            "--control",
            &control,
            "--",
            "sh",
            "-c",
            script,
        ];
        world.output(&arguments).status.code()
    };
    assert_eq!(ends_with("exit 7"), Some(7));
    assert_eq!(ends_with("kill -9 $$"), Some(137));
    let output = world.output(&[
        "run",
        "--service",
        "rates",
        "--port",
        &port,
        "--control",
        &control,
        "--",
        "no-such-program",
    ]);
    assert_eq!(output.status.code(), Some(127));
    assert!(text(&output.stderr).contains("no-such-program"), "{}", text(&output.stderr));

    // A program that ends after it served is deregistered.
    let (mut rates, rates_port) = world.wrap(&control, "rates");
    world.registered(&control, &["rates"]).await;
    let pid = pid_of(rates_port).await;
    kill_process(Pid::from_raw(pid).unwrap(), Signal::TERM).unwrap();
    assert_eq!(rates.ended().code(), Some(143));
    assert!(!world.ask(&["services", "--control", &control]).contains("rates"));

    // A wrapper that is killed takes its command along.
    let (mut rates, rates_port) = world.wrap(&control, "rates");
    eventually(async || tokio::net::TcpStream::connect(local(rates_port)).await.is_ok()).await;
    let pid = pid_of(rates_port).await;
    assert!(lives(pid));
    rates.signal(Signal::KILL);
    rates.ended();
    eventually(async || !lives(pid)).await;
}

async fn pid_of(port: u16) -> i32 {
    json(&get(local(port), "/").await.1)["pid"]
        .as_i64()
        .unwrap()
        .try_into()
        .unwrap()
}

#[test]
fn wrong_usage_is_2_and_failure_is_1_each_with_one_clear_line() {
    let world = World::new();
    let fails = |arguments: &[&str]| {
        let output = world.output(arguments);
        (output.status.code(), text(&output.stderr))
    };
    for arguments in [
        &["serve", "--store", "etcd://127.0.0.1:2379"][..],
        &["serve", "--store", "disk"],
        &["serve", "--trust-domain", "Bank"],
        &["serve", "--listen", "here"],
        &["run", "--service", "rates", "--port", "0", "--", "true"],
        &["run", "--service", "Rates", "--port", "1", "--", "true"],
        &["run", "--service", "rates", "--port", "1"],
        &["token", "create", "rates", "--ttl", "soon"],
        &["token", "create", "rates", "--ttl", "25h"],
        &["ingress"],
        &["tap", "rates"],
    ] {
        let (code, error) = fails(arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {error}");
        assert!(error.starts_with("error: "), "{arguments:?}: {error}");
    }
    assert!(
        fails(&["serve", "--store", "etcd://127.0.0.1:2379"])
            .1
            .contains("not supported by this version")
    );

    let config = world.path("mesh.toml");
    std::fs::write(&config, "listen = \"127.0.0.1:0\"\nlease = \"5s\"\n").unwrap();
    let (code, error) = fails(&["serve", "--config", config.to_str().unwrap()]);
    assert_eq!(code, Some(1));
    assert!(
        error.contains("mesh.toml:2:1: error:") && error.contains("lease_ttl"),
        "{error}"
    );

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, data) = (taken.local_addr().unwrap().port(), world.path("data"));
    let (code, error) = fails(&[
        "serve",
        "--listen",
        &format!("127.0.0.1:{port}"),
        "--admin",
        "127.0.0.1:0",
        "--data-dir",
        data.to_str().unwrap(),
    ]);
    assert_eq!((code, error.lines().count()), (Some(1), 1), "{error}");
    assert!(error.contains(&port.to_string()) && error.contains("--listen"), "{error}");
    let (code, error) = fails(&["run", "--service", "rates", "--port", &port.to_string(), "--", "true"]);
    assert_eq!(code, Some(1));
    assert!(error.contains(&port.to_string()) && error.contains("--port"), "{error}");
}

#[test]
fn another_trust_domain_on_the_same_data_is_a_clear_error() {
    let world = World::new();
    let (serve, _, _) = world.serve("127.0.0.1:0");
    assert_eq!(serve.stop().code(), Some(0));
    let data = world.path("data");
    let output = world.output(&[
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
        "--data-dir",
        data.to_str().unwrap(),
        "--trust-domain",
        "bank.test",
    ]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("`mesh.local`, not `bank.test`"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn every_command_has_an_example() {
    let world = World::new();
    for command in [
        &["serve"][..],
        &["run"],
        &["token"],
        &["token", "create"],
        &["services"],
        &["endpoints"],
        &["identities"],
        &["backup"],
        &["restore"],
        &["apply"],
        &["policy"],
        &["entry", "create"],
        &["entry", "list"],
        &["entry", "remove"],
        &["authority", "status"],
        &["authority", "rotate"],
        &["authority", "retire"],
        &["policy", "show"],
        &["policy", "check"],
        &[],
    ] {
        let help = world.ask(&[command, &["--help"]].concat());
        assert!(help.contains("Example:\n  "), "{command:?}: {help}");
        assert!(!help.contains("tied"), "{help}");
    }
}

#[test]
fn secrets_on_disk_are_for_their_owner_alone() {
    use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
    let world = World::new();
    let (_serve, _, _) = world.serve("127.0.0.1:0");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o077;
    for entry in std::fs::read_dir(world.path("data")).unwrap() {
        let entry = entry.unwrap();
        let path = entry.path();
        // A socket holds no secret; whoever may enter the folder may connect.
        if entry.file_type().unwrap().is_socket() {
            continue;
        }
        assert_eq!(mode(&path), 0, "{}", path.display());
    }
    assert_eq!(mode(&world.path("data")), 0);
}

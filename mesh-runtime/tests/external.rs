//! What is outside the mesh, as wrapped programs reach it by the name that the document gives it.

#![allow(
    clippy::unwrap_used,
    reason = "in a test a panic is the report, outside of the test functions, too"
)]

#[path = "../../mesh-client/tests/support/dns.rs"]
#[allow(dead_code, unreachable_pub, reason = "it is made for another suite as well")]
mod dns;
mod support;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use dns::Dns;
use support::world::{Running, World, free_port, local, text};
use support::{eventually, get};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// A server of HTTP/1.1 that knows nothing of the mesh: it says its name, and the host that it was asked for.
async fn outsider(name: &'static str) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await?);
                }
                let head = text(&head).to_ascii_lowercase();
                let host = head.lines().find_map(|line| line.strip_prefix("host: ")).unwrap_or_default();
                let body = format!("{name} {host}");
                let length = body.len();
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
                stream.write_all(answer.as_bytes()).await
            });
        }
    });
    port
}

/// One of a protocol of its own, which speaks first.
async fn database() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                stream.write_all(b"hello ").await?;
                let (mut from, mut to) = stream.split();
                tokio::io::copy(&mut from, &mut to).await
            });
        }
    });
    port
}

/// A wrapped program that asks this name server.
fn wrap_asking(world: &World, control: &str, dns: &Dns) -> (Running, u16) {
    let (port, script) = (free_port(), world.path("server.py"));
    let port_text = port.to_string();
    let run = [
        "run",
        "--service",
        "shop",
        "--port",
        &port_text,
        "--control",
        control,
        "--upstream",
        "db=0",
    ];
    let program = ["--", "python3", script.to_str().unwrap(), "shop"];
    let mut command = world.command(&[&run[..], &program].concat());
    command.env("MESH_DNS", dns.address.to_string());
    (Running::start(command), port)
}

#[tokio::test]
async fn wrapped_programs_reach_what_is_outside_by_name() {
    let world = World::new();
    let (_serve, control, _) = world.serve("127.0.0.1:0");
    let dns = Dns::start().await;
    dns.addresses("one.test", 60, &[IpAddr::V4(Ipv4Addr::LOCALHOST)]);
    let (fixed, first, second) = (outsider("fixed").await, outsider("first").await, outsider("second").await);
    let db = database().await;
    dns.services("_http._tcp.partner.test", 1, &[(1, 1, first, "one.test")]);
    let document = format!(
        "[policy]\ndefault = \"deny\"\n[external.fixed]\nendpoints = [\"127.0.0.1:{fixed}\"]\nhost = \"fixed.test\"\n\
         [external.partner]\nsrv = \"_http._tcp.partner.test\"\n\
         [external.db]\nendpoints = [\"127.0.0.1:{db}\"]\nprotocol = \"tcp\"\n"
    );
    let file = world.path("mesh.toml");
    std::fs::write(&file, document).unwrap();
    world.ask(&["apply", file.to_str().unwrap(), "--control", &control]);

    let (shop, port) = wrap_asking(&world, &control, &dns);
    let mapped: SocketAddr = shop.line("upstream db listening on ").parse().unwrap();
    world.registered(&control, &["shop"]).await;
    let call = async |name: &str| get(local(port), &format!("/call/{name}.mesh/")).await;
    assert_eq!(call("fixed").await, (200, format!("fixed fixed.test:{fixed}")));
    assert_eq!(call("partner").await, (200, format!("first one.test:{first}")));
    dns.services("_http._tcp.partner.test", 1, &[(1, 1, second, "one.test")]);
    eventually(async || call("partner").await.1.starts_with("second ")).await;
    dns.die(true);
    assert_eq!(call("partner").await, (200, format!("second one.test:{second}")));

    let mut stream = TcpStream::connect(mapped).await.unwrap();
    stream.write_all(b"from here").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut heard = String::new();
    stream.read_to_string(&mut heard).await.unwrap();
    assert_eq!(heard, "hello from here");
}

#[tokio::test]
async fn a_name_is_a_service_of_the_mesh_or_outside_of_it() {
    let world = World::new();
    let (_serve, control, _) = world.serve("127.0.0.1:0");
    let port = free_port().to_string();
    let db = world.stand_in(&control, "db", &["--port", &port, "--protocol", "tcp"]);
    db.line("egress listening on ");
    let listening = TcpListener::bind(local(port.parse().unwrap())).await.unwrap();
    world.registered(&control, &["db"]).await;
    let file = world.path("mesh.toml");
    std::fs::write(&file, "[external.db]\nendpoints = [\"127.0.0.1:9\"]\nprotocol = \"tcp\"\n").unwrap();
    let apply = ["apply", file.to_str().unwrap(), "--control", &control];
    let refused = world.output(&apply);
    let said = text(&refused.stderr);
    assert!(
        !refused.status.success() && said.contains("mesh.toml:1:11: error: `db` is a service of this mesh"),
        "{said}"
    );

    // Once it has left, it may be outside; and then nobody is it in the mesh.
    db.stop();
    drop(listening);
    world.endpoints(&control, "db", 0).await;
    world.ask(&apply);
    let again = world.stand_in(&control, "db", &["--port", &port, "--protocol", "tcp"]);
    again.line("egress listening on ");
    let _listening = TcpListener::bind(local(port.parse().unwrap())).await.unwrap();
    again.line("places `db` outside of it: take [external.db] out");
}

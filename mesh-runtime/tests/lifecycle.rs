//! How a wrapped program begins and ends: what is ready before it, what it is told, and in which order everything goes.

#![allow(
    clippy::unwrap_used,
    reason = "in a test a panic is the report, outside of the test functions, too"
)]

mod support;

use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use rustix::process::Signal;
use support::world::{Running, World, free_port, local, text};
use support::{eventually, get};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A job that calls a service, tells what it sees, and ends with a status of its own.
const JOB: &str = r#"
import os, sys, urllib.request
print("saw", urllib.request.urlopen("http://rates.mesh/eur", timeout=10).status, flush=True)
print("port", os.environ.get("PORT"), os.environ["HTTPS_PROXY"] == os.environ["MESH_EGRESS"], flush=True)
print("db", os.environ["MESH_UPSTREAM_DB"], flush=True)
sys.exit(9)
"#;

/// A program that serves, and on SIGTERM first calls a service and says what came of it.
const PARTING: &str = r#"
import http.server, os, signal, threading, urllib.request

go = threading.Event()

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/go":
            go.set()
        elif self.path == "/slow":
            self.wfile.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n")
            self.wfile.flush()
            go.wait(30)
            self.wfile.write(b"4\r\nlast\r\n0\r\n\r\n")
            return
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *args):
        pass

def part(signum, frame):
    print("asked by", signum, flush=True)
    print("rates says", urllib.request.urlopen("http://rates.mesh/", timeout=10).status, flush=True)
    os._exit(5)

signal.signal(signal.SIGTERM, part)
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"#;

/// A program that says which signals it gets, and ends by the one that asks it to.
const LISTENER: &str = r#"
import os, signal, sys

def told(signum, frame):
    os.write(1, b"told %d\n" % signum)
    if signum == signal.SIGINT:
        sys.exit(4)

for each in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT, signal.SIGINT):
    signal.signal(each, told)
print("all ears", flush=True)
while True:
    signal.pause()
"#;

fn script(world: &World, name: &str, program: &str) -> String {
    std::fs::write(world.path(name), program).unwrap();
    world.path(name).to_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_job_needs_no_port_finds_its_ways_open_and_ends_its_wrapper() {
    let world = World::new();
    let (_serve, control, _) = world.serve("127.0.0.1:0");
    let (_rates, _) = world.wrap(&control, "rates");
    world.registered(&control, &["rates"]).await;
    let job = script(&world, "job.py", JOB);
    let run = [
        "run",
        "--service",
        "report",
        "--control",
        &control,
        "--upstream",
        "db=0",
        "--",
    ];
    let mut job = world.start(&[&run[..], &["python3", &job]].concat());
    let db = job.line("upstream db listening on ");
    assert_eq!(job.line("saw "), "200");
    assert_eq!(job.line("port "), "None True");
    assert_eq!(job.line("db "), db);
    assert_eq!(job.ended().code(), Some(9));

    // It serves nothing, so nobody is told of it.
    let services = world.ask(&["services", "--control", &control]);
    assert!(!services.contains("report"), "{services}");

    // It is asked to stop at once: there is nothing to drain.
    let job = world.start(&[&run[..], &["sleep", "1000"]].concat());
    job.line("egress listening on ");
    assert_eq!(job.stop().code(), Some(143));
}

#[tokio::test]
async fn a_program_gets_the_signal_when_its_requests_are_done_and_keeps_its_way_out() {
    let world = World::new();
    let (_serve, control, _) = world.serve("127.0.0.1:0");
    let (_rates, _) = world.wrap(&control, "rates");
    let parting = script(&world, "parting.py", PARTING);
    let port = free_port();
    let port_text = port.to_string();
    let run = [
        "run",
        "--service",
        "shop",
        "--port",
        &port_text,
        "--drain",
        "30s",
        "--control",
        &control,
        "--",
    ];
    let mut shop = world.start(&[&run[..], &["python3", &parting]].concat());
    let egress: SocketAddr = shop.line("egress listening on ").parse().unwrap();
    world.registered(&control, &["rates", "shop"]).await;

    // A request that is under way, from the mesh.
    let mut slow = TcpStream::connect(egress).await.unwrap();
    let request = b"GET http://shop.mesh/slow HTTP/1.1\r\nhost: shop.mesh\r\nconnection: close\r\n\r\n";
    slow.write_all(request).await.unwrap();
    let mut seen = Vec::new();
    while !text(&seen).contains("first") {
        assert_ne!(slow.read_buf(&mut seen).await.unwrap(), 0, "{}", text(&seen));
    }
    shop.signal(Signal::TERM);
    eventually(async || !world.ask(&["services", "--control", &control]).contains("shop")).await;
    shop.line("draining");
    // The program was not told yet: it answers, and lets the request finish.
    assert_eq!(get(local(port), "/go").await.0, 200);
    slow.read_to_end(&mut seen).await.unwrap();
    assert!(text(&seen).contains("last"), "{}", text(&seen));

    assert_eq!(shop.line("asked by "), "15");
    assert_eq!(shop.line("rates says "), "200");
    assert_eq!(shop.ended().code(), Some(5));
}

#[tokio::test]
async fn signals_are_passed_on_as_they_are() {
    let world = World::new();
    let (_serve, control, _) = world.serve("127.0.0.1:0");
    let listener = script(&world, "listener.py", LISTENER);
    let run = [
        "run",
        "--service",
        "report",
        "--control",
        &control,
        "--",
        "python3",
        &listener,
    ];
    let mut job = world.start(&run);
    job.line("all ears");
    let told = |job: &Running, signal: Signal| {
        job.signal(signal);
        assert_eq!(job.line("told "), signal.as_raw().to_string());
    };
    for signal in [Signal::HUP, Signal::USR1, Signal::USR2, Signal::QUIT] {
        told(&job, signal);
    }
    told(&job, Signal::INT);
    assert_eq!(job.ended().code(), Some(4));
}

#[tokio::test]
async fn a_program_that_will_not_stop_is_killed_after_its_grace() {
    let world = World::new();
    let (_serve, control, _) = world.serve("127.0.0.1:0");
    let run = ["run", "--service", "report", "--grace", "200ms", "--control", &control, "--"];
    let deaf = "trap '' TERM; echo deaf; while :; do sleep 1; done";
    let job = world.start(&[&run[..], &["sh", "-c", deaf]].concat());
    job.line("deaf");
    assert_eq!(job.stop().code(), Some(137));
}

#[tokio::test]
async fn what_the_program_needs_is_there_before_it_starts_or_it_does_not_start() {
    let world = World::new();
    let (_serve, control, _) = world.serve("127.0.0.1:0");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let (taken, mark) = (taken.local_addr().unwrap(), world.path("started"));
    let mark = mark.to_str().unwrap();
    let run = |flags: &[&str], listen: &str| {
        let run = [
            &["run", "--service", "report", "--control", &control][..],
            flags,
            &["--", "touch", mark],
        ]
        .concat();
        let output = world.command(&run).env("MESH_LISTEN", listen).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
        assert!(!Path::new(mark).exists());
        text(&output.stderr)
    };
    let error = run(&["--upstream", &format!("db={taken}")], "127.0.0.1:0");
    assert!(
        error.contains(&taken.to_string()) && error.contains("--upstream db"),
        "{error}"
    );
    let port = free_port().to_string();
    let error = run(&["--port", &port], &taken.to_string());
    assert!(error.contains("MESH_LISTEN"), "{error}");
}

#[test]
fn flags_that_say_nothing_sensible_are_wrong_usage() {
    let world = World::new();
    for (flags, why) in [
        (&["--protocol", "tcp"][..], "--port"),
        (&["--port", "1", "--protocol", "udp"], "http1"),
        (&["--upstream", "db"], "db=5432"),
        (&["--upstream", "db=0.0.0.0:1"], "127.0.0.1:1"),
        (&["--allow-egress", "accounts.mesh"], "policy"),
        (&["--allow-egress", "https://api.example.com"], "api.example.com:443"),
        (&["--max-connections", "0"], "from 1 on"),
        (&["--idle-timeout", "soon"], "30s"),
        (&["--drain", "10"], "30s"),
    ] {
        let output = world.output(&[&["run", "--service", "rates"][..], flags, &["--", "true"]].concat());
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{flags:?}: {error}");
        assert!(error.contains(why), "{flags:?}: {error}");
    }
}

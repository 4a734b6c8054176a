//! A mesh on a bad network: control plane, services and a caller on machines of their own, which are cut off, slowed down and killed.
//! No acknowledged registration is lost, no wrong identity is accepted, and no request fails that had a live endpoint.

#![allow(clippy::unwrap_used, reason = "a suite that cannot be set up has failed")]

use std::cell::Cell;
use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use tests::eventually::eventually;
use tests::network::{Network, apart};
use tests::process::{Process, binary, run};

const PATIENCE: Duration = Duration::from_secs(60);

/// Answers who it is, in a head without a body: such an answer is whole or not there, and none is cut off by a kill. Says that it was
/// asked.
const SERVICE: &str = r#"
import http.server, os, sys

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        os.write(1, b"asked\n")
        self.send_response(200)
        self.send_header("x-node", sys.argv[1])
        self.send_header("content-length", "0")
        self.end_headers()

    do_POST = do_GET

    def log_message(self, *args):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"#;

/// Calls `rates` over and over by the method that it is told, from three threads, and says what came of it.
const CALLER: &str = r#"
import os, sys, threading, time, urllib.error, urllib.request

def call():
    while True:
        request = urllib.request.Request("http://rates.mesh/", method=sys.argv[1])
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                outcome = f"{answer.status} {answer.headers['x-node']}"
        except urllib.error.HTTPError as error:
            outcome = f"{error.code} {error.read()}"
        except Exception as error:
            outcome = f"failed {error}"
        os.write(1, f"call {outcome}\n".encode())
        time.sleep(0.01)

threads = [threading.Thread(target=call) for _ in range(3)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"#;

/// Both endpoints get calls at all times, however slow one of them was a moment ago.
const DOCUMENT: &str = "[services.rates]\nbalance = \"round-robin\"\n";

struct World {
    folder: tempfile::TempDir,
    network: Network,
    /// Where the next program listens.
    port: Cell<u16>,
}

impl World {
    /// Machines for a control plane with these settings, two services and a caller.
    fn new(settings: &str) -> Self {
        let world = Self {
            folder: tempfile::tempdir().unwrap(),
            network: Network::new(&["control", "east", "west", "caller"]),
            port: Cell::new(9000),
        };
        let files = [
            ("service.py", SERVICE),
            ("caller.py", CALLER),
            ("mesh.toml", DOCUMENT),
            ("serve.toml", settings),
        ];
        for (name, text) in files {
            std::fs::write(world.folder.path().join(name), text).unwrap();
        }
        world
    }

    fn command(&self, node: &str, arguments: &[&str]) -> Command {
        let mut command = self.network.on(node, &binary("mesh-runtime"));
        command.args(arguments).current_dir(self.folder.path());
        command.env("HOME", self.folder.path()).env_remove("XDG_STATE_HOME");
        command
    }

    fn control(&self) -> String {
        format!("{}:7700", self.network.address("control"))
    }

    fn serve(&self) -> Process {
        self.serve_from("data", "info")
    }

    /// A control plane with its data there.
    fn serve_from(&self, data: &str, log: &str) -> Process {
        let control = self.control();
        let arguments = ["serve", "--listen", &control, "--data-dir", data, "--config", "serve.toml"];
        let mut serve = Process::start("control plane", self.command("control", &arguments).env("RUST_LOG", log));
        assert_eq!(serve.line_after("control listening on "), control);
        serve
    }

    /// What an operator is told where the control plane runs.
    fn ask(&self, arguments: &[&str]) -> String {
        let control = self.control();
        let (code, output, errors) = run(&mut self.command("control", &[arguments, &["--control", &control][..]].concat()));
        assert_eq!(code, 0, "{arguments:?}: {errors}");
        output
    }

    fn wrap(&self, node: &str, service: &str, flags: &[&str], program: &[&str]) -> Command {
        let (control, token) = (self.control(), self.ask(&["token", "create", service]));
        let arguments = [
            &["run", "--service", service, "--control", &control][..],
            flags,
            &["--", "python3"],
            program,
        ]
        .concat();
        let mut command = self.command(node, &arguments);
        command.env("MESH_TOKEN", token.trim());
        command
    }

    /// A program as a service of the mesh, which peers reach at this port of the node.
    fn served(&self, node: &str, port: u16, service: &str, name: &str) -> Process {
        let program = self.port.replace(self.port.get() + 1).to_string();
        let mut command = self.wrap(node, service, &["--port", &program], &["service.py", name]);
        command.env("MESH_LISTEN", format!("{}:{port}", self.network.address(node)));
        Process::start(&format!("{service} on {node}"), &mut command)
    }

    fn rates(&self, node: &str) -> Process {
        self.served(node, 8443, "rates", node)
    }

    fn caller(&self, method: &str) -> Caller {
        let mut command = self.wrap("caller", "caller", &[], &["caller.py", method]);
        Caller {
            process: Process::start("caller", &mut command),
            looked: 0,
        }
    }

    /// The ids of the registered endpoints of `rates`.
    fn registered(&self) -> BTreeSet<String> {
        let listed: serde_json::Value = serde_json::from_str(&self.ask(&["endpoints", "rates", "--json"])).unwrap();
        let ids = listed.as_array().unwrap().iter();
        ids.map(|endpoint| endpoint["id"].as_str().unwrap().to_owned()).collect()
    }

    fn registers(&self, count: usize) -> BTreeSet<String> {
        eventually(PATIENCE, || {
            let registered = self.registered();
            if registered.len() == count {
                Ok(registered)
            } else {
                Err(format!("{registered:?}"))
            }
        })
    }

    /// A mesh in which everything works.
    fn starts(&self, method: &str) -> (Process, Process, Process, Caller) {
        let control = self.serve();
        self.ask(&["apply", "mesh.toml"]);
        let (east, west) = (self.rates("east"), self.rates("west"));
        self.registers(2);
        let mut caller = self.caller(method);
        caller.is_served_by(&["east", "west"]);
        (control, east, west, caller)
    }
}

/// Waits until a process has said such words.
fn says(process: &Process, words: &str) {
    eventually(PATIENCE, || {
        let output = process.output();
        if output.contains(words) {
            Ok(())
        } else {
            Err(format!("no {words:?} in\n{output}"))
        }
    });
}

/// The ids of the endpoints of which a member was told that they are registered.
fn acknowledged(member: &Process) -> Vec<String> {
    let output = member.output();
    let lines = output
        .lines()
        .filter_map(|line| line.split_once("the endpoint is registered id=\""));
    lines.filter_map(|(_, id)| Some(id.split_once('"')?.0.to_owned())).collect()
}

struct Caller {
    process: Process,
    /// How many outcomes were looked at.
    looked: usize,
}

impl Caller {
    /// The outcomes of the calls since the last look, at least `count`.
    fn outcomes(&mut self, count: usize) -> Vec<String> {
        let outcomes = eventually(PATIENCE, || {
            let output = self.process.output();
            let calls = output.lines().filter_map(|line| line.strip_prefix("call "));
            let calls: Vec<_> = calls.skip(self.looked).map(str::to_owned).collect();
            if calls.len() >= count {
                Ok(calls)
            } else {
                Err(format!("{} calls\n{output}", calls.len()))
            }
        });
        self.looked += outcomes.len();
        outcomes
    }

    /// Every call is answered by one of the two nodes, and in the end by each of `nodes` and no other.
    fn is_served_by(&mut self, nodes: &[&str]) {
        eventually(PATIENCE, || {
            let outcomes: BTreeSet<_> = self.outcomes(30).into_iter().collect();
            for outcome in &outcomes {
                assert!(outcome == "200 east" || outcome == "200 west", "a call failed: {outcome}");
            }
            let expected: BTreeSet<_> = nodes.iter().map(|node| format!("200 {node}")).collect();
            if outcomes == expected {
                Ok(())
            } else {
                Err(format!("{outcomes:?}"))
            }
        });
    }
}

#[test]
fn a_control_plane_that_is_cut_off_or_killed_costs_no_registration_and_no_call() {
    if !apart("a_control_plane_that_is_cut_off_or_killed_costs_no_registration_and_no_call") {
        return;
    }
    let mut world = World::new("lease_ttl = \"6s\"\nlease_grace = \"30s\"\n");
    let (mut control, east, west, mut caller) = world.starts("GET");
    let registered = world.registered();

    // For so long that nobody's lease is left where nobody can be heard.
    world.network.isolate("control");
    eventually(PATIENCE, || {
        let left = world.registered();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
    caller.is_served_by(&["east", "west"]);
    world.network.heal();
    assert_eq!(world.registers(2), registered, "the same come back");
    caller.is_served_by(&["east", "west"]);

    // At the very moment at which another one is told that it is registered.
    let mut members = vec![east, west];
    for round in 1..=3 {
        let starting = ["east", "west"].map(|node| world.served(node, 8443 + round, "rates", node));
        let newest = &starting[usize::from(round % 2)];
        says(newest, "the endpoint is registered");
        control.kill();
        members.extend(starting);
        let told: BTreeSet<_> = members.iter().flat_map(acknowledged).collect();
        caller.is_served_by(&["east", "west"]);
        control = world.serve();
        let known = world.registered();
        let lost: Vec<_> = told.difference(&known).collect();
        assert!(lost.is_empty(), "round {round}: {lost:?} were acknowledged and are lost");
        world.registers(members.len());
    }
    assert!(world.registered().is_superset(&registered));
    caller.is_served_by(&["east", "west"]);
}

#[test]
fn no_call_fails_that_had_a_live_endpoint() {
    if !apart("no_call_fails_that_had_a_live_endpoint") {
        return;
    }
    let mut world = World::new("lease_ttl = \"10s\"\n");
    let (_control, mut east, _west, mut caller) = world.starts("GET");
    world.network.worsen(20, 5);
    caller.is_served_by(&["east", "west"]);
    world.network.heal();

    // The control plane still hears of it, the caller does not.
    world.network.cut("caller", "west");
    caller.is_served_by(&["east"]);
    assert_eq!(world.registered().len(), 2);
    world.network.heal();
    caller.is_served_by(&["east", "west"]);

    east.kill();
    caller.is_served_by(&["west"]);
    world.registers(1);
}

#[test]
fn whoever_leaves_on_a_slow_network_fails_no_call() {
    if !apart("whoever_leaves_on_a_slow_network_fails_no_call") {
        return;
    }
    let mut world = World::new("lease_ttl = \"1h\"\n");
    // Nobody sends these again: they may have done something.
    let (_control, _east, mut west, mut caller) = world.starts("POST");
    world.network.worsen(150, 0);
    caller.is_served_by(&["east", "west"]);
    assert_eq!(west.stop().code(), Some(143), "{}", west.output());
    assert!(
        west.output().contains("everybody who watches has heard of it"),
        "{}",
        west.output()
    );
    caller.is_served_by(&["east"]);
    let _west = world.rates("west");
    caller.is_served_by(&["east", "west"]);
}

#[test]
fn nobody_is_taken_for_the_service_whose_address_it_has() {
    if !apart("nobody_is_taken_for_the_service_whose_address_it_has") {
        return;
    }
    let world = World::new("lease_ttl = \"1h\"\n");
    let (_control, mut east, mut west, mut caller) = world.starts("GET");
    // Another member of the mesh, with a good identity of its own, comes to the address of one that died without a word.
    east.kill();
    let thief = world.served("east", 8443, "thief", "thief");
    says(&thief, "the endpoint is registered");
    assert_eq!(world.registered().len(), 2, "nobody said that the other has gone");
    // The caller tries it, and it is told that it is not believed: beside one that is, and where there is no other.
    let refused = |times: usize| {
        let said = thief.output().matches("a connection was refused").count();
        if said >= times {
            Ok(said)
        } else {
            Err(format!("it was refused {said} times"))
        }
    };
    let before = eventually(PATIENCE, || {
        caller.is_served_by(&["west"]);
        refused(2)
    });
    west.kill();
    eventually(PATIENCE, || {
        let outcomes = caller.outcomes(30);
        let answered = |outcome: &String| outcome.starts_with("200 ") && outcome != "200 west";
        assert!(!outcomes.iter().any(answered), "{outcomes:?}");
        refused(before + 2)
    });
    assert!(!thief.output().contains("asked"), "it saw a request that was not for it");
}

#[test]
fn nobody_is_taken_for_the_control_plane_whose_address_it_has() {
    if !apart("nobody_is_taken_for_the_control_plane_whose_address_it_has") {
        return;
    }
    let world = World::new("lease_ttl = \"3s\"\n");
    let (mut control, _east, _west, mut caller) = world.starts("GET");
    let registered = world.registered();
    control.kill();
    // Of a mesh of the same name, with another root.
    let mut impostor = world.serve_from("other", "info,mesh_runtime=debug");
    eventually(PATIENCE, || {
        assert_eq!(world.registered(), BTreeSet::new(), "somebody registers with it");
        let refused = impostor.output().matches("a TLS handshake failed").count();
        if refused >= 10 {
            Ok(())
        } else {
            Err(format!("it was refused {refused} times"))
        }
    });
    caller.is_served_by(&["east", "west"]);
    impostor.kill();
    let _control = world.serve();
    assert_eq!(world.registered(), registered);
    world.registers(2);
    caller.is_served_by(&["east", "west"]);
}

//! The command, as a process.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use crate::support::{Client, Upstream, eventually, everything_to, ok};

fn host() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_native-host"));
    command
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

struct Config {
    _folder: tempfile::TempDir,
    file: PathBuf,
}

fn config(text: &str) -> Config {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.toml");
    std::fs::write(&file, text).unwrap();
    Config { _folder: folder, file }
}

fn run(arguments: &[&str], config: &Config) -> Output {
    let (command, rest) = arguments.split_first().unwrap();
    host()
        .arg(command)
        .arg("--config")
        .arg(&config.file)
        .args(rest)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

const BROKEN: &str = "[[routes]]\nname = \"a\"\nmatch = { path = \"/a\" }\nupstream = \"nowhere\"\ntimout = \"1s\"\n";

/// Starts and reads the two lines that scripts wait for.
fn serving(config: &Config, arguments: &[&str]) -> (Child, std::net::SocketAddr, std::net::SocketAddr) {
    let mut child = host()
        .args([
            "serve",
            "--engine",
            "native",
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "127.0.0.1:0",
            "--config",
        ])
        .arg(&config.file)
        .args(arguments)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let gateway = lines
        .next()
        .unwrap()
        .strip_prefix("gateway listening on http://")
        .unwrap()
        .parse()
        .unwrap();
    let admin = lines
        .next()
        .unwrap()
        .strip_prefix("admin listening on http://")
        .unwrap()
        .parse()
        .unwrap();
    (child, gateway, admin)
}

fn terminate(child: &Child) {
    let killed = Command::new("kill")
        .arg("-TERM")
        .arg(child.id().to_string())
        .status()
        .unwrap();
    assert!(killed.success());
}

#[test]
fn a_gateway_serves_until_sigterm_and_exits_with_0() {
    let upstream = Upstream::answering(|_| ok("served"));
    let config = config(&everything_to(upstream.address));
    let (mut child, address, admin) = serving(&config, &["--workers", "2"]);
    let mut client = Client::connect(address);
    client.send("GET /x?secret=1 HTTP/1.1\r\nhost: test\r\n\r\n");
    assert_eq!(client.answer().text(), "served");
    let mut client = Client::connect(admin);
    client.send("GET /ready HTTP/1.1\r\nhost: admin\r\n\r\n");
    assert_eq!(client.answer().status, 200);
    terminate(&child);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let mut log = String::new();
    child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    let line = log.lines().find(|line| line.contains("access")).unwrap();
    for part in [
        "method=\"GET\"",
        "path=/x",
        "status=200",
        "route=\"all\"",
        "upstream=\"u\"",
        "attempts=1",
        "request_id=",
        "trace_id=",
    ] {
        assert!(line.contains(part), "{part}: {line}");
    }
    assert!(!log.contains("secret") && !log.contains('\x1b'), "{log}");
}

#[test]
fn a_valid_config_is_checked_with_0_and_a_broken_one_with_1_and_every_mistake() {
    let good = config(&everything_to("127.0.0.1:1".parse().unwrap()));
    assert_eq!(run(&["check"], &good).status.code(), Some(0));
    let bad = config(BROKEN);
    let checked = run(&["check"], &bad);
    assert_eq!(checked.status.code(), Some(1));
    let said = text(&checked.stderr);
    assert!(
        said.contains("gateway.toml:4:") && said.contains("gateway.toml:5:") && said.contains("timeout"),
        "{said}"
    );
    let served = run(
        &[
            "serve",
            "--engine",
            "native",
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "127.0.0.1:0",
        ],
        &bad,
    );
    assert_eq!((served.status.code(), text(&served.stderr)), (Some(1), said));
    assert_eq!(text(&served.stdout), "");
}

#[test]
fn a_config_that_is_not_there_and_wrong_usage_differ_in_their_exit_codes() {
    let mut there = config("");
    there.file.set_file_name("other.toml");
    let missing = run(&["check"], &there);
    assert_eq!(missing.status.code(), Some(1));
    assert!(text(&missing.stderr).contains("other.toml"), "{missing:?}");
    assert_eq!(host().args(["serve"]).output().unwrap().status.code(), Some(2));
    assert_eq!(host().args(["--help"]).output().unwrap().status.code(), Some(0));
}

#[test]
fn a_port_in_use_is_one_clear_line() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let config = config(&everything_to("127.0.0.1:1".parse().unwrap()));
    let refused = run(
        &["serve", "--engine", "native", "--listen", &address, "--admin", "127.0.0.1:0"],
        &config,
    );
    assert_eq!(refused.status.code(), Some(1));
    let said = text(&refused.stderr);
    assert!(
        said.lines().count() == 1 && said.contains(&address) && said.contains("--listen"),
        "{said}"
    );
}

#[test]
fn the_wasm_engine_without_a_component_says_what_to_do() {
    let config = config(&everything_to("127.0.0.1:1".parse().unwrap()));
    let missing = [
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
        "--component",
        "/nowhere/gateway.wasm",
    ];
    let refused = run(&missing, &config);
    assert_eq!(refused.status.code(), Some(1));
    let said = text(&refused.stderr);
    assert!(
        said.contains("/nowhere/gateway.wasm") && said.contains("cargo xtask component"),
        "{said}"
    );
    let no_component = ["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--component"];
    let refused = run(&[&no_component[..], &[config.file.to_str().unwrap()]].concat(), &config);
    assert!(text(&refused.stderr).contains("no component"), "{refused:?}");
}

#[test]
fn routes_are_listed_in_match_order_and_explained() {
    let config = config(
        "[upstreams.u]\nendpoints = [{ url = \"http://127.0.0.1:1\" }]\n[[routes]]\nname = \"wide\"\nmatch = { path_prefix = \"/\" }\nupstream = \"u\"\n[[routes]]\nname = \"narrow\"\nmatch = { path = \"/a/{id}\" }\nupstream = \"u\"\n",
    );
    let listed = run(&["routes", "--json"], &config);
    let routes: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(
        (&routes[0]["route"], &routes[1]["route"]),
        (&"narrow".into(), &"wide".into()),
        "{routes}"
    );
    let listed = run(&["routes"], &config);
    assert!(text(&listed.stdout).find("narrow") < text(&listed.stdout).find("wide"));
    let explained = run(&["explain", "GET", "http://x.example/a/7", "-H", "accept: */*"], &config);
    assert_eq!(explained.status.code(), Some(0), "{explained:?}");
    assert!(text(&explained.stdout).contains("narrow"), "{explained:?}");
    let explained = run(&["explain", "GET", "/a/7", "--json"], &config);
    serde_json::from_slice::<serde_json::Value>(&explained.stdout).unwrap();
}

const RECORDED: &str = "GET /a/1 HTTP/1.1\nHost: x.example\n\nGET /a/2 HTTP/1.1\nHost: x.example\n\nGET /same HTTP/1.1\nHost: x.example\n\nGET /gone HTTP/1.1\nHost: x.example\n";

const RECORDED_JSON: &str = "{\"url\": \"http://x.example/a/1\"}\n{\"url\": \"http://x.example/a/2\", \"headers\": {\"accept\": [\"a/b\", \"c/d\"]}}\n\n{\"method\": \"GET\", \"url\": \"/same\", \"headers\": {\"host\": \"x.example\"}}\n{\"url\": \"http://x.example/gone\"}\n";

const BEFORE: &str = "[upstreams.u]\nendpoints = [{ url = \"http://127.0.0.1:1\" }]\n[upstreams.v]\nendpoints = [{ url = \"http://127.0.0.1:2\" }]\n[[routes]]\nname = \"a\"\nmatch = { path = \"/a/{id}\" }\nupstream = \"u\"\ntimeout = \"1s\"\n[[routes]]\nname = \"same\"\nmatch = { path = \"/same\" }\nupstream = \"u\"\n[[routes]]\nname = \"gone\"\nmatch = { path = \"/gone\" }\nrespond = { status = 200 }\n";

fn diff(after: &str, recorded: &str, options: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let file = folder.path().join(name);
        std::fs::write(&file, text).unwrap();
        file
    };
    host()
        .arg("diff")
        .args([write("old.toml", BEFORE), write("new.toml", after)])
        .arg("--requests")
        .arg(write("recorded", recorded))
        .args(options)
        .output()
        .unwrap()
}

#[test]
fn what_a_changed_config_decides_otherwise_is_grouped_by_rule() {
    let after = BEFORE
        .replace("upstream = \"u\"\ntimeout = \"1s\"", "upstream = \"v\"\ntimeout = \"3s\"")
        .replace("path = \"/gone\"", "path = \"/here\"");
    for recorded in [RECORDED, RECORDED_JSON] {
        let told = diff(&after, recorded, &["--json"]);
        assert_eq!(told.status.code(), Some(0), "{told:?}");
        let report: serde_json::Value = serde_json::from_slice(&told.stdout).unwrap();
        assert_eq!((&report["requests"], &report["changed"]), (&4.into(), &3.into()), "{report}");
        let [routed, lost] = report["groups"].as_array().unwrap().as_slice() else {
            panic!("{report}");
        };
        assert_eq!(
            (&routed["old"], &routed["requests"]),
            (&"a (/a/{id})".into(), &2.into()),
            "{report}"
        );
        assert_eq!(
            routed["changed"],
            serde_json::json!(["action", "timeout", "upstream"]),
            "{report}"
        );
        assert_eq!(routed["example"]["request"], "GET x.example/a/1");
        assert_eq!(
            (&lost["old"], &lost["new"]),
            (&"gone (/gone)".into(), &"(no route)".into()),
            "{report}"
        );
    }
    let told = diff(&after, RECORDED, &[]);
    let said = text(&told.stdout);
    for part in [
        "4 requests, 3 decided otherwise",
        "2 × a (/a/{id}): action, timeout, upstream",
        "1000 ms → 3000 ms",
        "gone (/gone) → (no route)",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[test]
fn a_diff_without_a_change_says_so_and_with_one_may_fail() {
    let same = diff(BEFORE, RECORDED, &["--exit-code"]);
    assert_eq!(
        (same.status.code(), text(&same.stdout)),
        (Some(0), "4 requests, 0 decided otherwise\n")
    );
    let changed = diff(&BEFORE.replace("1s", "2s"), RECORDED, &["--exit-code"]);
    assert_eq!(changed.status.code(), Some(1));
    assert_eq!(text(&changed.stderr), "");
}

#[test]
fn recorded_requests_that_cannot_be_read_are_told_by_their_line() {
    for (recorded, words) in [
        ("GET /a HTTP/1.1\n\nGET\n", "the request at line 3: "),
        ("GET /a HTTP/1.1\nhost\n", "\"host\" is no header field"),
        ("{\"url\": \"/a\"}\n{\"method\": \"GET\"}\n", "line 2: there is no \"url\""),
        ("{\"url\": \"/a\"}\n{\n", "line 2: "),
    ] {
        let told = diff(BEFORE, recorded, &[]);
        assert_eq!(told.status.code(), Some(1), "{told:?}");
        assert!(text(&told.stderr).contains(words), "{words}: {told:?}");
    }
    let broken = diff("nonsense", RECORDED, &[]);
    assert!(text(&broken.stderr).contains("new.toml:1:"), "{broken:?}");
}

#[test]
fn the_schema_is_printed() {
    let printed = host().arg("schema").output().unwrap();
    let schema: serde_json::Value = serde_json::from_slice(&printed.stdout).unwrap();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    assert!(schema["properties"]["gateway"]["properties"]["tls"].is_object());
}

#[test]
fn sighup_has_the_config_looked_at_and_is_no_end() {
    let config = config(&everything_to("127.0.0.1:1".parse().unwrap()));
    let (mut child, address, _) = serving(&config, &[]);
    let hangup = Command::new("kill").arg("-HUP").arg(child.id().to_string()).status().unwrap();
    assert!(hangup.success());
    let log = BufReader::new(child.stderr.take().unwrap()).lines();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || log.map_while(Result::ok).try_for_each(|line| tell.send(line)));
    eventually("it says so", || {
        told.try_iter()
            .any(|line| line.contains("the config is unchanged"))
            .then_some(())
    });
    let mut client = Client::connect(address);
    client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n");
    assert_eq!(client.answer().status, 502);
    terminate(&child);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

//! The commands as a user types them: their output, their exit codes, what they say when the input is wrong.

#![allow(clippy::unwrap_used, reason = "a suite that cannot be set up has failed")]

use std::path::Path;
use std::process::Command;

use tests::bank::{SECRET, repository, token};
use tests::process::{binary, run};

fn native_host(arguments: &[&str]) -> (i32, String, String) {
    run(Command::new(binary("native-host"))
        .args(arguments)
        .env("BANK_JWT_SECRET", SECRET)
        .current_dir(repository()))
}

fn check(text: &str) -> (i32, String) {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("gateway.toml");
    std::fs::write(&config, text).unwrap();
    let (code, out, err) = native_host(&["check", "--config", config.to_str().unwrap()]);
    (code, out + &err)
}

#[test]
fn check_accepts_the_banks_config() {
    let (code, out, err) = native_host(&["check", "--config", "examples/bank/gateway.toml"]);
    assert_eq!(code, 0, "{out}{err}");
}

#[test]
fn check_names_every_mistake_with_its_place_and_the_mend() {
    let text = r#"[gateway]
name = "bank"
colour = "red"

[upstreams.accounts]
endpoints = [{ url = "http://127.0.0.1:9101" }]

[[routes]]
name = "one"
match = { path = "/a/{id" }
upstream = "accounts"

[[routes]]
name = "two"
match = { path = "/b" }
upstream = "acounts"

[[routes]]
name = "three"
match = { path = "/c" }
upstream = "accounts"
tmeout = "2s"

[[routes]]
name = "four"
match = { path = "/c" }
upstream = "accounts"
"#;
    let (code, output) = check(text);
    assert_eq!(code, 1, "{output}");
    for place in ["gateway.toml:3:", "gateway.toml:10:", "gateway.toml:16:", "gateway.toml:22:"] {
        assert!(output.contains(place), "{place} is missing in:\n{output}");
    }
    assert!(
        output.contains("accounts") && output.contains("timeout"),
        "the hints name what was meant:\n{output}"
    );
}

#[test]
fn check_refuses_a_route_that_can_never_be_reached() {
    let text = r#"[upstreams.a]
endpoints = [{ url = "http://127.0.0.1:9101" }]
[[routes]]
name = "first"
match = { path = "/c/{x}" }
upstream = "a"
[[routes]]
name = "second"
match = { path = "/c/{y}" }
upstream = "a"
"#;
    let (code, output) = check(text);
    assert_eq!(code, 1, "{output}");
    assert!(
        output.contains("first") && output.contains("second"),
        "both routes are named:\n{output}"
    );
}

#[test]
fn check_names_a_file_that_is_missing() {
    let (code, _, err) = native_host(&["check", "--config", "/nowhere/gateway.toml"]);
    assert_eq!(code, 1);
    assert!(err.contains("/nowhere/gateway.toml"), "{err}");
}

#[test]
fn wrong_usage_is_exit_2() {
    for (name, arguments) in [
        ("native-host", ["serve", "--nonsense"]),
        ("mesh-runtime", ["token", "nonsense"]),
    ] {
        let (code, _, err) = run(Command::new(binary(name)).args(arguments));
        assert_eq!(code, 2, "{name}: {err}");
    }
}

#[test]
fn every_help_has_an_example() {
    let commands: [(&str, &[&str]); 9] = [
        ("native-host", &["serve"]),
        ("native-host", &["check"]),
        ("native-host", &["routes"]),
        ("native-host", &["explain"]),
        ("mesh-runtime", &["serve"]),
        ("mesh-runtime", &["run"]),
        ("mesh-runtime", &["token", "create"]),
        ("mesh-runtime", &["endpoints"]),
        ("mesh-runtime", &["identities"]),
    ];
    for (name, command) in commands {
        let (code, out, _) = run(Command::new(binary(name)).args(command).arg("--help"));
        assert_eq!(code, 0, "{name} {command:?}");
        assert!(
            out.to_lowercase().contains("example"),
            "{name} {command:?} --help shows no example:\n{out}"
        );
    }
}

#[test]
fn routes_lists_the_table_in_match_order() {
    let (code, out, err) = native_host(&["routes", "--config", "examples/bank/gateway.toml", "--json"]);
    assert_eq!(code, 0, "{err}");
    let rows: serde_json::Value = serde_json::from_str(&out).unwrap();
    let names: Vec<_> = rows
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|row| row["route"].as_str())
        .collect();
    for name in ["overview", "account", "transfer", "moved", "health"] {
        assert!(names.contains(&name), "{name} is missing: {names:?}");
    }
}

#[test]
fn explain_says_why_a_request_gets_its_answer() {
    let bearer = format!("authorization: Bearer {}", token("7", "accounts:read", 60));
    let config = ["explain", "--config", "examples/bank/gateway.toml"];
    let explain = |rest: &[&str]| native_host(&[&config, rest].concat());
    let (code, out, err) = explain(&["GET", "http://bank.test/accounts/42", "-H", &bearer]);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("account") && out.contains("accounts"), "{out}");
    let (code, out, err) = explain(&["GET", "http://bank.test/accounts/42", "--json"]);
    assert_eq!(code, 0, "{err}");
    let explanation: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert!(out.contains("credentials-missing"), "{explanation}");
}

#[test]
fn a_taken_port_is_one_clear_line() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let config = Path::new("examples/bank/gateway.toml").to_str().unwrap();
    let serve = [
        "serve",
        "--engine",
        "native",
        "--admin",
        "127.0.0.1:0",
        "--config",
        config,
        "--listen",
        &address,
    ];
    let (code, _, err) = native_host(&serve);
    assert_eq!(code, 1, "{err}");
    assert!(err.contains(&address) && err.contains("in use"), "{err}");
    let folder = tempfile::tempdir().unwrap();
    let mut control = Command::new(binary("mesh-runtime"));
    control
        .args(["serve", "--admin", "127.0.0.1:0", "--listen", &address, "--data-dir"])
        .arg(folder.path());
    let (code, _, err) = run(control.env("XDG_STATE_HOME", folder.path()));
    assert_eq!(code, 1, "{err}");
    assert!(err.contains(&address), "{err}");
}

//! Aggregates on a moved clock: what goes out together, what waits, and what a failure means.

mod support;

use std::time::Duration;

use gateway::exchange::Failure;
use support::{Network, Request, Script, compile};

const CONFIG: &str = r#"
[upstreams.a]
endpoints = [{ url = "http://127.0.0.1:1" }]
[upstreams.b]
endpoints = [{ url = "http://127.0.0.1:2" }]
[upstreams.c]
endpoints = [{ url = "http://127.0.0.1:3" }]

[gateway]
trusted_proxies = ["10.0.0.0/8"]

[[routes]]
name = "overview"
match = { path = "/overview/{id}" }
[routes.aggregate]
timeout = "1s"
max_body = "64B"
branches = [
  { as = "late", upstream = "c", path = "/late/{first.id}/{second.list.1}", fallback = { none = true } },
  { as = "first", upstream = "a", path = "/first/{id}", required = true },
  { as = "second", upstream = "b", path = "/second", timeout = "300ms" },
]
"#;

fn network() -> Network {
    Network::new(&compile(CONFIG))
}

fn at(target: &str, script: Script) -> Script {
    Script {
        target: Some(target.to_owned()),
        ..script
    }
}

#[test]
fn branches_that_wait_for_nobody_go_out_together_and_the_rest_as_soon_as_it_can() {
    let mut network = network();
    network.script([
        Script::answers("a", 200, r#"{"id":"x y"}"#).after(100),
        Script::answers("b", 200, r#"{"list":[0,7]}"#).after(200),
        Script::answers("c", 200, "3").after(50),
    ]);
    let got = network.send(&Request::get("/overview/7"));
    let sent: Vec<_> = network
        .sent
        .iter()
        .map(|sent| (sent.target.as_str(), sent.at.as_millis()))
        .collect();
    assert_eq!(sent, [("/first/7", 0), ("/second", 0), ("/late/x%20y/7", 200)]);
    assert_eq!(got.at, Duration::from_millis(250));
    assert_eq!(
        got.text(),
        r#"{"late":3,"first":{"id":"x y"},"second":{"list":[0,7]}}"#,
        "in the order of the config"
    );
    assert_eq!(got.fields["content-type"], "application/json");
    assert!(!got.fields.contains_key("x-heddle-partial"));
}

#[test]
fn a_branch_that_needs_what_is_missing_is_missing_too() {
    let mut network = network();
    network.script([Script::answers("a", 200, r#"{"id":1}"#), Script::hangs("b")]);
    let got = network.send(&Request::get("/overview/7"));
    assert_eq!(got.status, 200);
    assert_eq!(got.at, Duration::from_millis(300), "the branch's own timeout");
    assert_eq!(got.text(), r#"{"late":{"none":true},"first":{"id":1},"second":null}"#);
    assert_eq!(got.fields["x-heddle-partial"], "late,second");
}

#[test]
fn all_branches_share_one_deadline() {
    let mut network = network();
    network.script([
        Script::answers("a", 200, r#"{"id":1}"#).after(900),
        Script::answers("b", 200, r#"{"list":[0,1]}"#).after(100),
        Script::hangs("c"),
    ]);
    let got = network.send(&Request::get("/overview/7"));
    assert_eq!(got.at, Duration::from_secs(1), "and not 900 ms and a second");
    assert_eq!(got.fields["x-heddle-partial"], "late");
}

#[test]
fn a_required_branch_that_hangs_is_504_at_the_deadline() {
    let mut network = network();
    network.script([Script::hangs("a"), Script::answers("b", 200, "{}")]);
    let got = network.send(&Request::get("/overview/7"));
    assert_eq!((got.status, got.reason.as_deref()), (504, Some("upstream-timeout")));
    assert_eq!(got.at, Duration::from_secs(1));
    assert!(got.text().contains("first"));
}

#[test]
fn a_required_branch_that_fails_ends_it_at_once() {
    let mut network = network();
    network.script([Script::fails("a", Failure::Connect), Script::hangs("b")]);
    let got = network.send(&Request::get("/overview/7"));
    assert_eq!((got.status, got.reason.as_deref()), (502, Some("aggregate-branch-failed")));
    assert_eq!(got.at, Duration::ZERO);
}

#[test]
fn a_branch_over_the_limit_is_not_read() {
    let long = format!("\"{}\"", "x".repeat(64));
    let mut network = network();
    network.script([Script::answers("a", 200, &long), Script::hangs("b")]);
    assert_eq!(
        network.send(&Request::get("/overview/7")).reason.as_deref(),
        Some("response-too-large")
    );
    network.scripts.clear();
    network.script([Script::answers("a", 200, r#"{"id":1}"#), Script::answers("b", 200, &long)]);
    assert_eq!(
        network.send(&Request::get("/overview/7")).fields["x-heddle-partial"],
        "late,second"
    );
}

#[test]
fn an_empty_body_is_null_and_no_value() {
    let mut network = network();
    network.script([Script::answers("a", 204, ""), Script::answers("b", 200, "[]")]);
    let got = network.send(&Request::get("/overview/7"));
    assert_eq!(got.text(), r#"{"late":{"none":true},"first":null,"second":[]}"#);
}

#[test]
fn a_value_that_is_no_text_or_leads_elsewhere_is_none() {
    for id in ["{}", "[]", "null", "\"\"", "\"..\"", "\".\""] {
        let mut network = network();
        network.script([
            Script::answers("a", 200, &format!("{{\"id\":{id}}}")),
            Script::answers("b", 200, r#"{"list":[0,1]}"#),
        ]);
        let got = network.send(&Request::get("/overview/7"));
        assert_eq!(got.fields["x-heddle-partial"], "late", "{id}");
    }
    let mut network = network();
    network.script([
        Script::answers("a", 200, r#"{"id":1}"#),
        Script::answers("b", 200, r#"{"list":[0,""]}"#),
    ]);
    let got = network.send(&Request::get("/overview/7"));
    assert_eq!(
        got.fields["x-heddle-partial"], "late",
        "an empty last segment would be another resource"
    );
    network.script([
        Script::answers("a", 200, r#"{"id":"../../admin?x=1#y"}"#),
        Script::answers("b", 200, r#"{"list":[0,true]}"#),
        at("/late/..%2F..%2Fadmin%3Fx%3D1%23y/true", Script::answers("c", 200, "{}")),
    ]);
    assert_eq!(network.send(&Request::get("/overview/7")).status, 200);
}

#[test]
fn a_body_that_is_encoded_or_no_json_is_not_passed_on() {
    for (coding, body) in [
        ("gzip", "{}"),
        ("identity", "{"),
        ("identity", "{} {}"),
        ("identity", "\"\u{1}\""),
    ] {
        let mut network = network();
        let mut script = Script::answers("a", 200, body);
        script
            .outcome
            .as_mut()
            .unwrap()
            .1
            .insert("content-encoding", coding.parse().unwrap());
        network.script([script, Script::hangs("b")]);
        assert_eq!(
            network.send(&Request::get("/overview/7")).reason.as_deref(),
            Some("aggregate-branch-failed"),
            "{body}"
        );
    }
}

#[test]
fn a_branch_carries_the_trace_and_the_origin_but_not_the_clients_secrets() {
    let mut network = network();
    network.script([Script::answers("a", 200, "{}"), Script::answers("b", 200, "{}")]);
    let request = Request::get("/overview/7")
        .with("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
        .with("tracestate", "a=1")
        .with("accept-language", "de")
        .with("cookie", "session=1")
        .with("authorization", "Bearer x")
        .with("x-forwarded-for", "6.6.6.6");
    network.send(&request);
    let fields = &network.sent[0].fields;
    assert!(
        fields["traceparent"]
            .to_str()
            .unwrap()
            .starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-")
    );
    assert_eq!(fields["tracestate"], "a=1");
    assert_eq!(fields["accept-language"], "de");
    assert_eq!(fields["accept"], "application/json");
    assert_eq!(fields["x-forwarded-for"], "192.0.2.7");
    assert!(fields.contains_key("x-request-id"));
    assert!(!fields.contains_key("cookie") && !fields.contains_key("authorization"));

    network.script([Script::answers("a", 200, "{}"), Script::answers("b", 200, "{}")]);
    network.send(&Request {
        peer: "10.0.0.1".parse().ok(),
        ..request
    });
    assert_eq!(network.sent[0].fields["x-forwarded-for"], "6.6.6.6, 10.0.0.1");
}

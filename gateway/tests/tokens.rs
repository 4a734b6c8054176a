//! Tokens through whole exchanges: what is remembered, what reaches upstreams, what `explain` tells.

mod support;

use std::time::Duration;

use gateway::exchange::{Arrival, Step};
use gateway::{Memory, Question, explain};
use routing::{RequestHead, Scheme};
use serde_json::json;
use support::{Network, Request, Script, UNIX, compile, token};

const SECRET: &str = "a-secret-of-at-least-thirty-two-bytes";

const CONFIG: &str = r#"
[upstreams.a]
endpoints = [{ url = "http://127.0.0.1:1" }]

[auth.customer]
kind = "jwt"
algorithms = ["HS256"]
secret = "a-secret-of-at-least-thirty-two-bytes"
leeway = "0s"

[auth.staff]
kind = "jwt"
algorithms = ["HS256"]
secret = "another-secret-of-thirty-two-bytes-or-more"

[[routes]]
name = "account"
match = { path = "/accounts/{id}" }
auth = "customer"
upstream = "a"
headers = { request = { set = { x-customer = "{claim.sub}", x-roles = "{claim.roles}", x-from = "{client.ip} {header.user-agent} {id} {request.id}" } }, response = { set = { x-for = "{claim.sub}" } } }

[[routes]]
name = "staff"
match = { path = "/staff" }
auth = "staff"
respond = { status = 204 }
"#;

fn bearer(claims: &serde_json::Value) -> String {
    format!("Bearer {}", token(SECRET, claims))
}

fn request(claims: &serde_json::Value) -> Request {
    Request::get("/accounts/7")
        .with("authorization", &bearer(claims))
        .with("user-agent", "test")
        .with("x-request-id", "id-1")
}

#[test]
fn a_token_is_checked_once_and_then_remembered_until_it_expires() {
    let mut network = Network::new(&compile(CONFIG));
    let request = request(&json!({"sub": "7", "exp": UNIX + 60}));
    for _ in 0..3 {
        network.script([Script::answers("a", 200, "")]);
        assert_eq!(network.send(&request).status, 200);
    }
    assert_eq!(network.verified, 1);
    network.advance(Duration::from_secs(60));
    assert_eq!(network.send(&request).reason.as_deref(), Some("token-expired"));
}

#[test]
fn a_verdict_of_one_auth_does_not_open_the_door_of_another() {
    let mut network = Network::new(&compile(CONFIG));
    let authorization = bearer(&json!({"sub": "7", "exp": UNIX + 60}));
    network.script([Script::answers("a", 200, "")]);
    assert_eq!(
        network
            .send(&Request::get("/accounts/7").with("authorization", &authorization))
            .status,
        200
    );
    assert_eq!(
        network
            .send(&Request::get("/staff").with("authorization", &authorization))
            .status,
        401
    );
}

#[test]
fn a_verdict_does_not_outlive_its_key() {
    let mut network = Network::new(&compile(CONFIG));
    let request = request(&json!({"sub": "7", "exp": UNIX + 60}));
    network.script([Script::answers("a", 200, "")]);
    assert_eq!(network.send(&request).status, 200);
    let memory = std::mem::replace(&mut network.memory, Memory::new(&network.gateway));
    network = Network::new(&compile(&CONFIG.replace(SECRET, "the-secret-after-it-was-rotated-by-us")));
    network.memory = memory;
    assert_eq!(network.send(&request).reason.as_deref(), Some("token-invalid"));
}

#[test]
fn templates_are_filled_in_from_claims_and_the_request_alone() {
    let mut network = Network::new(&compile(CONFIG));
    network.script([Script::answers("a", 200, "")]);
    let request = request(&json!({"sub": "7", "exp": UNIX + 60, "roles": ["a", "b"]}))
        .with("x-customer", "admin")
        .with("x-from", "nowhere");
    let got = network.send(&request);
    let fields = &network.sent[0].fields;
    assert_eq!(fields.get_all("x-customer").iter().collect::<Vec<_>>(), ["7"]);
    assert_eq!(fields["x-roles"], "a,b");
    assert_eq!(fields["x-from"], "192.0.2.7 test 7 id-1");
    assert_eq!(got.fields["x-for"], "7");
}

#[test]
fn a_claim_cannot_bring_a_line_of_its_own() {
    let mut network = Network::new(&compile(CONFIG));
    network.script([Script::answers("a", 200, "")]);
    network.send(&request(&json!({"sub": "7\r\nx-admin: 1", "exp": UNIX + 60})).with("x-customer", "admin"));
    assert!(!network.sent[0].fields.contains_key("x-customer"));
}

#[test]
fn bearer_is_read_in_any_case_and_nothing_else_is() {
    let mut network = Network::new(&compile(CONFIG));
    let token = token(SECRET, &json!({"sub": "7", "exp": UNIX + 60}));
    for scheme in ["bearer", "BEARER", "Bearer "] {
        network.script([Script::answers("a", 200, "")]);
        assert_eq!(
            network
                .send(&Request::get("/accounts/7").with("authorization", &format!("{scheme} {token}")))
                .status,
            200,
            "{scheme}"
        );
    }
    for other in ["Bearer", "Bearer  ", "Token", "", "Basic eDp5"] {
        let got = network.send(&Request::get("/accounts/7").with("authorization", other));
        assert_eq!(got.reason.as_deref(), Some("credentials-missing"), "{other:?}");
    }
    let got = network.send(&Request::get(&format!("/accounts/7?access_token={token}")));
    assert_eq!(got.status, 401, "a token in the query is not looked for");
}

#[test]
fn two_good_tokens_are_one_too_many() {
    let mut network = Network::new(&compile(CONFIG));
    let authorization = bearer(&json!({"sub": "7", "exp": UNIX + 60}));
    let got = network.send(
        &Request::get("/accounts/7")
            .with("authorization", &authorization)
            .with("authorization", &authorization),
    );
    assert_eq!((got.status, network.verified), (401, 0));
    assert!(got.fields["www-authenticate"].to_str().unwrap().contains("invalid_request"));
}

#[test]
fn a_right_signature_for_wrong_claims_is_told_only_after_the_signature() {
    let mut network = Network::new(&compile(CONFIG));
    let forged = token(
        "another-secret-of-thirty-two-bytes-or-more",
        &json!({"sub": "7", "exp": UNIX - 60}),
    );
    let got = network.send(&Request::get("/accounts/7").with("authorization", &format!("Bearer {forged}")));
    assert_eq!(
        got.reason.as_deref(),
        Some("token-invalid"),
        "an expired claim under a wrong signature is not told"
    );
}

#[test]
fn a_driver_that_answers_what_was_not_asked_ends_the_exchange_with_a_refusal() {
    let gateway = compile(CONFIG);
    let mut memory = Memory::new(&gateway);
    let fields = request(&json!({"sub": "7", "exp": UNIX + 60})).fields;
    let now = routing::Now {
        moment: routing::Moment(0),
        unix: UNIX,
    };
    let head = RequestHead {
        method: "GET",
        scheme: Scheme::Http,
        authority: "a",
        target: "/accounts/7",
        fields: &fields,
        peer: None,
    };
    let arrival = Arrival {
        head,
        has_body: false,
        now,
        entropy: [1; 32],
    };
    let (exchange, step) = gateway::Exchange::start(&gateway, &mut memory, &arrival);
    assert!(matches!(step, Step::Verify(_)));
    let mut exchange = exchange.unwrap();
    let body = gateway::exchange::Event::Body(gateway::exchange::BodyRead::TooLarge);
    assert!(matches!(exchange.on(&mut memory, body, now), Step::Respond(respond) if respond.status == 500));
    assert_eq!(
        exchange.on(&mut memory, gateway::exchange::Event::Verified(true), now),
        Step::Pending
    );
}

#[test]
fn explain_tells_route_token_and_attempt() {
    let gateway = compile(CONFIG);
    let ask = |claims: &serde_json::Value, target: &str| {
        let fields = request(claims).fields;
        let now = routing::Now {
            moment: routing::Moment(0),
            unix: UNIX,
        };
        let head = RequestHead {
            method: "GET",
            scheme: Scheme::Http,
            authority: "a",
            target,
            fields: &fields,
            peer: None,
        };
        explain(
            &gateway,
            &Question {
                arrival: Arrival {
                    head,
                    has_body: false,
                    now,
                    entropy: [1; 32],
                },
                body: None,
                key_set: &|_| None,
            },
        )
    };
    let explanation = ask(&json!({"sub": "7", "exp": UNIX + 60}), "/accounts/./7");
    let text = explanation.to_string();
    for part in [
        "GET a/accounts/7",
        "account (/accounts/{id}): takes it",
        "auth `customer`: its signature is right (HS256)",
        "to upstream `a`",
        "set x-customer: 7",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    let json = serde_json::to_value(&explanation).unwrap();
    assert_eq!(json["outcome"]["send"]["attempts"][0]["target"], "/accounts/7");
    let text = ask(&json!({"sub": "7", "exp": UNIX - 60}), "/accounts/7").to_string();
    assert!(text.contains("answer    401, reason token-expired"), "{text}");
    let text = ask(&json!({}), "/nowhere").to_string();
    assert!(
        text.contains("answer    404, reason route-not-found") && text.contains("the path does not match"),
        "{text}"
    );
}

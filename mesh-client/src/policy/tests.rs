//! What a document says, and what is said of a document that is wrong.

use std::time::Duration;

use super::*;
use crate::health::{Check, Probe};

fn compile(text: &str) -> Result<Policies, String> {
    let bank = "bank.test".parse().unwrap();
    Policies::compile(&Source::new("mesh.toml", text), &bank).map_err(|mistakes| mistakes.to_string())
}

fn judge(policies: &Policies, from: &str, to: &str, method: &str, path: &str) -> String {
    judge_at(policies, from, to, method, path, 9100)
}

fn judge_at(policies: &Policies, from: &str, to: &str, method: &str, path: &str, port: u16) -> String {
    let principal = format!("spiffe://bank.test/service/{from}").parse().unwrap();
    let access = policies.access(&to.parse().unwrap());
    let verdict = access.judge(&Ask {
        principal: Some(&principal),
        method,
        path,
        port,
        caller: None,
    });
    let by = verdict.rule.unwrap_or("default");
    format!("{:?} {by} {}", verdict.action, verdict.mode.as_str())
}

const BANK: &str = r#"
[policy]
default = "deny"

[services.rates]
policy = { default = "allow", mode = "audit" }

[[rules]]
name = "statements-read"
action = "allow"
from = ["statements", "spiffe://bank.test/job/report"]
to = ["accounts"]
methods = ["GET"]
paths = ["/accounts/{id}"]
path_prefixes = ["/reports"]

[[rules]]
name = "not-the-closed-ones"
action = "deny"
from = ["statements"]
paths = ["/accounts/closed"]

[[rules]]
name = "operations"
action = "allow"
from = ["operations"]
ports = [9100, 9101]
"#;

#[test]
fn every_part_of_a_rule_has_to_match() {
    let bank = compile(BANK).unwrap();
    let accounts = |from, method, path| judge(&bank, from, "accounts", method, path);
    assert_eq!(accounts("statements", "GET", "/accounts/42"), "Allow statements-read enforce");
    assert_eq!(
        accounts("statements", "GET", "/reports/2026/11"),
        "Allow statements-read enforce"
    );
    assert_eq!(accounts("statements", "POST", "/accounts/42"), "Deny default enforce");
    assert_eq!(accounts("statements", "GET", "/accounts/42/history"), "Deny default enforce");
    assert_eq!(accounts("rates", "GET", "/accounts/42"), "Deny default enforce");
    assert_eq!(
        judge(&bank, "statements", "cards", "GET", "/accounts/42"),
        "Deny default enforce"
    );
    assert_eq!(
        judge_at(&bank, "operations", "cards", "PUT", "/", 9101),
        "Allow operations enforce"
    );
    assert_eq!(
        judge_at(&bank, "operations", "cards", "PUT", "/", 9102),
        "Deny default enforce"
    );
}

#[test]
fn what_denies_comes_before_what_allows_wherever_it_stands() {
    let bank = compile(BANK).unwrap();
    let verdict = judge(&bank, "statements", "accounts", "GET", "/accounts/closed");
    assert_eq!(verdict, "Deny not-the-closed-ones enforce");
}

#[test]
fn a_service_may_have_a_default_and_a_mode_of_its_own() {
    let bank = compile(BANK).unwrap();
    assert_eq!(judge(&bank, "shop", "rates", "GET", "/eur"), "Allow default audit");
    let denied = judge(&bank, "statements", "rates", "GET", "/accounts/closed");
    assert_eq!(denied, "Deny not-the-closed-ones audit");
    let audit =
        compile("[policy]\ndefault = \"deny\"\nmode = \"audit\"\n[services.rates]\npolicy = { mode = \"enforce\" }").unwrap();
    assert_eq!(judge(&audit, "shop", "rates", "GET", "/"), "Deny default enforce");
    assert_eq!(judge(&audit, "shop", "cards", "GET", "/"), "Deny default audit");
}

const HANDED_OFF: &str = r#"
[policy]
default = "deny"
handoffs = ["ingress"]

[[rules]]
name = "gold-transfers"
action = "allow"
from = ["ingress"]
scopes = ["transfers:write"]
claims = { tier = ["gold", "platinum"] }

[[rules]]
name = "nobody-suspended"
action = "deny"
claims = { suspended = true }
"#;

fn judge_for(policies: &Policies, from: &str, claims: Option<serde_json::Value>) -> String {
    let principal = format!("spiffe://bank.test/service/{from}").parse().unwrap();
    let claims = claims.map(|claims| match claims {
        serde_json::Value::Object(claims) => routing::claims::Claims::new(claims),
        other => panic!("{other}"),
    });
    let access = policies.access(&"accounts".parse().unwrap());
    let verdict = access.judge(&Ask {
        principal: Some(&principal),
        method: "POST",
        path: "/transfers",
        port: 9100,
        caller: claims.as_ref(),
    });
    format!("{:?} {}", verdict.action, verdict.rule.unwrap_or("default"))
}

#[test]
fn a_rule_may_ask_on_whose_behalf() {
    use serde_json::json;
    let bank = compile(HANDED_OFF).unwrap();
    let gold = json!({"sub": "alice", "scope": "transfers:write", "tier": "gold"});
    assert_eq!(judge_for(&bank, "ingress", Some(gold.clone())), "Allow gold-transfers");
    assert_eq!(
        judge_for(&bank, "shop", Some(gold)),
        "Deny default",
        "the workload matters as well"
    );
    for less in [
        json!({"sub": "alice", "scope": "transfers:write", "tier": "silver"}),
        json!({"sub": "alice", "scope": "transfers:write"}),
        json!({"sub": "alice", "scope": "transfers:read", "tier": "gold"}),
        json!({"sub": "alice", "tier": "gold"}),
    ] {
        assert_eq!(judge_for(&bank, "ingress", Some(less.clone())), "Deny default", "{less}");
    }
    assert_eq!(
        judge_for(&bank, "ingress", None),
        "Deny default",
        "no end user is not any end user"
    );
    let suspended = json!({"sub": "alice", "scope": "transfers:write", "tier": "gold", "suspended": true});
    assert_eq!(judge_for(&bank, "ingress", Some(suspended)), "Deny nobody-suspended");
}

#[test]
fn only_who_is_named_is_believed_about_end_users() {
    let bank = compile(HANDED_OFF).unwrap();
    let access = bank.access(&"accounts".parse().unwrap());
    let believes = |id: &str| access.believes(&id.parse().unwrap());
    assert!(believes("spiffe://bank.test/service/ingress"));
    assert!(!believes("spiffe://bank.test/service/shop") && !believes("spiffe://other.test/service/ingress"));
    assert!(
        !compile("")
            .unwrap()
            .access(&"a".parse().unwrap())
            .believes(&"spiffe://bank.test/service/a".parse().unwrap())
    );
}

#[test]
fn what_is_wrong_about_end_users_is_told_at_its_place() {
    let told = |text: &str| compile(text).unwrap_err();
    let nobody = told(&HANDED_OFF.replace("handoffs = [\"ingress\"]", ""));
    assert!(
        nobody.contains("mesh.toml:10:10: error: the rule asks about an end user") && nobody.contains("handoffs = ["),
        "{nobody}"
    );
    for (right, wrong, mistake) in [
        ("[\"ingress\"]", "[]", "`handoffs` is empty"),
        ("[\"transfers:write\"]", "[]", "`scopes` is empty"),
        ("\"transfers:write\"", "\"two words\"", "`two words` is not a scope"),
        ("{ suspended = true }", "{}", "`claims` is empty"),
        ("true", "{ since = 1 }", "claim `suspended`: expected a value"),
    ] {
        let mistakes = told(&HANDED_OFF.replacen(right, wrong, if right == "[\"ingress\"]" { 1 } else { usize::MAX }));
        assert!(mistakes.contains(mistake), "{mistakes}");
    }
}

#[test]
fn an_empty_document_lets_everybody_in_and_a_nameless_peer_is_nobody() {
    let open = compile("").unwrap();
    assert_eq!(judge(&open, "shop", "rates", "GET", "/"), "Allow default enforce");
    let bank = compile(BANK).unwrap();
    let access = bank.access(&"cards".parse().unwrap());
    let nameless = Ask {
        principal: None,
        method: "GET",
        path: "/",
        port: 9100,
        caller: None,
    };
    assert_eq!(access.judge(&nameless).action, Action::Deny);
}

#[test]
fn a_full_identity_is_matched_as_a_whole() {
    let bank = compile(BANK).unwrap();
    let access = bank.access(&"accounts".parse().unwrap());
    for (id, action) in [
        ("spiffe://bank.test/job/report", Action::Allow),
        ("spiffe://bank.test/job/reports", Action::Deny),
        ("spiffe://bank.test/service/report", Action::Deny),
        ("spiffe://other.test/job/report", Action::Deny),
    ] {
        let principal = id.parse().unwrap();
        let ask = Ask {
            principal: Some(&principal),
            method: "GET",
            path: "/accounts/1",
            port: 1,
            caller: None,
        };
        assert_eq!(access.judge(&ask).action, action, "{id}");
    }
}

#[test]
fn every_mistake_is_told_at_its_place_with_its_mend() {
    let text = r#"
[policy]
default = "denny"
mod = "audit"

[services.Rates]
policy = { mode = "watch" }

[[rules]]
name = "a"
action = "permit"
from = []
paths = ["accounts"]

[[rules]]
name = "a"
action = "deny"
from = ["spiffe://other.test/x", "Shop"]
methods = ["get"]
ports = [0]

[rule]
"#;
    let mistakes = compile(text).unwrap_err();
    let expected = [
        "mesh.toml:3:11: error: `denny` is no action\n  hint: did you mean `deny`?",
        "mesh.toml:4:1: error: unknown key `mod`\n  hint: did you mean `mode`?",
        "mesh.toml:6:11: error: `Rates` is no service name: ",
        "mesh.toml:7:19: error: `watch` is no mode\n  hint: expected enforce or audit",
        "mesh.toml:11:10: error: `permit` is no action\n  hint: expected allow or deny",
        "mesh.toml:12:8: error: `from` is empty\n  hint: leave `from` out to match any",
        "mesh.toml:13:10: error: a path starts with /\n  hint: write \"/accounts\"",
        "mesh.toml:16:8: error: the rule `a` is there already, in line 10",
        "mesh.toml:18:9: error: `spiffe://other.test/x` is no workload of the trust domain `bank.test`",
        "mesh.toml:18:34: error: `Shop` is no service name: ",
        "mesh.toml:19:12: error: `get` is not a method\n  hint: methods are case-sensitive: write \"GET\"",
        "mesh.toml:20:10: error: a port is 0, expected 1 to 65535",
        "mesh.toml:22:2: error: unknown key `rule`\n  hint: did you mean `rules`?",
    ];
    for expected in expected {
        assert!(mistakes.contains(expected), "{expected}\nis not in\n{mistakes}");
    }
    assert_eq!(mistakes.matches("error:").count(), expected.len(), "{mistakes}");
}

#[test]
fn a_rule_that_restricts_nothing_is_a_mistake() {
    let rule = |before: &str, to: &str| {
        compile(&format!(
            "{before}\n[[rules]]\nname = \"a\"\naction = \"allow\"\nfrom = [\"shop\"]\n{to}"
        ))
    };
    let mistakes = rule("", "").unwrap_err();
    assert_eq!(
        mistakes,
        "mesh.toml:3:8: error: the rule `a` allows what is allowed without it\n  hint: set default = \"deny\" in [policy], or in \
         [services.NAME] as policy = { default = \"deny\" }"
    );
    let cards_deny = "[services.cards]\npolicy = { default = \"deny\" }";
    assert!(rule(cards_deny, "to = [\"rates\"]").is_err());
    assert!(rule(cards_deny, "to = [\"rates\", \"cards\"]").is_ok());
    assert!(rule(cards_deny, "").is_ok());
}

#[test]
fn a_document_that_is_too_long_is_refused() {
    let long = format!("# {}", "x".repeat(MAX_DOCUMENT));
    assert!(compile(&long).unwrap_err().contains("longer than 1048576 bytes"));
}

#[test]
fn a_service_says_how_it_is_checked() {
    let text = r#"
[services.rates]
health = { http = "/healthz", interval = "10s", timeout = "500ms", failures = 3, passes = 2 }

[services.ledger]
health = { grpc = "bank.Ledger" }
policy = { default = "deny" }

[services.db]
health = { tcp = true }
"#;
    let policies = compile(text).unwrap();
    let check = |service: &str| policies.health(&service.parse().unwrap());
    let mut rates = Check::new(Probe::http("/healthz").unwrap());
    (rates.interval, rates.timeout) = (Duration::from_secs(10), Duration::from_millis(500));
    (rates.failures, rates.passes) = (3, 2);
    assert_eq!(check("rates"), Some(&rates));
    assert_eq!(check("ledger"), Some(&Check::new(Probe::grpc("bank.Ledger").unwrap())));
    assert_eq!(check("db"), Some(&Check::new(Probe::Tcp)));
    assert_eq!(check("accounts"), None);
    assert_eq!(judge(&policies, "rates", "ledger", "GET", "/"), "Deny default enforce");
}

#[test]
fn every_mistake_of_a_check_is_told_at_its_place() {
    let mistakes = |health: &str| {
        let text = format!("[services.rates]\nhealth = {health}\n");
        compile(&text).unwrap_err().lines().next().unwrap().to_owned()
    };
    for (health, told) in [
        ("{}", "mesh.toml:2:10: error: a check asks one thing"),
        ("{ tcp = false }", "mesh.toml:2:10: error: a check asks one thing"),
        (
            "{ http = \"/\", tcp = true }",
            "mesh.toml:2:10: error: a check asks one thing",
        ),
        (
            "{ http = \"healthz\" }",
            "mesh.toml:2:19: error: a path to check begins with /, as in /healthz",
        ),
        (
            "{ grpc = \"a b\" }",
            "mesh.toml:2:19: error: a gRPC service to check has at most 256 visible ASCII characters, as in bank.Accounts",
        ),
        (
            "{ tcp = true, interval = \"1ms\" }",
            "mesh.toml:2:35: error: an interval is 1ms, expected 100ms to 1h",
        ),
        (
            "{ tcp = true, timeout = \"2m\" }",
            "mesh.toml:2:34: error: a timeout is 2m, expected 10ms to 1m",
        ),
        (
            "{ tcp = true, failures = 0 }",
            "mesh.toml:2:35: error: failures is 0, expected 1 to 100",
        ),
        (
            "{ tcp = true, passes = 101 }",
            "mesh.toml:2:33: error: passes is 101, expected 1 to 100",
        ),
    ] {
        assert_eq!(mistakes(health), told);
    }
}

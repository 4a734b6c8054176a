//! What a document says of where calls go, and what is said of one that is wrong.

use std::collections::BTreeMap;
use std::time::Duration;

use http::{HeaderMap, Request};
use routing::balance::Balance;
use routing::policy::BreakerSettings;
use routing::upstream::{ConnectionPolicy, Kind};

use crate::policy::{Plan, Policies, Source};

fn compile(text: &str) -> Result<Policies, String> {
    let bank = "bank.test".parse().unwrap();
    Policies::compile(&Source::new("mesh.toml", text), &bank).map_err(|mistakes| mistakes.to_string())
}

fn plan(policies: &Policies, from: &str, url: &str, fields: &[(&'static str, &'static str)], random: u64) -> Plan {
    let caller = format!("spiffe://bank.test/service/{from}").parse().unwrap();
    let mut request = Request::get(url);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let (head, ()) = request.body(()).unwrap().into_parts();
    let host = head.uri.host().unwrap().strip_suffix(".mesh").unwrap().parse().unwrap();
    policies.routes(&caller, &host).plan(&head, random)
}

/// The route, and the service and the version that it leads to.
fn way(policies: &Policies, from: &str, url: &str, fields: &[(&'static str, &'static str)], random: u64) -> String {
    let plan = plan(policies, from, url, fields, random);
    let to = plan.destination();
    let service = to.and_then(|to| to.service.as_ref()).map_or("", |service| service.as_str());
    let version = to.and_then(|to| to.version.as_deref()).unwrap_or_default();
    let nowhere = if to.is_none() { "nowhere" } else { "" };
    format!("{}>{nowhere}{service}@{version}", plan.policy.name)
}

const BANK: &str = r#"
[services.accounts]
balance = "ring-hash"
hash = "header.x-customer"
breaker = { max_requests = 10, max_connections = 2 }
outlier = { consecutive_failures = 3, success_rate = { min_requests = 20 } }

[services.rates]
zone = { overflow = 8 }
slow_start = "30s"

[[routes]]
name = "canary"
to = ["accounts"]
match = { headers = { x-canary = "1" } }
version = "2"

[[routes]]
name = "accounts"
to = ["accounts"]
split = [
  { version = "1", weight = 90 },
  { version = "2", weight = 10, headers = { request = { set = { x-share = "two" } }, response = { add = { x-from = "2" } } } },
]
timeout = "2s"
retry = { attempts = 3, on = ["503"] }

[[routes]]
name = "batch"
to = ["accounts", "cards"]
from = ["reports"]
service = "archive"

[[routes]]
name = "old-path"
to = ["cards"]
match = { path = "/old/{id}", methods = ["GET"] }
rewrite = { path = "/cards/{id}", host = "cards.internal" }
headers = { request = { set = { x-id = "{id}", x-who = "{header.x-customer}" }, remove = ["cookie"] } }
mirror = { service = "shadow", percent = 100 }
fault = { delay = { duration = "1s", percent = 10 } }

[[routes]]
name = "closed"
to = ["cards"]
match = { path_prefix = "/closed" }
split = [{ version = "1", weight = 0 }]
"#;

#[test]
fn a_call_goes_where_its_route_says() {
    let bank = compile(BANK).unwrap();
    let accounts = "http://accounts.mesh/accounts/1";
    assert_eq!(way(&bank, "shop", accounts, &[], 0), "accounts>@1");
    assert_eq!(way(&bank, "shop", accounts, &[], u64::MAX), "accounts>@2");
    assert_eq!(way(&bank, "shop", accounts, &[("x-canary", "1")], 0), "canary>@2");
    assert_eq!(way(&bank, "shop", accounts, &[("x-canary", "2")], 0), "accounts>@1");
    assert_eq!(way(&bank, "shop", "http://rates.mesh/", &[], 0), ">@", "no route is about it");
    assert_eq!(way(&bank, "shop", "http://cards.mesh/closed/1", &[], 0), "closed>nowhere@");
    let shares = (0..1000_u128).fold(BTreeMap::new(), |mut counts: BTreeMap<String, u32>, n| {
        let random = u64::try_from((n << 64).div_ceil(1000)).unwrap();
        *counts.entry(way(&bank, "shop", accounts, &[], random)).or_default() += 1;
        counts
    });
    assert_eq!(shares.values().copied().collect::<Vec<_>>(), [900, 100]);
}

#[test]
fn of_equal_routes_the_one_that_names_its_caller_comes_first() {
    let bank = compile(BANK).unwrap();
    assert_eq!(way(&bank, "reports", "http://accounts.mesh/x", &[], 0), "batch>archive@");
    assert_eq!(
        way(&bank, "reports", "http://accounts.mesh/x", &[("x-canary", "1")], 0),
        "canary>@2"
    );
    assert_eq!(way(&bank, "reports", "http://cards.mesh/x", &[], 0), "batch>archive@");
    assert_eq!(way(&bank, "shop", "http://cards.mesh/x", &[], 0), ">@");
}

#[test]
fn what_is_sent_and_what_comes_back_is_edited() {
    let bank = compile(BANK).unwrap();
    let old = "http://cards.mesh/old/7?x=1";
    let with = [("x-customer", "ada"), ("cookie", "a=b")];
    let found = plan(&bank, "shop", old, &with, 0);
    assert_eq!(
        (found.target(), found.host()),
        (Some("/cards/7?x=1"), Some(&http::HeaderValue::from_static("cards.internal")))
    );
    let mut headers = HeaderMap::new();
    headers.insert("cookie", "a=b".parse().unwrap());
    found.edit_request(&mut headers);
    assert_eq!(
        (&headers["x-id"], &headers["x-who"], headers.len()),
        (&"7".parse().unwrap(), &"ada".parse().unwrap(), 2)
    );
    let [mirror] = found.policy.mirrors.as_slice() else {
        panic!("one mirror")
    };
    assert_eq!(mirror.to.service.as_ref().map(|service| service.as_str()), Some("shadow"));
    assert!(
        found
            .policy
            .fault
            .is_some_and(|fault| fault.delay.is_some() && fault.abort.is_none())
    );

    let share = plan(&bank, "shop", "http://accounts.mesh/", &[], u64::MAX);
    let (mut request, mut response) = (HeaderMap::new(), HeaderMap::new());
    share.edit_request(&mut request);
    share.edit_response(&mut response);
    assert_eq!(
        (&request["x-share"], &response["x-from"]),
        (&"two".parse().unwrap(), &"2".parse().unwrap())
    );
    assert_eq!(share.policy.timeout, Some(Duration::from_secs(2)));
    assert_eq!(share.policy.retry.as_ref().map(|retry| retry.attempts), Some(3));
}

#[test]
fn a_path_is_matched_in_its_one_spelling_and_none_matches_nothing() {
    let bank = compile(BANK).unwrap();
    assert_eq!(way(&bank, "shop", "http://cards.mesh/x/../closed", &[], 0), "closed>nowhere@");
    assert_eq!(way(&bank, "shop", "http://cards.mesh/closed/%zz", &[], 0), ">@");
}

#[test]
fn how_endpoints_are_used_is_said_by_service() {
    let bank = compile(BANK).unwrap();
    let of = |name: &str| bank.connection(&name.parse().unwrap());
    let accounts = of("accounts");
    assert_eq!(accounts.balancing.balance, Balance::RingHash);
    assert_eq!(
        accounts.hash.map(|hash| hash.to_string()).as_deref(),
        Some("{header.x-customer}")
    );
    assert_eq!(
        accounts.breaker,
        BreakerSettings {
            max_requests: 10,
            max_connections: 2,
            ..BreakerSettings::default()
        }
    );
    let outlier = accounts.balancing.outlier.unwrap();
    assert_eq!(
        (outlier.consecutive_failures, outlier.success_rate.unwrap().min_requests),
        (3, 20)
    );
    let rates = of("rates");
    assert_eq!(rates.balancing.balance, Balance::PeakEwma);
    assert_eq!(rates.balancing.zone.map(|zone| zone.overflow), Some(8));
    assert_eq!(rates.balancing.slow_start, Some(Duration::from_secs(30)));
    assert_eq!(of("cards"), ConnectionPolicy::usual(Kind::Service));
}

#[test]
fn every_mistake_is_told_at_its_place_with_its_mend() {
    let text = r#"
[services.accounts]
balance = "ring-hash"
hash = "client.ip"
zone = { overflow = 0 }
breaker = { max_conections = 1 }

[services.rates]
balance = "fastest"
outlier = { success_rate = { min_endpoints = 1 } }

[[routes]]
name = "a"
to = []
match = { hosts = ["accounts.mesh"] }

[[routes]]
name = "a"
to = ["Accounts"]
split = [{ version = "a b", weight = 1 }]
version = "1"

[[routes]]
name = "c"
to = ["accounts"]
match = { path = "accounts" }
mirror = { percent = 5 }
fault = {}
headers = { request = { set = { x-who = "{claim.sub}" } } }

[[routes]]
name = "d"
to = ["accounts"]
upstream = "x"
split = [{ version = "a b", weight = 1 }]
"#;
    let mistakes = compile(text).unwrap_err();
    let expected = [
        "mesh.toml:4:8: error: `client.ip` is nothing that ring-hash can go by",
        "mesh.toml:5:21: error: `overflow` is 0, expected 1 to 1000000",
        "mesh.toml:5:8: error: `zone` has no effect with ring-hash",
        "mesh.toml:6:13: error: unknown key `max_conections`\n  hint: did you mean `max_connections`?",
        "mesh.toml:9:11: error: `fastest` is not a way to balance",
        "mesh.toml:10:46: error: `min_endpoints` is 1, expected 2 to 1000",
        "mesh.toml:14:6: error: `to` is empty\n  hint: name the services that are called",
        "mesh.toml:15:19: error: a call between services has no host but that of the service\n  hint: name the services that are called in `to`",
        "mesh.toml:18:8: error: the route `a` is there already, in line 13",
        "mesh.toml:19:7: error: `Accounts` is no service name: ",
        "mesh.toml:21:11: error: `split` says already where the calls go",
        "mesh.toml:26:18: error: a path starts with /\n  hint: write \"/accounts\"",
        "mesh.toml:27:10: error: the mirror is where the calls go anyway",
        "mesh.toml:28:9: error: `fault` does nothing",
        "mesh.toml:34:1: error: unknown key `upstream`",
        "mesh.toml:35:22: error: a version has 1 to 128 visible characters, without spaces",
    ];
    for expected in expected {
        assert!(mistakes.contains(expected), "{expected}\nis not in\n{mistakes}");
    }
    assert_eq!(mistakes.matches("error:").count(), expected.len(), "{mistakes}");
    let claim = "[[routes]]\nname = \"a\"\nto = [\"a\"]\nheaders = { request = { set = { x = \"{claim.sub}\" } } }";
    assert_eq!(
        compile(claim).unwrap_err(),
        "mesh.toml:4:37: error: {claim.sub} is not known between services\n  hint: there are {NAME} of the path, {header.NAME} and \
         {cookie.NAME}"
    );
}

#[test]
fn a_route_that_nobody_can_reach_is_a_mistake_and_one_that_somebody_can_is_none() {
    let route = |name: &str, rest: &str| format!("[[routes]]\nname = \"{name}\"\n{rest}\n");
    let both = |a: &str, b: &str| compile(&(route("a", a) + &route("b", b))).map(drop);
    let hidden = both("to = [\"accounts\"]", "to = [\"accounts\"]").unwrap_err();
    assert!(
        hidden.starts_with("mesh.toml:4:1: error: route `b` can never be reached: route `a` in line 1 takes the same requests"),
        "{hidden}"
    );
    assert_eq!(both("to = [\"accounts\"]", "to = [\"accounts\", \"cards\"]"), Ok(()));
    assert_eq!(both("to = [\"accounts\"]", "to = [\"accounts\"]\nfrom = [\"shop\"]"), Ok(()));
    assert_eq!(both("to = [\"accounts\"]\nfrom = [\"shop\"]", "to = [\"accounts\"]"), Ok(()));
    let twice = "to = [\"accounts\"]\nfrom = [\"shop\"]";
    assert!(both(twice, twice).is_err());
}

//! Rate limits under a clock that is moved.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod support;

use std::net::IpAddr;
use std::time::Duration;

use gateway::exchange::{Event, Step};
use support::{Network, Request, Script, compile, replay};

const CONFIG: &str = r#"
[upstreams.accounts]
endpoints = [{ url = "http://127.0.0.1:1" }]
[[routes]]
name = "by-client"
match = { path = "/by-client" }
upstream = "accounts"
rate_limit = { limit = 3, window = "3s", key = "client.ip" }
[[routes]]
name = "other"
match = { path = "/other" }
respond = { status = 200 }
rate_limit = { limit = 3, window = "3s", key = "client.ip" }
[[routes]]
name = "both"
match = { path = "/both" }
respond = { status = 200 }
rate_limit = [{ limit = 2, window = "1s" }, { limit = 3, window = "1m" }]
"#;

fn network() -> Network {
    Network::new(&compile(CONFIG))
}

fn statuses(network: &mut Network, request: &Request, count: usize) -> Vec<u16> {
    (0..count).map(|_| network.send(request).status).collect()
}

#[test]
fn a_client_gets_its_burst_and_then_its_rate() {
    let mut network = network();
    network.script((0..5).map(|_| Script::answers("accounts", 200, "")));
    let request = Request::get("/by-client");
    assert_eq!(statuses(&mut network, &request, 5), [200, 200, 200, 429, 429]);
    network.advance(Duration::from_millis(999));
    let refused = network.send(&request);
    assert_eq!((refused.status, refused.fields["retry-after"].to_str().unwrap()), (429, "1"));
    network.advance(Duration::from_millis(1));
    assert_eq!(statuses(&mut network, &request, 2), [200, 429]);
    network.advance(Duration::from_secs(60));
    let answer = network.send(&request);
    assert_eq!(answer.fields["ratelimit"], "\"3-per-3s\";r=2;t=1");
}

#[test]
fn another_client_and_another_route_have_quotas_of_their_own() {
    let mut network = network();
    let request = Request::get("/other");
    assert_eq!(statuses(&mut network, &request, 4), [200, 200, 200, 429]);
    let mut neighbour = request.clone();
    neighbour.peer = Some(IpAddr::from([192, 0, 2, 8]));
    assert_eq!(network.send(&neighbour).status, 200);
    network.script([Script::answers("accounts", 200, "")]);
    assert_eq!(network.send(&Request::get("/by-client")).status, 200);
}

#[test]
fn every_limit_of_a_route_has_to_admit_it() {
    let mut network = network();
    let request = Request::get("/both");
    assert_eq!(statuses(&mut network, &request, 3), [200, 200, 429]);
    network.advance(Duration::from_secs(1));
    // Two more in this second, but only one more in this minute.
    assert_eq!(statuses(&mut network, &request, 2), [200, 429]);
    let refused = network.send(&request);
    assert_eq!(refused.fields["retry-after"], "19");
    assert_eq!(refused.fields["ratelimit"], "\"2-per-1s\";r=1;t=1, \"3-per-1m\";r=0;t=59");
}

#[test]
fn an_exchange_that_is_told_again_asks_and_decides_the_same() {
    let mut network = network();
    network.script([Script::answers("accounts", 200, "")]);
    let (request, at) = (Request::get("/by-client"), network.now);
    network.send(&request);
    let steps: Vec<Step> = network.log.iter().map(|(_, step)| step.clone()).collect();
    assert!(matches!(steps[0], Step::Take(_)) && matches!(network.log[1].0, Some((Event::Taken(_), _))));
    assert_eq!(replay(&network, &request, network.entropy, at), steps);
}

fn shared(when_down: &str) -> Network {
    Network::new(&compile(&format!(
        "[gateway]\nquotas = {{ redis = \"redis://h\", when_down = \"{when_down}\" }}\n\
         [[routes]]\nname = \"all\"\nmatch = {{ path = \"/\" }}\nrespond = {{ status = 200 }}\n\
         rate_limit = [{{ name = \"here\", limit = 5, window = \"1h\", shared = false }}, {{ name = \"there\", limit = 2, window = \"1h\" }}]\n"
    )))
}

#[test]
fn a_shared_quota_is_taken_from_its_store_and_told_beside_the_others() {
    let mut network = shared("closed");
    let request = Request::get("/");
    let answer = network.send(&request);
    assert_eq!(answer.fields["ratelimit"], "\"here\";r=4;t=720, \"there\";r=1;t=1800");
    assert_eq!(statuses(&mut network, &request, 2), [200, 429]);
    // What the store refuses is given back here.
    let refused = network.send(&request);
    assert_eq!(refused.fields["ratelimit"], "\"here\";r=3;t=1440, \"there\";r=0;t=3600");
}

#[test]
fn without_the_store_it_is_as_the_config_says() {
    let request = Request::get("/");
    for (when_down, expected) in [
        ("local", [200, 200, 429, 429]),
        ("open", [200, 200, 200, 200]),
        ("closed", [503, 503, 503, 503]),
    ] {
        let mut network = shared(when_down);
        network.store = None;
        assert_eq!(statuses(&mut network, &request, 4), expected, "{when_down}");
    }
    let mut network = shared("closed");
    network.store = None;
    let refused = network.send(&request);
    assert_eq!(refused.reason.as_deref(), Some("quotas-unavailable"));
    assert_eq!(refused.fields["retry-after"], "1");
    let mut network = shared("open");
    network.store = None;
    let answer = network.send(&request);
    assert_eq!(answer.fields["ratelimit"], "\"here\";r=4;t=720", "what is known is told");
}

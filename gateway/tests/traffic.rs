//! What is done to a share of the requests: faults and mirrors.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod support;

use std::time::Duration;

use gateway::exchange::Step;
use support::{Network, Request, Script, compile};

const CONFIG: &str = r#"
[upstreams.accounts]
endpoints = [{ url = "http://127.0.0.1:1" }]
[upstreams.shadow]
endpoints = [{ url = "http://127.0.0.1:2" }]
[upstreams.ring]
endpoints = [{ url = "http://127.0.0.1:3" }]
balance = "ring-hash"
hash = "cookie.session"
[[routes]]
match = { path = "/sticky" }
upstream = "ring"
[[routes]]
match = { path = "/narrow" }
upstream = "accounts"
concurrency = 1
rate_limit = { limit = 5, window = "1h" }
[[routes]]
match = { path = "/faulty" }
respond = { status = 200 }
timeout = "3s"
fault = { delay = { duration = "2s", percent = 25 }, abort = { status = 503, percent = 10 } }
[[routes]]
match = { path = "/mirrored" }
upstream = "accounts"
retry = { attempts = 3, on = ["503"], backoff = "10ms" }
mirror = { upstream = "shadow", percent = 10 }
"#;

/// Sends a request with other randomness each time.
fn send_each(network: &mut Network, count: u32, mut each: impl FnMut(&mut Network)) {
    for turn in 0..count {
        network.entropy[24..28].copy_from_slice(&turn.to_le_bytes());
        each(network);
    }
}

#[test]
fn faults_hit_their_share_and_no_more() {
    let mut network = Network::new(&compile(CONFIG));
    let (mut delayed, mut aborted) = (0, 0);
    send_each(&mut network, 4_000, |network| {
        let got = network.send(&Request::get("/faulty"));
        delayed += u32::from(got.at == Duration::from_secs(2));
        aborted += u32::from(got.status == 503 && got.reason.as_deref() == Some("fault-injected"));
    });
    assert!(
        (900..1_100).contains(&delayed) && (320..480).contains(&aborted),
        "{delayed} {aborted}"
    );
}

#[test]
fn mirrors_get_their_share_once_however_often_the_request_is_tried() {
    let mut network = Network::new(&compile(CONFIG));
    let mut copies = 0;
    send_each(&mut network, 1_000, |network| {
        network.scripts.clear();
        network.script([
            Script::answers("accounts", 503, "no"),
            Script::answers("accounts", 200, "yes"),
            Script::hangs("shadow"),
            Script::hangs("shadow"),
        ]);
        network.advance(Duration::from_secs(1));
        let got = network.send(&Request::get("/mirrored"));
        assert!(got.at < Duration::from_millis(20));
        let sent = network.sent.iter().filter(|sent| sent.upstream == "shadow").count();
        assert!(sent <= 1);
        copies += sent;
    });
    assert!((70..130).contains(&copies), "{copies}");
}

#[test]
fn requests_with_the_same_cookie_have_the_same_hash() {
    let mut network = Network::new(&compile(CONFIG));
    let mut affinity = |cookie: Option<&str>| {
        network.script([Script::answers("ring", 200, "")]);
        let request = Request::get("/sticky");
        network.send(&match cookie {
            Some(cookie) => request.with("cookie", cookie),
            None => request,
        });
        let sent = network.log.iter().find_map(|(_, step)| match step {
            Step::Send { attempts, .. } => Some(attempts[0].affinity),
            _ => None,
        });
        sent.unwrap()
    };
    let one = affinity(Some("a=1; session=one; b=2"));
    assert!(one.is_some() && one == affinity(Some("session=one")) && one == affinity(Some("session=\"one\"")));
    assert_ne!(one, affinity(Some("session=two")));
    assert_eq!(affinity(Some("xsession=one")), None);
    assert_eq!(affinity(None), None);
}

#[test]
fn what_is_over_the_concurrency_limit_is_refused_before_a_quota_is_charged() {
    let mut network = Network::new(&compile(CONFIG));
    network.script([Script::answers("accounts", 200, "")]);
    let request = Request::get("/narrow");
    let key = {
        assert_eq!(network.send(&request).status, 200);
        let entry = network.log.iter().find_map(|(_, step)| match step {
            Step::Enter { key, limit: 1 } => Some(*key),
            _ => None,
        });
        entry.unwrap()
    };
    let other = network.occupancy.enter(key, 1).unwrap();
    for _ in 0..10 {
        let refused = network.send(&request);
        assert_eq!(
            (refused.status, refused.reason.as_deref()),
            (503, Some("concurrency-limited"))
        );
        assert_eq!(refused.fields["retry-after"], "1");
    }
    drop(other);
    network.script([Script::answers("accounts", 200, "")]);
    assert_eq!(network.send(&request).fields["ratelimit"], "\"5-per-1h\";r=3;t=1440");
}

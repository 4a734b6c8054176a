//! Attempts, retries and deadlines on a moved clock.

mod support;

use std::time::Duration;

use gateway::Memory;
use gateway::exchange::{Answer, Failure, Step};
use support::{Network, Request, Script, compile, replay};

const CONFIG: &str = r#"
[upstreams.a]
endpoints = [{ url = "http://127.0.0.1:1" }]
[upstreams.b]
endpoints = [{ url = "http://127.0.0.1:2" }]

[[routes]]
name = "retried"
match = { path = "/retried" }
upstream = "a"
timeout = "1s"
retry = { attempts = 4, on = ["connect-failure", "reset", "timeout", "503"], per_try_timeout = "200ms", backoff = "100ms..100ms", budget = 0 }

[[routes]]
name = "patient"
match = { path = "/patient" }
upstream = "a"
timeout = "10s"
retry = { attempts = 2, on = ["503"], backoff = "100ms" }

[[routes]]
name = "plain"
match = { path = "/plain" }
upstream = "a"
timeout = "1s"
headers = { response = { set = { x-served-by = "bank" } } }

[[routes]]
name = "split"
match = { path = "/split" }
split = [{ upstream = "a", weight = 3 }, { upstream = "b", weight = 1 }]
"#;

fn network() -> Network {
    Network::new(&compile(CONFIG))
}

fn millis(duration: Duration) -> u128 {
    duration.as_millis()
}

#[test]
fn an_attempt_without_retries_is_the_last_step_and_asks_about_nothing() {
    let mut network = network();
    network.script([Script::answers("a", 503, "busy")]);
    let got = network.send(&Request::get("/plain"));
    assert_eq!((got.status, got.text()), (503, "busy"));
    assert_eq!(network.log.len(), 1, "one crossing for the whole request");
    let Step::Send { attempts, .. } = &network.log[0].1 else {
        panic!("{:?}", network.log)
    };
    assert!(matches!(&attempts[0].answer, Answer::Forward { judge, .. } if judge.is_empty()));
}

#[test]
fn a_failure_after_the_last_step_is_answered_as_one_before_it() {
    let mut network = network();
    network.script([Script::fails("a", Failure::Connect)]);
    let got = network.send(&Request::get("/plain").with("x-request-id", "id-1"));
    assert_eq!((got.status, got.reason.as_deref()), (502, Some("connect-failed")));
    assert_eq!(got.fields["x-request-id"], "id-1");
    assert_eq!(got.fields["x-served-by"], "bank");
    assert_eq!(got.fields["content-type"], "application/problem+json");
    assert_eq!(got.json()["instance"], "id-1");
}

#[test]
fn every_failure_has_its_reason() {
    for (failure, status, reason) in [
        (Failure::Connect, 502, "connect-failed"),
        (Failure::Reset, 502, "upstream-reset"),
        (Failure::Timeout, 504, "upstream-timeout"),
        (Failure::NoEndpoint, 503, "no-endpoint"),
        (Failure::Overloaded, 503, "overloaded"),
        (Failure::Identity, 502, "upstream-identity"),
        (Failure::Protocol, 502, "upstream-protocol"),
    ] {
        let mut network = network();
        network.script([Script::fails("a", failure)]);
        let got = network.send(&Request::get("/plain"));
        assert_eq!((got.status, got.reason.as_deref()), (status, Some(reason)), "{failure:?}");
    }
}

#[test]
fn attempts_are_apart_by_the_backoff_and_end_with_their_number() {
    let mut network = network();
    network.script((0..4).map(|_| Script::answers("a", 503, "busy")));
    let got = network.send(&Request::get("/retried"));
    assert_eq!((got.status, network.sent.len()), (503, 4));
    assert!(
        network
            .sent
            .windows(2)
            .all(|pair| pair[1].at - pair[0].at <= Duration::from_millis(100))
    );
    assert!(
        network.sent[3].at > network.sent[0].at,
        "full jitter is seldom nothing three times"
    );
}

#[test]
fn a_try_that_hangs_is_given_up_and_the_whole_request_after_its_timeout() {
    let mut network = network();
    network.script([Script::hangs("a"), Script::answers("a", 200, "there")]);
    let got = network.send(&Request::get("/retried"));
    assert_eq!(got.status, 200);
    assert!((200..=300).contains(&millis(got.at)), "{:?}", got.at);

    network.script((0..4).map(|_| Script::hangs("a")));
    let got = network.send(&Request::get("/retried"));
    assert_eq!((got.status, got.reason.as_deref()), (504, Some("upstream-timeout")));
    assert!((800..=1000).contains(&millis(got.at)), "{:?}", got.at);
}

#[test]
fn no_attempt_outlives_the_request() {
    let mut network = network();
    network.script([
        Script::answers("a", 503, "").after(190),
        Script::answers("a", 503, "").after(190),
    ]);
    network.script([Script::answers("a", 503, "").after(190), Script::hangs("a")]);
    network.send(&Request::get("/retried"));
    for (_, step) in &network.log {
        if let Step::Send { attempts, .. } = step {
            assert!(attempts[0].deadline.since(routing::Moment(1_000_000_000)) <= Duration::from_secs(1));
        }
    }
}

#[test]
fn failures_that_another_attempt_cannot_mend_are_not_tried_again() {
    for failure in [Failure::NoEndpoint, Failure::Overloaded, Failure::Identity, Failure::Protocol] {
        let mut network = network();
        network.script([Script::fails("a", failure)]);
        network.send(&Request::get("/retried"));
        assert_eq!(network.sent.len(), 1, "{failure:?}");
    }
}

#[test]
fn a_connection_that_could_not_be_made_is_tried_again_whatever_the_method() {
    let mut network = network();
    network.script([Script::fails("a", Failure::Connect), Script::answers("a", 201, "")]);
    let got = network.send(&Request::new("POST", "/retried").body("text/plain", "x"));
    assert_eq!((got.status, network.sent.len()), (201, 2));
    network.script([Script::fails("a", Failure::Timeout)]);
    let got = network.send(&Request::new("POST", "/retried").body("text/plain", "x"));
    assert_eq!((got.status, network.sent.len()), (504, 1));
}

#[test]
fn an_answer_that_nothing_could_follow_from_is_not_asked_about() {
    let judged = |request: &Request| -> Vec<u16> {
        let mut network = network();
        network.script([Script::answers("a", 200, "")]);
        network.send(request);
        let Some((_, Step::Send { attempts, .. })) = network.log.first() else {
            panic!("{:?}", network.log)
        };
        match &attempts[0].answer {
            Answer::Forward { judge, .. } => judge.clone(),
            answer => panic!("{answer:?}"),
        }
    };
    assert_eq!(judged(&Request::get("/retried")), [503]);
    assert_eq!(judged(&Request::new("POST", "/retried")), Vec::<u16>::new());
    assert_eq!(
        judged(&Request::new("PUT", "/retried").body("text/plain", "x")),
        Vec::<u16>::new(),
        "its body went through"
    );
}

#[test]
fn a_spent_budget_ends_retries_until_the_window_has_passed() {
    let mut network = network();
    let mut attempts = Vec::new();
    for _ in 0..10 {
        network.script((0..4).map(|_| Script::fails("a", Failure::Connect)));
        network.send(&Request::get("/retried"));
        attempts.push(network.sent.len());
        network.scripts.clear();
    }
    // A budget of nothing has its floor of ten retries in ten seconds, over all requests.
    assert_eq!(attempts, [4, 4, 4, 2, 1, 1, 1, 1, 1, 1]);
    network.advance(Duration::from_secs(11));
    network.script((0..4).map(|_| Script::fails("a", Failure::Connect)));
    network.send(&Request::get("/retried"));
    assert_eq!(network.sent.len(), 4);
}

#[test]
fn a_split_follows_its_weights() {
    let mut network = network();
    let mut first = 0;
    for n in 0..400_u64 {
        network.entropy[24..].copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
        network.script([Script::answers("a", 200, ""), Script::answers("b", 200, "")]);
        network.send(&Request::get("/split"));
        first += usize::from(network.sent[0].upstream == "a");
        network.scripts.clear();
    }
    assert!((270..=330).contains(&first), "{first} of 400");
}

#[test]
fn the_same_events_lead_to_the_same_steps() {
    let mut network = network();
    network.script([
        Script::fails("a", Failure::Reset),
        Script::answers("a", 503, ""),
        Script::answers("a", 200, "x"),
    ]);
    let at = network.now;
    let request = Request::get("/retried");
    network.send(&request);
    let steps: Vec<_> = network.log.iter().map(|(_, step)| step.clone()).collect();
    assert!(steps.len() > 3);
    assert_eq!(replay(&network, &request, network.entropy, at), steps);
}

#[test]
fn a_memory_of_another_gateway_is_not_believed() {
    let mut network = network();
    network.memory = Memory::new(&compile("[[routes]]\nmatch = { path = \"/\" }\nrespond = { status = 200 }\n"));
    network.script([Script::fails("a", Failure::Connect), Script::answers("a", 200, "")]);
    assert_eq!(network.send(&Request::get("/retried")).status, 200);
}

/// A busy upstream that asks to be left alone.
fn busy(retry_after: &str) -> Script {
    let mut script = Script::answers("a", 503, "busy");
    if let Ok((_, fields, _)) = &mut script.outcome {
        fields.insert("retry-after", retry_after.parse().expect("a field's value"));
    }
    script
}

#[test]
fn an_upstream_that_asks_for_time_gets_it_or_has_the_last_word() {
    // The clock stands at 22:13:20 on that day.
    for (retry_after, waited) in [
        ("2", 2_000),
        ("0", 100),
        ("Tue, 14 Nov 2023 22:13:23 GMT", 3_000),
        ("Tue, 14 Nov 2023 22:13:00 GMT", 100),
        ("soon", 100),
        ("-1", 100),
    ] {
        let mut network = network();
        network.script([busy(retry_after), Script::answers("a", 200, "yes")]);
        let got = network.send(&Request::get("/patient"));
        assert_eq!((got.status, network.sent.len()), (200, 2), "{retry_after}");
        let at = millis(network.sent[1].at);
        assert!(if waited == 100 { at <= 100 } else { at == waited }, "{retry_after}: {at}");
    }
    for retry_after in ["10", "60", "Wed, 15 Nov 2023 22:13:20 GMT"] {
        let mut network = network();
        network.script([busy(retry_after), Script::answers("a", 200, "yes")]);
        let got = network.send(&Request::get("/patient"));
        assert_eq!(
            (got.status, got.text(), got.fields["retry-after"].to_str().unwrap()),
            (503, "busy", retry_after)
        );
    }
}

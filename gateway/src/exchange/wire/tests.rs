use bytes::Bytes;
use http::HeaderMap;
use proptest::prelude::*;
use routing::policy::{Kept, LimitKey, Rate, Take, Taken};
use routing::{Moment, Now, RequestHead, Scheme};
use std::time::Duration;

use super::*;
use crate::exchange::{
    Answer, Attempt, AttemptBody, AttemptId, BodyRead, Edit, Failure, Fetch, Inherit, KeyId, KeySetId, Keys, Observe, Respond,
    RouteId, UpstreamId, Verify, VerifyKey,
};

const NOW: Now = Now {
    moment: Moment(7),
    unix: 1_700_000_000,
};

fn edits() -> Vec<Edit> {
    vec![
        Edit::Set(HeaderName::from_static("x-a"), HeaderValue::from_bytes(b"caf\xe9").unwrap()),
        Edit::Add(HeaderName::from_static("x-b"), HeaderValue::from_static("")),
        Edit::Remove(HeaderName::from_static("cookie")),
    ]
}

fn fields() -> HeaderMap {
    let mut fields = HeaderMap::new();
    fields.append("set-cookie", HeaderValue::from_static("a=1"));
    fields.append("set-cookie", HeaderValue::from_bytes(b"b=\xff").unwrap());
    fields
}

#[test]
fn an_arrival_comes_over_whole() {
    let arrival = Arrival {
        head: RequestHead {
            method: "GET",
            scheme: Scheme::Https,
            authority: "api.bank.example",
            target: "/accounts/7?v=2",
            fields: &HeaderMap::new(),
            peer: Some("2001:db8::1".parse().unwrap()),
        },
        has_body: true,
        now: NOW,
        entropy: [9; 32],
    };
    let bytes = encode_arrival(&arrival, [("accept", &b"a"[..]), ("x-b", b"\xff"), ("accept", b"b")]);
    let decoded = decode_arrival(&bytes).unwrap();
    let there = decoded.arrival();
    assert_eq!(there.head.method, "GET");
    assert_eq!(there.head.scheme, Scheme::Https);
    assert_eq!(there.head.authority, "api.bank.example");
    assert_eq!(there.head.target, "/accounts/7?v=2");
    assert_eq!(there.head.peer, arrival.head.peer);
    assert_eq!(there.head.fields.nth("accept", 1), Some(&b"b"[..]));
    assert_eq!(there.head.fields.nth("accept", 2), None);
    assert_eq!(there.head.fields.nth("x-b", 0), Some(&b"\xff"[..]));
    assert!(there.has_body);
    assert_eq!(there.now, NOW);
    assert_eq!(there.entropy, [9; 32]);
}

#[test]
fn every_event_comes_over_whole() {
    let attempt = AttemptId(1);
    for event in [
        Event::Body(BodyRead::Whole(Bytes::from_static(b"{}"))),
        Event::Body(BodyRead::TooLarge),
        Event::Verified(true),
        Event::Keys(Keys::Set(Bytes::from_static(b"{}"))),
        Event::Keys(Keys::Unchanged),
        Event::Entered(true),
        Event::Taken(vec![
            Some(Taken {
                refused: Some(Duration::from_millis(1)),
                remaining: 3,
                reset: Duration::from_secs(9),
            }),
            None,
        ]),
        Event::Head {
            attempt,
            status: 503,
            fields: fields(),
        },
        Event::UpstreamBody {
            attempt,
            body: BodyRead::Broken,
        },
        Event::Failed {
            attempt,
            failure: Failure::Identity,
            replayable: true,
        },
        Event::Time,
    ] {
        let bytes = encode_event(&event, NOW);
        assert_eq!(decode_event(&bytes).unwrap(), (event, NOW));
    }
}

#[test]
fn every_step_comes_over_whole() {
    let attempt = Attempt {
        id: AttemptId(3),
        upstream: UpstreamId(1),
        affinity: Some(u64::MAX),
        method: Some(Method::POST),
        target: Some("/x".to_owned()),
        host: Some(HeaderValue::from_static("accounts.internal")),
        inherit: Inherit::Request,
        edits: edits().into(),
        body: AttemptBody::Request,
        max_body: Some(9),
        deadline: Moment(99),
        answer: Answer::Forward {
            edits: edits(),
            judge: vec![502, 503],
            observe: Some(Observe {
                route: RouteId(4),
                operation: Some(2),
                max_body: 1 << 20,
            }),
        },
    };
    let read = Attempt {
        method: None,
        target: None,
        host: None,
        answer: Answer::Read { limit: 10 },
        body: AttemptBody::Empty,
        max_body: None,
        inherit: Inherit::Nothing,
        ..attempt.clone()
    };
    for step in [
        Step::Read { limit: 5 },
        Step::Verify(Verify {
            key: VerifyKey::Known(KeyId(2)),
            algorithm: jsonwebtoken::Algorithm::ES256,
            message: "a.b".to_owned(),
            signature: "c".to_owned(),
        }),
        Step::Verify(Verify {
            key: VerifyKey::Fetched {
                auth: 1,
                jwk: "{}".to_owned(),
            },
            algorithm: jsonwebtoken::Algorithm::EdDSA,
            message: "a.b".to_owned(),
            signature: "c".to_owned(),
        }),
        Step::Fetch(Fetch {
            set: KeySetId(1),
            known: Some(7),
            anew: true,
            deadline: Moment(5),
        }),
        Step::Enter {
            key: LimitKey([6; 16]),
            limit: 9,
        },
        Step::Take(vec![Take {
            key: LimitKey([5; 16]),
            rate: Rate::new(100, Duration::from_secs(60), 7).unwrap(),
            kept: Kept::Shared { or_here: true },
        }]),
        Step::Send {
            route: RouteId(4),
            attempts: vec![attempt, read],
        },
        Step::Wait { until: Moment(1) },
        Step::Pending,
        Step::Forward {
            attempt: AttemptId(3),
            edits: edits(),
            observe: None,
        },
        Step::Respond(Respond {
            route: None,
            status: 404,
            fields: fields(),
            body: Bytes::from_static(b"no"),
            reason: Some(routing::Reason::RouteNotFound),
        }),
    ] {
        assert_eq!(decode_step(&encode_step(&step)).unwrap(), step);
    }
}

#[test]
fn bytes_after_the_value_are_refused() {
    let mut bytes = encode_event(&Event::Time, NOW);
    bytes.push(0);
    assert!(decode_event(&bytes).is_err());
}

#[test]
fn a_field_that_is_no_header_field_is_refused() {
    let step = Step::Forward {
        attempt: AttemptId(3),
        edits: edits(),
        observe: None,
    };
    let mut bytes = encode_step(&step);
    let at = bytes.windows(3).position(|window| window == b"x-a").unwrap();
    bytes[at] = b'\n';
    assert!(decode_step(&bytes).is_err());
}

proptest! {
    #[test]
    fn any_bytes_decode_to_a_value_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode_arrival(&bytes).map(|decoded| decoded.arrival().head.fields.nth("a", 0).map(<[u8]>::len));
        let _ = decode_event(&bytes);
        let _ = decode_step(&bytes);
    }

    #[test]
    fn a_step_with_a_few_wrong_bytes_decodes_to_a_value_or_an_error(
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = encode_step(&Step::Forward { attempt: AttemptId(3), edits: edits(), observe: None });
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let _ = decode_step(&bytes);
    }
}

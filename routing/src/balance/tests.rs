use std::collections::BTreeMap;
use std::sync::atomic::AtomicU32;

use super::*;
use crate::policy::{OutlierSettings, SuccessRate};

fn at(millis: u64) -> Moment {
    Moment(1_000_000_000 + millis * 1_000_000)
}

/// A random number for each n that is uniform enough to count with.
fn random(n: u64) -> u64 {
    let mut x = n.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xD1B5_4A32_D192_ED03;
    x ^= x >> 32;
    x = x.wrapping_mul(0xD6E8_FEB8_6659_FD93);
    x ^ x >> 32
}

fn balancer(balance: Balance, weights: &[(&'static str, u16)]) -> Balancer<&'static str> {
    Balancer::new(settings(balance), weights.iter().copied())
}

fn settings(balance: Balance) -> Settings {
    Settings {
        balance,
        outlier: Some(OutlierSettings::default()),
        ..Settings::default()
    }
}

/// How many of `count` requests, one after the other, each endpoint gets.
fn count(balancer: &Balancer<&'static str>, count: u64) -> BTreeMap<&'static str, u64> {
    let mut counts = BTreeMap::new();
    for n in 0..count {
        let picked = balancer.pick(at(n), random(n)).unwrap();
        *counts.entry(*picked.address()).or_default() += 1;
        picked.finish(Outcome::Success, at(n + 1));
    }
    counts
}

fn fail(balancer: &Balancer<&'static str>, address: &str, times: u32, now: Moment) {
    for n in 0..times {
        let mut picked = (0..).map(|r| balancer.pick(now, random(r)).unwrap());
        let picked = picked.find(|picked| *picked.address() == address).unwrap();
        picked.finish(Outcome::Failure, now);
        assert!(n < 1_000);
    }
}

#[test]
fn round_robin_is_exact_and_smooth() {
    let balancer_ = balancer(Balance::RoundRobin, &[("a", 90), ("b", 10), ("none", 0)]);
    assert_eq!(count(&balancer_, 100), BTreeMap::from([("a", 90), ("b", 10)]));
    let even = balancer(Balance::RoundRobin, &[("a", 1), ("b", 1), ("c", 1)]);
    let order: Vec<_> = (0..6).map(|n| *even.pick(at(0), n).unwrap().address()).collect();
    assert_eq!(order, ["a", "b", "c", "a", "b", "c"]);
    let uneven = balancer(Balance::RoundRobin, &[("a", 5), ("b", 1), ("c", 1)]);
    let order: String = (0..28).map(|n| *uneven.pick(at(0), n).unwrap().address()).collect();
    assert_eq!(order.matches('b').count(), 4);
    assert!(!order.contains("aaaaaa"), "{order}");
}

#[test]
fn every_way_heeds_weights_and_gives_nothing_to_a_weight_of_zero() {
    for balance in Balance::ALL {
        let counts = count(&balancer(balance, &[("a", 3), ("b", 1), ("none", 0)]), 10_000);
        assert_eq!(counts.get("none"), None, "{balance:?}");
        let share = counts["a"] as f64 / 10_000.0;
        assert!(counts["b"] > 0, "{balance:?} {counts:?}");
        if balance != Balance::PeakEwma {
            assert!((0.72..0.78).contains(&share), "{balance:?} {counts:?}");
        }
    }
}

#[test]
fn nothing_to_choose_from_is_none() {
    for balance in Balance::ALL {
        assert!(balancer(balance, &[]).pick(at(0), 1).is_none());
        assert!(balancer(balance, &[("a", 0)]).pick(at(0), 1).is_none());
        assert_eq!(*balancer(balance, &[("a", 1)]).pick(at(0), u64::MAX).unwrap().address(), "a");
    }
}

#[test]
fn least_request_avoids_the_busy_one() {
    let balancer = balancer(Balance::LeastRequest, &[("a", 1), ("b", 1)]);
    let held: Vec<_> = (0..10).map(|n| balancer.pick(at(0), random(n)).unwrap()).collect();
    assert_eq!(
        balancer.endpoints().iter().map(Endpoint::in_flight).collect::<Vec<_>>(),
        [5, 5]
    );
    let (a, b): (Vec<_>, Vec<_>) = held.into_iter().partition(|picked| *picked.address() == "a");
    drop(b);
    assert!((0..20).all(|n| *balancer.pick(at(0), random(n)).unwrap().address() == "b"));
    drop(a);
    assert!(balancer.endpoints().iter().all(|endpoint| endpoint.in_flight() == 0));
}

#[test]
fn peak_ewma_prefers_the_fast_one_and_gives_the_slow_one_another_chance() {
    let balancer = balancer(Balance::PeakEwma, &[("fast", 1), ("slow", 1)]);
    let mut now = at(0);
    let mut slow = 0;
    for n in 0..1_000 {
        let picked = balancer.pick(now, random(n)).unwrap();
        let latency = if *picked.address() == "slow" { 100 } else { 5 };
        slow += u32::from(latency == 100);
        now = now + Duration::from_millis(latency);
        picked.finish(Outcome::Success, now);
    }
    assert!((1..100).contains(&slow), "{slow}");
    // While the fast one keeps answering, what was held against the slow one fades.
    let mut tried = false;
    for n in 0..60 {
        now = now + Duration::from_secs(1);
        let picked = balancer.pick(now, random(n)).unwrap();
        tried |= *picked.address() == "slow";
        picked.finish(Outcome::Success, now + Duration::from_millis(5));
    }
    assert!(tried);
}

#[test]
fn an_endpoint_that_fails_is_left_out_and_comes_back() {
    for balance in Balance::ALL {
        let balancer = balancer(balance, &[("a", 1), ("b", 1), ("c", 1)]);
        let bad = "b";
        // Failures of a peak-EWMA's endpoint make it unlikely; give it its five by hand.
        let place = 1;
        (0..5).for_each(|_| balancer.set.group.failed(&balancer.set.endpoints[place].state, at(0)));
        assert!(
            (0..100).all(|n| *balancer.pick(at(9_999), random(n)).unwrap().address() != bad),
            "{balance:?}"
        );
        assert!(
            (0..1_000).any(|n| *balancer.pick(at(10_000), random(n)).unwrap().address() == bad),
            "{balance:?}"
        );
    }
}

#[test]
fn no_more_than_the_fraction_is_ejected() {
    let balancer = balancer(Balance::RoundRobin, &[("a", 1), ("b", 1), ("c", 1), ("d", 1), ("zero", 0)]);
    for address in ["a", "b", "c", "d"] {
        fail(&balancer, address, 5, at(0));
    }
    let available: Vec<_> = balancer
        .endpoints()
        .iter()
        .filter(|endpoint| endpoint.is_available(at(1)))
        .map(Endpoint::address)
        .collect();
    assert_eq!(available, [&"c", &"d"]);
    let single = balancer_of_one();
    fail(&single, "a", 50, at(0));
    assert!(single.pick(at(1), 0).is_some(), "a sole endpoint is never ejected");
}

fn balancer_of_one() -> Balancer<&'static str> {
    balancer(Balance::PeakEwma, &[("a", 1)])
}

#[test]
fn an_attempt_that_is_dropped_says_nothing_of_its_endpoint() {
    let balancer = balancer(Balance::RoundRobin, &[("a", 1), ("b", 1)]);
    for n in 0..100 {
        drop(balancer.pick(at(0), n));
    }
    assert!(
        balancer
            .endpoints()
            .iter()
            .all(|endpoint| endpoint.in_flight() == 0 && endpoint.is_available(at(0)))
    );
}

#[test]
fn what_is_known_of_an_address_survives_another_set() {
    let before = balancer(Balance::RoundRobin, &[("a", 1), ("b", 1)]);
    fail(&before, "a", 5, at(0));
    let held = before.pick(at(1), 0).unwrap();
    assert_eq!(*held.address(), "b");
    let after = before.replace(settings(Balance::RoundRobin), [("c", 1), ("b", 1), ("a", 1)], at(1));
    let state: Vec<_> = after
        .endpoints()
        .iter()
        .map(|e| (*e.address(), e.is_available(at(1)), e.in_flight()))
        .collect();
    assert_eq!(state, [("c", true, 0), ("b", true, 1), ("a", false, 0)]);
    held.finish(Outcome::Success, at(2));
    assert!(
        after.endpoints().iter().all(|endpoint| endpoint.in_flight() == 0),
        "an attempt may outlive its set"
    );
}

#[test]
fn another_attempt_goes_elsewhere_where_there_is_an_elsewhere() {
    for balance in Balance::ALL {
        let two = balancer(balance, &[("a", 1), ("b", 1)]);
        assert!(
            (0..50).all(|n| *two.pick_except(&"a", at(0), random(n)).unwrap().address() == "b"),
            "{balance:?}"
        );
    }
    assert_eq!(*balancer_of_one().pick_except(&"a", at(0), 7).unwrap().address(), "a");
}

#[test]
fn cores_share_one_balancer() {
    let balancer = balancer(Balance::RoundRobin, &[("a", 3), ("b", 1)]);
    let taken = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for core in 0..4 {
            let (balancer, taken) = (&balancer, &taken);
            scope.spawn(move || {
                for n in 0..1_000 {
                    let picked = balancer.pick(at(n), random(core * 1_000 + n)).unwrap();
                    taken.fetch_add(u32::from(*picked.address() == "a"), Ordering::Relaxed);
                    picked.finish(Outcome::Success, at(n + 1));
                }
            });
        }
    });
    assert_eq!(taken.load(Ordering::Relaxed), 3_000);
}

/// Whose each of many hashes is.
fn owners(balancer: &Balancer<&'static str>) -> Vec<&'static str> {
    (0..2_000)
        .map(|n| *balancer.pick(at(0), random(n)).unwrap().address())
        .collect()
}

#[test]
fn on_a_ring_the_same_hash_is_the_same_endpoints_and_shares_are_as_weights() {
    let ring = balancer(Balance::RingHash, &[("a", 2), ("b", 1), ("c", 1), ("none", 0)]);
    let owned = owners(&ring);
    assert_eq!(owners(&ring), owned);
    let share = |of| owned.iter().filter(|owner| **owner == of).count();
    assert!(
        (800..1_200).contains(&share("a")) && (380..620).contains(&share("b")),
        "{} {}",
        share("a"),
        share("b")
    );
    assert_eq!(share("none"), 0);
}

#[test]
fn an_endpoint_that_goes_moves_its_own_share_and_no_other() {
    let before = owners(&balancer(Balance::RingHash, &[("a", 1), ("b", 1), ("c", 1), ("d", 1)]));
    let after = owners(&balancer(Balance::RingHash, &[("a", 1), ("b", 1), ("d", 1)]));
    let moved = before
        .iter()
        .zip(&after)
        .filter(|(before, after)| **before != "c" && before != after)
        .count();
    assert_eq!(moved, 0);
}

#[test]
fn what_is_ejected_or_was_tried_gives_its_requests_to_the_next_on_the_ring() {
    let ring = balancer(Balance::RingHash, &[("a", 1), ("b", 1), ("c", 1), ("d", 1)]);
    let before = owners(&ring);
    let second = ring.pick_except(&before[0], at(0), random(0)).unwrap();
    assert_ne!(*second.address(), before[0]);
    drop(second);
    let gone = before[0];
    fail(&ring, gone, 5, at(0));
    let after = owners(&ring);
    assert!(!after.contains(&gone));
    assert!(
        before
            .iter()
            .zip(&after)
            .all(|(before, after)| *before == gone || before == after)
    );
}

#[test]
fn a_view_chooses_among_some_and_knows_what_all_know() {
    let all = balancer(Balance::RoundRobin, &[("a1", 1), ("a2", 1), ("b1", 1), ("b2", 1)]);
    for balance in Balance::ALL {
        let view = all.view(balance, |address| address.starts_with('b'));
        let counts = count(&view, 1_000);
        assert!(counts.keys().eq(["b1", "b2"].iter()), "{balance:?} {counts:?}");
    }
    let first = [0, 1].map(|n| *all.view(Balance::RoundRobin, |_| true).pick(at(0), n).unwrap().address());
    assert_ne!(first[0], first[1], "views begin at different endpoints");
    fail(&all, "b1", 5, at(0));
    let view = all.view(Balance::RoundRobin, |address| address.starts_with('b'));
    assert!((0..20).all(|n| *view.pick(at(1), n).unwrap().address() == "b2"));
    let held = view.pick(at(1), 0).unwrap();
    assert_eq!(all.endpoints()[3].in_flight(), 1);
    drop(held);
    // Alternating views do not take each other's turns.
    let (a, b) = (all.view(Balance::RoundRobin, |address| address.starts_with('a')), view);
    let turn = |n| {
        drop(b.pick(at(1), n));
        *a.pick(at(1), n).unwrap().address()
    };
    let turns: Vec<_> = (0..4).map(turn).collect();
    assert!(
        turns[0] != turns[1] && turns[0] == turns[2] && turns[1] == turns[3],
        "{turns:?}"
    );
}

#[test]
fn where_all_that_may_be_chosen_are_ejected_that_says_little() {
    let all = balancer(Balance::RoundRobin, &[("a", 1), ("b", 1), ("c", 1), ("d", 1)]);
    fail(&all, "b", 5, at(0));
    let only_b = all.view(Balance::RoundRobin, |address| *address == "b");
    assert_eq!(*only_b.pick(at(1), 0).unwrap().address(), "b");
    let others_gone = all.replace(settings(Balance::PeakEwma), [("b", 1)], at(1));
    assert_eq!(*others_gone.pick(at(1), 0).unwrap().address(), "b");
}

#[test]
fn who_cannot_be_reached_is_out_at_once_but_never_the_last() {
    let settings = Settings {
        unreachable: Some(Duration::from_secs(2)),
        ..Settings::default()
    };
    let balancer = Balancer::new(settings, [("a", 1), ("b", 1), ("c", 1)]);
    for _ in 0..2 {
        balancer.pick(at(0), 0).unwrap().finish(Outcome::Unreachable, at(0));
    }
    assert!((0..20).all(|n| *balancer.pick(at(1), n).unwrap().address() == "c"));
    balancer.pick(at(1), 0).unwrap().finish(Outcome::Unreachable, at(1));
    assert_eq!(*balancer.pick(at(2), 0).unwrap().address(), "c");
    assert!((0..20).any(|n| *balancer.pick(at(2_000), n).unwrap().address() == "a"));
    let failing = Balancer::new(settings, [("a", 1), ("b", 1)]);
    (0..100).for_each(|n| failing.pick(at(n), n).unwrap().finish(Outcome::Failure, at(n)));
    assert!(
        failing.endpoints().iter().all(|endpoint| endpoint.is_available(at(100))),
        "without settings nobody is ejected for answers"
    );
}

#[test]
fn who_asks_to_be_left_alone_is_while_there_are_others() {
    for balance in Balance::ALL {
        let balancer = balancer(balance, &[("a", 1), ("b", 1)]);
        let a = || {
            (0..)
                .map(|r| balancer.pick(at(0), random(r)).unwrap())
                .find(|picked| *picked.address() == "a")
                .unwrap()
        };
        a().rest(Duration::from_secs(5), at(0));
        assert!(
            (0..50).all(|n| *balancer.pick(at(4_999), random(n)).unwrap().address() == "b"),
            "{balance:?}"
        );
        assert!((0..500).any(|n| *balancer.pick(at(5_000), random(n)).unwrap().address() == "a"));
    }
    let two = balancer(Balance::RoundRobin, &[("a", 1), ("b", 1)]);
    for _ in 0..2 {
        two.pick(at(0), 0).unwrap().rest(Duration::from_secs(86_400), at(0));
    }
    assert!(two.pick(at(1), 0).is_some(), "no request is refused for it");
    let (_held, again) = (two.pick(at(60_000), 0).unwrap(), two.pick(at(60_000), 0).unwrap());
    assert!(!again.state().rests(at(60_000)), "nobody rests for a day");
}

fn near(address: &'static str) -> Member<&'static str> {
    Member {
        distance: 0,
        ..Member::from((address, 1))
    }
}

fn zoned(balance: Balance, overflow: u32) -> Balancer<&'static str> {
    let settings = Settings {
        zone: Some(ZoneSettings { overflow }),
        unreachable: Some(Duration::from_secs(2)),
        ..settings(balance)
    };
    let far = ["f1", "f2", "f3", "f4", "f5", "f6"].map(|address| Member::from((address, 1)));
    Balancer::new(settings, ["n1", "n2", "n3"].map(near).into_iter().chain(far))
}

fn near_share(balancer: &Balancer<&'static str>, now: Moment) -> f64 {
    let picked = (0..2_000).map(|n| balancer.pick(now, random(n)).unwrap());
    picked.filter(|picked| picked.address().starts_with('n')).count() as f64 / 2_000.0
}

#[test]
fn near_endpoints_take_everything_as_long_as_enough_of_them_may_be_used() {
    for balance in [Balance::RoundRobin, Balance::LeastRequest, Balance::PeakEwma] {
        let zoned = zoned(balance, 1_000_000);
        assert_eq!(near_share(&zoned, at(0)), 1.0, "{balance:?}");
        let gone = |address: &str| {
            let mut picked = (0..).map(|n| zoned.pick(at(0), random(n)).unwrap());
            picked
                .find(|picked| *picked.address() == address)
                .unwrap()
                .finish(Outcome::Unreachable, at(0));
        };
        gone("n1");
        let share = near_share(&zoned, at(1));
        assert!((0.9..0.96).contains(&share), "{balance:?}: 2 of 3 by 1.4 is 0.93: {share}");
        gone("n2");
        let share = near_share(&zoned, at(1));
        assert!((0.42..0.52).contains(&share), "{balance:?}: {share}");
        gone("n3");
        assert_eq!(near_share(&zoned, at(1)), 0.0, "{balance:?}");
        assert!(near_share(&zoned, at(2_000)) > 0.99, "{balance:?}: they are back");
    }
}

#[test]
fn of_those_that_are_not_near_the_nearest_come_first() {
    let settings = Settings {
        zone: Some(ZoneSettings { overflow: u32::MAX }),
        unreachable: Some(Duration::from_secs(2)),
        ..Settings::default()
    };
    let at_distance = |(address, distance)| Member {
        distance,
        ..Member::from((address, 1))
    };
    let members = [("last", 7), ("first", 0), ("second", 3), ("also-second", 3)].map(at_distance);
    let balancer = Balancer::new(settings, members);
    let served = |now| {
        let picked: std::collections::BTreeSet<_> =
            (0..200).map(|n| *balancer.pick(now, random(n)).unwrap().address()).collect();
        picked.into_iter().collect::<Vec<_>>()
    };
    assert_eq!(served(at(0)), ["first"]);
    balancer.pick(at(0), 0).unwrap().finish(Outcome::Unreachable, at(0));
    assert_eq!(served(at(1)), ["also-second", "second"]);
    let held = balancer.pick(at(1), 0).unwrap();
    let gone = *held.address();
    held.finish(Outcome::Unreachable, at(1));
    let other = if gone == "second" { "also-second" } else { "second" };
    assert_eq!(served(at(2)), [other]);
    assert_eq!(
        balancer.pick(at(2), 0).unwrap().in_flight(),
        1,
        "what is over is not under way"
    );
}

#[test]
fn a_zone_that_is_full_overflows_to_whoever_has_less_to_do() {
    let zoned = zoned(Balance::LeastRequest, 4);
    let held: Vec<_> = (0..60).map(|n| zoned.pick(at(0), random(n)).unwrap()).collect();
    let busiest = |start| {
        let of = zoned
            .endpoints()
            .iter()
            .filter(|endpoint| endpoint.address().starts_with(start));
        of.map(Endpoint::in_flight).max().unwrap()
    };
    let near = held.iter().filter(|picked| picked.address().starts_with('n')).count();
    assert!((12..40).contains(&near) && busiest('f') > 4, "{near} {}", busiest('f'));
    drop(held);
    assert_eq!(near_share(&zoned, at(1)), 1.0);
}

#[test]
fn without_near_endpoints_the_others_serve() {
    let settings = Settings {
        zone: Some(ZoneSettings::default()),
        ..Settings::default()
    };
    let balancer = Balancer::new(settings, [("a", 1), ("b", 1)]);
    assert_eq!(count(&balancer, 10), BTreeMap::from([("a", 5), ("b", 5)]));
}

#[test]
fn who_joins_begins_with_a_tenth_and_grows_to_its_share() {
    for balance in [Balance::RoundRobin, Balance::LeastRequest] {
        let settings = Settings {
            slow_start: Some(Duration::from_secs(10)),
            ..settings(balance)
        };
        let first = Balancer::new(settings, Vec::<(&str, u16)>::new()).replace(settings, [("a", 1), ("b", 1)], at(0));
        let share = |balancer: &Balancer<&'static str>, address, now| {
            let picked = (0..4_000).filter(|n| *balancer.pick(now, random(*n)).unwrap().address() == address);
            picked.count() as f64 / 4_000.0
        };
        let even = share(&first, "a", at(1));
        assert!(
            (0.45..0.55).contains(&even),
            "{balance:?}: the first ones join nobody: {even}"
        );
        let joined = first.replace(settings, [("a", 1), ("b", 1), ("new", 1)], at(0));
        for (now, expected) in [(at(0), 0.01..0.10), (at(5_000), 0.12..0.27), (at(10_000), 0.30..0.37)] {
            let share = share(&joined, "new", now);
            assert!(expected.contains(&share), "{balance:?} {now:?}: {share}");
        }
        let busy: Vec<_> = (0..30).map(|n| joined.pick(at(0), random(n)).unwrap()).collect();
        let new = busy.iter().filter(|picked| *picked.address() == "new").count();
        assert!(new < 8, "{balance:?}: being idle does not draw everything to it: {new}");
    }
}

#[test]
fn who_serves_less_than_the_others_is_ejected_though_it_never_fails_often_in_a_row() {
    let settings = Settings {
        outlier: Some(OutlierSettings {
            success_rate: Some(SuccessRate::default()),
            ..OutlierSettings::default()
        }),
        ..Settings::default()
    };
    let names = ["a", "b", "c", "d", "e", "f"];
    let balancer = Balancer::new(settings, names.map(|name| (name, 1)));
    let serve = |from: u64, requests: u64| {
        for n in 0..requests {
            let now = at(from + n);
            let picked = balancer.pick(now, random(n)).unwrap();
            // Half of what it gets, and never two in a row.
            let fails = *picked.address() == "c" && (n / 6) % 2 == 0;
            picked.finish(if fails { Outcome::Failure } else { Outcome::Success }, now);
        }
    };
    let out = |now| {
        let of = balancer.endpoints().iter().filter(|endpoint| !endpoint.is_available(now));
        of.map(|endpoint| *endpoint.address()).collect::<Vec<_>>()
    };
    serve(0, 600);
    assert!(
        out(at(600)).is_empty(),
        "the interval is not over, and too few requests are no evidence"
    );
    serve(600, 600);
    assert!(out(at(1_200)).is_empty());
    serve(10_000, 1);
    assert_eq!(out(at(10_001)), ["c"]);
    serve(10_001, 300);
    assert!(out(at(20_001)).is_empty(), "it is back after its time");
    serve(20_001, 1);
    assert!(out(at(20_002)).is_empty(), "fewer than 100 requests each say nothing");
}

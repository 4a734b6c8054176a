use std::collections::BTreeMap;
use std::time::Duration;

use super::*;

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
    Balancer::new(balance, Some(OutlierSettings::default()), weights.iter().copied())
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
        (0..5).for_each(|_| balancer.set.failed(place, at(0)));
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
    let after = before.replace([("c", 1), ("b", 1), ("a", 1)]);
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

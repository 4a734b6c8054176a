use super::endpoint::Protocol;
use super::*;

const LIMITS: Limits = Limits {
    lease: Duration::from_secs(15),
    grace: Duration::from_secs(60),
    history: 8,
    endpoints: 100,
};

/// A registry on a clock that the test moves, and a store that remembers what a real one would.
struct World {
    registry: Registry,
    now: Instant,
    stored: std::collections::BTreeMap<String, RegistrationRecord>,
    revision: u64,
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            registry: Registry::restore([], 0, LIMITS, now),
            now,
            stored: Default::default(),
            revision: 0,
        }
    }

    fn pass(&mut self, time: Duration) -> usize {
        self.now += time;
        self.registry.expire(self.now)
    }

    fn register(&mut self, service: &str, id: &str) -> Result<Lease, Refusal> {
        self.registry
            .register(&name(service), None, endpoint(service, id), self.now, 1_790_000_000)
    }

    fn seal(&mut self) -> Option<Arc<Changes>> {
        let sealed = self.registry.seal()?;
        for change in sealed.batch.changes {
            match change {
                crate::store::Change::Put {
                    table: crate::store::Table::Registrations,
                    key,
                    value,
                } => {
                    self.stored.insert(key, serde_json::from_slice(&value).unwrap());
                }
                crate::store::Change::Delete { key, .. } => {
                    self.stored.remove(&key);
                }
                crate::store::Change::Put { value, .. } => self.revision = serde_json::from_slice(&value).unwrap(),
            }
        }
        Some(sealed.changes)
    }

    fn restart(&mut self) {
        self.registry = Registry::restore(self.stored.values().cloned(), self.revision, LIMITS, self.now);
    }

    fn ids(&self, service: &str) -> Vec<String> {
        let of_service = self.registry.view().services().filter(|(name, _)| *name == service);
        of_service
            .flat_map(|(_, endpoints)| endpoints.keys().map(ToString::to_string))
            .collect()
    }
}

fn name(service: &str) -> ServiceName {
    ServiceName::new(service).unwrap()
}

fn endpoint(service: &str, id: &str) -> Endpoint {
    Endpoint {
        id: id.to_owned(),
        service: service.to_owned(),
        address: "127.0.0.1:9000".to_owned(),
        protocol: Protocol::Http2,
        version: String::new(),
        zone: String::new(),
        weight: 1,
        health: mesh_client::discovery::Health::Unknown,
    }
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn a_registered_endpoint_is_seen_until_it_deregisters() {
    let mut world = World::new();
    world.register("accounts", "a").unwrap();
    let changes = world.seal().unwrap();
    assert_eq!((changes.revision, changes.updates.len()), (1, 1));
    assert_eq!(world.ids("accounts"), ["a"]);
    world.registry.deregister(&name("accounts"), "a").unwrap();
    let removed = Update::Remove {
        service: "accounts".to_owned(),
        id: "a".to_owned(),
        expired: false,
    };
    assert_eq!(
        *world.seal().unwrap(),
        Changes {
            revision: 2,
            updates: vec![removed]
        }
    );
    assert_eq!(world.ids("accounts"), [""; 0]);
    assert_eq!(world.registry.next_expiry(), None, "nothing of it is left");
}

#[test]
fn what_members_serve_goes_with_what_let_them_in_a_restart_between_included() {
    let mut world = World::new();
    let (mine, other) = (Mark::of_entry("0123456789abcdef"), Mark::of_entry("fedcba9876543210"));
    for (id, mark) in [("a", Some(mine)), ("b", Some(other)), ("c", Some(mine)), ("d", None)] {
        let registered = world
            .registry
            .register(&name("accounts"), mark, endpoint("accounts", id), world.now, 0);
        registered.unwrap();
        world.registry.heartbeat(&name("accounts"), id, world.now).unwrap();
    }
    world.seal().unwrap();
    world.restart();
    assert_eq!(world.registry.evict(&[mine].into()), 2);
    assert_eq!(world.ids("accounts"), ["b", "d"]);
    let gone = world.seal().unwrap();
    let said_goodbye = |update: &Update| matches!(update, Update::Remove { expired: false, .. });
    assert!(
        gone.updates.len() == 2 && gone.updates.iter().all(said_goodbye),
        "not even the last stays in use"
    );
    assert_eq!(world.registry.evict(&[mine].into()), 0);
    // Whoever registers it again by what another entry gave it goes with that.
    let again = world
        .registry
        .register(&name("accounts"), Some(mine), endpoint("accounts", "d"), world.now, 0);
    again.unwrap();
    world.seal().expect("that is stored");
    world.restart();
    assert_eq!(world.registry.evict(&[mine].into()), 1);
}

#[test]
fn heartbeats_keep_a_lease_and_silence_ends_it() {
    let mut world = World::new();
    world.register("accounts", "a").unwrap();
    world.register("accounts", "b").unwrap();
    for _ in 0..10 {
        assert_eq!(world.pass(secs(5)), 0);
        world.registry.heartbeat(&name("accounts"), "a", world.now).unwrap();
        world.registry.heartbeat(&name("accounts"), "b", world.now).unwrap();
    }
    assert_eq!(world.pass(secs(10)), 0);
    world.registry.heartbeat(&name("accounts"), "a", world.now).unwrap();
    assert_eq!(world.registry.next_expiry(), Some(world.now + secs(5)), "b is next");
    assert_eq!(world.pass(secs(5)), 1);
    assert_eq!(world.ids("accounts"), ["a"]);
    let expired = Update::Remove {
        service: "accounts".to_owned(),
        id: "b".to_owned(),
        expired: true,
    };
    assert_eq!(world.seal().unwrap().updates.last(), Some(&expired));
    assert_eq!(
        world.registry.heartbeat(&name("accounts"), "b", world.now),
        Err(Refusal::Unknown("b".to_owned()))
    );
}

#[test]
fn heartbeats_change_nothing_that_is_stored_or_told() {
    let mut world = World::new();
    world.register("accounts", "a").unwrap();
    world.seal().unwrap();
    world.registry.heartbeat(&name("accounts"), "a", world.now).unwrap();
    assert!(world.seal().is_none());
    world.register("accounts", "a").unwrap();
    assert!(world.seal().is_none(), "the same registration again is a heartbeat");
}

#[test]
fn new_attributes_of_a_known_endpoint_are_told() {
    let mut world = World::new();
    world.register("accounts", "a").unwrap();
    world.seal().unwrap();
    let heavier = Endpoint {
        weight: 5,
        ..endpoint("accounts", "a")
    };
    world
        .registry
        .register(&name("accounts"), None, heavier.clone(), world.now, 1_800_000_000)
        .unwrap();
    assert_eq!(world.seal().unwrap().updates, [Update::Add(Arc::new(heavier))]);
    assert_eq!(
        world.registry.list(None, world.now)[0].registered_at,
        1_790_000_000,
        "it is still the first registration"
    );
}

#[test]
fn nobody_speaks_for_another_service() {
    let mut world = World::new();
    world.register("accounts", "a").unwrap();
    let rates = name("rates");
    let foreign = world.registry.register(&rates, None, endpoint("accounts", "b"), world.now, 0);
    assert!(matches!(foreign, Err(Refusal::NotYours { .. })));
    assert!(matches!(
        world.registry.heartbeat(&rates, "a", world.now),
        Err(Refusal::NotYours { .. })
    ));
    assert!(matches!(
        world.registry.deregister(&rates, "a"),
        Err(Refusal::NotYours { .. })
    ));
    assert_eq!(world.register("rates", "a"), Err(Refusal::IdTaken("a".to_owned())));
    assert_eq!(world.ids("accounts"), ["a"]);
    assert_eq!(world.ids("rates"), [""; 0]);
}

#[test]
fn deregistering_twice_is_no_error() {
    let mut world = World::new();
    world.register("accounts", "a").unwrap();
    for _ in 0..2 {
        world.registry.deregister(&name("accounts"), "a").unwrap();
    }
}

#[test]
fn a_full_registry_refuses_new_endpoints_and_keeps_the_old() {
    let mut world = World::new();
    for n in 0..LIMITS.endpoints {
        world.register("accounts", &format!("e{n}")).unwrap();
    }
    assert_eq!(world.register("accounts", "one-more"), Err(Refusal::Full(100)));
    world.register("accounts", "e0").unwrap();
}

#[test]
fn a_restart_keeps_registrations_for_the_grace_period() {
    let mut world = World::new();
    world.register("accounts", "a").unwrap();
    world.register("rates", "r").unwrap();
    world.seal().unwrap();
    let before = world.registry.list(None, world.now);
    world.restart();
    let after = world.registry.list(None, world.now);
    let endpoints = |list: &[Registration]| list.iter().map(|r| (r.endpoint.clone(), r.registered_at)).collect::<Vec<_>>();
    assert_eq!(endpoints(&before), endpoints(&after));
    assert_eq!(world.pass(secs(59)), 0);
    world.registry.heartbeat(&name("accounts"), "a", world.now).unwrap();
    assert_eq!(world.pass(secs(1)), 1, "who did not come back is gone");
    assert_eq!(world.ids("accounts"), ["a"]);
}

#[test]
fn revisions_go_on_after_a_restart() {
    let mut world = World::new();
    world.register("accounts", "a").unwrap();
    assert_eq!(world.seal().unwrap().revision, 1);
    world.restart();
    assert!(
        world
            .registry
            .view()
            .since(1)
            .is_some_and(|mut changes| changes.next().is_none()),
        "nothing was missed"
    );
    world.register("accounts", "b").unwrap();
    assert_eq!(world.seal().unwrap().revision, 2);
    assert_eq!(world.registry.view().since(1).unwrap().count(), 1);
    assert!(
        world.registry.view().since(0).is_none(),
        "what was before the restart is not remembered"
    );
}

#[test]
fn what_came_and_went_in_one_revision_is_not_stored() {
    let mut world = World::new();
    world.register("accounts", "a").unwrap();
    world.registry.deregister(&name("accounts"), "a").unwrap();
    assert_eq!(world.seal().unwrap().updates.len(), 2);
    assert!(world.stored.is_empty());
    world.register("accounts", "a").unwrap();
    world.registry.deregister(&name("accounts"), "a").unwrap();
    world.register("accounts", "a").unwrap();
    world.seal().unwrap();
    assert_eq!(world.stored["a"].registered_at, 1_790_000_000);
}

#[test]
fn the_history_is_bounded_and_resumes_where_it_can() {
    let mut world = World::new();
    for n in 0..20 {
        world.register("accounts", &format!("e{n:02}")).unwrap();
        world.seal().unwrap();
    }
    let view = world.registry.view();
    let since = |revision| {
        view.since(revision)
            .map(|changes| changes.map(|changes| changes.revision).collect::<Vec<_>>())
    };
    assert_eq!(since(20), Some(vec![]));
    assert_eq!(since(18), Some(vec![19, 20]));
    assert_eq!(since(12), Some((13..=20).collect()));
    assert_eq!(since(11), None, "too long ago");
    assert_eq!(since(21), None, "never given");
}

/// Whatever happens in whatever order: applying the updates gives the picture, the store gives the picture, and the
/// leases agree with it.
#[test]
fn watchers_store_and_registry_always_agree() {
    for seed in 0..200_u64 {
        let mut world = World::new();
        let mut told: BTreeSet<(String, String)> = Default::default();
        let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        for step in 0..60 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let (service, id) = (
                ["accounts", "rates"][(random >> 8) as usize % 2],
                format!("e{}", (random >> 16) % 5),
            );
            match random % 6 {
                0 | 1 => drop(world.register(service, &id)),
                2 => drop(world.registry.heartbeat(&name(service), &id, world.now)),
                3 => drop(world.registry.deregister(&name(service), &id)),
                4 => drop(world.pass(secs((random >> 24) % 12))),
                _ => {
                    for update in world.seal().iter().flat_map(|changes| &changes.updates) {
                        match update {
                            Update::Add(endpoint) => told.insert((endpoint.service.clone(), endpoint.id.clone())),
                            Update::Remove { service, id, .. } => told.remove(&(service.clone(), id.clone())),
                        };
                    }
                    let seen: BTreeSet<_> = world
                        .registry
                        .view()
                        .services()
                        .flat_map(|(service, endpoints)| endpoints.keys().map(|id| (service.to_owned(), id.to_string())))
                        .collect();
                    let stored = world
                        .stored
                        .values()
                        .map(|r| (r.endpoint.service.clone(), r.endpoint.id.clone()))
                        .collect();
                    assert_eq!(told, seen, "watchers, seed {seed}, step {step}");
                    assert_eq!(seen, stored, "store, seed {seed}, step {step}");
                    assert_eq!(seen.len(), world.registry.len(), "leases, seed {seed}, step {step}");
                    assert_eq!(
                        seen.len(),
                        world.registry.deadlines.len(),
                        "deadlines, seed {seed}, step {step}"
                    );
                }
            }
        }
    }
}

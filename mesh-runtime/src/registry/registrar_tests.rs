use std::pin::pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures_util::FutureExt as _;

use super::*;
use crate::registry::endpoint::Protocol;
use crate::registry::{News, Update};
use crate::store::{Answer, Batch, Change, Store, Table};

const LIMITS: Limits = Limits {
    lease: Duration::from_secs(15),
    grace: Duration::from_secs(60),
    history: 64,
    endpoints: 10_000,
};

/// A store in memory that can be told to refuse.
#[derive(Default)]
struct InMemory {
    tables: Mutex<std::collections::BTreeMap<(Table, String), Vec<u8>>>,
    broken: AtomicBool,
    commits: AtomicUsize,
}

impl Store for InMemory {
    fn read(&self, table: Table, key: &str) -> Answer<'_, Option<Vec<u8>>> {
        let value = self.tables.lock().unwrap().get(&(table, key.to_owned())).cloned();
        Box::pin(async move { Ok(value) })
    }

    fn scan(&self, table: Table) -> Answer<'_, Vec<(String, Vec<u8>)>> {
        let tables = self.tables.lock().unwrap();
        let of_table = tables.iter().filter(|((of, _), _)| *of == table);
        let records = of_table.map(|((_, key), value)| (key.clone(), value.clone())).collect();
        Box::pin(async move { Ok(records) })
    }

    fn dump(&self) -> Answer<'_, Vec<(Table, String, Vec<u8>)>> {
        unreachable!("the registrar takes no backup")
    }

    fn commit(&self, batch: Batch) -> Answer<'_, Outcome> {
        Box::pin(async move {
            if self.broken.load(Ordering::Relaxed) {
                return Err(StoreError::Write("the disk is full".into()));
            }
            self.commits.fetch_add(1, Ordering::Relaxed);
            let mut tables = self.tables.lock().unwrap();
            for change in batch.changes {
                match change {
                    Change::Put { table, key, value } => drop(tables.insert((table, key), value)),
                    Change::Delete { table, key } => drop(tables.remove(&(table, key))),
                }
            }
            Ok(Outcome::Committed)
        })
    }
}

async fn start(store: &Arc<InMemory>) -> Registrar {
    Registrar::start(Records::new(Arc::clone(store) as Arc<dyn Store>), LIMITS, Metrics::new())
        .await
        .unwrap()
}

fn accounts() -> ServiceName {
    ServiceName::new("accounts").unwrap()
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

async fn register(registrar: &Registrar, service: &str, id: &str) {
    registrar
        .register(ServiceName::new(service).unwrap(), None, endpoint(service, id))
        .await
        .unwrap();
}

fn ids(news: &News) -> Vec<String> {
    match news {
        News::Snapshot { services, .. } => services
            .iter()
            .flat_map(|(_, endpoints)| endpoints.iter().map(|endpoint| endpoint.id.clone()))
            .collect(),
        News::Changes { updates, .. } => updates
            .iter()
            .map(|update| match update {
                Update::Add(endpoint) => format!("+{}", endpoint.id),
                Update::Remove { id, .. } => format!("-{id}"),
            })
            .collect(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_watcher_sees_what_is_there_and_what_comes() {
    let registrar = start(&Arc::default()).await;
    register(&registrar, "accounts", "a").await;
    let mut watcher = registrar.watch(vec!["accounts".to_owned()], 0);
    assert!(matches!(watcher.next().await, News::Snapshot { revision: 1, .. }));
    register(&registrar, "rates", "r").await;
    register(&registrar, "accounts", "b").await;
    let news = watcher.next().await;
    assert_eq!(ids(&news), ["+b"], "only what it asked for");
    assert!(matches!(news, News::Changes { revision: 3, .. }));
    registrar.deregister(accounts(), "a".to_owned()).await.unwrap();
    assert_eq!(ids(&watcher.next().await), ["-a"]);
}

#[tokio::test(start_paused = true)]
async fn the_first_news_come_at_once_even_where_there_is_nothing() {
    let registrar = start(&Arc::default()).await;
    assert_eq!(
        registrar.watch(vec![], 0).next().await,
        News::Snapshot {
            revision: 0,
            services: vec![]
        }
    );
}

#[tokio::test(start_paused = true)]
async fn a_lease_without_heartbeats_is_told_to_watchers() {
    let registrar = start(&Arc::default()).await;
    register(&registrar, "accounts", "a").await;
    let mut watcher = registrar.watch(vec![], 0);
    watcher.next().await;
    let before = tokio::time::Instant::now();
    assert_eq!(ids(&watcher.next().await), ["-a"]);
    let waited = before.elapsed().as_secs_f64();
    assert!((15.0..15.1).contains(&waited), "{waited}");
}

#[tokio::test(start_paused = true)]
async fn a_watcher_resumes_over_a_restart() {
    let store = Arc::default();
    let registrar = start(&store).await;
    register(&registrar, "accounts", "a").await;
    drop(registrar);
    let registrar = start(&store).await;
    let mut watcher = registrar.watch(vec![], 1);
    assert_eq!(
        watcher.next().await,
        News::Changes {
            revision: 1,
            updates: vec![]
        }
    );
    register(&registrar, "accounts", "b").await;
    assert_eq!(ids(&watcher.next().await), ["+b"]);
    let mut late = registrar.watch(vec![], 1);
    assert_eq!(ids(&late.next().await), ["+b"]);
}

#[tokio::test(start_paused = true)]
async fn a_revision_that_was_never_given_is_answered_by_a_snapshot() {
    let registrar = start(&Arc::default()).await;
    register(&registrar, "accounts", "a").await;
    assert!(matches!(
        registrar.watch(vec![], 7).next().await,
        News::Snapshot { revision: 1, .. }
    ));
}

#[tokio::test(start_paused = true)]
async fn a_watcher_that_fell_behind_is_told_everything_anew() {
    let registrar = start(&Arc::default()).await;
    let mut watcher = registrar.watch(vec![], 0);
    watcher.next().await;
    for n in 0..BACKLOG * 2 {
        register(&registrar, "accounts", &format!("e{n:03}")).await;
    }
    let News::Snapshot { revision, services } = watcher.next().await else {
        panic!("it was told changes")
    };
    assert_eq!((revision, services[0].1.len()), (BACKLOG as u64 * 2, BACKLOG * 2));
    register(&registrar, "accounts", "last").await;
    assert_eq!(ids(&watcher.next().await), ["+last"], "nothing twice");
}

fn rates() -> ServiceName {
    ServiceName::new("rates").unwrap()
}

#[tokio::test(start_paused = true)]
async fn whoever_leaves_waits_until_everybody_who_may_call_acts_by_it() {
    let registrar = start(&Arc::default()).await;
    register(&registrar, "accounts", "a").await;
    let mut caller = registrar.watch(vec!["accounts".to_owned()], 0).confirming(rates());
    let mut earlier = registrar.watch(vec![], 0);
    let mut other = registrar.watch(vec!["cards".to_owned()], 0).confirming(rates());
    caller.next().await;
    assert_eq!(caller.to_confirm(), 0, "it knew of nobody before");
    earlier.next().await;
    other.next().await;
    let revision = registrar.deregister(accounts(), "a".to_owned()).await.unwrap();
    let accounts = accounts();
    let mut heard = pin!(registrar.heard(&accounts, revision, Duration::from_secs(10)));
    assert!(heard.as_mut().now_or_never().is_none(), "nobody was told yet");

    assert_eq!(ids(&caller.next().await), ["-a"]);
    assert_eq!(ids(&earlier.next().await), ["-a"]);
    // Whoever does not confirm has heard what was handed over.
    assert!(earlier.next().now_or_never().is_none());
    assert!(caller.next().now_or_never().is_none());
    assert!(
        heard.as_mut().now_or_never().is_none(),
        "it was told, and does not act by it yet"
    );
    let watch = caller.to_confirm();
    registrar.confirm(&rates(), watch, revision - 1);
    registrar.confirm(&rates(), watch + 1, revision);
    registrar.confirm(&accounts, watch, revision);
    assert!(
        heard.as_mut().now_or_never().is_none(),
        "that was something else, or somebody else"
    );
    registrar.confirm(&rates(), watch, revision);
    assert_eq!(heard.await, 0, "who watches other services is not asked");
}

#[tokio::test(start_paused = true)]
async fn who_does_not_say_that_it_has_heard_is_waited_for_for_a_while_and_who_is_gone_is_not() {
    let registrar = start(&Arc::default()).await;
    register(&registrar, "accounts", "a").await;
    let watch = || registrar.watch(vec![], 0).confirming(rates());
    let (mut silent, mut gone) = (watch(), watch());
    silent.next().await;
    gone.next().await;
    let revision = registrar.deregister(accounts(), "a".to_owned()).await.unwrap();
    silent.next().await;
    gone.next().await;
    let (accounts, began) = (accounts(), tokio::time::Instant::now());
    let limit = Duration::from_secs(2);
    let mut heard = pin!(registrar.heard(&accounts, revision, limit));
    assert!(heard.as_mut().now_or_never().is_none());
    drop(gone);
    assert_eq!((heard.await, began.elapsed()), (1, limit));
    drop(silent);
    assert_eq!(registrar.heard(&accounts, revision, limit).await, 0);
    assert_eq!(began.elapsed(), limit);
}

#[tokio::test(start_paused = true)]
async fn nobody_is_asked_to_confirm_that_a_lease_has_ended_and_everybody_what_starts_over() {
    let registrar = start(&Arc::default()).await;
    register(&registrar, "accounts", "a").await;
    let mut watcher = registrar.watch(vec![], 0).confirming(rates());
    watcher.next().await;
    assert_eq!(ids(&watcher.next().await), ["-a"], "its lease ended");
    assert_eq!(watcher.to_confirm(), 0);
    // One that knows something else than is so.
    let mut watcher = registrar.watch(vec![], 77).confirming(rates());
    assert!(matches!(watcher.next().await, News::Snapshot { .. }));
    assert_ne!(watcher.to_confirm(), 0);
}

#[tokio::test]
async fn a_thousand_watchers_see_every_change_in_order() {
    let registrar = start(&Arc::default()).await;
    let watchers: Vec<_> = (0..1000)
        .map(|_| {
            let mut watcher = registrar.watch(vec![], 0);
            tokio::spawn(async move {
                let mut seen = std::collections::BTreeSet::new();
                while seen.len() < 50 {
                    match watcher.next().await {
                        News::Snapshot { services, .. } => {
                            seen = services
                                .into_iter()
                                .flat_map(|(_, all)| all)
                                .map(|one| one.id.clone())
                                .collect();
                        }
                        News::Changes { updates, .. } => {
                            for update in updates {
                                let Update::Add(endpoint) = update else {
                                    panic!("nothing was removed")
                                };
                                assert!(seen.insert(endpoint.id.clone()), "told twice: {}", endpoint.id);
                            }
                        }
                    }
                }
            })
        })
        .collect();
    for n in 0..50 {
        register(&registrar, "accounts", &format!("e{n}")).await;
    }
    for watcher in watchers {
        watcher.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_stored_is_neither_acknowledged_nor_told() {
    let store = Arc::<InMemory>::default();
    let registrar = start(&store).await;
    register(&registrar, "accounts", "a").await;
    let mut watcher = registrar.watch(vec![], 0);
    watcher.next().await;
    store.broken.store(true, Ordering::Relaxed);
    let refused = registrar.register(accounts(), None, endpoint("accounts", "b")).await;
    assert!(matches!(refused, Err(RegistrarError::NotStored)));
    store.broken.store(false, Ordering::Relaxed);
    assert_eq!(ids(&watcher.next().await), ["a"], "the picture is that of the store");
    assert_eq!(registrar.list(None).await.unwrap().len(), 1);
    register(&registrar, "accounts", "b").await;
    assert_eq!(ids(&watcher.next().await), ["+b"]);
}

#[tokio::test(start_paused = true)]
async fn leases_do_not_end_while_the_control_plane_stands_still() {
    let registrar = start(&Arc::default()).await;
    register(&registrar, "accounts", "a").await;
    let mut watcher = registrar.watch(vec![], 0);
    watcher.next().await;
    // The clock jumps, as it seems to for a process that was stopped.
    tokio::time::advance(Duration::from_secs(120)).await;
    registrar
        .heartbeat(accounts(), "a".to_owned())
        .await
        .expect("it is still known");
    let before = tokio::time::Instant::now();
    assert_eq!(ids(&watcher.next().await), ["-a"], "without further heartbeats it goes");
    assert!(before.elapsed() >= Duration::from_secs(15));
}

#[tokio::test]
async fn members_that_register_at_once_share_a_commit() {
    let store = Arc::<InMemory>::default();
    let registrar = start(&store).await;
    let all: Vec<_> = (0..2000)
        .map(|n| {
            let registrar = registrar.clone();
            tokio::spawn(async move { register(&registrar, "accounts", &format!("e{n}")).await })
        })
        .collect();
    for one in all {
        one.await.unwrap();
    }
    assert_eq!(registrar.list(None).await.unwrap().len(), 2000);
    let commits = store.commits.load(Ordering::Relaxed);
    assert!(commits <= 2000 / GROUP * 2 + 2, "{commits} commits");
}

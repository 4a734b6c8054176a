use std::sync::Arc;

use super::*;
use crate::store::{Answer, Change, Embedded, Store};

const NOW: u64 = 1_790_000_000;
const HOUR: Duration = Duration::from_secs(3600);

struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    async fn open(&self, wish: Option<&str>) -> Result<Authority, AuthorityError> {
        let store = Embedded::open(&self.folder.path().join("mesh.redb")).unwrap();
        let wish = wish.map(|name| TrustDomain::new(name).unwrap());
        Authority::open(Records::new(Arc::new(store)), wish, HOUR, NOW).await
    }
}

fn accounts() -> ServiceName {
    ServiceName::new("accounts").unwrap()
}

fn csr() -> Vec<u8> {
    rcgen::CertificateParams::default()
        .serialize_request(&ca::new_key().unwrap())
        .unwrap()
        .der()
        .to_vec()
}

/// The first SVID of a new member.
async fn first(authority: &Authority, now: u64) -> Svid {
    let (token, _) = authority.create_token(&accounts(), HOUR, now).await.unwrap();
    authority.join(&token.secret(), &csr(), now).await.unwrap()
}

fn roots(authority: &Authority) -> Vec<CertificateDer<'static>> {
    authority.trust().borrow().roots.clone()
}

fn verifies(svid: &Svid, root: &CertificateDer<'_>, now: u64) -> bool {
    webpki::EndEntityCert::try_from(&svid.chain[0])
        .unwrap()
        .verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &[webpki::anchor_from_trusted_cert(root).unwrap()],
            &svid.chain[1..],
            rustls_pki_types::UnixTime::since_unix_epoch(Duration::from_secs(now)),
            webpki::KeyUsage::server_auth(),
            None,
            None,
        )
        .is_ok()
}

#[tokio::test]
async fn a_token_lets_in_once() {
    let bench = Bench::new();
    let authority = bench.open(None).await.unwrap();
    let (token, expires_at) = authority.create_token(&accounts(), HOUR, NOW).await.unwrap();
    assert_eq!(expires_at, NOW + 3600);
    assert_eq!(token.pin(), authority.pin());
    let svid = authority.join(&token.secret(), &csr(), NOW).await.unwrap();
    assert_eq!(svid.spiffe_id.as_str(), "spiffe://mesh.local/service/accounts");
    assert_eq!(svid.chain.len(), 2, "leaf and intermediate, without the root");
    let error = authority.join(&token.secret(), &csr(), NOW + 5).await.unwrap_err();
    assert!(
        matches!(&error, AuthorityError::Join(JoinError::Used { service, ago: 5 }) if service == "accounts"),
        "{error}"
    );
}

#[tokio::test]
async fn whoever_was_let_in_may_ask_again_with_its_key() {
    let bench = Bench::new();
    let authority = bench.open(None).await.unwrap();
    let (token, _) = authority.create_token(&accounts(), HOUR, NOW).await.unwrap();
    let request = csr();
    let first = authority.join(&token.secret(), &request, NOW).await.unwrap();
    let again = authority.join(&token.secret(), &request, NOW + 1).await.unwrap();
    assert_ne!(first.chain[0], again.chain[0]);
    assert_eq!(first.spiffe_id, again.spiffe_id);
    let error = authority.join(&token.secret(), &request, NOW + 3600).await.unwrap_err();
    assert!(matches!(error, AuthorityError::Join(JoinError::Expired { .. })), "{error}");
}

#[tokio::test]
async fn of_many_who_use_a_token_at_once_one_gets_in() {
    let bench = Bench::new();
    let authority = Arc::new(bench.open(None).await.unwrap());
    let (token, _) = authority.create_token(&accounts(), HOUR, NOW).await.unwrap();
    let tries: Vec<_> = (0..16)
        .map(|_| {
            let (authority, secret) = (Arc::clone(&authority), token.secret());
            tokio::spawn(async move { authority.join(&secret, &csr(), NOW).await.is_ok() })
        })
        .collect();
    let mut joined = 0;
    for attempt in tries {
        joined += usize::from(attempt.await.unwrap());
    }
    assert_eq!(joined, 1);
}

#[tokio::test]
async fn a_used_token_stays_used_after_a_restart() {
    let bench = Bench::new();
    let authority = bench.open(None).await.unwrap();
    let (token, _) = authority.create_token(&accounts(), HOUR, NOW).await.unwrap();
    authority.join(&token.secret(), &csr(), NOW).await.unwrap();
    drop(authority);
    let authority = bench.open(None).await.unwrap();
    let error = authority.join(&token.secret(), &csr(), NOW).await.unwrap_err();
    assert!(matches!(error, AuthorityError::Join(JoinError::Used { .. })), "{error}");
}

#[tokio::test]
async fn an_expired_or_unknown_token_is_refused() {
    let bench = Bench::new();
    let authority = bench.open(None).await.unwrap();
    let (token, _) = authority
        .create_token(&accounts(), Duration::from_secs(10), NOW)
        .await
        .unwrap();
    let error = authority.join(&token.secret(), &csr(), NOW + 10).await.unwrap_err();
    assert!(
        matches!(error, AuthorityError::Join(JoinError::Expired { ago: 0, .. })),
        "{error}"
    );
    let (foreign, _) = new_token(authority.pin()).unwrap();
    for secret in ["", "x", &foreign.secret()] {
        let error = authority.join(secret, &csr(), NOW).await.unwrap_err();
        assert!(matches!(error, AuthorityError::Join(JoinError::Unknown)), "{error}");
    }
}

#[tokio::test]
async fn a_bad_request_does_not_use_the_token_up() {
    let bench = Bench::new();
    let authority = bench.open(None).await.unwrap();
    let (token, _) = authority.create_token(&accounts(), HOUR, NOW).await.unwrap();
    assert!(matches!(
        authority.join(&token.secret(), b"no request", NOW).await,
        Err(AuthorityError::Csr(CsrError::Form))
    ));
    authority.join(&token.secret(), &csr(), NOW).await.unwrap();
}

#[tokio::test]
async fn the_root_and_the_trust_domain_outlive_a_restart() {
    let bench = Bench::new();
    let authority = bench.open(Some("bank.test")).await.unwrap();
    let (before, pin) = (roots(&authority), authority.pin());
    let old = first(&authority, NOW).await;
    drop(authority);
    let authority = bench.open(None).await.unwrap();
    assert_eq!(authority.trust_domain().as_str(), "bank.test");
    assert_eq!((roots(&authority), authority.pin()), (before, pin));
    let new = authority.renew(&accounts(), &old.serial, &csr(), NOW).await.unwrap();
    assert_eq!(old.chain[1], new.chain[1], "the intermediate, too");
    assert_eq!(
        authority.identities(NOW).await.unwrap().len(),
        2,
        "issued identities are remembered"
    );
}

#[tokio::test]
async fn another_trust_domain_on_the_same_data_is_refused() {
    let bench = Bench::new();
    drop(bench.open(Some("bank.test")).await.unwrap());
    let error = bench.open(Some("other.test")).await.err().unwrap();
    assert!(error.to_string().contains("`bank.test`, not `other.test`"), "{error}");
    assert!(bench.open(Some("bank.test")).await.is_ok());
}

#[tokio::test]
async fn the_intermediate_is_renewed_under_the_same_root() {
    let bench = Bench::new();
    let authority = bench.open(None).await.unwrap();
    let before = first(&authority, NOW).await;
    let later = NOW + 70 * 24 * 60 * 60;
    authority.keep_house(later).await.unwrap();
    let after = first(&authority, later).await;
    assert_ne!(before.chain[1], after.chain[1]);
    assert!(verifies(&after, &roots(&authority)[0], later));
    assert_eq!(
        authority.identities(later).await.unwrap().len(),
        1,
        "what expired is forgotten"
    );
}

#[tokio::test]
async fn the_control_plane_has_its_own_id() {
    let bench = Bench::new();
    let authority = bench.open(None).await.unwrap();
    assert_eq!(
        authority.own_svid(&csr(), NOW).await.unwrap().spiffe_id.as_str(),
        "spiffe://mesh.local/control-plane"
    );
}

#[tokio::test]
async fn a_new_root_is_vouched_for_until_nobody_needs_the_one_before() {
    let bench = Bench::new();
    let authority = bench.open(None).await.unwrap();
    let own = authority.own_svid(&csr(), NOW).await.unwrap();
    authority.shows_own();
    let old = first(&authority, NOW).await;
    let before = roots(&authority);
    let pin = authority.rotate(NOW).await.unwrap();
    let [next, last] = &roots(&authority)[..] else { panic!() };
    assert_eq!(*last, before[0]);
    let new = authority.renew(&accounts(), &old.serial, &csr(), NOW).await.unwrap();
    assert!(verifies(&new, next, NOW) && verifies(&new, last, NOW));
    assert!(verifies(&old, last, NOW) && !verifies(&old, next, NOW));

    // Nothing is taken from whoever has not shown the new one, and nothing from the control plane.
    assert_ne!(authority.pin(), pin, "the control plane does not show the new root yet");
    authority.saw(&new.serial);
    let needed = authority.retire(NOW).await.unwrap_err().to_string();
    assert!(
        needed.contains("spiffe://mesh.local/control-plane") && !needed.contains("accounts"),
        "{needed}"
    );
    let renewed = authority.own_svid(&csr(), NOW).await.unwrap();
    assert!(verifies(&renewed, next, NOW) && verifies(&own, last, NOW));
    assert!(authority.advance(NOW).await.unwrap(), "it is made and not shown");
    authority.shows_own();
    assert_eq!(authority.pin(), pin);
    assert!(!authority.advance(NOW).await.unwrap());
    assert_eq!(roots(&authority).len(), 1);
    let latest = authority.renew(&accounts(), &new.serial, &csr(), NOW).await.unwrap();
    assert_eq!(latest.chain.len(), 2, "nobody vouches for it any more");
}

#[tokio::test]
async fn what_is_over_holds_no_root_up() {
    let bench = Bench::new();
    let authority = bench.open(None).await.unwrap();
    first(&authority, NOW).await;
    authority.rotate(NOW).await.unwrap();
    assert!(authority.advance(NOW + 3600).await.unwrap());
    assert!(!authority.advance(NOW + 3601).await.unwrap());
}

#[tokio::test]
async fn a_rotation_goes_on_after_a_restart_without_the_key_of_the_root_before() {
    let bench = Bench::new();
    let authority = bench.open(None).await.unwrap();
    authority.own_svid(&csr(), NOW).await.unwrap();
    let old = first(&authority, NOW).await;
    authority.rotate(NOW).await.unwrap();
    let before = roots(&authority);
    drop(authority);
    let authority = bench.open(None).await.unwrap();
    assert_eq!(roots(&authority), before);
    let needed = authority.retire(NOW).await.unwrap_err().to_string();
    assert!(needed.contains("accounts") && !needed.contains("control-plane"), "{needed}");
    let svid = authority.renew(&accounts(), &old.serial, &csr(), NOW).await.unwrap();
    assert!(before.iter().all(|root| verifies(&svid, root, NOW)));
    let (record, _) = authority.records.authority().await.unwrap().unwrap();
    let record = serde_json::to_value(record.retiring.unwrap()).unwrap();
    let fields: Vec<_> = record.as_object().unwrap().keys().collect();
    assert_eq!(fields, ["certificate", "crossed"]);
}

#[tokio::test]
async fn an_svid_that_was_replaced_buys_no_other() {
    let bench = Bench::new();
    let authority = bench.open(None).await.unwrap();
    let old = first(&authority, NOW).await;
    let lost = authority.renew(&accounts(), &old.serial, &csr(), NOW).await.unwrap();
    let new = authority.renew(&accounts(), &old.serial, &csr(), NOW).await.unwrap();
    authority.saw(&new.serial);
    let refused = authority.renew(&accounts(), &old.serial, &csr(), NOW).await.unwrap_err();
    assert!(matches!(refused, AuthorityError::Replaced(_)), "{refused}");
    // Hours later by a clock that was set, the last one still does.
    authority.keep_house(NOW + 5 * 3600).await.unwrap();
    authority
        .renew(&accounts(), &new.serial, &csr(), NOW + 5 * 3600)
        .await
        .unwrap();
    drop(lost);
}

#[tokio::test]
async fn a_clock_that_was_set_back_gets_an_intermediate_of_its_time() {
    let bench = Bench::new();
    let authority = bench.open(None).await.unwrap();
    let old = first(&authority, NOW).await;
    let then = NOW - 5 * 3600;
    authority.keep_house(then).await.unwrap();
    let svid = authority.renew(&accounts(), &old.serial, &csr(), then).await.unwrap();
    assert!(verifies(&svid, &roots(&authority)[0], then));
}

#[tokio::test]
async fn what_let_a_member_in_is_remembered_for_as_long_as_the_member_lives() {
    let bench = Bench::new();
    let authority = bench.open(None).await.unwrap();
    let mut svid = first(&authority, NOW).await;
    for hour in 1..100 {
        let now = NOW + hour * 3600;
        svid = authority.renew(&accounts(), &svid.serial, &csr(), now).await.unwrap();
        authority.saw(&svid.serial);
        authority.keep_house(now).await.unwrap();
    }
    let now = NOW + 100 * 3600;
    let entries = authority.entries(now - 3600).await.unwrap();
    assert_eq!((entries.len(), entries[0].identities), (1, 1));
    assert_eq!(authority.identities(NOW).await.unwrap().len(), 1, "and no more than it needs");
    authority.keep_house(now + 60 * 3600).await.unwrap();
    assert_eq!(authority.records.tokens().await.unwrap(), [], "when it is gone, so is that");
}

#[tokio::test]
async fn what_is_removed_lets_nobody_in_and_renews_nothing() {
    let bench = Bench::new();
    let authority = bench.open(None).await.unwrap();
    let mut trust = authority.trust();
    let (mine, other) = (first(&authority, NOW).await, first(&authority, NOW).await);
    let record = authority.records.identity(&mine.serial).await.unwrap().unwrap();
    let id = record.entry.unwrap();
    assert_eq!(authority.remove_entry(&id, NOW).await.unwrap(), 1);
    assert_eq!(trust.borrow_and_update().revoked, std::slice::from_ref(&mine.serial));
    let refused = authority.renew(&accounts(), &mine.serial, &csr(), NOW).await.unwrap_err();
    assert!(matches!(refused, AuthorityError::Removed(_)), "{refused}");
    authority.renew(&accounts(), &other.serial, &csr(), NOW).await.unwrap();
    let again = authority.remove_entry(&id, NOW).await.unwrap_err();
    assert!(matches!(again, AuthorityError::NoEntry(_)), "{again}");
    drop(authority);
    let authority = bench.open(None).await.unwrap();
    assert_eq!(authority.trust().borrow().revoked, [mine.serial], "a restart forgets nothing");
    authority.keep_house(NOW + 26 * 3600).await.unwrap();
    assert!(authority.trust().borrow().revoked.is_empty(), "but what is over");
}

#[tokio::test]
async fn a_removal_counts_nothing_that_is_replaced_beside_it() {
    let bench = Bench::new();
    let authority = Arc::new(bench.open(None).await.unwrap());
    authority.own_svid(&csr(), NOW).await.unwrap();
    authority.shows_own();
    let svid = first(&authority, NOW).await;
    let id = entry_of(&authority, &svid).await;
    authority.own_svid(&csr(), NOW).await.unwrap();
    let (mut trust, showing) = (authority.trust(), Arc::clone(&authority));
    let showing = tokio::spawn(async move {
        trust.changed().await.unwrap();
        showing.shows_own();
    });
    assert_eq!(authority.remove_entry(&id, NOW).await.unwrap(), 1);
    showing.await.unwrap();
}

/// A store in which what records an identity waits until it may.
struct Gate {
    store: Embedded,
    passes: tokio::sync::Semaphore,
    waiting: tokio::sync::Notify,
}

impl Store for Gate {
    fn read(&self, table: Table, key: &str) -> Answer<'_, Option<Vec<u8>>> {
        self.store.read(table, key)
    }

    fn scan(&self, table: Table) -> Answer<'_, Vec<(String, Vec<u8>)>> {
        self.store.scan(table)
    }

    fn dump(&self) -> Answer<'_, Vec<(Table, String, Vec<u8>)>> {
        self.store.dump()
    }

    fn commit(&self, batch: Batch) -> Answer<'_, Outcome> {
        let is_identity = |change: &Change| {
            matches!(
                change,
                Change::Put {
                    table: Table::Identities,
                    ..
                }
            )
        };
        Box::pin(async move {
            if batch.changes.iter().any(is_identity) {
                self.waiting.notify_one();
                self.passes.acquire().await.unwrap().forget();
            }
            self.store.commit(batch).await
        })
    }
}

#[tokio::test]
async fn who_renews_while_its_entry_is_removed_gets_no_svid() {
    let bench = Bench::new();
    let gate = Arc::new(Gate {
        store: Embedded::open(&bench.folder.path().join("mesh.redb")).unwrap(),
        passes: tokio::sync::Semaphore::new(1),
        waiting: tokio::sync::Notify::new(),
    });
    let records = Records::new(Arc::clone(&gate) as Arc<dyn Store>);
    let authority = Arc::new(Authority::open(records, None, HOUR, NOW).await.unwrap());
    let svid = first(&authority, NOW).await;
    gate.waiting.notified().await;
    let id = entry_of(&authority, &svid).await;

    let (renewing, serial) = (Arc::clone(&authority), svid.serial.clone());
    let renewing = tokio::spawn(async move { renewing.renew(&accounts(), &serial, &csr(), NOW).await });
    // The entry was there when it looked, and what it issues is signed.
    gate.waiting.notified().await;
    assert_eq!(authority.remove_entry(&id, NOW).await.unwrap(), 1);
    gate.passes.add_permits(100);
    let refused = renewing.await.unwrap().unwrap_err();
    assert!(matches!(refused, AuthorityError::Removed(_)), "{refused}");
    assert_eq!(authority.records.identities().await.unwrap().len(), 1);
    assert_eq!(authority.trust().borrow().revoked, [svid.serial]);
}

/// The id of what an SVID was issued under.
async fn entry_of(authority: &Authority, svid: &Svid) -> String {
    let record = authority.records.identity(&svid.serial).await.unwrap();
    record.unwrap().entry.unwrap()
}

fn believes(authority: &Authority, svid: &Svid) -> bool {
    let trust = authority.trust().borrow().clone();
    let bundle = mesh_client::tls::Bundle::new(authority.trust_domain().clone(), trust.roots.clone()).unwrap();
    let bundle = bundle.revoking(trust.revoked.iter().filter_map(|serial| unhex(serial)));
    !bundle.revokes(&unhex(&svid.serial).unwrap())
}

#[tokio::test]
async fn a_removal_reaches_connections_that_are_older_than_the_record_of_their_svid() {
    let bench = Bench::new();
    let authority = bench.open(None).await.unwrap();
    let (old, other) = (first(&authority, NOW).await, first(&authority, NOW).await);
    let later = NOW + 1800;
    let new = authority.renew(&accounts(), &old.serial, &csr(), later).await.unwrap();
    authority.saw(&new.serial);
    authority.keep_house(NOW + 3700).await.unwrap();
    assert_eq!(
        authority.records.identity(&old.serial).await.unwrap(),
        None,
        "it is over, and replaced"
    );
    assert!(believes(&authority, &old), "its connections live on");
    let id = entry_of(&authority, &new).await;
    authority.remove_entry(&id, NOW + 3700).await.unwrap();
    assert!(!believes(&authority, &old) && !believes(&authority, &new) && believes(&authority, &other));
    assert!(authority.is_revoked(&old.serial) && !authority.is_revoked(&other.serial));
}

/// What a backup from before does not hold.
async fn lose(authority: &Authority, svid: &Svid, id: Option<&str>) {
    let mut batch = Batch::default();
    batch.delete(Table::Identities, &svid.serial);
    if let Some(id) = id {
        batch.delete(Table::Tokens, id);
    }
    let _ = authority.records.commit(batch).await.unwrap();
}

async fn renew(authority: &Authority, svid: &Svid, now: u64) -> Result<Svid, AuthorityError> {
    authority.recall(&accounts(), &svid.serial, svid.not_after, now).await?;
    authority.renew(&accounts(), &svid.serial, &csr(), now).await
}

#[tokio::test]
async fn what_a_restored_store_does_not_know_is_renewed_under_what_it_was_issued_under() {
    let bench = Bench::new();
    let authority = bench.open(None).await.unwrap();
    let svid = first(&authority, NOW).await;
    let id = entry_of(&authority, &svid).await;
    lose(&authority, &svid, None).await;
    let renewed = renew(&authority, &svid, NOW + 5).await.unwrap();
    assert_eq!(entry_of(&authority, &renewed).await, id);

    // The store is older than that, too.
    lose(&authority, &svid, None).await;
    lose(&authority, &renewed, Some(&id)).await;
    let again = renew(&authority, &renewed, NOW + 10).await.unwrap();
    let entries = authority.entries(NOW + 10).await.unwrap();
    assert_eq!((entries.len(), entries[0].service.as_str()), (1, "accounts"));
    assert_eq!(authority.remove_entry(&entries[0].id, NOW + 10).await.unwrap(), 2);
    for gone in [&svid, &renewed, &again] {
        assert!(!believes(&authority, gone));
        let refused = renew(&authority, gone, NOW + 10).await.unwrap_err();
        assert!(matches!(refused, AuthorityError::Removed(_)), "{refused}");
    }
}

#[tokio::test]
async fn what_is_over_and_not_known_buys_nothing() {
    let bench = Bench::new();
    let authority = bench.open(None).await.unwrap();
    let old = first(&authority, NOW).await;
    let new = renew(&authority, &old, NOW + 1800).await.unwrap();
    authority.saw(&new.serial);
    authority.keep_house(NOW + 3700).await.unwrap();
    // It was replaced, which is forgotten by now.
    let refused = renew(&authority, &old, NOW + 3700).await.unwrap_err();
    assert!(matches!(refused, AuthorityError::Forgotten(_)), "{refused}");
    let refused = authority.renew(&accounts(), &old.serial, &csr(), NOW).await.unwrap_err();
    assert!(matches!(refused, AuthorityError::Forgotten(_)), "{refused}");
}

/// A process that counts how often its program is read.
struct Process {
    facts: Facts,
    reads: std::sync::atomic::AtomicUsize,
}

impl Process {
    fn new() -> Self {
        let facts = Facts {
            uid: 1000,
            gid: 100,
            path: Some("/usr/bin/accounts".to_owned()),
            sha256: None,
        };
        Self { facts, reads: 0.into() }
    }
}

impl Workload for Process {
    fn facts(&self) -> Facts {
        self.facts.clone()
    }

    async fn hashed(&self) -> Facts {
        self.reads.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Facts {
            sha256: Some([7; 32]),
            ..self.facts()
        }
    }
}

fn selectors(texts: &[&str]) -> std::collections::BTreeSet<Selector> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[tokio::test]
async fn a_program_is_read_only_where_its_hash_decides() {
    let bench = Bench::new();
    let authority = bench.open(None).await.unwrap();
    let process = Process::new();
    let sha256 = format!("unix:sha256:{}", "07".repeat(32));
    let attest = async || authority.attest(&process, None, &csr(), NOW).await;
    let reads = || process.reads.load(std::sync::atomic::Ordering::Relaxed);
    authority
        .create_entry(&accounts(), &selectors(&["unix:uid:1", &sha256]), NOW)
        .await
        .unwrap();
    assert!(matches!(attest().await, Err(AuthorityError::Join(JoinError::NoEntry { .. }))));
    let wide = authority
        .create_entry(&accounts(), &selectors(&["unix:uid:1000"]), NOW)
        .await
        .unwrap();
    attest().await.unwrap();
    assert_eq!(reads(), 0);
    let narrow = authority
        .create_entry(&accounts(), &selectors(&["unix:uid:1000", &sha256]), NOW)
        .await
        .unwrap();
    let svid = attest().await.unwrap();
    assert_eq!(reads(), 1);
    let record = authority.records.identity(&svid.serial).await.unwrap().unwrap();
    assert_eq!(
        record.entry,
        Some(narrow.clone()),
        "the one that says most is the one that lets in"
    );
    authority.remove_entry(&narrow, NOW).await.unwrap();
    assert_eq!(authority.trust().borrow().revoked, [svid.serial]);
    attest().await.unwrap();
    authority.remove_entry(&wide, NOW).await.unwrap();
    assert!(attest().await.is_err());
}

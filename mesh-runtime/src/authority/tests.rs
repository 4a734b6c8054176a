use std::sync::Arc;

use super::*;
use crate::store::Embedded;

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
    let (roots, pin) = (authority.roots(), authority.pin());
    let old = authority.renew(&accounts(), &csr(), NOW).await.unwrap();
    drop(authority);
    let authority = bench.open(None).await.unwrap();
    assert_eq!(authority.trust_domain().as_str(), "bank.test");
    assert_eq!((authority.roots(), authority.pin()), (roots, pin));
    let new = authority.renew(&accounts(), &csr(), NOW).await.unwrap();
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
    let before = authority.renew(&accounts(), &csr(), NOW).await.unwrap();
    let later = NOW + 70 * 24 * 60 * 60;
    authority.keep_house(later).await.unwrap();
    let after = authority.renew(&accounts(), &csr(), later).await.unwrap();
    assert_ne!(before.chain[1], after.chain[1]);
    let anchor = authority.roots();
    let anchors = [webpki::anchor_from_trusted_cert(&anchor[0]).unwrap()];
    webpki::EndEntityCert::try_from(&after.chain[0])
        .unwrap()
        .verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &anchors,
            &after.chain[1..],
            rustls_pki_types::UnixTime::since_unix_epoch(Duration::from_secs(later)),
            webpki::KeyUsage::server_auth(),
            None,
            None,
        )
        .unwrap();
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

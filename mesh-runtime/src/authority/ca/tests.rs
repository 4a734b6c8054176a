use rcgen::{PKCS_ECDSA_P384_SHA384, PKCS_ED25519};
use x509_parser::extensions::GeneralName;

use super::*;

const NOW: u64 = 1_790_000_000;

fn bank() -> TrustDomain {
    TrustDomain::new("bank.test").unwrap()
}

fn id(path: &str) -> SpiffeId {
    SpiffeId::new(&bank(), path).unwrap()
}

fn csr(key: &KeyPair) -> Vec<u8> {
    CertificateParams::default().serialize_request(key).unwrap().der().to_vec()
}

fn uris<'a>(certificate: &'a X509Certificate<'a>) -> Vec<&'a str> {
    let names = certificate.subject_alternative_name().unwrap().unwrap();
    let uri = |name: &GeneralName<'a>| match name {
        GeneralName::URI(uri) => *uri,
        other => panic!("{other:?} is no URI"),
    };
    names.value.general_names.iter().map(uri).collect()
}

struct Chain {
    root: Signer,
    intermediate: Signer,
    leaf: Leaf,
    key: KeyPair,
}

fn chain() -> Chain {
    let root = Signer::root(&bank(), NOW).unwrap();
    let intermediate = root.intermediate(&bank(), NOW).unwrap();
    let key = new_key().unwrap();
    let leaf = intermediate
        .sign(&id("/service/accounts"), &proven_key(&csr(&key)).unwrap(), None, NOW, 3600)
        .unwrap();
    Chain {
        root,
        intermediate,
        leaf,
        key,
    }
}

#[test]
fn an_svid_is_what_spiffe_demands() {
    let chain = chain();
    let (_, leaf) = X509Certificate::from_der(&chain.leaf.certificate).unwrap();
    assert_eq!(uris(&leaf), ["spiffe://bank.test/service/accounts"]);
    assert!(!leaf.is_ca());
    let usage = leaf.key_usage().unwrap().unwrap().value;
    assert!(usage.digital_signature() && !usage.key_cert_sign() && !usage.crl_sign());
    let extended = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.server_auth && extended.client_auth && !extended.any);
    assert_eq!(
        leaf.validity().not_before.timestamp(),
        NOW as i64 - 60,
        "peers' clocks may be a minute behind"
    );
    assert_eq!(leaf.validity().not_after.timestamp(), NOW as i64 + 3600);
    assert_eq!(
        leaf.public_key().raw,
        chain.key.subject_public_key_info(),
        "it is for the key of the request"
    );
}

#[test]
fn signing_certificates_name_the_trust_domain_and_may_only_sign() {
    let chain = chain();
    for (signer, below) in [(&chain.root, 2), (&chain.intermediate, 0)] {
        let (_, certificate) = X509Certificate::from_der(signer.certificate()).unwrap();
        assert_eq!(uris(&certificate), ["spiffe://bank.test"]);
        let constraints = certificate.basic_constraints().unwrap().unwrap();
        assert!(constraints.critical && constraints.value.ca);
        assert_eq!(constraints.value.path_len_constraint, Some(below));
        let usage = certificate.key_usage().unwrap().unwrap();
        assert!(usage.critical && usage.value.key_cert_sign() && usage.value.crl_sign() && !usage.value.digital_signature());
    }
}

#[test]
fn the_chain_ends_in_the_root() {
    let chain = chain();
    let roots = [webpki::anchor_from_trusted_cert(chain.root.certificate()).unwrap()];
    let leaf = webpki::EndEntityCert::try_from(&chain.leaf.certificate).unwrap();
    let verify = |now: u64, usage| {
        leaf.verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &roots,
            std::slice::from_ref(chain.intermediate.certificate()),
            rustls_pki_types::UnixTime::since_unix_epoch(std::time::Duration::from_secs(now)),
            usage,
            None,
            None,
        )
        .map(|_| ())
    };
    assert!(verify(NOW, webpki::KeyUsage::server_auth()).is_ok());
    assert!(verify(NOW, webpki::KeyUsage::client_auth()).is_ok());
    assert!(verify(NOW + 3601, webpki::KeyUsage::server_auth()).is_err(), "expired");
    assert!(verify(NOW - 61, webpki::KeyUsage::server_auth()).is_err(), "not valid yet");
}

#[test]
fn a_new_svid_has_four_tenths_of_its_life_until_its_half() {
    let chain = chain();
    let key = proven_key(&csr(&chain.key)).unwrap();
    for lifetime in [10, 30, 60, 120, 600, 3600, 86_400] {
        let leaf = chain
            .intermediate
            .sign(&id("/service/accounts"), &key, None, NOW, lifetime)
            .unwrap();
        let half = (leaf.not_before + leaf.not_after) / 2;
        assert!(half >= NOW + lifetime * 4 / 10, "{lifetime} s");
    }
}

#[test]
fn an_svid_never_outlives_its_issuer() {
    let chain = chain();
    let key = proven_key(&csr(&chain.key)).unwrap();
    let late = NOW + INTERMEDIATE_LIFETIME - 10;
    let leaf = chain
        .intermediate
        .sign(&id("/service/accounts"), &key, None, late, 3600)
        .unwrap();
    assert_eq!(leaf.not_after, NOW + INTERMEDIATE_LIFETIME);
}

#[test]
fn an_intermediate_is_due_a_month_before_it_ends() {
    let chain = chain();
    assert!(!chain.intermediate.is_due(NOW + 59 * DAY));
    assert!(chain.intermediate.is_due(NOW + 61 * DAY));
}

#[test]
fn an_intermediate_that_has_not_begun_is_due() {
    let chain = chain();
    assert!(!chain.intermediate.is_due(NOW - 59));
    assert!(chain.intermediate.is_due(NOW - 61), "the clock was set back");
}

#[test]
fn a_new_root_is_vouched_for_by_the_one_before() {
    let chain = chain();
    let next = Signer::root(&bank(), NOW).unwrap();
    let crossed = next.crossed(&chain.root, &bank(), NOW).unwrap();
    let intermediate = next.intermediate(&bank(), NOW).unwrap();
    let key = proven_key(&csr(&chain.key)).unwrap();
    let leaf = intermediate.sign(&id("/service/accounts"), &key, None, NOW, 3600).unwrap();
    let verify = |root: &Signer, signers: &[CertificateDer<'_>]| {
        webpki::EndEntityCert::try_from(&leaf.certificate)
            .unwrap()
            .verify_for_usage(
                webpki::ALL_VERIFICATION_ALGS,
                &[webpki::anchor_from_trusted_cert(root.certificate()).unwrap()],
                signers,
                rustls_pki_types::UnixTime::since_unix_epoch(std::time::Duration::from_secs(NOW)),
                webpki::KeyUsage::server_auth(),
                None,
                None,
            )
            .is_ok()
    };
    let whole = [intermediate.certificate().clone(), crossed];
    assert!(verify(&next, &whole) && verify(&chain.root, &whole));
    assert!(verify(&next, &whole[..1]) && !verify(&chain.root, &whole[..1]));
    let stranger = Signer::root(&bank(), NOW).unwrap();
    assert!(!verify(&stranger, &whole));
}

#[test]
fn a_signer_survives_its_record() {
    let chain = chain();
    let again = Signer::from_record(&chain.intermediate.to_record()).unwrap();
    assert_eq!(again.certificate(), chain.intermediate.certificate());
    assert_eq!(again.spki(), chain.intermediate.spki());
    assert_eq!(again.not_after, chain.intermediate.not_after);
}

#[test]
fn no_two_serials_are_the_same() {
    let (one, other) = (chain(), chain());
    assert_ne!(one.leaf.serial, other.leaf.serial);
    assert_eq!(one.leaf.serial.len(), 2 * SERIAL_BYTES);
    let (_, parsed) = X509Certificate::from_der(&one.leaf.certificate).unwrap();
    assert_eq!(hex(&parsed.serial.to_bytes_be()), one.leaf.serial);
}

#[test]
fn names_in_a_request_do_not_count() {
    let root = Signer::root(&bank(), NOW).unwrap();
    let intermediate = root.intermediate(&bank(), NOW).unwrap();
    let key = new_key().unwrap();
    let mut params = CertificateParams::new(vec!["bank.test".to_owned()]).unwrap();
    params
        .subject_alt_names
        .push(SanType::URI("spiffe://bank.test/control-plane".try_into().unwrap()));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let greedy = params.serialize_request(&key).unwrap().der().to_vec();
    let leaf = intermediate
        .sign(&id("/service/a"), &proven_key(&greedy).unwrap(), None, NOW, 60)
        .unwrap();
    let (_, leaf) = X509Certificate::from_der(&leaf.certificate).unwrap();
    assert_eq!(uris(&leaf), ["spiffe://bank.test/service/a"]);
    assert!(!leaf.is_ca());
    assert!(!leaf.key_usage().unwrap().unwrap().value.key_cert_sign());
}

#[test]
fn a_request_signed_with_another_key_is_refused() {
    let (mine, other) = (new_key().unwrap(), new_key().unwrap());
    let mut request = csr(&mine);
    let (mine, other) = (mine.subject_public_key_info(), other.subject_public_key_info());
    let place = request.windows(mine.len()).position(|window| window == mine).unwrap();
    request[place..place + other.len()].copy_from_slice(&other);
    assert_eq!(proven_key(&request), Err(CsrError::Possession));
}

#[test]
fn other_kinds_of_keys_are_refused() {
    for algorithm in [&PKCS_ED25519, &PKCS_ECDSA_P384_SHA384] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        assert_eq!(proven_key(&csr(&key)), Err(CsrError::Algorithm));
    }
}

#[test]
fn no_bytes_make_the_reader_panic() {
    let request = csr(&new_key().unwrap());
    for end in 0..request.len() {
        assert!(proven_key(&request[..end]).is_err(), "cut at {end}");
    }
    for place in 0..request.len() {
        let mut broken = request.clone();
        broken[place] ^= 0x55;
        let _ = proven_key(&broken);
    }
    assert_eq!(
        proven_key(&[&request[..], b"x"].concat()),
        Err(CsrError::Form),
        "nothing may follow"
    );
    assert_eq!(proven_key(&vec![0x30; MAX_CSR + 1]), Err(CsrError::Length(MAX_CSR + 1)));
}

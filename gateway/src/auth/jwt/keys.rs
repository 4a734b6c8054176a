//! The keys that check tokens.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::crypto::JwtVerifier;
#[cfg(not(any(feature = "aws-lc-rs", feature = "rust-crypto")))]
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind};

/// A key that checks tokens.
#[derive(Debug)]
pub struct Key {
    /// The `[auth.NAME]` that it belongs to.
    pub auth: String,
    /// Its `kid`, where it has one.
    pub id: Option<String>,
    /// The algorithms that it is good for.
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

/// The most keys of a set that is fetched.
pub(crate) const MAX_FETCHED: usize = 64;

/// The algorithms that share a secret between issuer and gateway.
pub(crate) fn is_symmetric(algorithm: Algorithm) -> bool {
    algorithm.family() == AlgorithmFamily::Hmac
}

impl Key {
    /// Whether it checks signatures of this algorithm. That a public key is never taken for a shared secret is decided here
    /// (RFC 8725 §2.1).
    pub(crate) fn fits(&self, algorithm: Algorithm) -> bool {
        self.algorithms.contains(&algorithm)
    }

    /// Whether a signature is right.
    pub(crate) fn verify(&self, algorithm: Algorithm, message: &str, signature: &str) -> bool {
        if !self.fits(algorithm) {
            return false;
        }
        let Ok(signature) = URL_SAFE_NO_PAD.decode(signature) else {
            return false;
        };
        verifier(algorithm, &self.key).is_ok_and(|verifier| verifier.verify(message.as_bytes(), &signature).is_ok())
    }

    /// The shared secret of HS256, HS384 and HS512.
    ///
    /// # Errors
    /// Where it is shorter than an algorithm's hash, which RFC 7518 §3.2 forbids.
    pub(crate) fn secret(auth: &str, id: Option<String>, secret: &[u8], algorithms: &[Algorithm]) -> Result<Self, String> {
        let needed = algorithms.iter().copied().filter_map(hash_length).max().unwrap_or(0);
        if secret.len() < needed {
            return Err(format!(
                "the secret has {} bytes, and its algorithms need at least {needed} (RFC 7518 §3.2)",
                secret.len()
            ));
        }
        let algorithms = algorithms
            .iter()
            .copied()
            .filter(|&algorithm| is_symmetric(algorithm))
            .collect();
        Ok(Self {
            auth: auth.to_owned(),
            id,
            algorithms,
            key: DecodingKey::from_secret(secret),
        })
    }

    /// A public key in PEM form.
    ///
    /// # Errors
    /// Where it is no public key that the algorithms can use.
    pub(crate) fn pem(auth: &str, pem: &[u8], algorithms: &[Algorithm]) -> Result<Self, String> {
        let text = String::from_utf8_lossy(pem);
        if text.contains("PRIVATE KEY-----") {
            return Err("this is a private key; the gateway needs only the public one".to_owned());
        }
        if text.contains("-----BEGIN CERTIFICATE-----") {
            return Err("this is a certificate; take its public key out: openssl x509 -pubkey -noout".to_owned());
        }
        let key = DecodingKey::from_ec_pem(pem)
            .or_else(|_| DecodingKey::from_ed_pem(pem))
            .or_else(|_| DecodingKey::from_rsa_pem(pem))
            .map_err(|_| "this is no public key of RSA, P-256, P-384 or Ed25519 in PEM form (BEGIN PUBLIC KEY)".to_owned())?;
        Self::public(auth, None, key, algorithms)
    }

    fn public(auth: &str, id: Option<String>, key: DecodingKey, algorithms: &[Algorithm]) -> Result<Self, String> {
        let good_for = good_for(&key)?;
        let algorithms: Vec<_> = algorithms
            .iter()
            .copied()
            .filter(|algorithm| good_for.contains(algorithm))
            .collect();
        if algorithms.is_empty() {
            return Err(format!(
                "this key is for {}, none of which is among the algorithms",
                names(good_for)
            ));
        }
        Ok(Self {
            auth: auth.to_owned(),
            id,
            algorithms,
            key,
        })
    }
}

/// The keys of a JWK set (RFC 7517 §5) that these algorithms can use. Keys for encryption are left out, as are keys of kinds that
/// are unknown here.
///
/// # Errors
/// Where the set is malformed, a key contradicts itself, two keys have one name, or no key is left.
pub(crate) fn jwk_set(auth: &str, json: &[u8], algorithms: &[Algorithm]) -> Result<Vec<Key>, String> {
    let set: JwkSet = serde_json::from_slice(json).map_err(|error| format!("this is no JWK set: {error}"))?;
    let mut keys: Vec<Key> = Vec::new();
    for (at, jwk) in set.keys.iter().enumerate() {
        let name = jwk
            .common
            .key_id
            .as_ref()
            .map_or_else(|| format!("key {}", at + 1), |id| format!("key `{id}`"));
        if let Some(key) = from_jwk(auth, jwk, algorithms).map_err(|error| format!("{name}: {error}"))? {
            if keys.iter().any(|other| other.id.is_some() && other.id == key.id) {
                return Err(format!("{name} comes twice"));
            }
            keys.push(key);
        }
    }
    if keys.is_empty() {
        return Err(format!("no key of this set checks signatures by {}", names(algorithms)));
    }
    Ok(keys)
}

/// The keys of a set that an issuer publishes, each with its text. What of it cannot be used is left out, and not an error: an
/// issuer may add keys of a kind that nobody here has heard of. Of two keys with one name the first counts.
///
/// # Errors
/// Where it is no set, has more than [`MAX_FETCHED`] keys, or none that is left.
pub(crate) fn fetched_set(auth: &str, json: &[u8], algorithms: &[Algorithm]) -> Result<Vec<(Key, Box<str>)>, String> {
    #[derive(serde::Deserialize)]
    struct Set {
        keys: Vec<serde_json::Value>,
    }
    let set: Set = serde_json::from_slice(json).map_err(|error| format!("this is no JWK set: {error}"))?;
    if set.keys.len() > MAX_FETCHED {
        return Err(format!("the set has more than {MAX_FETCHED} keys"));
    }
    let mut keys: Vec<(Key, Box<str>)> = Vec::new();
    for text in set.keys.iter().map(ToString::to_string) {
        let Some(key) = fetched(auth, &text, algorithms) else {
            continue;
        };
        if !keys.iter().any(|(other, _)| other.id.is_some() && other.id == key.id) {
            keys.push((key, text.into()));
        }
    }
    match keys.is_empty() {
        false => Ok(keys),
        true => Err(format!("no key of this set checks signatures by {}", names(algorithms))),
    }
}

/// The key of one JWK's text, where it is one that a public key's algorithms can use.
pub(crate) fn fetched(auth: &str, jwk: &str, algorithms: &[Algorithm]) -> Option<Key> {
    let jwk: Jwk = serde_json::from_str(jwk).ok()?;
    let key = from_jwk(auth, &jwk, algorithms).ok()??;
    // A secret that everybody can fetch is none.
    (!key.algorithms.iter().copied().any(is_symmetric)).then_some(key)
}

fn from_jwk(auth: &str, jwk: &Jwk, algorithms: &[Algorithm]) -> Result<Option<Key>, String> {
    let common = &jwk.common;
    let checks_signatures = common
        .public_key_use
        .as_ref()
        .is_none_or(|purpose| *purpose == PublicKeyUse::Signature)
        && common
            .key_operations
            .as_ref()
            .is_none_or(|operations| operations.contains(&KeyOperations::Verify));
    if !checks_signatures || !is_known(&jwk.algorithm) {
        return Ok(None);
    }
    // A key that says its algorithm is used for no other (RFC 8725 §3.1).
    let algorithms: Vec<Algorithm> = match common.key_algorithm {
        None => algorithms.to_vec(),
        Some(KeyAlgorithm::UNKNOWN_ALGORITHM) => return Ok(None),
        Some(named) => match Algorithm::try_from(named) {
            Ok(named) => algorithms.iter().copied().filter(|&algorithm| algorithm == named).collect(),
            Err(_) => return Ok(None),
        },
    };
    let key = DecodingKey::from_jwk(jwk).map_err(|error| format!("malformed: {error}"))?;
    if key.family() == AlgorithmFamily::Hmac {
        let secret = key.try_get_as_bytes().map_err(|error| error.to_string())?.to_vec();
        return match algorithms.iter().any(|&algorithm| is_symmetric(algorithm)) {
            true => Key::secret(auth, common.key_id.clone(), &secret, &algorithms).map(Some),
            false => Ok(None),
        };
    }
    if let Some(named) = common.key_algorithm.and_then(|named| Algorithm::try_from(named).ok())
        && !good_for(&key)?.contains(&named)
    {
        return Err(format!(
            "its `alg` is {named:?}, but a key of its kind is for {}",
            names(good_for(&key)?)
        ));
    }
    check_curve(jwk, &key)?;
    match good_for(&key)?.iter().any(|algorithm| algorithms.contains(algorithm)) {
        true => Key::public(auth, common.key_id.clone(), key, &algorithms).map(Some),
        false => Ok(None),
    }
}

fn is_known(parameters: &AlgorithmParameters) -> bool {
    match parameters {
        AlgorithmParameters::RSA(_) | AlgorithmParameters::OctetKey(_) => true,
        AlgorithmParameters::EllipticCurve(key) => matches!(key.curve, EllipticCurve::P256 | EllipticCurve::P384),
        AlgorithmParameters::OctetKeyPair(key) => key.curve == EllipticCurve::Ed25519,
        _ => false,
    }
}

/// That the coordinates are as long as the curve that the key names wants them.
fn check_curve(jwk: &Jwk, key: &DecodingKey) -> Result<(), String> {
    let AlgorithmParameters::EllipticCurve(parameters) = &jwk.algorithm else {
        return Ok(());
    };
    let expected = if parameters.curve == EllipticCurve::P256 {
        Algorithm::ES256
    } else {
        Algorithm::ES384
    };
    if good_for(key)?.contains(&expected) {
        return Ok(());
    }
    Err(format!(
        "its `crv` is {:?}, but its coordinates are not as long",
        parameters.curve
    ))
}

/// The algorithms that a public key is good for, by its family and length.
fn good_for(key: &DecodingKey) -> Result<&'static [Algorithm], String> {
    use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
    match (key.family(), key.kind()) {
        // An uncompressed point: 04, x, y (SEC 1 §2.3.3).
        (AlgorithmFamily::Ec, DecodingKeyKind::SecretOrDer(point)) => match (point.first(), point.len()) {
            (Some(4), 65) => Ok(&[ES256]),
            (Some(4), 97) => Ok(&[ES384]),
            _ => Err("its point is neither one of P-256 nor one of P-384".to_owned()),
        },
        (AlgorithmFamily::Ed, DecodingKeyKind::SecretOrDer(point)) => match point.len() {
            32 => Ok(&[EdDSA]),
            _ => Err("its point is none of Ed25519".to_owned()),
        },
        (AlgorithmFamily::Rsa, kind) => {
            let bytes = match kind {
                DecodingKeyKind::RsaModulusExponent { n, .. } => n.iter().skip_while(|&&byte| byte == 0).count(),
                DecodingKeyKind::SecretOrDer(der) => der.len(),
            };
            // RFC 7518 §3.3. The DER form is some bytes longer than its modulus.
            match bytes {
                256.. => Ok(&[RS256, RS384, RS512, PS256, PS384, PS512]),
                _ => Err("its modulus is shorter than 2048 bits".to_owned()),
            }
        }
        _ => Err("it is no public key".to_owned()),
    }
}

fn hash_length(algorithm: Algorithm) -> Option<usize> {
    match algorithm {
        Algorithm::HS256 => Some(32),
        Algorithm::HS384 => Some(48),
        Algorithm::HS512 => Some(64),
        _ => None,
    }
}

fn names(algorithms: &[Algorithm]) -> String {
    algorithms
        .iter()
        .map(|algorithm| format!("{algorithm:?}"))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Not `jsonwebtoken::crypto::verify`: its choice of a provider panics where a build unites both features, or has none. Here the
/// native one is taken in the first case, and in the second no signature is right.
fn verifier(algorithm: Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>, jsonwebtoken::errors::Error> {
    #[cfg(feature = "aws-lc-rs")]
    let factory = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.verifier_factory;
    #[cfg(all(feature = "rust-crypto", not(feature = "aws-lc-rs")))]
    let factory = jsonwebtoken::crypto::rust_crypto::DEFAULT_PROVIDER.verifier_factory;
    #[cfg(not(any(feature = "aws-lc-rs", feature = "rust-crypto")))]
    let factory = |_: &Algorithm, _: &DecodingKey| Err(ErrorKind::UnsupportedAlgorithm.into());
    factory(&algorithm, key)
}

//! The certificates of the TLS front: read and judged with the config, chosen by the name that a client asks for.

use std::collections::HashMap;
use std::sync::Arc;

use gateway::{CertificateFiles, Diagnostics};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{Ticketer, default_provider};
use rustls::pki_types::pem::{PemObject as _, SectionKind};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{InconsistentKeys, ServerConfig};
use x509_parser::prelude::{FromDer as _, GeneralName, ParsedExtension, X509Certificate};

/// Reads a file by the path that the config has for it.
pub(crate) type Read<'r> = dyn FnMut(&str) -> Result<Vec<u8>, String> + 'r;

/// What TLS is answered with.
#[derive(Debug)]
pub(crate) struct Certificates {
    list: Vec<Certificate>,
    config: Arc<ServerConfig>,
}

/// One certificate with its key.
#[derive(Debug)]
pub(crate) struct Certificate {
    /// Its file, as the config names it.
    pub(crate) file: String,
    /// The last second at which it is valid, since 1970-01-01T00:00:00Z.
    pub(crate) not_after: i64,
    /// The DNS names that it is for, in small letters.
    names: Vec<String>,
    certified: Arc<CertifiedKey>,
}

impl Certificates {
    /// Reads what `[gateway] tls` names and judges it. None where TLS is not wanted, or where something is wrong with it.
    pub(crate) fn load(
        files: &[CertificateFiles],
        read: &mut Read<'_>,
        now: i64,
        diagnostics: &mut Diagnostics,
    ) -> Option<Self> {
        let provider = Arc::new(default_provider());
        let loaded: Vec<_> = files
            .iter()
            .map(|files| certificate(files, read, &provider, now, diagnostics))
            .collect();
        let list: Vec<Certificate> = loaded.into_iter().collect::<Option<_>>()?;
        let first = files.first()?;
        match server_config(&list, provider) {
            Ok(config) => Some(Self { list, config }),
            Err(error) => {
                diagnostics.error(first.cert_file.span(), format!("TLS cannot be set up: {error}"));
                None
            }
        }
    }

    /// How handshakes are answered.
    pub(crate) fn config(&self) -> &Arc<ServerConfig> {
        &self.config
    }

    /// Each of them.
    pub(crate) fn list(&self) -> &[Certificate] {
        &self.list
    }

    /// Whether the same certificates are shown, in the same order. Then the keys are the same as well.
    pub(crate) fn same(&self, other: &Self) -> bool {
        let chains = |certificates: &Self| -> Vec<Arc<CertifiedKey>> {
            certificates.list.iter().map(|one| Arc::clone(&one.certified)).collect()
        };
        let (own, others) = (chains(self), chains(other));
        own.len() == others.len() && own.iter().zip(&others).all(|(own, other)| own.cert == other.cert)
    }
}

/// TLS 1.3 and 1.2, which RFC 9325 §3.1.1 asks for; everything older is refused by the library itself.
///
/// Sessions resume by tickets alone (RFC 8446 §4.6.1, RFC 5077), so nothing is kept per client and no store is shared between
/// cores. Their keys belong to this configuration: who replaces the certificates makes every client prove the new ones.
fn server_config(list: &[Certificate], provider: Arc<CryptoProvider>) -> Result<Arc<ServerConfig>, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13, &TLS12])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(ByName::new(list)));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.ticketer = Ticketer::new()?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(config))
}

/// Chooses a certificate by SNI. A name that no certificate has is refused (RFC 6066 §3); a client without a name, which is one that
/// asked for an address, gets the first.
#[derive(Debug)]
struct ByName {
    exact: HashMap<String, Vec<Arc<CertifiedKey>>>,
    /// By what is behind `*.`.
    wildcard: HashMap<String, Vec<Arc<CertifiedKey>>>,
    nameless: Vec<Arc<CertifiedKey>>,
}

impl ByName {
    fn new(list: &[Certificate]) -> Self {
        let mut by_name = Self {
            exact: HashMap::new(),
            wildcard: HashMap::new(),
            nameless: list.iter().map(|one| Arc::clone(&one.certified)).collect(),
        };
        for certificate in list {
            for name in &certificate.names {
                let (map, name) = match name.strip_prefix("*.") {
                    Some(parent) => (&mut by_name.wildcard, parent),
                    None => (&mut by_name.exact, name.as_str()),
                };
                map.entry(name.to_owned())
                    .or_default()
                    .push(Arc::clone(&certificate.certified));
            }
        }
        by_name
    }

    fn named(&self, name: &str) -> Option<&[Arc<CertifiedKey>]> {
        let name = name.to_ascii_lowercase();
        let found = self.exact.get(&name);
        // A wildcard stands for one label (RFC 6125 §6.4.3).
        let found = found.or_else(|| self.wildcard.get(name.split_once('.')?.1));
        found.map(Vec::as_slice)
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let candidates = match hello.server_name() {
            Some(name) => self.named(name)?,
            None => &self.nameless,
        };
        // Of an ECDSA and an RSA certificate for one name, the first that the client can check.
        let can_check = |one: &&Arc<CertifiedKey>| one.key.choose_scheme(hello.signature_schemes()).is_some();
        candidates.iter().find(can_check).or(candidates.first()).cloned()
    }
}

fn certificate(
    files: &CertificateFiles,
    read: &mut Read<'_>,
    provider: &CryptoProvider,
    now: i64,
    diagnostics: &mut Diagnostics,
) -> Option<Certificate> {
    let chain = chain(files, read, diagnostics);
    let key = private_key(files, read, diagnostics);
    let (chain, key) = (chain?, key?);
    let leaf = chain.first()?.clone();
    let certified = match CertifiedKey::from_der(chain, key, provider) {
        Ok(certified) => Arc::new(certified),
        Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            let (cert, key) = (files.cert_file.get_ref(), files.key_file.get_ref());
            let error = diagnostics.error(
                files.key_file.span(),
                format!("the key in `{key}` is not the key of the certificate in `{cert}`"),
            );
            error
                .hint("name the key that the certificate was made for; in the chain the gateway's own certificate comes first");
            return None;
        }
        Err(error) => {
            let message = format!("the key in `{}` cannot be used: {error}", files.key_file.get_ref());
            let error = diagnostics.error(files.key_file.span(), message);
            error.hint("ECDSA (P-256, P-384), Ed25519 and RSA (2048 bits or more) can be used");
            return None;
        }
    };
    let (names, not_after) = judge(&leaf, files, now, diagnostics)?;
    Some(Certificate {
        file: files.cert_file.get_ref().clone(),
        not_after,
        names,
        certified,
    })
}

fn chain(files: &CertificateFiles, read: &mut Read<'_>, diagnostics: &mut Diagnostics) -> Option<Vec<CertificateDer<'static>>> {
    let (path, span) = (files.cert_file.get_ref(), files.cert_file.span());
    let pem = read(path)
        .map_err(|error| diagnostics.error(span.clone(), error).hint(READABLE))
        .ok()?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match chain {
        Ok(chain) if !chain.is_empty() => Some(chain),
        Ok(_) => {
            let error = diagnostics.error(span, format!("there is no certificate in `{path}`"));
            error.hint(if holds_key(&pem) {
                "it holds a private key: `cert_file` is the certificate, `key_file` the key"
            } else {
                "it has to be PEM: -----BEGIN CERTIFICATE-----, the gateway's own first, then the ones that lead to its issuer"
            });
            None
        }
        Err(error) => {
            diagnostics.error(span, format!("`{path}` is not PEM: {error}"));
            None
        }
    }
}

fn private_key(files: &CertificateFiles, read: &mut Read<'_>, diagnostics: &mut Diagnostics) -> Option<PrivateKeyDer<'static>> {
    let (path, span) = (files.key_file.get_ref(), files.key_file.span());
    let pem = read(path)
        .map_err(|error| diagnostics.error(span.clone(), error).hint(READABLE))
        .ok()?;
    if let Ok(key) = PrivateKeyDer::from_pem_slice(&pem) {
        return Some(key);
    }
    let error = diagnostics.error(span, format!("there is no private key in `{path}`"));
    error.hint(if pem.windows(ENCRYPTED.len()).any(|window| window == ENCRYPTED) {
        "it is encrypted, and nobody is there to type its passphrase: openssl pkey -in encrypted.pem -out key.pem"
    } else {
        "it has to be PEM: -----BEGIN PRIVATE KEY----- (or EC, or RSA)"
    });
    None
}

const READABLE: &str = "name a file that this process may read; its path is relative to the config's";

const ENCRYPTED: &[u8] = b"ENCRYPTED";

fn holds_key(pem: &[u8]) -> bool {
    <(SectionKind, Vec<u8>)>::pem_slice_iter(pem)
        .filter_map(Result::ok)
        .any(|(kind, _)| {
            matches!(
                kind,
                SectionKind::PrivateKey | SectionKind::EcPrivateKey | SectionKind::RsaPrivateKey
            )
        })
}

/// The names that a leaf is for, and the end of its time. What clients are going to refuse is a warning: certificates are renewed
/// while the gateway runs, and one that expired is better shown than none.
fn judge(
    leaf: &CertificateDer<'_>,
    files: &CertificateFiles,
    now: i64,
    diagnostics: &mut Diagnostics,
) -> Option<(Vec<String>, i64)> {
    let (path, span) = (files.cert_file.get_ref(), files.cert_file.span());
    let parsed = match X509Certificate::from_der(leaf) {
        Ok((_, parsed)) => parsed,
        Err(error) => {
            diagnostics.error(span, format!("the certificate in `{path}` cannot be read: {error}"));
            return None;
        }
    };
    let validity = parsed.validity();
    let (from, until) = (validity.not_before.timestamp(), validity.not_after.timestamp());
    if now > until {
        let warning = diagnostics.warning(
            span.clone(),
            format!("the certificate in `{path}` expired at {}", validity.not_after),
        );
        warning.hint("clients will refuse it: renew it; a running gateway takes the new one up by itself");
    } else if now < from {
        let warning = diagnostics.warning(
            span.clone(),
            format!("the certificate in `{path}` is not valid before {}", validity.not_before),
        );
        warning.hint("clients will refuse it until then: is this machine's clock right?");
    }
    let (names, addresses) = subject_names(&parsed);
    if names.is_empty() && !addresses {
        let warning = diagnostics.warning(
            span,
            format!("the certificate in `{path}` is for no name (it has no subjectAltName)"),
        );
        warning.hint("clients that name a host are refused, because the common name has not counted since RFC 6125: have it issued with its DNS names");
    }
    Some((names, until))
}

/// The DNS names, and whether there are addresses as well.
fn subject_names(certificate: &X509Certificate<'_>) -> (Vec<String>, bool) {
    let mut names = Vec::new();
    let mut addresses = false;
    for extension in certificate.extensions() {
        let ParsedExtension::SubjectAlternativeName(alternative) = extension.parsed_extension() else {
            continue;
        };
        for name in &alternative.general_names {
            match name {
                GeneralName::DNSName(name) => names.push(name.to_ascii_lowercase()),
                GeneralName::IPAddress(_) => addresses = true,
                _ => {}
            }
        }
    }
    (names, addresses)
}

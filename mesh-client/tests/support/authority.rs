//! Certificates as good or as bad as a test wants them.

use identity::{SpiffeId, TrustDomain};
use mesh_client::tls::{Bundle, Credentials, Rotation, Svid};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData, SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use time::{Duration, OffsetDateTime};

pub struct Authority {
    pub domain: TrustDomain,
    pub root: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

/// What a leaf says; begins as a good SVID.
#[derive(Clone)]
pub struct Leaf {
    pub uris: Vec<String>,
    pub ca: bool,
    pub usages: Vec<KeyUsagePurpose>,
    pub extended: Vec<ExtendedKeyUsagePurpose>,
    pub extensions: Vec<CustomExtension>,
    pub not_before: OffsetDateTime,
    pub not_after: OffsetDateTime,
    /// One that follows from the key where there is none.
    pub serial: Option<Vec<u8>>,
}

impl Leaf {
    pub fn of(id: &str) -> Self {
        let now = OffsetDateTime::now_utc();
        Self {
            uris: vec![id.to_owned()],
            ca: false,
            usages: vec![KeyUsagePurpose::DigitalSignature],
            extended: vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
            extensions: Vec::new(),
            not_before: now - Duration::minutes(1),
            not_after: now + Duration::hours(1),
            serial: None,
        }
    }

    fn params(&self) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.subject_alt_names = self
            .uris
            .iter()
            .map(|uri| SanType::URI(uri.as_str().try_into().unwrap()))
            .collect();
        params.is_ca = if self.ca {
            IsCa::Ca(BasicConstraints::Unconstrained)
        } else {
            IsCa::NoCa
        };
        params.key_usages.clone_from(&self.usages);
        params.extended_key_usages.clone_from(&self.extended);
        params.custom_extensions.clone_from(&self.extensions);
        (params.not_before, params.not_after) = (self.not_before, self.not_after);
        params.serial_number = self.serial.as_deref().map(SerialNumber::from_slice);
        params
    }
}

/// A chain and its key, as TLS takes them.
pub struct Issued {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
}

impl Issued {
    pub fn svid(self) -> Svid {
        Svid::new(self.chain, self.key).unwrap()
    }
}

impl Authority {
    pub fn new(domain: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.subject_alt_names = vec![SanType::URI(format!("spiffe://{domain}").as_str().try_into().unwrap())];
        params.distinguished_name.push(rcgen::DnType::CommonName, domain);
        let key = KeyPair::generate().unwrap();
        let root = params.self_signed(&key).unwrap().der().clone();
        Self {
            domain: domain.parse().unwrap(),
            root,
            issuer: Issuer::new(params, key),
        }
    }

    pub fn id(&self, service: &str) -> SpiffeId {
        identity::service_id(&self.domain, service).unwrap()
    }

    pub fn bundle(&self) -> Bundle {
        Bundle::new(self.domain.clone(), vec![self.root.clone()]).unwrap()
    }

    /// A leaf that says what it is told to, with a key of its own.
    pub fn issue(&self, leaf: &Leaf) -> Issued {
        let key = KeyPair::generate().unwrap();
        let chain = vec![self.sign(leaf, &key)];
        Issued {
            chain,
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        }
    }

    pub fn sign(&self, leaf: &Leaf, key: &impl PublicKeyData) -> CertificateDer<'static> {
        leaf.params().signed_by(key, &self.issuer).unwrap().der().clone()
    }

    /// What the holder of `service`'s good SVID can sign with its key.
    pub fn forge_by_leaf(&self, service: &str, forged: &Leaf) -> Issued {
        let (signer, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let good = Leaf::of(self.id(service).as_str());
        let signing = self.sign(&good, &signer);
        let certificate = forged.params().signed_by(&key, &Issuer::new(good.params(), signer)).unwrap();
        let chain = vec![certificate.der().clone(), signing];
        Issued {
            chain,
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        }
    }

    /// A good SVID of a service, under an intermediate that says what it is told to.
    pub fn under(&self, intermediate: &Leaf, service: &str) -> Issued {
        let (signer, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let signing = self.sign(intermediate, &signer);
        let leaf = Leaf::of(self.id(service).as_str()).params();
        let issuer = Issuer::from_ca_cert_der(&signing, signer).unwrap();
        let certificate = leaf.signed_by(&key, &issuer).unwrap().der().clone();
        Issued {
            chain: vec![certificate, signing],
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        }
    }

    /// A good SVID of a service.
    pub fn service(&self, name: &str) -> Issued {
        self.issue(&Leaf::of(self.id(name).as_str()))
    }

    /// Credentials of a service that this authority vouches for.
    pub fn credentials(&self, name: &str) -> (Rotation, Credentials) {
        Credentials::new(self.service(name).svid(), self.bundle())
    }
}

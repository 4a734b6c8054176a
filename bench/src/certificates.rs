//! Certificates for peers that bring no authority of their own.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};

use crate::lab::Lab;

/// A certificate authority whose root is in a file.
#[derive(Debug)]
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) root: PathBuf,
}

/// A certificate and its key, in files.
#[derive(Debug, Clone)]
pub(crate) struct Issued {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Authority {
    pub(crate) fn new(lab: &Lab) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, "bench");
        let key = KeyPair::generate()?;
        let root = lab.write("root.pem", &params.self_signed(&key)?.pem())?;
        Ok(Self {
            issuer: Issuer::new(params, key),
            root,
        })
    }

    /// A P-256 certificate for a SPIFFE ID, with `localhost` beside it.
    pub(crate) fn issue(&self, lab: &Lab, name: &str, id: &str) -> Result<Issued> {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()])?;
        params.subject_alt_names.push(SanType::URI(id.try_into()?));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        let issued = Issued {
            certificate: lab.write(&format!("{name}.pem"), &certificate)?,
            key: lab.write(&format!("{name}.key"), &key.serialize_pem())?,
        };
        // Both in one file, as HAProxy reads them.
        fs::write(issued.both(), certificate + &key.serialize_pem()).context("writing a certificate")?;
        Ok(issued)
    }
}

impl Issued {
    /// The file with both in it.
    pub(crate) fn both(&self) -> PathBuf {
        self.certificate.with_extension("both.pem")
    }
}

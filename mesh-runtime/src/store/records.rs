//! The records themselves: what each table holds, written as JSON so that a person can read a store's dump and a later
//! version can add a field.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Batch, Outcome, Store, StoreError, Table, as_base64};
use crate::registry::Endpoint;

const TRUST_DOMAIN: &str = "trust-domain";
const AUTHORITY: &str = "authority";
const REVISION: &str = "revision";
const POLICY: &str = "policy";
/// How far the revisions of a store jump that was restored: beyond any that were given since the backup.
const JUMP: u64 = 1 << 32;

/// The authority's keys and certificates.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AuthorityRecord {
    pub(crate) root: SignerRecord,
    pub(crate) intermediate: SignerRecord,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) retiring: Option<RetiringRecord>,
}

/// The root before the one that signs. Its key is kept nowhere.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RetiringRecord {
    /// X.509, DER.
    #[serde(with = "as_base64")]
    pub(crate) certificate: Vec<u8>,
    /// The root that signs, signed by this one. X.509, DER.
    #[serde(with = "as_base64")]
    pub(crate) crossed: Vec<u8>,
}

/// A key that signs certificates, and the certificate that says so.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SignerRecord {
    /// PKCS #8, DER.
    #[serde(with = "as_base64")]
    pub(crate) key: Vec<u8>,
    /// X.509, DER.
    #[serde(with = "as_base64")]
    pub(crate) certificate: Vec<u8>,
}

/// A join token. Its key is the beginning of the hash, by which it is found; its secret is kept nowhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TokenRecord {
    /// The SHA-256 of the secret.
    #[serde(with = "as_base64")]
    pub(crate) hash: Vec<u8>,
    pub(crate) service: String,
    /// Seconds since 1970-01-01T00:00:00Z, like the others.
    pub(crate) created_at: u64,
    pub(crate) expires_at: u64,
    /// The root that it names, by its pin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pin: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) used: Option<UseRecord>,
}

/// How a join token was used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UseRecord {
    pub(crate) at: u64,
    /// The SHA-256 of the public key that it let in.
    #[serde(with = "as_base64")]
    pub(crate) key: Vec<u8>,
}

/// Who may be a service, by what the kernel says about it. Its key is its id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EntryRecord {
    pub(crate) service: String,
    /// All of them have to match.
    pub(crate) selectors: Vec<String>,
    pub(crate) created_at: u64,
}

/// A registered endpoint. Its lease is not kept: whoever was registered gets a new one when the control plane starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RegistrationRecord {
    pub(crate) endpoint: Endpoint,
    pub(crate) registered_at: u64,
    /// What the serial number of its member's SVID begins with, in hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mark: Option<String>,
}

/// An SVID that was issued. Its key is the serial number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IdentityRecord {
    pub(crate) spiffe_id: String,
    pub(crate) not_before: u64,
    pub(crate) not_after: u64,
    /// The root that its chain ends in, by its pin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) root: Option<String>,
    /// The registration entry or the join token that it was issued under.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) entry: Option<String>,
    /// The serial number of the SVID that was shown for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) replaces: Option<String>,
}

/// A policy document as it was applied.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PolicyRecord {
    pub(crate) revision: u64,
    pub(crate) name: String,
    pub(crate) text: String,
}

/// A store, seen as the records that it holds.
#[derive(Clone)]
pub(crate) struct Records {
    store: Arc<dyn Store>,
}

impl Records {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }

    pub(crate) async fn trust_domain(&self) -> Result<Option<String>, StoreError> {
        self.read(Table::Facts, TRUST_DOMAIN).await
    }

    /// The authority, and the bytes that it was read from: what a batch that replaces it is conditional on.
    pub(crate) async fn authority(&self) -> Result<Option<(AuthorityRecord, Vec<u8>)>, StoreError> {
        self.read_with_bytes(Table::Facts, AUTHORITY).await
    }

    pub(crate) async fn revision(&self) -> Result<u64, StoreError> {
        Ok(self.read(Table::Facts, REVISION).await?.unwrap_or(0))
    }

    /// The policy document, and the bytes that it was read from: what a batch that replaces it is conditional on.
    pub(crate) async fn policy(&self) -> Result<Option<(PolicyRecord, Vec<u8>)>, StoreError> {
        self.read_with_bytes(Table::Facts, POLICY).await
    }

    /// A token, and the bytes that it was read from: what a batch that uses it is conditional on.
    pub(crate) async fn token(&self, id: &str) -> Result<Option<(TokenRecord, Vec<u8>)>, StoreError> {
        self.read_with_bytes(Table::Tokens, id).await
    }

    pub(crate) async fn tokens(&self) -> Result<Vec<(String, TokenRecord)>, StoreError> {
        self.scan(Table::Tokens).await
    }

    pub(crate) async fn entries(&self) -> Result<Vec<(String, EntryRecord)>, StoreError> {
        self.scan(Table::Entries).await
    }

    /// Where the registration entry or join token `id` is, and the bytes of it, which whoever issues under it is conditional on.
    pub(crate) async fn letting_in(&self, id: &str) -> Result<Option<(Table, Vec<u8>)>, StoreError> {
        for table in [Table::Entries, Table::Tokens] {
            if let Some(value) = self.store.read(table, id).await? {
                return Ok(Some((table, value)));
            }
        }
        Ok(None)
    }

    pub(crate) async fn identity(&self, serial: &str) -> Result<Option<IdentityRecord>, StoreError> {
        self.read(Table::Identities, serial).await
    }

    pub(crate) async fn registrations(&self) -> Result<Vec<(String, RegistrationRecord)>, StoreError> {
        self.scan(Table::Registrations).await
    }

    pub(crate) async fn identities(&self) -> Result<Vec<(String, IdentityRecord)>, StoreError> {
        self.scan(Table::Identities).await
    }

    /// Every record, as of one moment.
    pub(crate) async fn dump(&self) -> Result<Vec<(Table, String, Vec<u8>)>, StoreError> {
        self.store.dump().await
    }

    /// What puts the records of a backup into an empty store. Join tokens count as used, since one that was used later would
    /// be good again; they stay, for whoever they let in is known by them. Revisions jump, so that no member takes what it
    /// was told before for what it would be told now.
    pub(crate) fn restored(records: Vec<(Table, String, Vec<u8>)>) -> Result<Batch, StoreError> {
        let (mut batch, mut revision, mut policy) = (Batch::default(), 0, PolicyRecord::default());
        for (table, key, value) in records {
            match (table, key.as_str()) {
                (Table::Tokens, id) => {
                    let mut token: TokenRecord = decode(table, id, &value)?;
                    let (at, key) = (token.created_at, Vec::new());
                    token.used.get_or_insert(UseRecord { at, key });
                    batch.put_token(id, &token);
                }
                (Table::Facts, REVISION) => revision = decode(table, REVISION, &value)?,
                (Table::Facts, POLICY) => policy = decode(table, POLICY, &value)?,
                _ => drop(batch.put(table, key, value)),
            }
        }
        policy.revision += JUMP;
        batch.put_revision(revision + JUMP).put(Table::Facts, POLICY, encode(&policy));
        Ok(batch)
    }

    pub(crate) async fn commit(&self, batch: Batch) -> Result<Outcome, StoreError> {
        self.store.commit(batch).await
    }

    async fn read<T: DeserializeOwned>(&self, table: Table, key: &str) -> Result<Option<T>, StoreError> {
        self.store
            .read(table, key)
            .await?
            .map(|value| decode(table, key, &value))
            .transpose()
    }

    async fn read_with_bytes<T: DeserializeOwned>(&self, table: Table, key: &str) -> Result<Option<(T, Vec<u8>)>, StoreError> {
        let Some(value) = self.store.read(table, key).await? else {
            return Ok(None);
        };
        Ok(Some((decode(table, key, &value)?, value)))
    }

    async fn scan<T: DeserializeOwned>(&self, table: Table) -> Result<Vec<(String, T)>, StoreError> {
        let records = self.store.scan(table).await?;
        records
            .into_iter()
            .map(|(key, value)| decode(table, &key, &value).map(|record| (key, record)))
            .collect()
    }
}

/// What the records add to a batch.
impl Batch {
    pub(crate) fn found(&mut self, trust_domain: &str, authority: &AuthorityRecord) -> Vec<u8> {
        self.only_if(Table::Facts, TRUST_DOMAIN, None)
            .put(Table::Facts, TRUST_DOMAIN, encode(&trust_domain))
            .put_authority(authority, None)
    }

    /// Replaces the authority where it is still the one that was read, and says what is read from here on.
    pub(crate) fn put_authority(&mut self, authority: &AuthorityRecord, before: Option<Vec<u8>>) -> Vec<u8> {
        let value = encode(authority);
        self.only_if(Table::Facts, AUTHORITY, before)
            .put(Table::Facts, AUTHORITY, value.clone());
        value
    }

    pub(crate) fn put_revision(&mut self, revision: u64) -> &mut Self {
        self.put(Table::Facts, REVISION, encode(&revision))
    }

    /// Replaces the policy document where it is still the one that was read.
    pub(crate) fn put_policy(&mut self, policy: &PolicyRecord, before: Option<Vec<u8>>) -> &mut Self {
        self.only_if(Table::Facts, POLICY, before)
            .put(Table::Facts, POLICY, encode(policy))
    }

    pub(crate) fn put_token(&mut self, id: &str, token: &TokenRecord) -> &mut Self {
        self.put(Table::Tokens, id, encode(token))
    }

    pub(crate) fn put_entry(&mut self, id: &str, entry: &EntryRecord) -> &mut Self {
        self.put(Table::Entries, id, encode(entry))
    }

    pub(crate) fn put_registration(&mut self, registration: &RegistrationRecord) -> &mut Self {
        self.put(Table::Registrations, registration.endpoint.id.clone(), encode(registration))
    }

    pub(crate) fn delete_registration(&mut self, id: &str) -> &mut Self {
        self.delete(Table::Registrations, id)
    }

    pub(crate) fn put_identity(&mut self, serial: &str, identity: &IdentityRecord) -> &mut Self {
        self.put(Table::Identities, serial, encode(identity))
    }
}

fn encode(record: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(record).expect("records have only text keys and no value that fails to serialise")
}

fn decode<T: DeserializeOwned>(table: Table, key: &str, value: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(value).map_err(|error| StoreError::Record {
        table: table.name(),
        key: key.to_owned(),
        why: error.to_string(),
    })
}

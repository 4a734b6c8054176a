//! What one core remembers between exchanges.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Range;
use std::sync::Arc;

use routing::policy::RetryBudget;

use crate::Gateway;
use crate::auth::Claims;
use crate::auth::jwt::sets::KeySets;
use crate::config::Route;
use crate::exchange::{RouteId, Told};

/// What one core, or one guest instance, remembers between exchanges: token verdicts, issuers' keys, what
/// upstreams are told of clients, and retry budgets. A cache, never a
/// truth: a new one changes what an exchange costs, not what it decides.
#[derive(Debug)]
pub struct Memory {
    pub(crate) verdicts: Verdicts,
    pub(crate) key_sets: KeySets,
    pub(crate) told: Told,
    /// One for each route that retries.
    budgets: Vec<Option<RetryBudget>>,
    /// Of the gateway that it belongs to.
    fingerprint: [u8; 32],
}

impl Memory {
    /// An empty memory for this gateway.
    #[must_use]
    pub fn new(gateway: &Gateway) -> Self {
        let budget = |route: &Route| route.policy.retry.as_ref().map(|retry| RetryBudget::new(retry.budget));
        Self {
            verdicts: Verdicts::new(VERDICTS),
            key_sets: KeySets::new(gateway.key_sets().len()),
            told: Told::default(),
            budgets: gateway.routes().iter().map(budget).collect(),
            fingerprint: *gateway.fingerprint(),
        }
    }

    /// Forgets everything where another gateway decides: what was found with other keys or rules is worth nothing.
    pub(crate) fn belong_to(&mut self, gateway: &Gateway) {
        if self.fingerprint != *gateway.fingerprint() {
            *self = Self::new(gateway);
        }
    }

    /// The retry budget of a route, where it retries.
    pub(crate) fn budget(&self, RouteId(at): RouteId) -> Option<&RetryBudget> {
        usize::try_from(at)
            .ok()
            .and_then(|at| self.budgets.get(at))
            .and_then(Option::as_ref)
    }
}

/// How many verdicts are kept, twice: about 2 MiB a core where tokens have a dozen short claims.
const VERDICTS: usize = 1024;

/// Verdicts about tokens, each kept while its token is valid and among the last ones that were used.
///
/// Two generations stand in for a list of uses: what is found or learned goes to the young one, and where that is full it
/// becomes the old one, whose members are forgotten. So the last `capacity` verdicts in use are always there, and finding one costs
/// at most two look-ups.
#[derive(Debug)]
pub(crate) struct Verdicts {
    capacity: usize,
    young: Generation,
    old: Generation,
}

type Generation = HashMap<[u8; 32], Verdict, BuildHasherDefault<FirstBytes>>;

#[derive(Debug)]
struct Verdict {
    claims: Arc<Claims>,
    valid: Range<u64>,
}

impl Verdicts {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            young: Generation::default(),
            old: Generation::default(),
        }
    }

    /// By what a token's verdict is remembered: a hash, so that no token stays in memory, and a collision cannot be made. `keys` is
    /// the version of the set that its key came from: with another set, no verdict is found.
    ///
    /// BLAKE3, because SHA-256 without instructions of its own, as a guest has it and some machines, was 7 % of a request's
    /// processor time.
    pub(crate) fn key(auth: u32, keys: u64, token: &[u8]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&auth.to_le_bytes()).update(&keys.to_le_bytes()).update(token);
        hasher.finalize().into()
    }

    pub(crate) fn find(&mut self, key: &[u8; 32], unix: u64) -> Option<Arc<Claims>> {
        if let Some(verdict) = self.young.get(key) {
            return verdict.valid.contains(&unix).then(|| Arc::clone(&verdict.claims));
        }
        let verdict = self.old.remove(key)?;
        if !verdict.valid.contains(&unix) {
            return None;
        }
        let claims = Arc::clone(&verdict.claims);
        self.keep(*key, verdict);
        Some(claims)
    }

    pub(crate) fn insert(&mut self, key: [u8; 32], claims: Arc<Claims>, valid: Range<u64>) {
        self.keep(key, Verdict { claims, valid });
    }

    fn keep(&mut self, key: [u8; 32], verdict: Verdict) {
        if self.young.len() >= self.capacity {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, verdict);
    }
}

/// A hasher for keys that are hashes already. They are made of bytes that a client chose, but not by a client.
#[derive(Debug, Default)]
struct FirstBytes(u64);

impl Hasher for FirstBytes {
    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk() {
            self.0 = u64::from_le_bytes(*first);
        }
    }

    // The length of the array, which is always the same.
    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Map;

    fn claims() -> Arc<Claims> {
        Arc::new(Claims::new(Map::new()))
    }

    #[test]
    fn a_verdict_is_found_only_while_its_token_is_valid() {
        let mut verdicts = Verdicts::new(2);
        let key = Verdicts::key(0, 0, b"token");
        verdicts.insert(key, claims(), 10..20);
        assert!(verdicts.find(&key, 9).is_none());
        assert!(verdicts.find(&key, 10).is_some());
        assert!(verdicts.find(&key, 19).is_some());
        assert!(verdicts.find(&key, 20).is_none());
    }

    #[test]
    fn one_auths_verdict_is_not_anothers_and_one_key_sets_is_not_the_nexts() {
        assert_ne!(Verdicts::key(0, 1, b"token"), Verdicts::key(0, 2, b"token"));
        assert_ne!(Verdicts::key(0, 0, b"token"), Verdicts::key(1, 0, b"token"));
    }

    #[test]
    fn verdicts_in_use_stay_and_the_number_is_bounded() {
        let mut verdicts = Verdicts::new(8);
        let used = Verdicts::key(0, 0, b"used");
        verdicts.insert(used, claims(), 0..u64::MAX);
        for n in 0..1000_u32 {
            verdicts.insert(Verdicts::key(0, 0, &n.to_le_bytes()), claims(), 0..u64::MAX);
            assert!(verdicts.find(&used, 1).is_some(), "after {n}");
            assert!(verdicts.young.len() + verdicts.old.len() <= 16);
        }
        assert!(verdicts.find(&Verdicts::key(0, 0, &0_u32.to_le_bytes()), 1).is_none());
    }
}

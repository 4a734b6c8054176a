//! The key sets of issuers as one core holds them. A copy and never the truth: a driver keeps what was fetched, for all cores, and
//! is asked again and again whether that still holds.

use std::time::Duration;

use jsonwebtoken::Algorithm;
use routing::Moment;
use sha2::{Digest as _, Sha256};

use super::keys::{Key, fetched_set};
use crate::exchange::{KeySetId, Keys};

/// For how long a copy is used without asking its driver: so long a key outlives its withdrawal here, beyond what its driver
/// knows. Asking costs one step that is answered from memory.
const CONFIRMED_FOR: Duration = Duration::from_secs(1);

/// The copies, by [`KeySetId`].
#[derive(Debug, Default)]
pub(crate) struct KeySets(Vec<Option<KeySet>>);

/// The copy of one set.
#[derive(Debug)]
pub(crate) struct KeySet {
    /// Of its text. Verdicts are remembered with it, so that none outlives a key.
    pub(crate) version: u64,
    /// Its keys, each with its text.
    pub(crate) keys: Vec<(Key, Box<str>)>,
    /// When the driver last said that this is what there is.
    confirmed: Moment,
}

impl KeySets {
    pub(crate) fn new(count: usize) -> Self {
        Self((0..count).map(|_| None).collect())
    }

    /// The copy, where it may be used without asking.
    pub(crate) fn fresh(&self, id: KeySetId, now: Moment) -> Option<&KeySet> {
        self.held(id).filter(|set| now.since(set.confirmed) < CONFIRMED_FOR)
    }

    /// The copy, whatever its age.
    pub(crate) fn held(&self, id: KeySetId) -> Option<&KeySet> {
        self.0.get(usize::try_from(id.0).ok()?)?.as_ref()
    }

    /// Takes what a driver told. False where there is no set afterwards.
    pub(crate) fn take(&mut self, id: KeySetId, keys: &Keys, auth: &str, algorithms: &[Algorithm], now: Moment) -> bool {
        let Some(place) = usize::try_from(id.0).ok().and_then(|at| self.0.get_mut(at)) else {
            return false;
        };
        match keys {
            Keys::Set(text) => {
                // A driver keeps nothing that is no set; if it ever did, the copy from before stays.
                if let Ok(keys) = fetched_set(auth, text, algorithms) {
                    *place = Some(KeySet {
                        version: version(text),
                        keys,
                        confirmed: now,
                    });
                }
            }
            Keys::Unchanged => {
                if let Some(set) = place {
                    set.confirmed = now;
                }
            }
            Keys::Unavailable => {}
        }
        place.is_some()
    }
}

/// By what one text of a set is told from another.
pub(crate) fn version(text: &[u8]) -> u64 {
    let hash: [u8; 32] = Sha256::digest(text).into();
    hash.first_chunk().map_or(0, |first| u64::from_le_bytes(*first))
}

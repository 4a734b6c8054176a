//! The ring on which endpoints own places (consistent hashing, Karger et al. 1997).

use std::hash::{DefaultHasher, Hash, Hasher};

/// Places of an endpoint of the largest weight; the others have as many fewer as their weights say. With 256 of them, shares are within some
/// percent of the weights. That their number does not depend on how many endpoints there are is what keeps everybody else's places.
const PLACES: u64 = 256;

/// Places and their owners, in the order of the places. An endpoint is known by the hash of its name, and its n-th place follows from that
/// alone: whoever comes or goes takes its own places and no other.
pub(super) fn of(endpoints: impl Iterator<Item = (u64, u16)>, max: u64) -> Box<[(u64, usize)]> {
    let mut ring: Vec<(u64, usize)> = Vec::new();
    for (owner, (name, weight)) in endpoints.enumerate() {
        let places = (u64::from(weight) * PLACES).div_ceil(max.max(1));
        ring.extend((0..places).map(|nth| (hash(&(name, nth)), owner)));
    }
    ring.sort_unstable();
    ring.into()
}

/// The same for the same value, in every process of one build.
pub(super) fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

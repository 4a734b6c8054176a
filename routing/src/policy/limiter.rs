//! The quotas of many keys in bounded memory, shared between cores.
//!
//! A table of sets of eight slots: a key belongs into one set, and there into any slot. Nothing is allocated, moved or swept while
//! requests come: a slot whose quota is whole again is free by itself. Where all eight are in use, the key whose quota is whole
//! soonest gives way and has its whole quota again, so that under more keys than fit those that use the most are remembered
//! longest. A flood of fresh keys displaces one another before it displaces anybody who is near a limit.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::{Kept, Rate, Taken};
use crate::Moment;

/// Whose quota: a hash of the limit and of what it counts by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LimitKey(pub [u8; 16]);

/// A request to take from one quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Take {
    /// Whose.
    pub key: LimitKey,
    /// How much there is.
    pub rate: Rate,
    /// Where it is kept.
    pub kept: Kept,
}

/// The quotas.
#[derive(Debug)]
pub struct Limiter {
    shards: Box<[Mutex<Shard>]>,
    /// Sets in each shard.
    sets: usize,
    seed: u64,
}

/// Slots in a set.
const WAYS: usize = 8;

/// Locks. Two cores rarely meet in one of 64, and none holds it for longer than it takes to look at eight slots.
const SHARDS: usize = 64;

/// A part of the sets behind a lock of its own; its memory is taken with its first key.
#[derive(Debug, Default)]
struct Shard {
    slots: Vec<Slot>,
}

/// A key that is in use until its quota is whole.
#[derive(Debug, Clone, Copy)]
struct Slot {
    key: LimitKey,
    whole: Moment,
}

impl Limiter {
    /// How many keys a host keeps: 3 MiB when all of them are in use.
    pub const KEYS: usize = 1 << 17;

    /// Room for about this many keys in use at once, at 24 bytes each. The seed has to be one that nobody outside knows: with it, keys
    /// cannot be chosen so that they all fall into one set.
    #[must_use]
    pub fn new(keys: usize, seed: u64) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            sets: keys.div_ceil(SHARDS * WAYS).max(1),
            seed,
        }
    }

    /// Takes one request from each of these quotas, or from none of them where one refuses, wherever they should be kept.
    ///
    /// Quotas are taken from one after the other, and given back where a later one refuses. In between another request may find
    /// one less than there is; never one more.
    #[must_use]
    pub fn take_all(&self, takes: &[Take], now: Moment) -> Vec<Taken> {
        let mut taken: Vec<Taken> = Vec::with_capacity(takes.len());
        let mut is_refused = false;
        for take in takes {
            // Once one refuses, the others are only looked at, to tell how they stand.
            let one = if is_refused {
                self.look(take, now)
            } else {
                self.take(take, now)
            };
            is_refused |= one.refused.is_some();
            taken.push(one);
        }
        if is_refused {
            let charged = takes.iter().zip(&mut taken).take_while(|(_, one)| one.refused.is_none());
            for (take, one) in charged {
                self.give_back(take);
                *one = self.look(take, now);
            }
        }
        taken
    }

    /// Takes one request from a quota.
    #[must_use]
    pub fn take(&self, take: &Take, now: Moment) -> Taken {
        let (mut shard, set) = self.set(take.key);
        let slots = shard.set(set, self.sets);
        let place = place(slots, take.key, now);
        let (whole, taken) = take.rate.take(slots[place].whole_of(take.key), now);
        slots[place] = Slot { key: take.key, whole };
        taken
    }

    /// Gives back what was taken.
    pub fn give_back(&self, take: &Take) {
        let (mut shard, set) = self.set(take.key);
        if let Some(slot) = shard.set(set, self.sets).iter_mut().find(|slot| slot.key == take.key) {
            slot.whole = take.rate.give_back(slot.whole);
        }
    }

    /// How a quota stands, without taking from it; it refuses only where it would refuse.
    pub(super) fn look(&self, take: &Take, now: Moment) -> Taken {
        let (mut shard, set) = self.set(take.key);
        let known = shard.set(set, self.sets).iter().find(|slot| slot.key == take.key);
        let whole = known.map_or(Moment::default(), |slot| slot.whole);
        let (after, taken) = take.rate.take(whole, now);
        if taken.refused.is_some() {
            return taken;
        }
        Taken {
            remaining: taken.remaining.saturating_add(1),
            reset: take.rate.give_back(after).since(now),
            ..taken
        }
    }

    /// The shard of a key, locked, and the key's set in it.
    fn set(&self, LimitKey(key): LimitKey) -> (MutexGuard<'_, Shard>, usize) {
        let word = |half: &[u8]| half.iter().fold(0, |word, &byte| word << 8 | u64::from(byte));
        let (low, high) = key.split_at(8);
        // Multiplied and folded, every bit of the seed takes part in the place of every key.
        let product = u128::from(word(low) ^ self.seed) * u128::from(word(high) ^ self.seed.rotate_left(32) | 1);
        let hash = (product as u64) ^ ((product >> 64) as u64);
        let shard = &self.shards[hash as usize % SHARDS];
        let set = (hash >> 32) as usize % self.sets;
        // What a panic could leave behind here is one quota's moment, which is as good as any.
        (shard.lock().unwrap_or_else(PoisonError::into_inner), set)
    }
}

impl Shard {
    fn set(&mut self, set: usize, sets: usize) -> &mut [Slot] {
        if self.slots.is_empty() {
            let free = Slot {
                key: LimitKey([0; 16]),
                whole: Moment::default(),
            };
            self.slots = vec![free; sets * WAYS];
        }
        &mut self.slots[set * WAYS..][..WAYS]
    }
}

impl Slot {
    /// When the key's quota is whole; long since, where the slot is another's.
    fn whole_of(&self, key: LimitKey) -> Moment {
        if self.key == key { self.whole } else { Moment::default() }
    }
}

/// The slot for a key: its own, else a free one, else that of the key whose quota is whole soonest.
fn place(slots: &[Slot], key: LimitKey, now: Moment) -> usize {
    let own = slots.iter().position(|slot| slot.key == key);
    let free = || slots.iter().position(|slot| slot.whole <= now);
    let soonest = || (0..slots.len()).min_by_key(|&place| slots[place].whole).unwrap_or(0);
    own.or_else(free).unwrap_or_else(soonest)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NOW: Moment = Moment(1_000_000_000);

    fn take(key: u32, limit: u32) -> Take {
        let mut bytes = [7; 16];
        bytes[..4].copy_from_slice(&key.to_le_bytes());
        Take {
            key: LimitKey(bytes),
            rate: Rate::new(limit, Duration::from_secs(60), limit).unwrap(),
            kept: Kept::Here,
        }
    }

    #[test]
    fn each_key_has_a_quota_of_its_own() {
        let limiter = Limiter::new(1024, 1);
        for key in 0..100 {
            let refused = |_| limiter.take(&take(key, 2), NOW).refused.is_some();
            assert_eq!([0, 1, 2].map(refused), [false, false, true], "{key}");
        }
    }

    #[test]
    fn all_quotas_are_taken_from_or_none() {
        let limiter = Limiter::new(1024, 1);
        let (wide, narrow) = (take(1, 10), take(2, 1));
        let both = |now| limiter.take_all(&[wide, narrow], now);
        assert_eq!(both(NOW).iter().map(|taken| taken.remaining).collect::<Vec<_>>(), [9, 0]);
        for _ in 0..20 {
            let taken = both(NOW);
            assert_eq!(
                (taken[0].refused, taken[0].remaining),
                (None, 9),
                "the wide one keeps what it has"
            );
            assert!(taken[1].refused.is_some());
        }
        // The same, where the narrow one comes first.
        let turned = limiter.take_all(&[narrow, wide], NOW);
        assert!(turned[0].refused.is_some() && turned[1].remaining == 9);
        assert_eq!(limiter.take(&wide, NOW).remaining, 8);
    }

    #[test]
    fn memory_is_bounded_and_whoever_used_most_is_remembered_longest() {
        let limiter = Limiter::new(SHARDS * WAYS, 3);
        let heavy = take(u32::MAX, 100);
        for _ in 0..100 {
            assert!(limiter.take(&heavy, NOW).refused.is_none());
        }
        for fresh in 0..100_000 {
            let _ = limiter.take(&take(fresh, 100), NOW);
        }
        assert!(
            limiter.take(&heavy, NOW).refused.is_some(),
            "a flood of keys does not give it its quota back"
        );
        let slots: usize = limiter.shards.iter().map(|shard| shard.lock().unwrap().slots.len()).sum();
        assert_eq!(slots, SHARDS * WAYS);
    }

    #[test]
    fn a_slot_is_free_when_its_quota_is_whole() {
        let limiter = Limiter::new(1, 0);
        for round in 0..100 {
            let now = NOW + Duration::from_secs(round * 60);
            let taken = limiter.take(&take(u32::try_from(round).unwrap(), 1), now);
            assert_eq!(taken.refused, None);
        }
    }

    #[test]
    fn cores_that_race_never_pass_the_limit() {
        let limiter = Limiter::new(1024, 5);
        let (one, other) = (take(1, 1_000), take(2, 1_500));
        let admitted: usize = std::thread::scope(|scope| {
            let core = || {
                scope.spawn(|| {
                    let all = |_: &u32| {
                        limiter
                            .take_all(&[other, one], NOW)
                            .iter()
                            .all(|taken| taken.refused.is_none())
                    };
                    (0..1_000).filter(all).count()
                })
            };
            let cores: Vec<_> = (0..4).map(|_| core()).collect();
            cores.into_iter().map(|core| core.join().unwrap()).sum()
        });
        assert_eq!(admitted, 1_000);
        assert_eq!(
            limiter.take(&other, NOW).remaining,
            499,
            "what the narrow one refused was given back"
        );
    }
}

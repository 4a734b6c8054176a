//! Quotas that several processes share. They are kept in a store, and judged there by the same algorithm, so that they are exact
//! however many processes ask. A limit that is kept here comes first: what it refuses costs the store nothing.
//!
//! Of all quotas of a request, wherever they are kept, each is taken from or none is.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{LimitKey, Limiter, Rate, Take, Taken};
use crate::Moment;

/// Where a quota is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kept {
    /// By whoever drives the request, for itself.
    Here,
    /// In the store.
    Shared {
        /// Whether it is kept here as long as the store does not answer.
        or_here: bool,
    },
}

/// A request of which the quotas that are kept here were asked.
#[derive(Debug)]
pub struct Half<'t> {
    takes: &'t [Take],
    said: Vec<Option<Taken>>,
}

impl Limiter {
    /// Takes from those of the quotas that are kept here.
    #[must_use]
    pub fn take_here<'t>(&self, takes: &'t [Take], now: Moment) -> Half<'t> {
        let here = |take: &Take| take.kept == Kept::Here;
        let said = match takes.iter().all(here) {
            true => self.take_all(takes, now).into_iter().map(Some).collect(),
            false => self.take_some(takes, here, now),
        };
        Half { takes, said }
    }

    fn take_some(&self, takes: &[Take], which: impl Fn(&Take) -> bool, now: Moment) -> Vec<Option<Taken>> {
        let some: Vec<Take> = takes.iter().copied().filter(&which).collect();
        let mut taken = self.take_all(&some, now).into_iter();
        takes.iter().map(|take| which(take).then(|| taken.next()).flatten()).collect()
    }
}

impl Half<'_> {
    /// The quotas that the store has to be asked for: none where there are none, or where one that is kept here refuses.
    #[must_use]
    pub fn elsewhere(&self) -> Vec<Take> {
        if is_refused(&self.said) {
            return Vec::new();
        }
        self.takes.iter().copied().filter(|take| take.kept != Kept::Here).collect()
    }

    /// What came of each quota, in their order, now that the store `said` what came of [those it keeps](Self::elsewhere), or nothing;
    /// none of those that nobody was asked for.
    #[must_use]
    pub fn settle(self, limiter: &Limiter, said: Option<Vec<Taken>>, now: Moment) -> Vec<Option<Taken>> {
        let asked = self.elsewhere().len();
        let Self { takes, said: here } = self;
        if asked == 0 {
            return here;
        }
        let elsewhere = match said.filter(|said| said.len() == asked) {
            Some(said) => {
                let mut said = said.into_iter();
                let of = |take: &Take| (take.kept != Kept::Here).then(|| said.next()).flatten();
                takes.iter().map(of).collect()
            }
            None => limiter.take_some(takes, |take| take.kept == Kept::Shared { or_here: true }, now),
        };
        let is_refused = is_refused(&elsewhere);
        let both = takes.iter().zip(here).zip(elsewhere);
        both.map(|((take, here), elsewhere)| match here {
            Some(_) if is_refused => {
                limiter.give_back(take);
                Some(limiter.look(take, now))
            }
            here => here.or(elsewhere),
        })
        .collect()
    }
}

fn is_refused(said: &[Option<Taken>]) -> bool {
    said.iter().flatten().any(|taken| taken.refused.is_some())
}

/// How a store that speaks the protocol of Redis and runs its scripts is asked. The time is the store's own, so that no two who ask it
/// have to agree on theirs.
pub mod redis {
    use super::{Duration, LimitKey, Rate, Take, Taken};

    /// The script. Its keys are [those of the quotas](key), its arguments [their rates](arguments), one after the other. It gives
    /// [three numbers](read) for each of them. Numbers are doubles there, which count nanoseconds exactly over a hundred days, and
    /// so a moment is kept as seconds and nanoseconds apart. A moment that is further ahead than its burst allows was written by a
    /// clock that went back since.
    pub const SCRIPT: &str = r"local time = redis.call('TIME')
local second, nano = tonumber(time[1]), tonumber(time[2]) * 1000
local ahead, wait, refused = {}, {}, false
for at, key in ipairs(KEYS) do
  local interval, burst = tonumber(ARGV[2 * at - 1]), tonumber(ARGV[2 * at])
  local s, n = string.match(redis.call('GET', key) or '', '^(%d+)%.(%d+)$')
  ahead[at] = s and math.min(math.max((s - second) * 1e9 + n - nano, 0), interval * burst) or 0
  wait[at] = math.max(ahead[at] + interval - interval * burst, 0)
  refused = refused or wait[at] > 0
end
local said = {}
for at, key in ipairs(KEYS) do
  local interval, burst = tonumber(ARGV[2 * at - 1]), tonumber(ARGV[2 * at])
  if not refused then
    ahead[at] = ahead[at] + interval
    local whole = nano + ahead[at]
    local s = second + math.floor(whole / 1e9)
    redis.call('SET', key, string.format('%.0f.%09.0f', s, whole % 1e9), 'PX', string.format('%.0f', math.ceil(ahead[at] / 1e6)))
  end
  said[3 * at - 2] = wait[at]
  said[3 * at - 1] = math.floor(burst - ahead[at] / interval)
  said[3 * at] = ahead[at]
end
return said";

    /// The name of a quota in the store.
    #[must_use]
    pub fn key(LimitKey(key): LimitKey) -> String {
        let hex = key.iter().map(|byte| format!("{byte:02x}"));
        hex.fold("heddle:quota:".to_owned(), |name, byte| name + &byte)
    }

    /// A quota's rate: the nanoseconds between two requests, and how many may come at once.
    #[must_use]
    pub fn arguments(
        Take {
            rate: Rate { interval, burst },
            ..
        }: Take,
    ) -> [u64; 2] {
        [interval, u64::from(burst)]
    }

    /// What the script said of each quota. None where that is nothing it says.
    #[must_use]
    pub fn read(said: &[i64]) -> Option<Vec<Taken>> {
        let (of_each, rest) = said.as_chunks::<3>();
        let taken = |&[wait, remaining, reset]: &[i64; 3]| {
            let wait = u64::try_from(wait).ok()?;
            Some(Taken {
                refused: (wait > 0).then(|| Duration::from_nanos(wait)),
                remaining: u32::try_from(remaining).ok()?,
                reset: Duration::from_nanos(u64::try_from(reset).ok()?),
            })
        };
        rest.is_empty().then(|| of_each.iter().map(taken).collect())?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Moment = Moment(1_000_000_000);
    const SHARED: Kept = Kept::Shared { or_here: false };
    const OR_HERE: Kept = Kept::Shared { or_here: true };

    fn take(key: u8, limit: u32, kept: Kept) -> Take {
        Take {
            key: LimitKey([key; 16]),
            rate: Rate::new(limit, Duration::from_secs(60), limit).unwrap(),
            kept,
        }
    }

    fn said(wait: u64) -> Taken {
        Taken {
            refused: (wait > 0).then(|| Duration::from_secs(wait)),
            remaining: 7,
            reset: Duration::from_secs(9),
        }
    }

    fn remaining(taken: &[Option<Taken>]) -> Vec<Option<u32>> {
        taken.iter().map(|taken| taken.map(|taken| taken.remaining)).collect()
    }

    #[test]
    fn what_the_store_says_is_put_in_its_place() {
        let limiter = Limiter::new(64, 1);
        let takes = [take(1, 3, SHARED), take(2, 3, Kept::Here), take(3, 3, SHARED)];
        let half = limiter.take_here(&takes, NOW);
        assert_eq!(half.elsewhere(), [takes[0], takes[2]]);
        let taken = half.settle(&limiter, Some(vec![said(0), said(0)]), NOW);
        assert_eq!(remaining(&taken), [Some(7), Some(2), Some(7)]);
    }

    #[test]
    fn the_store_is_not_asked_for_what_is_refused_here() {
        let limiter = Limiter::new(64, 1);
        let takes = [take(1, 1, Kept::Here), take(2, 3, SHARED)];
        let _first = limiter.take_here(&takes, NOW);
        let half = limiter.take_here(&takes, NOW);
        assert!(half.elsewhere().is_empty());
        let taken = half.settle(&limiter, None, NOW);
        assert!(taken[0].unwrap().refused.is_some() && taken[1].is_none());
    }

    #[test]
    fn what_the_store_refuses_costs_nothing_here() {
        let limiter = Limiter::new(64, 1);
        let takes = [take(1, 1, Kept::Here), take(2, 3, SHARED)];
        for _ in 0..3 {
            let taken = limiter.take_here(&takes, NOW).settle(&limiter, Some(vec![said(5)]), NOW);
            assert_eq!(remaining(&taken), [Some(1), Some(7)]);
            assert!(taken[0].unwrap().refused.is_none() && taken[1].unwrap().refused.is_some());
        }
        let taken = limiter.take_here(&takes, NOW).settle(&limiter, Some(vec![said(0)]), NOW);
        assert_eq!(remaining(&taken), [Some(0), Some(7)]);
    }

    #[test]
    fn without_the_store_a_quota_is_unknown_or_kept_here() {
        let limiter = Limiter::new(64, 1);
        let takes = [take(1, 2, Kept::Here), take(2, 1, OR_HERE), take(3, 1, SHARED)];
        let ask = || limiter.take_here(&takes, NOW).settle(&limiter, None, NOW);
        assert_eq!(remaining(&ask()), [Some(1), Some(0), None]);
        let again = ask();
        assert!(again[1].unwrap().refused.is_some(), "{again:?}");
        assert_eq!(remaining(&again), [Some(1), Some(0), None], "and the other was given back");
    }

    #[test]
    fn a_store_that_says_too_little_said_nothing() {
        let limiter = Limiter::new(64, 1);
        let takes = [take(1, 1, SHARED), take(2, 1, SHARED)];
        let taken = limiter.take_here(&takes, NOW).settle(&limiter, Some(vec![said(0)]), NOW);
        assert_eq!(taken, [None, None]);
    }

    #[test]
    fn what_the_script_says_is_read() {
        let taken = redis::read(&[0, 2, 1_500_000_000, 7, 0, 60]).unwrap();
        assert_eq!((taken[0].refused, taken[0].remaining), (None, 2));
        assert_eq!(taken[0].reset, Duration::from_millis(1500));
        assert_eq!(taken[1].refused, Some(Duration::from_nanos(7)));
        for none in [&[1, 2][..], &[0, -1, 0], &[-1, 0, 0], &[0, 0, -1], &[0, i64::MAX, 0]] {
            assert_eq!(redis::read(none), None, "{none:?}");
        }
        let take = take(1, 2, SHARED);
        assert_eq!(redis::key(take.key), format!("heddle:quota:{}", "01".repeat(16)));
        assert_eq!(redis::arguments(take), [30_000_000_000, 2]);
    }
}

//! The clocks and the randomness that the machines are given.

use std::time::{Duration, Instant, SystemTime};

use gateway::exchange::Entropy;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use routing::{Moment, Now};

/// Both clocks. Moments count from the process's start, so they mean the same on every core.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    origin: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { origin: Instant::now() }
    }

    pub(crate) fn now(self) -> Now {
        self.now_at(Instant::now())
    }

    /// Both clocks at an instant that is hardly over.
    pub(crate) fn now_at(self, at: Instant) -> Now {
        Now {
            moment: self.moment(at),
            unix: unix(),
        }
    }

    pub(crate) fn moment(self, at: Instant) -> Moment {
        Moment(u64::try_from(at.saturating_duration_since(self.origin).as_nanos()).unwrap_or(u64::MAX))
    }

    /// The instant of a moment. What lies more than a century ahead is as good as never.
    pub(crate) fn instant(self, moment: Moment) -> Instant {
        const NEVER: Duration = Duration::from_secs(100 * 365 * 86_400);
        self.origin + Duration::from_nanos(moment.0).min(NEVER)
    }
}

fn unix() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// A core's source of randomness: ChaCha, seeded by the system, because request ids should not be guessed from one another.
#[derive(Debug)]
pub(crate) struct Random(StdRng);

impl Random {
    pub(crate) fn seeded() -> Self {
        Self(StdRng::from_rng(&mut rand::rng()))
    }

    pub(crate) fn entropy(&mut self) -> Entropy {
        let mut entropy = Entropy::default();
        self.0.fill_bytes(&mut entropy);
        entropy
    }

    pub(crate) fn word(&mut self) -> u64 {
        self.0.next_u64()
    }
}

//! How the endpoints of an upstream are chosen, and when one of them is left out.

use std::time::Duration;

use crate::policy::OutlierSettings;

/// How an endpoint is chosen. Each way heeds the weights, and leaves out endpoints that are ejected or have the weight 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Balance {
    /// One after the other, spread as evenly as the weights allow.
    #[default]
    RoundRobin,
    /// Of two drawn at random the one with fewer requests under way.
    LeastRequest,
    /// Of two drawn at random the one with the smaller product of its recent latency and its requests under way.
    PeakEwma,
    /// The one that owns the request's place on a ring: requests of the same hash go to the same endpoint, and an endpoint that comes or
    /// goes moves only its own share of them.
    RingHash,
}

impl Balance {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::RoundRobin, Self::LeastRequest, Self::PeakEwma, Self::RingHash];

    /// Its name in a config.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "round-robin",
            Self::LeastRequest => "least-request",
            Self::PeakEwma => "peak-ewma",
            Self::RingHash => "ring-hash",
        }
    }
}

/// What a balancer goes by.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Settings {
    /// How an endpoint is chosen.
    pub balance: Balance,
    /// When an endpoint is ejected for what it answers; never where there is none.
    pub outlier: Option<OutlierSettings>,
    /// For how long an endpoint is left out that could not be reached at all, which says more than an answer does. Where there is
    /// none, that is a failure like any other.
    pub unreachable: Option<Duration>,
    /// For how long an endpoint that joins others gets less than its share, which grows from a tenth to the whole: caches are cold
    /// and pools empty. No effect on [`Balance::RingHash`], where a place has one owner.
    pub slow_start: Option<Duration>,
    /// Whether endpoints that are near come first. No effect on [`Balance::RingHash`].
    pub zone: Option<ZoneSettings>,
}

/// How long requests stay in their own zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ZoneSettings {
    /// With as many requests under way at the near endpoint, one that is farther and has fewer is taken: 1 to 1,000,000.
    pub overflow: u32,
}

impl Default for ZoneSettings {
    /// 64: about what one connection of HTTP/2 carries before another is opened.
    fn default() -> Self {
        Self { overflow: 64 }
    }
}

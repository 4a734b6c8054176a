//! What is known of endpoints, and who of those that are judged together is ejected.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use super::ewma::PeakEwma;
use crate::Moment;
use crate::policy::{Health, OutlierSettings, SuccessRate};

/// What is known of an endpoint; lives as long as its address is in the set.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) health: Health,
    pub(super) in_flight: AtomicU32,
    pub(super) latency: PeakEwma,
    /// When it joined endpoints that were there already; none where it was there from the beginning.
    joined: Option<Moment>,
    /// Until when it asked to be left alone, in [`Moment`]'s nanoseconds.
    rests_until: AtomicU64,
}

/// An endpoint that has just come gets a tenth of its share (Envoy's least).
const COLD: f64 = 0.1;

/// What an endpoint may ask for at most: a mistaken `Retry-After` must not take it out for a day.
const LONGEST_REST: Duration = Duration::from_secs(60);

impl State {
    pub(super) fn joined_at(now: Moment) -> Self {
        Self {
            joined: Some(now),
            ..Self::default()
        }
    }

    /// Which part of its share it gets, where that grows over `slow_start`.
    pub(super) fn warmth(&self, slow_start: Duration, now: Moment) -> f64 {
        let Some(joined) = self.joined else { return 1.0 };
        let age = now.since(joined).as_secs_f64() / slow_start.as_secs_f64();
        if age.is_nan() { 1.0 } else { age.clamp(COLD, 1.0) }
    }

    /// Whether it asked to be left alone.
    pub(super) fn rests(&self, now: Moment) -> bool {
        self.rests_until.load(Ordering::Relaxed) > now.0
    }

    pub(super) fn rest(&self, after: Duration, now: Moment) {
        let until = now + after.min(LONGEST_REST);
        self.rests_until.fetch_max(until.0, Ordering::Relaxed);
    }
}

/// The endpoints that are judged together: those of an upstream, however requests choose among them.
#[derive(Debug)]
pub(super) struct Group {
    outlier: Option<OutlierSettings>,
    unreachable: Option<Duration>,
    /// Those that may get requests.
    members: Box<[Arc<State>]>,
    /// Whether some core is ejecting right now.
    ejecting: AtomicBool,
    /// When success rates are compared next, in [`Moment`]'s nanoseconds; 0 before the first request.
    compares_at: AtomicU64,
}

impl Group {
    pub(super) fn new(settings: &super::Settings, members: impl Iterator<Item = Arc<State>>, before: Option<&Self>) -> Self {
        let compares_at = before.map_or(0, |before| before.compares_at.load(Ordering::Relaxed));
        Self {
            outlier: settings.outlier,
            unreachable: settings.unreachable,
            members: members.collect(),
            ejecting: AtomicBool::new(false),
            compares_at: AtomicU64::new(compares_at),
        }
    }

    /// Notes a request that an endpoint served.
    pub(super) fn succeeded(&self, state: &State, now: Moment) {
        state.health.succeeded(now);
        self.compare(state, true, now);
    }

    /// Notes a failure, and ejects the endpoint where that is one too many and not too many are ejected already.
    pub(super) fn failed(&self, state: &State, now: Moment) {
        let Some(outlier) = &self.outlier else { return };
        if state.health.failed(outlier, now) {
            self.exclusively(|| self.eject(state, outlier.ejection, outlier.max_ejected, now));
        }
        self.compare(state, false, now);
    }

    /// Notes that an endpoint could not be reached, and leaves it out at once; but never the last.
    pub(super) fn unreachable(&self, state: &State, now: Moment) {
        let Some(ejection) = self.unreachable else {
            return self.failed(state, now);
        };
        if state.health.is_available(now) {
            let but_one = 1.0 - 0.5 / self.members.len().max(1) as f64;
            self.exclusively(|| self.eject(state, ejection, but_one, now));
        }
    }

    /// Counts for the success rates, and compares them where the time has come.
    fn compare(&self, state: &State, served: bool, now: Moment) {
        let Some((outlier, rate)) = self
            .outlier
            .as_ref()
            .and_then(|outlier| Some((outlier, outlier.success_rate?)))
        else {
            return;
        };
        state.health.count(served);
        let next = (now + rate.interval).0;
        match self.compares_at.load(Ordering::Relaxed) {
            0 => {
                // The first request begins the first interval, whoever of two that come at once notes it.
                let _ = self
                    .compares_at
                    .compare_exchange(0, next, Ordering::Relaxed, Ordering::Relaxed);
            }
            at if at <= now.0 => self.exclusively(|| {
                if self.compares_at.swap(next, Ordering::Relaxed) == at {
                    self.eject_unlike(outlier, &rate, now);
                }
            }),
            _ => {}
        }
    }

    /// Ejects those that served much less than the others in the interval that is over, the worst first.
    fn eject_unlike(&self, outlier: &OutlierSettings, rate: &SuccessRate, now: Moment) {
        let rates = self
            .members
            .iter()
            .map(|state| (state, state.health.take_rate(rate.min_requests)));
        let mut rates: Vec<(&Arc<State>, f64)> = rates.filter_map(|(state, rate)| Some((state, rate?))).collect();
        let seen: Vec<f64> = rates.iter().map(|(_, rate)| *rate).collect();
        let Some(least) = rate.least(&seen) else { return };
        rates.sort_by(|(_, a), (_, b)| a.total_cmp(b));
        for (state, rate) in rates {
            if rate < least && state.health.is_available(now) {
                self.eject(state, outlier.ejection, outlier.max_ejected, now);
            }
        }
    }

    fn eject(&self, state: &State, ejection: Duration, max_ejected: f64, now: Moment) {
        let all = self.members.len();
        let ejected = self.members.iter().filter(|state| !state.health.is_available(now)).count();
        if ejected < at_most(all, max_ejected) {
            state.health.eject(ejection, now);
        }
    }

    /// Whoever finds another core ejecting leaves it be: the next failure will ask again.
    fn exclusively(&self, eject: impl FnOnce()) {
        if !self.ejecting.swap(true, Ordering::Acquire) {
            eject();
            self.ejecting.store(false, Ordering::Release);
        }
    }

    /// How many of `all` may be ejected.
    pub(super) fn may_eject(&self, all: usize) -> usize {
        let max = self.outlier.as_ref().map_or(0.0, |outlier| outlier.max_ejected);
        let but_one = if self.unreachable.is_some() {
            all.saturating_sub(1)
        } else {
            0
        };
        at_most(all, max).max(but_one)
    }
}

/// The fraction of `all`, rounded down.
fn at_most(all: usize, fraction: f64) -> usize {
    (all as f64 * fraction).floor() as usize
}

//! Which endpoint of an upstream serves a request.
//!
//! A [`Balancer`] is a snapshot: endpoints that change make another one by [`Balancer::replace`], and what is known of those that
//! stay comes along. It is shared between cores; all that changes in it are atomics. Time and randomness are arguments.

mod choose;
mod ewma;
mod ring;

use std::hash::{BuildHasherDefault, DefaultHasher, Hash};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use crate::Moment;
use crate::policy::{Health, OutlierSettings};
use ewma::PeakEwma;

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

/// The endpoints of an upstream and what is known of them. `A` is an address, by which an endpoint is known again.
#[derive(Debug)]
pub struct Balancer<A> {
    set: Arc<Set<A>>,
}

/// One endpoint.
#[derive(Debug)]
pub struct Endpoint<A> {
    address: A,
    weight: u16,
    state: Arc<State>,
}

/// What is known of an endpoint; lives as long as its address is in the set.
#[derive(Debug, Default)]
struct State {
    health: Health,
    in_flight: AtomicU32,
    latency: PeakEwma,
}

#[derive(Debug)]
struct Set<A> {
    balance: Balance,
    outlier: Option<OutlierSettings>,
    endpoints: Box<[Endpoint<A>]>,
    /// Sums of the weights up to each endpoint.
    sums: Box<[u64]>,
    /// The largest weight.
    max: u64,
    /// Places on the ring and whose they are, in order; none unless the way to choose asks for it.
    ring: Box<[(u64, usize)]>,
    /// Where round-robin is.
    cursor: AtomicU64,
    /// Whether some core is ejecting right now.
    ejecting: AtomicBool,
}

/// How an attempt ended, as far as its endpoint is to blame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It answered, and not with a server error.
    Success,
    /// It could not be reached, broke off, took too long, or answered 5xx.
    Failure,
}

impl<A: Clone + Eq + Hash> Balancer<A> {
    /// A balancer over endpoints with their weights.
    pub fn new(balance: Balance, outlier: Option<OutlierSettings>, endpoints: impl IntoIterator<Item = (A, u16)>) -> Self {
        Self::with_states(balance, outlier, endpoints, |_| Arc::default(), ring::hash)
    }

    /// The same over endpoints whose addresses do not say who they are: `name` does, and keeps their places on a ring where they are when
    /// others come or go.
    pub fn named<N: Hash>(
        balance: Balance,
        outlier: Option<OutlierSettings>,
        endpoints: impl IntoIterator<Item = (A, u16)>,
        name: impl Fn(&A) -> N,
    ) -> Self {
        Self::with_states(
            balance,
            outlier,
            endpoints,
            |_| Arc::default(),
            |address| ring::hash(&name(address)),
        )
    }

    /// A balancer over other endpoints. What is known of an address that stays comes along, requests under way included.
    #[must_use]
    pub fn replace(&self, endpoints: impl IntoIterator<Item = (A, u16)>) -> Self {
        let known: std::collections::HashMap<&A, &Arc<State>, BuildHasherDefault<DefaultHasher>> = self
            .set
            .endpoints
            .iter()
            .map(|endpoint| (&endpoint.address, &endpoint.state))
            .collect();
        let state = |address: &A| known.get(address).map_or_else(Arc::default, |state| Arc::clone(state));
        let replaced = Self::with_states(self.set.balance, self.set.outlier, endpoints, state, ring::hash);
        // Going on where the last set was, an update every second does not send every first request to the first endpoint.
        replaced
            .set
            .cursor
            .store(self.set.cursor.load(Ordering::Relaxed), Ordering::Relaxed);
        replaced
    }

    /// A balancer after this one, for settings and addresses that may all be others. Each endpoint says at which place it was in
    /// this one, if at any, and what is known of it there comes along, requests under way included. `name` as in [`named`](Self::named).
    #[must_use]
    pub fn succeed<B: Clone + Eq + Hash, N: Hash>(
        &self,
        balance: Balance,
        outlier: Option<OutlierSettings>,
        endpoints: impl IntoIterator<Item = (B, u16, Option<usize>)>,
        name: impl Fn(&B) -> N,
    ) -> Balancer<B> {
        let (endpoints, places): (Vec<_>, Vec<_>) = endpoints
            .into_iter()
            .map(|(address, weight, was)| ((address, weight), was))
            .unzip();
        let mut places = places.into_iter();
        let state = |_: &B| {
            let was = places.next().flatten().and_then(|was| self.set.endpoints.get(was));
            was.map_or_else(Arc::default, |endpoint| Arc::clone(&endpoint.state))
        };
        Balancer::with_states(balance, outlier, endpoints, state, |address| ring::hash(&name(address)))
    }

    fn with_states(
        balance: Balance,
        outlier: Option<OutlierSettings>,
        endpoints: impl IntoIterator<Item = (A, u16)>,
        mut state: impl FnMut(&A) -> Arc<State>,
        name: impl Fn(&A) -> u64,
    ) -> Self {
        let endpoints = endpoints.into_iter().map(|(address, weight)| Endpoint {
            state: state(&address),
            address,
            weight,
        });
        let endpoints: Box<[Endpoint<A>]> = endpoints.collect();
        let sums = endpoints.iter().scan(0, |sum, endpoint| {
            *sum += u64::from(endpoint.weight);
            Some(*sum)
        });
        let sums = sums.collect();
        let max = endpoints.iter().map(|endpoint| u64::from(endpoint.weight)).max().unwrap_or(0);
        let ring = match balance {
            Balance::RingHash => {
                let names = endpoints.iter().map(|endpoint| (name(&endpoint.address), endpoint.weight));
                ring::of(names, max)
            }
            _ => Box::default(),
        };
        let (cursor, ejecting) = (AtomicU64::new(0), AtomicBool::new(false));
        Self {
            set: Arc::new(Set {
                balance,
                outlier,
                endpoints,
                sums,
                max,
                ring,
                cursor,
                ejecting,
            }),
        }
    }
}

impl<A: Eq> Balancer<A> {
    /// Chooses an endpoint by a random number that is uniform over all of `u64`, or by a request's hash where endpoints own places on a
    /// ring; None where none may be used.
    #[must_use]
    pub fn pick(&self, now: Moment, random: u64) -> Option<Picked<A>> {
        self.set.choose(now, random, None).map(|place| self.picked(place, now))
    }

    /// The same, but another than `tried` where there is one: a second attempt at the same endpoint seldom does better.
    #[must_use]
    pub fn pick_except(&self, tried: &A, now: Moment, random: u64) -> Option<Picked<A>> {
        let place = self.set.endpoints.iter().position(|endpoint| endpoint.address == *tried);
        let other = self
            .set
            .choose(now, random, place)
            .or_else(|| self.set.choose(now, random, None));
        other.map(|place| self.picked(place, now))
    }

    /// The endpoints, in the order they were given.
    #[must_use]
    pub fn endpoints(&self) -> &[Endpoint<A>] {
        &self.set.endpoints
    }

    fn picked(&self, place: usize, now: Moment) -> Picked<A> {
        self.set.endpoints[place].state.in_flight.fetch_add(1, Ordering::Relaxed);
        Picked {
            set: Arc::clone(&self.set),
            place,
            since: now,
        }
    }
}

impl<A> Clone for Balancer<A> {
    /// Another handle of the same snapshot.
    fn clone(&self) -> Self {
        Self {
            set: Arc::clone(&self.set),
        }
    }
}

impl<A> Endpoint<A> {
    /// Its address.
    #[must_use]
    pub fn address(&self) -> &A {
        &self.address
    }

    /// Its weight.
    #[must_use]
    pub fn weight(&self) -> u16 {
        self.weight
    }

    /// Whether it gets requests: it has a weight, and is not ejected.
    #[must_use]
    pub fn is_available(&self, now: Moment) -> bool {
        self.weight > 0 && self.state.health.is_available(now)
    }

    /// How many requests are under way.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.state.in_flight.load(Ordering::Relaxed)
    }
}

impl<A> Set<A> {
    /// Notes a failure, and ejects the endpoint where that is one too many and not too many are ejected already.
    fn failed(&self, place: usize, now: Moment) {
        let Some(outlier) = &self.outlier else { return };
        let health = &self.endpoints[place].state.health;
        // Whoever finds another core ejecting leaves it be: the next failure will ask again.
        if !health.failed(outlier, now) || self.ejecting.swap(true, Ordering::Acquire) {
            return;
        }
        let weighted = self.endpoints.iter().filter(|endpoint| endpoint.weight > 0);
        let (all, ejected) = weighted.fold((0, 0), |(all, ejected), endpoint| {
            (all + 1, ejected + u32::from(!endpoint.is_available(now)))
        });
        if f64::from(ejected + 1) <= (f64::from(all) * outlier.max_ejected).floor() {
            health.eject(outlier, now);
        }
        self.ejecting.store(false, Ordering::Release);
    }
}

/// An endpoint that serves a request, which is under way until this is dropped.
#[derive(Debug)]
#[must_use]
pub struct Picked<A> {
    set: Arc<Set<A>>,
    place: usize,
    since: Moment,
}

impl<A> Picked<A> {
    /// The endpoint's address.
    #[must_use]
    pub fn address(&self) -> &A {
        &self.set.endpoints[self.place].address
    }

    /// Notes how the attempt went, at the answer's head or at its failure; the body may still be under way. An attempt of which
    /// nothing is noted (its client went away, say) tells nothing of the endpoint.
    pub fn answered(&self, outcome: Outcome, now: Moment) {
        let state = &self.set.endpoints[self.place].state;
        state.latency.observe(now.since(self.since), outcome, now);
        match outcome {
            Outcome::Success => state.health.succeeded(now),
            Outcome::Failure => self.set.failed(self.place, now),
        }
    }

    /// Notes how the attempt went, and that it is over.
    pub fn finish(self, outcome: Outcome, now: Moment) {
        self.answered(outcome, now);
    }
}

impl<A> Drop for Picked<A> {
    fn drop(&mut self) {
        self.set.endpoints[self.place].state.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;

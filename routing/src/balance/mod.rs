//! Which endpoint of an upstream serves a request.
//!
//! A [`Balancer`] is a snapshot: endpoints that change make another one by [`Balancer::replace`], and what is known of those that
//! stay comes along. It is shared between cores; all that changes in it are atomics. Time and randomness are arguments.
//!
//! What is known of an endpoint (requests under way, latency, ejection) belongs to the endpoint: a [view](Balancer::view) on some of
//! the endpoints, by which a route sends to one version of a service, knows the same as every other one.

mod choose;
mod ewma;
mod group;
mod ring;
mod settings;

use std::hash::{BuildHasherDefault, DefaultHasher, Hash};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub use settings::{Balance, Settings, ZoneSettings};

use crate::Moment;
use group::{Group, State};

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
    distance: u16,
    /// Its place on a ring follows from it.
    name: u64,
    state: Arc<State>,
}

/// An endpoint as it enters a balancer.
#[derive(Debug, Clone)]
pub struct Member<A> {
    /// Its address.
    pub address: A,
    /// Its share of the requests. One with 0 gets none.
    pub weight: u16,
    /// How far it is from whoever asks: 0 is near (in the same zone, say), and of the others the nearest come first.
    pub distance: u16,
}

impl<A> From<(A, u16)> for Member<A> {
    fn from((address, weight): (A, u16)) -> Self {
        Self {
            address,
            weight,
            distance: 1,
        }
    }
}

#[derive(Debug)]
struct Set<A> {
    settings: Settings,
    endpoints: Box<[Endpoint<A>]>,
    /// Those that are judged together, which may be more than these.
    group: Arc<Group>,
    /// Sums of the weights up to each endpoint.
    sums: Box<[u64]>,
    /// The largest weight.
    max: u64,
    /// Places on the ring and whose they are, in order; none unless the way to choose asks for it.
    ring: Box<[(u64, usize)]>,
    /// Where round-robin is.
    cursor: AtomicU64,
}

/// How an attempt ended, as far as its endpoint is to blame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It answered, and not with a server error.
    Success,
    /// It broke off, took too long, or answered 5xx.
    Failure,
    /// No connection to it could be made, or the one that there was is gone.
    Unreachable,
}

impl<A: Clone + Eq + Hash> Balancer<A> {
    /// A balancer over endpoints.
    pub fn new(settings: Settings, endpoints: impl IntoIterator<Item = impl Into<Member<A>>>) -> Self {
        Self::named(settings, endpoints, A::clone)
    }

    /// The same over endpoints whose addresses do not say who they are: `name` does, and keeps their places on a ring where they are when
    /// others come or go.
    pub fn named<N: Hash>(
        settings: Settings,
        endpoints: impl IntoIterator<Item = impl Into<Member<A>>>,
        name: impl Fn(&A) -> N,
    ) -> Self {
        let endpoints = endpoints.into_iter().map(|member| {
            let member: Member<A> = member.into();
            let name = ring::hash(&name(&member.address));
            Endpoint::new(member, name, Arc::default())
        });
        let endpoints: Box<[_]> = endpoints.collect();
        let group = Group::new(&settings, members(&endpoints), None);
        Self::over(settings, endpoints, Arc::new(group))
    }

    /// A balancer over other endpoints. What is known of an address that stays comes along, requests under way included; one that
    /// joins others begins slowly where the settings say so.
    #[must_use]
    pub fn replace(&self, settings: Settings, endpoints: impl IntoIterator<Item = impl Into<Member<A>>>, now: Moment) -> Self {
        let known: std::collections::HashMap<&A, usize, BuildHasherDefault<DefaultHasher>> = self
            .endpoints()
            .iter()
            .enumerate()
            .map(|(place, endpoint)| (&endpoint.address, place))
            .collect();
        let endpoints = endpoints.into_iter().map(Into::into).map(|member: Member<A>| {
            let was = known.get(&member.address).copied();
            (member, was)
        });
        let replaced = self.succeed(settings, endpoints, A::clone, now);
        // Going on where the last set was, an update every second does not send every first request to the first endpoint.
        let cursor = self.set.cursor.load(Ordering::Relaxed);
        replaced.set.cursor.store(cursor, Ordering::Relaxed);
        replaced
    }

    /// A balancer after this one, for settings and addresses that may all be others. Each endpoint says at which place it was in
    /// this one, if at any, and what is known of it there comes along, requests under way included. `name` as in [`named`](Self::named).
    #[must_use]
    pub fn succeed<B: Clone + Eq + Hash, N: Hash>(
        &self,
        settings: Settings,
        endpoints: impl IntoIterator<Item = (impl Into<Member<B>>, Option<usize>)>,
        name: impl Fn(&B) -> N,
        now: Moment,
    ) -> Balancer<B> {
        // The first endpoints that there are join nobody.
        let new = || {
            if self.endpoints().is_empty() {
                State::default()
            } else {
                State::joined_at(now)
            }
        };
        let endpoints = endpoints.into_iter().map(|(member, was)| {
            let known = was.and_then(|was| self.endpoints().get(was));
            let state = known.map_or_else(|| Arc::new(new()), |endpoint| Arc::clone(&endpoint.state));
            let member: Member<B> = member.into();
            let name = ring::hash(&name(&member.address));
            Endpoint::new(member, name, state)
        });
        let endpoints: Box<[_]> = endpoints.collect();
        let group = Group::new(&settings, members(&endpoints), Some(&self.set.group));
        Balancer::over(settings, endpoints, Arc::new(group))
    }

    /// A choice among those of the endpoints that are to be kept, in a way of its own. What is known of an endpoint, and whether it is
    /// ejected, is the same in every view.
    #[must_use]
    pub fn view(&self, balance: Balance, keep: impl Fn(&A) -> bool) -> Self {
        let kept = self.endpoints().iter().filter(|endpoint| keep(&endpoint.address));
        // Each view begins one further, or all of them would send their first request to the same endpoint.
        let cursor = self.set.cursor.fetch_add(1, Ordering::Relaxed);
        let settings = Settings {
            balance,
            ..self.set.settings
        };
        let view = Self::over(settings, kept.cloned().collect(), Arc::clone(&self.set.group));
        view.set.cursor.store(cursor, Ordering::Relaxed);
        view
    }

    fn over(settings: Settings, endpoints: Box<[Endpoint<A>]>, group: Arc<Group>) -> Self {
        let sums = endpoints.iter().scan(0, |sum, endpoint| {
            *sum += u64::from(endpoint.weight);
            Some(*sum)
        });
        let sums = sums.collect();
        let max = endpoints.iter().map(|endpoint| u64::from(endpoint.weight)).max().unwrap_or(0);
        let ring = match settings.balance {
            Balance::RingHash => ring::of(endpoints.iter().map(|endpoint| (endpoint.name, endpoint.weight)), max),
            _ => Box::default(),
        };
        Self {
            set: Arc::new(Set {
                settings,
                endpoints,
                group,
                sums,
                max,
                ring,
                cursor: AtomicU64::new(0),
            }),
        }
    }
}

/// A number by which [`Balance::RingHash`] finds the owner of a text: the same for the same text, in every process of one build.
#[must_use]
pub fn affinity(text: &str) -> u64 {
    ring::hash(&text)
}

fn members<A>(endpoints: &[Endpoint<A>]) -> impl Iterator<Item = Arc<State>> {
    let weighted = endpoints.iter().filter(|endpoint| endpoint.weight > 0);
    weighted.map(|endpoint| Arc::clone(&endpoint.state))
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

impl<A: Clone> Clone for Endpoint<A> {
    /// Another handle of what is known of the same endpoint.
    fn clone(&self) -> Self {
        Self {
            address: self.address.clone(),
            state: Arc::clone(&self.state),
            ..*self
        }
    }
}

impl<A> Endpoint<A> {
    fn new(member: Member<A>, name: u64, state: Arc<State>) -> Self {
        Self {
            address: member.address,
            weight: member.weight,
            distance: member.distance,
            name,
            state,
        }
    }

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

    /// How much is under way at the endpoint, this included.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.set.endpoints[self.place].in_flight()
    }

    /// Notes how the attempt went, at the answer's head or at its failure; the body may still be under way. An attempt of which
    /// nothing is noted (its client went away, say) tells nothing of the endpoint.
    pub fn answered(&self, outcome: Outcome, now: Moment) {
        let state = self.state();
        state.latency.observe(now.since(self.since), outcome, now);
        match outcome {
            Outcome::Success => self.set.group.succeeded(state, now),
            Outcome::Failure => self.set.group.failed(state, now),
            Outcome::Unreachable => self.set.group.unreachable(state, now),
        }
    }

    /// Notes that the endpoint asked to be left alone for a while (`Retry-After`). Others get its requests, as long as there are
    /// others; no request is refused for it.
    pub fn rest(&self, after: Duration, now: Moment) {
        self.state().rest(after, now);
    }

    /// Notes how the attempt went, and that it is over.
    pub fn finish(self, outcome: Outcome, now: Moment) {
        self.answered(outcome, now);
    }

    fn state(&self) -> &State {
        &self.set.endpoints[self.place].state
    }
}

impl<A> Drop for Picked<A> {
    fn drop(&mut self) {
        self.state().in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;

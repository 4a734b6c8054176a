//! The ways to choose.

use std::sync::atomic::Ordering;

use super::{Balance, Set};
use crate::Moment;

/// How often a draw that hits an endpoint which may not be used is repeated before all of them are looked at.
const DRAWS: u32 = 3;

impl<A> Set<A> {
    /// The place of the endpoint to use, other than `except`.
    pub(super) fn choose(&self, now: Moment, random: u64, except: Option<usize>) -> Option<usize> {
        let usable = |place: usize| Some(place) != except && self.endpoints[place].is_available(now);
        match self.balance {
            Balance::RoundRobin => self.stride(random, usable),
            Balance::LeastRequest => {
                // Requests under way per weight: an endpoint with twice the weight may have twice as many.
                let load =
                    |place: usize| f64::from(self.endpoints[place].in_flight()) / f64::from(self.endpoints[place].weight);
                self.better_of_two(random, usable, load)
            }
            Balance::PeakEwma => {
                let load = |place: usize| {
                    let endpoint = &self.endpoints[place];
                    endpoint.state.latency.load(endpoint.in_flight(), now)
                };
                self.better_of_two(random, usable, load)
            }
            Balance::RingHash => self.owner(random, usable),
        }
    }

    /// The owner of a place on the ring, else of the next place whose owner may be used: that is where the requests of an endpoint go
    /// that is ejected, or that was tried already.
    fn owner(&self, hash: u64, usable: impl Fn(usize) -> bool) -> Option<usize> {
        let start = self.ring.partition_point(|(place, _)| *place < hash);
        let (before, after) = self.ring.split_at(start);
        after
            .iter()
            .chain(before)
            .map(|(_, owner)| *owner)
            .find(|&owner| usable(owner))
    }

    /// Weighted round-robin without a lock, after gRPC's static stride scheduler.
    ///
    /// One counter runs over the endpoints again and again. In its n-th round an endpoint of weight w is taken where `w * n` passes a
    /// multiple of the largest weight: in every w of `max` rounds, spread evenly. Smooth weighted round-robin as nginx has it
    /// would need all of its counters to change as one.
    fn stride(&self, random: u64, usable: impl Fn(usize) -> bool) -> Option<usize> {
        let count = self.endpoints.len() as u64;
        if self.max == 0 {
            return None;
        }
        // The heaviest endpoint is taken in every round, so two rounds are enough unless it may not be used.
        for _ in 0..count * 2 {
            let step = self.cursor.fetch_add(1, Ordering::Relaxed);
            let (round, place) = (step / count, step % count);
            let weight = u64::from(self.endpoints[place as usize].weight);
            // Starting each endpoint elsewhere keeps light ones from coming in the same round.
            let phase = place * (self.max / 2 + 1);
            let passes = (weight * (round % self.max) + phase) % self.max < weight;
            if passes && usable(place as usize) {
                return Some(place as usize);
            }
        }
        self.draw_among(random, usable)
    }

    /// Draws two by their weights and takes the one with less load, the first where they are equal.
    ///
    /// Two random choices come close to the best of all, and do not send every core to the same endpoint at once
    /// (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing").
    fn better_of_two(&self, random: u64, usable: impl Fn(usize) -> bool, load: impl Fn(usize) -> f64) -> Option<usize> {
        let (first, random) = self.draw(random, &usable)?;
        let other = |place: usize| place != first && usable(place);
        match self.draw(random, other) {
            Some((second, _)) if load(second) < load(first) => Some(second),
            _ => Some(first),
        }
    }

    /// Draws a usable endpoint by weight; gives the next random number with it.
    fn draw(&self, random: u64, usable: impl Fn(usize) -> bool) -> Option<(usize, u64)> {
        let total = *self.sums.last()?;
        let mut random = random;
        for _ in 0..DRAWS {
            random = next(random);
            let point = scale(random, total);
            let place = self.sums.partition_point(|sum| *sum <= point);
            if place < self.endpoints.len() && usable(place) {
                return Some((place, random));
            }
        }
        random = next(random);
        Some((self.draw_among(random, usable)?, random))
    }

    /// Draws by weight after looking at all of them.
    fn draw_among(&self, random: u64, usable: impl Fn(usize) -> bool) -> Option<usize> {
        let weights = || {
            (0..self.endpoints.len())
                .filter(|&place| usable(place))
                .map(|place| (place, u64::from(self.endpoints[place].weight)))
        };
        let total: u64 = weights().map(|(_, weight)| weight).sum();
        let mut point = scale(random, total);
        let mut last = None;
        for (place, weight) in weights() {
            if point < weight {
                return Some(place);
            }
            point -= weight;
            last = Some(place);
        }
        // An ejection that ends between the two looks.
        last
    }
}

/// A random number below `total`.
fn scale(random: u64, total: u64) -> u64 {
    u64::try_from((u128::from(random) * u128::from(total)) >> 64).unwrap_or(0)
}

/// SplitMix64: as many numbers out of one as a choice needs.
fn next(random: u64) -> u64 {
    let mut mixed = random.wrapping_add(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

//! The ways to choose.

use std::sync::atomic::Ordering;

use super::{Balance, Set};
use crate::Moment;

/// How often a draw that hits an endpoint which may not be used is repeated before all of them are looked at.
const DRAWS: u32 = 3;

/// With this part more than all of the near endpoints needed, none of their requests goes farther.
const OVERPROVISIONED: f64 = 1.4;

impl<A> Set<A> {
    /// The place of the endpoint to use, other than `except`.
    pub(super) fn choose(&self, now: Moment, random: u64, except: Option<usize>) -> Option<usize> {
        let is_open = |place: usize| Some(place) != except && self.endpoints[place].is_available(now);
        let is_rested = |place: usize| is_open(place) && !self.endpoints[place].state.rests(now);
        self.choose_by_zone(now, random, &is_rested)
            .or_else(|| self.choose_by_zone(now, random, &is_open))
            .or_else(|| self.choose_of_ejected(now, random, except))
    }

    /// Where more of these endpoints are ejected than may be (others are gone, or were never among these), that they are says little,
    /// and any of them is better than none.
    fn choose_of_ejected(&self, now: Moment, random: u64, except: Option<usize>) -> Option<usize> {
        let weighted = self.endpoints.iter().filter(|endpoint| endpoint.weight > 0);
        let (all, ejected) = weighted.fold((0, 0), |(all, ejected), endpoint| {
            (all + 1, ejected + usize::from(!endpoint.is_available(now)))
        });
        let any = |place: usize| Some(place) != except && self.endpoints[place].weight > 0;
        (ejected > self.group.may_eject(all)).then(|| self.choose_among(now, random, &any))?
    }

    /// Near endpoints first, as long as enough of them may be used and they are not full.
    ///
    /// > [...] overprovisioning factor [...] 1.4, meaning that the priority level will be considered healthy until the percentage of
    /// > available hosts multiplied by 1.4 drops below 100. (Envoy, "Priority levels")
    fn choose_by_zone(&self, now: Moment, random: u64, usable: &impl Fn(usize) -> bool) -> Option<usize> {
        let Some(zone) = self.settings.zone.filter(|_| self.settings.balance != Balance::RingHash) else {
            return self.choose_among(now, random, usable);
        };
        let is_near = |place: usize| self.endpoints[place].distance == 0;
        let all = (0..self.endpoints.len()).filter(|&place| is_near(place) && self.endpoints[place].weight > 0);
        let (all, open) = all.fold((0_u32, 0_u32), |(all, open), place| {
            (all + 1, open + u32::from(usable(place)))
        });
        let near = |random| self.choose_among(now, random, &|place| is_near(place) && usable(place));
        let far = |random| {
            let others =
                (0..self.endpoints.len()).filter(|&place| !is_near(place) && self.endpoints[place].weight > 0 && usable(place));
            let nearest = others.map(|place| self.endpoints[place].distance).min()?;
            self.choose_among(now, random, &|place| {
                self.endpoints[place].distance == nearest && usable(place)
            })
        };
        let stays = f64::from(open) * OVERPROVISIONED / f64::from(all.max(1));
        let (lot, random) = (random, next(random));
        if fraction(lot) >= stays {
            return far(random).or_else(|| near(random));
        }
        let chosen = near(random)?;
        let load = |place: usize| self.endpoints[place].in_flight();
        if load(chosen) < zone.overflow {
            return Some(chosen);
        }
        let other = far(next(random)).filter(|&other| load(other) < load(chosen));
        other.or(Some(chosen))
    }

    /// Chooses among those that may be used.
    fn choose_among(&self, now: Moment, random: u64, usable: &impl Fn(usize) -> bool) -> Option<usize> {
        match self.settings.balance {
            Balance::RoundRobin => self.stride(now, random, usable),
            Balance::LeastRequest => {
                let load = |place: usize| {
                    let endpoint = &self.endpoints[place];
                    let (in_flight, weight) = (f64::from(endpoint.in_flight()), f64::from(endpoint.weight));
                    // Requests under way per weight: an endpoint with twice the weight may have twice as many.
                    in_flight / (weight * self.warmth(place, now))
                };
                self.better_of_two(now, random, usable, load)
            }
            Balance::PeakEwma => {
                let load = |place: usize| {
                    let endpoint = &self.endpoints[place];
                    endpoint.state.latency.load(endpoint.in_flight(), now) / self.warmth(place, now)
                };
                self.better_of_two(now, random, usable, load)
            }
            Balance::RingHash => self.owner(random, usable),
        }
    }

    /// Which part of its share an endpoint gets.
    fn warmth(&self, place: usize, now: Moment) -> f64 {
        let slow_start = self.settings.slow_start;
        slow_start.map_or(1.0, |slow_start| self.endpoints[place].state.warmth(slow_start, now))
    }

    /// Whether an endpoint that is drawn is taken: one that is cold only for a part of its draws.
    fn takes(&self, place: usize, now: Moment, random: u64) -> bool {
        self.settings.slow_start.is_none() || fraction(random) < self.warmth(place, now)
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
    fn stride(&self, now: Moment, random: u64, usable: impl Fn(usize) -> bool) -> Option<usize> {
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
            if passes && usable(place as usize) && self.takes(place as usize, now, next(random ^ step)) {
                return Some(place as usize);
            }
        }
        self.draw_among(now, random, usable)
    }

    /// Draws two by their weights and takes the one with less load, the first where they are equal.
    ///
    /// Two random choices come close to the best of all, and do not send every core to the same endpoint at once
    /// (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing").
    fn better_of_two(
        &self,
        now: Moment,
        random: u64,
        usable: impl Fn(usize) -> bool,
        load: impl Fn(usize) -> f64,
    ) -> Option<usize> {
        let (first, random) = self.draw(now, random, &usable)?;
        let other = |place: usize| place != first && usable(place);
        match self.draw(now, random, other) {
            // One that is cold is idle, and would win every time.
            Some((second, random)) if self.takes(second, now, next(random)) && load(second) < load(first) => Some(second),
            _ => Some(first),
        }
    }

    /// Draws a usable endpoint by weight; gives the next random number with it.
    fn draw(&self, now: Moment, random: u64, usable: impl Fn(usize) -> bool) -> Option<(usize, u64)> {
        let total = *self.sums.last()?;
        let mut random = random;
        for _ in 0..DRAWS {
            random = next(random);
            let point = scale(random, total);
            let place = self.sums.partition_point(|sum| *sum <= point);
            if place < self.endpoints.len() && usable(place) && self.takes(place, now, next(!random)) {
                return Some((place, random));
            }
        }
        random = next(random);
        Some((self.draw_among(now, random, usable)?, random))
    }

    /// Draws by weight after looking at all of them.
    fn draw_among(&self, now: Moment, random: u64, usable: impl Fn(usize) -> bool) -> Option<usize> {
        // In 1024ths, so that a tenth of the weight 1 is not nothing.
        let share = |place: usize| (f64::from(self.endpoints[place].weight) * 1024.0 * self.warmth(place, now)) as u64;
        let weights = || {
            (0..self.endpoints.len())
                .filter(|&place| usable(place))
                .map(|place| (place, share(place)))
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

/// A random number as a fraction, from 0 to less than 1.
fn fraction(random: u64) -> f64 {
    (random >> 11) as f64 / (1_u64 << 53) as f64
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

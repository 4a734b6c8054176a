//! When an SVID is replaced. Pure: clock and randomness are arguments.
//!
//! Certificates go by the wall clock, and that may be set, or the machine may sleep. So nobody sleeps until a due second: the clock is
//! looked at every few seconds, and what it says then decides.

use std::time::Duration;

/// How long the clock is not looked at, at most.
const LOOK: Duration = Duration::from_secs(5);
/// How long members may take, together, to replace their SVIDs when another root signs.
const SPREAD: f64 = 10.0;

/// The life of one SVID, and when in it the next one is asked for. Times are seconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Renewal {
    not_before: u64,
    not_after: u64,
    due: u64,
}

/// What is to be done about an SVID at some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing for so long.
    Wait(Duration),
    /// It proves who we are, and should be replaced.
    Renew,
    /// By this clock it has ended, or has not begun: no peer believes it. Who we are has to be proved anew.
    Anew,
}

impl Renewal {
    /// An SVID that is valid from `not_before` to `not_after` is due at half of its life, a twentieth of it earlier or later by
    /// `random` in 0.0..1.0. That leaves the other half for a control plane that is away, and keeps members that were started
    /// together from renewing together.
    #[must_use]
    pub fn new(not_before: u64, not_after: u64, random: f64) -> Self {
        let life = not_after.saturating_sub(not_before) as f64;
        Self {
            not_before,
            not_after,
            due: not_before.saturating_add((life * (0.45 + random.clamp(0.0, 1.0) / 10.0)) as u64),
        }
    }

    /// The same SVID where another root signs meanwhile: due within 10 s of `now` by `random`, and within a tenth of its life.
    #[must_use]
    pub fn hastened(self, now: Duration, random: f64) -> Self {
        let life = self.not_after.saturating_sub(self.not_before) as f64;
        let spread = (life / 10.0).min(SPREAD) * random.clamp(0.0, 1.0);
        Self {
            due: self.due.min(now.as_secs().saturating_add(spread as u64)),
            ..self
        }
    }

    /// What is to be done at `now`.
    #[must_use]
    pub fn step(&self, now: Duration) -> Step {
        if !self.is_valid(now) {
            return Step::Anew;
        }
        match Duration::from_secs(self.due).checked_sub(now) {
            Some(left) if !left.is_zero() => Step::Wait(left.min(LOOK)),
            _ => Step::Renew,
        }
    }

    /// Whether a peer with the clock `now` believes it.
    #[must_use]
    pub fn is_valid(&self, now: Duration) -> bool {
        (self.not_before..=self.not_after).contains(&now.as_secs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: u64 = 1_790_000_000;

    fn second(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn half_of_the_life_is_the_middle_of_the_window() {
        for (random, due) in [(0.0, 11_620), (0.5, 11_800), (1.0, 11_980)] {
            let renewal = Renewal::new(10_000, 13_600, random);
            assert!(matches!(renewal.step(second(due - 1)), Step::Wait(_)));
            assert_eq!(renewal.step(second(due)), Step::Renew);
        }
    }

    #[test]
    fn waits_are_short_and_end_at_the_due_second() {
        let renewal = Renewal::new(0, 2_000, 0.5);
        assert_eq!(renewal.step(second(100)), Step::Wait(second(5)));
        assert_eq!(renewal.step(second(998)), Step::Wait(second(2)));
        assert_eq!(renewal.step(second(1_000)), Step::Renew);
    }

    #[test]
    fn outside_of_its_life_an_svid_is_not_renewed_but_replaced() {
        let renewal = Renewal::new(1_000, 2_000, 0.5);
        assert_eq!(renewal.step(second(999)), Step::Anew, "the clock was set back");
        assert_eq!(renewal.step(second(2_000)), Step::Renew);
        assert_eq!(renewal.step(second(2_001)), Step::Anew, "the clock was set forward");
        assert_eq!(Renewal::new(100, 50, 0.5).step(second(70)), Step::Anew);
        assert_eq!(Renewal::new(u64::MAX, u64::MAX, 1.0).step(second(0)), Step::Anew);
    }

    #[test]
    fn another_root_hastens_members_but_not_all_at_once() {
        let renewal = Renewal::new(0, 3_600, 0.5);
        let due = |random| renewal.hastened(second(100), random).due;
        assert_eq!([due(0.0), due(0.5), due(1.0)], [100, 105, 110]);
        let short = Renewal::new(0, 10, 0.5).hastened(second(1), 1.0);
        assert_eq!(short.due, 2, "a short life is not spent waiting");
        assert_eq!(
            renewal.hastened(second(1_799), 1.0).due,
            1_800,
            "and nobody becomes later by it"
        );
    }

    /// A member and an authority on one machine whose clock is set by hours, again and again, at random: at each look the member
    /// replaces what is not valid, and the authority backdates what it signs by a minute.
    #[test]
    fn whatever_the_clock_does_an_svid_is_valid_again_at_the_next_look() {
        for seed in 0..300_u64 {
            let mut dice = Dice(seed);
            let mut wall = NOON;
            let issue = |wall: u64, dice: &mut Dice| Renewal::new(wall - 60, wall + 3_600, dice.roll());
            let mut held = issue(wall, &mut dice);
            for look in 0..2_000 {
                let pause = match held.step(second(wall)) {
                    Step::Wait(pause) => pause.as_secs(),
                    Step::Renew | Step::Anew => {
                        held = issue(wall, &mut dice);
                        1
                    }
                };
                assert!(held.is_valid(second(wall)), "seed {seed}, look {look}");
                assert!(pause <= 5, "seed {seed}, look {look}");
                wall += pause;
                if dice.roll() < 0.02 {
                    let hours = (dice.roll() * 48.0) as u64 * 3_600;
                    wall = if dice.roll() < 0.5 { wall + hours } else { wall - hours };
                }
            }
        }
    }

    /// SplitMix64.
    struct Dice(u64);

    impl Dice {
        fn roll(&mut self) -> f64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (z ^ (z >> 31)) as f64 / u64::MAX as f64
        }
    }
}

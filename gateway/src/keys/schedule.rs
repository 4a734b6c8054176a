//! When an issuer's keys are fetched.

use std::time::Duration;

use routing::Moment;

use super::Published;

/// How long to wait after the first of all fetches failed; twice as long after each further one, up to the cooldown.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// When one issuer's keys were fetched, and when they may be again. One for all who use them.
#[derive(Debug, Clone, Default)]
pub struct Schedule {
    /// When the keys that are held were fetched.
    fetched: Option<Moment>,
    /// When the last fetch began.
    began: Option<Moment>,
    /// Whether it is under way.
    under_way: bool,
    /// How many failed one after the other.
    failures: u32,
}

/// What to do where keys are needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// Use what is held, or say that there is nothing.
    Use,
    /// Use it, and fetch meanwhile.
    UseAndFetch,
    /// Fetch, wait for the end of that, and use what is held then.
    Fetch,
    /// Wait for the end of the fetch that is under way, and use what is held then.
    Await,
}

impl Schedule {
    /// Keys are needed, `anew` where one is missing in what is held. Where the plan is to fetch, the fetch has begun.
    #[must_use]
    pub fn on_need(&mut self, of: &Published, anew: bool, now: Moment) -> Plan {
        let age = self.fetched.map(|fetched| now.since(fetched));
        let waits = anew || age.is_none_or(|age| age >= of.refresh.saturating_mul(2));
        let is_due = anew || age.is_none_or(|age| age >= of.refresh);
        let plan = match (is_due, waits) {
            (false, _) => Plan::Use,
            (true, true) if self.under_way => Plan::Await,
            (true, false) if self.under_way => Plan::Use,
            (true, _) if !self.may_begin(of, now) => Plan::Use,
            (true, true) => Plan::Fetch,
            (true, false) => Plan::UseAndFetch,
        };
        if matches!(plan, Plan::Fetch | Plan::UseAndFetch) {
            self.began = Some(now);
            self.under_way = true;
        }
        plan
    }

    /// The fetch is over.
    pub fn on_fetched(&mut self, succeeded: bool, now: Moment) {
        self.under_way = false;
        if succeeded {
            self.fetched = Some(now);
            self.failures = 0;
        } else {
            self.failures = self.failures.saturating_add(1);
        }
    }

    fn may_begin(&self, of: &Published, now: Moment) -> bool {
        let pause = match self.fetched {
            Some(_) => of.cooldown,
            // Nobody can be let in until the first one succeeds, so that is tried sooner.
            None => FIRST_RETRY
                .saturating_mul(1 << self.failures.saturating_sub(1).min(16))
                .min(of.cooldown),
        };
        self.began.is_none_or(|began| now.since(began) >= pause)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Location;
    use super::*;

    fn published() -> Published {
        Published {
            refresh: Duration::from_secs(600),
            cooldown: Duration::from_secs(30),
            ..Published::new("a".to_owned(), Location::Jwks(String::new()), Vec::new())
        }
    }

    fn at(seconds: u64) -> Moment {
        Moment(seconds * 1_000_000_000)
    }

    fn fetched_at_zero() -> Schedule {
        let mut schedule = Schedule::default();
        assert_eq!(schedule.on_need(&published(), false, at(0)), Plan::Fetch);
        schedule.on_fetched(true, at(0));
        schedule
    }

    #[test]
    fn the_first_need_fetches_and_the_others_wait_for_it() {
        let mut schedule = Schedule::default();
        assert_eq!(schedule.on_need(&published(), false, at(0)), Plan::Fetch);
        assert_eq!(schedule.on_need(&published(), false, at(0)), Plan::Await);
        assert_eq!(schedule.on_need(&published(), true, at(1)), Plan::Await);
        schedule.on_fetched(true, at(1));
        assert_eq!(schedule.on_need(&published(), false, at(1)), Plan::Use);
    }

    #[test]
    fn keys_are_refreshed_meanwhile_and_waited_for_only_when_they_are_old() {
        let mut schedule = fetched_at_zero();
        assert_eq!(schedule.on_need(&published(), false, at(599)), Plan::Use);
        assert_eq!(schedule.clone().on_need(&published(), false, at(1200)), Plan::Fetch);
        assert_eq!(schedule.on_need(&published(), false, at(600)), Plan::UseAndFetch);
        assert_eq!(schedule.on_need(&published(), false, at(601)), Plan::Use, "one at a time");
    }

    #[test]
    fn a_missing_key_is_worth_one_fetch_in_a_cooldown_whoever_asks() {
        let mut schedule = fetched_at_zero();
        assert_eq!(schedule.on_need(&published(), true, at(29)), Plan::Use);
        assert_eq!(schedule.on_need(&published(), true, at(30)), Plan::Fetch);
        schedule.on_fetched(true, at(31));
        for second in 31..60 {
            assert_eq!(schedule.on_need(&published(), true, at(second)), Plan::Use, "{second}");
        }
        assert_eq!(schedule.on_need(&published(), true, at(60)), Plan::Fetch);
    }

    #[test]
    fn an_issuer_that_is_down_is_asked_once_in_a_cooldown_while_its_keys_hold() {
        let mut schedule = fetched_at_zero();
        assert_eq!(schedule.on_need(&published(), false, at(5000)), Plan::Fetch);
        schedule.on_fetched(false, at(5005));
        assert_eq!(schedule.on_need(&published(), false, at(5029)), Plan::Use);
        assert_eq!(schedule.on_need(&published(), false, at(5030)), Plan::Fetch);
    }

    #[test]
    fn where_nothing_was_ever_fetched_it_is_tried_again_ever_more_slowly() {
        let mut schedule = Schedule::default();
        let mut tries = Vec::new();
        for second in 0..120 {
            if schedule.on_need(&published(), false, at(second)) == Plan::Fetch {
                schedule.on_fetched(false, at(second));
                tries.push(second);
            }
        }
        assert_eq!(tries, [0, 1, 3, 7, 15, 31, 61, 91]);
    }
}

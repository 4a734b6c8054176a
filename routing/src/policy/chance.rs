//! How often something is done that is not done every time.

use std::fmt;

/// A share of the requests.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Chance {
    percent: f64,
    /// The random numbers below it are hits.
    below: u128,
}

impl Chance {
    /// `percent` of a hundred. None where that is less than none or more than all.
    #[must_use]
    pub fn percent(percent: f64) -> Option<Self> {
        let all = 2_f64.powi(64);
        (0.0..=100.0).contains(&percent).then(|| Self {
            percent,
            below: (percent / 100.0 * all) as u128,
        })
    }

    /// Whether it is done, by a random number that is uniform over all of `u64`.
    #[must_use]
    pub fn hits(self, random: u64) -> bool {
        u128::from(random) < self.below
    }
}

impl fmt::Display for Chance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} %", self.percent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_what_it_says_and_all_and_nothing_are_exact() {
        let hits = |percent, random| Chance::percent(percent).unwrap().hits(random);
        assert!(!hits(0.0, 0) && hits(100.0, u64::MAX));
        assert!(hits(50.0, u64::MAX / 2 - 1) && !hits(50.0, u64::MAX / 2 + 1));
        assert!(hits(0.1, u64::MAX / 1001) && !hits(0.1, u64::MAX / 999));
        assert!(Chance::percent(100.1).is_none() && Chance::percent(-1.0).is_none() && Chance::percent(f64::NAN).is_none());
    }
}

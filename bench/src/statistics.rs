//! What rounds say together: a median with its spread, ratios by round, and whether a goal was met.

use serde::{Deserialize, Serialize};

/// How often the truth may lie outside of what is shown as the bounds of a median.
const DOUBT: f64 = 0.07;

/// The middle of what the rounds gave, and the bounds between which it would lie with many more of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
    /// One number a round, in their order.
    pub(crate) rounds: Vec<f64>,
}

impl Spread {
    /// None where there is no round, or one that gave no number.
    pub(crate) fn of(rounds: Vec<f64>) -> Option<Self> {
        if rounds.is_empty() || rounds.iter().any(|value| !value.is_finite()) {
            return None;
        }
        let mut sorted = rounds.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        };
        let outside = outliers(sorted.len());
        Some(Self {
            median,
            least: sorted[outside],
            most: sorted[sorted.len() - 1 - outside],
            rounds,
        })
    }

    /// `self ÷ other`, each round with its own: what disturbed both in a round falls out.
    pub(crate) fn over(&self, other: &Self) -> Option<Self> {
        Self::of(
            self.rounds
                .iter()
                .zip(&other.rounds)
                .map(|(ours, theirs)| ours / theirs)
                .collect(),
        )
    }

    /// `self - other`, each round with its own.
    pub(crate) fn less(&self, other: &Self) -> Option<Self> {
        Self::of(
            self.rounds
                .iter()
                .zip(&other.rounds)
                .map(|(more, less)| more - less)
                .collect(),
        )
    }

    /// Whether `bound` lies between the bounds.
    pub(crate) fn straddles(&self, bound: f64) -> bool {
        self.least < bound && self.most > bound
    }
}

/// How many of so many rounds lie outside of the median's bounds, at each end.
///
/// A round comes out above or below the true median like a coin, whatever the rounds are distributed like. The median lies beyond
/// the bounds where all tosses but `outside` at most come down on one side (the sign test's interval).
fn outliers(rounds: usize) -> usize {
    let mut doubt = 0.0;
    // The part of all ways to toss in which exactly so many come down on the rarer side, of which there are two.
    let mut part = 2.0 * rounds_of(rounds).exp2().recip();
    for outside in 0..rounds {
        doubt += part;
        if doubt > DOUBT {
            return outside.saturating_sub(1);
        }
        part *= rounds_of(rounds - outside) / rounds_of(outside + 1);
    }
    0
}

fn rounds_of(number: usize) -> f64 {
    crate::rounds::count(number as u64)
}

/// What a measured number has to be.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

/// Whether it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Verdict {
    Met,
    Missed,
    /// The median's bounds lie on both sides of it, so the rounds do not say.
    Noise,
}

impl Bound {
    pub(crate) fn judge(self, measured: &Spread) -> Verdict {
        let (met, missed) = match self {
            Self::AtMost(bound) => (measured.most <= bound, measured.least > bound),
            Self::AtLeast(bound) => (measured.least >= bound, measured.most < bound),
        };
        match (met, missed) {
            (true, _) => Verdict::Met,
            (_, true) => Verdict::Missed,
            _ => Verdict::Noise,
        }
    }
}

/// The value below which `part` (0 to 1) of the sorted values lie; zero where there are none.
pub(crate) fn quantile(sorted: &[f64], part: f64) -> f64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index of a list"
    )]
    let index = ((sorted.len() as f64 * part).ceil() as usize).saturating_sub(1);
    sorted.get(index).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(rounds: &[f64]) -> Spread {
        Spread::of(rounds.to_vec()).unwrap()
    }

    #[test]
    fn the_median_is_the_middle_one_or_between_the_two_middle_ones() {
        assert_eq!(spread(&[3.0, 1.0, 2.0]).median, 2.0);
        assert_eq!(spread(&[4.0, 1.0, 2.0, 3.0]).median, 2.5);
        let all = spread(&[3.0, 1.0, 2.0]);
        assert_eq!((all.least, all.most), (1.0, 3.0));
    }

    #[test]
    fn no_round_and_no_number_give_no_spread() {
        assert_eq!(Spread::of(Vec::new()), None);
        assert_eq!(Spread::of(vec![1.0, f64::NAN]), None);
        assert_eq!(spread(&[1.0]).over(&spread(&[0.0])), None);
    }

    #[test]
    fn a_ratio_is_taken_round_by_round() {
        // The second round was twice as slow for both, which the ratio does not see.
        let ratio = spread(&[8.0, 16.0]).over(&spread(&[10.0, 20.0])).unwrap();
        assert_eq!((ratio.least, ratio.most), (0.8, 0.8));
    }

    #[test]
    fn the_bounds_of_a_median_leave_out_what_chance_alone_puts_there() {
        // As tables of the sign test have it: at 95 % confidence one of 9 and three of 15 at each end, at 93.5 % two of 11.
        let expected = [(1, 0), (2, 0), (5, 0), (8, 0), (9, 1), (11, 2), (15, 3)];
        assert_eq!(expected.map(|(rounds, _)| (rounds, outliers(rounds))), expected);
        let all = spread(&[9.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
        assert_eq!((all.least, all.median, all.most), (2.0, 5.0, 8.0));
    }

    #[test]
    fn a_goal_is_met_or_missed_by_both_bounds_and_else_the_rounds_do_not_say() {
        let measured = spread(&[0.80, 0.82, 0.84]);
        assert_eq!(Bound::AtMost(0.85).judge(&measured), Verdict::Met);
        assert_eq!(Bound::AtMost(0.75).judge(&measured), Verdict::Missed);
        assert_eq!(Bound::AtMost(0.83).judge(&measured), Verdict::Noise);
        assert_eq!(Bound::AtLeast(0.80).judge(&measured), Verdict::Met);
        assert_eq!(Bound::AtLeast(0.85).judge(&measured), Verdict::Missed);
        assert_eq!(Bound::AtLeast(0.81).judge(&measured), Verdict::Noise);
    }

    #[test]
    fn a_quantile_is_one_of_the_values() {
        let values: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(quantile(&values, 0.5), 50.0);
        assert_eq!(quantile(&values, 0.99), 99.0);
        assert_eq!(quantile(&values, 1.0), 100.0);
        assert_eq!(quantile(&[], 0.5), 0.0);
    }
}

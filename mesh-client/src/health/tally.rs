//! What the answers to checks mean over time. Pure.

use crate::discovery::Health;

/// What was found so far.
#[derive(Debug)]
pub(super) struct Tally {
    serves: bool,
    /// How many answers in a row said otherwise.
    against: u32,
}

impl Tally {
    /// Begins with what is told already; what nobody checked so far counts as serving.
    pub(super) fn new(told: Health) -> Self {
        Self {
            serves: told != Health::NotServing,
            against: 0,
        }
    }

    /// What is to be told after another answer: `failures` in a row say that it does not serve, `passes` that it does again.
    pub(super) fn judge(&mut self, passed: bool, failures: u32, passes: u32) -> Health {
        if passed == self.serves {
            self.against = 0;
        } else {
            self.against = self.against.saturating_add(1);
        }
        if self.against >= if self.serves { failures } else { passes }.max(1) {
            (self.serves, self.against) = (passed, 0);
        }
        if self.serves { Health::Serving } else { Health::NotServing }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is told after each of the answers (`+` passed, `-` failed), with 3 failures and 2 passes: `s` or `n`.
    fn told(before: Health, answers: &str) -> String {
        let mut tally = Tally::new(before);
        let after = answers.chars().map(|answer| tally.judge(answer == '+', 3, 2));
        after
            .map(|health| if health == Health::Serving { 's' } else { 'n' })
            .collect()
    }

    #[test]
    fn only_so_many_in_a_row_change_what_is_told() {
        assert_eq!(told(Health::Serving, "--+---"), "sssssn");
        assert_eq!(told(Health::NotServing, "+-++-"), "nnnss");
        assert_eq!(told(Health::Unknown, "-+--"), "ssss");
        assert_eq!(told(Health::Unknown, "---++"), "ssnns");
    }

    #[test]
    fn a_threshold_of_nothing_is_one() {
        assert_eq!(Tally::new(Health::Serving).judge(false, 0, 0), Health::NotServing);
        assert_eq!(Tally::new(Health::Serving).judge(true, 0, 0), Health::Serving);
    }
}

//! What a bench gives: tables, goals with their verdicts, and what went wrong. Rendered as text, as JSON and as BENCHMARKS.md.

mod document;
mod machine;
mod table;

use serde::{Deserialize, Serialize};

pub(crate) use document::{Kept, load_all, save, write_document};
pub(crate) use machine::Machine;
pub(crate) use table::Table;

use crate::statistics::{Bound, Spread, Verdict};

/// What one bench gave.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) name: String,
    /// What was done, in a paragraph.
    pub(crate) about: String,
    pub(crate) tables: Vec<Table>,
    pub(crate) goals: Vec<Goal>,
    /// Why these figures are not to be believed.
    pub(crate) problems: Vec<String>,
}

/// What was to be reached.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Goal {
    /// What is judged, with the bound in words.
    pub(crate) what: String,
    pub(crate) bound: Bound,
    /// None where it could not be measured.
    pub(crate) measured: Option<Spread>,
    pub(crate) verdict: Verdict,
    digits: usize,
}

impl Goal {
    /// A goal without a measurement is missed.
    pub(crate) fn new(what: impl Into<String>, bound: Bound, digits: usize, measured: Option<Spread>) -> Self {
        let verdict = measured.as_ref().map_or(Verdict::Missed, |measured| bound.judge(measured));
        Self {
            what: what.into(),
            bound,
            measured,
            verdict,
            digits,
        }
    }

    fn line(&self) -> String {
        let verdict = match self.verdict {
            Verdict::Met => "met",
            Verdict::Missed => "missed",
            Verdict::Noise => "within the noise",
        };
        let measured = self
            .measured
            .as_ref()
            .map_or_else(|| "not measured".to_owned(), |spread| table::with_spread(spread, self.digits));
        format!("- {}: {measured}: **{verdict}**", self.what)
    }
}

impl Report {
    pub(crate) fn new(name: &str, about: impl Into<String>) -> Self {
        Self {
            name: name.to_owned(),
            about: about.into(),
            tables: Vec::new(),
            goals: Vec::new(),
            problems: Vec::new(),
        }
    }

    /// What makes the run fail, in words.
    pub(crate) fn failures(&self) -> Vec<String> {
        let noise = self.goals.iter().filter(|goal| goal.verdict == Verdict::Noise).map(|goal| {
            format!(
                "{}: the median's bounds lie on both sides of the goal, within the noise",
                goal.what
            )
        });
        self.problems.iter().cloned().chain(noise).collect()
    }

    /// Its tables and goals in Markdown, which a terminal shows as well.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("{}\n", self.about);
        for table in &self.tables {
            text += &format!("\n{table}");
        }
        if !self.goals.is_empty() {
            text += "\nGoals:\n\n";
            for goal in &self.goals {
                text += &format!("{}\n", goal.line());
            }
        }
        if !self.problems.is_empty() {
            text += "\nNot to be believed:\n\n";
            for problem in &self.problems {
                text += &format!("- {problem}\n");
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn goal(rounds: &[f64]) -> Goal {
        Goal::new("ours ≤ 0.85 × nginx", Bound::AtMost(0.85), 2, Spread::of(rounds.to_vec()))
    }

    #[test]
    fn a_goal_says_what_was_measured_and_whether_it_was_met() {
        assert_eq!(goal(&[0.8, 0.82]).line(), "- ours ≤ 0.85 × nginx: 0.81 (0.80–0.82): **met**");
        assert!(goal(&[0.9, 0.92]).line().ends_with("**missed**"));
        assert!(goal(&[0.8, 0.92]).line().ends_with("**within the noise**"));
        assert!(goal(&[]).line().ends_with("not measured: **missed**"));
    }

    #[test]
    fn noise_and_problems_fail_a_run_and_a_missed_goal_does_not() {
        let mut report = Report::new("x", "");
        report.goals = vec![goal(&[0.9]), goal(&[0.8])];
        assert!(report.failures().is_empty());
        report.goals.push(goal(&[0.8, 0.9]));
        report.problems.push("nginx answered nothing".to_owned());
        assert_eq!(report.failures().len(), 2);
    }
}

//! Runs contestants in turn, round after round, and measures what each costs.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::contestants::Contestant;
use crate::lab::Lab;
use crate::load::Load;
use crate::procfs::{self, CoreTime};
use crate::report::Table;
use crate::statistics::Spread;

/// How busy a core may be before it counts as saturated, and how idle before it counts as waiting for somebody else.
const SATURATED: f64 = 0.97;
const WAITING: f64 = 0.93;

/// How much of the measured core others may have before the figures are theirs too.
const DISTURBED: f64 = 0.05;

/// What one run of one contestant gave.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    pub(crate) load: Load,
    /// Processor time of all its processes per request, in microseconds.
    pub(crate) processor: f64,
    /// Resident memory of all its processes at the end of the run, in MiB.
    pub(crate) resident: f64,
    /// The same at its beginning.
    pub(crate) resident_before: f64,
    /// The most that was resident in the run.
    pub(crate) peak: f64,
    core: Use,
}

/// How the cores spent a run.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Use {
    /// Parts of the run that the contestant itself, anybody, and another guest of the machine had of the measured core.
    own: f64,
    busy: f64,
    stolen: f64,
    /// Parts of the run that the load generator and the upstream, and anybody, had of theirs.
    load: f64,
    load_busy: f64,
}

/// What everybody's rounds gave, in the order of the contestants.
#[derive(Debug)]
pub(crate) struct Comparison {
    pub(crate) rows: Vec<(String, Vec<Sample>)>,
    /// Why these figures are not to be believed.
    pub(crate) problems: Vec<String>,
}

/// Runs `load` against each contestant once to warm up, then in every round once; who begins changes from round to round.
pub(crate) fn compare(
    lab: &Lab,
    what: &str,
    contestants: &[Contestant],
    load: &dyn Fn(&Contestant, u32) -> Result<Load>,
) -> Result<Comparison> {
    for contestant in contestants {
        load(contestant, 1).with_context(|| format!("warming up {}", contestant.name))?;
    }
    let mut rows: Vec<(String, Vec<Sample>)> = contestants.iter().map(|one| (one.name.clone(), Vec::new())).collect();
    for round in 0..lab.rounds as usize {
        for turn in 0..contestants.len() {
            let index = (turn + round) % contestants.len();
            let (contestant, samples) = (&contestants[index], &mut rows[index].1);
            let sample = measure(lab, contestants, index, load)
                .with_context(|| format!("{}:\n{}", contestant.name, contestant.log()))?;
            eprintln!(
                "    {what}, round {}: {} {:.0}/s, {:.1} µs",
                round + 1,
                contestant.name,
                sample.load.per_second,
                sample.processor
            );
            samples.push(sample);
        }
    }
    let problems = rows
        .iter()
        .flat_map(|(name, samples)| samples.iter().filter_map(move |sample| problem(name, sample)))
        .map(|problem| format!("{what}: {problem}"))
        .collect();
    Ok(Comparison { rows, problems })
}

fn measure(
    lab: &Lab,
    contestants: &[Contestant],
    index: usize,
    load: &dyn Fn(&Contestant, u32) -> Result<Load>,
) -> Result<Sample> {
    let contestant = &contestants[index];
    contestant.forget_peak()?;
    let resident_before = mebibytes(contestant.resident()?);
    let before = (contestant.processor_time()?, load_time(contestants)?);
    let cores = (CoreTime::now(lab.core)?, CoreTime::now(lab.load_core)?);
    let begun = Instant::now();
    let load = load(contestant, lab.seconds)?;
    let passed = begun.elapsed();
    let used = contestant.processor_time()?.saturating_sub(before.0);
    let core = CoreTime::now(lab.core)?;
    let core = Use {
        own: part(used, passed),
        busy: core.busy_since(cores.0),
        stolen: core.stolen_since(cores.0),
        load: part(load_time(contestants)?.saturating_sub(before.1), passed),
        load_busy: CoreTime::now(lab.load_core)?.busy_since(cores.1),
    };
    Ok(Sample {
        processor: used.as_secs_f64() * 1e6 / count(load.requests),
        resident: mebibytes(contestant.resident()?),
        resident_before,
        peak: mebibytes(contestant.peak_resident()?),
        load,
        core,
    })
}

/// The processor time of all that was started and is no contestant.
fn load_time(contestants: &[Contestant]) -> Result<Duration> {
    let theirs: Duration = contestants.iter().map(Contestant::processor_time).sum::<Result<_>>()?;
    Ok(procfs::all_of_ours()?.saturating_sub(theirs))
}

/// Why a sample is not to be believed.
fn problem(name: &str, sample: &Sample) -> Option<String> {
    let Use {
        own,
        busy,
        stolen,
        load,
        load_busy,
    } = sample.core;
    if let Some(errors) = &sample.load.errors {
        return Some(format!("{name} answered with errors: {errors}"));
    }
    if sample.load.requests == 0 {
        return Some(format!("{name} answered nothing"));
    }
    for (others, whose) in [(busy - own + stolen, "that it ran on"), (load_busy - load, "of its load")] {
        if others > DISTURBED {
            return Some(format!(
                "{name}: something else had {:.0} % of the core {whose}",
                others * 100.0
            ));
        }
    }
    if load > SATURATED && own < WAITING {
        return Some(format!(
            "the load generator or the upstream was the bottleneck of {name}: their core was at work {:.0} % of the time and {name} only {:.0} %",
            load * 100.0,
            own * 100.0
        ));
    }
    None
}

impl Comparison {
    /// The samples of one contestant.
    pub(crate) fn of(&self, name: &str) -> &[Sample] {
        self.rows.iter().find(|row| row.0 == name).map_or(&[], |row| row.1.as_slice())
    }

    /// One number of each of its samples.
    pub(crate) fn spread(&self, name: &str, number: impl Fn(&Sample) -> f64) -> Option<Spread> {
        Spread::of(self.of(name).iter().map(number).collect())
    }

    /// The processor time per request of one divided by another's.
    pub(crate) fn ratio(&self, ours: &str, theirs: &str) -> Option<Spread> {
        let processor = |name| self.spread(name, |sample| sample.processor);
        processor(ours)?.over(&processor(theirs)?)
    }

    /// Everybody's figures, and their ratio to those of `ours`.
    pub(crate) fn table(&self, title: &str, ours: &str) -> Table {
        let columns = [
            ("requests/s", 0),
            ("p50 µs", 0),
            ("p99 µs", 0),
            ("processor µs per request", 1),
            ("resident MiB", 1),
        ];
        let mut table = Table::new(title, &columns).ratio("processor, ours ÷ theirs");
        for (name, _) in &self.rows {
            let cells = vec![
                self.spread(name, |sample| sample.load.per_second),
                self.spread(name, |sample| sample.load.p50),
                self.spread(name, |sample| sample.load.p99),
                self.spread(name, |sample| sample.processor),
                self.spread(name, |sample| sample.resident),
                (name != ours).then(|| self.ratio(ours, name)).flatten(),
            ];
            table.row(name, cells);
        }
        table
    }
}

fn part(used: Duration, passed: Duration) -> f64 {
    used.as_secs_f64() / passed.as_secs_f64()
}

#[expect(clippy::cast_precision_loss, reason = "counts and bytes are far below 2^52")]
pub(crate) fn count(number: u64) -> f64 {
    number as f64
}

pub(crate) fn mebibytes(bytes: u64) -> f64 {
    count(bytes) / f64::from(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(own: f64, busy: f64, load: f64, errors: Option<&str>) -> Sample {
        Sample {
            load: Load {
                requests: 10,
                per_second: 1.0,
                p50: 1.0,
                p99: 1.0,
                errors: errors.map(str::to_owned),
            },
            processor: 1.0,
            resident: 1.0,
            resident_before: 1.0,
            peak: 1.0,
            core: Use {
                own,
                busy,
                stolen: 0.0,
                load,
                load_busy: load + 0.01,
            },
        }
    }

    #[test]
    fn a_contestant_that_is_at_work_all_the_time_is_measured() {
        assert_eq!(problem("x", &sample(0.99, 1.0, 0.99, None)), None);
        assert_eq!(problem("x", &sample(0.70, 0.72, 0.80, None)), None);
    }

    #[test]
    fn a_saturated_load_before_an_idle_contestant_is_told() {
        let told = problem("x", &sample(0.80, 0.81, 0.99, None)).unwrap();
        assert!(told.contains("bottleneck"), "{told}");
    }

    #[test]
    fn errors_are_told_before_anything_else() {
        let told = problem("x", &sample(0.80, 0.81, 0.99, Some("non-2xx 3"))).unwrap();
        assert!(told.contains("errors: non-2xx 3"), "{told}");
    }

    #[test]
    fn others_on_the_core_are_told() {
        let told = problem("x", &sample(0.80, 0.99, 0.90, None)).unwrap();
        assert!(told.contains("19 % of the core that it ran on"), "{told}");
        let mut sample = sample(0.99, 0.99, 0.80, None);
        sample.core.load_busy = 0.99;
        let told = problem("x", &sample).unwrap();
        assert!(told.contains("19 % of the core of its load"), "{told}");
    }
}

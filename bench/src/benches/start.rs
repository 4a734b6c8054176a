//! From exec to the first answer, and what an idle gateway holds.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::proxy::{PATH, config};
use crate::contestants::native_host::{Engine, native_host};
use crate::contestants::{Contestant, caddy, envoy, haproxy, nginx};
use crate::lab::Lab;
use crate::report::{Goal, Report, Table};
use crate::rounds::mebibytes;
use crate::statistics::{Bound, Spread};
use crate::upstream::Upstream;

/// How long a contestant is left alone before its memory is read.
const SETTLE: Duration = Duration::from_millis(300);

/// How often it is asked whether it answers.
const EVERY: Duration = Duration::from_micros(200);

type Start<'a> = (&'static str, Box<dyn Fn() -> Result<Contestant> + 'a>);

pub(super) fn run(lab: &Lab) -> Result<Report> {
    let upstream = Upstream::start(lab)?;
    let bank = config(lab, upstream.address)?;
    let (native, wasm) = (Engine::Native.label(), Engine::Wasm.label());
    let contestants: [Start<'_>; 6] = [
        (native, Box::new(|| native_host(lab, Engine::Native, &bank))),
        (wasm, Box::new(|| native_host(lab, Engine::Wasm, &bank))),
        ("nginx", Box::new(|| nginx(lab, upstream.address, None))),
        ("HAProxy", Box::new(|| haproxy(lab, upstream.address, None))),
        ("Envoy", Box::new(|| envoy(lab, upstream.address, None))),
        ("Caddy", Box::new(|| caddy(lab, upstream.address))),
    ];
    // Programs and compiled code are in the machine's caches after the first time, which is not counted.
    for (name, start) in &contestants {
        once(start).with_context(|| (*name).to_owned())?;
    }
    let mut samples = vec![(Vec::new(), Vec::new()); contestants.len()];
    for round in 0..lab.rounds {
        for ((name, start), (times, memory)) in contestants.iter().zip(&mut samples) {
            let (time, resident) = once(start).with_context(|| (*name).to_owned())?;
            eprintln!("    round {}: {name} {time:.1} ms, {resident:.1} MiB", round + 1);
            times.push(time);
            memory.push(resident);
        }
    }
    let mut table = Table::new("start", &[("exec to first answer, ms", 1), ("idle resident MiB", 1)]);
    let mut report = Report::new(
        "start",
        "From exec to the first proxied answer, with everything in the machine's caches (compiled code, for the wasm engine), and the\n\
         memory that is resident a moment later. Whoever starts the program adds about a millisecond.",
    );
    let spreads: Vec<_> = samples
        .into_iter()
        .map(|(times, memory)| (Spread::of(times), Spread::of(memory)))
        .collect();
    for ((name, _), (time, memory)) in contestants.iter().zip(&spreads) {
        table.row(name, vec![time.clone(), memory.clone()]);
    }
    report.tables.push(table);
    let mut goal = |what: &str, most: f64, measured: &Option<Spread>| {
        report.goals.push(Goal::new(what, Bound::AtMost(most), 1, measured.clone()));
    };
    goal("native engine: first answer ≤ 30 ms", 30.0, &spreads[0].0);
    goal("wasm engine: first answer ≤ 120 ms", 120.0, &spreads[1].0);
    goal("native engine: idle memory ≤ 12 MiB", 12.0, &spreads[0].1);
    Ok(report)
}

/// Starts it, waits for its first answer, and looks at its memory.
fn once(start: &dyn Fn() -> Result<Contestant>) -> Result<(f64, f64)> {
    let begun = Instant::now();
    let mut contestant = start()?;
    contestant.answers(EVERY, PATH, "")?;
    let time = begun.elapsed();
    std::thread::sleep(SETTLE);
    Ok((time.as_secs_f64() * 1e3, mebibytes(contestant.resident()?)))
}

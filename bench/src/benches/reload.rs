//! Changing configs while requests are served: none may fail, and few may notice.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;

use super::proxy::{PATH, bank};
use super::routes;
use crate::contestants::native_host::{Engine, native_host, serve};
use crate::http::get;
use crate::lab::Lab;
use crate::load::Load;
use crate::load::wrk::Wrk;
use crate::report::{Goal, Report, Table};
use crate::statistics::{Bound, Spread};
use crate::upstream::{ANSWER, Upstream};

const CONNECTIONS: u32 = 32;

/// Swaps of one round: 1,000 in five.
const SWAPS: usize = 200;

/// The routes of the config whose change is timed.
const ROUTES: usize = 1_000;

/// How often it is changed in one round, and how far apart.
const CHANGES: usize = 20;
const APART: Duration = Duration::from_millis(200);

/// How long one swap may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often it is asked whether it is in force, which takes 90 µs of the measured core each time.
const EVERY: Duration = Duration::from_millis(3);

/// What one round gave.
struct Round {
    quiet: Load,
    swapping: Load,
    /// How many of the replaced configs came into force.
    applied: u64,
}

pub(super) fn run(lab: &Lab) -> Result<Report> {
    let upstream = Upstream::start(lab)?;
    let bank = bank(upstream.address);
    let file = lab.write("reload.toml", &bank)?;
    let mut host = serve(lab, "Heddle while it reloads", Engine::Native, &file)?.ready(PATH, "")?;
    let admin = host.line_after("admin listening on http://")?.parse()?;
    let wrk = Wrk {
        connections: CONNECTIONS,
        url: format!("http://{}{PATH}", host.address),
        seconds: lab.seconds,
        script: None,
    };
    Wrk {
        seconds: 1,
        ..wrk.clone()
    }
    .run(lab)?;
    // In a folder of its own, of which the gateway hears nothing.
    let elsewhere = file.with_file_name("elsewhere");
    fs::create_dir_all(&elsewhere)?;
    let aside = elsewhere.join("reload.toml");
    let mut rounds = Vec::new();
    for number in 0..lab.rounds {
        let quiet = loaded(lab, &wrk, &bank, &aside, &|| {})?;
        let before = applied(admin)?;
        let tell = || host.processes.iter().for_each(|process| process.signal(Signal::HUP));
        let swapping = loaded(lab, &wrk, &bank, &file, &tell)?;
        let applied = applied(admin)? - before;
        eprintln!(
            "    round {}: p99 {:.0} µs quiet, {:.0} µs with {applied} swaps",
            number + 1,
            quiet.p99,
            swapping.p99,
        );
        rounds.push(Round {
            quiet,
            swapping,
            applied,
        });
    }
    let mut report = report(&rounds);
    for engine in [Engine::Native, Engine::Wasm] {
        large(lab, engine, &mut report)?;
    }
    Ok(report)
}

/// Loads the gateway while a file is replaced [`SWAPS`] times. Replacing it takes something of the core that generates the load, so
/// that the quiet run does it as well, with a file that the gateway does not read.
fn loaded(lab: &Lab, wrk: &Wrk, bank: &str, file: &Path, tell: &(dyn Fn() + Sync)) -> Result<Load> {
    let between = Duration::from_secs(u64::from(lab.seconds)) * 9 / 10 / u32::try_from(SWAPS)?;
    std::thread::scope(|scope| {
        let replacing = scope.spawn(move || {
            for version in 0..SWAPS {
                std::thread::sleep(between);
                replace(
                    file,
                    &bank.replace("x-gateway = \"bank\"", &format!("x-gateway = \"{version}\"")),
                )?;
                tell();
            }
            Ok(())
        });
        let load = wrk.run(lab);
        let replaced = replacing
            .join()
            .unwrap_or_else(|_| bail!("the thread that replaces the config panicked"));
        replaced.and(load)
    })
}

fn replace(file: &Path, content: &str) -> Result<()> {
    let next = file.with_extension("next");
    fs::write(&next, content)?;
    Ok(fs::rename(&next, file)?)
}

/// Replaces a config of many routes, of which nobody tells the process: it watches the file.
fn large(lab: &Lab, engine: Engine, report: &mut Report) -> Result<()> {
    let file = lab.write("reload-large.toml", &large_config("version-0"))?;
    let mut host = native_host(lab, engine, &file)?.ready("/healthz", "")?;
    let admin = host.line_after("admin listening on http://")?.parse()?;
    let mut times = Vec::new();
    for _ in 0..lab.rounds {
        for _ in 0..CHANGES {
            // Each on its own: what the one before it left is put away first.
            std::thread::sleep(APART);
            times.push(swap(admin, &file).with_context(|| host.log())?);
        }
    }
    let times = Spread::of(times);
    let mut table = Table::new(&format!("{ROUTES} routes, {}", engine.label()), &[("swap, ms", 1)]);
    table.row("from replacing the file until it is in force", vec![times.clone()]);
    report.tables.push(table);
    let what = format!("{ROUTES} routes in force ≤ 50 ms, {}", engine.label());
    report.goals.push(Goal::new(what, Bound::AtMost(50.0), 1, times));
    Ok(())
}

fn large_config(version: &str) -> String {
    // As long as the upstream's answers, for it is by them that a contestant is known to be ready.
    let version = format!("{version:ANSWER$}");
    let own = format!("\n[[routes]]\nmatch = {{ path = \"/healthz\" }}\nrespond = {{ status = 200, body = \"{version}\" }}\n");
    routes::config(ROUTES - 1, 0) + &own
}

fn report(rounds: &[Round]) -> Report {
    let mut report = Report::new(
        "reload",
        "The native engine with a bank's 20 routes, 32 connections, an answer of 1 KiB. In every run a file is replaced 200 times, beside\n\
         the load generator; in every other one it is the config, and the process is told by SIGHUP.\n\
         Then a config of 1,000 routes is replaced, every 200 ms and with nobody telling the process, which notices by itself.",
    );
    let spread = |number: &dyn Fn(&Round) -> f64| Spread::of(rounds.iter().map(number).collect());
    let columns = [("requests/s", 0), ("p50 µs", 0), ("p99 µs", 0), ("swaps", 0)];
    let mut table = Table::new("32 connections", &columns);
    let load = |of: fn(&Round) -> &Load| {
        vec![
            spread(&|round| of(round).per_second),
            spread(&|round| of(round).p50),
            spread(&|round| of(round).p99),
        ]
    };
    table.row("quiet", load(|round| &round.quiet));
    let mut swapping = load(|round| &round.swapping);
    swapping.push(spread(&|round| crate::rounds::count(round.applied)));
    table.row("while it swaps", swapping);
    report.tables.push(table);

    let failed = spread(&|round| if round.swapping.errors.is_some() { 1.0 } else { 0.0 });
    report
        .goals
        .push(Goal::new("runs in which a request failed: 0", Bound::AtMost(0.0), 0, failed));
    let p99 = spread(&|round| round.swapping.p99 / round.quiet.p99);
    report
        .goals
        .push(Goal::new("p99 ≤ 1.5 × the quiet run's", Bound::AtMost(1.5), 2, p99));
    for round in rounds {
        for (load, when) in [(&round.quiet, "quiet"), (&round.swapping, "while it swaps")] {
            report
                .problems
                .extend(load.errors.as_ref().map(|errors| format!("{when}: {errors}")));
        }
        // Two changes that come close together are one.
        if round.applied < SWAPS as u64 * 9 / 10 {
            report.problems.push(format!(
                "only {} of {SWAPS} configs came into force during a run",
                round.applied
            ));
        }
    }
    report
}

/// Replaces the large config; the milliseconds until it was in force.
fn swap(admin: SocketAddr, file: &Path) -> Result<f64> {
    let before = applied(admin)?;
    let begun = Instant::now();
    replace(file, &large_config(&format!("version-{}", before + 1)))?;
    while applied(admin)? == before {
        if begun.elapsed() > PATIENCE {
            bail!("a changed config was not in force within {PATIENCE:?}");
        }
        std::thread::sleep(EVERY);
    }
    Ok(begun.elapsed().as_secs_f64() * 1e3)
}

/// How many changed configs came into force.
fn applied(admin: SocketAddr) -> Result<u64> {
    let page = get(admin, "/metrics", "")?;
    count(&String::from_utf8_lossy(&page)).context("the metrics do not count reloads")
}

fn count(page: &str) -> Option<u64> {
    let line = page.lines().find(|line| line.contains("result=\"applied\""))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::benches::proxy::BANK;

    #[test]
    fn applied_configs_are_counted_by_the_metrics() {
        let page = "# TYPE x counter\nx{result=\"applied\"} 12\nx{result=\"refused\"} 1\n";
        assert_eq!(count(page), Some(12));
        assert_eq!(count(""), None);
    }

    #[test]
    fn the_large_config_answers_what_shows_that_it_is_ready() {
        let config = large_config("version-1");
        let body = config.rsplit('"').nth(1).unwrap_or_default();
        assert_eq!(body.len(), ANSWER);
        assert_eq!(config.matches("[[routes]]").count(), ROUTES);
    }

    #[test]
    fn the_config_has_what_is_replaced() {
        assert!(BANK.contains("x-gateway = \"bank\""));
    }
}

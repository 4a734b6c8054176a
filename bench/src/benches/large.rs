//! Large bodies both ways, and a reader that is slow.

use std::time::Duration;

use anyhow::Result;

use super::proxy::config;
use crate::contestants::native_host::{Engine, native_host};
use crate::contestants::{envoy, haproxy, nginx};
use crate::lab::Lab;
use crate::load::transfer::{Direction, MEBIBYTE, Transfer};
use crate::report::{Goal, Report, Table};
use crate::rounds::{Comparison, Sample, compare};
use crate::statistics::Bound;
use crate::upstream::Upstream;

/// What a connection may hold in a gateway whose windows bound it: what it reads and what it has not written yet.
const WINDOW_MIB: f64 = 1.0;

pub(super) fn run(lab: &Lab) -> Result<Report> {
    let upstream = Upstream::start(lab)?;
    let bank = config(lab, upstream.address)?;
    let contestants = [
        native_host(lab, Engine::Native, &bank)?.ready("/bytes/1024", "")?,
        nginx(lab, upstream.address, None)?.ready("/", "")?,
        haproxy(lab, upstream.address, None)?.ready("/", "")?,
        envoy(lab, upstream.address, None)?.ready("/", "")?,
    ];
    let ours = Engine::Native.label();
    let mut report = Report::new(
        "large",
        "Bodies of 1 MiB over 8 connections and of 100 MiB over 4, in both directions; then 16 readers that take 64 KiB of 100 MiB every\n\
         50 ms. Everybody streams; nginx is told to. Resident memory is the most that was resident in the run.",
    );
    for (size, connections) in [(1, 8), (100, 4)] {
        for (direction, word) in [(Direction::Download, "down"), (Direction::Upload, "up")] {
            let title = format!("{size} MiB {word}");
            let transfer = Transfer {
                direction,
                bytes: size * MEBIBYTE,
                connections,
                pause: None,
            };
            let comparison = compare(lab, &title, &contestants, &|contestant, seconds| {
                transfer.run(contestant.address, seconds)
            })?;
            report.tables.push(table(&title, &comparison, ours));
            let ratio = throughput(&comparison, ours, "nginx");
            let what = format!("{title}: throughput ≥ nginx");
            report.goals.push(Goal::new(what, Bound::AtLeast(1.0), 2, ratio));
            report.problems.extend(comparison.problems);
        }
    }
    slow(lab, &contestants, ours, &mut report)?;
    Ok(report)
}

fn slow(lab: &Lab, contestants: &[crate::contestants::Contestant], ours: &str, report: &mut Report) -> Result<()> {
    let transfer = Transfer {
        direction: Direction::Download,
        bytes: 100 * MEBIBYTE,
        connections: 16,
        pause: Some(Duration::from_millis(50)),
    };
    let comparison = compare(lab, "slow readers", contestants, &|contestant, seconds| {
        transfer.run(contestant.address, seconds)
    })?;
    report.tables.push(table("16 slow readers", &comparison, ours));
    let grown = comparison.spread(ours, |sample| (sample.peak - sample.resident_before) / 16.0);
    let what = format!("memory that a slow reader of 100 MiB holds ≤ {WINDOW_MIB} MiB");
    report.goals.push(Goal::new(what, Bound::AtMost(WINDOW_MIB), 2, grown));
    Ok(())
}

fn table(title: &str, comparison: &Comparison, ours: &str) -> Table {
    let columns = [("MiB/s", 0), ("processor µs per MiB", 0), ("most resident MiB", 1)];
    let mut table = Table::new(title, &columns).ratio("throughput, ours ÷ theirs");
    for (name, _) in &comparison.rows {
        let cells = vec![
            comparison.spread(name, |sample| sample.load.per_second),
            comparison.spread(name, |sample| sample.processor),
            comparison.spread(name, |sample| sample.peak),
            (name != ours).then(|| throughput(comparison, ours, name)).flatten(),
        ];
        table.row(name, cells);
    }
    table
}

fn throughput(comparison: &Comparison, ours: &str, theirs: &str) -> Option<crate::statistics::Spread> {
    let of = |name| comparison.spread(name, |sample: &Sample| sample.load.per_second);
    of(ours)?.over(&of(theirs)?)
}

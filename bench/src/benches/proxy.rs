//! Plain proxying: our gateway with twenty routes against peers with one.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;

use crate::contestants::native_host::{Engine, native_host};
use crate::contestants::{Contestant, caddy, envoy, haproxy, nginx};
use crate::lab::Lab;
use crate::load::Load;
use crate::load::wrk::Wrk;
use crate::report::{Goal, Report};
use crate::rounds::compare;
use crate::statistics::Bound;
use crate::upstream::Upstream;

/// The gateway's config; `UPSTREAM` stands for the upstream's address.
pub(super) const BANK: &str = include_str!("../../configs/bank.toml");

/// What is asked for: one of the twenty routes, which edits a header and may retry.
pub(crate) const PATH: &str = "/accounts/4711";

/// Goals: processor time per request, ours divided by theirs, at most.
const GOALS: [(&str, f64); 3] = [("nginx", 0.85), ("HAProxy", 0.9), ("Envoy", 0.3)];

/// The bank's config.
pub(super) fn bank(upstream: SocketAddr) -> String {
    BANK.replace("UPSTREAM", &upstream.to_string())
}

/// Writes it.
pub(crate) fn config(lab: &Lab, upstream: SocketAddr) -> Result<PathBuf> {
    lab.write("bank.toml", &bank(upstream))
}

/// Asks for [`PATH`] as fast as the answers come.
pub(crate) fn load(lab: &Lab, contestant: &Contestant, connections: u32, seconds: u32) -> Result<Load> {
    Wrk {
        connections,
        url: format!("http://{}{PATH}", contestant.address),
        seconds,
        script: None,
    }
    .run(lab)
}

pub(super) fn run(lab: &Lab) -> Result<Report> {
    let upstream = Upstream::start(lab)?;
    let bank = config(lab, upstream.address)?;
    let contestants = [
        native_host(lab, Engine::Native, &bank)?.ready(PATH, "")?,
        nginx(lab, upstream.address, None)?.ready(PATH, "")?,
        haproxy(lab, upstream.address, None)?.ready(PATH, "")?,
        envoy(lab, upstream.address, None)?.ready(PATH, "")?,
        caddy(lab, upstream.address)?.ready(PATH, "")?,
    ];
    let mut report = Report::new(
        "proxy",
        "Plain HTTP/1.1 over kept connections, an answer of 1 KiB: Heddle's native engine with a bank's 20 routes (the one that is\n\
         asked edits a header and may retry), the others with one route.",
    );
    let ours = Engine::Native.label();
    for connections in [32, 128] {
        let title = format!("{connections} connections");
        let comparison = compare(lab, &title, &contestants, &|contestant, seconds| {
            load(lab, contestant, connections, seconds)
        })?;
        report.tables.push(comparison.table(&title, ours));
        for (theirs, most) in GOALS {
            let what = format!("{title}: processor per request ≤ {most} × {theirs}");
            let ratio = comparison.ratio(ours, theirs);
            report.goals.push(Goal::new(what, Bound::AtMost(most), 2, ratio));
        }
        report.problems.extend(comparison.problems);
    }
    Ok(report)
}

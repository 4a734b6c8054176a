//! A call from A to B: through the mesh inside both, through a sidecar beside each, and without either.

use anyhow::Result;

use crate::certificates::Authority;
use crate::contestants::{Contestant, envoy_sidecars};
use crate::lab::Lab;
use crate::load::wrk::Wrk;
use crate::mesh::ControlPlane;
use crate::report::{Goal, Report};
use crate::rounds::{Comparison, Sample, compare};
use crate::statistics::{Bound, Spread};

const OURS: &str = "mesh-client in both";
const SIDECARS: &str = "Envoy beside each";
const PLAIN: &str = "plaintext, no mesh";

/// One at a time shows what a call waits, and many what it costs.
const ALONE: u32 = 1;
const MANY: u32 = 32;

pub(super) fn run(lab: &Lab) -> Result<Report> {
    let control = ControlPlane::start(lab, lab.load_core, "lease_ttl = \"1m\"\n")?;
    let contestants = [ours(lab, &control)?, sidecars(lab)?, plain(lab)?];
    let mut report = Report::new(
        "mesh",
        "wrk asks A, and A asks B for 1 KiB; A, B and what is beside them share one core. With mesh-client in both: mutual TLS 1.3 and\n\
         HTTP/2 from process to process. With an Envoy beside each: the same between the sidecars, and plain HTTP/1.1 to and from them.\n\
         Without a mesh: hyper and plain HTTP/1.1. Processor time is that of A, B and the sidecars together.",
    );
    let mut comparisons = Vec::new();
    for connections in [ALONE, MANY] {
        let title = if connections == 1 {
            "1 connection".to_owned()
        } else {
            format!("{connections} connections")
        };
        let comparison = compare(lab, &title, &contestants, &|contestant, seconds| {
            let url = format!("http://{}/", contestant.address);
            Wrk {
                connections,
                url,
                seconds,
                script: None,
            }
            .run(lab)
        })?;
        report.tables.push(comparison.table(&title, OURS));
        // One call at a time leaves every core waiting, which is what is measured.
        if connections == MANY {
            report.problems.extend(comparison.problems.iter().cloned());
        }
        comparisons.push(comparison);
    }
    let [alone, many] = &comparisons[..] else { return Ok(report) };
    let third = Bound::AtMost(0.33);
    let mut goal = |what: &str, bound, digits, measured| report.goals.push(Goal::new(what, bound, digits, measured));
    goal(
        "added processor time, 32 connections: ≤ 0.33 × the sidecars'",
        third,
        2,
        share(many, |sample| sample.processor),
    );
    goal(
        "added p50, 1 connection: ≤ 0.33 × the sidecars'",
        third,
        2,
        share(alone, |sample| sample.load.p50),
    );
    let added = |number: fn(&Sample) -> f64| added(alone, OURS, number);
    goal(
        "p50 over plaintext, 1 connection: ≤ 100 µs",
        Bound::AtMost(100.0),
        0,
        added(|sample| sample.load.p50),
    );
    goal(
        "p99 over plaintext, 1 connection: ≤ 250 µs",
        Bound::AtMost(250.0),
        0,
        added(|sample| sample.load.p99),
    );
    Ok(report)
}

/// How much more one takes than no mesh at all.
fn added(comparison: &Comparison, name: &str, number: impl Fn(&Sample) -> f64) -> Option<Spread> {
    comparison.spread(name, &number)?.less(&comparison.spread(PLAIN, &number)?)
}

/// What ours adds, divided by what the sidecars add.
fn share(comparison: &Comparison, number: impl Fn(&Sample) -> f64) -> Option<Spread> {
    added(comparison, OURS, &number)?.over(&added(comparison, SIDECARS, &number)?)
}

fn ours(lab: &Lab, control: &ControlPlane) -> Result<Contestant> {
    let mut service = lab.ours("bench");
    service.arg("mesh-service").env("MESH_SERVICE", "b");
    let service = Contestant::start(lab, "mesh B", lab.address()?, control.joined(&mut service))?;
    let listen = lab.address()?;
    let mut caller = lab.ours("bench");
    caller.arg("mesh-caller").arg(listen.to_string()).env("MESH_SERVICE", "a");
    Contestant::start(lab, "mesh A", listen, control.joined(&mut caller))?
        .with(OURS, service.processes)
        .ready("/", "")
}

fn sidecars(lab: &Lab) -> Result<Contestant> {
    let (service, mut before) = plain_service(lab, "B behind Envoy")?;
    let authority = Authority::new(lab)?;
    let (egress, sidecars) = envoy_sidecars(lab, &authority, service)?;
    before.processes.extend(sidecars);
    plain_caller(lab, "A behind Envoy", egress)?
        .with(SIDECARS, before.processes)
        .ready("/", "")
}

fn plain(lab: &Lab) -> Result<Contestant> {
    let (service, before) = plain_service(lab, "plain B")?;
    plain_caller(lab, "plain A", service)?
        .with(PLAIN, before.processes)
        .ready("/", "")
}

fn plain_service(lab: &Lab, name: &str) -> Result<(std::net::SocketAddr, Contestant)> {
    let listen = lab.address()?;
    let mut command = lab.ours("bench");
    command.arg("plain-service").arg(listen.to_string());
    Ok((listen, Contestant::start(lab, name, listen, &mut command)?))
}

fn plain_caller(lab: &Lab, name: &str, to: std::net::SocketAddr) -> Result<Contestant> {
    let listen = lab.address()?;
    let mut command = lab.ours("bench");
    command.arg("plain-caller").arg(listen.to_string()).arg(to.to_string());
    Contestant::start(lab, name, listen, &mut command)
}

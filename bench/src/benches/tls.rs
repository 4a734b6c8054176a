//! TLS 1.3 in front: HTTP/2 and HTTP/1.1 over kept connections, and what a full handshake costs.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::proxy::{PATH, bank};
use crate::certificates::{Authority, Issued};
use crate::contestants::native_host::{Engine, native_host};
use crate::contestants::{Contestant, envoy, haproxy, nginx};
use crate::lab::Lab;
use crate::load::Load;
use crate::load::h2load::H2load;
use crate::load::handshakes::handshakes;
use crate::report::{Goal, Report};
use crate::rounds::{Comparison, compare};
use crate::statistics::Bound;
use crate::upstream::Upstream;

const CONNECTIONS: u32 = 32;

/// Requests at once on a connection of HTTP/2.
pub(crate) const STREAMS: u32 = 8;

/// A certificate for the front.
pub(crate) fn certificate(lab: &Lab) -> Result<Issued> {
    Authority::new(lab)?.issue(lab, "server", "spiffe://bench.test/service/gateway")
}

/// The bank's config with TLS in front.
pub(crate) fn config(lab: &Lab, upstream: SocketAddr, certificate: &Issued) -> Result<PathBuf> {
    let config = bank(upstream).replace(
        "[gateway]\n",
        &format!(
            "[gateway]\ntls = {{ cert_file = \"{}\", key_file = \"{}\" }}\n",
            certificate.certificate.display(),
            certificate.key.display()
        ),
    );
    lab.write("tls.toml", &config)
}

/// Asks over kept connections: HTTP/2 with [`STREAMS`] requests at once on each, or HTTP/1.1 where `streams` is one.
pub(crate) fn kept(lab: &Lab, contestant: &Contestant, streams: u32, seconds: u32) -> Result<Load> {
    H2load {
        address: contestant.address,
        path: PATH,
        connections: CONNECTIONS,
        streams,
        seconds,
    }
    .run(lab)
}

pub(super) fn run(lab: &Lab) -> Result<Report> {
    let upstream = Upstream::start(lab)?;
    let certificate = certificate(lab)?;
    let file = config(lab, upstream.address, &certificate)?;
    let contestants = [
        ready(lab, native_host(lab, Engine::Native, &file)?)?,
        ready(lab, nginx(lab, upstream.address, Some(&certificate))?)?,
        ready(lab, haproxy(lab, upstream.address, Some(&certificate))?)?,
        ready(lab, envoy(lab, upstream.address, Some(&certificate))?)?,
    ];
    let ours = Engine::Native.label();
    let mut report = Report::new(
        "tls",
        "TLS 1.3 in front with a P-256 certificate, an answer of 1 KiB, 32 kept connections: HTTP/2 with 8 requests at once on each, and\n\
         HTTP/1.1. Then full handshakes, one after the other, where a request is a handshake and its time the mean.",
    );
    let over = |title: &str, streams| {
        compare(lab, title, &contestants, &|contestant, seconds| {
            kept(lab, contestant, streams, seconds)
        })
    };
    let http2 = over("HTTP/2", STREAMS)?;
    let http1 = over("HTTP/1.1", 1)?;
    let full = compare(lab, "full handshakes", &contestants, &|contestant, seconds| {
        handshakes(lab, contestant.address, seconds)
    })?;
    let mut goal = |what: String, most: f64, comparison: &Comparison, theirs: &str| {
        let ratio = comparison.ratio(ours, theirs);
        report.goals.push(Goal::new(what, Bound::AtMost(most), 2, ratio));
    };
    for (theirs, most) in [("Envoy", 0.5), ("HAProxy", 1.0)] {
        goal(
            format!("HTTP/2: processor per request ≤ {most} × {theirs}"),
            most,
            &http2,
            theirs,
        );
    }
    for theirs in ["nginx", "HAProxy", "Envoy"] {
        goal(format!("processor per full handshake ≤ {theirs}"), 1.0, &full, theirs);
    }
    for (title, comparison) in [("HTTP/2", &http2), ("HTTP/1.1", &http1), ("full handshakes", &full)] {
        report.tables.push(comparison.table(title, ours));
    }
    report
        .problems
        .extend([http2, http1].into_iter().flat_map(|comparison| comparison.problems));
    // One client that does one handshake at a time leaves both cores waiting; only what it saw go wrong counts.
    report
        .problems
        .extend(full.problems.into_iter().filter(|problem| !problem.contains("bottleneck")));
    Ok(report)
}

/// The contestant, once each of its processes shakes hands.
pub(crate) fn ready(lab: &Lab, mut contestant: Contestant) -> Result<Contestant> {
    let address = contestant.address;
    for process in &mut contestant.processes {
        process.until(Duration::from_millis(50), || {
            let load = handshakes(lab, address, 1)?;
            ensure!(load.requests > 0, "no handshake");
            Ok(())
        })?;
    }
    Ok(contestant)
}

//! The component serving whole requests through its own `wasi:http/handler`, as a host at the edge runs it.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;

use super::proxy::{PATH, bank, load};
use crate::contestants::native_host::{Engine, native_host};
use crate::contestants::wasmtime_serve;
use crate::lab::Lab;
use crate::report::{Goal, Report};
use crate::rounds::compare;
use crate::statistics::Bound;
use crate::upstream::Upstream;

const OURS: &str = Engine::Edge.label();

const CONNECTIONS: u32 = 32;

/// What the component finds at `/`.
const FOLDER: &str = "edge";

/// Writes the bank's config where the component finds it.
pub(crate) fn config(lab: &Lab, upstream: SocketAddr) -> Result<PathBuf> {
    fs::create_dir_all(lab.folder.join(FOLDER))?;
    lab.write(&format!("{FOLDER}/gateway.toml"), &bank(upstream))
}

pub(super) fn run(lab: &Lab) -> Result<Report> {
    let upstream = Upstream::start(lab)?;
    let file = config(lab, upstream.address)?;
    let plain = lab.component.with_file_name("gateway-wasi.wasm");
    let contestants = [
        native_host(lab, Engine::Edge, &file)?.ready(PATH, "")?,
        wasmtime_serve(lab, &plain, &lab.folder.join(FOLDER))?.ready(PATH, "")?,
    ];
    let mut report = Report::new(
        "edge",
        "The component serves whole requests through its own wasi:http/handler, with a bank's 20 routes and an answer of 1 KiB, 32\n\
         connections: in native-host, and in wasmtime serve, which may use an instance as often and for as many requests at once.",
    );
    let comparison = compare(lab, "32 connections", &contestants, &|contestant, seconds| {
        load(lab, contestant, CONNECTIONS, seconds)
    })?;
    report.tables.push(comparison.table("32 connections", OURS));
    report.goals.push(Goal::new(
        "processor per request ≤ 0.4 × wasmtime serve",
        Bound::AtMost(0.4),
        2,
        comparison.ratio(OURS, "wasmtime serve"),
    ));
    report.problems.extend(comparison.problems);
    Ok(report)
}

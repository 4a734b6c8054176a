//! The component serving whole requests through its own `wasi:http/handler`, as a host at the edge runs it.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};

use super::proxy::{BANK, PATH};
use crate::contestants::native_host::{Engine, serve};
use crate::contestants::wasmtime_serve;
use crate::lab::Lab;
use crate::load::wrk::Wrk;
use crate::report::{Goal, Report};
use crate::rounds::compare;
use crate::statistics::Bound;
use crate::upstream::Upstream;

const OURS: &str = "Heddle, the component's handler";

const CONNECTIONS: u32 = 32;

pub(super) fn run(lab: &Lab) -> Result<Report> {
    let upstream = Upstream::start(lab)?;
    let folder = lab.folder.join("edge");
    fs::create_dir_all(&folder)?;
    let config = BANK.replace("UPSTREAM", &upstream.address.to_string());
    let bank = lab.write("edge/gateway.toml", &config)?;
    let component = handler_only(lab)?;
    let contestants = [
        serve(lab, OURS, Engine::Wasm, &component, &bank)?.ready(PATH, "")?,
        wasmtime_serve(lab, &component, &folder)?.ready(PATH, "")?,
    ];
    let mut report = Report::new(
        "edge",
        "The component serves whole requests through its own wasi:http/handler, with a bank's 20 routes and an answer of 1 KiB, 32\n\
         connections: in native-host, and in wasmtime serve, which may use an instance as often and for as many requests at once.",
    );
    let comparison = compare(lab, "32 connections", &contestants, &|contestant, seconds| {
        let url = format!("http://{}{PATH}", contestant.address);
        Wrk {
            connections: CONNECTIONS,
            url,
            seconds,
            script: None,
        }
        .run(lab)
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

/// The plain component with its policy export under a name that no host looks for, so that native-host has it serve whole
/// requests too.
fn handler_only(lab: &Lab) -> Result<PathBuf> {
    let plain = lab.component.with_file_name("gateway-wasi.wasm");
    let mut bytes = fs::read(&plain).with_context(|| format!("cannot read {}", plain.display()))?;
    ensure!(
        hide(&mut bytes, b"heddle:gateway/policy") > 0,
        "{} exports no policy",
        plain.display()
    );
    let file = lab.folder.join("handler.wasm");
    fs::write(&file, bytes)?;
    Ok(file)
}

/// Changes the last letter wherever `name` stands; says how often.
fn hide(bytes: &mut [u8], name: &[u8]) -> usize {
    let places: Vec<usize> = bytes
        .windows(name.len())
        .enumerate()
        .filter_map(|(at, window)| (window == name).then_some(at))
        .collect();
    for at in &places {
        bytes[at + name.len() - 1] = b'x';
    }
    places.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_hidden_wherever_it_stands() {
        let mut bytes = b"ab policy cd policy".to_vec();
        assert_eq!(hide(&mut bytes, b"policy"), 2);
        assert_eq!(bytes, b"ab policx cd policx");
        assert_eq!(hide(&mut bytes, b"policy"), 0);
    }
}

//! `cargo xtask bench`: sets up what is compared and what makes the load, then hands over to the program in `bench/`.

use std::os::unix::process::CommandExt as _;

use anyhow::{Context as _, Result};

use crate::release::Released;
use crate::{component, tools};

/// What there is to measure, in the order in which it is run.
const NAMES: [&str; 10] = [
    "proxy",
    "policy",
    "edge",
    "tls",
    "large",
    "mesh",
    "routes",
    "reload",
    "discovery",
    "start",
];

#[derive(clap::Args)]
#[command(after_help = "Example:\n  cargo xtask bench proxy --quick")]
pub(crate) struct Arguments {
    /// What to measure; everything where nothing is named
    #[arg(value_name = "NAME", value_parser = NAMES)]
    names: Vec<String>,
    /// Two rounds instead of eleven
    #[arg(long)]
    quick: bool,
    /// How many rounds
    #[arg(long)]
    rounds: Option<u32>,
    /// Print the results as JSON
    #[arg(long)]
    json: bool,
    /// Write BENCHMARKS.md from the last result of each
    #[arg(long)]
    write: bool,
}

pub(crate) fn bench(arguments: &Arguments) -> Result<()> {
    let names: Vec<&str> = match arguments.names.as_slice() {
        [] => NAMES.to_vec(),
        some => some.iter().map(String::as_str).collect(),
    };
    let (peers, envoy) = (tools::peers()?, tools::envoy()?);
    let is_at_the_edge = names.contains(&"edge");
    let component = if is_at_the_edge {
        component::both_checked()?.0
    } else {
        component::ready()?
    };
    let released = Released::build(&component)?;

    let mut command = released.others.command("bench");
    command.arg("run").args(&names);
    command.arg("--programs").arg(&released.others.folder);
    command.arg("--host").arg(released.host());
    command.arg("--component").arg(component);
    command.arg("--peers").arg(peers).arg("--envoy").arg(envoy);
    if is_at_the_edge {
        command.arg("--wasmtime").arg(tools::wasmtime()?);
    }
    for (flag, given) in [
        ("--quick", arguments.quick),
        ("--json", arguments.json),
        ("--write", arguments.write),
    ] {
        if given {
            command.arg(flag);
        }
    }
    if let Some(rounds) = arguments.rounds {
        command.arg("--rounds").arg(rounds.to_string());
    }
    // In place of this program, so that whoever stops it stops the measurement and all that it started.
    Err(command.exec()).context("the bench does not start")
}

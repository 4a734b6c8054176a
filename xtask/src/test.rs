//! `cargo xtask test`: every test, after everything that they need was set up.

mod databases;
mod hosts;
mod issuers;
mod network;

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::{component, paths, run};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Also install other hosts for WASI components and try the component under them
    #[arg(long)]
    hosts: bool,
}

pub(crate) fn test(arguments: &Arguments) -> Result<()> {
    let (component, plain) = component::both_checked()?;
    if arguments.hosts {
        hosts::wasmtime_serves(&plain)?;
    }
    every_test(&component, &plain)
}

/// Runs every test of the workspace; the component is built for WASI alone, so the packages are tested without it.
pub(crate) fn every_test(component: &Path, plain: &Path) -> Result<()> {
    // Suites start the workspace's programs; `cargo test` alone builds only those of packages that have suites themselves. Built
    // together with the tests, so that both have the same features and nothing is built twice.
    let (issuers, databases) = (issuers::ready()?, databases::ready()?);
    network::ready()?;
    let mut cargo = native("build");
    run::loudly(
        "building the programs and the tests",
        cargo.args(["--bins", "--tests"]),
        "mend what the compiler says above",
    )?;
    let mut cargo = native("test");
    cargo.env("HEDDLE_COMPONENT", component).env("HEDDLE_COMPONENT_PLAIN", plain);
    cargo.env("HEDDLE_ISSUERS", issuers).env("HEDDLE_DATABASES", databases);
    run::loudly("running every test", &mut cargo, "mend the tests that failed above")
}

/// A cargo command over every package that is built for this machine.
pub(crate) fn native(what: &str) -> Command {
    let mut cargo = paths::cargo();
    cargo.args([what, "--workspace", "--exclude", "gateway-component"]);
    cargo
}

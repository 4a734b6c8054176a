//! `cargo xtask test`: every test, after everything that they need was set up.

mod databases;
mod hosts;
mod issuers;
mod network;

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::release::Released;
use crate::{component, paths, run};

/// The suites that start native-host.
const OF_THE_HOST: [&str; 6] = ["bad_input", "bank", "commands", "conformance", "issuers", "quotas"];

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Also install other hosts for WASI components and try the component under them
    #[arg(long)]
    hosts: bool,
    /// Also build the release, and run the suites that start native-host with the one that is released
    #[arg(long)]
    released: bool,
}

pub(crate) fn test(arguments: &Arguments) -> Result<()> {
    let (component, plain) = component::both_checked()?;
    if arguments.hosts {
        hosts::wasmtime_serves(&plain)?;
    }
    every_test(&component, &plain)?;
    if arguments.released {
        let released = Released::build(&component)?;
        let mut cargo = native("test");
        for suite in OF_THE_HOST {
            cargo.args(["--test", suite]);
        }
        cargo.env("HEDDLE_PROGRAMS", released.folder());
        prepared(&mut cargo, &component, &plain)?;
        run::loudly(
            "running the suites with what is released",
            &mut cargo,
            "mend the tests that failed above",
        )?;
    }
    Ok(())
}

/// Runs every test of the workspace; the component is built for WASI alone, so the packages are tested without it.
pub(crate) fn every_test(component: &Path, plain: &Path) -> Result<()> {
    // Suites start the workspace's programs; `cargo test` alone builds only those of packages that have suites themselves. Built
    // together with the tests, so that both have the same features and nothing is built twice.
    let mut cargo = native("build");
    run::loudly(
        "building the programs and the tests",
        cargo.args(["--bins", "--tests"]),
        "mend what the compiler says above",
    )?;
    let mut cargo = native("test");
    prepared(&mut cargo, component, plain)?;
    run::loudly("running every test", &mut cargo, "mend the tests that failed above")
}

/// Sets up what the suites need besides the programs, and tells them where it is.
fn prepared(tests: &mut Command, component: &Path, plain: &Path) -> Result<()> {
    network::ready()?;
    tests.env("HEDDLE_COMPONENT", component).env("HEDDLE_COMPONENT_PLAIN", plain);
    tests.env("HEDDLE_ISSUERS", issuers::ready()?);
    tests.env("HEDDLE_DATABASES", databases::ready()?);
    Ok(())
}

/// A cargo command over every package that is built for this machine.
pub(crate) fn native(what: &str) -> Command {
    let mut cargo = paths::cargo();
    cargo.args([what, "--workspace", "--exclude", "gateway-component"]);
    cargo
}

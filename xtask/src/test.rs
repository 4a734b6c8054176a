//! `cargo xtask test`: every test, after everything that they need was set up.

mod databases;
mod hosts;
mod issuers;
mod network;

use std::path::{Path, PathBuf};
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
    let needs = Needs::ready(&component)?;
    run_every(&needs)?;
    if arguments.released {
        let released = Released::build(&component)?;
        let mut cargo = needs.test();
        for suite in OF_THE_HOST {
            cargo.args(["--test", suite]);
        }
        cargo.env("HEDDLE_PROGRAMS", &released.folder);
        run::loudly(
            "running the suites with what is released",
            &mut cargo,
            "mend the tests that failed above",
        )?;
    }
    Ok(())
}

/// Runs every test of the workspace; the component is built for WASI alone, so the packages are tested without it.
pub(crate) fn every_test(component: &Path) -> Result<()> {
    run_every(&Needs::ready(component)?)
}

fn run_every(needs: &Needs<'_>) -> Result<()> {
    // Suites start the workspace's programs; `cargo test` alone builds only those of packages that have suites themselves. Built
    // together with the tests, so that both have the same features and nothing is built twice.
    let mut cargo = native("build");
    run::loudly(
        "building the programs and the tests",
        cargo.args(["--bins", "--tests"]),
        "mend what the compiler says above",
    )?;
    run::loudly("running every test", &mut needs.test(), "mend the tests that failed above")
}

/// What the suites need besides the programs.
struct Needs<'a> {
    component: &'a Path,
    issuers: PathBuf,
    databases: PathBuf,
}

impl<'a> Needs<'a> {
    /// Sets it up, before anything is built: this is quicker to fail.
    fn ready(component: &'a Path) -> Result<Self> {
        let (issuers, databases) = (issuers::ready()?, databases::ready()?);
        network::ready()?;
        Ok(Self {
            component,
            issuers,
            databases,
        })
    }

    /// Tests that are told where it is.
    fn test(&self) -> Command {
        let mut cargo = native("test");
        cargo.env("HEDDLE_COMPONENT", self.component);
        cargo.env("HEDDLE_ISSUERS", &self.issuers);
        cargo.env("HEDDLE_DATABASES", &self.databases);
        cargo
    }
}

/// A cargo command over every package that is built for this machine.
pub(crate) fn native(what: &str) -> Command {
    let mut cargo = paths::cargo();
    cargo.args([what, "--workspace", "--exclude", "gateway-component"]);
    cargo
}

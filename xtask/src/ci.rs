//! `cargo xtask ci`: everything that a change has to pass, in the order in which it is likely to fail.

use std::process::Command;
use std::time::Instant;

use anyhow::Result;

use crate::{component, paths, run, test};

pub(crate) fn ci() -> Result<()> {
    let begun = Instant::now();
    let mut times = Vec::new();
    let mut stage = |name: &'static str, work: &mut dyn FnMut() -> Result<()>| {
        let begun = Instant::now();
        let outcome = work();
        times.push(format!("    {name:<14} {}", run::elapsed(begun)));
        outcome
    };
    let mut built = None;
    let outcome = (|| {
        stage("format", &mut format)?;
        stage("component", &mut || {
            built = Some(component::both_checked()?);
            Ok(())
        })?;
        stage("lints", &mut lints)?;
        stage("documentation", &mut documentation)?;
        stage("dependencies", &mut dependencies)?;
        stage("tests", &mut || match &built {
            Some((component, plain)) => test::every_test(component, plain),
            None => Ok(()),
        })
    })();
    eprintln!("==> how long it took");
    for line in times {
        eprintln!("{line}");
    }
    eprintln!("    {:<14} {}", "all", run::elapsed(begun));
    outcome
}

fn format() -> Result<()> {
    let mut cargo = paths::cargo();
    run::loudly(
        "checking the format",
        cargo.args(["fmt", "--all", "--check"]),
        "run cargo fmt --all",
    )
}

fn lints() -> Result<()> {
    let mut cargo = test::native("clippy");
    cargo.args(["--all-targets", "--", "-D", "warnings"]);
    run::loudly("running clippy", &mut cargo, "mend what clippy says above")?;
    // The component is linted as if for this machine: Debian's compiler for wasm32-wasip2 has no clippy. On its own, so that its
    // features stay its own.
    for features in [&[][..], &["--no-default-features"], &["--features", "redis"]] {
        let mut cargo = paths::cargo();
        cargo
            .args(["clippy", "--package", "gateway-component"])
            .args(features)
            .args(["--", "-D", "warnings"]);
        run::loudly("running clippy on the component", &mut cargo, "mend what clippy says above")?;
    }
    Ok(())
}

fn documentation() -> Result<()> {
    let mut cargo = test::native("doc");
    cargo.arg("--no-deps").env("RUSTDOCFLAGS", "-D warnings");
    run::loudly("building the documentation", &mut cargo, "mend what rustdoc says above")?;
    let mut cargo = paths::cargo();
    cargo
        .args(["doc", "--package", "gateway-component", "--no-deps"])
        .env("RUSTDOCFLAGS", "-D warnings");
    run::loudly(
        "building the component's documentation",
        &mut cargo,
        "mend what rustdoc says above",
    )
}

/// Licences, advisories and the one crypto provider, where cargo-deny is there: it is no part of a Rust toolchain, and its
/// advisories come from a network that not every machine reaches.
fn dependencies() -> Result<()> {
    let has_deny = Command::new("cargo-deny")
        .arg("--version")
        .output()
        .is_ok_and(|output| output.status.success());
    if !has_deny {
        run::say("leaving out cargo deny, which is not installed here (cargo install cargo-deny)");
        return Ok(());
    }
    let mut cargo = paths::cargo();
    run::loudly(
        "checking the dependencies",
        cargo.args(["deny", "check", "bans", "licenses", "sources"]),
        "see deny.toml",
    )
}

//! `cargo xtask ci`: everything that a change has to pass; what is likely to fail comes first.

use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::{Result, bail};

use crate::{component, paths, run, test};

pub(crate) fn ci() -> Result<()> {
    let stages = Stages::default();
    let begun = Instant::now();
    let outcome = all(&stages);
    eprintln!("==> how long it took");
    for line in stages.lines().iter() {
        eprintln!("{line}");
    }
    eprintln!("    {:<14} {}", "all", run::elapsed(begun));
    outcome
}

fn all(stages: &Stages) -> Result<()> {
    stages.run("format", format)?;
    // The linker works on the component for minutes with one core, and what looks at the sources needs nothing of it.
    let (built, looked_at) = std::thread::scope(|scope| {
        let building = scope.spawn(|| stages.run("component", component::both_checked));
        let looked_at = stages
            .run("lints", lints)
            .and_then(|()| stages.run("documentation", documentation));
        let built = building
            .join()
            .unwrap_or_else(|_| bail!("what builds the component panicked"));
        (built, looked_at)
    });
    looked_at?;
    let (component, _) = built?;
    stages.run("dependencies", dependencies)?;
    stages.run("tests", || test::every_test(&component))
}

/// How long each stage took.
#[derive(Default)]
struct Stages(Mutex<Vec<String>>);

impl Stages {
    /// Does the work of a stage, and says at once where it fails: another may be under way beside it, which is waited for.
    fn run<T>(&self, name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let begun = Instant::now();
        let outcome = work();
        let took = run::elapsed(begun);
        self.lines().push(format!("    {name:<14} {took}"));
        if outcome.is_err() {
            run::say(&format!("{name}: failed"));
        }
        outcome
    }

    fn lines(&self) -> MutexGuard<'_, Vec<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
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

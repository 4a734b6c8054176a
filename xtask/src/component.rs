//! `cargo xtask component`: the gateway as a WASI component.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::imports::{self, Kind};
use crate::toolchain::{Choice, Toolchain};
use crate::{paths, run};

/// The profile in the workspace's manifest.
const PROFILE: &str = "component";

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Also build it without the feature `spin`, for hosts that have `wasi:*` alone, into target/gateway-wasi.wasm
    #[arg(long)]
    plain: bool,
    /// Also build it with quotas that all instances share through Spin's Redis, into target/gateway-redis.wasm
    #[arg(long)]
    redis: bool,
    /// Fail on an import that is not in the list of expected ones
    #[arg(long)]
    check_imports: bool,
    /// The compiler to build with
    #[arg(long, value_enum, default_value_t)]
    toolchain: Choice,
}

pub(crate) fn component(arguments: &Arguments) -> Result<()> {
    let toolchain = Toolchain::ready(arguments.toolchain)?;
    let mut built = vec![(Kind::Spin, build(&toolchain, Kind::Spin)?)];
    if arguments.plain {
        built.push((Kind::Plain, build(&toolchain, Kind::Plain)?));
    }
    if arguments.redis {
        built.push((Kind::Redis, build(&toolchain, Kind::Redis)?));
    }
    for (kind, file) in &built {
        let found = imports::of(file)?;
        println!("{}: {} KiB, imports:", shown(file), fs::metadata(file)?.len().div_ceil(1024));
        for import in &found {
            println!("  {import}");
        }
        if arguments.check_imports {
            imports::check(*kind, &toolchain, &found).with_context(|| shown(file))?;
        }
    }
    Ok(())
}

/// Builds the components and checks what they import; gives the one for every host and the one for plain WASI hosts.
pub(crate) fn both_checked() -> Result<(PathBuf, PathBuf)> {
    component(&Arguments {
        plain: true,
        redis: true,
        check_imports: true,
        toolchain: Choice::Auto,
    })?;
    Ok((file(Kind::Spin), file(Kind::Plain)))
}

/// Builds the component for every host and gives its file.
pub(crate) fn ready() -> Result<PathBuf> {
    build(&Toolchain::ready(Choice::Auto)?, Kind::Spin)
}

fn file(kind: Kind) -> PathBuf {
    paths::target(match kind {
        Kind::Spin => "gateway.wasm",
        Kind::Plain => "gateway-wasi.wasm",
        Kind::Redis => "gateway-redis.wasm",
    })
}

fn build(toolchain: &Toolchain, kind: Kind) -> Result<PathBuf> {
    let mut cargo = toolchain.build()?;
    cargo.args(["--package", "gateway-component", "--profile", PROFILE]);
    let what = match kind {
        Kind::Spin => "building the gateway component",
        Kind::Plain => {
            cargo.arg("--no-default-features");
            "building the gateway component without Spin's interfaces"
        }
        Kind::Redis => {
            cargo.args(["--features", "redis"]);
            "building the gateway component with shared quotas"
        }
    };
    run::loudly(what, &mut cargo, "mend what the compiler says above")?;
    let from = toolchain.artifacts(PROFILE).join("gateway_component.wasm");
    let to = file(kind);
    replace(&from, &to)?;
    Ok(to)
}

/// Puts `from` at `to` in one move, and only where they differ: whoever watches or caches `to` by its time sees no change
/// where there is none.
fn replace(from: &Path, to: &Path) -> Result<()> {
    let content = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    if content.is_empty() {
        bail!("{} is empty: remove it and build again", from.display());
    }
    if fs::read(to).is_ok_and(|old| old == content) {
        return Ok(());
    }
    let unfinished = to.with_extension("wasm.new");
    fs::write(&unfinished, content).with_context(|| format!("cannot write {}", unfinished.display()))?;
    fs::rename(&unfinished, to).with_context(|| format!("cannot write {}", to.display()))
}

fn shown(file: &Path) -> String {
    file.strip_prefix(paths::root()).unwrap_or(file).display().to_string()
}

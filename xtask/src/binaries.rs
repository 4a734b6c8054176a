//! The programs that are run from their release build.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::{paths, run};

/// The mesh, the gateway's host and the bank's services.
///
/// Always built together: with other packages beside them cargo would choose other features for what they depend on, and build
/// all of it anew.
pub(crate) struct Binaries {
    pub(crate) folder: PathBuf,
}

impl Binaries {
    pub(crate) fn build() -> Result<Self> {
        let mut cargo = paths::cargo();
        cargo.args(["build", "--release"]);
        for package in ["mesh-runtime", "native-host", "bank-accounts", "bank-statements"] {
            cargo.args(["--package", package]);
        }
        run::loudly(
            "building the mesh, the gateway's host and the bank's services",
            &mut cargo,
            "mend what the compiler says above",
        )?;
        Ok(Self {
            folder: paths::cargo_target()?.join("release"),
        })
    }

    pub(crate) fn command(&self, name: &str) -> Command {
        let mut command = Command::new(self.folder.join(name));
        command.current_dir(paths::root());
        command
    }
}

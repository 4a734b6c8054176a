//! A real control plane with its state in a folder of the lab.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::lab::Lab;
use crate::process::Process;

/// A running `mesh-runtime serve`.
#[derive(Debug)]
pub(crate) struct ControlPlane {
    /// `HOST:PORT`.
    pub(crate) address: String,
    pub(crate) process: Process,
    folder: PathBuf,
}

impl ControlPlane {
    /// Starts one with nothing in it on a core.
    pub(crate) fn start(lab: &Lab, core: usize, settings: &str) -> Result<Self> {
        let folder = lab.folder.join("mesh");
        if folder.exists() {
            fs::remove_dir_all(&folder).with_context(|| format!("cannot empty {}", folder.display()))?;
        }
        fs::create_dir_all(&folder)?;
        let config = lab.write("mesh.toml", settings)?;
        let mut command = lab.ours("mesh-runtime");
        command.args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--config"]);
        command.arg(config).arg("--data-dir").arg(folder.join("data"));
        command.env("XDG_STATE_HOME", &folder).env("RUST_LOG", "warn");
        let mut process = Process::start("mesh-runtime", &mut command, core, &lab.folder)?;
        let address = process.line_after("control listening on ")?;
        Ok(Self {
            address,
            process,
            folder,
        })
    }

    /// Tells a program how to join, as its operator would.
    pub(crate) fn joined<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command
            .env("XDG_STATE_HOME", &self.folder)
            .env("MESH_CONTROL", &self.address)
            .env_remove("MESH_TOKEN")
    }

    /// What a program of that environment would read, for one that joins from within this process.
    pub(crate) fn variable(&self, name: &str) -> Option<String> {
        match name {
            "XDG_STATE_HOME" => Some(self.folder.display().to_string()),
            "MESH_CONTROL" => Some(self.address.clone()),
            _ => None,
        }
    }
}

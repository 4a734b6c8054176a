//! native-host: one worker, its access log off, since nobody else writes one.

use std::path::Path;

use anyhow::Result;

use super::Contestant;
use crate::lab::Lab;

/// Which engine decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    Native,
    Wasm,
    Edge,
}

impl Engine {
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Native => "Heddle, native engine",
            Self::Wasm => "Heddle, wasm engine",
            Self::Edge => "Heddle, the component's handler",
        }
    }

    const fn flag(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Wasm => "wasm",
            Self::Edge => "edge",
        }
    }
}

/// native-host with the config in `file`.
pub(crate) fn native_host(lab: &Lab, engine: Engine, file: &Path) -> Result<Contestant> {
    serve(lab, engine.label(), engine, file)
}

/// The same under another name.
pub(crate) fn serve(lab: &Lab, name: &str, engine: Engine, file: &Path) -> Result<Contestant> {
    let address = lab.address()?;
    let mut command = lab.native_host();
    command.args(["serve", "--workers", "1", "--engine", engine.flag(), "--listen"]);
    command
        .arg(address.to_string())
        .args(["--admin", "127.0.0.1:0", "--config"])
        .arg(file);
    if engine != Engine::Native {
        command.arg("--component").arg(&lab.component);
    }
    command.env("RUST_LOG", "warn");
    Contestant::start(lab, name, address, &mut command)
}

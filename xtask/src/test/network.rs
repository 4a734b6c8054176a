//! What suites need that run on machines and networks of their own.

use std::process::Command;

use anyhow::Result;

use crate::demo::install;

/// Installs what is missing. Namespaces are the kernel's; `setpriv`, `unshare` and `nsenter` are part of every Debian.
pub(super) fn ready() -> Result<()> {
    if Command::new("ip").arg("-V").output().is_err() {
        install("iproute2", "suites connect network namespaces of their own")?;
    }
    Ok(())
}

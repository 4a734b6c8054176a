//! Who is compared: how each is configured and started, one file each.

mod caddy;
mod envoy;
mod haproxy;
pub(crate) mod native_host;
mod nginx;
mod wasmtime;

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

pub(crate) use caddy::caddy;
pub(crate) use envoy::{EnvoyPolicy, envoy, envoy_sidecars, envoy_with_policy};
pub(crate) use haproxy::haproxy;
pub(crate) use nginx::nginx;
pub(crate) use wasmtime::wasmtime_serve;

use crate::http;
use crate::lab::Lab;
use crate::process::Process;
use crate::procfs;
use crate::upstream::ANSWER;

/// One of those that are compared.
#[derive(Debug)]
pub(crate) struct Contestant {
    pub(crate) name: String,
    /// Where the load goes.
    pub(crate) address: SocketAddr,
    /// All that work for it; the last one has the address.
    pub(crate) processes: Vec<Process>,
}

impl Contestant {
    /// Starts it.
    pub(crate) fn start(lab: &Lab, name: &str, address: SocketAddr, command: &mut Command) -> Result<Self> {
        let process = Process::start(name, command, lab.core, &lab.folder)?;
        Ok(Self {
            name: name.to_owned(),
            address,
            processes: vec![process],
        })
    }

    /// The same, working together with what was started before, under another name.
    pub(crate) fn with(mut self, name: &str, before: Vec<Process>) -> Self {
        name.clone_into(&mut self.name);
        self.processes.splice(0..0, before);
        self
    }

    /// Waits until it answers `path` with what the upstream says.
    pub(crate) fn ready(mut self, path: &str, fields: &str) -> Result<Self> {
        self.answers(Duration::from_millis(20), path, fields)?;
        Ok(self)
    }

    /// The same, asked every so often.
    pub(crate) fn answers(&mut self, every: Duration, path: &str, fields: &str) -> Result<()> {
        let address = self.address;
        let process = self.processes.last_mut().context("a contestant is a process")?;
        process.until(every, || {
            let body = http::get(address, path, fields)?;
            ensure!(body.len() == ANSWER, "an answer of {} bytes", body.len());
            Ok(())
        })
    }

    /// What follows `mark` on the first line of its output that holds it.
    pub(crate) fn line_after(&mut self, mark: &str) -> Result<String> {
        self.processes
            .last_mut()
            .context("a contestant is a process")?
            .line_after(mark)
    }

    /// The processor time that it has used.
    pub(crate) fn processor_time(&self) -> Result<Duration> {
        self.processes
            .iter()
            .map(|process| procfs::processor_time(process.id()))
            .sum()
    }

    /// Its resident memory, in bytes.
    pub(crate) fn resident(&self) -> Result<u64> {
        self.processes.iter().map(|process| procfs::resident(process.id())).sum()
    }

    /// The most that was resident since it was last forgotten, in bytes.
    pub(crate) fn peak_resident(&self) -> Result<u64> {
        self.processes.iter().map(|process| procfs::peak_resident(process.id())).sum()
    }

    /// Forgets the most that was resident.
    pub(crate) fn forget_peak(&self) -> Result<()> {
        self.processes
            .iter()
            .try_for_each(|process| procfs::forget_peak(process.id()))
    }

    /// The ends of the logs.
    pub(crate) fn log(&self) -> String {
        let logs: Vec<String> = self.processes.iter().map(Process::log).collect();
        logs.join("\n")
    }
}

//! Where the programs are that are measured and measure, on which cores they run, and how long.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context as _, Result, bail};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Below the range from which the kernel takes the ports of outgoing connections, of which a bench makes many.
const PORTS: std::ops::Range<u16> = 20_000..30_000;

/// What a bench is run with.
#[derive(Debug)]
pub(crate) struct Lab {
    /// The workspace's release programs.
    pub(crate) programs: PathBuf,
    /// native-host, as it is released.
    pub(crate) host: PathBuf,
    /// The gateway component.
    pub(crate) component: PathBuf,
    /// The folder that stands for `/` in what Debian's packages hold.
    pub(crate) peers: PathBuf,
    pub(crate) envoy: Option<PathBuf>,
    pub(crate) wasmtime: Option<PathBuf>,
    /// Configs and logs.
    pub(crate) folder: PathBuf,
    /// Runs what is measured.
    pub(crate) core: usize,
    /// Runs the load generator and the upstream.
    pub(crate) load_core: usize,
    pub(crate) rounds: u32,
    /// How long one run takes.
    pub(crate) seconds: u32,
    next_port: AtomicU16,
}

/// Where to find the programs.
#[derive(Debug, clap::Args)]
pub(crate) struct Places {
    /// The folder of the workspace's release programs
    #[arg(long)]
    programs: PathBuf,
    /// native-host's program
    #[arg(long)]
    host: PathBuf,
    /// The gateway component
    #[arg(long)]
    component: PathBuf,
    /// The folder that stands for `/` in what Debian's packages hold
    #[arg(long)]
    peers: PathBuf,
    /// Envoy's program
    #[arg(long)]
    envoy: Option<PathBuf>,
    /// wasmtime's program
    #[arg(long)]
    wasmtime: Option<PathBuf>,
}

impl Lab {
    pub(crate) fn new(places: Places, rounds: u32, seconds: u32) -> Result<Self> {
        if std::thread::available_parallelism()?.get() < 2 {
            bail!("what is measured needs a core of its own, and this machine has one alone");
        }
        let lab = Self {
            programs: places.programs,
            host: places.host,
            component: places.component,
            peers: places.peers,
            envoy: places.envoy,
            wasmtime: places.wasmtime,
            folder: PathBuf::from("target/bench"),
            core: 0,
            load_core: 1,
            rounds,
            seconds,
            next_port: AtomicU16::new(PORTS.start),
        };
        fs::create_dir_all(&lab.folder)?;
        Ok(Self {
            folder: lab.folder.canonicalize()?,
            ..lab
        })
    }

    /// A program of Debian's, with the libraries that came with it.
    pub(crate) fn debian(&self, program: &str) -> Command {
        let mut command = tied(&self.peers.join(program));
        let libraries = self.peers.join(format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH));
        command.env("LD_LIBRARY_PATH", libraries);
        command
    }

    /// A program of this workspace.
    pub(crate) fn ours(&self, program: &str) -> Command {
        tied(&self.programs.join(program))
    }

    /// native-host.
    pub(crate) fn native_host(&self) -> Command {
        tied(&self.host)
    }

    /// Writes a config into the lab's folder.
    pub(crate) fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let file = self.folder.join(name);
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        Ok(file)
    }

    /// An address of loopback on which nobody listens at this moment, for programs that cannot be told to take any.
    pub(crate) fn address(&self) -> Result<SocketAddr> {
        loop {
            let port = self.next_port.fetch_add(1, Ordering::Relaxed);
            if !PORTS.contains(&port) {
                bail!("no port of {}..{} is free", PORTS.start, PORTS.end);
            }
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            if TcpListener::bind(address).is_ok() {
                return Ok(address);
            }
        }
    }
}

/// A program that is told to stop when this one ends, however it ends.
pub(crate) fn tied(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM", "--"]).arg(program);
    command
}

/// This thread on one core, and what it starts; on the cores where it was before when this is dropped.
#[derive(Debug)]
pub(crate) struct OnCore(CpuSet);

impl OnCore {
    pub(crate) fn new(core: usize) -> Result<Self> {
        let before = sched_getaffinity(None)?;
        let mut only = CpuSet::new();
        only.set(core);
        sched_setaffinity(None, &only).with_context(|| format!("core {core}"))?;
        Ok(Self(before))
    }
}

impl Drop for OnCore {
    fn drop(&mut self) {
        // It was there before, so it may be.
        let _ = sched_setaffinity(None, &self.0);
    }
}

//! `cargo xtask demo`: the whole bank on this machine, from nothing to a request answered.

pub(crate) mod http;
pub(crate) mod service;
mod show;
mod token;

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use self::service::Services;
use crate::binaries::Binaries;
use crate::{component, paths, run};

const CONTROL: &str = "127.0.0.1:7700";
const CONTROL_ADMIN: &str = "127.0.0.1:7701";
const GATEWAY: &str = "127.0.0.1:8080";
const GATEWAY_ADMIN: &str = "127.0.0.1:9901";

/// Who the demo's token is for.
const CUSTOMER: &str = "7";

/// A service that needs longer than this has a problem; all of them need a second or two.
const START_LIMIT: Duration = Duration::from_secs(60);

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Stop after the request that is shown
    #[arg(long)]
    once: bool,
}

pub(crate) fn demo(arguments: &Arguments) -> Result<()> {
    let begun = Instant::now();
    ports_are_free()?;
    let python = python()?;
    compiler_for_c()?;
    let component = component::ready()?;
    let binaries = Binaries::build()?;

    let stopped = Arc::new(AtomicBool::new(false));
    for signal in [
        signal_hook::consts::SIGINT,
        signal_hook::consts::SIGTERM,
        signal_hook::consts::SIGHUP,
    ] {
        signal_hook::flag::register(signal, Arc::clone(&stopped))?;
    }
    let bank = Bank {
        binaries,
        python,
        component,
        secret: token::secret()?,
        folder: paths::target("demo"),
        stopped,
        since: token::unix()?,
    };
    let mut services = Services::default();
    let outcome = bank.run(&mut services, arguments.once, begun);
    let stopping = services.stop();
    outcome.and(stopping)
}

/// The bank, about to run.
struct Bank {
    binaries: Binaries,
    python: PathBuf,
    component: PathBuf,
    secret: String,
    folder: PathBuf,
    stopped: Arc<AtomicBool>,
    /// When the run began, in seconds since 1970.
    since: u64,
}

impl Bank {
    fn run(&self, services: &mut Services, once: bool, begun: Instant) -> Result<()> {
        run::say("starting the bank");
        self.start(services)?;
        eprintln!(
            "    everything runs, {} after the start; logs are in target/demo",
            run::elapsed(begun)
        );

        let token = token::for_customer(CUSTOMER, &self.secret)?;
        let path = format!("/customers/{CUSTOMER}/overview");
        let answer = http::get(GATEWAY, &path, &[("authorization", &format!("Bearer {token}"))])
            .with_context(|| format!("asking the gateway:\n{}", services.log_of("gateway")))?;
        show::answer(&path, &answer);
        if answer.status != 200 {
            bail!(
                "the gateway answered {} where 200 was expected:\n{}",
                answer.status,
                services.log_of("gateway")
            );
        }
        if once {
            return Ok(());
        }
        show::try_next(&token);
        while !self.stopped.load(Ordering::Relaxed) {
            services.all_run()?;
            std::thread::sleep(Duration::from_millis(200));
        }
        eprintln!();
        Ok(())
    }

    fn start(&self, services: &mut Services) -> Result<()> {
        let logs = self.folder.join("logs");
        fs::create_dir_all(&logs).with_context(|| format!("cannot write {}", logs.display()))?;
        self.start_control_plane(services, &logs)?;
        self.start_services(services, &logs)?;
        self.start_gateway(services, &logs)
    }

    fn start_control_plane(&self, services: &mut Services, logs: &Path) -> Result<()> {
        let mut control = self.binaries.command("mesh-runtime");
        control.args([
            "serve",
            "--listen",
            CONTROL,
            "--admin",
            CONTROL_ADMIN,
            "--trust-domain",
            "bank.example",
            "--data-dir",
        ]);
        services.start("control-plane", control.arg(self.folder.join("mesh")), logs)?;
        self.ready(services, "control-plane", || is_ready(CONTROL_ADMIN))
    }

    fn start_services(&self, services: &mut Services, logs: &Path) -> Result<()> {
        for name in ["accounts", "statements"] {
            let mut service = self.binaries.command(&format!("bank-{name}"));
            service
                .env("MESH_CONTROL", CONTROL)
                .env("MESH_SERVICE", name)
                .env("MESH_TOKEN", self.join_token(name)?);
            services.start(name, &mut service, logs)?;
        }
        let port = free_port()?.to_string();
        let mut rates = self.binaries.command("mesh-runtime");
        rates.args(["run", "--service", "rates", "--port", &port, "--control", CONTROL, "--"]);
        rates
            .arg(&self.python)
            .arg(paths::root().join("examples/bank/rates/rates.py"))
            .arg(&port);
        services.start("rates", rates.env("MESH_TOKEN", self.join_token("rates")?), logs)?;
        for name in ["accounts", "statements", "rates"] {
            self.ready(services, name, || self.has_endpoint(name))?;
        }
        Ok(())
    }

    fn start_gateway(&self, services: &mut Services, logs: &Path) -> Result<()> {
        let mut gateway = self.binaries.command("native-host");
        gateway.args(["serve", "--engine", "wasm", "--listen", GATEWAY, "--admin", GATEWAY_ADMIN]);
        gateway
            .args(["--config", "examples/bank/gateway.toml", "--component"])
            .arg(&self.component);
        gateway
            .env("BANK_JWT_SECRET", &self.secret)
            .env("MESH_TOKEN", self.join_token("bank")?);
        services.start("gateway", &mut gateway, logs)?;
        self.ready(services, "gateway", || is_ready(GATEWAY_ADMIN))
    }

    /// A token with which one member joins as `service`.
    fn join_token(&self, service: &str) -> Result<String> {
        let output = self
            .binaries
            .command("mesh-runtime")
            .args(["token", "create", service, "--control", CONTROL])
            .output()?;
        if !output.status.success() {
            bail!(
                "mesh-runtime token create {service}: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    /// Whether the mesh knows an endpoint of `service` that registered in this run: one of a run that was killed stays listed
    /// until its lease ends.
    fn has_endpoint(&self, service: &str) -> bool {
        let mut command = self.binaries.command("mesh-runtime");
        let Ok(output) = command.args(["endpoints", service, "--json", "--control", CONTROL]).output() else {
            return false;
        };
        let listed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let is_new = |endpoint: &serde_json::Value| endpoint["registered_at"].as_u64().is_some_and(|at| at >= self.since);
        listed.as_array().is_some_and(|endpoints| endpoints.iter().any(is_new))
    }

    /// Waits until `is_ready`, as long as the service lives.
    fn ready(&self, services: &mut Services, name: &str, is_ready: impl Fn() -> bool) -> Result<()> {
        let begun = Instant::now();
        while !is_ready() {
            services.all_run()?;
            if self.stopped.load(Ordering::Relaxed) {
                bail!("stopped while {name} was starting");
            }
            if begun.elapsed() > START_LIMIT {
                bail!(
                    "{name} is not ready after {} s:\n{}",
                    START_LIMIT.as_secs(),
                    services.log_of(name)
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        eprintln!("    {name} is ready: {}", run::elapsed(begun));
        Ok(())
    }
}

/// Whether a server's admin interface calls itself ready.
fn is_ready(admin: &str) -> bool {
    http::get(admin, "/ready", &[]).is_ok_and(|answer| answer.status == 200)
}

/// Says before the long build what would stop the demo after it.
fn ports_are_free() -> Result<()> {
    for (address, what) in [
        (CONTROL, "the control plane"),
        (CONTROL_ADMIN, "its admin interface"),
        (GATEWAY, "the gateway"),
        (GATEWAY_ADMIN, "its admin interface"),
    ] {
        TcpListener::bind(address)
            .with_context(|| format!("{what} needs {address}: stop what listens there (ss -ltnp shows it)"))?;
    }
    Ok(())
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// A Python 3, installed where there is none.
fn python() -> Result<PathBuf> {
    for round in 0..2 {
        // The interpreter itself, not a version manager's shim: a shim is a shell that keeps the signals from it.
        let output = Command::new("python3")
            .args(["-c", "import sys; print(sys.executable)"])
            .output();
        if let Ok(output) = output
            && output.status.success()
        {
            return Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
        }
        if round == 0 {
            install("python3", "the bank's rates service is a Python program")?;
        }
    }
    bail!("python3 does not start: install Python 3")
}

/// A C compiler, installed where there is none: the cryptography library is written in C.
fn compiler_for_c() -> Result<()> {
    if Command::new("cc").arg("--version").output().is_err() {
        install("gcc", "the cryptography library is compiled by a C compiler")?;
        install("libc6-dev", "the C compiler needs the C library's headers")?;
    }
    Ok(())
}

pub(crate) fn install(package: &str, why: &str) -> Result<()> {
    run::say(&format!("installing {package} with apt-get: {why}"));
    let root = rustix::process::geteuid().is_root();
    let apt = || {
        let mut command = Command::new(if root { "apt-get" } else { "sudo" });
        if !root {
            command.arg("apt-get");
        }
        command
    };
    let mend = format!("install {package} by hand");
    run::loudly("apt-get update", apt().args(["update", "-q"]), &mend)?;
    run::loudly(
        "apt-get install",
        apt().args(["install", "-q", "-y", "--no-install-recommends", package]),
        &mend,
    )
}
